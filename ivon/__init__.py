"""IVON, the Improved Variational Online Newton optimizer (Shen et al., ICML 2024), for PyTorch."""

from ivon.optimizer import IVON
from ivon.predict import predict

__version__ = "0.1.0"
__all__ = ["IVON", "__version__", "predict"]
