"""Verdicts and break-even: planted gains and losses, words that say no more than the numbers, equal to plain loops."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrec.core import CrossrecError
from crossrec.methods import CROSS_DOMAIN
from crossrec.metrics import ndcg_at
from crossrec.verdict import Result, break_even, budget_name, judge, judge_all, per_user

# Verdicts


def results(users: int = 64, seed: int = 0, **ranks: np.ndarray) -> list[Result]:
    return [Result("few-shot", users, name, seed, np.asarray(values), 0.0, 0.0) for name, values in ranks.items()]


RANKS = np.random.default_rng(0).integers(2, 12, 300)


def test_planted_gain() -> None:
    verdict = judge(results(ease=RANKS, text=RANKS + 3, transfer=RANKS - 1))
    assert verdict.best_target_only == "ease" and verdict.gain > 0 and verdict.ci95[0] > 0 and verdict.p_value < 1e-3
    assert verdict.outcome == "helps" and not verdict.negative_transfer and "transfer helps" in verdict.text


def test_gain_over_a_method_that_knows_nobody_says_little() -> None:
    verdict = judge(results(0, popularity=RANKS + 90, transfer=RANKS))
    assert verdict.outcome == "helps" and "That says little: popularity found next to nothing." in verdict.text
    assert "says little" not in judge(results(0, text=RANKS + 3, popularity=RANKS + 90, transfer=RANKS)).text


def test_planted_loss() -> None:
    verdict = judge(results(ease=RANKS, text=RANKS + 3, transfer=RANKS + 1))
    assert verdict.negative_transfer is True and verdict.ci95[1] < 0 and verdict.outcome == "hurts"
    assert verdict.text.startswith("64 target users: transfer hurts (negative transfer)")


def test_no_difference_says_what_could_have_been_seen() -> None:
    verdict = judge(results(ease=RANKS, transfer=np.random.default_rng(1).permutation(RANKS)))
    assert not verdict.negative_transfer and verdict.ci95[0] < 0 < verdict.ci95[1] and verdict.p_value > 0.05
    assert "no clear difference" in verdict.text and f"about {verdict.users_needed:,}" in verdict.text
    assert verdict.users_needed > 300 and verdict.smallest_gain > 0.05 * verdict.ndcg_best
    assert f"below {verdict.smallest_gain:.4f} could easily be missed" in verdict.text


def test_equal_methods_are_not_certain_to_be_equal() -> None:
    for seeds in (1, 3):
        verdict = judge([r for s in range(seeds) for r in results(seed=s, ease=RANKS, transfer=RANKS)])
        assert verdict.gain == 0 and verdict.p_value == 1 and verdict.ci95[0] < 0 < verdict.ci95[1]
        assert verdict.smallest_gain > verdict.ci95[1] and "below 0.0000" not in verdict.text
        assert verdict.users_needed > 50


def study_with_luck(luck: list[int], shift: int = 0) -> list[Result]:
    """One seed each; transfer's items stand as many places higher as the seed is lucky."""
    rng = np.random.default_rng(1)
    own = RANKS + rng.integers(-1, 2, 300)
    ranks = [np.maximum(own - up - shift, 1) for up in luck]
    return [r for s, ours in enumerate(ranks) for r in results(seed=s, ease=RANKS, transfer=ours)]


def test_what_could_have_been_seen_counts_the_seeds() -> None:
    verdict = judge(study_with_luck([-2, 3]))
    (low, high), text = verdict.ci95, verdict.text
    assert verdict.smallest_gain > (high - low) / 2 > 0.3 and "Only 1 of 2 seeds agree" in text
    assert "300 test users and 2 seeds" in text and verdict.users_needed is None
    assert "one of 5% would take more seeds" in text or "hardly any gain" in text
    steady = judge(study_with_luck([0, 0, 0]))
    assert (steady.ci95[1] - steady.ci95[0]) / 2 < steady.smallest_gain < 0.05 and steady.users_needed < 3000


@given(st.lists(st.integers(-2, 2), min_size=1, max_size=4), st.integers(-1, 1))
@settings(max_examples=40, deadline=None)
def test_no_sentence_promises_more_than_its_interval(luck: list[int], shift: int) -> None:
    verdict = judge(study_with_luck(luck, shift))
    half, most = (verdict.ci95[1] - verdict.ci95[0]) / 2, 1 - verdict.ndcg_best  # beyond `most` no number is claimed
    assert verdict.smallest_gain > min(0.97 * half, most)
    seen = 0.05 * verdict.ndcg_best >= verdict.smallest_gain
    if verdict.outcome == "no clear difference":
        assert ("would probably have been seen" in verdict.text) == seen


def test_gain_is_that_of_the_means() -> None:
    verdict = judge(results(ease=RANKS, text=RANKS + 3, transfer=RANKS - 1))
    means = {name: ndcg_at(ranks, 10).mean() for name, ranks in (("ease", RANKS), ("transfer", RANKS - 1))}
    assert verdict.gain == pytest.approx(means["transfer"] - means["ease"], abs=1e-12)
    assert (verdict.ndcg, verdict.ndcg_best) == (pytest.approx(means["transfer"]), pytest.approx(means["ease"]))


def test_the_same_users_twice_are_no_further_evidence() -> None:
    pair = results(ease=RANKS, transfer=RANKS - 1)
    again = results(seed=1, ease=RANKS, transfer=RANKS - 1)
    assert per_user([*pair, *again])["ease"].shape == (2, 300)
    once, twice = judge(pair), judge([*pair, *again])
    assert twice.gain == pytest.approx(once.gain)
    widths = [verdict.ci95[1] - verdict.ci95[0] for verdict in (once, twice)]
    assert widths[1] > 0.9 * widths[0]


def test_seeds_that_disagree_are_counted() -> None:
    up = results(ease=RANKS, transfer=np.maximum(RANKS - 3, 1))
    down = results(seed=1, ease=RANKS, transfer=RANKS + 1)
    verdict = judge([*up, *down])
    assert (verdict.seeds, verdict.seeds_agree) == (2, 1) and "Only 1 of 2 seeds agree" in verdict.text


@pytest.mark.parametrize("names", [["ease", "text"], ["transfer"], ["transfer", "cmf"]])
def test_one_side_missing(names: list[str]) -> None:
    with pytest.raises(CrossrecError, match="transfer and another"):
        judge(results(**dict.fromkeys(names, RANKS)))


@pytest.mark.parametrize("rival", CROSS_DOMAIN)
def test_a_method_that_saw_the_source_is_no_opponent(rival: str) -> None:
    verdict = judge(results(ease=RANKS, transfer=RANKS - 1, **{rival: RANKS - RANKS + 1}))
    assert verdict.best_target_only == "ease" and verdict.opponents == 1


def test_p_values_are_corrected_for_the_number_of_budgets() -> None:
    rng = np.random.default_rng(3)
    some = np.where(rng.random(300) < 0.1, RANKS - 1, RANKS)  # a gain that is barely seen
    budgets = [results(n, ease=RANKS, transfer=some) for n in (1, 2, 4, 8, 16)]
    alone, together = judge(budgets[0]), judge_all(budgets)
    assert alone.p_holm == alone.p_value
    assert all(verdict.p_holm == pytest.approx(min(1, 5 * alone.p_value)) for verdict in together)


def test_verdicts_are_plain_data() -> None:
    for ranks in (RANKS, RANKS - 1, np.full(300, 50)):
        assert json.loads(json.dumps(asdict(judge(results(ease=RANKS, transfer=ranks))), allow_nan=False))
    nothing = judge(results(ease=RANKS + 50, transfer=RANKS))
    assert nothing.users_needed is None and nothing.outcome == "helps"
    assert json.dumps(asdict(nothing), allow_nan=False)
    everyone = judge(results(ease=np.full(300, 2), transfer=np.full(300, 1)))
    assert everyone.effect is None and json.dumps(asdict(everyone), allow_nan=False)


def test_budgets_in_words() -> None:
    found = [budget_name(*budget) for budget in (("zero-shot", 0), ("few-shot", 1), ("few-shot", 64), ("full", 1439))]
    assert found == ["No target user", "1 target user", "64 target users", "All 1,439 target users"]


# Break-even


def slow_crossing(gains: list[float], users: list[int]) -> float:
    """Walk back from the last budget to the first at which transfer is ahead."""
    for at in reversed(range(len(gains))):
        if gains[at] > 0:
            if at == len(gains) - 1:
                return np.inf
            share = gains[at] / (gains[at] - gains[at + 1])
            return np.expm1(np.log1p(users[at]) + share * (np.log1p(users[at + 1]) - np.log1p(users[at])))
    return 0.0


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_break_even_equals_a_plain_loop(data: st.DataObject) -> None:
    """With one test user, mean gains are that user's, and ranks 1 to 12 give every sign."""
    users = sorted(data.draw(st.sets(st.integers(0, 500), min_size=1, max_size=5)))
    ranks = st.lists(st.integers(1, 12), min_size=len(users), max_size=len(users))
    ours, theirs = data.draw(ranks), data.draw(ranks)
    budgets = [
        results(n, ease=np.array([b, b]), transfer=np.array([a, a]))
        for n, a, b in zip(users, ours, theirs, strict=True)
    ]
    gains = (ndcg_at(np.array(ours), 10) - ndcg_at(np.array(theirs), 10)).tolist()
    expected, found = slow_crossing(gains, users), break_even(budgets, draws=50)
    assert found.users == (None if np.isinf(expected) else int(np.ceil(expected - 1e-9)))
    assert found.low == found.high == found.users and found.most == users[-1]


def planted_curve(gains: dict[int, int]) -> list[list[Result]]:
    """Budgets at which transfer's items stand so many places higher than those of the best of two opponents."""
    rng, curve = np.random.default_rng(0), []
    for users, places in gains.items():
        base = rng.integers(8, 14, 400)
        noise = rng.integers(0, 3, 400) if places else np.ones(400, int)  # 0: the same rank for every user
        curve.append(results(users, text=base + 4, ease=base, transfer=base - places + noise - 1))
    return curve


@pytest.mark.parametrize(
    ("gains", "words"),
    [
        ({0: 6, 16: 4, 64: 2}, "still ahead with 64 target users"),
        ({0: -2, 16: -2, 64: -4}, "not ahead at any number"),
        ({0: 6, 16: 3, 64: -3, 256: -6}, "ahead up to about"),
        ({0: 6, 16: 3, 64: 0}, "fewer than 64 target users, the most that were tried, and not with all"),
    ],
)
def test_break_even_in_words(gains: dict[int, int], words: str) -> None:
    found = break_even(planted_curve(gains))
    assert words in found.text and found.most == max(gains)
    if found.users == found.most:
        assert found.users == found.low == found.high
    elif found.users:
        assert 16 <= found.low <= found.users <= found.high <= 64
    else:
        assert found.low == found.high == found.users


def test_break_even_is_against_the_best_at_each_budget() -> None:
    low, high = np.full(50, 5), np.full(50, 1)
    first, last = results(0, ease=high, text=low, transfer=low - 1), results(9, ease=low, text=high, transfer=low - 1)
    found = break_even([first, last])
    assert found.users == 0
