"""Figures 1a and 2: what is drawn is what was measured."""

import pandas as pd
import pytest

from plots import language_curves, perplexity_by_draws

PLACE = {"dataset": "Text", "model": "GPT-2 125M", "precision": "bf16 autocast"}


def history(methods: tuple[str, ...] = ("AdamW", "IVON"), seeds: int = 2) -> pd.DataFrame:
    rows = [
        {**PLACE, "method": method, "seed": seed, "step": step, "tokens": 1000 * step, "hours": step / 100}
        | {"train_nll": 5 / step + 0.1 * seed, "nll": 5 / step, "perplexity": 20 + 100 / step}
        for method in methods
        for seed in range(seeds)
        for step in (10, 20, 30)
    ]
    return pd.DataFrame(rows)


PAPER = pd.DataFrame(
    [
        {"dataset": "Text", "model": "GPT-2 125M", "method": "IVON", "value": 17.9},
        {"dataset": "Another text", "model": "GPT-2 125M", "method": "IVON", "value": 1.0},
    ]
).assign(metric="val_perplexity_at_100k_steps")


@pytest.mark.parametrize("seeds", [1, 2])
def test_perplexity_over_tokens_and_hours(seeds, tmp_path):
    frame = history(seeds=seeds)
    paths = language_curves.perplexity(frame, PAPER, tmp_path / "fig1a", "A caption.", hours=True)
    assert {path.suffix for path in paths} == {".pdf", ".png", ".csv"}
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "fig1a.csv"), frame)


def test_loss_by_precision(tmp_path):
    frame = pd.concat([history(), history().assign(precision="bf16 weights")])
    paths = language_curves.training_loss(frame, tmp_path / "fig2b", "A caption.", style_by="precision")
    assert all(path.stat().st_size for path in paths)


def test_the_same_bytes_each_time(tmp_path):
    frame = history()
    once = language_curves.training_loss(frame, tmp_path / "a", "x", style_by="model")
    again = language_curves.training_loss(frame, tmp_path / "b", "x", style_by="model")
    assert [p.read_bytes() for p in once] == [p.read_bytes() for p in again]


def test_perplexity_by_draws(tmp_path):
    rows = [
        {**PLACE, "model": model, "method": "IVON", "seed": 0, "draws": draws, "nll": 3.0, "perplexity": 20.0}
        for model in ("GPT-2 125M", "GPT-2 355M")
        for draws in (0, 1, 2, 4)
    ]
    paths = perplexity_by_draws.draw(pd.DataFrame(rows), tmp_path / "fig2c", "A caption.")
    assert len(pd.read_csv(paths[-1])) == 8
