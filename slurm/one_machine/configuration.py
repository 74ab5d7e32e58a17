"""What the cluster looks like, and the configuration files that say so to SLURM.

Debian's SLURM is built with several slurmd on one host, each with a name and a port of its own. `SLURM_CONF`
alone says where everything is: the other files are read from beside it.
"""

import re
import time
from dataclasses import dataclass
from pathlib import Path

from experiments.errors import UserError

# A GPU must be a character device, and these exist everywhere. They are scheduled and never opened.
FAKE_GPUS = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
# Sockets lie in the directory, and a socket's path has at most 107 bytes: here a step's is the longest.
LONGEST_DIRECTORY = 60


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A cluster of equal nodes. Neither the CPUs nor the memory need exist: they are what is handed out."""

    directory: Path
    nodes: int = 2
    cpus: int = 2  # of each node
    memory_mb: int = 8000  # of each node; a job that names no memory gets its CPUs' share
    gpus: int = 0  # of each node, fake
    accounting: bool = False  # whether sacct works; it needs a database
    user_signal: bool = True  # whether a preempted job gets the signal it asked for, or SIGTERM only

    def __post_init__(self) -> None:
        path = str(self.directory)
        if not re.fullmatch(r"/[\w./+-]+", path) or len(path) > LONGEST_DIRECTORY:
            allowed = f"an absolute path of at most {LONGEST_DIRECTORY} letters, digits, and . / + - _"
            raise UserError(f"one-machine SLURM: directory = {path!r}: allowed is {allowed}")
        limits = {"nodes": (1, 20), "cpus": (1, 256), "memory_mb": (100, 10**7), "gpus": (0, len(FAKE_GPUS))}
        for name, (least, most) in limits.items():
            if not least <= getattr(self, name) <= most:
                value = getattr(self, name)
                raise UserError(f"one-machine SLURM: {name} = {value}: allowed is {least} to {most}")

    @property
    def node_names(self) -> list[str]:
        return [f"node{number}" for number in range(1, self.nodes + 1)]

    @property
    def slurm_conf(self) -> Path:
        return self.directory / "slurm.conf"

    @property
    def munge_socket(self) -> Path:
        return self.directory / "munge.sock"

    @property
    def ports(self) -> int:
        """How many TCP ports the cluster needs: slurmctld, slurmdbd, and a slurmd for each node."""
        return 2 + self.nodes


def configuration_files(settings: Settings, first_port: int) -> dict[str, str]:
    """Name and text of every file, for a cluster on the `settings.ports` ports from `first_port`."""
    files = {
        "slurm.conf": _slurm_conf(settings, first_port),
        "gres.conf": "".join(f"Name=gpu File={device}\n" for device in FAKE_GPUS[: settings.gpus]),
        # slurmd loads a cgroup plugin though nothing here uses one, and fails where it can load no v2.
        "cgroup.conf": "CgroupPlugin=cgroup/v1\n",
    }
    if settings.accounting:
        files["slurmdbd.conf"] = _slurmdbd_conf(settings, first_port + 1)
    return files


def _slurm_conf(settings: Settings, first_port: int) -> str:
    home = settings.directory
    lines = [
        "# Who and where. Without the CommunicationParameters the daemons listen to the whole network.",
        "ClusterName=one_machine",
        "SlurmctldHost=localhost(127.0.0.1)",
        f"SlurmctldPort={first_port}",
        "CommunicationParameters=NoCtldInAddrAny,NoInAddrAny",
        "SlurmUser=root",
        "SlurmdUser=root",
        f"StateSaveLocation={home}/state",
        f"SlurmdSpoolDir={home}/spool/%n",
        f"SlurmctldPidFile={home}/slurmctld.pid",
        f"SlurmdPidFile={home}/slurmd.%n.pid",
        f"SlurmctldLogFile={home}/log/slurmctld.log",
        f"SlurmdLogFile={home}/log/slurmd.%n.log",
        "# submitit names files by job id: a new cluster must not give out the ids of the one before.",
        f"FirstJobId={1 + 100 * (int(time.time()) % 600_000)}",
        "",
        "# A requeued job waits until its old credential has expired: 120 seconds if nothing is said.",
        "AuthType=auth/munge",
        f"AuthInfo=socket={settings.munge_socket},cred_expire=5",
        "",
        "# Tests wait for the scheduler: look often, kill soon, refuse at once what can never run.",
        "SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2",
        "KillWait=5",
        "EnforcePartLimits=ALL",
        "ReturnToService=2",
        "PreemptType=preempt/partition_prio",
        "PreemptMode=REQUEUE",
        *(["SlurmctldParameters=preempt_send_user_signal"] if settings.user_signal else []),
        "",
        "# No cgroups: processes are found through their parents, their memory is polled (seconds).",
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "JobAcctGatherType=jobacct_gather/linux",
        "JobAcctGatherFrequency=task=2",
        "JobAcctGatherParams=OverMemoryKill,UsePss",
        "MpiDefault=none",
        "MailProg=/bin/true",
        "PropagateResourceLimits=NONE",
        "",
        "# What there is to hand out. config_overrides: believe it, whatever the machine has.",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_CPU_Memory",
        f"DefMemPerCPU={settings.memory_mb // settings.cpus}",
        "SlurmdParameters=config_overrides",
        "GresTypes=gpu",
    ]
    node = f"CPUs={settings.cpus} RealMemory={settings.memory_mb} Gres=gpu:{settings.gpus}"
    for number, name in enumerate(settings.node_names):
        port = first_port + 2 + number
        lines.append(f"NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} {node}")
    days = "MaxTime=7-0 DefaultTime=60"
    lines += [
        f"PartitionName=main Nodes=ALL Default=YES {days} PriorityTier=10 PreemptMode=OFF",
        "PartitionName=short Nodes=ALL MaxTime=2 DefaultTime=1 PriorityTier=10 PreemptMode=OFF",
        f"PartitionName=low Nodes=ALL {days} PriorityTier=1 PreemptMode=REQUEUE GraceTime=10",
    ]
    if settings.accounting:
        lines += [
            "AccountingStorageType=accounting_storage/slurmdbd",
            "AccountingStorageHost=127.0.0.1",
            f"AccountingStoragePort={first_port + 1}",
            "# Not a password: where sacct finds munge's socket, which AuthInfo does not tell it.",
            f"AccountingStoragePass={settings.munge_socket}",
        ]
    return "\n".join(lines) + "\n"


def _slurmdbd_conf(settings: Settings, port: int) -> str:
    lines = [
        "DbdHost=localhost",
        "DbdAddr=127.0.0.1",
        f"DbdPort={port}",
        "CommunicationParameters=NoInAddrAny",
        "SlurmUser=root",
        "AuthType=auth/munge",
        f"AuthInfo=socket={settings.munge_socket}",
        "StorageType=accounting_storage/mysql",
        "StorageHost=localhost",
        f"PidFile={settings.directory}/slurmdbd.pid",
        f"LogFile={settings.directory}/log/slurmdbd.log",
    ]
    return "\n".join(lines) + "\n"
