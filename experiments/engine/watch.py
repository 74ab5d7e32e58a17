"""What the surroundings of a run want from it while it goes on; none of it changes its result."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class Stopped(Exception):
    """Somebody asked for a stop; what was reached is in a checkpoint."""


class Diverged(Exception):
    """The loss stopped being finite: the run ends here, whoever runs it."""

    def __init__(self, epoch: int, step: int) -> None:
        super().__init__(f"loss is not finite in epoch {epoch}, step {step}")
        self.epoch, self.step = epoch, step


@dataclass(frozen=True, kw_only=True)
class Watch:
    """`stop` is asked between steps, `progress` gets news about once a second, `warn` gets lines for the
    user.
    """

    stop: Callable[[], bool] = lambda: False
    progress: Callable[[dict[str, Any]], None] = lambda news: None
    warn: Callable[[str], None] = print
    checkpoint_seconds: float = 600.0
    progress_seconds: float = 1.0  # between two news; of a training, between looks at clock and signals
