"""CUDA graphs: a captured model sees every draw, because draws are in place; a captured step draws anew."""

import pytest
import torch

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


def test_whole_step_in_one_graph_is_right_or_refused(gpu_task):
    """What would be wrong in silence: each replay with the noise of the capture."""
    task = gpu_task
    model = task.model().cuda()
    optimizer = task.optimizer(model)
    inputs, labels = (data.clone() for data in task.batch(0))
    noise = torch.zeros_like(model[0].weight)
    mean = torch.zeros_like(noise)

    def step():
        mean.copy_(model[0].weight.detach())
        with optimizer.sampled_params(train=True):
            noise.copy_(model[0].weight.detach() - mean)
            task.loss(model, (inputs, labels)).backward()
        optimizer.step()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # a capture wants everything allocated and chosen
            step()
    torch.cuda.current_stream().wait_stream(stream)

    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            step()
    except RuntimeError as error:
        torch.cuda.synchronize()
        assert "graph" in str(error) or "captur" in str(error)  # noqa: PT017 - either is allowed
        return
    seen = []
    for k in range(STEPS):
        for static, new in zip((inputs, labels), task.batch(k), strict=True):
            static.copy_(new)
        graph.replay()
        seen.append(noise.clone())
    assert len(torch.stack(seen).flatten(1).unique(dim=0)) == STEPS
    task.assert_learned(model, optimizer)
