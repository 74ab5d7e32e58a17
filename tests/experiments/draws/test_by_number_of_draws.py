"""Figure 4: which runs it shares with Table 2, and what is drawn of them."""

import math

import pandas as pd
import pytest

from experiments.artefacts import ARTEFACTS
from experiments.draws.fig4 import IN_TRAINING, MOST_AT_TEST
from experiments.draws.frames import draws_frame, of_whole_seeds, published_draws
from experiments.engine.record import Store
from experiments.engine.spec import DrawSweepSpec, EvalSpec, TrainSpec
from plots import style

FIG4 = ARTEFACTS["fig4"]


def test_at_the_papers_scale_it_is_the_papers_sweep():
    specs = FIG4.specs("paper")
    sweeps = [spec for spec in specs if isinstance(spec, DrawSweepSpec)]
    assert {spec.counts for spec in sweeps} == {(1, 2, 4, 8, 16, 32, 64, 128, 256, 512)}
    assert {spec.look.train.method.mc_samples for spec in sweeps} == {1}
    trained = [spec.method.mc_samples for spec in specs if isinstance(spec, TrainSpec)]
    assert {draws: trained.count(draws) for draws in trained} == dict.fromkeys((1, 2, 4, 8, 16, 32), 5)
    looks = {(spec.train.method.mc_samples, spec.draws) for spec in specs if isinstance(spec, EvalSpec)}
    assert looks == {(trained, draws) for trained in (1, 2, 4, 8, 16, 32) for draws in (0, 64)}


@pytest.mark.parametrize("scale", FIG4.scales)
def test_networks_of_one_draw_are_those_of_table_2(scale):
    table = {spec.id for spec in ARTEFACTS["table2"].specs(scale)}
    for spec in FIG4.specs(scale):
        if not isinstance(spec, DrawSweepSpec):
            assert (spec.id in table) == (spec.trainings[0].method.mc_samples == 1), spec.label


def made_up(store: Store) -> tuple[list[DrawSweepSpec], list[EvalSpec]]:
    """Records whose accuracy says which look they are."""
    specs = FIG4.runs("demo")
    sweeps = [spec for spec in specs if isinstance(spec, DrawSweepSpec)]
    looks = [spec for spec in specs if isinstance(spec, EvalSpec)]
    rest = {"nll": 0.5, "ece": 0.1, "brier": 0.2}
    for spec in sweeps:
        points = [{"draws": k, "top1_acc": 50 + math.log2(k), **rest} for k in spec.counts]
        store.add(spec, {"failure": None, "result": {"sweep": points}, "machine": {"device": "none"}})
    for look in looks:
        metrics = {"top1_acc": 10.0 * look.train.method.mc_samples + look.draws / 100, **rest}
        store.add(look, {"failure": None, "result": {"metrics": metrics}, "machine": {"device": "none"}})
    return sweeps, looks


def test_every_look_is_at_its_number_of_draws(tmp_path):
    store = Store(tmp_path)
    sweeps, looks = made_up(store)
    frame = draws_frame(sweeps, looks, store)
    at_test = frame[frame.varied == "test draws"]
    average = at_test[at_test.method == "IVON"]
    assert sorted(average.draws.unique()) == [2**k for k in range(int(math.log2(MOST_AT_TEST["demo"])) + 1)]
    assert list(average.top1_acc) == [50 + math.log2(k) for k in average.draws]
    mean = at_test[at_test.method == "IVON@mean"]
    assert mean.draws.isna().all() and list(mean.top1_acc) == [10.0] * len(sweeps)
    trained = frame[frame.varied == "training draws"]
    assert set(trained.draws) == set(IN_TRAINING["demo"])
    added = {"IVON": 0.64, "IVON@mean": 0.0}
    assert list(trained.top1_acc) == [
        10.0 * row.draws + added[row.method] for row in trained.itertuples(index=False)
    ]


def rows(varied: str, method: str, seed: int, *draws: int | None) -> list[dict[str, object]]:
    return [{"varied": varied, "method": method, "seed": seed, "draws": count} for count in draws]


def test_seeds_that_lack_a_number_of_draws_are_left_out():
    """Or else the mean would be that of other networks than the average over draws, and so would points."""
    whole = [
        *rows("test draws", "IVON", 0, 1, 2, 4),
        *rows("test draws", "IVON@mean", 0, None),
        *rows("training draws", "IVON", 2, 1, 2),
    ]
    partial = [
        *rows("test draws", "IVON@mean", 1, None),
        *rows("training draws", "IVON", 0, 1),
        *rows("training draws", "IVON", 1, 2),
    ]
    frame = pd.DataFrame([*partial, *whole]).astype({"draws": "Int64"})
    left = of_whole_seeds(frame)
    assert left.equals(frame.loc[left.index])
    assert sorted(left.index) == list(range(len(partial), len(frame)))

    nowhere = pd.DataFrame(partial).astype({"draws": "Int64"})
    assert of_whole_seeds(nowhere).equals(nowhere)  # no seed has both numbers of training draws


def test_the_papers_points_are_those_of_its_test_draws():
    known = published_draws()
    average = known[known.method == "IVON"]
    assert list(average.draws) == [2**k for k in range(10)]
    assert average.nll.is_monotonic_decreasing  # an average over more draws has a lower NLL
    (mean,) = known[known.method == "IVON@mean"].itertuples()
    assert pd.isna(mean.draws) and average.nll.min() < mean.nll < average.nll.max()


def test_the_papers_points_are_drawn_at_its_own_scale_only(tmp_path, monkeypatch):
    monkeypatch.setattr(style, "PNG_DPI", 20)
    store = Store(tmp_path / "runs")
    made_up(store)
    paths = FIG4.render("demo", store, tmp_path / "out")
    (csv,) = (path for path in paths if path.suffix == ".csv")
    assert set(pd.read_csv(csv).source) == {"ours"}
