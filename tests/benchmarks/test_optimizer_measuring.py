"""What the benchmarks of the optimizer report is what they were given to measure."""

import ast
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.profiler import profile

import ivon
from benchmarks import _memory, ivon_opt, optimizer_growth, optimizer_memory, optimizer_step
from benchmarks._optimizers import ADAMW, OURS, TORCH, builders, fit
from benchmarks._table import ratio, spread
from benchmarks._timing import Spent, Stopwatch, take_turns, to_compare

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
SHAPES = [(30, 40), (7,), (1000,)]


class Known:
    """Keeps 4 bytes for each parameter, takes 4 for the draw, and 4 more while it updates."""

    def __init__(self, weights: Sequence[nn.Parameter]) -> None:
        self.weights, self.kept, self.noise = weights, list[Tensor](), list[Tensor]()

    def draw(self) -> None:
        self.noise = [torch.ones_like(weight) for weight in self.weights]

    def update(self) -> None:
        assert all(weight.grad is not None for weight in self.weights)
        self.kept = self.kept or [torch.ones_like(weight) for weight in self.weights]
        buffer = [torch.ones_like(weight) for weight in self.weights]
        del buffer
        self.noise = []


def test_counted_memory_is_exact() -> None:
    with profile(profile_memory=True):  # which remembers what it has seen
        garbage: list = [torch.empty(1000)]  # of earlier work, which is not ours to give back
        garbage.append(garbage)
        del garbage
    assert _memory.counted(Known, SHAPES, CPU) == _memory.Memory(kept=4.0, peak=12.0)


def test_counted_memory_of_momentum() -> None:
    """One buffer, and an update in place; a few bytes for the numbers it is multiplied by."""
    found = _memory.counted(TORCH["SGD momentum"], SHAPES, CPU)
    assert found.kept == 4.0
    assert found.peak == pytest.approx(4.0, abs=0.1)


@pytest.mark.slow
def test_resident_memory_agrees_with_the_counted() -> None:
    """In a process of its own, as it changes malloc for good; pages and the system's counters are coarse."""
    code = (
        "from benchmarks import _memory, _optimizers\n"
        "found = _memory.resident(_optimizers.TORCH['AdamW foreach'], [(1000, 2000)])\n"
        "print(found and (found.kept, found.peak))"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    if ended.stdout.strip() == "None":
        pytest.skip("this system does not let a process count its pages")
    resident = ast.literal_eval(ended.stdout)
    counted = _memory.counted(TORCH["AdamW foreach"], SHAPES, CPU)
    assert resident == pytest.approx((counted.kept, counted.peak), abs=0.5)


def test_turns_count_the_watched_part_only() -> None:
    calls: list[str] = []

    def work(name: str):
        def go(watch: Stopwatch) -> None:
            calls.append(name)
            sum(range(20_000))
            watch.start()
            watch.stop()

        return go

    taken = take_turns({"a": work("a"), "b": work("b")}, CPU, rounds=3, seconds=0.0)
    assert "".join(calls[-6:]) == "ababab"
    assert [len(spent) for spent in taken.values()] == [3, 3]
    assert all(isinstance(one, Spent) and one.clock >= 0 for one in taken["a"])


def test_one_thread_is_compared_by_processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    spent = [Spent(clock=2.0, processor=1.0)]
    for threads, device, seconds in [(1, CPU, [1.0]), (2, CPU, [2.0]), (1, torch.device("cuda"), [2.0])]:
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert to_compare(spent, device) == seconds


def test_spread_and_ratio() -> None:
    assert spread([3.0, 1.0, 2.0])["median"] == 2.0
    assert spread([5.0]) == {"median": 5.0, "low": 5.0, "high": 5.0, "rounds": [5.0]}
    # Round by round: a slow round is slow for both.
    assert ratio([2.0, 20.0], [1.0, 10.0])["rounds"] == [2.0, 2.0]


def test_what_does_not_fit_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks._machine.free_bytes", lambda device: 1_000_000)
    assert fit([OURS], 10_000, CPU)
    assert not fit([OURS], 100_000, CPU)
    cases = optimizer_growth.sweep(100_000, 1000, 10)
    findings = optimizer_growth.measure(cases, builders([ADAMW], None), CPU, rounds=1)
    assert {row["parameters"] for row in findings.rows} == {10_000, 1000}
    assert findings.left_out == ["100,000 parameters: too large"]


def test_steps_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer_step, "TURN", 0.0)
    makers = builders([ADAMW], None)
    found = optimizer_step.measure(["resnet20"], makers, CPU, 2, torch.float32)
    ours, adamw = found.rows
    assert (ours["optimizer"], adamw["optimizer"]) == (OURS, ADAMW)
    assert ours["goals"] == {ADAMW: 8.0, "ivon-opt": 0.1}
    quotients = [
        a / b for a, b in zip(*(row["processor_ns"]["rounds"] for row in (ours, adamw)), strict=True)
    ]
    assert ours["ratio"][ADAMW]["rounds"] == pytest.approx(quotients, rel=1e-3)
    text = optimizer_step.as_table(found.rows)
    assert "/ AdamW fused <= 8: " in text
    assert "/ ivon-opt <=" not in text  # not measured, so no verdict


def test_memory_is_measured() -> None:
    found = optimizer_memory.measure(["resnet20"], builders(["SGD momentum"], None), CPU, torch.float32)
    ours, sgd = found.rows
    assert sgd["kept"] == 4.0
    assert sgd["resident_peak"] is None  # too few parameters to see
    assert ours["peak"] >= ours["kept"] > 0
    assert optimizer_memory.as_table(found.rows).count("\n") == 3


@pytest.mark.slow  # six seconds, most of them timing
def test_growth_is_measured() -> None:
    assert optimizer_growth.powers_of_ten(10, 5000) == [10, 100, 1000]
    cases = optimizer_growth.sweep(10_000, 4000, 100)
    assert [(grows, len(shapes)) for grows, shapes in cases] == [
        ("parameters", 1),
        ("tensors", 10),
        ("tensors", 100),
    ]
    found = optimizer_growth.measure(cases, builders([ADAMW], None), CPU, rounds=1)
    assert len(found.rows) == 6
    assert all(row["kept"] > 0 for row in found.rows)
    assert set(optimizer_growth.nanoseconds_per_tensor(found.rows)) == {OURS, ADAMW}
    assert "One more tensor costs" in optimizer_growth.as_table(found.rows)


def test_slope_of_a_tensor() -> None:
    rows = [
        {
            "grows": "tensors",
            "tensors": n,
            "parameters": 1000,
            "optimizer": "x",
            "ns": spread([5.0 + 0.3 * n]),
        }
        for n in (10, 110)
    ]
    assert optimizer_growth.nanoseconds_per_tensor(rows) == {"x": pytest.approx(300)}


def package(folder: Path, version: str) -> Path:
    """A package that looks like the peer."""
    (folder / "ivon").mkdir(parents=True)
    (folder / "ivon" / "__init__.py").write_text("from ._parts import IVON\n")
    (folder / "ivon" / "_parts.py").write_text("class IVON:\n    peer = True\n")
    info = folder / f"ivon_opt-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: ivon-opt\nVersion: {version}\n")
    return folder


def test_peer_is_loaded_beside_our_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sys.modules["ivon"]
    monkeypatch.setenv(ivon_opt.VARIABLE, str(package(tmp_path, "0.1.3")))
    found = ivon_opt.find()
    assert found.peer
    assert found is not ivon.IVON
    assert sys.modules["ivon"] is before


def test_no_peer_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ivon_opt.VARIABLE, raising=False)
    assert ivon_opt.find() is None
    with pytest.raises(ValueError, match=r"must be a folder with ivon-opt 0\.1\.3 .*, got"):
        ivon_opt.find(str(tmp_path))
    with pytest.raises(ValueError, match=r"must be a folder with ivon-opt 0\.1\.3 .*, got"):
        ivon_opt.find(str(package(tmp_path, "0.1.2")))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    gpu = torch.device("cuda")
    assert _memory.counted(Known, [(1024, 1024)], gpu) == _memory.Memory(kept=4.0, peak=12.0)
    found = optimizer_step.measure(["resnet20"], builders([ADAMW], None), gpu, 2, torch.float32)
    assert all(row["clock_ns"]["median"] > 0 for row in found.rows)
