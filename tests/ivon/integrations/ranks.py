"""One of the processes of test_with_processes.py: trains in a gloo group and writes down what it saw.

python ranks.py RANK WORLD_SIZE FOLDER
"""

import math
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from conftest import STEPS, Batch, Task
from torch import Tensor, nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

from ivon import IVON
from ivon.wrappers import find_ivon

MICRO_BATCHES = 2
TEST_DRAWS = 3
MAX_NORM = 0.3

# float64, so that other orders of summation do not show.
task = Task(torch.float64)


def part(k: int, micro_batch: int | None = None) -> Batch:
    """This rank's share of the k-th batch, or of a micro-batch of it; equal for all ranks."""
    data = task.batch(k)
    if micro_batch is not None:
        data = tuple(d.chunk(MICRO_BATCHES)[micro_batch] for d in data)
    inputs, labels = (d.chunk(dist.get_world_size())[dist.get_rank()] for d in data)
    return inputs, labels


def whole(tensor: Tensor) -> Tensor:
    """What all ranks together hold."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def seen(optimizer: IVON, **more: Tensor) -> dict[str, Tensor]:
    """The posterior, flattened."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    found = {"mean": params} | {
        name: [optimizer.state[param][name] for param in params] for name in ("hess", "momentum")
    }
    flat = {name: torch.cat([whole(t.detach()).reshape(-1) for t in found[name]]) for name in found}
    return flat | more


def distributed(**options: Any) -> tuple[nn.Module, IVON]:
    model = task.model()
    return DistributedDataParallel(model, **options), task.optimizer(model)


def ddp(steps: int = STEPS, **options: Any) -> dict[str, Tensor]:
    """The whole batch, split over the ranks."""
    model, optimizer = distributed(**options)
    for k in range(steps):
        with optimizer.sampled_params(train=True):
            task.loss(model, part(k)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return seen(optimizer)


def micro_batches(model: nn.Module, optimizer: IVON, max_norm: float = math.inf) -> dict[str, Tensor]:
    """Micro-batches with draws of their own, each of which is reduced; their average is clipped."""
    for k in range(STEPS):
        for i in range(MICRO_BATCHES):
            with optimizer.sampled_params(train=True):
                task.loss(model, part(k, i)).backward()
        if max_norm < math.inf:
            nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
    return seen(optimizer)


def clipped_no_sync(sync_last: bool) -> dict[str, Tensor]:
    """Micro-batches with draws of their own, of which the last is reduced, and clipping of their average.

    Where that is left to step() too, each rank has clipped its own average.
    """
    model, optimizer = distributed()
    for k in range(STEPS):
        for i in range(MICRO_BATCHES):
            last = sync_last and i == MICRO_BATCHES - 1
            with nullcontext() if last else model.no_sync(), optimizer.sampled_params(train=True):
                task.loss(model, part(k, i)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
    return seen(optimizer)


def ddp_no_sync(own_draws: bool) -> dict[str, Tensor]:
    """Only the last micro-batch is reduced: with one draw together with the others, which are in `p.grad`."""
    model, optimizer = distributed()
    for k in range(STEPS):
        if own_draws:
            with model.no_sync(), optimizer.sampled_params(train=True):
                task.loss(model, part(k, 0)).backward()
            with optimizer.sampled_params(train=True):
                task.loss(model, part(k, 1)).backward()
        else:
            with optimizer.sampled_params(train=True):
                with model.no_sync():
                    (task.loss(model, part(k, 0)) / MICRO_BATCHES).backward()
                (task.loss(model, part(k, 1)) / MICRO_BATCHES).backward()
        optimizer.step()
    return seen(optimizer)


def own_draw_per_rank(with_ddp: bool) -> dict[str, Tensor]:
    """The paper's mode: gradients are not averaged over ranks, `step()` averages the estimates."""
    model, noise = task.model(), []
    replica = DistributedDataParallel(model) if with_ddp else model
    optimizer = task.optimizer(model, sync=True)
    for k in range(STEPS):
        mean = model[0].weight.detach().clone()
        with optimizer.sampled_params(train=True):
            noise.append(model[0].weight.detach() - mean)
            if isinstance(replica, DistributedDataParallel):
                with replica.no_sync():
                    task.loss(replica, part(k)).backward()
            else:
                task.loss(replica, part(k)).backward()
        optimizer.step()
    return seen(optimizer, noise=torch.stack(noise), loss=task.loss(model).detach())


def sharded(**options: Any) -> tuple[nn.Module, IVON]:
    """FSDP2: layers of 10 and 3 rows, which no number of ranks divides; some ranks have no row at all."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = task.model()
    for layer in (model[0], model[2]):
        fully_shard(layer, mesh=mesh, **options)
    fully_shard(model, mesh=mesh, **options)
    return model, task.optimizer(model)


def fsdp_steps(model: nn.Module, optimizer: IVON, steps: range) -> None:
    for k in steps:
        with optimizer.sampled_params(train=True):
            task.loss(model, part(k)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def fsdp(**options: Any) -> dict[str, Tensor]:
    model, optimizer = sharded(**options)
    fsdp_steps(model, optimizer, range(STEPS))
    return seen(optimizer)


def fsdp_only_root() -> dict[str, Tensor]:
    """One group of parameters, the root's, which FSDP2 leaves gathered between forward and backward."""
    model = task.model()
    fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    optimizer = task.optimizer(model)
    fsdp_steps(model, optimizer, range(STEPS))
    return seen(optimizer)


def fsdp_accumulation() -> dict[str, Tensor]:
    """Gradients are reduced with the last micro-batch of the draw."""
    model, optimizer = sharded()
    for k in range(STEPS):
        with optimizer.sampled_params(train=True):
            for i in range(MICRO_BATCHES):
                model.set_requires_gradient_sync(i == MICRO_BATCHES - 1)
                (task.loss(model, part(k, i)) / MICRO_BATCHES).backward()
        optimizer.step()
    return seen(optimizer)


def fsdp_unreduced_draw() -> dict[str, Tensor]:
    """A draw whose gradients FSDP2 keeps for itself, to be added to those at the next."""
    model, optimizer = sharded()
    model.set_requires_gradient_sync(False)
    try:
        with optimizer.sampled_params(train=True):
            task.loss(model, part(0, 0)).backward()
    except RuntimeError as error:
        return {"refused": torch.tensor("no parameter has a gradient from this draw" in str(error))}
    return {"refused": torch.tensor(False)}


def fsdp_own_draw_per_rank() -> dict[str, Tensor]:
    """Ranks that share one set of weights cannot have draws of their own."""
    model, _ = sharded()
    try:
        optimizer = task.optimizer(model, sync=True)
        fsdp_steps(model, optimizer, range(STEPS))
    except (ValueError, RuntimeError) as error:
        return {"refused": torch.tensor("sync" in str(error))}
    return seen(optimizer, loss=task.loss(model).detach())


def fsdp_evaluation(*, with_generator: bool = False, **options: Any) -> dict[str, Tensor]:
    """Predictions at test draws and at the mean in the middle of a training."""
    model, optimizer = sharded(**options)
    fsdp_steps(model, optimizer, range(3))

    @torch.no_grad()
    def predict() -> Tensor:
        logits = model(task.inputs)
        for layer in model.modules():
            # Weights that FSDP2 has been told to keep gathered after a forward pass are those of this draw.
            if options and isinstance(layer, FSDPModule):
                layer.reshard()
        return logits

    logits = []
    for k in range(TEST_DRAWS):
        generator = torch.Generator().manual_seed(k) if with_generator else None
        with optimizer.sampled_params(generator=generator):
            logits.append(predict())
    logits.append(predict())
    fsdp_steps(model, optimizer, range(3, STEPS))
    return seen(optimizer, logits=torch.stack(logits))


def fsdp_checkpoint(folder: Path) -> dict[str, Tensor]:
    """Saved in shards, loaded into a new model, continued."""
    model, optimizer = sharded()
    fsdp_steps(model, optimizer, range(STEPS // 2))
    states = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
    checkpoint.save(states, checkpoint_id=folder / "checkpoint")
    model, optimizer = sharded()
    optimizer.seed(99)
    states = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
    checkpoint.load(states, checkpoint_id=folder / "checkpoint")
    set_state_dict(model, optimizer, model_state_dict=states["model"], optim_state_dict=states["optimizer"])
    fsdp_steps(model, optimizer, range(STEPS // 2, STEPS))
    return seen(optimizer)


def zero_redundancy() -> dict[str, Tensor]:
    """Each rank's optimizer has some of the parameters: what `find_ivon` says."""
    model = task.model()
    wrapper = ZeroRedundancyOptimizer(model.parameters(), IVON, lr=0.1, ess=10.0)
    try:
        find_ivon(wrapper)
    except ValueError as error:
        return {"refused": torch.tensor("ZeroRedundancyOptimizer" in str(error))}
    return {"refused": torch.tensor(False)}


def main(rank: int, world_size: int, folder: Path) -> None:
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=60),  # for a rank whose partner has failed
    )
    torch.manual_seed(rank)
    runs: dict[str, Callable[[], dict[str, Tensor]]] = {
        "ddp": ddp,
        "ddp, gradients as views of buckets": lambda: ddp(gradient_as_bucket_view=True, bucket_cap_mb=0.0001),
        "ddp, static graph": lambda: ddp(static_graph=True),
        "ddp, micro-batches": lambda: micro_batches(*distributed()),
        "ddp, micro-batches, clipped": lambda: micro_batches(*distributed(), max_norm=MAX_NORM),
        "ddp, no_sync": lambda: ddp_no_sync(own_draws=False),
        "ddp, no_sync and draws of their own": lambda: ddp_no_sync(own_draws=True),
        "ddp, no_sync, clipped": lambda: clipped_no_sync(sync_last=True),
        "ddp, never synchronised, clipped": lambda: clipped_no_sync(sync_last=False),
        "own draw per rank": lambda: own_draw_per_rank(with_ddp=False),
        "own draw per rank, ddp": lambda: own_draw_per_rank(with_ddp=True),
        "zero": zero_redundancy,
        "fsdp": fsdp,
        "fsdp, not resharded": lambda: fsdp(reshard_after_forward=False),
        "fsdp, one group": fsdp_only_root,
        "fsdp, accumulation": fsdp_accumulation,
        "fsdp, micro-batches": lambda: micro_batches(*sharded()),
        "fsdp, micro-batches, clipped": lambda: micro_batches(*sharded(), max_norm=MAX_NORM),
        "fsdp, unreduced draw": fsdp_unreduced_draw,
        "fsdp, evaluation": fsdp_evaluation,
        "fsdp, evaluation, given generator": lambda: fsdp_evaluation(with_generator=True),
        "fsdp, evaluation, resharded by hand": lambda: fsdp_evaluation(reshard_after_forward=False),
        "fsdp, checkpoint": lambda: fsdp_checkpoint(folder),
        "fsdp, own draw per rank": fsdp_own_draw_per_rank,
    }
    results: dict[str, Any] = {}
    for name, run in runs.items():
        try:
            results[name] = run()
        except Exception:
            results[name] = traceback.format_exc()  # the other runs may go on
        torch.save(results, folder / f"rank{rank}.pt")  # each time: the next may end the process
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
