"""Paths over the surface: what the surface is, and that they are what the optimizers do."""

import math

import numpy as np
import pytest
import torch

from baselines.settings import IVON, SGD
from experiments.engine.distributed import single
from experiments.engine.execute import execute
from experiments.engine.record import Store
from experiments.engine.spec import SurfaceSpec, parse_spec
from experiments.engine.watch import Stopped, Watch
from experiments.errors import UserError
from experiments.toy.surface import log_density, loss_of, paths
from experiments.toy.toy2d import FLAT, RUNS, SHARP, STARTS, end_of

DRAWN = RUNS["IVON"]
SHORT = DRAWN.model_copy(update={"steps": 60, "starts": ((-2.5, 0.0), (0.5, 1.2))})


def test_the_posterior_of_the_surface_is_known():
    """exp(-loss) has mass 1, and that around each minimum is the mass of its Gaussian."""
    x, y = torch.meshgrid(*2 * [torch.linspace(-6, 6, 601, dtype=torch.float64)], indexing="ij")
    density = (-loss_of(x, y, (SHARP, FLAT))).exp() * (12 / 600) ** 2
    assert float(density.sum()) == pytest.approx(1, abs=1e-6)
    near = (x - SHARP.centre[0]).square() + (y - SHARP.centre[1]).square() < (3.5 * SHARP.width) ** 2
    # The other Gaussian's tail reaches into the circle.
    assert float(density[near].sum()) == pytest.approx(SHARP.mass, abs=0.02)


def test_the_sharp_minimum_is_the_deeper_one():
    loss = [
        float(loss_of(*torch.tensor(well.centre, dtype=torch.float64), (SHARP, FLAT)))
        for well in (SHARP, FLAT)
    ]
    assert loss[0] < loss[1]
    assert SHARP.mass < FLAT.mass


def test_numbers_arrays_and_tensors_have_the_same_surface():
    points = np.random.default_rng(0).normal(size=(2, 50))
    drawn = -np.logaddexp(log_density(*points, SHARP), log_density(*points, FLAT))
    walked = loss_of(*torch.from_numpy(points), (SHARP, FLAT))
    assert np.allclose(drawn, walked.numpy(), rtol=1e-12)
    assert np.isclose(drawn[0], -np.logaddexp(*(log_density(*points[:, 0], well) for well in (SHARP, FLAT))))


def test_sgd_takes_steps_along_the_gradient():
    """Beyond the flat minimum the surface is that minimum's parabola, and the path a geometric sequence."""
    spec = SurfaceSpec(
        method=SGD(lr=0.05, momentum=0.0), sharp=SHARP, flat=FLAT, starts=((2.5, 1.0),), steps=10
    )
    (path,) = paths(spec, Watch())["paths"]
    rate = 1 - 0.05 / FLAT.width**2
    for step, x, y in path:
        assert (x, y) == pytest.approx((1 + 1.5 * rate**step, rate**step), abs=1e-3)  # as rounded


def test_ivon_far_from_the_sharp_minimum_is_the_flat_gaussian():
    spec = DRAWN.model_copy(update={"starts": ((2.5, 0.0),), "steps": 900, "every": 1})
    (path,) = paths(spec, Watch())["paths"]
    settled = np.array(path[300:])
    _, x, y, std_x, std_y = settled.mean(axis=0)
    # The left tail of the posterior feels the sharp minimum a little, in x.
    assert (x, y) == pytest.approx(FLAT.centre, abs=0.1)
    assert (std_x, std_y) == pytest.approx((FLAT.width, FLAT.width), rel=0.15)


def test_the_first_point_is_the_start_with_the_first_posterior():
    found = paths(SHORT, Watch())["paths"]
    for path, start in zip(found, SHORT.starts, strict=True):
        assert path[0] == [0, *start, 1.0, 1.0]  # 1 / sqrt(ess hess_init)
        assert [point[0] for point in path] == [0, *range(5, 61, 5)]


def test_paths_are_a_function_of_the_specification():
    first = paths(SHORT, Watch())["paths"]
    assert paths(SHORT, Watch())["paths"] == first
    assert paths(SHORT.model_copy(update={"seed": 1}), Watch())["paths"] != first
    # Also each alone: the noise of a start does not depend on the others.
    alone = SHORT.model_copy(update={"starts": SHORT.starts[:1]})
    assert paths(alone, Watch())["paths"] == first[:1]


def test_the_record_holds_the_paths(tmp_path):
    store = Store(tmp_path)
    assert parse_spec(SHORT.model_dump(mode="json")) == SHORT
    assert execute(SHORT, store, single(torch.device("cpu")), Watch()).end == "done"
    record = store.done(SHORT)
    assert record and parse_spec(record["spec"]) == SHORT
    assert record["result"]["paths"] == paths(SHORT, Watch())["paths"]


def test_starts_are_a_regular_grid_about_the_middle_of_the_minima():
    middle = [(a + b) / 2 for a, b in zip(SHARP.centre, FLAT.centre, strict=True)]
    assert np.allclose(np.mean(STARTS, axis=0), middle)
    assert all((2 * middle[0] - x, y) in STARTS for x, y in STARTS)
    assert all(spec.starts == STARTS and spec.method.lr == DRAWN.method.lr for spec in RUNS.values())


def test_ends_are_told_apart():
    assert end_of([[0, 2.0, 2.0], [9, -1.1, 0.1]]) == "sharp"
    assert end_of([[0, 2.0, 2.0], [9, 1.3, 0.4, 0.6, 0.6]]) == "flat"
    assert end_of([[0, -1.0, 0.0], [9, 0.0, 2.0]]) == "neither"
    assert end_of([[0, -1.5, 0.0], [9, -0.05, 0.02]]) == "neither"  # on its way
    assert math.dist(SHARP.centre, FLAT.centre) > 2 * (SHARP.width + FLAT.width)


def test_impossible_surfaces_and_stops():
    data = SHORT.model_dump(mode="json")
    with pytest.raises(UserError, match=r"sharp.width 0.6: must be below"):
        parse_spec({**data, "sharp": data["flat"]})
    with pytest.raises(UserError, match="starts"):
        parse_spec({**data, "starts": []})
    with pytest.raises(Stopped):
        paths(SHORT, Watch(stop=lambda: True))
    assert isinstance(DRAWN.method, IVON)
