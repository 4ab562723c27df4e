"""What are a source's pairs worth where nobody is known? `python benchmarks/pairs_on_loan.py [SOURCE:TARGET ...]`.

The target's validation items are ranked by texts, words and hubs alone and with pairs of the source at four weights
(chapter 13g). Beside the ratios to none stand the mean cosine of the target's items to the nearest item of the source,
and the same in the rehearsal on the source's held-out topics, and whether the default would lend. SOURCE and TARGET
are domain folders or data sets; without any, fourteen pairs of departments of Complete Journey are taken.
"""

import argparse

import numpy as np
import pandas as pd
from auto_choice import PAIRS, loaded

from crossrec import Domain
from crossrec.borrowed import BorrowedPairs, lend, rehearse_pairs, source_pairs
from crossrec.encode import Encoder, soft_whiten
from crossrec.metrics import ndcg_at
from crossrec.model import Blend
from crossrec.ranking import rank_queries
from crossrec.split import split_domains
from crossrec.terms import DEFAULT_WEIGHTS, catalogue_weights, closed_terms, default_decays, scaled
from crossrec.text import item_names, item_texts

WEIGHTS = (0.0, 0.03, 0.05, 0.1, 0.2)
MORE = [
    f"completejourney/{s}:completejourney/{t}"
    for s, t in zip(("deli", "produce", "meat", "pastry"), ("produce", "deli", "deli", "nutrition"), strict=True)
]


def judged(source: Domain, target: Domain, encoder: Encoder, most: int, kind: str | None) -> dict[str, object]:
    """NDCG@10 without pairs, and its ratio with them at each weight."""
    known, split = split_domains(source, target, kind)
    theirs, mine = (soft_whiten(encoder.encode(item_texts(domain.items))) for domain in (source, target))
    names, view = item_names(target.items), split.view(0)
    closed = closed_terms(mine, names, default_decays(view.by_time), view)
    terms = {name: closed[name] for name in ("text", "words", "hubness") if name in closed}
    terms["borrowed"] = BorrowedPairs(mine, source_pairs(theirs, known.train)).fit()
    asked = split.valid.take(np.sort(np.random.default_rng(0).permutation(len(split.valid))[:most]))
    weights, reaches = DEFAULT_WEIGHTS | catalogue_weights(names), scaled(terms, view)
    sums = [Blend(terms, weights | {"borrowed": weight}, reaches) for weight in WEIGHTS]
    values = [ndcg_at(rank_queries(each, asked), 10).mean() for each in sums]
    pairs = rehearse_pairs(known, theirs, names=item_names(source.items))
    row = {"items": len(asked), "none": values[0]}
    row |= {str(weight): value / values[0] for weight, value in zip(WEIGHTS[1:], values[1:], strict=True)}
    lends = lend(pairs, mine) is not None
    return row | {"near": terms["borrowed"].near, "rehearsed": pairs.near if pairs else np.nan, "lends": lends}


def main() -> None:
    """Print a row a pair."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", nargs="*", metavar="SOURCE:TARGET", type=loaded, help="domain folders or data sets")
    parser.add_argument("--most", type=int, default=5000, help="validation items at most")
    kinds = ("leave_one_out", "global_time")
    parser.add_argument("--split", choices=kinds, help="what is asked (default: the latter where both know the time)")
    options, rows, encoder = parser.parse_args(), {}, Encoder("minilm")
    for source, target in options.pairs or map(loaded, PAIRS + MORE):
        rows[f"{source.name} to {target.name}"] = judged(source, target, encoder, options.most, options.split)
        print(pd.DataFrame.from_dict(rows, orient="index").round(4).to_string(), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
