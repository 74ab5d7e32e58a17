"""Perplexity of the average prediction over posterior draws (Figure 2c)."""

import math
import time
from pathlib import Path
from typing import Any

import torch

from experiments.data.text.windows import open_tokens
from experiments.engine import checkpoint
from experiments.engine.distributed import Group
from experiments.engine.spec.language import LanguageSpec, PerplexitySpec
from experiments.engine.watch import Stopped, Watch
from experiments.gpt2.network import LanguageModel, build
from experiments.gpt2.training import JUDGED_WINDOWS


def trained_model(spec: LanguageSpec, folder: Path, group: Group, watch: Watch) -> LanguageModel:
    """The network of the last checkpoint in `folder`; RunError if that is not a whole training."""
    saved = checkpoint.of_whole_training(folder, spec.id, rounds=spec.rounds, count="round", warn=watch.warn)
    text = open_tokens(spec.corpus, "train")
    network = build(spec, group, vocabulary=text.vocabulary, train_tokens=text.count)
    network.load_state_dict(saved["network"])
    return network


@torch.no_grad()
def by_draws(spec: PerplexitySpec, trained: Path, group: Group, watch: Watch) -> dict[str, Any]:
    """Mean negative log of the average probability of each token (nats), by number of draws.

    Draws are the same for all windows: each is one language model, and its likelihoods are kept for all
    tokens, a number each.
    """
    begin = time.monotonic()
    train = spec.train
    network = trained_model(train, trained, group, watch)
    network.model.eval()
    text = open_tokens(train.corpus, "val")
    noise = torch.Generator(group.device).manual_seed(spec.seed)

    def nll_of(k: int) -> torch.Tensor:
        """Of every token, at the mean (k = 0) or at the next draw."""
        found = []
        with network.method.draw(k, noise):
            for number in range(spec.batches):
                windows = text.batch(
                    JUDGED_WINDOWS, number, train.micro_batch, train.window, device=group.device
                )
                found.append(network.token_nll(windows))
                if watch.stop():
                    raise Stopped
                watch.progress({"fraction": (k + number / spec.batches) / (spec.draws + 1)})
        return torch.stack(found).double()

    mean = nll_of(0).mean().item()
    total, points = None, []
    for k in range(1, spec.draws + 1):
        one = -nll_of(k)
        total = one if total is None else torch.logaddexp(total, one)
        if k & (k - 1) == 0 or k == spec.draws:
            points.append({"draws": k, "nll": (math.log(k) - total).mean().item()})
    return {
        "mean_nll": mean,
        "by_draws": points,
        "tokens": spec.batches * train.micro_batch * train.window,
        "seconds": time.monotonic() - begin,
    }
