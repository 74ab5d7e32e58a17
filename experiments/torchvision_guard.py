"""The one way to torchvision that also works beside a build of PyTorch without CUDA.

torchvision's wheels on PyPI are built against the CUDA build of PyTorch. Beside a CPU build their compiled
operators cannot be loaded, and `import torchvision` stops where it describes the shapes of operators nobody
has declared (pytorch/vision #9085). Its Python parts, transforms and data sets, need none of them. So when,
and only when, that import has failed, the missing operators are declared, without an implementation, and the
import is tried again.

transformers' models, timm, torchmetrics and laplace import torchvision themselves: call this before them.
"""

import importlib
import sys
from types import ModuleType

import torch

# torchvision describes these two at import: nms always, qnms since 0.28.
UNLOADED_OPERATORS = ("nms", "qnms")
SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

_declarations: list[torch.library.Library] = []  # a declaration ends with the object that made it


def import_torchvision(name: str = "torchvision") -> ModuleType:
    """torchvision or the module of it that is named, say `torchvision.transforms.v2`; without its compiled
    operators where they do not fit this PyTorch."""
    try:
        return importlib.import_module(name)
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    _forget_half_imported()
    _declare_operators()
    return importlib.import_module(name)


def _forget_half_imported() -> None:
    """Drop the submodules that the failed import left behind: they would not be run again."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]


def _declare_operators() -> None:
    """Declare what could not be loaded. An operator declared twice, here and by the compiled library, ends
    the process; hence never before the import has failed."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in UNLOADED_OPERATORS:
        if not hasattr(torch.ops.torchvision, name):
            library.define(name + SCHEMA)
    _declarations.append(library)
