"""A GPU that a process has lost for good: the process ends, the run does not."""

import json
import os
import sys

import pytest
import torch

from experiments.engine import lock, log, worker
from experiments.engine.gpus import DEVICE_LOST
from experiments.engine.machine import is_of_lost_device
from experiments.engine.spec import TrainSpec
from experiments.errors import RunError

ILLEGAL_ACCESS = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
TOO_LITTLE = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def while_handling(first: Exception, second: Exception) -> Exception:
    second.__context__ = first
    return second


@pytest.mark.parametrize(
    "error",
    [
        ILLEGAL_ACCESS,
        RuntimeError("CUDA error: uncorrectable ECC error encountered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(...)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
        torch.distributed.DistBackendError("NCCL error in: ..., unhandled cuda error"),
        while_handling(ILLEGAL_ACCESS, KeyError("layer")),
    ],
    ids=repr,
)
def test_errors_after_which_nothing_works(error):
    assert is_of_lost_device(error)


@pytest.mark.parametrize(
    "error",
    [
        TOO_LITTLE,
        RuntimeError("size mismatch"),
        RunError("a CUDA error in a user's words"),
        OSError(28, "full"),
    ],
    ids=repr,
)
def test_errors_of_one_run(error):
    assert not is_of_lost_device(error)


@pytest.fixture
def working(store, in_child, monkeypatch):
    """`working(error, specs)`: a worker whose runs all raise it gets these; its messages and exit status."""

    def start(error: Exception, specs: list[TrainSpec]) -> tuple[list[dict], int]:
        def carry_out(*_) -> None:
            raise error

        monkeypatch.setattr(TrainSpec, "carry_out", carry_out)
        (stdin, to_worker), (from_worker, stdout) = os.pipe(), os.pipe()

        def work() -> None:
            os.dup2(stdin, 0)
            os.dup2(stdout, 1)
            for descriptor in (stdin, to_worker, from_worker, stdout):
                os.close(descriptor)
            sys.stdin = os.fdopen(0)
            sys.argv = ["worker", "--root", str(store.root), "--device", "cpu", "--checkpoint-seconds", "600"]
            worker.main()

        child = in_child(work)
        os.close(stdin)
        os.close(stdout)
        lines = "".join(json.dumps(spec.model_dump(mode="json")) + "\n" for spec in specs)
        os.write(to_worker, lines.encode())
        with os.fdopen(from_worker) as output:
            heard = [json.loads(line) for _, line in zip(specs, output, strict=False)]  # or until it is dead
        os.close(to_worker)
        return heard, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    return start


def test_worker_whose_device_is_lost_dies_and_leaves_the_run_to_another(working, store, tiny):
    spec = tiny()
    heard, status = working(ILLEGAL_ACCESS, [spec, tiny(seed=1)])
    assert (heard, status) == ([], DEVICE_LOST)
    assert not store.is_over(spec)
    assert not lock.is_claimed(store.folder(spec))
    last = log.last(store.folder(spec))
    assert last["event"] == "lost"
    assert "illegal memory access" in last["why"]
    assert not store.folder(tiny(seed=1)).exists()


def test_worker_with_too_little_memory_goes_on_with_the_next_run(working, store, tiny):
    heard, status = working(TOO_LITTLE, [tiny(), tiny(seed=1)])
    assert [message["end"] for message in heard] == ["failed", "failed"]
    assert all(message["why"].startswith("OutOfMemoryError: CUDA out of memory") for message in heard)
    assert status == 0  # its input has ended
