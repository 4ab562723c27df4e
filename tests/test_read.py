"""Chapter 01: any file becomes one numbered table, packed files are not trusted, frames keep their engine."""

import gc
import gzip
import io
import os
import stat
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import duckdb
import narwhals as nw
import pandas as pd
import polars as pl
import pytest

import crossrec.read as reading_module
from crossrec.core import CrossrecError
from crossrec.domain import Domain
from crossrec.read import ROW, Workspace, kind_of, numbered, read_file, unpack, write_sorted
from tests.tables import DUCKDB, ENGINES, ITEMS, ROWS, SPACE, check_refused, clean_temp, write

HEADER = "user_id,item_id,position\n"
LOG = HEADER + "ann,1,1\nbob,2,2\n"
CATALOGUE = "item_id,title\n1,one\n2,two\n"
LINE = '{"user_id": "ann", "item_id": "1", "position": 1}\n'


def table(path: Path, **options: object) -> pd.DataFrame:
    workspace = Workspace()
    found = read_file(path, workspace, **options).sort(ROW).collect("pandas").to_native()
    return found.astype(object).where(found.notna(), None)


def parquet(rows: pd.DataFrame) -> bytes:
    rows.to_parquet(buffer := io.BytesIO())
    return buffer.getvalue()


# Text


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (LOG, {}),
        (LOG.replace("\n", "\r\n"), {}),
        (LOG.rstrip(), {}),
        (LOG + "\n\n", {}),
        ("\ufeff" + LOG, {}),
        (LOG.encode("utf-16"), {}),
        (LOG.encode("utf-16-le"), {"encoding": "utf-16-le"}),
        (LOG.replace(",", ";"), {}),
        (LOG.replace(",", "\t"), {}),
        (LOG.replace(",", "|"), {}),
        (LOG.replace(",", "^"), {"separator": "^"}),
        (LOG.replace(",", "::"), {"separator": "::"}),
        (LOG.replace("item_id,", " item_id ,"), {}),
        (LOG.replace("ann", '"ann"'), {}),
    ],
)
def test_csv_in_any_dress(content: str | bytes, options: dict, tmp_path: Path) -> None:
    found = table(write(tmp_path, log__csv=content) / "log.csv", **options)
    assert found.to_dict("list") == {
        ROW: [1, 2],
        "user_id": ["ann", "bob"],
        "item_id": ["1", "2"],
        "position": ["1", "2"],
    }


def test_fields_of_text_files_stay_text(tmp_path: Path) -> None:
    text = 'user_id,title\n007,"Soap, ""green""\nand white"\n1e3,\nNA,"  two  "\n'
    found = table(write(tmp_path, log__csv=text) / "log.csv")
    assert found["user_id"].tolist() == ["007", "1e3", "NA"] and found[ROW].tolist() == [1, 2, 3]
    assert found["title"].tolist() == ['Soap, "green"\nand white', None, "  two  "]


def test_commas_in_the_header_of_a_tsv_do_not_separate(tmp_path: Path) -> None:
    found = table(write(tmp_path, log__tsv="user_id\ttitle, long, or short\nann\ta, b\n") / "log.tsv")
    assert found["title, long, or short"].tolist() == ["a, b"]


def test_other_encodings_by_name(tmp_path: Path) -> None:
    path = write(tmp_path, log__csv="user_id\nMüller\n".encode("latin-1")) / "log.csv"
    assert table(path, encoding="latin-1")["user_id"].tolist() == ["Müller"]
    with pytest.raises(CrossrecError, match=r"log\.csv: found .*Line: 2.* not utf-8 encoded"):
        table(path)
    with pytest.raises(CrossrecError, match=r"log\.csv: found bytes that are not klingon"):
        table(path, encoding="klingon")
    with pytest.raises(CrossrecError, match=r"log\.csv: found bytes that are not ascii"):
        table(path, encoding="ascii")


def test_headerless_files_get_names(tmp_path: Path) -> None:
    path = write(tmp_path, ratings__csv="1::10::1\n2::20::3\n") / "ratings.csv"
    found = table(path, separator="::", names=["user_id", "item_id", "rating"])
    assert found.drop(columns=ROW).to_numpy().tolist() == [["1", "10", "1"], ["2", "20", "3"]]


def test_json_fields_in_order_of_appearance(tmp_path: Path) -> None:
    lines = '{"b": 1, "a": "x"}\n\n{"c": [1, "two"], "a": null, "b": {"d": 1.5}}\n'
    found = table(write(tmp_path, log__jsonl=lines) / "log.jsonl")
    assert list(found.columns) == [ROW, "b", "a", "c"]
    assert found["b"].tolist() == ["1", '{"d":1.5}'] and found["a"].tolist() == ["x", None]
    assert found["c"].tolist() == [None, '[1,"two"]']


@pytest.mark.parametrize(
    "text",
    [
        LINE + LINE,
        f"[{LINE},{LINE}]",
        "\ufeff" + LINE * 2,
        LINE.encode("utf-16") + LINE.encode("utf-16-le"),
        LINE.replace(",", ",\n") * 2,
    ],
)
def test_json_in_any_dress(text: str | bytes, tmp_path: Path) -> None:
    found = table(write(tmp_path, log__json=text) / "log.json")
    assert found.to_dict("list") == {ROW: [1, 2], "user_id": ["ann"] * 2, "item_id": ["1"] * 2, "position": ["1"] * 2}


def test_names_that_mean_something_to_others(tmp_path: Path) -> None:
    odd = ['a"b', "c.d", "e/f~g", "$h", "ü", "it's", "sel*ect", "[0]"]
    line = pd.DataFrame([range(len(odd))], columns=odd).astype(str)
    line.assign(**{"": "no name"}).to_json(tmp_path / "log.jsonl", orient="records", lines=True)
    line.to_csv(tmp_path / "log.csv", index=False)
    folder = tmp_path / "it's [a] *folder?"
    folder.mkdir()
    for name in ("log.jsonl", "log.csv"):
        found = table((tmp_path / name).rename(folder / name))
        assert found[odd].iloc[0].tolist() == [str(i) for i in range(len(odd))]


def test_row_numbers_of_an_earlier_visit_are_replaced(tmp_path: Path) -> None:
    write(tmp_path, log__csv=f"{ROW},user_id\n9,ann\n", log__jsonl=f'{{"{ROW}": 9, "user_id": "ann"}}\n')
    pd.DataFrame({ROW: [9], "user_id": ["ann"]}).to_parquet(tmp_path / "log.parquet")
    for kind in ("csv", "jsonl", "parquet"):
        assert table(tmp_path / f"log.{kind}").set_index(ROW)["user_id"].to_dict() == {1: "ann"}
    for convert in ENGINES.values():
        known = (
            numbered(convert(pd.DataFrame({ROW: [9], "user_id": ["ann"]})), "frame", SPACE)
            .collect("pandas")
            .to_native()
        )
        assert known.set_index(ROW)["user_id"].to_dict() == {1: "ann"}


def test_kind_is_what_the_name_says() -> None:
    names = ["a.parquet", "a.CSV", "a.b.jsonl.gz", "a.gz", "a.csv.bak", "a", "a.tsv.GZ"]
    assert [kind_of(Path(name)) for name in names] == ["parquet", "csv", "jsonl", None, None, None, "tsv"]


# Bad files: (content of interactions.<suffix>, what the one line must say)

BAD_FILES = {
    "empty": ("csv", "", "found no header in the first line"),
    "only a newline": ("csv", "\n", "found no header in the first line"),
    "header only": ("csv", HEADER, "found no rows"),
    "two columns of one name": (
        "csv",
        "user_id,item_id,position,position\n",
        "found the name 'position' more than once",
    ),
    "the same but for case": ("csv", "user_id,item_id,position,Position\n", "found the name 'Position' more than once"),
    "a row that is short": ("csv", LOG + "cid,3\n", r"Line: 4\. Expected Number of Columns: 3 Found: 2"),
    "a row that is long": ("csv", LOG + "cid,3,3,3\n", r"Line: 4\. Expected Number of Columns: 3 Found: 4"),
    "a quote never closed": ("csv", LOG + '"cid,3,3\n' + "dan,4,4\n" * 5, r"Line: 4\. Value with unterminated quote"),
    "two encodings": ("csv", LOG.encode() + "Müller,1,1\n".encode("latin-1"), r"Line: 4\. Invalid unicode"),
    "zeros at the end": ("csv", LOG.encode() + bytes(99), r"Line: 4\. Expected Number of Columns: 3 Found: 1"),
    "a line of 40 MB": ("csv", LOG + "x" * 40_000_000 + ",3,3\n", r"Line: 4\."),
    "a first line of 40 MB": ("csv", "x" * 40_000_000, "found no header in the first line"),
    "a field of 10 MB": (
        "csv",
        LOG + "x" * 10_000_000 + ",3,3\n",
        "column user_id: found 10,000,000 characters in row 3",
    ),
    "returns without newlines": ("csv", LOG.replace("\n", "\r"), "found no header in the first line"),
    "no text at all": ("csv", bytes(range(256)) * 50, "found a file that cannot be read"),
    "Parquet": ("csv", parquet(ROWS), "found a file that cannot be read"),
    "no lines": ("jsonl", "", "found no fields"),
    "no fields": ("jsonl", "{}\n", "found no fields"),
    "a list among objects": ("jsonl", LINE + "\n[1, 2]\n", r"found \[1, 2\] in line 3"),
    "a word among objects": ("jsonl", LINE + "hello\n" + LINE, "found hello in line 2"),
    "a number": ("jsonl", "12\n" + LINE, "found 12 in line 1"),
    "null": ("jsonl", LINE + "null\n", "found null in line 2"),
    "an object cut short": ("jsonl", LINE + LINE + '{"user_id": "an', 'found {"user_id": "an in line 3'),
    "half a letter": ("jsonl", LINE + '{"user_id": "\\ud83d"}\n', "in line 2"),
    "the wrong letters": ("jsonl", LINE.encode() + '{"user_id": "ü"}\n'.encode("latin-1"), "Line: 2.*not utf-8"),
    "half a Parquet file": ("parquet", parquet(ROWS)[:900], "found a file that cannot be read"),
    "no Parquet": ("parquet", LOG, "found a file that cannot be read"),
    "nothing": ("parquet", b"", "found a file that cannot be read"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_get_one_clear_line_and_leave_nothing(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suffix, content, match = BAD_FILES[case]
    write(tmp_path / "shop", items__csv=CATALOGUE, **{f"interactions__{suffix}": content})
    with clean_temp(tmp_path / "temp", monkeypatch):
        line = check_refused(match, tmp_path / "shop")
    assert f"interactions.{suffix}" in line


@pytest.mark.parametrize(
    "case", ["a row that is short", "a list among objects", "an object cut short", "header only", "empty"]
)
def test_packed_bad_files_are_named_by_their_own_name(case: str, tmp_path: Path) -> None:
    suffix, content, match = BAD_FILES[case]
    write(tmp_path, items__csv=CATALOGUE, **{f"interactions__{suffix}__gz": content})
    assert check_refused(match, tmp_path).startswith(str(tmp_path / f"interactions.{suffix}.gz"))


def test_a_page_of_parquet_that_is_damaged_is_found_when_it_is_read(tmp_path: Path) -> None:
    rows = pd.concat([ROWS] * 2000).assign(user_id=[str(i * 7919 % 991) for i in range(12_000)])
    rows.to_parquet(tmp_path / "interactions.parquet", row_group_size=3000)
    ITEMS.to_parquet(tmp_path / "items.parquet")
    path, whole = tmp_path / "interactions.parquet", (tmp_path / "interactions.parquet").read_bytes()
    assert len(Domain.load(tmp_path).clean(k_core=0, repeats="keep", duplicates="keep").interactions) == 12_000
    refusals = 0
    for start in range(4, len(whole) // 2, len(whole) // 12):
        path.write_bytes(
            whole[:start] + bytes(byte ^ 0x5A for byte in whole[start : start + 200]) + whole[start + 200 :]
        )
        try:
            Domain.load(tmp_path).clean(k_core=0)
        except CrossrecError as error:
            refusals += str(path) in str(error)
    assert refusals >= 3


def test_wrong_things_in_place_of_files(tmp_path: Path) -> None:
    (write(tmp_path / "a", items__csv=CATALOGUE) / "interactions.csv").mkdir()
    check_refused(r"interactions\.csv: found a folder without any Parquet file", tmp_path / "a")
    check_refused("found no file interactions", write(tmp_path / "b", items__csv=CATALOGUE))
    check_refused(
        r"both interactions\.csv and interactions\.jsonl",
        write(tmp_path / "c", interactions__csv=LOG, interactions__jsonl=LINE),
    )
    check_refused(r"log\.xlsx: found suffix '\.xlsx'", write(tmp_path, log__xlsx="x") / "log.xlsx")
    check_refused(r"nowhere\.csv: found no such file", write(tmp_path, log__csv=LOG) / "log.csv", items="nowhere.csv")
    check_refused("neither a file or folder nor a known data set", tmp_path / "nowhere")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "csv.gz"])
def test_files_without_permission(suffix: str) -> None:
    with tempfile.TemporaryDirectory() as name:  # not tmp_path, which nobody else may enter
        folder = Path(name)
        folder.chmod(0o755)
        write(
            folder, items__csv=CATALOGUE, **{f"interactions__{suffix}": parquet(ROWS) if suffix == "parquet" else LOG}
        )
        (folder / f"interactions.{suffix}").chmod(0)
        gc.collect()  # what earlier tests left must not be cleared away by nobody
        was = os.geteuid()
        try:
            os.seteuid(65534 if was == 0 else was)  # the superuser may read everything
            assert f"interactions.{suffix}" in check_refused("found .*[Pp]ermission denied", folder)
        finally:
            os.seteuid(was)


# Packed files


def archive(path: Path, **members: str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


@pytest.mark.parametrize(
    "members",
    [
        {"interactions.csv": LOG, "items.csv": CATALOGUE},
        {"shop/": "", "shop/interactions.csv": LOG, "shop/items.csv": CATALOGUE},
        {"a/b/interactions.csv": LOG, "a/b/items.csv": CATALOGUE},
        {"shop\\interactions.csv": LOG, "shop\\items.csv": CATALOGUE},
        {
            "shop/interactions.csv": LOG,
            "shop/items.csv": CATALOGUE,
            "__MACOSX/shop/._items.csv": "x",
            "shop/.DS_Store": "x",
        },
        {"shop.csv": "user_id,item_id,position,title\nann,1,1,one\nbob,2,2,two\n"},
    ],
)
def test_a_zip_of_a_domain(members: dict[str, str], tmp_path: Path) -> None:
    domain = Domain.load(archive(tmp_path / "shop.zip", **members))
    assert domain.name == "shop" and domain.interactions["user_id"].tolist() == ["ann", "bob"]
    assert domain.items["title"].tolist() == ["one", "two"]


OUTSIDE = [
    "../evil.csv",
    "/evil.csv",
    "C:\\evil.csv",
    "C:evil.csv",
    "..\\evil.csv",
    "a/../../evil.csv",
    "\\evil.csv",
    "//host/evil.csv",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_members_outside_the_archive_are_refused_before_anything_is_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = archive(tmp_path / "shop.zip", **{"interactions.csv": LOG, "items.csv": CATALOGUE, name: "x"})
    with clean_temp(tmp_path / "deep" / "er" / "temp", monkeypatch):
        workspace = Workspace()
        with pytest.raises(CrossrecError, match=r"shop\.zip: found member .*outside"):
            unpack(path, workspace)
        assert list(workspace.folder.iterdir()) == []
        del workspace
    assert [file.name for file in tmp_path.rglob("*evil*")] == []


def test_links_in_archives_lead_nowhere(tmp_path: Path) -> None:
    secret = write(tmp_path, secret__csv=LOG) / "secret.csv"
    with zipfile.ZipFile(tmp_path / "shop.zip", "w") as file:
        link = zipfile.ZipInfo("interactions.csv")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        file.writestr(link, str(secret))
        file.writestr("items.csv", CATALOGUE)
    assert "bob" not in check_refused("interactions.csv: found ", tmp_path / "shop.zip")


def test_broken_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {"interactions.csv": LOG, "items.csv": CATALOGUE}
    whole = archive(tmp_path / "whole.zip", **members).read_bytes()
    with clean_temp(tmp_path / "temp", monkeypatch):
        check_refused(
            r"cut\.zip: found a packed file that is broken or cut short",
            write(tmp_path, cut__zip=whole[:-40]) / "cut.zip",
        )
        check_refused(r"no\.zip: found a packed file that is broken", write(tmp_path, no__zip=b"hello") / "no.zip")
        check_refused(r"empty\.zip.*: found no file interactions", archive(tmp_path / "empty.zip"))
        clash = archive(tmp_path / "clash.zip", **members, **{"interactions.csv/inside": "x"})
        check_refused(r"clash\.zip: found a packed file that is broken", clash)
        locked = whole.replace(b"PK\x03\x04\x14\x00\x00", b"PK\x03\x04\x14\x00\x01").replace(
            b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"
        )
        check_refused(r"locked\.zip: found .*encrypted", write(tmp_path, locked__zip=locked) / "locked.zip")


def gz(content: bytes) -> bytes:
    return gzip.compress(content, 1)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (gz(LOG.encode())[:-12], "found a packed file that is broken or cut short"),
        (gz(LOG.encode())[:5], "found a packed file that is broken or cut short"),
        (gz(LOG.encode())[:-4] + b"\1\0\0\0", "found a packed file that is broken or cut short"),
        (LOG.encode(), r"found a packed file .*Not a gzipped file"),
        (b"", "found no header"),
        (gz(bytes(40_000_000)), "found 2,[0-9,]+ bytes or more when unpacked; expected at most 2,000,000"),
        (gz(bytes(40_000_000))[:-4] + b"\1\0\0\0", "found 2,[0-9,]+ bytes or more when unpacked"),
    ],
    ids=["cut", "cut early", "wrong length", "no gzip", "empty", "bomb", "bomb that lies"],
)
def test_broken_gzip_and_bombs(content: bytes, match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_module, "_SMALL", 2_000_000)
    monkeypatch.setattr(reading_module, "_RATIO", 5)
    write(tmp_path, items__csv=CATALOGUE)
    (tmp_path / "interactions.csv.gz").write_bytes(content)
    with clean_temp(tmp_path / "temp", monkeypatch):
        assert check_refused(match, tmp_path).startswith(str(tmp_path / "interactions.csv.gz"))


def test_gzip_of_several_members_is_read_to_the_end(tmp_path: Path) -> None:
    (tmp_path / "log.csv.gz").write_bytes(gz(LOG.encode()) + gz(b"cid,3,3\n") + bytes(100))
    assert table(tmp_path / "log.csv.gz")["user_id"].tolist() == ["ann", "bob", "cid"]


def test_zip_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_module, "_SMALL", 2_000_000)
    monkeypatch.setattr(reading_module, "_RATIO", 5)
    honest = archive(tmp_path / "honest.zip", **{"interactions.csv": "0" * 40_000_000, "items.csv": CATALOGUE})
    size, less = struct.pack("<I", 40_000_000), struct.pack("<I", 100)
    liar = write(tmp_path, liar__zip=honest.read_bytes().replace(size, less)) / "liar.zip"
    many = archive(tmp_path / "many.zip", **{str(i): "" for i in range(600)})
    with clean_temp(tmp_path / "temp", monkeypatch):
        workspace = Workspace()
        with pytest.raises(CrossrecError, match=r"honest\.zip: found 40,004,096 bytes or more when unpacked"):
            unpack(honest, workspace)
        assert list(workspace.folder.iterdir()) == []  # it owned up, so not a byte was unpacked
        del workspace
        check_refused(r"liar\.zip.*: found ", liar)
        check_refused(r"many\.zip: found 2,457,600 bytes or more", many)


def test_real_tables_shrink_less_than_the_limit(tmp_path: Path) -> None:
    rows = HEADER + "".join(f"user{i % 1000},item{i % 777},{i}\n" for i in range(20_000))
    path = write(tmp_path, log__csv__gz=rows) / "log.csv.gz"
    assert len(rows) < 50 * path.stat().st_size and len(table(path)) == 20_000


# Out of the command line


def test_command_line_says_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    write(tmp_path / "bad", interactions__csv=LOG + "cid,3\n", items__csv=CATALOGUE)
    (tmp_path / "temp").mkdir()
    command = [
        Path(sys.executable).parent / "crossrec",
        "run",
        tmp_path / "bad",
        tmp_path / "bad",
        "--out",
        tmp_path / "report",
    ]
    environment = os.environ | {"TMPDIR": str(tmp_path / "temp")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("crossrec: ") and done.stderr.count("\n") == 1 and "Line: 4" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad", "temp"] and not any(
        (tmp_path / "temp").iterdir()
    )


# Frames and the workspace


def test_frames_keep_their_engine_and_get_numbers_from_one() -> None:
    for name, convert in ENGINES.items():
        known = numbered(convert(ROWS), name, SPACE)
        engine = {"polars, lazy": "polars"}.get(name, name)
        assert known.implementation == nw.Implementation.from_backend(engine)
        assert known.collect("pandas").to_native()[ROW].tolist() == [1, 2, 3, 4, 5, 6]


def test_frames_with_two_columns_of_one_name() -> None:
    with pytest.raises(CrossrecError, match="log: found two columns 'user_id'"):
        numbered(pd.concat([ROWS, ROWS[["user_id"]]], axis=1), "log", SPACE)
    with pytest.raises(CrossrecError, match=r"log: found column names of several levels, such as \('a', 'user_id'\)"):
        numbered(pd.concat({"a": ROWS}, axis=1), "log", SPACE)
    for wrong in ({"user_id": ["a"]}, ROWS["user_id"], "log.csv", None):
        with pytest.raises(CrossrecError, match=f"log: found a {type(wrong).__name__}"):
            numbered(wrong, "log", SPACE)


def test_a_lazy_frame_is_run_once() -> None:
    workspace = Workspace()
    draw = DUCKDB.sql("SELECT random() AS luck FROM range(1000)")
    polars = pl.LazyFrame({"a": range(1000)}).select(luck=pl.col("a").map_batches(lambda a: a.shuffle(), pl.Int64))
    for lazy in (draw, polars):
        rows = numbered(lazy, "draw", workspace)
        first, again = (rows.sort(ROW).collect("pandas").to_native()["luck"].tolist() for _ in range(2))
        assert first == again


def test_workspace_goes_with_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with clean_temp(tmp_path / "temp", monkeypatch):
        workspace = Workspace()
        lazy = workspace.settle(nw.from_native(pl.from_pandas(ROWS).lazy()))
        assert len(lazy.collect()) == 6 and len(list((tmp_path / "temp").rglob("*.parquet"))) == 1
        del workspace, lazy


def test_tables_larger_than_memory_are_put_down_in_their_engine() -> None:
    connection, workspace = duckdb.connect(), Workspace()  # a relation stays in the connection that it came from
    connection.sql("CREATE TABLE mine AS SELECT range AS a FROM range(10)")
    settled = workspace.settle(nw.from_native(connection.table("mine")).filter(nw.col("a") > 6))
    brought = workspace.bring(pd.DataFrame({"a": [7, 9]}), settled)
    assert sorted(settled.join(brought, on="a").collect("pandas").to_native()["a"]) == [7, 9]
    assert connection.sql(
        "SELECT table_name FROM duckdb_tables() UNION SELECT view_name FROM duckdb_views() WHERE NOT internal"
    ).fetchall() == [("mine",)]


@pytest.mark.parametrize("name", ["out.parquet", "out.csv", "out.jsonl", "out.csv.gz", "out.jsonl.gz"])
def test_what_is_written_sorted_reads_back_the_same(name: str, tmp_path: Path) -> None:
    rows = pd.DataFrame({"row": [3, 1, 2], "text": ['a "quoted", word', None, "two\nlines"], "more": ["ü", "", " "]})
    rows.to_parquet(tmp_path / "in.parquet")
    path = tmp_path / name
    write_sorted(tmp_path / "in.parquet", "row", path, kind_of(path))
    assert (path.read_bytes()[:2] == b"\x1f\x8b") == name.endswith(".gz")
    found = table(path)
    assert found["row"].astype(int).tolist() == [1, 2, 3]
    assert found["text"].tolist() == [None, "two\nlines", 'a "quoted", word']
