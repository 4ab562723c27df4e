"""What is reported: buckets, the files of a report, the contract of report.json, and one recommender judged alone."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from crossrec.baselines import ItemKNN, Popularity, rank_queries
from crossrec.core import CrossrecError
from crossrec.domain import Domain, Sequences
from crossrec.evaluate import (
    bucket_plot,
    buckets,
    evaluate,
    gain_plot,
    intervals,
    report_data,
    report_markdown,
    table_of,
    where_it_helps,
    write_report,
)
from crossrec.metrics import summarize
from crossrec.split import Queries, leave_one_out
from crossrec.transfer import METHODS, Result, Study

BUDGETS = [("zero-shot", 0), ("few-shot", 16), ("full", 90)]
SEEDS = (0, 1)


def planted_study() -> Study:
    """A study of invented ranks: transfer helps with no users, changes nothing with 16, hurts with all."""
    rng, results = np.random.default_rng(0), []
    for place, (regime, users) in enumerate(BUDGETS):
        for seed in SEEDS:
            for method in METHODS:
                ranks = rng.integers(2, 30, 120)
                if method == "transfer":
                    ranks = [np.maximum(ranks // 8, 1), ranks, ranks + 25][place]
                results.append(Result(regime, users, method, seed, ranks, 0.1234567, 0.01))
    protocol = {"split": "leave_one_out", "candidates": "all", "allow_repeats": False, "seeds": list(SEEDS)}
    protocol |= {"shots": [0, 16, "all"], "encoder": "minilm", "command": "crossrec run 'a & b' <c>"}
    histories = Sequences.from_lists([list(range(i % 7 + 1)) for i in range(120)])
    return Study(
        {"name": "rich & <old>", "users": 1000, "items": 300, "interactions": 20000},
        {"name": "poor", "users": 120, "items": 40, "interactions": 900},
        protocol, results, test=Queries(np.arange(120), histories, (np.arange(120) % 40).astype(np.int32)),
    )  # fmt: skip


@pytest.fixture(scope="module")
def study() -> Study:
    return planted_study()


@pytest.fixture(scope="module")
def folder(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report")
    write_report(study, path)
    return path


# report.json


def test_report_json_keeps_its_contract(folder: Path) -> None:
    data = json.loads((folder / "report.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert set(data) == {"crossrec", "source", "target", "protocol", "results", "verdict"}
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", data["crossrec"])
    for side in ("source", "target"):
        assert {name: type(value) for name, value in data[side].items()} == {
            "name": str, "users": int, "items": int, "interactions": int,
        }  # fmt: skip
    assert {"split", "candidates", "allow_repeats", "seeds"} <= set(data["protocol"])
    assert data["protocol"]["candidates"] == "all" and data["protocol"]["seeds"] == [0, 1]


def test_every_result_row_keeps_its_contract(folder: Path) -> None:
    rows = json.loads((folder / "report.json").read_text())["results"]
    keys = {"regime", "target_users", "method", "seed", "users_tested", "metrics", "ci95", "seconds"}
    assert all(set(row) == keys for row in rows)
    seen = {(row["regime"], row["target_users"], row["method"], row["seed"]) for row in rows}
    assert seen == {(*budget, method, seed) for budget in BUDGETS for method in METHODS for seed in SEEDS}
    assert len(rows) == len(seen)
    for row in rows:
        assert {"recall@10", "ndcg@10", "mrr"} <= set(row["metrics"]) and set(row["ci95"]) == set(row["metrics"])
        assert all(row["ci95"][name][0] <= value <= row["ci95"][name][1] for name, value in row["metrics"].items())
        assert set(row["seconds"]) == {"fit", "score"} and row["users_tested"] == 120


def test_every_verdict_keeps_its_contract(folder: Path) -> None:
    verdicts = json.loads((folder / "report.json").read_text())["verdict"]
    keys = {"regime", "target_users", "best_target_only", "gain", "ci95", "p_value", "negative_transfer", "text"}
    assert all(set(verdict) == keys for verdict in verdicts)
    assert [(verdict["regime"], verdict["target_users"]) for verdict in verdicts] == BUDGETS
    assert [verdict["negative_transfer"] for verdict in verdicts] == [False, False, True]
    assert all(v["best_target_only"] in METHODS and v["best_target_only"] != "transfer" for v in verdicts)
    assert all(v["ci95"][0] <= v["gain"] <= v["ci95"][1] for v in verdicts)


def test_metrics_are_those_of_the_ranks(study: Study) -> None:
    for row, result in zip(report_data(study)["results"], study.results, strict=True):
        assert row["metrics"] == summarize(result.ranks)


# The files


def test_every_file_is_there_whole(folder: Path) -> None:
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {"report.json", "report.md", "report.html", "figures/few_shot.png", "figures/gain.png"}
    pictures = [plt.imread(folder / "figures" / f"{name}.png") for name in ("few_shot", "gain")]
    assert pictures[0].shape[1] == pictures[1].shape[1], "both pictures are equally wide"


def test_an_error_leaves_the_old_report(folder: Path, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    broken = planted_study()
    broken.protocol["encoder"] = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        write_report(broken, folder)
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before


class Page(HTMLParser):
    """Collects what a browser would fetch or run, and whether every tag is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched, self.tags, self.open, self.text = [], [], [], ""

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        self.fetched += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_is_one_file_that_asks_for_nothing(folder: Path) -> None:
    source = (folder / "report.html").read_text()
    page = Page()
    page.feed(source)
    assert page.open == [] and page.tags.count("img") == 2
    assert all(value.startswith("data:image/png;base64,") for value in page.fetched)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not re.search(r"https?://|url\(|@import|\bon\w+=", source)


def test_html_shows_names_as_they_are(folder: Path) -> None:
    page = Page()
    page.feed((folder / "report.html").read_text())
    assert "rich & <old>" in page.text and "crossrec run 'a & b' <c>" in page.text


def test_html_and_markdown_say_the_same(folder: Path, study: Study) -> None:
    page, markdown = Page(), (folder / "report.md").read_text()
    page.feed((folder / "report.html").read_text())
    for verdict in study.verdicts:
        assert verdict.text in page.text and f"- {verdict.text}" in markdown
    for method, row in study.short_table().iterrows():
        assert all(f"{method}" in text and all(value in text for value in row) for text in (page.text, markdown))


def test_markdown_table_is_a_table(study: Study) -> None:
    rows = [line for line in report_markdown(study).splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(METHODS) and {row.count("|") for row in rows} == {5}


def test_gain_plot_names_each_opponent_and_each_outcome_once(study: Study) -> None:
    axis = gain_plot(study).axes[0]
    labels = [label.get_text() for label in axis.get_xticklabels()]
    assert [label.split("\nvs ")[0] for label in labels] == ["0", "16", "all (90)"]
    assert [label.split("\nvs ")[1] for label in labels] == [v.best_target_only for v in study.verdicts]
    assert len({text.get_text() for text in axis.get_legend().get_texts()}) == len(axis.get_legend().get_texts()) == 3


# Buckets


def test_buckets_by_hand() -> None:
    table = buckets(np.array([1, 2, 20, 1, 3]), np.array([0, 1, 4, 100, 3]), [0, 1, 5, 50, 200])
    assert table.index.tolist() == ["0", "1 to 4", "50 to 199"] and table["users"].tolist() == [1, 3, 1]
    np.testing.assert_allclose(table["ndcg"], [1, (1 / np.log2(3) + 0 + 1 / 2) / 3, 1])
    assert (table["low"] <= table["ndcg"]).all() and (table["ndcg"] <= table["high"]).all()


def test_last_bucket_is_open_and_what_lies_below_the_first_is_left_out() -> None:
    table = buckets(np.array([1, 1, 1]), np.array([0, 5, 10**6]), [1, 20])
    assert table.index.tolist() == ["1 to 19", "20+"] and table["users"].tolist() == [1, 1]


def test_where_it_helps_counts_every_user_once(study: Study) -> None:
    tables = where_it_helps(study, Sequences.from_lists([[0] * 30, [1] * 3, [2]]), "text")
    assert [table["users"].sum() for table in tables.values()] == [120, 120]
    assert tables["times the item was met in training"]["users"].to_dict() == {"0": 111, "1 to 4": 6, "20 to 99": 3}


def test_bucket_plot_shows_every_method(study: Study) -> None:
    tables = {m: where_it_helps(study, Sequences.from_lists([[0]]), m)["items in the history"] for m in METHODS}
    axis = bucket_plot(tables, "items in the history").axes[0]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == list(METHODS)


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


def test_every_metric_has_its_interval() -> None:
    ranks = np.random.default_rng(0).integers(1, 40, 200)
    table, bands = table_of(ranks), intervals(ranks)
    assert table["mean"].to_dict() == summarize(ranks) and set(bands) == set(table.index)
    assert (table["low"] < table["mean"]).all() and (table["mean"] < table["high"]).all()
    assert (table["users"] == 200).all()
