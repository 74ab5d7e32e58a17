"""The networks of the image experiments, by name; torch is imported when one is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import nn


class Builder(Protocol):
    """Makes a freshly initialised network; `side` is the image side in pixels."""

    def __call__(self, num_classes: int, *, in_channels: int, width: int, side: int) -> nn.Module: ...


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """One network: its name, the name the tables print, and the channel count that scales all others."""

    name: str
    title: str
    default_width: int
    builder: Builder

    def build(
        self, num_classes: int, *, in_channels: int = 3, width: int | None = None, side: int = 32
    ) -> nn.Module:
        """The network, its weights drawn from torch's global generator; the paper's has the default width."""
        width = self.default_width if width is None else width
        return self.builder(num_classes, in_channels=in_channels, width=width, side=side)


def _resnet20(num_classes: int, *, in_channels: int, width: int, side: int) -> nn.Module:
    from experiments.models.resnet20 import ResNet20

    return ResNet20(num_classes, in_channels, width)


def _preresnet110(num_classes: int, *, in_channels: int, width: int, side: int) -> nn.Module:
    from experiments.models.preresnet110 import PreResNet110

    return PreResNet110(num_classes, in_channels, width)


def _resnet18(num_classes: int, *, in_channels: int, width: int, side: int) -> nn.Module:
    from experiments.models.resnet18 import ResNet18

    return ResNet18(num_classes, in_channels, width, side)


def _densenet121(num_classes: int, *, in_channels: int, width: int, side: int) -> nn.Module:
    from experiments.models.densenet121 import DenseNet121

    return DenseNet121(num_classes, in_channels, width, side)


def _resnet50(num_classes: int, *, in_channels: int, width: int, side: int) -> nn.Module:
    from experiments.models.resnet50 import ResNet50

    return ResNet50(num_classes, in_channels, width, side)


_ALL = (
    ModelInfo(name="resnet20", title="ResNet-20", default_width=16, builder=_resnet20),
    ModelInfo(name="preresnet110", title="PreResNet-110", default_width=24, builder=_preresnet110),
    ModelInfo(name="resnet18", title="ResNet-18", default_width=64, builder=_resnet18),
    ModelInfo(name="densenet121", title="DenseNet-121", default_width=12, builder=_densenet121),
    ModelInfo(name="resnet50", title="ResNet-50", default_width=64, builder=_resnet50),
)

MODELS: dict[str, ModelInfo] = {info.name: info for info in _ALL}
