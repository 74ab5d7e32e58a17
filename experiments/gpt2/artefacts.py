"""Figures 1a and 2: validation perplexity, training loss, precision, and the average over posterior draws."""

from collections.abc import Sequence
from pathlib import Path

from experiments.engine.artefact import Artefact, Scale
from experiments.engine.record import Store
from experiments.engine.spec import LanguageSpec, PerplexitySpec
from experiments.gpt2.grid import SEEDS, SIZES, training
from experiments.gpt2.tuning import TUNING

METHODS = ("adamw", "ivon")
PRECISIONS: dict[Scale, tuple[str, ...]] = {
    "demo": ("fp32", "bf16", "bf16-weights"),
    "small": ("fp32", "bf16", "bf16-weights"),
    "paper": ("bf16", "bf16-weights"),
}
MOST_DRAWS: dict[Scale, int] = {"demo": 64, "small": 32, "paper": 32}


def _runs(scale: Scale) -> list[LanguageSpec]:
    return [
        training(model, method, seed, scale)
        for seed in SEEDS[scale]
        for model in SIZES[scale]
        for method in METHODS
    ]


def _precision_runs(scale: Scale) -> list[LanguageSpec]:
    return [
        training(SIZES[scale][0], method, seed, scale, precision)
        for seed in SEEDS[scale]
        for method in METHODS
        for precision in PRECISIONS[scale]
    ]


def _draws_runs(scale: Scale) -> list[PerplexitySpec]:
    batches = 200 if scale == "paper" else 50
    return [
        PerplexitySpec(train=spec, draws=MOST_DRAWS[scale], batches=batches)
        for spec in _runs(scale)
        if spec.method.name == "ivon"
    ]


def _draw_fig1a(scale: Scale, store: Store, folder: Path) -> list[Path]:
    from experiments.gpt2.frames import history_frame
    from experiments.image_classification.frames import measured, published
    from plots import language_curves

    specs = _runs(scale)
    # On GPUs a run has its own; on CPUs others run beside it, and Table 6 alone compares speeds.
    hours = scale == "paper"
    over = "tokens and over hours of training" if hours else "tokens"
    words = _caption(f"Figure 1a: validation perplexity over {over}", scale, specs, store)
    frame = measured(history_frame(specs, store), "fig1a", scale)
    return language_curves.perplexity(frame, published("fig1a"), folder / "fig1a", words, hours=hours)


def _draw_fig2a(scale: Scale, store: Store, folder: Path) -> list[Path]:
    from experiments.gpt2.frames import history_frame
    from experiments.image_classification.frames import measured
    from plots import language_curves

    specs = _runs(scale)
    words = _caption("Figure 2a: training loss", scale, specs, store)
    frame = measured(history_frame(specs, store), "fig2a", scale)
    return language_curves.training_loss(frame, folder / "fig2a", words, style_by="model")


def _draw_fig2b(scale: Scale, store: Store, folder: Path) -> list[Path]:
    from experiments.gpt2.frames import history_frame
    from experiments.image_classification.frames import measured
    from plots import language_curves

    specs = _precision_runs(scale)
    words = _caption(
        "Figure 2b: training loss by precision. bf16 autocast computes in bfloat16 with weights in fp32; "
        "with bf16 weights there are no others, but IVON holds its mean and its Hessian to 32 bits",
        scale,
        specs,
        store,
    )
    frame = measured(history_frame(specs, store), "fig2b", scale)
    return language_curves.training_loss(frame, folder / "fig2b", words, style_by="precision")


def _draw_fig2c(scale: Scale, store: Store, folder: Path) -> list[Path]:
    from experiments.gpt2.frames import draws_frame
    from experiments.image_classification.frames import measured
    from plots import perplexity_by_draws

    specs = _draws_runs(scale)
    words = _caption(
        "Figure 2c: perplexity of the average prediction over posterior draws, in percent of that at the "
        "mean of the same posterior",
        scale,
        specs,
        store,
    )
    frame = measured(draws_frame(specs, store), "fig2c", scale)
    return perplexity_by_draws.draw(frame, folder / "fig2c", words)


def _caption(what: str, scale: Scale, specs: Sequence[LanguageSpec | PerplexitySpec], store: Store) -> str:
    from experiments.gpt2.frames import caption

    lost = "" if what.startswith("Figure 1a") else " The published values were not recovered."
    return caption(f"{what}.{lost}", scale, specs, store)


GPT2 = (
    Artefact(
        name="fig1a",
        title="Figure 1a: GPT-2's validation perplexity, AdamW and IVON.",
        runs=_runs,
        render=_draw_fig1a,
    ),
    Artefact(
        name="fig2a",
        title="Figure 2a: GPT-2's training loss.",
        runs=_runs,
        render=_draw_fig2a,
    ),
    Artefact(
        name="fig2b",
        title="Figure 2b: GPT-2's training loss in low precision.",
        runs=_precision_runs,
        render=_draw_fig2b,
    ),
    Artefact(
        name="fig2c",
        title="Figure 2c: GPT-2's perplexity by number of posterior draws.",
        runs=_draws_runs,
        render=_draw_fig2c,
    ),
    TUNING,
)
