"""Records that cannot be believed: each is named in one line, and the others go on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments import commands
from experiments.__main__ import main
from experiments.artefacts import ARTEFACTS
from experiments.engine.record import DamagedRecord, Snapshot, Store
from experiments.engine.spec import EvalSpec, Spec

Change = Callable[[dict[str, Any]], Any]


def put(*path: Any, value: Any) -> Change:
    """Another value at one place of a record."""

    def change(record: dict[str, Any]) -> None:
        *parents, last = path
        for name in parents:
            record = record[name]
        record[last] = value

    return change


def text(old: str, new: str) -> Change:
    """Another text in place of one that stands there."""

    def change(record: dict[str, Any]) -> bytes:
        whole = json.dumps(record)
        assert old in whole
        return whole.replace(old, new, 1).encode()

    return change


# name -> how the record of an evaluation is damaged, and a word of the complaint
DAMAGES: dict[str, tuple[Change, str]] = {
    "spec of another run": (put("spec", "seed", value=99), "specification of another run"),
    "another id": (put("id", value="0123456789abcdef"), "of another run, 0123456789abcdef"),
    "accuracy in permille": (put("result", "metrics", "top1_acc", value=983.0), "between 0 and 100"),
    "negative accuracy": (put("result", "metrics", "top5_acc", value=-1), "top5_acc -1"),
    "negative NLL": (put("result", "metrics", "nll", value=-0.1), "nll -0.1: must be at least 0"),
    "ECE above 1": (put("result", "metrics", "ece", value=1.7), "ece 1.7: must be between 0 and 1"),
    "Brier above 2": (put("result", "metrics", "brier", value=2.5), "brier 2.5"),
    "NaN": (put("result", "metrics", "nll", value=float("nan")), "is not JSON"),
    "infinite": (put("result", "metrics", "nll", value=float("inf")), "is not JSON"),
    "too large": (text('"seconds": 1.0', '"seconds": 1e999'), "1e999, which is not finite"),
    "true for a number": (put("result", "metrics", "ece", value=True), "ece True: must be a number"),
    "a word for a number": (put("result", "metrics", "ece", value="low"), "ece 'low': must be a number"),
    "NLL null": (put("result", "metrics", "nll", value=None), "nll None"),
    "accuracy of a bin": (
        put("result", "reliability", "accuracy", 3, value=1.7),
        "reliability.accuracy.3: 1.7",
    ),
    "a bin too few": (put("result", "reliability", "count", value=[1]), "differ in length"),
    "no result": (put("result", value=None), "result: None"),
    "a list for the result": (put("result", value=[]), "result: []"),
    "a word for metrics": (put("result", "metrics", value="good"), "result.metrics: 'good'"),
    "failure without reason": (put("failure", value={"epoch": 3}), "failure.reason"),
    "machine null": (put("machine", value=None), "machine: None"),
    "spec null": (put("spec", value=None), "spec: None"),
    "other format": (put("format", value=7), "not of format 1"),
    "a key twice": (text('"seconds": 1.0', '"seconds": 1.0, "seconds": 2.0'), "'seconds' twice"),
    "deep": (lambda _: b"[" * 200_000, "recursion limit"),
    "deep inside": (
        text('"seconds": 1.0', f'"seconds": 1.0, "x": {"[" * 999}{"]" * 999}'),
        "recursion limit",
    ),
    "cut": (lambda record: json.dumps(record).encode()[:200], "is not JSON"),
    "empty": (lambda _: b"", "is not JSON"),
    "no Unicode": (text("a made-up machine", "a made-up machin\\udcff"), "is not JSON"),
    "a list": (lambda _: b"[]", "not of format 1"),
}
# What only drawing looks for.
GAPS: dict[str, tuple[Change, str]] = {
    "no metrics": (put("result", value={}), "lacks result.metrics.top1_acc"),
    "no device": (put("machine", value={}), "lacks machine.device"),
}


def damage(store: Store, spec: Spec, change: Change) -> Path:
    path = store.path(spec)
    record = json.loads(path.read_bytes())
    changed = change(record)
    path.write_bytes(json.dumps(record).encode() if changed is None else changed)
    return path


@pytest.fixture
def looks(store, fabricate) -> list[EvalSpec]:
    """Table 1 at `demo`, as if it had been run; its evaluations."""
    specs = ARTEFACTS["table1"].specs("demo")
    fabricate(store, specs)
    return [spec for spec in specs if isinstance(spec, EvalSpec)]


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_wrong_is_said_in_one_line(name, store, looks):
    change, words = DAMAGES[name]
    path = damage(store, looks[0], change)
    with pytest.raises(DamagedRecord) as caught:
        store.read(path)
    said = str(caught.value)
    assert "\n" not in said
    assert said.startswith(f"record {path} ") and said.endswith("; remove it to repeat the run")
    assert words in said
    assert store.done(looks[0]) is None
    assert str(path) in store.why_failed(looks[0])


def test_unknown_fields_and_an_undefined_auroc_are_no_damage(store, looks):
    def later_version(record):
        record["data"] = {"digits": "0123"}
        record["result"] |= {"entropies": [0.1], "note": None}
        record["result"]["metrics"] |= {"auroc": None, "sharpness": -3.5}

    damage(store, looks[0], later_version)
    assert store.done(looks[0])["data"] == {"digits": "0123"}


COMMANDS = {
    "list": ["list"],
    "plan": ["plan", "table1"],
    "status": ["status", "table1"],
    "render": ["render", "table1"],
    "verify": ["verify"],
    "publish": ["publish", "table1"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_others_go_on(command, store, looks, capsys, monkeypatch, tmp_path):
    """Three damaged records of twenty: each is named once, and the command ends as it does without them."""
    monkeypatch.setattr(commands, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(commands, "known_stores", lambda store: [store], raising=False)
    chosen = ("deep", "ECE above 1", "spec of another run")
    paths = [damage(store, spec, DAMAGES[name][0]) for spec, name in zip(looks[2::5], chosen, strict=False)]
    assert main([*COMMANDS[command], "--runs", str(store.root)]) == 0
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert [sum(str(path) in line for line in lines) for path in paths] == [1, 1, 1]
    assert len(lines) == 3
    assert "Traceback" not in said.out
    expected = {
        "list": "demo 32/35",
        "plan": "evaluations: 0 to do, 17 of 20 over, 3 with a damaged record",
        "status": "32 done, 3 damaged",
        "render": "3 of 20 runs are missing",
        "verify": "IVON has higher",
        "publish": "32 of 35 records copied",
    }
    assert expected[command] in said.out


@pytest.mark.parametrize("name", GAPS)
def test_a_record_without_what_is_drawn_is_left_out_of_the_drawing(name, store, looks, capsys):
    change, words = GAPS[name]
    path = damage(store, looks[3], change)
    assert store.done(looks[3])  # for those who draw nothing of it
    drawn = Snapshot(store.root)
    for _ in range(2):
        assert [drawn.done(spec) is None for spec in looks[2:5]] == [False, True, False]
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line and words in line


def test_a_run_with_a_damaged_record_is_not_repeated_and_says_why(store, looks, capsys):
    path = damage(store, looks[0], DAMAGES["cut"][0])
    before = path.read_bytes()
    assert main(["run", "table1", "--runs", str(store.root), "--device", "cpu"]) == 1
    said = capsys.readouterr()
    assert "nothing to run" in said.err
    (line,) = [line for line in said.err.splitlines() if line.startswith("failed: ")]
    assert str(path) in line and "remove it to repeat the run" in line
    assert path.read_bytes() == before
    assert "1 of 20 runs are missing" in said.out


def test_a_training_with_a_damaged_record_has_not_diverged(store, fabricate):
    """Its trial is missing from the choice of settings, where a diverged one would count as the worst."""
    from experiments.image_classification.tuning import trials_frame

    specs = ARTEFACTS["tuning"].specs("demo")[:2]
    training, look = specs
    fabricate(store, specs)
    damage(store, training, DAMAGES["cut"][0])
    store.path(look).unlink()
    assert trials_frame(store).empty


@pytest.mark.parametrize("command", [["sample"], ["export", "gpt2"]])
def test_a_command_that_needs_the_record_says_what_is_wrong(command, store, fabricate, capsys):
    spec, other = (spec for spec in ARTEFACTS["fig1a"].specs("demo")[:2])
    fabricate(store, [spec, other])
    path = damage(store, spec, put("result", value=None))
    name, *rest = command
    assert main([name, spec.id, *rest, "--runs", str(store.root)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert str(path) in said.err
