"""What stands under a table or figure of the runs that are there."""

import pytest

from experiments.artefacts import ARTEFACTS
from experiments.engine.artefact import SCALES
from experiments.engine.spec import MixtureSpec, OodSpec
from experiments.image_classification.captions import caption

FAILURE = {"reason": "loss is not finite in epoch 1, step 2", "epoch": 1, "step": 2}


def said(name, store, scale="demo"):
    return caption("It.", scale, ARTEFACTS[name].runs(scale), store)


def test_all_seeds_are_there(store, fabricate):
    fabricate(store, ARTEFACTS["table2"].specs("demo"))
    text = said("table2", store)
    assert (
        ", 5 seeds; VOGN's settings are ours, as the paper's are lost; measured on a made-up machine." in text
    )
    assert "missing" not in text and "iverged" not in text


def test_members_of_mixtures_are_no_seeds_of_the_table(store):
    specs = ARTEFACTS["table2"].runs("paper")
    assert len({spec.trainings[0].seed for spec in specs if isinstance(spec, MixtureSpec)}) == 5
    assert "the paper's protocol, 0 of 5 seeds a method; " in said("table2", store, "paper")


def test_as_few_seeds_as_there_are(store, fabricate):
    looks = ARTEFACTS["fig7"].runs("demo")
    fabricate(store, [s for s in looks if s.look.train.seed == 0])
    assert "1 of 5 seeds a method; " in said("fig7", store)
    assert f"{len(looks) * 4 // 5} of {len(looks)} runs are missing." in said("fig7", store)
    fabricate(store, [s for s in looks if s.look.train.seed == 1 and s.look.train.method.name == "ivon"])
    assert "1 to 2 of 5 seeds a method; " in said("fig7", store)


def test_a_seed_with_a_part_of_its_looks_does_not_count(store, fabricate):
    fabricate(store, [s for s in ARTEFACTS["fig7"].runs("demo") if s.severity == 1])
    assert "0 of 5 seeds a method; " in said("fig7", store)


def test_other_seeds_of_other_methods_are_told(store, fabricate):
    looks = ARTEFACTS["fig7"].runs("demo")
    fabricate(store, [s for s in looks if s.look.train.seed == (s.look.train.method.name == "ivon")])
    assert "1 of 5 seeds a method, not the same ones for all; " in said("fig7", store)


@pytest.mark.parametrize("name", ["table1", "tuning"])
def test_what_diverged_is_not_missing(name, store, fabricate):
    specs = ARTEFACTS[name].specs("demo")
    bad = {spec.trainings[0].id: spec for spec in specs if spec.trainings[0].method.name == "sgd"}
    for spec in bad.values():
        store.add(spec.trainings[0], {"failure": FAILURE, "result": {}, "machine": {}})
    fabricate(store, [spec for spec in specs if spec.trainings[0].id not in bad])
    text = said(name, store)
    assert f"Diverged, and so without numbers: SGD ({len(bad)} of {len(bad)} trainings)." in text
    assert "missing" not in text and " of " not in text.split(", ")[-2]


BBBS = ("BBB maximises the evidence lower bound.", "BBB (as released) is what the released code")


@pytest.mark.parametrize("name", ["table2", "table3", "fig3ab", "fig7", "temperature", "reliability"])
def test_captions_say_which_bbb_is_which(name, store):
    for scale in SCALES:
        text = said(name, store, scale)
        assert all(words in text for words in BBBS)
        assert ("learning rate that was chosen for the first" in text) == (scale == "demo")
    assert BBBS[0] not in said("table8", store, "paper")


def test_figure3_of_the_sets_that_have_been_looked_at(store, fabricate, tmp_path):
    """As while the looks at the second set go on."""
    looks = [s for s in ARTEFACTS["fig3ab"].runs("demo") if isinstance(s, OodSpec)]
    first = looks[0].outside
    fabricate(store, [s for s in looks if s.outside == first or s.look.train.method.name == "sgd"])
    assert ARTEFACTS["fig3ab"].render("demo", store, tmp_path / "drawn")


def test_reduced_precision_in_training_is_told(store):
    """Of ImageNet's networks alone."""
    assert "; ImageNet: trained in bf16 (autocast), evaluated in fp32; " in said("table1", store, "paper")
    assert "bf16" not in said("table2", store, "paper")
