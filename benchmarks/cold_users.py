"""People who are new in the target: `python benchmarks/cold_users.py [--seeds 0,1,2] [--amazon] [--departments ...]`.

Complete Journey from the grocery to other departments, half of the shared households asked as if they were new; with
--amazon also Beauty to Toys and back. Cuts in time where both know it, full ranking. NDCG@10 comes from an evaluator of
its own: the lists that the study gives for its first seed, joined with what people took in plain pandas; the interval
is that of the study, over people and seeds.
The folders amazon_beauty and amazon_toys lie in the folder that CROSSREC_DATA names, or in data/.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from crossrec import Domain, Recommender
from crossrec.cold_users import cold_start
from crossrec.split import split_domains
from crossrec.train import TrainSettings

DATA = Path(os.environ.get("CROSSREC_DATA", "data"))
DEPARTMENTS = ("drug-gm", "produce", "meat-pckgd", "meat", "deli", "pastry", "nutrition")  # by size


def figure(lists: np.ndarray, targets: np.ndarray) -> float:
    """NDCG@10 from the lists themselves."""
    table = pd.DataFrame(lists, columns=range(1, lists.shape[1] + 1)).rename_axis("person")
    table = table.melt(ignore_index=False, var_name="rank", value_name="item").reset_index()
    wanted = pd.DataFrame({"person": range(len(targets)), "item": targets})
    hits = table.merge(wanted, on=["person", "item"])
    return float((1 / np.log2(1 + hits["rank"].astype(float))).sum() / len(targets))


def fitted(source: Domain, targets: list[Domain], settings: TrainSettings, repeats: bool) -> Recommender:
    """Fitted once for several targets, on what is earlier than the earliest question of any."""
    splits = [split_domains(source, target) for target in targets]
    learned, _ = min(splits, key=lambda pair: pair[1].valid_cut or 0)
    return Recommender(settings=settings, allow_repeats=repeats).fit(source, learned)


def row(recommender: Recommender, target: Domain, seeds: tuple[int, ...]) -> dict:
    """One pair of domains."""
    study, source = cold_start(recommender, target, seeds=seeds), recommender.source
    found = {"people": len(study.cold), "rehearsed": study.protocol["rehearsed"]}
    found |= {name: figure(lists, study.cold.targets) for name, lists in study.lists.items()}
    verdict = study.verdicts[0]
    low, high = verdict.ci95
    found |= {"gain": verdict.gain, "95% interval": f"{low:+.4f} to {high:+.4f}", "over": verdict.best_target_only}
    found |= {"gate": sum(one.open for one in study.weighings.values()), "seconds": study.protocol["seconds"]}
    print(source.name, "to", target.name, *(f"\n  {line}" for line in (study.verdict, *study.notes)))
    print("  weights", {name: round(w, 2) for name, w in study.weighings[seeds[0]].weights.items()}, flush=True)
    return found


def main() -> None:
    """Print one row a pair."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--departments", nargs="*", default=DEPARTMENTS)
    parser.add_argument("--steps", type=int, default=300, help="training steps of the sequence model")
    parser.add_argument("--amazon", action="store_true")
    options = parser.parse_args()
    seeds, settings = tuple(int(seed) for seed in options.seeds.split(",")), TrainSettings(most_steps=options.steps)
    if options.amazon and not (DATA / "amazon_toys").is_dir():
        sys.exit(f"found no folder {DATA / 'amazon_toys'}; set CROSSREC_DATA to the folder that holds it")
    rows = {}
    if options.departments:
        grocery, *targets = (
            Domain.load(f"completejourney/{name}").clean(repeats="keep") for name in ("grocery", *options.departments)
        )
        recommender = fitted(grocery, targets, settings, True)
        for name, target in zip(options.departments, targets, strict=True):
            rows[f"grocery to {name}"] = row(recommender, target, seeds)
    if options.amazon:
        beauty, toys = (Domain.load(DATA / f"amazon_{name}").clean() for name in ("beauty", "toys"))
        rows["beauty to toys"] = row(fitted(beauty, [toys], settings, False), toys, seeds)
        rows["toys to beauty"] = row(fitted(toys, [beauty], settings, False), beauty, seeds)
    print(pd.DataFrame(rows).T.to_string(float_format="{:.4f}".format))


if __name__ == "__main__":
    main()
