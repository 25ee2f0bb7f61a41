"""A headless browser driven over WebDriver with the standard library alone."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest

_ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
KEYS = {"escape": "\ue00c", "space": " ", "enter": "\ue007", "tab": "\ue004", "left": "\ue012", "right": "\ue014"}


class Browser:
    """One session; the names of methods are those of the protocol."""

    def __init__(self, url: str, folder: Path, *arguments: str) -> None:
        self.url = url
        wanted = {
            "browserName": "chrome",
            "goog:loggingPrefs": {"browser": "ALL"},
            "goog:chromeOptions": {
                "args": [*_ARGUMENTS, *arguments, f"--user-data-dir={folder / 'profile'}"],
                "prefs": {"download.default_directory": str(folder)},
            },
        }
        made = self._call("POST", "session", {"capabilities": {"alwaysMatch": wanted}})
        self.url = f"{url}/session/{made['sessionId']}"

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.url}/{path}".rstrip("/"), data, {"Content-Type": "application/json"}, method=method)
        try:
            with urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"].partition("\n")[0]) from error

    def open(self, path: Path) -> None:
        self._call("POST", "url", {"url": path.as_uri()})

    def run(self, script: str, *arguments: Any) -> Any:
        return self._call("POST", "execute/sync", {"script": script, "args": list(arguments)})

    def until(self, script: str, seconds: float = 60.0) -> Any:
        """Value of an expression, once it is true."""
        end = time.monotonic() + seconds
        while not (found := self.run(f"return {script}")):
            assert time.monotonic() < end, f"{script} did not become true; the console says {self.log()}"
            time.sleep(0.05)
        return found

    def resize(self, width: int, height: int) -> None:
        """Set the size of the page; a window itself is never narrower than 500 pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.cdp("Emulation.setDeviceMetricsOverride", size)

    def cdp(self, command: str, values: dict[str, Any]) -> Any:
        return self._call("POST", "goog/cdp/execute", {"cmd": command, "params": values})

    def log(self) -> list[dict[str, Any]]:
        return self._call("POST", "se/log", {"type": "browser"})

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._call("GET", "screenshot")))

    def pdf(self) -> bytes:
        return base64.b64decode(self._call("POST", "print", {"background": True}))

    def drag(self, corners: list[tuple[int, int]]) -> None:
        """Press the pointer at the first place of the window, move it over the others, and let go."""
        moves = [{"type": "pointerMove", "duration": 10, "x": x, "y": y, "origin": "viewport"} for x, y in corners]
        actions = [moves[0], {"type": "pointerDown", "button": 0}, *moves[1:], {"type": "pointerUp", "button": 0}]
        self._act({"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": actions})

    def hover(self, x: int, y: int) -> None:
        move = {"type": "pointerMove", "duration": 10, "x": x, "y": y, "origin": "viewport"}
        self._act({"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": [move]})

    def press(self, *keys: str) -> None:
        """Press keys one after another, on what has the focus."""
        values = [KEYS.get(key, key) for key in keys]
        actions = [{"type": kind, "value": value} for value in values for kind in ("keyDown", "keyUp")]
        self._act({"type": "key", "id": "keys", "actions": actions})

    def _act(self, source: dict[str, Any]) -> None:
        self._call("POST", "actions", {"actions": [source]})

    def close(self) -> None:
        self._call("DELETE", "")


@contextmanager
def driver() -> Iterator[str]:
    """Address of a running chromedriver; the test is skipped where there is no Chromium."""
    program = shutil.which("chromedriver")
    if program is None or not (shutil.which("chromium") or shutil.which("google-chrome")):
        pytest.skip("no chromium and chromedriver on the path")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([program, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _wait_for(url: str) -> None:
    end = time.monotonic() + 20
    while True:
        try:
            urlopen(f"{url}/status", timeout=5).close()
            return
        except URLError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
