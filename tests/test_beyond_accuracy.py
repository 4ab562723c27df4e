"""Coverage, Gini, novelty, popularity bias, diversity and serendipity against slow definitions and odd lists."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrec.beyond_accuracy import coverage, diversity, gini, novelty, popularity_bias, serendipity
from crossrec.core import CrossrecError
from crossrec.metrics import list_ranks, precision_at

N_ITEMS = 9


def ragged(rows: list[list[int]]) -> SimpleNamespace:
    return SimpleNamespace(
        offsets=np.cumsum([0, *map(len, rows)]), items=np.array([item for row in rows for item in row], dtype=np.int32)
    )


item = st.integers(0, N_ITEMS - 1)
some = st.lists(item, min_size=1, max_size=5, unique=True)


@settings(max_examples=80, deadline=None)
@given(rows=st.lists(some, min_size=1, max_size=5), seed=st.integers(0, 99), data=st.data())
def test_all_equal_their_definitions(rows, seed, data):
    rng = np.random.default_rng(seed)
    lists = np.array([row + [-1] * (5 - len(row)) for row in rows])
    popularity, vectors = rng.integers(1, 20, N_ITEMS), rng.normal(size=(N_ITEMS, 3))
    histories, relevant, primitive = ([data.draw(some) for _ in rows] for _ in range(3))

    shown = [i for row in rows for i in row]
    assert coverage(lists, N_ITEMS) == len(set(shown)) / N_ITEMS
    times = [shown.count(i) for i in range(N_ITEMS)]
    mean_gap = sum(abs(a - b) for a in times for b in times) / N_ITEMS**2
    assert gini(lists, N_ITEMS) == pytest.approx(mean_gap / (2 * sum(times) / N_ITEMS), abs=1e-12)

    chance = (popularity + 1) / (popularity + 1).sum()
    wanted = [np.mean([-math.log2(chance[i]) for i in row]) for row in rows]
    np.testing.assert_allclose(novelty(lists, popularity), wanted, rtol=1e-12)
    wanted = [popularity[row].mean() / popularity[h].mean() - 1 for row, h in zip(rows, histories, strict=True)]
    np.testing.assert_allclose(popularity_bias(lists, popularity, ragged(histories)), wanted, rtol=1e-12, atol=1e-12)

    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    far = [[1 - unit[a] @ unit[b] for a in row for b in row if a != b] for row in rows]
    np.testing.assert_allclose(diversity(lists, vectors), [np.mean(f) if f else 0 for f in far], atol=1e-12)

    obvious = np.array([row + [-1] * (5 - len(row)) for row in primitive])
    wanted = [len((set(a) - set(b)) & set(c)) / 5 for a, b, c in zip(rows, primitive, relevant, strict=True)]
    found = serendipity(lists, obvious, ragged(relevant))
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    precision = precision_at(list_ranks(lists, ragged(relevant)), 5, ragged(relevant).offsets)
    assert (found <= precision + 1e-12).all()


def test_gini_from_even_to_one_item():
    assert gini(np.arange(6).reshape(3, 2), 6) == 0
    assert gini(np.zeros((10, 1), int), 50) == pytest.approx(1 - 1 / 50)


def test_coverage_and_novelty_by_hand():
    lists = np.array([[0, 1], [1, 2]])
    assert coverage(lists, 4) == 0.75
    # counts plus one: 4, 2, 1, 1 of 8
    assert novelty(lists, np.array([3, 1, 0, 0])).tolist() == [1.5, 2.5]


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_diversity_takes_short_floats_views_and_zero_vectors(kind):
    vectors = np.array([[1, 0], [0, 1], [-1, 0], [0, 0]], dtype=kind)
    strided = np.repeat(vectors, 2, axis=0)[::2]
    lists = np.array([[0, 1], [0, 2], [0, 3]])
    for given_vectors in (vectors, strided, np.asfortranarray(vectors)):
        np.testing.assert_allclose(diversity(lists, given_vectors), [1, 2, 1], atol=1e-6)


def test_diversity_of_many_users_is_made_in_slabs():
    rng = np.random.default_rng(0)
    lists = np.argsort(rng.random((3000, 40)), 1)[:, :20]
    vectors = rng.normal(size=(40, 300))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    apart = 1 - unit @ unit.T
    wanted = [apart[np.ix_(row, row)].sum() / 380 for row in lists]
    np.testing.assert_allclose(diversity(lists, vectors), wanted, atol=1e-12)


LISTS, COUNTS = np.array([[0, 1], [2, -1]]), np.array([1, 2, 3])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: coverage(LISTS, 2), "item 2"),
        (lambda: coverage(np.array([[1, 1]]), 2), "coverage: found item 1 twice"),
        (lambda: coverage(np.array([[0.5]]), 2), "integers"),
        (lambda: gini(np.full((2, 3), -1), 4), "without an item"),
        (lambda: novelty(np.array([[0], [-1]]), COUNTS), "user 1 is shown nothing"),
        (lambda: novelty(LISTS, np.array([1.0, np.nan, 2])), "one count"),
        (lambda: novelty(LISTS, np.array([1, -1, 2])), "one count"),
        (lambda: popularity_bias(LISTS, COUNTS, ragged([[0], []])), "empty history, of user 1"),
        (lambda: popularity_bias(LISTS, COUNTS, ragged([[0], [-1]])), "from -1"),
        (lambda: popularity_bias(LISTS, COUNTS, ragged([[0], [7]])), "0 to 2"),
        (lambda: popularity_bias(LISTS, COUNTS, ragged([[0]])), "2 rows that cover"),
        (lambda: popularity_bias(LISTS, np.array([0, 1, 1]), ragged([[0], [1]])), "popularity 0 in the history"),
        (lambda: diversity(LISTS, np.array([[1.0], [np.nan], [2]])), "finite"),
        (lambda: diversity(LISTS, np.ones((2, 3))), "item 2"),
        (lambda: serendipity(LISTS, LISTS, np.array([1])), "targets of 2 users"),
        (lambda: serendipity(LISTS[:, :0], LISTS, np.array([1, 1])), "k of 1 or more"),
    ],
)
def test_odd_input_is_an_error(call, message):
    with pytest.raises(CrossrecError, match=message):
        call()


def test_short_floats_do_not_overflow_a_diversity():
    assert diversity(np.array([[0, 1]]), np.ones((1000, 128), np.float16))[0] == pytest.approx(0, abs=1e-12)
