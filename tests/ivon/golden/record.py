"""Record trajectories of the released package ivon-opt 0.1.3, used as a black box, and a state that it saves.

Run by hand, with the package installed outside the repository (it is GPL, so only its numbers come in here):

    python -m pip install --no-deps --target /tmp/ivonopt ivon-opt==0.1.3
    PYTHONPATH=/tmp/ivonopt python -P tests/ivon/golden/record.py

For each configuration, in float64, with P parameters (all tensors flattened and joined), S draws, T steps:
`settings` (JSON), `start` (P,), `noise` and `grads` (T, S, P), `means` and `hess` (T, P) after each step.
The noise is what a user can see, the parameters within the sampling context minus those outside.
"""

import json
from pathlib import Path

import numpy as np
import torch

import ivon

STEPS = 300
SHAPES = [(2, 2), (3,)]  # P = 7
# Values of hess_init are binary fractions, because the package rounds them to float32.
BASE = {"lr": 0.1, "ess": 50.0, "hess_init": 0.5, "beta1": 0.9, "beta2": 0.98, "weight_decay": 0.02}
GROUPS = [{}, {"lr": 0.05, "weight_decay": 0.3, "hess_init": 0.25}]  # one group for each tensor
CONFIGS: dict[str, dict[str, object]] = {
    "price": {},
    "gradsq": {"hess_approx": "gradsq"},
    "clip_radius": {"clip_radius": 0.05},
    "rescale_lr_off": {"rescale_lr": False},
    "debias_off": {"debias": False},
    "three_draws": {"mc_samples": 3},
    "three_draws_gradsq": {"mc_samples": 3, "hess_approx": "gradsq"},
    "two_groups": {"groups": GROUPS},
    "lr_schedule": {"gamma": 0.97},
    "defaults": {"hess_init": 1.0, "beta2": 0.99999, "weight_decay": 1e-4},
}


def loss_of(params: list[torch.Tensor], step: int) -> torch.Tensor:
    """A function with curvature of both signs, and a new tilt at each step as minibatches give."""
    flat = torch.cat([p.reshape(-1) for p in params])
    tilt = torch.sin(torch.arange(1, len(flat) + 1, dtype=flat.dtype) * (step + 1))
    return (0.6 * torch.cos(2 * flat) + flat**2 + 0.5 * tilt * flat).sum() + torch.tanh(flat.sum())


def flat(tensors: list[torch.Tensor]) -> np.ndarray:
    return torch.cat([t.detach().reshape(-1) for t in tensors]).numpy().copy()


def record(settings: dict[str, object], seed: int) -> dict[str, np.ndarray]:
    """One trajectory."""
    torch.manual_seed(seed)
    options = {k: v for k, v in settings.items() if k not in ("groups", "gamma")}
    params = [torch.nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in SHAPES]
    groups = settings.get("groups")
    per_group = [{"params": [p], **g} for p, g in zip(params, groups, strict=True)] if groups else params
    optimizer = ivon.IVON(per_group, **options)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=settings.get("gamma", 1.0))
    out: dict[str, list[np.ndarray]] = {"noise": [], "grads": [], "means": [], "hess": []}
    start = flat(params)
    for step in range(STEPS):
        mean, noise, grads = flat(params), [], []
        for _ in range(options.get("mc_samples", 1)):
            with optimizer.sampled_params(train=True):
                optimizer.zero_grad()
                loss_of(params, step).backward()
                noise.append(flat(params) - mean)
                grads.append(flat([p.grad for p in params]))
        optimizer.step()
        scheduler.step()
        out["noise"].append(np.stack(noise))
        out["grads"].append(np.stack(grads))
        out["means"].append(flat(params))
        out["hess"].append(flat([g["hess"] for g in optimizer.param_groups]))
    text = np.array(json.dumps({"shapes": SHAPES, **settings}))
    return {"settings": text, "start": start, **{k: np.stack(v) for k, v in out.items()}}


def record_state() -> dict[str, object]:
    """What the package saves after five steps of two groups, and the parameters then."""
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in ((2, 3), (4,), (3, 1))]
    groups = [{"params": params[:2]}, {"params": params[2:], "weight_decay": 0.3, "lr": 0.05}]
    optimizer = ivon.IVON(groups, **BASE)
    for step in range(5):
        with optimizer.sampled_params(train=True):
            optimizer.zero_grad()
            loss_of(params, step).backward()
        optimizer.step()
    return {"optimizer": optimizer.state_dict(), "params": [p.detach() for p in params]}


if __name__ == "__main__":
    arrays = {
        f"{name}/{key}": value
        for seed, (name, changes) in enumerate(CONFIGS.items())
        for key, value in record({**BASE, **changes}, seed).items()
    }
    np.savez_compressed(Path(__file__).with_name("trajectories.npz"), **arrays)
    torch.save(record_state(), Path(__file__).with_name("ivon_opt_state.pt"))
