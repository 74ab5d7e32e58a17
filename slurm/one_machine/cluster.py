"""The whole cluster: started, repaired after a crash, stopped."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
from dataclasses import asdict
from pathlib import Path

from experiments.engine.ownership import own_folder
from experiments.errors import RunError, UserError
from slurm.one_machine import host, packages
from slurm.one_machine.configuration import Settings, configuration_files
from slurm.one_machine.daemons import Daemon, marked_processes, until
from slurm.one_machine.members import ask, members


class OneMachine:
    """`OneMachine(Settings(directory=...)).start()`; a second call starts only what does not run."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.directory = settings.directory
        self.daemons = members(settings)

    @classmethod
    def saved(cls, directory: Path) -> "OneMachine | None":
        """The one that was started in this directory and not stopped since, or None.

        UserError if the directory may be another user's work: its configuration names programs to run.
        """
        if not (directory / "settings.json").exists():
            return None
        _own(directory)
        try:
            values = json.loads((directory / "settings.json").read_text())
            return cls(Settings(directory=directory, **values))
        except FileNotFoundError:  # it is stopped at this moment
            return None
        except (ValueError, TypeError):
            raise UserError(f"one-machine SLURM: {directory}/settings.json is damaged: remove it") from None

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs in its environment to talk to this cluster."""
        return {"SLURM_CONF": str(self.settings.slurm_conf)}

    @property
    def runs(self) -> bool:
        """Whether all daemons live."""
        return all(daemon.pid for daemon in self.daemons)

    def processes(self) -> list[int]:
        """All processes of this cluster that live: daemons, steps, tasks."""
        return marked_processes(self.directory)

    def ask(self, *command: str) -> str:
        """What a program of SLURM prints: `ask("squeue", "-h")`. CalledProcessError if it fails."""
        return ask(self.settings, *command)

    def start(self) -> None:
        """Install what is missing and start what does not run. Jobs go on through a crash of the daemons.

        Raises UserError where that cannot be done at all, RunError where it fails, with the path of a log.
        """
        _need_root()
        with host.one_at_a_time():
            _own(self.directory)
            if self._leavings() and not OneMachine.saved(self.directory):  # stop would delete them
                raise UserError(f"one-machine SLURM: {self.directory} holds files that are not its own")
            log = _own(self.directory / "log")
            packages.install(self.settings.accounting, log / "apt.log")
            self._configure()
            host.add_names(self.settings.node_names, self.directory)
            host.add_link(self.settings.slurm_conf)
            for daemon in self.daemons:
                daemon.start()

    def stop(self) -> None:
        """Cancel the jobs, end every process of the cluster, undo its changes. Only the logs stay."""
        _need_root()
        with host.one_at_a_time():
            if self._named("slurmctld").pid:
                # If it does not answer, or a job does not end: the processes are killed all the same.
                with contextlib.suppress(subprocess.SubprocessError, RunError):
                    self.cancel_jobs()
            for daemon in reversed(self.daemons):
                daemon.stop()
            if not until(self._no_processes, 15):
                raise RunError(f"one-machine SLURM: processes do not die: {self.processes()}")
            host.remove_names(self.directory)
            host.remove_link(self.settings.slurm_conf)
            for entry in self._leavings():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def cancel_jobs(self) -> None:
        """Cancel all jobs, and wait until they have ended."""
        # Over and over, for a job may requeue itself as it is cancelled. KillWait is 5 s.
        if not until(self._no_jobs, 20):
            raise RunError(f"one-machine SLURM: jobs do not end: see {self.directory}/log")

    def kill(self, name: str) -> None:
        """Let a daemon crash (kill -9)."""
        self._named(name).kill()

    def restart(self, name: str) -> None:
        """Let a daemon crash, unless it has already, and start it again."""
        daemon = self._named(name)
        with host.one_at_a_time():
            daemon.kill()
            daemon.start()

    def _named(self, name: str) -> Daemon:
        for daemon in self.daemons:
            if daemon.name == name:
                return daemon
        raise ValueError(f"daemon = {name!r}: there are {', '.join(each.name for each in self.daemons)}")

    def _configure(self) -> None:
        """Write the configuration, unless some process still lives by the one that is there."""
        before = OneMachine.saved(self.directory)
        if before and self.processes():
            if before.settings != self.settings:
                raise UserError(
                    f"one-machine SLURM: {self.directory} runs one with other settings: stop it first"
                )
            return
        values = {name: value for name, value in asdict(self.settings).items() if name != "directory"}
        (self.directory / "settings.json").write_text(json.dumps(values))
        for name in ("state", *(f"spool/{node}" for node in self.settings.node_names)):
            _own(self.directory / name)
        # For root alone: whoever reaches the socket of this database writes files as root.
        _own(self.directory / "db").chmod(0o700)
        files = configuration_files(self.settings, host.free_ports(self.settings.ports))
        for name, text in files.items():
            path = self.directory / name
            path.touch(mode=0o600 if name == "slurmdbd.conf" else 0o644)  # slurmdbd wants it to be its own
            path.write_text(text)
        key = self.directory / "munge.key"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_bytes(os.urandom(1024))

    def _leavings(self) -> list[Path]:
        """What the cluster keeps in its directory while it runs, beside the logs."""
        names = ("state", "spool", "db", "munge*", "*.pid", "*.conf", "settings.json")
        return [entry for name in names for entry in self.directory.glob(name)]

    def _no_jobs(self) -> bool:
        if jobs := set(self.ask("squeue", "-h", "-o", "%A").split()):
            self.ask("scancel", *jobs)
        return not jobs

    def _no_processes(self) -> bool:
        remaining = self.processes()
        for pid in remaining:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not remaining


def _own(directory: Path) -> Path:
    """The directory, made if need be; UserError unless it is where it seems to be, root's or the caller's
    alone, and all in it too. What lies there is run and written by root.
    """
    try:
        found = own_folder(directory, mode=0o755)  # other users may submit jobs
        foreign = [entry for entry in found.iterdir() if _is_foreign(entry)]
    except OSError as error:
        raise UserError(f"one-machine SLURM: {directory} cannot be used: {error}") from None
    if found != directory:
        raise UserError(f"one-machine SLURM: {directory} leads to {found}: name that")
    if foreign:  # from when others could write to the directory
        raise UserError(f"one-machine SLURM: {foreign[0]} is a link or belongs to another user: remove it")
    return found


def _is_foreign(entry: Path) -> bool:
    return entry.is_symlink() or entry.lstat().st_uid not in (0, os.geteuid())


def _need_root() -> None:
    if os.geteuid() != 0:
        raise UserError("one-machine SLURM: only root can start and stop it")
