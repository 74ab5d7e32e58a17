"""From records of GPT-2 to the data frames that figures are drawn from."""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import pandas as pd

from experiments.data.text.corpora import corpus
from experiments.engine.artefact import Scale
from experiments.engine.record import Store
from experiments.engine.spec import LanguageSpec, PerplexitySpec, Spec
from experiments.image_classification.methods import LABELS

PAPER_LABELS = {"gpt2-small": "GPT-2 125M", "gpt2-medium": "GPT-2 355M", "gpt2-large": "GPT-2 773M"}
PRECISIONS = {"fp32": "fp32", "bf16": "bf16 autocast", "bf16-weights": "bf16 weights"}
HISTORY = ["step", "tokens", "hours", "train_nll", "nll", "perplexity"]


def _run(spec: LanguageSpec) -> dict[str, object]:
    return {
        "dataset": corpus(spec.corpus).title,
        "model": model_label(spec),
        "method": LABELS[spec.method.name],
        "precision": PRECISIONS[spec.precision],
        "seed": spec.seed,
    }


def model_label(spec: LanguageSpec) -> str:
    """As the paper calls its networks; of others the shape."""
    size = spec.size_for(1)
    return PAPER_LABELS.get(spec.model) or f"GPT-2, {size.blocks} blocks of width {size.width}"


def perplexity(nll: float) -> float:
    """Infinite where the loss (nats) is too large for its exponential."""
    try:
        return math.exp(nll)
    except OverflowError:
        return math.inf


def history_frame(specs: Sequence[LanguageSpec], store: Store) -> pd.DataFrame:
    """dataset, model, method, precision, seed, step, tokens, hours (of training alone), train_nll, nll,
    perplexity (of the validation text): a row a look.
    """
    rows = [
        {**_run(spec), **point, "hours": seconds / 3600, "perplexity": perplexity(point["nll"])}
        for spec in specs
        if (record := store.done(spec))
        for point, seconds in zip(
            record["result"]["history"], accumulate(record["result"]["round_seconds"]), strict=True
        )
    ]
    return pd.DataFrame(rows, columns=["dataset", "model", "method", "precision", "seed", *HISTORY])


def draws_frame(specs: Sequence[PerplexitySpec], store: Store) -> pd.DataFrame:
    """dataset, model, method, precision, seed, draws (0: the mean), nll, perplexity: a row a number."""
    rows = [
        {**_run(spec.train), "draws": draws, "nll": nll, "perplexity": perplexity(nll)}
        for spec in specs
        if (record := store.done(spec))
        for draws, nll in [
            (0, record["result"]["mean_nll"]),
            *((point["draws"], point["nll"]) for point in record["result"]["by_draws"]),
        ]
    ]
    columns = ["dataset", "model", "method", "precision", "seed", "draws", "nll", "perplexity"]
    return pd.DataFrame(rows, columns=columns)


def caption(what: str, scale: Scale, specs: Sequence[Spec], store: Store) -> str:
    """What is shown, at which scale it was measured, on what, and how many of the runs are there."""
    trainings = [train for spec in specs for train in spec.trainings if isinstance(train, LanguageSpec)]
    seeds = len({train.seed for train in trainings})
    one = trainings[0]
    if scale == "paper":
        protocol = "the paper's protocol"
    else:
        protocol = (
            f"scale {scale}, {corpus(one.corpus).title} by the tokenizer {corpus(one.corpus).tokenizer}, "
            f"{one.train_steps} steps of {one.tokens_per_step} tokens in place of "
            "the paper's 100,000 of 491,520, "
            "learning rates chosen by the training loss, ess and beta2 of IVON reduced with the steps"
        )
    records = [record for spec in specs if (record := store.done(spec))]
    devices = sorted({record["machine"]["device"] for record in records})
    parts = [
        what,
        f"Ours: {protocol}; {seeds} seed{'s' if seeds > 1 else ''}; "
        f"measured on {' and '.join(devices) or 'nothing yet'}.",
    ]
    ended = [record for spec in specs if (record := store.load(spec))]
    if len(ended) < len(specs):
        parts.append(f"{len(specs) - len(ended)} of {len(specs)} runs are missing.")
    parts += sorted({_diverged(record) for record in ended if record["failure"]})
    return " ".join(parts)


def _diverged(record: dict[str, Any]) -> str:
    """A sentence about a training that has no curve, the same for all seeds."""
    spec = record["spec"]
    return f"{LABELS[spec['method']['name']]} with {PRECISIONS[spec['precision']]} diverged."
