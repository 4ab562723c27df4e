"""Small tables for the tests of the data chapters, as files of every format and frames of every engine."""

import gc
import gzip
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from crossrec.core import CrossrecError
from crossrec.domain import Domain
from crossrec.read import Workspace
from crossrec.sequences import Sequences

SPACE = Workspace()  # for tests that do not look at the temporary folder
DUCKDB = duckdb.connect()

ROWS = pd.DataFrame(
    {
        "user_id": ["ann", "007", "ann", "NA", "007", "ann"],
        "item_id": ["1", "2", "2", "null", "1", "3"],
        "timestamp": [1_700_000_000 + 60 * i for i in (5, 1, 2, 3, 4, 6)],
    }
)
ITEMS = pd.DataFrame({"item_id": ["3", "2", "1", "null"], "title": ["three, quoted", "NA", "one", "nothing"]})

WRITERS: dict[str, Callable[[pd.DataFrame, Path], None]] = {
    "parquet": lambda table, path: table.to_parquet(path),
    "csv": lambda table, path: table.to_csv(path, index=False),
    "jsonl": lambda table, path: table.to_json(path, orient="records", lines=True),
}

ENGINES: dict[str, Callable] = {
    "pandas": lambda table: table,
    "polars": pl.from_pandas,
    "polars, lazy": lambda table: pl.from_pandas(table).lazy(),
    "duckdb": lambda table: DUCKDB.from_df(table),
    "pyarrow": lambda table: pa.Table.from_pandas(table, preserve_index=False),
}


def frame(rows: list[tuple[int, int, int]]) -> pd.DataFrame:
    """Interactions of a list of (user, item, position)."""
    return pd.DataFrame(rows, columns=["user_id", "item_id", "position"]).astype({"user_id": str, "item_id": str})


def catalogue(n: int = 8) -> pd.DataFrame:
    """Items "0", "1", ..."""
    return pd.DataFrame({"item_id": [str(i) for i in range(n)], "title": [f"item number {i}" for i in range(n)]})


def lists(sequences: Sequences) -> list[list[int]]:
    return [row.tolist() for row in sequences]


def write(folder: Path, **files: str | bytes) -> Path:
    """Write files into a folder; `__` in a name stands for the dot. The folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        content = content if isinstance(content, bytes) else content.encode()
        name = name.replace("__", ".")
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder


@contextmanager
def clean_temp(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within the block temporary files go to `folder`; after it none of them must be left."""
    from crossrec.read import _duckdb

    _duckdb()  # DuckDB's own folder belongs to the process, not to the block
    folder.mkdir(parents=True, exist_ok=True)
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        yield
    gc.collect()
    assert [path.name for path in folder.iterdir()] == []


def check_refused(match: str, where: Path | str, **options: object) -> str:
    """Reading a domain must fail with one clear line that matches; the line."""
    with pytest.raises(CrossrecError, match=match) as error:
        Domain.load(where, **options)
    line = str(error.value)
    assert "\n" not in line and "; expected " in line and len(line) < 700, line
    return line
