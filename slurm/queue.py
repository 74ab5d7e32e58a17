"""What SLURM knows of our jobs, from `squeue` alone: many clusters have no accounting."""

import re
import shutil
import subprocess
import time
from dataclasses import dataclass

from experiments.errors import RunError, UserError

ATTEMPTS, PAUSE_SECONDS = 5, 2.0
PASSING = ("Unable to contact", "timed out", "Connection refused")  # the controller may be restarting
ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}


@dataclass(frozen=True)
class Element:
    """One job, or one element of a job array, that waits or runs."""

    job: str  # "123", or "123_4" of an array
    name: str
    state: str  # RUNNING, PENDING, ...
    reason: str  # why it waits
    node: str

    @property
    def index(self) -> int:
        """Which task of its submission it is; a job alone is the first."""
        return int(self.job.partition("_")[2] or 0)


def require_slurm() -> None:
    if shutil.which("sbatch") is None:
        raise UserError(
            "no sbatch on this machine: run this on the cluster's login node, or with --executor local"
        )


def live_elements() -> list[Element]:
    """All that wait or run and belong to this user; RunError if SLURM does not answer."""
    text = _ask("squeue", "--me", "--noheader", "--array", "--format=%i|%j|%T|%r|%N")
    rows = (line.split("|") for line in text.splitlines())
    return [Element(*row) for row in rows if len(row) == 5 and row[2] not in ENDED]


def state_of(job: str) -> str:
    """The state of one job; empty once it is forgotten."""
    try:
        return _ask("squeue", "--noheader", "--format=%T", f"--jobs={job}").strip()
    except RunError as error:
        if "Invalid job id" in str(error):
            return ""
        raise


def seconds_left(job: str) -> float | None:
    """Until the time limit of a running job; None if it has none."""
    text = _ask("squeue", "--noheader", "--format=%L", f"--jobs={job}").strip()
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(((24 * days + hours) * 60 + minutes) * 60 + seconds)


def cancel(jobs: list[str]) -> None:
    _ask("scancel", *jobs)


def requeue(job: str) -> None:
    """Put a running job back into the queue."""
    _ask("scontrol", "requeue", job)


def max_array_size() -> int | None:
    """How many elements a job array may have; None if the cluster does not say."""
    try:
        text = _ask("scontrol", "show", "config")
    except (UserError, RunError):  # not on every machine with sbatch, not for every user
        return None
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", text, re.MULTILINE)
    return max(int(found[1]), 1) if found else None  # 0: no arrays; a job alone is none


def _ask(*command: str) -> str:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
        except FileNotFoundError:
            raise UserError(f"no {command[0]} on this machine: is it the cluster's login node?") from None
        except subprocess.TimeoutExpired:
            complaint = "no answer within 60 s"
        else:
            if answer.returncode == 0:
                return answer.stdout
            complaint = " ".join(answer.stderr.split())
            if not any(words in complaint for words in PASSING):
                break
        if attempt < ATTEMPTS:
            time.sleep(PAUSE_SECONDS)
    raise RunError(f"{command[0]}: {complaint}")
