"""Where a network halves its maps, also for images smaller than it was made for."""


def halving_stride(side: int) -> int:
    """2, or 1 where a map of `side` pixels would become a single pixel.

    The root mean square of one pixel is its own size, so that filter response normalisation leaves its sign alone and no
    gradient passes. No layout of the paper comes so far; 8x8 digits do in the networks with more than two halvings.
    """
    return 2 if side >= 4 else 1
