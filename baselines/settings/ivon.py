"""Settings of IVON."""

import warnings
from typing import TYPE_CHECKING, Literal

from baselines.settings.base import Count, Decay, Groups, NonNegative, Positive, Settings

if TYPE_CHECKING:
    from torch import nn

    from baselines.method import Method


class IVON(Settings):
    """Variational learning with `ivon.IVON`; `ess=None` is the number of training examples (the paper's
    N).

    `hess_approx` is the Hessian estimator that Table 7 compares: "price" is its reparameterisation trick,
    "sg" its squared gradient of the mini-batch (SG) and "ggn" its Gauss-Newton estimate. "gradsq" is the SG
    of the official package: ess times the square, where the paper's text has the square alone. With a squared
    gradient for the Hessian and noise in the weights, both are of Vadam's kind.
    """

    name: Literal["ivon"] = "ivon"
    lr: Positive
    ess: Positive | None = None
    hess_init: Positive = 1.0
    beta1: Decay = 0.9
    beta2: Decay = 0.99999
    weight_decay: NonNegative = 1e-4
    mc_samples: Count = 1
    hess_approx: Literal["price", "gradsq", "ggn", "sg"] = "price"
    clip_radius: Positive | None = None
    sync: bool = False  # under data parallelism: a draw of its own on every device, as in the paper
    rescale_lr: bool = True

    @property
    def draws_by_process(self) -> bool:
        return self.sync

    def build(
        self, model: "nn.Module", *, train_size: int, seed: int, groups: Groups | None = None
    ) -> "Method":
        from baselines.ivon import VariationalIVON
        from ivon import IVON as Optimizer

        with warnings.catch_warnings():
            # As the paper has it for biases and norms of GPT-2 (Sec. C.1), or a spec of our own for all.
            warnings.filterwarnings("ignore", "weight_decay is 0")
            optimizer = Optimizer(
                groups or model.parameters(),
                lr=self.lr,
                ess=float(train_size if self.ess is None else self.ess),
                hess_init=self.hess_init,
                beta1=self.beta1,
                beta2=self.beta2,
                weight_decay=self.weight_decay,
                mc_samples=self.mc_samples,
                # Squares of the mini-batch's gradient are handed over like those of single examples.
                hess_approx="ggn" if self.hess_approx == "sg" else self.hess_approx,
                clip_radius=float("inf") if self.clip_radius is None else self.clip_radius,
                sync=self.sync,
                rescale_lr=self.rescale_lr,
            )
        optimizer.seed(seed)
        return VariationalIVON(model, optimizer, batch_squares=self.hess_approx == "sg")
