"""Does `auto` choose well with no target user? `python benchmarks/auto_choice.py [SOURCE:TARGET ...]`.

Every strategy recommends in the target without having met one of its users, and NDCG@10 of `auto` is set against that
of the strategy that turned out best on the test users: their ratio, and the paired difference with its 95% interval
over users. SOURCE and TARGET are domain folders or data sets; without any, ten pairs of departments of Complete Journey
are taken. A row is printed as soon as a pair is finished.
"""

import argparse

import pandas as pd

from crossrec import Domain, Recommender, transfer
from crossrec.core import CrossrecError
from crossrec.recommend import cleaned
from crossrec.significance import paired_gain
from crossrec.split import split_domains
from crossrec.strategies import STRATEGIES
from crossrec.train import TrainSettings
from crossrec.verdict import per_user

MOVES = ("grocery nutrition", "grocery pastry", "grocery drug-gm", "grocery produce", "grocery deli",
         "drug-gm nutrition", "drug-gm pastry", "produce nutrition", "deli pastry", "meat nutrition")  # fmt: skip
PAIRS = [":".join(f"completejourney/{name}" for name in move.split()) for move in MOVES]


def judged(source: Domain, target: Domain, most_steps: int) -> dict[str, object]:
    """NDCG@10 without a source, of `auto` and of the best other strategy, and how far `auto` is from it."""
    known, _ = split_domains(source, target)
    recommender = Recommender(settings=TrainSettings(most_steps=most_steps)).fit(source, known)
    others = [name for name in STRATEGIES if name != "auto"]
    study = transfer(recommender, target, methods=["text_scratch", *others, "transfer"], shots=[0], seeds=[0])
    values = per_user(study.at(("zero-shot", 0)))
    means = {name: float(each.mean()) for name, each in values.items()}
    best = max(others, key=means.__getitem__)
    gain, low, high, _ = paired_gain(values[best], values["transfer"])
    shown = {"text_scratch": means["text_scratch"], "auto": means["transfer"], "best": means[best]}
    ratio = {"ratio": means["transfer"] / means[best], "auto - best": f"{gain:+.4f} [{low:+.4f}, {high:+.4f}]"}
    return {"users": len(study.test)} | shown | {"which": best} | ratio


def loaded(pair: str) -> tuple[Domain, Domain]:
    """Both domains of SOURCE:TARGET, clean; an error of the command line where they cannot be read."""
    try:
        source, target = pair.split(":")
        return cleaned(Domain.load(source)), cleaned(Domain.load(target))
    except (ValueError, CrossrecError) as error:
        raise argparse.ArgumentTypeError(f"{pair!r} is no SOURCE:TARGET ({error})") from None


def main() -> None:
    """Print a row a pair."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    told = "domain folders or data sets"
    parser.add_argument("pairs", nargs="*", metavar="SOURCE:TARGET", type=loaded, help=told)
    parser.add_argument("--most-steps", type=int, default=TrainSettings().most_steps, help="training steps at most")
    options, rows = parser.parse_args(), {}
    for source, target in options.pairs or map(loaded, PAIRS):
        rows[f"{source.name} to {target.name}"] = judged(source, target, options.most_steps)
        print(pd.DataFrame.from_dict(rows, orient="index").round(4).to_string(), end="\n\n", flush=True)
    within = sum(row["ratio"] >= 0.97 for row in rows.values())
    print(f"within 3% of the best strategy in hindsight: {within} of {len(rows)} pairs")


if __name__ == "__main__":
    main()
