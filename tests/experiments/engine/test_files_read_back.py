"""What a run leaves beside its record, damaged: it is as if it were not there, and nothing falls over it."""

import json

import pytest

from experiments.engine import log, news
from experiments.engine.estimate import Throughput, fraction_done
from experiments.status import state_of

NO_NEWS = [
    "",
    "null",
    "[]",
    "{}",
    '{"fraction": "half"}',
    '{"fraction": null}',
    '{"fraction": 1.5}',
    '{"fraction": NaN}',
    '{"fraction": 0.5, "at": 3}',
    '{"fraction": 0.5, "at": "epoch 1/2", "seconds": -1}',
    '{"fraction": 0.5, "fraction": 0.6}',
    "[" * 200_000,
]


@pytest.mark.parametrize("text", NO_NEWS, ids=lambda text: text[:30])
def test_damaged_news_are_none(text, store, tiny):
    folder = store.folder(tiny())
    folder.mkdir(parents=True)
    (folder / news.NAME).write_text(text)
    (folder / "checkpoint-000000003-0.pt").touch()
    assert news.read(folder) is None
    assert fraction_done(folder) == 0.0
    assert state_of(tiny(), store) == "stopped at a checkpoint"


def test_news_read_back(tmp_path):
    told = {"at": "epoch 2/5", "fraction": 0.4, "loss": 1.25, "shown": ["accuracy 50 %"], "seconds": 3.0}
    news.write(tmp_path, told)
    assert news.read(tmp_path) == told
    assert [path.name for path in tmp_path.iterdir()] == [news.NAME]


def test_a_log_is_read_past_its_damaged_lines(tmp_path):
    log.note(tmp_path, "started", git=None, spec={"kind": "train"})
    with (tmp_path / log.NAME).open("ab") as file:
        file.write(b'\xff\n[\n{"event": 3, "time": 1}\n{"event": "x", "time": -1}\n' + b"[" * 200_000 + b"\n")
        file.write(
            b'{"event": "started", "time": 1, "git": ["a"]}\n{"event": "lost", "event": "x", "time": 1}\n'
        )
    log.note(tmp_path, "failed", why="no luck")
    assert [event["event"] for event in log.events(tmp_path)] == ["started", "failed"]
    assert log.attempts(tmp_path) == 1
    assert log.revisions(tmp_path) == [None]


MEASURED = {"seconds": 8.0, "steps": 4, "machine": {"device": "CPU, tested", "processes": 1}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seconds": "8"}, "seconds: '8'"),
        ({"seconds": -1.0}, "seconds: -1.0"),
        ({"steps": 0}, "steps: 0"),
        ({"machine": None}, "machine: None"),
        ({"spec": []}, "spec: []"),
        (None, "is not JSON"),
    ],
    ids=str,
)
def test_a_damaged_measurement_is_named_and_left_out(change, words, store, tiny, capsys):
    for seed in (0, 1):
        path = store.root / "throughput" / f"{seed}" / "measured.json"
        path.parent.mkdir(parents=True)
        good = {**MEASURED, "spec": tiny(seed=seed).model_dump(mode="json")}
        path.write_text(json.dumps(good))
    path.write_text(json.dumps({**good, **change}) if change else "[" * 200_000)
    assert Throughput([store], "cpu").seconds(tiny()) == pytest.approx(8.0)
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line and words in line and "remove it to measure again" in line
