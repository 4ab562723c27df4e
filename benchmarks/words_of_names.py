"""What are words and hubs worth where nobody is known? `python benchmarks/words_of_names.py [DOMAIN ...]`.

For each DOMAIN, a folder or a data set, validation items are ranked without any user to learn from: by the language
model's texts alone, by texts, words and hubs at their full default weights, and at those that the length of the names
asks for. A row is printed as soon as a domain is finished.
"""

import argparse

import numpy as np
import pandas as pd

from crossrec import Domain
from crossrec.baselines import words_per_name
from crossrec.core import CrossrecError
from crossrec.encode import Encoder, soft_whiten
from crossrec.metrics import ndcg_at
from crossrec.model import Blend
from crossrec.ranking import rank_queries
from crossrec.recommend import cleaned
from crossrec.split import leave_one_out
from crossrec.terms import DEFAULT_WEIGHTS, catalogue_weights, closed_terms, default_decays, scaled
from crossrec.text import item_names, item_texts

DOMAINS = [f"completejourney/{name}" for name in ("drug-gm", "nutrition", "deli", "pastry", "produce")]


def judged(domain: Domain, encoder: Encoder, most: int) -> dict[str, float]:
    """NDCG@10 of the three sums on at most so many validation items."""
    split, names = leave_one_out(domain), item_names(domain.items)
    vectors, view = soft_whiten(encoder.encode(item_texts(domain.items))), split.view(0)
    terms = closed_terms(vectors, names, default_decays(view.by_time), view)
    asked = split.valid.take(np.sort(np.random.default_rng(0).permutation(len(split.valid))[:most]))
    row = {"words a name": words_per_name(names), "items": len(asked)}
    ways = {"text": {"words": 0.0, "hubness": 0.0}, "full weights": {}, "by length": catalogue_weights(names)}
    for way, own in ways.items():
        sum_of = Blend(terms, {name: (DEFAULT_WEIGHTS | own)[name] for name in terms}, scaled(terms, view))
        row[way] = ndcg_at(rank_queries(sum_of, asked), 10).mean()
    return row


def loaded(name: str) -> Domain:
    """A clean domain; an error of the command line where it cannot be read."""
    try:
        return cleaned(Domain.load(name))
    except CrossrecError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def main() -> None:
    """Print a row a domain."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("domains", nargs="*", metavar="DOMAIN", type=loaded, help="domain folders or data sets")
    parser.add_argument("--most", type=int, default=5000, help="validation items at most")
    options, rows, encoder = parser.parse_args(), {}, Encoder("minilm")
    for domain in options.domains or map(loaded, DOMAINS):
        rows[domain.name] = judged(domain, encoder, options.most)
        print(pd.DataFrame.from_dict(rows, orient="index").round(4).to_string(), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
