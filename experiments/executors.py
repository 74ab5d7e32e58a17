"""Where runs are executed other than here. Rooms import one way, so a cluster's is looked up by its name."""

from importlib import import_module
from typing import Any

EXECUTORS = {
    "slurm": "slurm.launcher"
}  # beside "local": module with check, run, plan, cancel, logs, Whereabouts


def executor(name: str) -> Any:
    return import_module(EXECUTORS[name])
