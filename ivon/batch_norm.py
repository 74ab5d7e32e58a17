"""Statistics of batch normalisation for the weights that make predictions."""

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # BatchNorm1d, 2d, 3d and SyncBatchNorm

from ivon.wrappers import find_ivon


@torch.no_grad()
def refresh_batch_norm(
    model: nn.Module,
    batches: Iterable[Any],
    optimizer: Any = None,
    *,
    device: torch.device | str | None = None,
) -> None:
    """Replace the running statistics of all batch normalisation layers by averages over `batches`.

    Training gathers them at draws, and with a lag. Without `optimizer` (an IVON or what wraps one) they are
    gathered anew at the weights as they are: for predictions at the mean or, within `sampled_params()`, for
    that very draw. With it every batch is seen by a draw of its own: for predictions by many draws that share
    their statistics. (The paper reports that IVON and batch normalisation do not go well together; its
    networks have filter response normalisation, which needs none of this.)

    A batch is a tensor, a tuple or list that begins with one, or a mapping of keyword arguments; its tensors
    are moved to `device` if that is given. All batches count alike, whatever their sizes. Other layers are in
    evaluation mode meanwhile, so dropout is off. Modes and momenta are restored, after an exception the
    statistics, too. If no layer has such statistics, no batch is read.

    Example: `refresh_batch_norm(model, train_loader)`, and then
    `predict(model, inputs, n_samples=0, posterior=optimizer)`.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not layers:
        return
    ivon = None if optimizer is None else find_ivon(optimizer)
    before = [{name: buffer.clone() for name, buffer in layer.named_buffers()} for layer in layers]
    modes = [(module, module.training) for module in model.modules()]
    momenta = [layer.momentum for layer in layers]
    try:
        for module, _ in modes:
            module.training = False
        for layer in layers:
            layer.training, layer.momentum = True, None  # None: the average of all batches
            layer.reset_running_stats()
        empty = True
        for batch in batches:
            with nullcontext() if ivon is None else ivon.sampled_params():
                _forward(model, batch, device)
            empty = False
        if empty:
            raise ValueError("batches must have at least one batch, got none")
    except BaseException:
        for layer, buffers in zip(layers, before, strict=True):
            for name, buffer in layer.named_buffers():
                buffer.copy_(buffers[name])
        raise
    finally:
        for module, mode in modes:
            module.training = mode
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


def _forward(model: nn.Module, batch: Any, device: torch.device | str | None) -> None:
    if isinstance(batch, Mapping):
        model(**{name: _moved(value, device) for name, value in batch.items()})
    else:
        model(_moved(batch[0] if isinstance(batch, list | tuple) else batch, device))


def _moved(value: Any, device: torch.device | str | None) -> Any:
    return value.to(device) if device is not None and isinstance(value, Tensor) else value
