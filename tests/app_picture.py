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

SIZE = 1120, 957
LIMITS = "--max_megabytes", "200", "--max_seconds", "60"  # the defaults, which tests make smaller
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
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(Path(folder), *LIMITS) as server,
        Browser(Path(folder)) as page,
    ):
        page.resize(*SIZE)
        page.open(server.address)
        page.until("document.querySelector('#examples tbody tr')")
        ask_example(page)
        source = "document.querySelector('#frame img')?.src"
        before = page.until(source)
        page.write("#position input[type=range]", "\ue014" * 3)  # the arrow to the right
        page.until(f"{source} !== arguments[0]", before)
        page.run("""const film = document.querySelector('#film video');
            film.pause();
            film.currentTime = 1;
            document.activeElement.blur();
            document.documentElement.style.overflow = 'hidden';
            scrollTo(0, 0);""")
        page.until("!document.querySelector('#film video').seeking")
        page.screenshot(Path(sys.argv[1]))
    with Image.open(sys.argv[1]) as picture:
        picture.convert("RGB").save(sys.argv[1], optimize=True)  # in fewer bytes than the browser takes


if __name__ == "__main__":
    main()
