"""Text from a network, and how sure it is of each token; under whichever weights it holds at the time."""

import torch
from torch import Tensor

from experiments.models.gpt2.network import GPT2


@torch.no_grad()
def sample(
    model: GPT2,
    prompt_tokens: Tensor,
    new_tokens: int,
    temperature: float,
    top_k: int | None,
    generator: torch.Generator,
) -> Tensor:
    """The prompt (T,) continued to (T + new_tokens,), each token drawn from softmax(logits / temperature).

    temperature 0: always the likeliest token. top_k: only among so many likeliest; None: all.
    generator: of the CPU, where the draws are made, so that they are the same whatever device computes.
    """
    if prompt_tokens.dim() != 1 or len(prompt_tokens) == 0:
        raise ValueError(f"prompt of shape {tuple(prompt_tokens.shape)}: one row of at least one token")
    if temperature < 0:
        raise ValueError(f"temperature = {temperature}: at least 0")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k = {top_k}: at least 1, or None")
    tokens = prompt_tokens
    for _ in range(new_tokens):
        logits = model(tokens[None, -model.size.context :])[0, -1].float().cpu()
        following = _draw(logits, temperature, top_k, generator).to(tokens.device)
        tokens = torch.cat([tokens, following])
    return tokens


def _draw(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> Tensor:
    if temperature == 0:
        return logits.argmax(keepdim=True)
    likeliest = logits.topk(min(top_k or len(logits), len(logits)))
    chosen = torch.multinomial((likeliest.values / temperature).softmax(-1), 1, generator=generator)
    return likeliest.indices[chosen]


@torch.no_grad()
def token_entropies(model: GPT2, tokens: Tensor) -> Tensor:
    """Entropy in nats (T,) of what the network expects after each token (T,): 0 to log(vocabulary)."""
    log_probs = model(tokens[None])[0].float().log_softmax(-1)
    return torch.special.entr(log_probs.exp()).sum(-1)
