"""The programs of SLURM from the distribution's packages, installed where they are missing."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from experiments.errors import RunError, UserError

PROGRAMS = {"munged": "munge", "slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client"}
ACCOUNTING = {"mariadbd": "mariadb-server-core", "slurmdbd": "slurmdbd"}
# Debian asks this program before it starts a package's service; 101 means no.
POLICY = Path("/usr/sbin/policy-rc.d")


def search_path() -> str:
    """PATH with the directories of daemons, which a user's shell may lack."""
    return os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"


def install(accounting: bool, log: Path) -> None:
    """Install what is missing; costs nothing when nothing is. What apt says goes to `log`.

    Raises UserError when this user or this machine cannot install packages, RunError when apt fails.
    """
    wanted = PROGRAMS | (ACCOUNTING if accounting else {})
    missing = {program for program in wanted if not shutil.which(program, path=search_path())}
    if not missing:
        return
    names = ", ".join(sorted(missing))
    if os.geteuid() != 0:
        raise UserError(f"one-machine SLURM: {names} not installed, and only root can install them")
    if not shutil.which("apt-get"):
        raise UserError(
            f"one-machine SLURM: {names} not installed, and there is no apt-get to install them with"
        )
    packages = sorted(wanted[program] for program in missing)
    fetch = ["install", "--no-install-recommends", *packages]
    with _no_service_starts():
        # The lists are asked for only when they are too old: that takes longer than the rest.
        if not (_apt(fetch, log) or (_apt(["update"], log) and _apt(fetch, log))):
            raise RunError(f"one-machine SLURM: apt-get cannot install {' '.join(packages)}: see {log}")


def _apt(arguments: list[str], log: Path) -> bool:
    command = ["apt-get", "-y", "-o", "DPkg::Lock::Timeout=300", *arguments]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with log.open("a") as out:
        return (
            subprocess.call(command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out) == 0
        )


@contextlib.contextmanager
def _no_service_starts() -> Iterator[None]:
    """The packages would start daemons with settings of their own, beside ours."""
    if POLICY.exists():  # an administrator's, or a container's, that says no already
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()
