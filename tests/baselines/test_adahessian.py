"""AdaHessian against hand-derived steps, against the exact diagonal, and against timm's implementation."""

import pytest
import torch
from torch import nn

from baselines import settings
from baselines.adahessian import AdaHessian
from baselines.method import Loss

CURVATURE = torch.tensor([0.5, 2.0, 8.0], dtype=torch.float64)


def quadratic(x: torch.Tensor) -> torch.Tensor:
    """Hessian diag(CURVATURE): z * (H z) is its diagonal for every z of signs."""
    return 0.5 * (CURVATURE * x * x).sum()


def test_steps_on_a_diagonal_quadratic_are_the_hand_derived_ones():
    start = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    x = start.clone().requires_grad_()
    lr, (beta1, beta2), eps, decay = 0.1, (0.9, 0.99), 1e-8, 0.01
    optimizer = AdaHessian([x], lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=decay)

    theta, mean, square = start.clone(), torch.zeros(3).double(), torch.zeros(3).double()
    for t in range(1, 8):
        optimizer.backward(quadratic(x))
        torch.testing.assert_close(x.grad, CURVATURE * theta, rtol=1e-12, atol=0)
        optimizer.step()
        mean = beta1 * mean + (1 - beta1) * CURVATURE * theta
        square = beta2 * square + (1 - beta2) * CURVATURE**2
        theta = theta * (1 - lr * decay)
        theta = theta - lr * (mean / (1 - beta1**t)) / ((square / (1 - beta2**t)).sqrt() + eps)
        torch.testing.assert_close(x.detach(), theta, rtol=1e-12, atol=1e-14)  # double precision


def test_first_step_is_newtons():
    """Bias correction leaves grad / |diagonal|: with lr 1 the minimum of the quadratic in one step."""
    x = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64, requires_grad=True)
    optimizer = AdaHessian([x], lr=1.0, eps=1e-12)
    optimizer.backward(quadratic(x))
    optimizer.step()
    torch.testing.assert_close(x.detach(), torch.zeros(3).double(), rtol=0, atol=1e-10)


def test_estimate_is_unbiased_for_a_full_hessian():
    torch.manual_seed(0)
    root = torch.randn(4, 4, dtype=torch.float64)
    hessian = root @ root.T
    x = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = AdaHessian([x], lr=0.1, generator=torch.Generator().manual_seed(0))
    draws = 4000
    for _ in range(draws):  # which add up, like micro-batches
        optimizer.backward(0.5 * x @ hessian @ x)
    total = optimizer._curvature[x]
    spread = (hessian.square().sum(dim=1) - hessian.diagonal().square()).sqrt()  # of one draw
    # Five standard errors: a right estimator fails once in some 400,000 seeds.
    assert ((total / draws - hessian.diagonal()).abs() < 5 * spread / draws**0.5).all()


def test_generator_decides_the_draws():
    def curvature(seed: int) -> torch.Tensor:
        x = torch.zeros(64, requires_grad=True)
        optimizer = AdaHessian([x], lr=0.1, generator=torch.Generator().manual_seed(seed))
        optimizer.backward(x.sum().square())  # a full Hessian of twos
        return optimizer._curvature[x]

    assert torch.equal(curvature(3), curvature(3))
    assert not torch.equal(curvature(3), curvature(4))


def test_gradient_that_is_constant_has_zero_curvature():
    x = torch.ones(3, requires_grad=True)
    y = torch.ones(3, requires_grad=True)
    unused = torch.ones(3, requires_grad=True)
    optimizer = AdaHessian([x, y, unused], lr=0.1)
    optimizer.backward(x.sum() + y.square().sum())
    assert torch.equal(optimizer._curvature[x], torch.zeros(3))
    assert torch.equal(optimizer._curvature[y], torch.full((3,), 2.0))
    optimizer.step()
    assert torch.equal(unused, torch.ones(3))


@pytest.mark.parametrize("frozen", [False, True])
def test_gradient_of_the_step_before_does_not_stay(frozen):
    """Neither on a parameter that the loss now leaves out nor on one that is frozen by now."""
    x, y = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    optimizer = AdaHessian([x, y], lr=0.1)
    optimizer.backward(x.square().sum() + y.square().sum())
    optimizer.step()
    after = y.detach().clone()
    y.requires_grad_(not frozen)
    optimizer.backward(x.square().sum())
    optimizer.step()
    assert y.grad is None
    assert torch.equal(y, after)


def test_micro_batches_add_up():
    """A step of the parts is that of their sum, also for y, which one leaves out; signs do not matter."""

    def loss(x: torch.Tensor, y: torch.Tensor, part: int) -> torch.Tensor:
        return quadratic(x) / 4 if part else 3 * quadratic(x) / 4 + quadratic(y)

    pairs = [[torch.ones(3).double().requires_grad_() for _ in "xy"] for _ in range(2)]
    divided, whole = (AdaHessian(pair, lr=0.1) for pair in pairs)
    for parts in ((0, 1), (1, 0)):
        divided.backward(quadratic(pairs[0][0]))
        divided.zero_grad()  # and with its gradient the curvature of that one is gone
        for part in parts:
            divided.backward(loss(*pairs[0], part))
        whole.backward(loss(*pairs[1], 0) + loss(*pairs[1], 1))
        divided.step()
        whole.step()
        torch.testing.assert_close(pairs[0], pairs[1], rtol=1e-12, atol=0)  # sums in another order


def test_step_takes_a_closure():
    x, y = (torch.ones(3).double().requires_grad_() for _ in range(2))
    optimizer, other = AdaHessian([x], lr=0.1), AdaHessian([y], lr=0.1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = quadratic(x)
        optimizer.backward(loss)
        return loss

    assert optimizer.step(closure).item() == quadratic(y).item()
    other.backward(quadratic(y))
    assert other.step() is None
    assert torch.equal(x, y)


def test_step_needs_its_own_backward():
    x = torch.ones(3, requires_grad=True)
    optimizer = AdaHessian([x], lr=0.1)
    quadratic(x).backward()
    with pytest.raises(RuntimeError, match=r"optimizer\.backward"):
        optimizer.step()


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": -1.0},
        {"lr": 0.1, "eps": 0.0},
        {"lr": 0.1, "betas": (0.9, 1.0)},
        {"lr": 0.1, "weight_decay": -1},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="AdaHessian needs"):
        AdaHessian([torch.zeros(1, requires_grad=True)], **wrong)


def test_agrees_with_timm(monkeypatch):
    """timm's, without spatial averaging and with power 1, is the same algorithm, given the same signs."""
    from experiments.torchvision_guard import import_torchvision

    import_torchvision()
    timm_optim = pytest.importorskip("timm.optim")

    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(27, 4)).double()

    torch.manual_seed(1)
    images, labels = torch.randn(16, 1, 5, 5, dtype=torch.float64), torch.randint(4, (16,))
    settings = {"lr": 0.05, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.02}
    ours, theirs = network(), network()
    optimizer = AdaHessian(ours.parameters(), **settings, generator=torch.Generator().manual_seed(5))
    peer = timm_optim.Adahessian(theirs.parameters(), **settings, hessian_power=1.0, avg_conv_kernel=False)
    signs = torch.Generator().manual_seed(5)

    def same_bits(_low, _high, size, **_):  # timm turns zeros and ones into signs as we do
        return torch.empty(size, dtype=torch.float64).bernoulli_(0.5, generator=signs)

    criterion = nn.CrossEntropyLoss()
    for _ in range(6):
        optimizer.backward(criterion(ours(images), labels))
        optimizer.step()
        peer.zero_grad()
        criterion(theirs(images), labels).backward(create_graph=True)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "randint", same_bits)
            peer.step()
        for p in theirs.parameters():
            p.grad = None  # breaks the cycle that create_graph leaves
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            # Double precision and six steps of a smooth network: only the order of operations differs.
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


GPU_STATE = torch.zeros(16, dtype=torch.uint8)  # as `torch.Generator("cuda").get_state()` is


def trained(steps: int):
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    method = settings.AdaHessian(lr=0.1).build(model, train_size=10, seed=0)
    loss = Loss(model, torch.randn(10, 4), torch.arange(10) % 3)
    for _ in range(steps):
        method.step(loss)
    return method, loss


def test_state_of_another_kind_of_device_is_for_looks_only():
    """A GPU's checkpoint on a CPU and the other way round: networks move, streams of noise do not."""
    state = {**trained(2)[0].state_dict(), "noise": GPU_STATE}
    method, loss = trained(0)
    method.load_state_dict(state)
    with method.draw(0, torch.Generator()):
        loss()
    assert torch.equal(method.state_dict()["noise"], GPU_STATE)  # to be saved again as it was
    with pytest.raises(RuntimeError, match="AdaHessian: this training began on another kind of device"):
        method.step(loss)


def test_state_of_this_kind_of_device_goes_on():
    state, (method, loss) = trained(2)[0].state_dict(), trained(0)
    method.load_state_dict({**state, "noise": GPU_STATE})
    method.load_state_dict(state)
    method.step(loss)
    assert torch.equal(method.state_dict()["noise"], trained(3)[0].state_dict()["noise"])
