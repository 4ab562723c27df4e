"""What should the way back count in item-kNN? `python benchmarks/way_back.py [DOMAIN ...] [--by-time]`.

For each DOMAIN, a folder or a data set, everybody's validation items are ranked by the sum of the closed forms (texts,
words, hubs, item-kNN, popularity, at their default weights), with "that, before this" at several shares of the weight
of "this, then that". The last column is what `best_item_knn` chooses. A row is printed as soon as a domain is finished.
"""

import argparse

import numpy as np
import pandas as pd
from words_of_names import loaded

from crossrec import Domain
from crossrec.encode import Encoder, soft_whiten
from crossrec.metrics import ndcg_at
from crossrec.model import Blend
from crossrec.ranking import rank_queries
from crossrec.split import global_time, leave_one_out, time_cut
from crossrec.terms import (
    BACKWARD,
    DEFAULT_WEIGHTS,
    best_decays,
    best_item_knn,
    catalogue_weights,
    closed_terms,
    default_decays,
    faded,
    scaled,
)
from crossrec.text import item_names, item_texts

DOMAINS = [f"completejourney/{name}" for name in ("drug-gm", "nutrition", "deli", "pastry", "produce")]


def judged(domain: Domain, encoder: Encoder, most: int, by_time: bool) -> dict[str, float]:
    """NDCG@10 of the sum at each share, on at most so many validation items."""
    split, names = leave_one_out(domain), item_names(domain.items)
    if by_time:
        valid_cut, cut = time_cut(domain)
        split = global_time(domain, cut, valid_cut)
    vectors, view = soft_whiten(encoder.encode(item_texts(domain.items))), split.view("all")
    weights, default = DEFAULT_WEIGHTS | catalogue_weights(names), default_decays(view.by_time)
    terms = closed_terms(vectors, names, default, view)
    decays = best_decays(terms, split.valid)
    asked = split.valid.take(np.sort(np.random.default_rng(0).permutation(len(split.valid))[:most]))
    row = {"items": len(asked)}
    for share in BACKWARD:
        option = terms | {"item_knn": closed_terms(vectors, names, default, view, share)["item_knn"]}
        sum_of = Blend(faded(option, decays), {name: weights[name] for name in terms}, scaled(option, view))
        row[str(share)] = ndcg_at(rank_queries(sum_of, asked), 10).mean()
    return row | {"chosen": best_item_knn(faded(terms, decays), weights, view).backward}


def main() -> None:
    """Print a row a domain."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("domains", nargs="*", metavar="DOMAIN", type=loaded, help="domain folders or data sets")
    parser.add_argument("--most", type=int, default=5000, help="validation items at most")
    parser.add_argument("--by-time", action="store_true", help="ask for the first item after a moment")
    options, rows, encoder = parser.parse_args(), {}, Encoder("minilm")
    for domain in options.domains or map(loaded, DOMAINS):
        rows[domain.name] = judged(domain, encoder, options.most, options.by_time)
        print(pd.DataFrame.from_dict(rows, orient="index").round(4).to_string(), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
