"""Estimates before training: each number against a reference, planted bridges found, nothing of the target read."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.sparse import csr_matrix

from crossrec.core import CrossrecError
from crossrec.domain import Domain
from crossrec.proxies import (
    bridge,
    damped_cooccurrence,
    frechet_distance,
    held_out_score,
    log_evidence,
    mean_discrepancy,
    partial_correlation,
    taste_factors,
)
from crossrec.sequences import Sequences
from crossrec.split import Queries, View
from crossrec.transferability import NUMBERS, agreement, left_out_guesses, transferability

# Distances


def test_discrepancy_by_double_loop() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(7, 3)), rng.normal(size=(5, 3)) + 0.5
    across = [((x - y) ** 2).sum() for x in a for y in b]

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return np.exp(-((x - y) ** 2).sum() / np.median(across))

    own = [np.mean([kernel(x, y) for i, x in enumerate(c) for j, y in enumerate(c) if i != j]) for c in (a, b)]
    expected = sum(own) - 2 * np.mean([kernel(x, y) for x in a for y in b])
    assert mean_discrepancy(a, b) == pytest.approx(expected)


def test_discrepancy_is_unbiased() -> None:
    rng = np.random.default_rng(1)
    found = [mean_discrepancy(rng.normal(size=(30, 4)), rng.normal(size=(20, 4))) for _ in range(200)]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(200)


@given(st.integers(0, 1000), st.floats(-3, 3))
@settings(max_examples=25, deadline=None)
def test_frechet_distance_equals_its_definition(seed: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(40, 4)) @ rng.normal(size=(4, 4)), rng.normal(size=(30, 4)) + shift
    left, right = np.cov(a.T), np.cov(b.T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(left + right - 2 * np.real(sqrtm(left @ right)))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6, abs=1e-6)


# Proxy scores


@pytest.mark.parametrize(("n", "d"), [(60, 5), (20, 40)])
def test_evidence_is_the_highest_marginal_likelihood(n: int, d: int) -> None:
    rng = np.random.default_rng(n)
    features = rng.normal(size=(n, d))
    label = features @ rng.normal(size=d) + rng.normal(size=n)

    def marginal(alpha: float, beta: float) -> float:
        cov = features @ features.T / alpha + np.eye(n) / beta
        fit = label @ np.linalg.solve(cov, label)
        return -(np.linalg.slogdet(cov)[1] + fit + n * np.log(2 * np.pi)) / (2 * n)

    found = log_evidence(features, label)
    grid = [marginal(a, b) for a in np.geomspace(0.05, 20, 40) for b in np.geomspace(0.1, 20, 40)]
    assert max(grid) - 1e-6 <= found + 2e-3 and found <= max(grid) + 2e-2


def test_evidence_prefers_features_that_explain_and_averages_labels() -> None:
    rng = np.random.default_rng(0)
    features, noise = rng.normal(size=(100, 8)), rng.normal(size=(100, 8))
    labels = features[:, :3] + 0.3 * rng.normal(size=(100, 3))
    assert log_evidence(features, labels) > log_evidence(noise, labels) + 0.3
    each = [log_evidence(features, labels[:, i]) for i in range(3)]
    assert log_evidence(features, labels) == pytest.approx(np.mean(each), abs=1e-3)


def test_cooccurrence_is_symmetric_and_factors_span_its_head() -> None:
    rng = np.random.default_rng(0)
    rows = Sequences.from_lists([rng.permutation(30)[:6].tolist() for _ in range(50)])
    near = damped_cooccurrence(rows, 30).toarray()
    np.testing.assert_allclose(near, near.T, rtol=1e-5)
    factors = taste_factors(csr_matrix(near), 4)
    assert factors.shape == (30, 4)
    np.testing.assert_allclose(factors.mean(0), 0, atol=1e-9)
    top = np.linalg.eigh(near)[1][:, -4:]
    centred = top - top.mean(0)
    assert np.linalg.matrix_rank(np.c_[centred, factors], tol=1e-4) == 4


def test_bridge_minimises_equation_4() -> None:
    rng = np.random.default_rng(0)
    x, a = rng.normal(size=(12, 3)), rng.normal(size=(12, 12))
    a = a + a.T
    w = bridge(x, csr_matrix(a), 2.0)

    def cost(w: np.ndarray) -> float:
        return ((a - x @ w @ x.T) ** 2).sum() + 2.0 * (w**2).sum()

    steps = [1e-3 * rng.normal(size=(3, 3)) for _ in range(50)]
    assert all(cost(w) < cost(w + step) for step in steps)


@given(st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_partial_correlation_is_that_of_residuals(seed: int) -> None:
    rng = np.random.default_rng(seed)
    three = rng.normal(size=(3, 8, 8))
    three[0] += three[2] + 0.5 * three[1]
    three += three.transpose(0, 2, 1)
    y, x, z = (table[np.triu_indices(8, 1)] for table in three)
    left, right = (v - np.polyval(np.polyfit(z, v, 1), z) for v in (y, x))
    assert partial_correlation(*three) == pytest.approx(np.corrcoef(left, right)[0, 1], abs=1e-9)


def planted(n: int, useful: bool, seed: int = 0) -> tuple[np.ndarray, csr_matrix]:
    """Items whose tastes are a rotation of their texts (cosine does not see it), or have nothing to do with them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    turn = np.diag([1.0, 1, 1, -1, -1, -1])
    taste = (x if useful else rng.normal(size=(n, 6))) @ turn @ (x if useful else rng.normal(size=(n, 6))).T
    return x, csr_matrix((taste + taste.T) / 2)


def test_a_planted_bridge_is_found_on_topics_that_were_not_seen() -> None:
    likeness = np.zeros(300)
    assert held_out_score(*planted(300, True), likeness) > 0.8
    assert abs(held_out_score(*planted(300, False), likeness)) < 0.1
    assert held_out_score(*planted(20, True), likeness[:20]) == 0.0


def test_topics_like_the_target_count_more() -> None:
    x, near = planted(300, True)
    mixed = near.toarray()
    far = x[:, 0] < 0  # there tastes are noise
    mixed[np.ix_(far, far)] = np.random.default_rng(1).normal(size=(far.sum(), far.sum()))
    mixed = csr_matrix((mixed + mixed.T) / 2)
    assert held_out_score(x, mixed, x[:, 0]) > held_out_score(x, mixed, -x[:, 0])


# A pair of domains


def shop(name: str, words: list[str], seed: int, people: int = 60) -> Domain:
    """A domain whose titles are two of the words."""
    rng = np.random.default_rng(seed)
    items = pd.DataFrame({"item_id": [f"{name}{n}" for n in range(40)],
                          "title": [" ".join(rng.choice(words, 2, replace=False)) for _ in range(40)]})  # fmt: skip
    rows = [(f"u{u}", f"{name}{i}", p) for u in range(people) for p, i in enumerate(rng.permutation(40)[:6])]
    return Domain.from_frames(pd.DataFrame(rows, columns=["user_id", "item_id", "position"]), items, name)


WORDS = [f"word{n}" for n in range(12)]


@pytest.fixture(scope="module")
def pair() -> tuple[Domain, Domain, tuple[np.ndarray, np.ndarray]]:
    source, target = shop("s", WORDS, 0).clean(k_core=1), shop("t", WORDS[4:], 1, 30).clean(k_core=1)
    rng = np.random.default_rng(0)
    vectors = tuple(rng.normal(size=(domain.n_items, 8)).astype(np.float32) for domain in (source, target))
    return source, target, tuple(v / np.linalg.norm(v, axis=1, keepdims=True) for v in vectors)


def view_of(target: Domain, users: int) -> View:
    rows = target.sequences.take(np.arange(users))
    nobody = Queries(np.zeros(0, int), rows.take(np.zeros(0, int)), rows.items[:0])
    return View("few-shot", target.n_items, rows, nobody, users, np.arange(users))


def test_every_number_is_there_and_told_in_words(pair: tuple) -> None:
    source, target, vectors = pair
    plain = transferability(source, target, vectors)
    assert list(plain.numbers.index) == list(NUMBERS)[:8] and np.isfinite(plain.numbers).all()
    assert plain.numbers["words"] == 1.0 and plain.numbers["users"] == 1.0 and plain.visible == 0
    seen = transferability(source, target, vectors, visible=view_of(target, 10))
    assert list(seen.numbers.index) == list(NUMBERS) and seen.visible == 10
    pd.testing.assert_series_equal(seen.numbers[:8], plain.numbers)
    assert plain.table["meaning"].tolist() == list(NUMBERS.values())[:8]


def test_no_interaction_of_the_target_is_read(pair: tuple) -> None:
    source, target, vectors = pair
    other = shop("t", WORDS[4:], 1, 30)
    table = other.interactions.copy()
    table["item_id"] = table["item_id"].to_numpy()[::-1]  # the same users and items, other purchases
    other = Domain.from_frames(table.drop_duplicates(["user_id", "item_id"]), other.items, "t").clean(k_core=1)
    assert (other.item_ids == target.item_ids).all() and (other.users == target.users).all()
    pd.testing.assert_series_equal(transferability(source, target, vectors).numbers,
                                   transferability(source, other, vectors).numbers)  # fmt: skip


def test_only_what_may_be_learned_of_the_source_is_read(pair: tuple) -> None:
    source, target, vectors = pair
    half = source.sequences.drop_last(3)
    assert transferability(source, target, vectors, half).numbers["evidence"] != pytest.approx(
        transferability(source, target, vectors).numbers["evidence"]
    )


def test_rows_and_vectors_that_do_not_fit_are_refused(pair: tuple) -> None:
    source, target, vectors = pair
    with pytest.raises(CrossrecError, match="transferability: found items up to 99"):
        transferability(source, target, vectors, Sequences.from_lists([[1, 99]]))
    with pytest.raises(CrossrecError, match="one an item of source and target"):
        transferability(source, target, vectors[::-1][:1] * 1 + (vectors[0][:-1],))


# How far it may be trusted


def all_pairs(names: str) -> pd.MultiIndex:
    return pd.MultiIndex.from_tuples([(a, b) for a in names for b in names if a != b], names=["source", "target"])


def test_agreement_is_pearsons_and_spearmans() -> None:
    rng, pairs = np.random.default_rng(0), all_pairs("abcde")
    guesses = pd.DataFrame(rng.normal(size=(len(pairs), 2)), pairs, ["x", "y"])
    gains = guesses["x"] ** 3 + rng.normal(size=len(pairs))
    for over in ("domains", "pairs"):
        table = agreement(guesses, gains, over)
        for name in guesses:
            assert table.loc[name, "pearson"] == pytest.approx(guesses[name].corr(gains))
            assert table.loc[name, "spearman"] == pytest.approx(guesses[name].corr(gains, "spearman"))
        assert (table["low"] <= table["pearson"]).all() and (table["pearson"] <= table["high"]).all()


def test_intervals_over_domains_cover_where_pairs_share_domains() -> None:
    pairs, covered = all_pairs("abcdefgh"), {"domains": 0, "pairs": 0}
    for seed in range(100):
        rng = np.random.default_rng(seed)
        luck = rng.normal(size=(4, 8))
        ends = [np.array(["abcdefgh".index(name) for name in pairs.get_level_values(level)]) for level in (0, 1)]
        guess, gain = (luck[k][ends[0]] + luck[k + 1][ends[1]] + 0.5 * rng.normal(size=len(pairs)) for k in (0, 2))
        for over in covered:
            row = agreement(pd.DataFrame({"x": guess}, pairs), pd.Series(gain, pairs), over, draws=300).iloc[0]
            covered[over] += row["low"] <= 0 <= row["high"]
    assert covered["domains"] >= 85 > 75 > covered["pairs"]


def test_a_pair_that_is_left_out_is_not_read() -> None:
    rng, pairs = np.random.default_rng(0), all_pairs("abcd")
    guesses = pd.DataFrame(rng.normal(size=(len(pairs), 3)), pairs)
    gains = pd.Series(rng.normal(size=len(pairs)), pairs)
    targets = pairs.get_level_values(1).to_numpy()
    for groups in (None, targets):
        before = left_out_guesses(guesses, gains, groups)
        out = np.arange(len(pairs)) == 0 if groups is None else targets == targets[0]
        changed = gains.where(~out, 1e6)
        np.testing.assert_allclose(left_out_guesses(guesses, changed, groups)[out], before[out])


def test_together_finds_what_is_there_and_invents_nothing() -> None:
    pairs, found = all_pairs("abcdefgh"), []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        guesses = pd.DataFrame(rng.normal(size=(len(pairs), 6)), pairs)
        gains = pd.Series(rng.normal(size=len(pairs)), pairs)
        both = gains, gains + 2 * guesses[0]
        found.append([np.corrcoef(left_out_guesses(guesses, real), real)[0, 1] for real in both])
    nothing, something = np.mean(found, 0)
    assert abs(nothing) < 0.1 and something > 0.7


def test_too_few_pairs_or_rows_that_do_not_fit_are_refused() -> None:
    pairs = all_pairs("abc")
    guesses = pd.DataFrame({"x": np.arange(6.0)}, pairs)
    for rows, over in ((3, "domains"), (6, "users")):
        with pytest.raises(CrossrecError, match="agreement"):
            agreement(guesses[:rows], guesses["x"][:rows], over)
