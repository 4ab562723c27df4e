"""Methods that move by users in common: joint histories lose nothing, and a planted common taste is found."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrec.core import CrossrecError
from crossrec.cross_domain import (
    CMF,
    EMCDR,
    Bridge,
    FactorSettings,
    MergedItemKNN,
    MergedSASRec,
    Named,
    beside,
    factorise,
    joint_rows,
    named,
    newcomers,
    solve_rows,
)
from crossrec.ranking import Scorer, rank_queries, top_k
from crossrec.rivals import SASREC
from crossrec.sequences import Sequences
from crossrec.split import ColdQueries, Queries, View
from crossrec.train import TrainSettings
from tests.toy import no_queries

GROUPS, EACH, USERS, NEW = 3, 6, 90, 15  # tastes, items of each in a domain, users of both, users new in the target
N_ITEMS = GROUPS * EACH
SMALL, FACTORS = replace(SASREC, width=24, dropout=0.1), FactorSettings(width=8, rounds=8)
BRIEF = TrainSettings(epochs=40, positions=512, rate=1e-2)


def tastes() -> np.ndarray:
    """The taste of each user, 0 to GROUPS - 1."""
    return np.arange(USERS + NEW) % GROUPS


def histories(seed: int, length: int = 5) -> Sequences:
    """Each user takes different items of the own taste, in random order."""
    rng = np.random.default_rng(seed)
    rows = [taste * EACH + rng.permutation(EACH)[:length] for taste in tastes()]
    return Sequences.from_lists([row.tolist() for row in rows])


def source() -> tuple[Sequences, int, tuple[np.ndarray, np.ndarray]]:
    """The source, where user i of the target is the i-th from the end."""
    everybody = np.arange(USERS + NEW)
    return histories(1).take(everybody[::-1]), N_ITEMS, (everybody[::-1].copy(), everybody)


def view(users: int = USERS) -> View:
    """The first so many users of the target."""
    rows = np.arange(users)
    return View("full" if users else "zero-shot", N_ITEMS, histories(2).take(rows), no_queries(), users, rows)


def new_users() -> np.ndarray:
    return np.arange(USERS, USERS + NEW)


def is_of_taste(items: np.ndarray, users: np.ndarray) -> np.ndarray:
    """Whether recommended target items are of the users' tastes."""
    return items // EACH == tastes()[users][:, None]


METHODS: dict[str, Callable[[], Scorer]] = {
    "cmf": lambda: CMF(*source(), FACTORS),
    "emcdr": lambda: EMCDR(*source(), FACTORS),
    "merged_item_knn": lambda: MergedItemKNN(*source()),
    "merged_sasrec": lambda: MergedSASRec(*source(), SMALL, BRIEF),
}


@pytest.fixture(scope="module", params=METHODS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def fitted(name: str) -> Scorer:
    return METHODS[name]().fit(view())


def cold() -> ColdQueries:
    """Questions about users of whom the target knows nothing: do they take something of their taste?"""
    rows, targets = len(source()[0]) - 1 - new_users(), (tastes()[new_users()] * EACH).astype(np.int32)
    return ColdQueries(new_users(), rows, source()[0].take(rows), targets)


class TestEveryMethod:
    """What evaluation relies on, and what the methods are for."""

    def test_scores_of_the_target_alone(self, fitted: Scorer) -> None:
        for told in (histories(2), Sequences.from_lists([]), Sequences.from_lists([[], [0, 0, 3]])):
            scores = fitted.score(told)
            assert scores.shape == (len(told), N_ITEMS) and scores.dtype == np.float32 and np.isfinite(scores).all()
        assert fitted.n_items == N_ITEMS

    def test_the_source_tells_what_new_users_like(self, fitted: Scorer) -> None:
        asked = newcomers(cold())
        items, _ = top_k(fitted, asked.histories, EACH)
        assert is_of_taste(items, new_users()).mean() > 0.95
        assert rank_queries(fitted, asked).max() <= EACH

    def test_without_a_name_nothing_is_known_of_new_users(self, fitted: Scorer) -> None:
        none = np.zeros(NEW + 1, np.int64)
        scores = fitted.score(Sequences(none, np.zeros(0, np.int32)))
        np.testing.assert_allclose(scores, np.tile(scores[:1], (NEW, 1)), atol=1e-6)

    def test_source_items_in_a_history_say_the_same_as_a_name(self, fitted: Scorer) -> None:
        told, by_name = cold().beside(N_ITEMS).histories, newcomers(cold()).histories
        np.testing.assert_allclose(fitted.score(told), fitted.score(by_name), atol=1e-4)

    def test_a_target_history_is_read(self, fitted: Scorer) -> None:
        items, _ = top_k(fitted, histories(2).truncate(3), EACH - 3)
        assert is_of_taste(items, np.arange(USERS + NEW)).mean() > 0.95

    def test_names_survive_ranking_in_any_order(self, fitted: Scorer) -> None:
        asked = newcomers(cold())
        order = np.random.default_rng(0).permutation(NEW)
        np.testing.assert_array_equal(rank_queries(fitted, asked.take(order)), rank_queries(fitted, asked)[order])

    def test_zero_shot_has_nothing_to_say(self, name: str) -> None:
        scorer = METHODS[name]().fit(view(0))
        asked = named(Queries(np.arange(USERS), histories(2).take(np.arange(USERS)), np.zeros(USERS, np.int32)))
        scores = scorer.score(asked.histories)
        assert np.ptp(scores) == 0 and scorer.needs_interactions

    def test_few_users_in_common_are_refused(self, name: str) -> None:
        told, n_items, shared = source()
        few = tuple(rows[:19] for rows in shared)
        kind = type(METHODS[name]())
        with pytest.raises(CrossrecError, match="19 users in common.*at least 20"):
            kind(told, n_items, few)

    def test_inputs_are_left_alone(self, name: str) -> None:
        given = source()
        asked = newcomers(cold())
        arrays = [given[0].items, given[0].offsets, *given[2], asked.histories.items, view().train.items]
        copies = [array.copy() for array in arrays]
        brief = {"settings": replace(BRIEF, epochs=1, least_steps=1)} if name == "merged_sasrec" else {}
        type(METHODS[name]())(*given, **brief).fit(view()).score(asked.histories)
        for array, copy in zip(arrays, copies, strict=True):
            np.testing.assert_array_equal(array, copy)


rows_of_items = st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(rows_of_items, rows_of_items, st.randoms(use_true_random=False), st.booleans())
def test_joint_rows_hold_every_entry_once_in_order(here: list, there: list, random: object, timed: bool) -> None:
    def with_times(rows: list, seed: int) -> Sequences:
        plain = Sequences.from_lists(rows)
        moments = [np.sort(np.random.default_rng(seed + i).integers(0, 9, len(row))) for i, row in enumerate(rows)]
        return Sequences(plain.offsets, plain.items, np.concatenate(moments).astype(np.int64)) if timed else plain

    both = min(len(here), len(there))
    known = np.array(random.sample(range(len(here)), both))
    told = np.array(random.sample(range(len(there)), both))
    bridge = Bridge(with_times(there, 50), 10, (told, known), fewest=0)
    train = with_times(here, 0)
    joint = joint_rows(bridge, View("full", 10, train, no_queries(), len(here), np.arange(len(here))))
    assert len(joint) == len(here) + len(there) - both
    partner = dict(zip(known.tolist(), told.tolist(), strict=True))
    for row in range(len(here)):
        mine = joint[row]
        assert mine[mine < 10].tolist() == here[row]
        assert (mine[mine >= 10] - 10).tolist() == (there[partner[row]] if row in partner else [])
        if not timed:
            assert sorted(mine >= 10, reverse=True) == list(mine >= 10), "the source comes first"
    if timed:
        inside = np.diff(joint.times)[np.diff(joint.rows) == 0]
        assert (inside >= 0).all()
    rest = [joint[row] - 10 for row in range(len(here), len(joint))]
    assert sorted(map(tuple, rest)) == sorted(tuple(there[row]) for row in set(range(len(there))) - set(told.tolist()))


def test_of_users_unknown_in_the_source_nothing_is_added() -> None:
    bridge = Bridge(Sequences.from_lists([[0], [1]]), 2, (np.array([1]), np.array([5])), fewest=1)
    told = Named(np.array([0, 1, 2]), np.array([3, 4], np.int32), None, np.array([5, 7]))
    joint = beside(bridge, told, 10)
    assert [joint[0].tolist(), joint[1].tolist()] == [[11, 3], [4]]


@pytest.mark.parametrize("shared", [([0, 9], [0, 1]), ([0, 1], [0, 1, 2])])
def test_rows_that_cannot_be_are_refused(shared: tuple[list[int], list[int]]) -> None:
    with pytest.raises(CrossrecError, match="np.intersect1d"):
        Bridge(Sequences.from_lists([[0], [1]]), 2, tuple(map(np.array, shared)), fewest=1)


def test_items_outside_the_catalogue_of_the_source_are_refused() -> None:
    with pytest.raises(CrossrecError, match="2 items"):
        Bridge(Sequences.from_lists([[0], [2]]), 2, (np.array([0]), np.array([0])), fewest=1)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 12), st.integers(1, 6))
def test_rows_are_solved_as_the_equation_says(seed: int, n: int, m: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    met = (rng.random((n, m)) < 0.4).astype(np.float32)
    others, prior = rng.normal(size=(m, width)).astype(np.float32), rng.normal(size=(n, width)).astype(np.float32)
    weights = rng.random(m).astype(np.float32)
    facts = FactorSettings(width=width, unseen=0.2, penalty=0.1)
    found = solve_rows(sparse.csr_matrix(met * weights), others, facts, weights, prior)
    for row in range(n):
        pull = facts.penalty * ((met[row] > 0).sum() + facts.unseen * m)
        matrix = (others * (weights * (met[row] + facts.unseen))[:, None]).T @ others + pull * np.eye(width)
        exact = np.linalg.solve(matrix, (weights * met[row]) @ others + pull * prior[row])
        np.testing.assert_allclose(found[row], exact, atol=2e-3)


def test_every_round_lowers_the_sum_that_is_minimised() -> None:
    rng = np.random.default_rng(0)
    met = sparse.csr_matrix((rng.random((60, 40)) < 0.2).astype(np.float32))
    weights, dense = np.where(np.arange(40) < 25, 1.0, 0.3), met.toarray()

    def total(rounds: int) -> float:
        facts = FactorSettings(width=6, rounds=rounds, unseen=0.05, penalty=0.05)
        users, items = factorise(met, facts, weights)
        product = users @ items.T
        pull_users = facts.penalty * (dense.sum(1) + facts.unseen * 40)
        pull_items = facts.penalty * (dense.sum(0) + facts.unseen * 60) * weights
        errors = weights * (dense * (1 - product) ** 2 + facts.unseen * product**2)
        return errors.sum() + pull_users @ np.square(users).sum(1) + pull_items @ np.square(items).sum(1)

    sums = [total(rounds) for rounds in (1, 2, 3, 5, 8, 20)]
    assert (np.diff(sums) < 1e-3).all() and sums[-1] < 0.95 * sums[0]
    assert sums[-1] < (weights * dense).sum(), "better than vectors of zeros"


def test_cut_into_chunks_rows_are_solved_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    dense = (rng.random((50, 30)) < 0.3).astype(np.float32)
    others, facts = rng.normal(size=(30, 5)).astype(np.float32), FactorSettings(width=5)
    whole = solve_rows(sparse.csr_matrix(dense), others, facts)
    parts = [solve_rows(sparse.csr_matrix(dense[[row]]), others, facts) for row in range(50)]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-3)
    assert not solve_rows(sparse.csr_matrix((3, 30), dtype=np.float32), others, facts).any()
