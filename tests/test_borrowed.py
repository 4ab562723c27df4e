"""Pairs on loan: what is lent, to whom, and when not."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrec import borrowed
from crossrec.baselines import cooccurrence, history_weights, item_counts
from crossrec.borrowed import _NEAR_ENOUGH, BorrowedPairs, SourcePairs, lend, rehearse_pairs, source_pairs
from crossrec.metrics import ndcg_at
from crossrec.ranking import Scorer, rank_queries
from crossrec.sequences import Sequences
from crossrec.split import Queries, Split, View
from crossrec.train import SequenceScorer
from crossrec.transfer import Hybrid, Knowledge, learn
from tests.test_transfer import BRIEF, SMALL
from tests.toy import clock, walks

TENT, STOVE, LAMP = np.eye(3, dtype=np.float32)
SOLD = np.stack([TENT, TENT, STOVE, STOVE])
ROWS = Sequences.from_lists([[0, 2], [1, 3], [0, 3], [1, 2]] * 10)


def test_an_item_is_followed_by_what_follows_its_like_in_the_source() -> None:
    found = BorrowedPairs(np.stack([TENT, TENT, STOVE]), source_pairs(SOLD, ROWS), neighbours=2).fit()
    scores = found.score(Sequences.from_lists([[0], [2], []]))
    # each tent stands before a stove in 10 of 20 rows of its own, met 20 times: 10 * (1 + .7) / 2 / (20 + 20)
    np.testing.assert_allclose(scores, [[0, 0, 0.2125], [0.2125, 0.2125, 0], [0, 0, 0]], atol=1e-6)
    assert found.near == pytest.approx(1)


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(st.lists(st.integers(0, 11), max_size=6), max_size=8), seed=st.integers(0, 5))
def test_scores_are_those_of_the_whole_matrix(rows: list[list[int]], seed: int) -> None:
    rng, train = np.random.default_rng(seed), Sequences.from_lists(rows)
    theirs, mine = (rng.normal(size=(n, 4)).astype(np.float32) for n in (12, 7))
    theirs, mine = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (theirs, mine))
    damp = (item_counts(train, 12) + 20) ** -0.5
    near = damp[:, None] * cooccurrence(train, 12).toarray() * damp
    edges = np.exp(6 * mine @ theirs.T)
    for row in edges:
        row[row < np.sort(row)[-5]] = 0
    edges /= edges.sum(1, keepdims=True)
    asked = Sequences.from_lists([[0, 3, 6], [2], []])
    expected = history_weights(asked, 7, 0.35) @ edges @ ((near + near.T) / 2) @ edges.T
    found = BorrowedPairs(mine, source_pairs(theirs, train), neighbours=5).fit()
    np.testing.assert_allclose(found.score(asked), expected, atol=1e-4)


def test_a_text_from_outside_borrows_like_one_of_the_catalogue() -> None:
    found = BorrowedPairs(np.stack([TENT, STOVE, LAMP]), source_pairs(SOLD, ROWS)).fit()
    inside, outside = (
        found.score(Sequences.from_lists([[1, 0]])),
        found.score(Sequences.from_lists([[1, 3]]), TENT[None]),
    )
    np.testing.assert_allclose(outside, inside, atol=1e-6)
    np.testing.assert_array_equal(found.score(Sequences.from_lists([[1]]), np.zeros((0, 3), np.float32))[0],
                                  found.score(Sequences.from_lists([[1]]))[0])  # fmt: skip


def test_a_large_source_lends_what_was_met_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(borrowed, "MOST_ITEMS", 2)
    rows = Sequences.from_lists([[3, 1], [1, 3], [0, 2]])
    pairs = source_pairs(np.arange(8, dtype=np.float32).reshape(4, 2), rows)
    np.testing.assert_array_equal(pairs.vectors, [[2, 3], [6, 7]])
    expected = 2 * 1.7 / 2 / 22
    np.testing.assert_allclose(
        pairs.factors * pairs.values @ pairs.factors.T, [[0, expected], [expected, 0]], atol=1e-6
    )


def outfits(topics: int, users: int, seed: int = 0) -> tuple[np.ndarray, Split]:
    """Text vectors of eight coats and eight bags a topic, and people who keep to a topic and take both in turn."""
    rng = np.random.default_rng(seed)
    topic, bag = np.repeat(np.arange(topics), 16), np.tile(np.repeat([0, 1], 8), topics)
    words = 0.6 * np.random.default_rng(99).normal(size=(64, 16)) / 4  # a topic of any catalogue
    told = 0.35 * np.eye(18)[16 + bag] + np.pad(words[(topic + 16 * seed) % 64], ((0, 0), (0, 2)))
    told += 0.05 * rng.normal(size=told.shape)
    turns = np.stack(
        [rng.permuted(np.tile(np.arange(8), (users, 1)), axis=1)[:, :4] for _ in range(2)], 2
    )  # [users, 4, 2]
    of, first = rng.integers(0, topics, users)[:, None, None], rng.integers(0, 2, users)[:, None, None]
    rows = (16 * of + 8 * ((first + np.arange(2)) % 2) + turns).reshape(users, 8).astype(np.int32)
    everything, who = Sequences(np.arange(0, rows.size + 1, 8), rows.ravel()), np.arange(users)
    valid, test = (Queries(who, everything.drop_last(back), rows[:, -back]) for back in (2, 1))
    vectors = (told / np.linalg.norm(told, axis=1, keepdims=True)).astype(np.float32)
    return vectors, Split("leave_one_out", 16 * topics, everything.drop_last(2), valid, test)


@pytest.fixture(scope="module")
def rehearsed() -> SourcePairs | None:
    vectors, split = outfits(16, 800)
    return rehearse_pairs(split, vectors)


def test_who_takes_a_bag_with_a_coat_may_lend(rehearsed: SourcePairs | None) -> None:
    vectors, split = outfits(16, 800)
    assert rehearsed is not None and 0 < rehearsed.near <= 1
    np.testing.assert_array_equal(rehearsed.factors, source_pairs(vectors, split.train).factors)


@pytest.mark.parametrize("seed", range(3))
def test_pairs_of_shuffled_texts_are_not_lent(seed: int) -> None:
    for vectors, split in (outfits(16, 800), (clock(60), walks(60, 1200))):
        order = np.random.default_rng(seed).permutation(len(vectors))
        assert rehearse_pairs(split, vectors[order]) is None


@pytest.mark.filterwarnings("ignore")
def test_nothing_is_lent_where_nothing_could_be_rehearsed() -> None:
    assert rehearse_pairs(walks(20, 30), clock(20)) is None
    assert rehearse_pairs(walks(20, 80), np.ones((20, 12), np.float32)) is None


def test_a_target_that_lies_too_far_off_gets_nothing(rehearsed: SourcePairs) -> None:
    target, _ = outfits(6, 50, seed=1)
    assert lend(rehearsed, target) is not None
    edge = BorrowedPairs(target, rehearsed).fit().near / _NEAR_ENOUGH
    for near, lends in ((edge - 1e-3, True), (edge + 1e-3, False)):
        assert (lend(replace(rehearsed, near=near), target) is not None) == lends
    assert lend(rehearsed, -target) is None
    assert lend(None, target) is None


def silent(view: View, carry: bool) -> Scorer:
    """A sequence model that nobody listens to."""
    return SequenceScorer(outfits(6, 1, seed=1)[0], SMALL, BRIEF, None, True).fit(view)


def test_a_loan_serves_a_target_of_which_nobody_is_known(rehearsed: SourcePairs) -> None:
    (theirs, split), (mine, target) = outfits(16, 800), outfits(6, 300, seed=1)
    taught = learn(split, theirs, SMALL, replace(BRIEF, most_steps=20))
    assert taught.pairs is not None
    taught = replace(taught, plans={0: {"sequence": 0.0}})
    lent, not_lent = (
        Hybrid(mine, known, SMALL, BRIEF).fit(target.view(0)) for known in (taught, replace(taught, pairs=None))
    )
    assert lent.blend.weights["borrowed"] > 0 and lent.carried and not not_lent.carried
    assert "borrowed" not in not_lent.blend.terms
    assert "borrowed" not in Hybrid(mine, taught, SMALL, BRIEF).fit(target.view(16)).blend.terms
    with_loan, without = (ndcg_at(rank_queries(each, target.test), 10).mean() for each in (lent, not_lent))
    assert with_loan > without + 0.01


def test_a_loan_that_misleads_costs_little(rehearsed: SourcePairs) -> None:
    """No rehearsal can know that here people take coats after coats and bags after bags."""
    mine, target = outfits(6, 600, seed=1)
    lent, not_lent = (
        Hybrid(mine, Knowledge({}, 1.0, {0: {"sequence": 0.0}}, pairs), SMALL, BRIEF, learner=silent).fit(
            target.view(0)
        )
        for pairs in (rehearsed, None)
    )
    rows = np.column_stack([target.test.histories.items.reshape(-1, 7), target.test.targets])[:, ::2]  # of one kind
    asked = Queries(np.arange(len(rows)), Sequences.from_lists(rows[:, :3].tolist()), rows[:, 3])
    with_loan, without = (ndcg_at(rank_queries(each, asked), 10).mean() for each in (lent, not_lent))
    assert "borrowed" in lent.blend.terms and 0.97 * without < with_loan < without
