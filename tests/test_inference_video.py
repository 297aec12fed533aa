"""``inference_video.py`` on films, folders and images: a right, complete and timed result, or none."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import inference_video
from tests.helpers import ROOT
from tests.mini_films import PHONE_TIMES, SIZE, scene, write_film, write_sound
from util.masks import rle
from util.run import cli
from util.video import video_result, visualize
from util.video.visualize import FILL, PALETTE

WEIGHTS = ROOT / "pretrained_weights" / "demo.safetensors"
TEXTS = ("the red box", "blau, 蓝色 и синий")


@dataclass
class ByColour:
    """A predictor and its answer: the red pixels are what the first text means, the blue ones what the others mean."""

    frames: Tensor | None = None
    expressions: list[str] | None = None
    scores_mean = "these scores mean colours"

    def segment(self, source, expressions: list[str], seen=None):
        return ByColour(source.read(range(len(source))), expressions)

    @property
    def scores(self) -> list[float]:
        return [round(0.9 - 0.1 * i, 2) for i in range(len(self.expressions))]

    @property
    def there(self) -> list[bool]:
        return [score > 0 for score in self.scores]

    def masks(self, start: int, stop: int) -> Tensor:
        frames = self.frames[start:stop].int()
        strength = frames - frames.flip(1)  # red less blue, nothing, blue less red
        return torch.stack([strength[:, 0 if i == 0 else 2] > 60 for i in range(len(self.expressions))])


@pytest.fixture
def quick(monkeypatch):
    """In place of a network, :class:`ByColour`."""
    monkeypatch.setattr(inference_video, "load", lambda asked, device: ByColour())


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command: exit code, what it says on stdout, its error."""

    def command(*words: object, texts: tuple[str, ...] = TEXTS) -> tuple[int, str, str]:
        flags = [word for text in texts for word in ("--text", text)]
        words = ["inference_video.py", "--resume", WEIGHTS, "--device", "cpu", *words, *flags]
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        with pytest.raises(SystemExit) as stop:
            cli.run(inference_video.main)
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return stop.value.code, said.out, said.err.rpartition("inference_video.py: error: ")[2].strip()

    return command


def film(path: Path) -> tuple[list[np.ndarray], list[float], float]:
    """Frames of a film, when each is shown, and its length."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        length = float(container.streams.video[0].duration * container.streams.video[0].time_base)
        return [f.to_ndarray(format="rgb24") for f in frames], [f.time for f in frames], length


def masks_of(folder: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.asarray(Image.open(path)) > 0 for path in sorted(folder.iterdir())}


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def phone(tmp_path_factory) -> Path:
    return write_film(tmp_path_factory.mktemp("film") / "phone.mp4", scene(6), PHONE_TIMES)


# What comes out ------------------------------------------------------------------------------------------------------


def test_a_film(tmp_path, phone, quick, run):
    code, out, error = run(phone, "--output_dir", tmp_path / "out")
    assert code == 0, error
    folders = ["1_the_red_box", "2_blau_蓝色_и_синий"]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"overlay.mp4", "masks", "sheet.png", "segmentation.json"}
    assert sorted(p.name for p in (tmp_path / "out" / "masks").iterdir()) == folders
    red, blue = (masks_of(tmp_path / "out" / "masks" / name) for name in folders)
    assert list(red) == list(blue) == [f"{i:05d}" for i in range(6)]
    for number, name in enumerate(red, 1):
        picture = scene(6)[number - 1].astype(int)
        assert (red[name] != (picture[..., 0] - picture[..., 2] > 60)).mean() < 0.02
        assert not (red[name] & blue[name]).any() and blue[name].any()

    record = json.loads((tmp_path / "out" / "segmentation.json").read_text(encoding="utf-8"))
    assert record["video"] == str(phone) and record["size"] == list(SIZE)
    assert [e["text"] for e in record["expressions"]] == list(TEXTS)
    assert [e["score"] for e in record["expressions"]] == [0.9, 0.8]
    assert [e["masks"] for e in record["expressions"]] == [f"masks/{name}" for name in folders]
    assert [f["name"] for f in record["frames"]] == list(red)
    assert [f["seconds"] for f in record["frames"]] == pytest.approx(PHONE_TIMES, abs=1e-6)
    assert "0.90  the red box: in 6 of 6 frames" in out and str(tmp_path / "out" / "overlay.mp4") in out


def test_the_overlay_is_in_time_and_in_colour(tmp_path, phone, quick, run):
    assert run(phone, "--output_dir", tmp_path)[0] == 0
    frames, times, length = film(tmp_path / "overlay.mp4")
    assert times == pytest.approx(PHONE_TIMES, abs=1e-3)
    assert length == pytest.approx(film(phone)[2], abs=1e-3) == pytest.approx(0.54, abs=1e-3)
    scale, band = 640 // SIZE[1], frames[0].shape[0] - SIZE[0] * (640 // SIZE[1])
    assert frames[0].shape[1] == 640 and band > 60  # two lines
    for number, frame in enumerate(frames, 1):
        shown = frame[band + scale // 2 :: scale, scale // 2 :: scale].astype(int)
        boxes = ((number + 6, 12), (number + 6, 55))
        for (row, column), colour, stored in zip(boxes, PALETTE[:2], ((220, 30, 30), (30, 30, 220)), strict=True):
            mixed = FILL * np.array(colour) + (1 - FILL) * np.array(stored)
            middle = shown[row - 1 : row + 2, column - 1 : column + 2].mean((0, 1))
            assert np.abs(middle - mixed).max() < 8 < np.abs(mixed - stored).max()
    for colour in PALETTE[:2]:
        assert (np.abs(frames[0][:band].astype(int) - colour).max(-1) < 25).sum() > 200, "its patch in the legend"


def test_the_timing_of_a_part(tmp_path, phone, quick, run):
    assert run(phone, "--output_dir", tmp_path, "--start", 0.05, "--every", 2, "--masks", "none")[0] == 0
    assert everything(tmp_path) == {"overlay.mp4", "sheet.png", "segmentation.json"}
    frames, times, _ = film(tmp_path / "overlay.mp4")
    assert times == pytest.approx([0, 0.266], abs=1e-3) and len(frames) == 2
    record = json.loads((tmp_path / "segmentation.json").read_text())
    assert [frame["name"] for frame in record["frames"]] == ["00002", "00004"]


def test_run_lengths_are_the_png_masks(tmp_path, phone, quick, run):
    assert run(phone, "--output_dir", tmp_path / "png")[0] == 0
    assert run(phone, "--output_dir", tmp_path / "rle", "--masks", "rle")[0] == 0
    record = json.loads((tmp_path / "rle" / "segmentation.json").read_text())
    assert not (tmp_path / "rle" / "masks").exists()
    for e, folder in enumerate(sorted((tmp_path / "png" / "masks").iterdir())):
        masks = masks_of(folder)
        assert len(masks) == len(record["frames"]) == 6
        for frame in record["frames"]:
            decoded = rle.decode(rle.parse(frame["masks"][e], SIZE))
            assert np.array_equal(decoded, masks[frame["name"]]) and decoded.any()


def test_a_turned_film_is_upright_in_overlay_and_masks(tmp_path, quick, run):
    path = write_film(tmp_path / "turned.mp4", scene(2), turn=(-90, False, False))
    assert run(path, "--output_dir", tmp_path / "out")[0] == 0
    red = masks_of(tmp_path / "out" / "masks" / "1_the_red_box")["00000"]
    stored = scene(1)[0].astype(int)
    assert (red != np.rot90(stored[..., 0] - stored[..., 2] > 60, -1)).mean() < 0.02
    frames, *_ = film(tmp_path / "out" / "overlay.mp4")
    assert frames[0].shape[1] == 640 and frames[0].shape[0] > 640 * SIZE[1] / SIZE[0]
    with av.open(str(tmp_path / "out" / "overlay.mp4")) as container:
        assert next(container.decode(video=0)).rotation == 0


def test_odd_sizes_are_padded_in_the_overlay_alone(tmp_path, monkeypatch, quick, run):
    monkeypatch.setattr(visualize, "enlarged", lambda frame, masks, width: (frame, masks))
    path = write_film(tmp_path / "odd.mp4", scene(3, (49, 81)), pixels="yuv444p")
    assert run(path, "--output_dir", tmp_path / "out")[0] == 0
    assert masks_of(tmp_path / "out" / "masks" / "1_the_red_box")["00002"].shape == (49, 81)
    frames, *_ = film(tmp_path / "out" / "overlay.mp4")
    assert frames[0].shape[1] == 82 and frames[0].shape[0] % 2 == 0


def test_a_folder_and_an_image(tmp_path, quick, run):
    (tmp_path / "frames").mkdir()
    for number, picture in enumerate(scene(11), 1):
        Image.fromarray(picture).save(tmp_path / "frames" / f"{number}.png")
    assert run(tmp_path / "frames", "--output_dir", tmp_path / "a", "--start", 1, "--every", 4, "--fps", 10)[0] == 0
    masks = masks_of(tmp_path / "a" / "masks" / "1_the_red_box")
    assert set(masks) == {"2", "6", "10"}
    picture = scene(6)[5].astype(int)
    assert np.array_equal(masks["6"], picture[..., 0] - picture[..., 2] > 60)
    frames, times, length = film(tmp_path / "a" / "overlay.mp4")
    assert times == pytest.approx([0, 0.4, 0.8], abs=1e-3) and length == pytest.approx(1.0, abs=1e-3)

    assert run(tmp_path / "frames" / "3.png", "--output_dir", tmp_path / "b")[0] == 0
    assert not (tmp_path / "b" / "overlay.mp4").exists()
    with Image.open(tmp_path / "b" / "overlay.png") as overlay:
        assert overlay.width == 640
    assert list(masks_of(tmp_path / "b" / "masks" / "1_the_red_box")) == ["3"]


def test_the_sheet_shows_the_ends_and_every_text(tmp_path, monkeypatch, phone, quick, run):
    rows = []
    monkeypatch.setattr(video_result, "contact_sheet", lambda sheet, path: (rows.extend(sheet), path.touch()))
    texts = [f"text {i}" for i in range(9)]
    assert run(phone, "--output_dir", tmp_path, "--masks", "none", texts=texts)[0] == 0
    assert [row.caption for row in rows] == [f"{t} · {0.9 - 0.1 * i:.2f}" for i, t in enumerate(texts)]
    assert len({row.colour for row in rows}) == 9 and [row.plain for row in rows] == [True] + 8 * [False]
    assert all(row.frame_ids == ["00000", "00001", "00002", "00004", "00005"] for row in rows)


def test_a_film_of_one_pixel(tmp_path, quick, run):
    frames = [np.full((1, 1, 3), (220, 30, 30), np.uint8)] * 3
    path = write_film(tmp_path / "dot.mkv", frames, codec="ffv1", pixels="bgr0")
    code, out, error = run(path, "--output_dir", tmp_path / "out")
    assert code == 0, error
    assert masks_of(tmp_path / "out" / "masks" / "1_the_red_box")["00001"].tolist() == [[True]]
    assert len(film(tmp_path / "out" / "overlay.mp4")[0]) == 3


def test_few_frames_at_a_time(tmp_path, monkeypatch, phone, quick, run):
    monkeypatch.setattr(video_result, "_BYTES", 2 * SIZE[0] * SIZE[1] * 5)
    asked = []
    masks = ByColour.masks
    monkeypatch.setattr(ByColour, "masks", lambda self, a, b: (asked.append((a, b)), masks(self, a, b))[1])
    assert run(phone, "--output_dir", tmp_path)[0] == 0
    assert asked == [(0, 2), (2, 4), (4, 6)]


def test_options_win_over_those_of_the_training():
    words = ["v.mp4", "--text", "a star", "--resume", str(WEIGHTS)]
    as_trained = inference_video.load(inference_video.parse_args(words), torch.device("cpu"))
    changed = inference_video.load(
        inference_video.parse_args([*words, "--eval_size", "64", "--amp", "fp16"]), torch.device("cpu")
    )
    assert (changed.eval_size, changed.max_size, changed.amp) == (64, as_trained.max_size, torch.float16)
    assert as_trained.eval_size != 64


def test_the_shipped_weights(tmp_path, run):
    """The whole of it, with a network: also on a text of a script that it never saw."""
    (tmp_path / "frames").mkdir()
    for number, picture in enumerate(scene(4, (96, 160))):
        Image.fromarray(picture).save(tmp_path / "frames" / f"{number:05d}.jpg", quality=95)
    out = tmp_path / "out"
    code, said, error = run(tmp_path / "frames", "--output_dir", out, "--eval_size", 64, "--amp", "off")
    assert code == 0, error
    record = json.loads((out / "segmentation.json").read_text())
    assert all(0 < e["score"] < 1 for e in record["expressions"]) and len(record["frames"]) == 4
    red, _ = (masks_of(folder) for folder in sorted((out / "masks").iterdir()))
    assert [mask.shape for mask in red.values()] == [(96, 160)] * 4


# What goes wrong -----------------------------------------------------------------------------------------------------


def test_bad_input_is_named_and_leaves_nothing(tmp_path, phone, run):
    out = tmp_path / "new" / "out"

    def refusal(*words, **options) -> str:
        code, _, error = run(*words, "--output_dir", out, **options)
        assert code == 2 and not out.parent.exists() and "\n" not in error
        return error

    assert "gone.mp4: no such file or folder; give a video" in refusal(tmp_path / "gone.mp4")
    assert "sound.m4a: holds no video" in refusal(write_sound(tmp_path / "sound.m4a"))
    assert "--start 9 leaves no frame of" in refusal(phone, "--start", 9)
    assert "--every 0: take every frame with 1" in refusal(phone, "--every", 0)
    assert '--text " " is empty: say what to look for' in refusal(phone, texts=("a box", " "))
    assert '--text "?" is empty: say what to look for' in refusal(phone, texts=("a box", "?"))
    assert "is not in UTF-8; set the terminal to it" in refusal(phone, texts=("a box", "the \udcff box"))
    assert "--text 'box box" in refusal(phone, "--long_text", "refuse", texts=("box " * 2000,))
    assert "no usable GPU" in refusal(phone, "--device", "cuda") if not torch.cuda.is_available() else True
    assert "gone.pth" in refusal(phone, "--resume", tmp_path / "gone.pth")


def test_a_result_is_replaced_only_when_asked(tmp_path, phone, quick, run):
    out = tmp_path / "out"
    assert run(phone, "--output_dir", out)[0] == 0
    before = everything(out)
    code, _, error = run(phone, "--output_dir", out, "--masks", "none")
    assert code == 2 and "already holds a result (overlay.mp4, masks, sheet.png" in error and "--overwrite" in error
    assert everything(out) == before
    (out / "notes.txt").write_text("mine")
    assert run(phone, "--output_dir", out, "--masks", "none", "--overwrite")[0] == 0
    assert everything(out) == {"overlay.mp4", "sheet.png", "segmentation.json", "notes.txt"}


def test_what_others_made_is_never_deleted(tmp_path, phone, quick, run):
    (tmp_path / "masks").mkdir()
    code, _, error = run(phone, "--output_dir", tmp_path, "--overwrite")
    assert code == 2 and "holds masks, of unknown origin; choose another folder" in error
    (tmp_path / "masks" / "file").touch()
    assert "is a file" in run(phone, "--output_dir", tmp_path / "masks" / "file")[2]
    for number, picture in enumerate(scene(2)):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    assert "is the folder of the frames" in run(tmp_path, "--output_dir", tmp_path)[2]
    assert everything(tmp_path) == {"masks", "masks/file", "0.png", "1.png"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch, phone, quick, run, error):
    masks = ByColour.masks

    def interrupted(self, start, stop):
        if start:
            raise error
        return masks(self, start, stop)

    monkeypatch.setattr(video_result, "_BYTES", 1)
    monkeypatch.setattr(ByColour, "masks", interrupted)
    code, _, _ = run(phone, "--output_dir", tmp_path / "new" / "out")
    assert code == (130 if error is KeyboardInterrupt else 2) and everything(tmp_path) == set()


def test_the_default_folder_is_named_after_the_video(tmp_path, monkeypatch, phone, quick, run):
    monkeypatch.chdir(tmp_path)
    assert run(phone, "--masks", "none")[0] == 0
    assert (tmp_path / "output" / "videos" / "phone" / "overlay.mp4").is_file()
