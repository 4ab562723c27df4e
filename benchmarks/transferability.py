"""Does an estimate before training tell what a transfer gains? `python benchmarks/transferability.py --out pairs.json`.

Pairs of departments of Complete Journey (`--pairs grocery:nutrition,deli:pastry`, or all of `--sources` with all of
`--targets`). Each source learns once, from what was before the earliest question of any target; each target is split by
time. Every finished pair is written to --out at once, and a pair that stands there is not run again. At the end the
numbers of `transferability` are set against the real gains: correlations with 95% intervals over domains.
All 49 pairs with three seeds take some hours on two cores; `--pairs deli:pastry --seeds 0 --shots 0,64 --most-steps 60`
is a quick look whether it runs.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd

from crossrec import Domain, Recommender, transfer
from crossrec.core import atomic_path
from crossrec.encode import Encoder
from crossrec.split import split_domains, time_cut
from crossrec.text import item_texts
from crossrec.train import TrainSettings
from crossrec.transferability import NUMBERS, RECORDED, agreement, known_before, together, transferability
from crossrec.verdict import per_user

SOURCES = ("deli", "nutrition", "produce", "grocery", "pastry", "meat", "meat-pckgd", "drug-gm")
TARGETS = ("nutrition", "pastry", "deli", "meat-pckgd", "meat", "produce", "drug-gm")
METHODS = ("popularity", "text", "item_knn", "ease", "text_scratch", "transfer")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("transferability.json"))
    parser.add_argument("--pairs", help="source:target,...; without it all sources with all targets")
    parser.add_argument("--sources", default=",".join(SOURCES))
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--shots", default="0,64,256", help="target users")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--most-steps", type=int, default=TrainSettings().most_steps, help="training steps at most")
    parser.add_argument("--no-run", action="store_true", help="only evaluate what stands in --out")
    return parser.parse_args()


def wanted(options: argparse.Namespace) -> list[tuple[str, str]]:
    """The pairs that are asked for, source by source."""
    if options.pairs:
        return sorted(tuple(pair.split(":")) for pair in options.pairs.split(","))
    return [(s, t) for s in options.sources.split(",") for t in options.targets.split(",") if s != t]


def earliest(source: str, domains: dict[str, Domain]) -> Domain:
    """The possible target whose questions begin first: what a source learned before it may serve every target."""
    return min((domains[name] for name in TARGETS if name != source), key=lambda domain: time_cut(domain)[0])


def outcome(study: object) -> list[dict]:
    """Gain of transfer over the best target-only method at each budget, with its standard error over users."""
    rows = []
    for verdict in study.verdicts:
        values = per_user(study.at((verdict.regime, verdict.target_users)))
        gains = (values["transfer"] - values[verdict.best_target_only]).mean(0)
        error, ndcg = gains.std(ddof=1) / np.sqrt(len(gains)), {name: float(v.mean()) for name, v in values.items()}
        rows.append({"target_users": verdict.target_users, "best": verdict.best_target_only,
                     "gain": float(gains.mean()), "error": float(error), "ndcg": ndcg})  # fmt: skip
    return rows


def measure(pairs: list[tuple[str, str]], domains: dict[str, Domain], options: argparse.Namespace) -> dict:
    """Train each source once and move it to its targets; results by "source:target"."""
    done = json.loads(options.out.read_text()) if options.out.exists() else {}
    shots, seeds = ([int(n) for n in text.split(",")] for text in (options.shots, options.seeds))
    for source in dict.fromkeys(source for source, _ in pairs):
        targets = [target for own, target in pairs if own == source and f"{own}:{target}" not in done]
        if not targets:
            continue
        learned = split_domains(domains[source], earliest(source, domains))[0]
        recommender = Recommender(settings=TrainSettings(most_steps=options.most_steps)).fit(domains[source], learned)
        for target in targets:
            study = transfer(recommender, domains[target], shots, seeds, methods=METHODS)
            done[f"{source}:{target}"] = {"tested": len(study.test), "seeds": seeds, "budgets": outcome(study)}
            with atomic_path(options.out) as path:
                path.write_text(json.dumps(done, indent=1))
            gains = {row["target_users"]: round(row["gain"], 4) for row in done[f"{source}:{target}"]["budgets"]}
            print(f"{source} to {target}: gain by target users {gains}", flush=True)
    return done


def table(done: dict, domains: dict[str, Domain]) -> pd.DataFrame:
    """A row a pair: what was known before, and what came of it."""
    raw = {name: Encoder().encode(item_texts(domain.items)) for name, domain in domains.items()}
    rows = {}
    for pair, result in done.items():
        source, target = pair.split(":")
        learned = split_domains(domains[source], earliest(source, domains))[0].train
        split = split_domains(domains[source], domains[target])[1]
        row = {}
        for outcome in result["budgets"]:
            users = outcome["target_users"]
            visible = split.view(users) if users else None
            given = domains[source], domains[target], (raw[source], raw[target]), learned, visible
            numbers = transferability(*given).numbers
            row |= {name if name not in ("carried", "told") else f"{name}@{users}": n for name, n in numbers.items()}
            row |= {f"gain@{users}": outcome["gain"], f"error@{users}": outcome["error"]}
        rows[source, target] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["source", "target"])


def record(both: pd.DataFrame) -> str:
    """The table in ten-thousandths, a line a pair, as chapter 15a keeps it."""
    early = [name for name in NUMBERS if name in both]
    late = [f"{name}@{users}" for users in RECORDED for name in ("carried", "told")]
    after = [f"{name}@{users}" for name in ("gain", "error") for users in (0, *RECORDED)]
    numbers = (10_000 * both[[*early, *late, *after]]).round().astype(int)
    rows = zip(numbers.index, numbers.to_numpy(), strict=True)
    return "\n".join(" ".join([*pair, *map(str, row)]) for pair, row in rows)


def main() -> None:
    """Measure what is missing, then print the table and the correlations at each budget."""
    options = parse()
    pairs = wanted(options)
    names = dict.fromkeys([*TARGETS, *(name for pair in pairs for name in pair)])
    domains = {name: Domain.load(f"completejourney/{name}").clean() for name in names}
    done = json.loads(options.out.read_text()) if options.no_run else measure(pairs, domains, options)
    both = table({pair: row for pair, row in done.items() if tuple(pair.split(":")) in set(pairs)}, domains)
    print(record(both) if set(RECORDED) < set(int(n) for n in options.shots.split(",")) else both.round(4).to_string())
    for users in [int(name.partition("@")[2]) for name in both if name.startswith("gain@")]:
        gains, known = both[f"gain@{users}"], known_before(both, users)
        if len(both) > 3:
            worth = agreement(together(known, gains), gains).round(2)
            print(f"\n{users} target users, {len(both)} pairs\n{worth.to_string()}")


if __name__ == "__main__":
    main()
