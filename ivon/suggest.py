"""From a setting of SGD or AdamW to a first one of IVON: Appendix A of the paper as code.

Where the paper has no rule, one is made of the settings of its runs, and its sentence has "our choice".
Numbers of the released scripts that are not in the paper's text are "script of Sec. C.1" and the like.
"""

import math
import textwrap
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.optim import SGD, Adam, AdamW, Optimizer

LIKE = ("resnet", "gpt2", "roberta")  # the runs of the paper to follow
LEAST_MOVE = 0.1  # of the weight of hess_init; the paper's runs lose 63 % (GPT-2) to 86 % (CIFAR)
_BETA2 = (0.999999, 0.999995, 0.99999, 0.99995, 0.9999, 0.9995, 0.999)

Choice = tuple[Any, str]  # a value and the reason for it


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """A first setting, for `IVON(params, **suggestion.settings)`.

    `sigma` is the standard deviation of all weights at the start, 1 / sqrt(ess (hess_init + weight_decay)).
    `reasons` has a sentence for each setting, for `sigma` and `warmup_steps`, and for habits of training.
    """

    settings: dict[str, Any]
    sigma: float
    warmup_steps: int
    reasons: dict[str, str] = field(repr=False)

    def __str__(self) -> str:
        """Every reason, those of numbers after the number."""
        shown = {**self.settings, "sigma": float(f"{self.sigma:.3g}"), "warmup_steps": self.warmup_steps}
        names = {name: f"{name} = {shown[name]}" if name in shown else name for name in self.reasons}
        width = max(map(len, names.values()))
        blocks = [
            f"\n{'':{width + 2}}".join([f"{name:{width}}  {first}", *rest])
            for name, text in zip(names.values(), self.reasons.values(), strict=True)
            for first, *rest in [textwrap.wrap(text, 80)]
        ]
        return "\n".join(blocks)


def suggest(
    optimizer: Optimizer | type[Optimizer], *, examples: float, steps: int, like: str, **numbers: Any
) -> Suggestion:
    """A first setting of IVON for a training that works with `torch.optim`'s SGD, Adam or AdamW.

    optimizer: that optimizer, or its class with its settings in `numbers`. Of several parameter groups the
        one with the most entries counts.
    examples: how many terms the mean in the loss over the training set has: images, or tokens to predict.
    steps: of the whole training.
    like: which runs of the paper to follow: "resnet" (convolutional networks from scratch, Sec. C.2), "gpt2"
        (transformers from scratch, Sec. C.1), or "roberta" (finetuned transformers, Sec. C.4).

    Example: `print(ivon.suggest(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=2e-4, examples=50_000,
    steps=200_000, like="resnet"))`.
    """
    if not 0 < examples < math.inf:
        raise ValueError(f"examples must be a finite number > 0, got {examples!r}")
    if not 1 <= steps < math.inf:
        raise ValueError(f"steps must be a finite number >= 1, got {steps!r}")
    if like not in LIKE:
        raise ValueError(f"like must be one of {', '.join(LIKE)}; got {like!r}")
    before, group = _largest_group(optimizer, numbers)
    if like == "resnet":
        choices, habits = _resnet(before, group, examples), {}
    else:
        choices, habits = _transformer(before, group, examples, like), {"gradients": _CLIP_NORM}
    choices |= {
        "beta1": (0.9, "App. A"),
        "beta2": (beta2_for(steps), _BETA2_REASON + hardly_moves(beta2_for(steps), steps)),
        "mc_samples": (
            1,
            "one draw a step, as in the paper's tables; Fig. 4 tries more",
        ),
    }
    settings = {name: value for name, (value, _) in choices.items()}
    return Suggestion(
        settings=settings,
        sigma=1 / math.sqrt(settings["ess"] * (settings["hess_init"] + settings["weight_decay"])),
        warmup_steps=max(1, round(steps * (0.025 if like == "resnet" else 0.02))),
        reasons={
            **{name: reason for name, (_, reason) in choices.items()},
            "sigma": "follows; 0.0063 on CIFAR-10, 0.0039 on ImageNet (Sec. C.2), 0.00032 for GPT-2 (C.1)",
            "warmup_steps": _WARMUP[like],
            "schedule": "warm up linearly, then a cosine to zero, better than to a tenth for GPT-2 (App. A)",
            "batches": "size and epochs as before; IVON gains more from larger and longer ones (App. A)",
            **habits,
        },
    )


def beta2_for(steps: int) -> float:
    """The beta2 of which 1 / (1 - beta2) steps fit best 1.5 times into a training, from 0.999 on.

    In the paper they fit 2 times (CIFAR), 1.25 times (ImageNet) and once (GPT-2).
    """
    return min(_BETA2, key=lambda beta2: abs(math.log(steps * (1 - beta2) / 1.5)))


def hardly_moves(beta2: float, steps: float) -> str:
    """What is wrong if the Hessian stays where it starts for that many steps, and nothing if it does not."""
    left = beta2**steps
    if 1 - left >= LEAST_MOVE:
        return ""
    return (
        f"; the Hessian will hardly move: after {steps:,} steps {left:.0%} of hess_init are left, so the "
        f"posterior is as wide as hess_init makes it; train longer"
    )


_BETA2_REASON = (
    "App. A: very close to 1, unstable if too small; our choice: such that its memory of 1 / (1 - beta2) "
    "steps fits about 1.5 times into the training, in the paper once (GPT-2) to twice (CIFAR); at least 0.999"
)
_CLIP_NORM = "clip the norm of each draw's gradient at 1, as the script of Sec. C.1 does"
_WARMUP = {
    "resnet": "5 of 200 epochs in Sec. C.2",
    "gpt2": "2,000 of 100,000 steps in Sec. C.1",
    "roberta": "our choice: as for GPT-2; Sec. C.4 warms up, for a number of steps that we do not know",
}


def _resnet(before: Optimizer, group: dict[str, Any], examples: float) -> dict[str, Choice]:
    lr = _lr(group)
    if isinstance(before, SGD):
        momentum = group["momentum"]
        dampening = group["dampening"] if momentum else 0.0
        if momentum >= 1:
            raise ValueError(f"momentum must be < 1, got {momentum!r}")
        lr *= 2 * (1 - dampening) * (1 - 0.9) / (1 - momentum)
        why = (
            "App. A: as SGD's or slightly larger; twice as in Sec. C.2 (0.1, 0.2); on ImageNet it is 5 times"
        )
        if momentum != 0.9 or dampening:
            why += "; our choice: SGD's is first converted to momentum 0.9 by the length of its steps"
    else:
        lr *= 100
        why = (
            "our choice: 100 times AdamW's, as in Sec. C.2 (0.002, 0.2), which is cautious: on ImageNet "
            "it is 2,500 times (0.001, 2.5); App. A compares with SGD only"
        )
    hess_init = max(25_000 / examples, 0.05)
    why_hess = (
        "our choice: the sigma of CIFAR-10 (50,000 examples, 0.5), but not below ImageNet's 0.05 (Sec. C.2); "
        "the authors' tutorial has 0.01 to 1 as usual"
    )
    if hess_init > 1:
        why_hess += ", which with few examples is so little that the noise drowns the weights"
    return {
        "lr": (float(f"{lr:.9g}"), why),
        "ess": (float(examples), "the number of training examples N (Alg. 1, App. A)"),
        "hess_init": (hess_init, why_hess),
        "weight_decay": _weight_decay(before, group, *_resnet_decay(examples)),
        "clip_radius": (math.inf, "no clipping in Sec. C.2"),
        "rescale_lr": (
            True,
            "as in Sec. C.2; the length of the first steps does not depend on hess_init then",
        ),
    }


def _resnet_decay(examples: float) -> Choice:
    """For AdamW, whose own number says little: 2e-4 for both on CIFAR, but 0.1 and 5e-5 on ImageNet."""
    return (2e-4 if examples < 1e6 else 5e-5), (
        "our choice: 2e-4 as on CIFAR and TinyImageNet, from a million examples on 5e-5 as on ImageNet "
        "(Sec. C.2); AdamW's cannot be converted: it shrinks weights by lr * weight_decay a step whatever "
        "the loss, while IVON's is part of the loss, a Gaussian prior of precision ess * weight_decay"
    )


def _transformer(before: Optimizer, group: dict[str, Any], examples: float, like: str) -> dict[str, Choice]:
    radius, hess_init, tokens = 1e-3, 1e-3, like == "gpt2"
    if like == "roberta":
        lr, why = 0.1, "App. A, for RoBERTa"
    elif isinstance(before, SGD):
        lr, why = 0.2, "App. A, for GPT-2 355M; the paper has no transformer trained by SGD to compare with"
    else:
        lr = float(f"{2 / 3 * _lr(group) / radius:.9g}")
        why = (
            "our choice: lr * clip_radius, which bounds a step, is 2/3 of AdamW's lr, as for GPT-2 355M "
            "(0.2 and 3e-4, App. A); it is 1/2 for 125M and 3/4 for 773M (scripts of Sec. C.1)"
        )
    # Not hess_init for these: without rescale_lr it would change the steps as well.
    ess, why_ess = float(examples), "the number of training examples N (App. A)"
    if tokens:
        why_ess += ", which are tokens: 1e10 in Sec. C.1 for a set of 9e9"
    if ess < 2.5e8:
        ess = 2.5e8
        why_ess = (
            "App. A: N, and more for finetuning on very small sets; our choice: at least 2.5e8, for a sigma "
            "of 0.002, a tenth of the weights (0.02) with which such networks start"
        )
    return {
        "lr": (lr, why),
        "ess": (ess, why_ess),
        "hess_init": (
            hess_init,
            "script of Sec. C.1" if tokens else "our choice: as for GPT-2; we do not know that of Sec. C.4",
        ),
        "weight_decay": _weight_decay(
            before,
            group,
            float(f"{1e-5 * group['weight_decay']:.9g}"),
            "our choice: in proportion to Sec. C.1 (AdamW 0.1, IVON 1e-6; biases and norms 0 in both), as "
            "AdamW's shrinks weights whatever the loss and IVON's is a prior of precision ess * weight_decay",
        ),
        "clip_radius": (radius, "script of Sec. C.1; App. A: a smaller radius needs a larger lr"),
        "rescale_lr": (False, "the paper does not rescale where it clips; the lr of App. A are of that kind"),
    }


def _weight_decay(before: Optimizer, group: dict[str, Any], value: float, why: str) -> Choice:
    """SGD's and Adam's own number; `value` for a decoupled one; never 0."""
    if value and (isinstance(before, AdamW) or group.get("decoupled_weight_decay")):
        return value, why
    if group["weight_decay"] == 0:
        return value or 1e-6, (
            "our choice: as in the paper's runs of this kind, since with 0 there is no proper prior, and "
            "nothing bounds the noise of weights of which the data say little"
        )
    return float(group["weight_decay"]), (
        "unchanged: for SGD, Adam and IVON it is a penalty of weight_decay / 2 |w|^2 in the loss, here from "
        "a Gaussian prior of precision ess * weight_decay (Sec. C.2: both 2e-4, on ImageNet both 5e-5)"
    )


def _lr(group: dict[str, Any]) -> float:
    """The peak of a schedule, if there is one."""
    return float(group.get("initial_lr", group["lr"]))


def _largest_group(
    optimizer: Optimizer | type[Optimizer], numbers: dict[str, Any]
) -> tuple[Optimizer, dict[str, Any]]:
    if isinstance(optimizer, type):
        before = optimizer([torch.zeros(())], **numbers)
    elif numbers:
        raise ValueError(
            f"{', '.join(numbers)}: settings may be given with the class of an optimizer, got {optimizer!r}"
        )
    else:
        before = optimizer
    if not isinstance(before, SGD | Adam):
        raise ValueError(f"optimizer must be torch.optim's SGD, Adam or AdamW, got {type(before).__name__}")
    return before, max(before.param_groups, key=lambda group: sum(p.numel() for p in group["params"]))
