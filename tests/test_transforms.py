"""Augmentation, box arithmetic and the size of frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import generalized_box_iou

from datasets.base import Expression, make_target
from datasets.sampling import stream
from datasets.transforms import TrainTransform, distort_colours, draw_crop_shape
from util.masks.box_ops import (
    cxcywh_to_xyxy,
    generalised_iou,
    masks_to_boxes,
    pairwise_generalised_iou,
    xyxy_to_cxcywh,
)
from util.samples.frames import MEAN, STD, fitted_size, normalise, resize_frames

OFF = {"flip": False, "random_crop": False, "photometric": False}
ON = {"flip": True, "random_crop": True, "photometric": True}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(stream(seed).integers(0, 256, shape, dtype=np.uint8))


def clip_of(height: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Three frames and their ids: object 1 a red rectangle on black, moving."""
    rng = stream(seed)
    frames = torch.zeros(3, 3, height, width, dtype=torch.uint8)
    labels = torch.zeros(3, 1, height, width, dtype=torch.uint8)
    h, w = (int(rng.integers(side // 4, side // 2 + 1)) for side in (height, width))
    for t in range(3):
        top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
        frames[t, 0, top : top + h, left : left + w] = 255
        labels[t, 0, top : top + h, left : left + w] = 1
    return frames, labels


def apply(transform: TrainTransform, frames, labels, texts=("on the left",), seed: int = 0):
    return transform(frames, labels, list(texts), stream(seed, 0), stream(seed, 1))


# ------------------------------------------------------------------------------------------------------- transform


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(20, 90),
    width=st.integers(20, 90),
    sizes=st.lists(st.integers(16, 80), min_size=1, max_size=3),
    max_size=st.integers(30, 120),
    seed=st.integers(0, 2**32),
)
def test_frames_masks_and_boxes_stay_together(height, width, sizes, max_size, seed):
    """After flip, crop and resize the mask still covers the red object and the box is that of the mask."""
    transform = TrainTransform(sizes, max_size, flip=True, random_crop=True, photometric=False)
    frames, labels, _ = apply(transform, *clip_of(height, width, seed), seed=seed)
    assert frames.shape[-2:] == labels.shape[-2:] and max(frames.shape[-2:]) <= max_size
    assert min(frames.shape[-2:]) <= max(sizes)

    red = frames[:, 0] * STD[0] + MEAN[0]
    inside, outside = red > 0.95, red < 0.05
    mask = labels[:, 0] == 1
    assert mask[inside].all() and not mask[outside].any()

    target = make_target(labels, Expression("0", "x", (1,), 0), "video", torch.ones(3, dtype=torch.bool))
    assert torch.equal(target.present, mask.flatten(1).any(1)[:, None])
    for t in range(3):
        rows, columns = mask[t].any(1).nonzero(), mask[t].any(0).nonzero()
        if not len(rows):
            assert target.boxes[t, 0].tolist() == [0, 0, 0, 0]
            continue
        h, w = mask.shape[-2:]
        edges = [columns.min() / w, rows.min() / h, (columns.max() + 1) / w, (rows.max() + 1) / h]
        torch.testing.assert_close(cxcywh_to_xyxy(target.boxes[t, 0]), torch.stack(edges), atol=1e-6, rtol=0)


def test_resizing_invents_no_object():
    ids = noise(3, 1, 40, 56) // 64 * 60
    got = apply(TrainTransform([29], 64, **OFF), noise(3, 3, 40, 56), ids)[1]
    assert set(got.flatten().tolist()) == {0, 60, 120, 180}


def test_flip_mirrors_frames_masks_and_words():
    frames, labels = clip_of(32, 48)
    plain = TrainTransform([32], 64, **OFF)
    mirrored = TrainTransform([32], 64, **{**OFF, "flip": True})
    reference = apply(plain, frames, labels)
    outcomes = set()
    for seed in range(12):
        got = apply(mirrored, frames, labels, seed=seed)
        flipped = got[2] == ["on the right"]
        outcomes.add(flipped)
        for a, b in zip(got[:2], reference[:2], strict=True):
            assert torch.equal(a, b.flip(-1) if flipped else b)
    assert outcomes == {True, False}


@pytest.mark.parametrize("size", [(720, 1280), (96, 160), (160, 96), (64, 64)])
def test_crops_have_referformers_proportions(size):
    shapes = [draw_crop_shape(*size, stream(seed)) for seed in range(200)]
    short = min(size)
    for shape in shapes:
        assert all(1 <= cropped <= side for cropped, side in zip(shape, size, strict=True))
        # 384 of a frame whose short side is 600, to 600 of one whose short side is 400.
        assert all(round(short * 0.64) - 1 <= cropped <= round(short * 1.5) + 1 for cropped in shape)
    assert len(set(shapes)) > 10


def test_clips_of_a_step_get_the_same_shape():
    transform = TrainTransform([40, 48, 56, 64], 96, **ON)
    clips = [clip_of(60, 90, seed) for seed in range(4)]
    shapes_over_steps = set()
    for step in range(8):
        shapes = {transform(*clip, ["x"], stream(step), stream(9, i))[0].shape for i, clip in enumerate(clips)}
        assert len(shapes) == 1
        shapes_over_steps |= shapes
    assert len(shapes_over_steps) > 3


def test_cropped_clips_have_sizes_of_their_own():
    """ReferFormer's images of RefCOCO: whole ones larger than cropped ones."""
    transform = TrainTransform([60, 80], 100, **{**OFF, "random_crop": True}, crop_sizes=[20, 30], crop_max_size=40)
    whole, cropped = set(), set()
    for step in range(40):
        (size, crop) = transform.draw_size(120, 160, stream(step))
        (cropped if crop else whole).add(size)
        got = transform(*clip_of(120, 160), ["x"], stream(step), stream(9))[0]
        assert tuple(got.shape[-2:]) == size
    assert whole == {(60, 80), (75, 100)}
    assert all(max(size) <= 40 and min(size) <= 30 for size in cropped) and len(cropped) > 3
    assert transform.largest_size(120, 160) == ((75, 100), None)


def test_without_augmentation_training_frames_are_inference_frames():
    frames, labels = noise(2, 3, 50, 70), torch.zeros(2, 1, 50, 70, dtype=torch.uint8)
    got, _, texts = apply(TrainTransform([40], 80, **OFF), frames, labels)
    assert torch.equal(got, normalise(resize_frames(frames, fitted_size(50, 70, 40, 80))))
    assert texts == ["on the left"]


def test_colours_change_frame_by_frame_and_leave_masks():
    """As in ReferFormer's PhotometricDistort, which draws anew for every image of a clip."""
    frame = noise(1, 3, 24, 32)
    labels = clip_of(24, 32)[1]
    transform = TrainTransform([24], 32, **{**OFF, "photometric": True})
    changed = alike = 0
    for seed in range(12):
        got, ids, _ = apply(transform, frame.repeat(3, 1, 1, 1), labels, seed=seed)
        assert torch.equal(ids, labels)
        changed += not torch.equal(got[:1], normalise(frame))
        alike += torch.equal(got[0], got[1])
    assert changed > 8 and alike < 3


def test_channels_are_permuted_in_all_orders():
    """A frame of one colour, of which no other change turns the largest channel into the smallest."""
    frame = torch.tensor([200, 120, 40], dtype=torch.uint8)[None, :, None, None].expand(1, 3, 4, 4)
    orders = [tuple(distort_colours(frame, stream(seed))[0, :, 0, 0].argsort().tolist()) for seed in range(300)]
    assert len(set(orders)) == 6
    # half of the frames keep their order, and a sixth of the other half, too
    assert 0.45 < orders.count((2, 1, 0)) / len(orders) < 0.72


def test_grey_frames_keep_their_hue_and_order():
    """Grey has no saturation or hue to change; brightness and contrast keep the order of its levels."""
    ramp = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 8, 32).repeat(1, 3, 1, 1)
    for seed in range(20):
        got = distort_colours(ramp, stream(seed)).int()  # a permutation of equal channels shows nothing
        assert torch.equal(got[:, 0], got[:, 1]) and torch.equal(got[:, 0], got[:, 2])
        assert (got[0, 0].flatten().diff() >= 0).all()


# ------------------------------------------------------------------------------------------------------------ size


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(1, 600), st.integers(1, 700))
def test_fitted_size(height, width, short, longest):
    h, w = fitted_size(height, width, short, longest)
    assert 1 <= min(h, w) <= short and max(h, w) <= longest
    limited = max(height, width) / min(height, width) * short > longest
    assert limited or min(h, w) == short
    # a pixel less than the exact size at most, but that the short side is rounded first where the limit bites
    exact = min(h, w) * max(height, width) / min(height, width)
    assert exact - 1 <= max(h, w) <= max(exact, 1) or max(h, w) == longest
    assert fitted_size(width, height, short, longest) == (w, h)


@pytest.mark.parametrize(
    ("frame", "short", "longest", "expected"),
    [
        ((720, 1280), 320, 640, (320, 568)),
        ((1080, 1920), 352, 640, (352, 625)),
        ((480, 640), 320, 640, (320, 426)),
        ((480, 640), 392, 640, (392, 522)),
        ((480, 640), 416, 640, (416, 554)),
        ((480, 640), 512, 800, (512, 682)),
        ((480, 854), 296, 640, (296, 526)),
        ((480, 854), 328, 640, (328, 583)),
        ((720, 404), 360, 640, (639, 359)),
    ],
)
def test_sizes_are_cut_off_as_referformers(frame, short, longest, expected):
    """Computed by get_size_with_aspect_ratio of its datasets/transforms_video.py; rounding gives a pixel more."""
    assert fitted_size(*frame, short, longest) == expected


def test_the_papers_inference_sizes():
    assert fitted_size(720, 1280, 360, 640) == (360, 640)
    assert fitted_size(480, 854, 360, 640) == (360, 640)
    assert fitted_size(1280, 720, 360, 640) == (640, 360)


def test_normalised_frames_have_imagenets_statistics():
    white = torch.full((1, 3, 4, 4), 255, dtype=torch.uint8)
    expected = (1 - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(normalise(white)[0, :, 0, 0], expected)
    assert white.eq(255).all(), "the input is left alone"


def test_shrinking_is_antialiased():
    stripes = torch.tensor([255, 0, 0, 255], dtype=torch.uint8).repeat(16).expand(1, 3, 64, 64)
    shrunk = resize_frames(stripes, (16, 16))
    assert (shrunk.int() - 128).abs().max() < 20


# ----------------------------------------------------------------------------------------------------------- boxes


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32))
def test_generalised_iou_is_torchvisions(seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = (cxcywh_to_xyxy(torch.rand(n, 4, generator=generator) + 0.01) for n in (5, 7))
    expected = generalized_box_iou(a, b)
    torch.testing.assert_close(pairwise_generalised_iou(a, b), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(generalised_iou(a, b[:5]), expected.diagonal(), atol=1e-5, rtol=0)
    batched = pairwise_generalised_iou(a.expand(2, 5, 4), b.expand(2, 7, 4))
    torch.testing.assert_close(batched[1], expected, atol=1e-5, rtol=0)


def test_box_forms_are_inverse():
    boxes = torch.rand(6, 5, 4)
    torch.testing.assert_close(xyxy_to_cxcywh(cxcywh_to_xyxy(boxes)), boxes)


def test_generalised_iou_of_boxes_without_area():
    boxes = torch.zeros(2, 4, requires_grad=True)
    value = generalised_iou(boxes, torch.tensor([[0, 0, 0, 0], [0.2, 0.2, 0.6, 0.6]]))
    assert value.isfinite().all() and (value >= -1).all() and (value <= 1).all()
    value.sum().backward()
    assert boxes.grad.isfinite().all()


def test_box_arithmetic_is_float32_under_autocast():
    boxes = torch.tensor([[0.501, 0.333, 0.1, 0.2]])
    exact = generalised_iou(cxcywh_to_xyxy(boxes), torch.tensor([[0.4, 0.2, 0.6, 0.5]]))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = generalised_iou(cxcywh_to_xyxy(boxes), torch.tensor([[0.4, 0.2, 0.6, 0.5]]))
    assert mixed.dtype == torch.float32 and torch.equal(mixed, exact)
    coarse = boxes.bfloat16()
    assert cxcywh_to_xyxy(coarse).dtype == generalised_iou(coarse, coarse).dtype == torch.float32


def test_boxes_of_single_pixels_and_of_nothing():
    masks = torch.zeros(3, 1, 4, 8, dtype=torch.bool)
    masks[0, 0, 3, 7] = True
    masks[1] = True
    expected = [[7.5 / 8, 3.5 / 4, 1 / 8, 1 / 4], [0.5, 0.5, 1, 1], [0, 0, 0, 0]]
    assert masks_to_boxes(masks)[:, 0].tolist() == expected
