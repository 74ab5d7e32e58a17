"""What training steps cost: shape of the result, and numbers that are known."""

import json
from functools import partial

import pytest
import torch

from baselines import METHODS
from experiments.engine import cost
from experiments.engine.allocated import peak_bytes, tensor_bytes
from experiments.engine.distributed import single
from experiments.engine.execute import execute
from experiments.engine.spec import CostSpec, TrainSpec, parse_spec
from experiments.engine.watch import Stopped, Watch
from experiments.errors import UserError

# Bytes that methods keep for each weight. SWAG: momentum, mean, squares, and as many iterates as its rank.
KEPT = {"sgd": 4, "adamw": 8, "ivon": 8, "vogn": 8, "swag": 4 * (3 + 2)}
SETTINGS = {"swag": {"rank": 2}}
MEASURED = (*KEPT, "adahessian")
CPU = torch.device("cpu")

pytestmark = pytest.mark.xdist_group("costs")  # which most of these tests have measured together


@pytest.fixture
def compared(tiny):
    def make(*methods: str, **changes) -> tuple[TrainSpec, ...]:
        return tuple(tiny(name, lr=1e-3, **changes) for name in methods)

    return make


@pytest.fixture(scope="module")
def measured():
    """One measurement, which several tests look at."""
    torch.set_num_threads(1)
    network = {"dataset": "digits", "model": "resnet20", "width": 2, "epochs": 4, "batch_size": 50}
    methods = (METHODS[name](lr=1e-3, **SETTINGS.get(name, {})) for name in MEASURED)
    trainings = (TrainSpec(**network, method=method) for method in methods)
    spec = CostSpec(compared=tuple(trainings), steps=1, rounds=2)
    news: list[float] = []
    watch = Watch(progress=lambda said: news.append(said["fraction"]))
    result = cost.measure_costs(spec, single(CPU), watch)
    return spec, json.loads(json.dumps(result)), news


def by_method(measured) -> dict[str, dict]:
    spec, result, _ = measured
    return {train.method.name: of for train, of in zip(spec.compared, result["costs"], strict=True)}


def test_every_method_has_its_seconds_and_bytes(measured):
    spec, result, news = measured
    assert set(by_method(measured)) == set(MEASURED)
    assert (result["clock"], result["parameters"]) == ("processor", spec.compared[0].parameters)
    for of in result["costs"]:
        assert len(of["step_seconds"]) == spec.rounds  # the round that warms up is not among them
        assert min(of["step_seconds"]) > 0
        # Weights and gradients are alive at the peak, and what the method keeps.
        assert of["peak_bytes"] > 8 * result["parameters"] + of["kept_bytes"] > 0
    assert 0 < result["seconds"] < 100
    assert news == sorted(news)
    assert news[-1] == 1


def test_expensive_methods_are_seen_to_be(measured):
    """Two backward passes, gradients of single examples, iterates."""
    found = by_method(measured)
    assert min(found["adahessian"]["step_seconds"]) > 1.3 * min(found["sgd"]["step_seconds"])
    for cheap, dear in (("sgd", "adamw"), ("adamw", "ivon"), ("ivon", "vogn"), ("sgd", "swag")):
        assert found[cheap]["peak_bytes"] < found[dear]["peak_bytes"]


@pytest.mark.parametrize("method", KEPT)
def test_bytes_kept_a_weight(method, measured):
    _, result, _ = measured
    kept = by_method(measured)[method]["kept_bytes"] / result["parameters"]
    # AdamW has a count of its steps for each of the tensors: a tenth of a byte in so small a network.
    assert KEPT[method] <= kept < KEPT[method] + (0.5 if method == "adamw" else 1e-9)


def test_memory_is_the_same_every_time(compared, cpu):
    (train,) = compared("ivon")
    batch = torch.zeros(10, 1, 8, 8), torch.arange(10)
    once, again = (
        cost.memory(train, batch, cpu, partial(cost.ImageContender, group=cpu, train_size=1000))
        for _ in range(2)
    )
    assert once == again


def test_all_methods_see_the_same_batches_in_turns(compared, cpu, monkeypatch):
    seen: list[tuple[str, float]] = []
    monkeypatch.setattr(cost, "memory", lambda *_: {"peak_bytes": 1, "kept_bytes": 1})
    monkeypatch.setattr(
        cost.ImageContender, "step", lambda self, x, y: seen.append((self.spec.method.name, x.sum().item()))
    )
    spec = CostSpec(compared=compared("sgd", "adamw", batch_size=500), steps=3, rounds=1)  # 2 make an epoch
    cost.measure_costs(spec, cpu, Watch())
    assert [name for name, _ in seen] == (["sgd"] * 3 + ["adamw"] * 3) * 2
    sums = [value for _, value in seen]
    assert sums[:3] == sums[3:6] and sums[6:9] == sums[9:]
    assert len(set(sums)) == 6


def test_a_stop_ends_it_between_turns_and_it_starts_over(compared, cpu, store, monkeypatch):
    monkeypatch.setattr(cost, "memory", lambda *_: {"peak_bytes": 1, "kept_bytes": 1})
    spec = CostSpec(compared=compared("sgd", "adamw"), steps=1, rounds=1)
    asked = iter([False, False, True])
    with pytest.raises(Stopped):
        cost.measure_costs(spec, cpu, Watch(stop=lambda: next(asked)))
    assert execute(spec, store, cpu, Watch(stop=lambda: True)).end == "stopped"
    assert execute(spec, store, cpu, Watch()).end == "done"
    record = store.done(spec)
    assert record and len(record["result"]["costs"]) == 2
    assert parse_spec(record["spec"]) == spec


@pytest.mark.parametrize(
    ("field", "value"), [("batch_size", 20), ("width", 3), ("seed", 1), ("precision", "bf16")]
)
def test_only_what_is_alike_is_compared(field, value, compared):
    data = CostSpec(compared=compared("sgd", "adamw")).model_dump(mode="json")
    data["compared"][1][field] = value
    with pytest.raises(UserError) as caught:
        parse_spec(data)
    assert f"differ in {field}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_field_makes_another_run(compared):
    spec = CostSpec(compared=compared("sgd", "adamw"))
    others = {"compared": compared("sgd", "ivon"), "steps": 7, "rounds": 7}
    assert set(others) == set(CostSpec.model_fields) - {"kind", "protocol"}
    ids = {spec.model_copy(update={field: value}).id for field, value in others.items()}
    assert len(ids | {spec.id}) == 4


def test_peak_of_a_step_whose_bytes_are_known():
    def make():
        kept = torch.zeros(1000)  # 4,000 bytes

        def step():
            kept.add_(torch.ones(3000).sum())  # 12,000 bytes for a moment, and a scalar
            return kept

        return step

    assert 16_000 <= peak_bytes(make, CPU) < 16_400


def test_bytes_of_nested_tensors():
    state = {"a": torch.zeros(3), "b": [torch.zeros(2, dtype=torch.float64), (1, "x", None)], 0: {"c": 2.0}}
    assert tensor_bytes(state) == 12 + 16
