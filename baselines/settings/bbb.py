"""Settings of Bayes by Backprop."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from baselines.settings.base import Decay, NonNegative, Positive, Settings

if TYPE_CHECKING:
    from torch import nn

    from baselines.method import Method


class BBB(Settings):
    """Bayes by Backprop with AdamW on (mu, rho); see `baselines.bbb`.

    The defaults are the evidence lower bound. The paper's run differs in four fields, by its code and by that
    of the library it calls: `kl_reduction="mean"`, `adamw_decay=0.01`, `mu_init_std=0.1`, `rho_jitter=0.1`.
    The initial deviation does not follow N: 1.5 / sqrt(1000) drowns a ResNet-20 on the digits in noise.
    """

    numbers_per_weight: ClassVar[int] = 6  # mu, rho and AdamW's two of each

    name: Literal["bbb"] = "bbb"
    lr: Positive
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    eps: Positive = 1e-8
    weight_decay: Positive = 1e-4  # times N the precision of the prior, as for IVON
    temperature: Positive = 1.0  # of the KL
    kl_reduction: Literal["sum", "mean"] = "sum"
    # 0.0067, the paper's on CIFAR-10. The inverse of softplus overflows from 710 on.
    std_init: Annotated[float, Field(gt=0, le=100)] = 1.5 * 50_000**-0.5
    mu_init_std: Positive | None = None  # None: mu starts at the network's own initialisation
    rho_jitter: NonNegative = 0.0  # standard deviation of what is added to the initial rho
    adamw_decay: NonNegative = 0.0  # decoupled, of mu and rho and of what has no posterior

    def build(self, model: "nn.Module", *, train_size: int, seed: int) -> "Method":
        import torch

        from baselines.bbb import BayesByBackprop, MeanField, layer_parameters
        from baselines.draws import keyed_generator

        posterior = MeanField(
            layer_parameters(model),
            prior_precision=self.weight_decay * train_size,
            std_init=self.std_init,
            kl_reduction=self.kl_reduction,
        )
        generator = keyed_generator(posterior.rho.device, seed, "bbb start")
        with torch.no_grad():
            if self.mu_init_std is not None:
                for mean in posterior.params:
                    mean.normal_(0, self.mu_init_std, generator=generator)
            if self.rho_jitter:
                jitter = torch.empty_like(posterior.rho).normal_(0, self.rho_jitter, generator=generator)
                posterior.rho.add_(jitter)
        optimizer = torch.optim.AdamW(
            [*(p for p in model.parameters() if p.requires_grad), posterior.rho],
            lr=self.lr,
            betas=(self.beta1, self.beta2),
            eps=self.eps,
            weight_decay=self.adamw_decay,
        )
        return BayesByBackprop(posterior, optimizer, kl_weight=self.temperature / train_size, seed=seed)
