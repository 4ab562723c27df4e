"""Intervals that hold what they promise, p-values that are fair, and both in agreement; by simulation where need be."""

import itertools
import math
import time
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from crossrec.core import CrossrecError
from crossrec.metrics import mrr, ndcg_at
from crossrec.significance import (
    PairedGain,
    _spread,
    _total,
    bootstrap_interval,
    cautions,
    compare_methods,
    effect_size,
    holm,
    paired_gain,
    paired_test,
    permutation_test,
    resampled_means,
    smallest_gain,
    users_moved,
    users_needed,
)

values = st.sampled_from([0.0, 0.0, 0.0, 0.0, 1.0, 0.5, 0.63, 0.29])
pairs = st.integers(2, 60).flatmap(lambda n: st.tuples(*[arrays(float, n, elements=values)] * 2))


class Shop:
    """Users whose log-ranks share a difficulty; NDCG@10 is zero for all but a share `hits` of them."""

    def __init__(self, seed: int, hits: float = 0.05, alike: float = 0.8) -> None:
        self.rng, self.own = np.random.default_rng(seed), 2 * np.sqrt(1 - alike)
        self.centre, self.spread = np.log(10) - 2 * stats.norm.ppf(hits), 2 * np.sqrt(alike)

    def users(self, n: int) -> np.ndarray:
        return self.centre + self.rng.normal(0, self.spread, n)

    def ndcg(self, shared: np.ndarray, better: float | np.ndarray = 0.0) -> np.ndarray:
        ranks = np.ceil(np.exp(shared - better + self.rng.normal(0, self.own, shared.shape)))
        return ndcg_at(ranks.ravel(), 10).reshape(ranks.shape)

    def pair(self, n: int, better: float) -> tuple[np.ndarray, np.ndarray]:
        shared = self.users(n)
        return self.ndcg(shared), self.ndcg(shared, better)

    def crossed(self, n: int, seeds: int, luck: float, anew: float, better: float) -> tuple[np.ndarray, np.ndarray]:
        """Two methods, [seeds, n] each; each seed draws a share `anew` of their own variance again, and has luck."""
        shared = self.users(n)

        def method(better: float) -> np.ndarray:
            own = self.rng.normal(0, self.own * np.sqrt(1 - anew), n)
            own = own + self.rng.normal(0, self.own * np.sqrt(anew), (seeds, n)) + self.rng.normal(0, luck, (seeds, 1))
            ranks = np.ceil(np.exp(shared + own - better))
            return ndcg_at(ranks.ravel(), 10).reshape(ranks.shape)

        return method(0.0), method(better)

    def fresh(self) -> int:
        return int(self.rng.integers(2**31))


def share_inside(intervals: list[tuple[float, float]], truth: float) -> float:
    return float(np.mean([low <= truth <= high for low, high in intervals]))


# Intervals


@pytest.mark.parametrize(("hits", "n"), [(0.05, 50), (0.05, 100), (0.05, 1000), (0.01, 200), (0.3, 30), (0.3, 300)])
def test_interval_covers_95_of_100_studies(hits, n):
    shop = Shop(int(1000 * hits) + n, hits)
    everybody = shop.ndcg(shop.users(1_000_000))
    found = [bootstrap_interval(shop.rng.choice(everybody, n), draws=500, seed=shop.fresh()) for _ in range(1500)]
    assert 0.93 <= share_inside(found, everybody.mean()) <= 0.98


def test_percentile_interval_would_not_cover():
    shop = Shop(0)
    everybody = shop.ndcg(shop.users(1_000_000))
    samples = shop.rng.choice(everybody, (300, 50))
    percentile = [np.quantile(shop.rng.choice(sample, (500, 50)).mean(1), [0.025, 0.975]) for sample in samples]
    ours = [bootstrap_interval(sample, draws=500, seed=shop.fresh()) for sample in samples]
    assert share_inside(percentile, everybody.mean()) < 0.9 < share_inside(ours, everybody.mean())


@pytest.mark.parametrize(("hits", "n"), [(0, 50), (1, 50), (7, 100), (100, 100), (300, 2000)])
def test_interval_of_yes_and_no_is_the_jeffreys_interval(hits, n):
    low, high = stats.beta.ppf([0.025, 0.975], hits + 0.5, n - hits + 0.5)
    found = bootstrap_interval(np.arange(n) < hits, draws=40_000)
    assert found == pytest.approx((low if hits else 0.0, high if hits < n else 1.0), abs=0.03 * (high - low))


def test_interval_of_many_users_is_the_textbook_one():
    sample = np.random.default_rng(0).random(3000)
    error = 1.96 * sample.std() / math.sqrt(3000)
    low, high = bootstrap_interval(sample)
    assert low == pytest.approx(sample.mean() - error, abs=error / 15)
    assert high == pytest.approx(sample.mean() + error, abs=error / 15)
    wide, narrow = bootstrap_interval(sample, level=0.99), bootstrap_interval(sample, level=0.5)
    assert wide[0] < low < narrow[0] < narrow[1] < high < wide[1]


def test_same_seed_same_interval_whatever_the_order_of_users():
    rng = np.random.default_rng(0)
    sample = Shop(0).ndcg(Shop(0).users(400))
    assert bootstrap_interval(sample) == bootstrap_interval(rng.permutation(sample))
    assert bootstrap_interval(sample) != bootstrap_interval(sample, seed=1)
    assert len(resampled_means(sample, 7)) == 7


def test_zero_is_not_certain_when_nobody_was_seen():
    assert bootstrap_interval(np.zeros(50)) == (0.0, pytest.approx(0.049, abs=0.004))
    assert bootstrap_interval(np.zeros(50), limits=(0, 20))[1] == pytest.approx(20 * 0.049, abs=0.08)


@settings(max_examples=60, deadline=None)
@given(
    sample=arrays(float, st.integers(2, 80), elements=st.floats(0, 1, allow_subnormal=False)),
    factor=st.sampled_from([0.01, 3.0, 1e6]),
)
def test_interval_contains_the_mean_and_scales(sample, factor):
    low, high = bootstrap_interval(sample, draws=400, limits=(0, 1))
    assert 0 <= low <= high <= 1
    scaled = bootstrap_interval(sample * factor, draws=400, limits=(0, factor))
    np.testing.assert_allclose(scaled, (low * factor, high * factor), rtol=1e-9, atol=1e-12 * factor)


def test_many_distinct_values_share_columns_without_harm():
    sample = np.random.default_rng(0).lognormal(0, 1, 30_000)
    means = resampled_means(sample, 4000)
    half_user = sample.max() / 2 / 30_000  # it pulls towards the largest value
    assert means.mean() == pytest.approx(sample.mean() + half_user, abs=4 * sample.std() / math.sqrt(30_000 * 4000))
    assert means.std() == pytest.approx(sample.std() / math.sqrt(30_000), rel=0.05)


def test_intervals_of_22_363_users_are_quick_and_small():
    ranks = np.random.default_rng(0).integers(1, 12_102, 22_363 * 3)
    sample, others = mrr(ranks).reshape(3, -1), mrr(ranks[::-1]).reshape(3, -1)
    start = time.process_time()
    bootstrap_interval(sample, draws=1000)
    assert time.process_time() - start < 1
    start = time.process_time()
    paired_gain(sample, others, draws=1000)
    permutation_test(sample, others, draws=1000)
    assert time.process_time() - start < 2
    tracemalloc.start()
    bootstrap_interval(sample, draws=1000, over="users and seeds")
    permutation_test(sample, others, draws=1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 * 2**20


# Seeds


@pytest.mark.parametrize(("luck", "seeds"), [(0.0, 3), (0.1, 3), (0.2, 3), (0.4, 3), (0.2, 5)])
def test_interval_over_users_and_seeds_covers_when_seeds_vary(luck, seeds):
    shop = Shop(int(100 * luck) + seeds, hits=0.1)
    everybody = shop.users(1_000_000)
    truth = shop.ndcg(everybody, shop.rng.normal(0, luck, len(everybody))).mean()
    found, users_only = [], []
    for _ in range(1000):
        shared = np.tile(shop.users(400), (seeds, 1))
        sample = shop.ndcg(shared, shop.rng.normal(0, luck, (seeds, 1)))
        found.append(bootstrap_interval(sample, draws=400, seed=shop.fresh(), over="users and seeds"))
        users_only.append(bootstrap_interval(sample, draws=400, seed=shop.fresh()))
    assert 0.93 <= share_inside(found, truth) <= 0.97
    assert luck < 0.2 or share_inside(users_only, truth) < 0.93


def test_the_variance_of_the_mean_is_not_biased():
    rng, (lasting, luck, small) = np.random.default_rng(0), (1.0, 0.05, 1.0)
    found = []
    for _ in range(3000):
        table = rng.normal(0, lasting, 500) + rng.normal(0, luck, (3, 1)) + rng.normal(0, small, (3, 500))
        found.append(_total(*_spread(table, (0, 0)), 3, 500)[0])
    true = lasting**2 / 500 + luck**2 / 3 + small**2 / (3 * 500)
    assert np.mean(found) == pytest.approx(true, rel=0.04)


@pytest.mark.parametrize("seeds", [2, 3, 5, 40])
@pytest.mark.parametrize(("parts", "least", "most"), [((1.0, 0.0, 0.0), 1000, 1000), ((1.0, 0.3, 0.3), 2, 1000),
                                                       ((1e-9, 1.0, 0.0), 0, 0), ((1.0, 1e-9, 1.0), 0, 0)])  # fmt: skip
def test_degrees_of_freedom_lie_between_those_of_seeds_and_of_users(seeds, parts, least, most):
    freedom = _total(*parts, seeds, 1001)[1]
    assert max(seeds - 1, least) <= freedom + 1e-6 and freedom <= max(seeds - 1, most) + 1e-6


def test_seeds_are_averaged_and_not_taken_for_users():
    sample = np.random.default_rng(0).random((3, 200))
    assert bootstrap_interval(sample) == bootstrap_interval(sample.mean(0))
    alone = sample[:1]
    assert bootstrap_interval(alone, over="users and seeds") == bootstrap_interval(alone)
    same = np.stack([sample[0]] * 3)
    np.testing.assert_allclose(bootstrap_interval(same, over="users and seeds"), bootstrap_interval(alone), rtol=0.02)


def test_seeds_that_differ_widen_the_interval_by_students_factor():
    rng = np.random.default_rng(0)
    sample = rng.normal(0, 0.001, (3, 500)) + np.array([[0.1], [0.2], [0.3]])
    low, high = bootstrap_interval(sample, draws=20_000, over="users and seeds", limits=(-1, 1))
    assert (high - low) / 2 == pytest.approx(stats.t.ppf(0.975, 2) * 0.1 / math.sqrt(3), rel=0.05)


# Gains and p-values


@settings(max_examples=150, deadline=None)
@given(pair=pairs, level=st.sampled_from([0.8, 0.9, 0.95]), draws=st.sampled_from([99, 199, 500]))
def test_interval_and_p_value_always_agree(pair, level, draws):
    found = paired_gain(*pair, level=level, draws=draws)
    assert (found.low > 0 or found.high < 0) == (found.p_value < 1 - level - 1e-12)
    assert 0 < found.p_value <= 1 and found.low <= found.high


def test_they_agree_with_seeds_too():
    shop = Shop(3, hits=0.2)
    agree = significant = 0
    for _ in range(200):
        shared = np.tile(shop.users(150), (3, 1))
        a, b = shop.ndcg(shared), shop.ndcg(shared, 0.4 + shop.rng.normal(0, 0.1, (3, 1)))
        found = paired_gain(a, b, draws=999)
        agree += (found.low > 0 or found.high < 0) == (found.p_value < 0.05)
        significant += found.p_value < 0.05
    assert agree == 200 and 10 < significant < 190


@pytest.mark.parametrize(("n", "better"), [(100, 0.5), (500, 0.5), (2000, 0.2)])
def test_interval_of_the_gain_covers(n, better):
    shop = Shop(n)
    a, b = shop.pair(2_000_000, better)
    found = [paired_gain(*shop.pair(n, better), draws=500, seed=shop.fresh())[1:3] for _ in range(1500)]
    assert 0.93 <= share_inside(found, (b - a).mean()) <= 0.97


TESTS = {
    "paired_gain": lambda a, b, seed: paired_gain(a, b, draws=999, seed=seed).p_value,
    "t-test": lambda a, b, seed: paired_test(a, b),
    "permutation": lambda a, b, seed: permutation_test(a, b, 999, seed),
}


@pytest.mark.parametrize("name", TESTS)
def test_p_values_are_uniform_under_no_difference(name):
    shop = Shop(11, hits=0.1)
    found = [TESTS[name](*shop.pair(2000, 0.0), shop.fresh()) for _ in range(1500)]
    assert stats.kstest(found, "uniform").pvalue > 0.05
    assert 0.035 < np.mean(np.array(found) < 0.05) < 0.065


@pytest.mark.parametrize("name", TESTS)
def test_few_users_do_not_raise_false_alarms(name):
    shop = Shop(12)
    found = np.array([TESTS[name](*shop.pair(60, 0.0), shop.fresh()) for _ in range(1500)])
    assert (found < 0.05).mean() < 0.06


def promises(shop: Shop, n: int, luck: float, anew: float, studies: int, seeds: int = 3) -> tuple[float, ...]:
    """Share of intervals that contain a true gain; share of p < .05 and Kolmogorov-Smirnov p where there is none."""
    everybody, spread = shop.users(1_000_000), np.hypot(shop.own, luck)
    means = [ndcg_at(np.ceil(np.exp(everybody + shop.rng.normal(0, spread, len(everybody)) - better)), 10).mean()
             for better in (0.0, 0.3)]  # fmt: skip
    inside, p = [], []
    for _ in range(studies):
        found = paired_gain(*shop.crossed(n, seeds, luck, anew, 0.3), draws=200, seed=shop.fresh())
        inside.append(found[1:3])
        p.append(paired_gain(*shop.crossed(n, seeds, luck, anew, 0.0), draws=200, seed=shop.fresh()).p_value)
    smooth = np.array(p) - shop.rng.uniform(0, 2 / 201, studies)  # 200 draws give p in such steps
    return (share_inside(inside, means[1] - means[0]), float((np.array(p) < 0.05).mean()),
            float(stats.kstest(smooth, "uniform").pvalue))  # fmt: skip


@pytest.mark.parametrize(("n", "luck", "anew"), [(250, 0.0, 1.0), (250, 0.2, 0.5), (1000, 0.0, 0.5), (1000, 0.5, 1.0)])
def test_three_seeds_keep_both_promises(n, luck, anew):
    covered, alarms, fair = promises(Shop(int(n + 100 * luck), hits=0.2), n, luck, anew, 900)
    assert 0.93 <= covered <= 0.97 and 0.033 <= alarms <= 0.067 and fair > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("anew", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("luck", [0.0, 0.1, 0.2, 0.5])
@pytest.mark.parametrize("n", [60, 250, 1000])
def test_three_seeds_keep_both_promises_in_every_world(n, luck, anew):
    covered, alarms, fair = promises(Shop(int(3 * n + 100 * luck + 10 * anew), hits=0.2), n, luck, anew, 3000)
    print(n, luck, anew, round(covered, 4), round(alarms, 4), round(fair, 4))
    assert 0.93 <= covered <= 0.97 and 0.03 <= alarms <= 0.07 and fair > 0.001


def test_forgetting_the_seeds_would_raise_false_alarms():
    shop = Shop(13, hits=0.3)
    pairs = [shop.crossed(300, 3, 0.5, 1.0, 0.0) for _ in range(300)]
    assert np.mean([paired_test(*pair) < 0.05 for pair in pairs]) > 0.3
    assert np.mean([paired_gain(*pair, draws=199, over="users").p_value < 0.05 for pair in pairs]) > 0.3


def test_gain_of_equal_methods_is_nothing_but_not_certain():
    a = np.random.default_rng(0).random(100)
    found = paired_gain(a, a)
    assert isinstance(found, PairedGain) and found.gain == 0 and found.p_value == 1
    assert -0.1 < found.low < 0 < found.high < 0.1
    assert paired_test(a, a) == permutation_test(a, a) == 1


@settings(max_examples=40, deadline=None)
@given(pair=pairs, factor=st.sampled_from([0.01, 100.0]))
def test_gain_scales_and_turns_around(pair, factor):
    a, b = pair
    found, scaled = paired_gain(a, b, draws=399), paired_gain(a * factor, b * factor, draws=399)
    if (a != b).any():
        wanted = [found.gain * factor, found.low * factor, found.high * factor, found.p_value]
        np.testing.assert_allclose(scaled, wanted, rtol=1e-6, atol=1e-9)
    assert paired_gain(b, a, draws=399).gain == pytest.approx(-found.gain)
    assert permutation_test(a, b, 300) == permutation_test(b, a, 300)
    assert paired_test(a, b) == pytest.approx(paired_test(b, a))


def test_gain_sees_through_users_that_are_hard_for_all():
    rng = np.random.default_rng(0)
    hard = rng.random(2000)
    found = paired_gain(hard, hard + 0.01 + rng.normal(0, 0.02, 2000))
    assert found.gain == pytest.approx(0.01, abs=0.002)
    assert 0 < found.low < found.gain < found.high and found.p_value < 0.001
    assert paired_gain(hard + 0.01, hard).high < 0


def test_a_method_without_seeds_stands_beside_every_seed():
    shop = Shop(1, hits=0.3)
    shared = shop.users(500)
    a, b = shop.ndcg(shared), shop.ndcg(np.tile(shared, (3, 1)), 0.3)
    assert paired_gain(a, b) == paired_gain(np.stack([a, a, a]), b)
    assert paired_gain(b, a).gain == pytest.approx(-paired_gain(a, b).gain)


# The classics


def test_t_test_equals_scipy():
    rng = np.random.default_rng(0)
    for n, shift in ((2, 0.1), (5, 0.0), (300, 0.02)):
        a = rng.random(n)
        b = a + rng.normal(shift, 0.2, n)
        assert paired_test(a, b) == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-10)
    assert paired_test(a, a + 0.5) < 1e-12


@settings(max_examples=40, deadline=None)
@given(gains=st.lists(st.integers(-4, 4), min_size=2, max_size=9))
def test_permutation_test_tries_all_signs_when_few_differ(gains):
    g = np.array(gains) / 10
    sums = [abs(np.dot(signs, g)) for signs in itertools.product([1, -1], repeat=len(g))]
    wanted = np.mean(np.array(sums) >= abs(g.sum()) - 1e-9)
    assert permutation_test(np.zeros(len(g)), g) == pytest.approx(wanted, abs=1e-12)


def test_permutation_test_equals_scipy_for_many_and_is_never_zero():
    rng = np.random.default_rng(0)
    a = rng.random(80)
    b = a + rng.normal(0.01, 0.05, 80)
    theirs = stats.permutation_test(
        (a, b),
        lambda x, y, axis: (y - x).mean(axis=axis),
        permutation_type="samples",
        n_resamples=20_000,
        rng=np.random.default_rng(1),
    )
    assert permutation_test(a, b, 20_000) == pytest.approx(theirs.pvalue, abs=0.02)
    assert permutation_test(a, a + 1, draws=99) == 1 / 100
    assert permutation_test(np.zeros(6), np.ones(6)) == 2 / 2**6 < 0.05 < permutation_test(np.zeros(5), np.ones(5))


# Many methods


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.6, 0.5]), [1.0, 1.0])
    assert holm([]).shape == (0,) and holm([0.03]) == [0.03]


@settings(max_examples=80, deadline=None)
@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=12), data=st.data())
def test_holm_is_between_p_and_bonferroni_and_keeps_the_order(p, data):
    order = np.array(data.draw(st.permutations(range(len(p)))))
    adjusted = holm(p)
    assert (adjusted >= np.array(p)).all() and (adjusted <= np.minimum(1, np.array(p) * len(p)) + 1e-12).sum() >= 1
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()
    np.testing.assert_array_equal(holm(np.array(p)[order]), adjusted[order])


def test_holm_keeps_false_alarms_of_a_whole_table_at_5_per_cent():
    shop, alarms = Shop(5, hits=0.2), np.zeros(2)
    for _ in range(1000):
        shared = shop.users(300)
        base = shop.ndcg(shared)
        p = np.array([paired_gain(base, shop.ndcg(shared), draws=499, seed=shop.fresh()).p_value for _ in range(5)])
        alarms += (p < 0.05).any(), (holm(p) < 0.05).any()
    assert alarms[0] / 1000 > 0.1 and alarms[1] / 1000 < 0.065


def test_table_of_methods():
    shop = Shop(6, hits=0.3)
    shared = shop.users(1500)
    three = np.tile(shared, (3, 1))
    found = {"knn": shop.ndcg(shared)}
    found |= {name: shop.ndcg(three, better) for name, better in (("worse", -1.0), ("same", 0.0), ("better", 0.8))}
    table = compare_methods(found, against="knn")
    assert table.index.tolist() == list(found)
    wanted = "mean low high gain gain_low gain_high p_value p_holm effect better same worse significant".split()
    assert table.columns.tolist() == wanted and table["significant"].dtype == bool
    assert table["significant"].tolist() == [False, True, False, True]
    assert table.loc["knn", ["gain", "p_value", "p_holm", "effect"]].isna().all()
    one = paired_gain(found["knn"], found["better"])
    assert table.loc["better", ["gain", "gain_low", "gain_high", "p_value"]].tolist() == list(one)
    np.testing.assert_array_equal(table["p_holm"][1:], holm(table["p_value"][1:]))
    assert table.loc["better", "effect"] == effect_size(found["knn"], found["better"])
    assert (table["low"] < table["mean"]).all() and (table["mean"] < table["high"]).all()
    assert table.attrs["cautions"] == [f"knn: {cautions(found['knn'])[0]}"]
    pd.testing.assert_frame_equal(table, compare_methods(found, against="knn"))
    assert len(compare_methods({"knn": found["knn"]}, "knn")) == 1


# Sizes and power


def test_effect_size_and_shares_by_hand():
    a, b = np.zeros(5), np.array([1.0, 1.0, 0.0, 0.0, -1.0])
    assert effect_size(a, b) == pytest.approx(0.2 / math.sqrt(0.7))
    assert users_moved(a, b) == (0.4, pytest.approx(0.4), 0.2)
    assert effect_size(a, a) == 0 and effect_size(a, a + 1) == math.inf and effect_size(a + 1, a) == -math.inf
    assert effect_size(b, a) == -effect_size(a, b)


def test_users_needed_have_the_power_they_promise():
    shop = Shop(8, hits=0.2)
    a, b = shop.pair(1_000_000, 0.2)
    n = users_needed(a, b, gain=(b - a).mean() / a.mean())
    power = np.mean([paired_gain(*shop.pair(n, 0.2), draws=499, seed=shop.fresh()).p_value < 0.05 for _ in range(800)])
    assert 0.76 < power < 0.84
    assert smallest_gain(*shop.pair(n, 0.2)) == pytest.approx((b - a).mean(), rel=0.15)


def test_users_needed_by_hand():
    a, b = np.tile([0.0, 1.0], 500), np.tile([0.2, 0.8], 500)
    bar, spread = 1.959964 + 0.841621, np.std(b - a, ddof=1)
    # Student's bar is a little higher
    assert users_needed(a, b) == pytest.approx((bar * spread / 0.025) ** 2, rel=0.005)
    assert users_needed(a) == pytest.approx((bar * math.sqrt(2) * np.std(a, ddof=1) / 0.025) ** 2, rel=0.005)
    assert users_needed(a, b, gain=0.1) < users_needed(a, b) < users_needed(a, b, power=0.9)
    assert smallest_gain(a, a) == pytest.approx(bar / 1001, rel=0.01)  # nobody differs but the two half users
    assert users_needed(a, a) == pytest.approx(bar / 0.025, rel=0.03)
    assert smallest_gain(a, b) == pytest.approx(bar * spread / math.sqrt(1000), rel=1e-3)


@settings(max_examples=60, deadline=None)
@given(pair=pairs, seeds=st.integers(1, 4), noise=st.sampled_from([0.0, 0.1, 0.4]), luck=st.sampled_from([0.0, 0.3]))
def test_what_could_have_been_seen_agrees_with_the_interval(pair, seeds, noise, luck):
    """A gain that is found four times in five is larger than half the interval."""
    rng, n = np.random.default_rng(0), len(pair[0])
    a, b = pair[0], pair[1] + rng.normal(0, noise, (seeds, n)) + rng.normal(0, luck, (seeds, 1))
    found, least = paired_gain(a, b, draws=4000), smallest_gain(a, b)
    assert least > 0.97 * (found.high - found.low) / 2
    if a.any():
        needed, wanted = users_needed(a, b), least / a.mean()
        assert needed is None or users_needed(a, b, gain=1.01 * wanted) <= n + 1
        assert users_needed(a, b, gain=1e6 * wanted) is not None
        assert needed is None or (needed > n) == (smallest_gain(a, b) > 0.05 * a.mean()) or abs(needed - n) <= n / 10


def test_more_users_do_not_outweigh_the_luck_of_seeds():
    shop = Shop(4, hits=0.3)
    a, b = shop.crossed(500, 3, 0.0, 0.2, 0.0)
    assert users_needed(a, b) > 500 and users_needed(a, b, gain=0.5) < 500
    lucky = b + np.array([[0.0], [0.05], [0.1]])
    assert users_needed(a, lucky) is None and users_needed(a, lucky, gain=5.0) is not None
    assert smallest_gain(a, lucky) > 5 * 0.05 / math.sqrt(3)  # Student's bar with two degrees of freedom


@pytest.mark.parametrize(("luck", "better", "least", "most"), [(0.0, 0.245, 0.72, 0.88), (0.1, 0.37, 0.55, 0.85)])
def test_power_of_the_smallest_gain_with_three_seeds(luck, better, least, most):
    """With luck of seeds V itself is uncertain, and the power of a typical `smallest_gain` falls short of .8."""
    shop = Shop(9, hits=0.2)
    pairs = [shop.crossed(500, 3, luck, 0.3, better) for _ in range(500)]
    true, typical = np.mean([(b - a).mean() for a, b in pairs]), np.median([smallest_gain(*pair) for pair in pairs])
    assert true == pytest.approx(typical, rel=0.1)
    assert least < np.mean([paired_gain(*pair, draws=200, seed=shop.fresh()).p_value < 0.05 for pair in pairs]) < most


def test_seeds_make_the_smallest_gain_larger():
    rng = np.random.default_rng(0)
    a = rng.random(300)
    b = a + rng.normal(0, 0.1, (3, 300))
    assert smallest_gain(a, b + np.array([[0.0], [0.2], [0.4]])) > 3 * smallest_gain(a, b)


# Words


def test_cautions():
    many = np.random.default_rng(0).random((3, 100))
    assert cautions(many) == [] and cautions(many, many[:, ::-1]) == []
    assert "One seed" in cautions(many[0])[0] and "2 seeds" in cautions(many[:2])[0]
    few = many.copy()
    few[:, :4] += 0.1
    assert cautions(many, few) == [
        "Only 4 users differ between the two methods: the interval holds on average, but may cover less than it says."
    ]
    assert "have a value other than 0" in cautions(np.eye(3, 50))[0]


GOOD = np.array([0.0, 0.5, 1.0, 0.0])


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda bad: bootstrap_interval(bad), "bootstrap_interval"),
        (lambda bad: resampled_means(bad), "resampled_means"),
        (lambda bad: paired_gain(GOOD, bad), "paired_gain"),
        (lambda bad: paired_gain(bad, GOOD), "paired_gain"),
        (lambda bad: paired_test(GOOD, bad), "paired_test"),
        (lambda bad: permutation_test(bad, GOOD), "permutation_test"),
        (lambda bad: effect_size(bad, GOOD), "effect_size"),
        (lambda bad: users_moved(GOOD, bad), "users_moved"),
        (lambda bad: users_needed(bad), "users_needed"),
        (lambda bad: smallest_gain(GOOD, bad), "smallest_gain"),
        (lambda bad: cautions(GOOD, bad), "cautions"),
        (lambda bad: compare_methods({"a": GOOD, "b": bad}, "a"), ""),
    ],
)
@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ([], "shape"),
        (np.zeros((2, 0)), "shape"),
        (np.zeros((2, 2, 2)), "shape"),
        ([0.5], "one user"),
        ([0.0, np.nan, 1.0, 0.0], "1 NaN"),
        ([0.0, np.inf, 1.0, 0.0], "1 NaN or infinite"),
    ],
)
def test_values_that_say_nothing_are_an_error(call, name, bad, why):
    with pytest.raises(CrossrecError, match=why) as error:
        call(bad)
    assert name in str(error.value) and error.value.do


@pytest.mark.parametrize("call", [paired_gain, paired_test, permutation_test, effect_size, users_moved, users_needed,
                                  smallest_gain, cautions])  # fmt: skip
def test_paired_needs_the_same_users(call):
    with pytest.raises(CrossrecError, match="4 and 3 users"):
        call(GOOD, GOOD[:3])
    with pytest.raises(CrossrecError, match="2 and 3 seeds"):
        call(np.tile(GOOD, (2, 1)), np.tile(GOOD, (3, 1)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_interval(GOOD, level=1.0), "level=1.0"),
        (lambda: bootstrap_interval(GOOD, level=0.0), "level=0.0"),
        (lambda: bootstrap_interval(GOOD, draws=30), "draws=30"),
        (lambda: paired_gain(GOOD, GOOD, level=0.999, draws=500), "draws=500"),
        (lambda: resampled_means(GOOD, draws=0), "draws=0"),
        (lambda: bootstrap_interval(GOOD, over="seeds"), "over='seeds'"),
        (lambda: permutation_test(GOOD, GOOD + 1, draws=0), "draws=0"),
        (lambda: holm([0.2, np.nan]), "from 0 to 1"),
        (lambda: holm([1.2]), "from 0 to 1"),
        (lambda: holm(np.zeros((2, 2))), "in a row"),
        (lambda: users_needed(np.zeros(9)), "both above 0"),
        (lambda: users_needed(GOOD, gain=0.0), "both above 0"),
        (lambda: users_needed(GOOD, power=1.0), "power=1.0"),
        (lambda: smallest_gain(GOOD, GOOD, level=1.0), "level=1.0"),
        (lambda: compare_methods({"a": GOOD}, "b"), "no method 'b'"),
    ],
)
def test_impossible_wishes_are_an_error(call, message):
    with pytest.raises(CrossrecError, match=message):
        call()
