"""How long it takes, and how much memory, to turn rows on disk into a split data set.

    python benchmarks/data_pipeline.py                            # 1 and 10 million rows, every engine, and the peer
    python benchmarks/data_pipeline.py --rows 1e6 1e7 1e8 --ways duckdb --plot growth.png

The rows are drawn: users and items follow a Zipf law, ids are text, times are seconds. Each way runs in a process of
its own, reads the same Parquet file, drops duplicates and repeats, cuts down to the 5-core, sorts by user and time,
and splits: leave-one-out and, for crossrec, global time as well. Memory is the peak that the operating system reports.

The peer does the same work with the calls of RecBole's dataset class (version 1.2.1, recbole/data/dataset/dataset.py):
pandas throughout, `Counter` and `isin` in the loop that cuts down to the core, `factorize` for the ids, and a
dictionary of row numbers for leave-one-out. It is written out here because that version does not install beside
today's pandas. Its own reader takes only CSV; here it gets Parquet too, which is kinder to it.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

CORE = 5


def draw(rows: int, path: Path, items: Path) -> None:
    """Write interactions and their catalogue, a million rows at a time."""
    random = np.random.default_rng(0)
    n_users, n_items = max(rows // 20, 100), max(rows // 100, 1_000)
    user_names, item_names = random.permutation(n_users), random.permutation(n_items)
    titles = pa.table({"item_id": [f"i{i}" for i in range(n_items)], "title": [f"item {i}" for i in range(n_items)]})
    pq.write_table(titles, items)

    def zipf(size: int, n: int, exponent: float) -> np.ndarray:
        shares = random.random(size)  # by the inverse of the distribution, as if ranks were continuous
        return ((((n ** (1 - exponent)) - 1) * shares + 1) ** (1 / (1 - exponent)) - 1).astype(np.int64)

    writer = None
    for start in range(0, rows, 1_000_000):
        size = min(1_000_000, rows - start)
        columns = {
            "user_id": np.char.add("u", user_names[zipf(size, n_users, 0.7)].astype(str)),
            "item_id": np.char.add("i", item_names[zipf(size, n_items, 0.9)].astype(str)),
            "timestamp": 1_600_000_000 + random.integers(0, 100_000_000, size),
        }
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    writer.close()


def crossrec(path: Path, items: Path, engine: str) -> dict:
    """The pipeline of crossrec, with the rows in one of its engines."""
    from crossrec import Domain
    from crossrec.split import global_time, leave_one_out, time_cut

    if engine == "duckdb":
        domain = Domain.load(path, items=items)
    elif engine == "polars":
        import polars as pl

        domain = Domain.from_frames(pl.scan_parquet(path), pl.read_parquet(items))
    else:
        domain = Domain.from_frames(pd.read_parquet(path), pd.read_parquet(items))
    clean = domain.clean(k_core=CORE)
    split = leave_one_out(clean)
    valid_cut, cut = time_cut(clean)
    global_time(clean, cut, valid_cut)
    return {"left": len(clean), "users": len(clean.users), "items": clean.n_items, "tests": len(split.test)}


def peer(path: Path, items: Path) -> dict:
    """The same work with the calls of RecBole's dataset class."""
    rows = pd.read_parquet(path)
    rows = rows.dropna(subset=["user_id", "item_id"])
    rows = rows[rows["item_id"].isin(pd.read_parquet(items)["item_id"])]
    rows = rows.sort_values("timestamp").drop_duplicates(["user_id", "item_id"], keep="first")
    while True:
        banned = {}
        for field in ("user_id", "item_id"):
            counts = Counter(rows[field].values)
            banned[field] = {name for name in counts if counts[name] < CORE}
        if not banned["user_id"] and not banned["item_id"]:
            break
        dropped = rows["user_id"].isin(banned["user_id"]) | rows["item_id"].isin(banned["item_id"])
        rows = rows.drop(rows.index[dropped])
    for field in ("user_id", "item_id"):
        rows[field] = pd.factorize(rows[field].values)[0] + 1
    rows = rows.sort_values(["user_id", "timestamp"]).reset_index(drop=True)
    index: dict[int, list[int]] = {}
    for place, user in enumerate(rows["user_id"].to_numpy()):
        index.setdefault(user, []).append(place)
    parts = [[], [], []]
    for places in index.values():
        parts[0].extend(places[:-2])
        parts[1].append(places[-2])
        parts[2].append(places[-1])
    train, _, test = (rows.iloc[part] for part in parts)
    return {"left": len(rows), "users": len(index), "items": train["item_id"].nunique(), "tests": len(test)}


def measure(way: str, path: Path, items: Path) -> dict:
    """Run one way in a process of its own."""
    command = [sys.executable, __file__, "--child", way, str(path), str(items)]
    answer = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"CROSSREC_PROGRESS": "0"})
    if answer.returncode:
        sys.exit(f"{way} failed:\n{answer.stderr}")
    return json.loads(answer.stdout.splitlines()[-1])


def child(way: str, path: Path, items: Path) -> None:
    start = time.perf_counter()
    facts = peer(path, items) if way == "peer" else crossrec(path, items, way)
    facts["seconds"] = time.perf_counter() - start
    facts["GiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps(facts))


def plot(table: pd.DataFrame, path: Path) -> None:
    import matplotlib.pyplot as plt

    from crossrec.core import plot_style

    with plot_style():
        figure, axes = plt.subplots(1, 2, figsize=(8, 3.4))
        for axis, column, unit in zip(axes, ("seconds", "GiB"), ("time (s)", "peak memory (GiB)"), strict=True):
            for way, part in table.groupby("way", sort=False):
                axis.loglog(part["rows"], part[column], marker="o", label=way)
            axis.set(title=unit.split(" (")[0].capitalize(), xlabel="interactions", ylabel=unit)
        axes[0].legend()
        figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, nargs="+", default=[1e6, 1e7])
    parser.add_argument("--ways", nargs="+", default=["duckdb", "polars", "pandas", "peer"])
    parser.add_argument("--plot", type=Path, help="draw the growth to this PNG")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        way, path, items = arguments.child
        return child(way, Path(path), Path(items))
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for rows in map(int, arguments.rows):
            path, items = Path(folder) / f"{rows}.parquet", Path(folder) / f"{rows}-items.parquet"
            draw(rows, path, items)
            for way in arguments.ways:
                results.append({"rows": rows, "way": way} | measure(way, path, items))
                print(results[-1], flush=True)
            path.unlink()
    table = pd.DataFrame(results)
    if "peer" in arguments.ways:
        peers = table[table["way"] == "peer"].set_index("rows")["seconds"]
        table["times as fast as the peer"] = table["rows"].map(peers) / table["seconds"]
    print(table.round(2).to_string(index=False))
    if arguments.plot:
        plot(table, arguments.plot)


if __name__ == "__main__":
    main()
