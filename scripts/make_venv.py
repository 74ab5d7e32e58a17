"""Create, fill or mend .venv; called by scripts/setup when its stamp is not up to date.

The stamp is written last, so an interrupted set-up never counts as done. The lock file holds the word `BUSY`
while packages are being written: whoever finds it there knows that the last set-up was killed half-way.
"""

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "setup-stamp"
LOG = VENV / "setup.log"
CONSTRAINTS = ROOT / "constraints.txt"
TORCHVISION_GUARD = ROOT / "experiments" / "torchvision_guard.py"
EXTRAS = "experiments,nlp,slurm,dev"
IMPORTED_BY_EVERY_RUN = (
    "experiments.artefacts",
    "ivon",
    "torch._dynamo",
    "pandas",
    "matplotlib.pyplot",
    "pydantic",
    "sklearn.datasets",
)
BUSY = "unfinished"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"  # PyTorch's own index of builds without CUDA

Command = list[str | Path]


class SetupError(Exception):
    """Something the user has to know or to do; printed as it is."""


class Killed(SetupError):
    """An installer did not end by itself, so what it was writing may be half there."""


def say(text: str) -> None:
    print(f"setup: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def exclusive() -> Iterator[TextIO]:
    """Hold this checkout's lock; others wait. The operating system frees it however the holder ends."""
    with open(ROOT / ".venv.lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another set-up of this checkout")
            fcntl.flock(lock, fcntl.LOCK_EX)
        os.set_inheritable(lock.fileno(), True)  # an installer that outlives this process still holds it
        yield lock


def mark(lock: TextIO, word: str) -> None:
    lock.truncate(0)
    lock.write(word)
    lock.flush()


def succeeds(*command: str | Path) -> bool:
    """Whether the command runs and ends well; its output goes to the log of the set-up."""
    with open(LOG if VENV.is_dir() else os.devnull, "ab") as log:
        log.write(f"$ {' '.join(map(str, command))}\n".encode())
        log.flush()
        try:
            result = subprocess.run(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, close_fds=False
            )
        except OSError as error:
            log.write(f"{error}\n".encode())
            return False
    if result.returncode < 0:
        raise Killed(f"{command[0]} was ended by signal {-result.returncode}")
    return result.returncode == 0


# --- the environment ---------------------------------------------------------------------------------


def version_in_venv() -> str | None:
    """Version of the Python in .venv, None if it does not run there or has lost its packages."""
    probe = "import sys; print(sys.version.split()[0], sys.prefix, sep='\\n')"
    try:
        answer = subprocess.run([PYTHON, "-I", "-c", probe], capture_output=True, text=True, timeout=60)
        version, prefix = answer.stdout.splitlines()
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    minor = ".".join(version.split(".")[:2])
    # A link to a system Python that was upgraded runs, but looks for its packages in another folder.
    has_packages = (VENV / "lib" / f"python{minor}" / "site-packages").is_dir()
    return version if has_packages and Path(prefix).resolve() == VENV.resolve() else None


def why_unusable(lock: TextIO) -> str | None:
    """What forbids to install into the .venv that is there; None if nothing does."""
    lock.seek(0)
    if lock.read() == BUSY:
        return "was left half-made"
    version = version_in_venv()
    if version is None:
        return "does not work any more"
    if STAMP.exists() and not STAMP.read_text().startswith(f"{ROOT} "):
        return "was made in another folder"
    wanted, there = sys.version_info[:2], tuple(map(int, version.split(".")[:2]))
    if there < (3, 11) or ("PYTHON" in os.environ and there != wanted):
        return f"has Python {version}"
    return None


def create() -> None:
    """An empty .venv for the Python that runs this."""
    if VENV.is_symlink() or VENV.is_file():
        VENV.unlink()
    elif VENV.exists():
        shutil.rmtree(VENV)
    VENV.mkdir()
    base = getattr(sys, "_base_executable", sys.executable)  # not a venv's own, which may go away
    if uv_on_path() and succeeds("uv", "venv", "--allow-existing", "--python", base, VENV):
        return
    if not succeeds(base, "-m", "venv", VENV):
        raise SetupError(f"{base} could not make .venv:\n{end_of_log()}")


# --- which PyTorch -----------------------------------------------------------------------------------


def pinned_torch() -> str:
    found = re.search(r"^torch==(\S+)", CONSTRAINTS.read_text(), re.MULTILINE)
    if found is None:
        raise SetupError("constraints.txt has no line torch==<version>")
    return found[1]


def installed_torch() -> str | None:
    """Version of PyTorch in .venv as its metadata say, with +cpu for a build without CUDA."""
    found = [path.name for path in VENV.glob("lib/python*/site-packages/torch-*.dist-info")]
    return found[0].removeprefix("torch-").removesuffix(".dist-info") if found else None


def wants_gpu_build() -> bool:
    choice = os.environ.get("TORCH_BUILD", "")
    if choice not in ("", "cuda"):
        raise SetupError(f"TORCH_BUILD={choice}: the only choice is TORCH_BUILD=cuda")
    if choice == "cuda":
        return True
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
        return answer.returncode == 0 and "GPU" in answer.stdout
    return False


def wheel_at_hand() -> bool:
    """Whether a folder of PIP_FIND_LINKS holds the pinned PyTorch for this Python."""
    name = f"torch-{pinned_torch()}*-cp{sys.version_info[0]}{sys.version_info[1]}-*.whl"
    folders = os.environ.get("PIP_FIND_LINKS", "").split()
    return any(any(Path(folder.removeprefix("file://")).glob(name)) for folder in folders)


def cpu_index_answers(seconds: float = 3.0) -> bool:
    """Whether PyTorch's index of CPU builds can be reached; names that do not resolve count too."""
    answers = threading.Event()

    def ask() -> None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{CPU_INDEX}/torch/", timeout=seconds):
            answers.set()

    threading.Thread(target=ask, daemon=True).start()
    return answers.wait(seconds)


def torch_requirements(install: Command) -> list[str]:
    """Decide on the build of PyTorch, install a CPU build if that needs another index, and return
    what the main installation has to know about it."""
    if wants_gpu_build():
        return [f"torch!={pinned_torch()}+cpu"]
    # A cluster's login node rarely has the GPUs that its jobs get.
    if installed_torch() or wheel_at_hand() or sys.platform != "linux" or shutil.which("sbatch"):
        return []
    from_index = ["--no-deps", "--index-url", CPU_INDEX, "-c", CONSTRAINTS, "torch", "torchvision"]
    if not (cpu_index_answers() and succeeds(*install, *from_index)):
        say("no GPU here, but no CPU build of PyTorch within reach: the default one brings GBs of CUDA")
    return []


# --- packages ----------------------------------------------------------------------------------------


def uv_on_path() -> bool:
    return shutil.which("uv") is not None and succeeds("uv", "--version")


def find_uv() -> str | Path | None:
    """A uv that runs: from the PATH, from .venv, or installed there now; None where it cannot be had."""
    if uv_on_path():
        return "uv"
    uv = VENV / "bin" / "uv"
    if succeeds(uv, "--version"):
        return uv
    pip: Command = [PYTHON, "-m", "pip", "--disable-pip-version-check"]
    return uv if succeeds(*pip, "install", "--retries", "1", "-c", CONSTRAINTS, "uv") else None


def tell_uv_what_pip_knows() -> None:
    """uv reads none of pip's settings: hand on where packages are to be found."""
    # (setting of pip, the same of uv, what separates several values there)
    same = [
        ("PIP_FIND_LINKS", "UV_FIND_LINKS", ","),
        ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", " "),
        ("PIP_EXTRA_INDEX_URL", "UV_INDEX", " "),
        ("PIP_CERT", "SSL_CERT_FILE", " "),
    ]
    for pip_name, uv_name, separator in same:
        if os.environ.get(pip_name):
            os.environ.setdefault(uv_name, separator.join(os.environ[pip_name].split()))


def install_with(install: Command) -> bool:
    needed = torch_requirements(install)
    return succeeds(*install, "-c", CONSTRAINTS, "-e", f".[{EXTRAS}]", *needed)


def fill() -> str:
    """Install everything, with uv if it can be had, else with pip; the name of the one that did."""
    tell_uv_what_pip_knows()
    uv = find_uv()
    if uv is not None:
        if install_with([uv, "pip", "install", "--python", PYTHON]):
            return "uv"
        say(f"uv failed ({LOG.relative_to(ROOT)} says why): trying pip")
    if not succeeds(PYTHON, "-m", "pip", "--version"):
        succeeds(PYTHON, "-m", "ensurepip")  # a .venv made by uv has no pip
    if install_with([PYTHON, "-m", "pip", "--disable-pip-version-check", "install"]):
        return "pip"
    raise SetupError(f"the packages could not be installed:\n{end_of_log()}")


def try_out() -> None:
    """Import once what every run imports, and keep the bytecode, which uv leaves to the first import to make:
    some 10 s, and again in each process where PYTHONDONTWRITEBYTECODE is set."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    code = f"import {', '.join(IMPORTED_BY_EVERY_RUN)}"
    answer = subprocess.run([PYTHON, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    if answer.returncode != 0:
        raise SetupError(f"installed, but it does not work:\n{answer.stderr.strip()}")


def guard_torchvision() -> None:
    """Where PyPI's torchvision does not fit the CPU build of PyTorch, put its imports in .venv under guard:
    transformers, timm and others import it without asking."""
    place = next(VENV.glob("lib/python*/site-packages"))
    copy, hook = place / "torchvision_guard.py", place / "torchvision_guard.pth"
    hook.unlink(missing_ok=True)
    answer = subprocess.run([PYTHON, "-c", "import torchvision"], capture_output=True, text=True)
    if answer.returncode != 0 and "operator torchvision::" in answer.stderr:
        shutil.copyfile(TORCHVISION_GUARD, copy)
        hook.write_text("import torchvision_guard; torchvision_guard.watch()\n")


def end_of_log(lines: int = 12) -> str:
    return "\n".join(LOG.read_text(errors="replace").splitlines()[-lines:]) if LOG.exists() else ""


def up_to_date(inputs: str) -> bool:
    if not STAMP.exists() or STAMP.read_text() != f"{inputs} {version_in_venv()}\n":
        return False
    gpu_build_missing = os.environ.get("TORCH_BUILD") == "cuda" and (installed_torch() or "").endswith("+cpu")
    return not gpu_build_missing


def main(inputs: str) -> None:
    with exclusive() as lock:
        problem = why_unusable(lock) if VENV.exists() else "is not there"
        if problem is None and up_to_date(inputs):
            return
        started = time.monotonic()
        mark(lock, BUSY)
        if problem is not None:
            version = sys.version.split()[0]
            why = "" if problem == "is not there" else f".venv {problem}: "
            say(f"{why}making .venv with Python {version} (PyTorch and more; the first time takes minutes)")
            create()
        else:
            say("bringing .venv up to date")
        STAMP.unlink(missing_ok=True)
        LOG.unlink(missing_ok=True)
        try:
            installer = fill()
            try_out()
            guard_torchvision()
        except Killed:
            raise
        except SetupError:
            mark(lock, "")  # an installer that gives up by itself leaves nothing half-written
            raise
        temporary = STAMP.with_suffix(".new")
        temporary.write_text(f"{inputs} {version_in_venv()}\n")
        temporary.replace(STAMP)
        mark(lock, "")
        torch = installed_torch()
        say(f"ready after {time.monotonic() - started:.0f} s (PyTorch {torch}, installed by {installer})")


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except SetupError as error:
        say(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
