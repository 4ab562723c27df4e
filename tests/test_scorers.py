"""The contract that every method of recommending obeys, whatever is inside it."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrec.baselines import (
    BM25,
    EASE,
    ClosedFormSum,
    ItemKNN,
    Popularity,
    Random,
    RecentPopularity,
    TextMean,
    TextSimilarity,
)
from crossrec.collaborative import ALS, BPR, LightGCN
from crossrec.domain import Domain, Sequences
from crossrec.encode import Encoder, soft_whiten
from crossrec.metrics import ndcg_at, summarize
from crossrec.model import Blend, ModelSettings
from crossrec.ranking import Scorer, rank_queries, top_k
from crossrec.split import Split, View, leave_one_out
from crossrec.text import item_texts
from crossrec.train import SeedScorer, SequenceScorer, TrainSettings
from crossrec.tuned import Tuned
from tests.toy import N_ITEMS, empty_view, item_vectors, item_words, ring, ring_queries, ring_view

SMALL = ModelSettings(width=24, max_length=6, dropout=0.0)
BRIEF = TrainSettings(epochs=20, positions=256, rate=2e-2)


def ids_only(view: View) -> Scorer:
    return SequenceScorer(model=SMALL, settings=BRIEF).fit(view)


def with_text(view: View) -> Scorer:
    return SequenceScorer(item_vectors(), SMALL, BRIEF).fit(view)


def blend(view: View) -> Scorer:
    terms = {"text": TextSimilarity(item_vectors()).fit(view), "item_knn": ItemKNN().fit(view)}
    return Blend(terms, {"text": 1.0, "item_knn": 0.5}, {"text": 1.0, "item_knn": 2.0})


def als(view: View) -> Scorer:
    pytest.importorskip("implicit")
    return ALS(factors=8, decay=0.5).fit(view)


def bpr(view: View) -> Scorer:
    pytest.importorskip("implicit")
    return BPR(factors=8, epochs=20).fit(view)


METHODS: dict[str, Callable[[View], Scorer]] = {
    "random": lambda view: Random().fit(view),
    "popularity": lambda view: Popularity().fit(view),
    "popularity_recent": lambda view: RecentPopularity().fit(view),
    "text_mean": lambda view: TextMean(item_vectors()).fit(view),
    "bm25": lambda view: BM25(item_words()).fit(view),
    "closed_form_sum": lambda view: ClosedFormSum(item_vectors()).fit(view),
    "als": als,
    "bpr": bpr,
    "lightgcn": lambda view: LightGCN(width=8, epochs=2, batch=64).fit(view),
    "tuned": lambda view: Tuned([ItemKNN(), ItemKNN(window=2)]).fit(view),
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
        np.testing.assert_allclose(fitted.score(histories.take(order)), together[order], rtol=1e-5, atol=1e-5)
        for row in range(len(histories)):
            np.testing.assert_allclose(fitted.score(histories.take([row])), together[[row]], rtol=1e-5, atol=1e-5)

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

    def test_towers_say_the_same(self, fitted: Scorer, histories: Sequences) -> None:
        if not hasattr(fitted, "towers"):
            pytest.skip("its score is no inner product")
        users, items = (np.asarray(part) for part in fitted.towers(histories))  # arrays, or tensors
        assert users.dtype == items.dtype == np.float32 and len(items) == N_ITEMS
        np.testing.assert_allclose(users @ items.T, fitted.score(histories), rtol=1e-5, atol=1e-5)

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


SILENT_WITHOUT_USERS = ("popularity", "popularity_recent", "item_knn", "ease", "als", "bpr", "lightgcn", "tuned")


@pytest.mark.parametrize("name", [*SILENT_WITHOUT_USERS, "ids_only", "seed_transformer", "with_text"])
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


@pytest.mark.parametrize("name", METHODS)
def test_the_mark_tells_who_needs_interactions(name: str) -> None:
    scorer = METHODS[name](empty_view())
    silent = not scorer.score(ring_queries().histories).any()
    assert silent or not scorer.needs_interactions
    assert scorer.needs_interactions or name not in SILENT_WITHOUT_USERS


@given(n_items=st.integers(20, 400), length=st.integers(1, 5), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_guessing_is_chance(n_items: int, length: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = Sequences(np.arange(0, 2000 * length + 1, length), rng.integers(0, n_items, 2000 * length).astype(np.int32))
    scores = Random(seed).fit(replace(empty_view(), n_items=n_items)).score(rows)
    place = (scores > scores[:, [n_items // 2]]).sum(1) / (n_items - 1)  # of an item among the others: 0 to 1
    assert abs(place.mean() - 0.5) < 5 / np.sqrt(12 * len(np.unique(rows.items.reshape(-1, length), axis=0)))
    assert len(np.unique(scores[0])) == n_items, "no ties"


def test_guesses_change_with_the_seed_and_the_order_of_a_history() -> None:
    histories = Sequences.from_lists([[1, 2, 3], [3, 2, 1], [2, 3]])
    first, second = (Random(seed).fit(empty_view()).score(histories) for seed in (0, 1))
    assert (np.abs(np.corrcoef(np.concatenate([first, second]))[np.triu_indices(6, 1)]) < 0.8).all()


def test_recent_popularity_by_steps() -> None:
    view = replace(ring_view(), train=Sequences.from_lists([[0, 1], [0, 1, 2]]))
    values = np.expm1(RecentPopularity(steps=1).fit(view).values)
    np.testing.assert_allclose(values[:4], [0.5 + 0.25, 1 + 0.5, 1, 0], atol=1e-6)


def test_recent_popularity_by_days() -> None:
    day = 86_400_000
    rows = Sequences(np.array([0, 2, 3]), np.array([0, 1, 0], np.int32), np.array([0, 20, 10]) * day)
    values = np.expm1(RecentPopularity(days=10).fit(replace(ring_view(), train=rows)).values)
    np.testing.assert_allclose(values[:3], [0.25 + 0.5, 1, 0], atol=1e-6)


def test_bm25_against_the_formula() -> None:
    texts = ["oat milk milk", "oat bread", "soy milk", "soap", ""]
    history, (k, b, decay) = [1, 0], (1.2, 0.75, 0.5)
    words = [text.split() for text in texts]
    mean_length = np.mean([len(text) for text in words])

    def score(item: int) -> float:
        total = 0.0
        for age, met in enumerate(reversed(history)):
            for word in words[met]:  # a word that stands twice asks twice
                texts_with, often = sum(word in text for text in words), words[item].count(word)
                rarity = np.log(1 + (len(texts) - texts_with + 0.5) / (texts_with + 0.5))
                damping = k * (1 - b + b * len(words[item]) / mean_length)
                total += np.exp(-decay * age) * rarity * often * (k + 1) / (often + damping)
        return total

    view = replace(empty_view(), n_items=len(texts))
    found = BM25(texts, k, b, decay).fit(view).score(Sequences.from_lists([history]))
    np.testing.assert_allclose(found[0], [score(item) for item in range(len(texts))], rtol=1e-5)


def test_bm25_reads_any_script_and_none() -> None:
    history = Sequences.from_lists([[0]])
    chinese = BM25(["有机燕麦奶", "燕麦面包", "香皂", "豆奶"]).fit(replace(empty_view(), n_items=4)).score(history)[0]
    assert chinese[0] > chinese[1] > chinese[3] > chinese[2] == 0
    assert not BM25(["", "!?"]).fit(replace(empty_view(), n_items=2)).score(history).any()


def test_twins_are_told_apart_by_a_hair() -> None:
    scores = BM25(["oat milk", "soy milk", "soy milk", "soap"]).fit(replace(empty_view(), n_items=4))
    alike = scores.score(Sequences.from_lists([[0]]))[0, 1:3]
    assert 0 < abs(alike[0] - alike[1]) < 1e-3


def test_ease_fades_as_told() -> None:
    view, histories = ring_view(), Sequences.from_lists([[3, 7, 1]])
    plain = EASE(5.0, decay=0.0).fit(view)
    rows = [plain.score(Sequences.from_lists([[item]]))[0] for item in (1, 7, 3)]
    np.testing.assert_allclose(plain.score(histories)[0], sum(rows), atol=1e-5)
    faded = EASE(5.0, decay=0.5).fit(view).score(histories)[0]
    np.testing.assert_allclose(faded, sum(np.exp(-0.5 * age) * row for age, row in enumerate(rows)), atol=1e-5)


def test_the_sum_is_the_sum(histories: Sequences) -> None:
    view = ring_view()
    parts = TextSimilarity(item_vectors()), ItemKNN(), Popularity()
    text, knn, common = (part.fit(view).score(histories) for part in parts)
    found = ClosedFormSum(item_vectors(), neighbours=2.0, popularity=0.5).fit(view).score(histories)
    np.testing.assert_allclose(found, text + 2 * knn + 0.5 * common, atol=1e-5)


class TestRealData:
    """The closed forms on public data, against figures that were measured with code that is not this code."""

    # R@10 and N@10 of text, item-kNN and their sum with popularity; windows, shrinkage and weights as in the reference
    REFERENCE = {
        "amazon_beauty": [(0.0773, 0.0453), (0.0803, 0.0502), (0.1090, 0.0659)],
        "amazon_toys": [(0.0927, 0.0525), (0.0931, 0.0602), (0.1238, 0.0760)],
    }

    @pytest.fixture(scope="class", params=REFERENCE)
    def real(self, request: pytest.FixtureRequest) -> tuple[str, Split, np.ndarray]:
        folder = Path(os.environ.get("CROSSREC_DATA", "data")) / request.param
        if not folder.is_dir():
            pytest.skip(f"no domain folder {folder}; set CROSSREC_DATA to the folder that holds it")
        domain = Domain.load(folder).clean()
        return request.param, leave_one_out(domain), soft_whiten(Encoder("minilm").encode(item_texts(domain.items)))

    @pytest.mark.slow
    def test_reference_figures(self, real: tuple[str, Split, np.ndarray]) -> None:
        name, split, vectors = real
        view, knn = split.view("all"), ItemKNN(window=5, shrink=5)
        total = ClosedFormSum(vectors, neighbours=3.0, popularity=0.03, window=5, shrink=5)
        for method, (recall, ndcg) in zip((TextSimilarity(vectors), knn, total), self.REFERENCE[name], strict=True):
            found = summarize(rank_queries(method.fit(view), split.test), ks=(10,))
            assert found["recall@10"] == pytest.approx(recall, abs=5e-4)
            assert found["ndcg@10"] == pytest.approx(ndcg, abs=5e-4)

    def test_the_defaults_are_better_still(self, real: tuple[str, Split, np.ndarray]) -> None:
        _, split, vectors = real
        asked, view = split.valid.take(np.arange(0, len(split.valid), 4)), split.view("all")
        plain, ours = (
            ndcg_at(rank_queries(method.fit(view), asked), 10).mean()
            for method in (ClosedFormSum(vectors, 3.0, window=5, shrink=5), ClosedFormSum(vectors))
        )
        assert ours > plain
