"""Masks painted over frames, legends and videos: they show on any colour, readable sizes, playable files."""

from __future__ import annotations

import av
import numpy as np
import pytest
from PIL import Image

from tests.helpers import SHARED, needs_shared
from util.video import fonts, visualize
from util.video.visualize import (
    PALETTE,
    PREDICTED_COLOUR,
    dashed,
    distinct_colours,
    enlarged,
    legend,
    open_film,
    overlay,
    painter,
    write_video,
)

RED, BLUE = (255, 0, 0), (0, 0, 255)


def _frame(height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _box(height: int = 40, width: int = 60) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[height // 4 : height // 2, width // 4 : width // 2] = True
    return mask


def test_a_mask_is_filled_lightly_and_outlined_in_its_colour():
    frame = np.full((40, 60, 3), 60, np.uint8)
    before, mask = frame.copy(), _box()
    painted = overlay(frame, mask[None], [RED])
    assert painted.dtype == np.uint8 and np.array_equal(frame, before)
    middle = painted[15, 22]
    assert (middle != frame[15, 22]).any() and np.abs(middle - frame[15, 22].astype(int)).max() < 100
    coloured = (painted == RED).all(-1)
    assert coloured[8:10].any() and not coloured[mask].any()  # nothing of what is found is covered by the line
    far = np.ones_like(mask)
    far[6:24, 11:34] = False
    assert np.array_equal(painted[far], frame[far])


@pytest.mark.parametrize("background", [*PALETTE, (0, 0, 0), (255, 255, 255), (128, 128, 128)])
@pytest.mark.parametrize("size", [(96, 160), (720, 1280)])
def test_a_mask_shows_on_any_background_even_of_its_own_colour(background, size):
    """On every side a line crosses from the background to something far lighter or darker."""
    mask = _box(*size)
    for colour in (*PALETTE, PREDICTED_COLOUR):
        painted = overlay(np.full((*size, 3), background, np.uint8), mask[None], [colour])
        for line in (painted[3 * size[0] // 8], painted[:, 3 * size[1] // 8]):
            middle = len(line) * 3 // 8
            for side in (line[:middle], line[middle:]):
                assert np.abs(side.astype(int) - background).sum(-1).max() > 200


def test_two_objects_of_one_colour_are_told_apart_by_their_lines():
    frame = np.full((96, 160, 3), (0, 158, 115), np.uint8)
    masks = np.stack([np.roll(_box(96, 160), shift, axis=1) for shift in (-30, 60)])
    painted = overlay(frame, masks, [PALETTE[0], PALETTE[1]])
    for colour, half in ((PALETTE[0], painted[:, :80]), (PALETTE[1], painted[:, 80:])):
        assert (half == colour).all(-1).sum() > 100
    assert not (painted[:, :80] == PALETTE[1]).all(-1).any()


def test_lines_grow_with_the_picture():
    widths = []
    for height in (96, 360, 720, 1080):
        painted = overlay(np.zeros((height, height, 3), np.uint8), _box(height, height)[None], [RED])
        widths.append((painted[3 * height // 8, : height // 3] == RED).all(-1).sum())
    assert widths[0] == widths[1] and widths[1] < widths[2] < widths[3]


def test_no_line_along_the_edge_of_the_picture():
    painted = overlay(np.zeros((10, 10, 3), np.uint8), np.ones((1, 10, 10), bool), [RED])
    assert (painted == painted[0, 0]).all()


def test_later_masks_lie_above_hide_no_line_and_colours_repeat():
    first, second = _box(80, 120), np.roll(_box(80, 120), (8, 10), axis=(0, 1))

    def lines(masks: list[np.ndarray], colours: list) -> list[int]:
        painted = overlay(_frame(80, 120), np.stack(masks), colours)
        return [(painted == colour).all(-1).sum() for colour in (RED, BLUE)]

    assert lines([first, first], [RED, BLUE])[0] == 0 < lines([first, first], [RED, BLUE])[1]
    red, blue = lines([first, second], [RED, BLUE])
    assert blue == lines([second], [BLUE])[1] and 0.7 * blue < red < blue
    assert lines([first, second], [RED])[0] > 1.5 * blue and lines([first, second], [RED])[1] == 0


def test_no_mask_is_the_frame():
    assert np.array_equal(overlay(_frame(), np.zeros((0, 40, 60), bool), PALETTE), _frame())
    assert np.array_equal(overlay(_frame(), np.zeros((2, 40, 60), bool), PALETTE), _frame())


def test_dashes_run_along_the_edge_of_a_mask():
    frame, mask = np.full((96, 160, 3), 90, np.uint8), _box(96, 160)
    drawn = dashed(frame, mask)
    changed = (drawn != frame).any(-1)
    assert (frame == 90).all() and not changed[~mask].any() and not changed[30:42, 50:70].any()
    assert changed[24, 40:80].all() and changed[24:48, 40].all()
    assert len(np.unique(drawn[24, 40:80].reshape(-1, 3), axis=0)) == 2


@pytest.mark.parametrize(
    "frame, masks, message",
    [
        (_frame()[..., 0], _box()[None], "a frame is uint8"),
        (_frame() / 255, _box()[None], "a frame is uint8"),
        (_frame(), _box()[None, :20], "masks are bool"),
        (_frame(), _box(), "masks are bool"),
        (_frame(), _box()[None].astype(float), "masks are bool"),
    ],
)
def test_overlay_refuses_what_does_not_fit(frame, masks, message):
    with pytest.raises(ValueError, match=message):
        overlay(frame, masks, [RED])


@pytest.mark.parametrize("size", [(1, 1), (2000, 1), (1, 2000)])
def test_extreme_frames_make_no_extreme_pictures(size):
    large, masks = enlarged(_frame(*size), np.ones((2, *size), bool))
    assert 640 <= large.shape[1] <= 2000 and large.shape[0] <= 2160
    assert masks.shape == (2, *large.shape[:2]) and masks.any((1, 2)).all()


def test_small_frames_are_enlarged_with_their_masks_and_others_stay():
    frame, mask = _frame(96, 160), _box(96, 160)[None]
    large, large_mask = enlarged(frame, mask)
    assert large.shape == (384, 640, 3) and large_mask.shape == (1, 384, 640)
    assert large_mask.mean() == pytest.approx(mask.mean(), rel=0.02)
    rows, columns = np.nonzero(large_mask[0])
    assert rows.min() == pytest.approx(4 * 24, abs=1) and columns.max() == pytest.approx(4 * 80 - 1, abs=1)
    frame, mask = _frame(100, 700), np.zeros((0, 100, 700), bool)
    assert all(new is old for new, old in zip(enlarged(frame, mask), (frame, mask), strict=True))


def test_frames_are_painted_below_a_legend_that_stays():
    paint = painter(["a red dog · 0.91"], PALETTE)
    shots = [paint(_frame(96, 160), _box(96, 160)[None] & shown) for shown in (True, False)]
    assert shots[0].shape == shots[1].shape and shots[0].shape[1] == 640 and shots[0].shape[0] > 384 + 22
    band = len(shots[0]) - 384
    assert np.array_equal(shots[0][:band], shots[1][:band]) and (shots[0][band:] != shots[1][band:]).any()
    assert (shots[0][:band] == PALETTE[0]).all(-1).any()


def test_colours_are_different():
    assert distinct_colours(3) == list(PALETTE[:3])
    colours = np.array(distinct_colours(24))
    gaps = np.abs(colours[:, None] - colours[None]).sum(-1)[~np.eye(24, dtype=bool)]
    assert gaps.min() > 15


def test_a_legend_has_a_line_and_a_patch_for_each_text():
    one, two = (legend(["a red dog", "a blue cat"][:n], PALETTE[:n], 640) for n in (1, 2))
    assert one.shape[1:] == two.shape[1:] == (640, 3) and 20 < len(two) - len(one) < 40
    for n, colour in enumerate(PALETTE[:2]):
        rows, columns = np.nonzero((two == colour).all(-1))
        assert columns.max() < 60 and rows.min() >= n * 29 and rows.max() < 16 + (n + 1) * 29
    long = legend(["word " * 60], PALETTE[:1], 640)
    assert len(long) > 3 * len(one) and (long[:, -8:] == 255).all()


def test_the_letters_of_a_legend_grow_with_its_width():
    """Players show wide pictures smaller."""
    heights = [len(legend(["a red dog"], PALETTE[:1], width)) for width in (640, 1280, 1920, 3840)]
    assert (
        heights[1] > 1.4 * heights[0]
        and heights[2] > 2 * heights[0]
        and heights[3] == pytest.approx(2 * heights[2], 0.05)
    )


def test_other_scripts_have_a_font():
    """DejaVu comes with matplotlib; for what no font here has, the text is drawn all the same."""
    for text in ("the dog", "собака слева", "ο σκύλος"):
        assert fonts._lacking(fonts._path(frozenset(text)), frozenset(text)) == 0
    assert fonts._path(frozenset("the dog")) is None
    assert legend(["左边的狗" * 30], PALETTE[:1], 640).shape[1] == 640


def _decoded(path) -> tuple[list[np.ndarray], float, str]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return frames, float(stream.average_rate), stream.codec_context.name


@pytest.mark.parametrize("size", [(64, 96), (63, 97)])
@pytest.mark.parametrize("encoder", ["libx264", "mpeg4"])
def test_video_plays_back(tmp_path, size, encoder, monkeypatch):
    monkeypatch.setattr(visualize, "_encoder", lambda: encoder)
    ramp = np.linspace(0, 200, size[1]).astype(np.uint8)
    frames = [np.broadcast_to(ramp[None, :, None] + t, (*size, 3)).astype(np.uint8) for t in range(0, 50, 10)]
    write_video(tmp_path / "new" / "v.mp4", iter(frames), fps=6)
    played, rate, codec = _decoded(tmp_path / "new" / "v.mp4")
    assert codec == {"libx264": "h264", "mpeg4": "mpeg4"}[encoder]
    assert rate == 6
    assert [frame.shape for frame in played] == [(64, size[1] + size[1] % 2, 3)] * 5
    for frame, shown in zip(frames, played, strict=True):
        assert np.abs(shown[: size[0], : size[1]].astype(int) - frame).mean() < 4


@pytest.mark.parametrize("encoder", ["libx264", "mpeg4"])
def test_each_frame_is_shown_as_long_as_it_should(tmp_path, encoder, monkeypatch):
    monkeypatch.setattr(visualize, "_encoder", lambda: encoder)
    times = [0, 1 / 30, 2 / 30, 0.5, 0.501, 2, 3.25]
    with open_film(tmp_path / "v.mp4", fps=3) as show:
        for start, end in zip(times[:-1], times[1:], strict=True):
            show(_frame(), start, end)
    with av.open(str(tmp_path / "v.mp4")) as container:
        stream = container.streams.video[0]
        assert [frame.time for frame in container.decode(stream)] == pytest.approx(times[:-1], abs=2e-5)
        assert float(stream.duration * stream.time_base) == pytest.approx(3.25, abs=2e-5)


def test_without_h264_the_older_encoder_is_used(monkeypatch):
    class Plain:
        def __init__(self, name: str, _mode: str):
            if name == "libx264":
                raise av.codec.codec.UnknownCodecError(name)

    monkeypatch.setattr(av, "Codec", Plain)
    assert visualize._encoder() == "mpeg4"


def _breaks():
    yield _frame()
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "frames, fps, error",
    [
        ([], 5, ValueError),
        ([_frame()], 0, ValueError),
        ([_frame()], float("nan"), ValueError),
        ([_frame(), _frame(40, 62)], 5, ValueError),
        ([_frame()[..., 0]], 5, ValueError),
        ([_frame() / 255], 5, ValueError),
        (_breaks(), 5, KeyboardInterrupt),
    ],
    ids=["none", "no fps", "nan fps", "two sizes", "grey", "float", "interrupted"],
)
def test_a_video_that_cannot_be_made_leaves_nothing(tmp_path, frames, fps, error):
    with pytest.raises(error):
        write_video(tmp_path / "v.mp4", frames, fps)
    assert list(tmp_path.iterdir()) == []


@needs_shared
def test_real_frames_and_masks(tmp_path):
    root = SHARED / "data" / "ref-davis" / "valid"
    names = ["00000", "00020", "00049"]
    frames = [np.asarray(Image.open(root / "JPEGImages" / "blackswan" / f"{name}.jpg")) for name in names]
    masks = np.stack([np.asarray(Image.open(root / "Annotations" / "blackswan" / f"{name}.png")) > 0 for name in names])
    write_video(tmp_path / "v.mp4", (overlay(f, m[None], PALETTE) for f, m in zip(frames, masks, strict=True)), fps=24)
    played, rate, _ = _decoded(tmp_path / "v.mp4")
    assert len(played) == 3 and rate == 24 and played[0].shape == frames[0].shape
