"""The settings of every method: what a specification of a run says of it, and how it is built from that.

Importing this package needs no PyTorch, so that tables and figures can be drawn from records alone.
"""

from baselines.settings.base import Settings
from baselines.settings.bbb import BBB
from baselines.settings.ivon import IVON
from baselines.settings.mc_dropout import MCDropout
from baselines.settings.point import SGD, AdaHessian, AdamW
from baselines.settings.swag import SWAG
from baselines.settings.vogn import OGN, VOGN

__all__ = ["BBB", "IVON", "OGN", "SGD", "SWAG", "VOGN", "AdaHessian", "AdamW", "MCDropout", "Settings"]
