"""Table 6: what it compares, and how seconds become hours and ratios."""

import pandas as pd
import pytest

from experiments.artefacts import ARTEFACTS
from experiments.cost import table6
from experiments.cost.frames import cost_frame, ratio_frame
from experiments.engine.record import Store
from experiments.image_classification.frames import published

LABELS = list(table6.METHODS.values())


@pytest.fixture
def store(tmp_path) -> Store:
    """A record of the demo in which method number i takes i + 1, then i + 2, then i + 3 ms a step."""
    spec = table6.cost_spec("demo")
    costs = [
        {
            "step_seconds": [1e-3 * (i + 1), 1e-3 * (i + 2), 1e-3 * (i + 3)],
            "peak_bytes": int(1e9 * (i + 1)),
            "kept_bytes": 400 * (i + 1),
        }
        for i in range(len(spec.compared))
    ]
    result = {"clock": "wall", "parameters": 100, "costs": costs, "seconds": 1.0}
    made = Store(tmp_path / "runs")
    made.add(spec, {"failure": None, "result": result, "machine": {"device": "a made-up GPU"}})
    return made


@pytest.mark.parametrize("scale", ["demo", "small", "paper"])
def test_one_run_of_the_papers_methods_and_ours(scale):
    spec, *of_text = ARTEFACTS["table6"].runs(scale)
    assert {t.method.name for s in of_text for t in s.compared} == {"adamw", "ivon"}
    if scale == "paper":  # one of eight GPUs has three micro-batches of 20 windows
        assert [s.compared[0].model for s in of_text] == ["gpt2-small", "gpt2-medium"]
        assert (of_text[0].compared[0].batch_size, of_text[0].compared[0].micro_batch) == (60, 20)
    assert [train.method.name for train in spec.compared] == list(table6.METHODS)
    assert set(published("table6")["method"]) <= set(LABELS)
    assert {train.batch_size for train in spec.compared} == {50}  # Sec. C.2
    assert spec.requires == ()


def test_seconds_become_milliseconds_hours_and_gigabytes(store):
    frame = cost_frame(table6.cost_spec("demo"), LABELS, store).set_index(["method", "metric"])
    assert frame.loc[("AdamW", "step_time"), ["value", "low", "high", "rounds"]].tolist() == pytest.approx(
        [2.0, 1.0, 3.0, 3]
    )
    steps = 200 * 1000 // 50  # 200 epochs of the digits
    assert frame.loc[("AdamW", "runtime"), "value"] == pytest.approx(2e-3 * steps / 3600)
    assert frame.loc[("SGD", "gpu_memory"), "value"] == pytest.approx(2.0)
    assert frame.loc[("SGD", "kept"), "value"] == pytest.approx(8.0)


def test_ratios_are_those_of_turns_in_the_same_round(store):
    frame = ratio_frame(table6.cost_spec("demo"), LABELS, table6.RATIOS, store).set_index("method")
    # VOGN takes 3, 4, 5 ms, IVON 4, 5, 6 and AdamW 1, 2, 3.
    assert frame.loc["VOGN / IVON", ["value", "low", "high"]].tolist() == pytest.approx([4 / 5, 3 / 4, 5 / 6])
    assert frame.loc["IVON / AdamW", ["value", "low", "high"]].tolist() == pytest.approx([5 / 2, 2.0, 4.0])


def test_published_ratios_are_taken_and_the_missing_one_computed():
    ratios = table6.paper_ratios(published("table6")).set_index(["model", "method"])["value"]
    printed = published("table6_ratios")
    for row in printed.itertuples():
        assert ratios[row.model, row.method] == row.value
    assert ratios["ResNet-20", "IVON / AdamW"] == 1.0  # 0.38 h both
    assert len(ratios) == len(printed) + 1


def test_the_papers_gpt2_stands_there_with_ours_empty(store, tmp_path):
    paths = ARTEFACTS["table6"].render("demo", store, tmp_path / "out")
    text = next(path.read_text() for path in paths if path.suffix == ".md")
    assert "a made-up GPU" in text
    assert "extrapolated" in text
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    gpt2 = next(row for row in cells if row[1:3] == ["GPT-2 355M", "IVON"])
    assert gpt2[3:] == ["", "", "44.7", "", "27.7", ""]
    numbers = pd.read_csv(tmp_path / "out" / "table6.csv")
    assert not len(numbers[numbers.model.str.startswith("GPT")].dropna(subset="value"))
