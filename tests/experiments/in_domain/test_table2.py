"""Table 2: which runs it shares with other tables, and what its mixtures are made of."""

from experiments.artefacts import ARTEFACTS
from experiments.engine.spec import EvalSpec, MixtureSpec, TrainSpec
from experiments.image_classification.frames import method_label


def looks(scale: str) -> dict[str, list]:
    found: dict[str, list] = {}
    for spec in ARTEFACTS["table2"].runs(scale):
        found.setdefault(method_label(spec), []).append(spec)
    return found


def test_its_rows_are_the_papers_eight_methods_vogn_and_ivons_mean():
    rows = {"AdamW", "SGD", "BBB", "MC-dropout", "SWAG", "VOGN", "IVON@mean", "IVON"}
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
    assert draws["IVON"] == draws["BBB"] == draws["SWAG"] == draws["VOGN"] == {64}
    assert draws["MC-dropout"] == {32}
    assert draws["IVON@mean"] == draws["SGD"] == draws["AdamW"] == {0}


def test_swags_cosine_ends_where_its_own_phase_begins():
    for scale, epochs, cosine in (("paper", 200, 160), ("demo", 20, 16), ("small", 5, 3)):
        train = looks(scale)["SWAG"][0].train
        assert (train.epochs, train.cosine_epochs) == (epochs, cosine)
