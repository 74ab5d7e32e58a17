"""Figures of corruptions and of calibration: what they show, gaps included."""

import itertools
from dataclasses import dataclass

import pandas as pd
import pytest
from matplotlib.figure import Figure

from plots import before_after, reliability_panels, severities, style
from plots.reliability import pooled_bins

CAPTION = "A caption, at scale demo."


@dataclass(frozen=True)
class Described:
    title: str
    unit: str
    higher_is_better: bool
    digits: int


METRICS = {
    "acc": Described("Acc.", "percent", True, 2),
    "nll": Described("NLL", "nats", False, 3),
    "ece": Described("ECE", "fraction", False, 3),
    "all": Described("ECE of all", "fraction", False, 3),
}


@pytest.fixture(autouse=True)
def few_pixels(monkeypatch):
    """Coarse pictures are as good here and faster."""
    monkeypatch.setattr(style, "PNG_DPI", 50)


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures, as they were when saved."""
    figures: list[Figure] = []
    for module in (severities, before_after, reliability_panels):
        real = module.save_figure
        monkeypatch.setattr(
            module, "save_figure", lambda fig, *rest, real=real: figures.append(fig) or real(fig, *rest)
        )
    return figures


def severity_frame() -> pd.DataFrame:
    """IVON loses a point of accuracy a severity and seed; SGD has one seed and nothing at severity 5."""
    rows = [
        ("Digits", "Net", method, seed, severity, metric, 100.0 - severity - seed)
        for method, seed, severity, metric in itertools.product(
            ("SGD", "IVON"), range(2), range(1, 6), (*METRICS, "other")
        )
        if method == "IVON" or (seed == 0 and severity < 5)
    ]
    columns = ["dataset", "model", "method", "seed", "severity", "metric", "value"]
    return pd.DataFrame(rows, columns=columns)


def reliability_frame(methods: tuple[str, ...]) -> pd.DataFrame:
    rows = [
        ("Digits", "Net", method, seed, b, *((b / 20 + 0.02, b / 20, 5 * b) if b > 1 else (None, None, 0)))
        for method, seed, b in itertools.product(methods, range(2), range(20))
    ]
    columns = ["dataset", "model", "method", "seed", "bin", "confidence", "accuracy", "count"]
    return pd.DataFrame(rows, columns=columns)


def sides_frame() -> pd.DataFrame:
    rows = [
        ("Digits", "Net", side, method, seed, metric, (2.0 if side == "before" else 1.0) + seed)
        for side, method, seed, metric in itertools.product(
            ("before", "after"), ("SGD", "IVON"), range(3), ("nll", "other")
        )
        if (side, method) != ("after", "SGD")  # not measured yet
    ]
    columns = ["dataset", "model", "side", "method", "seed", "metric", "value"]
    return pd.DataFrame(rows, columns=columns)


def test_severities_show_means_and_spreads_of_what_is_there(drawn, tmp_path):
    *_, csv = severities.draw(severity_frame(), METRICS, tmp_path / "figure", CAPTION)
    assert set(pd.read_csv(csv).metric) == set(METRICS)  # what is not drawn is not written
    first = drawn[0].axes[0]
    assert first.get_title() == "Acc. (%) ↑"
    bars = {container.get_label(): container for container in first.containers}
    assert bars["SGD"].lines[0].get_ydata().tolist() == [99, 98, 97, 96]
    ivon = bars["IVON"].lines[0]
    assert ivon.get_ydata().tolist() == [98.5, 97.5, 96.5, 95.5, 94.5]
    assert abs(ivon.get_xdata() - [1, 2, 3, 4, 5]).max() < 0.1
    (spread,) = bars["IVON"].lines[2]
    low, high = spread.get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((98.5 - 0.5**0.5, 98.5 + 0.5**0.5))  # n - 1 in the denominator


def test_four_methods_have_a_panel_each_with_seeds_pooled(drawn, tmp_path):
    frame = reliability_frame(("SGD", "IVON", "Deep ensemble", "Multi-IVON"))
    reliability_panels.draw(frame, tmp_path / "figure", CAPTION)
    titles = [ax.get_title() for ax in drawn[0].axes if ax.axison]
    # Every filled bin is 0.02 too sure.
    assert titles == [f"{name}, ECE 0.020" for name in ("SGD", "IVON", "Deep ensemble", "Multi-IVON")]
    assert pooled_bins(frame).loc[("SGD", 7), "count"] == 70


def test_bins_of_few_images_are_faint(drawn, tmp_path):
    frame = reliability_frame(("SGD",))
    frame["count"] = frame["bin"].where(frame["count"] > 0, 0)  # twice as many in both seeds together
    reliability_panels.draw(frame, tmp_path / "figure", CAPTION)
    certain, few = drawn[0].axes[0].lines[1:]
    assert certain.get_xdata().tolist() == pytest.approx([b / 20 + 0.02 for b in range(10, 20)])
    assert few.get_xdata().tolist() == pytest.approx([b / 20 + 0.02 for b in range(2, 10)])
    assert few.get_alpha() < certain.get_alpha() == 1


def test_before_and_after_are_told_apart(drawn, tmp_path):
    metrics = {"nll": METRICS["nll"]}
    before_after.draw(sides_frame(), metrics, tmp_path / "figure", CAPTION, sides=("before", "after"))
    (ax,) = drawn[0].axes
    means = {
        (round(bar.lines[0].get_ydata()[0]), bar.lines[0].get_markerfacecolor() == "white"): bar.lines[
            0
        ].get_xdata()[0]
        for bar in ax.containers
    }
    assert means == {(0, True): 3.0, (1, True): 3.0, (1, False): 2.0}  # SGD, then IVON; hollow: before
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["SGD", "IVON"]


def test_two_data_sets_do_not_share_a_figure(tmp_path):
    frame = severity_frame()
    frame.loc[0, "dataset"] = "CIFAR-10"
    with pytest.raises(ValueError, match="one data set"):
        severities.draw(frame, METRICS, tmp_path / "figure", CAPTION)
