"""Table 2: which runs it shares with other tables, and what its mixtures are made of."""

import math

import pytest
import torch

from experiments.artefacts import ARTEFACTS
from experiments.engine.artefact import SCALES
from experiments.engine.distributed import single
from experiments.engine.execute import execute
from experiments.engine.record import Store
from experiments.engine.spec import EvalSpec, MixtureSpec, TrainSpec
from experiments.engine.watch import Watch
from experiments.image_classification.frames import method_label


def looks(scale: str) -> dict[str, list]:
    found: dict[str, list] = {}
    for spec in ARTEFACTS["table2"].runs(scale):
        found.setdefault(method_label(spec), []).append(spec)
    return found


def test_its_rows_are_the_papers_eight_methods_vogn_a_true_bbb_and_ivons_mean():
    rows = {"AdamW", "SGD", "BBB", "BBB (as released)", "MC-dropout", "SWAG", "VOGN", "IVON@mean", "IVON"}
    rows |= {"Deep ensemble", "Multi-IVON"}
    for scale in ("demo", "small", "paper"):
        assert set(looks(scale)) == rows
    assert {method: len(specs) for method, specs in looks("paper").items()} == dict.fromkeys(rows, 5)


def test_networks_are_trained_once_for_all_tables():
    """SGD has another learning rate in the paper's comparison than in its Table 8."""
    for scale, shared in (("paper", {"adamw", "ivon"}), ("demo", {"adamw", "ivon", "sgd"})):
        others = {spec.id for spec in ARTEFACTS["table8"].specs(scale) if isinstance(spec, TrainSpec)}
        seeds = {spec.seed for spec in ARTEFACTS["table8"].specs(scale) if isinstance(spec, TrainSpec)}
        for spec in ARTEFACTS["table2"].specs(scale):
            if isinstance(spec, TrainSpec) and spec.seed in seeds:
                assert (spec.id in others) == (spec.method.name in shared), spec.label


def test_an_ensemble_has_five_members_that_nobody_else_has():
    for method in ("Deep ensemble", "Multi-IVON"):
        groups = looks("paper")[method]
        assert all(isinstance(group, MixtureSpec) and len(group.members) == 5 for group in groups)
        members = [member.train.id for group in groups for member in group.members]
        assert len(set(members)) == 25
    assert {member.draws for group in looks("paper")["Multi-IVON"] for member in group.members} == {64}


def test_draws_are_those_of_the_paper():
    draws = {
        method: {s.draws for s in specs if isinstance(s, EvalSpec)}
        for method, specs in looks("paper").items()
    }
    assert all(draws[name] == {64} for name in ("IVON", "BBB", "BBB (as released)", "SWAG", "VOGN"))
    assert draws["MC-dropout"] == {32}
    assert draws["IVON@mean"] == draws["SGD"] == draws["AdamW"] == {0}


@pytest.mark.parametrize("scale", SCALES)
def test_bbb_as_released_differs_in_what_the_released_code_does(scale):
    """The library's mean of the KL and its initial values, and torch's default decay; nothing else."""
    ours, released = (looks(scale)[name][0] for name in ("BBB", "BBB (as released)"))
    changed = {"kl_reduction": "mean", "mu_init_std": 0.1, "rho_jitter": 0.1, "adamw_decay": 0.01}
    assert released.train.method == ours.train.method.model_copy(update=changed)
    assert released == ours.model_copy(update={"train": released.train})
    if scale == "paper":
        n = ours.train.train_size
        assert ours.train.method.lr == 0.002
        assert ours.train.method.weight_decay * n == pytest.approx(10)
        assert ours.train.method.std_init == pytest.approx(1.5 / n**0.5)
    assert ours.train.label != released.train.label  # in progress lines


def test_a_network_is_trained_as_released(tmp_path):
    (look, *_) = looks("demo")["BBB (as released)"]
    changes = {"epochs": 2, "warmup_epochs": 1, "width": 2, "batch_size": 200}
    train = TrainSpec.model_validate({**dict(look.train), **changes})
    store, look = Store(tmp_path), EvalSpec(train=train, draws=2)
    for run in (train, look):
        assert execute(run, store, single(torch.device("cpu")), Watch()).end == "done"
    history = store.done(train)["result"]["history"]
    assert history[-1]["train_nll"] < history[0]["train_nll"]
    assert store.done(look)["result"]["metrics"]["nll"] < 2 * math.log(10)


def test_swags_cosine_ends_where_its_own_phase_begins():
    for scale, epochs, cosine in (("paper", 200, 160), ("demo", 20, 16), ("small", 5, 3)):
        train = looks(scale)["SWAG"][0].train
        assert (train.epochs, train.cosine_epochs) == (epochs, cosine)
