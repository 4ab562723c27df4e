"""Seconds of a tuning step, way by way: `python benchmarks/finetune_speed.py [--device cpu] [--ways full,top2,replay]`.

Every way takes the same batches of the same histories, each in a process of its own, through the loop that users get.
Printed are the median seconds of a step (the first two are left out; of the clock, and of the processor, which does not
count what other programs took), the tokens of distinct texts a second, the share of the fastest bfloat16 matrix product
of this machine, and the peak memory. Operations are counted as 2 a weight and token forward and 4 backward, for the
layers that compute them (LoRA: 2 backward); attention's own products and embeddings are left out. With --quality STEPS
the ways train that long and are judged zero-shot on both domains: NDCG@10 of the text similarity on the source's
validation users, and on the target's validation and test users. On a graphics card:

    python benchmarks/finetune_speed.py --device cuda --model smollm2 --ways full,lora --batch 256 --quality 2000

The folders amazon_beauty and amazon_toys lie in the folder that CROSSREC_DATA names, or in data/; without them, or with
--source and --target, any other domains serve.
"""

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

DATA = Path(os.environ.get("CROSSREC_DATA", "data"))
WAYS = {
    "full": {"mode": "full", "rate": 1e-4},
    "gradual": {"mode": "gradual"},
    "top2": {"mode": "full", "top": 2, "replay": False, "rate": 1e-4},
    "replay": {"mode": "full", "top": 2, "replay": True, "rate": 1e-4},
    "lora": {"mode": "lora", "rate": 1e-3},
}


def whole(name: str):  # an Encoder
    """A language model with all its layers, SmolLM2's too, of which `Encoder` reads ten by itself."""
    from crossrec.encode import Encoder

    return Encoder(name, pooling="last", layers=30) if name == "smollm2" else Encoder(name)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--model", default="minilm", help="minilm, smollm2, a folder or a name on the Hub")
    parser.add_argument("--ways", default="full,top2,replay", help=", ".join(WAYS))
    parser.add_argument("--source", default=str(DATA / "amazon_beauty"))
    parser.add_argument("--target", default=str(DATA / "amazon_toys"), help="for --quality")
    parser.add_argument("--items", type=int, help="only so many items of the source, and histories within them")
    parser.add_argument("--batch", type=int, default=32, help="moments of histories a step")
    parser.add_argument("--history", type=int, default=3, help="items of a history")
    parser.add_argument("--steps", type=int, default=12, help="steps that are timed")
    parser.add_argument("--quality", type=int, default=0, help="train so many steps and judge both domains")
    parser.add_argument("--vectors", help="with --quality: folder for the vectors of both domains, float16 .npy files")
    parser.add_argument("--precision", default="auto", help="auto, fp32 or bf16")
    return parser.parse_args()


def split_of(place: str, items: int | None = None) -> tuple:
    """Split and texts of a domain, or of its first items."""
    from crossrec import Domain
    from crossrec.finetune import _only
    from crossrec.split import leave_one_out
    from crossrec.text import item_texts

    domain = Domain.load(place).clean()
    split, texts = leave_one_out(domain), item_texts(domain.items)
    rows = split.train if items is None else _only(split.train, np.arange(len(texts)) < items)
    return split, texts[:items], rows


def ceiling(device: str) -> float:
    """Operations a second of the fastest bfloat16 matrix product of some sizes."""
    import torch

    best = 0.0
    for size in (512, 1024, 2048) if device == "cpu" else (4096, 8192):
        a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
        for _ in range(3 if device == "cpu" else 20):
            start = time.perf_counter()
            a @ b
            if device == "cuda":
                torch.cuda.synchronize()
            best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def operations(task: object, way: str) -> float:
    """Operations a token: 2 a weight forward, and backward 4 where weights learn, 2 where only the stream does."""
    from crossrec.layers import layer_groups

    layers = [sum(weight.numel() for weight in group) for group in layer_groups(task.language)[1:]]
    top = sum(layers[-2:])
    return {"top2": 2 * sum(layers) + 4 * top, "replay": 6 * top, "lora": 4 * sum(layers)}.get(way, 6 * sum(layers))


def measured(way: str, options: argparse.Namespace) -> dict:
    """One way, in a process of its own."""
    import torch

    from crossrec.loop import Callback, train
    from crossrec.tuning import FineTuneSettings, Histories, Source

    _, texts, rows = split_of(options.source, options.items)
    settings = FineTuneSettings(
        steps=options.steps + 2,
        epochs=1,
        batch=options.batch,
        history=options.history,
        precision=options.precision,
        **WAYS[way],
    )
    encoder, source, tokens, times, work = whole(options.model), Source(texts, rows), [], [], []

    class Clock(Callback):
        def step(self, run: object) -> None:
            if options.device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter())
            work.append(time.process_time())

    with tempfile.TemporaryDirectory() as folder:
        untrained, start = encoder.encode(source.texts), time.perf_counter()
        task = Histories(encoder, source, settings, Path(folder, "below"), untrained)
        ready, inputs = time.perf_counter() - start, task.inputs
        cost = operations(task, way)

        def counted(rows: np.ndarray, step: int) -> tuple:
            given = inputs(rows, step)
            tokens.append(int(task.lengths[given[1].numpy()].sum()))
            return given

        task.inputs = counted
        train(task, [Clock()])
    step, processor = (float(np.median(np.diff(clock)[1:])) for clock in (times, work))
    peak = (
        torch.cuda.max_memory_allocated()
        if options.device == "cuda"
        else (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    )
    speed = np.mean(tokens[2:]) / step
    return {
        "way": way,
        "seconds a step": step,
        "of the processor": processor,
        "tokens/s": speed,
        "peak GB": peak / 1e9,
        "made ready, s": ready,
        "operations/s": cost * speed,
    }


def quality(way: str, options: argparse.Namespace) -> dict:
    """Zero-shot NDCG@10 of text alone before and after tuning: source validation, target validation and test."""
    from crossrec.finetune import finetune, text_judge
    from crossrec.tuning import FineTuneSettings

    (split, texts, rows), (target, others, _) = split_of(options.source), split_of(options.target)
    judge, found = text_judge(split.valid), {"way": way}
    settings = FineTuneSettings(
        steps=options.quality, batch=options.batch, history=options.history, precision=options.precision, **WAYS[way]
    )
    encoder = whole(options.model)
    with tempfile.TemporaryDirectory() as folder:
        tuned = finetune(encoder, texts, rows, settings, Path(folder, "tuned"), judge)
        for name, model in (("untrained", encoder), ("tuned", tuned)):
            home, vectors = model.encode(texts), model.encode(others)
            if options.vectors:
                Path(options.vectors).mkdir(parents=True, exist_ok=True)
                for domain, told in (("source", home), ("target", vectors)):
                    np.save(Path(options.vectors, f"{way}-{name}-{domain}.npy"), told.astype(np.float16))
            found[f"source valid, {name}"] = judge(home)
            for part in ("valid", "test"):
                everybody = text_judge(getattr(target, part), most=10**9)
                found[f"target {part}, {name}"] = everybody(vectors)
    return found


def main() -> None:
    """Print a row a way."""
    options = parse()
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    ways, alone = options.ways.split(","), multiprocessing.get_context("spawn")
    with alone.Pool(1, maxtasksperchild=1) as pool:
        top = pool.apply(ceiling, (options.device,))
        print(f"fastest bfloat16 product: {top / 1e12:.3f} TFLOP/s on {options.device}", flush=True)
        rows = [pool.apply(measured, (way, options)) for way in ways]
        table = pd.DataFrame(rows).set_index("way")
        table["share of the fastest product"] = table.pop("operations/s") / top
        print(table.round(4).to_string(), flush=True)
        if options.quality:
            judged = [pool.apply(quality, (way, options)) for way in ways]
            print(pd.DataFrame(judged).set_index("way").T.round(5).to_string())


if __name__ == "__main__":
    main()
