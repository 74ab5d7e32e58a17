"""IVON with each of the Hessian estimators of Table 7, behind the verbs of a method and in the engine."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from baselines.method import Loss
from baselines.settings import IVON
from experiments.engine.distributed import single
from experiments.engine.image_training import ImageTraining
from experiments.engine.spec import TrainSpec

ESTIMATORS = ("price", "gradsq", "ggn", "sg")
TRAIN_SIZE = 1000


def built(estimator, seed=0, **settings):
    """Sizes of the Hessian differ: squared gradients of batches, times ess, are the largest."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 4 * 4, 10)
        )
    chosen = IVON(**{"lr": 1.0, "hess_approx": estimator, **settings})
    return model, chosen.build(model, train_size=TRAIN_SIZE, seed=seed)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_learns(estimator, batches, run):
    losses = run(*built(estimator), batches(0, 60))
    assert losses[0] > 2.2
    assert sum(losses[-10:]) / 10 < 1.5  # as the contract of all methods wants it


@pytest.mark.parametrize("draws", [1, 2])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_saved_and_loaded_goes_on_bit_for_bit(estimator, draws, batches, run):
    model, method = built(estimator, mc_samples=draws, beta2=0.9)
    run(model, method, batches(0, 4))
    loaded, other = built(estimator, mc_samples=draws, beta2=0.9, seed=99)
    loaded.load_state_dict(model.state_dict())
    other.load_state_dict(deepcopy(method.state_dict()))
    run(model, method, batches(4, 8))
    run(loaded, other, batches(4, 8))
    for a, b in zip(loaded.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_first_hessian_is_the_hand_derived_one(estimator, batches):
    """Eq. 4 with hhat = noise * ghat / sigma^2, ess * ghat^2, the mean of squares of examples, or ghat^2."""
    model, method = built(estimator, beta2=0.8, hess_init=0.5, weight_decay=0.1)
    params = list(model.parameters())
    ((images, labels),) = batches(0, 1)
    points: list[list[torch.Tensor]] = []
    hook = model[0].register_forward_pre_hook(lambda *_: points.append([p.detach().clone() for p in params]))
    means = [p.detach().clone() for p in params]
    method.step(Loss(model, images, labels))
    hook.remove()
    at_draw = points[0]

    fresh, _ = built(estimator)
    with torch.no_grad():
        for p, value in zip(fresh.parameters(), at_draw, strict=True):
            p.copy_(value)
    weights = list(fresh.parameters())
    ghat = torch.autograd.grad(F.cross_entropy(fresh(images), labels), weights)
    of_each = [
        torch.autograd.grad(F.cross_entropy(fresh(x[None]), y[None]), weights)
        for x, y in zip(images, labels, strict=True)
    ]
    for i, p in enumerate(params):
        hhat = {
            "price": TRAIN_SIZE * 0.6 * (at_draw[i] - means[i]) * ghat[i],
            "gradsq": TRAIN_SIZE * ghat[i].square(),
            "ggn": torch.stack([of_one[i] for of_one in of_each]).square().mean(0),
            "sg": ghat[i].square(),
        }[estimator]
        expected = 0.8 * 0.5 + 0.2 * hhat + 0.5 * 0.2**2 * (0.5 - hhat).square() / 0.6
        # Single precision, and the noise of "price" is what subtracting the mean leaves of it.
        torch.testing.assert_close(method.optimizer.state[p]["hess"], expected, rtol=1e-3, atol=1e-5)


def test_two_steps_of_sg_on_two_weights_by_hand():
    """Lines 3 to 6 of Algorithm 1 with hhat = ghat^2, for (w x + b - y)^2 at the draws of the network."""
    lr, ess, hess_init, beta1, beta2, delta = 0.1, 50.0, 0.5, 0.9, 0.8, 0.1
    model = nn.Linear(1, 1).double()
    with torch.no_grad():
        model.weight.fill_(0.4)
        model.bias.fill_(-0.2)
    settings = {"ess": ess, "hess_init": hess_init, "beta1": beta1, "beta2": beta2, "weight_decay": delta}
    method = IVON(lr=lr, hess_approx="sg", **settings).build(model, train_size=1, seed=3)
    draws: list[tuple[float, float]] = []
    model.register_forward_pre_hook(lambda *_: draws.append((model.weight.item(), model.bias.item())))

    mean, hess, momentum = [0.4, -0.2], [hess_init] * 2, [0.0] * 2
    for t, (x, y) in enumerate([(2.0, 1.0), (-1.0, 3.0)], start=1):
        inputs, targets = (torch.tensor([[v]], dtype=torch.float64) for v in (x, y))
        method.step(Loss(model, inputs, targets, criterion=F.mse_loss))
        w, b = draws[-1]
        slope = 2 * (w * x + b - y)
        for i, ghat in enumerate((slope * x, slope)):
            momentum[i] = beta1 * momentum[i] + (1 - beta1) * ghat
            correction = (hess[i] - ghat**2) ** 2 / (2 * (hess[i] + delta))
            hess[i] = beta2 * hess[i] + (1 - beta2) * ghat**2 + (1 - beta2) ** 2 * correction
            direction = momentum[i] / (1 - beta1**t) + delta * mean[i]
            mean[i] -= lr * (hess_init + delta) * direction / (hess[i] + delta)
    assert draws[0] != (0.4, -0.2)  # it was a draw, not the mean
    assert [model.weight.item(), model.bias.item()] == pytest.approx(mean, rel=1e-12)
    found = [method.optimizer.state[p]["hess"].item() for p in (model.weight, model.bias)]
    assert found == pytest.approx(hess, rel=1e-12)


def test_squares_of_sg_are_those_of_clipped_gradients():
    """What is clipped within a draw is clipped for the Hessian, too."""
    model, method = built("sg", beta2=0.0, hess_init=0.5)
    loss = Loss(model, torch.randn(8, 1, 8, 8), torch.arange(8), max_grad_norm=1e-6)
    method.step(loss)
    for p in model.parameters():
        # With beta2 = 0 and hhat next to nothing, Eq. 4 leaves h^2 / (2 (h + delta)).
        expected = torch.full_like(p, 0.5**2 / (2 * (0.5 + 1e-4)))
        torch.testing.assert_close(method.optimizer.state[p]["hess"], expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["ggn", "vogn", "ogn"])
def test_engine_knows_the_training_accuracy(name, precision):
    """Methods with gradients of single examples show their outputs, too: at a learning rate of 0 the curve's
    training error is that of the network itself, but for the noise.
    """
    method = {"name": name, "lr": 1e-9}
    if name == "ggn":  # ess so large that the noise is none
        method = {"name": "ivon", "lr": 1e-9, "hess_approx": "ggn", "ess": 1e20}
    elif name == "vogn":
        method |= {"data_factor": 1e20, "damping": 1.0}
    spec = TrainSpec(
        dataset="digits",
        model="resnet20",
        width=2,
        epochs=1,
        batch_size=500,
        method=method,
        precision=precision,
    )
    training = ImageTraining(spec, single(torch.device("cpu")))
    ((images, labels),) = list(training.batches())[:1]
    with torch.no_grad():
        logits = training.network.logits(images)
    training.take_step(images, labels)
    seen = training.running()
    assert seen["train_error"] == pytest.approx(100 * (logits.argmax(dim=1) != labels).double().mean().item())
    # bfloat16 has three digits, and rounds a single example and a batch of them differently.
    tolerance = 1e-5 if precision == "fp32" else 1e-2
    assert seen["train_nll"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=tolerance)


def test_groups_of_processes_need_sync_for_ggn(monkeypatch):
    """Otherwise every device would make a posterior of its own share of the batch."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(ValueError, match="sync"):
        built("ggn")
    assert built("ggn", sync=True)[1].reduces_gradients
    assert not built("sg")[1].reduces_gradients  # the gradient of the whole batch is its business
