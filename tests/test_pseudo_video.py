"""Pseudo-videos: masks move with what they cover, one frame is the image, and the generator decides everything."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from datasets import pseudo_video as module
from datasets.pseudo_video import draw_warp, motion_blur, pseudo_video, tint

HEIGHT, WIDTH = 60, 80


def scene() -> tuple[torch.Tensor, torch.Tensor]:
    """A red and a blue square on grey, and their masks."""
    image = torch.full((3, HEIGHT, WIDTH), 120, dtype=torch.uint8)
    masks = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.uint8)
    for e, (top, left, colour) in enumerate(((15, 10, (250, 20, 20)), (25, 50, (20, 20, 250)))):
        masks[e, top : top + 20, left : left + 20] = 1
        image[:, top : top + 20, left : left + 20] = torch.tensor(colour, dtype=torch.uint8)[:, None, None]
    return image, masks


def make(seed: int, frames: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    return pseudo_video(*scene(), frames, np.random.default_rng(seed))


def test_shapes_and_types():
    frames, masks = make(0)
    assert frames.shape == (5, 3, HEIGHT, WIDTH) and masks.shape == (5, 2, HEIGHT, WIDTH)
    assert frames.dtype == masks.dtype == torch.uint8
    assert frames.is_contiguous(memory_format=torch.channels_last)
    assert set(masks.unique().tolist()) == {0, 1}


def test_the_generator_decides_everything():
    first, again, other = make(3), make(3), make(4)
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a, b) and not torch.equal(a, c)
    torch.manual_seed(0)
    np.random.seed(0)
    assert torch.equal(make(3)[0], first[0])


def test_exactly_one_frame_is_the_image_and_it_may_be_any():
    image, masks = scene()
    places = set()
    for seed in range(30):
        frames, moved = make(seed, 4)
        same = [bool((frame == image).all()) for frame in frames]
        assert sum(same) == 1
        places.add(same.index(True))
        assert torch.equal(moved[same.index(True)], masks)
    assert places == {0, 1, 2, 3}


@pytest.mark.parametrize("seed", range(8))
def test_masks_cover_what_has_the_objects_colour(seed, monkeypatch):
    """Along an edge frame and mask may differ by interpolation; inside and outside they may not."""
    monkeypatch.setattr(module, "BLUR_PROBABILITY", 0.0)
    frames, masks = make(seed, 8)
    red, _, blue = frames.permute(1, 0, 2, 3).int()
    for e, excess in enumerate((red - blue, blue - red)):
        inside, coloured = masks[:, e].numpy(), (excess > 90).numpy().astype(np.uint8)
        assert coloured.any()
        edge = np.ones((3, 3), np.uint8)
        for of_frame, of_mask in zip(coloured, inside, strict=True):
            assert (of_frame <= cv2.dilate(of_mask, edge)).all()
            assert (cv2.erode(of_mask, edge) <= of_frame).all()
            # nearest against bilinear, halfway between two colours, decide alike but for rounding
            assert np.abs(of_frame.astype(int) - of_mask).sum() <= 0.1 * of_mask.sum() + 4


def test_an_object_may_leave_the_frame():
    image, masks = scene()
    masks = torch.zeros_like(masks)
    masks[:, 0, 0] = 1
    gone = [
        not mask.any() for seed in range(20) for mask in pseudo_video(image, masks, 4, np.random.default_rng(seed))[1]
    ]
    assert any(gone) and not all(gone)


def test_warps_enlarge_turn_and_shift():
    """imgaug's PerspectiveTransform moves corners inwards only, so nothing is ever shown smaller than it is."""
    angles, sizes, shifts = [], [], []
    for seed in range(300):
        warp = draw_warp(HEIGHT, WIDTH, np.random.default_rng(seed))
        ends = warp @ np.array([[30, 30, 1], [50, 30, 1], [40, 20, 1], [40, 40, 1]]).T
        ends = ends[:2] / ends[2]
        along, down = ends[:, 1] - ends[:, 0], ends[:, 3] - ends[:, 2]
        sizes.append(np.sqrt(abs(np.linalg.det(np.stack([along, down])))) / 20)
        angles.append(np.degrees(np.arctan2(along[1], along[0])))
        shifts.append(ends.mean(1) - (WIDTH / 2, HEIGHT / 2))
    # each side is enlarged by about 1 / (1 - 2 * 0.08 * sqrt(2 / pi)) = 1.15
    assert min(sizes) > 0.97 and max(sizes) < 1.35 and 1.12 < np.median(sizes) < 1.16
    assert 20 < max(angles) < 27 and -27 < min(angles) < -20
    x, y = np.array(shifts).T / ((WIDTH,), (HEIGHT,))
    assert 0.15 < max(np.abs([x, y]).ravel()) < 0.22 and np.corrcoef(x, y)[0, 1] > 0.4, "one share of both sides"


class Farthest:
    """Draws whole numbers as large as they may be, so that each change is seen, and all else by chance."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0).random

    def integers(self, low: int, high: int, endpoint: bool) -> int:
        return high


def test_one_or_both_of_brightness_and_colour_change():
    """imgaug's SomeOf((1, None)): each alone in a quarter of the frames, both in half of them."""
    image = np.full((1, 1, 3), (120, 60, 30), np.uint8)
    outcomes, rng = [], Farthest()
    for _ in range(400):
        tinted, plain = (cv2.cvtColor(x, cv2.COLOR_RGB2HSV_FULL)[0, 0].astype(int) for x in (tint(image, rng), image))
        hue, _, value = abs(tinted - plain)
        outcomes.append((value > 10, hue > 1))
    shares = {outcome: outcomes.count(outcome) / len(outcomes) for outcome in set(outcomes)}
    assert shares == pytest.approx({(True, True): 0.5, (True, False): 0.25, (False, True): 0.25}, abs=0.07)


def test_without_any_range_nothing_moves(monkeypatch):
    for name in ("ROTATION", "SHIFT", "CORNER", "BLUR_PROBABILITY", "BRIGHTNESS", "TINT"):
        monkeypatch.setattr(module, name, 0)
    image, masks = scene()
    frames, moved = make(0)
    assert torch.equal(moved, masks.expand_as(moved))
    assert (frames.int() - image.int()).abs().max() <= 6  # through 256 hues and back


def test_colours_change_a_little_and_grey_stays_grey():
    image = scene()[0].permute(1, 2, 0).contiguous().numpy()
    for seed in range(20):
        changed = tint(image, np.random.default_rng(seed)).astype(int)
        assert np.abs(changed - image).max() <= 40 + 35  # 7 degrees of hue, in the channel next to the strong one
        background = changed[0]
        assert (background == background[:1, :1]).all()
        assert (changed[20, 15, 0] > changed[20, 15, 2] + 100) and (changed[30, 60, 2] > changed[30, 60, 0] + 100)


def test_motion_blur_smears_and_keeps_the_mean():
    image = np.zeros((41, 41, 3), np.uint8)
    image[20, 20] = 252
    uneven = 0
    for seed in range(20):
        blurred = motion_blur(image, np.random.default_rng(seed))[..., 0].astype(int)
        touched = np.argwhere(blurred > 4)
        assert np.abs(touched - 20).max() in (2, 3, 4, 5)
        assert abs(blurred.sum() - 252) <= np.count_nonzero(blurred)
        # near one line through the point
        _, width = np.linalg.svd(touched - 20.0, compute_uv=False)
        assert width / np.sqrt(len(touched)) < 0.8
        ends = blurred[:20].sum() + blurred[20, :20].sum(), blurred[21:].sum() + blurred[20, 21:].sum()
        uneven += max(ends) > 1.5 * min(ends)
    assert uneven > 5, "a ramp from one end to the other"
