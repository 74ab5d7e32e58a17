"""The trainings of GPT-2, at three scales.

`paper` is the protocol of Sec. C.1: OpenWebText, 100,000 steps of 480 windows of 1024 tokens. `small` is a
network of a million weights on a few megabytes of English, `demo` one of a tenth of that on Python's own
documentation and library. Both keep the paper's hyperparameters of IVON but for what follows from fewer
steps: beta2 keeps the weight that the initial Hessian has at the end of the paper's runs (exp(-1)); ess falls
as 1 - beta2 rises, because the noise of the Hessian's average grows with their product and would drown it;
and the learning rates are those that `tuning_gpt2` found by the training loss.
"""

from baselines.settings import IVON, SGD, AdamW, Settings
from experiments.engine.artefact import Scale
from experiments.engine.spec import LanguageSpec

PAPER_STEPS = 100_000
SIZES: dict[Scale, tuple[str, ...]] = {
    "demo": ("gpt2-mini",),
    "small": ("gpt2-mini",),
    "paper": ("gpt2-small", "gpt2-medium", "gpt2-large"),
}
SEEDS: dict[Scale, range] = {"demo": range(2), "small": range(1), "paper": range(1)}
MICRO_BATCH = {"gpt2-small": 20, "gpt2-medium": 12, "gpt2-large": 4}
ADAMW_LR = {"gpt2-small": 6e-4, "gpt2-medium": 3e-4, "gpt2-large": 2e-4}
IVON_LR = {"gpt2-small": 300.0, "gpt2-medium": 200.0, "gpt2-large": 150.0}
SCALED_LR: dict[Scale, dict[str, float]] = {  # chosen by `tuning_gpt2`
    "demo": {"adamw": 3e-3, "ivon": 1000.0},
    "small": {"adamw": 3e-3, "ivon": 1000.0},
}

# What `demo` and `small` replace. The size of gpt2-mini is that of `small`.
SCALED: dict[Scale, dict[str, object]] = {
    "demo": {
        "corpus": "python-docs",
        "blocks": 2,
        "heads": 2,
        "width": 64,
        "context": 64,
        "train_steps": 400,
        "warmup_steps": 20,
        "eval_every": 40,
        "eval_batches": 20,
    },
    "small": {
        "corpus": "text/lm_text:bpe2048",
        "train_steps": 4000,
        "warmup_steps": 80,
        "eval_every": 200,
        "eval_batches": 50,
    },
}


def paper_method(name: str, model: str) -> Settings:
    """The settings of the released training scripts (Sec. C.1)."""
    if name == "adamw":
        return AdamW(lr=ADAMW_LR.get(model, 6e-4), beta1=0.9, beta2=0.95, weight_decay=0.1)
    if name == "ivon":
        return IVON(
            # As released, with rescale_lr: 300 (hess_init + weight_decay) is the 0.3 that the text has
            # without it, but for 0.1 %.
            lr=IVON_LR.get(model, 300.0),
            ess=1e10,
            hess_init=1e-3,
            beta1=0.9,
            beta2=0.99999,
            weight_decay=1e-6,
            clip_radius=1e-3,
            sync=True,
        )
    return SGD(lr=0.1)  # not of the paper, which does not run it


def training(model: str, method: str, seed: int, scale: Scale, precision: str | None = None) -> LanguageSpec:
    """One training; without `precision`, that of the scale: bf16 autocast on GPUs, fp32 on CPUs."""
    settings = paper_method(method, model)
    if scale == "paper":
        return LanguageSpec(
            corpus="openwebtext",
            model=model,
            method=settings,
            seed=seed,
            micro_batch=MICRO_BATCH[model],
            precision=precision or "bf16",  # type: ignore[arg-type]
        )
    changes = SCALED[scale]
    return LanguageSpec.model_validate(
        {
            "model": model,
            "method": scaled(settings, scale, int(changes["train_steps"])),  # type: ignore[call-overload]
            "seed": seed,
            "batch_size": 16,
            "micro_batch": 16,
            "precision": precision or "fp32",
            **changes,
        }
    )


def scaled(settings: Settings, scale: Scale, train_steps: int) -> Settings:
    """Settings for fewer steps and a small network on one device."""
    changes: dict[str, object] = {"lr": SCALED_LR[scale].get(settings.name, 0.1)}  # type: ignore[attr-defined]
    if isinstance(settings, IVON):
        assert settings.ess is not None
        shorter = PAPER_STEPS / train_steps
        changes |= {
            "beta2": round(1 - (1 - settings.beta2) * shorter, 10),
            "ess": round(settings.ess / shorter, 10),
            "sync": False,
        }
    return settings.model_copy(update=changes)
