"""Contact sheets: right colours in the right places, readable sizes, cards that fit."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from util.video.sheets import Card, Line, SheetRow, contact_sheet, for_sheet, write_sheet
from util.video.visualize import FILL, PREDICTED_COLOUR, TRUTH_COLOUR


def _box(height: int = 40, width: int = 60) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[height // 4 : height // 2, width // 4 : width // 2] = True
    return mask


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
    return np.abs(sheet - (FILL * np.array(colour) + (1 - FILL) * 60)).max(axis=-1) < 3


def test_sheet_shows_truth_and_prediction_where_they_are(tmp_path):
    sheet = _sheet(tmp_path / "a" / "sheet.png", [_row()])
    truth, predicted = _near(sheet, TRUTH_COLOUR), _near(sheet, PREDICTED_COLOUR)
    truth_rows, predicted_rows = (np.flatnonzero(where.any(axis=1)) for where in (truth, predicted))
    assert truth_rows.max() < predicted_rows.min()
    # The prediction is the truth moved by a third of the cell's width of 240 pixels.
    shift = np.flatnonzero(predicted.any(axis=0))[0] - np.flatnonzero(truth.any(axis=0))[0]
    assert shift == pytest.approx(80, abs=3)
    # Three cells, each with a mask of a quarter of its width and of its height.
    assert truth.sum() == pytest.approx(3 * 240 * 160 / 16, rel=0.2)


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
        assert (wrapped[25:100, -25:-14] == 255).all()


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
    frame = np.random.default_rng(0).integers(0, 256, (480, 720, 3), dtype=np.uint8)
    mask = _box(480, 720)
    small, small_masks = for_sheet(frame, mask[None])
    assert small.shape[:2] == small_masks.shape[1:] == (160, 240)
    large_sheet = _sheet(tmp_path / "large.png", [SheetRow("a", "", [frame], None, mask[None], ["0"])])
    assert np.array_equal(
        large_sheet, _sheet(tmp_path / "s.png", [SheetRow("a", "", [small], None, small_masks, ["0"])])
    )


@pytest.mark.parametrize("size", [(1, 1), (2000, 1), (1, 2000)])
def test_extreme_frames_make_no_extreme_sheets(tmp_path, size):
    assert max(_sheet(tmp_path / "sheet.png", [_row(1, size=size)]).shape) < 3200


def test_cards_stand_side_by_side_with_their_pictures_at_one_height(tmp_path):
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    pictures = [np.full((80, 240, 3), colour, np.uint8) for colour in colours]
    captions = ["a cat", "a cat that sleeps all day long on the warm roof of a car", "a dog"]
    cards = [Card(caption, "note", [Line([picture])]) for caption, picture in zip(captions, pictures, strict=True)]
    sample = np.full((20, 30, 3), (250, 0, 250), np.uint8)
    write_sheet(cards, tmp_path / "sheet.png", columns=2, head=[("a title", None), ("a key", sample)])
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    places = [np.nonzero((sheet == colour).all(-1)) for colour in colours]
    assert [len(rows) for rows, _ in places] == [80 * 240] * 3
    (first, left), (second, right), (third, below) = ((rows.min(), columns.min()) for rows, columns in places)
    assert first == second and third > first + 80 and right > left + 240 and below == left
    rows, _ = np.nonzero((sheet == (250, 0, 250)).all(-1))
    assert len(rows) == 20 * 30 and rows.max() < first


def test_names_stand_above_narrow_pictures_without_touching(tmp_path):
    pictures = [np.zeros((400, 20, 3), np.uint8)] * 2
    write_sheet([Card("a", "", [Line(pictures)], ["before: 0.31", "after: 0.94"])], tmp_path / "sheet.png")
    columns = np.flatnonzero((np.asarray(Image.open(tmp_path / "sheet.png")) == 0).all(-1).any(0))
    assert columns[20] - columns[0] > 200
