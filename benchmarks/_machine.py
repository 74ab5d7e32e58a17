"""Where numbers were measured, and how much memory there is to measure in."""

import os
import platform
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from experiments.engine.machine import machine_facts


def facts(device: torch.device) -> dict[str, Any]:
    """Device, cores, system, versions of Python and PyTorch, commit and date."""
    known = machine_facts(device)
    return {
        "device": known["device"],
        "cores": cores(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "versions": {"python": known["versions"]["python"], "torch": torch.__version__},
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "commit": known["git"],
        "date": datetime.now(UTC).date().isoformat(),
    }


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def file_name(machine: dict[str, Any]) -> str:
    """A name for files about this machine, such as `intel-xeon-2.80ghz-2-cores` or `nvidia-h200`."""
    device = machine["device"]
    name = re.sub(r"^CPU, |\((R|TM|C)\)|\b(CPU|Processor)\b|@", " ", device, flags=re.IGNORECASE)
    words = re.findall(r"[a-z0-9.]+", name.lower())
    if device.startswith("CPU"):
        words += [str(machine["cores"]), "cores"]
    return "-".join(words)


def in_words(machine: dict[str, Any]) -> str:
    """One line for the head of a table."""
    versions = machine["versions"]
    return (
        f"{machine['device']}, {machine['cores']} cores ({machine['instructions']}), {machine['system']}, "
        f"Python {versions['python']}, torch {versions['torch']}, commit {machine['commit']}, "
        f"{machine['date']}"
    )


def free_bytes(device: torch.device) -> int:
    """Memory that a process may still take."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
