"""Records: written once, whole or not at all, whoever is killed when."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.engine import files
from experiments.engine.execute import execute
from experiments.engine.record import DamagedRecord, Store
from experiments.engine.watch import Watch
from experiments.errors import RunError, UserError

GOOD = {"failure": None, "result": {"metrics": {"nll": 0.1 + 0.2}}, "machine": {"device": "test"}}
FAILED = {"failure": {"reason": "loss is not finite", "epoch": 1, "step": 2}, "result": {}, "machine": {}}


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob(".*"))


def test_record_reads_back_exactly(store, tiny):
    spec = tiny()
    assert store.load(spec) is None
    assert not store.is_over(spec)
    store.add(spec, GOOD)
    record = store.load(spec)
    assert store.is_over(spec)
    assert store.done(spec) == record
    assert record["result"]["metrics"]["nll"] == 0.1 + 0.2
    assert record["id"] == spec.id
    assert record["spec"] == spec.model_dump(mode="json")
    assert list(store.all()) == [record]
    assert not hidden(store.root)


def test_first_writer_stays(store, tiny):
    spec = tiny()
    store.add(spec, GOOD)
    before = store.path(spec).read_bytes()
    store.add(spec, FAILED)
    assert store.path(spec).read_bytes() == before
    assert not hidden(store.root)


def test_of_two_processes_one_writes(store, tiny, in_child):
    spec = tiny()
    children = {
        in_child(lambda who=who: store.add(spec, {**GOOD, "machine": {"device": f"{who}" * 100_000}})): who
        for who in "ab"
    }
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0]
    assert set(store.load(spec)["machine"]["device"]) in ({"a"}, {"b"})
    assert not hidden(store.root)


def test_failure_is_a_record_but_not_done(store, tiny):
    spec = tiny()
    store.add(spec, FAILED)
    assert store.is_over(spec)
    assert store.done(spec) is None
    assert store.load(spec)["failure"]["epoch"] == 1


@pytest.mark.parametrize("text", ["", "{", '{"format": 99}', '{"format": 1}', "[]", "null", "\xff"])
def test_foreign_record_is_one_line_with_a_remedy(store, tiny, text, capsys):
    spec = tiny()
    store.path(spec).parent.mkdir(parents=True)
    store.path(spec).write_text(text, encoding="latin-1")  # one of them is no UTF-8
    with pytest.raises(DamagedRecord, match="remove it to repeat the run") as caught:
        store.read(store.path(spec))
    assert str(store.path(spec)) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert store.is_over(spec)  # not to be written over
    for _ in range(3):
        assert store.load(spec) is None
    assert capsys.readouterr().err.splitlines() == [f"left out: {caught.value}"]


def test_copy_takes_what_is_over(store, tiny, tmp_path):
    done, failed, missing = (tiny(seed=seed) for seed in range(3))
    store.add(done, GOOD)
    store.add(failed, FAILED)
    other = Store(tmp_path / "reference")
    for _ in range(2):  # publishing again changes nothing
        assert store.copy_to(other, [done, failed, missing]) == 2
        assert other.path(done).read_bytes() == store.path(done).read_bytes()
        assert len([path for path in other.root.rglob("*") if path.is_file()]) == 2


def test_the_record_of_another_run_is_refused(store, tiny):
    store.add(tiny(), GOOD)
    store.path(tiny(seed=1)).write_bytes(store.path(tiny()).read_bytes())
    assert store.done(tiny(seed=1)) is None
    assert f"of another run, {tiny().id}; remove it" in store.why_failed(tiny(seed=1))
    assert store.why_failed(tiny()) == ""


def test_a_damaged_record_is_not_copied(store, tiny, tmp_path):
    store.add(tiny(), GOOD)
    store.path(tiny(seed=1)).write_text("{")
    other = Store(tmp_path / "reference")
    assert store.copy_to(other, [tiny(), tiny(seed=1)]) == 1
    assert other.done(tiny()) and not other.is_over(tiny(seed=1))


def test_a_record_that_cannot_be_read_is_damaged_and_not_missing(store, tiny):
    store.path(tiny()).mkdir(parents=True)
    assert "cannot be read (Is a directory)" in store.why_failed(tiny())
    assert store.load(tiny()) is None
    assert list(store.all()) == []


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ({"history": [{"nll": float("nan")}]}, "is not JSON"),
        ({"history": [{"nll": -1.0}]}, "result.history.0.nll: -1.0"),
        ({"history": []}, "result.history"),
    ],
)
def test_what_would_be_called_damaged_is_not_recorded(store, tiny, cpu, monkeypatch, result, words):
    spec = tiny()
    monkeypatch.setattr(type(spec), "carry_out", lambda *_: result)
    outcome = execute(spec, store, cpu, Watch())
    assert outcome.end == "failed"
    assert "cannot be recorded" in outcome.why and words in outcome.why
    assert not store.is_over(spec)


def test_records_are_ordinary_json_with_sorted_keys(store, tiny):
    store.add(tiny(), GOOD)
    text = store.path(tiny()).read_text()
    assert text.endswith("}\n")
    assert list(json.loads(text)) == sorted(json.loads(text))


@pytest.fixture
def killed_at_call(in_child, die_at_call) -> Callable[[int, Callable[[], Any]], bool]:
    """Runs an action in a child that dies at its `number`-th call to the disk; True if it got there."""

    def killed(number: int, action: Callable[[], Any]) -> bool:
        def attempt() -> None:
            die_at_call(number, ("open", "fsync", "replace", "link", "unlink"))
            action()

        return os.WIFSIGNALED(os.waitpid(in_child(attempt), 0)[1])

    return killed


def test_killed_while_replacing_leaves_the_old_or_the_new(tmp_path, killed_at_call):
    path = tmp_path / "file"
    seen = set()
    number = 0
    killed = True
    while killed:
        number += 1
        path.write_bytes(b"old" * 100)
        killed = killed_at_call(number, lambda: files.replace(path, b"new" * 100))
        seen.add(path.read_bytes())
        files.remove_temporaries(tmp_path)
        assert [left.name for left in tmp_path.iterdir()] == ["file"]
    assert seen == {b"old" * 100, b"new" * 100}
    assert number > 3  # fsync of the file, rename, fsync of the folder at least


def test_killed_while_creating_leaves_nothing_or_all(store, tiny, killed_at_call):
    spec = tiny()
    seen = set()
    number = 0
    killed = True
    while killed:
        number += 1
        store.path(spec).unlink(missing_ok=True)
        killed = killed_at_call(number, lambda: store.add(spec, GOOD))
        seen.add(store.is_over(spec))
        if store.is_over(spec):
            assert store.done(spec)
        store.remove_temporaries(spec)
        assert not hidden(store.root)
    assert seen == {False, True}


def test_only_ones_own_temporaries_are_removed(store, tiny):
    mine, other = tiny(seed=0), tiny(seed=1)
    for spec in (mine, other):
        store.folder(spec).mkdir(parents=True)
        (store.folder(spec) / ".checkpoint-1.pt.77.tmp").touch()
        (store.path(spec).parent / f".{spec.id}.json.77.tmp").touch()
    store.remove_temporaries(mine)
    assert not hidden(store.folder(mine))
    left = {f".{other.id}.json.77.tmp", ".checkpoint-1.pt.77.tmp"}
    assert set(hidden(store.root)) == left


def test_disk_trouble_leaves_no_temporary(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left on device") as caught:
        files.replace(tmp_path / "file", b"x")
    assert str(tmp_path / "file") in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="not writable"):
        files.writable_folder(tmp_path / "file" / "runs")
    assert files.writable_folder(tmp_path / "a" / "b").is_dir()
    assert not list((tmp_path / "a" / "b").iterdir())
