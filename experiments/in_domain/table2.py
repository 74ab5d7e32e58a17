"""Table 2: IVON beside the methods people use for uncertainty, ResNet-20 on CIFAR-10.

The networks of AdamW and IVON are those of Table 8; SGD has another learning rate here, as in the paper's
scripts. BBB stands there twice, as the evidence lower bound and as the released code has it, of which the
paper's numbers are. A deep ensemble is the mean prediction of five networks of SGD, Multi-IVON that of five
posteriors. The settings of VOGN are chosen here, on held-out images of the demo (`tuning`): the paper's are
lost.
"""

from collections.abc import Iterator

from baselines.settings import SGD
from experiments.engine.artefact import Scale
from experiments.engine.claims import Claim
from experiments.engine.spec import EvalSpec, MixtureSpec, TrainSpec
from experiments.image_classification.frames import Look
from experiments.image_classification.grid import SEEDS, evaluations, training
from experiments.image_classification.methods import LABELS, TEST_DRAWS
from experiments.image_classification.tables import table

METHODS = ("adamw", "sgd", "bbb", "bbb_released", "mc_dropout", "swag", "vogn", "ivon")
SGD_LR = 0.2
# Seeds of the members. The paper's 25 runs are five groups, and the first group are the seeds of the table.
GROUPS: dict[Scale, list[range]] = {
    "demo": [range(5)],
    "small": [range(5)],
    "paper": [range(first, first + 5) for first in range(0, 25, 5)],
}


def in_domain_training(method: str, seed: int, scale: Scale) -> TrainSpec:
    """A training of the comparison."""
    spec = training("digits" if scale == "demo" else "cifar10", "resnet20", method, seed, scale)
    if isinstance(spec.method, SGD) and scale != "demo":  # there the rate is that of the tuning
        spec = spec.model_copy(update={"method": spec.method.model_copy(update={"lr": SGD_LR})})
    return spec


def predictor(method: str, seed: int, scale: Scale) -> EvalSpec:
    """The look at a training that is its prediction: averaged over draws where the method has any."""
    return evaluations(in_domain_training(method, seed, scale))[-1]


def mixtures(scale: Scale) -> Iterator[MixtureSpec]:
    for method in ("sgd", "ivon"):
        for seeds in GROUPS[scale]:
            yield MixtureSpec(members=tuple(predictor(method, seed, scale) for seed in seeds))


def _runs(scale: Scale) -> list[Look]:
    looks: list[Look] = [
        look
        for method in METHODS
        for seed in SEEDS[scale]
        for look in evaluations(in_domain_training(method, seed, scale))
    ]
    return [*looks, *mixtures(scale)]


def _words(scale: Scale) -> str:
    other_tables = (
        "" if scale == "demo" else f" SGD's learning rate is {SGD_LR}, in Tables 1 and 8 another one."
    )
    return (
        "A deep ensemble is the mean prediction of five networks of SGD, Multi-IVON that of five posteriors; "
        f"posteriors are averaged over {TEST_DRAWS['ivon']} draws for each batch of images, MC-dropout over "
        f"{TEST_DRAWS['mc_dropout']}.{other_tables}"
    )


TABLE2 = table(
    "table2",
    "Table 2: IVON against other Bayesian methods.",
    _runs,
    tuple(
        Claim(method=method, peer=peer, metric=metric)
        for method, peer in (
            ("IVON", LABELS["bbb"]),
            ("IVON", LABELS["bbb_released"]),
            ("IVON", "MC-dropout"),
            ("IVON", "SWAG"),
            ("IVON", "VOGN"),
            ("Multi-IVON", "Deep ensemble"),
        )
        for metric in ("top1_acc", "nll", "ece")
    ),
    _words,
)
