"""Figure 7: accuracy, NLL and calibration under corruption, by severity.

At `small` fewer images, since 64 draws for 15 corruptions of 10,000 images at 5 severities are 48 million
passes over an image. At `demo` also fewer corruptions: those that mean the same for 8x8 images as for 32x32
ones. At `paper` the images are those of the published archive; without it `fig7_made` has to be asked for.
"""

from functools import partial
from pathlib import Path
from typing import Any

from experiments.data.corruptions import CORRUPTIONS, SEVERITIES, WITHOUT_LENGTHS
from experiments.engine.artefact import Artefact, Scale
from experiments.engine.record import Store
from experiments.engine.spec import CorruptedSpec
from experiments.image_classification.captions import caption
from experiments.image_classification.grid import SEEDS
from experiments.in_domain.table2 import predictor
from experiments.metrics import METRICS, POOLED_ECE

METHODS = ("sgd", "bbb", "bbb_released", "mc_dropout", "swag", "vogn", "ivon")
REDUCED: dict[Scale, dict[str, Any]] = {
    "demo": {"corruptions": WITHOUT_LENGTHS, "images": 32},
    "small": {"images": 200},
    "paper": {"origin": "published"},
}
PANELS = {
    **{name: METRICS[name] for name in ("top1_acc", "nll", "ece")},
    POOLED_ECE.name: POOLED_ECE,
}


def _runs(scale: Scale, **changes: Any) -> list[CorruptedSpec]:
    fields = {**REDUCED[scale], **changes}
    return [
        CorruptedSpec(look=predictor(method, seed, scale), severity=severity, **fields)
        for seed in SEEDS[scale]
        for method in METHODS
        for severity in SEVERITIES
    ]


def _words(specs: list[CorruptedSpec], store: Store) -> str:
    """Which images and corruptions are shown, where they come from, and what the paper has."""
    from experiments.image_classification.frames import published

    names, images = specs[0].corruptions, specs[0].images
    words = [f"means over the {len(names)} corruptions"]
    if len(names) < len(CORRUPTIONS):
        listed = ", ".join(CORRUPTIONS[name].title.lower() for name in names)
        words = [
            f"means over {len(names)} of the {len(CORRUPTIONS)} corruptions ({listed}), as the others act "
            "over distances of some pixels, which do more to smaller images"
        ]
    if images:
        words.append(
            f"of the first {images} test images only, which makes the ECE of a single corruption too large "
            "and that of all together less so"
        )
    words += [_origin(source, names) for source in _sources(specs, store)]
    text = "; ".join(words) + "."
    if published("fig7").value.isna().all():
        text += " The paper's values were not recovered."
    return text


def _sources(specs: list[CorruptedSpec], store: Store) -> list[str]:
    return sorted({record["result"]["source"] for spec in specs if (record := store.done(spec))})


def _origin(source: str, names: tuple[str, ...]) -> str:
    if source == "published":
        return "images of the published archive"
    frost = ", with drawn ice in place of the photographs of frost" if "frost" in names else ""
    return f"images made from the published definitions{frost}"


def _draw(name: str, scale: Scale, store: Store, folder: Path, **changes: Any) -> list[Path]:
    from experiments.corruptions.frames import of_whole_seeds, severity_frame
    from experiments.image_classification.frames import measured
    from plots import severities

    specs = _runs(scale, **changes)
    found = measured(severity_frame(specs, store), name, scale)
    frame = of_whole_seeds(found)
    words = f"Figure 7: corrupted test images; {_words(specs, store)}"
    if len(frame) < len(found):
        words += " Seeds that lack a severity are left out."
    drawn = [frozenset(seeds) for _, seeds in frame.groupby("method")["seed"]]
    words = caption(words, scale, specs, store, drawn=drawn)
    return severities.draw(frame, PANELS, folder / name, words)


CORRUPTED = (
    Artefact(
        name="fig7",
        title="Figure 7: corrupted test images, by severity.",
        runs=_runs,
        render=partial(_draw, "fig7"),
    ),
    Artefact(
        name="fig7_made",
        title="Figure 7 without the archive: images made here (ours).",
        runs=partial(_runs, origin="made"),
        render=partial(_draw, "fig7_made", origin="made"),
        scales=("paper",),
    ),
)
