"""Overlays, contact sheets and videos: right colours in the right places, readable sizes, playable files."""

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
    TRUTH_COLOUR,
    SheetRow,
    contact_sheet,
    distinct_colours,
    enlarged,
    for_sheet,
    legend,
    open_film,
    overlay,
    write_video,
)

RED, BLUE = (255, 0, 0), (0, 0, 255)


def _frame(height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _box(height: int = 40, width: int = 60) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[height // 4 : height // 2, width // 4 : width // 2] = True
    return mask


def test_overlay_mixes_inside_and_keeps_outside():
    frame, mask = _frame(), _box()
    before = frame.copy()
    painted = overlay(frame, mask[None], [RED], alpha=0.25, outline=False)
    assert painted.dtype == np.uint8
    assert np.array_equal(frame, before)
    assert np.array_equal(painted[~mask], frame[~mask])
    assert np.array_equal(painted[mask], np.round(0.75 * frame[mask] + 0.25 * np.array(RED)))


def test_outline_is_the_inner_edge_in_full_colour():
    frame, mask = _frame(), _box()
    painted = overlay(frame, mask[None], [RED])
    inner = np.zeros_like(mask)
    inner[11:19, 16:29] = True
    assert (painted[mask & ~inner] == RED).all()
    assert not (painted[inner] == RED).all(axis=-1).any()
    assert np.array_equal(painted[~mask], frame[~mask])


def test_no_outline_along_the_picture_edge():
    painted = overlay(np.zeros((10, 10, 3), np.uint8), np.ones((1, 10, 10), bool), [RED])
    assert (painted == (128, 0, 0)).all()


def test_later_masks_lie_above_and_colours_repeat():
    first, second = _box(), np.roll(_box(), 5, axis=1)
    painted = overlay(_frame(), np.stack([first, second]), [RED, BLUE], alpha=1)
    assert (painted[second] == BLUE).all()
    assert (painted[first & ~second] == RED).all()
    assert (overlay(_frame(), np.stack([first, second]), [RED], alpha=1)[first | second] == RED).all()


def test_no_mask_is_the_frame():
    assert np.array_equal(overlay(_frame(), np.zeros((0, 40, 60), bool), PALETTE), _frame())


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


def _row(columns: int = 3, truth: bool = True, caption: str = "the square", size=(40, 60)) -> SheetRow:
    grey = np.full((*size, 3), 60, np.uint8)
    masks = np.stack([_box(*size)] * columns)
    return SheetRow(
        caption=caption,
        note="J 0.81",
        frames=[grey] * columns,
        truth=masks if truth else None,
        predicted=np.roll(masks, size[1] // 3, axis=2),
        frame_ids=[f"{t:05d}" for t in range(columns)],
    )


def _sheet(path, rows) -> np.ndarray:
    contact_sheet(rows, path)
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image).astype(int)


def _near(sheet: np.ndarray, colour) -> np.ndarray:
    """Where the sheet shows a mask of this colour: its mix with the grey of the frames."""
    return np.abs(sheet - (np.array(colour) + 60) / 2).max(axis=-1) < 3


def test_sheet_shows_truth_and_prediction_where_they_are(tmp_path):
    sheet = _sheet(tmp_path / "a" / "sheet.png", [_row()])
    truth, predicted = _near(sheet, TRUTH_COLOUR), _near(sheet, PREDICTED_COLOUR)
    truth_rows, predicted_rows = (np.flatnonzero(where.any(axis=1)) for where in (truth, predicted))
    assert truth_rows.max() < predicted_rows.min()
    # The prediction is the truth moved by a third of the cell's width of 240 pixels.
    shift = np.flatnonzero(predicted.any(axis=0))[0] - np.flatnonzero(truth.any(axis=0))[0]
    assert shift == pytest.approx(80, abs=3)
    # Three cells, each with a mask of a quarter of its width and of its height.
    assert truth.sum() == pytest.approx(3 * 240 * 160 / 16, rel=0.15)


def test_sheet_without_truth(tmp_path):
    sheet = _sheet(tmp_path / "sheet.png", [_row(truth=False)])
    assert not _near(sheet, TRUTH_COLOUR).any()
    assert _near(sheet, PREDICTED_COLOUR).any()


def test_sheet_without_the_frames_as_they_are(tmp_path):
    row = _row(truth=False)
    whole = _sheet(tmp_path / "sheet.png", [row])
    row.plain = False
    assert whole.shape[0] - _sheet(tmp_path / "sheet.png", [row]).shape[0] == 160 + 6


@pytest.mark.parametrize("size", [(40, 60), (720, 1280), (400, 100)])
def test_cells_are_wide_enough_for_any_frame(tmp_path, size):
    narrow, wide = (_sheet(tmp_path / f"{k}.png", [_row(k, size=size)]).shape[1] for k in (1, 3))
    assert (wide - narrow) / 2 >= 200


def test_long_captions_are_wrapped_not_cut(tmp_path):
    short = _sheet(tmp_path / "short.png", [_row(caption="a cat")])
    for caption in ("a cat that sleeps " * 30, "x" * 400):
        wrapped = _sheet(tmp_path / "long.png", [_row(caption=caption)])
        assert wrapped.shape[1] == short.shape[1]
        assert wrapped.shape[0] > short.shape[0] + 50
        # Nothing is written into the card's right margin.
        assert (wrapped[25:120, -30:-22] == 255).all()


def test_rows_of_different_length_and_size(tmp_path):
    one, other = _row(2), _row(4, size=(90, 50), truth=False)
    sheet = _sheet(tmp_path / "sheet.png", [one, other])
    heights = [_sheet(tmp_path / "one.png", [row]).shape[0] for row in (one, other)]
    assert sheet.shape[0] == pytest.approx(sum(heights), abs=40)


@pytest.mark.parametrize("change", [{"frame_ids": ["00000"]}, {"truth": np.zeros((3, 40, 61), bool)}, {"frames": []}])
def test_rows_that_do_not_fit(tmp_path, change):
    row = _row()
    for name, value in change.items():
        setattr(row, name, value)
    with pytest.raises(ValueError, match="'the square': "):
        contact_sheet([row], tmp_path / "sheet.png")
    with pytest.raises(ValueError, match="at least one row"):
        contact_sheet([], tmp_path / "sheet.png")
    assert list(tmp_path.iterdir()) == []


def test_a_frame_made_small_for_the_sheet_gives_the_same_sheet(tmp_path):
    frame, mask = _frame(480, 720), _box(480, 720)
    small, small_masks = for_sheet(frame, mask[None])
    assert small.shape[:2] == small_masks.shape[1:] == (160, 240)
    large_sheet = _sheet(tmp_path / "large.png", [SheetRow("a", "", [frame], None, mask[None], ["0"])])
    assert np.array_equal(
        large_sheet, _sheet(tmp_path / "s.png", [SheetRow("a", "", [small], None, small_masks, ["0"])])
    )


@pytest.mark.parametrize("size", [(1, 1), (2000, 1), (1, 2000)])
def test_extreme_frames_make_no_extreme_pictures(tmp_path, size):
    large = enlarged(_frame(*size))
    assert 640 <= large.shape[1] <= 2000 and large.shape[0] <= 2160
    assert max(_sheet(tmp_path / "sheet.png", [_row(1, size=size)]).shape) < 3200


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
    assert len(legend(["a red dog"], PALETTE[:1], 3840)) > 2 * len(one)  # as large to the eye


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
    sheet = _sheet(tmp_path / "sheet.png", [SheetRow("a black swan", "J 1.00", frames, masks, masks, names)])
    assert sheet.shape[1] >= 3 * 200
    write_video(tmp_path / "v.mp4", (overlay(f, m[None], PALETTE) for f, m in zip(frames, masks, strict=True)), fps=24)
    played, rate, _ = _decoded(tmp_path / "v.mp4")
    assert len(played) == 3 and rate == 24 and played[0].shape == frames[0].shape
