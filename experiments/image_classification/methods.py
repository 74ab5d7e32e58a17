"""The paper's hyperparameters for image classification (Sec. C.2 and the released training scripts)."""

from baselines.settings import BBB, IVON, SGD, SWAG, VOGN, AdaHessian, AdamW, MCDropout, Settings
from experiments.engine.spec import Training, TrainSpec

# Predictive draws for every test mini-batch, of the methods that have any.
TEST_DRAWS = {"ivon": 64, "bbb": 64, "swag": 64, "vogn": 64, "mc_dropout": 32}
WEIGHT_DECAY = 2e-4
LABELS = {
    "sgd": "SGD",
    "adamw": "AdamW",
    "adahessian": "AdaHessian",
    "ivon": "IVON",
    "bbb": "BBB",
    "bbb_released": "BBB (as released)",
    "mc_dropout": "MC-dropout",
    "swag": "SWAG",
    "vogn": "VOGN",
}

# Sec. C.2: AdamW did not converge there and was run again with another rate, which is lost. This one is ours.
RERUN = ("tinyimagenet", "preresnet110")
RERUN_LR = 5e-4

CIFAR = {
    "sgd": SGD(lr=0.1, momentum=0.9, weight_decay=WEIGHT_DECAY),
    "adamw": AdamW(lr=0.002, weight_decay=WEIGHT_DECAY),
    "adamw_first": AdamW(lr=0.002, weight_decay=WEIGHT_DECAY),  # where "adamw" is run again
    "adahessian": AdaHessian(lr=0.05, weight_decay=WEIGHT_DECAY),
    "ivon": IVON(lr=0.2, hess_init=0.5, beta2=0.99999, weight_decay=WEIGHT_DECAY),
    # Sec. C.3. The evidence lower bound, and what the released code and the library it calls make of it.
    "bbb": BBB(lr=0.002, weight_decay=WEIGHT_DECAY),
    "bbb_released": BBB(
        lr=0.002,
        weight_decay=WEIGHT_DECAY,
        kl_reduction="mean",
        mu_init_std=0.1,
        rho_jitter=0.1,
        adamw_decay=0.01,
    ),
    "mc_dropout": MCDropout(lr=0.2, momentum=0.9, weight_decay=WEIGHT_DECAY, rate=0.05),
    "swag": SWAG(lr=0.05, momentum=0.9, weight_decay=WEIGHT_DECAY, swag_lr=0.01),
    # The paper's settings are lost, and these are not tuned on CIFAR (`tuning` at scale small would do that).
    # Prior and N are IVON's and BBB's, without the source's factor for augmentation. lr / damping, the rate
    # of SGD with the same momentum, is 0.1 in the source's CIFAR-10 run and in the demo's winner alike, and
    # damping * N, which bounds the width of the posterior, is that of the demo's winner.
    "vogn": VOGN(lr=0.5, damping=5.0, prior_precision=10.0, data_factor=1.0),
}

IMAGENET = {
    "sgd": SGD(lr=0.5, momentum=0.9, weight_decay=5e-5),
    "adamw": AdamW(lr=1e-3, weight_decay=0.1),
    "ivon": IVON(lr=2.5, hess_init=0.05, beta2=0.999995, weight_decay=5e-5, sync=True),
}


def paper_method(name: str, dataset: str, model: str) -> Settings:
    """The settings of `name` on `dataset`: tuned on CIFAR-10 with ResNet-20, the same for every network but
    where AdamW was run again.
    """
    if dataset == "imagenet":
        return IMAGENET[name]
    settings = CIFAR[name]
    if isinstance(settings, IVON) and dataset == "tinyimagenet":
        # The released scripts take twice the 100,000 training images here, although the text says N mostly.
        return settings.model_copy(update={"ess": 200_000.0})
    if name == "adamw" and (dataset, model) == RERUN:
        return settings.model_copy(update={"lr": RERUN_LR})
    return settings


def names_at(methods: tuple[str, ...], dataset: str, model: str) -> tuple[str, ...]:
    """The methods of a block of a table: AdamW with both rates where it was run again."""
    first = {"adamw": ("adamw", "adamw_first")} if (dataset, model) == RERUN else {}
    return tuple(name for method in methods for name in first.get(method, (method,)))


def label_of(train: Training) -> str:
    """The row of a table that a training belongs to, or its curve."""
    method = train.method
    if isinstance(method, BBB) and method.kl_reduction == "mean":
        return LABELS["bbb_released"]
    run_again = isinstance(train, TrainSpec) and (train.dataset, train.model) == RERUN
    if run_again and isinstance(method, AdamW) and method.lr != RERUN_LR:
        return f"{LABELS[method.name]} (lr {method.lr:g})"
    return LABELS[method.name]
