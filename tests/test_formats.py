"""Chapters 01f and 01g: public data sets from a tiny sample of each format, and what may not come along with them."""

import gzip
import os
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossrec.catalogue import column_text, text_columns
from crossrec.core import CrossrecError
from crossrec.domain import Domain
from crossrec.formats import (
    READERS,
    read_amazon,
    read_goodreads,
    read_mars,
    read_microlens,
    read_mind,
    read_movielens,
    read_published,
    read_recbole,
    read_steam,
)
from crossrec.layouts import LAYOUTS, Layout, find_files, recognise
from tests import published
from tests.published import LEAK, SAMPLES, python_lines, write


def rows_of(domain: Domain) -> list[tuple]:
    """User, item, time or position, and rating where there is one, sorted; a missing rating is None."""
    table = domain.interactions.astype(object).where(domain.interactions.notna(), None)
    return sorted(table.itertuples(index=False, name=None), key=str)


def texts_of(domain: Domain) -> dict[str, dict[str, str]]:
    """Of each item its texts, without the empty ones."""
    named = {name: column_text(domain.items[name]) for name in text_columns(domain.items)}
    texts: dict[str, dict[str, str]] = {}
    for number, item in enumerate(domain.items["item_id"]):
        texts[item] = {name: column.iloc[number] for name, column in named.items() if column.iloc[number]}
    return texts


@pytest.fixture(params=SAMPLES)
def sample(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Any]:
    """A folder with the files of one format, and what is in them."""
    kind, make, rows, texts = SAMPLES[request.param]
    folder = tmp_path / request.param
    folder.mkdir()
    make(folder)
    return folder, (kind, rows, texts)


def test_every_format_says_what_its_files_say(sample: tuple[Path, Any]) -> None:
    folder, (kind, rows, texts) = sample
    domain = read_published(folder)
    assert recognise(folder) == kind
    assert rows_of(domain) == sorted(rows, key=str)
    assert texts_of(domain) == texts
    assert domain.name == folder.name


def test_nothing_that_users_did_becomes_text(sample: tuple[Path, Any]) -> None:
    folder, _ = sample
    domain = read_published(folder)
    assert LEAK not in domain.items.astype(str).to_csv()
    assert (
        {"user_id", "item_id"} < set(domain.interactions) <= {"user_id", "item_id", "timestamp", "position", "rating"}
    )


def test_an_archive_reads_like_its_folder(sample: tuple[Path, Any], tmp_path: Path) -> None:
    folder, (_, rows, texts) = sample
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in folder.rglob("*"):
            archive.write(file, Path("inside") / file.relative_to(folder))
    domain = read_published(tmp_path / "a.zip")
    assert rows_of(domain) == sorted(rows, key=str) and texts_of(domain) == texts and domain.name == "a"


def test_unpacked_text_reads_like_gz(sample: tuple[Path, Any]) -> None:
    folder, (_, rows, texts) = sample
    for packed in list(folder.rglob("*.gz")):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    domain = read_published(folder)
    assert rows_of(domain) == sorted(rows, key=str) and texts_of(domain) == texts


def test_domain_load_takes_a_download_as_it_is(sample: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, (_, rows, texts) = sample
    assert rows_of(Domain.load(folder)) == sorted(rows, key=str)
    assert Domain.load(folder, name="mine").name == "mine"
    monkeypatch.chdir(folder.parent)
    assert texts_of(Domain.load(folder.name)) == texts


def test_a_domain_folder_stays_your_own(tmp_path: Path) -> None:
    published.mind(tmp_path)
    write(tmp_path / "interactions.csv", "user_id,item_id,timestamp\nme,1,1252800000\n")
    write(tmp_path / "items.csv", "item_id,title\n1,Tea\n")
    assert read_published(tmp_path) is None and list(Domain.load(tmp_path).users) == ["me"]


def test_readers_and_layouts_belong_together() -> None:
    assert set(READERS) == set(LAYOUTS)


def test_ratings_serve_as_a_threshold(tmp_path: Path) -> None:
    published.amazon_2014(tmp_path)
    liked = read_amazon(tmp_path).clean(k_core=0, min_history=0, min_rating=4)
    assert list(liked.interactions["item_id"]) == ["0001"]
    assert liked.account.set_index("step").loc["low rating", "dropped"] == 1


# Which file of several


def test_the_file_of_rows_chooses_among_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published.amazon_2014(tmp_path)
    for name in ("reviews_Toys_and_Games_5", "meta_Toys_and_Games"):
        beauty = name.replace("Toys_and_Games", "Beauty")
        (tmp_path / f"{name}.json.gz").write_bytes((tmp_path / f"{beauty}.json.gz").read_bytes())
    with pytest.raises(
        CrossrecError, match="several data sets: reviews_Beauty_5.json.gz, reviews_Toys_and_Games_5.json.gz"
    ):
        read_published(tmp_path)
    toys = read_published(tmp_path / "reviews_Toys_and_Games_5.json.gz")
    assert toys.name == "reviews_Toys_and_Games_5" and len(toys) == 2
    monkeypatch.chdir(tmp_path)
    assert find_files("reviews_Beauty_5.json.gz", "amazon").items[0].name == "meta_Beauty.json.gz"


def test_reviews_and_metadata_in_folders_side_by_side(tmp_path: Path) -> None:
    published.amazon_2023(tmp_path)
    for name, place in (("Gift_Cards.jsonl.gz", "review_categories"), ("meta_Gift_Cards.jsonl.gz", "meta_categories")):
        (tmp_path / "raw" / place).mkdir(parents=True)
        (tmp_path / name).rename(tmp_path / "raw" / place / name)
    assert (
        len(read_published(tmp_path))
        == len(read_published(tmp_path / "raw/review_categories/Gift_Cards.jsonl.gz"))
        == 2
    )


def test_a_metadata_file_is_not_a_data_set(tmp_path: Path) -> None:
    published.amazon_2014(tmp_path)
    assert read_published(tmp_path / "meta_Beauty.json.gz") is None


@pytest.mark.parametrize(
    "names", [[], ["interactions.csv", "items.csv"], ["ratings.csv"], ["behaviors.tsv"], ["movies.csv", "ratings.dat"]]
)
def test_other_files_are_left_alone(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        write(tmp_path / name, "user_id,item_id\n")
    assert read_published(tmp_path) is None
    with pytest.raises(CrossrecError, match="no files of movielens; expected two files such as u.data and u.item, or"):
        read_movielens(tmp_path)


@given(
    st.lists(
        st.from_regex(r"[A-Z][a-z]{1,8}(_[A-Z][a-z]{1,5}){0,2}", fullmatch=True), unique=True, min_size=1, max_size=6
    )
)
def test_every_category_finds_its_own_metadata(categories: list[str]) -> None:
    rows = {f"reviews_{category}_5.json.gz": f"meta_{category}.json.gz" for category in categories}
    pairs = LAYOUTS["amazon"][0].pairs(sorted([*rows, *rows.values()]))
    assert {name: items for name, (_, items) in pairs.items()} == {name: [meta] for name, meta in rows.items()}


def test_a_layout_takes_the_items_of_the_same_folder() -> None:
    layout = Layout(r"a\.csv", r"b\.csv", "a.csv and b.csv", join=True)
    assert layout.pairs(["x/a.csv", "x/b.csv", "y/a.csv", "y/b.csv"]) == {
        "x/a.csv": (["x/a.csv"], ["x/b.csv"]),
        "y/a.csv": (["y/a.csv"], ["y/b.csv"]),
    }


# What readers can be asked for


def test_tags_only_when_asked_for(tmp_path: Path) -> None:
    published.movielens_25m(tmp_path)
    assert texts_of(read_movielens(tmp_path, tags=True))["296"]["tags"] == f"1990s, cult, {LEAK}"
    (tmp_path / "tags.csv").unlink()
    with pytest.raises(CrossrecError, match="no tags; expected a file tags.csv"):
        read_movielens(tmp_path, tags=True)


def test_mind_with_times_has_the_clicks_of_impressions(tmp_path: Path) -> None:
    published.mind(tmp_path)
    domain = read_mind(tmp_path, history=False)
    assert rows_of(domain) == [
        ("U1", "N2", 1573463158000),
        ("U1", "N4", 1573459200000),
        ("U1", "N5", 1573776001000),
        ("U2", "N1", 1573582290000),
        ("U2", "N2", 1573582290000),
    ]
    assert domain.has_time and not read_mind(tmp_path).has_time
    assert len(read_mind(tmp_path / "MINDsmall_dev" / "behaviors.tsv")) == 3
    assert len(read_mind(tmp_path / "MINDsmall_train")) == 6


clicks = st.lists(st.tuples(st.sampled_from("ABCDE"), st.booleans()), min_size=1, max_size=5)
impression = st.tuples(
    st.sampled_from(["u", "v", "w"]), st.integers(0, 5), st.lists(st.sampled_from("ABCDE"), max_size=4), clicks
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(impression, min_size=1, max_size=8))
def test_mind_orders_clicks_as_a_plain_loop_would(tmp_path: Path, log: list[tuple]) -> None:
    lines, longest, clicked = [], {}, {}
    for number, (user, minute, history, shown) in enumerate(log):
        marks = " ".join(f"{news}-{int(hit)}" for news, hit in shown)
        lines.append(f"{number}\t{user}\t11/11/2019 1:0{minute}:00 PM\t{' '.join(history)}\t{marks}\n")
        if history and len(history) > len(longest.get(user, [])):
            longest[user] = history
        clicked.setdefault(user, []).append((minute, number, [news for news, hit in shown if hit]))
    expected = []
    for user in clicked:
        order = longest.get(user, []) + [
            news for *_, hits in sorted(clicked[user], key=lambda one: one[:2]) for news in hits
        ]
        expected += [(user, news, place) for place, news in enumerate(order)]
    write(tmp_path / "behaviors.tsv", "".join(lines))
    write(tmp_path / "news.tsv", "".join(f"{news}\tc\ts\tTitle {news}\t\tu\t[]\t[]\n" for news in "ABCDE"))
    if expected:
        assert rows_of(read_mind(tmp_path)) == sorted(expected, key=str)
    else:
        with pytest.raises(CrossrecError, match="no rows"):
            read_mind(tmp_path)


def test_mind_without_labels_adds_histories_only(tmp_path: Path) -> None:
    write(tmp_path / "behaviors.tsv", "1\tU1\t11/15/2019 1:00:00 PM\tN2 N1\tN1 N2\n")
    write(tmp_path / "news.tsv", "N1\tc\ts\tOne\t\tu\t[]\t[]\nN2\tc\ts\tTwo\t\tu\t[]\t[]\n")
    assert rows_of(read_mind(tmp_path)) == [("U1", "N1", 1), ("U1", "N2", 0)]


def test_goodreads_that_were_read(tmp_path: Path) -> None:
    published.goodreads(tmp_path)
    assert [row[1] for row in rows_of(read_goodreads(tmp_path, only_read=True))] == ["402128"]
    assert [row[1] for row in rows_of(read_goodreads(tmp_path / "goodreads_interactions_poetry.json.gz"))] == [
        "402128",
        "7",
    ]


def test_mars_by_its_file_and_as_dataverse_writes_it(tmp_path: Path) -> None:
    published.mars(tmp_path)
    assert rows_of(read_mars(tmp_path / "explicit_ratings_en.csv")) == [("9", "511", 1626078910000, 3.0)]
    assert texts_of(read_mars(tmp_path / "implicit_ratings_fr.csv"))["1"]["title"] == "Qu'est-ce ?"
    tabs = tmp_path / "tabs"
    write(tabs / "implicit_ratings_en.tab", 'item_id\tuser_id\tcreated_at\n510\t4287\t"2016-11-02 20:59:23"\n')
    head = "item_id\tname\tdescription\tDifficulty\tJob\tSoftware\tTheme\n"
    write(tabs / "items_en.tab", head + '510\t"What, now?"\t"A\tB"\t"Beginner"\t"[]"\t"[\'Teams\']"\t"[]"\n')
    assert texts_of(read_mars(tabs)) == {
        "510": {"title": "What, now?", "description": "A\tB", "difficulty": "Beginner", "software": "Teams"}
    }


def test_titles_of_the_larger_microlens_have_no_header(tmp_path: Path) -> None:
    write(tmp_path / "MicroLens-1M_pairs.csv", "1,9580,1583378629552\n1,2,1583378629553\n2,3,1583378629554\n")
    write(tmp_path / "MicroLens-1M_title.csv", '9580, Cats, "dogs\n2,"Tea, ""green"""\n3,\n')
    domain = read_microlens(tmp_path)
    assert texts_of(domain) == {"9580": {"title": 'Cats, "dogs'}, "2": {"title": 'Tea, "green"'}, "3": {}}
    assert len(domain) == 3


def test_games_of_one_day_keep_their_order(tmp_path: Path) -> None:
    published.steam(tmp_path)
    clean = read_steam(tmp_path).clean(k_core=0, min_history=0)
    chaos = list(clean.users).index("Chaos")
    met = clean.sequences.items[clean.sequences.offsets[chaos] : clean.sequences.offsets[chaos + 1]]
    assert list(clean.item_ids[met]) == ["620", "10"]


def test_recbole_without_times_or_ids_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.inter", "user_id:token\titem_id:token\trating:float\n1\t2\t3\n")
    write(tmp_path / "a.item", "item_id:token\ttitle:token_seq\n2\tSoap\n")
    with pytest.raises(CrossrecError, match=r"a\.inter: found columns .*; expected a column timestamp or position"):
        read_recbole(tmp_path)
    write(tmp_path / "a.inter", "who:token\twhat:token\ttimestamp:float\n1\t2\t3\n")
    with pytest.raises(
        CrossrecError, match="found fields who, what, timestamp; expected one that is named like an id of user"
    ):
        read_recbole(tmp_path)


def test_details_that_are_no_json_are_left_out(tmp_path: Path) -> None:
    published.amazon_hub(tmp_path)
    file = tmp_path / "raw_meta_Gift_Cards" / "full-00000-of-00002.parquet"
    pd.read_parquet(file).assign(details="None").to_parquet(file)
    assert "details" not in texts_of(read_amazon(tmp_path))["P1"]


# What is broken, or meant ill


def test_a_line_of_python_is_never_run(tmp_path: Path) -> None:
    published.amazon_2014(tmp_path)
    trace = tmp_path / "trace"
    write(tmp_path / "meta_Beauty.json.gz", f"{{'asin': 'B1'}}\n{{'asin': open({str(trace)!r}, 'w').close()}}\n")
    with pytest.raises(
        CrossrecError, match=r"meta_Beauty\.json\.gz: found .* in row 2; expected a dictionary on each line"
    ):
        read_amazon(tmp_path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "line", ["[1, 2]", "{'asin': 'B1'", "(" * 2000, "{" * 300 + "}" * 300, "plain text", "{'a': 1}{'b': 2}"]
)
def test_a_line_that_is_no_dictionary_is_named(tmp_path: Path, line: str) -> None:
    published.amazon_2014(tmp_path)
    write(tmp_path / "meta_Beauty.json.gz", f"{{'asin': 'B1'}}\n\n{line}\n")
    with pytest.raises(CrossrecError, match="in row 3; expected a dictionary on each line"):
        read_amazon(tmp_path)


@pytest.mark.parametrize("name", ["reviews_Beauty_5.json.gz", "meta_Beauty.json.gz"])
@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
def test_a_broken_download_is_refused_by_name(tmp_path: Path, name: str, damage: str) -> None:
    published.amazon_2014(tmp_path)
    file = tmp_path / name
    if damage == "cut":
        many = [
            {"reviewerID": str(n), "asin": "B2", "overall": 1, "unixReviewTime": n, "x": os.urandom(30).hex()}
            for n in range(9_000)
        ]
        write(file, many if name.startswith("reviews") else python_lines(many))
        file.write_bytes(file.read_bytes()[:-20_000])
    else:
        file.write_bytes(b"" if damage == "empty" else b"<html>please log in</html>")
    with pytest.raises(CrossrecError, match=name.replace(".", r"\.")):
        read_amazon(tmp_path)


def test_a_json_line_that_is_no_object_is_named(tmp_path: Path) -> None:
    published.amazon_2018(tmp_path)
    write(tmp_path / "All_Beauty_5.json.gz", '{"reviewerID": "A1", "asin": "B1"}\n[3]\n')
    with pytest.raises(CrossrecError, match=r"All_Beauty_5\.json\.gz: .*line 2"):
        read_amazon(tmp_path)


@pytest.mark.parametrize("name", ["reviews_Beauty_5.json.gz", "meta_Beauty.json.gz"])
def test_a_line_too_long_for_memory_is_refused(tmp_path: Path, name: str) -> None:
    published.amazon_2014(tmp_path)
    huge = {"asin": "B1", "reviewerID": "x" * (34 * 2**20)}
    write(tmp_path / name, [huge] if name.startswith("reviews") else python_lines([huge]))
    with pytest.raises(CrossrecError, match=name.replace(".", r"\.")):
        read_amazon(tmp_path)


def test_a_table_of_other_columns_is_named(tmp_path: Path) -> None:
    published.movielens_25m(tmp_path)
    write(tmp_path / "ratings.csv", "user,movie,stars\n1,2,3\n")
    with pytest.raises(
        CrossrecError,
        match=r"ratings\.csv: found columns user, movie, stars; expected also movieId, rating, timestamp, userId",
    ):
        read_movielens(tmp_path)


def test_a_short_line_is_named(tmp_path: Path) -> None:
    published.movielens_1m(tmp_path)
    write(tmp_path / "ratings.dat", "1::1193::5::978300760\n1::661::3\n")
    with pytest.raises(CrossrecError, match=r"ratings\.dat: .*Line: 2"):
        read_movielens(tmp_path)


def test_an_archive_that_points_outside_is_refused(tmp_path: Path) -> None:
    published.movielens_25m(tmp_path / "x")
    with zipfile.ZipFile(tmp_path / "ml.zip", "w") as archive:
        for file in (tmp_path / "x").iterdir():
            archive.write(file, file.name)
        archive.writestr("../evil.txt", "x")
    with pytest.raises(CrossrecError, match="outside the archive's folder"):
        read_published(tmp_path / "ml.zip")
    assert not (tmp_path.parent / "evil.txt").exists()


def test_a_torn_archive_is_not_recognised(tmp_path: Path) -> None:
    (tmp_path / "ml-1m.zip").write_bytes(b"PK\x03\x04 and then nothing")
    assert read_published(tmp_path / "ml-1m.zip") is None


def test_files_of_your_own_are_not_taken_for_a_published_data_set(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text("user_id,item_id,timestamp,title\na,1,1700000000,Tea\nb,1,1700000001,Tea\n")
    (tmp_path / "movies.csv").write_text("something,else\n1,2\n")
    assert len(Domain.load(tmp_path / "ratings.csv")) == 2
