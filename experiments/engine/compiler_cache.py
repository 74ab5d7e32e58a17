"""What PyTorch's compiler has made is run; it is kept in a folder that nobody but the user can write to."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

from experiments.engine.ownership import Foreign, own_folder

NAME = "TORCHINDUCTOR_CACHE_DIR"


def guard_compiler_cache() -> None:
    """See to it, for this process and those it starts, that nobody but the user can put anything there.

    Otherwise they have a folder of their own, which goes with this process.
    """
    usual = Path(tempfile.gettempdir()) / f"torchinductor_{os.getuid()}"
    os.environ.setdefault(NAME, str(usual))
    try:
        own_folder(Path(os.environ[NAME]))
    except Foreign as error:
        private = tempfile.mkdtemp(prefix="torchinductor-")
        atexit.register(shutil.rmtree, private, ignore_errors=True)
        os.environ[NAME] = private
        told = f"warning: what PyTorch compiles is not kept for next time: {error}"
        print(told, file=sys.stderr, flush=True)
    except OSError:
        pass  # a disk that is full or read-only: PyTorch says so, if it compiles at all
