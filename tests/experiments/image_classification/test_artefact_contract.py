"""What every artefact promises at every scale, and how it is drawn from records alone."""

import json
import math
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pandas as pd
import pytest

from experiments.artefacts import ARTEFACTS
from experiments.engine.artefact import SCALES
from experiments.engine.spec import EvalSpec, LanguageSpec, TrainSpec, parse_spec
from experiments.errors import RunError
from experiments.image_classification import figures, frames
from experiments.image_classification.frames import method_label

ROOT = Path(__file__).parents[3]
CURVES = {"fig1b": "validation_error", "overfitting": "overfitting"}  # drawn by
LOOKS = [(name, scale) for name, artefact in ARTEFACTS.items() for scale in artefact.scales]
# Tables 2 and 8 to 10 are drawn by the same code as Table 1 and take as long each.
DEMO = [
    pytest.param(name, marks=pytest.mark.slow) if name in ("table2", "table8", "table9", "table10") else name
    for name in ARTEFACTS
]


@pytest.mark.parametrize(("name", "scale"), LOOKS)
def test_runs_are_valid_unique_and_in_order(name, scale):
    specs = ARTEFACTS[name].specs(scale)
    assert specs
    ids = [spec.id for spec in specs]
    assert len(set(ids)) == len(ids)
    for number, spec in enumerate(specs):
        assert (
            parse_spec(json.loads(json.dumps(spec.model_dump(mode="json")))) == spec
        )  # as a worker reads it
        assert all(needed.id in ids[:number] for needed in spec.requires)


@pytest.mark.parametrize("name", ARTEFACTS)
def test_names_and_scales(name):
    artefact = ARTEFACTS[name]
    assert artefact.name == name
    # The end-to-end test of every artefact; fig7 at the demo is of made images already.
    assert "demo" in artefact.scales or name == "fig7_made"
    assert artefact.title


@pytest.mark.parametrize(("name", "scale"), LOOKS)
def test_scales_are_what_they_say(name, scale):
    """demo: no download. small: the paper's data, less of it. paper: the paper's."""
    for train in {train.id: train for s in ARTEFACTS[name].specs(scale) for train in s.trainings}.values():
        if isinstance(train, LanguageSpec):
            if scale == "demo":
                assert train.corpus == "python-docs"
            assert (train.train_steps == 100_000) == (scale == "paper")
            assert (train.corpus == "openwebtext") == (
                scale == "paper" and name != "table6"
            )  # any text will do
            if train.method.name == "ivon" and name != "tuning_gpt2":
                assert train.method.beta2**train.train_steps == pytest.approx(math.exp(-1), rel=0.01)
            continue
        assert (train.dataset == "digits") == (scale == "demo")
        assert (train.epochs == 200) == (scale == "paper")
        assert (train.width is None) == (scale != "demo")
        if train.method.name == "ivon" and scale != "paper" and not train.holdout:
            # The weight of the initial Hessian at the end of the paper's runs: 0.99999^200,000 on CIFAR, and
            # twice as many steps on TinyImageNet.
            steps = train.epochs * (train.train_size // train.batch_size)
            exponent = -4 if train.dataset == "tinyimagenet" else -2
            assert train.method.beta2**steps == pytest.approx(math.exp(exponent), rel=0.01)


def test_table1_of_the_paper_is_80_trainings():
    specs = ARTEFACTS["table1"].specs("paper")
    trainings = [spec for spec in specs if isinstance(spec, TrainSpec)]
    assert len(trainings) == 80
    counts = Counter((spec.dataset, spec.model, spec.method) for spec in trainings)
    assert set(counts.values()) == {5}  # seeds
    assert len(counts) == 16  # five pairs of data set and network, three methods, and AdamW once more
    looks = Counter(method_label(spec) for spec in specs if isinstance(spec, EvalSpec))
    assert looks == {"AdamW": 25, "AdamW (lr 0.002)": 5, "SGD": 25, "IVON@mean": 25, "IVON": 25}


@pytest.mark.parametrize("name", ["table1", "table10"])
def test_adamw_is_run_again_where_the_paper_did(name, store, fabricate, monkeypatch, tmp_path):
    """With PreResNet-110 on TinyImageNet; the cell and the claims are those of the second rate."""
    specs = ARTEFACTS[name].specs("paper")
    rates = defaultdict(set)
    for spec in (spec for spec in specs if isinstance(spec, EvalSpec)):
        if spec.train.method.name == "adamw" and spec.train.dataset != "imagenet":
            rates[method_label(spec), spec.train.model].add(spec.train.method.lr)
    models = {model for _, model in rates}
    expected = {("AdamW", model): {0.002} for model in models}
    if name == "table1":
        expected["AdamW", "preresnet110"] = {0.002, 0.0005}  # on CIFAR-100 and TinyImageNet
    else:
        expected["AdamW", "preresnet110"] = {0.0005}
    assert rates == {**expected, ("AdamW (lr 0.002)", "preresnet110"): {0.002}}

    monkeypatch.setattr("plots.table_figure.draw", lambda *_, **__: [])  # which takes long
    fabricate(store, specs)
    paths = ARTEFACTS[name].render("paper", store, tmp_path)
    text = next(path.read_text() for path in paths if path.suffix == ".md")
    assert "AdamW with PreResNet-110 on TinyImageNet has the learning rate 0.0005, and a row" in text
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    assert rows.count("AdamW (lr 0.002)") == 1, "it belongs to one block"
    block = rows[rows.index("**TinyImageNet, PreResNet-110**") :]
    assert block[1:4] == ["AdamW", "*AdamW, paper*", "AdamW (lr 0.002)"]  # the published one was run again


def test_the_published_bbb_stands_beside_the_one_as_released(store, fabricate, monkeypatch, tmp_path):
    printed = pd.read_csv(frames.PUBLISHED / "table2.csv")
    printed[printed.method == "BBB"].assign(value=50.0).to_csv(tmp_path / "table2.csv", index=False)
    monkeypatch.setattr(frames, "PUBLISHED", tmp_path)
    monkeypatch.setattr("plots.table_figure.draw", lambda *_, **__: [])  # which takes long
    fabricate(store, [s for s in ARTEFACTS["table2"].runs("paper") if s.trainings[0].method.name == "bbb"])
    paths = ARTEFACTS["table2"].render("paper", store, tmp_path / "drawn")
    text = next(path.read_text() for path in paths if path.suffix == ".md")
    first = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    place = first.index("BBB")
    assert first[place : place + 3] == ["BBB", "BBB (as released)", "*BBB (as released), paper*"]


def test_imagenets_schedule_is_that_of_the_released_code():
    """A cosine of all epochs that starts after the warm-up, and so ends before it is over."""
    trainings = {train for spec in ARTEFACTS["table1"].specs("paper") for train in spec.trainings}
    found = [train for train in trainings if train.dataset == "imagenet"]
    assert len(found) == 15
    for train in found:
        assert (train.cosine_epochs or train.epochs, train.warmup_epochs) == (200, 5)
        # What the GPUs of the paper drew in a step, the processes here draw together, however many they are.
        assert train.shares == (8 if train.method.name == "ivon" else 1)
        assert train.not_shared_by(train.devices) == train.not_shared_by(1) == ""


def test_figures_are_other_looks_at_table1s_runs():
    table = {spec.id for spec in ARTEFACTS["table1"].specs("paper")}
    assert {
        spec.id for name in ("fig1b", "fig1c", "overfitting") for spec in ARTEFACTS[name].specs("paper")
    } <= table


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ["fig1b", "overfitting"])
def test_curves_have_a_point_an_epoch(name, scale, store, fabricate, tmp_path, monkeypatch):
    """As in the released code; five seeds at `paper`, and the caption says what the looks cost."""
    specs = ARTEFACTS[name].runs(scale)
    assert {train.curve_every for train in specs} == {1}
    assert len({train.seed for train in specs}) == (3 if scale == "small" else 5)
    said = []
    monkeypatch.setattr(figures, "caption", lambda what, *_: said.append(what) or what)
    monkeypatch.setattr(f"plots.{CURVES[name]}.draw", lambda *_: [])
    fabricate(store, specs[:1])
    ARTEFACTS[name].render(scale, store, tmp_path)
    share = {"demo": "26.6%", "small": "6.7%", "paper": {"fig1b": "1.3%", "overfitting": "3.3%"}[name]}[scale]
    assert f"A point after every epoch; these looks at the test images add at most {share}" in said[0]


def test_networks_that_no_curve_shows_are_looked_at_every_tenth_epoch():
    for name in ("table8", "table9", "table2"):
        assert {t.curve_every for s in ARTEFACTS[name].specs("paper") for t in s.trainings} == {10}


@pytest.mark.parametrize("name", DEMO)
def test_drawn_from_records(name, store, fabricate, tmp_path):
    artefact = ARTEFACTS[name]
    fabricate(store, artefact.specs("demo"))
    paths = artefact.render("demo", store, tmp_path / "drawn")
    assert paths
    assert {path.name.split(".")[0].removesuffix("_figure") for path in paths} == {name}
    assert set((tmp_path / "drawn").iterdir()) == set(paths)
    assert all(path.stat().st_size for path in paths)
    kinds = {path.suffix for path in paths}
    assert kinds >= ({".md", ".csv"} if name.startswith(("table", "tuning")) else {".pdf", ".png", ".csv"})


@pytest.mark.slow  # as long again; tests/plots has it for the common kinds of figures
@pytest.mark.parametrize("name", ARTEFACTS)
def test_drawn_the_same_bytes_each_time(name, store, fabricate, tmp_path):
    artefact = ARTEFACTS[name]
    fabricate(store, artefact.specs("demo"))
    once, twice = (
        {path.name: path.read_bytes() for path in artefact.render("demo", store, tmp_path / folder)}
        for folder in ("once", "twice")
    )
    assert once == twice


@pytest.mark.parametrize("name", ARTEFACTS)
def test_nothing_measured_is_said_in_one_line(name, store, tmp_path):
    with pytest.raises(RunError) as caught:
        ARTEFACTS[name].render("demo", store, tmp_path / "out")
    assert "run it first" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_diverged_method_is_an_empty_cell_not_a_number(store, fabricate, tmp_path):
    """All trainings of SGD diverged, and one of AdamW: no evaluation of them exists."""
    specs = ARTEFACTS["table1"].specs("demo")
    trainings = [spec for spec in specs if isinstance(spec, TrainSpec)]
    bad = [s for s in trainings if s.method.name == "sgd" or (s.method.name == "adamw" and s.seed == 0)]
    for spec in bad:
        failure = {"reason": "loss is not finite in epoch 1, step 2", "epoch": 1, "step": 2}
        store.add(spec, {"failure": failure, "result": {}, "machine": {}})
    bad_ids = {spec.id for spec in bad}
    fabricate(store, [s for s in specs if s.trainings[0].id not in bad_ids])
    paths = ARTEFACTS["table1"].render("demo", store, tmp_path / "out")
    (text,) = (path.read_text() for path in paths if path.suffix == ".md")
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")
    ]
    ours = {row[0].strip("*"): row[1:] for row in reversed(rows)}  # the first block of the table is ours
    assert set("".join(ours["SGD"])) <= {"0"}, ours["SGD"]  # no seeds, and nothing in the cells
    assert ours["AdamW"][0].strip("*") == "4"
    assert ours["IVON"][0].strip("*") == "5"
    assert all(ours["IVON"])
    assert "SGD (5 of 5 trainings)" in text and "AdamW (1 of 5 trainings)" in text
    assert "missing" not in text
    (csv,) = (path for path in paths if path.name == "table1.csv")
    numbers = pd.read_csv(csv)
    assert not len(numbers[(numbers.method == "SGD") & (numbers.dataset == "Digits")].dropna(subset="mean"))


def test_reading_commands_do_without_torch(store, fabricate):
    specs = ARTEFACTS["table1"].specs("demo")
    fabricate(store, specs[:-1])
    commands = [
        ["list"],
        ["plan", "table1"],
        ["status", "table1"],
        ["render", "table1"],
        ["verify"],
        ["--help"],
    ]
    code = f"""
import sys
class WithoutTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, WithoutTorch())
from experiments.__main__ import main
for command in {commands!r}:
    print("#", command[0])
    try:
        assert main([*command, *([] if "--help" in command else ["--runs", {str(store.root)!r}])]) == 0
    except SystemExit as leaving:
        assert leaving.code == 0
assert "torch" not in sys.modules
"""
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr == ""
    said = {part.split("\n", 1)[0]: part for part in answer.stdout.split("# ")[1:]}
    assert f"demo {len(specs) - 1}/{len(specs)}" in said["list"]
    assert "trainings: 0 to do, 15 of 15 over" in said["plan"]
    assert "evaluations: 1 to do, 19 of 20 over" in said["plan"]
    assert said["status"].count("  done ") == len(specs) - 1
    assert said["status"].count("  waiting ") == 1
    assert "table1.md" in said["render"]
    assert "scale demo" in said["render"]
    assert "a made-up machine" in said["render"]
    assert "1 of 20 runs are missing" in said["render"]
    assert "not enough evidence" in said["verify"]  # the numbers are noise
    assert (store.root / "artefacts" / "demo" / "table1.csv").exists()
