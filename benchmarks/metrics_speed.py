"""Metrics of 22,000 lists of 100 items: crossrec.metrics against ranx, equal numbers and seconds, in one run.

    pip install 'crossrec[dev]'                    # brings ranx
    python benchmarks/metrics_speed.py             # one relevant item a user, as in leave-one-out evaluation
    python benchmarks/metrics_speed.py --relevant 5
    python benchmarks/metrics_speed.py --users 500 # a quick look whether it runs

crossrec: arrays of item numbers in, means over users out, all checks included. ranx, the documented way: `Qrels` and
`Run` are built beforehand (that time is printed, and not counted), then `evaluate` is called. "cold" is the first call,
which compiles; a new folder for numba's cache makes sure that it does. "warm" is the best of the calls after it, made
three at a time and in turn with crossrec's, so that a busy machine disturbs both. For completeness also ranx on bare
arrays: its functions take them, though its documentation does not say so. ranx uses all cores, crossrec one.
"""

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from types import SimpleNamespace

CACHE = tempfile.TemporaryDirectory(prefix="numba-")  # removed when the script ends
os.environ["NUMBA_CACHE_DIR"] = CACHE.name  # before numba is imported

import numpy as np  # noqa: E402

from crossrec.metrics import (  # noqa: E402
    average_precision_at,
    f1_at,
    hit_rate_at,
    list_ranks,
    mrr,
    ndcg_at,
    precision_at,
    recall_at,
)

AT = {
    "ndcg@10": ndcg_at,
    "recall@10": recall_at,
    "map@10": average_precision_at,
    "precision@10": precision_at,
    "hit_rate@10": hit_rate_at,
    "f1@10": f1_at,
}
NAMES = (["ndcg@10", "recall@10", "mrr"], [*AT, "mrr"])


def draw(users: int, length: int, relevant: int, n_items: int) -> tuple[np.ndarray, SimpleNamespace]:
    """Random lists, and relevant items of which about a third are on them."""
    rng = np.random.default_rng(0)
    lists = np.stack([rng.choice(n_items, length, replace=False) for _ in range(users)])
    rows = [
        np.unique(np.where(rng.random(relevant) < 0.3, rng.choice(row, relevant), rng.integers(0, n_items, relevant)))
        for row in lists
    ]
    return lists, SimpleNamespace(offsets=np.cumsum([0, *map(len, rows)]), items=np.concatenate(rows))


def ours(lists: np.ndarray, relevant: SimpleNamespace, names: list[str]) -> dict[str, np.ndarray]:
    """Each metric of every user."""
    ranks, offsets = list_ranks(lists, relevant), None
    if len(relevant.items) > len(lists):
        offsets = relevant.offsets
    return {name: mrr(ranks, offsets) if name == "mrr" else AT[name](ranks, 10, offsets) for name in names}


def timed(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every call of each: three of one, three of the next, and again."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in [item for item in calls.items() for _ in range(3)]:
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def as_ranx(lists: np.ndarray, relevant: SimpleNamespace) -> tuple[object, object]:
    """The same as ranx wants it: dictionaries of strings, scores that fall along each list."""
    from ranx import Qrels, Run

    scores = np.arange(lists.shape[1], 0, -1, dtype=float)
    parts = np.split(relevant.items, relevant.offsets[1:-1])
    # Numbers with leading zeros: ranx sorts the users by name, and its values per user come in that order.
    names = [f"{user:09d}" for user in range(len(lists))]
    qrels = Qrels({name: {str(item): 1 for item in part} for name, part in zip(names, parts, strict=True)})
    run = Run({name: dict(zip(map(str, row), scores, strict=True)) for name, row in zip(names, lists, strict=True)})
    return qrels, run


def as_arrays(lists: np.ndarray, relevant: SimpleNamespace) -> tuple[np.ndarray, np.ndarray]:
    """The same as bare arrays of (item, grade) and (item, score); short rows are filled with items of grade 0."""
    counts = np.diff(relevant.offsets)
    wanted = np.full((len(lists), counts.max(), 2), [-1.0, 0.0])
    wanted[np.arange(counts.max()) < counts[:, None]] = np.stack([relevant.items, np.ones(len(relevant.items))], 1)
    scores = np.broadcast_to(np.arange(lists.shape[1], 0, -1), lists.shape)
    return wanted, np.stack([lists, scores], 2).astype(float)


def main() -> None:
    """Print how long each way takes and what the ratio is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("users", 22_000), ("length", 100), ("relevant", 1), ("items", 12_000), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # numba's, about ranx's hashes
    import ranx

    lists, relevant = draw(options.users, options.length, options.relevant, options.items)
    build = timed({"build": lambda: as_ranx(lists, relevant)}, 1)["build"]
    (qrels, run), bare = as_ranx(lists, relevant), as_arrays(lists, relevant)
    print(f"{len(lists):,} lists of {options.length}, {len(relevant.items):,} relevant items, {os.cpu_count()} cores")
    print(f"numpy {np.__version__}, numba {version('numba')}, ranx {version('ranx')}")
    print(f"ranx, building Qrels and Run: cold {build[0]:.1f} s, warm {build[1]:.1f} s (not counted below)")
    for names in NAMES:
        calls = {
            "crossrec": lambda names=names: {k: v.mean() for k, v in ours(lists, relevant, names).items()},
            "ranx": lambda names=names: ranx.evaluate(qrels, run, names),
            "ranx, bare arrays": lambda names=names: ranx.evaluate(*bare, names),
        }
        seconds = timed(calls, options.repeats)
        found = ranx.evaluate(qrels, run, names, return_mean=False)
        gap = max(abs(values - found[name]).max() for name, values in ours(lists, relevant, names).items())
        print(f"\n{', '.join(names)}; largest difference of any user: {gap:.0e}")
        for name, (cold, *warm) in seconds.items():
            ratio = min(warm) / min(seconds["crossrec"][1:])
            print(f"  {name:18} cold {cold:8.4f} s   warm {min(warm):8.4f} s   warm / crossrec {ratio:6.1f}")


if __name__ == "__main__":
    main()
