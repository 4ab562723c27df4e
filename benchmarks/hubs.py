"""What hubs and first words are worth: `python benchmarks/hubs.py DOMAIN [DOMAIN ...]`.

Untrained text and the words of names are added up as in chapter 14, without any interaction but a user's own history,
and judged on up to 4,000 validation users (leave-one-out) by NDCG@10. DOMAIN is a domain folder or a data set, such as
completejourney/nutrition.
"""

import argparse

import numpy as np
import pandas as pd

from crossrec import Domain
from crossrec.baselines import Hubness, TextSimilarity, Words
from crossrec.encode import Encoder, soft_whiten
from crossrec.metrics import ndcg_at
from crossrec.model import Blend
from crossrec.ranking import rank_queries
from crossrec.split import leave_one_out
from crossrec.text import item_names, item_texts


def judged(domain: Domain, encoder: Encoder) -> dict[str, float]:
    """NDCG@10 of the sum: plain, without hubs, and with first words too."""
    split, vectors = leave_one_out(domain), soft_whiten(encoder.encode(item_texts(domain.items)))
    view, asked = split.view(0), np.sort(np.random.default_rng(1).permutation(len(split.valid))[:4000])
    text, found = TextSimilarity(vectors), {"users": len(asked)}
    for name, first, weight in (("plain", 0.0, 0.0), ("hubs taken off", 0.0, 0.6), ("and first words", 0.5, 0.6)):
        words = Words(item_names(domain.items), decay=0.35, first=first).fit(view)
        terms = {"text": text, "words": words, "hubness": Hubness(vectors, words.runs).fit(view)}
        blend = Blend(terms, {"text": 1.0, "words": 0.5, "hubness": weight}, dict.fromkeys(terms, 1.0))
        found[name] = float(ndcg_at(rank_queries(blend, split.valid.take(asked)), 10).mean())
    return found


def main() -> None:
    """Print a row a domain."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("domains", nargs="+", metavar="DOMAIN", help="domain folders or data sets")
    encoder, rows = Encoder("minilm"), {}
    for path in parser.parse_args().domains:
        domain = Domain.load(path).clean()
        rows[domain.name] = judged(domain, encoder)
        print(pd.DataFrame(rows).T.round(4).to_string(), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
