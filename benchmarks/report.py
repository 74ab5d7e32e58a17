"""Runs the benchmarks of the optimizer and writes what they found.

    python -m benchmarks.report [--device cpu|cuda] [--folder results/benchmarks] [--ivon-opt FOLDER]

Each benchmark is a command of its own, with sizes that fit the device; they take a quarter of an hour on two
cores of a CPU. The result is a record with every number, `<machine>.json`, and its tables, `<machine>.md`. A
benchmark that fails is named in both, the others are kept, and the exit status is 1.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import (
    _command,
    _machine,
    ivon_opt,
    optimizer_growth,
    optimizer_memory,
    optimizer_step,
    training_step,
)
from benchmarks._table import Row
from experiments.engine.files import replace, writable_folder

ROOT = Path(__file__).parent.parent
AS_TABLE: dict[str, Callable[[list[Row]], str]] = {
    "optimizer_step": optimizer_step.as_table,
    "optimizer_memory": optimizer_memory.as_table,
    "optimizer_growth": optimizer_growth.as_table,
    "training_step": training_step.as_table,
}
TITLES = {
    "optimizer_step": "Time of an optimizer step",
    "optimizer_memory": "Memory beyond parameters and gradients, bytes for each parameter",
    "optimizer_growth": "Growth with the parameters and with the tensors",
    "training_step": "Time of a training step",
}


def plan(device: str, cores: int) -> list[str]:
    """The commands of a report, as one would type them after `python -m benchmarks.`"""
    everything = "resnet20 resnet50 gpt2-small gpt2-medium"
    if device == "cuda":
        return [
            f"optimizer_step --device cuda --shapes {everything} --rounds 30",
            "optimizer_step --device cuda --shapes gpt2-small gpt2-medium --rounds 30 --dtype bfloat16",
            f"optimizer_memory --device cuda --shapes {everything}",
            "optimizer_growth --device cuda --largest 1e9 --rounds 20",
            "training_step --device cuda --rounds 20",
        ]
    return [
        "optimizer_step --shapes resnet20 resnet50 --rounds 10",
        "optimizer_step --shapes gpt2-small gpt2-medium --rounds 3",  # ivon-opt takes 20 s for a step
        *([f"optimizer_step --threads {cores} --shapes resnet50 gpt2-small --rounds 5"] if cores > 1 else []),
        "optimizer_memory --shapes resnet20 resnet50 gpt2-small",
        "optimizer_growth --rounds 5",
        "training_step --rounds 10",
    ]


def run(command: str) -> Row:
    """What a command found, or its exit status."""
    name, *arguments = command.split()
    written = f"python -m benchmarks.{command}"
    print(f"\n$ {written}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        ended = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{name}", *arguments, "--json", str(file)], cwd=ROOT
        )
        if ended.returncode != 0:
            return {"benchmark": name, "command": written, "failed": ended.returncode}
        return {"benchmark": name, "command": written, **json.loads(file.read_text())}


def in_markdown(record: dict[str, Any]) -> str:
    """The tables of a record."""
    pieces = [
        "# Benchmarks of the optimizer",
        f"{_machine.in_words(record['machine'])}. Written by `python -m benchmarks.report`; every round is "
        f"in the JSON file of the same name.",
        "Numbers are medians over rounds, quartiles in brackets; ratios are taken within a round. "
        "A goal that was missed is there to be seen.",
    ]
    for result in record["results"]:
        pieces += [f"## {TITLES[result['benchmark']]}", f"`{result['command']}`"]
        if "failed" in result:
            pieces.append(f"Failed with exit status {result['failed']}.")
            continue
        pieces.append(AS_TABLE[result["benchmark"]](result["rows"]))
        pieces += result["left_out"]
    return "\n\n".join(pieces) + "\n"


def write(folder: Path, record: dict[str, Any]) -> Path:
    """Write the record and its tables under the machine's name; returns the path of the tables."""
    name = _machine.file_name(record["machine"])
    path = writable_folder(folder) / f"{name}.md"
    # The dot in 2.80ghz is no suffix, so no with_suffix here.
    replace(folder / f"{name}.json", (json.dumps(record, indent=1) + "\n").encode())
    replace(path, in_markdown(record).encode())
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=default)
    parser.add_argument("--folder", type=_command.path, default=ROOT / "results" / "benchmarks")
    parser.add_argument("--ivon-opt", type=_command.path, metavar="FOLDER", help="where pip has put ivon-opt")
    options = parser.parse_args(arguments)
    if options.ivon_opt:
        os.environ[ivon_opt.VARIABLE] = str(options.ivon_opt)
    ivon_opt.find()  # complains now rather than in the middle
    machine = _machine.facts(torch.device(options.device))
    results = [run(command) for command in plan(options.device, machine["cores"])]
    print(f"\nwritten: {write(options.folder, {'machine': machine, 'results': results})}")
    if any("failed" in result for result in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
