"""The declared trainings of GPT-2, their schedule, and the days they take."""

import math
import signal
from itertools import pairwise
from pathlib import Path

import pytest

from experiments.engine.record import Store, encode
from experiments.engine.spec import LanguageSpec
from experiments.gpt2.artefacts import GPT2
from experiments.gpt2.days import forecast, measured_utilisation, published_utilisation
from experiments.gpt2.grid import SCALED_LR, training
from experiments.gpt2.peak import peak_flops
from experiments.gpt2.schedule import lr_factor
from experiments.gpt2.tuning import RATES, TIED, trial, trials, winners
from experiments.run import RESULTS

COUNTS = {"gpt2-small": 124_373_760, "gpt2-medium": 354_599_936, "gpt2-large": 773_582_080}


@pytest.mark.parametrize("model", COUNTS)
@pytest.mark.parametrize("method", ["adamw", "ivon"])
def test_protocol_is_the_papers(model, method):
    """Sec. C.1: 49 billion tokens; each of eight GPUs has whole micro-batches."""
    spec = training(model, method, 0, "paper")
    assert spec.parameters == COUNTS[model]
    assert spec.tokens_per_step == 491_520
    assert spec.train_steps * spec.tokens_per_step == 49_152_000_000
    assert (spec.warmup_steps, spec.eval_every, spec.eval_batches) == (2000, 1000, 200)
    assert spec.not_shared_by(8) == ""
    draws = spec.batch_size // spec.micro_batch
    assert training(model, "ivon", 0, "paper").not_shared_by(draws) == ""
    assert f"at most {draws}" in training(model, "ivon", 0, "paper").not_shared_by(2 * draws)
    if method == "ivon":
        lr = spec.method.lr * (spec.method.hess_init + spec.method.weight_decay)
        printed = {"gpt2-small": 0.3, "gpt2-medium": 0.2, "gpt2-large": 0.15}
        assert lr == pytest.approx(1.001 * printed[model])
        assert spec.method.sync  # a draw of its own on every GPU


def test_learning_rate_rises_in_a_line_and_ends_at_zero():
    factors = [lr_factor(step, warmup_steps=10, train_steps=100) for step in range(101)]
    assert factors[:11] == pytest.approx([step / 10 for step in range(11)])
    assert all(earlier > later for earlier, later in pairwise(factors[10:]))
    assert factors[100] == pytest.approx(0)
    assert factors[55] == pytest.approx(0.5)  # half way down
    assert lr_factor(0, warmup_steps=0, train_steps=5) == 1


def test_days_are_those_of_the_published_hours_where_nothing_is_measured(tmp_path):
    found = published_utilisation()
    assert all(0.2 < use < 0.5 for use in found.values())
    specs = [training(model, "adamw", 0, "paper") for model in COUNTS]
    lines = list(forecast(specs, [Store(tmp_path)]))
    assert len(lines) == 3
    assert "0.6 on 8 A100" in lines[0]  # 15.0 hours
    assert "1.6 on 8 A100" in lines[1]  # 37.5
    assert "of the paper's GPT-2 355M" in lines[2]
    assert list(forecast([training("gpt2-mini", "ivon", 0, "demo")], [])) == []


def test_what_was_measured_counts_before_what_was_published(tmp_path):
    store, spec = Store(tmp_path), training("gpt2-small", "ivon", 0, "paper")
    for seed, mfu in ((0, 0.4), (1, 0.5), (2, 0.6)):
        run = spec.model_copy(update={"seed": seed})
        store.add(run, {"failure": None, "result": {"mfu": mfu}, "machine": {"device": "NVIDIA H200"}})
    assert list(measured_utilisation([store]).values()) == [0.5]
    record = store.read(store.path(spec))
    record |= {"id": "0" * len(spec.id), "spec": {**record["spec"], "protocol": 99, "unheard_of": 1}}
    other = store.path(spec).with_stem(record["id"])  # of another version of this program
    other.write_bytes(encode(record))
    (line,) = forecast([spec], [store])
    assert "at 50 % of the peak (measured here)" in line


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16-weights"},
        {"checkpointing": True},
        {"corpus": "openwebtext:bytes"},
        {"blocks": 2},
    ],
)
def test_what_was_measured_counts_for_trainings_that_use_a_gpu_alike(changes, tmp_path):
    store, spec = Store(tmp_path), training("gpt2-small", "ivon", 0, "paper")
    other = LanguageSpec.model_validate({**spec.model_dump(), **changes})
    store.add(other, {"failure": None, "result": {"mfu": 0.01}, "machine": {"device": "NVIDIA H200"}})
    (line,) = forecast([spec], [store])
    assert "implied by the paper's Table 6" in line


@pytest.mark.parametrize(
    ("device", "precision", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989e12),
        ("NVIDIA H100 PCIe", "bf16-weights", 756e12),
        ("NVIDIA H100 NVL", "bf16", 835e12),
        ("NVIDIA H200", "bf16", 989e12),
        ("NVIDIA H200", "fp32", None),
        ("CPU, somebody's", "bf16", None),
    ],
)
def test_peaks_are_of_the_device_and_in_bfloat16(device, precision, peak):
    assert peak_flops(device, precision) == peak


def test_artefacts_share_their_trainings():
    specs = {artefact.name: artefact.specs("paper") for artefact in GPT2 if "paper" in artefact.scales}
    shared = {spec.id for spec in specs["fig1a"]}
    assert {spec.id for spec in specs["fig2a"]} == shared
    assert {t.id for spec in specs["fig2c"] for t in spec.trainings} < shared


@pytest.mark.parametrize("scale", ["demo", "small"])
def test_learning_rates_are_those_that_the_trials_found(scale):
    published = winners(scale, Store(RESULTS / "reference"))
    assert published == SCALED_LR[scale]
    for method, lr in published.items():
        assert RATES[method][0] < lr < RATES[method][-1]  # the best is not at the end of the range


@pytest.mark.parametrize("scale", ["demo", "small"])
def test_rates_whose_trials_are_tied_were_trained_whole(scale):
    store = Store(RESULTS / "reference")
    for method, rates in RATES.items():
        losses = {
            lr: store.done(trial(method, lr, scale))["result"]["history"][-1]["train_nll"] for lr in rates
        }
        near = {lr for lr, loss in losses.items() if loss < min(losses.values()) + 0.02}
        assert near == set(TIED[scale, method]) if len(near) > 1 else (scale, method) not in TIED


def test_a_trial_that_diverged_does_not_win(tmp_path):
    store = Store(tmp_path)
    for spec in trials("demo"):  # no ties there
        worst = spec.method.lr == min(RATES[spec.method.name])
        result = {} if worst else {"history": [{"train_nll": math.log(spec.method.lr + 2)}]}
        failure = {"reason": "loss is not finite in epoch 0, step 1"} if worst else None
        store.add(spec, {"failure": failure, "result": result, "machine": {}})
    assert winners("demo", store) == {method: sorted(rates)[1] for method, rates in RATES.items()}
    assert winners("small", store) == {}


def test_data_are_asked_for_before_anything_runs(tmp_path, monkeypatch, capsys):
    from experiments.__main__ import main

    monkeypatch.setenv("IVON_DATA", str(tmp_path / "data"))
    assert main(["run", "fig1a", "--scale", "small", "--runs", str(tmp_path / "runs")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "lm_text" in said and str(Path(tmp_path / "data")) in said


@pytest.mark.parametrize("interrupted", [False, True])
def test_tokens_are_made_before_any_worker_starts(interrupted, tmp_path, monkeypatch, capsys):
    """Where Ctrl-C ends it, and where the user sees how far it is."""
    from experiments import run
    from experiments.__main__ import main
    from experiments.data.text import shards

    started = []

    class NoLauncher:
        def __init__(self, *_arguments) -> None:
            self.failed: dict[str, str] = {}
            self.stopped_by = signal.SIGINT

        def run(self, specs) -> bool:
            started.extend(specs)
            assert list((tmp_path / "data").glob("tokens/python-docs-*-bytes/index.json"))
            return False

    def interrupt(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setenv("IVON_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(run, "Launcher", NoLauncher)
    if interrupted:
        monkeypatch.setattr(shards, "_make", interrupt)
    assert main(["run", "fig1a", "--scale", "demo", "--runs", str(tmp_path / "runs")]) == 130
    said = capsys.readouterr().err
    assert "the same command continues where it stopped" in said
    assert bool(started) == ("making tokens of python-docs" in said) == (not interrupted)
