"""Baselines on whole data sets: settings chosen on validation users, the choice told on the test, full ranking.

    python benchmarks/baselines.py amazon_beauty amazon_toys --methods item_knn sasrec --seeds 0 1 2
    python benchmarks/baselines.py amazon_beauty --methods sasrec --try width=64,128 dropout=0.3,0.5
    python benchmarks/baselines.py amazon_beauty --methods sasrec --set dropout=0.5 --try rate=1e-3,2e-3 --no-test
    python benchmarks/baselines.py completejourney/nutrition --source completejourney/grocery --methods cmf emcdr

Leave-one-out (with a source: one time cut for both where both know the time), the whole catalogue ranked, history items
masked, ties against the method; methods that can use it are told what the source knows of whoever asks. A data set is a
folder inside the one that CROSSREC_DATA names, any other folder, or a name such as completejourney/nutrition. Options
are arguments of the method's class or fields of its settings; several values make a grid, tried with the first seed, of
which the best validation NDCG@10 goes to the test with every seed. With --json FILE every run is kept there as soon as
it is done, and a run that is there already is not done again. Set OMP_NUM_THREADS to the cores to be used.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from importlib import import_module
from inspect import signature
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from crossrec.core import CrossrecError, atomic_path
from crossrec.domain import Domain
from crossrec.metrics import ndcg_at, recall_at
from crossrec.ranking import Scorer, rank_queries
from crossrec.split import Queries, Split, View, leave_one_out, split_domains

DATA = Path(os.environ.get("CROSSREC_DATA", "data"))

# by name: module, class, and the attributes of a Problem that the class takes first
METHODS = {
    "random": ("baselines", "Random", ()),
    "popularity": ("baselines", "Popularity", ()),
    "popularity_recent": ("baselines", "RecentPopularity", ()),
    "text": ("baselines", "TextSimilarity", ("vectors",)),
    "text_mean": ("baselines", "TextMean", ("vectors",)),
    "bm25": ("baselines", "BM25", ("texts",)),
    "item_knn": ("baselines", "ItemKNN", ()),
    "ease": ("baselines", "EASE", ()),
    "blend": ("baselines", "ClosedFormSum", ("vectors",)),
    "als": ("collaborative", "ALS", ()),
    "bpr": ("collaborative", "BPR", ()),
    "lightgcn": ("collaborative", "LightGCN", ()),
    "seed_transformer": ("train", "SeedScorer", ()),
    "sequence_ids": ("train", "SequenceScorer", ()),
    "sequence_text": ("train", "SequenceScorer", ("vectors",)),
    "sasrec": ("rivals", "SASRec", ()),
    "gru4rec": ("rivals", "GRU4Rec", ()),
    "unisrec": ("rivals", "UniSRec", ("vectors",)),
    "text_scratch": ("transfer", "Hybrid", ("vectors",)),
    "cmf": ("cross_domain", "CMF", ("source", "source_items", "shared")),
    "emcdr": ("cross_domain", "EMCDR", ("source", "source_items", "shared")),
    "merged_item_knn": ("cross_domain", "MergedItemKNN", ("source", "source_items", "shared")),
    "merged_sasrec": ("cross_domain", "MergedSASRec", ("source", "source_items", "shared")),
}


def load(name: str) -> Domain:
    """A folder of the data, any folder, or a named domain."""
    return Domain.load(DATA / name if (DATA / name).is_dir() else name).clean()


@dataclass
class Problem:
    """A domain, split, and what methods may need beside the view."""

    name: str
    other: str | None  # name of the source, for cross-domain methods
    users: int | str  # how many users are visible

    @cached_property
    def domain(self) -> Domain:
        """The target."""
        return load(self.name)

    @cached_property
    def splits(self) -> tuple[Split | None, Split]:
        """Of source and target; leave-one-out, but with a source one time cut for both where both know the time."""
        if self.other is None:
            return None, leave_one_out(self.domain)
        return split_domains(self._source, self.domain)

    @cached_property
    def view(self) -> View:
        """What the methods see."""
        return self.splits[1].view(self.users)

    @cached_property
    def texts(self) -> list[str]:
        """One text an item."""
        from crossrec.text import item_texts

        return item_texts(self.domain.items)

    @cached_property
    def vectors(self) -> np.ndarray:
        """Softly whitened MiniLM vectors; minutes the first time, then from the cache."""
        from crossrec.encode import Encoder, soft_whiten

        return soft_whiten(Encoder("minilm").encode(self.texts))

    @cached_property
    def _source(self) -> Domain:
        if self.other is None:
            raise CrossrecError("no source", "one", "Add --source NAME.", "cross-domain methods")
        return load(self.other)

    @property
    def source(self) -> Any:
        """Training rows of the source."""
        return self._source and self.splits[0].train

    @property
    def source_items(self) -> int:
        """Size of the source's catalogue."""
        return self._source.n_items

    @property
    def shared(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the users that both know, in the source and in the target."""
        return np.intersect1d(self._source.users, self.domain.users, return_indices=True)[1:]


def build(name: str, problem: Problem, seed: int, options: dict[str, Any]) -> Scorer:
    """A method by name, unfitted, with its own defaults but for the options."""
    module, kind, needed = METHODS[name]
    kind = getattr(import_module(f"crossrec.{module}"), kind)
    known = signature(kind).parameters
    given = {argument: options[argument] for argument in known if argument in options}
    parts = {part: known[part].default for part in ("model", "settings") if part in known}
    if "settings" in parts:
        options = options | {"seed": seed}
    elif "seed" in known:
        given["seed"] = seed
    names = {part: {field.name for field in fields(value)} for part, value in parts.items()}
    unknown = set(options).difference(known, *names.values())
    if unknown:
        raise CrossrecError(f"options {sorted(unknown)}", f"some of {sorted(known)} or of {names}", "Mend them.", name)
    for part, value in parts.items():
        given[part] = replace(value, **{key: options[key] for key in names[part] if key in options})
    return kind(*(getattr(problem, argument) for argument in needed), **given)


def figures(scorer: Scorer, queries: Queries) -> dict[str, float]:
    """Means over all queries."""
    from crossrec.cross_domain import named

    ranks = rank_queries(scorer, named(queries))
    metrics = {"recall": recall_at, "ndcg": ndcg_at}
    return {f"{name}@{k}": float(metric(ranks, k).mean()) for k in (5, 10) for name, metric in metrics.items()}


class Runs:
    """What was found, by data set, method, options and seed; kept in a file where one is given."""

    def __init__(self, path: str | None) -> None:
        self.path = Path(path) if path else None
        self.rows = json.loads(self.path.read_text()) if self.path and self.path.is_file() else []

    def find(self, problem: Problem, method: str, options: dict[str, Any], seed: int, test: bool) -> dict[str, Any]:
        """The row of one run, which is done unless it was already."""
        key = {"data": problem.name, "source": problem.other, "users": problem.users, "method": method}
        key |= {"options": options, "seed": seed}
        for row in self.rows:
            if all(row[name] == value for name, value in key.items()) and (row["test"] or not test):
                return row
        start = time.perf_counter()
        scorer = build(method, problem, seed, options)
        begun = time.perf_counter()
        scorer.fit(problem.view)
        fitted = time.perf_counter()
        row = key | {"valid": figures(scorer, problem.view.valid)}
        row |= {"test": figures(scorer, problem.splits[1].test) if test else None}
        row |= {"build_seconds": begun - start, "fit_seconds": fitted - begun}
        row |= {"score_seconds": time.perf_counter() - fitted, "epochs": len(getattr(scorer, "log", []))}
        self.rows.append(row)
        if self.path:
            with atomic_path(self.path) as partial:
                partial.write_text(json.dumps(self.rows, indent=1))
        print(
            f"  {problem.name} {method} {options} seed {seed}: validation {row['valid']['ndcg@10']:.4f}"
            f"{', test {ndcg@10:.4f}'.format_map(row['test']) if test else ''}"
            f", {row['fit_seconds']:.0f} s to fit, {row['epochs']} epochs",
            file=sys.stderr,
            flush=True,
        )
        return row


def value_of(text: str) -> Any:
    """A number, true, false or none where it is one, else the word."""
    words = {"True": True, "False": False, "None": None}
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return words.get(text, text)


def grid(texts: list[str]) -> Iterator[dict[str, Any]]:
    """All combinations of NAME=VALUE,VALUE."""
    names, values = zip(*(text.split("=", 1) for text in texts), strict=True) if texts else ((), ())
    for combination in product(*([value_of(value) for value in several.split(",")] for several in values)):
        yield dict(zip(names, combination, strict=True))


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of one method on one data set: mean and spread over seeds."""
    table = pd.DataFrame([row["test"] for row in rows])
    spread = f" ± {table['ndcg@10'].std():.4f}" if len(table) > 1 else ""
    shown = {name: f"{mean:.4f}" + (spread if name == "ndcg@10" else "") for name, mean in table.mean().items()}
    seconds = np.mean([row["fit_seconds"] for row in rows])
    valid = np.mean([row["valid"]["ndcg@10"] for row in rows])
    return shown | {"validation": f"{valid:.4f}", "fit s": f"{seconds:.0f}", "chosen": rows[0]["options"] or "defaults"}


def main() -> None:
    """Print a table of what was tried on validation, and one of the test."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", help="folders or names of domains")
    parser.add_argument("--methods", nargs="+", default=["popularity", "text", "item_knn", "ease"], choices=METHODS)
    parser.add_argument("--source", help="the other domain, for cross-domain methods")
    parser.add_argument("--users", default="all", help="how many users are visible (all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="the first one chooses (0)")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="options of every run")
    parser.add_argument("--try", nargs="*", default=[], dest="tried", metavar="NAME=V,V", help="options to choose from")
    parser.add_argument("--no-test", action="store_true", help="validation only, so that nobody chooses by the test")
    parser.add_argument("--json", help="a file that keeps every run")
    asked = parser.parse_args()
    fixed, runs = next(grid(asked.set)), Runs(asked.json)
    users = asked.users if asked.users == "all" else int(asked.users)
    valid, test = [], {}
    for data, method in product(asked.data, asked.methods):
        problem = Problem(data, asked.source, users)
        tried = [fixed | options for options in grid(asked.tried)]
        chosen = tried[0]
        if len(tried) > 1 or asked.no_test:
            found = [runs.find(problem, method, options, asked.seeds[0], False) for options in tried]
            names = {"data": data, "method": method}
            valid += [
                names | row["options"] | row["valid"] | {"fit s": row["fit_seconds"], "epochs": row["epochs"]}
                for row in found
            ]
            chosen = max(found, key=lambda row: row["valid"]["ndcg@10"])["options"]
        if not asked.no_test:
            test[data, method] = summary([runs.find(problem, method, chosen, seed, True) for seed in asked.seeds])
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, seeds {asked.seeds}\n")
    if valid:
        print("validation\n" + pd.DataFrame(valid).to_string(index=False, float_format="{:.4f}".format) + "\n")
    if test:
        print("test\n" + pd.DataFrame(test).T.to_string())


if __name__ == "__main__":
    main()
