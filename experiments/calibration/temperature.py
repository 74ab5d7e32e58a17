"""Temperature scaling of the methods of Table 2 without the mixtures: how much of the differences between
them is a matter of one number fitted afterwards (ours; the paper has no such table).
"""

from pathlib import Path

from experiments.engine.artefact import Artefact, Scale
from experiments.engine.record import Store
from experiments.engine.spec import EvalSpec, TemperatureSpec
from experiments.image_classification.captions import caption
from experiments.in_domain.table2 import TABLE2
from experiments.metrics import METRICS

COLUMNS = ("top1_acc", "nll", "ece", "brier")


def _runs(scale: Scale) -> list[TemperatureSpec]:
    return [TemperatureSpec(look=look) for look in TABLE2.runs(scale) if isinstance(look, EvalSpec)]


def _words(specs: list[TemperatureSpec], store: Store) -> str:
    from experiments.calibration.frames import mean_temperatures

    means = mean_temperatures(specs, store)
    found = ", ".join(f"{method} {mean:.2f}" for method, mean in means.items())
    return (
        "Temperature scaling. No images were held out for it: each random half of the test images gets the "
        "temperature fitted on the other half, so that no image's own label has a say in its temperature; "
        "averaged predictions are scaled through their logarithms. Temperatures (mean over halves and "
        f"seeds; above 1: predictions were too sure): {found}."
    )


def _render(scale: Scale, store: Store, folder: Path) -> list[Path]:
    import pandas as pd

    from experiments.calibration.frames import PREDICTED, SCALED, temperature_frame
    from experiments.image_classification.frames import measured, method_label, pairs_of
    from plots import before_after, tables
    from plots.comparison import CELL

    specs = _runs(scale)
    frame = measured(temperature_frame(specs, store), "temperature", scale)
    metrics = {name: METRICS[name] for name in COLUMNS}
    words = caption(_words(specs, store), scale, specs, store)
    blocks = frame.assign(model=frame["model"] + ", " + frame["side"]).drop(columns="side")
    rows = tables.make_table(
        blocks,
        pd.DataFrame(columns=[*CELL, "value", "std", "unit", "n_seeds", "source"]),  # nothing is published
        metrics,
        pairs=[
            (dataset, f"{model}, {side}")
            for dataset, model in pairs_of([spec.look for spec in specs])
            for side in (PREDICTED, SCALED)
        ],
        methods=list(dict.fromkeys(method_label(spec.look) for spec in specs)),
    )
    figure = folder / "temperature_figure"
    return [
        *tables.write_table(folder / "temperature", rows, words),
        *before_after.draw(frame, metrics, figure, words, sides=(PREDICTED, SCALED)),
    ]


TEMPERATURE = Artefact(
    name="temperature",
    title="Temperature scaling of the methods of Table 2 (ours).",
    runs=_runs,
    render=_render,
)
