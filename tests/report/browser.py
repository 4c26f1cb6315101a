"""A headless Chromium with its network off, spoken to in its own protocol: what a reader's browser does with a page."""

import itertools
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One tab. ``problems``: errors and warnings of its console, and requests that failed or left the disk."""

    def __init__(self, profile: Path, width: int = 1280, height: int = 900) -> None:
        from websocket import create_connection

        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run"]
        options += [f"--user-data-dir={profile}", f"--window-size={width},{height}", "--remote-allow-origins=*"]
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen([str(PROGRAM), *options, "about:blank"], **pipes)
        self._numbers, self.problems = itertools.count(1), []
        self._loaded = False
        try:
            self._socket = create_connection(_address(profile), timeout=60)
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
            offline = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
            self.call("Network.emulateNetworkConditions", **offline)
        except BaseException:
            self.close()
            raise

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def open(self, path: Path, fragment: str = "") -> None:
        """Load a page anew; a change of the fragment alone would load nothing."""
        for address in ("about:blank", path.resolve().as_uri() + fragment):
            self._loaded = False
            self.call("Page.navigate", url=address)
            while not self._loaded:
                self._note(json.loads(self._socket.recv()))

    def run(self, script: str) -> Any:
        """The value of a script's last expression."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def click(self, selector: str) -> str:
        """Click what the selector finds, wait for the page it leads to, and return that page's address."""
        self._loaded = False
        self.run(f"document.querySelector({json.dumps(selector)}).click()")
        while not self._loaded:
            self._note(json.loads(self._socket.recv()))
        return self.run("location.href")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _note(self, message: dict[str, Any]) -> None:
        method, about = message.get("method"), message.get("params", {})
        self._loaded |= method == "Page.loadEventFired"
        if (
            method == "Log.entryAdded"
            or method == "Runtime.exceptionThrown"
            or (method == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"))
            or (method == "Network.loadingFailed" and not about.get("canceled"))
            or (
                method == "Network.requestWillBeSent"
                and not about["request"]["url"].startswith(("file:", "data:", "about:"))
            )
        ):
            self.problems.append(about)


def _address(profile: Path) -> str:
    """Where the tab listens, once Chromium has written its port down."""
    from urllib.request import urlopen

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            port = (profile / "DevToolsActivePort").read_text().split()[0]
            tabs = json.load(urlopen(f"http://127.0.0.1:{port}/json"))
            return next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
        except (OSError, IndexError, StopIteration, ValueError):
            time.sleep(0.1)
    raise AssertionError("Chromium did not start")


needed = pytest.mark.skipif(PROGRAM is None, reason="no Chromium here")
