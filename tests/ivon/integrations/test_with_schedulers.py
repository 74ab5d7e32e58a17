"""Learning-rate schedulers, and parameter groups with settings of their own."""

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from ivon import reference

STEPS = 12
SCHEDULERS = {
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.6, total_steps=STEPS + 1, cycle_momentum=False),
    # These two move the momentum, too, by default.
    "one cycle, momentum": lambda o: lr_scheduler.OneCycleLR(o, 0.6, total_steps=STEPS + 1),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.1, 0.8, step_size_up=4),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=STEPS),
    "warmup by lambda": lambda o: lr_scheduler.LambdaLR(o, lambda step: min(1.0, (step + 1) / 4)),
    "warmup, then cosine": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.2, total_iters=3), lr_scheduler.CosineAnnealingLR(o, 9)], [3]
    ),
}


@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_scheduler_equals_setting_numbers_by_hand(task, name, tensor):
    """Those that it sets for AdamW; the learning rate may be a tensor, which it then changes in place."""
    lr = (lambda: torch.tensor(1.0, dtype=torch.float64)) if tensor else (lambda: 1.0)
    guinea_pig = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=lr(), betas=(0.9, 0.999))
    scheduler = SCHEDULERS[name](guinea_pig)
    settings = []
    for _ in range(STEPS):
        (group,) = guinea_pig.param_groups
        settings.append({"lr": float(group["lr"]), "beta1": float(group["betas"][0])})
        guinea_pig.step()
        scheduler.step()
    assert len({s["lr"] for s in settings}) > 3
    assert (len({s["beta1"] for s in settings}) > 3) == (name in ("one cycle, momentum", "cyclic"))

    model_by_hand = task.model()
    by_hand = task.optimizer(model_by_hand)
    for k, numbers in enumerate(settings):
        by_hand.param_groups[0] |= numbers
        task.train(model_by_hand, by_hand, [k])

    model = task.model()
    optimizer = task.optimizer(model, lr=lr())
    kept = optimizer.param_groups[0]["lr"]
    task.train(model, optimizer, after_step=SCHEDULERS[name](optimizer).step)
    task.assert_same(optimizer, by_hand)
    task.assert_learned(model, optimizer, at_most=0.7)  # warm-up and cooling leave less learning
    assert not tensor or optimizer.param_groups[0]["lr"] is kept


@pytest.mark.parametrize("name", ["one cycle, momentum", "cyclic"])
def test_a_cycle_continues_from_checkpoints(task, name):
    def make():
        model = task.model()
        optimizer = task.optimizer(model)
        return model, optimizer, SCHEDULERS[name](optimizer)

    def train(parts, steps):
        task.train(parts[0], parts[1], steps, after_step=parts[2].step)

    whole, half, resumed = make(), make(), make()
    train(whole, range(STEPS))
    train(half, range(5))
    for part, saved in zip(resumed, half, strict=True):
        part.load_state_dict(saved.state_dict())
    train(resumed, range(5, STEPS))
    task.assert_same(resumed[1], whole[1])


@pytest.mark.parametrize("capturable", [False, True])
def test_a_rate_on_the_host_for_a_compiled_step(task, capturable):
    """With a tensor PyTorch need not compile anew for every rate."""
    plain, model = task.model(), task.model()
    by_hand = task.optimizer(plain)
    optimizer = task.optimizer(model, lr=torch.tensor([1.0]), capturable=capturable)
    step = torch.compile(optimizer.step, backend="eager")
    for k, rate in enumerate((1.0, 0.5, 0.25)):
        by_hand.param_groups[0]["lr"] = rate
        optimizer.param_groups[0]["lr"].fill_(rate)
        task.train(plain, by_hand, [k])
        with optimizer.sampled_params(train=True):
            task.loss(model, task.batch(k)).backward()
        step()
    task.assert_same(optimizer, by_hand, atol=1e-5, rtol=1e-5)


def test_plateau_scheduler_lowers_the_rate_when_the_loss_stalls(task):
    model = task.model()
    optimizer = task.optimizer(model)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=0, threshold=0.0)
    task.train(model, optimizer, after_step=lambda: scheduler.step(1.0))
    # The first call sets the best value, and each of the other eleven is a stall; lr stops above eps = 1e-8.
    assert optimizer.param_groups[0]["lr"] < 1e-7
    after = [p.detach().clone() for p in model.parameters()]
    task.train(model, optimizer, range(3))
    assert all((p - q).abs().max() < 1e-5 for p, q in zip(model.parameters(), after, strict=True))


def test_rates_of_groups_are_scheduled_each_from_its_own(task):
    model = task.model()
    groups = [{"params": model[0].parameters(), "lr": 0.2}, {"params": model[2].parameters()}]
    optimizer = task.optimizer(groups)
    scheduler = lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    task.train(model, optimizer, range(2), after_step=scheduler.step)
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.25]


GROUPS = (
    {"lr": 0.2, "ess": 100.0, "weight_decay": 0.01, "hess_init": 0.5, "clip_radius": 0.01},
    {"lr": 0.7, "ess": 900.0, "weight_decay": 0.0, "hess_init": 0.2, "beta2": 0.8},
)


def test_groups_follow_algorithm_1_each_with_its_own_settings(task64):
    task, model = task64, task64.model()
    layers = [list(model[0].parameters()), list(model[2].parameters())]
    optimizer = task.optimizer(
        [{"params": layer, **own} for layer, own in zip(layers, GROUPS, strict=True)], beta1=0.8
    )
    settings = [
        reference.Settings(
            lamda=own["ess"],
            delta=own["weight_decay"],
            h0=own["hess_init"],
            xi=own.get("clip_radius", float("inf")),
            beta1=0.8,
            beta2=own.get("beta2", 0.9),
        )
        for own in GROUPS
    ]
    states = [reference.init(flat(layer), s) for layer, s in zip(layers, settings, strict=True)]
    clipped = 0
    for k in range(STEPS):
        before = [flat(layer) for layer in layers]
        with optimizer.sampled_params(train=True):
            drawn = [flat(layer) for layer in layers]
            task.loss(model, task.batch(k)).backward()
        optimizer.step()
        for i, (layer, own, s) in enumerate(zip(layers, GROUPS, settings, strict=True)):
            eps = (drawn[i] - before[i]) / reference.sigma(states[i], s)
            grad = torch.cat([p.grad.reshape(-1) for p in layer])
            states[i] = reference.step(states[i], [lambda _, g=grad: g], [eps], s, alpha=own["lr"])
            # float64; the noise was read off as a difference of weights.
            torch.testing.assert_close(flat(layer), states[i].m, rtol=1e-9, atol=1e-11)
            hess = torch.cat([optimizer.state[p]["hess"].reshape(-1) for p in layer])
            torch.testing.assert_close(hess, states[i].h, rtol=1e-9, atol=1e-11)
        limit = GROUPS[0]["lr"] * (0.5 + 0.01) * 0.01  # the rescaled learning rate times the radius
        clipped += ((flat(layers[0]) - before[0]).abs() > 0.999 * limit).sum().item()
    assert clipped > STEPS
    task.assert_learned(model, optimizer, at_most=0.9)  # the clipped layer hardly moves


def flat(params):
    return torch.cat([p.detach().reshape(-1) for p in params]).clone()
