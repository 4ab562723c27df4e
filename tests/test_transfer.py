"""Moving from a source to a target: plans, rehearsal, and the choice between two beginnings."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrec import terms
from crossrec.baselines import Popularity
from crossrec.core import CrossrecError
from crossrec.domain import Sequences
from crossrec.metrics import ndcg_at
from crossrec.model import Candidates, collect_candidates, merged
from crossrec.ranking import Scorer, rank_queries
from crossrec.significance import paired_gain
from crossrec.split import Split, View
from crossrec.terms import DEFAULT_WEIGHTS, ENOUGH_QUERIES, UNSEEN_WEIGHTS, catalogue_weights
from crossrec.train import SequenceScorer
from crossrec.transfer import REHEARSED, Hybrid, Knowledge, hold_out_topics, learn, only_items, rehearse
from tests.toy import BRIEF, SMALL, clock, walks


@pytest.fixture(scope="module")
def knowledge() -> Knowledge:
    return learn(walks(60, 1200), clock(60), SMALL, BRIEF)


def quality(method: Hybrid, split: Split, users: int | str) -> float:
    return float(ndcg_at(rank_queries(method.fit(split.view(users)), split.test), 10).mean())


# Plans


def test_nearest_plan_is_nearest_in_ratio() -> None:
    plans = {n: {"text": float(n)} for n in REHEARSED}
    known = Knowledge({}, 1.0, plans)
    found = {users: known.plan(users)["text"] for users in (0, 1, 16, 31, 33, 64, 127, 129, 256, 10**6)}
    assert found == {0: 0, 1: 16, 16: 16, 31: 16, 33: 64, 64: 64, 127: 64, 129: 256, 256: 256, 10**6: 256}


def test_zero_shot_and_few_shot_do_not_borrow_plans() -> None:
    only_few = Knowledge({}, 1.0, {16: {"words": 2.0}})
    only_zero = Knowledge({}, 1.0, {0: {"words": 2.0}})
    assert only_few.plan(0) == UNSEEN_WEIGHTS
    assert only_zero.plan(16) == DEFAULT_WEIGHTS


# Rehearsal

rows_of_items = st.lists(st.lists(st.integers(0, 9), max_size=8), max_size=6)


@given(rows=rows_of_items, keep=st.lists(st.booleans(), min_size=10, max_size=10))
@settings(max_examples=100, deadline=None)
def test_only_items_equals_a_plain_loop(rows: list[list[int]], keep: list[bool]) -> None:
    number = {item: place for place, item in enumerate(item for item in range(10) if keep[item])}
    expected = [[number[item] for item in row if keep[item]] for row in rows]
    found = only_items(Sequences.from_lists(rows), np.array(keep))
    assert [found[i].tolist() for i in range(len(found))] == expected


def test_only_items_keeps_times_with_their_items() -> None:
    told = Sequences(np.array([0, 3, 4]), np.array([2, 0, 1, 2], np.int32), np.array([10, 20, 30, 40]))
    found = only_items(told, np.array([True, False, True]))
    assert found.items.tolist() == [1, 0, 1] and found.times.tolist() == [10, 20, 40]


@given(seed=st.integers(0, 1000), share=st.sampled_from([0.1, 0.3, 0.5]))
@settings(max_examples=20, deadline=None)
def test_topics_are_held_out_whole_and_about_a_share(seed: int, share: float) -> None:
    centres = np.eye(8, 12)
    topic = np.arange(160) % 8
    vectors = centres[topic] + np.random.default_rng(seed).normal(scale=0.01, size=(160, 12))
    held = hold_out_topics(vectors, share, seed=seed)
    assert held.shape == (160,) and held.dtype == bool and 0 < held.sum() < 160
    assert all(held[topic == t].all() or not held[topic == t].any() for t in range(8))
    np.testing.assert_array_equal(held, hold_out_topics(vectors, share, seed=seed))


def test_every_budget_is_rehearsed_that_the_source_can_play() -> None:
    few = rehearse(walks(60, 150), clock(60), SMALL, replace(BRIEF, most_steps=60))
    assert 0 in few and set(few) < set(REHEARSED) and 256 not in few
    terms = {"text", "hubness", "sequence", "item_knn", "popularity"}  # and no words, since these items have no names
    assert all(set(plan) == terms and plan["text"] == 1.0 for plan in few.values())


def test_rates_must_be_told_for_every_term() -> None:
    with pytest.raises(CrossrecError, match=r"decays \{'text': 0.5\}; expected one for each of text, item_knn"):
        rehearse(walks(20, 80), clock(20), SMALL, BRIEF, decays={"text": 0.5})


def test_words_and_hubs_weigh_what_the_names_of_the_catalogue_can_tell() -> None:
    said = {length: catalogue_weights(["word " * length] * 3) for length in (0, 1, 2, 3, 5, 7, 20)}
    assert said[0] == catalogue_weights([]) == {"words": 0.0, "hubness": 0.0}
    assert said[7] == said[20] == catalogue_weights(None) == {"words": 0.5, "hubness": 0.6}
    assert said[2] == pytest.approx({"words": 1 / 7, "hubness": 1.2 / 7})
    assert catalogue_weights(["one", "one two three four five six seven eight nine"]) == pytest.approx(said[5])


@pytest.mark.parametrize("names", [None, ["a kind"] * 40, ["a much longer name of one item here"] * 40])
def test_a_plan_does_not_speak_about_the_names_of_a_target(names: list | None, knowledge: Knowledge) -> None:
    """Of words and hubs only the target's own names tell, until its users do."""
    wrong = replace(knowledge, plans={0: knowledge.plans[0] | {"words": 9.0, "hubness": 9.0}})
    hybrid = Hybrid(clock(40, 0.4), wrong, SMALL, BRIEF, names=names).fit(walks(40, 60).view(0))
    own = catalogue_weights(names)
    assert {name: hybrid.blend.weights[name] for name in own if name in hybrid.blend.terms} == {
        name: weight for name, weight in own.items() if name in hybrid.blend.terms
    }
    assert hybrid.blend.weights["popularity"] == knowledge.plans[0]["popularity"]


def test_large_source_rehearses_every_budget(knowledge: Knowledge) -> None:
    assert tuple(knowledge.plans) == REHEARSED
    assert not any("ids" in name for name in knowledge.state)


def test_nobody_is_recommended_by_a_sequence_model_that_did_not_prove_itself(knowledge: Knowledge) -> None:
    assert knowledge.plans[0]["sequence"] > 0.1  # on the clock there is something to learn
    split, rng = walks(60, 300), np.random.default_rng(0)
    shuffled = replace(split.train, items=rng.permutation(split.train.items))  # and here there is nothing
    plans = rehearse(replace(split, train=shuffled), clock(60), SMALL, replace(BRIEF, most_steps=60))
    assert plans[0]["sequence"] == 0 and plans[16]["sequence"] > 0


@pytest.mark.filterwarnings("ignore")
def test_source_whose_items_all_read_the_same_is_not_rehearsed() -> None:
    assert rehearse(walks(20, 80), np.ones((20, 12), np.float32), SMALL, BRIEF) == {}


def test_what_could_not_be_rehearsed_is_not_trusted_where_nobody_can_object() -> None:
    small = learn(walks(20, 30), clock(20), SMALL, replace(BRIEF, most_steps=20))
    assert small.plan(0)["sequence"] == 0 and small.plan(16)["sequence"] > 0
    hybrid = Hybrid(clock(40, 0.4), small, SMALL, BRIEF).fit(walks(40, 60).view(0))
    assert hybrid.blend.weights["sequence"] == 0 and not hybrid.carried


# Beginning in the target


def test_zero_shot_sees_no_interaction() -> None:
    split = walks(40, 100)
    view = split.view(0)
    assert view.regime == "zero-shot" and not len(view.train.items) and not len(view.valid) and not len(view.users)
    assert ndcg_at(rank_queries(Popularity().fit(view), split.test), 10).sum() == 0


def test_source_that_is_everything_helps_most_with_no_target_user(knowledge: Knowledge) -> None:
    target, vectors = walks(40, 300, seed=1), clock(40, 0.4)
    alone = quality(Hybrid(vectors, None, SMALL, BRIEF), target, 0)
    assert quality(Hybrid(vectors, knowledge, SMALL, BRIEF), target, 0) > alone + 0.1


def test_misleading_source_costs_little_once_the_target_speaks(knowledge: Knowledge) -> None:
    target, vectors = walks(40, 300, direction=-1, seed=1), clock(40, 0.4)
    alone = quality(Hybrid(vectors, None, SMALL, BRIEF), target, "all")
    assert quality(Hybrid(vectors, knowledge, SMALL, BRIEF), target, "all") > alone - 0.03


def test_source_with_shuffled_texts_never_hurts() -> None:
    shuffled = clock(60)[np.random.default_rng(7).permutation(60)]  # its items are called by each other's names
    misled, vectors, target = learn(walks(60, 1200), shuffled, SMALL, BRIEF), clock(40, 0.4), walks(40, 400, seed=1)
    for users in (0, 16, 64, "all"):
        found: dict[bool, list[np.ndarray]] = {True: [], False: []}
        for seed, carried in product((0, 1), found):
            method = Hybrid(vectors, misled if carried else None, SMALL, replace(BRIEF, seed=seed))
            ranks = rank_queries(method.fit(target.view(users, seed)), target.test)
            found[carried].append(ndcg_at(ranks, 10))
        assert paired_gain(np.stack(found[False]), np.stack(found[True])).high >= 0, f"{users} users"


def test_below_enough_queries_both_beginnings_weigh_the_same(knowledge: Knowledge) -> None:
    hybrid = Hybrid(clock(40), knowledge, SMALL, BRIEF).fit(walks(40, 100).view(ENOUGH_QUERIES - 1))
    weights = hybrid.blend.weights
    assert hybrid.carried and weights["anew"] == weights["sequence"] > 0


class Told(Scorer):
    """Says what comes next, or talks nonsense."""

    def __init__(self, right: bool, items: int = 40) -> None:
        self.right, self.n_items = right, items

    def fit(self, view: View) -> Told:
        return self

    def score(self, histories: Sequences) -> np.ndarray:
        ahead = (np.arange(self.n_items) - histories.items[histories.offsets[1:] - 1][:, None]) % self.n_items
        chance = np.random.default_rng(0).normal(size=ahead.shape)
        return (-np.abs(ahead - 1) if self.right else chance).astype(np.float32)


@pytest.mark.parametrize(
    ("users", "carried", "anew", "share"),
    [
        (300, False, True, 1.0),  # what the source taught is wrong here
        (300, True, False, 0.0),  # the target alone finds nothing
        (300, True, True, 0.5),  # nothing speaks against either
        (600, True, True, 1.0),  # with plenty of queries carrying over has to prove itself
        (600, True, False, None),  # and does, alone or with the two begun anew, of which one is no nonsense
        (40, False, True, 0.5),  # below enough nobody decides
    ],
)
def test_the_target_may_do_without_one_beginning(
    users: int, carried: bool, anew: bool, share: float | None, knowledge: Knowledge
) -> None:
    def learner(_: View, carry: bool) -> Scorer:
        return Told(carried if carry else anew)

    view = walks(40, users, seed=1, length=5).view("all")
    hybrid = Hybrid(clock(40, 0.4), knowledge, SMALL, BRIEF, learner=learner).fit(view)
    weights = hybrid.blend.weights
    begun_anew = weights["anew"] + weights.get("second", 0.0)
    found = begun_anew / (begun_anew + weights["sequence"])
    assert found == pytest.approx(share) if share is not None else found < 1
    assert hybrid.carried == (share is None or share < 1)


def stirred(split: Split, share: float) -> Split:
    """The same people, of whose items a share is chance, and the first of the catalogue the likeliest."""
    rng, popularity = np.random.default_rng(0), 1 / np.arange(1, split.n_items + 1)

    def stir(items: np.ndarray) -> np.ndarray:
        others = rng.choice(split.n_items, len(items), p=popularity / popularity.sum())
        return np.where(rng.random(len(items)) < share, others, items).astype(np.int32)

    valid, test = (replace(asked, targets=stir(asked.targets)) for asked in (split.valid, split.test))
    return replace(split, train=replace(split.train, items=stir(split.train.items)), valid=valid, test=test)


def test_source_of_no_use_changes_nothing_where_people_are_plenty(
    knowledge: Knowledge, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, target = clock(100, 0.4), stirred(walks(100, 600, seed=1, length=6), 0.6)
    few = partial(collect_candidates, each=3)  # so few that the weights depend on who proposed them
    monkeypatch.setattr(terms, "collect_candidates", few)

    def learner(view: View, carry: bool) -> Scorer:
        return Told(False, 100) if carry else SequenceScorer(vectors, SMALL, BRIEF).fit(view)

    alone = Hybrid(vectors, None, SMALL, BRIEF).fit(target.view("all"))
    moved = Hybrid(vectors, knowledge, SMALL, BRIEF, learner=learner).fit(target.view("all"))
    assert "sequence" in moved.blend.terms and not moved.carried
    assert moved.decays == alone.decays and moved.backward == alone.backward
    assert moved.valid_ndcg == alone.valid_ndcg
    asked = target.test.histories
    np.testing.assert_array_equal(moved.score(asked), alone.score(asked))


def test_merged_candidates_are_a_sum_of_two_terms() -> None:
    rng = np.random.default_rng(0)
    others, target = rng.normal(size=(3, 5, 7)).astype(np.float32), rng.normal(size=(3, 5)).astype(np.float32)
    apart = Candidates(others, target, np.ones((5, 7), bool))
    together = merged(apart, {1: 0.75, 2: 0.25})
    assert together.others.shape == (2, 5, 7)
    for weight in (0.5, 2.0):
        assert together.ndcg(np.array([1, weight])) == apart.ndcg(np.array([1, 0.75 * weight, 0.25 * weight]))


def test_frozen_model_never_begins_anew(knowledge: Knowledge) -> None:
    hybrid = Hybrid(clock(60), knowledge, SMALL, BRIEF, frozen=True).fit(walks(60, 100).view("all"))
    assert hybrid.carried and hybrid.blend.terms["sequence"].knows
    np.testing.assert_array_equal(
        hybrid.blend.terms["sequence"].net.state_dict()["project.weight"], knowledge.state["project.weight"]
    )
