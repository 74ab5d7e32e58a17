"""Trajectories recorded from ivon-opt 0.1.3 (golden/record.py): same noise and gradients, same posterior."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ivon import IVON

GOLDEN = np.load(Path(__file__).parent / "golden" / "trajectories.npz")
NAMES = sorted({key.split("/")[0] for key in GOLDEN})


def flat(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors])


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # The recorded noise has an error of 1e-16 / sigma, about 1e-14; a float32 has 24 bits; steps add up.
    [(torch.float64, 1e-11), (torch.float32, 2e-5)],
)
@pytest.mark.parametrize("name", NAMES)
def test_same_trajectory_as_released_package(name, dtype, tolerance, given_noise):
    settings = json.loads(str(GOLDEN[f"{name}/settings"]))
    shapes, groups, gamma = (settings.pop(k, None) for k in ("shapes", "groups", "gamma"))
    sizes = [int(np.prod(shape)) for shape in shapes]

    def tensors(flat: np.ndarray) -> list[torch.Tensor]:
        parts = torch.from_numpy(flat).split(sizes)
        return [part.reshape(shape).clone() for part, shape in zip(parts, shapes, strict=True)]

    params = [torch.nn.Parameter(t.to(dtype)) for t in tensors(GOLDEN[f"{name}/start"])]
    per_group = [{"params": [p], **g} for p, g in zip(params, groups, strict=True)] if groups else params
    optimizer = IVON(per_group, **settings)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=gamma or 1.0)

    means, hess, noise, grads = (GOLDEN[f"{name}/{key}"] for key in ("means", "hess", "noise", "grads"))
    group_of = [optimizer.param_groups[i if groups else 0] for i in range(len(params))]
    h0 = np.concatenate([np.full(size, g["hess_init"]) for size, g in zip(sizes, group_of, strict=True)])
    delta = np.concatenate(
        [np.full(size, g["weight_decay"]) for size, g in zip(sizes, group_of, strict=True)]
    )
    hess_before = np.concatenate([h0[None], hess[:-1]])
    eps = noise * np.sqrt(settings["ess"] * (hess_before + delta))[:, None]
    draws = [tensors(draw) for step in eps for draw in step]
    given_noise([[e] for draw in draws for e in draw] if groups else draws)

    start = GOLDEN[f"{name}/start"]
    thetas, found_means, found_hess = [], [], []
    for step in range(len(means)):
        for draw in range(noise.shape[1]):
            with optimizer.sampled_params(train=True):
                thetas.append(flat(params))
                for p, g in zip(params, tensors(grads[step, draw]), strict=True):
                    p.grad = g.to(dtype)
        optimizer.step()
        scheduler.step()
        found_means.append(flat(params))
        found_hess.append(flat([optimizer.state[p]["hess"] for p in params]))
    means_before = np.concatenate([start[None], means[:-1]])
    recorded = (means_before[:, None] + noise).reshape(len(thetas), -1)
    for found, expected in ((thetas, recorded), (found_means, means), (found_hess, hess)):
        np.testing.assert_allclose(torch.stack(found), expected, tolerance, tolerance)


def test_recorded_trajectories_show_what_they_are_for():
    """The clip is active, the Hessian moves, and each setting changes the path."""
    moves = np.diff(GOLDEN["clip_radius/means"], axis=0)
    longest = 0.1 * 0.52 * 0.05  # lr, rescaled, times the radius
    assert np.isclose(np.abs(moves).max(), longest)
    assert all(np.abs(GOLDEN[f"{name}/hess"][-1] - GOLDEN[f"{name}/hess"][0]).min() > 1e-6 for name in NAMES)
