"""One of the processes of test_with_processes.py: trains in a gloo group and writes down what it saw.

python ranks.py RANK WORLD_SIZE FOLDER
"""

import math
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from conftest import STEPS, Batch, Task
from torch import Tensor, nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    FullyShardedDataParallel,
    ShardingStrategy,
    StateDictType,
    fully_shard,
)
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from torch.nn.parallel import DistributedDataParallel

from ivon import IVON, Posterior
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


def flattened(*, orig: bool, **options: Any) -> tuple[FullyShardedDataParallel, IVON]:
    """FSDP1: the parameters of each layer in one flat one, or views of it that may be empty."""
    options |= {"use_orig_params": orig, "device_id": torch.device("cpu")}
    model = task.model()
    for layer in (0, 2):
        model[layer] = FullyShardedDataParallel(model[layer], **options)
    model = FullyShardedDataParallel(model, **options)
    return model, task.optimizer(model)


def seen_flat(optimizer: IVON, *, orig: bool, shards: int | None = None, **more: Tensor) -> dict[str, Tensor]:
    """The posterior, flattened, from the `shards` ranks that have it together; all by default."""
    params = optimizer.param_groups[0]["params"]
    modules = (
        [[p] for p in task.model().parameters()]
        if orig
        else [(m := task.model())[0].parameters(), m[2].parameters()]
    )
    sizes = [sum(p.numel() for p in own) for own in modules]
    found = {"mean": params} | {
        name: [optimizer.state[param][name] for param in params] for name in ("hess", "momentum")
    }
    everywhere: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(
        everywhere, {name: [t.detach().reshape(-1) for t in found[name]] for name in found}
    )
    shards = shards or dist.get_world_size()
    first = dist.get_rank() // shards * shards
    pieces = everywhere[first : first + shards]
    return {
        name: torch.cat([torch.cat([p[name][i] for p in pieces])[:size] for i, size in enumerate(sizes)])
        for name in found
    } | more


def clip(model: nn.Module, copies: int) -> None:
    """As FSDP1's clip_grad_norm_(1.0), which cannot do float64."""
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    square = torch.stack([grad.square().sum() for grad in grads] + [torch.zeros(())]).sum() / copies
    dist.all_reduce(square)
    for grad in grads:
        grad /= max(1.0, float(square.sqrt()) + 1e-6)


def fsdp1_steps(model: FullyShardedDataParallel, optimizer: IVON, steps: range, copies: int = 1) -> None:
    for k in steps:
        with optimizer.sampled_params(train=True):
            task.loss(model, part(k)).backward()
        clip(model, copies)
        optimizer.step()


def fsdp1(*, orig: bool, shards: int | None = None, **options: Any) -> dict[str, Tensor]:
    model, optimizer = flattened(orig=orig, **options)
    fsdp1_steps(model, optimizer, range(STEPS), copies=dist.get_world_size() // shards if shards else 1)
    return seen_flat(optimizer, orig=orig, shards=shards)


def hybrid(*, orig: bool) -> dict[str, Tensor]:
    """Two copies of the model, each of them in shards of which there are half as many as ranks."""
    shards = dist.get_world_size() // 2
    if shards == 1:
        return fsdp1(orig=orig, shards=1, sharding_strategy=ShardingStrategy.NO_SHARD)
    options = {
        "device_mesh": init_device_mesh("cpu", (2, shards)),
        "sharding_strategy": ShardingStrategy.HYBRID_SHARD,
    }
    return fsdp1(orig=orig, shards=shards, **options)


def fsdp1_micro_batches(*, orig: bool) -> dict[str, Tensor]:
    model, optimizer = flattened(orig=orig)
    micro_batches(model, optimizer)
    return seen_flat(optimizer, orig=orig)


def fsdp1_accumulation(*, orig: bool) -> dict[str, Tensor]:
    """Gradients are reduced with the last micro-batch of the draw."""
    model, optimizer = flattened(orig=orig)
    for k in range(STEPS):
        with optimizer.sampled_params(train=True):
            with model.no_sync():
                (task.loss(model, part(k, 0)) / MICRO_BATCHES).backward()
            (task.loss(model, part(k, 1)) / MICRO_BATCHES).backward()
        optimizer.step()
    return seen_flat(optimizer, orig=orig)


def fsdp1_evaluation(*, orig: bool, **options: Any) -> dict[str, Tensor]:
    """FSDP1 keeps gathered weights after a forward pass alone: unless freed, those of the draw before."""
    model, optimizer = flattened(orig=orig, **options)
    fsdp1_steps(model, optimizer, range(3))
    logits = []
    for _ in range(TEST_DRAWS):
        with optimizer.sampled_params():
            logits.append(model(task.inputs).detach())
    with torch.no_grad():
        logits.append(model(task.inputs))
    fsdp1_steps(model, optimizer, range(3, STEPS))
    return seen_flat(optimizer, orig=orig, logits=torch.stack(logits))


def fsdp1_checkpoint(*, orig: bool) -> dict[str, Tensor]:
    """FSDP1's own states in shards, loaded into a new model, continued."""
    model, optimizer = flattened(orig=orig)
    fsdp1_steps(model, optimizer, range(STEPS // 2))
    resumed, other = flattened(orig=orig)
    other.seed(99)
    sharded_states = StateDictType.SHARDED_STATE_DICT
    api = FullyShardedDataParallel
    with api.state_dict_type(model, sharded_states), api.state_dict_type(resumed, sharded_states):
        resumed.load_state_dict(model.state_dict())
        state = api.optim_state_dict(model, optimizer)
        other.load_state_dict(api.optim_state_dict_to_load(resumed, other, state))
    fsdp1_steps(resumed, other, range(STEPS // 2, STEPS))
    return seen_flat(other, orig=orig)


def fsdp1_of_one_weight(*, orig: bool) -> dict[str, Tensor]:
    """All ranks but the first hold nothing."""
    module = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.ones_(module.weight)
    model = FullyShardedDataParallel(module, use_orig_params=orig, device_id=torch.device("cpu"))
    optimizer = task.optimizer(model)
    for _ in range(STEPS):
        with optimizer.sampled_params(train=True):
            model(torch.ones(2, 1, dtype=torch.float64)).square().mean().backward()
        optimizer.step()
    with FullyShardedDataParallel.summon_full_params(model):
        return {"mean": torch.cat([p.detach().reshape(-1) for p in model.parameters()])}


def fsdp1_refusals(*, orig: bool) -> dict[str, str]:
    """What cannot be done with FSDP1, and what is said of it."""
    model, optimizer = flattened(orig=orig)
    fsdp1_steps(model, optimizer, range(1))

    def without_reduction() -> None:
        with model.no_sync(), optimizer.sampled_params(train=True):
            task.loss(model, part(0)).backward()

    def own_draws() -> None:
        model, _ = flattened(orig=orig)
        with task.optimizer(model, sync=True).sampled_params(train=True):
            pass

    said = {}
    acts = {
        "posterior": lambda: Posterior.of(model, optimizer),
        "sync": own_draws,
        "no_sync": without_reduction,
    }
    for name, act in acts.items():
        try:
            act()
            said[name] = ""
        except (RuntimeError, ValueError) as error:
            said[name] = str(error)
    return said


def pipeline(*, named: bool) -> dict[str, Tensor]:
    """Two stages, each of them on every second rank."""
    stage, copies = dist.get_rank() % 2, dist.get_world_size() // 2
    mesh = init_device_mesh("cpu", (copies, 2), mesh_dim_names=("copy", "stage"))
    model = task.model()
    own = model[:2] if stage == 0 else model[2:]
    optimizer = task.optimizer(own, **({"part": stage} if named else {}))
    schedule = ScheduleGPipe(
        PipelineStage(own, stage, 2, torch.device("cpu"), group=mesh.get_group("stage")),
        n_microbatches=MICRO_BATCHES,
        loss_fn=nn.functional.cross_entropy,
    )
    noise = []
    for k in range(STEPS):
        mean = own[0].weight.detach().clone() if stage == 0 else model[2].weight.detach().clone()
        inputs, labels = (d.chunk(copies)[mesh.get_local_rank("copy")] for d in task.batch(k))
        with optimizer.sampled_params(train=True):
            noise.append(((own[0].weight - mean).detach())[:3, :6].clone())
            schedule.step(*([inputs] if stage == 0 else []), **({"target": labels} if stage == 1 else {}))
            for param in own.parameters():
                dist.all_reduce(param.grad, group=mesh.get_group("copy"))
                param.grad /= copies
        optimizer.step()
    everywhere: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everywhere, seen(optimizer, noise=torch.stack(noise)))
    copy = dist.get_rank() // 2 * 2
    return {name: torch.cat([e[name] for e in everywhere[copy : copy + 2]]) for name in everywhere[0]}


def averaged_by_ddp(*, accumulation: bool) -> dict[str, str]:
    """Draws of their own, but backward() averages the gradients; or does so with the last micro-batch."""
    model, optimizer = distributed()
    optimizer.sync = True
    try:
        for i in range(MICRO_BATCHES):
            with optimizer.sampled_params(train=True):
                if accumulation and i == 0:
                    with model.no_sync():
                        task.loss(model, part(0, i)).backward()
                else:
                    task.loss(model, part(0, i)).backward()
        optimizer.step()
    except RuntimeError as error:
        return {"said": str(error)}
    return {"said": ""}


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
    runs: dict[str, Callable[[], dict[str, Any]]] = {
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
        "pipeline": lambda: pipeline(named=False),
        "pipeline, named": lambda: pipeline(named=True),
        "averaged by ddp": lambda: averaged_by_ddp(accumulation=False),
        "averaged by ddp, accumulation": lambda: averaged_by_ddp(accumulation=True),
    }
    for orig in (True, False):
        runs |= {
            f"fsdp1 {orig}": partial(fsdp1, orig=orig),
            f"fsdp1 {orig}, SHARD_GRAD_OP": partial(
                fsdp1, orig=orig, sharding_strategy=ShardingStrategy.SHARD_GRAD_OP
            ),
            f"fsdp1 {orig}, copies": partial(hybrid, orig=orig),
            f"fsdp1 {orig}, micro-batches": partial(fsdp1_micro_batches, orig=orig),
            f"fsdp1 {orig}, accumulation": partial(fsdp1_accumulation, orig=orig),
            f"fsdp1 {orig}, evaluation": partial(fsdp1_evaluation, orig=orig),
            f"fsdp1 {orig}, evaluation, SHARD_GRAD_OP": partial(
                fsdp1_evaluation, orig=orig, sharding_strategy=ShardingStrategy.SHARD_GRAD_OP
            ),
            f"fsdp1 {orig}, checkpoint": partial(fsdp1_checkpoint, orig=orig),
            f"fsdp1 {orig}, one weight": partial(fsdp1_of_one_weight, orig=orig),
            f"fsdp1 {orig}, refusals": partial(fsdp1_refusals, orig=orig),
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
