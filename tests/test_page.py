"""The app without browser and gradio: limits, messages, and what a request leaves behind."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import app
import models
from tasks import limits, page
from tasks.limits import Limits
from tasks.page import Desk, Stopped
from tests.helpers import ROOT
from tools.data.make_synthetic import make_scene
from util.video.own_video import open_video
from util.video.visualize import write_video

SIZE, FRAMES, FPS = (24, 32), 6, 3
SHOWN = (480, 640, 3)  # small frames are enlarged
ME = "a visitor"


class Brightness:
    """Stands in for a predictor: an expression is a grey level, and its object is all that is brighter."""

    def __init__(self):
        self.asked = []

    def segment(self, video, expressions, seen):
        seen(0)
        self.asked.append(expressions)
        seen(len(video))
        grey = video.read(range(len(video))).float().mean(1)
        levels = torch.tensor([float(text.split()[0]) for text in expressions])
        self.found = grey[None] > levels[:, None, None, None]
        self.scores = [1 - level / 512 for level in levels.tolist()]
        self.there = [True] * len(levels)
        return self

    def masks(self, start, stop):
        return self.found[:, start:stop]


@pytest.fixture
def clip(tmp_path) -> Path:
    """Black, with a white square that moves to the right by a tenth of the width in each frame."""
    frames = np.zeros((FRAMES, *SIZE, 3), np.uint8)
    for t, frame in enumerate(frames):
        frame[8:16, 2 + 3 * t : 10 + 3 * t] = 255
    path = tmp_path / "my holiday.mp4"
    write_video(path, frames, FPS)
    return path


@pytest.fixture
def desk(tmp_path) -> Desk:
    return Desk(Brightness(), tmp_path / "jobs", Limits(megabytes=1, seconds=2.5, expressions=3))


def files(desk: Desk) -> list[Path]:
    return list(desk._folder.iterdir())


class TestRequests:
    def test_everything_is_there(self, desk, clip):
        told = []
        job = desk.segment(ME, clip, "128 white\n300 <b>", report=lambda share, what: told.append((share, what)))
        assert desk.job(ME) is job and len(job) == FRAMES
        assert (job.expressions, job.seen) == (["128 white", "300 <b>"], [FRAMES, 0])
        assert told[-1] == (1, "painting") and [share for share, _ in told] == sorted(share for share, _ in told)

        with zipfile.ZipFile(job.archive) as packed:
            record = json.loads(packed.read("segmentation.json"))
            masks = [name for name in packed.namelist() if name.endswith(".png")]
            first = np.asarray(Image.open(BytesIO(packed.read(masks[0]))))
        assert record["video"] == "my holiday.mp4" and len(masks) == 2 * FRAMES
        assert first.shape == SIZE and 50 < (first == 255).sum() < 80 and set(np.unique(first)) == {0, 255}
        with open_video(job.film) as film:
            assert len(film) == FRAMES and film.times[-1] == pytest.approx(FRAMES / FPS, abs=0.01)

    def test_frames_are_painted_as_chosen(self, desk, clip):
        job = desk.segment(ME, clip, "128\n200")
        plain, one, both = job.frame(3, []), job.frame(3, [1]), job.frame(3)
        assert plain[240, 280].min() > 240 and plain[40, 40].max() < 20
        assert one.shape == SHOWN and (one[240, 280] != plain[240, 280]).any() and (both != one).any()
        assert np.array_equal(one[:100], plain[:100]) and np.array_equal(both, job.frame(3, [1, 0]))
        assert (job.frame(0) != both).any()

    @pytest.mark.parametrize("number", [0, 7, -1, 10**30, 1.0, float("nan"), "1", [1], None, True])
    def test_frames_that_are_not_there(self, desk, clip, number):
        desk.segment(ME, clip, "128\n200")
        with pytest.raises(ValueError, match="^there is no such frame; this video has the frames 1 to 6$"):
            desk.frame(ME, number, [0])
        assert desk.frame(ME, 6, [0]).shape == SHOWN

    @pytest.mark.parametrize(
        "shown", [[0] * 10**5, [0, 0], [2], [-1], [1.0], ["0"], [True], [[0]], [None], 0, "0", {"0": 1}, (0,)]
    )
    def test_objects_that_are_not_there(self, desk, clip, shown, monkeypatch):
        job = desk.segment(ME, clip, "128\n200")
        monkeypatch.setattr(page.np, "zeros", None)  # nothing is made for them
        with pytest.raises(ValueError, match="^what is painted "):
            desk.frame(ME, 1, shown)
        with pytest.raises(ValueError, match="^what is painted "):
            job.frame(0, shown)

    def test_the_legend_is_text(self, desk, clip):
        job = desk.segment(ME, clip, "128\n255 <script>")
        table = job.legend()
        assert table.count("<tr>") == 3 and "<script>" not in table and "255 &lt;script&gt;" in table
        assert "<td>0.75</td><td>in 6 of 6 frames</td>" in table and "<td>in no frame</td>" in table

    def test_a_part_of_the_video(self, desk, clip):
        assert len(desk.segment(ME, clip, "128", start=1, end=0, every=2)) == 2
        assert len(desk.segment(ME, clip, "128", start=None, end=1, every=None)) == 3

    @pytest.mark.parametrize(
        ("part", "named"),
        [
            (dict(start=5), "'From second' 5 leaves no frame of my holiday.mp4, which has 6 frames in 2.00 seconds"),
            (dict(start=1, end=0.5), "'To second'"),
            (dict(every=-1), "'Every Nth frame'"),
        ],
    )
    def test_an_impossible_part(self, desk, clip, part, named):
        with pytest.raises(ValueError) as error:
            desk.segment(ME, clip, "128", **part)
        assert named in str(error.value) and str(desk._folder) not in str(error.value) and "--" not in str(error.value)
        assert files(desk) == []

    def test_a_long_video_is_refused_before_it_is_decoded(self, desk, tmp_path):
        write_video(tmp_path / "long.mp4", np.zeros((9, *SIZE, 3), np.uint8), FPS)
        with pytest.raises(ValueError, match="this is 3.0 seconds of video; at most 2.5 are taken. .*'To second'"):
            desk.segment(ME, tmp_path / "long.mp4", "128")
        assert desk.predictor.asked == [] and files(desk) == []
        desk.segment(ME, tmp_path / "long.mp4", "128", end=2)

    def test_many_frames_are_refused_before_they_are_decoded(self, desk, tmp_path):
        """As of a film of many frames per second."""
        desk.limits.masks = 59
        write_video(tmp_path / "fast.mp4", np.zeros((30, *SIZE, 3), np.uint8), 240)
        with pytest.raises(ValueError) as error:
            desk.segment(ME, tmp_path / "fast.mp4", "128\n200")
        told = (
            "2 expressions in each of 30 frames are 60 masks; at most 59 are made. Take fewer frames with 'Every Nth "
        )
        assert str(error.value) == f"{told}frame', or ask fewer expressions"
        assert desk.predictor.asked == [] and files(desk) == []
        assert len(desk.segment(ME, tmp_path / "fast.mp4", "128")) == 30
        assert len(desk.segment(ME, tmp_path / "fast.mp4", "128\n200", every=2)) == 15

    def test_large_pictures_that_the_file_does_not_tell_of(self, desk, clip, monkeypatch):
        """Its header is taken for what it says; the frames are seen once more."""
        monkeypatch.setattr(Limits, "check_file", lambda self, path: None)
        monkeypatch.setattr(limits, "MOST_PIXELS", 700)
        with pytest.raises(ValueError, match="my holiday.mp4 is 32x24 pixels; at most 4096x2304 are taken"):
            desk.segment(ME, clip, "128")
        assert desk.predictor.asked == [] and files(desk) == []

    def test_what_is_missing(self, desk, clip):
        with pytest.raises(ValueError, match="choose a video first"):
            desk.segment(ME, None, "128")
        with pytest.raises(ValueError, match="gone.mp4 is no longer here; upload it again"):
            desk.segment(ME, "gone.mp4", "128")
        with pytest.raises(ValueError, match="write what to find"):
            desk.segment(ME, clip, "")

    def test_a_large_file(self, desk, clip):
        clip.write_bytes(clip.read_bytes() + bytes(2**21))
        with pytest.raises(ValueError, match="my holiday.mp4 has 2 MB; at most 1 are taken"):
            desk.segment(ME, clip, "128")

    def test_large_pictures(self, desk, clip, monkeypatch):
        monkeypatch.setattr(limits, "MOST_PIXELS", 700)
        with pytest.raises(ValueError, match="my holiday.mp4 is 32x24 pixels; at most 4096x2304 are taken"):
            desk.segment(ME, clip, "128")

    def test_what_is_no_video(self, desk, clip, tmp_path):
        for name, content in {
            "notes.mp4": b"these are notes, not a film " * 99,
            "empty.mp4": b"",
            "list.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{clip}\n#EXT-X-ENDLIST\n".encode(),
            "concat.mp4": f"ffconcat version 1.0\nfile '{clip.name}'\n".encode(),
            "cut.mp4": clip.read_bytes()[:200],
        }.items():
            (tmp_path / name).write_bytes(content)
            with pytest.raises(ValueError, match=name):
                desk.segment(ME, tmp_path / name, "128")
        Image.new("RGB", (9, 9)).save(tmp_path / "image.png")
        with pytest.raises(ValueError, match="image.png"):
            desk.segment(ME, tmp_path / "image.png", "128")
        assert files(desk) == []

    def test_a_fault_leaves_nothing(self, desk, clip):
        with pytest.raises(ValueError, match="could not convert"):
            desk.segment(ME, clip, "white")
        assert files(desk) == []


class TestVisitors:
    def test_only_a_few_answers_are_kept(self, desk, clip, monkeypatch):
        monkeypatch.setattr(page, "KEPT_JOBS", 2)
        for visitor in "abc":
            desk.segment(visitor, clip, "128")
        assert len(files(desk)) == 2
        with pytest.raises(ValueError, match="segment the video again"):
            desk.job("a")
        assert desk.job("b").frame(5).shape == SHOWN

    def test_of_one_visitor_only_the_last(self, desk, clip):
        desk.segment(ME, clip, "128")
        with pytest.raises(ValueError):
            desk.segment(ME, clip, "")
        assert desk.job(ME).expressions == ["128"]  # a mistake leaves what the page still shows
        desk.segment(ME, clip, "200")
        assert desk.job(ME).expressions == ["200"] and len(files(desk)) == 1

    def test_nothing_is_kept_of_who_leaves(self, desk, clip):
        desk.segment(ME, clip, "128")
        desk.leave(ME)
        desk.leave("nobody")
        assert files(desk) == []
        with pytest.raises(ValueError, match="segment the video again"):
            desk.job(ME)

    def test_nothing_is_kept_at_the_end(self, desk, clip):
        for visitor in "ab":
            desk.segment(visitor, clip, "128")
        desk.close()
        assert files(desk) == []

    def test_the_end_waits_for_what_is_being_done(self, desk, clip, monkeypatch):
        """Which is told to stop; its files are gone before the folder is."""
        desk.segment("a", clip, "128")
        painting, told, ended = threading.Event(), [], []

        def report(share: float, what: str) -> None:
            told.append(what)
            if what == "painting" and not painting.is_set():
                painting.set()
                time.sleep(0.5)

        def work() -> None:
            with pytest.raises(Stopped):
                desk.segment("b", clip, "128", report=report)
            ended.append(True)

        monkeypatch.setattr("util.video.video_result._BYTES", 1)  # frame by frame
        worker = threading.Thread(target=work)
        worker.start()
        assert painting.wait(60)
        desk.close()
        assert files(desk) == [] and told.count("painting") == 1
        worker.join(60)
        assert ended
        with pytest.raises(Stopped):
            desk.segment("c", clip, "128")
        assert files(desk) == []

    def test_who_stops(self, desk, clip):
        with pytest.raises(Stopped):
            desk.segment(ME, clip, "128", report=lambda share, what: desk.stop(ME))
        assert files(desk) == [] and not desk.predictor.asked  # not even looked for
        desk.segment(ME, clip, "128", report=lambda share, what: desk.stop("another"))

    def test_who_stops_while_waiting(self, desk, clip):
        desk.expect(ME)
        desk.stop(ME)
        with pytest.raises(Stopped):
            desk.segment(ME, clip, "128")
        assert files(desk) == [] and not desk.predictor.asked
        desk.stop(ME)  # nothing
        desk.segment(ME, clip, "128")
        desk.expect(ME)  # this one does not come: the queue is full
        desk.stop(ME)
        desk.expect(ME)
        desk.segment(ME, clip, "128", report=lambda share, what: desk.expect(ME))
        for visitor in range(1000):
            desk.expect(str(visitor))
        assert len(desk._stops) == page.EXPECTED

    def test_who_looks_while_it_is_deleted(self, desk, clip):
        job = desk.segment(ME, clip, "128")
        desk.leave(ME)
        with pytest.raises(ValueError, match="this result is no longer there"):
            job.frame(3)

    def test_an_answer_without_its_upload(self, desk, clip):
        job = desk.segment(ME, clip, "128")
        before = job.frame(0)
        clip.unlink()
        job.frame(5)
        assert np.array_equal(job.frame(0), before)


class TestManyFramesAtOnce:
    @pytest.fixture
    def painting(self, desk, clip, monkeypatch):
        """Painting waits until the test lets it go on."""
        for visitor in "abcdefgh":
            desk.segment(visitor, clip, "128")
        self.go_on, self.at_work, self.most, self.done = threading.Event(), 0, 0, []
        paint, lock = page.Job.frame, threading.Lock()

        def slowly(job, position, shown):
            with lock:
                self.at_work += 1
                self.most = max(self.most, self.at_work)
            assert self.go_on.wait(60)
            with lock:
                self.at_work -= 1
            return paint(job, position, shown)

        monkeypatch.setattr(page.Job, "frame", slowly)
        workers = []

        def ask(visitor: str) -> None:
            worker = threading.Thread(target=lambda: self.done.append(desk.frame(visitor, 1, [0]).shape))
            worker.start()
            workers.append(worker)
            end = time.monotonic() + 20
            while desk._looks.total() < len(workers) and time.monotonic() < end:
                time.sleep(0.001)

        yield ask
        self.go_on.set()
        for worker in workers:
            worker.join(20)

    def test_one_visitor_has_one_and_the_next_one(self, desk, painting):
        painting("a")
        painting("a")
        with pytest.raises(ValueError, match="^too many frames are asked for at once; try again$"):
            desk.frame("a", 1, [0])
        painting("b")

    def test_few_are_painted_at_once_and_few_wait(self, desk, painting):
        for visitor in "aabbccddeeff":
            painting(visitor)
        with pytest.raises(ValueError, match="^too many frames"):
            desk.frame("g", 1, [0])
        self.go_on.set()
        end = time.monotonic() + 20
        while len(self.done) < page.LOOKS and time.monotonic() < end:
            time.sleep(0.01)
        assert self.done == [SHOWN] * 12 and self.most == 2
        assert desk.frame("g", 1, [0]).shape == SHOWN and not desk._looks

    def test_a_mistake_leaves_no_place_taken(self, desk, clip):
        desk.segment(ME, clip, "128")
        for _ in range(20):
            with pytest.raises(ValueError, match="no such frame"):
                desk.frame(ME, 99, [0])
        assert desk.frame(ME, 1, [0]).shape == SHOWN


class TestStart:
    def test_without_gradio_the_command_is_named(self, monkeypatch):
        monkeypatch.setattr(app.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ValueError, match="gradio is not installed here. ./scripts/app.sh"):
            app.check_can_serve("127.0.0.1", 7860)

    def test_a_port_in_use(self, monkeypatch):
        monkeypatch.setattr(app.importlib.util, "find_spec", lambda name: "there")
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(ValueError, match=rf"--port {port} cannot be served: Address already in use"):
                app.check_can_serve("127.0.0.1", port)
        with pytest.raises(ValueError, match="--host no.such.host"):
            app.check_can_serve("no.such.host", port)

    @pytest.mark.parametrize(
        "words",
        [
            [],
            ["--port", "0"],
            ["--port", "70000"],
            ["--max_seconds", "nan"],
            ["--max_megabytes", "0"],
            ["--max_masks", "0"],
            ["--allow_origin", "name.example"],
        ],
    )
    def test_bad_options(self, words, capsys):
        with pytest.raises(SystemExit) as left:
            app.parse_args([*(["--resume", "x"] if words else []), *words])
        assert left.value.code == 2 and "error: " in capsys.readouterr().err

    def test_local_by_default(self):
        args = app.parse_args(["--resume", "x"])
        assert (args.host, args.port, args.allow_origin) == ("127.0.0.1", 7860, [])

    def test_other_names_may_be_allowed(self):
        args = app.parse_args(["--resume", "x", "--allow_origin", "https://a.example", "--allow_origin", "http://b:80"])
        for host in ("a.example", "b", "localhost:7860"):
            args.names.check("GET", {"host": [host]})


def test_every_ending_signal_ends_it_but_one_that_is_ignored():
    """As SIGHUP is under nohup."""
    before = {number: signal.getsignal(number) for number in app.ENDING}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        app.end_by_signals()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        app.end_by_signals()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_the_shipped_weights_find_what_the_examples_ask_for(tmp_path):
    clips = app.example_clips(tmp_path)
    predictor = models.load_predictor(ROOT / "pretrained_weights" / "demo.safetensors", "cpu")
    desk = Desk(predictor, tmp_path / "jobs", Limits())
    overlaps = []
    for (path, text), number in zip(clips, app.EXAMPLES, strict=True):
        scene, expressions, _ = make_scene(0, "valid", number, app.EXAMPLE_FRAMES, app.EXAMPLE_SIZE)
        targets = {expression.text: expression.target for expression in expressions}
        job = desk.segment(ME, path, text)
        assert len(job) == app.EXAMPLE_FRAMES
        with zipfile.ZipFile(job.archive) as packed:
            names = [name for name in packed.namelist() if name.endswith(".png")]
            masks = np.stack([np.asarray(Image.open(BytesIO(packed.read(name)))) > 0 for name in names])
        for found, asked in zip(np.split(masks, len(job.expressions)), job.expressions, strict=True):
            truth = scene.labels == targets[asked] + 1
            overlaps.append((found & truth).sum() / (found | truth).sum())
    assert len(overlaps) >= 6 and min(overlaps) > 0.6, overlaps
