"""Choosing a method's settings: never by luck, never by the test, never at the default's expense."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from inspect import signature

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrec.baselines import EASE, ItemKNN, TextSimilarity
from crossrec.core import CrossrecError
from crossrec.domain import Domain
from crossrec.encode import Encoder, soft_whiten
from crossrec.metrics import summarize
from crossrec.ranking import Scorer, rank_queries
from crossrec.sequences import Sequences
from crossrec.split import Queries, View, leave_one_out
from crossrec.text import item_texts
from crossrec.tuned import _GRIDS, Tuned, choose, clearly_best, settings_of, tuned_options
from tests.toy import N_ITEMS, empty_view, item_vectors, item_words, ring, ring_view


@dataclass
class Walk(Scorer):
    """Says that the item so many steps ahead comes next; on the ring one step is right."""

    step: int
    fitted: int = 0

    def fit(self, view: View) -> Scorer:
        self.n_items, self.fitted = view.n_items, self.fitted + 1
        return self

    def score(self, histories: Sequences) -> np.ndarray:
        last = histories.items[histories.offsets[1:] - 1]
        return np.eye(self.n_items, dtype=np.float32)[(last + self.step) % self.n_items]


def asked(users: int) -> View:
    """The ring, with so many validation queries, whose answer is one step ahead."""
    rows = ring(users, 4)
    targets = ((rows.items[rows.offsets[1:] - 1] + 1) % N_ITEMS).astype(np.int32)
    return replace(ring_view(), valid=Queries(np.arange(users), rows, targets))


def test_the_best_is_kept_and_the_options_stay_unfitted() -> None:
    options = [Walk(3), Walk(2), Walk(1), Walk(4)]
    tuned = Tuned(options).fit(asked(200))
    assert tuned.chosen == {"step": 1, "fitted": 1} and tuned.values == [0, 0, 1, 0]
    assert [option.fitted for option in options] == [0, 0, 0, 0]
    assert rank_queries(tuned, asked(30).valid).max() == 1
    assert tuned.tried()["ndcg@10"].tolist() == tuned.values


@pytest.mark.parametrize("users", [0, 1, 49])
def test_with_few_queries_the_default_stays_untried(users: int) -> None:
    tuned = Tuned([Walk(3), Walk(1)]).fit(asked(users) if users else empty_view())
    assert tuned.chosen["step"] == 3 and tuned.values == [] and tuned.tried()["ndcg@10"].isna().all()


def test_ties_leave_the_default() -> None:
    assert Tuned([Walk(1), Walk(1 + N_ITEMS)]).fit(asked(100)).chosen["step"] == 1
    assert Tuned([Walk(5), Walk(6)]).fit(asked(100)).chosen["step"] == 5


def test_fitting_again_chooses_again() -> None:
    tuned = Tuned([Walk(3), Walk(1)])
    assert tuned.fit(asked(100)).chosen["step"] == 1
    assert tuned.fit(asked(10)).chosen["step"] == 3


def test_at_most_so_many_queries_decide() -> None:
    class Counting(Walk):
        asked = 0

        def score(self, histories: Sequences) -> np.ndarray:
            Counting.asked += len(histories)
            return super().score(histories)

    choose([Counting(1), Counting(2)], asked(500), most=80)
    assert Counting.asked == 160


@given(st.integers(0, 10_000), st.integers(2, 8), st.integers(60, 400))
@settings(max_examples=60, deadline=None)
def test_the_winner_is_ahead_by_two_standard_errors(seed: int, options: int, queries: int) -> None:
    values = np.random.default_rng(seed).random((options, queries)) + np.linspace(0, seed % 3 / 10, options)[:, None]
    best = clearly_best(values)
    gains = values - values[0]
    clear = gains.mean(1) > 2 * gains.std(1, ddof=1) / np.sqrt(queries)
    assert clear[best] if clear.any() else best == 0
    assert not clear.any() or gains.mean(1)[best] == gains.mean(1)[clear].max()


def test_equal_options_seldom_oust_the_default() -> None:
    draws = np.random.default_rng(0).random((400, 8, 200)).round()
    ousted = np.mean([clearly_best(values) > 0 for values in draws])
    careless = np.mean([clearly_best(values, 0.0) > 0 for values in draws])
    assert ousted < 0.15 and careless > 0.7


def test_towers_come_and_go_with_the_option() -> None:
    histories = ring(5, 3)
    text = Tuned([TextSimilarity(item_vectors())]).fit(ring_view())
    users, items = text.towers(histories)
    np.testing.assert_allclose(users @ items.T, text.score(histories), atol=1e-5)
    assert not hasattr(Tuned([EASE(5.0)]).fit(ring_view()), "towers")


def test_no_option_is_refused() -> None:
    with pytest.raises(CrossrecError, match="one or more scorers"):
        Tuned([])


def test_settings_are_plain_values() -> None:
    @dataclass(frozen=True)
    class How:
        rate: float = 0.1

    class Method(Walk):
        def __init__(self, vectors: np.ndarray, how: How = How(), last: int = 3, name: str = "x") -> None:  # noqa: B008
            self.vectors, self.how, self.last, self.name = vectors, how, last, name

    assert settings_of(Method(item_vectors())) == {"how": {"rate": 0.1}, "last": 3, "name": "x"}


@pytest.mark.parametrize("name", _GRIDS)
def test_grids_are_small_distinct_and_begin_with_the_default(name: str) -> None:
    options = tuned_options(name, item_vectors(), item_words(), seed=5, names=item_words())
    told = [settings_of(option) for option in options]
    assert 1 <= len(options) <= 8 and all(one not in told[:place] for place, one in enumerate(told))
    kind, parts = type(options[0]), {"vectors": item_vectors(), "texts": item_words(), "seed": 5, "names": item_words()}
    plain = kind(**{part: value for part, value in parts.items() if part in signature(kind).parameters})
    assert told[0] == settings_of(plain)


def test_unknown_names_and_missing_parts_are_told() -> None:
    with pytest.raises(CrossrecError, match="one of random, popularity"):
        tuned_options("bm52")
    with pytest.raises(CrossrecError, match="no texts"):
        tuned_options("bm25", item_vectors())


def test_repeats_are_candidates_when_asked_for() -> None:
    class Again(Walk):
        def score(self, histories: Sequences) -> np.ndarray:
            first = np.eye(N_ITEMS, dtype=np.float32)[histories.items[histories.offsets[:-1]]]
            return super().score(histories) if self.step else first

    rows = ring(100, 4)
    again = Queries(np.arange(100), rows, rows.items[rows.offsets[:-1]])  # the first item comes back
    view = replace(ring_view(), valid=again)
    assert Tuned([Again(1), Again(0)], allow_repeats=True).fit(view).chosen["step"] == 0
    assert isinstance(Tuned([ItemKNN()], True).fit(view).best, ItemKNN)


@pytest.mark.parametrize("name, recall, ndcg", [("item_knn", 0.4517, 0.3230), ("blend", 0.4648, 0.3332)])
def test_real_courses_reach_the_reference(real_domain: Callable, name: str, recall: float, ndcg: float) -> None:
    domain = Domain.load(real_domain("mars_courses")).clean(k_core=0)  # repeats dropped, users with three or more
    split, texts = leave_one_out(domain), item_texts(domain.items)
    vectors = soft_whiten(Encoder("minilm").encode(texts)) if name == "blend" else None
    tuned = Tuned(tuned_options(name, vectors, names=item_words())).fit(split.view("all"))
    found = summarize(rank_queries(tuned, split.test), ks=(10,))
    assert found["recall@10"] > recall and found["ndcg@10"] > ndcg
