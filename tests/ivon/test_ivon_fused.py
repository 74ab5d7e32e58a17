"""The kernels for GPUs, in Triton's interpreter, and compiled for GPUs that need not be there."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from ivon import IVON, _fused

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="Triton is not installed: it comes with PyTorch for GPUs",
)


@pytest.mark.timeout(400)  # half a minute on an idle machine
def test_in_the_interpreter():
    """In a process of its own: Triton decides at its import whether it interprets."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:xdist",
            "-p",
            "no:cacheprovider",
            HERE / "interpreted",
        ],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout


COMPILE = """
import sys
from ivon import _triton
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TYPES = {"table": "*i64", "numels": "*i64", "groups": "*i64", "tensor_of": "*i32", "chunk_of": "*i32",
         "n": "i32", "seed": "i64"}
for kernel, flags in (
    (_triton.draw, {}),
    (_triton.restore, {}),
    (_triton.add, {"price": True, "first": False}),
    (_triton.update, {"price": True, "summed": False, "clipped": True}),
):
    constants = {**flags, "aligned": True, "block": _triton.BLOCK}
    types = {name: TYPES.get(name, "fp32") for name in kernel.arg_names}
    types |= dict.fromkeys(constants, "constexpr")
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, types, constexprs=places)
    code = compile(source, target=GPUTarget("cuda", int(sys.argv[1]), 32))
    assert "st.global.v4.b32" in code.asm["ptx"], "does not store sixteen bytes at once"
    assert "st.shared" not in code.asm["ptx"], "passes numbers between threads"
"""


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("draws", [1, 2])
def test_on_a_gpu(draws):
    """The kernels work there, are used, and learn a least-squares fit."""
    assert _fused.works(torch.device("cuda", torch.cuda.current_device()))
    rng = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 5, generator=rng)
    model = nn.Linear(5, 1).cuda()
    targets = (inputs @ torch.arange(5.0)).unsqueeze(1).cuda()
    inputs = inputs.cuda()
    optimizer = IVON(model.parameters(), lr=0.3, ess=200.0, beta2=0.99)
    for _ in range(200):
        for _ in range(draws):
            with optimizer.sampled_params(train=True):
                (model(inputs) - targets).square().mean().backward()
        assert all(part.block.drawn is not None for part in optimizer._draws._pending)
        optimizer.step()
    assert (model(inputs) - targets).square().mean() < 0.1  # 30 at first, 0.006 on a CPU


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [80, 90], ids=["A100", "H100"])
def test_compiled(architecture, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, str(architecture)],
        env={**os.environ, "TRITON_CACHE_DIR": str(tmp_path)},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
