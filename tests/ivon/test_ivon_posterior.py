"""The posterior as an object: drawn from, saved, compared, put into models."""

import copy
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

import ivon
from ivon.posterior import Posterior

ROOT = Path(__file__).parents[2]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def trained(model: nn.Module, steps: int = 3, **settings: object) -> ivon.IVON:
    """An optimizer whose Hessian estimate differs from entry to entry."""
    dtype = next(model.parameters()).dtype
    optimizer = ivon.IVON(model.parameters(), **{"lr": 0.1, "ess": 50.0, "beta2": 0.9, **settings})  # type: ignore[arg-type]
    optimizer.seed(1)
    x = torch.linspace(-1, 1, 12, dtype=dtype).view(4, 3)
    for _ in range(steps):
        with optimizer.sampled_params(train=True):
            model(x).square().mean().backward()
        optimizer.step()
    return optimizer


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_has_the_mean_and_precision_of_each_group():
    model = network()
    groups = [
        {"params": model[0].parameters(), "ess": 10.0, "weight_decay": 0.5},
        {"params": model[2].parameters(), "ess": 40.0},
    ]
    optimizer = ivon.IVON(groups, lr=0.1, ess=1.0, weight_decay=0.25, hess_init=2.0)
    posterior = Posterior.of(model, optimizer)
    assert list(posterior.mean) == [name for name, _ in model.named_parameters()]
    assert posterior.precision["0.bias"].tolist() == [10 * 2.5] * 5  # before any step h is h0
    assert posterior.precision["2.bias"].tolist() == [40 * 2.25] * 2
    assert posterior.prior_precision["0.weight"] == 5.0
    assert posterior.prior_precision["2.weight"] == 10.0
    assert not optimizer.state  # looking has not changed what a checkpoint holds


def test_is_a_copy_of_what_was_learned():
    model = network()
    optimizer = trained(model)
    posterior = Posterior.of(model, optimizer)
    for name, param in model.named_parameters():
        hess = optimizer.state[param]["hess"]
        torch.testing.assert_close(posterior.precision[name], 50 * (hess + 1e-4))
        assert hess.unique().numel() > 1
    before = {name: mean.clone() for name, mean in posterior.mean.items()}
    with torch.no_grad():
        model[0].weight.add_(1)
    assert equal(posterior.mean, before)


def test_mean_of_16_bit_parameters_includes_what_they_cannot_hold():
    model = network().to(torch.bfloat16)
    optimizer = trained(model)
    posterior = Posterior.of(model, optimizer)
    for name, param in model.named_parameters():
        assert posterior.mean[name].dtype == torch.float32
        assert torch.equal(posterior.mean[name], param.float() + optimizer.state[param]["residual"])
    assert any((posterior.mean[name] != param).any() for name, param in model.named_parameters())


def test_follows_a_model_that_was_converted_after_training():
    model = network()
    optimizer = trained(model)
    model.double()
    posterior = Posterior.of(model, optimizer)
    assert all(
        value.dtype == torch.float64 for value in (*posterior.mean.values(), *posterior.precision.values())
    )
    assert equal(posterior.mean, dict(model.named_parameters()))


def test_leaves_out_frozen_parameters_and_has_tied_ones_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    model[1].requires_grad_(False)
    posterior = Posterior.of(model, ivon.IVON(model.parameters(), lr=0.1, ess=1.0))
    assert list(posterior.mean) == ["0.weight", "0.bias", "2.bias"]
    assert posterior.fixed == ("1.weight", "1.bias")
    frozen = model[1].weight.clone()
    with posterior.sampled(model, 0):
        assert torch.equal(model[1].weight, frozen)
        assert model[2].weight is model[0].weight
        assert torch.equal(model[2].weight, posterior.draw(0)["0.weight"])


def test_moments_of_many_draws():
    model = network()
    posterior = Posterior.of(model, trained(model))
    draws, sigma = 4000, {name: p.rsqrt() for name, p in posterior.precision.items()}
    stacked = posterior.draws(range(draws))
    for name, values in stacked.items():
        z = (values - posterior.mean[name]) / sigma[name]
        # 32 entries: the largest of so many standard errors is below 4.5 except in one seed of 4,000.
        assert z.mean(0).abs().max() < 4.5 / math.sqrt(draws)
        assert (z.var(0) - 1).abs().max() < 4.5 * math.sqrt(2 / draws)
    flat = torch.cat([(v - posterior.mean[n]).flatten(1) / sigma[n].flatten() for n, v in stacked.items()], 1)
    correlation = torch.corrcoef(flat.T) - torch.eye(flat.shape[1])
    assert correlation.abs().max() < 5 / math.sqrt(draws)  # 496 pairs


def test_a_draw_is_a_function_of_seed_and_number():
    model = network()
    posterior = Posterior.of(model, trained(model))
    reference = posterior.draw(3, seed=7)
    torch.manual_seed(99)
    torch.randn(5)
    posterior.draw(0)
    assert equal(posterior.draw(3, seed=7), reference)
    rows = posterior.draws([5, 3], seed=7)
    assert equal({name: values[1] for name, values in rows.items()}, reference)
    for k, seed in ((4, 7), (3, 8), (7, 3)):
        assert not any(torch.equal(v, reference[name]) for name, v in posterior.draw(k, seed).items())


@pytest.mark.parametrize("name", ["posterior.safetensors", "posterior.pt"])
def test_file_gives_the_same_draws_on_another_machine(name, tmp_path):
    """In a process that has seen no optimizer, for a fresh model, whatever its random state."""
    model = network()
    model[0].bias.requires_grad_(False)
    posterior = Posterior.of(model, trained(model))
    posterior.save(tmp_path / name)
    loaded = Posterior.load(tmp_path / name)
    assert equal(loaded.mean, posterior.mean)
    assert equal(loaded.precision, posterior.precision)
    assert loaded.prior_precision == posterior.prior_precision
    assert loaded.fixed == posterior.fixed
    assert [path.name for path in tmp_path.iterdir()] == [name]
    if name.endswith(".pt"):  # one process is enough
        return
    code = (
        "import sys, torch; from torch import nn; from ivon.posterior import Posterior\n"
        "assert 'safetensors' not in sys.modules\n"
        "model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))\n"
        f"posterior = Posterior.load({str(tmp_path / name)!r})\n"
        "with posterior.sampled(model, 3, seed=7):\n"
        f"    torch.save(model.state_dict(), {str(tmp_path / 'draw.pt')!r})\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)
    there = torch.load(tmp_path / "draw.pt", weights_only=True)
    here = posterior.draw(3, seed=7)
    assert equal({name: there[name] for name in here}, here)


@pytest.mark.parametrize("name", ["posterior.pt", "posterior.safetensors"])
def test_a_default_device_does_not_matter(tmp_path, name):
    """Not to what is looked at, drawn, saved and loaded: all of it stays on the CPU."""
    model = network()
    optimizer = trained(model)
    model[0].bias.requires_grad_(False)
    posterior = Posterior.of(model, optimizer)
    draw, divergence = posterior.draw(1), posterior.kl(posterior.prior())
    torch.set_default_device("meta")
    try:
        again = Posterior.of(model, optimizer)
        assert {tensor.device.type for tensor in again.state_dict().values()} == {"cpu"}
        again.save(tmp_path / name)
        loaded = Posterior.load(tmp_path / name)
        assert equal(loaded.draw(1), draw)
        assert loaded.kl(loaded.prior()) == pytest.approx(divergence)  # a sum in another order
        assert loaded.fixed == ("0.bias",)
    finally:
        torch.set_default_device(None)


def test_state_dict_is_plain_tensors_and_the_way_back():
    model = network()
    posterior = Posterior.of(model, trained(model))
    state = posterior.state_dict()
    assert all(type(value) is torch.Tensor for value in state.values())
    backwards = dict(reversed(state.items()))  # an order is nothing to rely on
    assert equal(Posterior.from_state_dict(backwards).draw(1), posterior.draw(1))


def test_interrupted_writing_leaves_the_old_file(tmp_path, monkeypatch):
    model = network()
    posterior = Posterior.of(model, trained(model))
    path = tmp_path / "posterior.pt"
    posterior.save(path)
    old = path.read_bytes()

    def interrupted(tensors: object, file: object) -> None:
        Path(file).write_bytes(b"half")  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        posterior.save(path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_foreign_files_are_refused_in_one_line(tmp_path):
    torch.save({"weight": torch.ones(1)}, tmp_path / "weights.pt")
    torch.save({"mean.a": torch.ones(1)}, tmp_path / "half.pt")
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    torch.save(nn.Linear(1, 1), tmp_path / "code.pt")
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "empty.pt").touch()
    torch.save({}, tmp_path / "none.pt")
    for path in tmp_path.iterdir():
        with pytest.raises(ValueError, match="is not a posterior saved by ivon: ") as refusal:
            Posterior.load(path)
        assert path.name in str(refusal.value)
        assert "\n" not in str(refusal.value)
    with pytest.raises(FileNotFoundError):
        Posterior.load(tmp_path / "nothing.pt")


def test_without_safetensors_it_is_said_what_to_do(tmp_path, monkeypatch):
    model = network()
    posterior = Posterior.of(model, trained(model))
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match="pip install safetensors"):
        posterior.save(tmp_path / "posterior.safetensors")
    with pytest.raises(ImportError, match="pip install safetensors"):
        Posterior.load(tmp_path / "posterior.safetensors")
    posterior.save(tmp_path / "posterior.pt")


@pytest.mark.parametrize("exception", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_parameters_are_restored_bit_for_bit(exception, dtype):
    model = network().to(dtype)
    posterior = Posterior.of(model, trained(model))
    with torch.no_grad():
        model[0].weight.view(-1)[:3] = torch.tensor([math.nan, -0.0, 1e-30])
    as_bits = torch.int16 if dtype == torch.bfloat16 else torch.int32
    before = [param.detach().clone().view(as_bits) for param in model.parameters()]
    same = [param.data_ptr() for param in model.parameters()]
    draw = {name: value.to(dtype) for name, value in posterior.draw(2).items()}

    def fail_at_the_draw() -> None:
        with posterior.sampled(model, 2):
            assert equal(dict(model.named_parameters()), draw)
            raise exception

    with pytest.raises(exception):
        fail_at_the_draw()
    after = [param.detach().view(as_bits) for param in model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert [param.data_ptr() for param in model.parameters()] == same


def test_autocast_sees_every_draw():
    """It keeps 16-bit copies of the weights for the length of its block, though the weights change."""
    model = network()
    posterior = Posterior.of(model, ivon.IVON(model.parameters(), lr=0.1, ess=1.0))
    x = torch.ones(1, 3)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        mean, answers = model(x), []
        for k in range(2):
            with posterior.sampled(model, k):
                answers.append(model(x))
        again = model(x)
    assert not torch.equal(answers[0], answers[1])
    assert torch.equal(again, mean)


def test_mean_is_put_into_a_fresh_model():
    model = network()
    posterior = Posterior.of(model, trained(model))
    fresh = copy.deepcopy(model).to(torch.bfloat16)
    with torch.no_grad():
        fresh[0].weight.zero_()
    posterior.apply_mean(fresh)
    assert equal(dict(fresh.named_parameters()), {n: m.bfloat16() for n, m in posterior.mean.items()})


def test_wrapped_models_have_the_names_of_the_bare_one():
    model = network()
    posterior = Posterior.of(model, trained(model))
    compiled = copy.deepcopy(model)
    compiled[0] = torch.compile(compiled[0], backend="eager")
    wrapped = nn.DataParallel(torch.compile(compiled, backend="eager"))
    assert "module._orig_mod.0._orig_mod.weight" in dict(wrapped.named_parameters())
    with posterior.sampled(wrapped, 0):
        assert torch.equal(compiled[0].weight, posterior.draw(0)["0.weight"])
    assert (
        posterior.mean.keys() == Posterior.of(wrapped, ivon.IVON(wrapped.parameters(), 0.1, 1.0)).mean.keys()
    )


def test_sharded_parameters_are_gathered_and_sampled(tmp_path):
    model = network()
    posterior = Posterior.of(model, trained(model))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        sharded = copy.deepcopy(model)
        dist.fsdp.fully_shard(sharded, mesh=dist.device_mesh.init_device_mesh("cpu", (1,)))
        optimizer = ivon.IVON(sharded.parameters(), lr=0.1, ess=50.0)
        gathered = Posterior.of(sharded, optimizer)
        assert equal(gathered.mean, posterior.mean)
        assert type(gathered.mean["0.weight"]) is torch.Tensor
        before = sharded(torch.ones(1, 3)).detach()
        with posterior.sampled(sharded, 1), posterior.sampled(model, 1):
            assert torch.equal(sharded(torch.ones(1, 3)), model(torch.ones(1, 3)))
        assert torch.equal(sharded(torch.ones(1, 3)), before)
    finally:
        dist.destroy_process_group()


def test_another_architecture_is_refused_with_the_parameter():
    model = network()
    posterior = Posterior.of(model, trained(model))
    for other, message in (
        (nn.Sequential(nn.Linear(3, 5), nn.Tanh()), "no parameter '2.weight'"),
        (nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)), r"'0.weight' has shape \(5, 4\)"),
        (nn.Sequential(*network(), nn.Linear(2, 2)), "'3.weight' of the model is not in the posterior"),
    ):
        with pytest.raises(ValueError, match=message):
            posterior.apply_mean(other)
        with pytest.raises(ValueError, match=message), posterior.sampled(other, 0):
            pass


def test_kl_is_that_of_torch():
    model = network().double()
    posterior = Posterior.of(model, trained(model))
    moved = Posterior.of(model, trained(model, steps=5))

    def torch_kl(one: Posterior, other: Posterior) -> float:
        gaussians = [
            [Independent(Normal(m, p.precision[n].rsqrt()), m.dim()) for n, m in p.mean.items()]
            for p in (one, other)
        ]
        return sum(kl_divergence(a, b).item() for a, b in zip(*gaussians, strict=True))

    # Both sum some 30 numbers of either sign in float64.
    assert posterior.kl(moved) == pytest.approx(torch_kl(posterior, moved), rel=1e-10)
    assert moved.kl(posterior) == pytest.approx(torch_kl(moved, posterior), rel=1e-10)
    assert posterior.kl(posterior.prior()) == pytest.approx(torch_kl(posterior, posterior.prior()), rel=1e-10)
    assert posterior.kl(posterior) == 0
    assert posterior.prior().precision["0.bias"][0].item() == pytest.approx(50 * 1e-4)


def test_kl_of_near_posteriors_is_not_lost_to_rounding():
    """Precisions that differ by 1e-5: in float32 r - 1 - ln r, about 5e-11, would be rounding error."""
    ones = torch.ones(1000)
    a, b = (
        Posterior(mean={"w": 0 * ones}, precision={"w": p * ones}, prior_precision={"w": 1.0})
        for p in (1.0, 1 + 1e-5)
    )
    r = b.precision["w"].double() - 1
    assert a.kl(b) == pytest.approx(0.25 * (r**2).sum().item(), rel=1e-4)  # next term: 2/3 r


def test_what_makes_no_sense_is_refused():
    model = network()
    optimizer = trained(model)
    posterior = Posterior.of(model, optimizer)
    with (
        pytest.raises(RuntimeError, match=r"Posterior.of\(\) within sampled_params"),
        optimizer.sampled_params(),
    ):
        Posterior.of(model, optimizer)
    with pytest.raises(ValueError, match="optimizer must have trainable parameters of the model"):
        Posterior.of(network(), optimizer)
    with pytest.raises(ValueError, match=r"model must be a torch\.nn\.Module"):
        Posterior.of(model.forward, optimizer)  # type: ignore[arg-type]
    for k in (-1, 1.0, True):
        with pytest.raises(ValueError, match="k must be an integer >= 0"):
            posterior.draw(k)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="seed must be an integer"):
        posterior.draw(0, seed=None)  # type: ignore[arg-type]
    other = Posterior.of(model[0], optimizer)
    with pytest.raises(ValueError, match=r"'0.weight' has shapes \(5, 3\), None"):
        posterior.kl(other)
    flat = Posterior.of(model, ivon.IVON(model.parameters(), lr=0.1, ess=1.0, weight_decay=0.0))
    with pytest.raises(ValueError, match=r"weight_decay of '0\.weight' must be > 0"):
        flat.prior()
    for value in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="precision of 'w' must be finite and > 0"):
            Posterior(
                mean={"w": torch.ones(2)},
                precision={"w": torch.tensor([1.0, value])},
                prior_precision={"w": 1.0},
            )
