import itertools
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from plots import overfitting, reliability, style, table_figure, validation_error
from plots.style import METHOD_COLORS, color_of, in_display_order, marker_of

PAPER_COLUMNS = ["dataset", "model", "method", "metric", "value", "std", "unit", "n_seeds", "source"]
CAPTION = (
    "A caption that is long enough to be wrapped into two lines, at scale demo, on a CPU with 2 threads."
)


@dataclass(frozen=True)
class Described:
    title: str
    unit: str
    higher_is_better: bool
    digits: int


METRICS = {"acc": Described("Acc.", "percent", True, 2), "nll": Described("NLL", "nats", False, 3)}


@pytest.fixture(autouse=True)
def few_pixels(monkeypatch):
    """Coarse pictures are as good here and faster."""
    monkeypatch.setattr(style, "PNG_DPI", 50)


def paper(*rows: tuple) -> pd.DataFrame:
    full = [("Digits", "Net", method, metric, value, None, "", 1, "there") for method, metric, value in rows]
    return pd.DataFrame(full, columns=PAPER_COLUMNS)


def draw_table(stem) -> tuple[pd.DataFrame, list]:
    grid = itertools.product(("AdamW", "IVON"), METRICS, range(3))
    rows = [("Digits", "Net", method, name, seed, 0.1 * (seed + 1)) for method, name, seed in grid]
    frame = pd.DataFrame(rows, columns=["dataset", "model", "method", "metric", "seed", "value"])
    return frame, table_figure.draw(
        frame, paper(("IVON", "acc", 0.3)), METRICS, stem, CAPTION, methods=["AdamW", "IVON"]
    )


def draw_validation_error(stem) -> tuple[pd.DataFrame, list]:
    grid = itertools.product(("AdamW", "IVON"), range(2), range(1, 5))
    rows = [
        ("Digits", "Net", method, seed, epoch, 20 * epoch, 50 / epoch + seed) for method, seed, epoch in grid
    ]
    columns = ["dataset", "model", "method", "seed", "epoch", "step", "error"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame, validation_error.draw(frame, paper(("IVON", "final_val_error", 12.0)), stem, CAPTION)


def draw_reliability(stem) -> tuple[pd.DataFrame, list]:
    grid = itertools.product(("AdamW", "IVON"), range(2), range(20))
    rows = [
        ("Digits", "Net", method, seed, b, *((b / 20 + 0.02, b / 20, 5) if b > 1 else (None, None, 0)))
        for method, seed, b in grid
    ]
    columns = ["dataset", "model", "method", "seed", "bin", "confidence", "accuracy", "count"]
    frame = pd.DataFrame(rows, columns=columns)
    published = paper(("IVON", "true_prob_at_confidence_0.525", 0.5), ("AdamW", "ece", 0.1))
    return frame, reliability.draw(frame, published, stem, CAPTION)


def draw_overfitting(stem) -> tuple[pd.DataFrame, list]:
    grid = itertools.product(("AdamW", "IVON"), range(2), range(1, 5), ("train", "test"))
    rows = [
        (
            "Digits",
            "Net",
            method,
            seed,
            epoch,
            split,
            1 / epoch + seed,
            0.0 if split == "train" else 30 / epoch,
        )
        for method, seed, epoch, split in grid
    ]
    columns = ["dataset", "model", "method", "seed", "epoch", "split", "nll", "error"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame, overfitting.draw(frame, stem, CAPTION)


FIGURES = (draw_table, draw_validation_error, draw_reliability, draw_overfitting)


@pytest.mark.parametrize("draw", FIGURES)
def test_figure_is_the_same_bytes_twice_and_its_data_are_the_input(draw, tmp_path):
    frame, first = draw(tmp_path / "a" / "figure")
    _, second = draw(tmp_path / "b" / "figure")
    assert [path.name for path in first] == ["figure.pdf", "figure.png", "figure.csv"]
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes()
    for path in (first[0], first[1]):
        assert b"Date" not in path.read_bytes()
    pd.testing.assert_frame_equal(pd.read_csv(first[2]), frame, check_dtype=False, check_exact=True)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "figure.csv",
        "figure.pdf",
        "figure.png",
    ]


def test_figure_does_not_depend_on_the_users_matplotlib_settings(tmp_path):
    import matplotlib

    _, usual = draw_overfitting(tmp_path / "usual")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "savefig.dpi": 30}):
        _, unusual = draw_overfitting(tmp_path / "unusual")
    assert usual[1].read_bytes() == unusual[1].read_bytes()


def test_curves_of_two_data_sets_do_not_share_a_figure(tmp_path):
    mixed = pd.DataFrame({"dataset": ["Digits", "CIFAR-10"], "model": ["Net", "Net"]})
    with pytest.raises(ValueError, match="one data set and network"):
        validation_error.draw(mixed, paper(), tmp_path / "figure", CAPTION)


def test_table_figure_without_runs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no run"):
        table_figure.draw(pd.DataFrame(), paper(), METRICS, tmp_path / "figure", CAPTION, methods=[])


def test_calibration_error_of_bins_is_weighted_by_count_and_averaged_over_seeds():
    columns = ["seed", "confidence", "accuracy", "count"]
    rows = [(0, 0.9, 0.6, 30), (0, 0.5, 0.6, 10), (0, None, None, 0), (1, 0.8, 0.8, 40)]
    # Seed 0: (30 * 0.3 + 10 * 0.1) / 40 = 0.25; seed 1: 0.
    assert reliability.calibration_error(pd.DataFrame(rows, columns=columns)) == pytest.approx(0.125)


def test_published_points_of_the_reliability_diagram_are_read_from_the_names_of_metrics():
    points = reliability.published_points(
        paper(
            ("IVON", "true_prob_at_confidence_0.525", 0.57), ("IVON", "true_prob_at_confidence_0.575", None)
        )
    )
    assert points[["method", "confidence", "accuracy"]].to_numpy().tolist() == [["IVON", 0.525, 0.57]]


def test_unknown_methods_get_colours_and_markers_of_their_own_in_a_fixed_order():
    methods = ["SGD", "Zeta", "Alpha"]
    assert len(set(color_of(methods).values())) == 3
    assert color_of(methods) == color_of(reversed(methods))
    assert len(set(marker_of(METHOD_COLORS).values())) == len(METHOD_COLORS)
    assert in_display_order(["Zeta", "IVON", "AdamW", "IVON"]) == ["AdamW", "IVON", "Zeta"]


# Machado et al. (2009), Table 1, severity 1.0: linear RGB as seen with protanopia, deuteranopia, tritanopia.
COLOUR_BLINDNESS = {
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def lab(linear_rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* under the white point D65."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(to_xyz @ linear_rgb.clip(0.009, 1) / [0.9505, 1.0, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("kind", COLOUR_BLINDNESS)
def test_methods_of_the_main_tables_stay_distinct_under_colour_blindness(kind):
    seen = {}
    for method in ("AdamW", "AdaHessian", "SGD", "IVON@mean", "IVON"):
        rgb = np.array(to_rgb(METHOD_COLORS[method]))
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        seen[method] = lab(np.array(COLOUR_BLINDNESS[kind]) @ linear)
    nearest = min(np.linalg.norm(seen[a] - seen[b]) for a, b in itertools.combinations(seen, 2))
    assert nearest > 10  # 2.3 is just noticeable side by side; lines lie apart


def test_plots_import_no_torch_and_no_other_room():
    modules = [path.stem for path in Path(style.__file__).parent.glob("*.py") if path.stem != "__init__"]
    assert "tables" in modules
    code = f"""
import importlib, sys
for name in {modules}:
    importlib.import_module("plots." + name)
others = {{"torch", "ivon", "baselines", "experiments", "slurm"}} & set(sys.modules)
assert not others, others
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
