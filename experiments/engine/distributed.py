"""The processes that share one run: one on a laptop, one per GPU under torchrun."""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """This process among the `world` processes of one run."""

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """The one process that writes checkpoints, logs and the record."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """Sum over all processes, on every process."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def agree(self, flag: bool) -> bool:
        """The leading process's `flag`, on every process: decisions that hang on a clock or a signal."""
        return bool(self.told(int(flag)))

    def told(self, number: int) -> int:
        """The leading process's `number`, on every process."""
        if self.world == 1:
            return number
        message = torch.tensor([number], device=self.device)
        dist.broadcast(message, src=0)
        return int(message.item())

    def wait(self) -> None:
        """Until the device has done what it was given; before a clock is read."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def single(device: torch.device) -> Group:
    return Group(rank=0, world=1, device=device)


def join(device_type: str) -> Group:
    """The group that torchrun set up in the environment: NCCL on GPUs ("cuda"), gloo on CPUs ("cpu")."""
    rank, world, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if device_type == "cuda":
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device)
    else:
        device = torch.device("cpu")
        dist.init_process_group("gloo")
    return Group(rank=rank, world=world, device=device)
