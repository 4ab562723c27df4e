"""Training on Amazon Beauty: seconds an epoch, quality and peak memory of crossrec and of RecBole's SASRec.

    python benchmarks/train_speed.py --recbole-python ENV/bin/python     # RecBole is installed apart:
        python -m venv ENV && ENV/bin/pip install recbole==1.2.1 'setuptools<81' 'numpy<2' 'pandas<3' torch

Both train a SASRec of width 64 with two blocks of two heads, histories of at most 50 items and cross-entropy over all
12,101 items, on the same 131,413 predictions an epoch; crossrec in float32 and in bfloat16, RecBole with its own batch
size and learning rate. Each way runs in a process of its own, one after the other, so that peak memory is its own. The
clock runs while an epoch is trained, validation is not counted. RecBole's epochs take minutes, so it may train fewer
(--recbole-epochs). NDCG@10 is that of all validation users, the whole catalogue ranked, earlier items not masked
(RecBole does not). The data are looked for in the folder that CROSSREC_DATA names; OMP_NUM_THREADS sets the cores.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent


def peak_gib() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def crossrec_way(precision: str, epochs: int) -> dict[str, object]:
    """Train crossrec's SASRec for some epochs."""
    from full_ranking import DATA, SIZES

    from crossrec.callbacks import KeepBest
    from crossrec.domain import Domain
    from crossrec.loop import Callback, train
    from crossrec.metrics import ndcg_at
    from crossrec.ranking import rank_queries
    from crossrec.split import leave_one_out
    from crossrec.train import NextItem, SequenceScorer, TrainSettings

    view = leave_one_out(Domain.load(DATA / "amazon_beauty").clean()).view("all")
    as_peers = {"least_steps": 1, "most_steps": 10**9, "rate": 1e-3, "average": 0.0}
    settings = TrainSettings(epochs=epochs, precision=precision, **as_peers)
    scorer = SequenceScorer(None, SIZES, settings)
    scorer.n_items, scorer.net, scorer.knows = view.n_items, scorer.build(view.n_items), True
    judge = KeepBest(lambda: float(ndcg_at(rank_queries(scorer, view.valid, True), 10).mean()), 10**9, 10**9)
    log = train(NextItem(scorer.net, view.train, settings), [judge, Callback()])
    return {"seconds": log["seconds"].tolist(), "valid": log["valid"].tolist(), "peak": peak_gib()}


def recbole_way(folder: Path, epochs: int) -> dict[str, object]:
    """Train RecBole's SASRec for some epochs; runs where RecBole is installed."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    settings = json.loads((folder / "settings.json").read_text())
    config = Config(model="SASRec", dataset="data", config_dict={**settings, "data_path": str(folder)})
    init_seed(config["seed"], True)
    dataset = create_dataset(config)
    train, valid, _ = data_preparation(config, dataset)
    model = get_model(config["model"])(config, train.dataset)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    seconds, found = [], []
    for epoch in range(epochs):
        start = time.perf_counter()
        trainer._train_epoch(train, epoch, show_progress=False)
        seconds.append(time.perf_counter() - start)
        if epoch + 1 == epochs:
            trainer.eval_collector.data_collect(train)
            found = [trainer.evaluate(valid, load_best_model=False)["ndcg@10"]]
    return {"seconds": seconds, "valid": [float("nan")] * (epochs - 1) + [float(value) for value in found],
            "peak": peak_gib()}  # fmt: skip


def run_way(python: str, way: str, epochs: int, folder: Path) -> dict[str, object]:
    """One way in a process of its own."""
    command = [python, "-W", "ignore", str(HERE / "train_speed.py"), "--way", way, "--epochs", str(epochs)]
    command += ["--folder", str(folder)]
    done = subprocess.run(command, cwd=folder, text=True, stdout=subprocess.PIPE, check=True)
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"seconds"')))


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recbole-python", help="Python of an environment with RecBole; without: crossrec alone")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of crossrec (10)")
    parser.add_argument("--recbole-epochs", type=int, default=3, help="epochs of RecBole (3)")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.way:
        folder, of_recbole = Path(asked.folder), asked.way == "recbole"
        print(json.dumps(recbole_way(folder, asked.epochs) if of_recbole else crossrec_way(asked.way, asked.epochs)))
        return
    import torch
    from full_ranking import DATA, recbole_settings, write_interactions

    from crossrec.domain import Domain
    from crossrec.split import leave_one_out

    if not (DATA / "amazon_beauty").is_dir():
        print(f"no domain folder {DATA / 'amazon_beauty'}; set CROSSREC_DATA. Nothing measured.")
        return
    os.environ["CROSSREC_DATA"] = str(DATA.resolve())
    with tempfile.TemporaryDirectory(prefix="train-speed-") as name:
        folder = Path(name)
        write_interactions(folder, leave_one_out(Domain.load(DATA / "amazon_beauty").clean()).test)
        (folder / "settings.json").write_text(json.dumps(recbole_settings()))
        ways = {f"crossrec {way}": run_way(sys.executable, way, asked.epochs, folder) for way in ("fp32", "bf16")}
        if asked.recbole_python:
            ways["RecBole 1.2.1"] = run_way(asked.recbole_python, "recbole", asked.recbole_epochs, folder)
    table = pd.DataFrame({name: {
        "epochs": len(way["seconds"]), "seconds an epoch": pd.Series(way["seconds"]).median(),
        "fastest": min(way["seconds"]), "slowest": max(way["seconds"]), "peak GiB": way["peak"],
        f"NDCG@10 after {asked.recbole_epochs}": way["valid"][min(asked.recbole_epochs, len(way["valid"])) - 1],
        "NDCG@10 at the end": way["valid"][-1]} for name, way in ways.items()}).T  # fmt: skip
    if asked.recbole_python:
        table["times as fast"] = table.loc["RecBole 1.2.1", "seconds an epoch"] / table["seconds an epoch"]
        table["share of memory"] = table["peak GiB"] / table.loc["RecBole 1.2.1", "peak GiB"]
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {platform.machine()}\n")
    print(table.round(4).to_string())


if __name__ == "__main__":
    main()
