"""The commands `sample` and `export`: what a trained language model writes, how sure it is, and its weights.

The mean of the posterior writes one continuation of the prompt, and each of some posterior draws another. Of
the first, every token is shown with the entropy of the prediction that it was drawn from: that of the mean,
and the average prediction of the draws.
"""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch

from baselines.settings import IVON
from experiments.data.text.windows import Tokens, open_tokens
from experiments.engine.distributed import single
from experiments.engine.record import DamagedRecord, Store
from experiments.engine.spec import LanguageSpec, parse_spec
from experiments.engine.watch import Watch
from experiments.errors import UserError
from experiments.gpt2.network import LanguageModel
from experiments.gpt2.perplexity import trained_model
from experiments.models.gpt2.sampling import sample, token_entropies
from experiments.models.gpt2.transformers_format import export

SEED = 0


def language_run(wanted: str, store: Store) -> LanguageSpec:
    """The finished training whose id begins so; UserError if there is not just one."""
    found, unusable = [], ""
    for path in sorted((store.root / LanguageSpec.experiment).glob("*.json")):
        if not path.stem.startswith(wanted):
            continue
        try:
            record = store.read(path)
            if record["spec"]["kind"] == "language" and not record["failure"]:
                found.append(parse_spec(record["spec"]))
        except DamagedRecord as damaged:
            unusable = str(damaged)
        except UserError as error:
            unusable = f"run {path.stem} is of another version of this program ({error})"
    if unusable and not found:
        raise UserError(unusable)
    if len(found) != 1:
        what = "no finished training" if not found else f"{len(found)} trainings"
        raise UserError(f"run {wanted!r}: {what} of a language model; `status fig1a` shows their ids")
    (spec,) = found
    assert isinstance(spec, LanguageSpec)
    return spec


def write_and_doubt(
    spec: LanguageSpec,
    store: Store,
    *,
    prompt: str,
    new_tokens: int,
    draws: int,
    temperature: float,
    top_k: int,
) -> Iterator[str]:
    """Lines: the prompt continued by the mean and by draws, then the mean's tokens with their entropies."""
    network, text = _load(spec, store)
    tokens = torch.tensor(text.tokenizer.encode(prompt) or [text.tokenizer.end_of_text])
    noise = torch.Generator().manual_seed(SEED)
    if not isinstance(spec.method, IVON):
        draws = 0  # a single network
    average = None
    for k in range(draws + 1):
        chance = torch.Generator().manual_seed(SEED + 1)  # the same for all: they differ by their weights
        with network.method.draw(k, noise), torch.no_grad():
            longer = sample(network.model, tokens, new_tokens, temperature, top_k, chance)
            if k == 0:
                written = longer[-network.model.size.context :]
                at_the_mean = token_entropies(network.model, written)
            else:
                probs = network.model(written[None])[0].float().softmax(-1)
                average = probs if average is None else average + probs
        yield f"== {f'posterior draw {k}' if k else 'mean of the posterior' if draws else 'the network'}"
        yield text.tokenizer.decode(longer.tolist())
    yield "== entropy (nats) of the prediction that each token was drawn from"
    shown = [repr(text.tokenizer.decode([token]))[1:-1] for token in written.tolist()]
    # What is predicted after token t is token t + 1.
    frame = pd.DataFrame({"token": shown[1:], "entropy": at_the_mean[:-1].tolist()})
    if average is not None:
        averaged = torch.special.entr(average / draws).sum(-1)
        frame[f"of the average of {draws} draws"] = averaged[:-1].tolist()
    yield from frame.tail(new_tokens).to_string(index=False, float_format="%.3f").splitlines()


def export_mean(spec: LanguageSpec, store: Store, folder: Path) -> None:
    """The mean as a folder that the library `transformers` loads, with the tokenizer."""
    network, text = _load(spec, store)
    tokenizer = text.tokenizer
    export(network.model, folder, tokenizer.transformers_files(), tokenizer.end_of_text)


def _load(spec: LanguageSpec, store: Store) -> tuple[LanguageModel, Tokens]:
    network = trained_model(spec, store.folder(spec), single(torch.device("cpu")), Watch())
    network.model.eval().float()
    return network, open_tokens(spec.corpus, "train")
