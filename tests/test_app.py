"""The app in a real browser, with the shipped weights. Skipped where gradio or the browser is missing."""

from __future__ import annotations

import re
import signal
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import browser, served
from tests.browser import Browser
from tests.served import SECONDS, Server, film
from util.video.own_video import open_video

LACKING = [*served.missing(), *browser.missing()]
pytestmark = pytest.mark.skipif(bool(LACKING), reason=f"not on this machine: {', '.join(LACKING)}")
TOAST = "[data-testid=toast-body]"


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    """The app; after all tests it ends as it should and leaves nothing."""
    with Server(tmp_path_factory.mktemp("temporary")) as server:
        yield server
        server.ends(signal.SIGTERM)


@pytest.fixture
def page(server, tmp_path) -> Iterator[Browser]:
    """The page, loaded; at the end, it has asked nobody else for anything."""
    with Browser(tmp_path) as window:
        window.open(server.address)
        window.until("document.querySelector('#segment')")
        yield window
        assert [address for address in window.requested() if not address.startswith(server.address)] == []


def upload(page: Browser, path: Path) -> None:
    page.run("document.querySelector('#video [aria-label=Clear]')?.click()")
    page.until("document.querySelector('#video input[type=file]')")
    page.write("#video input[type=file]", str(path))
    page.until("document.querySelector('#video video')?.readyState > 0")


def ask(page: Browser, text: str) -> None:
    page.write("#expressions textarea", text)
    page.click("#segment")


def legend(page: Browser) -> list[list[str]]:
    """Expression, score and what was found, of each, once they are there."""
    page.until("document.querySelector('#legend tbody tr')")
    return [row.strip().split("\t") for row in page.text("#legend tbody").splitlines()]


def message(page: Browser) -> str:
    """The message that the page shows, which it then closes."""
    page.until("document.querySelector(arguments[0])", TOAST)
    text = page.text(TOAST)
    page.click("[data-testid=toast-close]")
    page.until("!document.querySelector(arguments[0])", TOAST)
    return text


def test_an_example_from_the_first_click_to_the_files(page):
    page.click("#examples tbody tr")
    asked = page.until("document.querySelector('#expressions textarea').value").splitlines()
    page.until("document.querySelector('#video video')?.readyState > 0")
    page.click("#segment")
    rows = legend(page)
    assert [row[0] for row in rows] == asked and len(asked) > 1
    assert all(float(row[1]) > 0.5 and re.fullmatch(r"in [5-8] of 8 frames", row[2]) for row in rows)

    page.until("document.querySelector('#film video')?.readyState > 1")
    assert page.run("return document.querySelector('#film video').duration") == pytest.approx(2, abs=0.1)
    source = "document.querySelector('#frame img')?.src"
    first = page.until(source)
    page.write("#position input[type=range]", "\ue014")  # the arrow to the right
    second = page.until(f"{source} !== arguments[0] && {source}", first)
    assert page.run("return document.querySelector('#position input[type=number]').value") == "2"
    page.click("#shown input[type=checkbox]")
    page.until(f"{source} !== arguments[0]", second)
    assert page.complaints() == []

    page.click("#save_film")
    with open_video(page.downloaded("overlay.mp4")) as painted:
        assert len(painted) == 8
    page.click("#save_masks")
    with zipfile.ZipFile(page.downloaded("masks.zip")) as packed:
        assert len(packed.namelist()) == 8 * len(asked) + 1


def test_ones_own_video_and_a_part_of_it(page, server, tmp_path):
    upload(page, film(tmp_path / "my film.mp4", 4))
    ask(page, "the red square\nthe <i>red</i> square\n\n四角")
    assert "this is 4.0 seconds of video; at most 3 are taken" in message(page)
    page.click("#part button")
    page.until("document.querySelector('#every input')?.offsetParent")
    page.write("#start input", "1")
    page.write("#every input", "3")
    page.click("#segment")
    rows = legend(page)
    assert [row[0] for row in rows] == ["the red square", "the <i>red</i> square", "四角"]
    assert all(row[2].endswith(" 10 frames") for row in rows)  # or "in no frame"
    assert page.run("return document.querySelector('#position input[type=range]').max") == "10"


def test_mistakes_are_told(page, tmp_path):
    page.click("#segment")
    assert "write what to find in the video, one expression per line" in message(page)
    ask(page, "the dog")
    assert "choose a video first" in message(page)
    ask(page, "\n".join(map(str, range(13))))
    assert "these are 13 expressions; at most 12 are taken" in message(page)

    large, notes = tmp_path / "large.mp4", tmp_path / "<b>notes.mp4"
    large.write_bytes(bytes(2**20 + 1))
    page.write("#video input[type=file]", str(large))
    assert "exceed the maximum allowed size of 1.0 Mb" in message(page)
    notes.write_text("these are notes, not a film " * 99)
    page.write("#video input[type=file]", str(notes))
    assert "Video not playable" in message(page)
    ask(page, "the dog")
    assert "notes.mp4 is no video that can be read" in message(page)
    assert page.text("#legend").endswith("What is found appears here.") and "Traceback" not in page.text()


def test_stop_ends_a_long_one_and_who_leaves_leaves_nothing(page, server, tmp_path):
    upload(page, film(tmp_path / "long.mp4", SECONDS, fps=100))
    ask(page, "the red square\nthe circle\nthe star\nthe triangle")
    page.until("document.querySelector('#legend').innerText.includes('looking')")
    page.click("#stop")
    assert "stopped" in message(page)
    upload(page, film(tmp_path / "short.mp4", 1))
    page.click("#segment")
    legend(page)
    assert any("jobs" in path.parts for path in server.files())
    page.open("about:blank")
    end = time.monotonic() + 60
    while left := [path for path in server.files() if "jobs" in path.parts]:
        assert time.monotonic() < end, left
        time.sleep(0.2)


def test_another_site_cannot_upload_by_a_form(page, server):
    """A browser sends it, without asking first."""
    before = server.files()
    page.open("data:text/html,<form method=post enctype=multipart/form-data><input type=file name=files></form>")
    page.run(
        """const files = new DataTransfer();
        files.items.add(new File(['film'], 'a.mp4'));
        document.querySelector('input').files = files.files;
        document.forms[0].action = arguments[0];
        document.forms[0].submit();""",
        f"{server.address}gradio_api/upload",
    )
    page.until("document.body.innerText.includes('this page does not answer to requests from \\'null\\'')")
    assert server.files() == before
