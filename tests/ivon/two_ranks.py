"""One of two processes of test_ivon_distributed.py: trains in a gloo group and writes down what it saw.

python two_ranks.py RANK FOLDER
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from ivon import IVON

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
            p.grad = torch.ones(2)
        optimizer.found_inf, optimizer.grad_scale = torch.tensor(float(rank == bad_rank)), None
        optimizer.step()
    return {"steps": torch.tensor(optimizer.state[p]["step"]), "mean": p.detach()}


def own_model(rank: int, size: int) -> dict[str, torch.Tensor]:
    """A model that only this rank has, trained with two draws a step."""
    p = nn.Parameter(torch.linspace(0, 1, size, dtype=torch.float64) + rank)
    optimizer = IVON([p], 0.1, 20.0, beta2=0.9)
    optimizer.seed(5)
    for _ in range(STEPS):
        for draw in range(2):
            with optimizer.sampled_params(train=True):
                p.grad = gradient(p.detach(), rank + draw)
        optimizer.step()
    return {"mean": p.detach(), "hess": optimizer.state[p]["hess"]}


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
    }
    torch.save(results, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
