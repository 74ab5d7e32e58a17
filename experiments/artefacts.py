"""ARTEFACTS is the one list of tables and figures: name -> what it needs and how it is drawn."""

from experiments.engine.artefact import Artefact
from experiments.image_classification.figures import FIGURES
from experiments.image_classification.tables import TABLES
from experiments.image_classification.tuning import TUNING
from experiments.in_domain.table2 import TABLE2
from experiments.ood.artefacts import OOD

ARTEFACTS: dict[str, Artefact] = {
    artefact.name: artefact for artefact in (*TABLES, TABLE2, *OOD, *FIGURES, TUNING)
}
