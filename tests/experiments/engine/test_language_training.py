"""The training of language models: interrupted, shared among processes, cut into micro-batches."""

import gc
import math
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from baselines.settings import IVON, SGD, AdamW
from experiments.engine import checkpoint, measure
from experiments.engine.estimate import Throughput
from experiments.engine.execute import execute
from experiments.engine.record import Store
from experiments.engine.spec import LanguageSpec, PerplexitySpec
from experiments.engine.watch import Stopped, Watch
from experiments.gpt2 import training
from experiments.gpt2.perplexity import by_draws, trained_model
from experiments.gpt2.training import JUDGED_WINDOWS, LanguageTraining

METHODS = {
    "adamw": AdamW(lr=1e-2, beta2=0.95, weight_decay=0.1),
    "sgd": SGD(lr=0.1),
    "ivon": IVON(lr=1000.0, ess=1e6, hess_init=1e-3, beta2=0.99, weight_decay=1e-6, clip_radius=1e-3),
}
TIMES = ("round_seconds", "tokens_per_second", "seconds")


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory) -> Any:
    """A data root with a little text: the tokens are made once."""
    root = tmp_path_factory.mktemp("data")
    (root / "text" / "words").mkdir(parents=True)
    for number in range(40):
        words = " ".join(str(number * k % 97) for k in range(1, 150))
        (root / "text" / "words" / f"{number}.txt").write_text(f"numbers of {number}: {words}\n")
    return root


@pytest.fixture(autouse=True)
def _data(data_folder, monkeypatch):
    monkeypatch.setenv("IVON_DATA", str(data_folder))


@pytest.fixture
def small() -> Callable[..., LanguageSpec]:
    """`small("ivon", micro_batch=2)`: six steps of a network of ten thousand weights, in three rounds."""

    def make(name: str = "adamw", **changes: Any) -> LanguageSpec:
        shape = {"model": "gpt2-mini", "blocks": 1, "heads": 2, "width": 16, "context": 16}
        steps = {"train_steps": 6, "warmup_steps": 2, "eval_every": 2, "eval_batches": 2}
        rest = {"corpus": "text/words:bytes", "batch_size": 4, "micro_batch": 2, "precision": "fp32"}
        return LanguageSpec(**{**shape, **steps, **rest, "method": METHODS[name], **changes})

    return make


def stop_after_looks(count: int) -> Callable[[], bool]:
    left = iter(range(count - 1))
    return lambda: next(left, None) is None


def three_steps() -> Watch:
    return Watch(stop=stop_after_looks(3), progress_seconds=0.0)


def state(store: Store, spec: LanguageSpec) -> dict[str, Any]:
    """The network, and what the record says but for times."""
    saved = checkpoint.load(store.folder(spec), spec.id, warn=pytest.fail)
    result = {k: v for k, v in store.done(spec)["result"].items() if k not in TIMES}
    return {**saved["network"], "result": repr(result)}


def assert_equal(one: Any, other: Any) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_equal(left, right)
    else:
        assert one == other


@pytest.mark.parametrize("method", METHODS)
def test_interrupted_equals_uninterrupted(method, small, cpu, tmp_path):
    """Stopped within a round and at its last step."""
    spec = small(method)
    whole, cut = Store(tmp_path / "whole"), Store(tmp_path / "cut")
    assert execute(spec, whole, cpu, Watch()).end == "done"
    for _ in range(spec.train_steps):
        execute(spec, cut, cpu, Watch(stop=stop_after_looks(1), progress_seconds=0.0))
    assert execute(spec, cut, cpu, Watch()).end == "done"
    assert_equal(state(cut, spec), state(whole, spec))
    history = whole.done(spec)["result"]["history"]
    assert [point["tokens"] for point in history] == [2 * 64, 4 * 64, 6 * 64]
    assert history[-1]["train_nll"] < history[0]["train_nll"]


@pytest.mark.parametrize("method", ["adamw", "ivon"])
def test_two_processes_stopped_and_resumed_equal_two_uninterrupted(method, small, together, tmp_path):
    settings = METHODS[method]
    if method == "ivon":  # as in the paper, a draw of its own for every micro-batch of every process
        settings = settings.model_copy(update={"sync": True})
    spec = small(method, method=settings, micro_batch=1)
    whole, cut = Store(tmp_path / "whole"), Store(tmp_path / "cut")
    together(2, lambda group: execute(spec, whole, group, Watch()))

    def attempt(group) -> None:
        ends = [
            execute(spec, cut, group, three_steps()).end,
            execute(spec, cut, group, Watch()).end,
        ]
        assert not group.leads or ends == ["stopped", "done"]

    together(2, attempt)
    assert_equal(state(cut, spec), state(whole, spec))


@pytest.mark.parametrize("method", METHODS)
def test_divided_among_two_processes_equals_one(method, small, cpu, together, tmp_path):
    """FSDP2: one draw a step here, on both processes the same. A count of looks that two cannot share."""
    spec = small(method, micro_batch=4, eval_batches=3, sharded=True)
    alone, shared = Store(tmp_path / "alone"), Store(tmp_path / "shared")
    execute(spec, alone, cpu, Watch())

    def divided(group) -> None:
        task = LanguageTraining(spec, group)
        weights = list(task.network.model.parameters())
        assert sum(p.to_local().numel() for p in weights) < 0.6 * sum(p.numel() for p in weights)
        execute(spec, shared, group, Watch())

    together(2, divided)
    histories = [store.done(spec)["result"]["history"] for store in (alone, shared)]
    for one, two in zip(*histories, strict=True):
        assert two == pytest.approx(one, rel=1e-4)  # sums of gradients in another order


@pytest.mark.parametrize("method", ["adamw", "ivon"])
def test_divided_training_is_continued_by_any_number_of_processes(method, small, cpu, together, tmp_path):
    spec = small(method, micro_batch=1, sharded=True)
    whole, cut, moved = (Store(tmp_path / name) for name in ("whole", "cut", "moved"))
    together(2, lambda group: execute(spec, whole, group, Watch()))

    def attempt(group) -> None:
        runs = ((cut, three_steps()), (cut, Watch()), (moved, three_steps()))
        ends = [execute(spec, store, group, watch).end for store, watch in runs]
        assert not group.leads or ends == ["stopped", "done", "stopped"]

    together(2, attempt)
    assert_equal(state(cut, spec), state(whole, spec))
    assert execute(spec, moved, cpu, Watch()).end == "done"
    if method == "adamw":  # one process has other micro-batches, and IVON a draw for each
        found = [store.done(spec)["result"]["history"][-1]["nll"] for store in (whole, moved)]
        assert found[1] == pytest.approx(found[0], rel=1e-4)


@pytest.mark.parametrize("world", [1, 2])
def test_reading_a_checkpoint_leaves_its_tensors_where_they_are(world, small, together):
    """Else a GPU would have the weights twice for as long as somebody keeps what was read."""

    def read(group) -> None:
        task = LanguageTraining(small(sharded=True), group)
        saved = task.state_dict()
        weights = saved["network"]["model"]
        before = dict(weights)
        for value in weights.values():
            value.add_(1.0)
        task.load_state_dict(saved)
        assert weights.keys() == before.keys()
        assert all(weights[name] is value for name, value in before.items())
        assert_equal(task.state_dict()["network"]["model"], before)

    together(world, read)


def test_a_resumed_training_lets_go_of_what_it_has_read(small, cpu, tmp_path, monkeypatch):
    spec, store, read = small(), Store(tmp_path), []
    assert execute(spec, store, cpu, Watch(stop=stop_after_looks(3), progress_seconds=0.0)).end == "stopped"
    load = checkpoint.load

    def seen(*arguments, **named) -> Any:
        saved = load(*arguments, **named)
        read.extend(map(weakref.ref, [saved["losses"], *saved["network"]["model"].values()]))
        return saved

    def look(_news) -> None:
        gc.collect()
        assert read and not any(tensor() is not None for tensor in read)

    monkeypatch.setattr(checkpoint, "load", seen)
    assert execute(spec, store, cpu, Watch(progress=look, progress_seconds=0.0)).end == "done"


class Killed(BaseException):
    pass


@pytest.mark.parametrize("step", [2, 3, 4])
def test_seconds_of_rounds_are_those_of_training_alone(step, small, cpu, tmp_path, monkeypatch):
    """Killed within a round or at the start of one. A step takes a second; what is not a step takes long:
    validating, and writing checkpoints after every step and every round.
    """
    now = 0.0
    looks = []

    def slow(seconds: float, function: Callable) -> Callable:
        def later(*arguments, **named):
            nonlocal now
            now += seconds
            return function(*arguments, **named)

        return later

    def look(_news) -> None:
        looks.append(1)
        if len(looks) == step:
            raise Killed

    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(training, "validation_nll", slow(1000.0, training.validation_nll))
    monkeypatch.setattr(checkpoint, "save", slow(1e6, checkpoint.save))
    monkeypatch.setattr(LanguageTraining, "take_step", slow(1.0, LanguageTraining.take_step))
    spec, store = small(), Store(tmp_path)
    watch = Watch(progress=look, progress_seconds=0.0, checkpoint_seconds=1e-9)
    with pytest.raises(Killed):
        execute(spec, store, cpu, watch)
    now += 1e9  # until somebody starts it again
    assert execute(spec, store, cpu, watch).end == "done"
    result = store.done(spec)["result"]
    assert result["round_seconds"] == pytest.approx([2.0, 2.0, 2.0])
    assert result["tokens_per_second"] == pytest.approx(spec.tokens_per_step)


def test_ids_are_those_of_before_sharding_and_own_draws_are_refused(small):
    assert "sharded" not in small().model_dump()
    assert small(sharded=True).id != small().id == LanguageSpec(**small().model_dump(), sharded=False).id
    own_draws = METHODS["ivon"].model_copy(update={"sync": True})
    with pytest.raises(ValueError, match=r"sharded true needs method\.sync false"):
        small("ivon", method=own_draws, sharded=True)


@pytest.mark.parametrize("method", ["adamw", "sgd"])
def test_two_processes_equal_one(method, small, cpu, together, tmp_path):
    spec = small(method)
    alone, shared = Store(tmp_path / "alone"), Store(tmp_path / "shared")
    execute(spec, alone, cpu, Watch())
    together(2, lambda group: execute(spec, shared, group, Watch()))
    losses = [[p["nll"] for p in s.done(spec)["result"]["history"]] for s in (alone, shared)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)  # sums of gradients in another order


@pytest.mark.parametrize("method", ["adamw", "sgd"])
def test_micro_batches_change_memory_and_not_the_result(method, small, cpu):
    losses = []
    for micro in (1, 4):
        task = LanguageTraining(small(method, micro_batch=micro, max_grad_norm=0.1), cpu)
        losses.append(take_steps(task, 4))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def take_steps(task: LanguageTraining, count: int) -> list[float]:
    found = []
    while len(found) < count:
        task.begin_round()
        for batch in task.batches():
            task.take_step(*batch)
            found.append(task.losses[task.step - 1].item())
        task.end_round()
    return found[:count]


def test_every_micro_batch_has_a_draw_of_its_own_and_is_clipped(small, cpu, monkeypatch):
    task = LanguageTraining(small("ivon", micro_batch=1, max_grad_norm=1e-3), cpu)
    seen, norms = [], []
    optimizer = task.network.method.optimizer
    weights = task.network.model.tokens.weight

    def look(windows):
        seen.append(weights.detach().clone())
        return real(windows)

    real, task.network.__dict__["loss"] = task.network.loss, look
    clip = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(
        torch.nn.utils, "clip_grad_norm_", lambda params, most: norms.append(clip(params, most)) or norms[-1]
    )
    task.begin_round()
    task.take_step(*next(iter(task.batches())))
    assert len(seen) == len(norms) == 4
    assert all(norm > 1e-3 for norm in norms)  # there was something to clip
    assert len({tuple(draw.flatten()[:8].tolist()) for draw in seen}) == 4
    assert optimizer.mc_samples == 1


def test_one_dimensional_weights_do_not_decay(small, cpu):
    task = LanguageTraining(small("adamw"), cpu)
    decayed, others = task.network.method.optimizer.param_groups
    assert {p.dim() for p in decayed["params"]} == {2} and decayed["weight_decay"] == 0.1
    assert {p.dim() for p in others["params"]} == {1} and others["weight_decay"] == 0.0
    count = sum(p.numel() for group in (decayed, others) for p in group["params"])
    assert count == task.spec.parameters == sum(p.numel() for p in task.network.model.parameters())


def test_learning_rates_of_text_and_code_are_the_same_updates(small, cpu):
    """300 with rescaling and hess_init 0.001, as released, against 0.3 without it, as printed.

    Here a thousand times as much, so that a step is large beside the rounding of a weight.
    """
    ivon = METHODS["ivon"].model_copy(update={"lr": 300e3})
    released = LanguageTraining(small("ivon", method=ivon), cpu)
    printed_lr = 300e3 * (1e-3 + 1e-6)
    printed = ivon.model_copy(update={"lr": printed_lr, "rescale_lr": False})
    text = LanguageTraining(small("ivon", method=printed), cpu)
    start = {name: p.detach().clone() for name, p in text.network.model.named_parameters()}
    for task in (released, text):
        task.step = 1  # the first learning rate is zero
        task.begin_round()
        task.take_step(*next(iter(task.batches())))
    theirs = dict(text.network.model.named_parameters())
    for name, p in released.network.model.named_parameters():
        moved, printed_moved = p.detach() - start[name], theirs[name].detach() - start[name]
        # Without decay the rescaled rate is 300 x 0.001, a thousandth less than the printed one.
        factor = 1.0 if p.dim() == 2 else 1e-3 / (1e-3 + 1e-6)
        assert moved.abs().max() > 0
        torch.testing.assert_close(moved, printed_moved * factor, rtol=2e-5, atol=2e-7)


@pytest.mark.parametrize("precision", ["bf16", "bf16-weights"])
@pytest.mark.parametrize("method", ["adamw", "ivon"])
def test_low_precision_trains(method, precision, small, cpu):
    task = LanguageTraining(small(method, precision=precision, train_steps=20, eval_every=5), cpu)
    expected = torch.bfloat16 if precision == "bf16-weights" else torch.float32
    assert {p.dtype for p in task.network.model.parameters()} == {expected}
    losses = take_steps(task, 20)
    assert losses[-1] < losses[1] - 0.05


def test_average_over_draws(small, cpu, tmp_path):
    """Against probabilities averaged by hand; one draw is the worst, and the posterior is still there."""
    store = Store(tmp_path)
    spec = small("ivon", train_steps=4, eval_every=2)
    execute(spec, store, cpu, Watch())
    look = PerplexitySpec(train=spec, draws=3, batches=2, seed=5)
    assert execute(look, store, cpu, Watch()).end == "done"
    result = store.done(look)["result"]
    assert [point["draws"] for point in result["by_draws"]] == [1, 2, 3]

    network = trained_model(spec, store.folder(spec), cpu, Watch())
    from experiments.data.text.windows import open_tokens

    text = open_tokens(spec.corpus, "val")
    windows = torch.cat([text.batch(JUDGED_WINDOWS, n, 2, 16) for n in range(2)])
    noise = torch.Generator().manual_seed(5)
    probabilities = []
    for k in (1, 2, 3):
        with network.method.draw(k, noise), torch.no_grad():
            probs = network.model(windows[:, :-1]).softmax(-1)
        probabilities.append(probs.gather(2, windows[:, 1:, None]).double())
    for point in result["by_draws"]:
        mean = torch.stack(probabilities[: point["draws"]]).mean(0)
        assert point["nll"] == pytest.approx(-mean.log().mean().item(), rel=1e-5)
    assert result["mean_nll"] == pytest.approx(store.done(spec)["result"]["history"][-1]["nll"], rel=1e-6)

    with pytest.raises(Stopped):
        by_draws(look, store.folder(spec), cpu, Watch(stop=lambda: True))


def test_a_short_measurement_tells_how_long_a_training_takes(small, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "STEPS", 6)  # more than a round has
    store, spec = Store(tmp_path), small("ivon")
    assert Throughput([store], "cpu").estimate(spec) is None
    found = measure.measure(spec, store, "cpu")
    assert found["steps"] == 3 and found["seconds"] > 0
    longer = spec.model_copy(update={"train_steps": 600})
    estimate = Throughput([store], "cpu").estimate(longer)
    assert estimate.seconds == pytest.approx(600 * found["seconds"] / 3)


def test_speed_is_told(small, cpu, tmp_path):
    store, spec = Store(tmp_path), small()
    execute(spec, store, cpu, Watch())
    result = store.done(spec)["result"]
    assert result["mfu"] is None  # nobody says what this CPU could do at most
    assert len(result["round_seconds"]) == spec.rounds
    tokens = spec.train_steps * spec.tokens_per_step
    assert result["tokens_per_second"] == pytest.approx(tokens / sum(result["round_seconds"]))
    assert math.isfinite(result["history"][-1]["nll"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_steps": 7}, "eval_every 2 must divide train_steps 7"),
        ({"micro_batch": 3}, "micro_batch 3 must divide batch_size 4"),
        ({"model": "gpt3"}, "unknown"),
        ({"corpus": "nothing"}, "unknown corpus"),
        ({"heads": 3}, "heads"),
        ({"method": {"name": "swag", "lr": 0.1}}, "cannot train GPT-2"),
        ({"method": {"name": "ivon", "lr": 0.1, "hess_approx": "ggn"}}, r"method\.hess_approx 'ggn' cannot"),
    ],
)
def test_mistakes_name_field_value_and_what_is_allowed(changes, words, small):
    with pytest.raises(ValueError, match=words):
        small(**changes)
