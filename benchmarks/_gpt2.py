"""GPT-2 as the paper trains it: no biases, no dropout, GELU, the output layer tied to the token embedding."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.shapes import CONTEXT, VOCABULARY


@dataclass(frozen=True, kw_only=True)
class Size:
    """By default GPT-2 small."""

    blocks: int = 12
    heads: int = 12
    width: int = 768
    context: int = CONTEXT
    vocabulary: int = VOCABULARY


class Block(nn.Module):
    """Causal self-attention, then a perceptron of one hidden layer, both beside an identity."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.attention_norm = nn.LayerNorm(size.width, bias=False)
        self.query_key_value = nn.Linear(size.width, 3 * size.width, bias=False)
        self.projection = nn.Linear(size.width, size.width, bias=False)
        self.perceptron_norm = nn.LayerNorm(size.width, bias=False)
        self.hidden = nn.Linear(size.width, 4 * size.width, bias=False)
        self.output = nn.Linear(4 * size.width, size.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.query_key_value(self.attention_norm(x))
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=-1)
        )
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.projection(attended.transpose(1, 2).flatten(2))
        return x + self.output(F.gelu(self.hidden(self.perceptron_norm(x))))


class GPT2(nn.Module):
    """From tokens (B, T) and the tokens that follow them (B, T) to the mean cross entropy."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.tokens = nn.Embedding(size.vocabulary, size.width)
        self.positions = nn.Embedding(size.context, size.width)
        self.blocks = nn.Sequential(*(Block(size) for _ in range(size.blocks)))
        self.norm = nn.LayerNorm(size.width, bias=False)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: Tensor, following: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        logits = F.linear(self.norm(self.blocks(x)), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1), following.flatten())
