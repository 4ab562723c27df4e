"""What methods are handed in each regime, and what is refused: leaks, duplicates, results that cannot be true."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrec.core import CrossrecError
from crossrec.domain import Sequences
from crossrec.guards import check_questions, check_result, check_texts, seen
from crossrec.methods import ALL_METHODS, REGISTRY, Given, Method, Shared, build
from crossrec.ranking import Scorer
from crossrec.split import Queries, Split, View
from crossrec.strategies import SourceData
from crossrec.study import compute
from crossrec.transfer import Knowledge, learn
from crossrec.verdict import Result
from tests.toy import BRIEF, SMALL, clock, poisoned, walks


@pytest.fixture(scope="module")
def knowledge() -> Knowledge:
    return learn(walks(60, 150), clock(60), SMALL, replace(BRIEF, most_steps=20))


# What methods are handed


def given_for(split: Split, knowledge: Knowledge | None, seed: int = 0) -> Given:
    people = np.arange(30)
    source = walks(25, 60, seed=9)
    texts = [f"item {i} of {split.n_items}" for i in range(split.n_items)]
    shared = Shared(source.train, 25, (people, people))
    settings = replace(BRIEF, most_steps=30, epochs=2, seed=seed)
    told = SourceData(clock(25), source.train, (people, people))
    return Given(clock(split.n_items, 0.4), texts, knowledge, SMALL, settings, False, shared, texts, source=told)


@pytest.mark.parametrize("users", [0, 16])
@pytest.mark.parametrize("name", ALL_METHODS)
def test_no_method_feels_what_is_forbidden(name: str, users: int, knowledge: Knowledge) -> None:
    if REGISTRY[name].needs:
        pytest.importorskip(REGISTRY[name].needs[0])
    split = walks(20, 80, seed=3)
    visible = split.view(users, seed=1)
    other = poisoned(split, visible.users)
    assert (other.train.items != split.train.items).mean() > 0.5
    asked = Sequences.from_lists([[1, 2, 4], [7], [19, 0, 1, 3]])
    clean, dirty = (
        build(name, given_for(split, knowledge)).fit(view).score(asked) for view in (visible, other.view(users, seed=1))
    )
    np.testing.assert_allclose(clean, dirty, atol=1e-4)  # sums of floats depend on where memory lies


@pytest.mark.parametrize("users", [0, 1, 16, "all"])
def test_views_hold_what_the_regime_allows(users: int | str) -> None:
    split = walks(20, 80, seed=3)
    found = seen(split.view(users, seed=2), split)
    assert found["interactions"] == len(split.view(users, 2).train.items)
    assert found["target_users"] == (80 if users == "all" else users)
    if users == 0:
        assert found["interactions"] == found["validation"] == 0


@pytest.mark.parametrize("leak", ["another user", "a test item", "a validation question"])
def test_views_that_hold_more_are_refused(leak: str) -> None:
    split = walks(20, 80, seed=3)
    view = split.view(16)
    hidden = np.setdiff1d(np.arange(80), view.users)
    if leak == "another user":
        view = replace(view, train=split.train.take(np.append(view.users, hidden[:1])))
    elif leak == "a test item":
        view = replace(view, train=split.test.histories.take(view.users))
    else:
        view = replace(view, valid=split.valid)
    with pytest.raises(CrossrecError, match="16 target users, and nothing else"):
        seen(view, split)


# Guards


rows_of_items = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=6), min_size=1, max_size=6)


@given(rows=rows_of_items, data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_test_item_in_training_is_found(rows: list[list[int]], data: st.DataObject) -> None:
    targets = data.draw(st.lists(st.integers(0, 5), min_size=len(rows), max_size=len(rows)))
    cut = data.draw(st.integers(0, 3))
    train, who = Sequences.from_lists([row[:cut] for row in rows]), np.arange(len(rows))
    asked = Queries(who, Sequences.from_lists(rows), np.array(targets, np.int32))
    nobody = Queries(who[:0], asked.histories.take(who[:0]), asked.targets[:0])
    split = Split("by hand", 6, train, nobody, asked)
    names = np.array([f"user {i}" for i in who])
    guilty = [i for i in who if targets[i] in rows[i]]
    if guilty:
        with pytest.raises(CrossrecError, match=f"{len(guilty)} of {len(rows)} test items.*'user {guilty[0]}'"):
            check_questions(split, names)
        assert check_questions(split, names, allow=["test item in training"])
    else:
        check_questions(split, names)
    check_questions(split, names, allow_repeats=True)


class Planted(Scorer):
    """A method with something wrong."""

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def fit(self, view: View) -> "Planted":
        self.n_items = view.n_items
        return self

    def score(self, histories: Sequences) -> np.ndarray:
        n = len(histories)
        if self.fault == "wrong shape":
            return np.zeros(self.n_items, np.float32)
        if self.fault == "too few items":
            return np.random.default_rng(0).random((n, self.n_items - 5), np.float32)
        scores = np.zeros((n, self.n_items), np.float32)
        if self.fault == "NaN":
            scores[0, 3] = np.nan
        return scores


@pytest.mark.parametrize("fault", ["NaN", "wrong shape", "too few items", "constant scores"])
def test_broken_methods_are_named_with_their_budget(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.setitem(REGISTRY, "text", Method(lambda given: Planted(fault), "texts"))
    split = walks(40, 60)
    with pytest.raises(CrossrecError, match="text, 16 target users"):
        compute("text", given_for(split, None), split.view(16), split.test)


class Prophet(Planted):
    """Knows the step that everybody takes next."""

    def score(self, histories: Sequences) -> np.ndarray:
        scores = np.zeros((len(histories), self.n_items), np.float32)
        last = histories.items[histories.offsets[1:] - 1]
        scores[np.arange(len(last)), (last + 1) % self.n_items] = 1
        return scores


def test_a_prophet_is_refused_and_may_be_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REGISTRY, "text", Method(lambda given: Prophet(""), "texts"))
    split = walks(40, 60)
    last = split.test.histories.items[split.test.histories.offsets[1:] - 1]
    split = replace(split, test=replace(split.test, targets=((last + 1) % 40).astype(np.int32)))
    with pytest.raises(CrossrecError, match="too good: NDCG@10 of 1.000"):
        compute("text", given_for(split, None), split.view(16), split.test)
    part = compute("text", given_for(split, None), split.view(16), split.test, allow=["too good"])
    assert "Let through" in part.notes[0]


def test_a_tiny_catalogue_is_noted_and_not_refused() -> None:
    split = walks(15, 60)
    notes = check_result(Result("full", 60, "text", 0, np.ones(60, np.int64), 0, 0), split.test, 15)
    assert len(notes) == 1 and "can be chance" in notes[0]


def test_popularity_of_nobody_is_no_alarm() -> None:
    split = walks(40, 60)
    assert compute("popularity", given_for(split, None), split.view(0), split.test).notes == []


@pytest.mark.parametrize(("copies", "refused"), [(30, True), (2, False)])
def test_people_who_stand_there_twice(copies: int, refused: bool) -> None:
    split = walks(997, 100, seed=2)
    who = np.r_[np.arange(100), np.arange(copies)]
    test = replace(split.test.take(who), users=np.arange(len(who)))
    twice = replace(split, train=split.train.take(who), test=test, valid=split.valid.take(np.zeros(0, int)))
    names = np.array([f"user {i}" for i in range(len(who))])
    if refused:
        with pytest.raises(CrossrecError, match="duplicated user: 30 of 130 test users have exactly the history"):
            check_questions(twice, names)
        assert check_questions(twice, names, allow=["duplicated user"])
    else:
        assert check_questions(twice, names)[0].startswith("2 of 102 test users")


def test_texts_that_say_nothing() -> None:
    with pytest.raises(CrossrecError, match="40 items with the same text, 'same thing'"):
        check_texts(["same thing"] * 40)
    assert check_texts(["a", "b", "a", "c"]) == []
    assert check_texts(["a", "a", "a", "c"])[0].startswith("Only 2 of 4 item texts are distinct")
