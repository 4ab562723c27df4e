"""The vector cache: keys, damage, processes that write together, and a writer that is killed."""

import errno
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossrec import vectors
from crossrec.core import CrossrecError
from crossrec.vectors import VectorStore, text_keys
from tests.conftest import ROOT

TEXTS = [f"item {number}" for number in range(200)]


def vector_of(text: str, width: int = 8) -> np.ndarray:
    """A vector that anybody can compute from the text."""
    return np.random.default_rng([len(text), *map(ord, text)]).normal(size=width)


def vectors_of(texts: list[str]) -> np.ndarray:
    return np.array([vector_of(text) for text in texts], np.float32)


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    VectorStore(tmp_path).add(text_keys(TEXTS), vectors_of(TEXTS))
    return tmp_path


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.text(max_size=4), max_size=12, unique=True), max_size=6))
def test_what_was_added_is_read(tmp_path_factory: pytest.TempPathFactory, portions: list[list[str]]) -> None:
    folder, seen = tmp_path_factory.mktemp("store"), set()
    for texts in portions:
        store = VectorStore(folder)
        assert store.missing(text_keys(texts)).tolist() == [text not in seen for text in texts]
        store.add(text_keys(texts), vectors_of(texts).reshape(len(texts), 8))
        seen |= set(texts)
    everything = sorted(seen)
    if everything:
        np.testing.assert_array_equal(VectorStore(folder).read(text_keys(everything)), vectors_of(everything))
        assert (folder / "rows.bin").stat().st_size == len(everything) * 32


def test_a_store_sees_what_another_one_adds(filled: Path) -> None:
    reader, keys = VectorStore(filled), text_keys(["new"])
    assert reader.missing(keys).all()
    VectorStore(filled).add(keys, vectors_of(["new"]))
    assert not reader.missing(keys).any()
    np.testing.assert_array_equal(reader.read(keys), vectors_of(["new"]))


@pytest.mark.parametrize("seed", range(6))
def test_a_spoiled_byte_of_the_rows_costs_one_row(filled: Path, seed: int) -> None:
    place = int(np.random.default_rng(seed).integers(0, 200 * 32))
    content = bytearray((filled / "rows.bin").read_bytes())
    content[place] ^= 1 << seed
    (filled / "rows.bin").write_bytes(content)
    store, keys = VectorStore(filled), text_keys(TEXTS)
    with pytest.warns(UserWarning, match="1 vectors .* damaged"):
        lost = store.missing(keys)
    assert np.flatnonzero(lost).tolist() == [place // 32]
    store.add(keys[lost], vectors_of(TEXTS)[lost])
    assert not store.missing(keys).any()
    np.testing.assert_array_equal(store.read(keys), vectors_of(TEXTS))


DAMAGE = [*(("byte", seed) for seed in range(12)), *(("cut", seed) for seed in range(4)), ("empty", 0), ("text", 0)]


@pytest.mark.parametrize("how, seed", DAMAGE)
def test_a_damaged_index_is_not_believed(filled: Path, how: str, seed: int) -> None:
    index, rng = filled / "index.npz", np.random.default_rng(seed)
    content = bytearray(index.read_bytes())
    if how == "byte":
        content[int(rng.integers(0, len(content)))] ^= 0x10
    cut = content[: rng.integers(1, len(content))]
    index.write_bytes({"byte": content, "cut": cut, "empty": b"", "text": b"no"}[how])
    store, keys = VectorStore(filled), text_keys(TEXTS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lost = store.missing(keys)
        if not lost.any():  # the byte was one that says nothing, such as the date in the zip file
            np.testing.assert_array_equal(store.read(keys), vectors_of(TEXTS))
        if lost.any():
            store.add(keys[lost], vectors_of(TEXTS)[lost])
    np.testing.assert_array_equal(VectorStore(filled).read(keys), vectors_of(TEXTS))


def test_cut_off_rows_are_missing(filled: Path) -> None:
    os.truncate(filled / "rows.bin", 100 * 32 + 5)
    store, keys = VectorStore(filled), text_keys(TEXTS)
    with pytest.warns(UserWarning, match="100 vectors"):
        lost = store.missing(keys)
    assert lost.tolist() == [False] * 100 + [True] * 100
    store.add(keys[lost], vectors_of(TEXTS)[lost])
    np.testing.assert_array_equal(VectorStore(filled).read(keys), vectors_of(TEXTS))


OTHERS = {"wider keys": {"keys": np.array([b"a" * 32])}, "broken rows": {"rows": np.array([0.5])},
          "a table": {"rows": np.zeros((1, 1), np.int64)}, "no list": {"keys": np.array(b"a")},
          "negative width": {"width": -8}, "row before the first": {"rows": np.array([-1])},
          "row behind the last": {"rows": np.array([2**40])}}


@pytest.mark.parametrize("what", OTHERS)
def test_an_index_of_another_version_is_not_believed(filled: Path, what: str) -> None:
    keys = text_keys(TEXTS[:1])
    mine = {"keys": keys, "rows": np.zeros(1, np.int64), "checks": np.zeros(1, np.uint32), "width": 8}
    np.savez(filled / "index.npz", **mine | OTHERS[what])
    store = VectorStore(filled)
    with pytest.warns(UserWarning, match="damaged"):
        assert store.missing(keys).all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store.add(keys, vectors_of(TEXTS[:1]))
    np.testing.assert_array_equal(VectorStore(filled).read(keys), vectors_of(TEXTS[:1]))


@pytest.mark.parametrize("step", ["rows", "index"])
def test_a_full_disk_is_told_and_leaves_the_store_as_it_was(
    filled: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object, **named: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before, more = (filled / "rows.bin").read_bytes(), ["more", "still more"]
    with monkeypatch.context() as patched:
        patched.setattr(*((vectors.os, "fsync") if step == "rows" else (vectors.np, "savez")), full)
        with pytest.raises(CrossrecError, match="no way to write .No space left on device.*CROSSREC_CACHE"):
            VectorStore(filled).add(text_keys(more), vectors_of(more))
    assert (filled / "rows.bin").read_bytes() == before
    assert sorted(path.name for path in filled.iterdir()) == ["index.npz", "lock", "rows.bin"]
    VectorStore(filled).add(text_keys(more), vectors_of(more))
    np.testing.assert_array_equal(VectorStore(filled).read(text_keys(more)), vectors_of(more))


def test_a_pickle_in_the_index_is_not_opened(filled: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(filled / "exploded"),)

    np.savez(filled / "index.npz", keys=np.array([Bomb()], dtype=object), rows=[0], checks=[0], width=8)
    with pytest.warns(UserWarning, match="index.npz is damaged"):
        assert VectorStore(filled).missing(text_keys(TEXTS)).all()
    assert not (filled / "exploded").exists()


WRITER = """
import sys, time
from pathlib import Path
from crossrec.vectors import VectorStore, text_keys
from tests.test_vectors import vectors_of
folder, who = Path(sys.argv[1]), int(sys.argv[2])
store = VectorStore(folder)
(folder / f"ready-{who}").touch()
while len(list(folder.glob("ready-*"))) < 2:
    time.sleep(0.001)
for start in range(0, 300, 10):  # half of what each adds, the other adds too
    texts = [f"item {n}" for n in range(start + 150 * who, start + 150 * who + 10)]
    new = store.missing(text_keys(texts))
    store.add(text_keys(texts)[new], vectors_of(texts)[new]) if new.any() else None
    assert (store.read(text_keys(texts)) == vectors_of(texts)).all()
"""


def start(code: str, *given: object) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, given)], env=environment)


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    both = [start(WRITER, tmp_path, who) for who in (0, 1)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    texts = [f"item {number}" for number in range(450)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not VectorStore(tmp_path).missing(text_keys(texts)).any()
    np.testing.assert_array_equal(VectorStore(tmp_path).read(text_keys(texts)), vectors_of(texts))
    assert (tmp_path / "rows.bin").stat().st_size == 450 * 32  # none of them twice


KILLED = """
import os, signal, sys
from crossrec import vectors
from tests.test_vectors import vectors_of
real = vectors.atomic_path
def die(path):
    with (path.parent / "rows.bin").open("ab") as stream:
        stream.write(b"half a row")
    os.kill(os.getpid(), signal.SIGKILL)
vectors.atomic_path = die
texts = [f"more {n}" for n in range(50)]
vectors.VectorStore(sys.argv[1]).add(vectors.text_keys(texts), vectors_of(texts))
"""


def test_a_killed_writer_leaves_the_store_as_it_was(filled: Path) -> None:
    assert start(KILLED, filled).wait(timeout=60) == -signal.SIGKILL
    more = [f"more {number}" for number in range(50)]
    store = VectorStore(filled)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not store.missing(text_keys(TEXTS)).any() and store.missing(text_keys(more)).all()
        store.add(text_keys(more), vectors_of(more))  # the lock went with its holder
    np.testing.assert_array_equal(store.read(text_keys([*TEXTS, *more])), vectors_of([*TEXTS, *more]))
