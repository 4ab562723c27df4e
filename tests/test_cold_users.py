"""Newcomers: a source that decides everything is believed, one that says nothing is not, nothing of theirs leaks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from crossrec.cold_users import (
    ALONE,
    COLD_METHODS,
    PRIORS,
    TERMS,
    ColdStudy,
    Portraits,
    Told,
    cold_start,
    draw_portraits,
    rehearsal,
    weigh_terms,
    without,
)
from crossrec.core import CrossrecError
from crossrec.cross_domain import newcomers
from crossrec.domain import Domain
from crossrec.model import Candidates
from crossrec.recommend import Recommender
from crossrec.sequences import Log, Sequences
from crossrec.significance import paired_gain
from crossrec.split import cold_users, split_domains
from crossrec.verdict import per_user
from tests.toy import BRIEF, SMALL, WORDS, language_model

GROUPS, SHARED = 3, 240
THERE, HERE = 12, 9  # items of each taste in the source, in the target


def shop(letter: str, tastes: np.ndarray, each: int, seed: int, timed: bool = False, first: int = 0) -> Domain:
    """Everybody takes five different items in random order: of the own taste, or of all, some far more popular."""
    rng, words = np.random.default_rng(seed), WORDS.split()
    share = 1 / np.arange(1, GROUPS * each + 1)
    rows = [
        rng.choice(GROUPS * each, 5, replace=False, p=share / share.sum())
        if taste < 0
        else taste * each + rng.permutation(each)[:5]
        for taste in tastes
    ]
    users = np.repeat([f"u{first + i:03}" for i in range(len(tastes))], 5)
    table = pd.DataFrame({"user_id": users, "item_id": [f"{letter}{item}" for item in np.concatenate(rows)]})
    if timed:
        days = np.concatenate([np.sort(rng.uniform(0, 365, 5)) for _ in tastes])
        table["timestamp"] = 1_700_000_000 + (days * 86_400).astype(int)
    else:
        table["position"] = table.groupby("user_id").cumcount()
    n = GROUPS * each
    begin = 11 * (letter == "b")  # no two titles of the two shops are the same
    titles = [f"{words[(i * 5 + begin) % 24]} {words[(i * 7 + i // 24 + begin) % 24]} {letter}" for i in range(n)]
    items = pd.DataFrame({"item_id": [f"{letter}{i}" for i in range(n)], "title": titles})
    return Domain.from_frames(table, items, f"shop {letter}").clean()


def tastes(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, GROUPS, SHARED)


@pytest.fixture(scope="module")
def recommenders(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Recommender]:
    """Fitted on the source, by whether it knows the time."""
    model = str(language_model(tmp_path_factory.mktemp("model") / "tiny"))
    settings = replace(BRIEF, most_steps=10, least_steps=5)
    shops = {timed: shop("a", tastes(0), THERE, 1, timed) for timed in (False, True)}
    return {timed: Recommender(model, SMALL, settings).fit(source) for timed, source in shops.items()}


@pytest.fixture(scope="module")
def plain(recommenders: dict[bool, Recommender]) -> Recommender:
    return recommenders[False]


@pytest.fixture(scope="module")
def telling(plain: Recommender) -> ColdStudy:
    """The same tastes in both shops."""
    return cold_start(plain, shop("b", tastes(0), HERE, 2), seeds=(0, 1))


def silent_shop(seed: int) -> Domain:
    """What people take has nothing to do with what they took in the source."""
    return shop("b", np.full(SHARED, -1), HERE, seed + 20)


def test_a_source_that_decides_everything_is_believed(telling: ColdStudy) -> None:
    means = {name: value.mean() for name, value in per_user(telling.results).items()}
    assert set(means) == set(COLD_METHODS)
    assert means["transfer"] > 1.5 * means["popularity"] and means["transfer"] > means["text"]
    assert telling.verdicts[0].outcome == "helps" and telling.verdict.startswith("Cold users: transfer helps")
    taste = tastes(0)[[int(user[1:]) for user in telling.test_users]]
    ids = telling.items["item_id"].to_numpy()[telling.lists["transfer"][:, :5]]
    of_taste = np.vectorize(lambda name: int(name[1:]) // HERE)(ids) == taste[:, None]
    assert of_taste.mean() > 0.95


def test_everything_that_a_reader_needs_is_there(telling: ColdStudy) -> None:
    protocol = telling.protocol
    assert protocol["shared"] == SHARED and protocol["asked"] == len(telling.cold) == len(telling.test_users)
    assert protocol["rehearsed"] == SHARED - len(telling.cold)
    assert {result.regime for result in telling.results} == {"cold-user"}
    assert len(telling.results) == 2 * len(COLD_METHODS)
    assert list(telling.table().columns) == ["cold users"] and set(telling.table().index) == set(COLD_METHODS)
    assert telling.verdicts[0].best_target_only in ALONE and set(telling.weighings) == {0, 1}
    assert all(weighing.open and weighing.weights["portraits"] > 0 for weighing in telling.weighings.values())
    assert [label.get_text() for label in telling.plot().axes[0].get_yticklabels()][-1] in ("transfer", "cmf", "emcdr")
    scores = telling.best.score(telling.cold.beside(telling.best.n_items).histories, telling.extra)
    np.testing.assert_array_equal(np.argsort(-scores, kind="stable")[:, :1], telling.lists["transfer"][:, :1])


@pytest.mark.parametrize("seed", range(8))
def test_a_source_that_says_nothing_does_no_harm(plain: Recommender, seed: int) -> None:
    study = cold_start(plain, silent_shop(seed), seeds=(seed,), methods=[*ALONE, "transfer"])
    values = per_user(study.results)
    gain = paired_gain(values["popularity"], values["transfer"])
    assert gain.high >= 0 and gain.gain > -0.02
    assert values["popularity"].mean() > 1.2 * values["random"].mean()
    assert study.verdicts[0].outcome == "helps" or any("no claim" in note for note in study.notes)
    if not study.weighings[seed].open:
        assert sum(weight > 0 for weight in study.weighings[seed].weights.values()) == 1


@pytest.mark.parametrize("timed", [False, True])
def test_nothing_that_newcomers_took_is_learned_from(recommenders: dict[bool, Recommender], timed: bool) -> None:
    target, recommender = shop("b", tastes(0), HERE, 2, timed), recommenders[timed]
    if timed:  # learned in advance from nothing later, or the recommender would learn anew in every study
        recommender = Recommender(recommender.encoder_name, SMALL, recommender.settings)
        recommender.fit(recommenders[timed].source, split_domains(recommenders[timed].source, target)[0])
    before = cold_start(recommender, target, seeds=(0,), methods=[*ALONE, "transfer"])
    sequences = target.sequences
    theirs = np.isin(sequences.rows, before.cold.users)
    if timed:  # whoever was not there before the cut would be another newcomer
        theirs &= sequences.times < split_domains(recommender.source, target)[1].cut
    items = sequences.items.copy()
    items[theirs] = np.random.default_rng(0).integers(0, target.n_items, int(theirs.sum()))
    log = Log(target.users, Sequences(sequences.offsets, items, sequences.times), target.log.when)
    changed = Domain(target.name, log, target.items, target.account)
    after = cold_start(recommender, changed, seeds=(0,), methods=[*ALONE, "transfer"])
    assert theirs.any() and (items[theirs] != sequences.items[theirs]).any()
    np.testing.assert_array_equal(before.cold.users, after.cold.users)
    assert before.weighings == after.weighings
    told = before.cold.beside(target.n_items).histories
    np.testing.assert_array_equal(before.best.score(told, before.extra), after.best.score(told, after.extra))
    for name in before.lists:
        np.testing.assert_array_equal(before.lists[name], after.lists[name])


def test_the_same_again(plain: Recommender, telling: ColdStudy) -> None:
    again = cold_start(plain, shop("b", tastes(0), HERE, 2), seeds=(0, 1))
    for one, other in zip(telling.results, again.results, strict=True):
        assert one.method == other.method and one.seed == other.seed
        np.testing.assert_array_equal(one.ranks, other.ranks)
    assert telling.weighings == again.weighings


def test_who_rehearses_is_not_tested_and_plays_earlier(recommenders: dict[bool, Recommender]) -> None:
    source, target = recommenders[True].source, shop("b", tastes(0), HERE, 2, timed=True)
    learned, split = cold_users(source, target, share=0.5)
    played = rehearsal(source, target, learned, split)
    assert len(played) and not np.isin(played.users, split.cold.users).any()
    assert (played.source_histories.times < split.valid_cut).all()
    sequences = target.sequences
    for user, item in zip(played.users, played.targets, strict=True):
        row = slice(*sequences.offsets[user : user + 2])
        window = (sequences.times[row] >= split.valid_cut) & (sequences.times[row] < split.cut)
        assert item == sequences.items[row][window][0]
    view = without(split, played.users)
    assert not np.isin(view.users, np.concatenate([played.users, split.cold.users])).any()
    assert not np.isin(view.valid.users, played.users).any()


@pytest.mark.parametrize("others", [0, 80])
def test_with_nobody_to_rehearse_text_and_popularity_remain(plain: Recommender, others: int) -> None:
    target = shop("b", np.append(tastes(0), np.full(others, -1)), HERE, 2)
    study = cold_start(plain, target, share=1.0, seeds=(0,), methods=["random", "transfer"])
    assert study.protocol["rehearsed"] == 0 and {result.target_users for result in study.results} == {others}
    weights = study.weighings[0].weights
    assert set(weights) == set(TERMS) and not any(weights[name] for name in ("portraits", "mapped", "sequence"))
    assert bool(weights["popularity"] + weights["popularity_recent"]) is bool(others) and (others or weights["text"])
    assert any("text alone" in note for note in study.notes)


def few_common(plain: Recommender, common: int) -> Domain:
    return shop("b", tastes(0), HERE, 2, first=SHARED - common)


@pytest.mark.parametrize("common", [0, 1, 19])
def test_too_few_shared_users_are_refused(plain: Recommender, common: int) -> None:
    with pytest.raises(CrossrecError, match=f"found {common} shared users; expected 20 or more"):
        cold_start(plain, few_common(plain, common))


def test_just_enough_shared_users_are_not(plain: Recommender) -> None:
    study = cold_start(plain, few_common(plain, 20), seeds=(0,), methods=["popularity", "transfer"])
    assert len(study.cold) == 10 and study.protocol["rehearsed"] == 10
    assert study.weighings[0].weights["portraits"] == 0


def test_bad_input_is_refused(plain: Recommender, telling: ColdStudy, tmp_path: Path) -> None:
    target = shop("b", tastes(0), HERE, 2)
    with pytest.raises(CrossrecError, match="learned nothing"):
        cold_start(Recommender(plain.encoder_name), target)
    with pytest.raises(CrossrecError, match="found a DataFrame; expected a Domain"):
        cold_start(plain, telling.items)
    with pytest.raises(CrossrecError, match="without its source's interactions"):
        cold_start(Recommender.load(plain.save(tmp_path / "saved")), target)
    for wrong in (0.0, 1.5, -1, "a", True):
        with pytest.raises(CrossrecError, match="share"):
            cold_start(plain, target, share=wrong)
    for seeds in ((), (0.5,), (True,), 3):
        with pytest.raises(CrossrecError, match="whole numbers"):
            cold_start(plain, target, seeds=seeds)
    for methods in ("transfer", ["transfer"], ["popularity"], ["popularity", "transfer", "item_knn"]):
        with pytest.raises(CrossrecError, match="methods"):
            cold_start(plain, target, methods=methods)


def test_portraits_are_of_the_source_alone() -> None:
    lists = [[0, 0, 1], [2], [], [1, 3], *[[i % 4] for i in range(30)]]
    rows, everybody = Sequences.from_lists(lists), np.arange(len(lists))
    tastes = Portraits(rows, 4, (everybody, everybody), directions=3).tastes
    drawn = draw_portraits(rows, tastes)
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1)[[0, 3]], 1, atol=1e-5)
    assert not drawn[2].any() and drawn.dtype == np.float32
    for row in (0, 1, 3):  # the order of a history makes no difference, nor who else is drawn
        alone = draw_portraits(Sequences.from_lists([lists[row][::-1]]), tastes)
        np.testing.assert_allclose(alone[0], drawn[row], atol=1e-5)


def test_names_lead_to_the_right_histories(telling: ColdStudy) -> None:
    told, asked = Told(telling.best, telling.cold, telling.extra), newcomers(telling.cold).histories
    order = np.random.default_rng(0).permutation(len(telling.cold))
    np.testing.assert_allclose(told.score(asked)[order], told.score(asked.take(order)), atol=1e-5)


def test_the_gate_stays_closed_for_noise() -> None:
    rng, n = np.random.default_rng(0), len(TERMS)
    opened = 0
    for _ in range(20):
        table = rng.normal(size=(n, 60, 40)).astype(np.float32)
        table[0] = np.linspace(1, 0, 40)
        target = np.minimum(rng.geometric(0.15, 60) - 1, 39)
        own, real = table[:, np.arange(60), target], np.arange(40) != target[:, None]
        turns = [Candidates(table[:, at], own[:, at], real[at]) for at in np.array_split(np.arange(60), 5)]
        found = weigh_terms(turns, dict.fromkeys(TERMS, 1.0))
        opened += found.open
        assert found.open or sum(weight > 0 for weight in found.weights.values()) == 1
    assert opened <= 5
    assert all(list(prior) == list(TERMS) for prior in PRIORS)
