"""A real SLURM cluster on one machine, for tests of what submits jobs: nothing of it is mocked.

It needs root on Debian or Ubuntu (tried: Debian 12, SLURM 22.05) and neither systemd nor cgroups nor a
network. All its state is in one directory, every socket is local, and `stop` undoes what `start` changed
outside that directory, except for the installed packages.

It cannot show: memory and CPUs confined by cgroups, real GPUs, a slow or unshared file system, accounts and
qualities of service (any are taken), nodes with host names of their own (only SLURMD_NODENAME differs).
"""

from slurm.one_machine.cluster import OneMachine
from slurm.one_machine.configuration import Settings

__all__ = ["OneMachine", "Settings"]
