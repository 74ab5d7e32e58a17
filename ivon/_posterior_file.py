"""Named tensors in a file: safetensors if it is called so, else PyTorch's format without arbitrary code."""

import os
import uuid
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor


def write(tensors: dict[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Write all tensors or, if something goes wrong, leave what was at `path` as it was."""
    path = Path(path)
    tensors = {name: _own_storage(tensor) for name, tensor in tensors.items()}
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        if path.suffix == ".safetensors":
            _safetensors().save_file(tensors, temporary, metadata={"format": "pt"})
        else:
            torch.save(tensors, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a file, on the CPU. Raises ValueError if it holds anything else."""
    path = Path(path)
    if path.suffix == ".safetensors":
        module = _safetensors()
        from safetensors import SafetensorError

        try:
            return module.load_file(path)
        except SafetensorError as error:
            raise ValueError("it is not a safetensors file") from error
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # of any kind: bytes of something else are read as if they were pickled
        raise ValueError("torch.load(weights_only=True) cannot read it") from error
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise ValueError("it does not hold named tensors")
    return tensors


def _safetensors() -> ModuleType:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError(
            "files named *.safetensors need the package safetensors (pip install safetensors); "
            "files of any other name do not"
        ) from error
    return safetensors.torch


def _own_storage(tensor: Tensor) -> Tensor:
    """On the CPU, contiguous, and alone in its memory, all of which would be written."""
    tensor = tensor.detach().cpu()
    if tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes:
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)
