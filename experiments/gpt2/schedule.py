"""Learning rate of GPT-2's trainings, by step (Sec. C.1)."""

import math


def lr_factor(step: int, *, warmup_steps: int, train_steps: int) -> float:
    """What the peak learning rate is multiplied by: a line from zero, then a cosine to zero at the end."""
    if step < warmup_steps:
        return step / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, train_steps - warmup_steps)))
