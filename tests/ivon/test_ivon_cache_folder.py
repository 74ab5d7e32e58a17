"""What is compiled is run from a cache only if nobody but the user can have put it there."""

import hashlib
import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from ivon import _native

NOBODY = 65534
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


@pytest.fixture(autouse=True)
def fresh_library(monkeypatch):
    """As in a process that has not compiled yet, with a compilation that takes less time."""
    if _native.library() is None:
        pytest.skip("there is no C compiler")
    monkeypatch.setattr(_native, "FLAGS", ("-std=c11", "-shared", "-fPIC"))
    _native.library.cache_clear()
    yield
    _native.library.cache_clear()


@pytest.fixture(scope="module")
def evil(tmp_path_factory) -> tuple[Path, Path]:
    """A library that, when it is loaded, makes a file; and that file."""
    folder = tmp_path_factory.mktemp("evil")
    marker = folder / "marker"
    source = (
        f'#include <stdio.h>\n__attribute__((constructor)) void run(void) {{ fopen("{marker}", "w"); }}\n'
    )
    (folder / "evil.c").write_text(source)
    compiler = os.environ.get("CC", "cc").split()
    subprocess.run([*compiler, "-shared", "-fPIC", "-o", folder / "evil.so", folder / "evil.c"], check=True)
    (folder / "evil.so").chmod(0o700)
    return folder / "evil.so", marker


@pytest.fixture
def planted(monkeypatch, tmp_path, evil) -> Path:
    """That library in the cache folder, under a name that the right one could have there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert _native.library() is not None
    (right,) = (tmp_path / "cache" / "ivon").iterdir()
    digest = hashlib.sha256(evil[0].read_bytes()).hexdigest()[:16]
    planted = right.with_name(f"{right.name.rpartition('-')[0]}-{digest}.so")
    shutil.copy(evil[0], planted)
    right.unlink()
    evil[1].unlink(missing_ok=True)
    _native.library.cache_clear()
    return planted


def make_link(path: Path) -> None:
    path.rename(path.with_suffix(".elsewhere"))
    path.symlink_to(path.with_suffix(".elsewhere"))


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def of_another_user(path: Path) -> None:
    os.chown(path, NOBODY, NOBODY)


FOLDERS = {
    "folder that all can write to": lambda file: file.parent.chmod(0o777),
    "folder that a group can write to": lambda file: file.parent.chmod(0o770),
    "sticky folder": lambda file: file.parent.chmod(0o1777),
    "folder in one that all can write to": lambda file: file.parent.parent.chmod(0o777),
}
FILES = {
    "file that all can write to": lambda file: file.chmod(0o666),
    "file that a group can write to": lambda file: file.chmod(0o620),
    "link": make_link,
    "pipe": make_pipe,
}
FOLDERS_AS_ROOT = {
    "folder of another user": lambda file: of_another_user(file.parent),
    "folder in one of another user": lambda file: of_another_user(file.parent.parent),
}


def cases(*tables: dict[str, Callable[[Path], None]], marks=()) -> list:
    return [pytest.param(way, id=name, marks=marks) for table in tables for name, way in table.items()]


def test_what_is_the_users_own_is_loaded(planted, evil):
    """So that the next tests can fail."""
    _native.library()
    assert evil[1].exists()


@pytest.mark.parametrize("open_to_others", cases(FOLDERS) + cases(FOLDERS_AS_ROOT, marks=AS_ROOT))
def test_a_folder_that_others_can_change_is_not_used(open_to_others, planted, evil, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    open_to_others(planted)
    with pytest.warns(UserWarning, match=r"compiled anew by each process: .*(others can write|another user)"):
        assert _native.library() is not None
    assert not evil[1].exists()
    assert list(planted.parent.iterdir()) == [planted]  # nothing is put there either
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]  # nor left elsewhere


@pytest.mark.parametrize(
    "open_to_others", cases(FILES) + cases({"file of another user": of_another_user}, marks=AS_ROOT)
)
def test_a_file_that_others_can_have_written_is_not_loaded(open_to_others, planted, evil):
    open_to_others(planted)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _native.library() is not None
    assert not evil[1].exists()


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o077])
def test_what_this_process_keeps_is_safe_whatever_the_umask(umask, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one" / "two"))
    before = os.umask(umask)
    try:
        assert _native.library() is not None
    finally:
        os.umask(before)
    (kept,) = (tmp_path / "one" / "two" / "ivon").iterdir()
    for path in (kept, *list(kept.parents)[:3]):
        assert not path.stat().st_mode & 0o022, path
    _native.library.cache_clear()
    monkeypatch.setattr(_native.subprocess, "run", pytest.fail)
    assert _native.library() is not None


def test_a_link_to_the_cache_is_followed_to_where_it_leads(monkeypatch, tmp_path):
    """Homes are often links, and so are caches that are moved to a larger disk."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "home").symlink_to(tmp_path / "disk")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert _native.library() is not None
    assert len(list((tmp_path / "disk" / "ivon").iterdir())) == 1
    (tmp_path / "disk").chmod(0o777)
    _native.library.cache_clear()
    with pytest.warns(UserWarning, match=f"others can write to {tmp_path / 'disk'} "):
        _native.library()


def test_a_folder_for_temporary_files_that_others_can_change_is_not_used(monkeypatch, tmp_path):
    """They could exchange what is compiled before it is loaded."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "open"))
    with pytest.warns(UserWarning, match=f"not compiled.*others can write to {tmp_path / 'open'} "):
        assert _native.library() is None
    (tmp_path / "open").chmod(0o1777)
    _native.library.cache_clear()
    assert _native.library() is not None


def test_the_compilers_own_files_are_not_where_others_could_change_them(monkeypatch, tmp_path):
    seen = []
    run = subprocess.run
    monkeypatch.setattr(
        _native.subprocess, "run", lambda *a, **k: seen.append(k["env"]["TMPDIR"]) or run(*a, **k)
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert _native.library() is not None
    (folder,) = seen
    assert Path(folder) != tmp_path and not Path(folder).exists()
