"""Chapter 01h: downloads that resume, that are checked, and that say in one line what went wrong."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from crossrec.core import CrossrecError
from crossrec.fetch import checksum, download, download_from_hub

CONTENT = bytes(range(256)) * 4_000
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"
REPOSITORY = "lab/reviews"


class Server(ThreadingHTTPServer):
    """Files on this machine, served in one of several bad ways, and a list of what was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str, str]] = []
        self.files = {"/ml.zip": CONTENT}
        self.most = len(CONTENT)  # bytes after which it hangs up
        self.ranges = True  # whether it can begin in the middle
        self.wrong = b""  # what it puts in the place of the first bytes

    @property
    def home(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def do_POST(self) -> None:
        names = unquote(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.server.asked.append(("POST", self.path, names))
        self.say([self.fact(name) for name in self.hub_files() if name in names])

    def hub_files(self) -> list[str]:
        start = f"/datasets/{REPOSITORY}/resolve/main/"
        return [path.removeprefix(start) for path in self.server.files if path.startswith(start)]

    def fact(self, name: str) -> dict:
        """What the Hub's programs say of a file."""
        content = self.server.files[f"/datasets/{REPOSITORY}/resolve/main/{name}"]
        known = {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
        digest = hashlib.sha256(content).hexdigest()
        return known | {"lfs": {"oid": digest, "size": len(content), "pointerSize": 130}}

    def say(self, answer: list) -> None:
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer(self, body: bool) -> None:
        path, asked = urlsplit(self.path).path, self.headers.get("Range", "")
        self.server.asked.append((self.command, path, asked))
        if path.startswith(f"/api/datasets/{REPOSITORY}/tree/main/"):
            folder = unquote(path.partition("/tree/main/")[2])
            return self.say([self.fact(name) for name in self.hub_files() if name.startswith(f"{folder}/")])
        content = self.server.files.get(unquote(path))
        start = int(asked[6:].rstrip("-")) if asked and self.server.ranges else 0
        if content is None or start >= len(content):
            self.send_response(404 if content is None else 416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        content = self.server.wrong + content[len(self.server.wrong) :]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "1" * 40)
        self.end_headers()
        if body:
            self.wfile.write(content[start : start + self.server.most])
            self.close_connection = True
        return None

    def log_message(self, *parts: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


def ranges(server: Server) -> list[str]:
    return [asked for *_, asked in server.asked]


def seen(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if not file.name.startswith("."))


def test_checksums_are_those_of_the_standard_tools(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"hello")
    assert checksum(tmp_path / "a", "md5") == "5d41402abc4b2a76b9719d911017c592"
    assert checksum(tmp_path / "a", "sha256") == "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"


def test_a_file_arrives_and_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    for _ in range(2):
        file = download(f"{server.home}/ml.zip", tmp_path / "deep" / "ml.zip", MD5)
        assert file.read_bytes() == CONTENT and seen(tmp_path / "deep") == ["ml.zip"]
    assert ranges(server) == [""]


def test_sha256_works_as_well(server: Server, tmp_path: Path) -> None:
    published = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
    assert download(f"{server.home}/ml.zip", tmp_path / "ml.zip", published).read_bytes() == CONTENT


def test_a_connection_that_breaks_is_taken_up_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.most = 300_000
    assert download(f"{server.home}/ml.zip", tmp_path / "ml.zip", MD5).read_bytes() == CONTENT
    assert ranges(server) == ["", "bytes=300000-", "bytes=600000-", "bytes=900000-"]


def test_a_download_that_broke_off_goes_on_with_the_next_call(server: Server, tmp_path: Path) -> None:
    server.most = 100_000
    with pytest.raises(CrossrecError, match=r"broke off \(500,000 of 1,024,000 bytes\); .* it goes on from there"):
        download(f"{server.home}/ml.zip", tmp_path / "ml.zip", MD5)
    assert seen(tmp_path) == ["ml.zip.part"]
    server.asked.clear()
    server.most = len(CONTENT)
    assert download(f"{server.home}/ml.zip", tmp_path / "ml.zip", MD5).read_bytes() == CONTENT
    assert ranges(server) == ["bytes=500000-"]


def test_a_server_that_cannot_begin_in_the_middle_sends_everything(server: Server, tmp_path: Path) -> None:
    (tmp_path / "ml.zip.part").write_bytes(CONTENT[:1000])
    server.ranges = False
    assert download(f"{server.home}/ml.zip", tmp_path / "ml.zip", MD5).read_bytes() == CONTENT


def test_a_part_that_is_whole_already_is_enough(server: Server, tmp_path: Path) -> None:
    (tmp_path / "ml.zip.part").write_bytes(CONTENT)
    assert download(f"{server.home}/ml.zip", tmp_path / "ml.zip", MD5).read_bytes() == CONTENT


def test_a_wrong_file_is_refused_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.wrong = b"<html>please log in"
    for _ in range(2):
        with pytest.raises(CrossrecError, match="found a file with md5 .*; expected the published"):
            download(f"{server.home}/ml.zip", tmp_path / "ml.zip", MD5)
        assert seen(tmp_path) == []
    server.wrong = b""
    assert download(f"{server.home}/ml.zip", tmp_path / "ml.zip", MD5).read_bytes() == CONTENT


def test_a_wrong_part_is_found_out(server: Server, tmp_path: Path) -> None:
    (tmp_path / "ml.zip.part").write_bytes(b"x" * 1000)
    with pytest.raises(CrossrecError, match="expected the published"):
        download(f"{server.home}/ml.zip", tmp_path / "ml.zip", MD5)
    assert download(f"{server.home}/ml.zip", tmp_path / "ml.zip", MD5).read_bytes() == CONTENT


def test_a_file_that_moved_is_named(server: Server, tmp_path: Path) -> None:
    with pytest.raises(CrossrecError, match=r"/gone\.zip: found status 404 .* it may have moved"):
        download(f"{server.home}/gone.zip", tmp_path / "gone.zip", MD5)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/ml.zip", "https://nowhere.invalid/ml.zip"])
def test_no_network_is_one_line(tmp_path: Path, url: str) -> None:
    with pytest.raises(CrossrecError, match="no connection to .*expected a network, when a data set is used") as caught:
        download(url, tmp_path / "ml.zip", MD5)
    assert "\n" not in str(caught.value) and url in str(caught.value)


def test_a_full_disk_is_noticed_before(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("crossrec.fetch.shutil.disk_usage", lambda path: usage)
    with pytest.raises(CrossrecError, match="too little space on the disk; expected 1,024,000 bytes"):
        download(f"{server.home}/ml.zip", tmp_path / "ml.zip", MD5)


def test_processes_take_turns(server: Server, tmp_path: Path) -> None:
    code = "import sys; from crossrec.fetch import download; download(*sys.argv[1:])"
    command = [sys.executable, "-c", code, f"{server.home}/ml.zip", str(tmp_path / "ml.zip"), MD5]
    processes = [subprocess.Popen(command, env=os.environ | {"CROSSREC_PROGRESS": "0"}) for _ in range(3)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    assert (tmp_path / "ml.zip").read_bytes() == CONTENT and len(server.asked) == 1


# The Hub: its own client against a server on this machine


@pytest.fixture
def hub(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setenv("HF_ENDPOINT", server.home)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name in ("ratings/Gifts.csv", "meta_Gifts/a.parquet", "meta_Gifts/b.parquet", "meta_Books/a.parquet"):
        server.files[f"/datasets/{REPOSITORY}/resolve/main/{name}"] = name.encode() * 100
    return server


def test_files_and_folders_come_from_the_hub(hub: Server, tmp_path: Path) -> None:
    folder = download_from_hub(REPOSITORY, ["ratings/Gifts.csv", "meta_Gifts/"], tmp_path / "gifts")
    came = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.*") if ".cache" not in file.parts)
    assert [name for name in came if not name.endswith((".json", ".lock"))] == [
        "meta_Gifts/a.parquet",
        "meta_Gifts/b.parquet",
        "ratings/Gifts.csv",
    ]
    assert (folder / "meta_Gifts" / "b.parquet").read_bytes() == b"meta_Gifts/b.parquet" * 100
    asked = len(hub.asked)
    assert download_from_hub(REPOSITORY, ["ratings/Gifts.csv", "meta_Gifts/"], tmp_path / "gifts") == folder
    assert len(hub.asked) == asked, "what is complete is not asked for again"


def test_a_wrong_file_from_the_hub_is_refused(hub: Server, tmp_path: Path) -> None:
    hub.wrong = b"changed"
    with pytest.raises(CrossrecError, match="Gifts.csv: found a file with sha256 .*; expected the published"):
        download_from_hub(REPOSITORY, ["ratings/Gifts.csv"], tmp_path / "gifts")
    assert not (tmp_path / "gifts" / "complete.json").exists()
    hub.wrong = b""
    folder = download_from_hub(REPOSITORY, ["ratings/Gifts.csv"], tmp_path / "gifts")
    assert (folder / "ratings" / "Gifts.csv").read_bytes() == b"ratings/Gifts.csv" * 100


def test_names_that_the_hub_does_not_have(hub: Server, tmp_path: Path) -> None:
    with pytest.raises(CrossrecError, match="none of these files; expected ratings/Toys.csv"):
        download_from_hub(REPOSITORY, ["ratings/Toys.csv"], tmp_path / "toys")


def test_no_hub_is_one_line_and_quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CrossrecError, match="no connection to 127.0.0.1:9") as caught:
        download_from_hub(REPOSITORY, ["ratings/Gifts.csv"], tmp_path / "gifts")
    assert "\n" not in str(caught.value)
