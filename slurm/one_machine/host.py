"""What the cluster changes on the machine outside its directory, and takes back when it stops."""

import contextlib
import fcntl
import socket
from collections.abc import Iterator
from pathlib import Path

from experiments.errors import RunError

HOSTS = Path("/etc/hosts")
LINK = Path("/etc/slurm/slurm.conf")
LOCK = Path("/run/ivon-one-machine.lock")
FIRST_USER = 1000  # numbers below are root's and those of the system's own accounts


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Two that start at once would choose the same ports, and both write /etc/hosts."""
    with LOCK.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def free_ports(count: int, first: int = 17000) -> int:
    """The first of `count` neighbouring ports that nobody listens on.

    They lie below the range the kernel takes ports for outgoing connections from: a daemon that crashed must
    find its own free again.
    """
    port = first
    while port < first + count:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                first = port + 1
        port += 1
    return first


def add_names(names: list[str], directory: Path) -> None:
    """Let the machine's own name and the nodes' resolve to 127.0.0.1.

    The daemons listen on whatever address the machine's name has, and a distributed job meets on its first
    node's name. The line stands first, for the first match wins.
    """
    line = f"127.0.0.1 {socket.gethostname()} {' '.join(names)} {_tag(directory)}\n"
    _write_hosts(line + _hosts_without(directory))


def remove_names(directory: Path) -> None:
    _write_hosts(_hosts_without(directory))


def _tag(directory: Path) -> str:
    return f"# one-machine SLURM in {directory}/"


def _hosts_without(directory: Path) -> str:
    lines = HOSTS.read_text().splitlines(keepends=True)
    return "".join(line for line in lines if _tag(directory) not in line)


def _write_hosts(text: str) -> None:
    if text != HOSTS.read_text():
        try:
            HOSTS.write_text(text)  # in place: in a container the file is a mount, and cannot be replaced
        except OSError as error:
            raise RunError(f"one-machine SLURM: {HOSTS} cannot be written: {error.strerror}") from None


def add_link(slurm_conf: Path) -> None:
    """For programs that clear SLURM_CONF from their environment. A configuration that is there stays, unless
    a user has laid it where a link leads that a killed cluster has left: it names programs that root runs.
    """
    if not LINK.exists() or (LINK.is_symlink() and LINK.stat().st_uid >= FIRST_USER):
        LINK.parent.mkdir(exist_ok=True)
        LINK.unlink(missing_ok=True)  # one to a cluster whose directory is gone
        LINK.symlink_to(slurm_conf)


def remove_link(slurm_conf: Path) -> None:
    if LINK.is_symlink() and LINK.readlink() == slurm_conf:
        LINK.unlink()
