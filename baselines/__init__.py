"""The methods IVON is compared with, and IVON itself, behind the same few verbs (`baselines.method`).

METHODS is the one list: name in a specification -> settings. The algorithms live in one file each.
"""

from baselines.settings import BBB, IVON, OGN, SGD, SWAG, VOGN, AdaHessian, AdamW, MCDropout, Settings

METHODS: dict[str, type[Settings]] = {
    "sgd": SGD,
    "adamw": AdamW,
    "adahessian": AdaHessian,
    "ivon": IVON,
    "vogn": VOGN,
    "ogn": OGN,
    "bbb": BBB,
    "mc_dropout": MCDropout,
    "swag": SWAG,
}
