"""Models compiled by torch.compile: the draw is in place, so that nothing is compiled again."""

import pytest
import torch
from torch import nn

STEPS = 12


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    # A draw, a step or a change of the learning rate that compiled something again would cost seconds each.
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_model_equals_the_plain_one(task, backend):
    model = task.model()
    optimizer = task.optimizer(model)
    task.train(torch.compile(model, backend=backend, fullgraph=True), optimizer)
    task.assert_same(optimizer, task.trained()[1])
    task.assert_learned(model, optimizer)


def test_module_compiled_in_place_and_given_to_the_optimizer(task):
    model = task.model()
    model.compile(backend="aot_eager")
    optimizer = task.optimizer(model)
    task.train(model, optimizer)
    task.assert_same(optimizer, task.trained()[1])

    wrapped = torch.compile(task.model(), backend="aot_eager")
    optimizer = task.optimizer(wrapped)  # parameters of the OptimizedModule
    task.train(wrapped, optimizer)
    task.assert_same(optimizer, task.trained()[1])


def test_compiled_evaluation_sees_each_draw(task):
    model, optimizer = task.trained()
    compiled = torch.compile(model, backend="aot_eager")
    with torch.no_grad():
        for _ in range(3):
            with optimizer.sampled_params():
                torch.testing.assert_close(compiled(task.inputs), model(task.inputs))


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
def test_inductor_agrees_to_rounding(task64, dynamic):
    task, model = task64, task64.model()
    optimizer = task.optimizer(model)
    compiled = torch.compile(model, dynamic=dynamic)
    task.train(compiled, optimizer)
    task.assert_same(optimizer, task.trained()[1], rtol=1e-9, atol=1e-12)
    task.assert_learned(model, optimizer)


@pytest.mark.slow
def test_inductor_with_autocast_and_checkpointing(task):
    model = task.model()
    optimizer = task.optimizer(model)

    def forward(inputs):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return torch.utils.checkpoint.checkpoint(model, inputs, use_reentrant=False)

    task.train(torch.compile(forward), optimizer)
    task.assert_learned(model, optimizer)
    for p, q in zip(model.parameters(), task.trained()[0].parameters(), strict=True):
        assert (p - q).abs().max() < 0.1  # bfloat16, as without the compiler


@pytest.mark.slow
def test_step_called_from_compiled_code(task):
    """Compiling the step of a torch.optim optimizer works; ours may break the graph but must be right."""
    with torch._dynamo.config.patch(error_on_recompile=False):
        model = task.model()
        optimizer = task.optimizer(model)

        @torch.compile(backend="aot_eager")
        def step():
            optimizer.step()

        for k in range(STEPS):
            with optimizer.sampled_params(train=True):
                task.loss(model, task.batch(k)).backward()
            step()
    task.assert_same(optimizer, task.trained()[1], rtol=1e-4, atol=1e-5)  # a few roundings differ


@pytest.mark.slow
def test_whole_training_step_in_compiled_code(task):
    with torch._dynamo.config.patch(error_on_recompile=False):
        model = task.model()
        optimizer = task.optimizer(model)

        @torch.compile(backend="aot_eager")
        def train(inputs, labels):
            with optimizer.sampled_params(train=True):
                nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()

        for k in range(STEPS):
            train(*task.batch(k))
    task.assert_same(optimizer, task.trained()[1], rtol=1e-4, atol=1e-5)  # a few roundings differ
