"""IVON, the Improved Variational Online Newton optimizer (Shen et al., ICML 2024), for PyTorch."""

from ivon.batch_norm import refresh_batch_norm
from ivon.diagnostics import Diagnosis, diagnose
from ivon.mixture import Mixture
from ivon.optimizer import IVON
from ivon.per_example import per_example_backward
from ivon.posterior import Posterior
from ivon.predict import predict
from ivon.regression import PredictiveMoments, predict_regression
from ivon.suggest import Suggestion, suggest
from ivon.wrappers import find_ivon, sampled_params

__version__ = "0.1.0"
__all__ = [
    "IVON",
    "Diagnosis",
    "Mixture",
    "Posterior",
    "PredictiveMoments",
    "Suggestion",
    "__version__",
    "diagnose",
    "find_ivon",
    "per_example_backward",
    "predict",
    "predict_regression",
    "refresh_batch_norm",
    "sampled_params",
    "suggest",
]
