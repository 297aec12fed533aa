"""RefCOCO, converted: index, masks, clips of one frame and of several, images to score, and what bad data says."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from datasets import build_train_loader, eval_set, num_classes
from datasets.base import ClipDataset
from datasets.refcoco import SETS, eval_clips, train_videos
from datasets.samplers import ClipRequest
from models.predictor import FrameAnswer
from tasks.scoring import score_clips
from tests.mini_refcoco import (
    CAPTIONS,
    IMAGES,
    PERSON,
    ZEBRA,
    annotation_id,
    mini_args,
    write_mini_refcoco,
)
from util.samples.frames import MEAN, STD

PLAIN = ("--no-flip", "--no-random_crop", "--no-photometric")
TRAIN = [image for image in IMAGES if image.split == "train"]
BY_NAME = {image.file_name: image for image in IMAGES}


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    return write_mini_refcoco(tmp_path_factory.mktemp("coco"))


@pytest.fixture
def fresh(tmp_path) -> Path:
    """A data set of its own for tests that damage it."""
    return write_mini_refcoco(tmp_path / "coco")


def dataset(root: Path, *flags: str) -> ClipDataset:
    return build_train_loader(mini_args(root, *flags)).dataset


def pixels(frames: torch.Tensor) -> np.ndarray:
    """Normalised frames ``[T, 3, H, W]`` back to uint8."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    return ((frames * std + mean) * 255).round().clamp(0, 255).byte().numpy()


# ----------------------------------------------------------------------------------------------------------- clips


@pytest.mark.parametrize("name", SETS)
def test_every_sentence_is_a_clip_with_the_mask_of_its_object(coco, name):
    """At the images' own size and without augmentation, polygon and run lengths are the boxes to the pixel."""
    data = dataset(coco, *PLAIN, "--dataset_file", name)
    asked = []
    for index in range(len(data)):
        clip = data[ClipRequest(index)]
        image, target = BY_NAME[clip.frame_ids[0]], clip.targets[0]
        which = next(w for w, texts in CAPTIONS.items() if clip.expressions[0] in texts)
        asked.append((image.number, clip.expressions[0]))
        assert clip.frames.shape == (1, 3, image.height, image.width) == (1, 3, *clip.original_size)
        assert np.array_equal(target.masks[0, 0].numpy(), image.mask(which))
        left, top, width, height = image.box(which)
        centre = [(left + width / 2) / image.width, (top + height / 2) / image.height]
        size = [width / image.width, height / image.height]
        assert torch.allclose(target.boxes[0, 0], torch.tensor([*centre, *size]))
        assert target.labels.tolist() == [PERSON if which == 1 else ZEBRA]
        assert target.present.all() and target.annotated.all()
        assert target.identity == f"COCO_train2014_{image.number:012d}/{annotation_id(image, which)}"
    assert sorted(asked) == sorted((i.number, text) for i in TRAIN for texts in CAPTIONS.values() for text in texts)


def test_sentences_of_an_image_share_a_clip(coco):
    data = dataset(coco, *PLAIN, "--expressions_per_clip", "4")
    assert len(data) == len(TRAIN)
    clip = data[ClipRequest(0)]
    assert sorted(clip.expressions) == sorted(CAPTIONS[1] + CAPTIONS[2]) and len(clip.targets) == 4
    blue = clip.expressions.index(CAPTIONS[2][0])
    assert np.array_equal(clip.targets[blue].masks[0, 0].numpy(), TRAIN[0].mask(2))


def test_grey_images_become_rgb(coco):
    data = dataset(coco, *PLAIN)
    clip = next(clip for i in range(len(data)) if (clip := data[ClipRequest(i)]).frame_ids[0] == IMAGES[1].file_name)
    image = pixels(clip.frames)[0]
    assert np.array_equal(image[0], image[1]) and np.array_equal(image[0], image[2])
    grey = np.asarray(Image.fromarray(IMAGES[1].pixels()).convert("L")).astype(int)
    assert np.abs(image[0] - grey).mean() < 3


def test_binary_and_categories(coco):
    assert num_classes(mini_args(coco)) == 91 and num_classes(mini_args(coco, "--binary")) == 1
    labels = {e.label for video in train_videos(coco, "refcoco", binary=True) for e in video.expressions}
    assert labels == {0}


def test_the_three_sets_know_an_object_for_the_same(coco):
    assert len({tuple((v.video_id, *v.segmentations) for v in train_videos(coco, name, True)) for name in SETS}) == 1


def test_sizes_come_from_the_json_and_no_image_is_opened(fresh):
    for path in (fresh / "train2014").iterdir():
        path.write_bytes(b"")
    data = dataset(fresh)
    assert set(data.sizes()) == {(image.height, image.width) for image in TRAIN}
    with pytest.raises(ValueError, match=r"train2014/COCO_train2014_.*\.jpg: the frame is damaged"):
        data[ClipRequest(0)]


def test_clips_of_several_frames_are_pseudo_videos(coco):
    """One frame is the image; in the others the masks follow the boxes, whose colours are like nothing else."""
    data = dataset(coco, *PLAIN, "--num_frames", "4", "--expressions_per_clip", "4")
    for index, image in enumerate(TRAIN):
        clip = data[ClipRequest(index)]
        assert clip.frame_ids == [image.file_name] * 4 and clip.frames.shape == (4, 3, image.height, image.width)
        blue = clip.targets[clip.expressions.index(CAPTIONS[2][0])].masks[:, 0].numpy()
        same = [np.array_equal(mask, image.mask(2)) for mask in blue]
        assert sum(same) == 1
        if not image.grey:
            red, _, channel = np.moveaxis(pixels(clip.frames).astype(int), 1, 0)
            assert not (channel - red > 100)[~blue].any()
            assert (channel - red > 0)[blue].mean() > 0.9


def test_a_pseudo_video_is_determined_by_seed_epoch_and_request(coco):
    flags = (*PLAIN, "--num_frames", "3")
    request = ClipRequest(2, epoch=1, step=3)
    first, again = (dataset(coco, *flags)[request] for _ in range(2))
    assert torch.equal(first.frames, again.frames) and torch.equal(first.targets[0].masks, again.targets[0].masks)
    for other in (dataset(coco, *flags, "--seed", "7")[request], dataset(coco, *flags)[ClipRequest(2, 2, 3)]):
        assert not torch.equal(first.frames, other.frames)


# ----------------------------------------------------------------------------------------------------------- masks


BAD_MASKS = {
    "no polygon": ([], "no polygon"),
    "another size": ({"size": [3, 3], "counts": [9]}, r"its image of \[48, 64\]"),
    "cut short": ({"size": [48, 64], "counts": "e:?Q10000000"}, "do not fill 64x48"),
}


@pytest.mark.parametrize("case", BAD_MASKS)
def test_damaged_masks_name_file_and_annotation(fresh, case):
    segmentation, message = BAD_MASKS[case]
    change(fresh, lambda content: [a.update(segmentation=segmentation) for a in content["annotations"]])
    with pytest.raises(
        ValueError, match=rf"train\.json: .*COCO's annotation 9\d is damaged .*{message}.*convert_refcoco"
    ):
        dataset(fresh)[ClipRequest(0)]


# -------------------------------------------------------------------------------------------------------- bad data


def change(root: Path, how, name: str = "refcoco", split: str = "train") -> None:
    path = root / name / f"instances_{name}_{split}.json"
    content = json.loads(path.read_text())
    how(content)
    path.write_text(json.dumps(content))


BAD_FILES = {
    "no images": (lambda c: c.pop("images"), '"images" and "annotations"'),
    "nothing": (lambda c: c.update(images=[]), "holds no sentence"),
    "odd entry": (lambda c: c["images"].append(3), '"images" and "annotations"'),
    "no id": (lambda c: c["images"][2].pop("id"), 'image 3 of the list must have a number as "id"'),
    "twice": (lambda c: c["images"].append(c["images"][0]), "sentence 1 is in it twice"),
    "without annotation": (lambda c: c["annotations"].pop(4), "sentence 5 has no annotation"),
    "two annotations": (lambda c: c["annotations"].append(c["annotations"][0]), "more than one annotation"),
    "no original": (lambda c: c["images"][1].pop("original_id"), 'sentence 2: the image .* "original_id"'),
    "no object": (lambda c: c["annotations"][1].pop("original_id"), 'sentence 2: the annotation .* "original_id"'),
    "no height": (lambda c: c["images"][1].update(height="48"), 'sentence 2: the image .* "height"'),
    "no caption": (lambda c: c["images"][1].update(caption=None), 'sentence 2: the image .* "caption"'),
    "empty": (lambda c: c["images"][1].update(caption=" "), "sentence 2 is empty; write its text as its caption"),
    "other set": (
        lambda c: c["images"][1].update(dataset_name="refcocog"),
        "sentence 2 is of 'refcocog', not of refcoco",
    ),
    "category": (lambda c: c["annotations"][1].update(category_id=91), "sentence 2: 91 is no category of COCO"),
    "no mask": (lambda c: c["annotations"][1].pop("segmentation"), 'sentence 2: .* "segmentation"'),
    "two sizes": (lambda c: c["images"][1].update(width=65), "sentences 1 and 2 are about COCO's image 9"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_converted_files_are_named_with_the_mend(fresh, case):
    how, message = BAD_FILES[case]
    change(fresh, how)
    with pytest.raises(ValueError, match=rf"instances_refcoco_train\.json: .*{message}.*see docs/data\.md, RefCOCO"):
        dataset(fresh)


def test_missing_and_unparsable_files(fresh):
    path = fresh / "refcoco" / "instances_refcoco_train.json"
    path.write_text('{"images": [')
    with pytest.raises(ValueError, match="is not a JSON file .*convert_refcoco"):
        dataset(fresh)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"train\.json: this file does not exist; .*convert_refcoco.*data\.md"):
        dataset(fresh)


def test_an_image_of_another_size_is_an_error_when_it_is_read(fresh):
    image = fresh / "train2014" / TRAIN[0].file_name
    Image.new("RGB", (60, 40)).save(image)
    data = dataset(fresh)
    with pytest.raises(ValueError, match=r"000009\.jpg: is 60x40 pixels, but .*train\.json has 64x48 for it; restore"):
        data[ClipRequest(0)]
    image.unlink()
    with pytest.raises(FileNotFoundError, match=r"000009\.jpg: the frame does not exist"):
        data[ClipRequest(0)]


def test_a_mask_without_a_pixel_is_an_error(fresh):
    empty = {"size": [48, 64], "counts": [48 * 64]}
    change(fresh, lambda content: [a.update(segmentation=empty) for a in content["annotations"]])
    with pytest.raises(ValueError, match="train.json: no mask of this video shows object 91, which expression [123] "):
        dataset(fresh, *PLAIN)[ClipRequest(0)]


# --------------------------------------------------------------------------------------------------------- scoring


@pytest.mark.parametrize(("name", "split"), [("refcoco", "testB"), ("refcoco+", "testA"), ("refcocog", "test")])
def test_images_to_score_have_the_ids_of_the_ground_truth(coco, name, split):
    truth = json.loads((coco / name / f"instances_{name}_{split}.json").read_text())
    clips = eval_set(mini_args(coco, "--dataset_file", name), split).clips()
    asked = {key: text for clip in clips for key, text in clip.expressions.items()}
    assert asked == {image["id"]: image["caption"] for image in truth["images"]}
    images = [image for image in IMAGES if image.split == split or (split == "test" and "test" in image.split)]
    assert [clip.clip_id for clip in clips] == [Path(image.file_name).stem for image in images]
    for clip, image in zip(clips, images, strict=True):
        assert clip.scored == 0 and clip.read().shape == (1, 3, image.height, image.width)
        assert clip.read().dtype == torch.uint8
        assert np.abs(clip.read()[0].permute(1, 2, 0).numpy().astype(int) - image.pixels()).mean() < 4


def test_splits_and_images_that_do_not_exist(fresh):
    with pytest.raises(ValueError, match="--split testA does not exist for refcocog; choose one of train, val, test"):
        eval_clips(fresh, "refcocog", "testA")
    (fresh / "train2014" / IMAGES[3].file_name).unlink()
    with pytest.raises(FileNotFoundError, match=r"000036\.jpg: the image is listed in .*instances_refcoco_val\.json"):
        eval_clips(fresh, "refcoco", "val")


def test_what_cannot_be_evaluated_is_refused(coco):
    with pytest.raises(
        ValueError, match=r"--dataset_file all has no clips to evaluate; .*refcoco, refcoco\+, refcocog"
    ):
        eval_set(mini_args(coco, "--dataset_file", "all"), "val").clips()
    with pytest.raises(ValueError, match="--dataset_file refcoco has no videos to evaluate; choose one of ytvos"):
        eval_set(mini_args(coco), "valid").videos()


class KnownPredictor:
    """Two queries for each sentence; see ANSWERS."""

    def announce(self, texts: Iterable[tuple[str, str]]) -> None:
        """Takes texts of any length."""

    def answer_frame(self, frames: Tensor, expressions: list[str], frame: int) -> Iterator[FrameAnswer]:
        assert frames.shape == (1, 3, 48, 64) and frame == 0
        for text in expressions:
            scores, masks, boxes = zip(*ANSWERS[text], strict=True)
            drawn = torch.zeros(2, 48, 64, dtype=torch.bool)
            for mask, (left, top, right, bottom) in zip(drawn, masks, strict=True):
                mask[top:bottom, left:right] = True
            yield FrameAnswer(drawn, torch.tensor(scores), torch.tensor(boxes, dtype=torch.float32))


# In the one image of val the red box is 16 x 24 pixels, the blue one 21 x 12.
RED, BLUE, NOTHING = (8, 12, 24, 36), (32, 16, 53, 28), (0, 0, 0, 0)
THREE_EIGHTHS, THREE_QUARTERS = (8, 12, 14, 36), (8, 12, 20, 36)
# score, mask and box of both queries
ANSWERS = {
    "red box on the left": [(0.9, RED, RED), (0.1, NOTHING, BLUE)],
    "caf\xe9 table": [(0.2, RED, RED), (0.8, THREE_EIGHTHS, THREE_EIGHTHS)],
    "cr\xe8me box": [(0.7, THREE_QUARTERS, THREE_QUARTERS), (0.3, NOTHING, BLUE)],
    # the mask of the second query is right, its box is not
    "blue box on right": [(0.6, RED, RED), (0.4, BLUE, RED)],
}


def test_scores_of_known_masks_and_boxes_by_hand(coco, tmp_path):
    """The best queries have IoU 1, 3/8, 3/4 and 0, masks and boxes alike."""
    clips = eval_set(mini_args(coco), "val").clips()
    truth = eval_set(mini_args(coco), "val").truth(clips)
    scores = score_clips(KnownPredictor(), clips, truth, tmp_path, {}, boxes=True)
    assert scores["samples"] == 4
    assert list(scores["precision_at"].values()) == [0.5, 0.5, 0.5, 0.25, 0.25]
    assert scores["mean_iou"] == pytest.approx((1 + 3 / 8 + 3 / 4) / 4, abs=1e-6)
    assert scores["overall_iou"] == pytest.approx(384 * (1 + 3 / 8 + 3 / 4) / (3 * 384 + (384 + 252)))
    # COCO takes precision at 101 recalls: 26 of them up to 1/4, 25 more up to each further quarter. Best queries by
    # falling score up to threshold 0.75 (six of ten): right, wrong, right, wrong; above, only the first is right.
    best = (6 * (26 + 25 * 2 / 3) + 4 * 26) / 1010
    # All queries: right, wrong, right, wrong, right, wrong, right, wrong; above 0.75 the third is wrong, so that the
    # best precision at a recall of more than 1/4 is that of 3 right ones among 7.
    every = (6 * (26 + 25 * (2 / 3 + 3 / 5 + 4 / 7)) + 4 * (26 + 50 * 3 / 7)) / 1010
    assert scores["best_query"]["mAP"] == pytest.approx(best)
    assert scores["all_queries"]["mAP"] == pytest.approx(every)
    assert scores["boxes"] == {
        "samples": 4,
        "precision_at": {"0.5": 0.5},
        "mean_iou": pytest.approx((1 + 3 / 8 + 3 / 4) / 4),
        "referformer_precision_at": {"1": 0.5, "5": 0.75, "10": 0.75},
    }
