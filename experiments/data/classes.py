"""Labels are places of sorted class names, so the splits of a set must have the same classes, by name."""

from collections.abc import Collection
from pathlib import Path

from experiments.errors import UserError


def check_same_classes(place: Path, found: Collection[str], of: Path, expected: Collection[str]) -> None:
    """UserError in one line unless the classes `found` in `place` are those that `of` has."""
    missing, stray = sorted({*expected} - {*found}), sorted({*found} - {*expected})
    if missing or stray:
        words = [f"{place} lacks {_some(missing)}, which {of} has"] if missing else []
        words += [f"{place} has {_some(stray)}, which {of} lacks"] if stray else []
        raise UserError(f"{'; '.join(words)}: labels follow the names of classes, so both must have the same")


def check_none_empty(place: Path, images: dict[str, int]) -> None:
    """UserError that names classes without images; `images` counts those of each class in `place`."""
    if empty := sorted(name for name, count in images.items() if count == 0):
        raise UserError(f"{place} has no image of {_some(empty)}: complete it")


def check_in_their_class(place: Path, names: Collection[str], of: str, classes: Collection[str]) -> None:
    """UserError that names a file among those `of` a class that is called <another class>_*.

    ImageNet's training images have the names of their classes in theirs.
    """
    for name in names:
        said, underscore, _ = name.partition("_")
        if underscore and said != of and said in classes:
            raise UserError(f"{place / name} is by its name of the class {said}, not of {of}: put it there")


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    many = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"the class{'es' if len(names) > 1 else ''} {shown}{many}"
