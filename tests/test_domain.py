"""Chapter 01e: any file or frame gives the same domain; it describes, cleans, saves and opens as it promises."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrec.core import CrossrecError
from crossrec.domain import Domain, read_interactions
from crossrec.read import Workspace
from tests.tables import ENGINES, ITEMS, ROWS, WRITERS, catalogue, check_refused, clean_temp, frame, lists, write

EVERYTHING = dict(k_core=0, min_history=0, repeats="keep", duplicates="keep")
SINGLE = ROWS.merge(ITEMS, on="item_id").sort_values("timestamp")  # one table with the texts inside


def check_same_as_rows(domain: Domain) -> None:
    """The domain must be that of ROWS and ITEMS."""
    clean = domain.clean(k_core=0, min_history=0)
    assert clean.users.tolist() == ["007", "NA", "ann"] and clean.item_ids.tolist() == ["1", "2", "3", "null"]
    assert lists(clean.sequences) == [[1, 0], [3], [1, 0, 2]]
    assert clean.items["title"].tolist() == ["one", "NA", "three, quoted", "nothing"]
    assert clean.interactions["timestamp"].tolist() == [1_700_000_000_000 + 60_000 * i for i in (1, 4, 3, 2, 5, 6)]


# Ways in


def written(folder: Path, stem: str, table: pd.DataFrame, kind: str, zipped: str = "") -> Path:
    """One table as a file."""
    path = folder / f"{stem}.{kind}"
    WRITERS[kind](table, path)
    if zipped:
        Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    return Path(f"{path}{zipped}")


@pytest.mark.parametrize("zipped", ["", ".gz"])
@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_gives_the_same_domain(kind: str, zipped: str, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    for stem, table in {"interactions": ROWS, "items": ITEMS}.items():
        written(folder, stem, table, kind, zipped)
    domain = Domain.load(folder)
    assert domain.name == "demo"
    assert domain.interactions["user_id"].tolist() == ROWS["user_id"].tolist()  # 007 and NA stay what they are
    assert domain.items["title"].tolist() == ITEMS["title"].tolist()
    check_same_as_rows(domain)


@pytest.mark.parametrize("zipped", ["", ".gz"])
@pytest.mark.parametrize("kind", WRITERS)
def test_a_single_file_with_the_texts_inside_or_beside(kind: str, zipped: str, tmp_path: Path) -> None:
    path = written(tmp_path, "my.log", SINGLE, kind, zipped)
    domain = Domain.load(str(path))
    assert domain.name == "my" and set(domain.items["item_id"]) == set(ITEMS["item_id"])
    check_same_as_rows(domain)
    beside = written(tmp_path, "products", ITEMS, kind, zipped)
    check_same_as_rows(Domain.load(written(tmp_path, "log", ROWS, kind, zipped), items=beside))


def test_other_suffixes_and_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ROWS.to_csv(tmp_path / "interactions.tsv", sep="\t", index=False)
    ITEMS.to_json(tmp_path / "items.json", orient="records")
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    check_same_as_rows(Domain.load(f"~/{tmp_path.name}"))


def parts(folder: Path, table: pd.DataFrame, names: list[str]) -> Path:
    """A table as a folder of Parquet parts."""
    for name, part in zip(names, np.array_split(np.arange(len(table)), len(names)), strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        table.iloc[part].to_parquet(folder / name)
    (folder / "_SUCCESS").touch()
    return folder


def test_folders_of_parquet_parts(tmp_path: Path) -> None:
    names = [f"part-{i:05}-c000.snappy.parquet" for i in range(3)]
    parts(tmp_path / "shop" / "interactions.parquet", ROWS, names)
    parts(tmp_path / "shop" / "items.parquet", ITEMS, names)
    domain = Domain.load(tmp_path / "shop")
    assert domain.interactions["user_id"].tolist() == ROWS["user_id"].tolist()  # part after part
    check_same_as_rows(domain)
    check_same_as_rows(Domain.load(parts(tmp_path / "spark output", SINGLE, names)))
    check_same_as_rows(
        Domain.load(parts(tmp_path / "log.parquet", SINGLE, ["year=2023/a.parquet", "year=2024/b.parquet"]))
    )
    check_same_as_rows(Domain.load(parts(tmp_path / "numbered", SINGLE, ["000.parquet", "001.parquet"])))
    check_refused(
        "found no file interactions", parts(tmp_path / "other", SINGLE, ["ratings.parquet", "movies.parquet"])
    )


def test_a_folder_whose_items_lie_elsewhere(tmp_path: Path) -> None:
    written(tmp_path, "interactions", ROWS, "csv")
    (tmp_path / "texts").mkdir()
    check_same_as_rows(Domain.load(tmp_path, items=written(tmp_path / "texts", "products", ITEMS, "jsonl")))


@pytest.mark.parametrize("engine", ENGINES)
def test_every_frame_gives_the_same_domain(engine: str) -> None:
    convert = ENGINES[engine]
    check_same_as_rows(Domain.from_frames(convert(ROWS), convert(ITEMS)))
    check_same_as_rows(Domain.from_frames(convert(ROWS), ITEMS))
    check_same_as_rows(Domain.from_frames(ROWS, convert(ITEMS)))
    check_same_as_rows(Domain.from_frames(convert(SINGLE)))
    check_same_as_rows(Domain("direct", convert(ROWS), ITEMS))


def test_other_names_by_mapping(tmp_path: Path) -> None:
    rows = ROWS.rename(columns={"user_id": "reviewer", "item_id": "asin", "timestamp": "when"}).assign(
        user_id="not this one"
    )
    items = ITEMS.rename(columns={"item_id": "asin"})
    names = {"user_id": "reviewer", "item_id": "asin", "timestamp": "when"}
    for convert in ENGINES.values():
        check_same_as_rows(Domain.from_frames(convert(rows), convert(items), columns=names))
    rows.to_csv(tmp_path / "log.csv", index=False)
    items.to_csv(tmp_path / "items.csv", index=False)
    check_same_as_rows(Domain.load(tmp_path / "log.csv", names, items=tmp_path / "items.csv"))
    assert read_interactions(tmp_path / "log.csv", names)["user_id"].tolist() == ROWS["user_id"].tolist()
    line = check_refused(
        "columns: found no column 'reviwer' in log.csv or items.csv",
        tmp_path / "log.csv",
        columns={"user_id": "reviwer"},
        items=tmp_path / "items.csv",
    )
    assert "{'name in crossrec': 'name in your table'}" in line


def test_encodings_and_separators_reach_both_tables(tmp_path: Path) -> None:
    write(
        tmp_path,
        interactions__csv="user_id^item_id^position\nMüller^é^1\n".encode("latin-1"),
        items__csv="item_id^title\né^Crème brûlée\n".encode("latin-1"),
    )
    domain = Domain.load(tmp_path, encoding="latin-1", separator="^", name="café").clean(**EVERYTHING)
    assert (domain.users[0], domain.item_ids[0], domain.items["title"][0], domain.name) == (
        "Müller",
        "é",
        "Crème brûlée",
        "café",
    )


def test_ratings_are_kept_and_implicit_data_needs_none() -> None:
    rated = Domain.from_frames(ROWS.assign(rating=["5", "3.5", "x", None, "1e0", "4"]), ITEMS)
    np.testing.assert_array_equal(rated.interactions["rating"], [5, 3.5, np.nan, np.nan, 1, 4])
    clean = rated.clean(k_core=0, min_history=0)
    np.testing.assert_array_equal(clean.log.ratings, np.array([3.5, 1, np.nan, np.nan, 5, 4], np.float32))
    assert "rating" not in Domain.from_frames(ROWS, ITEMS).interactions


def test_positions_give_order_without_time() -> None:
    domain = Domain.from_frames(ROWS.rename(columns={"timestamp": "position"}), ITEMS).clean(k_core=0, min_history=0)
    assert (
        not domain.has_time and domain.sequences.times is None and lists(domain.sequences) == [[1, 0], [3], [1, 0, 2]]
    )
    assert "first day" not in domain.describe()


@pytest.mark.parametrize("name", ["no/such/folder", "nobody", "x\0y", "log.csv"])
def test_unknown_name(name: str) -> None:
    check_refused("neither a file or folder nor a known data set", name)


BAD = {
    "no user": (ROWS.drop(columns="user_id"), ITEMS, "shop, interactions: found columns item_id, timestamp"),
    "no time": (ROWS.drop(columns="timestamp"), ITEMS, "expected a column timestamp or position"),
    "no item": (ROWS, ITEMS.drop(columns="item_id"), "shop, items: found columns title"),
    "no text": (ROWS, ITEMS[["item_id"]].assign(price=3), "shop, items: found no text in columns item_id, price"),
    "empty": (ROWS.iloc[:0], ITEMS, "shop, interactions: found no rows"),
    "floats": (ROWS.assign(user_id=[1.0, 2, 3, None, 5, 6]), ITEMS, "shop, interactions, column user_id: found 1.0"),
    "no frame": ({"user_id": ["a"]}, ITEMS, "found a dict"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_get_one_clear_line(case: str) -> None:
    rows, items, match = BAD[case]
    with pytest.raises(CrossrecError, match=match) as error:
        Domain.from_frames(rows, items, name="shop")
    assert "\n" not in str(error.value)
    if case != "no frame":
        with pytest.raises(CrossrecError, match=match):
            Domain("shop", rows, items)


def test_arrays_of_a_table_that_needs_cleaning_are_refused() -> None:
    for rows, items in ((ROWS, pd.concat([ITEMS, ITEMS])), (ROWS.assign(user_id=None), ITEMS), (ROWS, ITEMS.iloc[:2])):
        with pytest.raises(CrossrecError, match=r"Call clean\(\) first"):
            Domain.from_frames(rows, items).sequences  # noqa: B018  (the property is what raises)
    domain = Domain.from_frames(ROWS, ITEMS)  # in the order of the catalogue, not of the ids
    assert lists(domain.sequences) == [[1, 2], [3], [1, 2, 0]] and domain.item_ids.tolist() == ["3", "2", "1", "null"]


def test_errors_that_come_late_name_the_file(tmp_path: Path) -> None:
    ROWS.to_parquet(tmp_path / "interactions.parquet")
    ITEMS.to_parquet(tmp_path / "items.parquet")
    domains = [Domain.load(tmp_path) for _ in range(4)]
    (tmp_path / "interactions.parquet").unlink()
    for use, domain in zip(
        (Domain.clean, Domain.describe, lambda d: d.users, lambda d: d.interactions), domains, strict=True
    ):
        with pytest.raises(CrossrecError, match=r"interactions\.parquet: found a file that cannot be read"):
            use(domain)


# Cleaning, as a whole


interactions = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7), st.integers(0, 30)), min_size=1, max_size=80)


@given(interactions, st.integers(0, 3), st.sampled_from(["first", "keep"]), st.integers(0, 4))
@settings(max_examples=25, deadline=None)
def test_clean_keeps_its_promises(rows: list, k: int, repeats: str, min_history: int) -> None:
    domain = Domain.from_frames(frame(rows), catalogue(6))
    try:
        clean = domain.clean(k_core=k, repeats=repeats, min_history=min_history)
    except CrossrecError as error:
        assert "no interaction of" in str(error)
        return
    kept = clean.interactions
    assert (kept.groupby("user_id").size() >= max(k, min_history)).all()
    assert (kept.groupby("item_id").size() >= k).all()
    assert set(clean.items["item_id"]) == set(kept["item_id"]) <= set(catalogue(6)["item_id"])
    assert not kept.duplicated(["user_id", "item_id"] + ["position"] * (repeats == "keep")).any()
    assert kept.equals(kept.sort_values(["user_id", "position"], kind="stable"))
    for _, steps in clean.account.groupby("table"):
        assert steps["rows_in"].tolist()[1:] == steps["rows_out"].tolist()[:-1]
        assert (steps["rows_in"] - steps["rows_out"] == steps["dropped"]).all()
    assert clean.account.groupby("table")["rows_in"].first()["interactions"] == len(rows)
    assert clean.account.groupby("table")["rows_out"].last().to_dict() == {
        "interactions": len(kept),
        "items": clean.n_items,
    }
    assert clean.sequences.lengths.sum() == len(kept) == len(clean) and clean.sequences.lengths.min() > 0
    assert [clean.item_ids[i] for i in clean.sequences.items] == kept["item_id"].tolist()
    again = clean.clean(k_core=k, repeats=repeats, min_history=min_history)
    assert again.interactions.equals(kept) and again.items.equals(clean.items)
    assert (
        again.account.iloc[: len(clean.account)].equals(clean.account)
        and not again.account["dropped"].iloc[len(clean.account) :].any()
    )


def test_first_meeting_is_kept_and_ties_keep_their_order() -> None:
    rows = frame([(1, 5, 9), (1, 4, 2), (1, 3, 2), (1, 5, 1), (1, 4, 7)])
    for convert in ENGINES.values():
        clean = Domain.from_frames(convert(rows), catalogue()).clean(k_core=0)
        assert clean.interactions["item_id"].tolist() == ["5", "4", "3"]
        assert clean.interactions["position"].tolist() == [1, 2, 2]
        kept = Domain.from_frames(convert(rows), catalogue()).clean(k_core=0, repeats="keep")
        assert kept.interactions["item_id"].tolist() == ["5", "4", "3", "4", "5"]


def test_position_orders_what_has_the_same_time() -> None:
    rows = frame([(1, 0, 3), (1, 1, 1), (1, 2, 2)]).assign(timestamp=["2024-01-01", "2024-01-01", "2023-01-01"])
    for convert in ENGINES.values():
        clean = Domain.from_frames(convert(rows), catalogue()).clean(k_core=0)
        assert clean.item_ids[clean.sequences[0]].tolist() == ["2", "1", "0"] and clean.has_time


def test_the_same_item_with_another_text_is_a_conflict() -> None:
    items = pd.concat([ITEMS, ITEMS.iloc[:1], ITEMS.iloc[1:3].assign(title="later and ignored")])
    clean = Domain.from_frames(ROWS, items).clean(k_core=0, min_history=0)
    assert "later and ignored" not in clean.items["title"].tolist()
    steps = clean.account[clean.account["table"] == "items"].set_index("step")
    assert steps["dropped"].to_dict() == {"missing id": 0, "same item": 1, "conflict": 2, "unused": 0}
    assert steps.loc["conflict", "first_row"] == 6 and steps.loc["same item", "first_row"] == 5


def test_nothing_left_says_which_step_took_most() -> None:
    with pytest.raises(CrossrecError, match="no interaction of 6; 6 went because its user or its item has"):
        Domain.from_frames(ROWS, ITEMS, name="shop").clean(k_core=9)
    with pytest.raises(CrossrecError, match="6 went because its item is not in the catalogue"):
        Domain.from_frames(ROWS, ITEMS.assign(item_id=["a", "b", "c", "d"])).clean()


def test_silent_items_left() -> None:
    items = ITEMS.assign(title=[None, None, None, "a word about an item that nobody met"])
    with pytest.raises(CrossrecError, match="no text for any of its items"):
        Domain.from_frames(ROWS[ROWS["item_id"] != "null"], items).clean(k_core=0, min_history=0)


@pytest.mark.parametrize(
    ("name", "users", "items", "rows"),
    [("amazon_beauty", 22_363, 12_101, 198_502), ("amazon_toys", 19_412, 11_924, 167_597)],
)
def test_published_5_core_stays_whole(real_domain: Callable, name: str, users: int, items: int, rows: int) -> None:
    domain = Domain.load(real_domain(name)).clean()
    assert (len(domain.users), domain.n_items, len(domain.interactions)) == (users, items, rows)
    assert domain.account["dropped"].sum() == 0


# Looking


@pytest.mark.parametrize("engine", ENGINES)
def test_describe_counts_by_hand(engine: str) -> None:
    items = ITEMS.assign(title=["three", None, "one", "nothing"])
    domain = Domain.from_frames(ENGINES[engine](ROWS), items)
    for facts in (domain.describe(), domain.clean(k_core=0, min_history=0).describe()):
        assert facts.to_dict() == {
            "users": 3, "items": 4, "interactions": 6, "density": 0.5, "mean history": 2.0, "median history": 2.0,
            "longest history": 3, "share of the top 10% of items": pytest.approx(2 / 6), "items with text": 0.75,
            "first day": "2023-11-14", "last day": "2023-11-14",
        }  # fmt: skip
    assert repr(domain) == "Domain 'domain': 3 users, 4 items, 6 interactions" and len(domain) == 6


def test_impossible_moments_do_not_stretch_the_picture() -> None:
    rows = ROWS.assign(timestamp=["2024-01-01", "2024-01-02", "2024-01-03", "2024-01-04", "2999-01-01", "soon"])
    domain = Domain.from_frames(rows, ITEMS)
    assert domain.describe()[["first day", "last day"]].tolist() == ["2024-01-01", "2024-01-04"]
    assert sum(map(sum, (line.get_ydata() for line in domain.plot().axes[2].lines))) == 4


@pytest.mark.parametrize("time", [True, False])
def test_plot_has_named_axes(time: bool) -> None:
    rows = ROWS if time else ROWS.rename(columns={"timestamp": "position"})
    figure = Domain.from_frames(rows, ITEMS).plot()
    assert len(figure.axes) == (3 if time else 2)
    assert all(axes.get_title(loc="left") and axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes)


# Saved


def nested() -> pd.DataFrame:
    odd = [["a", "b"], None, {"k": 1}, []]
    return ITEMS.assign(tags=odd, price=[1, None, 2, 3], mixed=pd.Series([1, "2", None, 3.5], dtype=object))


@pytest.mark.parametrize("time", ["timestamp", "position"])
def test_saved_and_loaded_it_is_the_same(time: str, tmp_path: Path) -> None:
    rows = ROWS.rename(columns={"timestamp": time}).assign(rating=[1, 2, None, 4, 5, 6])
    clean = Domain.from_frames(rows, nested(), name="my shop").clean(k_core=0, min_history=0)
    clean.save(tmp_path / "saved")
    again = Domain.load(tmp_path / "saved")
    assert again.name == "my shop" and Domain.load(tmp_path / "saved", name="other").name == "other"
    assert isinstance(again.sequences.items, np.memmap) and lists(again.sequences) == lists(clean.sequences)
    assert again.interactions.equals(clean.interactions) and again.account.equals(clean.account)
    assert again.describe().equals(clean.describe()) and again.users.tolist() == clean.users.tolist()
    names = ["item_id", "title"]
    assert again.items[names].to_numpy().tolist() == clean.items[names].to_numpy().tolist()
    assert again.items["tags"].tolist() == ["k: 1", "", "a, b", ""]
    again.save(tmp_path / "saved")  # over itself
    assert Domain.load(tmp_path / "saved").interactions.equals(clean.interactions)
    once_more = again.clean(k_core=0, min_history=0)
    assert once_more.interactions.equals(clean.interactions) and len(once_more.account) > len(clean.account)


def test_a_table_that_needs_no_cleaning_can_be_saved_as_it_is(tmp_path: Path) -> None:
    domain = Domain.from_frames(ROWS, ITEMS)
    domain.save(tmp_path / "saved")
    assert Domain.load(tmp_path / "saved").interactions.equals(domain.clean(**EVERYTHING).interactions)


@pytest.mark.parametrize("engine", ENGINES)
def test_cleaned_into_a_folder_it_is_mapped_from_there(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with clean_temp(tmp_path / "temp", monkeypatch):
        domain = Domain.from_frames(ENGINES[engine](ROWS), ITEMS, name="shop")
        clean = domain.clean(k_core=0, min_history=0, out=tmp_path / "a" / "b")
        same = domain.clean(k_core=0, min_history=0)
        del domain
    assert (
        isinstance(clean.sequences.items, np.memmap)
        and Path(clean.sequences.items.filename).parent == tmp_path / "a" / "b"
    )
    assert clean.interactions.equals(same.interactions) and clean.account.equals(same.account) and clean.name == "shop"
    names = {
        "domain.json",
        "log.json",
        "account.json",
        "items.parquet",
        "users.parquet",
        "offsets.npy",
        "items.npy",
        "when.npy",
    }
    assert {file.name for file in (tmp_path / "a" / "b").iterdir()} == names and [
        file.name for file in (tmp_path / "a").iterdir()
    ] == ["b"]


def test_outputs_never_replace_what_is_no_domain(tmp_path: Path) -> None:
    write(tmp_path / "data", interactions__csv="precious")
    for use in (lambda d: d.save(tmp_path / "data"), lambda d: d.clean(k_core=0, out=tmp_path / "data")):
        with pytest.raises(
            CrossrecError, match=r"data: found a folder that holds 'interactions.csv'; expected a new folder"
        ):
            use(Domain.from_frames(ROWS, ITEMS))
    ITEMS.to_parquet(write(tmp_path / "half") / "items.parquet")
    with pytest.raises(CrossrecError, match="half: found a folder that holds 'items.parquet'"):
        Domain.from_frames(ROWS, ITEMS).save(tmp_path / "half")
    assert (tmp_path / "data" / "interactions.csv").read_text() == "precious"


def test_a_clean_that_fails_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(CrossrecError, match="no interaction of 6"):
        Domain.from_frames(ROWS, ITEMS).clean(k_core=9, out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


DAMAGE = {
    "items gone": lambda folder: (folder / "items.parquet").unlink(),
    "fewer items": lambda folder: ITEMS.iloc[:2].to_parquet(folder / "items.parquet"),
    "no account": lambda folder: (folder / "account.json").write_text("{"),
    "arrays gone": lambda folder: (folder / "items.npy").unlink(),
    "no facts": lambda folder: (folder / "domain.json").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_domain_is_refused(damage: str, tmp_path: Path) -> None:
    Domain.from_frames(ROWS, ITEMS).clean(k_core=0, min_history=0).save(tmp_path / "saved")
    DAMAGE[damage](tmp_path / "saved")
    check_refused("saved: found a file that is missing or broken .*Save the domain again", tmp_path / "saved")


def test_a_saved_domain_opens_in_a_moment(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    users, items = random.integers(0, 9_000, 600_000), random.integers(0, 50, 600_000)
    table = pl.DataFrame({"user_id": users, "item_id": items, "position": np.arange(600_000)})
    Domain.from_frames(table, catalogue(50)).clean(out=tmp_path / "big", repeats="keep")
    seconds = []
    for _ in range(3):
        start = perf_counter()
        assert len(Domain.load(tmp_path / "big")) == 600_000
        seconds.append(perf_counter() - start)
    assert min(seconds) < 0.1, seconds


def test_the_account_is_plain_json(tmp_path: Path) -> None:
    Domain.from_frames(ROWS, ITEMS).clean(k_core=0, min_history=0).save(tmp_path / "saved")
    account = json.loads((tmp_path / "saved" / "account.json").read_text())
    assert account[0] == {"table": "items", "step": "missing id", "rows_in": 4, "rows_out": 4, "dropped": 0,
                          "reason": "it has no item_id", "first_row": None}  # fmt: skip


def test_loading_and_cleaning_leave_nothing_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, "interactions", ROWS, "csv", ".gz")
    written(tmp_path, "items", ITEMS, "jsonl", ".gz")
    with clean_temp(tmp_path / "temp", monkeypatch):
        domain = Domain.load(tmp_path)
        assert any((tmp_path / "temp").iterdir()) and len(domain.clean(k_core=0, min_history=0)) == 6
        del domain
    environment = os.environ | {"TMPDIR": str(tmp_path / "temp")}
    code = f"from crossrec import Domain; domain = Domain.load({str(tmp_path)!r}); domain.clean(k_core=0)"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
    assert not any((tmp_path / "temp").iterdir())


def test_read_interactions_is_a_plain_frame(tmp_path: Path) -> None:
    path = written(tmp_path, "log", ROWS.assign(more=1), "csv")
    found = read_interactions(path)
    assert list(found.columns) == ["user_id", "item_id", "timestamp"] and found["timestamp"].dtype == "int64"
    assert found["user_id"].tolist() == ROWS["user_id"].tolist()
    with pytest.raises(CrossrecError, match="nowhere.csv: found no such file"):
        read_interactions(tmp_path / "nowhere.csv")
    assert isinstance(Workspace().folder, Path)


@pytest.mark.parametrize("way", ["relative", "through a link"])
def test_out_takes_a_path_of_any_form(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    out = "clean" if way == "relative" else tmp_path / "link" / "clean"
    clean = Domain.from_frames(ROWS, ITEMS).clean(k_core=0, min_history=0, out=out)
    assert lists(clean.sequences) == lists(Domain.load(out).sequences) == [[1, 0], [3], [1, 0, 2]]


def test_dropped_rows_never_replace_a_file_of_somebody_else(tmp_path: Path) -> None:
    domain, own, fine = Domain.from_frames(ROWS, ITEMS), tmp_path / "own.csv", tmp_path / "dropped.csv"
    own.write_text("user_id,item_id,timestamp\na,1,1\n")
    with pytest.raises(CrossrecError, match="own.csv: found a csv file that holds something else"):
        domain.clean(k_core=0, dropped=own)
    assert own.read_text().startswith("user_id")
    for _ in range(2):  # what crossrec wrote may be written again
        domain.clean(k_core=0, dropped=fine)
    assert fine.read_text().startswith("row,step,reason")


def test_each_table_may_call_the_item_differently() -> None:
    rows, items = ROWS.rename(columns={"item_id": "sku"}), ITEMS.rename(columns={"item_id": "product"})
    domain = Domain.from_frames(rows, items, columns={"item_id": ["sku", "product"]})
    assert domain.item_ids.tolist() == ITEMS["item_id"].tolist()
    assert domain.interactions["item_id"].tolist() == ROWS["item_id"].tolist()
