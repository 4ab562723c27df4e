"""Ranks and lists against the plainest possible reference, chunks that change nothing, memory, and answers refused."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from crossrec import ranking
from crossrec.core import CrossrecError
from crossrec.metrics import target_ranks
from crossrec.ranking import Scorer, check_ranks, rank_queries, top_k
from crossrec.sequences import Sequences
from crossrec.split import Queries, View


class Table(Scorer):
    """Scores written out, one row a user."""

    def __init__(self, scores: np.ndarray) -> None:
        self.table, self.n_items = scores, scores.shape[1]

    def fit(self, view: View) -> "Table":
        return self

    def score(self, histories: Sequences) -> np.ndarray:
        return self.table[histories.users]


class Product(Table):
    """The same scores as inner products of whole numbers, which no order of adding can change."""

    def __init__(self, users: np.ndarray, items: np.ndarray) -> None:
        super().__init__((users @ items.T).astype(np.float32))
        self.vectors = users.astype(np.float32), items.astype(np.float32)

    def towers(self, histories: Sequences) -> tuple[np.ndarray, np.ndarray]:
        return self.vectors[0][histories.users], self.vectors[1]

    def score(self, histories: Sequences) -> np.ndarray:
        raise AssertionError("towers are there to be used")


class Numbered(Sequences):
    """Histories that know which user each row belongs to, also when rows are taken."""

    users: np.ndarray

    def take(self, rows: np.ndarray) -> "Numbered":
        part = super().take(rows)
        return numbered(part, self.users[rows])


def numbered(histories: Sequences, users: np.ndarray | None = None) -> Numbered:
    made = Numbered(histories.offsets, histories.items)
    object.__setattr__(made, "users", np.arange(len(histories)) if users is None else users)
    return made


def naive_rank(scores: list[float], target: int, history: list[int], allow_repeats: bool) -> int:
    """Sort the candidates, the target behind its equals, and look where it stands."""
    met = set() if allow_repeats else set(history) - {target}
    candidates = [item for item in range(len(scores)) if item not in met]
    ordered = sorted(candidates, key=lambda item: (-scores[item], item == target))
    return ordered.index(target) + 1


def naive_list(scores: list[float], k: int, history: list[int], allow_repeats: bool) -> list[int]:
    met = set() if allow_repeats else set(history)
    candidates = [item for item in range(len(scores)) if item not in met and scores[item] > -np.inf]
    return (sorted(candidates, key=lambda item: (-scores[item], item)) + [-1] * k)[:k]


@st.composite
def worlds(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, list[list[int]], list[int]]:
    """Towers of small whole numbers, so that ties abound; histories with repeats, empty ones, targets inside them."""
    n, n_items, width = draw(st.integers(1, 7)), draw(st.integers(1, 12)), draw(st.integers(1, 3))
    numbers = st.integers(-2, 2)
    vector = st.lists(numbers, min_size=width, max_size=width)
    users, items = (np.array(draw(st.lists(vector, min_size=size, max_size=size))) for size in (n, n_items))
    item = st.integers(0, n_items - 1)
    histories = draw(st.lists(st.lists(item, max_size=9), min_size=n, max_size=n))
    return users, items, histories, draw(st.lists(item, min_size=n, max_size=n))


@pytest.fixture(params=[(16, 1), (16, 3), (1024, 5), (1024, 2**15)], ids=str)
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of one user, of a few, of everybody."""
    rows, slab = request.param
    monkeypatch.setattr(ranking, "_SLAB", slab)
    monkeypatch.setattr(ranking, "_rows", lambda cells, n_items: 1 if rows == 16 else 4)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(worlds(), st.booleans(), st.integers(1, 15))
def test_ranks_and_lists_are_those_of_sorting(chunks: None, world: tuple, allow_repeats: bool, k: int) -> None:
    users, items, histories, targets = world
    fused, rows = Product(users, items), numbered(Sequences.from_lists(histories))
    queries = Queries(np.arange(len(rows)), rows, np.array(targets, np.int32))
    table = (users @ items.T).astype(np.float32)
    wanted = [naive_rank(*case, allow_repeats) for case in zip(table.tolist(), targets, histories, strict=True)]
    listed = [naive_list(row, k, met, allow_repeats) for row, met in zip(table.tolist(), histories, strict=True)]
    for scorer in (fused, Table(table), Table(table.astype(np.float64)), Table(table.astype(np.float16))):
        ranks = rank_queries(scorer, queries, allow_repeats)
        assert ranks.dtype == np.int64 and ranks.tolist() == wanted
        found, values = top_k(scorer, rows, k, allow_repeats)
        assert found.dtype == np.int32 and found.tolist() == listed
        there = found >= 0
        assert (values[there] == np.take_along_axis(table, np.maximum(found, 0), 1)[there]).all()
        assert np.isneginf(values[~there]).all()
    mask = None if allow_repeats else rows
    np.testing.assert_array_equal(target_ranks(table, queries.targets, mask), wanted)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 7, 100]))
def test_items_with_minus_infinity_are_last_and_never_listed(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    table = rng.integers(0, 3, (6, 9)).astype(np.float32)
    table[rng.random(table.shape) < 0.4] = -np.inf
    histories = [rng.integers(0, 9, rng.integers(0, 5)).tolist() for _ in range(6)]
    targets = rng.integers(0, 9, 6).astype(np.int32)
    rows = numbered(Sequences.from_lists(histories))
    wanted = [naive_rank(*case, False) for case in zip(table.tolist(), targets.tolist(), histories, strict=True)]
    assert rank_queries(Table(table), Queries(np.arange(6), rows, targets)).tolist() == wanted
    listed = [naive_list(row, k, met, False) for row, met in zip(table.tolist(), histories, strict=True)]
    assert top_k(Table(table), rows, k)[0].tolist() == listed


def drawn(n: int, n_items: int = 400, width: int = 8) -> tuple[Product, Queries]:
    """Real-valued towers and histories of three items."""
    rng = np.random.default_rng(0)
    scorer = Product(rng.normal(size=(n, width)), rng.normal(size=(n_items, width)))
    met = rng.integers(0, n_items, (n, 3))
    rows = numbered(Sequences(np.arange(0, 3 * n + 1, 3), met.ravel().astype(np.int32)))
    return scorer, Queries(np.arange(n), rows, rng.integers(0, n_items, n).astype(np.int32))


def test_items_with_equal_vectors_tie_exactly_however_many_there_are() -> None:
    rng = np.random.default_rng(3)
    vectors = np.repeat(rng.normal(size=(50, 64)), 7, axis=0)[rng.permutation(350)]
    scorer = Product(rng.normal(size=(90, 64)), vectors)
    scorer.vectors = scorer.vectors[0], vectors.astype(np.float32)
    rows = numbered(Sequences.from_lists([[]] * 90))
    ranks = rank_queries(scorer, Queries(np.arange(90), rows, rng.integers(0, 350, 90).astype(np.int32)))
    assert (ranks % 7 == 0).all(), "each target is the last of seven equals"


@pytest.mark.parametrize("size", [1, 17, 64, 300])
def test_real_scores_rank_alike_in_any_chunk(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, queries = drawn(300)
    table = scorer.vectors[0].astype(float) @ scorer.vectors[1].T.astype(float)
    wanted = target_ranks(table, queries.targets, queries.histories)
    monkeypatch.setattr(ranking, "_rows", lambda cells, n_items: size)
    # neighbours in rank may change places where their scores differ by rounding alone
    assert np.abs(rank_queries(scorer, queries) - wanted).max() <= 1
    assert (rank_queries(scorer, queries) == wanted).mean() > 0.99


class Largest(TorchDispatchMode):
    """The largest tensor that any operation gives back."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = 0

    def __torch_dispatch__(self, func: object, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.cells = max(self.cells, tensor.numel())
        return out


@pytest.mark.parametrize("ask", [rank_queries, lambda s, q: top_k(s, q.histories, 10)], ids=["ranks", "lists"])
def test_memory_is_set_by_the_chunk_and_not_by_the_users(ask: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "_rows", lambda cells, n_items: 64)
    sizes = []
    for n in (500, 4000):
        scorer, queries = drawn(n, width=4)
        with Largest() as largest:
            ask(scorer, queries)
        sizes.append(largest.cells)
    assert sizes == [64 * 400] * 2, "nothing larger than a chunk of scores, and no [n, n_items] array"


def test_a_method_without_towers_is_asked_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Counting(Table):
        def score(self, histories: Sequences) -> np.ndarray:
            asked.append(len(histories))
            return super().score(histories)

    monkeypatch.setattr(ranking, "_rows", lambda cells, n_items: 64)
    scorer, queries = drawn(500)
    rank_queries(Counting(scorer.table), queries)
    assert max(asked) == 64 and sum(asked) == 500


def test_chunks_shrink_as_catalogues_grow() -> None:
    assert [ranking._rows(2**22, n_items) for n_items in (0, 100, 2**14, 10**9)] == [1024, 1024, 256, 16]


def test_what_a_method_returns_is_left_as_it_was() -> None:
    scorer, queries = drawn(40)
    plain = Table(scorer.table)
    kept = plain.table.copy()
    plain.table.flags.writeable = False
    rank_queries(plain, queries), top_k(plain, queries.histories, 5)
    np.testing.assert_array_equal(plain.table, kept)
    users, items = (part.copy() for part in scorer.vectors)
    rank_queries(scorer, queries), top_k(scorer, queries.histories, 5)
    assert (scorer.vectors[0] == users).all() and (scorer.vectors[1] == items).all()


def test_another_score_switches_inherited_towers_off() -> None:
    scorer, queries = drawn(30)

    class Mended(Product):
        def score(self, histories: Sequences) -> np.ndarray:
            return -self.table[histories.users]

    mended = Mended(*scorer.vectors)
    np.testing.assert_array_equal(rank_queries(mended, queries), rank_queries(Table(-mended.table), queries))
    scorer.score = lambda histories: -scorer.table[histories.users]
    np.testing.assert_array_equal(rank_queries(scorer, queries), rank_queries(Table(-scorer.table), queries))


def test_towers_may_be_none_and_tensors() -> None:
    scorer, queries = drawn(30)

    class Sometimes(Table):
        def towers(self, histories: Sequences) -> None:
            return None

    class Tensors(Product):
        def towers(self, histories: Sequences) -> tuple[torch.Tensor, torch.Tensor]:
            users, items = super().towers(histories)
            return torch.from_numpy(users).requires_grad_(), torch.from_numpy(items).requires_grad_()

    class Withdrawn(Table):
        @property
        def towers(self) -> object:
            raise AttributeError("no towers after all")

    ranks = rank_queries(scorer, queries)
    for class_ in (Withdrawn, Sometimes):
        assert (rank_queries(class_(scorer.table), queries) == rank_queries(Table(scorer.table), queries)).all()
    np.testing.assert_array_equal(rank_queries(Tensors(*scorer.vectors), queries), ranks)


@pytest.mark.parametrize("n_items", [1, 5])
def test_nobody_and_a_catalogue_of_one(n_items: int) -> None:
    nobody = Queries(np.zeros(0, np.int64), numbered(Sequences.from_lists([])), np.zeros(0, np.int32))
    assert rank_queries(Table(np.zeros((0, n_items), np.float32)), nobody).shape == (0,)
    assert top_k(Table(np.zeros((0, n_items), np.float32)), nobody.histories, 3)[0].shape == (0, 3)
    one = Queries(np.zeros(1, np.int64), numbered(Sequences.from_lists([[0]])), np.zeros(1, np.int32))
    assert rank_queries(Table(np.ones((1, 1), np.float32)), one).tolist() == [1]


def broken() -> Iterator[tuple[str, object, str]]:
    """Answers that cannot be ranked, and what must be said about them."""
    fine = np.random.default_rng(0).normal(size=(20, 400)).astype(np.float32)
    for value, words in ((np.nan, "NaN in row 7.*divided by its norm"), (np.inf, "infinite.*row 7.*division")):
        spoiled = fine.copy()
        spoiled[7, 5] = value
        yield f"{value}", spoiled, words
    yield "one row short", fine[:-1], r"shape \(19, 400\).*one row for each of 20"
    yield "one column short", fine[:, :-1], r"shape \(20, 399\).*each of 400 items"
    yield "flat", fine[0], r"shape \(400,\).*Return \[n, n_items\]"
    yield "whole numbers", fine.astype(np.int64), "type int64.*float32"
    yield "objects", fine.astype(object), "type object.*float32"
    yield "a list", fine.tolist(), "a list as scores"
    yield "nothing", None, "a NoneType as scores"


@pytest.mark.parametrize(("scores", "words"), [pytest.param(*rest, id=name) for name, *rest in broken()])
def test_answers_that_cannot_be_ranked_are_refused(scores: object, words: str) -> None:
    class Broken(Table):
        def score(self, histories: Sequences) -> object:
            return scores

    _, queries = drawn(20)
    scorer = Broken(np.zeros((20, 400)))
    with pytest.raises(CrossrecError, match=words) as caught:
        rank_queries(scorer, queries)
    assert "Broken" in str(caught.value)
    with pytest.raises(CrossrecError, match=words):
        top_k(scorer, queries.histories, 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda u, i: (np.where(u == u[3, 2], np.nan, u), i), "NaN in the towers"),
        (lambda u, i: (u, i * np.inf), "NaN in the towers|products of up to inf"),
        (lambda u, i: (u * np.float32(1e25), i * np.float32(1e25)), "products of up to"),
        (lambda u, i: (u[:-1], i), r"one vector a history"),
        (lambda u, i: (u[:, :-1], i), r"\[20, d\]"),
        (lambda u, i: (u, i[:-1]), "400 items"),
        (lambda u, i: (u.astype(int), i.astype(int)), "float32"),
    ],
)
def test_towers_that_cannot_be_multiplied_are_refused(change: object, words: str) -> None:
    class Broken(Product):
        def towers(self, histories: Sequences) -> tuple[np.ndarray, np.ndarray]:
            return change(*self.vectors)

    scorer, queries = drawn(20)
    with pytest.raises(CrossrecError, match=words) as caught:
        rank_queries(Broken(*scorer.vectors), queries)
    assert "Broken" in str(caught.value)


def test_items_outside_the_catalogue_are_refused() -> None:
    scorer, queries = drawn(20)
    with pytest.raises(CrossrecError, match="targets with items from .* to 400.*0 to 399"):
        rank_queries(scorer, replace(queries, targets=np.r_[queries.targets[:-1], 400].astype(np.int32)))
    queries.histories.items[4] = -1
    with pytest.raises(CrossrecError, match="histories with items from -1"):
        rank_queries(scorer, queries)


@pytest.mark.parametrize("allow_repeats", [False, True])
def test_silence_is_refused_unless_it_is_right(allow_repeats: bool) -> None:
    scorer, queries = drawn(20)
    silent = Table(np.full((20, 400), 0.25, np.float32))
    ranks = rank_queries(silent, queries, allow_repeats)
    for blind in (False, True):
        with pytest.raises(CrossrecError, match="constant scores: each of 20 targets.*vectors of zeros"):
            check_ranks(ranks, queries, silent, blind, allow_repeats)
        check_ranks(rank_queries(scorer, queries, allow_repeats), queries, scorer, blind, allow_repeats)
    silent.needs_interactions = True
    check_ranks(ranks, queries, silent, True, allow_repeats)
    with pytest.raises(CrossrecError, match="constant scores"):
        check_ranks(ranks, queries, silent, False, allow_repeats)


def test_two_unlucky_users_are_no_proof() -> None:
    scorer, queries = drawn(20)
    two = queries.take(np.arange(2))
    few = Queries(two.users, numbered(Sequences.from_lists([[], []])), np.zeros(2, np.int32))
    last = Table(np.array([[0.0, 1.0, 2.0]] * 2, np.float32))
    check_ranks(rank_queries(last, few), few, last)
