"""Our GPT-2 as one of the library `transformers`: a folder that its tools load."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from experiments.errors import RunError
from experiments.models.gpt2.network import GPT2
from experiments.torchvision_guard import import_torchvision

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

# (ours, theirs); the second half are matrices that transformers keeps transposed (its Conv1D)
_NORMS = (("attention_norm", "ln_1"), ("perceptron_norm", "ln_2"))
_MATRICES = (
    ("query_key_value", "attn.c_attn"),
    ("attention_output", "attn.c_proj"),
    ("hidden", "mlp.c_fc"),
    ("perceptron_output", "mlp.c_proj"),
)


def _names(blocks: int) -> list[tuple[str, str, bool]]:
    """(our weight, theirs, whether theirs is transposed) for each of our parameters."""
    names = [("tokens.weight", "transformer.wte.weight", False)]
    names += [("positions.weight", "transformer.wpe.weight", False)]
    for index in range(blocks):
        ours, theirs = f"blocks.{index}", f"transformer.h.{index}"
        names += [(f"{ours}.{a}.weight", f"{theirs}.{b}.weight", False) for a, b in _NORMS]
        names += [(f"{ours}.{a}.weight", f"{theirs}.{b}.weight", True) for a, b in _MATRICES]
    return [*names, ("norm.weight", "transformer.ln_f.weight", False)]


def to_transformers(model: GPT2, end_of_text: int | None = None) -> GPT2LMHeadModel:
    """A copy on the CPU, its biases zero; `end_of_text` is the token at which `generate` stops."""
    import_torchvision()  # transformers imports it
    from transformers import GPT2Config, GPT2LMHeadModel

    size = model.size
    config = GPT2Config(
        vocab_size=size.vocabulary,
        n_positions=size.context,
        n_embd=size.width,
        n_layer=size.blocks,
        n_head=size.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
        pad_token_id=end_of_text,
        # What our network does. GPT2Config's own GELU is the tanh approximation, "gelu_new".
        activation_function="gelu",
        layer_norm_epsilon=1e-5,
        scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
        add_cross_attention=False,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):  # its initialisation, thrown away, draws random numbers
        theirs = GPT2LMHeadModel(config)
    state = {name: torch.zeros_like(value) for name, value in theirs.state_dict().items()}
    ours = model.state_dict()
    for own, other, transposed in _names(size.blocks):
        weight = ours[own].detach().cpu()
        state[other] = weight.T.contiguous() if transposed else weight
    state["lm_head.weight"] = state["transformer.wte.weight"]
    theirs.load_state_dict(state)
    return theirs.eval()


def export(
    model: GPT2,
    folder: Path,
    tokenizer_files: Mapping[str, bytes] | None = None,
    end_of_text: int | None = None,
) -> None:
    """Write `folder` for AutoModelForCausalLM.from_pretrained, whole or not at all; it must not exist.

    tokenizer_files: by name, what AutoTokenizer.from_pretrained needs (`Tokenizer.transformers_files`).
    """
    if folder.exists():
        raise RunError(f"{folder} is there already: name another folder, or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        to_transformers(model, end_of_text).save_pretrained(aside)
        for name, content in (tokenizer_files or {}).items():
            (aside / name).write_bytes(content)
        for file in aside.iterdir():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        aside.chmod(0o777 & ~_umask())  # mkdtemp's are for their owner alone
        aside.rename(folder)
    except OSError as error:
        raise RunError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
