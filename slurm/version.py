"""Whether a job runs the code with which it was submitted: a queue may be longer than a day of work."""

import json
import os
import sys

from experiments.engine.revision import SUBMITTED, code_versions


def note_skew(submitted: dict[str, str | None]) -> None:
    """Where versions differ from those at the submission, say so here and in the records of this job."""
    here = code_versions()
    different = {name: [submitted[name], here[name]] for name in submitted if submitted[name] != here[name]}
    if not different:
        return
    for name, (then, now) in different.items():
        print(
            f"warning: submitted with {name} {then}, runs with {now}; records say so",
            file=sys.stderr,
            flush=True,
        )
    os.environ[SUBMITTED] = json.dumps(submitted)
