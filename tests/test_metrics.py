"""Ranks against a slow definition, metrics against numbers worked out by hand, intervals against theory."""

import math
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrec.core import CrossrecError
from crossrec.metrics import (
    bootstrap_interval,
    coverage,
    mrr,
    ndcg_at,
    novelty,
    paired_gain,
    paired_test,
    recall_at,
    summarize,
    target_ranks,
)


def ragged(rows: list[list[int]]) -> SimpleNamespace:
    lengths = [len(row) for row in rows]
    return SimpleNamespace(
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        items=np.array([item for row in rows for item in row], dtype=np.int32),
    )


def slow_rank(scores, target, masked) -> int:
    """The definition, one user at a time."""
    candidates = set(range(len(scores))) - (set(masked) - {target})
    return sum(scores[item] >= scores[target] for item in candidates)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), n=st.integers(1, 6), n_items=st.integers(1, 8))
def test_ranks_equal_the_definition(data, n, n_items):
    item = st.integers(0, n_items - 1)
    values = st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0, np.inf])  # few values, so that ties are common
    scores = np.array([[data.draw(values) for _ in range(n_items)] for _ in range(n)], dtype=np.float32)
    targets = np.array([data.draw(item) for _ in range(n)])
    rows = [data.draw(st.lists(item, max_size=6)) for _ in range(n)]
    kept = scores.copy()
    ranks = target_ranks(scores, targets, ragged(rows))
    assert ranks.dtype == np.int64
    assert ranks.tolist() == [slow_rank(*row) for row in zip(scores, targets, rows, strict=True)]
    assert target_ranks(scores, targets).tolist() == [slow_rank(s, t, []) for s, t in zip(scores, targets, strict=True)]
    np.testing.assert_array_equal(scores, kept)


def test_a_constant_model_is_last():
    assert target_ranks(np.zeros((2, 9)), np.array([0, 5])).tolist() == [9, 9]


def test_many_rows_are_ranked_in_slabs():
    rng = np.random.default_rng(0)
    scores, targets = rng.random((40, 2**20), dtype=np.float32), rng.integers(0, 2**20, 40)
    expected = [(row >= row[t]).sum() for row, t in zip(scores, targets, strict=True)]
    assert target_ranks(scores, targets).tolist() == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": np.array([[0, np.nan, 1.0], [0, 1, 2]])}, "NaN in row 0"),
        ({"targets": np.array([0, 3])}, "0 to 2"),
        ({"targets": np.array([-1, 0])}, "0 to 2"),
        ({"targets": np.array([0])}, "one target"),
        ({"mask": ragged([[0]])}, "mask of 1 rows"),
        ({"mask": ragged([[0], [7]])}, "mask from 0 to 7"),
    ],
)
def test_bad_input_is_an_error(change, message):
    good = {"scores": np.ones((2, 3)), "targets": np.array([0, 1]), "mask": None}
    with pytest.raises(CrossrecError, match=message):
        target_ranks(**good | change)


def test_golden_metrics():
    ranks = np.array([1, 2, 3, 10, 11])
    np.testing.assert_allclose(recall_at(ranks, 10), [1, 1, 1, 1, 0])
    np.testing.assert_allclose(ndcg_at(ranks, 10), [1, 1 / math.log2(3), 0.5, 1 / math.log2(11), 0], rtol=1e-12)
    np.testing.assert_allclose(mrr(ranks), [1, 1 / 2, 1 / 3, 1 / 10, 1 / 11], rtol=1e-12)
    summary = summarize(ranks, ks=(1, 10))
    assert list(summary) == ["recall@1", "recall@10", "ndcg@1", "ndcg@10", "mrr"]
    assert summary["recall@10"] == pytest.approx(0.8)
    assert summary["ndcg@10"] == pytest.approx((1 + 0.6309297536 + 0.5 + 0.2890648263) / 5)
    assert all(type(value) is float for value in summary.values())


@pytest.mark.parametrize("call", [lambda: recall_at([1], 0), lambda: ndcg_at([0], 5), lambda: mrr([-1]),
                                  lambda: summarize([])])
def test_impossible_ranks_are_an_error(call):
    with pytest.raises(CrossrecError):
        call()


def test_interval_is_near_the_textbook_and_reproducible():
    values = np.random.default_rng(0).random(3000)
    low, high = bootstrap_interval(values)
    error = 1.96 * values.std() / math.sqrt(3000)
    assert low == pytest.approx(values.mean() - error, abs=error / 5)
    assert high == pytest.approx(values.mean() + error, abs=error / 5)
    assert (low, high) == bootstrap_interval(values)
    assert (low, high) != bootstrap_interval(values, seed=1)
    wide, narrow = bootstrap_interval(values, level=0.99), bootstrap_interval(values, level=0.5)
    assert wide[0] < low < narrow[0] < narrow[1] < high < wide[1]


def test_seeds_are_averaged_and_not_taken_for_users():
    values = np.random.default_rng(0).random((3, 200))
    assert bootstrap_interval(values) == bootstrap_interval(values.mean(0))


def test_interval_of_one_value_and_of_equal_values():
    assert bootstrap_interval([0.5]) == (0.5, 0.5)
    assert bootstrap_interval(np.full(50, 0.25)) == (0.25, 0.25)


def test_interval_over_many_users_is_quick():
    values = np.random.default_rng(0).random(22_000)
    start = time.process_time()
    bootstrap_interval(values)
    assert time.process_time() - start < 1


@pytest.mark.parametrize("values", [[], [np.nan], np.zeros((2, 0)), np.zeros((2, 2, 2))])
def test_interval_of_nothing_is_an_error(values):
    with pytest.raises(CrossrecError, match="bootstrap_interval"):
        bootstrap_interval(values)


def test_paired_test_equals_scipy():
    from scipy.stats import ttest_rel

    rng = np.random.default_rng(0)
    for n, shift in ((2, 0.1), (5, 0.0), (300, 0.02)):
        a = rng.random(n)
        b = a + rng.normal(shift, 0.2, n)
        assert paired_test(a, b) == pytest.approx(ttest_rel(a, b).pvalue, rel=1e-10)
    assert paired_test(a, a) == 1.0
    assert paired_test(a, a + 0.5) < 1e-12


def test_paired_gain_sees_through_users_that_are_hard_for_all():
    rng = np.random.default_rng(0)
    hard = rng.random(2000)
    gain = paired_gain(hard, hard + 0.01 + rng.normal(0, 0.02, 2000))
    assert gain.gain == pytest.approx(0.01, abs=0.002)
    assert 0 < gain.low < gain.gain < gain.high and gain.p_value < 1e-6
    backwards = paired_gain(hard + 0.01, hard)
    assert backwards.high < 0 and backwards.gain == pytest.approx(-0.01)


def test_paired_needs_the_same_users():
    with pytest.raises(CrossrecError, match="same users"):
        paired_gain([1, 2, 3], [1, 2])
    with pytest.raises(CrossrecError, match="two or more"):
        paired_test([1], [2])


def test_coverage_and_novelty_by_hand():
    lists = np.array([[0, 1], [1, 2]])
    assert coverage(lists, 4) == 0.75
    # counts plus one: 4, 2, 1, 1 of 8
    assert novelty(lists, np.array([3, 1, 0, 0])) == pytest.approx((1 + 2 + 2 + 3) / 4)
