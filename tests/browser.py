"""A headless Chromium for tests, driven over the WebDriver protocol by Debian's chromedriver; no package is needed."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's key of an element's id
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Browser:
    """One window; use it in ``with``.

    Args:
        folder: takes the profile and ``downloads``.
        size: width and height of the window.
    """

    def __init__(self, folder: Path, size: tuple[int, int] = (1400, 1000)) -> None:
        self.downloads = folder / "downloads"
        self.downloads.mkdir()
        self._driver = subprocess.Popen(
            [DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._session = ""
        try:
            started = next(line for line in self._driver.stdout if "started successfully on port" in line)
            self._address = f"http://127.0.0.1:{started.split()[-1].rstrip('.')}"
            options = {
                "binary": CHROMIUM,
                "args": [*FLAGS, f"--user-data-dir={folder / 'profile'}", f"--window-size={size[0]},{size[1]}"],
                "prefs": {"download.default_directory": str(self.downloads)},
            }
            asked = {"goog:chromeOptions": options, "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"}}
            answer = self._call("POST", "/session", {"capabilities": {"alwaysMatch": asked}})
            self._session = f"/session/{answer['sessionId']}"
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the browser and its driver."""
        try:
            if self._session:
                self._call("DELETE", self._session)
        finally:
            self._driver.terminate()
            self._driver.wait(20)
            self._driver.stdout.close()

    def _call(self, method: str, path: str, content: dict | None = None) -> Any:
        data = None if method != "POST" else json.dumps(content or {}).encode()
        request = urllib.request.Request(
            f"{self._address}{path}", data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from None

    def _at(self, method: str, path: str, content: dict | None = None) -> Any:
        return self._call(method, f"{self._session}/{path}", content)

    def open(self, address: str) -> None:
        """Goes to a page and waits until it is loaded."""
        self._at("POST", "url", {"url": address})

    def resize(self, width: int, height: int) -> None:
        """Gives the page this size in pixels; a window cannot be as narrow as a phone."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._at("POST", "goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": size})

    def run(self, script: str, *arguments: object) -> Any:
        """What JavaScript returns."""
        return self._at("POST", "execute/sync", {"script": script, "args": arguments})

    def until(self, condition: str, *arguments: object, seconds: float = 60) -> Any:
        """The first value of a JavaScript expression that counts as true; arguments are ``arguments[0]``, …"""
        end = time.monotonic() + seconds
        while not (value := self.run(f"return {condition}", *arguments)):
            if time.monotonic() > end:
                raise TimeoutError(f"{condition} {arguments}; the page says: {self.text()[-1500:]}")
            time.sleep(0.1)
        return value

    def text(self, selector: str = "body") -> str:
        """What an element shows; empty where there is none."""
        return self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector)

    def find(self, selector: str) -> str:
        """Id of the first element that a CSS selector fits."""
        return self._at("POST", "element", {"using": "css selector", "value": selector})[ELEMENT]

    def click(self, selector: str) -> None:
        """Clicks as a mouse does: the element must be seen."""
        self._at("POST", f"element/{self.find(selector)}/click")

    def write(self, selector: str, text: str) -> None:
        """Replaces what is in a text field, gives a file to a file field, or keys to a slider."""
        element = self.find(selector)
        if not self.run("return ['file', 'range'].includes(arguments[0].type)", {ELEMENT: element}):
            self._at("POST", f"element/{element}/clear")
        self._at("POST", f"element/{element}/value", {"text": text})

    def downloaded(self, name: str, seconds: float = 30) -> Path:
        """The file of this name, once it is there."""
        end = time.monotonic() + seconds
        while not (self.downloads / name).is_file():
            if time.monotonic() > end:
                raise TimeoutError(f"{name} was not downloaded; there is {[p.name for p in self.downloads.iterdir()]}")
            time.sleep(0.1)
        return self.downloads / name

    def screenshot(self, path: Path) -> None:
        """Writes what the window shows as a PNG."""
        path.write_bytes(base64.b64decode(self._at("GET", "screenshot")))

    def requested(self) -> list[str]:
        """Every address on a network that was asked for since the last look, whether it answered or not."""
        events = (
            json.loads(entry["message"])["message"] for entry in self._at("POST", "se/log", {"type": "performance"})
        )
        sent = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return [address for address in sent if address.startswith(("http", "ws"))]

    def complaints(self) -> list[str]:
        """What the browser's console holds since the last look, but for information."""
        entries = self._at("POST", "se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] in ("WARNING", "SEVERE")]


def missing() -> Sequence[str]:
    """The programs that a browser test needs and this machine lacks."""
    return [name for name, found in (("chromium", CHROMIUM), ("chromedriver", DRIVER)) if found is None]
