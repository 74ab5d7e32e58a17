"""One process per run, however the one before it died."""

import errno
import os
import signal
import time

import pytest

from experiments.engine import lock
from experiments.errors import UserError


@pytest.fixture
def holder(tmp_path, in_child):
    """A process that holds the lock of `tmp_path` until it is killed."""
    ready, tell = os.pipe()

    def hold() -> None:
        with lock.claim(tmp_path) as mine:
            os.write(tell, b"y" if mine else b"n")
            time.sleep(60)

    pid = in_child(hold)
    assert os.read(ready, 1) == b"y"
    yield pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_second_process_sees_busy(tmp_path, holder):
    with lock.claim(tmp_path) as mine:
        assert not mine
    assert lock.is_claimed(tmp_path)


def test_whoever_looks_needs_not_write(tmp_path, monkeypatch, holder):
    def only_read(path, flags, *more):
        assert flags & os.O_ACCMODE == os.O_RDONLY and not flags & os.O_CREAT
        return open_(path, flags, *more)

    open_ = os.open
    monkeypatch.setattr(lock.os, "open", only_read)
    assert lock.is_claimed(tmp_path)


def test_killed_holder_frees_it(tmp_path, holder):
    os.kill(holder, signal.SIGKILL)
    os.waitid(os.P_PID, holder, os.WEXITED | os.WNOWAIT)
    assert not lock.is_claimed(tmp_path)
    with lock.claim(tmp_path) as mine:
        assert mine


def test_free_after_use_and_after_an_exception(tmp_path):
    folder = tmp_path / "run"
    assert not lock.is_claimed(folder)
    assert not folder.exists()  # looking makes nothing
    with pytest.raises(ZeroDivisionError), lock.claim(folder) as mine:  # noqa: PT012
        assert mine
        assert lock.is_claimed(folder)
        raise ZeroDivisionError
    assert not lock.is_claimed(folder)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_disk_without_locks_is_one_line_with_a_remedy(number, tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with pytest.raises(UserError, match="--runs") as caught, lock.claim(tmp_path):
        pass
    assert str(tmp_path) in str(caught.value) and os.strerror(number) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_runs_are_independent(tmp_path):
    with lock.claim(tmp_path / "a") as one, lock.claim(tmp_path / "b") as other:
        assert one
        assert other
