"""Calibration: temperatures that are known are found, promises add up, and luck is told from fault."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import binomtest

from crossrec import calibration as chapter
from crossrec.calibration import (
    calibration,
    calibration_error,
    calibration_summary,
    candidate_scores,
    fit_temperature,
    list_chance,
    reliability,
    reliability_plot,
)
from crossrec.core import CrossrecError
from crossrec.ranking import Scorer, top_k
from crossrec.sequences import Sequences
from crossrec.split import Queries, View


class Fixed(Scorer):
    """Scores that were decided beforehand, by the first item of a history."""

    def __init__(self, scores: np.ndarray) -> None:
        self.scores, self.n_items = scores, scores.shape[1]

    def fit(self, view: View) -> Scorer:
        """Nothing to learn."""
        return self

    def score(self, histories: Sequences) -> np.ndarray:
        """The row that the first item points to."""
        return self.scores[histories.items[histories.offsets[:-1]]]


def world(n: int, n_items: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores, and items drawn from their softmax at a temperature."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n, n_items)).astype(np.float32)
    return scores, (scores / temperature + rng.gumbel(size=scores.shape)).argmax(1).astype(np.int32)


def asked(rows: np.ndarray, targets: np.ndarray) -> Queries:
    """A question whose history is the number of its row."""
    return Queries(rows, Sequences.from_lists([[int(row)] for row in rows]), targets)


# Temperature


@pytest.mark.parametrize("temperature", [0.2, 0.7, 2.0])
def test_a_known_temperature_is_found(temperature: float) -> None:
    assert fit_temperature(*world(4000, 60, temperature)) == pytest.approx(temperature, rel=0.08)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.01, 100), st.integers(0, 10_000))
def test_temperature_has_the_unit_of_the_scores(factor: float, seed: int) -> None:
    scores, taken = world(200, 20, 1.0, seed)
    shift = np.random.default_rng(seed).normal(size=(200, 1)).astype(np.float32)
    plain = fit_temperature(scores, taken)
    assert fit_temperature((scores + shift) * np.float32(factor), taken) == pytest.approx(plain * factor, rel=0.01)


def test_no_other_temperature_is_likelier() -> None:
    scores, taken = world(300, 30, 0.6, 3)
    best = fit_temperature(scores, taken)

    def surprise(temperature: float) -> float:
        return -np.log(softmax(scores.astype(np.float64) / temperature, 1)[np.arange(300), taken]).sum()

    assert all(surprise(best) <= surprise(best * factor) + 1e-3 for factor in (0.5, 0.95, 1.05, 2.0))


# The promise of a list


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9), st.floats(0.3, 3))
def test_list_chance_equals_sorting(seed: int, k: int, temperature: float) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (12, 7)).astype(np.float32)  # many ties
    targets = rng.integers(0, 7, 12)
    scores[rng.random((12, 7)) < 0.2] = -np.inf
    scores[np.arange(12), targets] = rng.integers(0, 4, 12)
    promise, held = list_chance(scores, targets, temperature, k)
    chances = softmax(scores.astype(np.float64) / temperature, 1)
    lists = np.argsort(-scores, 1, kind="stable")[:, :k]
    np.testing.assert_allclose(promise, np.take_along_axis(chances, lists, 1).sum(1), rtol=1e-5)
    np.testing.assert_array_equal(held, (lists == targets[:, None]).any(1))


def test_outcomes_are_those_of_the_lists_that_are_shown() -> None:
    scores, taken = world(80, 80, 0.4)
    scores = np.round(scores)  # ties
    queries = asked(np.arange(80), taken)
    shown, _ = top_k(Fixed(scores), queries.histories, 10)
    _, held = list_chance(candidate_scores(Fixed(scores), queries), taken, 1.0, 10)
    free = taken != np.arange(80)  # a target in the history is on no list, but was on offer
    np.testing.assert_array_equal(held[free], (shown == taken[:, None]).any(1)[free])


def test_what_was_met_is_no_candidate_unless_repeats_are_allowed() -> None:
    queries = asked(np.array([2, 0]), np.array([1, 0], np.int32))
    scorer = Fixed(np.ones((4, 4), np.float32))
    kept = np.isfinite(candidate_scores(scorer, queries))
    assert kept.tolist() == [[True, True, False, True], [True] * 4]  # the second took what it had met
    assert np.isfinite(candidate_scores(scorer, queries, allow_repeats=True)).all()


# Tables


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 12), st.integers(0, 1000))
def test_every_user_is_in_one_part(n: int, parts: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    promise = np.round(rng.random(n), 1)  # equal promises stay together
    held = rng.random(n) < promise
    table = reliability(promise, held, parts)
    assert table["users"].sum() == n and 1 <= len(table) <= parts
    assert (table["users"] @ table["promised"]) / n == pytest.approx(promise.mean())
    assert (table["users"] @ table["came_true"]) / n == pytest.approx(held.mean())
    assert table["promised"].is_monotonic_increasing


def test_intervals_are_wilsons() -> None:
    table = reliability(np.full(40, 0.3), np.arange(40) < 13)
    expected = binomtest(13, 40).proportion_ci(0.95, "wilson")
    assert table[["low", "high"]].iloc[0].tolist() == pytest.approx([expected.low, expected.high])


def test_expected_calibration_error_by_hand() -> None:
    table = pd.DataFrame({"users": [10, 30], "promised": [0.1, 0.5], "came_true": [0.3, 0.4]})
    assert calibration_error(table).error == pytest.approx((10 * 0.2 + 30 * 0.1) / 40)


def test_luck_explains_true_promises_and_no_others() -> None:
    rng, outcomes = np.random.default_rng(0), []
    for _ in range(200):
        promise = rng.beta(2, 8, 400)
        found = calibration_error(reliability(promise, rng.random(400) < promise), draws=400)
        outcomes.append((found.error, found.by_luck, found.error <= found.at_most))
    error, by_luck, calm = np.mean(outcomes, 0)
    assert error == pytest.approx(by_luck, rel=0.06) and 0.9 < calm < 0.99
    promise = rng.beta(2, 8, 4000)
    found = calibration_error(reliability(promise, rng.random(4000) < promise / 2))
    assert found.error > 2 * found.at_most


# A method


def test_a_method_whose_scores_are_log_chances_is_calibrated() -> None:
    scores, taken = world(3000, 3000, 0.5)
    rows = np.arange(3000)
    table = calibration(Fixed(scores), asked(rows[:1500], taken[:1500]), asked(rows[1500:], taken[1500:]))
    found = calibration_error(table)
    assert table.attrs["temperature"] == pytest.approx(0.5, rel=0.1) and table["users"].sum() == 1500
    assert found.error <= found.at_most
    assert 1 < table.attrs["perplexity"] < 3000


def test_memory_is_set_by_the_chunk_not_by_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, taken = world(200, 200, 0.5)
    rows = np.arange(200)
    whole = calibration(Fixed(scores), asked(rows[:50], taken[:50]), asked(rows[50:], taken[50:]))
    monkeypatch.setattr(chapter, "_ROOM", 1400)  # seven users at a time
    parts = calibration(Fixed(scores), asked(rows[:50], taken[:50]), asked(rows[50:], taken[50:]))
    pd.testing.assert_frame_equal(whole, parts)
    assert whole.attrs["perplexity"] == pytest.approx(parts.attrs["perplexity"])


def test_perplexity_of_constant_scores_is_the_number_of_candidates() -> None:
    rows, targets = np.arange(40), ((np.arange(40) + 1) % 40).astype(np.int32)
    table = calibration(Fixed(np.zeros((40, 40), np.float32)), asked(rows, targets), asked(rows, targets))
    assert table.attrs["perplexity"] == pytest.approx(39)  # the one in the history is none
    assert len(table) == 1 and table["promised"].iloc[0] == pytest.approx(10 / 39)


def test_without_validation_nothing_is_claimed() -> None:
    rows, targets = np.arange(5), np.zeros(5, np.int32)
    table = calibration(Fixed(np.eye(5, dtype=np.float32)), asked(rows[:0], targets[:0]), asked(rows, targets))
    assert table.empty and list(table.columns) == ["users", "promised", "came_true", "low", "high"]
    assert np.isnan(calibration_error(table)).all()
    assert calibration_summary({"zero-shot": table}).empty
    assert len(reliability_plot({"zero-shot": table}).axes[0].lines) == 1


@pytest.mark.parametrize("broken", [np.full((5, 5), np.nan, np.float32), np.full((5, 5), np.inf, np.float32)])
def test_broken_scores_are_refused(broken: np.ndarray) -> None:
    rows, targets = np.arange(5), np.zeros(5, np.int32)
    with pytest.raises(CrossrecError, match="calibration of Fixed: .*25 of them not finite"):
        calibration(Fixed(broken), asked(rows, targets), asked(rows, targets))


def test_summary_marks_who_keeps_promises_and_plot_shows_them() -> None:
    promise, rng = np.linspace(0.05, 0.6, 2000), np.random.default_rng(1)
    tables = {"true": reliability(promise, rng.random(2000) < promise),
              "boastful": reliability(promise, rng.random(2000) < promise / 3)}  # fmt: skip
    assert calibration_summary(tables)["calibrated"].to_dict() == {"true": True, "boastful": False}
    labels = [text.get_text() for text in reliability_plot(tables).axes[0].get_legend().get_texts()]
    assert labels == ["promise kept", "true", "boastful"]
