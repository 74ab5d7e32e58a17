"""The library's file on what is the user's own, without the library itself, which imports PyTorch."""

from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

_ivon = find_spec("ivon")
assert _ivon is not None and _ivon.origin is not None
_spec = spec_from_file_location("_ownership", Path(_ivon.origin).with_name("_ownership.py"))
assert _spec is not None and _spec.loader is not None
_module = module_from_spec(_spec)
_spec.loader.exec_module(_module)

Foreign, open_own, own_folder = _module.Foreign, _module.open_own, _module.own_folder
