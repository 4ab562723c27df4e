"""Is the mean of the last weights better than the last? `python benchmarks/weight_mean.py [DOMAIN] [--steps 2000]`.

The sequence model learns from everybody in DOMAIN, a folder or a data set. After each epoch both kinds of weights rank
the same validation items, at most four thousand of them, and a row is printed; at the end the best of each column.
"""

import argparse

import numpy as np
import pandas as pd

from crossrec import Domain
from crossrec.callbacks import Averaged, agreed
from crossrec.core import seed_everything
from crossrec.encode import Encoder, soft_whiten
from crossrec.loop import Callback, Run, train
from crossrec.metrics import ndcg_at
from crossrec.ranking import rank_queries
from crossrec.recommend import cleaned
from crossrec.split import leave_one_out
from crossrec.text import item_texts
from crossrec.train import NextItem, SequenceScorer, TrainSettings


class Both(Callback):
    """Judges the weights as they are and their mean."""

    def __init__(self, scorer: SequenceScorer, mean: Averaged, most: int = 4000) -> None:
        self.scorer, self.mean, self.most, self.rows = scorer, mean, most, []

    def epoch(self, run: Run) -> None:
        last = self.judged()
        with self.mean.shown(run):
            mean = self.judged()
        self.rows.append({"epoch": run.epoch, "last": agreed(run, last), "mean": agreed(run, mean)})
        print("epoch {epoch:2d}  last weights {last:.4f}  their mean {mean:.4f}".format(**self.rows[-1]), flush=True)

    def judged(self) -> float:
        return float(ndcg_at(rank_queries(self.scorer, self.asked), 10).mean())


def main() -> None:
    """Train once and print both columns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("domain", nargs="?", default="completejourney/grocery", help="a folder or a data set")
    parser.add_argument("--steps", type=int, default=TrainSettings().most_steps, help="training steps at most")
    options = parser.parse_args()
    domain = cleaned(Domain.load(options.domain))
    split, settings = leave_one_out(domain), TrainSettings(most_steps=options.steps)
    scorer = SequenceScorer(soft_whiten(Encoder("minilm").encode(item_texts(domain.items))), settings=settings)
    seed_everything(settings.seed)
    scorer.n_items, scorer.net, scorer.knows = split.n_items, scorer.build(split.n_items), True
    mean = Averaged(settings.average)
    both = Both(scorer, mean)
    both.asked = split.valid.take(np.sort(np.random.default_rng(7).permutation(len(split.valid))[: both.most]))
    train(NextItem(scorer.net, split.train, settings), [mean, both])
    best = pd.DataFrame(both.rows).max()
    said = f"best NDCG@10 of {len(both.asked):,} validation items"
    print(f"{domain.name}: {said}: last weights {best['last']:.4f}, their mean {best['mean']:.4f}")


if __name__ == "__main__":
    main()
