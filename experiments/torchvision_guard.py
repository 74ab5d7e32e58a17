"""The one way to torchvision that also works beside a build of PyTorch without CUDA.

torchvision's wheels on PyPI are built against the CUDA build of PyTorch. Beside a CPU build their compiled
operators cannot be loaded, and `import torchvision` stops where it describes the shapes of operators nobody
has declared (pytorch/vision #9085). Its Python parts, transforms and data sets, need none of them. So when,
and only when, that import fails, the missing operators are declared, without an implementation, and
torchvision is run again.

transformers' models, timm, torchmetrics and laplace import torchvision themselves: call `watch` before them.
Where it is needed, scripts/make_venv.py puts a copy of this file into .venv that is called when Python
starts, so there everybody's imports work. Hence nothing of this project is imported here, and PyTorch late.
"""

import importlib
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

# torchvision describes these two at import: nms always, qnms since 0.28.
UNLOADED_OPERATORS = ("nms", "qnms")
SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

_declarations: list[Any] = []  # a declaration ends with the object that made it


def import_torchvision(name: str = "torchvision") -> ModuleType:
    """torchvision or the module of it that is named, say `torchvision.transforms.v2`; without its compiled
    operators where they do not fit this PyTorch."""
    watch()
    return importlib.import_module(name)


def watch() -> None:
    """Guard every import of torchvision in this process, whoever asks for it."""
    if not any(type(finder).__name__ == Finder.__name__ for finder in sys.meta_path):  # of a copy, too
        sys.meta_path.insert(0, Finder())


class Finder:
    """Finds torchvision where Python would, and has it run under guard."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == "torchvision" else None
        if spec is not None and spec.loader is not None:
            spec.loader = Guarded(spec.loader)  # type: ignore[assignment]
        return spec


class Guarded:
    """Runs torchvision once, and a second time if only its operators were missing."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        _forget_submodules()  # of an import that failed before anybody was on guard
        try:
            self._loader.exec_module(module)
        except RuntimeError as error:
            if "operator torchvision::" not in str(error):
                raise
            _forget_submodules()
            _declare_operators()
            self._loader.exec_module(module)


def _forget_submodules() -> None:
    """Drop what a failed import has left behind: it would not be run again."""
    for name in [name for name in sys.modules if name.startswith("torchvision.")]:
        del sys.modules[name]


def _declare_operators() -> None:
    """Declare what could not be loaded. An operator declared twice, here and by the compiled library, ends
    the process; hence never before the import has failed."""
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in UNLOADED_OPERATORS:
        if not hasattr(torch.ops.torchvision, name):
            library.define(name + SCHEMA)
    _declarations.append(library)
