"""Reports side by side: planted differences are found, luck is not, and what cannot be compared is refused."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from crossrec.compare import (
    check_comparable,
    compare,
    comparison_html,
    in_words,
    metric_of,
    read_report,
    read_reports,
    side_by_side,
    write_comparison,
)
from crossrec.core import CrossrecError
from crossrec.metrics import mrr, ndcg_at, recall_at
from crossrec.report import write_report
from crossrec.significance import holm, paired_gain
from crossrec.study import Study
from crossrec.verdict import Result
from tests.browser import open_browser

BUDGETS, SEEDS, USERS = [("few-shot", 16), ("full", 320)], (0, 1, 2), 300
HARD = np.random.default_rng(0).exponential(1, USERS)


def write(folder: Path, seed: int, lifts: tuple[float, float], **changes: object) -> Path:
    """A report in which transfer has so much skill at the two budgets; the other method is always the same."""
    rng, results = np.random.default_rng(seed), []
    for (regime, users), lift in zip(BUDGETS, lifts, strict=True):
        for one in changes.get("seeds", SEEDS):
            for method, skill in (("item_knn", 8.0), ("transfer", lift)):
                draw = np.random.default_rng(one + users) if method == "item_knn" else rng
                ranks = np.ceil(60 * HARD * draw.exponential(1, USERS) / skill).clip(1, 90).astype(np.int64)
                results.append(Result(regime, users, method, one, ranks, 1.0, 0.1))
    protocol = {
        "split": "leave_one_out",
        "candidates": "all",
        "allow_repeats": False,
        "encoder": "minilm",
        "seeds": list(changes.get("seeds", SEEDS)),
        "data": {"source": str(seed), "target": "cd" * 32},
    }
    source, target = (
        {"name": name, "users": 400, "items": 90, "interactions": 5000} for name in (f"source {seed} <i>", "poor")
    )
    users = np.array([f"u{i}" for i in range(USERS)], object)
    write_report(Study(source, target, protocol | changes.get("protocol", {}), results, test_users=users), folder)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four reports: the first, a better one with few users, a worse one with all, and the first with other luck."""
    home = tmp_path_factory.mktemp("reports")
    write(home / "first", 1, (10, 20))
    write(home / "better", 2, (40, 20))
    write(home / "worse", 3, (10, 5))
    write(home / "again", 4, (10, 20))
    return home


def found(home: Path, *names: str, **options: object) -> pd.DataFrame:
    return compare([home / name for name in names], **options)


def test_planted_differences_are_found_and_no_others(home: Path) -> None:
    table = found(home, "first", "better", "worse", "again")
    significant = table[table["significant"]]
    seen = dict(
        zip(zip(significant["report"], significant["target_users"], strict=True), significant["gain"], strict=True)
    )
    assert set(seen) == {("better", 16), ("worse", 320)} and seen["better", 16] > 0 > seen["worse", 320]
    assert not table.loc[table["report"] == "first", "significant"].any()


def test_numbers_are_those_of_a_paired_test_with_holm_over_all(home: Path) -> None:
    table = found(home, "first", "better", "again")
    ours, theirs = (pd.read_parquet(home / name / "results" / "per_user.parquet") for name in ("first", "better"))
    pair = [
        np.stack(
            [
                ndcg_at(
                    rows.query("method == 'transfer' and target_users == 16 and seed == @seed")["rank"].to_numpy(
                        np.int64
                    ),
                    10,
                )
                for seed in SEEDS
            ]
        )
        for rows in (ours, theirs)
    ]
    gain = paired_gain(*pair)
    row = table.query("report == 'better' and target_users == 16").iloc[0]
    assert (row["gain"], row["gain_low"], row["gain_high"], row["p_value"]) == pytest.approx(tuple(gain))
    rivals = table["report"] != "first"
    np.testing.assert_allclose(table.loc[rivals, "p_holm"], holm(table.loc[rivals, "p_value"].to_numpy()))
    assert row["mean"] == pytest.approx(json.loads((home / "better" / "report.json").read_text())["verdict"][0]["ndcg"])


def test_users_are_paired_by_name_not_by_place(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "better", tmp_path / "better")
    path = tmp_path / "better" / "results" / "per_user.parquet"
    pd.read_parquet(path).sample(frac=1, random_state=0).to_parquet(path, index=False)
    pd.testing.assert_frame_equal(compare([home / "first", tmp_path / "better"]), found(home, "first", "better"))


def test_a_report_does_not_differ_from_its_copy(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "first", tmp_path / "copy")
    table = compare([home / "first", tmp_path / "copy"], methods="all")
    rows = table[table["report"] == "copy"]
    assert set(rows["method"]) == {"item_knn", "transfer"} and (rows["gain"] == 0).all() and (rows["p_holm"] == 1).all()
    assert in_words(table) == ["No difference from first is significant after Holm's correction for 4 comparisons."]


def test_methods_and_metrics_by_name(home: Path) -> None:
    ranks = np.array([1, 2, 5, 11])
    for name, values in {"ndcg@5": ndcg_at(ranks, 5), "recall@3": recall_at(ranks, 3), "mrr": mrr(ranks)}.items():
        np.testing.assert_array_equal(metric_of(name)(ranks), values)
    one = found(home, "first", "again", methods="item_knn", metric="mrr")
    assert (one.loc[one["report"] == "again", "gain"] == 0).all(), "the same seeds and no source: the same numbers"
    for wrong in ("precision", "ndcg@0", "ndcg@-1", "mrr@10", ""):
        with pytest.raises(CrossrecError, match="metric: found"):
            metric_of(wrong)
    with pytest.raises(CrossrecError, match="ease.*expected methods that all reports have: item_knn, transfer"):
        found(home, "first", "again", methods=["ease"])


def test_reports_with_other_seeds_are_compared_by_their_means(home: Path, tmp_path: Path) -> None:
    write(tmp_path / "one seed", 5, (40, 20), seeds=(7,))
    table = compare([home / "first", tmp_path / "one seed"])
    assert table.query("report == 'one seed'")["significant"].tolist() == [True, False]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"protocol": {"split": "global_time"}}, "split 'global_time'; expected 'leave_one_out', as in first"),
        ({"protocol": {"allow_repeats": True}}, "allow_repeats True"),
        ({"protocol": {"data": {"source": "x", "target": "ef" * 32}}}, "target's data"),
        ({"protocol": {"candidates": "100 sampled"}}, "candidates"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_other_protocols_are_refused(home: Path, tmp_path: Path, changes: dict, words: str) -> None:
    write(tmp_path / "other", 1, (10, 20), **changes)
    with pytest.raises(CrossrecError, match=words) as error:
        compare([home / "first", tmp_path / "other"])
    assert "report other" in str(error.value)


def changed(home: Path, folder: Path, change: str) -> Path:
    """A copy of a report in which one thing is not as it was."""
    shutil.copytree(home / "first", folder)
    data = json.loads((folder / "report.json").read_text())
    ranks = pd.read_parquet(folder / "results" / "per_user.parquet")
    if change == "target":
        data["target"]["name"] = "another"
    elif change == "users":
        ranks = ranks[ranks["user_id"] != "u17"]
    elif change == "budgets":
        data["results"] = [row | {"target_users": row["target_users"] + 1} for row in data["results"]]
        ranks["target_users"] += 1
    elif change == "ranks":
        ranks = ranks.drop(columns="rank")
    elif change == "protocol":
        del data["protocol"]
    elif change == "empty result":
        data["results"] = [{}]
    elif change == "target is a word":
        data["target"] = "poor"
    elif change == "twice":
        ranks = pd.concat([ranks, ranks.iloc[:7]])
    elif change == "some gone":
        ranks = ranks.drop(ranks.index[(ranks["method"] == "item_knn") & (ranks["seed"] == 1)][:5])
    elif change == "holes":
        ranks["rank"] = ranks["rank"].where(ranks["user_id"] != "u3")
    elif change == "zero":
        ranks.loc[ranks.index[-1], "rank"] = 0
    elif change == "no transfer":
        ranks = ranks[ranks["method"] != "transfer"]
    (folder / "report.json").write_text("{" if change == "json" else json.dumps(data))
    ranks.to_parquet(folder / "results" / "per_user.parquet", index=False)
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("target", "target 'another'"),
        ("users", "0 test users that first lacks, and 1 missing"),
        ("json", "no readable report"),
        ("budgets", "no number of target users in common"),
        ("ranks", "no readable report"),
        ("protocol", "report.json has no protocol"),
        ("empty result", "report.json has results without regime"),
        ("target is a word", "report.json has no name in target"),
        ("twice", "7 rows that say again what another row says"),
        ("some gone", "295 of 300 test users for regime few-shot, target_users 16, method item_knn, seed 1"),
        ("holes", "12 rows without a rank"),
        ("zero", "a rank of 0, which is none of 1 to 90"),
        ("no transfer", "0 of 300 test users for regime few-shot, target_users 16, method transfer, seed 0"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_reports_that_do_not_fit_are_refused(home: Path, tmp_path: Path, change: str, words: str) -> None:
    with pytest.raises(CrossrecError, match=words) as error:
        compare([home / "first", changed(home, tmp_path / "copy", change)])
    assert "copy" in error.value.where or change == "budgets"


def test_reports_without_the_hash_of_their_data_may_be_compared(home: Path) -> None:
    first, second = read_report(home / "first"), read_report(home / "again")
    del second.data["protocol"]["data"]
    check_comparable([first, second])
    second.data["target"]["interactions"] += 1
    with pytest.raises(CrossrecError, match="number of interactions of the target"):
        check_comparable([first, second])


def test_folders_are_told_apart(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "again", tmp_path / "first")
    assert [report.name for report in read_reports([home / "first", home / "better"])] == ["first", "better"]
    names = [report.name for report in read_reports([home / "first", tmp_path / "first"])]
    assert names == [str(home / "first"), str(tmp_path / "first")]
    for folders, words in (
        ([home / "first"], "two or more"),
        ([home / "first"] * 2, "one folder twice"),
        ([home, home / "first"], "no readable"),
    ):
        with pytest.raises(CrossrecError, match=words):
            read_reports(folders)


class Closed(HTMLParser):
    """The text of a page; every tag is closed and nothing is fetched."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open, self.text = [], ""
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        assert tag != "script" and not {"src", "href"} & {name for name, _ in attrs}
        if tag not in ("meta", "wbr", "line", "circle"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("line", "circle"):
            assert self.open.pop() == tag

    def handle_data(self, text: str) -> None:
        self.text += text


def test_page_and_file_say_what_the_table_says(home: Path, tmp_path: Path) -> None:
    table = found(home, "first", "better", "worse")
    write_comparison(table, tmp_path / "new")
    sheet = pd.read_csv(tmp_path / "new" / "compare.csv")
    pd.testing.assert_frame_equal(sheet, table.astype(object).infer_objects(), check_dtype=False)
    text = Closed((tmp_path / "new" / "compare.html").read_text()).text
    assert all(line in text for line in in_words(table)) and len(in_words(table)) == 2
    assert all(f"{value:.4f}" in text for value in table["mean"])
    assert "source 2 <i>" in text, "what was set differently is told"
    wide = side_by_side(table)
    assert wide.shape == (2, 3) and [str(wide.iloc[0, 1])[-1], str(wide.iloc[1, 2])[-1]] == ["▲", "▼"]


def test_page_fits_a_phone(home: Path, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(comparison_html(found(home, "first", "better", "worse", "again")))
    with open_browser(tmp_path / "profile") as page:
        page.send("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=True)
        page.open((tmp_path / "page.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 390 and page.errors == []
