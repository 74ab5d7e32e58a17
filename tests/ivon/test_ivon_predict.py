"""Posterior-averaged prediction in one line; from passes of many draws in one the same as from plain ones."""

import math
import re
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ivon
from experiments.models import MODELS
from ivon import _passes
from ivon.posterior import Posterior

X = torch.linspace(-2, 2, 20).reshape(5, 4)


def make(dtype: torch.dtype = torch.float32) -> tuple[nn.Sequential, ivon.IVON]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)).to(dtype)
    return model, ivon.IVON(model.parameters(), lr=0.1, ess=20.0)


def by_hand(
    model: nn.Module, posterior: Posterior, draws: int, logits: Callable[[], Tensor], seed: int = 0
) -> Tensor:
    model.eval()
    probs = []
    for k in range(draws):
        with torch.no_grad(), posterior.sampled(model, k, seed):
            probs.append(logits().softmax(-1))
    return torch.stack(probs).mean(0)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The number of draws in each pass of many that succeeded."""
    sizes: list[int] = []
    batched = _passes._batched

    def spy(*args: Any) -> Tensor:
        result = batched(*args)
        sizes.append(len(result))
        return result

    monkeypatch.setattr(_passes, "_batched", spy)
    return sizes


@pytest.mark.parametrize("draws", [1, 7, 64, 100])
def test_is_the_mean_of_the_softmax_over_draws(draws):
    model, optimizer = make()
    got = ivon.predict(model, X, draws, posterior=optimizer, seed=5)
    expected = by_hand(model, Posterior.of(model, optimizer), draws, lambda: model(X), seed=5)
    torch.testing.assert_close(got.exp(), expected)
    assert got.shape == (5, 3)


def test_no_draws_is_the_prediction_of_the_mean():
    model, optimizer = make()
    got = ivon.predict(model, X, n_samples=0, posterior=optimizer)
    torch.testing.assert_close(got, model.eval()(X).log_softmax(-1))


@pytest.mark.parametrize("draws", [0, 1, 64])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_is_a_distribution_without_autograd(dtype, draws):
    model, optimizer = make(dtype)
    log_probs = ivon.predict(model, X.to(dtype), draws, posterior=optimizer)
    assert log_probs.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert not log_probs.requires_grad
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(5, dtype=log_probs.dtype))


def test_every_batch_has_the_same_models():
    """Also from a posterior that was saved, and whatever random numbers are used in between."""
    model, optimizer = make()
    whole = ivon.predict(model, X, 20, posterior=optimizer)
    posterior = Posterior.from_state_dict(Posterior.of(model, optimizer).state_dict())
    batches = []
    for x in X.split(2):
        torch.manual_seed(len(batches))
        batches.append(ivon.predict(model, x, 20, posterior=posterior))
    # Matrix products of another size may add in another order.
    torch.testing.assert_close(torch.cat(batches), whole)
    assert not torch.allclose(ivon.predict(model, X, 20, posterior=optimizer, seed=1), whole)


def test_optimizer_may_be_wrapped():
    model, optimizer = make()
    wrapped = SimpleNamespace(optimizer=optimizer)
    got = ivon.predict(model, X, 3, posterior=wrapped)
    assert torch.equal(got, ivon.predict(model, X, 3, posterior=optimizer))


def test_inputs_by_keyword_and_logits_as_an_attribute():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, features: Tensor, scale: float) -> SimpleNamespace:
            return SimpleNamespace(logits=self.layer(features) * scale)

    model = Model()
    optimizer = ivon.IVON(model.parameters(), lr=0.1, ess=20.0)
    for draws in (3, 40):
        got = ivon.predict(model, {"features": X, "scale": 2.0}, draws, posterior=optimizer)
        posterior = Posterior.of(model, optimizer)
        torch.testing.assert_close(got.exp(), by_hand(model, posterior, draws, lambda: model(X, 2.0).logits))


def test_leaves_weights_buffers_and_modes_as_they_were():
    model, optimizer = make()
    model.train()
    model[1].eval()  # frozen batch norm in a model that trains
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    for draws in (3, 64):
        ivon.predict(model, X, draws, posterior=optimizer)
        with pytest.raises(RuntimeError):
            ivon.predict(model, X[:, :2], draws, posterior=optimizer)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert [module.training for module in model.modules()] == modes


def test_probabilities_too_small_for_float32_survive_the_average():
    model = Scale([0.0, 200.0])  # exp(-200) is 0 in float32
    optimizer = ivon.IVON(model.parameters(), lr=0.1, ess=1e12)
    for draws in (10, 64):
        log_probs = ivon.predict(model, torch.ones(1, 2), draws, posterior=optimizer)
        assert log_probs[0, 0].item() == pytest.approx(-200, rel=1e-3)


def test_average_of_two_opposite_answers_is_undecided():
    """A wide posterior over the slope of a logistic model: confident draws, undecided average."""
    model = Scale([0.0])
    optimizer = ivon.IVON(model.parameters(), lr=0.1, ess=1e-4)
    signs = torch.tensor([[1.0, -1.0]])
    log_probs = ivon.predict(model, signs, 2000, posterior=optimizer)
    # 2,000 coin flips: standard error 0.011.
    assert log_probs[0, 0].exp().item() == pytest.approx(0.5, abs=0.05)
    assert ivon.predict(model, signs, 1, posterior=optimizer).min() < -5  # sigma is 100
    point = ivon.predict(model, signs, n_samples=0, posterior=optimizer)
    assert point[0, 0].item() == pytest.approx(math.log(0.5))


class Scale(nn.Module):
    def __init__(self, p: list[float]) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(p))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.p


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.mix = nn.Linear(16, 48)
        self.norm = nn.LayerNorm(16)
        self.out = nn.Linear(16, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        qkv = self.mix(self.norm(self.embedding(tokens))).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (2, 8)).transpose(1, 2) for part in qkv)
        mixed = (q @ k.mT / 8**0.5).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).flatten(2).mean(1))


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    model[2].bias.requires_grad_(False)
    return model


TOGETHER = {
    "perceptron": (lambda: nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 3)), lambda: X),
    "batch norm": (lambda: make()[0], lambda: X),
    "tied and frozen": (tied, lambda: X),
    "convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
        ),
        lambda: torch.randn(2, 1, 8, 8),
    ),
    "attention": (Attention, lambda: torch.arange(10).view(2, 5)),
    "ResNet-20": (lambda: MODELS["resnet20"].build(3, width=2), lambda: torch.randn(1, 3, 16, 16)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", TOGETHER)
def test_small_passes_go_together_and_give_the_same(name, dtype, passes, monkeypatch):
    torch.manual_seed(2)
    model, inputs = (make() for make in TOGETHER[name])
    model.to(dtype)
    inputs = inputs.to(dtype) if inputs.is_floating_point() else inputs
    optimizer = ivon.IVON(model.parameters(), lr=0.1, ess=20.0)
    together = ivon.predict(model, inputs, 50, posterior=optimizer)
    assert passes == [24, 25]  # and the first alone
    monkeypatch.setattr(_passes, "WORTHWHILE", math.inf)
    plain = ivon.predict(model, inputs, 50, posterior=optimizer)
    assert passes == [24, 25]
    # Sums in another order; in bfloat16 every layer rounds its result to 8 bits.
    tolerance = {} if dtype == torch.float32 else {"atol": 0.02, "rtol": 0.0}
    torch.testing.assert_close(together.exp(), plain.exp(), **tolerance)


class Branches(Scale):
    """Control flow that depends on the parameters."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.p if self.p[0] > 0 else x - self.p


class Counts(Scale):
    """A buffer that changes with every pass and matters in the next one."""

    def __init__(self, p: list[float]) -> None:
        super().__init__(p)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1  # type: ignore[misc]
        return x * self.p + self.calls * torch.tensor([0.1, 0.0, 0.0, 0.0])


class Remembers(Scale):
    """Something for others to read after the pass."""

    last: Tensor

    def forward(self, x: Tensor) -> Tensor:
        self.last = x * self.p
        return self.last


class Collects(Scale):
    def __init__(self, p: list[float]) -> None:
        super().__init__(p)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x * self.p)
        return self.seen[-1]


class ThroughNumPy(Scale):
    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.numpy() * self.p.detach().numpy())


class WithoutRule(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: Tensor) -> Tensor:
        return x * p

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError


class OwnFunction(Scale):
    def forward(self, x: Tensor) -> Tensor:
        return WithoutRule.apply(x, self.p)


class Fused(Scale):
    """Runs an operation of PyTorch's own that has no batching rule."""

    def forward(self, x: Tensor) -> Tensor:
        x = (x * self.p).view(1, 1, 5, 4)
        return F.scaled_dot_product_attention(x, x, x).view(5, 4)


def scripted(p: list[float]) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.trace(Scale(p), X)


def compiled(p: list[float]) -> nn.Module:
    return torch.compile(Scale(p), backend="eager")


APART = [
    Branches,
    Counts,
    Remembers,
    Collects,
    ThroughNumPy,
    OwnFunction,
    Fused,
    scripted,
    compiled,
]


@pytest.mark.parametrize("build", APART, ids=lambda build: build.__name__)
def test_models_that_cannot_go_together_are_asked_one_by_one(build, passes):
    model, same = (build([0.1, 0.2, 0.3, 0.4]) for _ in range(2))
    optimizer = ivon.IVON(model.parameters(), lr=0.1, ess=2.0)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        got = ivon.predict(model, X, 40, posterior=optimizer)
    assert not passes
    assert not warned
    expected = by_hand(same, Posterior.of(model, optimizer), 40, lambda: same(X))
    torch.testing.assert_close(got.exp(), expected)
    left = [
        v
        for m in model.modules()
        for v in (*vars(m).values(), *getattr(m, "seen", ()))
        if isinstance(v, Tensor)
    ]
    assert all(tensor.shape == X.shape for tensor in left)  # nothing of a pass of many draws is left behind


def test_hooks_see_every_pass():
    model = Scale([0.1, 0.2, 0.3, 0.4])
    seen: list[Tensor] = []
    model.register_forward_hook(lambda module, args, output: seen.append(output))
    ivon.predict(model, X, 40, posterior=ivon.IVON(model.parameters(), lr=0.1, ess=2.0))
    assert [tensor.shape for tensor in seen] == [X.shape] * 40


def test_what_failed_together_is_not_tried_for_every_batch(monkeypatch):
    model = Branches([0.1, 0.2, 0.3, 0.4])
    posterior = Posterior.of(model, ivon.IVON(model.parameters(), lr=0.1, ess=2.0))
    tried = []
    batched = _passes._batched

    def spy(*args: Any) -> Tensor:
        tried.append(args)
        return batched(*args)

    monkeypatch.setattr(_passes, "_batched", spy)
    for _ in range(3):
        ivon.predict(model, X, 40, posterior=posterior)
    assert len(tried) == 1


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (nn.Linear(4, 3), torch.randn(2000, 4)),
        (nn.Sequential(nn.Linear(4, 500), nn.Linear(500, 3)), torch.randn(20, 4)),
        (nn.Linear(200, 200), torch.randn(2, 200)),
    ],
    ids=["inputs", "values", "weights"],
)
def test_large_passes_are_made_one_by_one(model, inputs, passes):
    ivon.predict(model, inputs, 40, posterior=ivon.IVON(model.parameters(), lr=0.1, ess=2.0))
    assert not passes


@pytest.mark.parametrize("draws", [0, 3, 40])
def test_works_in_inference_mode(draws):
    model, optimizer = make()
    model.register_buffer("unused", None)
    expected = ivon.predict(model, X, draws, posterior=optimizer)
    with torch.inference_mode():
        model.unused = torch.ones(1)
        posterior = Posterior.of(model, optimizer)
        assert torch.equal(ivon.predict(model, X, draws, posterior=optimizer), expected)
    assert torch.equal(ivon.predict(model, X, draws, posterior=posterior), expected)
    with optimizer.sampled_params(train=True):
        model.train()(X).sum().backward()
    optimizer.step()


def test_autocast_averages_over_draws_that_differ():
    model, optimizer = make()
    with torch.autocast("cpu", torch.bfloat16):
        few = ivon.predict(model, X, 8, posterior=optimizer)
        one = ivon.predict(model, X, 1, posterior=optimizer)
        many = ivon.predict(model, X, 40, posterior=optimizer)
    expected = by_hand(model, Posterior.of(model, optimizer), 8, lambda: model(X))
    torch.testing.assert_close(few.exp(), expected, atol=0.02, rtol=0)  # bfloat16 has 8 bits
    assert not torch.allclose(few.exp(), one.exp(), atol=0.02)
    expected = by_hand(model, Posterior.of(model, optimizer), 40, lambda: model(X))
    torch.testing.assert_close(many.exp(), expected, atol=0.02, rtol=0)


def test_what_makes_no_sense_is_refused():
    model, optimizer = make()
    for n_samples in (-1, 2.0, True):
        with pytest.raises(ValueError, match="n_samples must be an integer >= 0"):
            ivon.predict(model, X, n_samples, posterior=optimizer)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="seed must be an integer"):
        ivon.predict(model, X, posterior=optimizer, seed=0.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"must be an ivon\.IVON"):
        ivon.predict(model, X, posterior=torch.optim.SGD(model.parameters()))
    with pytest.raises(ValueError, match=r"'0\.weight' has shape"):
        ivon.predict(nn.Sequential(nn.Linear(4, 7)), X, posterior=Posterior.of(model, optimizer))
    with pytest.raises(ValueError, match=r"model must be a torch\.nn\.Module"):
        ivon.predict(lambda x: model(x), X, posterior=optimizer)  # type: ignore[arg-type]
    pair = nn.LSTM(4, 3)
    with pytest.raises(ValueError, match="model must return logits or an object that has them, got tuple"):
        ivon.predict(pair, X, posterior=ivon.IVON(pair.parameters(), lr=0.1, ess=1.0))
    with pytest.raises(RuntimeError, match="within sampled_params"), optimizer.sampled_params():
        ivon.predict(model, X, posterior=optimizer)


@pytest.mark.parametrize("draws", [0, 3, 40])
def test_one_logit_is_refused(draws):
    """Its softmax is 1, or that of a flat output over the batch."""
    for model, shape in (
        (nn.Linear(4, 1), r"\(5, 1\)"),
        (nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)), r"\(5,\)"),
    ):
        optimizer = ivon.IVON(model.parameters(), lr=0.1, ess=10.0)
        words = rf"logits \(N, C\) with C >= 2, got shape {shape}; .*ivon.predict_regression"
        with pytest.raises(ValueError, match=words):
            ivon.predict(model, X, draws, posterior=optimizer)


class WithZero(nn.Module):
    """Two logits, of which one is 0, from a model with one."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        z = self.model(x)
        return torch.cat([torch.zeros_like(z), z], -1)


def test_one_logit_with_a_zero_beside_it_has_the_probabilities_of_the_logistic_function():
    model = nn.Linear(4, 1)
    optimizer = ivon.IVON(model.parameters(), lr=0.1, ess=10.0)
    two = WithZero(model)
    got = ivon.predict(two, X, 40, posterior=optimizer).exp()[:, 1:]
    posterior = Posterior.of(two, optimizer)
    each = []
    for k in range(40):
        with posterior.sampled(two, k):
            each.append(model(X).detach().sigmoid())
    torch.testing.assert_close(got, torch.stack(each).mean(0))


class Shaped(nn.Module):
    """The logits (N, C, H, W) of a 1 x 1 convolution, or the same logits with C elsewhere."""

    def __init__(self, classes_at: int, wrapped: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(2, 3, 1)
        self.classes_at, self.wrapped = classes_at, wrapped

    def forward(self, x: Tensor) -> Any:
        logits = self.convolution(x).movedim(1, self.classes_at)
        return SimpleNamespace(logits=logits) if self.wrapped else logits


IMAGES = torch.linspace(-2, 2, 80).view(4, 2, 5, 2)  # 5 x 2 pixels: no two dimensions of logits are alike


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("draws", [0, 3, 40])
@pytest.mark.parametrize("classes_at", [0, 1, 2, 3])
def test_classes_may_be_in_any_dimension(classes_at, draws, wrapped):
    model = Shaped(classes_at, wrapped)
    optimizer = ivon.IVON(model.parameters(), lr=0.1, ess=20.0)
    got = [
        ivon.predict(model, IMAGES, draws, posterior=optimizer, class_dim=dim)
        for dim in (classes_at, classes_at - 4)
    ]
    last = Shaped(3)  # where by_hand expects them
    expected = last(IMAGES).softmax(-1)
    if draws:
        expected = by_hand(last, Posterior.of(model, optimizer), draws, lambda: last(IMAGES))
    for log_probs in got:
        torch.testing.assert_close(log_probs.exp(), expected.movedim(-1, classes_at))


def test_tokens_of_a_sequence_are_predicted_alike_with_and_without_the_sequence():
    model = nn.Linear(4, 3)
    optimizer = ivon.IVON(model.parameters(), lr=0.1, ess=20.0)
    tokens = torch.linspace(-2, 2, 40).view(2, 5, 4)
    got = ivon.predict(model, tokens, 40, posterior=optimizer, class_dim=-1)
    flat = ivon.predict(model, tokens.flatten(0, 1), 40, posterior=optimizer)
    torch.testing.assert_close(got.flatten(0, 1), flat)
    assert torch.equal(
        ivon.predict(model, X, posterior=optimizer, class_dim=1), ivon.predict(model, X, posterior=optimizer)
    )


@pytest.mark.parametrize("draws", [0, 3, 40])
@pytest.mark.parametrize("shape", [(5, 2, 2), (5, 2, 1, 2), (1, 5, 4)])
def test_shapes_that_leave_the_dimension_of_the_classes_open_are_refused(shape, draws):
    model = nn.Sequential(nn.Linear(4, 4), nn.Unflatten(1, shape[1:]) if shape[0] == 5 else Batched())
    optimizer = ivon.IVON(model.parameters(), lr=0.1, ess=10.0)
    words = rf"class_dim must be given for logits of shape {re.escape(str(shape))}"
    with pytest.raises(ValueError, match=words) as refusal:
        ivon.predict(model, X, draws, posterior=optimizer)
    assert "\n" not in str(refusal.value)


class Batched(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[None]


def test_dimensions_that_cannot_have_the_classes_are_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.Unflatten(1, (4, 1)))
    optimizer = ivon.IVON(model.parameters(), lr=0.1, ess=10.0)
    for wrong in (3, -4):
        words = rf"class_dim must be a dimension of the logits, of shape \(5, 4, 1\), got {wrong}"
        with pytest.raises(ValueError, match=words):
            ivon.predict(model, X, posterior=optimizer, class_dim=wrong)
    with pytest.raises(ValueError, match="class_dim must have two classes at least, got 2"):
        ivon.predict(model, X, posterior=optimizer, class_dim=2)
    for wrong in (1.0, True, "1"):
        with pytest.raises(ValueError, match="class_dim must be an integer"):
            ivon.predict(model, X, posterior=optimizer, class_dim=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_probabilities_in_place_of_logits_are_told(dtype, recwarn):
    body = nn.Linear(4, 3).to(dtype)
    optimizer = ivon.IVON(body.parameters(), lr=0.1, ess=20.0)
    for last in (nn.Identity(), nn.LogSoftmax(-1), nn.Softplus(), nn.Sigmoid()):
        ivon.predict(nn.Sequential(body, last), X.to(dtype), 3, posterior=optimizer)
    assert not recwarn
    for draws in (0, 40):
        with pytest.warns(UserWarning, match="the model returns probabilities") as warned:
            ivon.predict(nn.Sequential(body, nn.Softmax(-1)), X.to(dtype), draws, posterior=optimizer)
        assert warned[0].filename == __file__
