"""The parts of the one-machine SLURM: settings, configuration files, marked processes, the host's files."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.errors import UserError
from slurm.one_machine import OneMachine, Settings, host, packages
from slurm.one_machine.configuration import configuration_files
from slurm.one_machine.daemons import MARK, Daemon, marked_processes, until

HOME = Path("/tmp/a-cluster")


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """Somebody else's process."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


@pytest.mark.parametrize(
    ("changed", "allowed"),
    [
        ({"directory": Path("relative")}, "absolute path"),
        ({"directory": Path("/tmp/with space")}, "absolute path"),
        ({"directory": Path("/tmp/" + 60 * "x")}, "at most 60"),
        ({"nodes": 0}, "1 to 20"),
        ({"gpus": 6}, "0 to 5"),
    ],
)
def test_settings_say_what_is_allowed(changed: dict[str, Path | int], allowed: str) -> None:
    with pytest.raises(UserError, match=f"{next(iter(changed))} = .*{allowed}"):
        Settings(**({"directory": HOME} | changed))  # type: ignore[arg-type]


def test_every_daemon_has_a_port_of_its_own() -> None:
    settings = Settings(directory=HOME, nodes=3, accounting=True)
    files = configuration_files(settings, first_port=100)
    ports = re.findall(r"Port=(\d+)", files["slurm.conf"])
    # slurmctld's, three slurmd's, and slurmdbd's, which slurm.conf and slurmdbd.conf must agree on
    assert sorted(map(int, ports)) == list(range(100, 100 + settings.ports))
    (database,) = re.findall(r"AccountingStoragePort=(\d+)", files["slurm.conf"])
    assert f"\nDbdPort={database}\n" in files["slurmdbd.conf"]


def test_free_ports_avoid_those_in_use() -> None:
    first = host.free_ports(3)
    with host.socket.create_server(("127.0.0.1", first + 1)):
        assert host.free_ports(3, first) >= first + 2


def test_a_stale_pid_file_harms_nobody(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    (tmp_path / "munged.pid").write_text(f"{sleeper.pid}\n")
    daemon = Daemon(name="munged", directory=tmp_path, command=["true"], answers=lambda: True)
    assert daemon.pid is None
    daemon.stop()
    daemon.kill()
    assert sleeper.poll() is None


def test_only_processes_with_the_mark_are_the_clusters(tmp_path: Path) -> None:
    conf = {"SLURM_CONF": f"{tmp_path}/slurm.conf"}
    environments = {
        "daemon": {MARK: f"{tmp_path}/munged"},
        "task": conf | {"SLURM_JOB_ID": "1"},
        "client": conf,
        "other cluster's daemon": {MARK: f"{tmp_path}2/munged"},
        "other cluster's task": {"SLURM_CONF": f"{tmp_path}2/slurm.conf", "SLURM_JOB_ID": "1"},
    }
    processes = {
        name: subprocess.Popen(["sleep", "60"], env={"PATH": os.environ["PATH"], **environment})
        for name, environment in environments.items()
    }
    try:
        assert set(marked_processes(tmp_path)) == {processes["daemon"].pid, processes["task"].pid}
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def test_a_dead_daemon_not_yet_waited_for_does_not_live(tmp_path: Path) -> None:
    daemon = Daemon(name="munged", directory=tmp_path, command=["true"], answers=lambda: True)
    with subprocess.Popen(
        ["sleep", "60"], env={"PATH": os.environ["PATH"], MARK: f"{tmp_path}/munged"}
    ) as process:
        (tmp_path / "munged.pid").write_text(str(process.pid))
        assert until(lambda: daemon.pid == process.pid, 10)
        process.send_signal(signal.SIGKILL)
        assert until(lambda: daemon.pid is None, 10)
        assert process.returncode is None


def test_the_names_of_two_clusters_come_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "HOSTS", tmp_path / "hosts")
    before = "127.0.0.1 localhost\n10.0.0.5 here"  # without an end of line, as an editor may leave it
    host.HOSTS.write_text(before)
    for _ in range(2):
        host.add_names(["node1"], Path("/a"))
        host.add_names(["node1", "node2"], Path("/ab"))
    lines = host.HOSTS.read_text().splitlines()
    assert len(lines) == 4
    assert lines[0].split()[:4] == ["127.0.0.1", host.socket.gethostname(), "node1", "node2"]
    host.remove_names(Path("/a"))
    assert len(host.HOSTS.read_text().splitlines()) == 3
    host.remove_names(Path("/ab"))
    assert host.HOSTS.read_text() == before


def test_the_link_of_another_configuration_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "LINK", tmp_path / "etc/slurm.conf")
    ours, theirs = tmp_path / "ours.conf", tmp_path / "theirs.conf"
    theirs.touch()
    host.add_link(ours)
    assert host.LINK.readlink() == ours
    host.add_link(theirs)  # ours leads nowhere yet
    host.add_link(ours)
    host.remove_link(ours)
    assert host.LINK.readlink() == theirs


def test_errors_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(UserError, match=r"munged.* not installed, and there is no apt-get"):
        packages.install(accounting=False, log=tmp_path / "log")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UserError, match=r"not installed, and only root"):
        packages.install(accounting=False, log=tmp_path / "log")
    with pytest.raises(UserError, match="only root"):
        OneMachine(Settings(directory=HOME)).start()


def test_the_command_line_where_nothing_runs(tmp_path: Path) -> None:
    for action, code in {"status": 3, "env": 3, "stop": 0}.items():
        command = [sys.executable, "-m", "slurm.one_machine", action, f"--directory={tmp_path}"]
        answer = subprocess.run(command, capture_output=True, text=True)
        assert answer.returncode == code
        assert answer.stdout == ""
        assert answer.stderr.splitlines() == [f"no one-machine SLURM in {tmp_path}"]
