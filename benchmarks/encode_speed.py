"""Texts a second of crossrec's encoder and of sentence-transformers' own, on item titles and on whole item texts.

    OMP_NUM_THREADS=2 python benchmarks/encode_speed.py                  # 12,101 items of Amazon Beauty, three turns
    OMP_NUM_THREADS=2 python benchmarks/encode_speed.py --texts 1000     # a quick look
    python benchmarks/encode_speed.py --memory 200000                    # peak memory of many texts, a tiny model
    python benchmarks/encode_speed.py --cache                            # reading 12,101 vectors that are there

The two ways take turns on the same texts with the same model, and the medians are compared:
theirs    `model.encode(texts)` as sentence-transformers comes: fp32, 32 texts a batch, sorted by characters
ours      what `Encoder.encode` does when the cache is empty: bf16 where the processor has it, batches of one length
The cosines are between the two. Processor seconds are told beside the time on the wall, for machines that others use.

The data are looked for in the folder that CROSSREC_DATA names. Set OMP_NUM_THREADS to the cores to be used.
"""

import argparse
import os
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np

from crossrec.core import has_bf16
from crossrec.domain import Domain
from crossrec.encode import Encoder
from crossrec.text import item_texts

DATA = Path(os.environ.get("CROSSREC_DATA", "data"))


def ours(encoder: Encoder, model: object, texts: list[str]) -> np.ndarray:
    """Encode with an empty cache, the model being in memory already, as it is for the others."""
    with TemporaryDirectory() as folder, patch.dict(os.environ, CROSSREC_CACHE=folder):
        with patch.object(Encoder, "load", lambda self: model):
            return encoder.encode(texts)


def measure(ways: dict[str, Callable[[], np.ndarray]], turns: int) -> dict[str, tuple[float, float, np.ndarray]]:
    """Median seconds on the wall and of the processor, and the vectors; the ways take turns."""
    wall, processor, found = {name: [] for name in ways}, {name: [] for name in ways}, {}
    for _ in range(turns):
        for name, way in ways.items():
            start, used = time.perf_counter(), time.process_time()
            found[name] = way()
            wall[name].append(time.perf_counter() - start)
            processor[name].append(time.process_time() - used)
    return {name: (float(np.median(wall[name])), float(np.median(processor[name])), found[name]) for name in ways}


def speed(name: str, texts: list[str], encoder: Encoder, turns: int) -> None:
    """Print texts a second of both ways, the ratio and the smallest cosine."""
    model = encoder.load()
    model.encode(texts[:64]), ours(encoder, model, texts[:64])  # neither pays for a first call
    ways = {
        "theirs": lambda: model.encode(texts, normalize_embeddings=True),
        "ours": lambda: ours(encoder, model, texts),
    }
    found = measure(ways, turns)
    for way, (wall, processor, _) in found.items():
        rate = len(texts) / wall
        print(f"{name:12} {way:7} {rate:8.0f} texts/s {wall:8.2f} s wall {processor:8.2f} s processor", flush=True)
    theirs, mine = found["theirs"], found["ours"]
    cosine = float((theirs[2] * mine[2]).sum(1).min())
    ratios = f"ratio {theirs[0] / mine[0]:.2f} (processor {theirs[1] / mine[1]:.2f})"
    print(f"{name:12} {ratios}, smallest cosine {cosine:.6f}", flush=True)


def read_again(texts: list[str]) -> None:
    """Print what a second run costs, the model not loaded: hash the model, look up, check and read."""
    with TemporaryDirectory() as folder, patch.dict(os.environ, CROSSREC_CACHE=folder):
        Encoder().encode(texts)
        start, used = time.perf_counter(), time.process_time()
        Encoder().encode(texts)
        wall, processor = time.perf_counter() - start, time.process_time() - used
    print(f"{len(texts):,} vectors from the cache: {wall:.2f} s wall, {processor:.2f} s processor")


def memory(count: int) -> None:
    """Print how much the peak grows with many texts, for a random BERT of one layer and width 384."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    with TemporaryDirectory() as folder, patch.dict(os.environ, CROSSREC_CACHE=str(Path(folder, "cache"))):
        words = AutoTokenizer.from_pretrained(Encoder().folder)
        shape = {"hidden_size": 384, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 4}
        BertModel(BertConfig(vocab_size=len(words), **shape)).save_pretrained(folder)
        words.save_pretrained(folder)
        encoder, out = Encoder(folder, keep="float16"), Path(folder, "vectors.npy")
        encoder.encode([f"warm up {number}" for number in range(10_000)], out=out)
        texts = [f"item number {number} of {count}" for number in range(count)]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        start = time.perf_counter()
        vectors = encoder.encode(texts, out=out)
        more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
        whole = vectors.size * 4 / 2**20
        seconds = time.perf_counter() - start
        print(
            f"{count:,} texts in {seconds:.0f} s: the peak of {before:.0f} MiB grew by {more:.0f} MiB; "
            f"as one float32 array the vectors are {whole:.0f} MiB"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domain", default="amazon_beauty")
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--texts", type=int, help="a random draw of so many items; all where left out")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--memory", type=int, metavar="COUNT", help="measure peak memory instead")
    parser.add_argument("--cache", action="store_true", help="measure reading from the cache instead")
    given = parser.parse_args()
    if given.memory:
        return memory(given.memory)
    items = Domain.load(str(DATA / given.domain)).items
    if given.texts:
        items = items.sample(given.texts, random_state=0)
    if given.cache:
        return read_again(item_texts(items))
    import torch

    print(
        f"{given.domain}, {len(items):,} items, {given.encoder}, {torch.get_num_threads()} threads, "
        f"bf16 {'yes' if has_bf16() else 'no'}, {platform.processor() or platform.machine()}",
        flush=True,
    )
    for name, texts in (("titles", items["title"].fillna("").tolist()), ("item texts", item_texts(items))):
        speed(name, texts, Encoder(given.encoder), given.turns)


if __name__ == "__main__":
    main()
