"""Records name the code that ran, whatever is checked out meanwhile."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.engine import log, revision
from experiments.engine.execute import execute
from experiments.engine.revision import git_revision
from experiments.engine.watch import Watch

pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="needs git")


@pytest.fixture
def git(tmp_path, monkeypatch) -> Callable[..., None]:
    """`git(...)` in a checkout that the engine takes for its own, with one file that is committed."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    monkeypatch.setattr(revision, "__file__", str(folder / "code.py"))

    def call(*arguments: str) -> None:
        settings = ("-c", "user.name=nobody", "-c", "user.email=", "-c", "commit.gpgSign=false")
        subprocess.run(["git", *settings, *arguments], cwd=folder, check=True, capture_output=True)

    (folder / "code.py").write_text("1\n")
    call("init")
    call("add", "code.py")
    call("commit", "-m", "first")
    git_revision.cache_clear()
    yield call
    git_revision.cache_clear()


def in_a_new_process() -> str | None:
    git_revision.cache_clear()
    return git_revision()


def test_commit_during_a_run_is_not_what_ran(git, tiny, cpu, store):
    ran = in_a_new_process()
    pull = Watch(progress=lambda _: git("commit", "--allow-empty", "-m", "pulled"), progress_seconds=0.0)
    assert execute(tiny(), store, cpu, pull).end == "done"
    machine = store.done(tiny())["machine"]
    assert machine["git"] == ran != in_a_new_process()
    assert "revisions" not in machine


def test_record_has_the_code_of_all_attempts(git, tiny, cpu, store):
    spec = tiny()
    ran = [in_a_new_process()]
    assert execute(spec, store, cpu, Watch(stop=lambda: True, progress_seconds=0.0)).end == "stopped"
    git("commit", "--allow-empty", "-m", "pulled")
    ran.append(in_a_new_process())
    assert execute(spec, store, cpu, Watch()).end == "done"
    assert [event["git"] for event in log.events(store.folder(spec)) if "git" in event] == ran
    machine = store.done(spec)["machine"]
    assert (machine["git"], machine["revisions"]) == (ran[1], ran)


def test_attempt_of_before_logs_named_the_code(tmp_path):
    log.note(tmp_path, "started")
    for _ in range(2):
        log.note(tmp_path, "started", git="0123456789ab")
    assert log.revisions(tmp_path) == [None, "0123456789ab"]


def test_asking_leaves_the_index_to_the_user(git):
    """`git status` likes to write what it has seen of the files' times, under a lock that a commit needs."""
    folder = Path(revision.__file__).parent
    before = (folder / ".git" / "index").read_bytes()
    os.utime(folder / "code.py", (1, 1))
    assert not in_a_new_process().endswith("+changes")
    assert (folder / ".git" / "index").read_bytes() == before
    (folder / "code.py").write_text("2\n")
    assert in_a_new_process().endswith("+changes")
