"""Figures 1b and 1c of the paper and the overfitting curves of the blog post: other looks at Table 1's
runs.
"""

from pathlib import Path

from experiments.engine.artefact import Artefact, Scale
from experiments.engine.record import Store
from experiments.engine.spec import EvalSpec, TrainSpec
from experiments.image_classification.captions import caption
from experiments.image_classification.grid import (
    FIGURE1_PAIR,
    OVERFITTING_PAIR,
    SEEDS,
    evaluations,
    training,
)

TRAINING = (
    "Training curves are means over the steps of an epoch, with augmented images and, for IVON, a draw of "
    "the weights; test curves are of the point estimate after it."
)


def _points(specs: list[TrainSpec]) -> str:
    """How dense the curves are, and what that costs."""
    every = f"every {n} epochs" if (n := specs[0].curve_every) > 1 else "every epoch"
    share = max(spec.curve_share for spec in specs)
    return f"A point after {every}; these looks at the test images add at most {share:.1%} to a training."


def _trainings(pair: tuple[str, str], methods: tuple[str, ...], scale: Scale) -> list[TrainSpec]:
    return [training(*pair, method, seed, scale) for method in methods for seed in SEEDS[scale]]


def _fig1b(scale: Scale) -> list[TrainSpec]:
    return _trainings(FIGURE1_PAIR[scale], ("adamw", "ivon"), scale)


def _fig1c(scale: Scale) -> list[EvalSpec]:
    """AdamW's point estimate and IVON's posterior: the last look at each training."""
    return [evaluations(train)[-1] for train in _trainings(FIGURE1_PAIR[scale], ("adamw", "ivon"), scale)]


def _overfitting(scale: Scale) -> list[TrainSpec]:
    return _trainings(OVERFITTING_PAIR[scale], ("adamw", "sgd", "ivon"), scale)


def _draw_fig1b(scale: Scale, store: Store, folder: Path) -> list[Path]:
    from experiments.image_classification.frames import history_frame, measured, published
    from plots import validation_error

    specs = _fig1b(scale)
    words = caption(f"Figure 1b: validation error over training. {_points(specs)}", scale, specs, store)
    frame = measured(history_frame(specs, store), "fig1b", scale)
    return validation_error.draw(frame, published("fig1b"), folder / "fig1b", words)


def _draw_fig1c(scale: Scale, store: Store, folder: Path) -> list[Path]:
    from experiments.image_classification.frames import measured, published, reliability_frame
    from plots import reliability

    specs = _fig1c(scale)
    words = caption("Figure 1c: reliability diagram. Seeds are pooled.", scale, specs, store)
    frame = measured(reliability_frame(specs, store), "fig1c", scale)
    return reliability.draw(frame, published("fig1c"), folder / "fig1c", words)


def _draw_overfitting(scale: Scale, store: Store, folder: Path) -> list[Path]:
    from experiments.image_classification.frames import by_split, history_frame, measured
    from plots import overfitting

    specs = _overfitting(scale)
    what = f"Overfitting: loss on training and test images over training. {TRAINING} {_points(specs)}"
    words = caption(what, scale, specs, store)
    frame = by_split(measured(history_frame(specs, store), "overfitting", scale))
    return overfitting.draw(frame, folder / "overfitting", words)


FIGURES = (
    Artefact(
        name="fig1b",
        title="Figure 1b: validation error of AdamW and IVON over training.",
        runs=_fig1b,
        render=_draw_fig1b,
    ),
    Artefact(
        name="fig1c",
        title="Figure 1c: reliability of AdamW and IVON.",
        runs=_fig1c,
        render=_draw_fig1c,
    ),
    Artefact(
        name="overfitting",
        title="Overfitting of AdamW, SGD and IVON (blog post).",
        runs=_overfitting,
        render=_draw_overfitting,
    ),
)
