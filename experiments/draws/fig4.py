"""Figure 4: accuracy and NLL of IVON against the number of posterior draws, ResNet-20 on CIFAR-10.

At test the networks are those of Table 2, trained with one draw a step, and one pass looks at all numbers of
draws. In training a network is trained for each number of draws, and predicts with 64.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from experiments.engine.artefact import Artefact, Scale
from experiments.engine.record import Store
from experiments.engine.spec import DrawSweepSpec, EvalSpec, TrainSpec
from experiments.image_classification.captions import caption
from experiments.image_classification.grid import SEEDS, evaluations
from experiments.in_domain.table2 import in_domain_training

if TYPE_CHECKING:
    import pandas as pd

MOST_AT_TEST: dict[Scale, int] = {"demo": 128, "small": 64, "paper": 512}
IN_TRAINING: dict[Scale, tuple[int, ...]] = {
    "demo": (1, 2, 4),
    "small": (1, 2, 4),
    "paper": (1, 2, 4, 8, 16, 32),
}
# The networks of four draws take as long as those of Table 2 for four seeds.
DRAW_SEEDS: dict[Scale, range] = {**SEEDS, "demo": range(2)}


def trained_with(draws: int, seed: int, scale: Scale) -> TrainSpec:
    """Table 2's training of IVON with another number of draws in each step."""
    spec = in_domain_training("ivon", seed, scale)
    return spec.model_copy(update={"method": spec.method.model_copy(update={"mc_samples": draws})})


def _at_test(scale: Scale) -> list[DrawSweepSpec]:
    return [
        DrawSweepSpec(look=EvalSpec(train=trained_with(1, seed, scale), draws=MOST_AT_TEST[scale]))
        for seed in DRAW_SEEDS[scale]
    ]


def _in_training(scale: Scale) -> list[EvalSpec]:
    """The mean of each network, and its 64 draws."""
    return [
        look
        for draws in IN_TRAINING[scale]
        for seed in DRAW_SEEDS[scale]
        for look in evaluations(trained_with(draws, seed, scale))
    ]


def _runs(scale: Scale) -> list[DrawSweepSpec | EvalSpec]:
    return [*_at_test(scale), *_in_training(scale)]


def _words(scale: Scale, paper: pd.DataFrame) -> str:
    """What is drawn, what is left out at this scale, and the paper's numbers where they are not drawn."""
    words = "Figure 4: IVON by the number of posterior draws, in training with 64 draws at test."
    if scale == "paper":
        return words + " The paper's panel of training draws is not recovered."
    words += f" Up to {MOST_AT_TEST[scale]} draws at test in place of {MOST_AT_TEST['paper']}, "
    words += f"{IN_TRAINING[scale][-1]} in training in place of {IN_TRAINING['paper'][-1]}."
    shown = paper[(paper["method"] == "IVON") & paper["draws"].isin((1, 64))]
    numbers = [f"{row.top1_acc:g} % and {row.nll:g} nats with {row.draws}" for row in shown.itertuples()]
    mean = paper[paper["method"] == "IVON@mean"].iloc[0]
    numbers.append(f"{mean['top1_acc']:g} % and {mean['nll']:g} nats at the mean")
    return f"{words} The paper, on CIFAR-10 after 200 epochs, by test draws: {', '.join(numbers)}."


def _render(scale: Scale, store: Store, folder: Path) -> list[Path]:
    from experiments.draws.frames import draws_frame, of_whole_seeds, published_draws
    from experiments.image_classification.frames import measured
    from plots import by_draws

    paper = published_draws()
    found = measured(draws_frame(_at_test(scale), _in_training(scale), store), "fig4", scale)
    frame = of_whole_seeds(found)
    left_out = "" if len(frame) == len(found) else " Seeds that lack a number of draws are left out."
    drawn = [frozenset(seeds) for _, seeds in frame.groupby("varied")["seed"]]
    words = caption(_words(scale, paper) + left_out, scale, _runs(scale), store, drawn=drawn)
    comparable = paper if scale == "paper" else paper.iloc[:0]
    return by_draws.draw(frame, comparable, folder / "fig4", words)


FIG4 = Artefact(
    name="fig4",
    title="Figure 4: IVON by the number of posterior draws.",
    runs=_runs,
    render=_render,
)
