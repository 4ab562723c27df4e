"""Ways to carry a model over: each changes what its paper says and nothing else, and the plain way is the plain one."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from crossrec.core import CrossrecError
from crossrec.domain import Sequences
from crossrec.loop import Callback, Run
from crossrec.losses import coral, mmd
from crossrec.model import ModelSettings, TwoTower, transferable
from crossrec.ranking import rank_queries
from crossrec.split import Queries, View
from crossrec.train import NextItem, SequenceScorer, TrainSettings
from crossrec.ways import (
    ADAPT_WAYS,
    ALIGNMENTS,
    CarriedScorer,
    JointScorer,
    adapt,
    depth_groups,
    learn_state,
    mixed_batches,
    source_shares,
)
from tests.toy import BRIEF, N_ITEMS, clock, empty_view, item_vectors, no_queries, ring, ring_queries, ring_view, walks

SIZE = ModelSettings(width=16, layers=2, max_length=8, dropout=0.1, ids=False)
QUICK = TrainSettings(epochs=3, least_steps=10, positions=256, rate=5e-3)
SETTLED = replace(QUICK, decay=0.0)  # weight decay draws to zero, which is not what these tests are about


def view_of(rows: Sequences, n_items: int, valid: Queries | None = None) -> View:
    return View("full", n_items, rows, valid or no_queries(), len(rows), np.arange(len(rows)))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return math.sqrt(sum(float((one[name] - other[name]).square().sum()) for name in one))


@pytest.fixture(scope="module")
def taught() -> dict[str, Tensor]:
    """What a walk the other way round taught."""
    split = walks(40, 200, direction=-1)
    return learn_state(
        [(item_vectors(12, 1), Sequences(split.train.offsets, split.train.items % N_ITEMS))], SIZE, QUICK
    )


@pytest.fixture
def judged_view() -> View:
    """A view with people to stop early by."""
    return replace(ring_view(), valid=ring_queries())


def carried(taught: dict[str, Tensor], way: str, view: View | None = None, settings: Any = QUICK, **told: Any) -> dict:
    scorer = CarriedScorer(item_vectors(), SIZE, settings, taught, way=way, **told).fit(view or ring_view())
    return transferable(scorer.net)


# Ways to adapt


def test_every_way_has_a_line_with_its_paper() -> None:
    assert list(ADAPT_WAYS) == ["frozen", "head", "full", "gradual", "l2_sp", "lora"]
    for line in ADAPT_WAYS.values():
        assert "et al., " in line or "Ruder, 2018" in line
    assert set(ALIGNMENTS) == {"none", "adversarial", "mmd", "coral"}


@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("started", [False, True])
def test_full_is_the_plain_scorer(taught: dict[str, Tensor], judged_view: View, ids: bool, started: bool) -> None:
    given = (item_vectors(), replace(SIZE, ids=ids), QUICK, taught if started else None)
    plain, full = SequenceScorer(*given).fit(judged_view), CarriedScorer(*given, way="full").fit(judged_view)
    assert same(plain.net.state_dict(), full.net.state_dict())
    np.testing.assert_array_equal(plain.score(ring()), full.score(ring()))
    pd.testing.assert_frame_equal(plain.log.drop(columns="seconds"), full.log.drop(columns="seconds"))


@pytest.mark.parametrize("way", ADAPT_WAYS)
def test_every_way_ends_plain_learns_and_repeats_itself(taught: dict[str, Tensor], judged_view: View, way: str) -> None:
    once, again = (
        CarriedScorer(item_vectors(), SIZE, QUICK, taught, way=way, strength=5.0).fit(judged_view) for _ in range(2)
    )
    np.testing.assert_array_equal(once.score(ring()), again.score(ring()))
    state = transferable(once.net)
    TwoTower(SIZE, N_ITEMS, item_vectors()).load_state_dict(state)
    assert all(weight.requires_grad for weight in once.net.parameters()) and not once.net.training
    assert all(weight.dtype == torch.float32 for weight in state.values())
    assert same(state, taught) == (way == "frozen")
    assert once.frozen == (way == "frozen") and once.score(ring()).shape == (len(ring()), N_ITEMS)


@pytest.mark.parametrize("way", ADAPT_WAYS)
def test_with_nobody_to_learn_from_every_way_is_frozen(taught: dict[str, Tensor], way: str) -> None:
    assert same(carried(taught, way, empty_view()), taught)


def test_the_argument_frozen_is_the_way(taught: dict[str, Tensor]) -> None:
    assert same(carried(taught, "full", frozen=True), taught)
    assert same(carried(taught, "frozen"), taught)


def test_head_moves_the_ends_alone(taught: dict[str, Tensor]) -> None:
    state = carried(taught, "head")
    moved = {name for name in state if not torch.equal(state[name], taught[name])}
    assert moved == {"project.weight", "encoder.last.weight", "encoder.last.bias"}


def test_no_pull_is_full_and_a_strong_pull_stays(taught: dict[str, Tensor]) -> None:
    full = carried(taught, "full")
    assert same(carried(taught, "l2_sp", strength=0.0), full)
    assert same(carried(taught, "l2_sp", strength=1e9), taught)
    moved = [distance(carried(taught, "l2_sp", strength=strength), taught) for strength in (10.0, 100.0)]
    assert distance(full, taught) > moved[0] > moved[1] > 0


@pytest.mark.parametrize("rank", [1, 3])
def test_lora_changes_matrices_by_its_rank(taught: dict[str, Tensor], judged_view: View, rank: int) -> None:
    state = carried(taught, "lora", judged_view, rank=rank)
    for name in state:
        change = state[name] - taught[name]
        if change.ndim == 2 and name != "encoder.positions":
            assert change.abs().max() > 0
            strength = torch.linalg.svdvals(change.double())
            assert strength[rank:].max() < 1e-5 * max(1.0, float(strength[0])), name
        else:
            assert not change.any(), name


class Reads(Callback):
    """Judged as others read the model: what validation sees is what the merged model says."""

    def __init__(self) -> None:
        self.scorer: CarriedScorer | None = None
        self.seen: list[np.ndarray] = []

    def epoch(self, run: Run) -> None:
        assert self.scorer is not None
        self.seen.append(self.scorer.score(ring()))


def test_validation_sees_thin_matrices_as_the_merged_model_has_them(taught: dict[str, Tensor]) -> None:
    reads = Reads()
    last = replace(QUICK, average=0.0)  # with a mean the model ends elsewhere than in its last step
    reads.scorer = CarriedScorer(item_vectors(), SIZE, last, taught, callbacks=[reads], way="lora")
    reads.scorer.fit(ring_view())
    np.testing.assert_allclose(reads.scorer.score(ring()), reads.seen[-1], atol=1e-5)
    assert np.abs(reads.seen[0] - reads.seen[-1]).max() > 1e-3


class Snapshots(Callback):
    """Every group's weights after each step."""

    def __init__(self) -> None:
        self.seen: list[list[Tensor]] = []

    def step(self, run: Run) -> None:
        groups = depth_groups(run.task.net)
        self.seen.append([torch.cat([weight.detach().flatten().clone() for weight in group]) for group in groups])


def test_lower_groups_sleep_until_they_wake(taught: dict[str, Tensor]) -> None:
    snapshots = Snapshots()
    net = TwoTower(SIZE, N_ITEMS, item_vectors())
    net.load_state_dict(taught)
    before = [torch.cat([weight.detach().flatten().clone() for weight in group]) for group in depth_groups(net)]
    log = adapt(net, ring(), replace(QUICK, epochs=10), "gradual", callbacks=[snapshots])
    total = len(snapshots.seen)
    assert total >= 20 and len(log) == 10
    wake = [above * 0.5 * total // 3 for above in (3, 2, 1, 0)]  # chapter 13: the last wakes after half of the run
    for group, first in enumerate(wake):
        for step, seen in enumerate(snapshots.seen):
            assert torch.equal(seen[group], before[group]) == (step < first), (group, step)


def test_groups_hold_every_weight_once() -> None:
    net = TwoTower(replace(SIZE, ids=True), N_ITEMS, item_vectors())
    groups = depth_groups(net)
    assert len(groups) == SIZE.layers + 2
    found = [id(weight) for group in groups for weight in group]
    assert len(found) == len(set(found)) and set(found) == {id(weight) for weight in net.parameters()}
    assert {id(net.project.weight), id(net.encoder.positions), id(net.ids)} == {id(weight) for weight in groups[0]}


def test_a_run_that_breaks_leaves_a_plain_model(taught: dict[str, Tensor]) -> None:
    net = TwoTower(SIZE, N_ITEMS, item_vectors())

    class Stop(Callback):
        def step(self, run: Run) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adapt(net, ring(), QUICK, "lora", callbacks=[Stop()])
    assert net.state_dict().keys() == taught.keys() and all(weight.requires_grad for weight in net.parameters())


def test_the_best_state_is_kept(taught: dict[str, Tensor]) -> None:
    values = iter([0.1, 0.0, 0.0, 0.9, *[0.2] * 20])  # of the last weights and of their mean, pass by pass
    net, kept = TwoTower(SIZE, N_ITEMS, item_vectors()), []
    net.load_state_dict(taught)

    def judge() -> float:
        kept.append(transferable(net)["encoder.last.weight"].clone())
        return next(values)

    log = adapt(net, ring(), replace(QUICK, patience=2), "head", judge)
    assert torch.equal(net.encoder.last.weight, kept[3]) and len(log) == 4


# Learning on the source


def test_one_source_is_the_plain_scorer() -> None:
    plain = SequenceScorer(item_vectors(), SIZE, QUICK).fit(ring_view())
    assert same(learn_state([(item_vectors(), ring())], SIZE, QUICK), transferable(plain.net))
    with_ids = learn_state([(item_vectors(), ring())], replace(SIZE, ids=True, text=False), QUICK, temperature=3.0)
    assert same(with_ids, transferable(plain.net)), "text and no ids, whatever the settings say"


def test_one_large_source_is_the_plain_scorer_too() -> None:
    sampled = replace(QUICK, sample_above=10, negatives=16)
    plain = SequenceScorer(item_vectors(), SIZE, sampled).fit(ring_view())
    assert same(learn_state([(item_vectors(), ring())], SIZE, sampled), transferable(plain.net))


def shifted(n: int) -> np.ndarray:
    """Text vectors that lie elsewhere, and spread more in half of their directions."""
    spread = np.where(np.arange(12) < 6, 0.4, 0.1)
    return (np.random.default_rng(2).normal(size=(n, 12)) * spread + 0.2).astype(np.float32)


def on_a_ring(**told: Any) -> dict[str, Tensor]:
    """Long enough for an opponent, who needs some hundred steps."""
    settings = replace(QUICK, epochs=120, rate=2e-3)
    return learn_state([(item_vectors(), ring())], SIZE, settings, **told)


@pytest.fixture(scope="module")
def unaligned() -> dict[str, Tensor]:
    return on_a_ring()


@pytest.mark.parametrize(("align", "strength"), [("adversarial", 1.0), ("mmd", 1.0), ("coral", 10.0)])
def test_alignment_brings_the_clouds_together(unaligned: dict[str, Tensor], align: str, strength: float) -> None:
    target = shifted(60)
    aligned = on_a_ring(align=align, target_vectors=target, strength=strength)

    def apart(state: dict[str, Tensor]) -> float:
        x, y = (torch.from_numpy(vectors) @ state["project.weight"].T for vectors in (item_vectors(), target))
        size = torch.cat([x, y]).square().mean().sqrt()
        return float((coral if align == "coral" else mmd)(x / size, y / size))

    assert apart(aligned) < 0.7 * apart(unaligned)
    TwoTower(SIZE, 60, target).load_state_dict(aligned)


@pytest.mark.parametrize("align", ["adversarial", "mmd", "coral"])
def test_alignment_repeats_itself(align: str) -> None:
    told = {"model": SIZE, "settings": QUICK, "target_vectors": shifted(300), "align": align}
    once, again = (learn_state([(item_vectors(), ring())], **told) for _ in range(2))
    assert same(once, again) and not same(once, learn_state([(item_vectors(), ring())], SIZE, QUICK))


def test_no_strength_is_no_alignment() -> None:
    given = ([(item_vectors(), ring())], SIZE, QUICK)
    for align in ("mmd", "coral"):
        state = learn_state(*given, align=align, target_vectors=shifted(30), strength=0.0)
        assert distance(state, learn_state(*given)) < 1e-4


@pytest.mark.parametrize(("sizes", "temperature"), [([100, 10, 1], 1.0), ([100, 10, 1], 4.0), ([7, 7], 2.0)])
def test_shares_follow_the_formula(sizes: list[int], temperature: float) -> None:
    powers = np.array(sizes) ** (1 / temperature)
    np.testing.assert_allclose(source_shares(np.array(sizes), temperature), powers / powers.sum(), rtol=1e-12)


def test_shares_at_the_ends() -> None:
    np.testing.assert_allclose(source_shares(np.array([100, 10, 1]), math.inf), [1 / 3] * 3)
    np.testing.assert_allclose(source_shares(np.array([10**9, 1]), 0.01), [1, 0], atol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 3.0, 100.0])
def test_batches_are_drawn_by_the_shares_and_are_of_one_source(temperature: float) -> None:
    settings = replace(QUICK, positions=64)
    tasks = [NextItem(TwoTower(SIZE, N_ITEMS, item_vectors()), ring(users), settings) for users in (400, 60, 12)]
    sizes, windows = [7 * users for users in (400, 60, 12)], np.array([400, 460, 472])
    shares, rng, found = source_shares(np.array(sizes), temperature), np.random.default_rng(0), np.zeros(3)
    lengths = set()
    for _ in range(60):
        batches = mixed_batches(tasks, shares, 10_000, rng)
        lengths.add(len(batches))
        for rows in batches:
            whose = np.searchsorted(windows, rows, "right")
            assert (whose == whose[0]).all()
            found[whose[0]] += 1
    assert len(lengths) == 1, "every pass has as many batches"
    np.testing.assert_allclose(found / found.sum(), shares, atol=3 * np.sqrt(0.25 / found.sum()))
    assert len(mixed_batches(tasks, shares, 5, rng)) == 5


def test_two_sources_teach_both() -> None:
    """Two rings of other items and other lengths, each ranked over its own catalogue with what both taught."""
    small, large = clock(20), clock(30, 0.5)
    rows = {
        n: Sequences.from_lists([[(start + step) % n for step in range(8)] for start in range(60)]) for n in (20, 30)
    }
    settings = replace(BRIEF, epochs=40, most_steps=300, positions=128)
    state = learn_state([(large, rows[30]), (small, rows[20])], SIZE, settings, temperature=2.0)
    for vectors in (small, large):
        n = len(vectors)
        histories = Sequences.from_lists([[i, (i + 1) % n, (i + 2) % n] for i in range(n)])
        queries = Queries(np.arange(n), histories, ((np.arange(n) + 3) % n).astype(np.int32))
        nobody = View("zero-shot", n, rows[20].take(np.arange(0)), no_queries(), 0, np.zeros(0, np.int64))
        scorer = CarriedScorer(vectors, SIZE, settings, state, way="frozen").fit(nobody)
        assert rank_queries(scorer, queries).mean() < 1.5


# Both domains at once


def joint_ring(users: int) -> Sequences:
    """Target item i is always followed by source item i, known as N_ITEMS + i, and that by target item i + 1."""
    pairs = [
        [((start + step) % N_ITEMS, N_ITEMS + (start + step) % N_ITEMS) for step in range(4)] for start in range(users)
    ]
    both = [[item for pair in row for item in pair] for row in pairs]
    return Sequences.from_lists(
        [row[start // N_ITEMS % 2 :] for start, row in enumerate(both)]
    )  # some begin in the source


def test_joint_scores_the_target_alone_and_learns_from_shared_users() -> None:
    vectors = np.concatenate([item_vectors(24, 0), item_vectors(24, 3)])
    rows = joint_ring(96)
    here = [[item for item in rows[row] if item < N_ITEMS] for row in range(96)]
    there = [[item for item in rows[row] if item >= N_ITEMS] for row in range(96)]
    asked, found = Sequences.from_lists([[N_ITEMS + i] for i in range(N_ITEMS)]), {}
    for name, told in {"shared": rows, "apart": Sequences.from_lists([*here, *there])}.items():
        joint = JointScorer(vectors, told, SIZE, replace(BRIEF, epochs=100)).fit(empty_view())
        scores = joint.score(asked)
        found[name] = (scores.argmax(1) == (np.arange(N_ITEMS) + 1) % N_ITEMS).mean()
        assert scores.shape == (N_ITEMS, N_ITEMS) and scores.dtype == np.float32
    assert found["shared"] > 0.9 and found["apart"] < 0.5, "what a source item leads to in the target"
    users, items = joint.towers(asked)
    np.testing.assert_array_equal((users @ items.T).numpy(), scores)
    TwoTower(SIZE, N_ITEMS, item_vectors(24)).load_state_dict(transferable(joint.net))


def test_joint_merges_what_the_source_knows_before_it_reads() -> None:
    vectors = np.concatenate([item_vectors(12, 0), item_vectors(12, 3)])

    def merge(histories: Sequences) -> Sequences:
        return Sequences.from_lists([[*histories[row], N_ITEMS] for row in range(len(histories))])

    plain = JointScorer(vectors, joint_ring(24), SIZE, QUICK).fit(empty_view())
    merged = JointScorer(vectors, joint_ring(24), SIZE, QUICK, merge=merge).fit(empty_view())
    np.testing.assert_array_equal(merged.score(ring(4)), plain.score(merge(ring(4))))


def test_joint_without_a_source_is_the_plain_scorer(judged_view: View) -> None:
    plain = SequenceScorer(item_vectors(), SIZE, QUICK).fit(judged_view)
    joint = JointScorer(item_vectors(), ring(), SIZE, QUICK).fit(judged_view)
    np.testing.assert_array_equal(joint.score(ring()), plain.score(ring()))


# What cannot be meant

GOOD = [(item_vectors(), ring())]
BAD = {
    "unknown way": (
        lambda: CarriedScorer(item_vectors(), way="half", start={}),
        "'half'.*'frozen' or 'head' or 'full'",
    ),
    "no start": (lambda: CarriedScorer(item_vectors(), way="lora"), "way 'lora' without a start"),
    "negative": (lambda: CarriedScorer(item_vectors(), start={}, way="l2_sp", strength=-1.0), "strength=-1.0"),
    "NaN": (lambda: CarriedScorer(item_vectors(), start={}, way="l2_sp", strength=math.nan), "strength=nan"),
    "rank": (lambda: CarriedScorer(item_vectors(), start={}, way="lora", rank=0), "rank=0"),
    "way of adapt": (lambda: adapt(TwoTower(SIZE, N_ITEMS, item_vectors()), ring(), QUICK, "half"), "'half'"),
    "nothing to predict": (
        lambda: adapt(TwoTower(SIZE, N_ITEMS, item_vectors()), Sequences.from_lists([[1]]), QUICK),
        "no history of two",
    ),
    "no source": (lambda: learn_state([], SIZE, QUICK), "no source"),
    "align": (lambda: learn_state(GOOD, SIZE, QUICK, align="cosine"), "'cosine'.*'none' or 'adversarial'"),
    "no target": (lambda: learn_state(GOOD, SIZE, QUICK, align="mmd"), "without target_vectors"),
    "strength": (lambda: learn_state(GOOD, SIZE, QUICK, strength=-0.5), "strength=-0.5"),
    "NaN strength": (lambda: learn_state(GOOD, SIZE, QUICK, strength=math.nan), "strength=nan"),
    "infinite strength": (lambda: learn_state(GOOD, SIZE, QUICK, strength=math.inf), "strength=inf"),
    "temperature": (lambda: learn_state(GOOD * 2, SIZE, QUICK, temperature=0.0), "temperature=0.0"),
    "NaN temperature": (lambda: learn_state(GOOD * 2, SIZE, QUICK, temperature=math.nan), "temperature=nan"),
    "widths": (lambda: learn_state([*GOOD, (item_vectors(7), ring())], SIZE, QUICK), r"widths \[7, 12\]"),
    "width of the target": (
        lambda: learn_state(GOOD, SIZE, QUICK, align="mmd", target_vectors=item_vectors(7)),
        r"widths \[7, 12\]",
    ),
    "item without a vector": (lambda: learn_state([(item_vectors()[:5], ring())], SIZE, QUICK), "item 23 in source 0"),
    "source without rows": (
        lambda: learn_state([*GOOD, (item_vectors(), Sequences.from_lists([[1]]))], SIZE, QUICK),
        "no history of two",
    ),
    "joint row": (lambda: JointScorer(item_vectors()[:5], ring()), "item 23"),
    "joint catalogue": (
        lambda: JointScorer(item_vectors()[:5], Sequences.from_lists([[1, 2]]), SIZE).fit(ring_view()),
        "5 vectors",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_meant_is_told(name: str) -> None:
    call, message = BAD[name]
    with pytest.raises(CrossrecError, match=f"(?s){message}"):
        call()
