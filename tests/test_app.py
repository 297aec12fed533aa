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
from tests.app_picture import ask_example
from tests.browser import Browser
from tests.served import SECONDS, Server, film
from util.video.own_video import open_video

LACKING = [*served.missing(), *browser.missing()]
pytestmark = pytest.mark.skipif(bool(LACKING), reason=f"not on this machine: {', '.join(LACKING)}")


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    """The app; after all tests it ends as it should and leaves nothing."""
    with Server(tmp_path_factory.mktemp("temporary")) as server:
        yield server
        server.ends(signal.SIGTERM)


@pytest.fixture(scope="module")
def window(tmp_path_factory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as window:
        yield window


@pytest.fixture
def page(server, window) -> Iterator[Browser]:
    """The page, loaded anew; at the end, it has asked nobody else for anything."""
    window.resize(1400, 1000)
    window.complaints()  # of the test before
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


def tells(page: Browser, words: str, error: bool = True) -> None:
    """Waits until the page tells something; it stands in its place alone, as an error or not."""
    page.until("document.querySelector('#message').innerText.includes(arguments[0])", words)
    assert page.run("return document.querySelector('#message').classList.contains('error')") is error
    others = "[data-testid=toast-body], [data-testid=status-tracker] .error"  # where gradio shows messages
    seen = "return [...document.querySelectorAll(arguments[0])].filter(e => e.checkVisibility()).length"
    assert page.run(seen, others) == 0


def test_an_example_from_the_first_click_to_the_files(page):
    asked = ask_example(page)
    *rows, absent = legend(page)
    assert [row[0] for row in rows] == asked[:-1] and len(rows) > 1
    assert all(float(row[1]) > 0.5 and re.fullmatch(r"in [5-8] of 8 frames", row[2]) for row in rows)
    assert absent[0] == asked[-1] and float(absent[1]) < 0.5 and absent[2] == "not there"
    assert "a score is the probability that the text means something in the video; below 0.5 " in page.text()
    for picture, label in {"#film": "The film with all that was found", "#frame": "One frame of it"}.items():
        page.until(
            "document.querySelector(arguments[0]).parentElement.innerText.startsWith(arguments[1])", picture, label
        )

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
    tells(page, "this is 4.0 seconds of video; at most 3 are taken")
    page.click("#part button")
    page.until("document.querySelector('#every input')?.offsetParent")
    page.write("#start input", "1")
    page.write("#every input", "3")
    page.click("#segment")
    rows = legend(page)
    assert page.text("#message") == ""  # the error has gone
    assert [row[0] for row in rows] == ["the red square", "the <i>red</i> square", "四角"]
    assert all(row[2].endswith((" 10 frames", "in no frame", "not there")) for row in rows)
    assert page.run("return document.querySelector('#position input[type=range]').max") == "10"


def test_mistakes_are_told(page, tmp_path):
    page.click("#segment")
    tells(page, "write what to find in the video, one expression per line")
    ask(page, "the dog")
    tells(page, "choose a video first")
    ask(page, "\n".join(map(str, range(13))))
    tells(page, "these are 13 expressions; at most 12 are taken")

    large, notes = tmp_path / "large.mp4", tmp_path / "<b>notes.mp4"
    large.write_bytes(bytes(2**20 + 1))
    page.write("#video input[type=file]", str(large))
    tells(page, "exceed the maximum allowed size of 1.0 Mb")
    notes.write_text("these are notes, not a film " * 99)
    page.write("#video input[type=file]", str(notes))
    tells(page, "this browser cannot play the film", error=False)  # an avi can be segmented all the same
    ask(page, "the dog")
    tells(page, "notes.mp4 is no video that can be read")
    assert page.text("#legend") == "What is found appears here." and "Traceback" not in page.text()
    upload(page, film(tmp_path / "film.mp4", 1))
    page.until("document.querySelector('#message').innerText === ''")


def test_messages_stay_in_the_boxes_of_gradio_where_the_script_cannot_place_them(page):
    page.run("document.querySelector('#message').remove()")
    page.click("#segment")
    shown = "[...document.querySelectorAll('[data-testid=toast-body]')].some(e => e.checkVisibility()"
    page.until(f"{shown} && e.innerText.includes(arguments[0]))", "write what to find")


def test_on_a_phone_nothing_lies_over_anything(page):
    page.resize(390, 844)
    page.click("#segment")
    tells(page, "write what to find")
    boxes = """[...document.querySelectorAll(arguments[0])].map(e => e.getBoundingClientRect())
        .map(box => [box.left, box.top, box.right, box.bottom])"""
    parts = "#video, #expressions, #part, #segment, #stop, #message, #legend, #examples"
    left, top, right, bottom = zip(*sorted(page.run(f"return {boxes}", parts), key=lambda box: box[1]), strict=True)
    assert 0 <= page.run("return document.querySelector('#message').getBoundingClientRect().bottom") < 845  # rounded
    assert len(top) == 8 and min(left) >= 0 and max(right) <= 390
    assert all(ends <= begins for ends, begins in zip(bottom, top[1:], strict=False))
    expressions = page.run("return document.querySelector('#examples .textbox').innerText")
    assert len(expressions.splitlines()) > 1  # each on a line of its own


def test_stop_ends_a_long_one_and_who_leaves_leaves_nothing(page, server, tmp_path):
    upload(page, film(tmp_path / "long.mp4", SECONDS, fps=100))
    ask(page, "the red square\nthe circle\nthe star\nthe triangle")
    page.until("document.querySelector('#legend').innerText.includes('looking')")
    page.click("#stop")
    tells(page, "stopped", error=False)
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
