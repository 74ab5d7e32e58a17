"""SIGTERM ends every command in order, with the exit status of a process that it has killed."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from experiments import run
from experiments.__main__ import main

ROOT = Path(__file__).parents[2]
TERMINATED = 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("stopped_by", "status"),
    [(signal.SIGTERM, TERMINATED), (signal.SIGINT, 130), (None, TERMINATED)],  # None: a worker was asked
)
def test_a_stopped_run_tells_by_which_signal(stopped_by, status, monkeypatch, tmp_path, capsys):
    class Launcher:
        def __init__(self, *_: object) -> None:
            self.failed: dict[str, str] = {}
            self.stopped_by = stopped_by

        def run(self, _: object) -> bool:
            return False

    monkeypatch.setattr(run, "Launcher", Launcher)
    assert main(["run", "fig1c", "--scale", "demo", "--runs", str(tmp_path), "--device", "cpu"]) == status
    assert "the same command continues where it stopped" in capsys.readouterr().err


def ended(code: str, module: str, *arguments: object) -> subprocess.CompletedProcess:
    """What becomes of `python -m module` after this code, in which it says `terminate()`."""
    start = f"""
import os, runpy, signal, sys, time, types
def terminate(*_, **__):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(20)
    finally:
        print("cleared up", flush=True)
{code}
sys.argv = {[module, *map(str, arguments)]!r}
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
"""
    return subprocess.run([sys.executable, "-c", start], cwd=ROOT, capture_output=True, text=True)


def test_any_command_clears_up(tmp_path):
    """As a download that is to leave nothing half-done."""
    code = "sys.modules['experiments.commands'] = types.SimpleNamespace(dispatch=terminate)"
    answer = ended(code, "experiments", "plan", "fig1c")
    assert (answer.returncode, answer.stdout, answer.stderr) == (TERMINATED, "cleared up\n", "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start it")
def test_the_one_machine_slurm_takes_back_what_it_changes_for_a_while(tmp_path):
    """A file that forbids services to start, while packages are installed."""
    place = tempfile.mkdtemp(prefix="ivon-", dir="/tmp")  # with a short path, as those of sockets must be
    code = f"""
from pathlib import Path
from slurm.one_machine import host, packages
packages.POLICY, host.LOCK = Path({str(tmp_path / "policy")!r}), Path({str(tmp_path / "lock")!r})
packages.shutil.which = lambda program, path=None: "/usr/bin/apt-get" if program == "apt-get" else None
packages.subprocess.call = lambda *_, **__: print(packages.POLICY.exists()) or terminate()
"""
    try:
        answer = ended(code, "slurm.one_machine", "start", "--directory", place)
    finally:
        shutil.rmtree(place)
    assert answer.returncode == TERMINATED
    assert answer.stdout == "True\ncleared up\n" and answer.stderr == ""
    assert not (tmp_path / "policy").exists()
