"""The trainings and evaluations of the image-classification tables, at three scales.

`paper` is the base. `small` is ResNet-20 for a fortieth of the epochs; `demo` is scikit-learn's handwritten
digits with narrow networks. Both keep the paper's hyperparameters except for what follows from fewer steps
and examples: `ess` is the number of examples, hess_init gives the posterior the paper's initial width
(ess * hess_init is kept), beta2 keeps the weight that the initial Hessian has at the end of the paper's runs
(exp(-2)), and at `demo` the learning rates are those that `tuning` found on held-out training images. VOGN's
damping follows hess_init, and its prior is as wide as IVON's.
"""

from itertools import product

from baselines.settings import IVON, SWAG, VOGN, Settings
from experiments.data import DATASETS
from experiments.engine.artefact import Scale
from experiments.engine.spec import EvalSpec, TrainSpec
from experiments.image_classification.methods import TEST_DRAWS, names_at, paper_method

SEEDS: dict[Scale, range] = {"demo": range(5), "small": range(3), "paper": range(5)}
GRID_SEEDS: dict[Scale, range] = {**SEEDS, "demo": range(2)}
EPOCHS: dict[Scale, int] = {"demo": 20, "small": 5, "paper": 200}
PAPER_STEPS = 200_000  # of a CIFAR run: 200 epochs of 1000 steps
PAPER_SIZE = 50_000  # training images of CIFAR
DEMO_WIDTHS = {"resnet20": 8, "resnet18": 16}
DEMO_LR = {  # chosen by `tuning`
    "sgd": 0.1,
    "adamw": 0.018,
    "adahessian": 0.45,
    "ivon": 0.2,
    "bbb": 0.006,
    "mc_dropout": 0.2,
    "swag": 0.15,
    "vogn": 25.0,
}

TABLE1_METHODS = ("adamw", "sgd", "ivon")
GRID_METHODS = ("adamw", "adahessian", "sgd", "ivon")
GRID_MODELS: dict[Scale, tuple[str, ...]] = {
    "demo": ("resnet20", "resnet18"),  # the other two take an hour even when narrow
    "small": ("resnet20",),
    "paper": ("resnet20", "densenet121", "preresnet110", "resnet18"),
}

TABLE1_PAIRS: dict[Scale, list[tuple[str, str]]] = {
    "demo": [("digits", "resnet20")],
    "small": [("cifar10", "resnet20")],
    "paper": [
        ("imagenet", "resnet50"),
        ("tinyimagenet", "resnet18"),
        ("tinyimagenet", "preresnet110"),
        ("cifar100", "resnet18"),
        ("cifar100", "preresnet110"),
    ],
}
FIGURE1_PAIR = {scale: pairs[0] for scale, pairs in TABLE1_PAIRS.items()}  # ImageNet at `paper`
OVERFITTING_PAIR = {**FIGURE1_PAIR, "paper": ("tinyimagenet", "resnet18")}  # where AdamW overfits most
# Their curves are drawn, with a point an epoch as in the released code; others have one every tenth.
CURVES = (FIGURE1_PAIR["paper"], OVERFITTING_PAIR["paper"])


def grid_pairs(dataset: str, scale: Scale) -> list[tuple[str, str]]:
    """The data set and networks of Table 8, 9 or 10."""
    return [("digits" if scale == "demo" else dataset, model) for model in GRID_MODELS[scale]]


def training(dataset: str, model: str, method: str, seed: int, scale: Scale) -> TrainSpec:
    """One training of the grid at `scale`."""
    settings = paper_method(method, dataset, model)
    curves = {"curve_every": 1} if (dataset, model) in CURVES else {}
    if dataset == "imagenet":
        return TrainSpec(
            dataset=dataset,
            model=model,
            method=settings,
            seed=seed,
            batch_size=1024,
            # A draw on each of so many GPUs; how many the paper had is not known, for GPT-2 it was 8.
            shares=DATASETS[dataset].devices if isinstance(settings, IVON) else 1,
            precision="bf16",
            **curves,
        )
    spec = TrainSpec(dataset=dataset, model=model, method=settings, seed=seed, **curves)
    if isinstance(settings, SWAG):
        spec = spec.model_copy(update={"cosine_epochs": spec.epochs - swag_epochs(settings, spec.epochs)})
    return spec if scale == "paper" else shrink(spec, scale)


def shrink(spec: TrainSpec, scale: Scale) -> TrainSpec:
    """`spec` with the fields that make it `small` or `demo` replaced."""
    method: Settings = spec.method
    changes: dict[str, object] = {}
    if scale == "demo":
        changes["width"] = DEMO_WIDTHS[spec.model]
        method = method.model_copy(update={"lr": DEMO_LR[method.name]})  # type: ignore[attr-defined]
        if isinstance(method, IVON):
            hess_init = round(method.hess_init * PAPER_SIZE / spec.train_size, 10)
            method = method.model_copy(update={"hess_init": hess_init})
        if isinstance(method, VOGN):
            larger = PAPER_SIZE / spec.train_size
            of_size = {"damping": method.damping * larger, "prior_precision": method.prior_precision / larger}
            method = method.model_copy(update={name: round(value, 10) for name, value in of_size.items()})
    epochs = EPOCHS[scale]
    if isinstance(method, IVON):
        paper_steps = PAPER_STEPS if scale == "demo" else spec.epochs * spec.steps_per_epoch
        beta2 = round(1 - (1 - method.beta2) * paper_steps / (epochs * spec.steps_per_epoch), 10)
        method = method.model_copy(update={"beta2": beta2})
    warmup_epochs = max(1, round(spec.warmup_epochs * epochs / spec.epochs))
    cosine_epochs = epochs - (swag_epochs(method, epochs) if isinstance(method, SWAG) else 0)
    if scale == "small":
        # Over so few epochs a cosine as long as all of them would end at a third of the peak.
        changes["cosine_epochs"] = cosine_epochs - warmup_epochs
    elif cosine_epochs < epochs:
        changes["cosine_epochs"] = cosine_epochs
    changes |= {
        "method": method,
        "epochs": epochs,
        "warmup_epochs": warmup_epochs,
        "curve_every": 1,
    }
    return TrainSpec.model_validate({**dict(spec), **changes})


def swag_epochs(settings: SWAG, epochs: int) -> int:
    """Those at the end in which SWAG collects iterates."""
    return max(1, round(settings.swag_part * epochs))


def evaluations(train: TrainSpec) -> list[EvalSpec]:
    """The looks that the tables take at one trained network: what it predicts with, and IVON's mean too."""
    draws = TEST_DRAWS.get(train.method.name, 0)
    if isinstance(train.method, IVON):
        return [EvalSpec(train=train), EvalSpec(train=train, draws=draws)]
    return [EvalSpec(train=train, draws=draws)]


def cells(
    pairs: list[tuple[str, str]], methods: tuple[str, ...], seeds: range, scale: Scale
) -> list[EvalSpec]:
    """All evaluations of a table, in the order of its rows; the whole table with one seed before the next."""
    return [
        look
        for seed, (dataset, model) in product(seeds, pairs)
        for method in names_at(methods, dataset, model)
        for look in evaluations(training(dataset, model, method, seed, scale))
    ]
