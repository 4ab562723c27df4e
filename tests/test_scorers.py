"""The contract that every method of recommending obeys, whatever is inside it."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from crossrec.baselines import EASE, ItemKNN, Popularity, Scorer, TextSimilarity, rank_queries, top_k
from crossrec.domain import Sequences
from crossrec.model import Blend, ModelSettings
from crossrec.split import View
from crossrec.train import SeedScorer, SequenceScorer, TrainSettings
from tests.toy import N_ITEMS, empty_view, item_vectors, ring, ring_queries, ring_view

SMALL = ModelSettings(width=24, max_length=6, dropout=0.0)
BRIEF = TrainSettings(epochs=20, positions=256, rate=2e-2)


def ids_only(view: View) -> Scorer:
    return SequenceScorer(model=SMALL, settings=BRIEF).fit(view)


def with_text(view: View) -> Scorer:
    return SequenceScorer(item_vectors(), SMALL, BRIEF).fit(view)


def blend(view: View) -> Scorer:
    terms = {"text": TextSimilarity(item_vectors()).fit(view), "item_knn": ItemKNN().fit(view)}
    return Blend(terms, {"text": 1.0, "item_knn": 0.5}, {"text": 1.0, "item_knn": 2.0})


METHODS: dict[str, Callable[[View], Scorer]] = {
    "popularity": lambda view: Popularity().fit(view),
    "text": lambda view: TextSimilarity(item_vectors()).fit(view),
    "item_knn": lambda view: ItemKNN().fit(view),
    "ease": lambda view: EASE(penalty=5.0).fit(view),
    "ids_only": ids_only,
    "seed_transformer": lambda view: SeedScorer(replace(BRIEF, rate=5e-3), max_length=6).fit(view),
    "with_text": with_text,
    "blend": blend,
}


@pytest.fixture(scope="module", params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def fitted(method: str) -> Scorer:
    return METHODS[method](ring_view())


@pytest.fixture(scope="module")
def histories() -> Sequences:
    """Histories of many lengths: none at all, one item, more than any model reads."""
    rng = np.random.default_rng(0)
    lengths = [0, 1, 5, 40, 0, 2, 6, 7, 19, 1, 80]
    return Sequences.from_lists([rng.integers(0, N_ITEMS, length).tolist() for length in lengths])


class TestEveryScorer:
    """What evaluation, blending and serving rely on."""

    def test_fit_returns_a_scorer_of_the_catalogue(self, fitted: Scorer) -> None:
        assert isinstance(fitted, Scorer) and fitted.n_items == N_ITEMS

    def test_one_float32_score_for_each_history_and_item(self, fitted: Scorer, histories: Sequences) -> None:
        scores = fitted.score(histories)
        assert scores.shape == (len(histories), N_ITEMS) and scores.dtype == np.float32
        assert np.isfinite(scores).all()

    def test_no_history_at_all(self, fitted: Scorer) -> None:
        assert fitted.score(Sequences.from_lists([])).shape == (0, N_ITEMS)

    def test_asked_twice_it_says_the_same(self, fitted: Scorer, histories: Sequences) -> None:
        np.testing.assert_array_equal(fitted.score(histories), fitted.score(histories))

    def test_fitted_twice_it_says_the_same(self, method: str, fitted: Scorer, histories: Sequences) -> None:
        np.testing.assert_array_equal(METHODS[method](ring_view()).score(histories), fitted.score(histories))

    def test_fit_and_score_leave_their_inputs_alone(self, method: str, histories: Sequences) -> None:
        view = ring_view()
        arrays = [view.train.offsets, view.train.items, histories.offsets, histories.items]
        copies = [array.copy() for array in arrays]
        for array in arrays:
            array.flags.writeable = False  # memory-mapped data cannot be written to either
        METHODS[method](view).score(histories)
        for array, copy in zip(arrays, copies, strict=True):
            array.flags.writeable = True
            np.testing.assert_array_equal(array, copy)

    def test_scores_do_not_depend_on_the_neighbours(self, fitted: Scorer, histories: Sequences) -> None:
        together = fitted.score(histories)
        order = np.random.default_rng(1).permutation(len(histories))
        np.testing.assert_allclose(fitted.score(histories.take(order)), together[order], atol=1e-5)
        for row in range(len(histories)):
            np.testing.assert_allclose(fitted.score(histories.take([row])), together[[row]], atol=1e-5)

    def test_a_zero_shot_view_is_enough(self, method: str, histories: Sequences) -> None:
        scores = METHODS[method](empty_view()).score(histories)
        assert scores.shape == (len(histories), N_ITEMS) and np.isfinite(scores).all()

    def test_rank_and_list_agree(self, fitted: Scorer) -> None:
        queries = ring_queries()
        scores = fitted.score(queries.histories)
        target = scores[np.arange(len(queries)), queries.targets]
        alone = (scores == target[:, None]).sum(1) == 1  # where nothing ties with the target
        ranks = rank_queries(fitted, queries)
        for k in (1, 3, 10, N_ITEMS):
            listed = (top_k(fitted, queries.histories, k)[0] == queries.targets[:, None]).any(1)
            np.testing.assert_array_equal(listed[alone], ranks[alone] <= k)

    @pytest.mark.parametrize("allow_repeats", [False, True])
    def test_a_list_is_sorted_distinct_and_without_the_history(
        self, fitted: Scorer, histories: Sequences, allow_repeats: bool
    ) -> None:
        items, scores = top_k(fitted, histories, N_ITEMS, allow_repeats)
        assert (np.diff(np.where(items >= 0, scores, -np.finfo(np.float32).max)) <= 0).all()
        for row, listed in enumerate(items):
            met = set() if allow_repeats else set(histories[row].tolist())
            assert sorted(listed[listed >= 0].tolist()) == sorted(set(range(N_ITEMS)) - met)


@pytest.mark.parametrize("name", ["item_knn", "ids_only", "with_text"])
def test_the_ring_is_learned(name: str) -> None:
    assert rank_queries(METHODS[name](ring_view()), ring_queries()).max() == 1


@pytest.mark.parametrize("name", ["popularity", "item_knn", "ease", "ids_only", "seed_transformer", "with_text"])
def test_what_learns_from_users_knows_nothing_without_them(name: str) -> None:
    scores = METHODS[name](empty_view()).score(ring_queries().histories)
    assert not scores.any(), "zero-shot scores must hold no statistic of users"


@pytest.mark.parametrize("name", ["ids_only", "seed_transformer", "with_text"])
def test_long_histories_are_read_from_their_end(name: str) -> None:
    scorer, long = METHODS[name](ring_view()), ring(users=8, length=30)
    np.testing.assert_allclose(scorer.score(long), scorer.score(long.truncate(SMALL.max_length)), atol=1e-6)


def test_text_needs_no_users() -> None:
    seen, unseen = (METHODS["text"](view).score(ring().take(np.arange(9))) for view in (ring_view(), empty_view()))
    np.testing.assert_array_equal(seen, unseen)


def test_blend_is_the_weighted_sum(histories: Sequences) -> None:
    mixed = METHODS["blend"](ring_view())
    expected = mixed.terms["text"].score(histories) + 0.25 * mixed.terms["item_knn"].score(histories)
    np.testing.assert_allclose(mixed.score(histories), expected, atol=1e-6)
