"""Amazon Beauty to Amazon Toys: `python benchmarks/beauty_to_toys.py [--shots 0,all] [--seeds 0] [--encoder minilm]`.

Zero-shot and with all target users, leave-one-out, full ranking of 11,924 items. The figures come from an evaluator of
its own: the lists that the recommenders give, joined with the test items in plain pandas. Reference: the same text and
item-kNN closed forms, and the sum text + 3 item-kNN + 0.03 log(1 + popularity), which needs no training.
The folders amazon_beauty and amazon_toys lie in the folder that CROSSREC_DATA names, or in data/.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from crossrec import Domain, Recommender, transfer
from crossrec.baselines import ItemKNN, Popularity, TextSimilarity
from crossrec.cli import parse_seeds, parse_shots
from crossrec.model import Blend
from crossrec.ranking import top_k
from crossrec.split import leave_one_out

DATA = Path(os.environ.get("CROSSREC_DATA", "data"))


def figures(scorer: object, queries: object) -> dict[str, float]:
    """Recall@10 and NDCG@10 from the lists themselves."""
    items, _ = top_k(scorer, queries.histories, 10)
    lists = pd.DataFrame(items, columns=range(1, 11)).rename_axis("query")
    lists = lists.melt(ignore_index=False, var_name="rank", value_name="item").reset_index()
    wanted = pd.DataFrame({"query": range(len(queries)), "item": queries.targets})
    hits = lists.merge(wanted, on=["query", "item"])
    gains = (1 / np.log2(1 + hits["rank"].astype(float))).sum()
    return {"recall@10": len(hits) / len(queries), "ndcg@10": gains / len(queries)}


def main() -> None:
    """Print one row a method and budget."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shots", default="0,all")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--encoder", default="minilm", help="for instance minilm+smollm2 (chapter 09c)")
    options = parser.parse_args()
    if not (DATA / "amazon_toys").is_dir():
        sys.exit(f"found no folder {DATA / 'amazon_toys'}; set CROSSREC_DATA to the folder that holds it")
    start = time.perf_counter()
    source, target = (Domain.load(DATA / f"amazon_{name}").clean() for name in ("beauty", "toys"))
    recommender = Recommender(options.encoder).fit(source)
    fitted = time.perf_counter() - start
    shots, seeds = parse_shots(options.shots), parse_seeds(options.seeds)
    study = transfer(recommender, target, shots, seeds, methods=["text", "transfer"])
    split = leave_one_out(target)
    view, vectors = split.view("all"), study.best.vectors
    terms = {"text": TextSimilarity(vectors), "item_knn": ItemKNN(), "popularity": Popularity()}
    terms = {name: term.fit(view) for name, term in terms.items()}
    closed = Blend(terms, {"text": 1.0, "item_knn": 3.0, "popularity": 0.03}, dict.fromkeys(terms, 1.0))
    rows = {"text (closed form, no target user)": figures(terms["text"], split.test)}
    rows["text + item-kNN + popularity (closed form, all)"] = figures(closed, split.test)
    for (_, users), model in study.models.items():
        rows[f"transfer, {users} target users"] = figures(model.scorer, split.test)
    print(pd.DataFrame(rows).T.round(4).to_string())
    print(f"learning on the source took {fitted:.0f} s, everything {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
