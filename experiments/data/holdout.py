"""Stratified, repeatable division of a labelled set in two."""

import numpy as np


def split_holdout(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices that stay and indices that are held out, each sorted.

    round(fraction * N) examples are held out; each class gives its share, and what rounding leaves over goes
    to the classes with the largest remainders. The choice depends on labels, fraction and seed alone, also
    across versions of numpy: it uses raw random bits, whose stream numpy keeps, and no sampling method.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"the held-out fraction must be in [0, 1), not {fraction}")
    labels = np.asarray(labels)
    keys = np.random.PCG64(seed).random_raw(len(labels))
    _, class_of, counts = np.unique(labels, return_inverse=True, return_counts=True)
    quota = counts * fraction
    held_of_class = np.floor(quota).astype(np.int64)
    missing = round(fraction * len(labels)) - held_of_class.sum()
    held_of_class[np.argsort(held_of_class - quota, kind="stable")[:missing]] += 1

    shuffled = np.lexsort((keys, class_of))  # by class, and at random within a class
    place_in_class = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    is_held = place_in_class < held_of_class[class_of[shuffled]]
    return np.sort(shuffled[~is_held]), np.sort(shuffled[is_held])
