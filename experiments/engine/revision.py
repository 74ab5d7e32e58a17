"""Which code this is; without importing PyTorch."""

import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

SUBMITTED = "IVON_SUBMITTED"  # environment: versions at the submission of a job, where the job has others


def code_versions() -> dict[str, str | None]:
    """The versions on which results depend."""
    return {"git": git_revision(), "torch": version("torch")}


@cache
def git_revision() -> str | None:
    """The commit, marked if tracked files differ from it; None outside a checkout.

    As it was when this process first asked: what is checked out later is not the code that it runs.
    """

    def git(*arguments: str) -> str:
        # Without the index's lock, which `status` takes by itself: a commit by the user would fail meanwhile.
        command = ["git", "--no-optional-locks", *arguments]
        return subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changes = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return None
