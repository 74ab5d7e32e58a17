"""The paper's claims over all artefacts, judged from records."""

import pandas as pd

from experiments.artefacts import ARTEFACTS
from experiments.engine.artefact import Scale
from experiments.engine.claims import judge
from experiments.engine.record import Store
from experiments.engine.spec import TrainSpec
from experiments.image_classification.frames import metrics_frame


def verdicts(scale: Scale, store: Store) -> str:
    """A Markdown table: artefact, claim, data set, network, difference, 95 % interval, seeds, verdict."""
    rows = []
    for artefact in ARTEFACTS.values():
        if artefact.claims and scale in artefact.scales:
            looks = [spec for spec in artefact.runs(scale) if not isinstance(spec, TrainSpec)]
            frame = metrics_frame(looks, store)
            rows += [
                {"artefact": artefact.name, **row} for claim in artefact.claims for row in judge(claim, frame)
            ]
    if not rows:
        return f"no records at scale {scale}: no claim can be judged"
    return pd.DataFrame(rows).to_markdown(index=False, floatfmt=".4f")
