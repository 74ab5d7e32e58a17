"""What PyTorch's compiler has made is run, by every worker: it comes from a folder of the user's own."""

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from experiments.engine import local
from experiments.engine.compiler_cache import NAME, guard_compiler_cache
from experiments.engine.local import Launcher, Options
from experiments.engine.progress import display


@pytest.fixture
def usual(monkeypatch, tmp_path) -> Path:
    """Where the compiler's folder is if nobody says otherwise."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv(NAME, "")
    monkeypatch.delenv(NAME)
    return tmp_path / "tmp" / f"torchinductor_{os.getuid()}"


def test_the_usual_folder_is_made_for_the_user_alone(usual, capsys):
    before = os.umask(0)
    try:
        guard_compiler_cache()
    finally:
        os.umask(before)
    assert Path(os.environ[NAME]) == usual
    assert stat.S_IMODE(usual.stat().st_mode) == 0o700
    assert capsys.readouterr().err == ""


def link_to_another(folder: Path) -> None:
    other = folder.with_name("other")
    other.mkdir()
    other.chmod(0o777)
    folder.symlink_to(other)


def open_to_all(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)


def of_another_user(folder: Path) -> None:
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can give folders to another user")
    os.chown(folder, 65534, 65534)


LAID = [open_to_all, link_to_another, of_another_user]


@pytest.mark.parametrize("lay", LAID)
@pytest.mark.parametrize("named", [False, True], ids=["usual", "named"])
def test_a_folder_that_another_user_has_laid_there_is_not_used(lay, named, usual, monkeypatch, capsys):
    lay(usual)
    if named:
        monkeypatch.setenv(NAME, str(usual))
    guard_compiler_cache()
    used = Path(os.environ[NAME])
    assert used != usual and stat.S_IMODE(used.stat().st_mode) == 0o700
    said = capsys.readouterr().err
    assert said.startswith("warning: what PyTorch compiles is not kept") and said.count("\n") == 1
    guard_compiler_cache()
    assert Path(os.environ[NAME]) == used and capsys.readouterr().err == ""


def test_a_folder_of_this_process_goes_with_it(usual):
    open_to_all(usual)
    code = "from experiments.engine import compiler_cache as c; import os; c.guard_compiler_cache(); "
    code += f"print(os.environ[{NAME!r}])"
    environment = {**os.environ, "TMPDIR": str(usual.parent)}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    used = Path(answer.stdout.strip())
    assert used.parent == usual.parent and used != usual and not used.exists()


def test_workers_have_that_of_their_launcher(usual, store, tiny, monkeypatch):
    open_to_all(usual)
    seen, real = [], subprocess.Popen

    def start(_command: object, **options) -> subprocess.Popen:
        seen.append(options["env"][NAME])
        return real(["sh", "-c", "exit 1"], **options)

    monkeypatch.setattr(local.subprocess, "Popen", start)
    monkeypatch.setattr(local, "ATTEMPTS", 1)
    Launcher(store, Options(jobs=1, device="cpu"), display([tiny()])).run([tiny()])
    assert seen == [os.environ[NAME]] and seen != [str(usual)]
