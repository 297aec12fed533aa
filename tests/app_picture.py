"""The page of app.py with an answer, for a test and as the picture of the docs.

    python -m tests.app_picture docs/app.png

needs what ``scripts/test.sh --browser`` installs.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image

from tests.browser import Browser
from tests.served import Server

SIZE = 1280, 800
NOT_THERE = "the purple star"


def ask_example(page: Browser, number: int = 1) -> list[str]:
    """Asks for what an example asks for, and for what is not in it; waits for the answer. Returns the expressions."""
    page.click(f"#examples tbody tr:nth-child({number})")
    asked = page.until("document.querySelector('#expressions textarea').value")
    page.until("document.querySelector('#video video')?.readyState > 0")
    page.write("#expressions textarea", f"{asked}\n{NOT_THERE}")
    page.click("#segment")
    page.until("document.querySelector('#legend tbody tr')")
    page.until("document.querySelector('#film video')?.readyState > 1")
    return [*asked.splitlines(), NOT_THERE]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder)) as server, Browser(Path(folder)) as page:
        page.resize(*SIZE)
        page.open(server.address)
        page.until("document.querySelector('#examples tbody tr')")
        ask_example(page)
        page.run("const film = document.querySelector('#film video'); film.pause(); film.currentTime = 1")
        page.until("!document.querySelector('#film video').seeking && document.querySelector('#frame img')")
        page.run("document.activeElement.blur(); scrollTo(0, 0)")
        page.screenshot(Path(sys.argv[1]))
    with Image.open(sys.argv[1]) as picture:  # so many colours suffice, and take a third of the bytes
        picture.convert("RGB").quantize(256).save(sys.argv[1], optimize=True)


if __name__ == "__main__":
    main()
