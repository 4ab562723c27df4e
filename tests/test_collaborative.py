"""Matrix factorisation and graph walks: closed forms against their formulas, fold-ins against what they stand for."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from crossrec.baselines import binary_rows
from crossrec.collaborative import ALS, BPR, LightGCN, _graph, walks
from crossrec.core import CrossrecError
from crossrec.ranking import rank_queries
from crossrec.sequences import Sequences
from crossrec.split import Queries, View
from tests.toy import N_ITEMS, empty_view, ring_view


def shelves(users: int = 60) -> View:
    """Two shelves of twelve items; everybody buys five from one of them, and is asked for a sixth."""
    rng = np.random.default_rng(0)
    baskets = np.stack([rng.permutation(12)[:6] + 12 * (user % 2) for user in range(users)]).astype(np.int32)
    rows = Sequences(np.arange(0, 5 * users + 1, 5), baskets[:, :5].ravel())
    valid = Queries(np.arange(users), rows, baskets[:, 5])
    return View("full", N_ITEMS, rows, valid, users, np.arange(users))


def als(**settings: float) -> ALS:
    pytest.importorskip("implicit")
    return ALS(**{"factors": 4, "decay": 0.3, **settings})


@pytest.mark.parametrize("name", ["als", "bpr", "lightgcn"])
def test_the_shelf_of_a_newcomer_is_found(name: str) -> None:
    if name != "lightgcn":
        pytest.importorskip("implicit")
    made = {"als": ALS(factors=2), "bpr": BPR(factors=8, epochs=200), "lightgcn": LightGCN(width=8, rate=0.05)}[name]
    scorer = made.fit(shelves())
    scores = scorer.score(Sequences.from_lists([[0], [3, 5], [13], [22, 12, 17]]))
    other = np.stack([scores[:, :12].mean(1), scores[:, 12:].mean(1)], 1)
    np.testing.assert_array_equal(other.argmax(1), [0, 0, 1, 1])
    assert (rank_queries(scorer, shelves().valid) <= 7).mean() > 0.95  # seven items of the shelf are left


def test_als_solves_its_equation_for_a_newcomer() -> None:
    scorer, history = als(confidence=7.0, penalty=0.5).fit(shelves()), [2, 20, 5]
    users, items = scorer.towers(Sequences.from_lists([history]))
    gram, right = items.T @ items + 0.5 * np.eye(4), np.zeros(4)
    for age, item in enumerate(reversed(history)):
        confidence = 7 * np.exp(-0.3 * age)
        gram += (confidence - 1) * np.outer(items[item], items[item])
        right += confidence * items[item]
    np.testing.assert_allclose(users[0], np.linalg.solve(gram, right), rtol=1e-4)


def test_als_folds_a_known_user_to_where_training_put_them() -> None:
    scorer = als(decay=0.0, iterations=60).fit(shelves())
    users, _ = scorer.towers(shelves().train)
    np.testing.assert_allclose(users, scorer.model.user_factors, atol=0.02)


def test_bpr_folds_along_the_first_gradient() -> None:
    pytest.importorskip("implicit")
    view = shelves()
    scorer, history = BPR(factors=6, epochs=30, decay=0.4).fit(view), [2, 20, 5]
    items, counts = torch.from_numpy(scorer.items), torch.from_numpy(np.bincount(view.train.items, minlength=N_ITEMS))
    user = torch.zeros(6, requires_grad=True)
    gain = torch.zeros(())
    for age, item in enumerate(reversed(history)):
        margins = (items[item] - items)[:, :-1] @ user  # against every item that may be drawn; biases do not move x
        gain = gain + np.exp(-0.4 * age) * (counts / counts.sum() * torch.nn.functional.logsigmoid(margins)).sum()
    gain.backward()
    found = scorer.towers(Sequences.from_lists([history]))[0][0]
    cosine = torch.nn.functional.cosine_similarity(user.grad, torch.from_numpy(found[:-1]), dim=0)
    assert float(cosine) > 0.9999 and found[-1] == 1
    assert np.linalg.norm(found[:-1]) == pytest.approx(scorer.length, rel=1e-4)


def test_walks_are_powers_of_the_normalised_graph() -> None:
    table = binary_rows(shelves(20).train, N_ITEMS).toarray()
    dense = np.block([[np.zeros((20, 20)), table], [table.T, np.zeros((N_ITEMS, N_ITEMS))]])
    degrees = np.maximum(dense.sum(1), 1)
    dense = torch.from_numpy(dense / np.sqrt(np.outer(degrees, degrees))).float()
    graph = _graph(binary_rows(shelves(20).train, N_ITEMS)).cpu()
    nodes = torch.randn(20 + N_ITEMS, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found, power = walks(graph, nodes, 3), nodes
    for layer in found[1:]:
        power = dense @ power
        torch.testing.assert_close(layer, power)
    weights = torch.randn(20 + N_ITEMS, 3, generator=torch.Generator().manual_seed(1))
    (ours,) = torch.autograd.grad((torch.stack(found).mean(0) * weights).sum(), nodes, retain_graph=True)
    plain = sum(torch.linalg.matrix_power(dense, k) for k in range(4)) @ nodes / 4
    (expected,) = torch.autograd.grad((plain * weights).sum(), nodes)
    torch.testing.assert_close(ours, expected)


def test_lightgcn_folds_a_known_user_to_the_upper_layers_of_the_walk() -> None:
    view = replace(shelves(), valid=shelves().valid.take(np.zeros(0, int)))
    scorer, table = LightGCN(width=8, layers=3, decay=0.0, epochs=2), binary_rows(view.train, N_ITEMS)
    scorer.n_items = N_ITEMS
    nodes = torch.randn(60 + N_ITEMS, 8, generator=torch.Generator().manual_seed(0))
    scorer.keep(_graph(table), nodes.to(_graph(table).device), table)
    upper = torch.stack(walks(_graph(table).cpu(), nodes, 3)[1:]).sum(0)[:60].numpy()
    np.testing.assert_allclose(scorer.users(view.train) / np.sqrt(5), upper, atol=1e-5)  # everybody has five items


def test_lightgcn_keeps_the_epoch_that_validation_likes_best(monkeypatch: pytest.MonkeyPatch) -> None:
    from crossrec import collaborative

    good, table = LightGCN(width=8, rate=0.05, seed=3), binary_rows(shelves().train, N_ITEMS)
    graph = _graph(table)
    *_, trained = collaborative._learned(good, graph, table)
    states = [trained.detach().clone()] * 5 + [torch.randn_like(trained)] * 5
    monkeypatch.setattr(collaborative, "_learned", lambda *_: iter(states))
    kept = LightGCN(width=8).fit(shelves())
    good.keep(graph, states[0], table)
    np.testing.assert_array_equal(kept.items, good.items)


@pytest.mark.parametrize("kind", [ALS, BPR, LightGCN])
def test_items_that_nobody_met_score_zero(kind: type) -> None:
    if kind is not LightGCN:
        pytest.importorskip("implicit")
    view = shelves()
    wider = replace(view, n_items=N_ITEMS + 3, valid=view.valid.take(np.zeros(0, int)))
    assert not kind(8).fit(wider).score(view.train)[:, N_ITEMS:].any()


@pytest.mark.parametrize("kind", [ALS, BPR])
@pytest.mark.parametrize("view", [ring_view(), empty_view()], ids=["full", "zero-shot"])
def test_without_the_library_the_command_is_told(kind: type, view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "implicit"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "implicit", None)
    with pytest.raises(CrossrecError, match=r"pip install 'crossrec\[implicit\]'"):
        kind().fit(view)


def test_seeds_differ_and_repeat() -> None:
    fits = [LightGCN(width=4, epochs=1, seed=seed).fit(shelves()).items for seed in (0, 0, 1)]
    np.testing.assert_array_equal(fits[0], fits[1])
    assert np.abs(fits[0] - fits[2]).max() > 0.1
