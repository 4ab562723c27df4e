"""Seconds of a training epoch on Amazon Beauty, the way of crossrec.train against the plain way.

    python benchmarks/train_epoch.py                  # 131,413 predictions an epoch, 64 numbers a vector, 2 layers
    python benchmarks/train_epoch.py --users 500 --epochs 1      # a quick look whether it runs

All ways train the same model from the same start, with the same optimizer, learning rates and number of steps:
fast     batches of like length, chunked softmax
plain    random batches padded to their longest row, `F.cross_entropy` on the scores at real positions
padded   the same, but the scores of all items are computed at padding too, and then ignored: common, and so slow (each
         step moves about a gigabyte) that it is measured only when asked for: --ways fast,padded --epochs 1

The data are looked for in the folder that CROSSREC_DATA names. Set OMP_NUM_THREADS to the cores to be used.
"""

import argparse
import os
import platform
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from crossrec.core import device, has_bf16, seed_everything
from crossrec.domain import Domain
from crossrec.metrics import ndcg_at
from crossrec.model import ModelSettings, TwoTower
from crossrec.ranking import rank_queries
from crossrec.split import View, leave_one_out
from crossrec.train import SequenceScorer, TrainSettings, length_sorted, windows

DATA = Path(os.environ.get("CROSSREC_DATA", "data"))


class PlainTower(TwoTower):
    """The same model with the loss that everybody writes first."""

    def loss(self, histories: Tensor, lengths: Tensor, *_: object) -> Tensor:
        """Cross-entropy at real positions, all scores in memory at once."""
        items = self.items()
        states = self.users(items, histories[:, :-1])
        real = torch.arange(states.shape[1], device=states.device) < (lengths - 1)[:, None]
        return F.cross_entropy(states[real] @ items.T, histories[:, 1:][real])


class PaddedTower(TwoTower):
    """The same again, without leaving padding out before the softmax."""

    def loss(self, histories: Tensor, lengths: Tensor, *_: object) -> Tensor:
        """Cross-entropy over [rows, positions, items] scores; padded positions are computed, then ignored."""
        items = self.items()
        scores = self.users(items, histories[:, :-1]) @ items.T
        padding = torch.arange(scores.shape[1], device=scores.device) >= (lengths - 1)[:, None]
        return F.cross_entropy(scores.flatten(0, 1), histories[:, 1:].masked_fill(padding, -100).flatten())


def random_batches(lengths: np.ndarray, positions: int, rng: np.random.Generator) -> list[np.ndarray]:
    """As many batches as `length_sorted` makes, of windows in random order."""
    steps = len(length_sorted(lengths, positions, np.random.default_rng(0)))
    return np.array_split(rng.permutation(len(lengths)), steps)


def padding(batching: Callable, lengths: np.ndarray, positions: int) -> float:
    """Share of an epoch's positions that hold no item."""
    batches = batching(lengths, positions, np.random.default_rng(0))
    computed = sum(len(rows) * (int(lengths[rows].max()) - 1) for rows in batches)
    return 1 - float((lengths - 1).sum()) / computed


def measure(tower: type[TwoTower], batching: Callable, view: View, vectors: np.ndarray | None, epochs: int) -> dict:
    """Train for some epochs; time without judging, and NDCG@10 on all validation queries at the end."""
    settings = TrainSettings(epochs=epochs, least_steps=1, most_steps=10**9, average=0.0)
    scorer = SequenceScorer(vectors, ModelSettings(width=64, layers=2), settings)
    unjudged = View(view.regime, view.n_items, view.train, view.valid.take(np.arange(0)), view.target_users, view.users)
    seed_everything(0)
    with patch("crossrec.train.TwoTower", tower), patch("crossrec.train.length_sorted", batching):
        scorer.fit(unjudged)
    lengths = windows(view.train, scorer.model.max_length).lengths
    seconds = scorer.log["seconds"]
    return {
        "steps an epoch": len(batching(lengths, settings.positions, np.random.default_rng(0))),
        "padding": f"{padding(batching, lengths, settings.positions):.1%}",
        "seconds an epoch": f"{seconds.median():.2f} ({seconds.min():.2f} to {seconds.max():.2f})",
        "last loss": f"{scorer.log['loss'].iloc[-1]:.3f}",
        "validation NDCG@10": f"{ndcg_at(rank_queries(scorer, view.valid), 10).mean():.4f}",
    }


def text_vectors(domain: Domain) -> np.ndarray:
    """Softly whitened MiniLM vectors; minutes the first time, then from the cache."""
    from crossrec.encode import Encoder, soft_whiten
    from crossrec.text import item_texts

    return soft_whiten(Encoder("minilm").encode(item_texts(domain.items)))


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=8, help="epochs of each way (8)")
    parser.add_argument("--users", type=int, help="only so many users, for a quick look")
    parser.add_argument("--text", action="store_true", help="with MiniLM vectors and ids; without: ids only")
    parser.add_argument("--ways", default="fast,plain", help="fast, plain, padded (fast,plain)")
    asked = parser.parse_args()
    folder = DATA / "amazon_beauty"
    if not folder.is_dir():
        print(f"no domain folder {folder}; set CROSSREC_DATA to the folder that holds amazon_beauty. Nothing measured.")
        return
    domain = Domain.load(folder).clean()
    view = leave_one_out(domain).view(asked.users or "all")
    vectors = text_vectors(domain) if asked.text else None
    ways = {
        "fast": (TwoTower, length_sorted),
        "plain": (PlainTower, random_batches),
        "padded": (PaddedTower, random_batches),
    }
    found = {way: measure(*ways[way], view, vectors, asked.epochs) for way in asked.ways.split(",")}
    predictions = int(np.maximum(view.train.lengths - 1, 0).sum())
    print(
        f"{predictions:,} predictions an epoch, {view.n_items:,} items, {'text and ids' if asked.text else 'ids'}, "
        f"64 numbers a vector, 2 layers, {asked.epochs} epochs"
    )
    print(
        f"{device()}, {torch.get_num_threads()} threads, bfloat16 {has_bf16()}, torch {torch.__version__}, "
        f"{platform.machine()}\n"
    )
    print(pd.DataFrame(found).T.to_string())


if __name__ == "__main__":
    main()
