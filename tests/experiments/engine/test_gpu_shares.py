"""Every GPU is used before one is shared, and an outer CUDA_VISIBLE_DEVICES is respected."""

import pytest

from experiments.engine.gpus import share, visible_gpus


@pytest.fixture(autouse=True)
def four_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5, 6,7")


def test_only_the_allowed_gpus_are_seen(monkeypatch):
    assert visible_gpus() == ["4", "5", "6", "7"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


def test_one_gpu_each_then_in_turns():
    assert [share(slot, 1) for slot in range(5)] == [["4"], ["5"], ["6"], ["7"], ["4"]]


def test_trainings_that_share_gpus_among_processes_do_not_overlap():
    assert [share(slot, 2) for slot in range(2)] == [["4", "5"], ["6", "7"]]


def test_more_processes_than_gpus_see_them_all():
    assert share(0, 8) == ["4", "5", "6", "7"]
