"""Where a network halves its maps, also for images smaller than it was made for."""


def halving_stride(side: int) -> int:
    """2, or 1 where a map of `side` pixels would become a single pixel.

    The root mean square of one pixel is its own size: filter response normalisation would leave nothing but
    its sign, and no gradient would pass. None of the paper's networks comes so far on the paper's images;
    8x8 digits do in the networks that halve more than twice.
    """
    return 2 if side >= 4 else 1
