"""The report: what report.json promises, the page as a browser, a phone, a printer and a reader of screens meet it."""

import json
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Text

from crossrec.calibration import reliability
from crossrec.domain import Sequences
from crossrec.findings import TABLES, per_user_table, plain, report_data, tables
from crossrec.methods import ALL_METHODS, METHODS
from crossrec.metrics import ndcg_at, summarize
from crossrec.page import document, number, said, spread, table
from crossrec.report import (
    ABOUT,
    FIGURES,
    beyond_plot,
    figures,
    gain_plot,
    headline,
    parts_plot,
    report_html,
    report_markdown,
    write_report,
)
from crossrec.split import Queries
from crossrec.study import Study
from crossrec.verdict import Result
from tests.browser import Page, open_browser

BUDGETS = [("zero-shot", 0), ("few-shot", 16), ("full", 90)]
SEEDS, USERS, ITEMS = (0, 1), 120, 40
NASTY = [
    "<script>document.title = 'broken'</script>",
    "</bdi></td></table><h1>big",
    "חלב 3% בקבוק",
    "茶 " * 60,
    "👩‍🚀 & \"quotes\" 'too'",
    "x" * 400,
    "=cmd|'/C calc'!A0",
    "a\x00b\x1b[31m",
    "‮drawkcab",
    "--><!--",
]


PROTOCOL = {
    "split": "leave_one_out",
    "candidates": "all",
    "allow_repeats": False,
    "seeds": list(SEEDS),
    "shots": [0, 16, "all"],
    "encoder": "minilm",
    "command": "crossrec run 'a & b' <c>",
    "quick": True,
    "data": {"source": "ab" * 32, "target": "cd" * 32},
    "versions": {"python": "3.12.1"},
    "machine": {"processors": 2, "device": "cpu"},
    "leaks": [
        {"kind": "same item", "severity": "warned", "where": "3 pairs", "count": 3, "examples": [], "do": "Look."}
    ],
}


def planted_results(methods: tuple[str, ...], rng: np.random.Generator) -> list[Result]:
    """Invented ranks: transfer helps with no users, changes nothing with 16, hurts with all."""
    results = []
    for place, (regime, users) in enumerate(BUDGETS):
        base = rng.integers(2, 30, USERS)  # the same ranks in another order with each seed: no luck between seeds
        for seed in SEEDS:
            for method in methods:
                ranks = rng.permutation(base)
                if method == "transfer":
                    ranks = [np.maximum(ranks // 8, 1), ranks, ranks + 25][place]
                settings = {"reach": 3, "of": "<options>"} if method == "ease" else {}
                results.append(Result(regime, users, method, seed, ranks, 0.1234567, 0.01, settings))
    return results


def planted_estimate() -> SimpleNamespace:
    """What stands for a Transferability."""
    ends = {"gain": 0.02, "low": -0.01, "high": 0.05, "pearson": 0.6, "pearson_low": 0.1, "pearson_high": 0.8}
    numbers = pd.DataFrame({"value": [0.1234], "meaning": ["how far <apart>"]}, index=["distance"])
    words = "Such pairs gained <usually>.\nNot always."
    return SimpleNamespace(words=words, table=numbers, expected=pd.DataFrame(ends, index=[0, 64]))


def planted_study(methods: tuple[str, ...] = (*METHODS, "cmf")) -> Study:
    """A whole study of invented ranks, whose items have nasty titles."""
    rng = np.random.default_rng(0)
    histories = Sequences.from_lists([list(range(i % 7 + 1)) for i in range(USERS)])
    titles = [f"{NASTY[i % len(NASTY)]} {i}" for i in range(ITEMS)]
    study = Study(
        {"name": "rich & <old>", "users": 1000, "items": 300, "interactions": 20000},
        {"name": "poor", "users": USERS, "items": ITEMS, "interactions": 900},
        PROTOCOL | {"methods": list(methods)},
        planted_results(methods, rng),
        test=Queries(np.arange(USERS), histories, (np.arange(USERS) % ITEMS).astype(np.int32)),
        test_users=np.array([f"u{i}" for i in range(USERS)], object),
        train=Sequences.from_lists([[i % 30, i % 5] for i in range(90)]),
        lists={name: np.argsort(rng.random((USERS, ITEMS)), 1)[:, :10].astype(np.int32) for name in methods},
        vectors=rng.normal(size=(ITEMS, 8)),
        known_in_source=np.arange(USERS) % 3 == 0,
        notes=["Left out: <als>, no package."],
        items=pd.DataFrame({"item_id": [f"i{i}" for i in range(ITEMS)], "title": titles}),
    )
    for name in methods:
        promise = rng.beta(2, 6, USERS)
        study.calibration[name] = reliability(promise, rng.random(USERS) < promise)
        study.calibration[name].attrs = {"temperature": 1.0, "k": 10, "perplexity": 30.0}
    study.transferability = planted_estimate()
    return study


@pytest.fixture(scope="module")
def study() -> Study:
    return planted_study()


@pytest.fixture(scope="module")
def folder(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report")
    write_report(study, path)
    return path


@pytest.fixture(scope="module")
def data(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))


@pytest.fixture(scope="module")
def source(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


# report.json


def test_report_json_keeps_its_contract(data: dict) -> None:
    assert {"crossrec", "source", "target", "protocol", "results", "verdict"} <= set(data)
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", data["crossrec"])
    for side in ("source", "target"):
        assert {"name": str, "users": int, "items": int, "interactions": int}.items() <= {
            name: type(value) for name, value in data[side].items()
        }.items()
    assert {"split", "candidates", "allow_repeats", "seeds"} <= set(data["protocol"])
    assert data["protocol"]["candidates"] == "all" and data["protocol"]["seeds"] == [0, 1]


def test_every_result_row_keeps_its_contract(data: dict, study: Study) -> None:
    rows = data["results"]
    keys = {"regime", "target_users", "method", "seed", "users_tested", "metrics", "ci95", "seconds"}
    assert all(keys <= set(row) for row in rows) and len(rows) == len(study.results)
    seen = {(row["regime"], row["target_users"], row["method"], row["seed"]) for row in rows}
    assert seen == {(*budget, method, seed) for budget in BUDGETS for method in (*METHODS, "cmf") for seed in SEEDS}
    for row, result in zip(rows, study.results, strict=True):
        assert row["metrics"] == summarize(result.ranks) and row["users_tested"] == USERS
        assert {"recall@10", "ndcg@10", "mrr"} <= set(row["metrics"]) and set(row["ci95"]) == set(row["metrics"])
        assert all(row["ci95"][name][0] <= value <= row["ci95"][name][1] for name, value in row["metrics"].items())
        assert row["seconds"] == {"fit": 0.123, "score": 0.01}


def test_every_verdict_keeps_its_contract(data: dict) -> None:
    verdicts = data["verdict"]
    keys = {"regime", "target_users", "best_target_only", "gain", "ci95", "p_value", "negative_transfer", "text"}
    assert all(keys <= set(verdict) for verdict in verdicts)
    assert [(verdict["regime"], verdict["target_users"]) for verdict in verdicts] == BUDGETS
    assert [verdict["negative_transfer"] for verdict in verdicts] == [False, False, True]
    assert [verdict["outcome"] for verdict in verdicts] == ["helps", "no clear difference", "hurts"]
    assert all(v["best_target_only"] in METHODS and v["best_target_only"] != "transfer" for v in verdicts)
    assert all(v["ci95"][0] <= v["gain"] <= v["ci95"][1] for v in verdicts)


def test_rows_of_methods_are_the_means_of_their_seeds(data: dict) -> None:
    for row in data["methods"]:
        key = row["regime"], row["target_users"], row["method"]
        own = [r["metrics"]["ndcg@10"] for r in data["results"] if (r["regime"], r["target_users"], r["method"]) == key]
        assert row["metrics"]["ndcg@10"] == pytest.approx(np.mean(own), abs=1e-12) and row["seeds"] == len(own) == 2
        assert row["ci95"]["ndcg@10"][0] <= row["metrics"]["ndcg@10"] <= row["ci95"]["ndcg@10"][1]
        if row["method"] != "transfer":
            assert row["significant"] == (row["p_holm"] < 0.05) and row["p_holm"] >= row["p_value"]


def test_shares_of_a_verdict_are_recall(data: dict) -> None:
    of = {(row["target_users"], row["method"]): row["metrics"] for row in data["methods"]}
    for verdict in data["verdict"]:
        assert verdict["recall"] == of[verdict["target_users"], "transfer"]["recall@10"]
        assert verdict["recall_best"] == of[verdict["target_users"], verdict["best_target_only"]]["recall@10"]


def test_plain_data_is_strict_json() -> None:
    odd = {
        "a": np.float32(0.5),
        "b": np.nan,
        "c": (np.int64(1), np.inf),
        "d": Path("x"),
        "e": np.array([True]),
        5: None,
    }
    assert plain(odd) == {"a": 0.5, "b": None, "c": [1, None], "d": "x", "e": [True], "5": None}
    json.dumps(plain(odd), allow_nan=False)


# The files


def test_every_file_is_there_whole(folder: Path) -> None:
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    pictures, sheets = {f"figures/{name}.png" for name in FIGURES}, {f"tables/{name}.csv" for name in TABLES}
    assert files == {"report.json", "report.md", "report.html", "results/per_user.parquet"} | pictures | sheets
    assert all(plt.imread(folder / name).shape[1] > 600 for name in pictures)


def test_the_command_line_knows_every_file(folder: Path, tmp_path: Path) -> None:
    from crossrec.cli import report_folder

    assert report_folder(folder) == folder.resolve()
    (folder / "tables" / "mine.csv").write_text("1")
    try:
        with pytest.raises(ValueError, match="tables/mine.csv"):
            report_folder(folder)
    finally:
        (folder / "tables" / "mine.csv").unlink()


def test_an_error_leaves_the_old_report(folder: Path, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    monkeypatch.setattr("crossrec.report.per_user_table", lambda study: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(study, folder)
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before


@pytest.mark.parametrize("name", TABLES)
def test_csv_says_what_json_says(folder: Path, data: dict, name: str) -> None:
    sheet, rows = pd.read_csv(folder / "tables" / f"{name}.csv"), data[name]
    assert len(sheet) == len(rows) > 0
    for (_, cells), row in zip(sheet.iterrows(), rows, strict=True):
        for column, cell in cells.items():
            value = row
            for part in re.split(r"\.(?=low$|high$)|(?<=metrics)\.|(?<=ci95)\.|(?<=seconds)\.|(?<=settings)\.", column):
                if value is None:
                    break
                value = value[("low", "high").index(part)] if isinstance(value, list) else value.get(part)
            if value is None:
                assert pd.isna(cell), (column, cell)
            else:
                assert cell == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value), (
                    column,
                    cell,
                    value,
                )


def test_ranks_of_users_give_the_metrics_again(folder: Path, data: dict) -> None:
    ranks = pd.read_parquet(folder / "results" / "per_user.parquet")
    assert list(ranks.columns) == ["regime", "target_users", "method", "seed", "user_id", "rank"]
    assert ranks["user_id"].iloc[:2].tolist() == ["u0", "u1"]
    keys = ["regime", "target_users", "method", "seed"]
    values = ranks.assign(ndcg=ndcg_at(ranks["rank"].to_numpy(np.int64), 10), recall=ranks["rank"] <= 10)
    means = values.groupby(keys, observed=True)[["ndcg", "recall"]].mean()
    for row in data["results"]:
        key = tuple(row[name] for name in keys)
        assert means.loc[key, "recall"] == pytest.approx(row["metrics"]["recall@10"], abs=1e-12)
        assert means.loc[key, "ndcg"] == pytest.approx(row["metrics"]["ndcg@10"], abs=1e-12)


def test_a_study_of_bare_results_has_a_report_too(study: Study, tmp_path: Path) -> None:
    bare = Study(
        study.source,
        study.target,
        {"split": "leave_one_out", "candidates": "all", "allow_repeats": True, "seeds": [0, 1], "encoder": "minilm"},
        study.results,
    )
    write_report(bare, tmp_path)
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"few_shot.png", "gain.png"}
    page = Parsed((tmp_path / "report.html").read_text())
    assert "examples" not in page.ids and {"answer", "curve", "methods", "how", "again", "words"} <= page.ids


# The page, read


class Parsed(HTMLParser):
    """Collects what a browser would fetch or run, what stands on the page, and whether every tag is closed."""

    EMPTY = ("meta", "img", "br", "wbr", "line", "circle", "polyline", "polygon")

    def __init__(self, source: str) -> None:
        super().__init__()
        self.fetched, self.tags, self.open, self.text, self.ids = [], [], [], "", set()
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        self.fetched += [
            values[name] for name in ("src", "href", "srcset", "data", "action", "xlink:href") if name in values
        ]
        assert not [name for name in values if name.startswith("on")]
        self.ids.add(values.get("id"))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, text: str) -> None:
        if "style" not in self.open:
            self.text += text


def test_html_is_one_file_that_asks_for_nothing(source: str) -> None:
    page = Parsed(source)
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.fetched) and page.fetched
    assert not {"script", "link", "iframe", "object", "embed", "form"} & set(page.tags)
    assert not re.search(r"https?://|url\(|@import", source)


def test_html_has_one_title_and_headings_in_order(source: str) -> None:
    page = Parsed(source)
    levels = [int(tag[1]) for tag in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    assert page.tags.count("table") == page.tags.count("caption") > 5
    assert all(
        'role="img" aria-label="' in part or 'aria-hidden="true"' in part or "viewBox" in part or "overflow" in part
        for part in re.findall("<svg[^>]*>", source)
    )


def test_html_shows_data_as_they_are_and_runs_none(source: str) -> None:
    page = Parsed(source)
    for words in (
        "rich & <old>",
        "crossrec run 'a & b' <c>",
        "Left out: <als>",
        "of <options>",
        "how far <apart>",
        "gained <usually>",
        "not tried",
    ):
        assert words in page.text
    assert "\x00" not in source and "\x1b" not in source
    shown = [title for title in NASTY if said(title, 60)[5:-6][:20] in source]
    assert len(shown) >= 2, "examples show some of the titles"


@given(st.text(max_size=300))
def test_no_text_breaks_out(text: str) -> None:
    page = Parsed(document(text, table([said(text)], [[said(text)]], said(text))))
    assert page.tags.count("bdi") == 3 and {"html", "table", "caption"} <= set(page.tags)
    document(text).encode("utf-8")
    assert len(unescape(said(text, 40))) <= 40 + len("<bdi></bdi>")


def test_html_and_markdown_say_the_same(folder: Path, source: str, study: Study) -> None:
    text, markdown = Parsed(source).text, (folder / "report.md").read_text()
    answer, where = headline(report_data(study)["verdict"])
    assert answer in text and where in text and f"**{answer}** {where}" in markdown
    for verdict in study.verdicts:
        assert f"- {verdict.text}" in markdown and verdict.text.partition(").")[2].strip() in text
    for method, row in study.short_table().iterrows():
        assert all(method in page and all(value in page for value in row) for page in (text, markdown))
    assert study.break_even.text in text and study.break_even.text in markdown


def numbers_of(value: object) -> list[float]:
    """Every number in report.json, those within its texts too."""
    if isinstance(value, dict):
        return [number for part in value.values() for number in numbers_of(part)]
    if isinstance(value, list):
        return [number for part in value for number in numbers_of(part)]
    if isinstance(value, str):
        return [float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?:\.\d+)?", value)]
    return [] if value is None or isinstance(value, bool) else [abs(float(value))]


def test_every_number_of_the_page_is_in_report_json(source: str, data: dict) -> None:
    known = np.array(sorted(numbers_of(data)))
    spent = (
        pd.json_normalize(data["results"]).groupby(["method", "target_users"])[["seconds.fit", "seconds.score"]].mean()
    )
    of = [spent.to_numpy().ravel(), 100 * known, 1000 * known]  # means of seconds; shares as people
    known = np.sort(np.concatenate([known, *of, [len(e["history"]) - 8 for e in data["examples"]]]))
    body = re.sub(r"<(style|svg|ol)\b.*?</\1>|<dl>.*?</dl>|<title>.*?</title>", " ", source, flags=re.S)
    body = re.sub(r"NDCG@10|recall@10|SHA-256|\b95%|p &lt; 0.05|Of 1,?000? users", " ", body)
    body = re.sub(r"<[^>]+>", " ", body)
    found = re.findall(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?![\w])", unescape(body))
    assert len(found) > 500
    for text in found:
        value, half = float(text.replace(",", "")), 0.5000001 * 10.0 ** -len(text.partition(".")[2])
        at = np.searchsorted(known, value)
        near = known[max(0, at - 1) : at + 1]
        assert (abs(near - value) <= half).any(), f"{text} stands on the page and not in report.json"


def test_a_report_can_be_drawn_anew_from_its_file(data: dict, source: str) -> None:
    assert report_html(data).encode("utf-8", "replace") == source.encode()


def test_every_method_is_explained() -> None:
    assert set(ABOUT) == set(ALL_METHODS)


def test_what_a_reader_must_know_stands_with_the_answer(data: dict) -> None:
    answer = report_html(data).partition('<section id="answer">')[2].partition("</section>")[0]
    cautions = re.findall('class="caution">(.*?)</p>', answer)
    assert len(cautions) == 3 and "quick run" in cautions[0] and "Only 2 seeds" in cautions[1]
    assert cautions[2].startswith("cmf, which sees the source as well, is clearly better")
    assert all(f"> **Caution.** {unescape(line)}\n" in report_markdown(data) for line in cautions)
    assert "90 target users" in cautions[2], "with all users transfer was planted to be worse than every other"
    assert f'class="lede">{data["break_even"]["text"]}' in answer


def test_without_the_model_that_never_saw_the_source_the_answer_says_so(study: Study, data: dict) -> None:
    said = "text_scratch, the same model without the source, was not compared"
    assert said not in report_markdown(data)
    rows = [row for row in data["results"] if row["method"] != "text_scratch"]
    assert said in report_markdown(data | {"results": rows})


@pytest.mark.parametrize(
    ("leak", "words"),
    [
        (
            ("later than the question", "warned", "training", 110),
            "after 110 of 120 test questions were answered. Gains",
        ),
        (("same item twice", "warned", "9 pairs", 2), "2 test questions ask for an item that the same user met in the"),
        (
            ("copied people", "refused", "x", 118),
            "118 of 120 test users have a history that stands in the source as well",
        ),
        (("user in item text", "refused", "poor", 5), "5 times (refused by the guard, and let pass)"),
        (("of another sort", "warned", "there", 7), "of another sort, 7 times (there)"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_leak_that_passed_stands_beside_the_verdict(data: dict, leak: tuple, words: str) -> None:
    leaks = [dict(zip(("kind", "severity", "where", "count"), leak, strict=True)) | {"do": "<Look>."}]
    found = data | {"protocol": data["protocol"] | {"leaks": leaks}}
    answer = report_html(found).partition('<section id="answer">')[2]
    grave = answer.partition('<p class="caution grave">')[2].partition("</p>")[0]
    assert answer.index("caution grave") < answer.index('class="lede"'), "right below the answer"
    assert grave.startswith("<b>Caution.</b> The guards found: ") and words in grave
    assert words in report_markdown(found).partition("- No target user")[0]


def test_what_the_guard_only_noted_is_no_caution(data: dict) -> None:
    noted = [{"kind": "same item twice", "severity": "noted", "where": "x", "count": 2, "do": ""}]
    page = report_html(data | {"protocol": data["protocol"] | {"leaks": noted}})
    assert 'class="caution grave"' not in page
    let = ["Let through, too good: text, No target user: NDCG@10 of 0.953."]
    page = report_html(data | {"protocol": data["protocol"] | {"leaks": []}, "notes": let})
    assert "found: too good: text, No target user: NDCG@10 of 0.953 (let pass). Gains" in page


def test_every_part_of_the_page_is_in_its_navigation(source: str) -> None:
    nav = source.partition("<nav")[2].partition("</nav>")[0]
    assert re.findall('href="#(.*?)"', nav) == re.findall('<section id="(.*?)"', source) and "estimate" in nav


def test_what_accuracy_cost_can_be_read_beside_it(source: str, data: dict) -> None:
    beyond = source.partition('<section id="beyond">')[2].partition("</table>")[0]
    assert beyond.index("NDCG@10") < beyond.index("catalogue shown")
    assert all(f"<td>{row['ndcg']:.3f}</td>" in beyond for row in data["beyond_accuracy"])


def test_numbers_of_users_are_whole(data: dict, source: str) -> None:
    rows = [*data["where_it_helps"], *data["where_it_pays"]]
    assert rows and all(type(row["users"]) is int for row in rows)
    assert not re.search(r"\d\.\d users", source)


def test_break_even_is_no_answer_where_nothing_helps(data: dict) -> None:
    nothing = data | {"verdict": [verdict | {"word": "no clear difference"} for verdict in data["verdict"]]}
    page, text = report_html(nothing), data["break_even"]["text"]
    assert f"By the curve alone, which may be luck: {text}" in page and f'class="lede">{text}' not in page
    assert text not in report_markdown(nothing) and text in report_markdown(data)


def test_marks_are_those_of_holm(source: str, data: dict) -> None:
    section = source.partition('<section id="methods">')[2].partition("</table>")[0]
    worse = [row for row in data["methods"] if row["significant"] and row["difference"] < 0]
    better = [row for row in data["methods"] if row["significant"] and row["difference"] > 0]
    assert (section.count("▼</b>"), section.count("▲</b>")) == (len(worse), len(better)) and worse and better


# Pieces


def test_markdown_table_is_a_table(data: dict) -> None:
    rows = [line for line in report_markdown(data).splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(METHODS) + 1 and {row.count("|") for row in rows} == {5}


def boxes_of(figure: Figure, texts: list) -> list:
    """Where texts stand in the finished picture, in pixels."""
    figure.draw_without_rendering()
    return [text.get_window_extent() for text in texts if text.get_text() and text.get_visible()]


def test_gain_plot_names_each_opponent_and_each_word_once(data: dict) -> None:
    verdicts = [data["verdict"][0] | {"word": "may hurt"}, *data["verdict"], data["verdict"][2]]
    figure = gain_plot(verdicts)
    axis = figure.axes[0]
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert [label.split("\nagainst ")[1] for label in labels] == [v["best_target_only"] for v in verdicts]
    assert labels[1].startswith("No target user\n") and labels[4].startswith("All 90 target users\n")
    legend = [text.get_text() for text in axis.get_legend().get_texts()]
    assert sorted(legend) == ["helps", "hurts", "may hurt", "no clear difference"]
    boxes = boxes_of(figure, axis.get_yticklabels())
    assert not any(a.overlaps(b) for a, b in zip(boxes, boxes[1:], strict=False))


@pytest.mark.parametrize("budgets", [1, 3])
def test_no_letter_is_cut_off_at_the_edge_of_a_picture(data: dict, budgets: int) -> None:
    for figure in (gain_plot(data["verdict"][:budgets]), parts_plot(data), beyond_plot(data)):
        axis, ends = figure.axes[0], figure.axes[-1].get_legend()
        texts = [
            axis.xaxis.label,
            axis.yaxis.label,
            *axis.get_yticklabels(),
            *axis.texts,
            *(ends.texts if ends else []),
        ]
        boxes = boxes_of(figure, texts)
        width, height = figure.canvas.get_width_height()
        assert len(boxes) >= 4
        assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height for box in boxes)


def test_pictures_mark_what_the_page_marks(data: dict) -> None:
    rows = [row | {"low": 0.001, "gain": 0.02, "high": 0.04, "p_holm": 0.058} for row in data["where_it_pays"]]
    rows[0]["p_holm"] = 0.01
    changed = data | {"where_it_pays": rows}
    legend = parts_plot(changed).axes[0].get_legend().get_texts()
    assert [text.get_text() for text in legend] == ["helps", "no clear difference"]
    where = report_html(changed).partition('<section id="where">')[2].partition("<details>")[0]
    assert where.count("▲ helps") == 1 and parts_plot(changed).axes[0].containers[0].lines[0].get_xdata().size == 1


def test_names_of_methods_do_not_lie_on_each_other(data: dict) -> None:
    figure = beyond_plot(data)
    boxes = boxes_of(figure, figure.axes[0].get_yticklabels())
    assert len(boxes) == len(METHODS) + 1 and not any(a.overlaps(b) for a, b in zip(boxes, boxes[1:], strict=False))
    titles = boxes_of(
        figure, [next(t for t in axis.findobj(Text) if t.get_text() == axis.get_title("left")) for axis in figure.axes]
    )
    assert len(titles) == 7 and not any(a.overlaps(b) for a, b in zip(titles, titles[1:], strict=False))


def test_parts_in_which_no_promise_was_kept_can_be_drawn(study: Study) -> None:
    never = reliability(np.full(7, 0.2), np.zeros(7, bool))
    never["low"] += 1e-17  # as rounding leaves it: above the share of 0
    drawn = figures(replace(study, calibration={"transfer": never}), report_data(study))
    assert set(drawn) == set(FIGURES)


def test_one_budget_and_budgets_of_equal_size_have_a_page(study: Study) -> None:
    one = replace(study, results=study.at(BUDGETS[0]))
    assert Parsed(report_html(report_data(one))).text.count("No target user") >= 2
    twins = [*study.at(BUDGETS[2]), *(replace(result, regime="few-shot") for result in study.at(BUDGETS[2]))]
    page = Parsed(report_html(report_data(replace(study, results=twins[::-1]))))
    assert "All 90 target users" in page.text and "90 target users" in page.text.replace("All 90 target users", "")


@given(st.lists(st.floats(0, 100), max_size=30), st.floats(0.1, 20))
def test_spread_labels_keep_order_and_distance(places: list[float], gap: float) -> None:
    found = spread(places, gap)
    order = np.argsort(places, kind="stable")
    steps = np.diff(np.array(found)[order]) if len(places) > 1 else np.array([gap])
    room = 104 / max(len(places) - 1, 1)
    assert (steps >= min(gap, room) - 1e-6).all() and all(-2 - 1e-6 <= place <= 102 + 1e-6 for place in found)


@given(st.floats(-1e6, 1e6))
def test_numbers_in_print_read_back(value: float) -> None:
    read = float(number(value, sign=True).replace("−", "-").replace(",", ""))
    assert read == pytest.approx(value, abs=0.5001e-4) and number(value) != "−0.0000"


def test_per_user_table_is_compact(study: Study) -> None:
    found = per_user_table(study)
    assert len(found) == len(study.results) * USERS and found["rank"].dtype == np.int32
    assert set(tables(report_data(study))) == set(TABLES)


# The page, looked at


CONTRAST = """(() => {
  const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255).map(
    v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
  const ground = light(getComputedStyle(document.body).backgroundColor);
  const ratio = c => { const l = light(c); return (Math.max(l, ground) + .05) / (Math.min(l, ground) + .05); };
  const names = 'p,h1,h2,h3,h4,li,td,th,b,small,a,summary,dt,dd,mark,caption,code,figcaption';
  const letters = [...document.querySelectorAll(names)]
    .map(e => [ratio(getComputedStyle(e).color), e.tagName]);
  const drawn = [...document.querySelectorAll('svg text')].map(e => [ratio(getComputedStyle(e).fill), 'text']);
  return [...letters, ...drawn].sort((a, b) => a[0] - b[0])[0]; })()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Page:
    with open_browser(tmp_path_factory.mktemp("browser") / "profile") as page:
        yield page


def opened(browser: Page, folder: Path, width: int = 1280, scheme: str = "light", media: str = "screen") -> Page:
    browser.send(
        "Emulation.setEmulatedMedia", media=media, features=[{"name": "prefers-color-scheme", "value": scheme}]
    )
    browser.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
    browser.open((folder / "report.html").as_uri())
    return browser


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_page_never_scrolls_sideways(browser: Page, folder: Path, width: int) -> None:
    page = opened(browser, folder, width)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = page.evaluate("[...document.querySelectorAll('.wide')].some(e => e.scrollWidth > e.clientWidth + 1)")
    assert wide or width > 400, "wide tables scroll inside themselves on a phone"
    assert page.requests == [(folder / "report.html").as_uri()] and page.errors == []
    assert page.evaluate("document.title") == "From rich & <old> to poor", "no title of an item was run as a script"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_shadow_lies_where_more_of_a_table_is_hidden(
    browser: Page, folder: Path, scheme: str, tmp_path: Path
) -> None:
    page = opened(browser, folder, 390, scheme)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.evaluate("(window.wide = document.querySelector('#methods details .wide')).scrollIntoView()")
    right, top = page.evaluate("(r => [r.right, r.top])(window.wide.getBoundingClientRect())")
    grey = []
    for left in (0, 9999):
        page.evaluate(f"window.wide.scrollLeft = {left}")
        page.screenshot(tmp_path / "edge.png")
        picture = plt.imread(tmp_path / "edge.png")[int(top) + 3]
        grey.append(np.abs(picture[int(right) - 2, :3] - picture[4, :3]).max())
    assert grey[0] > 0.05 and grey[1] < 0.02


def test_a_phone_shows_more_than_two_budgets_and_whole_names(browser: Page, folder: Path) -> None:
    page = opened(browser, folder, 390)
    ends = "[...document.querySelectorAll('#methods thead')][0].querySelectorAll('th')"
    rights = page.evaluate(f"[...{ends}].map(e => e.getBoundingClientRect().right)")
    assert sum(right <= 390 - 16 for right in rights) >= 4, "the name and three budgets"
    lines = "e => [e.innerText, new Set([...e.getClientRects()].map(r => r.top)).size]"
    names = page.evaluate(f"[...document.querySelector('#methods tbody').querySelectorAll('th bdi')].map({lines})")
    assert len(names) == len(METHODS) + 1
    assert all(n <= 1 + name.count("_") for name, n in names), "broken after _ and nowhere else"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_letters_can_be_read(browser: Page, folder: Path, scheme: str) -> None:
    page = opened(browser, folder, scheme=scheme)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    contrast, tag = page.evaluate(CONTRAST)
    assert dark is (scheme == "dark") and contrast >= 4.5, f"{tag} has a contrast of {contrast:.2f}"


def test_letters_of_charts_keep_their_size_on_a_phone(browser: Page, folder: Path) -> None:
    size = "[...document.querySelectorAll('.grid text')].map(e => e.getBoundingClientRect().height)[0]"
    wide, narrow = (opened(browser, folder, width).evaluate(size) for width in (1280, 390))
    assert wide == pytest.approx(narrow, abs=0.5) and narrow > 10


def test_names_on_a_wide_chart_do_not_overlap_or_leave_the_page(browser: Page, folder: Path) -> None:
    boxes = opened(browser, folder).evaluate(
        "[...document.querySelectorAll('.name text')].map(e => e.getBoundingClientRect()).map(r => [r.top, r.right])"
    )
    tops = sorted(box[0] for box in boxes)
    assert len(boxes) == len(METHODS) + 2 and min(np.diff(tops)) > 10 and max(box[1] for box in boxes) < 1280


def test_paper_is_light_and_shows_what_was_folded(browser: Page, folder: Path) -> None:
    page = opened(browser, folder, scheme="dark", media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    heights = page.evaluate(
        "[...document.querySelectorAll('details')].map(d => d.lastElementChild.getBoundingClientRect().height)"
    )
    assert len(heights) > 5 and min(heights) > 10
    assert page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
