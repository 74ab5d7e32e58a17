"""The two figures: drawn from records alone, by a machine without PyTorch."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from experiments.artefacts import ARTEFACTS
from experiments.engine.artefact import SCALES
from experiments.engine.record import Store
from experiments.toy import fig3c, toy2d
from experiments.toy.fig3c import spreads
from plots import predictive_bands, style

ROOT = Path(__file__).parents[3]
MACHINE = {"device": "a made-up machine"}


def made_up_curves(spec, *, std: float) -> dict:
    grid = [x / 20 for x in range(-60, 61)]
    result = {"inputs": [-1.0, 1.5], "targets": [0.1, 0.2], "grid": grid, "truth": [0.0] * 121}
    result |= {"mean": [0.5] * 121, "std": [std if -0.6 < x < 0.9 else std / 2 for x in grid]}
    if spec.method.name == "adamw":
        result["std"] = None
    if spec.method.name == "hmc":
        result |= {"rhat": 1.004, "acceptance": 0.83}
    return result


@pytest.fixture(autouse=True)
def few_pixels(monkeypatch):
    """Coarse pictures are as good here and faster."""
    monkeypatch.setattr(style, "PNG_DPI", 50)


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store(tmp_path / "runs")
    for spec, std in zip(fig3c.RUNS, (0.0, 0.2, 0.4), strict=True):
        store.add(spec, {"failure": None, "result": made_up_curves(spec, std=std), "machine": MACHINE})
    for spec in toy2d.RUNS.values():
        posterior = [0.5, 0.6] if spec.method.name == "ivon" else []
        found = [[[0, *start, *posterior], [600, 1.0, 0.0, *posterior]] for start in spec.starts]
        found[0][-1][1] = -1.0
        store.add(spec, {"failure": None, "result": {"paths": found}, "machine": MACHINE})
    return store


@pytest.mark.parametrize("name", ["fig3c", "toy2d"])
def test_the_same_runs_at_every_scale(name):
    runs = {scale: [spec.id for spec in ARTEFACTS[name].specs(scale)] for scale in SCALES}
    assert runs["demo"] == runs["small"] == runs["paper"]


def test_drawn_without_torch(store, tmp_path):
    code = f"""
import sys
class WithoutTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, WithoutTorch())
from experiments.__main__ import main
for name in ("fig3c", "toy2d"):
    assert main(["render", name, "--runs", {str(store.root)!r}]) == 0
assert "torch" not in sys.modules
"""
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    drawn = {path.name for path in (store.root / "artefacts" / "demo").iterdir()}
    assert drawn == {f"{name}.{kind}" for name in ("fig3c", "toy2d") for kind in ("pdf", "png", "csv")}


def test_bands_are_those_of_the_records(store, tmp_path):
    paths = ARTEFACTS["fig3c"].render("demo", store, tmp_path)
    data = pd.read_csv(next(path for path in paths if path.suffix == ".csv"))
    curves = data[data.part == "curve"].set_index("method")
    assert list(dict.fromkeys(data.method)) == ["AdamW", "IVON", "HMC"]
    assert curves.loc["AdamW", "std"].isna().all()  # a point has none
    assert curves.loc["AdamW", "observed_std"].eq(0.1).all()  # the noise alone
    assert curves.loc["HMC", "observed_std"].max() == pytest.approx((0.4**2 + 0.1**2) ** 0.5)
    _, ivon, _ = fig3c.RUNS
    assert spreads(ivon, store.done(ivon)["result"]) == pytest.approx((0.2, 0.1))


@pytest.mark.parametrize(("ivon", "said"), [(0.2, True), (0.6, False)])
def test_the_caption_says_that_ivon_says_too_little_only_if_so(store, tmp_path, monkeypatch, ivon, said):
    captions = []
    monkeypatch.setattr(predictive_bands, "draw", lambda frame, stem, words: captions.append(words) or [])
    other = Store(tmp_path / "other")
    for spec, std in zip(fig3c.RUNS, (0.0, ivon, 0.4), strict=True):
        other.add(spec, {"failure": None, "result": made_up_curves(spec, std=std), "machine": MACHINE})
    ARTEFACTS["fig3c"].render("demo", other, tmp_path)
    assert ("says too little" in captions[0]) == said
    assert f"IVON {ivon:.2f} and {ivon / 2:.2f}" in captions[0]
    assert "R-hat of the function at most 1.004" in captions[0]


def test_a_part_of_the_runs_is_drawn_and_said(store, tmp_path, monkeypatch):
    captions = []
    monkeypatch.setattr(predictive_bands, "draw", lambda frame, stem, words: captions.append(words) or [])
    store.path(fig3c.RUNS[2]).unlink()
    ARTEFACTS["fig3c"].render("demo", store, tmp_path)
    assert "1 of 3 runs are missing" in captions[0]
    assert "R-hat" not in captions[0]


def test_paths_are_those_of_the_records(store, tmp_path):
    paths = ARTEFACTS["toy2d"].render("demo", store, tmp_path)
    data = pd.read_csv(next(path for path in paths if path.suffix == ".csv"))
    assert data[data.panel == "SGD"].std_x.isna().all()
    assert data[data.panel == "IVON"].std_x.eq(0.5).all()
    assert data.groupby("panel").start.nunique().eq(len(toy2d.STARTS)).all()
    ends = data.groupby(["panel", "start"])["end"].first()
    assert (ends.loc["SGD"] == "sharp").sum() == 1 and (ends.loc["SGD"] == "flat").sum() == 17
