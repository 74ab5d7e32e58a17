"""One temperature, fitted on held-out predictions."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from experiments.metrics.temperature import (
    HIGHEST,
    LOWEST,
    cross_fitted,
    fit_temperature,
    log_probabilities,
    tempered,
)


def predictions(sharpness: float, count: int = 2000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are `sharpness` times those from whose probabilities the labels are drawn."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.standard_normal((count, 10))
    labels = (softmax(logits, axis=1).cumsum(axis=1) < rng.random((count, 1))).sum(axis=1)
    return sharpness * logits, labels


def nll_at(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    return -log_softmax(logits / temperature, axis=1)[np.arange(len(labels)), labels].mean()


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 3.0])
def test_agrees_with_a_search_over_a_grid_and_undoes_the_sharpness(sharpness):
    logits, labels = predictions(sharpness)
    grid = sharpness * np.linspace(0.8, 1.2, 401)
    best = grid[np.argmin([nll_at(logits, labels, t) for t in grid])]
    fitted = fit_temperature(logits, labels)
    assert fitted == pytest.approx(best, abs=sharpness * 0.0005)  # half a step of the grid
    # The information of 2,000 such labels about log T is about 2,000: 3 standard errors are 0.07.
    assert fitted == pytest.approx(sharpness, rel=0.07)
    assert nll_at(logits, labels, fitted) <= nll_at(logits, labels, 1) + 1e-12


def test_averaged_probabilities_are_tempered_through_their_logarithms():
    logits, labels = predictions(2.0)
    probs = softmax(logits, axis=1)
    fitted = fit_temperature(log_probabilities(probs), labels)
    assert fitted == pytest.approx(fit_temperature(logits, labels), rel=1e-6)
    powers = probs ** (1 / fitted)
    expected = powers / powers.sum(axis=1, keepdims=True)
    assert tempered(log_probabilities(probs), fitted) == pytest.approx(expected, abs=1e-12)
    assert (tempered(logits, fitted).argmax(axis=1) == logits.argmax(axis=1)).all()


def test_probability_that_underflowed_stays_finite():
    probs = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    assert LOWEST < fit_temperature(log_probabilities(probs), [1, 0, 1]) <= HIGHEST


def test_without_a_best_temperature_the_end_of_the_range_is_returned():
    logits = np.eye(4)
    assert fit_temperature(logits, np.arange(4)) == LOWEST
    assert fit_temperature(logits, (np.arange(4) + 1) % 4) == HIGHEST


def test_huge_logits_are_no_trouble():
    logits, labels = predictions(1.0, count=200)
    assert fit_temperature(1e3 + logits, labels) == pytest.approx(fit_temperature(logits, labels), rel=1e-6)
    assert fit_temperature(50 * logits, labels) == pytest.approx(
        50 * fit_temperature(logits, labels), rel=1e-6
    )


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([[0.0, -np.inf]], [0], "log_probabilities"),
        ([[0.0, 1.0]], [0, 1], "must be"),
        (np.zeros((0, 2)), [], "N > 0"),
    ],
)
def test_what_cannot_be_fitted_is_refused(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        fit_temperature(logits, labels)
    with pytest.raises(ValueError, match="positive"):
        tempered([[0.0, 1.0]], 0)


def test_cross_fitting_tempers_each_half_as_the_other_wants_it():
    logits, labels = predictions(3.0, count=501)
    probs, temperatures = cross_fitted(logits, labels, seed=4)
    order = np.random.default_rng(4).permutation(501)
    for half, other, temperature in zip(
        (order[:250], order[250:]), (order[250:], order[:250]), temperatures, strict=True
    ):
        assert temperature == fit_temperature(logits[other], labels[other])
        assert np.array_equal(probs[half], tempered(logits[half], temperature))
    assert (probs.argmax(axis=1) == logits.argmax(axis=1)).all()
