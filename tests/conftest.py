import os

# Before anything imports PyTorch, OpenMP or huggingface_hub, which read these once.
os.environ["OMP_NUM_THREADS"] = "1"  # several test processes share the cores
os.environ["MPLBACKEND"] = "Agg"
os.environ["HF_HUB_OFFLINE"] = "1"  # reaching for the Hub fails at once, not after its retries

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# No deadline: the first example of a property pays for imports and warm-up.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")


@pytest.fixture
def data_root() -> Callable[..., Path]:
    """`data_root("cifar-10-batches-py")`: the data root if it holds all that is named, else a skipped test.
    Only $IVON_DATA counts, so that whether a test runs does not depend on the working directory."""

    def find(*names: str) -> Path:
        if not os.environ.get("IVON_DATA"):
            pytest.skip(f"needs real data ({', '.join(names)}): IVON_DATA is not set")
        from experiments.data.root import data_root

        root = data_root()
        missing = [name for name in names if not (root / name).exists()]
        if missing:
            pytest.skip(f"needs real data: {root} has no {', '.join(missing)}")
        return root

    return find
