"""Temperature scaling and reliability diagrams: their runs, and drawing what is there."""

from pathlib import Path

import pandas as pd
import pytest

from experiments.artefacts import ARTEFACTS
from experiments.engine.record import Store
from experiments.engine.spec import EvalSpec, MixtureSpec, Spec, TrainSpec
from experiments.image_classification.frames import method_label, reliability_frame
from plots import style

METRICS = {"top1_acc": 90.0, "top5_acc": 99.0, "nll": 0.5, "ece": 0.1, "brier": 0.3, "auroc": None}


@pytest.fixture(autouse=True)
def few_pixels(monkeypatch):
    monkeypatch.setattr(style, "PNG_DPI", 50)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "runs")


def add(store: Store, spec: Spec, **result) -> None:
    store.add(spec, {"failure": None, "result": result, "machine": {"device": "made up"}})


@pytest.mark.parametrize("scale", ["demo", "small", "paper"])
def test_all_looks_are_table2s(scale):
    table2 = ARTEFACTS["table2"].runs(scale)
    mixtures = {"Deep ensemble", "Multi-IVON"}
    rows = {method_label(look) for look in table2}
    assert rows > mixtures | {"SGD", "IVON@mean", "IVON"}
    scaled = [spec.look for spec in ARTEFACTS["temperature"].runs(scale)]
    assert scaled == [spec for spec in table2 if isinstance(spec, EvalSpec)]
    assert {method_label(look) for look in scaled} == rows - mixtures
    panels = ARTEFACTS["reliability"].runs(scale)
    assert panels == table2
    assert not any(isinstance(spec, TrainSpec) for spec in panels)


def test_table_of_two_blocks_from_two_methods(store, tmp_path: Path):
    specs = ARTEFACTS["temperature"].runs("demo")
    chosen = [spec for spec in specs if method_label(spec.look) in ("SGD", "IVON")]
    for spec in chosen:
        sure = method_label(spec.look) == "SGD"
        before = {**METRICS, "nll": 0.7 if sure else 0.5}
        after = {**METRICS, "nll": 0.4 if sure else 0.45}
        temperatures = [2.0, 2.2] if sure else [0.9, 1.0]
        add(store, spec, metrics=after, metrics_before=before, temperatures=temperatures)
    paths = ARTEFACTS["temperature"].render("demo", store, tmp_path / "out")
    (text,) = (path.read_text() for path in paths if path.suffix == ".md")
    assert f"{len(specs) - len(chosen)} of {len(specs)} runs are missing" in text
    assert "SGD 2.10, IVON 0.95" in text
    assert "no image's own label has a say" in text
    predicted, scaled = text.index("as predicted**"), text.index("temperature-scaled**")
    assert predicted < text.index("**0.500 ± 0.000**") < scaled < text.index("**0.400 ± 0.000**")
    assert "published" not in text.lower().replace("italics: published values", "")
    frame = pd.read_csv(next(path for path in paths if path.name == "temperature_figure.csv"))
    assert set(frame.side) == {"as predicted", "temperature-scaled"}
    assert len(frame) == 2 * 5 * 2 * 4  # methods, seeds, sides, metrics


def test_bins_of_mixtures_are_read_like_those_of_single_looks(store):
    panels = ARTEFACTS["reliability"].runs("demo")
    mixture = next(spec for spec in panels if isinstance(spec, MixtureSpec))
    bins = {"confidence": [None, 0.75], "accuracy": [None, 0.5], "count": [0, 8]}
    for spec in (mixture, mixture.members[0]):
        add(store, spec, reliability=bins, metrics=METRICS)
    frame = reliability_frame(panels, store)
    assert len(frame) == 4
    assert set(frame.method) == {"SGD", "Deep ensemble"}
    assert (
        frame[frame.bin == 1][["confidence", "accuracy", "count"]].to_numpy().tolist() == [[0.75, 0.5, 8]] * 2
    )
    assert frame[frame.bin == 0].confidence.isna().all()


def test_panels_of_the_methods_that_are_there(store, tmp_path: Path):
    panels = ARTEFACTS["reliability"].runs("demo")
    bins = {"confidence": [None, 0.75], "accuracy": [None, 0.5], "count": [0, 8]}
    for spec in panels[:3]:
        add(store, spec, reliability=bins, metrics=METRICS)
    paths = ARTEFACTS["reliability"].render("demo", store, tmp_path / "out")
    assert [path.name for path in paths] == ["reliability.pdf", "reliability.png", "reliability.csv"]
    assert len(pd.read_csv(paths[-1])) == 6
