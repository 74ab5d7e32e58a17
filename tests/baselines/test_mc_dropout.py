"""MC-dropout: where its masks are, what they do, and the exact mean over all of them."""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from baselines.mc_dropout import Masks, global_stream
from baselines.method import Loss
from baselines.settings import MCDropout
from experiments.models import MODELS

SITES = {  # two for each block or layer
    "resnet20": 2 * 9,
    "preresnet110": 2 * 54,
    "resnet18": 2 * 8,
    "densenet121": 2 * 58,
    "resnet50": 2 * 16,
}


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 4))


def test_every_networks_sites_are_known():
    assert set(SITES) == set(MODELS)


@pytest.mark.parametrize("name", SITES)
def test_networks_have_their_sites(name):
    """Each of them masks a map of channels once in a forward pass."""
    model = MODELS[name].build(10, in_channels=1, width=4, side=16)
    parameters = list(model.state_dict())
    masks, shapes = Masks(model, model.dropout_sites(), rate=0.05), []
    for module in (model.get_submodule(site) for site in masks.sites):
        module.register_forward_hook(lambda m, i, output: shapes.append(output.shape))
    with torch.no_grad():
        model(torch.randn(2, 1, 16, 16))
    assert len(shapes) == len(set(masks.sites)) == SITES[name]
    assert all(len(shape) == 4 for shape in shapes)
    assert list(model.state_dict()) == parameters


def test_resnet20_masks_after_the_first_norm_and_after_the_sum():
    model = MODELS["resnet20"].build(10, in_channels=1, width=4, side=8)
    assert model.dropout_sites()[:4] == ["blocks.0_0.norm1", "blocks.0_0", "blocks.0_1.norm1", "blocks.0_1"]
    Masks(model, model.dropout_sites(), rate=0.5).active = True
    block, seen = model.blocks[0], {}
    for part in ("conv1", "conv2", "norm2", "shortcut"):
        getattr(block, part).register_forward_hook(lambda m, i, o, part=part: seen.update({part: (i[0], o)}))
    torch.manual_seed(0)
    with torch.no_grad():
        out = block(torch.randn(2, 4, 8, 8))
        normed = block.norm1(seen["conv1"][1])  # masked anew
    assert (seen["conv2"][0] == 0).float().mean() > 0.4  # FRN's threshold alone leaves 0 only where x <= 0
    total = seen["norm2"][1] + seen["shortcut"][1]
    kept = out != 0
    torch.testing.assert_close(out[kept], 2 * total[kept])
    both = (seen["conv2"][0] != 0) & (normed != 0)
    assert torch.equal(seen["conv2"][0][both], normed[both])


def test_masks_zero_a_part_and_scale_the_rest():
    model = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(1, 1))
    masks, ones = Masks(model, ["0"], rate=0.2), torch.ones(200, 500)
    assert torch.equal(model[0](ones), ones)
    with masks.on(noise()):
        one, other = model[0](ones), model[0](ones)
    values, counts = one.unique(return_counts=True)
    torch.testing.assert_close(values, torch.tensor([0.0, 1.25]))
    assert counts[0] / one.numel() == pytest.approx(0.2, abs=0.0064)  # five standard errors of 100,000
    # Entries, examples and passes are masked independently of each other.
    assert torch.corrcoef(torch.stack((one[:, :-1].flatten(), one[:, 1:].flatten())))[0, 1].abs() < 0.016
    assert torch.corrcoef(torch.stack((one[:-1].flatten(), one[1:].flatten())))[0, 1].abs() < 0.016
    assert torch.corrcoef(torch.stack((one.flatten(), other.flatten())))[0, 1].abs() < 0.016


def test_predictive_mean_is_that_over_all_masks():
    """Three hidden units have eight masks; their probabilities give the exact predictive distribution."""
    model, x, rate = network(), torch.randn(1, 5, generator=noise()), 0.3
    exact = torch.zeros(4)
    with torch.no_grad():
        hidden = model[1](model[0](x))
        for mask in product((0.0, 1.0), repeat=3):
            probability = torch.tensor([1 - rate if on else rate for on in mask]).prod()
            kept = hidden * torch.tensor(mask) / (1 - rate)
            exact += probability * model[2](kept).softmax(-1)[0]
        masks, draws = Masks(model, ["1"], rate), 20_000
        with masks.on(noise(1)):
            drawn = model(x.expand(draws, 5)).softmax(-1)
    error = drawn.std(0) / draws**0.5
    assert ((drawn.mean(0) - exact).abs() < 5 * error).all()  # five standard errors
    assert ((model(x).softmax(-1)[0] - exact).abs() > 5 * error).any()  # the point estimate is another


def test_a_step_is_one_of_sgd_with_torchs_dropout():
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3}
    model, twin = network(), network()
    model.dropout_sites = lambda: ["1"]
    method = MCDropout(**settings, rate=0.3).build(model, train_size=8, seed=5)
    twin.insert(2, nn.Dropout(0.3))
    optimizer = torch.optim.SGD(twin.parameters(), **settings)
    inputs, labels = torch.randn(8, 5, generator=noise()), torch.arange(8) % 4
    for _ in range(3):
        streams = []
        real = method.masks.on
        method.masks.on = lambda generator: (streams.append(generator.get_state()), real(generator))[1]  # noqa: B023
        value = method.step(Loss(model, inputs, labels))
        method.masks.on = real
        torch.set_rng_state(streams[0])
        optimizer.zero_grad()
        loss = F.cross_entropy(twin(inputs), labels)
        loss.backward()
        optimizer.step()
        assert torch.equal(value, loss.detach())
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, other)


def test_every_step_has_masks_of_its_own():
    model = network()
    model.dropout_sites = lambda: ["1"]
    method = MCDropout(lr=0.1, rate=0.5).build(model, train_size=8, seed=0)
    method.optimizer.param_groups[0]["lr"] = 0.0
    loss = Loss(model, torch.randn(8, 5, generator=noise()), torch.arange(8) % 4)
    assert len({method.step(loss).item() for _ in range(4)}) == 4


def test_masks_do_not_depend_on_the_networks_mode():
    """Evaluation mode is for batch norm; a draw is a draw in both."""
    model, x = network(), torch.randn(6, 5, generator=noise())
    plain = model(x)
    masks, outputs = Masks(model, ["1"], rate=0.5), []
    for mode in (True, False):
        model.train(mode)
        with masks.on(noise(3)):
            outputs.append(model(x))
        assert torch.equal(model(x), plain)
    assert torch.equal(*outputs)
    assert not torch.equal(outputs[0], plain)


def test_stream_is_lent_and_given_back():
    torch.manual_seed(4)
    expected = torch.rand(3)
    generator = noise(1)
    torch.manual_seed(4)
    with global_stream(generator):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    again = noise(1)
    assert torch.equal(torch.rand(3, generator=again), inside)
    assert torch.equal(torch.rand(3, generator=again), torch.rand(3, generator=generator))  # it has moved on

    state = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), global_stream(generator):
        raise ZeroDivisionError
    assert torch.equal(torch.get_rng_state(), state)


def test_removed_masks_are_gone():
    model, x = network(), torch.randn(6, 5, generator=noise())
    masks = Masks(model, ["1"], rate=0.5)
    masks.remove()
    with masks.on(noise()):
        masked = model(x)
    assert torch.equal(masked, model(x))


class Recurrent(nn.Module):
    """A classifier of sequences (N, T, 6) that reads what the module `part` hands on."""

    def __init__(self, part: nn.Module, read: Callable[[Any], torch.Tensor], *, pack: bool = False) -> None:
        super().__init__()
        self.part, self.read, self.pack, self.head = part, read, pack, nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.pack:
            x = pack_padded_sequence(x, torch.full((len(x),), x.shape[1]), batch_first=True)
        found = self.part(x, x, x) if isinstance(self.part, nn.MultiheadAttention) else self.part(x)
        return self.head(self.read(found))

    def dropout_sites(self) -> list[str]:
        return ["part"]


class InADict(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        return {"states": [x, (2 * x, None)], "lengths": torch.tensor([3, 4])}


LSTM, GRU = (partial(kind, 6, 6, batch_first=True) for kind in (nn.LSTM, nn.GRU))
OF_SEVERAL_TENSORS = {
    "lstm, outputs": lambda: Recurrent(LSTM(), lambda found: found[0][:, -1]),
    "lstm, last state": lambda: Recurrent(LSTM(), lambda found: found[1][0][-1]),
    "lstm, last cell": lambda: Recurrent(LSTM(), lambda found: found[1][1][-1]),
    "gru, outputs": lambda: Recurrent(GRU(), lambda found: found[0].mean(1)),
    "gru, last state": lambda: Recurrent(GRU(), lambda found: found[1][-1]),
    "lstm, packed": lambda: Recurrent(
        LSTM(), lambda found: pad_packed_sequence(found[0], batch_first=True)[0][:, -1], pack=True
    ),
    "attention": lambda: Recurrent(
        nn.MultiheadAttention(6, 2, batch_first=True), lambda found: found[0].mean(1)
    ),
    "dict": lambda: Recurrent(InADict(), lambda found: found["states"][1][0].mean(1)),
}


@pytest.mark.parametrize("kind", OF_SEVERAL_TENSORS)
def test_modules_that_return_several_tensors_are_masked(kind):
    """Whichever of them the network reads; and it learns and predicts like any other."""
    torch.manual_seed(0)
    model = OF_SEVERAL_TENSORS[kind]()
    x, labels = torch.randn(8, 5, 6, generator=noise()), torch.arange(8) % 3
    method = MCDropout(lr=0.05, rate=0.3).build(model, train_size=8, seed=0)
    with torch.no_grad():
        plain = model(x)
        with method.masks.on(noise(1)):
            one, other = model(x), model(x)
        with method.draw(1, noise(1)):
            again = model(x)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one, plain)
    losses = [method.step(Loss(model, x, labels)).item() for _ in range(30)]
    assert sum(losses[-5:]) < sum(losses[:5])
    method.masks.remove()
    with torch.no_grad(), method.masks.on(noise(1)):
        assert torch.equal(model(x), model(x))


def test_each_tensor_has_a_mask_of_its_own_and_integers_none():
    model = OF_SEVERAL_TENSORS["dict"]()
    masks, ones = Masks(model, ["part"], rate=0.25), torch.ones(100, 100)
    with masks.on(noise()):
        found = model.part(ones)
    states = found["states"]
    assert torch.equal(found["lengths"], torch.tensor([3, 4]))
    assert states[1][1] is None
    for scale, masked in ((1, states[0]), (2, states[1][0])):
        assert masked.unique().tolist() == pytest.approx([0, scale / 0.75])
        assert (masked == 0).double().mean() == pytest.approx(0.25, abs=0.022)  # five standard errors
    assert ((states[0] == 0) & (states[1][0] == 0)).double().mean() == pytest.approx(0.0625, abs=0.013)
    assert torch.equal(model.part(ones)["states"][0], ones)


@pytest.mark.parametrize("output", [torch.tensor([1, 2]), (torch.tensor([1]), None), object()], ids=type)
def test_a_site_without_a_number_to_mask_is_refused(output):
    """Otherwise it would be a network without masks, whose draws are all alike."""

    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return output

    model = nn.Sequential(nn.Linear(2, 2), Fixed())
    masks = Masks(model, ["1"], rate=0.5)
    assert model(torch.ones(1, 2)) is output  # it may be looked at without masks
    with (
        masks.on(noise()),
        pytest.raises(TypeError, match=r"dropout site '1' returns \w+: needed are tensors"),
    ):
        model(torch.ones(1, 2))


@pytest.mark.parametrize("sites", [[], ["1", "nowhere"]])
def test_sites_that_are_not_there_are_refused(sites):
    with pytest.raises(ValueError, match=r"dropout sites of Sequential: (none|\['nowhere'\]); needed"):
        Masks(network(), sites, rate=0.1)


def test_sites_named_twice_are_refused():
    with pytest.raises(ValueError, match=r"dropout sites of Sequential: \['1'\] more than once"):
        Masks(network(), ["1", "0", "1"], rate=0.1)


def test_network_without_sites_is_refused():
    with pytest.raises(ValueError, match=r"Linear has no dropout_sites\(\)"):
        MCDropout(lr=0.1).build(nn.Linear(2, 1), train_size=10, seed=0)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1])
def test_impossible_rates_are_refused(rate):
    with pytest.raises(ValueError, match="dropout rate must be between 0 and 1"):
        Masks(network(), ["1"], rate)


def test_generator_of_another_device_is_refused():
    """Other than that where the network is now: it may have moved since it got its masks."""
    model = network()
    masks = Masks(model, ["1"], rate=0.5)
    model.to("meta")
    with pytest.raises(ValueError, match="generator is on cpu, the network on meta"), masks.on(noise()):
        pass


@pytest.mark.slow
def test_compiled_network_has_masks_too():
    """As on a GPU: on and off, with gradients and without, and the global stream is left alone."""
    model, x = network(), torch.randn(64, 5, generator=noise())
    masks = Masks(model, ["1"], rate=0.5)
    compiled = torch.compile(model)
    plain = model(x)
    state = torch.get_rng_state()

    def masked(seed: int) -> torch.Tensor:
        with masks.on(noise(seed)):
            return compiled(x)

    torch.testing.assert_close(compiled(x), plain)
    first = masked(1)
    assert torch.equal(masked(1), first)
    assert not torch.equal(masked(2), first)
    with torch.no_grad():
        once, again, other = masked(1), masked(1), masked(2)
        assert torch.equal(once, again) and not torch.equal(once, other)
        torch.testing.assert_close(compiled(x), plain)
    masked(1).sum().backward()
    assert torch.equal(torch.get_rng_state(), state)
