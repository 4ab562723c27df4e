"""RecBole's side of full_ranking.py; runs in an environment of its own, which has RecBole and not crossrec.

    python benchmarks/full_ranking_recbole.py FOLDER        # started by full_ranking.py, which also fills FOLDER

Builds RecBole's data set and its SASRec, loads the weights, evaluates once to warm up, and says "ready". For each line
"go" on standard input it evaluates and prints seconds and metrics as JSON; for "ranks" it writes ranks.npz. Data set,
model and weights are built before the clock starts. What is timed is `Trainer.evaluate`: histories to metrics.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

# where each of RecBole's weights is found among ours, which are those of chapter 06's blocks
LAYER = {
    "multi_head_attention.dense": "attention.out",
    "multi_head_attention.LayerNorm": "norm_attention",
    "feed_forward.dense_1": "widen",
    "feed_forward.dense_2": "narrow",
    "feed_forward.LayerNorm": "norm_feed_forward",
}


def state_dict(ours: dict[str, torch.Tensor], items: np.ndarray, layers: int) -> dict[str, torch.Tensor]:
    """The weights under RecBole's names; its item 0 is padding, row i of its table is our item items[i]."""
    state = {
        "item_embedding.weight": torch.cat([torch.zeros(1, ours["ids"].shape[1]), ours["ids"][items[1:]]]),
        "position_embedding.weight": ours["positions"],
        "LayerNorm.weight": ours["norm.weight"],
        "LayerNorm.bias": ours["norm.bias"],
    }
    for layer in range(layers):
        here, there = f"blocks.{layer}.", f"trm_encoder.layer.{layer}."
        for kind in ("weight", "bias"):
            parts = ours[f"{here}attention.qkv.{kind}"].chunk(3)
            for name, part in zip(("query", "key", "value"), parts, strict=True):
                state[f"{there}multi_head_attention.{name}.{kind}"] = part
            for name, own in LAYER.items():
                state[f"{there}{name}.{kind}"] = ours[f"{here}{own}.{kind}"]
    return state


def ranks(trainer: object, data: object, users: np.ndarray) -> dict[str, np.ndarray]:
    """For each of our users how many items are above the target, and how many are level with it, itself included."""
    trainer.model.eval()
    found = {"above": np.zeros(len(users), np.int64), "level": np.zeros(len(users), np.int64)}
    with torch.no_grad():
        for batch, _, rows, items in data:
            scores = trainer.model.full_sort_predict(batch)[:, 1:]
            own = scores[rows, items - 1][:, None]
            to = users[batch["user_id"].numpy()]
            found["above"][to], found["level"][to] = (scores > own).sum(1), (scores == own).sum(1)
    return found


def main(folder: Path) -> None:
    """Answer requests until standard input ends."""
    settings = json.loads((folder / "settings.json").read_text())
    config = Config(model="SASRec", dataset="data", config_dict={**settings["recbole"], "data_path": str(folder)})
    init_seed(config["seed"], True)
    dataset = create_dataset(config)
    train, _, test = data_preparation(config, dataset)
    model = get_model(config["model"])(config, train.dataset)
    ours = {name: torch.from_numpy(value) for name, value in np.load(folder / "weights.npz").items()}
    # number 0 of both fields is RecBole's padding
    items, users = (np.array([-1, *map(int, dataset.field2id_token[name][1:])]) for name in ("item_id", "user_id"))
    model.load_state_dict(state_dict(ours, items, config["n_layers"]))
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer.evaluate(test, load_best_model=False)
    about = {"users": len(test.dataset), "items": dataset.item_num - 1, "batch": test.step, "torch": torch.__version__}
    print(json.dumps(about | {"threads": torch.get_num_threads()}), flush=True)
    for line in sys.stdin:
        if line.strip() == "ranks":
            np.savez(folder / "ranks.npz", **ranks(trainer, test, users))
        start = time.perf_counter()
        metrics = trainer.evaluate(test, load_best_model=False) if line.strip() == "go" else {}
        print(json.dumps({"seconds": time.perf_counter() - start, "metrics": metrics}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
