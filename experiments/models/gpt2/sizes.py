"""The sizes of GPT-2, and what a size costs, without building a network."""

from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class Size:
    """Shape of one GPT-2: transformer blocks, attention heads, and vectors of `width` numbers per token.

    context: tokens a prediction can look back on.
    vocabulary: 50304 is GPT-2's 50257 rounded up to a multiple of 64, which matrix units like.
    """

    blocks: int
    heads: int
    width: int
    context: int = 1024
    vocabulary: int = 50304

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{field.name} = {value!r}: a whole number of at least 1")
        if self.width % self.heads:
            raise ValueError(f"width = {self.width}: {self.heads} heads cannot share it equally")

    @property
    def parameters(self) -> int:
        """Weights, position embeddings included; the output layer shares those of the token embedding."""
        matrices = 4 * self.width**2 + 8 * self.width**2  # attention, perceptron; no biases
        norms = 2 * self.blocks + 1
        embeddings = self.vocabulary + self.context
        return self.blocks * matrices + (norms + embeddings) * self.width

    @property
    def flops_per_token(self) -> int:
        """Operations a training token needs, forward and backward: 6 N + 12 blocks width context.

        The model FLOPs of PaLM (Chowdhery et al., 2022, App. B): N without the position embeddings, as in
        nanoGPT; attention counted whole, although half of it is masked; no recomputation by checkpointing.
        """
        without_positions = self.parameters - self.context * self.width
        return 6 * without_positions + 12 * self.blocks * self.width * self.context


# The first three are the paper's (Sec. C.1); the last, of a million weights, is for CPUs.
SIZES: dict[str, Size] = {
    "gpt2-small": Size(blocks=12, heads=12, width=768),
    "gpt2-medium": Size(blocks=24, heads=16, width=1024),
    "gpt2-large": Size(blocks=36, heads=20, width=1280),
    "gpt2-mini": Size(blocks=4, heads=4, width=128, context=128, vocabulary=2048),
}
