"""What there is to know about a cluster before a job is submitted to it: one TOML file each."""

import os
import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from experiments.data.root import VARIABLE, data_root
from experiments.engine.spec import nearest, one_line
from experiments.errors import UserError
from experiments.paths import user_path

ROOT = Path(__file__).parents[1]  # where jobs run
FOLDER = Path(__file__).parent / "clusters"

Count = Annotated[int, Field(ge=1)]
Line = Annotated[str, Field(min_length=1, pattern=r"^[^\n]*$")]


class Cluster(BaseModel):
    """A cluster profile; `slurm/clusters/example.toml` explains every field."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    partition: Line | None = None
    account: Line | None = None
    qos: Line | None = None
    constraint: Line | None = None
    gpus_per_node: Annotated[int, Field(ge=0)] = 0  # 0: the runs use CPUs
    gpu_type: Line | None = None
    processes_per_node: Count | None = None  # without GPUs: of a training that several processes share
    cpus: Count = 1
    mem_gb: Annotated[float, Field(gt=0)] = 2.0
    runs_per_job: Count = 1  # small runs that share a job at the same time; on one GPU if there are GPUs
    job_minutes: Annotated[int, Field(ge=0)] = (
        60  # small runs follow each other in a job until it lasts so long
    )
    time_limit_minutes: Count
    signal_seconds: Annotated[int, Field(ge=10, le=1200)] = 120
    checkpoint_seconds: Annotated[float, Field(gt=0)] = 600.0
    max_running: Count = 64
    max_array_size: Count | None = None  # elements of a job array; None: the cluster is asked
    setup: tuple[Line, ...] = ()
    environment: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], Line] = {}
    data_scratch: Line | None = None
    sbatch: dict[Annotated[str, Field(pattern=r"^[a-z][a-z-]*$")], str | int | bool] = {}

    @model_validator(mode="after")
    def _leaves_time_to_work(self) -> "Cluster":
        # SLURM may send the signal a minute early.
        if 60 * self.time_limit_minutes < self.signal_seconds + 90:
            least = -(-(self.signal_seconds + 90) // 60)
            raise ValueError(
                f"time_limit_minutes {self.time_limit_minutes} leaves no time before the signal: "
                f"must be at least {least} with signal_seconds {self.signal_seconds}"
            )
        if self.gpu_type and not self.gpus_per_node:
            raise ValueError(f"gpu_type {self.gpu_type!r} needs gpus_per_node of at least 1")
        return self

    @property
    def device(self) -> str:
        return "cuda" if self.gpus_per_node else "cpu"

    @property
    def data_root(self) -> Path:
        """Absolute, for this machine and the nodes alike; a relative one of the profile is below ROOT."""
        told = self.environment.get(VARIABLE)
        return user_path(told, f"environment.{VARIABLE}", base=ROOT) if told else data_root()


def load(name: str | None) -> Cluster:
    """The profile `name`, or else $IVON_CLUSTER: a file of `slurm/clusters`, or a path that ends in .toml."""
    name = name or os.environ.get("IVON_CLUSTER")
    known = sorted(path.stem for path in FOLDER.glob("*.toml"))
    if not name:
        raise UserError(f"no cluster named: give --cluster or set IVON_CLUSTER; known: {', '.join(known)}")
    path = user_path(name, "cluster") if name.endswith(".toml") else FOLDER / f"{name}.toml"
    try:
        content = path.read_bytes()
    except OSError as error:
        if name.endswith(".toml"):
            raise UserError(f"cluster profile {path}: {error.strerror}") from None
        raise UserError(
            f"unknown cluster {name!r}; {nearest(name, known)}, or a path to a .toml file"
        ) from None
    try:
        text = content.decode("utf-8-sig")  # Windows' editors write a byte-order mark
        return Cluster.model_validate(_with_tuples(tomllib.loads(text)))
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        byte = content[error.start]
        raise UserError(f"cluster profile {path}: not UTF-8: byte 0x{byte:02x} in line {line}") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"cluster profile {path}: not TOML: {error}") from None
    except RecursionError:
        raise UserError(f"cluster profile {path}: not TOML that can be read: nested too deep") from None
    except ValidationError as error:
        raise UserError(f"cluster profile {path}: {one_line(error)}") from None


def _with_tuples(table: dict[str, object]) -> dict[str, object]:
    """TOML has lists where frozen settings have tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
