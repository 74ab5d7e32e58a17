"""Which room may import which, and what must do without PyTorch."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "ivon": set(),
    "baselines": {"ivon"},
    "experiments": {"ivon", "baselines", "plots"},
    "slurm": {"ivon", "baselines", "experiments"},
    "plots": set(),
}
WITHOUT_TORCH = [
    "baselines",
    "experiments",
    "experiments.artefacts",
    "experiments.data",
    "experiments.data.corruptions",
    "experiments.data.ood",
    "experiments.metrics",
    "experiments.metrics.ood",
    "experiments.metrics.temperature",
    "experiments.data.text.corpora",
    "experiments.models",
    "experiments.models.gpt2",
    "plots",
    "slurm.launcher",
]


def imported(source: str) -> set[str]:
    """Top-level packages that a source imports anywhere, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def imports_of(room: str) -> dict[str, set[str]]:
    return {
        str(path.relative_to(ROOT)): imported(path.read_text(encoding="utf-8"))
        for path in sorted((ROOT / room).rglob("*.py"))
    }


def test_an_import_is_seen_wherever_it_stands() -> None:
    inside = "    from slurm.launcher import run\n    import plots as p"
    source = f"import os.path\nfrom . import near\ndef f():\n{inside}"
    assert imported(source) == {"os", "slurm", "plots"}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_import_one_way(room: str) -> None:
    others = set(MAY_IMPORT) - MAY_IMPORT[room] - {room}
    offending = {file: names & others for file, names in imports_of(room).items() if names & others}
    assert not offending


def test_the_library_needs_nothing_but_torch() -> None:
    files = imports_of("ivon")
    assert files
    allowed = sys.stdlib_module_names | {"torch", "ivon"}
    others = {file: names - allowed for file, names in files.items() if names - allowed}
    # When a file of that kind is asked for, and on NVIDIA GPUs, where PyTorch comes with it.
    assert others == {"ivon/_posterior_file.py": {"safetensors"}, "ivon/_triton.py": {"triton"}}
    code = "import sys; sys.modules['safetensors'] = sys.modules['triton'] = None; import ivon"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_plots_never_import_torch() -> None:
    files = imports_of("plots")
    assert files
    assert not [file for file, names in files.items() if "torch" in names]


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_imports_without_torch(module: str) -> None:
    """The command line answers at once, and redraws figures on a machine that has no PyTorch."""
    # None in sys.modules makes `import torch` fail as if it were not installed.
    code = f"import sys; sys.modules['torch'] = None; import {module}"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr


# They compute and draw: a second and more to import, on a cluster's disk many.
HEAVY = {"torch", "matplotlib", "pandas", "scipy", "torchvision", "transformers", "sklearn", "PIL"}
AFTER_EACH = """
import contextlib, io, json, sys
from experiments.__main__ import main
for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main(arguments)
    print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
REFERENCE = str(ROOT / "results" / "reference")


@pytest.mark.parametrize(
    "commands",
    [
        ["--help", "run --help"],
        [
            "list --runs {nothing}",
            f"list --runs {REFERENCE}",
            "status table1 --runs {nothing}",
            f"status table8 --scale paper --only model=resnet20 --runs {REFERENCE}",
            "logs 0 --runs {nothing}",
            "cancel table1 --runs {nothing}",
            "plan fig3c --runs {nothing}",
        ],
    ],
    ids=["help", "records and logs"],
)
def test_commands_import_no_library_that_they_do_not_need(commands: list[str], tmp_path: Path) -> None:
    asked = [command.format(nothing=tmp_path).split() for command in commands]
    answer = subprocess.run(
        [sys.executable, "-c", AFTER_EACH, json.dumps(asked)], cwd=ROOT, capture_output=True, text=True
    )
    assert "Traceback" not in answer.stderr
    seen = [set(line.split()) for line in answer.stdout.splitlines()]
    assert [sorted(names & HEAVY) for names in seen] == [[] for _ in commands]
    assert all("experiments" in names for names in seen)
    if "--help" in commands:
        assert all("pydantic" not in names for names in seen)
