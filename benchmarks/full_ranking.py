"""Full ranking of Amazon Beauty, 22,363 users times 12,101 items: crossrec against RecBole, the same trained weights.

    python benchmarks/full_ranking.py                                     # crossrec and the bare matrix product
    python benchmarks/full_ranking.py --recbole-python ENV/bin/python     # beside RecBole, installed apart:
        python -m venv ENV && ENV/bin/pip install recbole==1.2.1 'setuptools<81' 'numpy<2' 'pandas<3' torch

RecBole's SASRec (post-norm, GELU, width 64, two blocks, histories of at most 50 items) is trained for a few epochs by
crossrec's loop. The weights go to RecBole as a file, and both sides rank every item for the last item of every user.
What is timed goes from histories to Recall, NDCG and MRR at 5, 10 and 20: `rank_queries` and three means here,
`Trainer.evaluate` with RecBole's own batch size there. Loading, data preparation and a first run to warm up are not
counted. The two take turns, so that a busy machine disturbs both, and the best of the turns counts.

RecBole does not mask a user's earlier items for sequential models, so neither does crossrec here; what masking would
cost is printed too. The ceiling is the bare product of all final states with all item vectors, in the chunk size that
is fastest. The data are looked for in the folder that CROSSREC_DATA names; OMP_NUM_THREADS sets the cores both use.
"""

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from crossrec.domain import Domain
from crossrec.metrics import ndcg_at, recall_at
from crossrec.model import ModelSettings, TwoTower
from crossrec.ranking import rank_queries
from crossrec.split import Queries, leave_one_out
from crossrec.train import SequenceScorer, TrainSettings, last_output
from crossrec.transformer import BERT, Block

DATA = Path(os.environ.get("CROSSREC_DATA", "data"))
SIZES = ModelSettings(text=False, width=64, layers=2, heads=2, max_length=50, dropout=0.5)
CUTOFFS = (5, 10, 20)


class PostNormSASRec(TwoTower):
    """RecBole's SASRec as two towers: a norm at the entrance, and blocks that norm after each sum."""

    def __init__(self, n_items: int) -> None:
        nn.Module.__init__(self)
        self.settings, self.n_items = SIZES, n_items
        self.ids = nn.Parameter(0.02 * torch.randn(n_items, SIZES.width))
        self.positions = nn.Parameter(0.02 * torch.randn(SIZES.max_length, SIZES.width))
        self.norm, self.dropout = nn.LayerNorm(SIZES.width, eps=1e-12), nn.Dropout(SIZES.dropout)
        blocks = (Block(SIZES.width, SIZES.heads, SIZES.dropout, 4, BERT) for _ in range(SIZES.layers))
        self.blocks = nn.ModuleList(blocks)

    def enter(self, items: Tensor, histories: Tensor) -> Tensor:
        """What the first block reads."""
        return self.dropout(self.norm(nn.functional.embedding(histories, items) + self.positions[: histories.shape[1]]))

    def users(self, items: Tensor, histories: Tensor) -> Tensor:
        """The state after each item."""
        stream = self.enter(items, histories)
        for block in self.blocks:
            stream = block(stream)
        return stream

    def ends(self, items: Tensor, histories: Tensor) -> Tensor:
        """The state after the last item."""
        stream = self.enter(items, histories)
        for block in self.blocks[:-1]:
            stream = block(stream)
        return last_output(self.blocks[-1], stream)


class PostNormScorer(SequenceScorer):
    """The same, trained by crossrec's loop."""

    def build(self, n_items: int) -> PostNormSASRec:
        """The model, untrained."""
        return PostNormSASRec(n_items)


def evaluate(scorer: SequenceScorer, queries: Queries, allow_repeats: bool = True) -> dict[str, float]:
    """From histories to metrics."""
    ranks = rank_queries(scorer, queries, allow_repeats)
    found = {f"recall@{k}": recall_at(ranks, k).mean() for k in CUTOFFS}
    found |= {f"ndcg@{k}": ndcg_at(ranks, k).mean() for k in CUTOFFS}
    return found | {f"mrr@{k}": np.where(ranks <= k, 1 / ranks, 0).mean() for k in CUTOFFS}


def seconds(call: Callable[[], object], repeats: int = 1) -> float:
    """The fastest of some calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def ceiling(users: Tensor, items: Tensor, repeats: int) -> tuple[float, int]:
    """Seconds of the bare matrix product, and the users a chunk with which it is fastest."""

    def product(rows: int) -> None:
        buffer = torch.empty(rows, items.shape[1])
        for part in users.split(rows):
            torch.mm(part, items, out=buffer[: len(part)])

    return min((seconds(lambda rows=rows: product(rows), repeats), rows) for rows in (32, 64, 128, 256, 1024))


def write_interactions(folder: Path, queries: Queries) -> None:
    """All interactions, in RecBole's format."""
    (folder / "data").mkdir()
    rows = [[*queries.histories[user].tolist(), int(queries.targets[user])] for user in range(len(queries))]
    lines = [f"{user}\t{item}\t{place}\n" for user, row in enumerate(rows) for place, item in enumerate(row)]
    header = "user_id:token\titem_id:token\ttimestamp:float\n"
    (folder / "data" / "data.inter").write_text(header + "".join(lines))


def recbole_settings() -> dict[str, object]:
    """RecBole's SASRec in our size: leave-one-out, full ranking, full cross-entropy."""
    return {
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
        "metrics": ["Recall", "NDCG", "MRR"], "topk": list(CUTOFFS), "metric_decimal_place": 9,
        "train_neg_sample_args": None, "loss_type": "CE", "MAX_ITEM_LIST_LENGTH": SIZES.max_length,
        "hidden_size": SIZES.width, "inner_size": 4 * SIZES.width, "n_layers": SIZES.layers, "n_heads": SIZES.heads,
        "hidden_act": "gelu", "layer_norm_eps": 1e-12, "use_gpu": False, "show_progress": False, "state": "ERROR",
    }  # fmt: skip


def write_for_recbole(folder: Path, scorer: SequenceScorer, queries: Queries) -> None:
    """Interactions in RecBole's format, the settings, and the weights."""
    write_interactions(folder, queries)
    np.savez(folder / "weights.npz", **{name: value.numpy() for name, value in scorer.net.state_dict().items()})
    (folder / "settings.json").write_text(json.dumps({"recbole": recbole_settings()}))


@contextmanager
def recbole(
    python: str, scorer: SequenceScorer, queries: Queries
) -> Iterator[tuple[dict, Callable[[str], dict], Path]]:
    """RecBole in a process of its own: what it says of itself, a function that asks it, and its folder."""
    with tempfile.TemporaryDirectory(prefix="recbole-") as name:
        folder = Path(name)
        write_for_recbole(folder, scorer, queries)
        command = [python, "-W", "ignore", str(Path(__file__).with_name("full_ranking_recbole.py")), name]
        process = subprocess.Popen(
            command, cwd=name, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

        def answer() -> dict:
            for line in process.stdout:
                if line.startswith("{"):
                    return json.loads(line)
            raise SystemExit(f"RecBole gave up; run it by hand to see why: {' '.join(command)}")

        def ask(what: str) -> dict:
            process.stdin.write(f"{what}\n")
            process.stdin.flush()
            return answer()

        yield answer(), ask, folder
        process.stdin.close()
        process.wait()


def compare(scorer: SequenceScorer, queries: Queries, python: str, turns: int) -> float:
    """Take turns with RecBole; print metrics, ties and seconds; our seconds."""
    with recbole(python, scorer, queries) as (about, ask, folder):
        ours, theirs = [], []
        for _ in range(turns):
            theirs.append(ask("go"))
            ours.append(seconds(lambda: evaluate(scorer, queries), 3))
        ask("ranks")
        their_ranks = np.load(folder / "ranks.npz")
    metrics = pd.DataFrame({"crossrec": evaluate(scorer, queries), "RecBole": theirs[0]["metrics"]})
    metrics["difference"] = metrics["crossrec"] - metrics["RecBole"]
    print(f"RecBole 1.2.1: {about}\n\n{metrics.to_string(float_format='{:.9f}'.format)}\n")
    ranks = rank_queries(scorer, queries, allow_repeats=True)
    above, level = (their_ranks[name][: len(ranks)] for name in ("above", "level"))
    other, early = ranks != above + level, np.minimum(ranks, above + 1) <= CUTOFFS[-1]
    print(
        f"users whose target ties in RecBole's scores: {(level > 1).sum()}; ranks that differ from RecBole's, by "
        f"rounding: {other.sum():,} of {len(ranks):,}, of them within the first {CUTOFFS[-1]}: "
        f"{(other & early).sum()}"
    )
    times = [turn["seconds"] for turn in theirs]
    print("seconds of each turn: RecBole", *map("{:.2f}".format, times), "  crossrec", *map("{:.3f}".format, ours))
    best = min(ours)
    print(
        f"\nRecBole {min(times):.2f} s, crossrec {best:.3f} s: {min(times) / best:.1f} times faster; "
        f"largest difference of a metric {metrics['difference'].abs().max():.1e}"
    )
    return best


def main() -> None:
    """Train, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recbole-python", help="the Python of an environment that has RecBole")
    parser.add_argument("--epochs", type=int, default=6, help="epochs of training beforehand (6)")
    parser.add_argument("--turns", type=int, default=3, help="how often each side is measured (3)")
    asked = parser.parse_args()
    folder = DATA / "amazon_beauty"
    if not folder.is_dir():
        print(f"no domain folder {folder}; set CROSSREC_DATA to the folder that holds amazon_beauty. Nothing measured.")
        return
    split = leave_one_out(Domain.load(folder).clean())
    scorer = PostNormScorer(None, SIZES, TrainSettings(epochs=asked.epochs, average=0.0)).fit(split.view("all"))
    scorer.net.cpu()
    queries = split.test
    print(
        f"{len(queries):,} users, {scorer.n_items:,} items, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, {platform.machine()}; RecBole's SASRec after {len(scorer.log)} epochs\n"
    )
    evaluate(scorer, queries)
    if asked.recbole_python:
        best = compare(scorer, queries, asked.recbole_python, asked.turns)
    else:
        best = seconds(lambda: evaluate(scorer, queries), asked.turns)
    masked = seconds(lambda: evaluate(scorer, queries, allow_repeats=False), asked.turns)
    towers = seconds(lambda: scorer.towers(queries.histories), asked.turns)
    users, items = scorer.towers(queries.histories)
    bare, rows = ceiling(users, items.T.contiguous(), asked.turns)
    flops = 2 * len(users) * len(items) * users.shape[1]
    print(f"crossrec, histories to metrics: {best:.3f} s; with earlier items masked: {masked:.3f} s")
    print(f"of which final states of all users: {towers:.3f} s; scores, comparison and counting: {best - towers:.3f} s")
    print(f"bare matrix product (ceiling): {bare:.3f} s in chunks of {rows} users, {flops / bare / 1e9:.0f} GFLOP/s")
    print(f"share of the ceiling: {bare / (best - towers):.0%} in ranking, {bare / best:.0%} from histories to metrics")


if __name__ == "__main__":
    main()
