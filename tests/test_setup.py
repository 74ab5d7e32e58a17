"""How .venv comes about: which Python is taken, when nothing is done, what is mended. Installs nothing."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
SHELL_TOOLS = ("cat", "cksum", "dirname", "sh")
BROKEN_SHIM = "#!/bin/sh\necho 'pyenv: command not found' >&2\nexit 127\n"
INPUTS = (
    "pyproject.toml",
    "constraints.txt",
    "scripts/setup",
    "scripts/make_venv.py",
    "experiments/torchvision_guard.py",
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files of a set-up, with a stand-in for the part that installs."""
    place = tmp_path / "check out"  # a blank: paths need their quotes
    for name in INPUTS:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, place / name)
    (place / "scripts/make_venv.py").write_text("import sys; print('set-up by', sys.executable, sys.argv[1])")
    (place / "bin").mkdir()
    for tool in SHELL_TOOLS:
        (place / "bin" / tool).symlink_to(str(shutil.which(tool)))
    return place


def install(checkout: Path, name: str, script: str | None = None) -> None:
    """Put a command on the PATH of the set-up; the Python that runs the tests if there is no script."""
    path = checkout / "bin" / name
    path.write_text(script if script is not None else f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)


def run_setup(checkout: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(checkout / "bin"), **variables}
    return subprocess.run(["sh", checkout / "scripts/setup"], env=environment, capture_output=True, text=True)


def test_a_command_that_cannot_run_is_passed_over(checkout: Path) -> None:
    install(checkout, "python3.14", BROKEN_SHIM)
    install(checkout, "python3")
    assert run_setup(checkout).stdout.startswith("set-up by")


@pytest.mark.parametrize("variables", [{}, {"PYTHON": "python3.14"}])
def test_without_a_fitting_python_one_line_says_so(checkout: Path, variables: dict[str, str]) -> None:
    install(checkout, "python3.14", BROKEN_SHIM)
    answer = run_setup(checkout, **variables)
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert len(answer.stderr.splitlines()) == 1
    assert "3.11" in answer.stderr


def test_a_python_without_venv_is_named_with_the_remedy(checkout: Path) -> None:
    without_venv = f'#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; esac\nexec {sys.executable} "$@"\n'
    install(checkout, "python3.12", without_venv)
    answer = run_setup(checkout)
    assert answer.returncode == 1
    assert answer.stderr.splitlines()[0].startswith("setup: python3.12 cannot make virtual environments")
    install(checkout, "uv", "#!/bin/sh\n")  # makes them as well
    assert run_setup(checkout).returncode == 0


def test_nothing_is_done_twice(checkout: Path) -> None:
    install(checkout, "python3")
    inputs = run_setup(checkout).stdout.split(maxsplit=3)[3]
    assert inputs.startswith(str(checkout))
    (checkout / ".venv/bin").mkdir(parents=True)
    (checkout / ".venv/bin/python").symlink_to(sys.executable)
    (checkout / ".venv/setup-stamp").write_text(f"{inputs.strip()} {sys.version.split()[0]}\n")
    (checkout / "bin/python3").unlink()
    assert run_setup(checkout).returncode == 0  # although there is no Python to find any more
    install(checkout, "python3")
    assert run_setup(checkout, PYTHON="python3").stdout  # somebody asks for something: look closer

    with (checkout / "constraints.txt").open("a") as file:
        file.write("# changed\n")
    assert run_setup(checkout).stdout


@pytest.fixture
def make_venv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of scripts/make_venv.py, for a checkout in `tmp_path`."""
    spec = importlib.util.spec_from_file_location("make_venv", ROOT / "scripts/make_venv.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("ROOT", "VENV", "PYTHON", "STAMP", "LOG"):
        monkeypatch.setattr(module, name, tmp_path / getattr(module, name).relative_to(ROOT))
    for name in ("PYTHON", "TORCH_BUILD", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    return module


def empty_venv(place: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place / ".venv"], check=True)


def test_a_venv_that_works_is_kept_and_others_are_not(make_venv: ModuleType, tmp_path: Path) -> None:
    empty_venv(tmp_path)
    with make_venv.exclusive() as lock:
        assert make_venv.why_unusable(lock) is None
        make_venv.STAMP.write_text(f"{tmp_path} 1 2 3.11.7\n")
        assert make_venv.why_unusable(lock) is None
        make_venv.STAMP.write_text("/somewhere/else 1 2 3.11.7\n")
        assert make_venv.why_unusable(lock) == "was made in another folder"
        make_venv.mark(lock, make_venv.BUSY)
        assert make_venv.why_unusable(lock) == "was left half-made"
        make_venv.mark(lock, "")
        make_venv.PYTHON.unlink()
        assert make_venv.why_unusable(lock) == "does not work any more"


# Of PyTorch what declares operators, and a torchvision that stops without its own.
TORCH = """
from types import SimpleNamespace
ops = SimpleNamespace(torchvision=SimpleNamespace())
class Library:
    def __init__(self, *names): ...
    def define(self, schema):
        setattr(ops.torchvision, schema.partition("(")[0], schema)
library = SimpleNamespace(Library=Library)
"""
TORCHVISION = """
import torch
if not hasattr(torch.ops.torchvision, "nms"):
    raise RuntimeError("operator torchvision::nms does not exist")
"""


@pytest.mark.parametrize(
    ("torchvision", "guarded"),
    [(TORCHVISION, True), ("", False), ("raise ImportError('no such library')", False)],
)
def test_everybody_may_import_torchvision_in_the_venv(
    torchvision: str, guarded: bool, make_venv: ModuleType, tmp_path: Path
) -> None:
    empty_venv(tmp_path)
    place = next((tmp_path / ".venv").glob("lib/python*/site-packages"))
    for name, content in (("torch", TORCH), ("torchvision", torchvision)):
        (place / name).mkdir()
        (place / name / "__init__.py").write_text(content)
    for _ in range(2):  # a set-up that is repeated looks anew
        make_venv.guard_torchvision()
        command = [make_venv.PYTHON, "-c", "import torchvision"]
        ends = [subprocess.run(command, cwd=tmp_path, capture_output=True).returncode for _ in range(2)]
        assert ends == [1, 1] if "ImportError" in torchvision else ends == [0, 0]
        assert (place / "torchvision_guard.pth").exists() == guarded
    lean = subprocess.run([make_venv.PYTHON, "-c", "import sys; assert 'torch' not in sys.modules"])
    assert lean.returncode == 0


def test_a_venv_whose_python_was_upgraded_is_not_kept(make_venv: ModuleType, tmp_path: Path) -> None:
    empty_venv(tmp_path)
    folder = tmp_path / f".venv/lib/python{sys.version_info[0]}.{sys.version_info[1]}"
    folder.rename(folder.with_name("python3.10"))
    assert make_venv.version_in_venv() is None


def test_an_installer_that_was_killed_is_told_from_one_that_gave_up(make_venv: ModuleType) -> None:
    assert not make_venv.succeeds("sh", "-c", "exit 3")
    assert not make_venv.succeeds("no-such-command")
    with pytest.raises(make_venv.Killed):
        make_venv.succeeds("sh", "-c", "kill -9 $$")


def test_the_build_of_pytorch_follows_the_machine(
    make_venv: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[object, ...]] = []
    monkeypatch.setattr(make_venv, "succeeds", lambda *command: not tried.append(command))
    monkeypatch.setattr(make_venv, "cpu_index_answers", lambda: True)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("PATH", str(tmp_path))
    not_the_cpu_build = [f"torch!={make_venv.pinned_torch()}+cpu"]

    assert make_venv.torch_requirements(["install"]) == []
    assert tried[0][:4] == ("install", "--no-deps", "--index-url", make_venv.CPU_INDEX)

    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    wheel = tmp_path / f"torch-{make_venv.pinned_torch()}+cpu-{tag}-{tag}-linux_x86_64.whl"
    wheel.touch()
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert make_venv.torch_requirements(["install"]) == []
    assert len(tried) == 1  # the wheel at hand will do

    monkeypatch.setenv("TORCH_BUILD", "cuda")
    assert make_venv.torch_requirements(["install"]) == not_the_cpu_build
    monkeypatch.delenv("TORCH_BUILD")
    (tmp_path / "bin").mkdir()
    install(tmp_path, "nvidia-smi", "#!/bin/sh\necho 'GPU 0: NVIDIA'\n")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert make_venv.torch_requirements(["install"]) == not_the_cpu_build
    monkeypatch.setenv("TORCH_BUILD", "rocm")
    with pytest.raises(make_venv.SetupError, match="rocm"):
        make_venv.torch_requirements(["install"])


def test_uv_is_told_where_pip_looks(make_venv: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "PIP_FIND_LINKS": "/wheels /more",
        "PIP_INDEX_URL": "https://mirror.example/simple",
        "UV_DEFAULT_INDEX": "https://chosen.example/simple",
    }
    monkeypatch.setattr(os, "environ", dict(given))
    make_venv.tell_uv_what_pip_knows()
    assert os.environ == given | {"UV_FIND_LINKS": "/wheels,/more"}
