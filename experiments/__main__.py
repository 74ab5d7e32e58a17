"""`python -m experiments`: the command line. Failures are one line; exit code 2 for the request, 1 for what
came later.
"""

import io
import os
import sys

from experiments.errors import RunError, UserError
from experiments.termination import INTERRUPTED, TERMINATED, Terminated, raise_when_terminated


def main(arguments: list[str]) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an arrow that a terminal does not know is no reason to end
    try:
        from experiments.commands import dispatch

        code = dispatch(arguments)
        sys.stdout.flush()  # now, while a reader who has left or a full disk can still be answered for
        return code
    except (UserError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except OSError as error:
        _abandon_unwritable_output()
        if isinstance(error, BrokenPipeError):  # the reader of our output has seen enough
            return 0
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {place}{error.strerror or error}", file=sys.stderr)
        return 1
    except Terminated:
        return TERMINATED
    except KeyboardInterrupt:
        return INTERRUPTED


def _abandon_unwritable_output() -> None:
    """Otherwise Python tries once more to write it at its exit, and complains."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    raise_when_terminated()
    sys.exit(main(sys.argv[1:]))
