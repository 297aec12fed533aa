"""How ReferFormer's published numbers are made: sizes, padding, the order of enlarging and thresholding."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import eval_davis
import inference_davis
import inference_ytvos
import main
import models
from models.predictor import InMemory, Predictor
from opts import parse_train_args
from tests.helpers import ROOT
from tests.test_referformer import CASES, TEXT, tiny
from tests.tiny_model import EXPRESSIONS, tiny_model
from tools import compare_referformer as compare
from util.samples.frames import fitted_size, normalise, resize_frames

SIZE, SEEN = (61, 83), (40, 54)  # of the frames, and of the network's input


def frames(length: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (length, 3, *SIZE), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """Its masks are neither full nor empty."""
    return Predictor(tiny(num_classes=2), eval_size=40, max_size=96)


def prepared() -> Tensor:
    assert fitted_size(*SIZE, 40, 96) == SEEN
    return normalise(resize_frames(frames(), SEEN))


@torch.inference_mode()
def test_a_single_frame_is_padded_and_its_masks_are_thresholded_before_they_are_resized(predictor):
    video, valid = torch.zeros(1, 3, 3, 64, 64), torch.zeros(1, 64, 64, dtype=torch.bool)
    video[0, ..., :40, :54], valid[:, :40, :54] = prepared(), True
    out = predictor.model(video, [EXPRESSIONS[0]], valid, frames=[1]).final
    enlarged = F.interpolate(out.masks[:, 0], scale_factor=4, mode="bilinear", align_corners=False)
    inside = (enlarged.sigmoid() > 0.5)[..., :40, :54].float()
    wanted = F.interpolate(inside, size=SIZE, mode="nearest")[0] > 0
    (answer,) = predictor.answer_frame(frames(), [EXPRESSIONS[0]], 1)
    assert answer.masks.shape == (3, *SIZE) and 0.05 < wanted.float().mean() < 0.95
    assert torch.equal(answer.masks, wanted)
    assert torch.allclose(answer.scores, out.logits[0, 0].sigmoid().amax(-1))
    # another order, or no padding, would give other masks
    other = F.interpolate(enlarged[..., :40, :54], size=SIZE, mode="bilinear")[0] > 0
    assert not torch.equal(other, wanted)


def test_only_single_frames_of_referformer_are_padded(predictor, monkeypatch):
    ours = Predictor(tiny_model(), eval_size=40, max_size=96)
    seen = []
    for each in (predictor, ours):
        encode = each.model.encode_video

        def note(video: Tensor, valid: Tensor | None = None, encode=encode):
            seen.append((tuple(video.shape[-2:]), None if valid is None else int(valid.sum())))
            return encode(video, valid)

        monkeypatch.setattr(each.model, "encode_video", note)
        list(each.answer_frame(frames(), [EXPRESSIONS[0]], 0))
        each.segment(InMemory(frames()), [EXPRESSIONS[0]])
    assert seen == [((64, 64), 40 * 54), (SEEN, None), (SEEN, None), (SEEN, None)]


@torch.inference_mode()
def test_one_query_answers_for_a_video_and_its_mask_is_enlarged_in_one_step(predictor):
    out = predictor.model(prepared()[None], [EXPRESSIONS[0]]).final
    probability = out.logits[0].sigmoid().mean(0)  # over the frames; then the best class
    query = int(probability.amax(-1).argmax())
    wanted = F.interpolate(out.masks[0, :, query][None], size=SIZE, mode="bilinear", align_corners=False)[0]
    found = predictor.segment(InMemory(frames()), [EXPRESSIONS[0]])
    assert torch.equal(found.masks(0, 3)[0], wanted.sigmoid() > 0.5) and 0 < (wanted > 0).float().mean() < 1
    assert found.scores[0] == pytest.approx(probability.max().item(), abs=1e-6)


@pytest.fixture(scope="module")
def published_file(tmp_path_factory) -> Path:
    """A file of the published form, of a model that was trained on A2D."""
    shapes = {name: shape for name, (shape, dtype) in CASES["resnet50"]["shapes"].items() if "int" not in dtype}
    state = {name: compare.weight(name, tuple(shape)) for name, shape in shapes.items()}
    again = "transformer.decoder."
    state |= {n: state[n.removeprefix(again)] for n in state if n.startswith(f"{again}bbox_embed.")}
    path = tmp_path_factory.mktemp("published") / "a2d.pth"
    torch.save({"model": state, "args": argparse.Namespace(dataset_file="a2d", num_frames=6, max_size=640)}, path)
    return path


@pytest.mark.parametrize(
    ("words", "sizes"),
    [
        ("--dataset_file a2d --with_box_refine --backbone resnet50 --freeze_text_encoder", (360, 640)),
        ("", (360, 640)),
        ("--dataset_file refcoco", (360, 640)),
        ("--dataset_file jhmdb --max_size 500", (360, 500)),
        ("--dataset_file davis --clips independent --window 36", (360, 16384)),
        ("--dataset_file ytvos --max_size 640", (360, 640)),
    ],
)
def test_a_published_file_is_scored_at_the_sizes_of_its_benchmark(words, sizes, published_file, monkeypatch, capsys):
    asked = ["main.py", "--eval", "--resume", str(published_file), "--text_encoder", TEXT, *words.split()]
    monkeypatch.setattr("sys.argv", asked)
    args, saved = main.restore_options(parse_train_args())
    main.refuse_other_model(args, saved["options"])
    settings = models.scoring_settings(args, args.dataset_file in ("a2d", "jhmdb", "refcoco"), "off")
    assert (settings.eval_size, settings.max_size) == sizes and args.num_frames == 6 and args.binary
    assert (settings.window, settings.clips) == ((36, "independent") if "--clips" in words else (None, "followed"))
    assert "ignored" not in capsys.readouterr().err


def test_single_frames_have_no_windows():
    args = parse_train_args(["--eval", "--resume", "c.pth", "--dataset_file", "a2d", "--window", "36"])
    with pytest.raises(ValueError, match="--window, --overlap and --clips are for whole videos, .* leave them out"):
        models.scoring_settings(args, True, "off")


def test_every_command_of_the_zoo_can_be_read_and_names_a_file_of_its_tables():
    text = (ROOT / "docs" / "zoo.md").read_text(encoding="utf-8")
    files = set(re.findall(r"`(\w+\.pth)`", text))
    parsers = {
        "main.py": parse_train_args,
        "inference_ytvos.py": inference_ytvos.parse_args,
        "inference_davis.py": inference_davis.parse_args,
        "eval_davis.py": eval_davis.parse_args,
    }
    commands = [line.split() for line in text.splitlines() if line.startswith("python ")]
    assert {command[1] for command in commands} == parsers.keys()
    for _, program, *words in commands:
        args = parsers[program](words)
        if program != "eval_davis.py":
            folder, name = args.resume.split("/")
            assert folder == "pretrained_weights" and name in files
