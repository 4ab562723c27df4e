"""A headless Chromium for tests, spoken to in its own protocol (Chrome DevTools) over a websocket."""

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import websocket


class Page:
    """One browser tab that remembers what it asked for and what went wrong."""

    def __init__(self, address: str) -> None:
        self._socket = websocket.create_connection(address, suppress_origin=True, timeout=30)
        self._count = 0
        self.requests: list[str] = []
        self.errors: list[str] = []
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.send(f"{domain}.enable")
        still = [{"name": "prefers-reduced-motion", "value": "reduce"}]  # colours change at once, not by and by
        self.send("Emulation.setEmulatedMedia", features=still)
        self.send("Emulation.setFocusEmulationEnabled", enabled=True)  # typing needs a tab that thinks it is in front

    def send(self, method: str, **parameters: object) -> dict:
        """Call one method of the protocol and hand back its result; events on the way are written down."""
        self._count += 1
        self._socket.send(json.dumps({"id": self._count, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == self._count:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            self._note(message.get("method"), message.get("params", {}))

    def _note(self, event: str | None, detail: dict) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(detail["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(detail["exceptionDetails"])[:500])
        elif event == "Runtime.consoleAPICalled" and detail["type"] in ("error", "assert"):
            self.errors.append(json.dumps(detail["args"])[:500])
        elif event == "Log.entryAdded" and detail["entry"]["level"] == "error":
            self.errors.append(f"{detail['entry']['text']} {detail['entry'].get('url', '')}")

    def open(self, url: str) -> None:
        """Load a page and wait until it and its scripts are done."""
        self.send("Page.navigate", url="about:blank")  # so that nothing below belongs to the page before
        self.wait("location.href === 'about:blank' && document.readyState === 'complete'")
        self.requests.clear()
        self.errors.clear()
        self.send("Page.navigate", url=url)
        self.wait(f"location.href.startsWith({json.dumps(url)}) && document.readyState === 'complete'")

    def evaluate(self, script: str) -> object:
        """The value of a JavaScript expression."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, f"{script}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = 15, what: str = "") -> None:
        """Wait until a JavaScript expression is true; `what` says in words what is waited for."""
        end = time.monotonic() + seconds
        while not self.evaluate(f"!!({condition})"):  # an element itself would arrive as an empty object
            assert time.monotonic() < end, f"after {seconds} s still not true: {what or condition}"
            time.sleep(0.05)

    def screenshot(self, path: Path) -> None:
        """Save what the tab shows as a PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        """Let go of the tab."""
        self._socket.close()


@contextmanager
def open_browser(profile: Path) -> Iterator[Page]:
    """A tab of a fresh headless Chromium; the test is skipped where there is none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not program:
        pytest.skip("found no chromium; expected it to look at pages. Run: apt-get install chromium")
    # Without the sandbox it also runs as root in a container; it opens only pages of this machine.
    switches = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    quiet = ["--disable-background-networking", "--disable-component-update", "--window-size=1280,900"]
    place = [f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"]
    command = [program, *switches, *quiet, *place]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    page = None
    try:
        page = Page(_tab_address(profile / "DevToolsActivePort", process))
        yield page
    finally:
        if page:
            page.close()
        process.terminate()
        process.wait(timeout=20)


def _tab_address(port_file: Path, process: subprocess.Popen) -> str:
    """The websocket of the first tab, once the browser has written down its port."""
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        lines = port_file.read_text().splitlines() if port_file.exists() else []
        if len(lines) >= 2:
            with urllib.request.urlopen(f"http://127.0.0.1:{lines[0]}/json/list", timeout=10) as answer:
                tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
            if tabs:
                return tabs[0]["webSocketDebuggerUrl"]
        time.sleep(0.1)
    raise AssertionError("chromium did not start within 60 s")
