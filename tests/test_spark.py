"""Chapters 01 to 01e on Spark in local mode: the same rows, account, arrays and dropped rows as on pandas."""

import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import narwhals as nw
import numpy as np
import pandas as pd
import pytest

from crossrec.clean import Cleaning, clean_interactions
from crossrec.core import CrossrecError
from crossrec.domain import Domain
from crossrec.interactions import check_interactions
from crossrec.read import Workspace, numbered
from tests.tables import catalogue, clean_temp
from tests.test_clean import ALL, LOG, THINGS

pytest.importorskip("pyspark", reason="pyspark is not installed: pip install 'crossrec[spark]'")
if not (shutil.which("java") or os.environ.get("JAVA_HOME")):
    pytest.skip("there is no Java for Spark to run on", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def spark() -> Iterator:
    """One session for all tests of this file; it takes seconds to start. It sits in another time zone."""
    from pyspark.sql import SparkSession

    quiet = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.sql.shuffle.partitions": "2",
        "spark.default.parallelism": "2",
        "spark.sql.adaptive.enabled": "false",
        "spark.sql.session.timeZone": "Asia/Kolkata",
        # Compiling pays for itself on large tables only.
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1",
    }
    builder = SparkSession.builder.master("local[2]").appName("crossrec tests")
    for name, value in quiet.items():
        builder = builder.config(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        session = builder.getOrCreate()
        session.sparkContext.setLogLevel("ERROR")
        yield session
        session.stop()


def in_spark(spark: object, table: pd.DataFrame) -> object:
    """A pandas frame of text as a Spark frame of two partitions."""
    rows = [tuple(None if pd.isna(value) else value for value in row) for row in table.itertuples(index=False)]
    return spark.createDataFrame(rows, ", ".join(f"`{name}` string" for name in table.columns))


def test_every_step_and_every_dropped_row(spark: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = LOG.drop(columns="step")
    results = []
    with clean_temp(tmp_path / "temp", monkeypatch):
        for frame, items in ((log, THINGS), (in_spark(spark, log), THINGS)):
            path = tmp_path / f"{len(results)}.parquet"
            clean = Domain.from_frames(frame, items, name="d").clean(**ALL, dropped=path)
            results.append((clean, pd.read_parquet(path)))
            del frame, items
    (ours, kept_out), (theirs, kept_out_by_spark) = results
    assert theirs.interactions.equals(ours.interactions) and theirs.account.equals(ours.account)
    assert (
        theirs.items["title"].tolist() == ours.items["title"].tolist() and theirs.users.tolist() == ours.users.tolist()
    )
    assert np.array_equal(theirs.sequences.offsets, ours.sequences.offsets) and np.array_equal(
        theirs.log.ratings, ours.log.ratings
    )
    columns = ["step", "reason", "user_id", "item_id", "timestamp", "rating"]
    assert kept_out_by_spark[columns].fillna("-").equals(kept_out[columns].fillna("-"))
    assert kept_out_by_spark["row"].is_monotonic_increasing and kept_out_by_spark["row"].is_unique


def test_no_row_comes_to_python_and_numbers_are_ids_too(spark: object, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, collect, workspace = [], nw.LazyFrame.collect, Workspace()

    def watched(frame: nw.LazyFrame, *arguments: object, **options: object) -> nw.DataFrame:
        result = collect(frame, *arguments, **options)
        seen.append(len(result))
        return result

    log = spark.sql("SELECT id % 97 AS user_id, id % 89 AS item_id, 1700000000 + id AS timestamp FROM range(8000)")
    monkeypatch.setattr(nw.LazyFrame, "collect", watched)
    table = check_interactions(numbered(log, "log", workspace), "log")
    done = clean_interactions(table, catalogue(80), Cleaning(), workspace)
    assert max(seen) <= 12 and len(seen) > 8, seen
    monkeypatch.undo()
    numbers = pd.Series(range(8000))  # the same on pandas
    log = pd.DataFrame({"user_id": numbers % 97, "item_id": numbers % 89, "timestamp": 1_700_000_000 + numbers})
    table = check_interactions(numbered(log, "log", workspace), "log")
    expected = clean_interactions(table, catalogue(80), Cleaning(), workspace)
    left = [side.rows.collect("pandas").to_native()[["user", "item", "timestamp"]] for side in (done, expected)]
    left = [rows.astype("int64").sort_values("timestamp").to_numpy().tolist() for rows in left]
    assert left[0] == left[1] and len(left[0]) == sum(row % 89 < 80 for row in range(8000))
    assert done.account.lines == expected.account.lines


MOMENTS = {
    "timestamp": "timestamp_seconds(s)",
    "timestamp_ntz": "TIMESTAMP_NTZ '2023-11-14 00:00:00'",
    "date": "date_from_unix_date(CAST(s / 86400 AS INT))",
    "bigint": "s",
    "milliseconds": "s * 1000",
    "string": "CAST(s AS STRING)",
    "ISO": "date_format(timestamp_seconds(s), \"yyyy-MM-dd'T'HH:mm:ssXXX\")",
    "a day as a number": "CAST(date_format(date_from_unix_date(CAST(s / 86400 AS INT)), 'yyyyMMdd') AS BIGINT)",
}


def test_times_of_every_type_mean_the_same(spark: object) -> None:
    spark.sql("SELECT 1699920000L AS s").createOrReplaceTempView("moment")
    for name, sql in MOMENTS.items():
        frame = spark.sql(f"SELECT 'a' AS user_id, CAST(1 AS INT) AS item_id, {sql} AS timestamp FROM moment")
        rows = (
            check_interactions(numbered(frame, name, workspace := Workspace()), name)
            .frame.collect("pandas")
            .to_native()
        )
        assert rows["timestamp"].tolist() == [1_699_920_000_000], (name, rows)
        assert rows["item_id"].tolist() == ["1"] and workspace


def test_what_spark_holds_is_checked_as_elsewhere(spark: object) -> None:
    frame = spark.sql("SELECT 1.5D AS user_id, 'a' AS item_id, 1 AS position")
    with pytest.raises(CrossrecError, match=r"log, interactions, column user_id: found 1\.5 \(Float64\) in row "):
        Domain.from_frames(frame, catalogue(), name="log")
    one = spark.sql("SELECT 1 AS a, 2 AS b")
    with pytest.raises(CrossrecError, match="log: found two columns 'a'"):
        numbered(one.join(one.alias("again"), on=one["a"] == one["a"]), "log", Workspace())
