"""One daemon: start it, see whether it lives, stop it. And which processes on the machine are the cluster's.

A process is ours only if its environment says so. A pid file alone proves nothing: after a crash it stays
behind, and its number may by now belong to somebody else's process.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from experiments.errors import RunError
from slurm.one_machine.packages import search_path

MARK = "IVON_ONE_MACHINE"


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait for `condition`, at most so long. Whether it came true."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@dataclass(frozen=True, kw_only=True)
class Daemon:
    """A program that puts itself in the background and writes its pid to `<name>.pid` in the directory."""

    name: str
    directory: Path
    command: list[str]
    answers: Callable[[], bool]  # whether it does its work, asked after it lives
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def pid(self) -> int | None:
        """The process that runs it, or None."""
        try:
            pid = int((self.directory / f"{self.name}.pid").read_text())
        except (FileNotFoundError, ValueError):  # a file just created is empty
            return None
        return pid if _environment(pid).get(MARK) == self._mark else None

    @property
    def _mark(self) -> str:
        return f"{self.directory}/{self.name}"

    def start(self, seconds: float = 30) -> None:
        """Start it unless it runs, and wait until it answers. RunError if it does not within `seconds`."""
        if not self.pid:
            self._launch()
        if not until(lambda: self.pid is not None, seconds):
            raise self._failure("does not come up")
        if not until(lambda: self.pid is None or self.answers(), seconds):
            raise self._failure("does not answer")
        if not self.pid:
            raise self._failure("does not stay up")

    def _launch(self) -> None:
        (self.directory / f"{self.name}.pid").unlink(missing_ok=True)
        # Nothing of the caller's environment: it may itself be the job of another cluster.
        environment = {"PATH": search_path(), "LANG": "C.UTF-8", MARK: self._mark, **self.environment}
        with (self.directory / "log" / f"{self.name}.out").open("ab") as out:
            status = subprocess.call(
                self.command, env=environment, cwd="/", stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        if status != 0:
            raise self._failure(f"does not start (status {status})")

    def _failure(self, what: str) -> RunError:
        return RunError(f"one-machine SLURM: {self.name} {what}: see {self.directory}/log/{self.name}.*")

    def stop(self, seconds: float = 15) -> None:
        """End it in order; by force if that takes longer than `seconds`."""
        if pid := self.pid:
            os.kill(pid, signal.SIGTERM)
            if not until(lambda: self.pid is None, seconds):
                self.kill()

    def kill(self) -> None:
        """End it as a crash would: at once, with its pid file and sockets left behind."""
        if pid := self.pid:
            os.kill(pid, signal.SIGKILL)
            until(lambda: self.pid is None, 5)


def marked_processes(directory: Path) -> list[int]:
    """Every process of the cluster in this directory: its daemons, the steps they started, the steps' tasks.

    Steps outlive their slurmd, and tasks their step. A task has the environment that SLURM gives to jobs, in
    which SLURM_CONF tells the cluster. A step overwrites its environment with a title of its own; it is known
    by the log it writes, which is its node's.
    """
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if _belongs(pid, directory)]


def _belongs(pid: int, directory: Path) -> bool:
    environment = _environment(pid)
    if environment.get(MARK, "").startswith(f"{directory}/"):
        return True
    if environment.get("SLURM_CONF") == f"{directory}/slurm.conf" and "SLURM_JOB_ID" in environment:
        return pid != os.getpid()
    try:
        process = Path(f"/proc/{pid}")
        return "slurmstepd" in (process / "exe").readlink().name and any(
            str(file.readlink()).startswith(f"{directory}/log/slurmd.") for file in (process / "fd").iterdir()
        )
    except OSError:  # it ended just now, or is a kernel thread
        return False


def _environment(pid: int) -> dict[str, str]:
    """The environment a process was started with; empty if it is gone, or dead and not yet waited for."""
    try:
        text = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return {}
    return dict(entry.split("=", 1) for entry in text.split("\0") if "=" in entry)
