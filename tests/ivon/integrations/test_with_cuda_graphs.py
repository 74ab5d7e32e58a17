"""CUDA graphs: a captured model sees every draw, because draws are in place; a captured step draws anew.

test_ivon_captured.py has the same steps on a tape, which needs no GPU.
"""

import pytest
import torch

from ivon import _noise

STEPS = 12
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need an NVIDIA GPU")


@pytest.fixture
def gpu_task(task):
    task.inputs, task.labels = task.inputs.cuda(), task.labels.cuda()
    return task


def test_graphed_model_equals_the_plain_one(gpu_task):
    """Forward and backward passes are replayed, draws and steps are not captured."""
    task = gpu_task
    plain = task.model().cuda()
    plain_optimizer = task.optimizer(plain)
    task.train(plain, plain_optimizer)

    model = task.model().cuda()
    optimizer = task.optimizer(model)
    graphed = torch.cuda.make_graphed_callables(model, (task.batch(0)[0],))
    for k in range(STEPS):
        with optimizer.sampled_params(train=True):
            task.loss(graphed, task.batch(k)).backward()
        optimizer.step()
    # Other kernels may be chosen in the capture; a few steps amplify the rounding of float32.
    task.assert_same(optimizer, plain_optimizer, rtol=1e-3, atol=1e-4)
    task.assert_learned(model, optimizer)


def test_compiled_model_with_cuda_graphs(gpu_task):
    """`mode="reduce-overhead"` captures by itself, and must not copy the weights away."""
    task = gpu_task
    model = task.model().cuda()
    optimizer = task.optimizer(model)
    compiled = torch.compile(model, mode="reduce-overhead")
    for k in range(STEPS):
        torch.compiler.cudagraph_mark_step_begin()
        with optimizer.sampled_params(train=True):
            task.loss(compiled, task.batch(k)).backward()
        optimizer.step()
    task.assert_learned(model, optimizer)
    with torch.no_grad():
        for _ in range(3):
            torch.compiler.cudagraph_mark_step_begin()
            with optimizer.sampled_params():
                torch.testing.assert_close(compiled(task.inputs), model(task.inputs), rtol=1e-3, atol=1e-3)


def captured_step(task, optimizer, model, within=lambda: None):
    """A graph of a draw, its gradients and the step, and the tensors that it takes its batch from."""
    inputs, labels = (data.clone() for data in task.batch(0))

    def step():
        with optimizer.sampled_params(train=True):
            within()
            task.loss(model, (inputs, labels)).backward()
        optimizer.step()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # a capture wants everything allocated and chosen
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph, (inputs, labels)


def test_whole_step_in_one_graph(gpu_task):
    """Each replay draws anew, counts, and takes the learning rate that is set."""
    task = gpu_task
    model = task.model().cuda()
    optimizer = task.optimizer(model, lr=torch.tensor(1.0, device="cuda"), capturable=True)
    weight = model[0].weight
    drawn = torch.zeros_like(weight)
    graph, batch = captured_step(task, optimizer, model, lambda: drawn.copy_(weight.detach()))
    noise = []
    for k in range(STEPS):
        mean = weight.detach().clone()
        for static, now in zip(batch, task.batch(k), strict=True):
            static.copy_(now)
        graph.replay()
        noise.append(drawn - mean)
    assert len(torch.stack(noise).flatten(1).unique(dim=0)) == STEPS
    task.assert_learned(model, optimizer)
    assert {state["step"] for state in optimizer.state_dict()["state"].values()} == {3 + STEPS}

    before = weight.detach().clone()
    optimizer.param_groups[0]["lr"].zero_()
    graph.replay()
    assert weight.equal(before)


def test_captured_steps_equal_steps_one_by_one(gpu_task):
    """The same noise, from PyTorch's generator of the GPU."""
    task = gpu_task
    runs = []
    for whole in (True, False):
        model = task.model().cuda()
        optimizer = task.optimizer(model, capturable=True)
        graph, batch = captured_step(task, optimizer, model)
        torch.cuda.manual_seed(5)
        for k in range(STEPS):
            for static, now in zip(batch, task.batch(k), strict=True):
                static.copy_(now)
            if whole:
                graph.replay()
                continue
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(_noise, "fill", lambda out, key, start: out.normal_())
                with optimizer.sampled_params(train=True):
                    task.loss(model, batch).backward()
                optimizer.step()
        runs.append(optimizer)
    task.assert_same(*runs, rtol=1e-3, atol=1e-4)


def test_capture_without_capturable_is_refused(gpu_task):
    model = gpu_task.model().cuda()
    with pytest.raises(RuntimeError, match="capturable=True"):
        captured_step(gpu_task, gpu_task.optimizer(model), model)
