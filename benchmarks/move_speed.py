"""How long a move takes: `python benchmarks/move_speed.py [--users 256]`.

A recommender that learned on Amazon Beauty is saved and loaded again. Then the clock runs: the 11,924 texts of Amazon
Toys are encoded (with an empty cache), and ten toys are recommended to each of 1,000 people whom nothing was learned
from. Then it adapts to some target users. The folders amazon_beauty and amazon_toys lie in the folder that
CROSSREC_DATA names, or in data/; OMP_NUM_THREADS sets the cores.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

DATA = Path(os.environ.get("CROSSREC_DATA", "data"))


def main() -> None:
    """Print seconds a step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=256, help="target users to adapt to")
    options = parser.parse_args()
    if not (DATA / "amazon_toys").is_dir():
        sys.exit(f"found no folder {DATA / 'amazon_toys'}; set CROSSREC_DATA to the folder that holds it")
    from crossrec import Domain, Recommender
    from crossrec.strategies import moved
    from crossrec.text import item_names
    from crossrec.train import TrainSettings

    source, target = (Domain.load(DATA / f"amazon_{name}").clean() for name in ("beauty", "toys"))
    with tempfile.TemporaryDirectory() as folder:
        quick = TrainSettings(most_steps=200)  # how long it learned on the source makes no difference to the move
        Recommender(settings=quick).fit(source).save(Path(folder) / "model")
        os.environ["CROSSREC_CACHE"] = str(Path(folder) / "cache")
        start = time.perf_counter()
        ready, split = Recommender.load(Path(folder) / "model").prepared(target)
        encoded = time.perf_counter()
        how = (None, ready.model, TrainSettings(), False, item_names(target.items))
        asked = split.test.histories.take(np.arange(1000))
        zero = ready.holding(moved("auto", ready.vectors, ready.knowledge, *how).fit(split.view(0)))
        zero.recommend_all(asked)
        recommended = time.perf_counter()
        few = ready.holding(moved("auto", ready.vectors, ready.knowledge, *how).fit(split.view(options.users)))
        adapted = time.perf_counter()
        few.recommend_all(asked)
        seconds = {
            "texts of 11,924 toys encoded": encoded - start,
            "zero-shot: fitted, and 10 toys for 1,000 people": recommended - encoded,
            "zero-shot in all": recommended - start,
            f"adapted to {options.users} target users": adapted - recommended,
            "and 10 toys for 1,000 people": time.perf_counter() - adapted,
        }
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {platform.machine()}\n")
    for what, took in seconds.items():
        print(f"{what:50s} {took:6.1f} s")


if __name__ == "__main__":
    main()
