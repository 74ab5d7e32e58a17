"""GPT-2 among the contenders whose training steps are timed and weighed."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import count

from torch import Tensor

from experiments.data.text.windows import open_tokens
from experiments.engine.distributed import Group
from experiments.engine.spec import LanguageSpec
from experiments.gpt2.training import LanguageTraining


class LanguageContender:
    """A training that stays where its learning rate has reached its peak."""

    def __init__(self, spec: LanguageSpec, group: Group) -> None:
        # Two steps, so that the bookkeeping of a round takes no memory and the second one is at the peak.
        short = spec.model_copy(update={"train_steps": 2, "eval_every": 2, "warmup_steps": 1})
        self._task = LanguageTraining(short, group)
        self.method = self._task.network.method
        self.parameters = sum(p.numel() for p in self._task.network.model.parameters())
        self._task.begin_round()

    def step(self, windows: Tensor) -> Tensor:
        self._task.step = 1
        self._task.take_step(windows)
        return self._task.losses[1]


def open_text(
    spec: LanguageSpec, group: Group
) -> tuple[Callable[[LanguageSpec], LanguageContender], Iterator[tuple[Tensor]]]:
    """How to make a contender, and batches without an end."""
    text = open_tokens(spec.corpus, "train")

    def batch(step: int) -> tuple[Tensor]:
        return (text.batch(spec.seed, step, spec.batch_size, spec.window, device=group.device),)

    return partial(LanguageContender, group=group), map(batch, count())
