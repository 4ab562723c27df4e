"""Two toy shops as domain folders: people walk round a ring of items, and leap now and then; all texts differ."""

from pathlib import Path

import numpy as np
import pandas as pd

from tests.toy import WORDS


def write_shop(
    folder: Path,
    letter: str,  # item ids begin with it, user ids with "u"
    users: int = 110,
    n_items: int = 40,
    seed: int = 0,
    timed: bool = False,  # timestamps over a year, else the order alone
    repeats: bool = False,  # some items are met twice
) -> Path:
    """Write interactions.csv and items.csv."""
    rng, words = np.random.default_rng(seed), WORDS.split()
    lengths = rng.integers(7, 13, users)
    steps = [np.cumsum(rng.choice([0, 1, 9] if repeats else [1, 2, 3, 9, 17], length)) for length in lengths]
    items = np.concatenate([(rng.integers(n_items) + walk) % n_items for walk in steps])
    rows = pd.DataFrame({"user_id": np.repeat([f"u{u}" for u in range(users)], lengths), "item_id": items})
    if timed:
        days = np.concatenate([np.sort(rng.uniform(0, 365, length)) for length in lengths])
        rows["timestamp"] = 1_700_000_000 + (days * 86_400).astype(int)
    else:
        rows["position"] = rows.groupby("user_id").cumcount()
    titles = [f"{words[i % len(words)]} {words[(i * 7 + 3 + i // len(words)) % len(words)]}" for i in range(n_items)]
    assert len(set(titles)) == n_items
    folder.mkdir(parents=True)
    rows.assign(item_id=letter + rows["item_id"].astype(str)).to_csv(folder / "interactions.csv", index=False)
    catalogue = pd.DataFrame({"item_id": [f"{letter}{i}" for i in range(n_items)], "title": titles})
    catalogue.to_csv(folder / "items.csv", index=False)
    return folder
