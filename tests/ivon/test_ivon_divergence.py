"""A learning rate that is too high is named first, and one that is not is not blamed."""

import math

import pytest
import torch
from torch import Tensor, nn

from ivon import IVON
from ivon.diagnostics import diagnose
from ivon.suggest import beta2_for

TOO_HIGH = "is too high: "


def perceptron(
    inputs: int, hidden: int, outputs: int, activation: type[nn.Module] = nn.ReLU
) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        activation(),
        nn.Linear(hidden, hidden),
        activation(),
        nn.Linear(hidden, outputs),
    )


def rings() -> tuple[Tensor, Tensor]:
    """Two classes, a circle within another."""
    rng = torch.Generator().manual_seed(0)
    angle = torch.rand(1_000, generator=rng) * math.tau
    labels = torch.arange(1_000) % 2
    return torch.stack([angle.cos(), angle.sin()], -1) * (1 + labels[:, None]), labels


def teacher() -> tuple[Tensor, Tensor]:
    """Ten classes of 64 inputs, each the largest output of a fixed network."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(1_000, 64, generator=rng)
    w, v = torch.randn(64, 20, generator=rng) / 8, torch.randn(20, 10, generator=rng)
    return x, ((x @ w).tanh() @ v).argmax(-1)


def wave() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(1_000, 1, generator=rng) * 4 - 2
    return x, (2 * x).sin() + 0.1 * torch.randn(1_000, 1, generator=rng)


def convolutions() -> nn.Sequential:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(),
        nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.GroupNorm(2, 16), nn.ReLU(), nn.Flatten(),
        nn.Linear(256, 10),
    )  # fmt: skip


CLASSES, NUMBERS = nn.functional.cross_entropy, nn.functional.mse_loss
TASKS = {
    "rings": (rings, lambda: perceptron(2, 32, 2), CLASSES),
    "teacher": (teacher, lambda: perceptron(64, 50, 10), CLASSES),
    "teacher, tanh": (teacher, lambda: perceptron(64, 50, 10, nn.Tanh), CLASSES),
    "teacher, convolutions": (teacher, convolutions, CLASSES),
    "teacher, linear": (teacher, lambda: nn.Linear(64, 10), CLASSES),
    "wave": (wave, lambda: perceptron(1, 50, 1, nn.Tanh), NUMBERS),
}


def train(task: str, lr: float, *, seed: int = 0, steps: int = 300, **settings) -> tuple[IVON, list[float]]:
    data, build, criterion = TASKS[task]
    x, y = data()
    torch.manual_seed(seed)
    model = build()
    fitting = {"hess_init": 25.0, "weight_decay": 2e-4, "beta2": beta2_for(steps), **settings}
    optimizer = IVON(model.parameters(), lr=lr, ess=len(x), **fitting)
    optimizer.seed(seed)
    losses = []
    for _ in range(steps):
        batch = torch.randint(len(x), (50,))
        with optimizer.sampled_params(train=True):
            optimizer.zero_grad()
            loss = criterion(model(x[batch]), y[batch])
            loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return optimizer, losses


@pytest.mark.parametrize("lr", [5.0, 50.0])
@pytest.mark.parametrize("task", ["teacher, tanh", "wave"])
def test_a_small_perceptron_that_has_diverged(task, lr):
    optimizer, losses = train(task, lr)
    assert not losses[-1] < losses[0]  # or NaN
    (warning,) = diagnose(optimizer).warnings
    if math.isfinite(losses[-1]):
        assert warning.startswith(f"lr = {lr:g} {TOO_HIGH}")
    else:
        assert "begin again with a lower lr" in warning


@pytest.mark.parametrize(("task", "lr"), [("rings", 0.5), ("teacher, tanh", 0.5), ("wave", 0.05)])
def test_a_small_perceptron_that_trains(task, lr):
    optimizer, losses = train(task, lr)
    assert losses[-1] < 0.5 * losses[0]
    assert diagnose(optimizer, losses=losses).warnings == []


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_table_of_tasks_and_learning_rates(task, capsys):
    """LRS by rows, one cell for three seeds; below, what the warnings said of them without the losses.

    TABLE
    """
    cells: dict[float, list[tuple[float, float, bool, bool]]] = {}
    for lr in (0.02, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 50.0):
        for seed in range(3):
            optimizer, losses = train(task, lr, seed=seed, steps=500)
            start, end = losses[0], torch.tensor(losses[-25:]).mean().item()
            blamed, with_losses = (
                any(
                    TOO_HIGH in w or "a lower lr" in w for w in diagnose(optimizer, losses=known).warnings[:1]
                )
                for known in (None, losses)
            )
            cells.setdefault(lr, []).append((start, end, blamed, with_losses))
    with capsys.disabled():
        print("\n" + task)
        for lr, runs in cells.items():
            print(
                f"  {lr:5g} "
                + "  ".join(
                    f"{end:8.2g} {'lr' if b else '  '} {'LR' if w else '  '}" for _, end, b, w in runs
                )
            )


def test_units_that_have_died_are_seen_by_the_gradients_they_no_longer_get():
    optimizer, losses = train("teacher", 10.0)
    assert losses[-1] > 0.9 * losses[0]
    found = diagnose(optimizer)
    assert found.total.gain < 10 and found.total.dead > 0.9
    (warning,) = found.warnings
    assert warning.startswith(f"lr = 10 {TOO_HIGH}") and "get no gradients any more" in warning


def test_a_schedule_is_judged_by_its_peak():
    """At the end of most of them the learning rate is 0."""
    optimizer, _ = train("teacher, tanh", 5.0)
    for group in optimizer.param_groups:
        group["initial_lr"], group["lr"] = 5.0, 0.0
    (warning,) = diagnose(optimizer).warnings
    assert warning.startswith(f"lr = 5 {TOO_HIGH}")


def with_weights(*tensors: Tensor, momenta: list[float] | None = None, steps: int = 200, **settings) -> IVON:
    """An optimizer with these means, a Hessian of 1 and momenta that are the same for a whole parameter."""
    params = [nn.Parameter(tensor) for tensor in tensors]
    optimizer = IVON(
        params, **{"lr": 0.1, "ess": 1e4, "beta1": 0.0, "beta2": 0.99, "weight_decay": 0.0, **settings}
    )
    for p, momentum in zip(params, momenta or [1e-3] * len(params), strict=True):
        optimizer.state[p] = {
            "step": steps,
            "hess": torch.full_like(p, 1.5).detach(),
            "momentum": torch.full_like(p, momentum).detach(),
        }
    return optimizer


def of_gain(gain: float, *shape: int) -> Tensor:
    return torch.full(shape, gain / math.sqrt(max(shape[1:], default=1)))


@pytest.mark.parametrize("shape", [(3, 100), (100, 3), (5, 7, 3, 3), (4, 9, 5)], ids=str)
def test_gain_is_the_rms_of_a_layers_outputs_for_inputs_of_one(shape):
    found = diagnose(with_weights(of_gain(2.0, *shape), torch.full((50,), 1e6))).total
    assert found.gain == pytest.approx(2.0)
    assert found.layers == 1  # the other has one dimension


def test_gain_is_that_of_most_layers():
    """One layer may be large for its inputs, as an embedding is, which starts with numbers around 1."""
    layers = [of_gain(1.0, 20, 30) for _ in range(4)]
    embedding = of_gain(200.0, 1_000, 30)
    assert diagnose(with_weights(*layers, embedding)).warnings == []
    for threshold, tensors in ((10.0, [(20, 30), (5, 20)]), (30.0, [(20, 30)])):
        below, above = (
            diagnose(with_weights(*(of_gain(factor * threshold, *shape) for shape in tensors))).warnings
            for factor in (0.99, 1.01)
        )
        assert below == []
        (warning,) = above
        assert f"the weights are far from any start (gain {1.01 * threshold:.2g} of" in warning


def test_steps_are_large_beside_the_weights_of_a_layer():
    """lr (h0 + delta) momentum / h = 0.1 momentum / 1.5, for weights of 0.1; after 100 steps."""
    other = of_gain(1.0, 50, 50)

    def look(momentum: float, steps: int = 100, **settings: float) -> list[str]:
        optimizer = with_weights(
            torch.full((20, 30), 0.1), other, momenta=[momentum, 1e-3], steps=steps, **settings
        )
        return diagnose(optimizer).warnings

    assert look(0.149) == look(0.151, steps=99) == look(0.151, clip_radius=0.05) == []
    (warning,) = look(0.2)
    assert (
        warning
        == "lr = 0.1 is too high: the steps of a layer are 13% of its weights; begin again with a lower one"
    )


def test_most_entries_get_no_gradients():
    large, small, bias = of_gain(1.0, 30, 30), of_gain(1.0, 3, 30), torch.ones(30)
    assert diagnose(with_weights(large, small, bias, momenta=[1.1e-9, 1e-3, 1e-3])).warnings == []
    assert diagnose(with_weights(large, small, bias, momenta=[1e-3, 0.0, 0.0])).warnings == []
    (warning,) = diagnose(with_weights(large, small, bias, momenta=[0.9e-9, 1e-3, 1e-3])).warnings
    assert warning.startswith(f"lr = 0.1 {TOO_HIGH}88% of the entries get no gradients any more")
    early = with_weights(large, small, bias, momenta=[0.0, 1e-3, 1e-3], steps=99, beta2=0.9)
    assert diagnose(early).warnings == []


def test_what_follows_from_divergence_is_left_out_and_what_does_not_is_not():
    """Weights far away make the noise look small, and large gradients the Hessian."""
    optimizer = with_weights(of_gain(1e7, 20, 30), of_gain(1e7, 5, 20), beta2=0.99999)
    for p in optimizer.param_groups[0]["params"]:
        optimizer.state[p]["hess"].fill_(1.0)
    first, second = diagnose(optimizer).warnings
    assert TOO_HIGH in first and "the Hessian has hardly moved" in second


def test_weights_too_large_for_a_sum_of_squares():
    huge = torch.full((20, 30), 1e38)
    (warning,) = diagnose(with_weights(huge, huge.clone())).warnings
    assert "gain inf" in warning
    (warning,) = diagnose(with_weights(huge.double() * 1e170, huge.double() * 1e170)).warnings
    assert "gain inf" in warning


def test_groups_are_judged_apart_and_the_losses_once():
    groups = [
        {"params": [nn.Parameter(of_gain(1.0, 9, 9))]},
        {"params": [nn.Parameter(of_gain(99.0, 9, 9))], "lr": 3.0},
    ]
    optimizer = IVON(groups, lr=0.1, ess=1e4)
    losses, far = diagnose(optimizer, losses=[1.0, 2.0, 3.0]).warnings
    assert losses.startswith("lr = 0.1 and 3 is too high: the loss has grown from 1 to 3")
    assert far.startswith("group 1: lr = 3 is too high: the weights are far")


FALLING = [math.exp(-i / 50) for i in range(200)]
HISTORIES = [
    ("has grown from 2.3 to 1.2e+04", [2.3, 5.0, *[12_000.0] * 50], [2.3, *[2.4] * 50]),
    ("has grown from -5 to -4", [-5.0, *[-4.0] * 9], [-5.0, *[-4.6] * 9]),
    ("went from 1 up to 2 and is at 0.6", [1.0, 2.0, *[0.6] * 50], [1.0, 2.0, *[0.4] * 50]),
    ("went from 1 up to 1.6", [1.0, 1.6, *[0.9] * 50], [1.0, 1.4, *[0.9] * 50]),
    ("had fallen from 1 to 0.0215 and is back at 0.8", [*FALLING, *[0.8] * 20], [*FALLING, *[0.3] * 20]),
    ("is nan", [*FALLING, math.nan], [1.0, math.inf, math.nan, *FALLING]),
    ("is inf", [*FALLING, math.inf], [math.inf, *FALLING]),
    ("has grown", [0.01, *[1.0, -1.0] * 50, *[10.0] * 20], [0.01, *[1.0, -1.0, 0.1, -0.1] * 50]),
    ("has grown from 1 to 2", [1.0, 2.0], [1.0]),
    ("has grown from 1 to 3", [1.0, 2.0, 3.0], [2.0, 1.5, 1.0]),  # averages of epochs
]


@pytest.mark.parametrize(("words", "ill", "well"), HISTORIES, ids=[words for words, *_ in HISTORIES])
def test_losses_of_a_learning_rate_that_is_too_high(words, ill, well):
    optimizer = IVON([nn.Parameter(of_gain(1.0, 9, 9))], lr=0.1, ess=1e4)
    (warning,) = diagnose(optimizer, losses=torch.tensor(ill)).warnings
    assert warning.startswith(f"lr = 0.1 {TOO_HIGH}the loss {words}")
    assert diagnose(optimizer, losses=well).warnings == []


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5])
def test_noise_of_losses_that_do_not_fall_is_not_growth(noise):
    rng = torch.Generator().manual_seed(0)
    optimizer = IVON([nn.Parameter(of_gain(1.0, 9, 9))], lr=0.1, ess=1e4)
    for level in (-3.0, 0.0, 3.0):
        losses = level + noise * torch.randn(400, generator=rng)
        losses[0] = level
        assert diagnose(optimizer, losses=losses).warnings == []


@pytest.mark.parametrize(
    ("losses", "words"), [([], "one at least, got none"), (["a"], "numbers"), (3.0, "numbers")]
)
def test_losses_that_are_none_are_refused(losses, words):
    with pytest.raises(ValueError, match=f"losses must .*{words}"):
        diagnose(IVON([nn.Parameter(torch.ones(2))], lr=0.1, ess=1.0), losses=losses)
