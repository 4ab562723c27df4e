"""Small worlds whose right answer is known, and language models small enough to make on the spot."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from crossrec.domain import Sequences
from crossrec.model import ModelSettings
from crossrec.split import Queries, Split, View
from crossrec.train import TrainSettings

N_ITEMS = 24
WORDS = """oat milk tea bread soap brush cream apple pear plum rice bean
salt nut egg cheese fish ham jam corn dill mint kale leek"""
SMALL = ModelSettings(width=24, max_length=8, dropout=0.1)
BRIEF = TrainSettings(epochs=60, most_steps=600, least_steps=20, positions=512, rate=5e-3)


def ring(users: int = 96, length: int = 8) -> Sequences:
    """Users walk round a ring of items: after item i always comes item i + 1."""
    starts = np.arange(users)[:, None]
    walks = (starts + np.arange(length)) % N_ITEMS
    return Sequences(np.arange(0, users * length + 1, length), walks.ravel().astype(np.int32))


def no_queries() -> Queries:
    """Nobody is asked anything."""
    return Queries(np.zeros(0, np.int64), Sequences.from_lists([]), np.zeros(0, np.int32))


def ring_queries() -> Queries:
    """Where does each walk of three steps go next?"""
    walks = [[i, (i + 1) % N_ITEMS, (i + 2) % N_ITEMS] for i in range(N_ITEMS)]
    targets = (np.arange(N_ITEMS) + 3) % N_ITEMS
    return Queries(np.arange(N_ITEMS), Sequences.from_lists(walks), targets.astype(np.int32))


def ring_view() -> View:
    """Everybody on the ring is visible."""
    rows = ring()
    return View("full", N_ITEMS, rows, no_queries(), len(rows), np.arange(len(rows)))


def empty_view() -> View:
    """Zero-shot: a catalogue, and nobody in it."""
    return View("zero-shot", N_ITEMS, Sequences.from_lists([]), no_queries(), 0, np.zeros(0, np.int64))


def item_vectors(width: int = 12, seed: int = 0) -> np.ndarray:
    """Random item vectors of length one, [N_ITEMS, width] float32."""
    vectors = np.random.default_rng(seed).normal(size=(N_ITEMS, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def clock(items: int, shift: float = 0.0) -> np.ndarray:
    """Text vectors of items that stand on a circle: alike where they are near, in either direction."""
    angle = 2 * np.pi * (np.arange(items) + shift) / items
    vectors = np.stack([wave(k * angle) * np.exp(-0.15 * k) for k in range(1, 7) for wave in (np.cos, np.sin)], 1)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def walks(items: int, users: int, direction: int = 1, seed: int = 0, length: int = 9) -> Split:
    """Everybody walks the same way round the circle; which way only behaviour can tell."""
    rng = np.random.default_rng(seed)
    steps = np.cumsum(rng.integers(1, 3, (users, length)), 1)
    rows = ((rng.integers(0, items, (users, 1)) + direction * steps) % items).astype(np.int32)
    everything, who = Sequences(np.arange(0, rows.size + 1, length), rows.ravel()), np.arange(users)
    valid, test = (Queries(who, everything.drop_last(back), rows[:, -back]) for back in (2, 1))
    return Split("leave_one_out", items, everything.drop_last(2), valid, test)


def poisoned(
    split: Split,
    keep: np.ndarray,  # users whose rows stay as they are
    seed: int = 5,
) -> Split:
    """The same split in which everything about other users is nonsense: other items, drawn at random."""
    rng = np.random.default_rng(seed)

    def nonsense(rows: Sequences, users: np.ndarray) -> Sequences:
        items = rows.items.copy()
        forbidden = ~np.isin(users, keep)[rows.rows]
        items[forbidden] = rng.integers(0, split.n_items, int(forbidden.sum()))
        return Sequences(rows.offsets, items)

    def queries(asked: Queries) -> Queries:
        targets = np.where(np.isin(asked.users, keep), asked.targets, rng.integers(0, split.n_items, len(asked)))
        return Queries(asked.users, nonsense(asked.histories, asked.users), targets.astype(np.int32))

    everybody = np.arange(len(split.train))
    return replace(split, train=nonsense(split.train, everybody), valid=queries(split.valid), test=queries(split.test))


def _vocabulary() -> dict[str, int]:
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return {word: number for number, word in enumerate([*marks, *WORDS.split()])}


def language_model(folder: Path, kind: str = "bert", layers: int = 3, seed: int = 0) -> Path:
    """A random sentence-transformers model of a few thousand weights: "bert", or a decoder, "gpt2" or "llama"."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, LlamaConfig, LlamaModel
    from transformers import PreTrainedTokenizerFast as TokenizerFast

    vocabulary = _vocabulary()
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(mark, vocabulary[mark]) for mark in ("[CLS]", "[SEP]")]
    )
    marks = {f"{mark}_token": f"[{mark.upper()}]" for mark in ("pad", "unk", "cls", "sep", "mask")}
    torch.manual_seed(seed)
    size, wide = len(vocabulary), {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2}
    if kind == "gpt2":
        model = GPT2Model(GPT2Config(vocab_size=size, n_embd=32, n_layer=layers, n_head=2, n_positions=64))
    elif kind == "llama":
        model = LlamaModel(LlamaConfig(vocab_size=size, intermediate_size=48, max_position_embeddings=64, **wide))
    else:
        model = BertModel(BertConfig(vocab_size=size, intermediate_size=48, max_position_embeddings=64, **wide))
    plain = folder.with_name(f"{folder.name}-plain")
    model.save_pretrained(plain)
    TokenizerFast(tokenizer_object=words, model_max_length=64, **marks).save_pretrained(plain)
    pooled = Pooling(32, "lasttoken" if kind in ("gpt2", "llama") else "mean")
    SentenceTransformer(modules=[Transformer(str(plain)), pooled]).save(str(folder), create_model_card=False)
    return folder


def item_words() -> list[str]:
    """A text for each item."""
    words = WORDS.split()
    return [f"{word} {words[(number * 5 + 1) % len(words)]}" for number, word in enumerate(words)]
