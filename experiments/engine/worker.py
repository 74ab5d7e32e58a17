"""A process that runs one specification after another for the local launcher.

It reads specifications from its standard input and writes what happens to its standard output, a JSON line
each. Started by torchrun, with a specification on the command line, it is one of several processes that share
that run. SIGTERM ends it once its run has a checkpoint, with exit status 143.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch

from experiments.engine import lock
from experiments.engine.distributed import Group, join, single
from experiments.engine.execute import Outcome, execute
from experiments.engine.gpus import DEVICE_LOST
from experiments.engine.machine import fix_arithmetic, is_of_lost_device
from experiments.engine.record import Store
from experiments.engine.spec import Spec, Training, parse_spec
from experiments.engine.watch import Watch
from experiments.termination import TERMINATED

Say = Callable[[dict[str, Any]], None]

# What torchrun gives its processes between asking them to stop and killing them: a step and a checkpoint of
# gigabytes. From torch 2.12 on; before, it is 30 s whatever is asked.
STOP_SECONDS = 600


def main() -> None:
    """Leaves by itself only if its device is lost, so that its launcher tries the run again elsewhere."""
    try:
        _work()
    except Exception as error:
        if not is_of_lost_device(error):
            raise
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(DEVICE_LOST)  # without CUDA's own end, which may wait for that device


def _work() -> None:
    parser = argparse.ArgumentParser(prog="experiments.engine.worker")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--checkpoint-seconds", type=float, required=True)
    parser.add_argument("--spec")
    args = parser.parse_args()

    fix_arithmetic()
    say = _own_stdout()
    stop = threading.Event()
    lines: SimpleQueue[str] = SimpleQueue()

    def asked_to_stop(*_: Any) -> None:
        stop.set()
        lines.put("")  # for a worker that has nothing to do

    for number in (signal.SIGTERM, signal.SIGUSR2):  # SLURM sends the latter to all processes of a job
        signal.signal(number, asked_to_stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the launcher, which asks for a stop
    store = Store(args.root)
    watch = Watch(
        stop=stop.is_set,
        progress=lambda news: say({"news": news}),
        warn=lambda line: say({"warn": line}),
        checkpoint_seconds=args.checkpoint_seconds,
    )
    if args.spec:
        outcome = _member(parse_spec(json.loads(args.spec)), args.device, store, watch, say)
        if stop.is_set() and outcome.end != "done":
            sys.exit(TERMINATED)
        return
    threading.Thread(target=_read_until_orphaned, args=(lines, stop), daemon=True).start()
    while line := lines.get():
        spec = parse_spec(json.loads(line))
        if args.processes > 1 and isinstance(spec, Training):
            busy = lock.is_claimed(store.folder(spec))  # cheaper than several processes that find it out
            outcome = Outcome("busy") if busy else _torchrun(spec, args, say, stop)
        else:
            outcome = execute(spec, store, _alone(args.device), watch)
        say({"end": outcome.end, "why": outcome.why})
    os._exit(TERMINATED)  # without Python's own end, which would wait for the thread that reads


def _alone(device: str) -> Group:
    return single(torch.device(device))


def _member(spec: Spec, device: str, store: Store, watch: Watch, say: Say) -> Outcome:
    group = join(device)
    outcome = execute(spec, store, group, watch)
    if group.leads:
        say({"end": outcome.end, "why": outcome.why})
    torch.distributed.destroy_process_group()
    return outcome


def _torchrun(spec: Spec, args: argparse.Namespace, say: Say, stop: threading.Event) -> Outcome:
    """Share one training among several processes; the first one's news pass through here. If they die without
    a word, so does this one: its launcher tries again.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={args.processes}", "-m", "experiments.engine.worker"]
    command += ["--root", str(args.root), "--device", args.device]
    command += [
        "--checkpoint-seconds",
        str(args.checkpoint_seconds),
        "--spec",
        json.dumps(spec.model_dump(mode="json")),
    ]
    patient = {**os.environ, "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(STOP_SECONDS)}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True, env=patient
    )
    threading.Thread(target=lambda: (stop.wait(), process.terminate()), daemon=True).start()
    assert process.stdout is not None
    outcome = None
    for line in process.stdout:
        message = json.loads(line)
        if "end" in message:
            outcome = Outcome(message["end"], message["why"])
        else:
            say(message)
    status = process.wait()
    if outcome is None and stop.is_set():
        return Outcome("stopped")  # they had their time; what the last checkpoint has is kept
    if outcome is None:
        print(f"torchrun ended with status {status} and without a word", file=sys.stderr, flush=True)
        os._exit(1)
    return outcome


def _own_stdout() -> Say:
    """Keep standard output for the protocol; whatever libraries print goes to standard error."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    guard = threading.Lock()

    def say(message: dict[str, Any]) -> None:
        try:
            with guard:
                out.write(json.dumps(message) + "\n")
        except BrokenPipeError:  # the launcher is gone: as when its input ends, below
            os._exit(1)

    return say


def _read_until_orphaned(lines: SimpleQueue[str], stop: threading.Event) -> None:
    """Pass on standard input. When it closes, the launcher is gone: die at once, as a kill would, and free
    the run.
    """
    for line in sys.stdin:
        lines.put(line)
    os._exit(TERMINATED if stop.is_set() else 0)


if __name__ == "__main__":
    main()
