"""GPT-2 without biases and dropout, its output layer tied to the token embedding (paper, Sec. C.1)."""

import math

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from experiments.models.gpt2.sizes import Size

INIT_STD = 0.02  # GPT-2's (Radford et al., 2019)


class Block(nn.Module):
    """Causal self-attention, then a perceptron of one hidden layer, both beside an identity."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.attention_norm = nn.LayerNorm(size.width, bias=False)
        self.query_key_value = nn.Linear(size.width, 3 * size.width, bias=False)
        self.attention_output = nn.Linear(size.width, size.width, bias=False)
        self.perceptron_norm = nn.LayerNorm(size.width, bias=False)
        self.hidden = nn.Linear(size.width, 4 * size.width, bias=False)
        self.perceptron_output = nn.Linear(4 * size.width, size.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attention(self.attention_norm(x))
        # The exact GELU, of nanoGPT since June 2023; GPT-2 as released had the tanh approximation.
        return x + self.perceptron_output(F.gelu(self.hidden(self.perceptron_norm(x))))

    def _attention(self, x: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.query_key_value(x).chunk(3, dim=-1)
        )
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.attention_output(attended.transpose(1, 2).flatten(2))


class GPT2(nn.Module):
    """From tokens int64 (B, T) to the logits (B, T, vocabulary) of the token after each.

    checkpointing: keep only the input of each block for the backward pass and compute the rest again, for a
    third more time. Backward must then run before the weights change: inside the context of a posterior draw.
    """

    def __init__(self, size: Size, checkpointing: bool = False) -> None:
        """Weights drawn from torch's global generator."""
        super().__init__()
        self.size = size
        self.checkpointing = checkpointing
        self.tokens = nn.Embedding(size.vocabulary, size.width)
        self.positions = nn.Embedding(size.context, size.width)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.blocks))
        self.norm = nn.LayerNorm(size.width, bias=False)
        self._initialise()

    def _initialise(self) -> None:
        """N(0, 0.02^2), and less for what is added to the identity 2 x blocks times, as in GPT-2."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                added = name.endswith(("attention_output.weight", "perceptron_output.weight"))
                nn.init.normal_(
                    parameter, std=INIT_STD / math.sqrt(2 * self.size.blocks) if added else INIT_STD
                )

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        if length > self.size.context:
            raise ValueError(f"{length} tokens are more than the context of {self.size.context}")
        x = self.tokens(tokens) + self.positions.weight[:length]
        for block in self.blocks:
            if self.checkpointing and self.training:
                # No dropout, so no random numbers to repeat.
                x = checkpoint(block, x, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x)
        return F.linear(self.norm(x), self.tokens.weight)


def loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Mean cross entropy in nats, in float32, of the tokens (B, T) that follow; its exp is the perplexity."""
    return F.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten())


def decayed(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters with weight decay (matrices and embeddings) and those without (1-D), as in nanoGPT."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [p for p in parameters if p.dim() >= 2], [p for p in parameters if p.dim() < 2]
