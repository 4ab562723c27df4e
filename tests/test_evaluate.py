"""One recommender judged alone, parts of the test users, lists side by side, and examples chosen by rule."""

from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrec.baselines import ItemKNN, Popularity
from crossrec.beyond_accuracy import coverage, diversity, novelty
from crossrec.core import CrossrecError
from crossrec.domain import Domain
from crossrec.evaluate import (
    Example,
    bucket_plot,
    buckets,
    chosen_by_rule,
    evaluate,
    examples,
    intervals,
    item_names,
    last_values,
    list_table,
    parts_by,
    pays_plot,
    popularity_parts,
    study_parts,
    table_of,
    trade_off_plot,
    where_it_helps,
    where_it_pays,
)
from crossrec.metrics import ndcg_at, summarize
from crossrec.ranking import rank_queries
from crossrec.sequences import Sequences
from crossrec.split import Queries, leave_one_out
from crossrec.study import Study
from crossrec.verdict import Result

NAMES = ("popularity", "text", "item_knn", "text_scratch", "transfer")
N, ITEMS = 120, 40


def planted_study(regime: str = "full") -> Study:
    """Transfer finds what even test users took, and misses what odd ones took; each rank has a list that agrees."""
    rng, results, lists = np.random.default_rng(0), [], {}
    targets = (np.arange(N) % ITEMS).astype(np.int32)
    for seed in (0, 1):
        for method in NAMES:
            ranks = rng.integers(2, 30, N)
            if method == "transfer":
                ranks = np.where(np.arange(N) % 2 == 0, 1, 30)
            results.append(Result(regime, 64, method, seed, ranks, 0.1, 0.1))
            if seed == 0:
                others = rng.permuted(np.tile(np.arange(ITEMS), (N, 1)), axis=1)
                others = others[others != targets[:, None]].reshape(N, ITEMS - 1)
                whole = zip(others, ranks - 1, targets, strict=True)
                lists[method] = np.array([np.insert(*three)[:10] for three in whole], dtype=np.int32)
    histories = Sequences.from_lists([[(i + 1 + step) % ITEMS for step in range(i % 7 + 1)] for i in range(N)])
    items = pd.DataFrame({"item_id": [f"i{n:02}" for n in range(ITEMS)], "title": [f"thing {n}" for n in range(ITEMS)]})
    study = Study(
        {"name": "rich", "users": 1000, "items": 300, "interactions": 20000},
        {"name": "poor", "users": N, "items": ITEMS, "interactions": 900},
        {"split": "leave_one_out", "candidates": "all", "allow_repeats": False, "seeds": [0, 1], "shots": [64]},
        results, test=Queries(np.arange(N), histories, targets), test_users=np.array([f"u{n:03}" for n in range(N)]),
    )  # fmt: skip
    study.lists, study.items, study.vectors = lists, items, rng.normal(size=(ITEMS, 6)).astype(np.float32)
    study.train = Sequences.from_lists([[0] * 30 + [1] * 20 + [2], [2, 3, 4]] + [[n] for n in range(5, 30)])
    study.known_in_source = np.arange(N) % 3 == 0
    return study


@pytest.fixture(scope="module")
def study() -> Study:
    return planted_study()


# Parts of the test users


def test_buckets_by_hand() -> None:
    table = buckets(np.array([1, 2, 20, 1, 3]), np.array([0, 1, 4, 100, 3]), [0, 1, 5, 50, 200])
    assert table.index.tolist() == ["0", "1 to 4", "50 to 199"] and table["users"].tolist() == [1, 3, 1]
    np.testing.assert_allclose(table["ndcg"], [1, (1 / np.log2(3) + 0 + 1 / 2) / 3, 1])
    several = table[table["users"] > 1]
    assert (several["low"] <= several["ndcg"]).all() and (several["ndcg"] <= several["high"]).all()
    assert table.loc[table["users"] == 1, ["low", "high"]].isna().all(None), "one user has no interval"


@given(st.lists(st.integers(0, 60), min_size=1, max_size=60))
@settings(max_examples=40, deadline=None)
def test_every_number_from_the_first_edge_on_has_a_part(numbers: list[int]) -> None:
    parts = parts_by(np.array(numbers), [1, 3, 20])
    expected = [None if n < 1 else "1 to 2" if n < 3 else "3 to 19" if n < 20 else "20+" for n in numbers]
    assert [None if pd.isna(part) else part for part in parts] == expected


@given(st.lists(st.integers(0, 50), min_size=1, max_size=80), st.floats(0.05, 0.9))
@settings(max_examples=80, deadline=None)
def test_the_head_is_the_fewest_items_with_its_share(counts: list[int], share: float) -> None:
    counts = np.array(counts)
    parts = popularity_parts(counts, share)
    head, cold = np.asarray(parts == "head"), np.asarray(parts == "cold")
    assert (cold == (counts == 0)).all()
    if counts.sum():
        assert counts[head].sum() >= share * counts.sum() - 1e-9
        assert counts[head].min() > counts[~head].max(initial=-1), "the tail is less popular"
        least = counts[head].min()
        assert counts[counts > least].sum() < share * counts.sum() + 1e-9, "without its least popular it holds less"


def test_parts_hold_every_user_once(study: Study) -> None:
    tables = where_it_helps(study, "text")
    assert [table["users"].sum() for table in tables.values()] == [N, N, N]
    by_popularity = tables["popularity of the item that was taken"]["users"].to_dict()
    met = np.bincount(study.train.items, minlength=ITEMS)[study.test.targets]
    assert by_popularity["cold"] == (met == 0).sum() and by_popularity["head"] == (met >= 30).sum()
    assert tables["user known in the source"]["users"].to_dict() == {"no": 80, "yes": 40}


def test_without_a_source_at_hand_acquaintance_is_not_told(study: Study) -> None:
    blind = planted_study()
    blind.known_in_source = None
    assert list(study_parts(blind)) == list(study_parts(study))[:2]


def test_seeds_are_averaged_only_where_training_does_not_differ() -> None:
    full, few = planted_study(), planted_study("few-shot")
    text = np.stack([ndcg_at(r.ranks, 10) for r in full.results if r.method == "text"])
    np.testing.assert_array_equal(last_values(full)["text"], text.mean(0))
    np.testing.assert_array_equal(last_values(few)["text"], text[0])


def test_planted_gain_and_planted_loss_are_found_in_their_parts(study: Study) -> None:
    odd = planted_study()
    odd.known_in_source = np.arange(N) % 2 == 1
    table = where_it_pays(odd).loc["user known in the source"]
    assert table.loc["no", "low"] > 0 and table.loc["yes", "high"] < 0 and (table["p_holm"] < 0.05).all()
    assert (where_it_pays(study)["p_holm"] >= where_it_pays(study)["p_value"]).all()
    figure = pays_plot(where_it_pays(odd))
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [f"{part} ({n})" for (_, part), n in where_it_pays(odd)["users"].items()]


def test_bucket_plot_shows_every_method(study: Study) -> None:
    by = "items in the history"
    axis = bucket_plot({name: where_it_helps(study, name)[by] for name in NAMES}, by).axes[0]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == list(NAMES)


# Lists


def test_list_table_is_chapter_08a(study: Study) -> None:
    table, counts = list_table(study), np.bincount(study.train.items, minlength=ITEMS)
    assert table.index.tolist() == list(NAMES) and np.isfinite(table.to_numpy()).all()
    for name, lists in study.lists.items():
        row = table.loc[name]
        assert row["coverage"] == coverage(lists, ITEMS)
        assert row["novelty"] == pytest.approx(novelty(lists, counts).mean())
        assert row["diversity"] == pytest.approx(diversity(lists, study.vectors).mean())
    assert table.loc["popularity", "serendipity"] == 0, "bestsellers surprise nobody"
    assert table.loc["transfer", "serendipity"] > table.loc["text", "serendipity"]


@pytest.mark.parametrize("aside", ["novelty", "coverage", "diversity", "serendipity", "popularity_bias", "gini"])
def test_trade_off_plot_names_every_method(study: Study, aside: str) -> None:
    axis = trade_off_plot(list_table(study), aside).axes[0]
    assert [text.get_text() for text in axis.texts] == list(NAMES) and axis.get_xlabel() and axis.get_ylabel()


# Examples


@given(st.integers(0, 10_000), st.integers(1, 30))
@settings(max_examples=100, deadline=None)
def test_rules_choose_who_they_say(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    ours, theirs, cold = rng.integers(1, 25, n), rng.integers(1, 25, n), rng.random(n) < 0.3
    found = chosen_by_rule(ours, theirs, cold)
    gain, finer = ndcg_at(ours, 10) - ndcg_at(theirs, 10), 1 / ours - 1 / theirs
    assert len(set(found.values())) == len(found) and found == chosen_by_rule(ours, theirs, cold)
    if "transfer gains most" in found:
        best = found["transfer gains most"]
        assert finer[best] > 0 and gain[best] == gain.max()
        assert best == min(i for i in range(n) if gain[i] == gain.max() and finer[i] == finer[gain == gain.max()].max())
    if "transfer loses most" in found:
        assert finer[found["transfer loses most"]] < 0 and gain[found["transfer loses most"]] == gain.min()
    if "the median user" in found:
        rank = ours[found["the median user"]]
        assert (ours < rank).sum() <= (n - 1) // 2 < (ours <= rank).sum()
    if "the median user who took a cold item" in found:
        assert cold[found["the median user who took a cold item"]]


def test_nobody_is_helped_where_nothing_differs() -> None:
    same = np.array([3, 1, 2])
    assert chosen_by_rule(same, same, np.zeros(3, bool)) == {"the median user": 2}


def test_examples_show_what_the_study_holds(study: Study) -> None:
    shown = examples(study)
    assert [one.rule.split(" text_")[0].split(" over")[0].split(" to")[0] for one in shown][:2] == [
        "transfer gains most", "transfer loses most",
    ]  # fmt: skip
    first = {r.method: r.ranks for r in study.results if r.seed == 0}
    for one in shown:
        user = int(one.user[1:])
        assert one.taken == f"thing {study.test.targets[user]}"
        assert one.history == [f"thing {n}" for n in study.test.histories[user]]
        assert one.ranks == {name: first[name][user] for name in one.ranks}
        for name, names in one.lists.items():
            assert names == [f"thing {n}" for n in study.lists[name][user]]
            assert one.places[name] == (one.ranks[name] if one.ranks[name] <= 10 else 0)
        assert one.table.shape == (10, len(one.lists)) and one.table.index.tolist() == list(range(1, 11))
    assert "never met in training" in repr(next(one for one in shown if "cold" in one.rule))


def test_examples_are_the_same_each_time(study: Study) -> None:
    assert [repr(one) for one in examples(study)] == [repr(one) for one in examples(planted_study())]


class Page(HTMLParser):
    """Checks that tags close, and collects bold text and all text."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.bold, self.text = [], [], ""

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "b" in self.open:
            self.bold.append(data)


def test_example_page_marks_the_item_and_escapes_names() -> None:
    lists = {"transfer": ["a & b", "<c>"], "text": ["<c>", "d"]}
    places, ranks = {"transfer": 1, "text": 0}, {"transfer": 1, "text": 7}
    one = Example("a rule", "<u>", ["<c>"] * 9, "a & b", 1, ranks, lists, places)
    page = Page()
    page.feed(one._repr_html_())
    assert page.open == [] and "✓ a & b" in page.bold and page.bold.count("✓ a & b") == 1
    assert "user <u>" in page.text and "... 1 earlier" in page.text and "met once" in page.text


def test_example_marks_the_place_not_the_name() -> None:
    lists = {"transfer": ["soup", "soup", "bread"]}
    one = Example("a rule", "u", [], "soup", 0, {"transfer": 2}, lists, {"transfer": 2})
    rows = one._repr_html_().split("<tr>")[2:]
    assert ["✓" in row for row in rows] == [False, True, False]


def test_a_study_without_lists_says_so(study: Study) -> None:
    bare = planted_study()
    bare.lists = {}
    with pytest.raises(CrossrecError, match="examples: found a study without lists.*Run transfer again"):
        examples(bare)


def test_items_are_called_by_title_unless_titles_do_not_tell() -> None:
    titled = pd.DataFrame({"item_id": ["a", "b", "c"], "title": ["Tea", "", "x" * 99], "brand": ["P", "Q", "R"]})
    assert item_names(titled).tolist() == ["Tea", "Q", "x" * 69 + "…"]
    soups = pd.DataFrame({"item_id": ["a", "b"], "title": ["soup", "soup"], "brand": ["P", "Q"]})
    assert item_names(soups).tolist() == ["soup. P", "soup. Q"]


# One recommender


def toy_domain() -> Domain:
    rng = np.random.default_rng(0)
    rows = (rng.integers(0, 30, (80, 1)) + np.cumsum(rng.integers(1, 3, (80, 7)), 1)) % 30
    users, position = np.repeat([f"u{i:02}" for i in range(80)], 7), np.tile(np.arange(7), 80)
    table = pd.DataFrame({"user_id": users, "item_id": [f"i{i:02}" for i in rows.ravel()], "position": position})
    items = pd.DataFrame({"item_id": [f"i{i:02}" for i in range(30)], "title": [f"item {i}" for i in range(30)]})
    return Domain.from_frames(table, items, "toy").clean()


def test_evaluate_equals_ranking_the_test_queries() -> None:
    domain = toy_domain()
    split = leave_one_out(domain)
    scorer = ItemKNN().fit(split.view("all"))
    recommender = SimpleNamespace(item_ids=domain.item_ids, scorer=scorer, allow_repeats=False, name="toy")
    pd.testing.assert_frame_equal(evaluate(recommender, domain), table_of(rank_queries(scorer, split.test)))


def test_evaluate_finds_items_by_id_not_by_place() -> None:
    domain = toy_domain()
    scorer = Popularity().fit(leave_one_out(domain).view("all"))
    plain = SimpleNamespace(item_ids=domain.item_ids, scorer=scorer, allow_repeats=False, name="toy")
    order = np.random.default_rng(1).permutation(30)
    shuffled = Popularity()
    shuffled.n_items, shuffled.values = 30, scorer.values[order]
    other = SimpleNamespace(item_ids=domain.item_ids[order], scorer=shuffled, allow_repeats=False, name="toy")
    pd.testing.assert_frame_equal(evaluate(other, domain), evaluate(plain, domain))


def test_evaluate_refuses_items_it_does_not_know() -> None:
    domain = toy_domain()
    recommender = SimpleNamespace(item_ids=domain.item_ids[:20], scorer=None, allow_repeats=False, name="small")
    with pytest.raises(CrossrecError, match="10 of 30 items.*small.*Transfer the recommender"):
        evaluate(recommender, domain)


class Prophet(Popularity):
    """Knows what comes next, or says the same of everything."""

    def __init__(self, answers: Queries | None) -> None:
        self.answers = answers

    def score(self, histories: Sequences) -> np.ndarray:
        scores = np.zeros((len(histories), 30), np.float32)
        if self.answers is not None:
            for row in range(len(histories)):
                known = self.answers.histories
                told = [np.array_equal(known[i], histories[row]) for i in range(len(known))]
                scores[row, self.answers.targets[told.index(True)]] = 1
        return scores


@pytest.mark.parametrize(("knows", "kind"), [(True, "too good"), (False, "constant scores")])
def test_evaluate_refuses_what_cannot_be_true(knows: bool, kind: str) -> None:
    domain = toy_domain()
    scorer = Prophet(leave_one_out(domain).test if knows else None)
    scorer.needs_interactions = False
    recommender = SimpleNamespace(item_ids=domain.item_ids, scorer=scorer, allow_repeats=False, name="toy")
    with pytest.raises(CrossrecError, match=kind):
        evaluate(recommender, domain)
    with pytest.warns(UserWarning, match=f"Let through, {kind}"):
        evaluate(recommender, domain, allow=[kind])
    with pytest.raises(CrossrecError, match="'to good'"):
        evaluate(recommender, domain, allow=["to good"])


def test_every_metric_has_its_interval() -> None:
    ranks = np.random.default_rng(0).integers(1, 40, 200)
    table, bands = table_of(ranks), intervals(ranks)
    assert table["mean"].to_dict() == summarize(ranks) and set(bands) == set(table.index)
    assert (table["low"] < table["mean"]).all() and (table["mean"] < table["high"]).all()
    assert (table["users"] == 200).all()
