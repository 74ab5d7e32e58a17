"""A real SLURM cluster on this machine, for tests.

python -m slurm.one_machine start            install what is missing, start what does not run
eval "$(python -m slurm.one_machine env)"    let sbatch, squeue and the launcher find it
python -m slurm.one_machine status           exit code 0: it runs, 3: it does not
python -m slurm.one_machine stop             cancel its jobs, end it, undo what it changed
"""

import argparse
import sys
from pathlib import Path

from experiments.errors import RunError, UserError
from experiments.termination import INTERRUPTED, TERMINATED, Terminated, raise_when_terminated
from slurm.one_machine.cluster import OneMachine
from slurm.one_machine.configuration import Settings

DIRECTORY = Path("/var/lib/ivon-one-machine")  # where nobody but root can be first


def main() -> int:
    arguments = _parser().parse_args()
    directory = arguments.directory.absolute()
    try:
        if arguments.action == "start":
            return _start(directory, arguments)
        cluster = OneMachine.saved(directory)
        if cluster is None:
            print(f"no one-machine SLURM in {directory}", file=sys.stderr)
            return 0 if arguments.action == "stop" else 3
        if arguments.action == "stop":
            cluster.stop()
        elif arguments.action == "status":
            return _status(cluster)
        else:
            for name, value in cluster.environment.items():
                print(f"export {name}={value}")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except RunError as error:
        print(error, file=sys.stderr)
        return 1
    except Terminated:
        return TERMINATED
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m slurm.one_machine",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=["start", "stop", "status", "env"])
    parser.add_argument("--directory", type=Path, default=DIRECTORY, help=f"its state (default: {DIRECTORY})")
    start = parser.add_argument_group("for start, when it does not run yet")
    start.add_argument("--nodes", type=int, default=Settings.nodes)
    start.add_argument("--cpus", type=int, default=Settings.cpus, help="of each node")
    start.add_argument("--memory-mb", type=int, default=Settings.memory_mb, help="of each node")
    start.add_argument("--gpus", type=int, default=Settings.gpus, help="of each node, fake")
    start.add_argument("--accounting", action="store_true", help="with sacct, which needs a database")
    start.add_argument(
        "--no-user-signal",
        dest="user_signal",
        action="store_false",
        help="send a preempted job SIGTERM only, as SLURM does unless told otherwise",
    )
    return parser


def _start(directory: Path, arguments: argparse.Namespace) -> int:
    names = ("nodes", "cpus", "memory_mb", "gpus", "accounting", "user_signal")
    cluster = OneMachine(Settings(directory=directory, **{name: getattr(arguments, name) for name in names}))
    cluster.start()
    return _status(cluster)


def _status(cluster: OneMachine) -> int:
    for daemon in cluster.daemons:
        pid = daemon.pid
        print(f"{daemon.name}: {f'runs, pid {pid}' if pid else 'does not run'}")
    if not cluster.runs:
        return 3
    print(f"{len(cluster.ask('squeue', '-h', '-r').splitlines())} jobs; logs in {cluster.directory}/log")
    return 0


if __name__ == "__main__":
    raise_when_terminated()  # or it would leave the machine in a state that only its caller ends
    sys.exit(main())
