"""Batch-norm statistics at the mean, at one draw and over draws; modes, momenta and weights come back."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from ivon import IVON
from ivon.batch_norm import refresh_batch_norm


def make_model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5),
        nn.BatchNorm1d(5, momentum=None), nn.Linear(5, 3),
    )  # fmt: skip


def make_batches(sizes=(8, 8, 3), seed=1):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 2, 5, 5, generator=rng) * 3 + 1 for size in sizes]


def statistics(model):
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def assert_same(got, wanted):
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[name], wanted[name]) for name in got)


def as_tuples(batches):
    return [(batch, torch.zeros(len(batch))) for batch in batches]


@pytest.mark.parametrize("wrap", [list, as_tuples], ids=["tensors", "tuples"])
@pytest.mark.parametrize("training", [True, False])
def test_at_the_weights_it_is_what_pytorch_has_for_averaged_weights(wrap, training):
    model = make_model().train(training)
    peer = copy.deepcopy(model)
    update_bn(wrap(make_batches()), peer)
    refresh_batch_norm(model, wrap(make_batches()))
    assert_same(statistics(model), statistics(peer))


def test_statistics_are_the_averages_of_the_batches():
    model, batches = nn.BatchNorm1d(3), [torch.randn(n, 3, dtype=torch.float32) for n in (4, 9)]
    model(torch.full((7, 3), 1e3))  # forgotten
    refresh_batch_norm(model, batches)
    torch.testing.assert_close(model.running_mean, sum(b.mean(0) for b in batches) / 2)
    torch.testing.assert_close(model.running_var, sum(b.var(0) for b in batches) / 2)


class Keywords(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, *, x, scale, labels=None):
        return self.norm(x * scale)


def test_mappings_are_keyword_arguments():
    model, x = Keywords(), torch.randn(6, 3)
    refresh_batch_norm(model, [{"x": x, "scale": 2.0, "labels": None}], device="cpu")
    torch.testing.assert_close(model.norm.running_mean, 2 * x.mean(0))


@pytest.mark.parametrize("batch", [torch.zeros(6, 3), (torch.zeros(6, 3), 1), {"x": torch.zeros(6, 3)}])
def test_batches_are_moved_to_the_device(batch):
    """The meta device stands for an accelerator."""
    seen = []

    class Watching(nn.BatchNorm1d):
        def forward(self, x):
            seen.append(x.device.type)
            return super().forward(torch.zeros(6, 3))

    refresh_batch_norm(Watching(3), [batch], device="meta")
    refresh_batch_norm(Watching(3), [batch])
    assert seen == ["meta", "cpu"]


def test_with_an_optimizer_every_batch_has_a_draw_of_its_own():
    p_model, batches = make_model().eval(), make_batches()
    optimizer = IVON(p_model.parameters(), lr=0.1, ess=5.0)
    optimizer.seed(3)
    model = copy.deepcopy(p_model)
    own = IVON(model.parameters(), lr=0.1, ess=5.0)
    own.seed(3)
    layers = [model[1], model[5]]
    for layer in layers:  # by hand, with the same draws
        layer.train().reset_running_stats()
        layer.momentum = None
    for batch in batches:
        with torch.no_grad(), own.sampled_params():
            model(batch)
    refresh_batch_norm(p_model, batches, optimizer)
    assert_same(statistics(p_model), statistics(model))
    first = statistics(p_model)
    refresh_batch_norm(p_model, batches, SimpleNamespace(optimizer=optimizer))  # as accelerate wraps it
    assert not torch.equal(statistics(p_model)["1.running_mean"], first["1.running_mean"])  # other draws


def test_over_draws_of_a_linear_layer_the_variance_has_that_of_the_weights():
    """y = w x with w ~ N(1, 1/4), x = +-1: over draws the variance of y within a batch is E[w^2] = 1.25."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1, affine=False))
    nn.init.ones_(model[0].weight)
    optimizer = IVON(model.parameters(), lr=0.1, ess=4.0, hess_init=1.0, weight_decay=0.0)
    optimizer.seed(0)
    batches = [torch.tensor([[1.0], [-1.0]] * 50)] * 2000
    n = 100 / 99  # unbiased variances
    refresh_batch_norm(model, batches)
    assert model[1].running_var.item() == pytest.approx(1.0 * n, rel=1e-5)
    refresh_batch_norm(model, batches, optimizer)
    # The standard deviation of w^2 is sqrt(4 * 1/4 + 2/16) = 1.06, so the standard error 0.024.
    assert model[1].running_var.item() == pytest.approx(1.25 * n, abs=0.1)


def test_within_a_draw_the_statistics_are_those_of_the_draw():
    model, batches = make_model(), make_batches()
    optimizer = IVON(model.parameters(), lr=0.1, ess=5.0)
    with optimizer.sampled_params():
        at_draw = copy.deepcopy(model)
        refresh_batch_norm(model, batches)
    update_bn(batches, at_draw)
    assert_same(statistics(model), statistics(at_draw))


def test_predictions_in_evaluation_mode_do_not_see_other_training_layers():
    """With dropout on, as it is in PyTorch's function, the variance would be larger than at prediction."""
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3)).train()
    x = torch.randn(50, 3)
    refresh_batch_norm(model, [x])
    torch.testing.assert_close(model[1].running_var, x.var(0))


@pytest.mark.parametrize("with_draws", [False, True])
def test_weights_gradients_modes_and_momenta_are_left_as_they_were(with_draws):
    model = make_model()
    optimizer = IVON(model.parameters(), lr=0.1, ess=5.0)
    model.train()
    model[1].eval()  # a frozen layer in a model that trains
    weights = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    modes = [m.training for m in model.modules()]
    refresh_batch_norm(model, make_batches(), optimizer if with_draws else None)
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())
    assert [m.training for m in model.modules()] == modes
    assert (model[1].momentum, model[5].momentum) == (0.3, None)


def test_evaluating_so_leaves_the_training_noise_alone():
    def train(refresh):
        model = make_model()
        optimizer = IVON(model.parameters(), lr=0.1, ess=5.0)
        optimizer.seed(0)
        for batch in make_batches((8, 8)):
            with optimizer.sampled_params(train=True):
                optimizer.zero_grad()
                model(batch).square().mean().backward()
            optimizer.step()
            if refresh:
                refresh_batch_norm(model, make_batches(), optimizer)
        return [p.detach().clone() for p in model.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(train(True), train(False), strict=True))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("with_draws", [False, True])
def test_after_an_exception_everything_is_as_before(with_draws, error):
    model = make_model()
    optimizer = IVON(model.parameters(), lr=0.1, ess=5.0)
    model(make_batches()[0])
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def batches():
        yield make_batches()[0]
        raise error

    with pytest.raises(error):
        refresh_batch_norm(model, batches(), optimizer if with_draws else None)
    assert_same(model.state_dict(), before)
    assert all(m.training for m in model.modules())
    assert (model[1].momentum, model[5].momentum) == (0.3, None)


def test_no_batches_are_an_error_and_not_statistics_of_nothing():
    model = make_model()
    model(make_batches()[0])
    before = statistics(model)
    with pytest.raises(ValueError, match="batches must have at least one batch, got none"):
        refresh_batch_norm(model, [])
    assert_same(statistics(model), before)


@pytest.mark.parametrize(
    "model",
    [nn.Linear(2, 2), nn.Sequential(nn.GroupNorm(1, 2)), nn.BatchNorm1d(2, track_running_stats=False)],
    ids=["none", "other norm", "without statistics"],
)
def test_without_statistics_to_refresh_no_batch_is_read(model):
    def batches():
        pytest.fail("a batch was asked for")
        yield

    refresh_batch_norm(model, batches())


def test_an_optimizer_without_ivon_is_refused():
    model = make_model()
    with pytest.raises(TypeError, match=r"ivon\.IVON"):
        refresh_batch_norm(model, make_batches(), torch.optim.SGD(model.parameters(), lr=0.1))
