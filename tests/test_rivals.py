"""SASRec, GRU4Rec and UniSRec: they learn what can be learned, and their new parts are what the papers say."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from crossrec.domain import Sequences
from crossrec.model import transferable
from crossrec.ranking import Scorer, rank_queries
from crossrec.rivals import GRU4REC, SASREC, UNISREC, GRU4Rec, GRUReader, MixtureOfExperts, SASRec, UniSRec
from crossrec.train import TrainSettings
from tests.toy import N_ITEMS, empty_view, item_vectors, ring, ring_queries, ring_view

BRIEF = TrainSettings(epochs=25, positions=256, rate=2e-2)
PATIENT = replace(BRIEF, epochs=120, rate=5e-3)  # the adapter learns slowly from random vectors
SMALL = {"width": 24, "max_length": 6, "dropout": 0.0}

RIVALS: dict[str, Callable[..., Scorer]] = {
    "sasrec": lambda **given: SASRec(replace(SASREC, **SMALL), **given),
    "gru4rec": lambda **given: GRU4Rec(replace(GRU4REC, **SMALL), **given),
    "unisrec": lambda **given: UniSRec(item_vectors(), 4, replace(UNISREC, **SMALL), **given),
}


@pytest.fixture(scope="module", params=RIVALS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def fitted(name: str) -> Scorer:
    return RIVALS[name](settings=PATIENT if name == "unisrec" else BRIEF).fit(ring_view())


def test_the_ring_is_learned(fitted: Scorer) -> None:
    assert rank_queries(fitted, ring_queries()).max() == 1


def test_same_seed_same_scores_other_seed_others(name: str) -> None:
    quick = replace(BRIEF, epochs=2, least_steps=1)
    once, again, other = (RIVALS[name](settings=replace(quick, seed=seed)).fit(ring_view()) for seed in (0, 0, 1))
    np.testing.assert_array_equal(again.score(ring()), once.score(ring()))
    assert np.abs(other.score(ring()) - once.score(ring())).max() > 1e-3


def test_nothing_is_known_without_users(name: str) -> None:
    assert not RIVALS[name](settings=BRIEF).fit(empty_view()).score(ring()).any()


def test_a_history_is_read_from_its_end_and_its_order_counts(fitted: Scorer) -> None:
    long = ring(users=8, length=30)
    np.testing.assert_allclose(fitted.score(long), fitted.score(long.truncate(6)), atol=1e-5)
    backwards = Sequences(long.offsets, long.items.reshape(8, 30)[:, ::-1].ravel())
    assert (fitted.score(long).argmax(1) != fitted.score(backwards).argmax(1)).all()


def test_an_empty_history_gets_the_same_score_everywhere(fitted: Scorer) -> None:
    assert not fitted.score(Sequences.from_lists([[], [3]]))[0].any()


def test_neither_sasrec_nor_gru4rec_reads_text() -> None:
    for name in ("sasrec", "gru4rec"):
        names = RIVALS[name]().build(N_ITEMS).state_dict()
        assert "ids" in names and not any("project" in key for key in names)


def test_the_recurrent_reader_is_causal_and_follows_its_equation() -> None:
    torch.manual_seed(0)
    reader = GRUReader(replace(GRU4REC, width=5, layers=1)).eval()
    x = torch.randn(2, 7, 5)
    whole, changed = reader(x), x.clone()
    changed[:, 4:] += 1
    torch.testing.assert_close(reader(changed)[:, :4], whole[:, :4])
    assert not torch.allclose(reader(changed)[:, 4:], whole[:, 4:])
    units, h = reader.units, torch.zeros(2, 5)
    for step in range(7):
        a = (x[:, step] @ units.weight_ih_l0.T + units.bias_ih_l0).chunk(3, -1)
        b = (h @ units.weight_hh_l0.T + units.bias_hh_l0).chunk(3, -1)
        r, z = torch.sigmoid(a[0] + b[0]), torch.sigmoid(a[1] + b[1])
        h = (1 - z) * torch.tanh(a[2] + r * b[2]) + z * h
        torch.testing.assert_close(reader.last(h), whole[:, step])


def different_experts() -> MixtureOfExperts:
    """As after some training: at first all experts are alike."""
    torch.manual_seed(0)
    mixture = MixtureOfExperts(6, 4, experts=3, dropout=0.0)
    torch.nn.init.normal_(mixture.experts.weight)
    torch.nn.init.normal_(mixture.experts.bias)
    return mixture


def test_experts_are_mixed_by_the_gate() -> None:
    mixture, x = different_experts().eval(), torch.randn(5, 6)
    gates = torch.softmax(x @ mixture.gate.weight.T, -1)
    weights, biases = mixture.experts.weight.chunk(3), mixture.experts.bias.chunk(3)
    mixed = sum(gates[:, [g]] * (x @ weights[g].T + biases[g]) for g in range(3))
    torch.testing.assert_close(mixture(x), mixed / mixed.norm(dim=1, keepdim=True))


def test_gates_are_noisy_in_training_only() -> None:
    mixture, x = different_experts(), torch.randn(5, 6)
    assert not torch.allclose(mixture.train()(x), mixture(x), atol=1e-3)
    torch.testing.assert_close(mixture.eval()(x), mixture(x))


def test_untrained_experts_keep_the_angles_between_texts() -> None:
    mixture, x = MixtureOfExperts(6, 8, experts=3).eval(), torch.randn(5, 6)
    unit = torch.nn.functional.normalize(x, dim=1)
    torch.testing.assert_close(mixture(x) @ mixture(x).T, unit @ unit.T)


def test_unisrec_scores_are_cosines_over_a_temperature() -> None:
    scorer = RIVALS["unisrec"](settings=replace(BRIEF, epochs=1, least_steps=1)).fit(ring_view())
    assert np.abs(scorer.score(ring())).max() <= 1 / 0.07 + 1e-4
    users = scorer.net.users(scorer.net.items(), torch.arange(6)[None])
    torch.testing.assert_close(users.norm(dim=-1), torch.full((1, 6), 1 / 0.07))


def test_unisrec_knows_items_by_their_text_alone() -> None:
    taught = transferable(RIVALS["unisrec"](settings=PATIENT).fit(ring_view()).net)
    order = np.random.default_rng(0).permutation(N_ITEMS)
    place = np.argsort(order)
    size = replace(UNISREC, **SMALL)
    here, elsewhere = (
        UniSRec(vectors, 4, size, BRIEF, start=taught).fit(empty_view())
        for vectors in (item_vectors(), item_vectors()[order])
    )
    renamed = Sequences(ring().offsets, place[ring().items].astype(np.int32))
    np.testing.assert_allclose(elsewhere.score(renamed), here.score(ring())[:, order], atol=1e-4)
    assert rank_queries(here, ring_queries()).max() == 1, "what was learned is carried over"
