"""Ranks against a slow definition, metrics against hand-made numbers and ranx."""

import math
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrec.core import CrossrecError
from crossrec.metrics import (
    accuracy_at,
    auc,
    average_precision_at,
    candidate_counts,
    check_lists,
    f1_at,
    hit_rate_at,
    list_ranks,
    mrr,
    ndcg_at,
    precision_at,
    recall_at,
    sampled_ranks,
    summarize,
    target_ranks,
)


def ragged(rows: list[list[int]]) -> SimpleNamespace:
    lengths = [len(row) for row in rows]
    return SimpleNamespace(
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        items=np.array([item for row in rows for item in row], dtype=np.int32),
    )


def slow_rank(scores, target, masked) -> int:
    """The definition, one user at a time."""
    candidates = set(range(len(scores))) - (set(masked) - {target})
    return sum(scores[item] >= scores[target] for item in candidates)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), n=st.integers(1, 6), n_items=st.integers(1, 8))
def test_ranks_equal_the_definition(data, n, n_items):
    item = st.integers(0, n_items - 1)
    values = st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0, np.inf])  # few values, so that ties are common
    scores = np.array([[data.draw(values) for _ in range(n_items)] for _ in range(n)], dtype=np.float32)
    targets = np.array([data.draw(item) for _ in range(n)])
    rows = [data.draw(st.lists(item, max_size=6)) for _ in range(n)]
    kept = scores.copy()
    ranks = target_ranks(scores, targets, ragged(rows))
    assert ranks.dtype == np.int64
    assert ranks.tolist() == [slow_rank(*row) for row in zip(scores, targets, rows, strict=True)]
    assert target_ranks(scores, targets).tolist() == [slow_rank(s, t, []) for s, t in zip(scores, targets, strict=True)]
    np.testing.assert_array_equal(scores, kept)


def slow_ranks(scores, targets, masked) -> list[int]:
    """Sort all candidates, among equals those first that are no targets, then targets in the order given."""
    candidates = [item for item in range(len(scores)) if item in targets or item not in masked]
    place = {item: number for number, item in enumerate(targets)}
    ordered = sorted(candidates, key=lambda item: (-scores[item], place.get(item, -1)))
    return [ordered.index(item) + 1 for item in targets]


@settings(max_examples=80, deadline=None)
@given(data=st.data(), n=st.integers(1, 5), n_items=st.integers(1, 8), kind=st.sampled_from(["f2", "f4", "f8", "i4"]))
def test_ranks_of_several_targets_equal_a_sort(data, n, n_items, kind):
    values = st.sampled_from([-3, 0, 1, 2])
    scores = np.array([[data.draw(values) for _ in range(n_items)] for _ in range(n)], dtype=kind)
    item = st.integers(0, n_items - 1)
    targets = [data.draw(st.lists(item, min_size=1, max_size=4, unique=True)) for _ in range(n)]
    masks = [data.draw(st.lists(item, max_size=5)) for _ in range(n)]
    for mask in (None, masks):
        wanted = [r for row in zip(scores, targets, mask or [[]] * n, strict=True) for r in slow_ranks(*row)]
        found = target_ranks(scores, ragged(targets), None if mask is None else ragged(mask))
        assert found.tolist() == wanted
        assert target_ranks(np.asfortranarray(scores), ragged(targets), mask and ragged(mask)).tolist() == wanted
    counts = [n_items - len(set(mask) - set(row)) for mask, row in zip(masks, targets, strict=True)]
    assert candidate_counts(n_items, ragged(targets), ragged(masks)).tolist() == counts


def test_views_are_ranked_like_copies():
    scores = np.random.default_rng(0).random((40, 60))
    view, targets = scores[::2, ::3], np.repeat(np.arange(20), 2)[::2]
    assert not view.flags.c_contiguous and not targets.flags.c_contiguous
    np.testing.assert_array_equal(target_ranks(view, targets), target_ranks(view.copy(), targets.copy()))


@settings(max_examples=80, deadline=None)
@given(
    data=st.data(),
    n=st.integers(0, 5),
    k=st.integers(0, 6),
    kind=st.sampled_from(["i1", "i4", "i8", "u2"]),
    shift=st.sampled_from([0, 90]),
)
def test_list_ranks_are_places_on_the_list(data, n, k, kind, shift):
    item = st.integers(0, 12).map(lambda number: number + shift)
    shown = [data.draw(st.lists(item, max_size=k, unique=True)) for _ in range(n)]
    lists = np.array([row + [-1] * (k - len(row)) for row in shown], dtype="i8").reshape(n, k)
    if (lists >= 0).all():
        lists = lists.astype(kind)
    targets = [data.draw(st.lists(item, min_size=1, max_size=3, unique=True)) for _ in range(n)]
    wanted = [r.index(t) + 1 if t in r else np.inf for r, row in zip(shown, targets, strict=True) for t in row]
    assert list_ranks(lists, ragged(targets)).tolist() == wanted
    first = np.array([row[0] for row in targets], dtype="i8")
    assert list_ranks(lists, first).tolist() == list_ranks(lists, ragged([row[:1] for row in targets])).tolist()


def test_large_item_numbers_do_not_wrap():
    big = 2**40
    lists = np.array([[3, 70_000, big]])
    known, unknown = ((3, 1), (70_000, 2), (big, 3)), ((3 + 65_536, np.inf), (3 + 2**32, np.inf), (big + 2**32, np.inf))
    for target, rank in known + unknown:
        assert list_ranks(lists, np.array([target])).tolist() == [rank]
        assert list_ranks(lists[:, :1], np.array([target])).tolist() == [rank if rank == 1 else np.inf]


@pytest.mark.parametrize(
    ("lists", "targets", "message"),
    [
        ([[1, 2], [3, 3]], [0, 0], "item 3 twice on the list of user 1"),
        ([[0, -2]], [0], "-1 or more"),
        ([[0.0, 1.0]], [0], "integers"),
        ([0, 1], [0, 0], "integers"),
        ([[0, 1]], [0, 1], "targets of 1 users"),
        ([[0, 1]], [-1], "0 to up|from -1"),
        ([[0, 1]], [0.5], "whole numbers"),
        ([[0], [1]], ragged([[], [1]]), "no target for user 0"),
        ([[0], [1]], ragged([[1], [4, 2, 4]]), "item 4 twice among the targets of user 1"),
        ([[0], [1]], ragged([[1]]), "2 rows that cover"),
    ],
)
def test_bad_lists_are_an_error(lists, targets, message):
    with pytest.raises(CrossrecError, match=message):
        list_ranks(np.array(lists), targets if hasattr(targets, "items") else np.array(targets))


def test_empty_places_may_repeat():
    assert check_lists(np.array([[2, -1, -1], [-1, -1, -1]])).tolist() == [[2, -1, -1], [-1, -1, -1]]


def test_a_constant_model_is_last():
    assert target_ranks(np.zeros((2, 9)), np.array([0, 5])).tolist() == [9, 9]


def test_many_rows_are_ranked_in_slabs():
    rng = np.random.default_rng(0)
    scores, targets = rng.random((40, 2**20), dtype=np.float32), rng.integers(0, 2**20, 40)
    expected = [(row >= row[t]).sum() for row, t in zip(scores, targets, strict=True)]
    assert target_ranks(scores, targets).tolist() == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": np.array([[0, np.nan, 1.0], [0, 1, 2]])}, "NaN in row 0"),
        ({"targets": np.array([0, 3])}, "0 to 2"),
        ({"targets": np.array([-1, 0])}, "0 to 2"),
        ({"targets": np.array([0])}, "one target"),
        ({"mask": ragged([[0]])}, "found mask: .* 2 rows"),
        ({"mask": ragged([[0], [7]])}, "mask of type int32 from 0 to 7"),
    ],
)
def test_bad_input_is_an_error(change, message):
    good = {"scores": np.ones((2, 3)), "targets": np.array([0, 1]), "mask": None}
    with pytest.raises(CrossrecError, match=message):
        target_ranks(**good | change)


def test_golden_metrics():
    ranks = np.array([1, 2, 3, 10, 11])
    np.testing.assert_allclose(recall_at(ranks, 10), [1, 1, 1, 1, 0])
    np.testing.assert_allclose(ndcg_at(ranks, 10), [1, 1 / math.log2(3), 0.5, 1 / math.log2(11), 0], rtol=1e-12)
    np.testing.assert_allclose(mrr(ranks), [1, 1 / 2, 1 / 3, 1 / 10, 1 / 11], rtol=1e-12)
    summary = summarize(ranks, ks=(1, 10))
    assert list(summary) == ["recall@1", "recall@10", "ndcg@1", "ndcg@10", "mrr"]
    assert summary["recall@10"] == pytest.approx(0.8)
    assert summary["ndcg@10"] == pytest.approx((1 + 0.6309297536 + 0.5 + 0.2890648263) / 5)
    assert all(type(value) is float for value in summary.values())


AT = {"precision": precision_at, "recall": recall_at, "f1": f1_at, "hit_rate": hit_rate_at, "map": average_precision_at,
      "ndcg": ndcg_at}  # fmt: skip


def by_definition(ranks: list[float], k: int, n: int) -> dict[str, float]:
    """Every metric of one user from the places of the relevant items among n candidates."""
    ranks, hits = sorted(ranks), sum(r <= k for r in ranks)
    precision, recall = hits / k, hits / len(ranks)
    good = [place in ranks for place in range(1, n + 1)]
    pairs = [a < b for a in ranks for b in range(1, n + 1) if not good[b - 1]]
    return {
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if hits else 0.0,
        "hit_rate": float(hits > 0),
        "map": sum(i / r for i, r in enumerate(ranks, 1) if r <= k) / len(ranks),
        "ndcg": sum(1 / math.log2(1 + r) for r in ranks if r <= k)
        / sum(1 / math.log2(1 + i) for i in range(1, min(k, len(ranks)) + 1)),
        "mrr": 1 / ranks[0],
        "accuracy": sum(shown == is_good for shown, is_good in zip((p < k for p in range(n)), good, strict=True)) / n,
        "auc": sum(pairs) / len(pairs),
    }


@settings(max_examples=80, deadline=None)
@given(data=st.data(), n=st.integers(2, 30), users=st.integers(1, 6), k=st.integers(1, 40))
def test_metrics_equal_their_definitions(data, n, users, k):
    places = st.lists(st.integers(1, n), min_size=1, max_size=min(6, n - 1), unique=True)
    rows = [data.draw(places) for _ in range(users)]
    ranks, offsets = np.array([r for row in rows for r in row]), ragged(rows).offsets
    found = {name: metric(ranks, k, offsets) for name, metric in AT.items()}
    found |= {"mrr": mrr(ranks, offsets), "auc": auc(ranks, n, offsets), "accuracy": accuracy_at(ranks, k, n, offsets)}
    for user, row in enumerate(rows):
        for name, value in by_definition(row, k, n).items():
            assert found[name][user] == pytest.approx(value, abs=1e-12), name
    assert summarize(ranks, (k,), offsets)[f"ndcg@{k}"] == pytest.approx(found["ndcg"].mean(), abs=1e-12)
    for name, metric in AT.items():  # users with one item each need no offsets
        np.testing.assert_array_equal(metric(ranks, k), metric(ranks, k, np.arange(len(ranks) + 1)), err_msg=name)


def test_nothing_found_is_worth_nothing():
    ranks, offsets = np.array([np.inf, np.inf, 2, np.inf]), np.array([0, 2, 4])
    for metric in AT.values():
        assert metric(ranks, 5, offsets)[0] == 0 < metric(ranks, 5, offsets)[1]
        assert metric(ranks, 5).tolist()[:2] == [0, 0]
    assert mrr(ranks, offsets).tolist() == [0, 0.5] and mrr(ranks).tolist() == [0, 0, 0.5, 0]


def test_no_users_are_no_numbers():
    nothing, offsets = np.array([], int), np.array([0])
    for metric in AT.values():
        assert metric(nothing, 5).shape == metric(nothing, 5, offsets).shape == (0,)
    for found in (mrr(nothing, offsets), auc(nothing, 9, offsets), accuracy_at(nothing, 3, 9, offsets)):
        assert found.shape == (0,)
    assert list_ranks(np.zeros((0, 4), int), nothing).shape == target_ranks(np.zeros((0, 4)), nothing).shape == (0,)


def test_moving_a_relevant_item_up_never_hurts():
    rng = np.random.default_rng(0)
    for _ in range(200):
        ranks = np.sort(rng.choice(np.arange(2, 40), 4, replace=False))
        better = ranks.copy()
        better[0] -= 1
        one = np.array([0, 4])
        for metric in AT.values():
            assert metric(better, 10, one) >= metric(ranks, 10, one)
        assert mrr(better, one) > mrr(ranks, one) and auc(better, 50, one) > auc(ranks, 50, one)


@pytest.mark.parametrize("relevant", [1, 5])
def test_metrics_equal_ranx(relevant):
    ranx = pytest.importorskip("ranx")
    rng = np.random.default_rng(relevant)
    lists = np.stack([rng.permutation(60)[:25] for _ in range(50)])
    lists[::7, 20:] = -1  # some lists are shorter
    rows = [rng.choice(60, rng.integers(1, relevant + 1), replace=False) for _ in lists]
    names = [f"{user:02d}" for user in range(len(lists))]
    qrels = ranx.Qrels({name: {str(item): 1 for item in row} for name, row in zip(names, rows, strict=True)})
    run = ranx.Run({name: {str(item): 25.0 - place for place, item in enumerate(row) if item >= 0}
                    for name, row in zip(names, lists, strict=True)})  # fmt: skip
    targets = ragged([row.tolist() for row in rows])
    ranks, offsets = list_ranks(lists, targets), targets.offsets
    for k in (1, 3, 10, 25, 100):
        for name, metric in AT.items():
            theirs = ranx.evaluate(qrels, run, f"{name}@{k}", return_mean=False)
            np.testing.assert_allclose(metric(ranks, k, offsets), theirs, rtol=0, atol=1e-12, err_msg=f"{name}@{k}")
    theirs = ranx.evaluate(qrels, run, "mrr", return_mean=False)
    np.testing.assert_allclose(mrr(ranks, offsets), theirs, rtol=0, atol=1e-12)


def test_auc_equals_scikit_learn():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    scores, rows = rng.random((20, 30)), [rng.choice(30, 1 + user % 5, replace=False).tolist() for user in range(20)]
    found = auc(target_ranks(scores, ragged(rows)), 30, ragged(rows).offsets)
    wanted = [roc_auc_score(np.isin(np.arange(30), row), score) for score, row in zip(scores, rows, strict=True)]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)


def test_22_000_lists_are_quick():
    rng = np.random.default_rng(0)
    lists, targets = np.tile(rng.permutation(12_000)[:100], (22_000, 1)), rng.integers(0, 12_000, 22_000)
    start = time.process_time()
    summarize(list_ranks(lists, targets))
    assert time.process_time() - start < 0.2


@settings(max_examples=40, deadline=None)
@given(rank=st.integers(1, 200), sample=st.integers(0, 199), seed=st.integers(0, 9))
def test_sampled_ranks_are_possible(rank, sample, seed):
    found = sampled_ranks(np.full(50, rank), 200, sample, seed)
    assert found.min() >= max(1, rank - (199 - sample)) and found.max() <= min(rank, sample + 1)
    np.testing.assert_array_equal(sampled_ranks(np.full(50, rank), 200, 199, seed), np.full(50, rank))


def test_sampled_ranks_have_the_right_mean_and_keep_auc():
    ranks = np.random.default_rng(0).integers(1, 1001, 20_000)
    found = sampled_ranks(ranks, 1000, 50)
    assert found.mean() == pytest.approx((1 + 50 * (ranks - 1) / 999).mean(), abs=0.1)
    assert auc(found, 51).mean() == pytest.approx(auc(ranks, 1000).mean(), abs=0.003)
    assert recall_at(found, 10).mean() > 5 * recall_at(ranks, 10).mean()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sampled_ranks(np.array([3]), 10, 10), "fewer than there are"),
        (lambda: sampled_ranks(np.array([11]), 10, 5), "rank 11 among the 10 candidates of user 0"),
        (lambda: sampled_ranks(np.array([100, 1]), np.array([10, 1000]), 5), "rank 100 among the 10"),
        (lambda: auc(np.array([50, 1]), np.array([10, 100])), "rank 50 among the 10 candidates of user 0"),
        (lambda: auc(np.array([2, 1]), np.array([10, 10, 10])), "one for each user"),
        (lambda: accuracy_at(np.array([1, 2]), 5, 1, np.array([0, 2])), "rank 2 among the 1"),
        (lambda: accuracy_at(np.array([9]), 5, 3), "rank 9 among the 3"),
        (lambda: recall_at(np.array([1, 2]), 2.5), "k a whole number"),
        (lambda: recall_at(np.array([[1, 2]]), 2), "shape"),
        (lambda: candidate_counts(2, np.array([5]), ragged([[1]])), "0 to 1"),
        (lambda: candidate_counts(2, np.array([1]), ragged([[7, 8, 9]])), "mask of type"),
        (lambda: target_ranks(np.ones((1, 3)), ragged([[-1, 2]])), "found targets"),
        (lambda: sampled_ranks(np.array([np.inf]), 10, 5), "fewer than there are"),
        (lambda: auc(np.array([2, np.inf]), 10), "full ranking"),
        (lambda: auc(np.array([1, 2]), 2, np.array([0, 2])), "irrelevant"),
        (lambda: recall_at(np.array([1.0, np.nan]), 3), "nan"),
        (lambda: recall_at(np.array([1, 2]), 3, np.array([0, 1])), "offsets up to 1 for 2 ranks"),
        (lambda: recall_at(np.array([1, 2]), 3, np.array([0, 0, 2])), "rising"),
    ],
)
def test_impossible_metrics_are_an_error(call, message):
    with pytest.raises(CrossrecError, match=message):
        call()


@pytest.mark.parametrize("call", [lambda: recall_at([1], 0), lambda: ndcg_at([0], 5), lambda: mrr([-1]),
                                  lambda: summarize([])])
def test_impossible_ranks_are_an_error(call):
    with pytest.raises(CrossrecError):
        call()
