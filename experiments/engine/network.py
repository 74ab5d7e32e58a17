"""From a specification to the network and the method that trains it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from baselines.method import Method
from experiments.data import DATASETS
from experiments.engine.distributed import Group
from experiments.engine.spec import TrainSpec
from experiments.errors import UserError
from experiments.models import MODELS

# Of one pass on a CPU. Beyond, malloc gives the activations back to the system each time, and a quarter to a
# third of the time goes to having their pages anew; far below, the passes are too short.
CPU_PIXELS = 1 << 16


@dataclass(frozen=True)
class Network:
    """A network, the method that owns its training, and its logits in the precision of the training."""

    model: nn.Module
    method: Method
    forward: Callable[[Tensor], Tensor]  # images (B, C, H, W) -> logits (B, classes)
    precision: Callable[[], AbstractContextManager[Any]]  # that of the training's steps

    def logits(self, images: Tensor) -> Tensor:
        """Those of a training step, as float32."""
        with self.precision():
            return self.forward(images).float()

    def evaluated(self, images: Tensor) -> Tensor:
        """The logits of any number of images, computed in fp32 as the released code does, however the network
        was trained: NLL and ECE of methods differ by less than bfloat16 rounds. On a CPU the images pass in
        pieces, for speed.
        """
        if images.device.type != "cpu":
            return self.forward(images)
        piece = max(CPU_PIXELS // images[0, 0].numel(), 8)
        return torch.cat([self.forward(part) for part in images.split(piece)])

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "method": self.method.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.method.load_state_dict(state["method"])


def compiled(forward: Callable[[Tensor], Tensor], *, backend: str = "inductor") -> Callable[[Tensor], Tensor]:
    """`forward` compiled, its hooks included.

    What is compiled belongs to the code, so networks of one class share it within a process. By default
    nothing looks whether they have the same hooks: one with masks (MC-dropout) would run as the one without
    that was there before. Options are of the whole process, as compilation waits for the first pass.
    """
    from torch._dynamo import config  # takes a second, which runs on a CPU do without

    if hasattr(config, "skip_nnmodule_hook_guards"):  # not of the public interface, so it may go
        config.skip_nnmodule_hook_guards = False
    config.recompile_limit = 64  # a data set and width take two; what is beyond would run as it is, unsaid
    return torch.compile(forward, backend=backend)


def build(spec: TrainSpec, group: Group, *, train_size: int) -> Network:
    """The freshly initialised network of `spec`; the same weights on every process and device."""
    data = DATASETS[spec.dataset]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)  # torch's initialisers know only the global stream
        model = MODELS[spec.model].build(
            data.num_classes, in_channels=data.channels, width=spec.width, side=data.side
        )
    model.to(group.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    method = spec.method.build(model, train_size=train_size, seed=spec.seed)

    forward: Callable[[Tensor], Tensor] = model
    if group.world > 1 and not method.reduces_gradients:
        if spec.method.double_backward:
            raise UserError(f"method {spec.method.name!r} runs on one device only")
        forward = DistributedDataParallel(model)
    if group.device.type == "cuda" and not spec.method.double_backward:
        # Fuses the elementwise passes; what it compiles cannot be differentiated twice.
        forward = compiled(forward)
    precision = partial(
        torch.autocast, group.device.type, dtype=torch.bfloat16, enabled=spec.precision == "bf16"
    )
    return Network(model, method, forward, precision)
