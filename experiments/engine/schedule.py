"""Learning rates over epochs, as the paper's runs have them (Sec. C.2)."""

import math

WARMUP_START = 0.2  # the first warm-up epoch runs at this part of the peak


def lr_factor(epoch: int, *, warmup_epochs: int, cosine_epochs: int) -> float:
    """What the peak learning rate is multiplied by in `epoch`, counted from 0.

    Linear warm-up, then a cosine to zero that starts when the warm-up ends and is `cosine_epochs` long. With
    `cosine_epochs` equal to all epochs, as in the released code, training ends at a small rate above zero.
    """
    if epoch < warmup_epochs:
        return WARMUP_START + (1 - WARMUP_START) * epoch / warmup_epochs
    return 0.5 * (1 + math.cos(math.pi * (epoch - warmup_epochs) / cosine_epochs))
