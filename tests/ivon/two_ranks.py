"""One of two processes of test_ivon_distributed.py: trains in a gloo group and writes down what it saw.

python two_ranks.py RANK FOLDER
"""

import sys
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from ivon import IVON, reference

STEPS = 3
WEIGHTS = (3.0, 1.0)  # sizes of the micro-batches of the two ranks


def gradient(theta: torch.Tensor, rank: int) -> torch.Tensor:
    """Each rank has data of its own."""
    return torch.sin(theta * (rank + 1)) + 0.1 * rank


def train(rank: int, *, sync: bool, hess_approx: str) -> dict[str, torch.Tensor]:
    """Noise of each step and the posterior after it. The second parameter has no gradient on rank 1."""
    params = [nn.Parameter(torch.linspace(0, 1, n, dtype=torch.float64)) for n in (4, 3)]
    optimizer = IVON(params, 0.1, 20.0, beta2=0.9, hess_approx=hess_approx, sync=sync)
    seen: dict[str, list[torch.Tensor]] = {"noise": [], "mean": [], "hess": []}
    for _ in range(STEPS):
        mean = torch.cat([p.detach() for p in params])
        with optimizer.sampled_params(train=True, weight=WEIGHTS[rank if sync else 0]):
            theta = torch.cat([p.detach() for p in params])
            params[0].grad = gradient(params[0].detach(), rank if sync else 0)
            if rank == 0 or not sync:
                params[1].grad = gradient(params[1].detach(), 0)
        optimizer.step()
        seen["noise"].append(theta - mean)
        seen["mean"].append(torch.cat([p.detach() for p in params]))
        seen["hess"].append(torch.cat([optimizer.state[p]["hess"] for p in params]))
    return {name: torch.stack(values) for name, values in seen.items()}


def overflow(rank: int) -> dict[str, torch.Tensor]:
    """GradScaler saw an overflow on rank 1 only: how many steps this rank has made."""
    p = nn.Parameter(torch.ones(2))
    optimizer = IVON([p], 0.1, 20.0, sync=True)
    for bad_rank in (1, None):
        with optimizer.sampled_params(train=True):
            p.grad = 1 + 0.1 * p.detach()
        optimizer.found_inf, optimizer.grad_scale = torch.tensor(float(rank == bad_rank)), None
        optimizer.step()
    return {"steps": torch.tensor(optimizer.state[p]["step"]), "mean": p.detach()}


def own_model(rank: int, size: int, **options: object) -> dict[str, torch.Tensor]:
    """A model that only this rank has, trained with two draws a step; and what Algorithm 1 makes of them."""
    p = nn.Parameter(torch.linspace(0, 1, size, dtype=torch.float64) + rank)
    optimizer = IVON([p], 0.1, 20.0, beta2=0.9, **options)
    optimizer.seed(5)
    settings = reference.Settings(lamda=20.0, beta2=0.9)
    expected = reference.init(p.detach().clone(), settings)
    noise = []
    for _ in range(STEPS):
        mean, own = p.detach().clone(), []
        for draw in range(2):
            with optimizer.sampled_params(train=True):
                own.append((p.detach() - mean) / reference.sigma(expected, settings))
                p.grad = gradient(p.detach(), rank + draw)
        optimizer.step()
        gradients = [lambda theta, draw=draw: gradient(theta, rank + draw) for draw in range(2)]
        expected = reference.step(expected, gradients, own, settings, alpha=0.1)
        noise.append(torch.stack(own))
    found = {"mean": p.detach(), "hess": optimizer.state[p]["hess"], "noise": torch.stack(noise)}
    return found | {"expected mean": expected.m, "expected hess": expected.h}


def quadratic(rank: int, starts: tuple[float, float], **options: object) -> dict[str, torch.Tensor]:
    """Each rank has a weight of the losses (w_0 + 2 w_1 - 1)^2 / 2, of which there are many.

    The starts are minima, and the means stay there. The Hessian's diagonal is 1 and 4. Returned are its means
    over the losses, and the warnings.
    """
    slope = (1.0, 2.0)[rank]
    p = nn.Parameter(torch.full((4000,), starts[rank], dtype=torch.float64))
    optimizer = IVON([p], 0.0, 1e3, beta2=0.98, **options)
    optimizer.seed(11)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(200):
            with optimizer.sampled_params(train=True):
                total = slope * p.detach()
                dist.all_reduce(total)
                p.grad = slope * (total - 1)
            optimizer.step()
    warned = torch.tensor(sum("draw apart" in str(warning.message) for warning in caught))
    return {"hess": optimizer.state[p]["hess"].mean(), "warned": warned}


def mixed(rank: int) -> dict[str, torch.Tensor]:
    """Slices beside copies, as in tensor parallelism by hand; some begin with the same values on both ranks.

    Returned is the noise of each step: of a slice, of a copy, and of a slice and a copy that begin as ones.
    """
    generator = torch.Generator().manual_seed(rank)
    own = torch.randn(3, generator=generator, dtype=torch.float64)
    common = torch.linspace(0, 1, 3, dtype=torch.float64)
    ones = torch.ones(3, dtype=torch.float64)
    params = [nn.Parameter(start.clone()) for start in (own, common, ones, ones)]
    optimizer = IVON(params, 0.1, 20.0, beta2=0.9)
    noise = []
    for _ in range(STEPS):
        means = torch.stack([p.detach().clone() for p in params])
        with optimizer.sampled_params(train=True):
            noise.append(torch.stack([p.detach() for p in params]) - means)
            for i, p in enumerate(params):
                p.grad = gradient(p.detach(), rank if i in (0, 2) else 0)
        optimizer.step()
    means = torch.stack([p.detach() for p in params])
    with optimizer.sampled_params():
        noise.append(torch.stack([p.detach() for p in params]) - means)
    return {"noise": torch.stack(noise), "mean": means}


def words(act: Callable[[], object]) -> str:
    """What it is refused with; empty if it is not."""
    try:
        act()
    except RuntimeError as error:
        return str(error)
    return ""


def tied(rank: int) -> None:
    """A weight that is the first of one rank and the second of the other."""
    common, own = torch.linspace(0, 1, 3), torch.full((3,), float(rank))
    values = [common, own] if rank == 0 else [own, common]
    with IVON([nn.Parameter(v) for v in values], 0.1, 20.0).sampled_params(train=True):
        pass


def synced_parts(rank: int) -> None:
    """Weights of this rank alone, of which a mean over ranks means nothing."""
    with IVON([nn.Parameter(torch.ones(3) + rank)], 0.1, 20.0, sync=True).sampled_params(train=True):
        pass


def averaged(rank: int, micro_batches: int) -> None:
    """Draws of their own, and gradients averaged all the same, those of the last micro-batch at least."""
    p = nn.Parameter(torch.linspace(0, 1, 4, dtype=torch.float64))
    optimizer = IVON([p], 0.1, 20.0, sync=True)
    for i in range(micro_batches):
        with optimizer.sampled_params(train=True):
            p.grad = gradient(p.detach(), rank)
            if i == micro_batches - 1:
                dist.all_reduce(p.grad)
                p.grad /= 2
    optimizer.step()


def copies_differ(rank: int) -> None:
    """Copies of a part by its name, with several draws, whose gradients nobody averages."""
    groups = [{"params": [nn.Parameter(torch.ones(3) + i)], "part": f"part {i}"} for i in (0, 1 + rank)]
    optimizer = IVON(groups, 0.1, 20.0)
    for _ in range(2):
        with optimizer.sampled_params(train=True):
            for group in groups:
                group["params"][0].grad = gradient(group["params"][0].detach(), rank)
    optimizer.step()


def draw_alone(rank: int, **options: object) -> None:
    """Rank 0 has a model that rank 1 knows nothing of."""
    if rank == 0:
        optimizer = IVON([nn.Parameter(torch.ones(3))], 0.1, 20.0, **options)
        if options:
            optimizer.seed(1)
        with optimizer.sampled_params(train=True):
            pass


def main(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(100 + rank)  # the ranks bring different seeds
    results = {
        "alike": train(rank, sync=False, hess_approx="price"),
        "price": train(rank, sync=True, hess_approx="price"),
        "gradsq": train(rank, sync=True, hess_approx="gradsq"),
        "overflow": overflow(rank),
        "own": own_model(rank, 4),
        "own size": own_model(rank, 4 + rank),
        "own, named": own_model(rank, 4, part=f"model {rank}"),
        "weights apart": quadratic(rank, (1.0, 0.0)),
        "weights that begin alike": quadratic(rank, (1 / 3, 1 / 3)),
        "weights that begin alike, named": quadratic(rank, (1 / 3, 1 / 3), part=rank),
        "mixed": mixed(rank),
        "tied": words(lambda: tied(rank)),
        "synced parts": words(lambda: synced_parts(rank)),
        "averaged": words(lambda: averaged(rank, 1)),
        "averaged, last micro-batch": words(lambda: averaged(rank, 2)),
        "copies differ": words(lambda: copies_differ(rank)),
        "alone, named": words(lambda: draw_alone(rank, part="mine")),
    }
    dist.destroy_process_group()
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet again",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=2),
    )
    results["alone"] = words(lambda: draw_alone(rank))
    torch.save(results, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
