"""Looks at images from elsewhere: what they rest on and what they find."""

import dataclasses
import math

import pytest

from experiments.artefacts import ARTEFACTS
from experiments.data.ood import OOD_SETS
from experiments.engine import predictions
from experiments.engine.artefact import with_required
from experiments.engine.distributed import single
from experiments.engine.execute import execute
from experiments.engine.record import Store
from experiments.engine.spec import EvalSpec, OodSpec, parse_spec
from experiments.engine.watch import Watch
from experiments.errors import UserError
from experiments.metrics.ood import confidence, predictive_entropy
from experiments.ood.artefacts import words_of


@pytest.fixture
def look():
    spec = next(spec for spec in ARTEFACTS["table3"].runs("demo") if spec.look.train.method.name == "ivon")
    changes = {"epochs": 4, "warmup_epochs": 1, "width": 4, "curve_every": 4}
    train = spec.look.train.model_copy(update=changes)
    return EvalSpec(train=train, draws=2)


def test_a_network_that_knows_digits_is_less_sure_of_photographs(look, tmp_path, monkeypatch):
    import torch

    photos, loaded = OOD_SETS["photos"], []

    def load(root):
        loaded.append(dataclasses.replace(photos.load(root), only="a part"))
        return loaded[-1]

    monkeypatch.setitem(OOD_SETS, "photos", dataclasses.replace(photos, load=load))
    store, spec = Store(tmp_path), OodSpec(look=look, outside="photos")
    for run in with_required([spec]):
        assert execute(run, store, single(torch.device("cpu")), Watch()).end == "done"
    record = store.done(spec)
    assert record
    result = record["result"]
    assert result["stand_in"] == "a part" and len(loaded) == 1, "decoding may take a while"
    assert 50 < result["metrics"]["auroc"] <= 100  # 50 is the score of tossing coins
    inside, _ = predictions.load(store.folder(look))
    counts = result["entropy"]["inside"]
    assert sum(counts) == len(inside) and sum(result["entropy"]["outside"]) == result["images"]
    middle = sum(predictive_entropy(inside.numpy()) < math.log(10) / 2)
    assert sum(counts[: len(counts) // 2]) == middle
    assert confidence(inside.numpy()).min() >= 0.1


def test_what_a_network_cannot_see_is_refused(look):
    data = {"kind": "ood", "protocol": 1, "look": look.model_dump(mode="json")}
    with pytest.raises(UserError, match=r"'svhn' is scored against cifar10 or cifar100, not 'digits'"):
        parse_spec({**data, "outside": "svhn"})
    with pytest.raises(UserError, match="unknown; did you mean 'photos'"):
        parse_spec({**data, "outside": "photo"})


def test_table_and_figure_are_the_same_runs_as_table2s():
    table2 = {spec.id for spec in ARTEFACTS["table2"].specs("paper")}
    for name in ("table3", "fig3ab"):
        specs = ARTEFACTS[name].specs("paper")
        assert {spec.id for spec in specs if not isinstance(spec, OodSpec)} <= table2
        assert sum(isinstance(spec, OodSpec) for spec in specs) == 2 * 7 * 5  # sets, methods, seeds


def test_the_caption_says_of_which_part_of_a_set(tmp_path):
    store, specs = Store(tmp_path), ARTEFACTS["table3"].runs("small")
    svhn = [spec for spec in specs if spec.outside == "svhn"]
    for spec, stand_in in zip(svhn, ("the first ten images", None), strict=False):
        store.add(spec, {"failure": None, "result": {"stand_in": stand_in}, "machine": {}})
    said = words_of("small", specs, store)
    assert "SVHN: house numbers, test split (here the first ten images); Flowers102: flowers" in said
    assert said.endswith("reduced to 32x32")
