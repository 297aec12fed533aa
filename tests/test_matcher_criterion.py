"""Matching and the criterion: values by hand, and everything that must not matter does not."""

from __future__ import annotations

import copy
import itertools
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

import models
from datasets.collate import collate, identity_numbers
from models.criterion import Criterion, continue_edge, subsample
from models.losses import sigmoid_focal_loss
from models.matcher import LossWeights, TrajectoryMatcher
from tests.test_losses import reference_dice, reference_info_nce
from tests.tiny_model import random_batch, random_clip, random_target, tiny_args
from util.samples.structures import Batch, Output, Prediction, Targets

T, Q, C, SIZE = 3, 4, 6, (8, 16)  # masks at stride 4 of 32×64
FIVE = ("cls", "bbox", "giou", "mask", "dice")


def prediction(*seeds: int, classes: int = 1, size: tuple[int, int] = SIZE, frames: int = T) -> Prediction:
    """Random predictions, one sample for each seed."""
    rows = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        shapes = {"logits": (classes,), "boxes": (4,), "masks": size, "proxies": (C,)}
        rows.append({k: torch.randn(frames, Q, *s, generator=generator) for k, s in shapes.items()})
    stacked = {k: torch.stack([row[k] for row in rows]) for k in rows[0]}
    return Prediction(**{**stacked, "boxes": stacked["boxes"].sigmoid()})


def output(final: Prediction, aux: tuple = (), semantics: Tensor | None = None) -> Output:
    return Output(final, list(aux), semantics)


def criterion(**options) -> Criterion:
    return Criterion(matcher=TrajectoryMatcher(LossWeights()), weights=LossWeights(), **options)


def match(pred: Prediction, batch: Batch, loss: Criterion | None = None) -> Tensor:
    loss = loss or criterion()
    size = pred.masks.shape[-2:]
    return loss.matcher(pred, batch.targets, subsample(batch.targets.masks, size).float(), loss.supervised(batch, size))


def terms(pred: Prediction, batch: Batch, **options) -> dict[str, float]:
    return {k: v.item() for k, v in criterion(**options)(output(pred), batch)[1].items()}


def with_targets(batch: Batch, **changes) -> Batch:
    return replace(batch, targets=replace(batch.targets, **changes))


def leaves(pred: Prediction) -> Prediction:
    """The same numbers as leaves that collect gradients."""
    return Prediction(**{f.name: getattr(pred, f.name).detach().clone().requires_grad_() for f in fields(pred)})


# By hand -----------------------------------------------------------------------------------------------------------


def frame_boxes(pred: Prediction, targets: Targets, b: int, q: int, i: int, t: int) -> tuple[Tensor, Tensor]:
    return pred.boxes[b, t, q].double(), targets.boxes[b, t, i].double()


def reference_giou(a: Tensor, b: Tensor) -> float:
    return generalized_box_iou(*(box_convert(x[None], "cxcywh", "xyxy") for x in (a, b))).item()


def reference_pair(pred: Prediction, batch: Batch, b: int, q: int, i: int) -> dict[str, float]:
    """Costs of one query for one instance: sums over the present frames, and the two terms of the masks."""
    targets = batch.targets
    annotated = [t for t in range(T) if targets.annotated[b, t]]
    present = [t for t in annotated if targets.present[b, t, i]]
    logits = torch.stack([pred.logits[b, t, q, targets.labels[b, i]] for t in range(T)]).double()
    focal = [sigmoid_focal_loss(logits, torch.full_like(logits, y), 0.25, 2.0) for y in (1.0, 0.0)]
    pairs = [frame_boxes(pred, targets, b, q, i, t) for t in present]
    masks = pred.masks[b, annotated, q].double()
    truth = targets.masks[b, annotated, i, 2::4, 2::4].double()
    return {
        "frames": len(present),
        "cls": sum((focal[0] - focal[1])[t].item() for t in present),
        "bbox": sum((a - c).abs().sum().item() for a, c in pairs),
        "giou": sum(1 - reference_giou(a, c) for a, c in pairs),
        "mask": sigmoid_focal_loss(masks, truth, 0.25, 2.0).mean().item(),
        "dice": reference_dice(masks, truth),
    }


def reference_cost(pred: Prediction, batch: Batch, b: int, q: int, i: int) -> float:
    pair, w = reference_pair(pred, batch, b, q, i), LossWeights()
    frames = max(pair["frames"], 1)
    boxes = w.cls * pair["cls"] + w.bbox * pair["bbox"] + w.giou * pair["giou"]
    return boxes / frames + w.mask * pair["mask"] + w.dice * pair["dice"]


def hard_batch(instances: int, classes: int = 1) -> Batch:
    """Two samples whose first object is away in one frame and one of whose frames is not annotated."""
    return random_batch(2, instances=instances, classes=classes, absent=[0], unannotated=[2])


@pytest.mark.parametrize("instances", [1, 2, 3])
def test_matching_is_the_cheapest_of_all_permutations(instances):
    for seed in range(5):
        batch, pred = hard_batch(instances, classes=3), prediction(seed, seed + 50, classes=3)
        for b, matched in enumerate(match(pred, batch).tolist()):
            cost = [[reference_cost(pred, batch, b, q, i) for i in range(instances)] for q in range(Q)]
            choices = itertools.permutations(range(Q), instances)
            assert tuple(matched) == min(choices, key=lambda qs: sum(cost[q][i] for i, q in enumerate(qs)))


@pytest.mark.parametrize("norm", ["frames", "instances"])
@pytest.mark.parametrize("instances", [1, 2])
def test_terms_are_their_definitions(instances, norm):
    batch, pred = hard_batch(instances, classes=3), prediction(1, 2, classes=3)
    matched = match(pred, batch)
    pairs = [
        (b, int(matched[b, i]), i, reference_pair(pred, batch, b, int(matched[b, i]), i))
        for b, i in itertools.product(range(2), range(instances))
    ]
    frames, got = sum(p["frames"] for *_, p in pairs), terms(pred, batch, mask_loss_norm=norm)
    trajectories = frames if norm == "frames" else len(pairs)
    for name in ("bbox", "giou"):
        assert got[f"loss_{name}"] == pytest.approx(sum(p[name] for *_, p in pairs) / frames, rel=1e-4)
    for name in ("mask", "dice"):
        assert got[f"loss_{name}"] == pytest.approx(sum(p[name] for *_, p in pairs) / trajectories, rel=1e-4)
    wanted = torch.zeros_like(pred.logits)
    for b, q, i, _ in pairs:
        for t in range(T):
            if batch.targets.present[b, t, i]:
                wanted[b, t, q, batch.targets.labels[b, i]] = 1
    focal = sigmoid_focal_loss(pred.logits, wanted, 0.25, 2.0)[batch.targets.annotated]
    assert got["loss_cls"] == pytest.approx(focal.sum().item() / frames, rel=1e-4)


def test_mask_terms_of_a_clip_weigh_less_the_longer_it_is_as_in_referformer():
    """A clip that shows the same frame T times: the focal mean and the dice of its trajectory do not depend on T (but
    for dice's 1), so ReferFormer's terms, divided by the frames, are 1/T of those of one frame."""
    frame, pred = random_batch(1), prediction(1)
    lengths = {}
    for t in (1, 5):
        repeated = {
            name: getattr(frame.targets, name)[:, :1].repeat_interleave(t, 1)
            for name in ("masks", "boxes", "present", "annotated")
        }
        still = Prediction(**{f.name: getattr(pred, f.name)[:, :1].repeat_interleave(t, 1) for f in fields(pred)})
        for norm in ("frames", "instances"):
            lengths[norm, t] = terms(still, with_targets(frame, **repeated), mask_loss_norm=norm)
    for name in ("mask", "dice"):
        long, short = (lengths["frames", t][f"loss_{name}"] for t in (5, 1))
        assert long == pytest.approx(short / 5, rel=1e-2)
        assert lengths["instances", 5][f"loss_{name}"] == pytest.approx(short, rel=1e-2)
    for name in ("cls", "bbox", "giou"):
        assert lengths["frames", 5][f"loss_{name}"] == pytest.approx(lengths["frames", 1][f"loss_{name}"], rel=1e-4)


def test_the_option_divides_the_mask_terms():
    pred, batch = prediction(1, 2), random_batch(2)
    one, other = (
        models.build_criterion(tiny_args("--mask_loss_norm", norm))(output(pred), batch)[1]
        for norm in ("frames", "instances")
    )
    ratios = {name: (other[f"loss_{name}"] / one[f"loss_{name}"]).item() for name in FIVE}
    assert ratios == pytest.approx({"cls": 1, "bbox": 1, "giou": 1, "mask": T, "dice": T})
    assert models.build_criterion(tiny_args()).mask_loss_norm == "frames"


def test_loss_is_the_sum_weighted_by_the_options():
    flags = "--cls_loss_coef 3 --bbox_loss_coef 0.5 --giou_loss_coef 0 --mask_loss_coef 7 --dice_loss_coef 1.5"
    loss = models.build_criterion(tiny_args(*flags.split(), "--jsc_loss_coef", "0.25", "--jsc_temperature", "0.5"))
    total, parts = loss(output(prediction(1, 2), semantics=torch.randn(2, C)), random_batch(2))
    weights = {"cls": 3, "bbox": 0.5, "giou": 0, "mask": 7, "dice": 1.5, "jsc": 0.25}
    assert parts.keys() == {f"loss_{name}" for name in weights}
    assert total.item() == pytest.approx(sum(w * parts[f"loss_{k}"].item() for k, w in weights.items()), rel=1e-5)


def test_the_shares_of_all_stages_add_up_to_the_loss():
    loss = models.build_criterion(tiny_args("--mask_loss_coef", "7", "--jsc_loss_coef", "0.25"))
    stages = [prediction(1, 2) for _ in range(3)]
    total, parts = loss(Output(stages[0], stages[1:], torch.randn(2, C)), random_batch(2))
    shares = loss.shares({name: value.item() for name, value in parts.items()})
    assert sum(shares.values()) == pytest.approx(total.item(), rel=1e-5)
    three = sum(parts[f"loss_mask{stage}"].item() for stage in ("", "_1", "_2"))
    assert shares["mask"] == pytest.approx(7 * three) and shares["jsc"] == pytest.approx(parts["loss_jsc"].item() / 4)


def test_costs_and_losses_have_the_weights_of_the_paper():
    loss = models.build_criterion(tiny_args())
    assert loss.weights == loss.matcher.weights == LossWeights(cls=2, bbox=5, giou=2, mask=2, dice=5)
    assert models.build_criterion(tiny_args("--set_cost_dice", "9")).matcher.weights == LossWeights(dice=9)


def test_every_stage_is_matched_and_scored_by_itself():
    batch, first, last = random_batch(2, instances=2), prediction(1, 2), prediction(3, 4)
    assert not torch.equal(match(first, batch), match(last, batch))
    _, parts = criterion()(output(last, (first,)), batch)
    for pred, suffix in ((first, "_1"), (last, "")):
        for name, value in terms(pred, batch).items():
            assert parts[name + suffix].item() == pytest.approx(value)


# What does not matter ----------------------------------------------------------------------------------------------


def test_a_batch_is_matched_as_its_samples_are():
    batch, pred = random_batch(3, instances=2), prediction(1, 2, 3)
    singly = [match(prediction(i + 1), random_batch(1, first_seed=i, instances=2))[0] for i in range(3)]
    assert torch.equal(match(pred, batch), torch.stack(singly))
    assert len({tuple(row.tolist()) for row in singly}) > 1


def test_an_object_present_nowhere_is_matched_by_its_masks_alone():
    batch, pred = random_batch(2, absent=range(T)), prediction(1, 2)
    pred.masks[0, :, 3] = pred.masks[1, :, 2] = -20.0
    for seed in range(3):
        other = replace(prediction(seed, seed + 9), masks=pred.masks)
        assert match(other, batch)[:, 0].tolist() == [3, 2]
    got = terms(pred, batch)
    assert got["loss_bbox"] == got["loss_giou"] == 0 and got["loss_dice"] < 0.01


@pytest.mark.parametrize("instances", [1, 2])
def test_frames_without_annotation_do_not_matter(instances):
    batch, pred = hard_batch(instances), prediction(1, 2)
    masks, boxes, present = (getattr(batch.targets, name).clone() for name in ("masks", "boxes", "present"))
    masks[:, 2], boxes[:, 2], present[:, 2] = ~masks[:, 2], 0.3, ~present[:, 2]
    changed = with_targets(batch, masks=masks, boxes=boxes, present=present)
    other = copy.deepcopy(pred)
    for name, value in (("logits", 9.0), ("boxes", 0.9), ("masks", 9.0)):
        getattr(other, name)[:, 2] = value
    assert torch.equal(match(other, changed), match(pred, batch))
    assert terms(other, changed) == pytest.approx(terms(pred, batch))


def test_boxes_in_frames_without_the_object_do_not_matter():
    batch, pred = random_batch(2, absent=[1]), prediction(1, 2)
    before, matched = terms(pred, batch), match(pred, batch)
    pred.boxes[:, 1] = torch.tensor([0.9, 0.9, 0.1, 0.1])
    assert torch.equal(match(pred, batch), matched) and terms(pred, batch) == pytest.approx(before)


@pytest.mark.parametrize("instances", [1, 2])
def test_padded_instances_do_not_matter(instances):
    batch, pred = random_batch(2, instances=instances), prediction(1, 2)
    t = batch.targets
    padded = with_targets(
        batch,
        masks=torch.cat((t.masks, torch.ones_like(t.masks[:, :, :1])), 2),
        boxes=torch.cat((t.boxes, torch.full_like(t.boxes[:, :, :1], 0.5)), 2),
        labels=torch.cat((t.labels, torch.zeros_like(t.labels[:, :1])), 1),
        present=torch.cat((t.present, torch.ones_like(t.present[:, :, :1])), 2),
        valid=torch.cat((t.valid, torch.zeros_like(t.valid[:, :1])), 1),
    )
    matched = match(pred, padded)
    assert torch.equal(matched[:, :instances], match(pred, batch)) and not matched[:, instances:].any()
    semantics = torch.randn(2, C, generator=torch.Generator().manual_seed(0))
    both = [criterion()(output(pred, semantics=semantics), x)[1] for x in (padded, batch)]
    assert {k: v.item() for k, v in both[0].items()} == pytest.approx({k: v.item() for k, v in both[1].items()})


def test_a_sample_without_any_instance_is_all_negative():
    batch, pred = random_batch(2), prediction(1, 2)
    valid = torch.tensor([[True], [False]])
    assert match(pred, with_targets(batch, valid=valid))[1].tolist() == [0]
    got, alone = terms(pred, with_targets(batch, valid=valid)), terms(prediction(1), random_batch(1))
    negative = sigmoid_focal_loss(pred.logits[1], torch.zeros_like(pred.logits[1]), 0.25, 2.0).sum().item() / T
    assert got.pop("loss_cls") == pytest.approx(alone.pop("loss_cls") + negative, rel=1e-5)
    assert got == pytest.approx(alone)


@pytest.mark.parametrize("mask_loss_size", ["stride4", "full"])
def test_padding_pixels_do_not_matter(mask_loss_size):
    batch, pred = random_batch(2, instances=2), prediction(1, 2)
    larger, wider = copy.deepcopy(batch), copy.deepcopy(pred)
    larger.video = torch.nn.functional.pad(batch.video, (0, 32, 0, 32))
    larger.video_valid = torch.nn.functional.pad(torch.ones(2, 32, 64, dtype=torch.bool), (0, 32, 0, 32))
    larger.targets.masks = torch.nn.functional.pad(batch.targets.masks, (0, 32, 0, 32))
    wider.masks = torch.nn.functional.pad(pred.masks, (0, 8, 0, 8), value=5.0)
    assert torch.equal(match(wider, larger), match(pred, batch))
    options = dict(mask_loss_size=mask_loss_size)
    assert terms(wider, larger, **options) == pytest.approx(terms(pred, batch, **options), abs=1e-5)
    everything = replace(larger, video_valid=torch.ones_like(larger.video_valid))
    assert abs(terms(wider, everything, **options)["loss_mask"] - terms(pred, batch, **options)["loss_mask"]) > 0.01


def test_continue_edge_repeats_the_last_real_row_and_column():
    x = torch.arange(2 * 3 * 4.0).view(2, 1, 1, 3, 4)
    valid = torch.zeros(2, 3, 4, dtype=torch.bool)
    valid[0, :2, :3] = valid[1] = True
    out = continue_edge(x, valid)
    assert torch.equal(out[1], x[1])
    assert out[0, 0, 0].tolist() == [[0, 1, 2, 2], [4, 5, 6, 6], [4, 5, 6, 6]]


@pytest.mark.parametrize("options", [{}, {"mask_loss_size": "full"}])
def test_a_doubled_batch_has_the_same_loss(options):
    clips = [random_clip(i, [random_target(i, instances=2, absent=[i])]) for i in range(2)]
    once, twice = (
        terms(prediction(*seeds), collate(c), **options) for seeds, c in (([1, 2], clips), ([1, 2] * 2, clips * 2))
    )
    assert once == pytest.approx(twice)


def test_more_instances_than_queries_are_refused():
    with pytest.raises(ValueError, match="5 instances, --num_queries is only 4"):
        match(prediction(1), random_batch(1, instances=5))


def test_both_mask_sizes_agree_where_they_are_one():
    batch, same_size = random_batch(2, instances=2), prediction(1, 2, size=(32, 64))
    assert terms(same_size, batch) == pytest.approx(terms(same_size, batch, mask_loss_size="full"))
    small = prediction(1, 2)
    sizes = [terms(small, batch, mask_loss_size=size)["loss_mask"] for size in ("stride4", "full")]
    assert sizes[0] != pytest.approx(sizes[1], rel=1e-3)


def test_subsampling_takes_pixel_2_of_each_4():
    x = torch.arange(32 * 64).view(32, 64)
    assert torch.equal(subsample(x, SIZE), x[2::4, 2::4]) and torch.equal(subsample(x, (32, 64)), x)


# Joint Semantic Consistency ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("instances", [1, 2])
def test_jsc_compares_the_last_stages_matched_queries_with_the_semantics(instances):
    batch, first, last = random_batch(3, instances=instances), prediction(7, 8, 9), prediction(1, 2, 3)
    semantics = torch.randn(3, C, generator=torch.Generator().manual_seed(5))
    picked = match(last, batch)
    assert not torch.equal(picked, match(first, batch))
    queries = torch.stack([last.proxies[b, :, picked[b]].mean((0, 1)) for b in range(3)])
    expected = reference_info_nce(queries.double(), semantics.double(), 0.3, [0, 1, 2])
    _, parts = criterion(jsc_temperature=0.3)(output(last, (first,), semantics), batch)
    assert parts["loss_jsc"].item() == pytest.approx(expected, rel=1e-4)


def test_jsc_leaves_samples_of_the_same_object_out_of_the_negatives():
    clip = random_clip(0, [random_target(0, identity="a"), random_target(1, identity="a")])
    batch, semantics = collate([clip]), torch.randn(2, C)
    assert criterion()(output(prediction(1, 2), semantics=semantics), batch)[1]["loss_jsc"] == 0
    batch.targets.identities = torch.tensor([5, 6])
    assert criterion()(output(prediction(1, 2), semantics=semantics), batch)[1]["loss_jsc"] > 0


def test_jsc_of_one_sample_is_zero_and_pulls_nothing():
    pred, semantics = leaves(prediction(1)), torch.randn(1, C, requires_grad=True)
    loss, parts = criterion()(output(pred, semantics=semantics), random_batch(1))
    loss.backward()
    assert parts["loss_jsc"] == 0 and not pred.proxies.grad.any() and not semantics.grad.any()


def test_jsc_leaves_out_samples_whose_object_is_not_in_the_clip():
    batch, pred = random_batch(3), leaves(prediction(1, 2, 3))
    semantics = torch.randn(3, C, generator=torch.Generator().manual_seed(5), requires_grad=True)
    batch.targets.present[1] = False
    batch.targets.masks[1] = False
    loss = criterion(jsc_temperature=0.3)(output(pred, semantics=semantics), batch)[1]["loss_jsc"]
    picked = match(pred, batch)
    queries = torch.stack([pred.proxies[b, :, picked[b]].mean((0, 1)) for b in (0, 2)])
    expected = reference_info_nce(queries.detach().double(), semantics.detach()[[0, 2]].double(), 0.3, [0, 2])
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    criterion()(output(pred, semantics=semantics), batch)[0].backward()
    assert semantics.grad[1].eq(0).all() and semantics.grad[[0, 2]].any(1).all()


def test_identity_numbers_are_equal_only_for_equal_names():
    numbers = identity_numbers(["video/1", "video/2", "video/1", "other/1"]).tolist()
    assert numbers[0] == numbers[2] and len(set(numbers)) == 3
    assert numbers[0] == -6001309179064548232  # and the same in every process, unlike Python's own hashes of texts


# Edges of the numbers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask_loss_size", ["stride4", "full"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("extreme", [1e4, -1e4, 1.0])
def test_loss_and_gradients_are_finite(dtype, extreme, mask_loss_size):
    pred = prediction(1, 2)
    scaled = replace(pred, logits=extreme * pred.logits, masks=extreme * pred.masks, boxes=pred.boxes.round())
    pred = leaves(Prediction(**{f.name: getattr(scaled, f.name).to(dtype) for f in fields(scaled)}))
    semantics = torch.randn(2, C).to(dtype).requires_grad_()
    loss, parts = criterion(mask_loss_size=mask_loss_size)(output(pred, (pred,), semantics), hard_batch(2))
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite() and all(v.isfinite() for v in parts.values())
    grads = [pred.logits.grad, pred.boxes.grad, pred.masks.grad, pred.proxies.grad, semantics.grad]
    assert all(g.isfinite().all() and g.any() for g in grads)


def test_bf16_predictions_cost_what_their_float32_values_do():
    batch, pred = random_batch(2), prediction(1, 2)
    half = Prediction(**{f.name: getattr(pred, f.name).bfloat16() for f in fields(pred)})
    back = Prediction(**{f.name: getattr(half, f.name).float() for f in fields(pred)})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert terms(half, batch) == pytest.approx(terms(back, batch), rel=1e-6)


def test_a_diverged_network_has_a_loss_that_says_so():
    pred = prediction(1, 2)
    pred.masks.fill_(float("nan"))
    assert criterion()(output(pred), random_batch(2, instances=2))[0].isnan()
