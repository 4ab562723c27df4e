"""The methods of a study and the study itself: every row there, nothing computed twice, all that a report needs."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from crossrec.core import CrossrecError
from crossrec.domain import Domain, Sequences
from crossrec.methods import (
    ALL_METHODS,
    CROSS_DOMAIN,
    METHODS,
    REGISTRY,
    TARGET_ONLY,
    Given,
    Shared,
    chosen,
    shared_users,
)
from crossrec.ranking import Scorer, rank_queries
from crossrec.split import Split, leave_one_out
from crossrec.study import Study, compute, transfer
from crossrec.transfer import Knowledge, learn
from crossrec.verdict import MOVED_METHODS, per_user
from tests.toy import BRIEF, SMALL, clock, poisoned, walks


@pytest.fixture(scope="module")
def knowledge() -> Knowledge:
    return learn(walks(60, 150), clock(60), SMALL, replace(BRIEF, most_steps=40))


# The methods


def test_names_are_told_apart() -> None:
    assert set(METHODS) <= set(ALL_METHODS) and set(TARGET_ONLY).isdisjoint({"transfer", *CROSS_DOMAIN})
    assert {*TARGET_ONLY, *CROSS_DOMAIN, *MOVED_METHODS, "transfer"} == set(ALL_METHODS)


def test_an_unknown_method_is_answered_with_the_names() -> None:
    with pytest.raises(CrossrecError, match="'transfre'.*item_knn.*text_scratch"):
        chosen(["ease", "transfre"])


def test_cross_domain_methods_need_shared_users() -> None:
    rows = Sequences.from_lists([[0, 1]] * 25)
    shared = Shared(rows, 2, (np.arange(25), np.arange(25)))
    assert not set(chosen(METHODS)[0]) & set(CROSS_DOMAIN)
    assert set(chosen(METHODS, shared)[0]) == {*METHODS, "merged_item_knn", "cmf"}
    with pytest.raises(CrossrecError, match="method cmf.*shared users"):
        chosen(["cmf", "transfer"])
    names, notes = chosen("all")
    assert not set(names) & set(CROSS_DOMAIN) and sum("shared users" in note for note in notes) == len(CROSS_DOMAIN)


@pytest.mark.parametrize(("common", "enough"), [(19, False), (20, True)])
def test_users_are_shared_by_id(common: int, enough: bool) -> None:
    ours, theirs = [f"u{i:02}" for i in range(40)], [f"u{i:02}" for i in range(40 - common, 80 - common)]
    source, target = (SimpleNamespace(users=np.array(users, object), n_items=3) for users in (ours, theirs))
    learned = walks(3, 40)
    found = shared_users(source, target, learned)
    assert (found is not None) is enough
    if found:
        assert [ours[i] for i in found.users[0]] == [theirs[i] for i in found.users[1]] and found.train is learned.train


def test_a_missing_package_is_named_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    away = REGISTRY["ease"]._replace(needs=("no_such_package", "nothing"))
    monkeypatch.setitem(REGISTRY, "ease", away)
    with pytest.raises(CrossrecError, match=r"crossrec\[nothing\]"):
        chosen(["ease", "transfer"])
    names, notes = chosen("all")
    assert "ease" not in names and any("crossrec[nothing]" in note for note in notes)


# The study


class ToyRecommender:
    """What `transfer` needs of a recommender, with vectors from the circle instead of a language model."""

    allow_repeats, model, settings, encoder_name = False, SMALL, replace(BRIEF, most_steps=40, epochs=4), "circle"
    source_facts = {"name": "source", "users": 700, "items": 60, "interactions": 6300}
    strategy, also = "auto", ()
    source = tune = tuned = None  # as of a loaded one: its interactions are not there

    def __init__(self, knowledge: Knowledge, split: Split | None = None) -> None:
        self.knowledge, self.split = knowledge, split

    def prepared(self, target: Domain, split: str | None) -> tuple["ToyRecommender", Split]:
        self.vectors = clock(target.n_items, 0.4)
        return self, self.split or leave_one_out(target)

    def holding(self, scorer: Scorer) -> SimpleNamespace:
        return SimpleNamespace(scorer=scorer)


def toy_target(users: int = 90, items: int = 30) -> Domain:
    rng = np.random.default_rng(2)
    rows = (rng.integers(0, items, (users, 1)) + np.cumsum(rng.integers(1, 3, (users, 8)), 1)) % items
    table = pd.DataFrame({
        "user_id": np.repeat([f"u{i:03}" for i in range(users)], 8),
        "item_id": [f"i{i:02}" for i in rows.ravel()],
        "position": np.tile(np.arange(8), users),
    })  # fmt: skip
    titles = [f"item {i} of shelf {i // 4 + 10}" for i in range(items)]
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
    for key in [(0, name) for name in METHODS if name != "random"] + [(90, "ease"), (90, "text")]:
        np.testing.assert_array_equal(ranks[(*key, 0)], ranks[(*key, 1)])
    assert (ranks[16, "popularity", 0] != ranks[16, "popularity", 1]).any(), "another seed shows other users"
    assert (ranks[0, "random", 0] != ranks[0, "random", 1]).any(), "another seed shuffles anew"
    np.testing.assert_array_equal(ranks[0, "random", 0], ranks[90, "random", 0])
    for name in ("text", "text_mean", "bm25", "words"):  # 16 users are too few to choose settings by
        np.testing.assert_array_equal(ranks[0, name, 0], ranks[16, name, 1])


@pytest.mark.parametrize("name", METHODS)
def test_reused_numbers_are_those_that_would_be_computed(study: Study, knowledge: Knowledge, name: str) -> None:
    split, toy = leave_one_out(toy_target()), ToyRecommender(knowledge)
    texts = study.items["title"].tolist()
    made_from = Given(study.vectors, texts, knowledge, toy.model, replace(toy.settings, seed=1), names=texts)
    for users, regime in ((0, "zero-shot"), (16, "few-shot"), ("all", "full")):
        found = next(r for r in study.results if (r.regime, r.method, r.seed) == (regime, name, 1))
        part = compute(name, made_from, split.view(users, 1), split.test)
        np.testing.assert_array_equal(found.ranks, part.result.ranks)


def test_the_best_recommender_has_seen_all_users(study: Study) -> None:
    assert study.best is study.models["full", 90] and set(study.models) == set(study.budgets)
    ranks = rank_queries(study.best.scorer, study.test)
    last = next(r for r in study.at(("full", 90)) if r.method == "transfer" and r.seed == 0)
    np.testing.assert_array_equal(ranks, last.ranks)
    zero = next(r for r in study.at(("zero-shot", 0)) if r.method == "transfer" and r.seed == 0)
    np.testing.assert_array_equal(rank_queries(study.models["zero-shot", 0].scorer, study.test), zero.ranks)


def test_tables_and_words(study: Study) -> None:
    table = study.table()
    assert table.index.tolist() == list(METHODS) and table.columns.tolist() == ["0", "16", "all"]
    assert table.map(lambda cell: len(cell.split()) == 3).all(axis=None)
    mean = per_user(study.at(("full", 90)))["ease"].mean()
    assert float(study.short_table().loc["ease", "all"]) == pytest.approx(mean, abs=5e-5)
    assert [line.partition(":")[0] for line in study.verdict.splitlines()] == [
        "No target user", "16 target users", "All 90 target users",
    ]  # fmt: skip
    assert study.significance().index.tolist() == list(METHODS)
    assert study.break_even.text and study.plot().axes[0].get_legend() is not None


def test_lists_are_the_ten_best_of_the_largest_budget(study: Study) -> None:
    assert set(study.lists) == set(METHODS) and set(study.calibration) <= set(METHODS)
    for name, items in study.lists.items():
        assert items.shape == (90, 10) and items.dtype == np.int32
        result = next(r for r in study.at(("full", 90)) if r.method == name and r.seed == 0)
        hit = (items == study.test.targets[:, None]).any(1)
        assert hit[result.ranks < 10].all() and not hit[result.ranks > 30].any()
        met = study.test.histories
        assert not (items[met.rows] == met.items[:, None]).any(), "nothing that the user has met"


def test_what_is_needed_to_repeat_it_is_written_down(study: Study) -> None:
    protocol = json.loads(json.dumps(study.protocol, allow_nan=False))
    assert {"numpy", "torch", "transformers", "python", "crossrec"} <= set(protocol["versions"])
    assert len(protocol["data"]["target"]) == 64 and protocol["data"]["source"] is None
    assert protocol["seeds"] == [0, 1] and protocol["methods"] == list(METHODS) and protocol["seconds"] > 0
    assert [row["interactions"] for row in protocol["visible"]] == [0, 16 * 6, 90 * 6]
    assert len(study.train) == 90 and study.vectors.shape == (30, 12) and len(study.items) == 30
    assert study.known_in_source is None and study.test_users.shape == (90,)


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ({"methods": ["transfre"]}, "transfre"),
        ({"methods": []}, "none"),
        ({"methods": "some"}, "no list of names"),
        ({"methods": ["auto"]}, "strategy auto is called transfer"),
        ({"shots": []}, "0 budgets"),
        ({"seeds": []}, "0 seeds"),
        ({"seeds": 3}, r"seeds=\[3\]"),
        ({"shots": "all"}, r"shots=\['all'\]"),
        ({"shots": [0, 91]}, "91 target users"),
        ({"shots": ["everybody"]}, "everybody"),
        ({"allow": ["too god"]}, "too god"),
        ({"resume": 3}, "resume=3"),
        ({"methods": ["transfer", "cmf"], "shots": [0]}, "shared users"),
    ],
)
def test_a_study_that_cannot_be_done_is_refused(knowledge: Knowledge, wrong: dict, found: str) -> None:
    with pytest.raises(CrossrecError, match=found):
        transfer(ToyRecommender(knowledge), toy_target(), **wrong)


def test_zero_shot_does_not_feel_the_target(knowledge: Knowledge) -> None:
    """Half of the users are asked. What the others did may be anything: with nobody visible it makes no difference."""
    target = toy_target()
    split = leave_one_out(target)
    asked = np.arange(0, 90, 2)
    split = replace(split, test=split.test.take(asked))
    found = {}
    for name, one in {"clean": split, "dirty": poisoned(split, asked)}.items():
        allow = ["test item in training"]  # nonsense repeats itself now and then
        done = transfer(ToyRecommender(knowledge, one), target, [0, "all"], [0], allow=allow)
        found[name] = {(r.regime, r.method): r.ranks for r in done.results}
    for (regime, method), ranks in found["clean"].items():
        same = np.array_equal(ranks, found["dirty"][regime, method])
        if regime == "zero-shot" or REGISTRY[method].reads == "nothing":
            assert same, method
        elif REGISTRY[method].reads != "texts":
            assert not same, f"{method} was to learn from what the others did"
