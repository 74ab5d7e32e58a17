"""What the benchmark commands have in common: options, first line, result file."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks import _machine
from benchmarks._table import Row
from experiments.errors import UserError
from experiments.paths import user_path


@dataclass
class Findings:
    """What a benchmark found: rows for its table, and a line for each thing that it could not measure."""

    rows: list[Row] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument("--threads", type=_count, default=1, help="of PyTorch on the CPU")
    made.add_argument("--json", type=path, metavar="FILE", help="write what was found there, too")
    return made


def add_rounds(made: argparse.ArgumentParser, default: int) -> None:
    """The option of benchmarks that take time."""
    made.add_argument("--rounds", type=_count, default=default, help="in which the candidates take turns")


def begin(made: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; PyTorch is set to them, and the machine is printed."""
    options = made.parse_args(arguments)
    options.device = torch.device(options.device)
    if options.device.type == "cuda" and not torch.cuda.is_available():
        made.error("--device cuda: PyTorch sees no GPU here")
    torch.set_num_threads(options.threads)
    print(f"{_machine.in_words(_machine.facts(options.device))}, threads: {options.threads}", flush=True)
    return options


def finish(options: argparse.Namespace, findings: Findings, text: str) -> None:
    """Print the table, and write the findings to where they were asked for."""
    print(text)
    for line in findings.left_out:
        print(line)
    if options.json:
        options.json.write_text(json.dumps({"rows": findings.rows, "left_out": findings.left_out}))


def path(text: str) -> Path:
    try:
        return user_path(text, "path")
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value
