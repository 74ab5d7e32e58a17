"""ARTEFACTS is the one list of tables and figures: name -> what it needs and how it is drawn."""

from experiments.calibration.reliability import RELIABILITY
from experiments.calibration.temperature import TEMPERATURE
from experiments.corruptions.artefacts import CORRUPTED
from experiments.cost.table6 import TABLE6
from experiments.draws.fig4 import FIG4
from experiments.engine.artefact import Artefact
from experiments.gpt2.artefacts import GPT2
from experiments.hessian_estimators.table7 import TABLE7
from experiments.image_classification.figures import FIGURES
from experiments.image_classification.tables import TABLES
from experiments.image_classification.tuning import TUNING
from experiments.in_domain.table2 import TABLE2
from experiments.ood.artefacts import OOD
from experiments.toy.fig3c import FIG3C
from experiments.toy.toy2d import TOY2D

ARTEFACTS: dict[str, Artefact] = {
    artefact.name: artefact
    for artefact in (
        *TABLES,
        TABLE2,
        TABLE6,
        TABLE7,
        *OOD,
        FIG4,
        *CORRUPTED,
        TEMPERATURE,
        RELIABILITY,
        *FIGURES,
        FIG3C,
        TOY2D,
        *GPT2,
        TUNING,
    )
}
