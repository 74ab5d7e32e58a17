"""Models moved, converted, or with memory laid out in ways of their own; states of other models."""

import copy

import pytest
import torch
from torch import nn

from ivon import IVON

STEPS = 12


@pytest.mark.parametrize("steps_before", [0, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_converted_model_goes_on_as_if_the_optimizer_had_been_converted_with_it(task, dtype, steps_before):
    """`model.to(dtype)` exchanges the data of parameters that the optimizer knows already."""
    model = task.model()
    optimizer = task.optimizer(model)
    task.train(model, optimizer, range(steps_before))
    hess = [optimizer.state[p]["hess"].clone() for p in model.parameters()] if steps_before else None
    model.to(dtype)
    converted = type(task)(dtype)
    with optimizer.sampled_params():
        assert converted.loss(model).isfinite()
    if hess is not None:
        for h, p in zip(hess, model.parameters(), strict=True):
            torch.testing.assert_close(optimizer.state[p]["hess"].to(h.dtype), h, rtol=0, atol=0)
    converted.train(model, optimizer, range(steps_before, STEPS))
    converted.assert_learned(model, optimizer)
    kept_in = torch.float64 if dtype == torch.float64 else torch.float32
    for param in model.parameters():
        assert param.dtype == dtype
        state = optimizer.state[param]
        assert state["step"] == STEPS
        assert state["hess"].dtype == state["momentum"].dtype == kept_in
        assert ("residual" in state) == (dtype in (torch.bfloat16, torch.float16))


def test_back_and_forth_between_float32_and_bfloat16(task):
    """The residual of a 16-bit parameter must not be added to, or missed by, one that is 32-bit again."""
    model = task.model().bfloat16()
    optimizer = task.optimizer(model)
    low = type(task)(torch.bfloat16)
    low.train(model, optimizer, range(4))
    model.float()
    task.train(model, optimizer, range(4, 8))
    task.assert_learned(model, optimizer, at_most=0.8)
    residuals = [state["residual"] for state in optimizer.state.values() if "residual" in state]
    assert not any(r.any() for r in residuals)  # none, or none that counts
    model.bfloat16()
    low.train(model, optimizer, range(8, STEPS))
    low.assert_learned(model, optimizer)


@pytest.mark.parametrize("conversion", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("options", [{}, {"hess_approx": "gradsq"}], ids=str)
def test_conversion_between_draw_and_step_is_like_one_after_it(task, conversion, options):
    """The gradient and the noise are float32, the parameter is something else by now."""
    model = task.model()
    optimizer = task.optimizer(model, **options)
    optimizer.seed(1)
    with optimizer.sampled_params(train=True):
        task.loss(model).backward()
    twin = task.model()
    twin_optimizer = task.optimizer(twin, **options)
    twin_optimizer.seed(1)
    with twin_optimizer.sampled_params(train=True):
        task.loss(twin).backward()
    model.to(conversion)  # with its gradients
    optimizer.step()
    twin_optimizer.step()
    precision = {"rtol": 0.02, "atol": 0.02} if conversion.itemsize == 2 else {"rtol": 1e-4, "atol": 1e-5}
    for param, other in zip(model.parameters(), twin.parameters(), strict=True):
        state, expected = optimizer.state[param], twin_optimizer.state[other]
        assert state["step"] == 1
        torch.testing.assert_close(param.float(), other, **precision)
        for name in ("hess", "momentum"):
            torch.testing.assert_close(state[name].float(), expected[name], **precision)


@pytest.mark.parametrize("when", ["before the draw", "before the step"])
@pytest.mark.parametrize("shape", [(8, 1000), (2,)], ids=str)
def test_resized_parameters_are_refused_in_words(shape, when):
    param, other = nn.Parameter(torch.ones(8)), nn.Parameter(torch.ones(3))
    optimizer = IVON([param, other], lr=0.1, ess=10.0)
    with optimizer.sampled_params(train=True):
        param.grad, other.grad = torch.ones(8), torch.ones(3)
    use = optimizer.step
    if when == "before the draw":
        optimizer.step()
        optimizer.zero_grad()
        use = optimizer.sampled_params(train=True).__enter__
    param.data = param.data[:2] if shape == (2,) else torch.ones(shape)  # a view, or memory of its own
    with pytest.raises(RuntimeError, match="was it resized"):
        use()
    assert other.isfinite().all()


LAYOUTS = {
    "channels last": lambda: torch.randn(8, 3, 5, 5).to(memory_format=torch.channels_last),
    "channels last, 3d": lambda: torch.randn(4, 3, 2, 3, 3).to(memory_format=torch.channels_last_3d),
    "transposed": lambda: torch.randn(7, 5).T,
    "a row of a matrix": lambda: torch.randn(4, 9)[2],
    "misaligned": lambda: torch.randn(33)[1:],
    "a scalar": lambda: torch.randn(()),
    "empty": lambda: torch.randn(0, 3),
    "every second column": lambda: torch.randn(6, 8)[:, ::2],
    "with gaps between rows": lambda: torch.randn(6, 8)[:, :5],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_of_parameters_stays_where_and_how_it_is(layout):
    """Draws, restoring and steps are in place, so that flat buffers and captured graphs stay true."""
    torch.manual_seed(0)
    param, other = nn.Parameter(LAYOUTS[layout]()), nn.Parameter(torch.randn(4))
    where = (param.data_ptr(), param.stride(), param.storage_offset())
    mean = param.detach().clone()
    optimizer = IVON([param, other], lr=0.5, ess=10.0, beta2=0.9)
    twin = nn.Parameter(mean.clone(memory_format=torch.contiguous_format))
    twin_optimizer = IVON([twin, nn.Parameter(other.detach().clone())], lr=0.5, ess=10.0, beta2=0.9)
    for k in range(3):
        with optimizer.sampled_params(train=True, generator=torch.Generator().manual_seed(k)):
            assert param.numel() == 0 or not torch.equal(param, mean)
            ((param - 1) ** 2).sum().backward()
        noiseless = param.grad
        with twin_optimizer.sampled_params(train=True):
            twin.grad = noiseless.clone()
        optimizer.step()
        twin_optimizer.step()
        assert (param.data_ptr(), param.stride(), param.storage_offset()) == where
    torch.testing.assert_close(optimizer.state[param]["momentum"], twin_optimizer.state[twin]["momentum"])
    assert param.numel() == 0 or not torch.equal(param, mean)


def test_views_of_a_flat_buffer_go_on_aliasing_it(task):
    """All parameters in one buffer, as flattened by hand for a collective call or a fused kernel."""
    model = task.model()
    sizes = [p.numel() for p in model.parameters()]
    buffer = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    for param, piece in zip(model.parameters(), buffer.split(sizes), strict=True):
        param.data = piece.view(param.shape)
    optimizer = task.optimizer(model)
    before = buffer.clone()
    with optimizer.sampled_params():
        assert (buffer != before).all()
    assert torch.equal(buffer, before)
    task.train(model, optimizer)
    assert torch.equal(buffer, torch.cat([p.detach().reshape(-1) for p in model.parameters()]))
    task.assert_same(optimizer, task.trained()[1])


def test_gaps_and_neighbours_of_a_view_are_not_touched():
    whole = torch.zeros(6, 8)
    param = nn.Parameter(whole[:, :5])
    optimizer = IVON([param], lr=0.5, ess=10.0)
    for _ in range(2):
        with optimizer.sampled_params(train=True):
            assert not whole[:, 5:].any()
            ((param - 1) ** 2).sum().backward()
        optimizer.step()
    assert not whole[:, 5:].any()
    assert torch.equal(whole[:, :5], param)
    assert param.all()


def test_channels_last_model_trains_as_the_contiguous_one():
    torch.manual_seed(0)
    images, labels = torch.randn(8, 3, 6, 6, dtype=torch.float64), torch.arange(8) % 2

    def train(memory_format):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 2)).double()
        model = model.to(memory_format=memory_format)
        optimizer = IVON(model.parameters(), lr=0.3, ess=1e14, hess_init=0.3, beta2=1 - 1e-12)
        for _ in range(3 * STEPS):
            with optimizer.sampled_params(train=True):
                nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        return model

    last, contiguous = train(torch.channels_last), train(torch.contiguous_format)
    assert last[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert nn.functional.cross_entropy(last(images), labels) < 0.2
    # Each layout has its own order of the noise, whose size is 1e-7 with this ess.
    torch.testing.assert_close(last[0].weight, contiguous[0].weight, rtol=0, atol=1e-4)


def test_parts_of_a_model_in_different_dtypes(task):
    """A half-precision body with a head in float32."""
    model = task.model()
    model[0].bfloat16()
    optimizer = task.optimizer(model)

    def forward(inputs):
        return model[2](torch.tanh(model[0](inputs.bfloat16())).float())

    for k in range(STEPS):
        with optimizer.sampled_params(train=True):
            task.loss(forward, task.batch(k)).backward()
        optimizer.step()
    task.assert_learned(forward, optimizer)
    assert [optimizer.state[p]["hess"].dtype for p in model.parameters()] == [torch.float32] * 4
    assert ["residual" in optimizer.state[p] for p in model.parameters()] == [True, True, False, False]


def test_loops_over_the_state_find_tensors_that_may_be_exchanged(task):
    """As people do to move the state of an optimizer to another device."""
    model = task.model()
    optimizer = task.optimizer(model)
    task.train(model, optimizer, range(5))
    assert set(optimizer.state) == set(model.parameters())
    for state in optimizer.state.values():
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                state[name] = value.to("cpu", copy=True)
    task.train(model, optimizer, range(5, STEPS))
    task.assert_same(optimizer, task.trained()[1])


@pytest.mark.parametrize("name", ["a wider layer", "transposed layers", "one layer more", "other order"])
def test_state_of_another_model_is_refused_and_nothing_has_changed(task, name):
    saved = task.trained()[1].state_dict()
    layers = {
        "a wider layer": [nn.Linear(6, 11), nn.Linear(11, 3)],
        "transposed layers": [nn.Linear(10, 6), nn.Linear(3, 10)],
        "one layer more": [nn.Linear(6, 10), nn.Linear(10, 3), nn.Linear(3, 3)],
        "other order": [nn.Linear(10, 3), nn.Linear(6, 10)],
    }
    params = list(nn.Sequential(*layers[name]).parameters())
    optimizer = task.optimizer(params)

    def step():
        with optimizer.sampled_params(train=True):
            sum((p**2).sum() for p in params).backward()
        optimizer.step()

    step()
    before = copy.deepcopy(optimizer)
    with pytest.raises(ValueError, match=r"shape|size|parameters"):
        optimizer.load_state_dict(saved)
    task.assert_same(optimizer, before)
    step()  # and it can go on


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU to move the model to")
@pytest.mark.parametrize("steps_before", [0, 3])
def test_model_moved_to_another_device_after_construction(task, steps_before):
    model = task.model()
    optimizer = task.optimizer(model)
    task.train(model, optimizer, range(steps_before))
    model.cuda()
    task.inputs, task.labels = task.inputs.cuda(), task.labels.cuda()
    task.train(model, optimizer, range(steps_before, STEPS))
    task.assert_learned(model, optimizer)
    for state in optimizer.state.values():
        assert state["hess"].device.type == state["momentum"].device.type == "cuda"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_evaluated_in_inference_mode_after_a_conversion(task, dtype):
    model, optimizer = task.trained()
    model.to(dtype)
    task.inputs = task.inputs.to(dtype)
    with torch.inference_mode(), optimizer.sampled_params():
        model(task.inputs)
    task.train(model, optimizer)
    task.assert_learned(model, optimizer)
