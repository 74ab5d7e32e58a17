"""Thousands of runs in one store: how long `list`, `status` and `render` take, and how that grows.

    python -m benchmarks.many_runs

The records are those of the demo's Table 1, under other seeds; a tenth of the runs has none yet and was
submitted to a cluster. Every command is a process of its own, as a user starts it, and not for the first
time: modules have been compiled.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks._table import table
from experiments.artefacts import ARTEFACTS
from experiments.engine.record import Store
from experiments.engine.spec import EvalSpec, Spec, TrainSpec

SIZES = (2500, 5000, 10_000)
WARM_UP = 100
ROOT = Path(__file__).parents[1]
COMMANDS = {
    "list": ["list"],
    "status": ["status", "table1"],
    "render": ["render", "table1"],
}
# The command line as it is, but for the number of seeds.
PROGRAM = """
import sys
from experiments.image_classification import tables
tables.SEEDS = {{**tables.SEEDS, "demo": range({seeds})}}
from experiments.__main__ import main
sys.exit(main({arguments!r}))
"""


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as compiled:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": compiled}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for size in (WARM_UP, *SIZES):
            rows += _measure(size, environment)
    print(table(("store", "command", "time"), rows[len(COMMANDS) :]))


def _measure(size: int, environment: dict[str, str]) -> list[tuple[str, str, str]]:
    """A row for each command."""
    rows = []
    seeds = size // len([spec for spec in ARTEFACTS["table1"].specs("demo") if _seed(spec) == 0])
    with tempfile.TemporaryDirectory() as folder:
        runs = _fill(Store(Path(folder)), seeds)
        for name, arguments in COMMANDS.items():
            program = PROGRAM.format(seeds=seeds, arguments=[*arguments, "--runs", folder])
            command = [sys.executable, "-c", program]
            start = time.monotonic()
            subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
            rows.append((f"{runs} runs", name, f"{time.monotonic() - start:.2f} s"))
    return rows


def _seed(spec: Spec) -> int:
    return (spec.train if isinstance(spec, EvalSpec) else spec).seed


def _fill(store: Store, seeds: int) -> int:
    """Records of Table 1 with so many seeds; their number."""
    published = Store(ROOT / "results" / "reference")
    runs = []
    for spec in ARTEFACTS["table1"].specs("demo"):
        if _seed(spec) == 0:
            record = published.load(spec)
            assert record is not None
            runs += [(with_seed(spec, seed), record) for seed in range(seeds)]
    (store.root / runs[0][0].experiment).mkdir(parents=True)
    left = []
    for number, (spec, record) in enumerate(runs):
        if number % 10:
            store.path(spec).write_text(
                json.dumps({**record, "id": spec.id, "spec": spec.model_dump(mode="json")})
            )
        else:
            left.append(spec.id)
    folder = store.root / "slurm" / "ivon-261121-000000-000000"
    folder.mkdir(parents=True)
    (folder / "submission.json").write_text(json.dumps({"time": 0.0, "tasks": [[run] for run in left]}))
    return len(runs)


def with_seed(spec: Spec, seed: int) -> Spec:
    if isinstance(spec, TrainSpec):
        return spec.model_copy(update={"seed": seed})
    return spec.model_copy(update={"train": with_seed(spec.train, seed)})


if __name__ == "__main__":
    main()
