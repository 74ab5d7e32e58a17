"""The settings of every method: what a specification of a run says of it, and how it is built from that.

Importing this package needs no PyTorch, so that tables and figures can be drawn from records alone.
"""

from baselines.settings.base import Settings
from baselines.settings.ivon import IVON
from baselines.settings.point import SGD, AdaHessian, AdamW

__all__ = ["IVON", "SGD", "AdaHessian", "AdamW", "Settings"]
