"""The daemons a cluster consists of: how each is started, and how one sees that it does its work."""

import os
import socket
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

from slurm.one_machine.configuration import Settings
from slurm.one_machine.daemons import Daemon

# Options that would change what a program prints, and the traces of a job of another cluster.
FOREIGN = ("SLURM_", "SBATCH_", "SQUEUE_", "SINFO_", "SCANCEL_", "SALLOC_", "SACCT_")


def client_environment(settings: Settings) -> dict[str, str]:
    """The caller's environment, changed so that the programs of SLURM talk to this cluster and no other."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return ours | {"SLURM_CONF": str(settings.slurm_conf)}


def ask(settings: Settings, *command: str) -> str:
    """What a program of SLURM prints. CalledProcessError if it fails."""
    environment = client_environment(settings)
    answer = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return answer.stdout


def members(settings: Settings) -> list[Daemon]:
    """In the order of their start: munged, [mariadbd, slurmdbd,] slurmctld, slurmd.node1, ...

    A slurmd that finds no slurmctld to register with waits for seconds before it tries again.
    """
    database = [_mariadbd(settings), _slurmdbd(settings)] if settings.accounting else []
    nodes = [_slurmd(settings, name) for name in settings.node_names]
    return [_munged(settings), *database, _slurmctld(settings), *nodes]


def _member(settings: Settings, name: str, command: list[str], answers: Callable[[], bool]) -> Daemon:
    environment = {"SLURM_CONF": str(settings.slurm_conf), "MYSQL_UNIX_PORT": str(_database_socket(settings))}
    return Daemon(
        name=name, directory=settings.directory, command=command, answers=answers, environment=environment
    )


def _munged(settings: Settings) -> Daemon:
    """It vouches for who sends a message. --force: although others may read the directories above."""
    home = settings.directory
    files = {
        "socket": settings.munge_socket,
        "key-file": home / "munge.key",
        "pid-file": home / "munged.pid",
        "log-file": home / "log/munged.log",
        "seed-file": home / "munge.seed",
    }
    command = ["munged", "--force", *(f"--{option}={path}" for option, path in files.items())]
    return _member(
        settings, "munged", command, partial(_connects, socket.AF_UNIX, str(settings.munge_socket))
    )


def _mariadbd(settings: Settings) -> Daemon:
    """The least database that slurmdbd takes: no users, no tables of its own, one socket in root's directory.

    It cannot go into the background by itself.
    """
    home, door = settings.directory, str(_database_socket(settings))
    command = ["setsid", "--fork", "mariadbd", "--no-defaults", "--user=root", "--skip-networking"]
    command += [
        "--skip-grant-tables",
        f"--datadir={home}/db",
        f"--socket={door}",
        f"--pid-file={home}/mariadbd.pid",
    ]
    command += ["--innodb-buffer-pool-size=16M", "--innodb-log-file-size=4M", "--performance-schema=OFF"]
    return _member(settings, "mariadbd", command, partial(_connects, socket.AF_UNIX, door))


def _slurmdbd(settings: Settings) -> Daemon:
    """It writes the accounts that sacct reads, and makes its tables at its first start."""

    def answers() -> bool:
        text = (settings.directory / "slurmdbd.conf").read_text()
        port = next(line.partition("=")[2] for line in text.splitlines() if line.startswith("DbdPort="))
        return _connects(socket.AF_INET, ("127.0.0.1", int(port)))

    return _member(settings, "slurmdbd", ["slurmdbd"], answers)


def _slurmctld(settings: Settings) -> Daemon:
    return _member(settings, "slurmctld", ["slurmctld"], partial(_succeeds, settings, "scontrol", "ping"))


def _slurmd(settings: Settings, node: str) -> Daemon:
    def answers() -> bool:
        try:
            state = ask(settings, "sinfo", "-h", "-N", "-p", "main", "-n", node, "-o", "%T").strip()
            if state.startswith(("down", "drain")):  # it was given up while its slurmd was away
                ask(settings, "scontrol", "update", f"nodename={node}", "state=resume")
        except subprocess.CalledProcessError:
            return False
        return state in {"idle", "mixed", "allocated", "completing"}  # an asterisk after it: does not answer

    return _member(settings, f"slurmd.{node}", ["slurmd", "-N", node], answers)


def _database_socket(settings: Settings) -> Path:
    return settings.directory / "db" / "socket"


def _connects(family: int, address: str | tuple[str, int]) -> bool:
    with socket.socket(family) as probe:
        return probe.connect_ex(address) == 0


def _succeeds(settings: Settings, *command: str) -> bool:
    try:
        ask(settings, *command)
    except subprocess.CalledProcessError:
        return False
    return True
