"""Encoding by several processes, by one that is killed, and of more texts than should be in memory."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from crossrec.encode import Encoder
from tests.conftest import ROOT
from tests.strangers import tokenizer
from tests.toy import item_words, language_model
from tests.two_processes_encode import encode_twice, texts


def run(code: str, *given: object, cache: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CROSSREC_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, given)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)


def test_two_processes_share_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    language_model(tmp_path / "model")
    found = encode_twice(tmp_path)
    assert [one["processes"] for one in found] == [2, 2]
    halves = [one["counted"][0] for one in found]
    assert sum(halves) == len(set(texts())) and min(halves) == sum(halves) // 2
    assert sorted(len(one["counted"]) for one in found) == [1, 2]  # the new text, by one of them
    monkeypatch.setenv("CROSSREC_CACHE", str(tmp_path / "another"))
    encoder = Encoder(str(tmp_path / "model"))
    alone = encoder.encode(texts()).tobytes() + encoder.encode([*texts(), "oat oat oat"]).tobytes()
    assert {one["vectors"] for one in found} == {hashlib.sha256(alone).hexdigest()}


KILLED = """
import os, signal, sys
from crossrec import encode
encode._PORTION, forward, calls = 8, encode._forward, []
def dying(*given):
    calls.append(1)
    if len(calls) > 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return forward(*given)
encode._forward = dying
from tests.toy import item_words
encode.Encoder(sys.argv[1]).encode(item_words())
"""


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from crossrec import encode

    model, cache = language_model(tmp_path / "model"), tmp_path / "cache"
    assert run(KILLED, model, cache=cache).returncode == -signal.SIGKILL
    monkeypatch.setenv("CROSSREC_CACHE", str(cache))
    counted, forward = [], encode._forward
    monkeypatch.setattr(encode, "_forward", lambda *given: counted.append(len(given[1])) or forward(*given))
    resumed = Encoder(str(model)).encode(item_words())
    assert counted == [8]  # two portions of eight had been kept
    monkeypatch.setenv("CROSSREC_CACHE", str(tmp_path / "another"))
    np.testing.assert_array_equal(resumed, Encoder(str(model)).encode(item_words()))


MEMORY = """
import json, resource, sys
from crossrec.encode import Encoder
from tests.toy import WORDS
words = WORDS.split()
def text(n):
    return " ".join(words[n // len(words) ** power % len(words)] for power in range(4))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
encoder = Encoder(sys.argv[1], keep="float16")
encoder.encode([text(n) for n in range(10_000)], out=sys.argv[2])  # libraries, the model, one whole portion
before, texts = peak(), [text(n) for n in range(int(sys.argv[3]))]
vectors = encoder.encode(texts, out=sys.argv[2])
print(json.dumps({"shape": vectors.shape, "more": peak() - before}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count memory in other units")
def test_vectors_do_not_live_in_memory(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    table = SentenceTransformer(modules=[StaticEmbedding(tokenizer().backend_tokenizer, embedding_dim=768)])
    table.save(str(tmp_path / "model"), create_model_card=False)  # wide vectors for little work
    done = run(MEMORY, tmp_path / "model", tmp_path / "vectors.npy", 40_000, cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["shape"] == [40_000, 768]
    assert found["more"] < 40  # MiB, where the vectors are 117 as they come from the model, and 59 as they are kept
