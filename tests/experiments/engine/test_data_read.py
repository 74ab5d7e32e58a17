"""Records name the data that their runs have read, and a run that goes on reads the same as before."""

import json
from collections.abc import Iterator

import pytest

from baselines.settings import AdamW
from experiments.data.readers import digits
from experiments.engine.artefact import with_required
from experiments.engine.execute import execute
from experiments.engine.record import Store
from experiments.engine.spec import (
    CorruptedSpec,
    CostSpec,
    DrawSweepSpec,
    EvalSpec,
    LanguageSpec,
    MixtureSpec,
    OodSpec,
    PerplexitySpec,
    TrainSpec,
)
from experiments.engine.watch import Watch


def stop_at_the_first_look() -> Watch:
    return Watch(stop=lambda: True, progress_seconds=0.0)


@pytest.fixture
def other_digits(monkeypatch) -> Iterator[None]:
    """Digits as another release of scikit-learn might have them."""
    table = digits._read_table().copy()
    table[0, 0] ^= 1
    monkeypatch.setattr(digits, "_read_table", lambda: table)


def data_of(spec, store: Store, cpu) -> set[str]:
    for needed in with_required([spec]):
        assert execute(needed, store, cpu, Watch()).end == "done"
    data = store.done(spec)["data"]
    for identity in data.values():
        algorithm, _, digest = identity["digest"].partition(":")
        assert (algorithm, len(digest)) == ("sha256", 64)
        assert identity["of"]
    return set(data)


def test_every_kind_of_run_on_images_names_what_it_has_read(tiny, store, cpu):
    train = tiny("ivon", lr=0.2, epochs=1)
    look = EvalSpec(train=train, draws=2)
    assert data_of(train, store, cpu) == {"digits"}
    assert data_of(look, store, cpu) == {"digits"}
    assert data_of(OodSpec(look=look, outside="letters"), store, cpu) == {"letters"}
    fog = CorruptedSpec(look=look, severity=1, corruptions=("fog",), images=5)
    assert data_of(fog, store, cpu) == {"digits"}  # which the corrupted images are made of
    assert data_of(DrawSweepSpec(look=look), store, cpu) == {"digits"}
    compared = (train, tiny("sgd", epochs=1))
    assert data_of(CostSpec(compared=compared, steps=1, rounds=1), store, cpu) == {"digits"}
    pair = (look, look.model_copy(update={"seed": 1}))
    assert data_of(MixtureSpec(members=pair), store, cpu) == set()  # it reads what looks have kept


def test_runs_on_text_name_their_tokens(store, cpu, tmp_path, monkeypatch):
    monkeypatch.setenv("IVON_DATA", str(tmp_path))
    (tmp_path / "words").mkdir()
    for number in range(40):
        (tmp_path / "words" / f"{number}.txt").write_text(f"{number} and " * 100)
    shape = {"model": "gpt2-mini", "blocks": 1, "heads": 2, "width": 16, "context": 16, "precision": "fp32"}
    steps = {"train_steps": 1, "warmup_steps": 0, "eval_every": 1, "eval_batches": 1}
    rest = {"corpus": "text/words:bytes", "batch_size": 1, "micro_batch": 1}
    train = LanguageSpec(**shape, **steps, **rest, method=AdamW(lr=1e-3))
    assert data_of(train, store, cpu) == {"text/words:bytes"}
    look = PerplexitySpec(train=train, draws=1)
    assert data_of(look, store, cpu) == {"text/words:bytes"}
    assert store.done(look)["data"] == store.done(train)["data"]


def test_a_record_without_data_still_loads(tiny, store, cpu):
    spec = tiny(epochs=1)
    data_of(spec, store, cpu)
    content = json.loads(store.path(spec).read_text())
    del content["data"]
    store.path(spec).write_text(json.dumps(content))
    assert store.done(spec)["result"]["steps"] == 2


def test_a_run_does_not_go_on_with_other_data(tiny, store, cpu, request):
    spec: TrainSpec = tiny()
    assert execute(spec, store, cpu, stop_at_the_first_look()).end == "stopped"
    before = json.loads((store.folder(spec) / "data.json").read_text())
    request.getfixturevalue("other_digits")
    told = execute(spec, store, cpu, Watch())
    assert told.end == "failed"
    for part in (
        "data digits are not those",
        before["digits"]["digest"],
        str(store.folder(spec)),
        "put them",
    ):
        assert part in told.why
    request.getfixturevalue("monkeypatch").undo()
    assert execute(spec, store, cpu, Watch()).end == "done"
    assert store.done(spec)["data"] == before
