"""A report holds what the commands found, and says which failed."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import _machine, report, training_step

MACHINE = {
    "device": "CPU, Intel(R) Xeon(R) Processor @ 2.80GHz",
    "cores": 2,
    "instructions": "AVX512",
    "system": "Linux 6.18",
    "versions": {"python": "3.11.7", "torch": "2.13.0"},
    "cuda": None,
    "commit": "abc",
    "date": "2026-11-21",
}


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("CPU, Intel(R) Xeon(R) Processor @ 2.80GHz", "intel-xeon-2.80ghz-2-cores"),
        ("CPU, AMD EPYC 9654 96-Core Processor", "amd-epyc-9654-96-core-2-cores"),
        ("NVIDIA H200", "nvidia-h200"),
    ],
)
def test_file_is_named_after_the_machine(device: str, name: str) -> None:
    assert _machine.file_name({**MACHINE, "device": device}) == name


def test_facts_of_this_machine() -> None:
    facts = _machine.facts(torch.device("cpu"))
    assert facts.keys() == MACHINE.keys()
    assert facts["versions"]["torch"] == torch.__version__
    assert _machine.free_bytes(torch.device("cpu")) > 0


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_planned_commands_are_understood(device: str) -> None:
    """A value that is not allowed would end the command with 2 before --help ends it with 0."""
    commands = report.plan(device, 2)
    assert {command.split()[0] for command in commands} == set(report.AS_TABLE) == set(report.TITLES)
    for command in commands:
        name, *arguments = command.split()
        with pytest.raises(SystemExit) as ended:
            getattr(report, name).main([*arguments, "--help"])
        assert ended.value.code == 0


@pytest.mark.slow  # seven seconds: a process that measures ResNet-20
def test_report_of_a_small_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "plan", lambda device, cores: ["optimizer_memory --shapes resnet20"])
    monkeypatch.delenv("IVON_OPT", raising=False)
    report.main(["--folder", str(tmp_path / "found"), "--device", "cpu"])
    (json_file,) = (tmp_path / "found").glob("*.json")
    (markdown,) = (tmp_path / "found").glob("*.md")
    record = json.loads(json_file.read_text())
    assert record["machine"]["cores"] == _machine.cores()
    (result,) = record["results"]
    assert result["command"] == "python -m benchmarks.optimizer_memory --shapes resnet20"
    assert {row["optimizer"] for row in result["rows"]} >= {"IVON", "AdamW fused"}
    text = markdown.read_text()
    assert "| resnet20, 274,042 in " in text
    assert "ivon-opt left out: " in text


def test_a_failure_is_told_and_keeps_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IVON_OPT", raising=False)
    monkeypatch.setattr(report, "plan", lambda device, cores: ["optimizer_step", "training_step"])

    def run(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
        if "benchmarks.training_step" in command:
            Path(command[-1]).write_text('{"rows": [], "left_out": ["nothing"]}')
            return subprocess.CompletedProcess(command, 0)
        return subprocess.CompletedProcess(command, 137)  # killed, for want of memory

    monkeypatch.setattr(report.subprocess, "run", run)
    monkeypatch.setattr(_machine, "facts", lambda device: MACHINE)
    with pytest.raises(SystemExit) as ended:
        report.main(["--folder", str(tmp_path), "--device", "cpu"])
    assert ended.value.code == 1
    (json_file,) = tmp_path.glob("*.json")
    assert json.loads(json_file.read_text())["results"] == [
        {"benchmark": "optimizer_step", "command": "python -m benchmarks.optimizer_step", "failed": 137},
        {
            "benchmark": "training_step",
            "command": "python -m benchmarks.training_step",
            "rows": [],
            "left_out": ["nothing"],
        },
    ]
    (markdown,) = tmp_path.glob("*.md")
    assert "Failed with exit status 137." in markdown.read_text()


def test_report_replaces_an_older_one(tmp_path: Path) -> None:
    record: dict[str, Any] = {"machine": MACHINE, "results": []}
    first = report.write(tmp_path, record)
    assert report.write(tmp_path, {**record, "machine": {**MACHINE, "commit": "def"}}) == first
    assert "commit def" in first.read_text()
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "intel-xeon-2.80ghz-2-cores.json",
        "intel-xeon-2.80ghz-2-cores.md",
    ]


def test_training_steps_are_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """IVON and AdamW from the same weights, on a network that learns its one batch."""
    toy = training_step.Size(blocks=1, heads=2, width=16, context=8, vocabulary=32)
    monkeypatch.setattr(training_step, "TOY", toy)
    monkeypatch.setattr(training_step, "TURN", 0.02)
    file = tmp_path / "found.json"
    training_step.main(["--networks", "gpt2", "--rounds", "2", "--sequences", "2", "--json", str(file)])
    ours, peer = json.loads(file.read_text())["rows"]
    assert (ours["optimizer"], peer["optimizer"]) == ("IVON", "AdamW fused")
    assert list(ours["ratio"]) == ["AdamW fused"]
    assert ours["loss"][0] == peer["loss"][0]
    for row in (ours, peer):
        assert row["loss"][1] < row["loss"][0]


def test_two_groups_share_out_the_parameters() -> None:
    network = training_step.GPT2(training_step.TOY)
    decayed, other = training_step.decayed(network, 0.1)
    assert len(decayed["params"]) + len(other["params"]) == len(list(network.parameters()))
    assert other["weight_decay"] == 0.0
    assert {p.dim() for p in other["params"]} == {1}
