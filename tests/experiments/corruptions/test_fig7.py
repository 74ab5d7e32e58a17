"""Figure 7: which runs it needs, and what its caption says of the images."""

from pathlib import Path

import pandas as pd
import pytest

from experiments.__main__ import main
from experiments.artefacts import ARTEFACTS
from experiments.data.corruptions import CORRUPTIONS
from experiments.engine.record import Store
from experiments.engine.spec import CorruptedSpec, TrainSpec
from experiments.run import sources
from plots import severities, style

FIG7 = ARTEFACTS["fig7"]


@pytest.fixture(autouse=True)
def few_pixels(monkeypatch):
    monkeypatch.setattr(style, "PNG_DPI", 50)


@pytest.fixture
def captions(monkeypatch) -> list[str]:
    found: list[str] = []
    real = severities.add_caption
    monkeypatch.setattr(severities, "add_caption", lambda fig, words: found.append(words) or real(fig, words))
    return found


def add(store: Store, spec: CorruptedSpec, source: str, accuracy: float = 50.0) -> None:
    metrics = {"top1_acc": accuracy, "nll": 1.0, "ece": 0.1, "brier": 0.5, "ece_pooled": 0.1}
    result = {"metrics": metrics, "corruptions": {}, "images": 32, "source": source, "seconds": 1.0}
    store.add(spec, {"failure": None, "result": result, "machine": {"device": "made up"}})


def test_the_papers_is_every_corruption_of_every_image_by_table2s_networks():
    specs = FIG7.runs("paper")
    assert len(specs) == 7 * 5 * 5  # methods, seeds, severities
    assert all(spec.corruptions == tuple(CORRUPTIONS) and spec.images is None for spec in specs)
    assert {spec.look.draws for spec in specs} == {0, 32, 64}
    needed = {spec.id for spec in FIG7.specs("paper") if isinstance(spec, TrainSpec)}
    assert len(needed) == 7 * 5
    assert needed <= {spec.id for spec in ARTEFACTS["table2"].specs("paper")}


def test_smaller_scales_take_fewer_images_with_as_many_draws():
    for scale in ("demo", "small"):
        specs = FIG7.runs(scale)
        assert {spec.look.draws for spec in specs} == {0, 32, 64}
        assert {spec.severity for spec in specs} == {1, 2, 3, 4, 5}
        assert max(spec.passes for spec in specs) < 64 * 5000


def test_drawn_from_what_is_there(captions, tmp_path: Path):
    store, specs = Store(tmp_path / "runs"), FIG7.runs("demo")
    ivon = [spec for spec in specs if spec.look.train.method.name == "ivon"][:4]
    for spec in ivon:
        add(store, spec, "made", accuracy=90.0 - spec.severity)
    paths = FIG7.render("demo", store, tmp_path / "out")
    frame = pd.read_csv(next(path for path in paths if path.suffix == ".csv"))
    accuracy = frame[frame.metric == "top1_acc"]
    assert accuracy.set_index("severity").value.to_dict() == {k: 90.0 - k for k in range(1, 5)}
    assert set(frame.method) == {"IVON"}
    (words,) = captions
    assert f"{len(specs) - 4} of {len(specs)} runs are missing" in words
    assert "6 of the 15 corruptions (gaussian noise," in words
    assert "first 32 test images only" in words
    assert "images made from the published definitions" in words and "frost" not in words
    assert "The paper's values were not recovered." in words


def test_the_caption_names_both_sources_where_there_are_two(captions, tmp_path: Path):
    store, specs = Store(tmp_path / "runs"), FIG7.runs("small")
    add(store, specs[0], "made")
    add(store, specs[1], "published")
    FIG7.render("small", store, tmp_path / "out")
    (words,) = captions
    assert "made from the published definitions, with drawn ice in place" in words
    assert "images of the published archive" in words
    assert "means over the 15 corruptions" in words


@pytest.mark.parametrize(
    ("name", "source", "said"),
    [
        ("fig7", "published", "images of the published archive"),
        ("fig7_made", "made", "images made from the published definitions, with drawn ice in place"),
    ],
)
def test_the_papers_scale_has_one_source_that_is_asked_for(name, source, said, captions, tmp_path: Path):
    artefact, store = ARTEFACTS[name], Store(tmp_path / "runs")
    specs = artefact.runs("paper")
    assert {spec.origin for spec in specs} == {source}
    other = {spec.id for spec in ARTEFACTS["fig7" if name == "fig7_made" else "fig7_made"].runs("paper")}
    assert other.isdisjoint(spec.id for spec in specs)
    add(store, specs[0], source)
    assert '"origin"' in store.path(specs[0]).read_text()
    paths = artefact.render("paper", store, tmp_path / "out")
    assert all(path.stem == name for path in paths)
    (words,) = captions
    assert said in words and "only" not in words


@pytest.mark.parametrize("scale", ["demo", "small"])
def test_ids_of_smaller_scales_say_nothing_of_the_origin(scale):
    assert all("origin" not in spec.model_dump(mode="json") for spec in FIG7.runs(scale))


@pytest.mark.parametrize("archive", ["none", "incomplete"])
def test_without_the_archive_the_papers_scale_is_refused(archive, tmp_path: Path, monkeypatch, capsys):
    """Before anything starts; and whoever asks for images that are made gets them."""
    root, runs = tmp_path / "data", tmp_path / "runs"
    monkeypatch.setenv("IVON_DATA", str(root))
    monkeypatch.setattr("experiments.data.readers.cifar.check", lambda *_: None)
    if archive == "incomplete":
        (root / "CIFAR-10-C").mkdir(parents=True)
        for name in ("labels", "fog"):
            (root / "CIFAR-10-C" / f"{name}.npy").touch()
    asked = ["--scale", "paper", "--runs", str(runs)]
    assert main(["run", "fig7", *asked, "--device", "cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "CIFAR-10-C" in line and str(root) in line and "zenodo.org" in line and "fig7_made" in line
    assert not list(runs.glob("*"))
    assert main(["plan", "fig7", *asked, "--only", "kind=corrupted", "seed=0"]) == 0
    assert "data: CIFAR-10-C, MISSING: " in capsys.readouterr().out
    assert main(["plan", "fig7_made", *asked, "--only", "kind=corrupted", "seed=0"]) == 0
    assert "data: CIFAR-10-C, made from the published definitions, as asked for" in capsys.readouterr().out
    for source in sources(ARTEFACTS["fig7_made"].specs("paper")):
        source.check(root)


def test_a_seed_that_lacks_a_severity_does_not_bend_the_curve(captions, tmp_path: Path):
    store = Store(tmp_path / "runs")
    for spec in FIG7.runs("demo"):
        train = spec.look.train
        if train.method.name == "ivon" and (train.seed == 0 or (train.seed, spec.severity) == (1, 3)):
            add(store, spec, "made", accuracy=90.0 - 20 * train.seed - spec.severity)
    paths = FIG7.render("demo", store, tmp_path / "out")
    frame = pd.read_csv(next(path for path in paths if path.suffix == ".csv"))
    accuracy = frame[frame.metric == "top1_acc"]
    assert accuracy.set_index("severity").value.to_dict() == {k: 90.0 - k for k in range(1, 6)}
    assert "Seeds that lack a severity are left out." in captions[0]
