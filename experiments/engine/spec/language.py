"""One training of a language model, and the look at it that averages over posterior draws."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from operator import not_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from experiments.data.text.corpora import Corpus, corpus, learned_vocabulary
from experiments.engine.spec.base import Pace, Source, Spec, known_name
from experiments.engine.spec.training import Training
from experiments.errors import UserError
from experiments.models.gpt2 import SIZES, Size

if TYPE_CHECKING:
    from experiments.engine.distributed import Group
    from experiments.engine.record import Store
    from experiments.engine.train import Task
    from experiments.engine.watch import Watch

VOCABULARIES = {"gpt2": 50_304, "bytes": 320}  # rounded up to multiples of 64
METHODS = ("adamw", "sgd", "ivon")  # those that take several micro-batches a step


@dataclass(frozen=True)
class Text:
    """The tokens of a corpus as a `Source`."""

    corpus: Corpus

    @property
    def title(self) -> str:
        return f"{self.corpus.title} ({self.corpus.tokenizer})"

    def check(self, root: Path) -> None:
        self.corpus.check(root)

    def fetch(self, root: Path) -> None:
        from experiments.data.text.shards import prepare

        prepare(self.corpus, root)

    def folder_below(self, root: Path) -> str | None:
        return str(self.corpus.folder(root).relative_to(root))

    def where(self, root: Path) -> str:
        folder = self.corpus.folder(root)
        try:
            self.check(root)
        except UserError as error:
            return f"{'UNUSABLE' if folder.exists() else 'MISSING'}: {error}"
        if (folder / "index.json").is_file():
            return f"tokens found in {folder}"
        return f"its tokens are made before the first run, in {folder}"


class LanguageSpec(Training):
    """One training of GPT-2 on random windows of a corpus (Sec. C.1)."""

    experiment: ClassVar[str] = "gpt2"

    batch_fields: ClassVar[tuple[str, ...]] = (
        "corpus",
        "model",
        "blocks",
        "heads",
        "width",
        "context",
        "batch_size",
        "micro_batch",
        "max_grad_norm",
        "precision",
        "checkpointing",
        "sharded",
        "seed",
    )

    kind: Literal["language"] = "language"
    protocol: Literal[1] = 1
    corpus: str
    model: str  # of SIZES
    blocks: Annotated[int, Field(ge=1)] | None = None  # None: those of the model; so the next three
    heads: Annotated[int, Field(ge=1)] | None = None
    width: Annotated[int, Field(ge=1)] | None = None
    context: Annotated[int, Field(ge=1)] | None = None
    train_steps: Annotated[int, Field(ge=1)] = 100_000
    warmup_steps: Annotated[int, Field(ge=0)] = 2000
    batch_size: Annotated[int, Field(ge=1)] = 480  # windows, over all devices
    micro_batch: Annotated[int, Field(ge=1)]  # windows that go through the network together, with one draw
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    eval_every: Annotated[int, Field(ge=1)] = 1000  # steps
    eval_batches: Annotated[int, Field(ge=1)] = 200  # of micro_batch windows
    precision: Literal["fp32", "bf16", "bf16-weights"] = "bf16"
    checkpointing: bool = False  # compute activations again in the backward pass, where memory asks for it
    # Divide weights, gradients and the method's state among the devices (FSDP2), where memory asks for it.
    # All devices then see one draw. Left out of ids while it is off, as it came after the first records.
    sharded: Annotated[bool, Field(exclude_if=not_)] = False

    @field_validator("corpus")
    @classmethod
    def _corpus_is_known(cls, name: str) -> str:
        try:
            corpus(name)
        except UserError as error:
            raise ValueError(str(error)) from None
        return name

    @field_validator("model")
    @classmethod
    def _model_is_known(cls, name: str) -> str:
        return known_name(name, list(SIZES))

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.method.name not in METHODS:
            raise ValueError(f"method {self.method.name!r} cannot train GPT-2; allowed: {', '.join(METHODS)}")
        if getattr(self.method, "hess_approx", None) == "ggn":
            raise ValueError(
                "method.hess_approx 'ggn' cannot train GPT-2: it needs gradients of single windows; "
                "allowed: price, gradsq, sg"
            )
        if self.train_steps % self.eval_every:
            raise ValueError(f"eval_every {self.eval_every} must divide train_steps {self.train_steps}")
        if self.batch_size % self.micro_batch:
            raise ValueError(f"micro_batch {self.micro_batch} must divide batch_size {self.batch_size}")
        if self.sharded and getattr(self.method, "sync", False):
            raise ValueError(
                "sharded true needs method.sync false: with divided weights all devices see one draw"
            )
        self.size_for(1)  # refuses what does not fit together
        return self

    def size_for(self, vocabulary: int) -> Size:
        """The shape of the network, for a tokenizer of so many tokens."""
        named = {"blocks": self.blocks, "heads": self.heads, "width": self.width, "context": self.context}
        given = {name: value for name, value in named.items() if value is not None}
        return replace(SIZES[self.model], vocabulary=vocabulary, **given)

    @property
    def window(self) -> int:
        """Tokens that a prediction can look back on."""
        return self.size_for(1).context

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.window

    @property
    def rounds(self) -> int:
        return self.train_steps // self.eval_every

    @property
    def steps(self) -> int:
        return self.train_steps

    @property
    def parameters(self) -> int:
        tokenizer = corpus(self.corpus).tokenizer
        return self.size_for(learned_vocabulary(tokenizer) or VOCABULARIES[tokenizer]).parameters

    @property
    def network_name(self) -> str:
        given = (self.blocks, self.heads, self.width, self.context)
        changed = "/".join("-" if value is None else str(value) for value in given)
        return self.model + (f" ({changed})" if any(given) else "")

    @property
    def devices(self) -> int:
        return 8 if self.corpus == "openwebtext" else 1

    def not_shared_by(self, processes: int) -> str:
        why_not = super().not_shared_by(processes)
        rows = self.batch_size // processes
        if not why_not and rows % min(self.micro_batch, rows):
            why_not = f"micro_batch {self.micro_batch} must divide the {rows} windows of each"
        if not why_not and self.method.draws_by_process and rows < self.micro_batch:
            # Otherwise the number of draws in a step would be that of the processes.
            most = self.batch_size // self.micro_batch
            why_not = f"at most {most}, one for each micro_batch of {self.micro_batch} windows and its draw"
        return why_not

    @property
    def sources(self) -> tuple[Source, ...]:
        return (Text(corpus(self.corpus)),)

    @property
    def effort(self) -> float:
        return 3.0 * self.train_steps * self.tokens_per_step * self.step_draws

    @property
    def label(self) -> str:
        return f"{self.method_label} {self.corpus} {self.network_name} {self.precision} seed {self.seed}"

    @property
    def _alike(self) -> tuple[str | int | None, ...]:
        shape = self.size_for(1)
        numbers = (shape.blocks, shape.width, shape.context, self.batch_size, self.micro_batch)
        memory = (self.checkpointing, "sharded") if self.sharded else (self.checkpointing,)
        return ("gpt2", self.corpus.partition(":")[2], *numbers, self.precision, *memory)

    @classmethod
    def forecast(cls, specs: list[Self], stores: list[Store]) -> Iterable[str]:
        from experiments.gpt2.days import forecast

        return forecast(specs, stores)

    def begin(self, group: Group) -> Task:
        from experiments.gpt2.training import LanguageTraining

        return LanguageTraining(self, group)


class PerplexitySpec(Spec):
    """Perplexity of the average prediction over 1, 2, 4, ... posterior draws, beside that of the mean."""

    experiment: ClassVar[str] = "gpt2"

    kind: Literal["perplexity"] = "perplexity"
    protocol: Literal[1] = 1
    train: LanguageSpec
    draws: Annotated[int, Field(ge=1)]  # the most
    batches: Annotated[int, Field(ge=1)] = 200  # of the training's micro_batch windows
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0  # of the draws

    @property
    def requires(self) -> tuple[Spec, ...]:
        return (self.train,)

    @property
    def trainings(self) -> tuple[LanguageSpec, ...]:
        return (self.train,)

    def with_trainings(self, change: Callable[[Training], Training]) -> Self:
        return self.model_copy(update={"train": change(self.train)})

    @property
    def _tokens(self) -> int:
        return (self.draws + 1) * self.batches * self.train.micro_batch * self.train.window

    @property
    def effort(self) -> float:
        return float(self._tokens)

    @property
    def pace(self) -> Pace:
        alike = ("perplexity", *self.train._alike, self.train.method.name)
        return Pace(units=self._tokens, unit=f"token and draw of {self.train.network_name}", alike=alike)

    @property
    def label(self) -> str:
        return f"perplexity of {self.train.label} (up to {self.draws} draws)"

    def carry_out(self, folder_of: Callable[[Spec], Path], group: Group, watch: Watch) -> dict[str, Any]:
        from experiments.gpt2.perplexity import by_draws

        return by_draws(self, folder_of(self.train), group, watch)
