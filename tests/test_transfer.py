"""Moving from a source to a target: plans, rehearsal, the choice between two beginnings, the study and its verdicts."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrec.baselines import Popularity, rank_queries
from crossrec.core import CrossrecError
from crossrec.domain import Domain, Sequences
from crossrec.metrics import ndcg_at
from crossrec.model import ModelSettings
from crossrec.split import Queries, Split, leave_one_out
from crossrec.train import TrainSettings
from crossrec.transfer import (
    DEFAULT_WEIGHTS,
    ENOUGH_QUERIES,
    METHODS,
    REHEARSED,
    UNSEEN_WEIGHTS,
    Hybrid,
    Knowledge,
    Plan,
    Result,
    Study,
    budget_name,
    hold_out_topics,
    judge,
    learn,
    only_items,
    per_user,
    rehearse,
    transfer,
)

SMALL = ModelSettings(width=24, max_length=8, dropout=0.1)
BRIEF = TrainSettings(epochs=60, most_steps=600, least_steps=20, positions=512, rate=5e-3)


def clock(items: int, shift: float = 0.0) -> np.ndarray:
    """Text vectors of items that stand on a circle: alike where they are near, in either direction."""
    angle = 2 * np.pi * (np.arange(items) + shift) / items
    vectors = np.stack([wave(k * angle) * np.exp(-0.15 * k) for k in range(1, 7) for wave in (np.cos, np.sin)], 1)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def walks(items: int, users: int, direction: int = 1, seed: int = 0, length: int = 9) -> Split:
    """Everybody walks the same way round the circle; which way only behaviour can tell."""
    rng = np.random.default_rng(seed)
    steps = np.cumsum(rng.integers(1, 3, (users, length)), 1)
    rows = ((rng.integers(0, items, (users, 1)) + direction * steps) % items).astype(np.int32)
    everything, who = Sequences(np.arange(0, rows.size + 1, length), rows.ravel()), np.arange(users)
    valid, test = (Queries(who, everything.drop_last(back), rows[:, -back]) for back in (2, 1))
    return Split("leave_one_out", items, everything.drop_last(2), valid, test)


@pytest.fixture(scope="module")
def knowledge() -> Knowledge:
    return learn(walks(60, 1200), clock(60), SMALL, BRIEF)


def quality(method: Hybrid, split: Split, users: int | str) -> float:
    return float(ndcg_at(rank_queries(method.fit(split.view(users)), split.test), 10).mean())


# Plans


def test_nearest_plan_is_nearest_in_ratio() -> None:
    plans = {n: Plan(True, {"text": float(n)}) for n in REHEARSED}
    known = Knowledge({}, 1.0, plans)
    found = {users: known.plan(users).weights["text"] for users in (0, 1, 16, 31, 33, 64, 127, 129, 256, 10**6)}
    assert found == {0: 0, 1: 16, 16: 16, 31: 16, 33: 64, 64: 64, 127: 64, 129: 256, 256: 256, 10**6: 256}


def test_zero_shot_and_few_shot_do_not_borrow_plans() -> None:
    only_few = Knowledge({}, 1.0, {16: Plan(False, {"text": 2.0})})
    only_zero = Knowledge({}, 1.0, {0: Plan(False, {"text": 2.0})})
    assert only_few.plan(0) == Plan(True, UNSEEN_WEIGHTS)
    assert only_zero.plan(16) == Plan(True, DEFAULT_WEIGHTS)


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
    assert few[0].carry, "with no target user there is nothing to begin anew with"
    assert all(set(plan.weights) == set(DEFAULT_WEIGHTS) and plan.weights["text"] == 1.0 for plan in few.values())


def test_large_source_rehearses_every_budget(knowledge: Knowledge) -> None:
    assert tuple(knowledge.plans) == REHEARSED
    assert not any("ids" in name for name in knowledge.state)


@pytest.mark.filterwarnings("ignore")
def test_source_whose_items_all_read_the_same_is_not_rehearsed() -> None:
    assert rehearse(walks(20, 80), np.ones((20, 12), np.float32), SMALL, BRIEF) == {}


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


@pytest.mark.parametrize(("carried", "anew"), [(0.3, 0.2), (0.2, 0.3)])
def test_the_better_beginning_on_validation_is_kept(
    monkeypatch: pytest.MonkeyPatch, knowledge: Knowledge, carried: float, anew: float
) -> None:
    tried = []

    def begun(hybrid: Hybrid, view: object, plan: Plan, shared: object) -> tuple[str, bool, float]:
        tried.append(plan.carry)
        return f"carry {plan.carry}", plan.carry, carried if plan.carry else anew

    monkeypatch.setattr(sys.modules["crossrec.transfer"], "_begun", begun)
    hybrid = Hybrid(clock(40), knowledge, SMALL, BRIEF).fit(walks(40, 100).view("all"))
    assert tried == [True, False]
    assert hybrid.carried == (carried > anew) and hybrid.valid_ndcg == max(carried, anew)
    assert hybrid.blend == f"carry {carried > anew}"


@pytest.mark.parametrize("carry", [True, False])
def test_with_few_queries_the_plan_decides(carry: bool, knowledge: Knowledge) -> None:
    planned = Knowledge(knowledge.state, knowledge.reach, {16: Plan(carry, DEFAULT_WEIGHTS)})
    view = walks(40, 100).view(ENOUGH_QUERIES - 1)
    assert Hybrid(clock(40), planned, SMALL, BRIEF).fit(view).carried is carry


def test_frozen_model_never_begins_anew(knowledge: Knowledge) -> None:
    planned = Knowledge(knowledge.state, knowledge.reach, {64: Plan(False, DEFAULT_WEIGHTS)})
    hybrid = Hybrid(clock(60), planned, SMALL, BRIEF, frozen=True).fit(walks(60, 100).view("all"))
    assert hybrid.carried and hybrid.blend.terms["sequence"].knows
    np.testing.assert_array_equal(
        hybrid.blend.terms["sequence"].net.state_dict()["project.weight"], knowledge.state["project.weight"]
    )


# Verdicts


def results(**ranks: np.ndarray) -> list[Result]:
    return [Result("few-shot", 64, name, 0, np.asarray(values), 0.0, 0.0) for name, values in ranks.items()]


RANKS = np.random.default_rng(0).integers(2, 12, 300)


def test_planted_gain() -> None:
    verdict = judge(results(ease=RANKS, text=RANKS + 3, transfer=RANKS - 1))
    assert verdict.best_target_only == "ease" and verdict.gain > 0 and verdict.ci95[0] > 0 and verdict.p_value < 1e-6
    assert not verdict.negative_transfer and "transfer helps" in verdict.text


def test_planted_loss() -> None:
    verdict = judge(results(ease=RANKS, text=RANKS + 3, transfer=RANKS + 1))
    assert verdict.negative_transfer is True and verdict.ci95[1] < 0
    assert verdict.text.startswith("64 target users: transfer hurts (negative transfer)")


def test_no_difference() -> None:
    verdict = judge(results(ease=RANKS, transfer=np.random.default_rng(1).permutation(RANKS)))
    assert not verdict.negative_transfer and verdict.ci95[0] < 0 < verdict.ci95[1] and verdict.p_value > 0.05
    assert "no clear difference" in verdict.text


def test_seeds_are_averaged_before_users_are_compared() -> None:
    pair = results(ease=RANKS, transfer=RANKS - 1)
    again = [Result(r.regime, r.target_users, r.method, 1, r.ranks, 0.0, 0.0) for r in pair]
    assert per_user([*pair, *again])["ease"].shape == (2, 300)
    assert judge([*pair, *again]) == judge(pair)  # the same users twice are no further evidence


@pytest.mark.parametrize("names", [["ease", "text"], ["transfer"]])
def test_one_side_missing(names: list[str]) -> None:
    with pytest.raises(CrossrecError, match="transfer and another"):
        judge(results(**dict.fromkeys(names, RANKS)))


def test_budgets_in_words() -> None:
    found = [budget_name(*budget) for budget in (("zero-shot", 0), ("few-shot", 1), ("few-shot", 64), ("full", 1439))]
    assert found == ["No target user", "1 target user", "64 target users", "All 1,439 target users"]


# The study


class ToyRecommender:
    """What `transfer` needs of a recommender, with vectors from the circle instead of a language model."""

    allow_repeats, model, settings, encoder_name = False, SMALL, BRIEF, "circle"
    source_facts = {"name": "source", "users": 700, "items": 60, "interactions": 6300}
    source = None  # as of a loaded one: its interactions are not there

    def __init__(self, knowledge: Knowledge) -> None:
        self.knowledge = knowledge

    def prepared(self, target: Domain, split: str | None) -> tuple["ToyRecommender", Split]:
        self.vectors = clock(target.n_items, 0.4)
        return self, leave_one_out(target)

    def holding(self, scorer: Hybrid | None) -> SimpleNamespace:
        return SimpleNamespace(scorer=scorer)


def toy_target(users: int = 90, items: int = 30) -> Domain:
    rng = np.random.default_rng(2)
    rows = (rng.integers(0, items, (users, 1)) + np.cumsum(rng.integers(1, 3, (users, 8)), 1)) % items
    table = pd.DataFrame({
        "user_id": np.repeat([f"u{i:03}" for i in range(users)], 8),
        "item_id": [f"i{i:02}" for i in rows.ravel()],
        "position": np.tile(np.arange(8), users),
    })  # fmt: skip
    titles = [f"item {i}" for i in range(items)]
    items_table = pd.DataFrame({"item_id": [f"i{i:02}" for i in range(items)], "title": titles})
    return Domain.from_frames(table, items_table, "toy").clean()


@pytest.fixture(scope="module")
def study(knowledge: Knowledge) -> Study:
    return transfer(ToyRecommender(knowledge), toy_target(), shots=("all", 16, 0, 16), seeds=(0, 1))


def test_every_method_budget_and_seed_has_its_row(study: Study) -> None:
    budgets = [("zero-shot", 0), ("few-shot", 16), ("full", 90)]
    assert study.budgets == budgets and study.protocol["shots"] == [0, 16, "all"], "each once, rising"
    rows = [(r.regime, r.target_users, r.method, r.seed) for r in study.results]
    expected = {(*budget, method, seed) for budget in budgets for method in METHODS for seed in (0, 1)}
    assert len(rows) == len(expected) and set(rows) == expected
    assert all(len(r.ranks) == len(study.test) == 90 and r.ranks.min() >= 1 for r in study.results)


def test_seeds_share_what_does_not_differ(study: Study) -> None:
    ranks = {(r.target_users, r.method, r.seed): r.ranks for r in study.results}
    for key in [(0, name) for name in METHODS] + [(90, "ease"), (90, "text")]:
        np.testing.assert_array_equal(ranks[(*key, 0)], ranks[(*key, 1)])
    assert (ranks[16, "popularity", 0] != ranks[16, "popularity", 1]).any(), "another seed shows other users"


def test_the_best_recommender_has_seen_all_users(study: Study) -> None:
    assert study.best is study.models["full", 90] and set(study.models) == set(study.budgets)
    ranks = rank_queries(study.best.scorer, study.test)
    last = next(r for r in study.at(("full", 90)) if r.method == "transfer" and r.seed == 0)
    np.testing.assert_array_equal(ranks, last.ranks)


def test_tables_and_words(study: Study) -> None:
    table = study.table()
    assert table.index.tolist() == list(METHODS) and table.columns.tolist() == ["0", "16", "all"]
    assert table.map(lambda cell: len(cell.split()) == 3).all(axis=None)
    mean = per_user(study.at(("full", 90)))["ease"].mean()
    assert float(study.short_table().loc["ease", "all"]) == pytest.approx(mean, abs=5e-5)
    assert [line.partition(":")[0] for line in study.verdict.splitlines()] == [
        "No target user", "16 target users", "All 90 target users",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ({"methods": ["transfre"]}, "transfre"),
        ({"methods": []}, "none"),
        ({"shots": []}, "0 budgets"),
        ({"seeds": []}, "0 seeds"),
        ({"shots": [0, 91]}, "91 target users"),
        ({"shots": ["everybody"]}, "everybody"),
    ],
)
def test_a_study_that_cannot_be_done_is_refused(knowledge: Knowledge, wrong: dict, found: str) -> None:
    with pytest.raises(CrossrecError, match=found):
        transfer(ToyRecommender(knowledge), toy_target(), **wrong)
