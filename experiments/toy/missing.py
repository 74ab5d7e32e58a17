"""What a caption says of runs that are not there."""

from collections.abc import Sequence

from experiments.engine.record import Store
from experiments.engine.spec.toy import RegressionSpec, SurfaceSpec


def missing(specs: Sequence[RegressionSpec | SurfaceSpec], store: Store) -> list[str]:
    """A sentence if there are such runs, else none."""
    count = sum(store.done(spec) is None for spec in specs)
    return [f"{count} of {len(specs)} runs are missing."] if count else []
