"""Figure 4 as drawn: the average over draws as a curve, the mean as a level, and the paper's points."""

from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from plots import by_draws

CAPTION = "A caption."


@pytest.fixture
def figures(monkeypatch) -> list[Figure]:
    """The figures that would be saved; that they can be is seen for every artefact elsewhere."""
    saved: list[Figure] = []

    def keep(fig: Figure, stem: Path, data: pd.DataFrame) -> list[Path]:
        saved.append(fig)
        data.to_csv(f"{stem}.csv", index=False)
        return [Path(f"{stem}.csv")]

    monkeypatch.setattr(by_draws, "save_figure", keep)
    return saved


def ours(seeds: int) -> pd.DataFrame:
    rows = []
    for seed in range(seeds):
        rows += [("test draws", "IVON", seed, k, 60 + k + seed, 1 / k) for k in (1, 2, 4)]
        rows += [("training draws", "IVON", seed, k, 70 + k + seed, 2 / k) for k in (1, 2)]
        rows += [("training draws", "IVON@mean", seed, k, 65 + seed, 3 / k) for k in (1, 2)]
        rows += [("test draws", "IVON@mean", seed, None, 65 + seed, 3.0)]
    frame = pd.DataFrame(rows, columns=["varied", "method", "seed", "draws", "top1_acc", "nll"])
    return frame.assign(dataset="Digits", model="Net", draws=frame["draws"].astype("Int64"))


def published(dataset: str) -> pd.DataFrame:
    rows = [("test draws", "IVON", k, 80.0 + k, 0.4) for k in (1, 2)]
    rows.append(("test draws", "IVON@mean", None, 82.5, 0.45))
    frame = pd.DataFrame(rows, columns=["varied", "method", "draws", "top1_acc", "nll"])
    return frame.assign(dataset=dataset, model="Net", draws=frame["draws"].astype("Int64"))


def curves(ax) -> dict[str, list[float]]:
    return {line.get_label(): list(map(float, line.get_ydata())) for line in ax.lines}


def test_curves_are_means_over_seeds_and_the_mean_is_a_dashed_level(figures, tmp_path):
    by_draws.draw(ours(2), published("elsewhere"), tmp_path / "fig", CAPTION)
    (fig,) = figures
    at_test, in_training = fig.axes[:2]
    assert curves(at_test) == {"IVON": [61.5, 62.5, 64.5], "IVON@mean": [65.5, 65.5]}
    assert curves(in_training) == {"IVON": [71.5, 72.5], "IVON@mean": [65.5, 65.5]}
    assert curves(fig.axes[2])["IVON"] == [1, 0.5, 0.25]
    dashed = {line.get_label() for line in at_test.lines if line.get_linestyle() == "--"}
    assert dashed == {"IVON@mean"}
    assert [tick.get_text() for tick in fig.axes[2].get_xticklabels()] == ["1", "2", "4"]


def test_only_published_values_of_the_same_data_and_network_are_marked(figures, tmp_path):
    by_draws.draw(ours(1), published("elsewhere"), tmp_path / "without", CAPTION)
    paths = by_draws.draw(ours(1), published("Digits"), tmp_path / "with", CAPTION)
    without, with_them = (curves(fig.axes[0]) for fig in figures)
    assert with_them == {**without, "IVON, paper": [81.0, 82.0], "IVON@mean, paper": [82.5, 82.5]}
    assert "IVON, paper" not in curves(figures[1].axes[1])  # the panel of training draws is not known
    (csv,) = paths
    assert pd.read_csv(csv)["source"].value_counts().to_dict() == {"ours": 8, "paper": 3}


def test_the_band_is_the_spread_of_the_average_over_seeds(figures, tmp_path):
    for seeds in (1, 2):
        by_draws.draw(ours(seeds), published("elsewhere"), tmp_path / str(seeds), CAPTION)
    one, two = (fig.axes[0].collections for fig in figures)
    corners = two[0].get_paths()[0].vertices[:, 1]
    assert min(corners) == pytest.approx(61.5 - 0.5**0.5) and max(corners) == pytest.approx(64.5 + 0.5**0.5)
    assert len(two) == 1
    assert not any(path.vertices.size for path in one[0].get_paths())  # a single seed has none


def test_half_done_runs_are_drawn(figures, tmp_path):
    frame = ours(1)
    by_draws.draw(frame[frame["varied"] == "test draws"], published("x"), tmp_path / "half", CAPTION)
    assert not figures[0].axes[1].lines
