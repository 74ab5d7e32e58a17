"""Checkpoints on disk: two are kept, and a bad one is noticed, set aside and never run."""

import hashlib
import io
import os
import pickle
from pathlib import Path

import pytest
import torch

from experiments.engine import checkpoint

RUN = "a" * 16


def state(step: int) -> dict:
    return {"weights": torch.full((50,), float(step)), "epoch": step}


@pytest.fixture
def folder(tmp_path) -> Path:
    for step in (4, 8, 12):
        checkpoint.save(tmp_path, RUN, step, state(step))
    return tmp_path


def newest(folder: Path) -> Path:
    return max(folder.glob("checkpoint-*.pt"))


def plant(folder: Path, payload: bytes, step: int = 99) -> Path:
    """A file that passes for a checkpoint by its name."""
    path = folder / f"checkpoint-{step:09d}-{hashlib.sha256(payload).hexdigest()[:32]}.pt"
    path.write_bytes(payload)
    return path


def bytes_of(content) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def load(folder: Path) -> tuple[int | None, list[str]]:
    """The epoch that was found and the lines that were said."""
    lines: list[str] = []
    found = checkpoint.load(folder, RUN, warn=lines.append)
    if found is not None:
        assert torch.equal(found["weights"], state(found["epoch"])["weights"])
    assert not [line for line in lines if "\n" in line]
    return (None if found is None else found["epoch"]), lines


def test_the_newest_two_are_kept(folder):
    assert [int(path.name.split("-")[1]) for path in sorted(folder.glob("checkpoint-*.pt"))] == [8, 12]
    assert len(list(folder.iterdir())) == 2
    assert load(folder) == (12, [])


def test_nothing_there(tmp_path):
    assert not checkpoint.exists(tmp_path)
    assert load(tmp_path) == (None, [])
    assert load(tmp_path / "nowhere") == (None, [])


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def bit_flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncated, emptied, bit_flipped])
def test_damaged_file_is_set_aside_and_the_one_before_is_used(folder, damage):
    path = newest(folder)
    damage(path)
    epoch, lines = load(folder)
    assert epoch == 8
    assert len(lines) == 1
    assert str(path) in lines[0]
    assert not path.exists()
    assert path.with_suffix(".rejected").exists()  # kept for whoever wants to know
    assert load(folder) == (8, [])


def test_both_damaged_is_a_fresh_start(folder):
    for path in folder.glob("checkpoint-*.pt"):
        truncated(path)
    epoch, lines = load(folder)
    assert epoch is None
    assert len(lines) == 2
    assert not checkpoint.exists(folder)


@pytest.mark.parametrize(
    "payload",
    [
        bytes_of({"spec_id": "b" * 16, "step": 99, "state": state(99)}),
        bytes_of({"weights": torch.zeros(3)}),
        bytes_of({"spec_id": torch.zeros(3), "step": 99, "state": state(99)}),
        bytes_of({"spec_id": RUN, "step": 99, "state": [99]}),
        bytes_of([1, 2, 3]),
        bytes_of(None),
        pickle.dumps({"spec_id": RUN, "step": 99, "state": {"epoch": 99}}),
        b"no checkpoint at all",
    ],
    ids=[
        "another run's",
        "another program's",
        "a tensor's",
        "no state",
        "list",
        "none",
        "plain pickle",
        "text",
    ],
)
def test_foreign_file_is_set_aside(folder, payload):
    path = plant(folder, payload)
    epoch, lines = load(folder)
    assert epoch == 12
    assert len(lines) == 1
    assert path.with_suffix(".rejected").read_bytes() == payload


class Malicious:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


@pytest.mark.parametrize("pack", [pickle.dumps, bytes_of], ids=["pickle", "torch.save"])
def test_malicious_pickle_is_not_executed(folder, tmp_path_factory, pack):
    victim = tmp_path_factory.mktemp("victim") / "made by the pickle"
    plant(folder, pack({"spec_id": RUN, "step": 99, "state": Malicious(victim)}))
    assert load(folder)[0] == 12
    assert not victim.exists()
    pickle.loads(pickle.dumps(Malicious(victim)))
    assert victim.exists()  # it would have worked


def test_file_that_vanishes_while_it_is_looked_at(folder, monkeypatch):
    """Two processes of one run set the same bad file aside."""
    path = newest(folder)
    truncated(path)
    real = Path.rename

    def taken_first(self, target):
        real(self, target)
        return real(self, target)

    monkeypatch.setattr(Path, "rename", taken_first)
    assert load(folder)[0] == 8
