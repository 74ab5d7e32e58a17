"""`python -m experiments`: the command line. Failures are one line; exit code 2 for the request, 1 for what
came later.
"""

import sys

from experiments.errors import RunError, UserError


def main(arguments: list[str]) -> int:
    try:
        from experiments.commands import dispatch

        return dispatch(arguments)
    except (UserError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stdout = None  # type: ignore[assignment]  # nothing is left to flush
        return 0
    except OSError as error:
        print(f"error: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
