"""A training that several GPUs share, on one node or several: one of SLURM's tasks for each.

`torch.distributed` is set up from the job's environment. All tasks run the trainings one after the other,
each in a process of its own; evaluations are left to the first task.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import submitit

from experiments.engine import lock
from experiments.engine.compiler_cache import guard_compiler_cache
from experiments.engine.gpus import DEVICE_LOST
from experiments.engine.local import POLL_SECONDS, Launcher, Options
from experiments.engine.progress import Display
from experiments.engine.record import Store
from experiments.engine.spec import Spec, Training

DIED = 75  # exit status of a task whose process died, or could not have its run: the job tries again
BUSY_SECONDS = 120.0  # longer than the lease of a lock on NFS whose holder's node is dead


@dataclass
class Joint:
    """What one task does; it has the verbs of a launcher."""

    store: Store
    options: Options
    display: Display
    failed: dict[str, str] = field(default_factory=dict)
    stopped_by: int | None = None
    _process: subprocess.Popen[str] | None = None

    def run(self, specs: list[Spec], signals: tuple[int, ...]) -> bool:
        """As `Launcher.run`. SystemExit if a process died, so that SLURM ends the other tasks too."""
        guard_compiler_cache()
        group = submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        previous = {number: signal.signal(number, self._stop) for number in signals}
        try:
            for number, spec in enumerate(spec for spec in specs if isinstance(spec, Training)):
                # Tasks need not see the same records yet: whether this one is over, their processes agree.
                if self.stopped_by is not None or not self._train(spec, port=group.master_port + number):
                    return False
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        left = [spec for spec in specs if not isinstance(spec, Training) and not self.store.is_over(spec)]
        if group.rank or not left:
            return True
        launcher = Launcher(self.store, self._alone(), self.display, failed=self.failed)
        finished = launcher.run(left, signals)
        self.stopped_by = launcher.stopped_by
        return finished

    def _alone(self) -> Options:
        return Options(
            jobs=1,
            device=self.options.device,
            checkpoint_seconds=self.options.checkpoint_seconds,
            patience=self.options.patience,
            log=self.options.log,
        )

    def _train(self, spec: Training, port: int) -> bool:
        """This task's part of one training; False if it was stopped before its end."""
        command = [sys.executable, "-m", "experiments.engine.worker", "--root", str(self.store.root)]
        command += ["--device", self.options.device, "--processes", os.environ["WORLD_SIZE"]]
        command += ["--checkpoint-seconds", str(self.options.checkpoint_seconds)]
        command += ["--spec", json.dumps(spec.model_dump(mode="json"))]
        environment = {**os.environ, "MASTER_PORT": str(port)}
        if os.environ["RANK"] == "0":  # the others wait for it when they join
            self._await_lock(spec)
        self.display.begin(spec)
        self._process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        if self.stopped_by is not None:  # the signal came before there was a process
            self._process.terminate()
        assert self._process.stdout is not None
        end: dict[str, Any] = {}
        for line in self._process.stdout:
            message = json.loads(line)
            if "news" in message:
                self.display.news(spec, message["news"])
            elif "warn" in message:
                self.display.warn(message["warn"])
            else:
                end = message
        status = self._process.wait()
        if status < 0 or status == DEVICE_LOST or (os.environ["RANK"] == "0" and not end):
            sys.exit(DIED)
        if end.get("end") == "busy" and not self.store.is_over(spec):
            sys.exit(DIED)  # the other tasks have left this training: it takes all of them to try it again
        if end.get("end") == "stopped":
            self.display.stopped(spec)
            return False
        if end.get("end") == "failed":
            self.failed[spec.id] = end["why"]
        if end:
            self.display.end(spec, self.failed.get(spec.id, ""))
        return True

    def _await_lock(self, spec: Spec) -> None:
        """Until no other process has the run, or too long."""
        end = time.monotonic() + BUSY_SECONDS
        while not self.store.is_over(spec) and lock.is_claimed(self.store.folder(spec)):
            if self.stopped_by is not None or time.monotonic() > end:
                return
            self.display.elsewhere(spec)
            time.sleep(POLL_SECONDS)

    def _stop(self, number: int, _frame: Any) -> None:
        self.stopped_by = number
        if self._process is not None:
            self._process.terminate()  # a request; all processes heed that of the first
