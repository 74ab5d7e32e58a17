"""Table 3 and Figure 3: scores and predictive entropies, in-domain against out-of-distribution."""

import math
from pathlib import Path

from experiments.data import DATASETS
from experiments.data.ood import ood_sets_against
from experiments.engine.artefact import Artefact, Scale
from experiments.engine.record import Store
from experiments.engine.spec import OodSpec
from experiments.image_classification.captions import caption
from experiments.image_classification.departures import departures
from experiments.image_classification.grid import SEEDS
from experiments.image_classification.methods import LABELS
from experiments.in_domain.table2 import predictor
from experiments.metrics import OOD_METRICS

METHODS = ("sgd", "bbb", "bbb_released", "mc_dropout", "swag", "vogn", "ivon")
DATASET: dict[Scale, str] = {"demo": "digits", "small": "cifar10", "paper": "cifar10"}


def _runs(scale: Scale) -> list[OodSpec]:
    return [
        OodSpec(look=predictor(method, seed, scale), outside=outside.name)
        for outside in ood_sets_against(DATASET[scale])
        for method in METHODS
        for seed in SEEDS[scale]
    ]


def words_of(scale: Scale, specs: list[OodSpec], store: Store) -> str:
    """Which images come from elsewhere, and what parts of a set were at hand."""
    words = []
    for outside in ood_sets_against(DATASET[scale]):
        records = [store.done(spec) for spec in specs if spec.outside == outside.name]
        parts = {record["result"].get("stand_in") for record in records if record} - {None}
        here = f" (here {'; '.join(sorted(parts))})" if parts else ""
        words.append(f"{outside.title}: {outside.origin}{here}")
    return "; ".join(words)


def _table3(scale: Scale, store: Store, folder: Path) -> list[Path]:
    from experiments.image_classification.frames import measured, published
    from experiments.ood.frames import block_of, metrics_frame
    from plots import table_figure, tables

    specs = _runs(scale)
    ours, paper = measured(metrics_frame(specs, store), "table3", scale), published("table3")
    pairs = list(dict.fromkeys((block_of(s)["dataset"], block_of(s)["model"]) for s in specs))
    methods = [LABELS[method] for method in METHODS]
    rows = tables.make_table(ours, paper, OOD_METRICS, pairs=pairs, methods=methods)
    words = caption(
        f"Table 3: out-of-distribution detection by confidence; {words_of(scale, specs, store)}. "
        "FPR95 is the false positive rate at a true positive rate of 95 %; the code released with the "
        "paper averages it over a part of the ROC curve instead, which is shown beside it. The detection "
        "error is the least over thresholds.",
        scale,
        specs,
        store,
    ) + departures("table3", scale, ours, paper, OOD_METRICS)
    return [
        *tables.write_table(folder / "table3", rows, words),
        *table_figure.draw(ours, paper, OOD_METRICS, folder / "table3_figure", words, methods=methods),
    ]


def _fig3(scale: Scale, store: Store, folder: Path) -> list[Path]:
    from experiments.image_classification.frames import measured
    from experiments.ood.frames import entropy_frame
    from plots import entropy_ridges

    specs = _runs(scale)
    frame = measured(entropy_frame(specs, store), "fig3ab", scale)
    words = caption(
        "Figures 3a, 3b: predictive entropy of test images and of images from elsewhere; "
        f"{words_of(scale, specs, store)}.",
        scale,
        specs,
        store,
    )
    most = math.log(DATASETS[DATASET[scale]].num_classes)
    return entropy_ridges.draw(frame, folder / "fig3ab", words, most_nats=most)


OOD = (
    Artefact(
        name="table3",
        title="Table 3: out-of-distribution detection.",
        runs=_runs,
        render=_table3,
    ),
    Artefact(
        name="fig3ab",
        title="Figures 3a, 3b: predictive entropy in and out of domain.",
        runs=_runs,
        render=_fig3,
    ),
)
