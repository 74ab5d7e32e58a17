"""SIGTERM ends a command in order, as Ctrl-C does: what is open is closed, what it has started ends too."""

import signal
from typing import Any

TERMINATED = 128 + signal.SIGTERM  # exit status, that of a process which the signal has killed
INTERRUPTED = 128 + signal.SIGINT


class Terminated(KeyboardInterrupt):
    """SIGTERM has come."""


def raise_when_terminated() -> None:
    """Let SIGTERM raise `Terminated` in the main thread from now on."""
    signal.signal(signal.SIGTERM, _raise)


def _raise(_number: int, _frame: Any) -> None:
    raise Terminated
