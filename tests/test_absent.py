"""Expressions that mean nothing in a video: generated, drawn for training, scored, and answered with "not there"."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit, logit

import datasets
import models
from datasets import build_train_loader
from datasets.absent import ALIKE, UNSURE, AbsentTexts
from datasets.collate import collate
from datasets.samplers import ClipRequest
from datasets.ytvos import train_videos
from models.calibration import Calibration, auroc, calibration_error
from models.predictor import InMemory, Predictor
from tests.helpers import edit
from tests.mini_ytvos import VIDEOS, mini_args, write_mini_ytvos
from tests.tiny_model import EXPRESSIONS, checkpoint_of, tiny_model
from tools import calibrate
from tools.data.make_synthetic import generate, make_scene
from tools.data.synthetic_text import Query, Words, means_nothing, truth
from util.run import cli
from util.weights import checkpoint

SIZE = (96, 160)
PLAIN = ("--no-flip", "--no-random_crop", "--no-photometric")


def meta_of(root: Path, split: str = "train") -> Path:
    return root / "meta_expressions" / split / "meta_expressions.json"


def videos_of(root: Path, split: str) -> dict[str, dict]:
    return json.loads(meta_of(root, split).read_text())["videos"]


# The generator -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes() -> list:
    return [make_scene(5, "train", number, 8, SIZE)[:2] for number in range(12)]


def test_what_means_nothing_is_true_of_no_object(scenes):
    nothing = 0
    for scene, own in scenes:
        assert not any(means_nothing(scene, expression.query) for expression in own)
        for _, others in scenes:
            for expression in others:
                if means_nothing(scene, expression.query):
                    nothing += 1
                    assert True not in truth(scene, expression.query)
    assert nothing > 300


def test_a_half_of_a_motion_is_not_called_absent(scenes):
    """A clip may show the first half of "going up and then down" alone."""
    turning = {"going up and then down", "going down and then up"}
    scene, thing = next((s, t) for s, _ in scenes for t in s.things if t.motion in turning)
    words = Words(thing.size, thing.colour, thing.shape)
    alone = [other for other in scene.things if words.fit(other)] == [thing]
    moving = {motion: means_nothing(scene, Query(words, motion)) for motion in ("moving up", "moving to the left")}
    assert alone and moving == {"moving up": False, "moving to the left": True}


def test_absent_expressions_change_nothing_else(tmp_path):
    small = dict(train_videos=3, valid_videos=2, frames=6, size=(48, 80), workers=1)
    generate(tmp_path / "plain", **small)
    generate(tmp_path / "with", absent=3, **small)
    assert not generate(tmp_path / "with", absent=3, **small)  # it is there
    for split in ("train", "valid"):
        before, after = (videos_of(tmp_path / which, split) for which in ("plain", "with"))
        for name, video in after.items():
            listed = video.pop("absent", [])
            added = {e: video["expressions"].pop(e) for e in video["expressions"].keys() - before[name]["expressions"]}
            assert video == before[name]
            assert len(listed or added) == 3 and all(e["obj_id"] is None for e in added.values())
            assert bool(listed) == (split == "train")
    for path in (tmp_path / "plain").rglob("*.*g"):
        assert path.read_bytes() == (tmp_path / "with" / path.relative_to(tmp_path / "plain")).read_bytes()
    with pytest.raises(FileExistsError, match="absent 3"):
        generate(tmp_path / "with", **small)
    with pytest.raises(ValueError, match="--absent 1: has no place in --format a2d"):
        generate(tmp_path / "a2d", absent=1, format="a2d", **small)


# Training ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def listing(tmp_path_factory) -> Path:
    """The mini data set, where each video lists a text that means nothing in it."""
    root = write_mini_ytvos(tmp_path_factory.mktemp("listing"))
    edit(meta_of(root), lambda meta: [v.update(absent=[f"no {n}"]) for n, v in meta["videos"].items()])
    return root


def clips(root: Path, *flags: str) -> list:
    data = build_train_loader(mini_args(root, *PLAIN, *flags)).dataset
    return [data[ClipRequest(index, epoch)] for epoch in range(12) for index in range(len(data))]


@pytest.mark.parametrize("absent_object", ["keep", "replace"])
def test_a_share_of_the_expressions_is_replaced_and_all_else_stays(listing, absent_object):
    how = ("--expressions_per_clip", "3", "--binary", "--absent_object", absent_object)
    plain, changed = clips(listing, *how), clips(listing, "--absent", "0.3", *how)
    replaced = total = 0
    for before, after in zip(plain, changed, strict=True):
        if before.video_id != after.video_id:
            continue  # a clip that showed none of its objects, and now has an absent expression
        assert torch.equal(before.frames, after.frames)
        known = dict(zip(before.expressions, before.targets, strict=True))
        for text, target in zip(after.expressions, after.targets, strict=True):
            total += 1
            if text == f"no {after.video_id}":
                replaced += 1
                assert not target.present.any() and not target.masks.any() and target.annotated.all()
            elif text in known:
                assert torch.equal(target.masks, known[text].masks)
    assert 0.2 < replaced / total < 0.42
    again = clips(listing, "--absent", "0.3", *how)
    assert [clip.expressions for clip in again] == [clip.expressions for clip in changed]


def test_an_absent_expression_is_negative_everywhere_and_out_of_the_jsc_loss(listing):
    args = mini_args(listing, *PLAIN, "--expressions_per_clip", "3", "--binary", "--absent", "0.5")
    data = build_train_loader(args).dataset
    batch = collate([data[ClipRequest(index)] for index in range(3)])
    absent = torch.tensor([text.startswith("no ") for text in batch.expressions])
    assert absent.any() and not absent.all()
    output = tiny_model()(batch.video, batch.expressions, batch.video_valid, batch.clip_index)
    output.semantics.retain_grad()
    output.final.logits.retain_grad()
    loss, _ = models.build_criterion(args)(output, batch)
    loss.backward()
    jsc = output.semantics.grad.abs().sum(-1)
    seen = batch.targets.present.any((1, 2))
    assert (jsc[~seen] == 0).all() and (jsc[seen] > 0).all() and not seen[absent].any()
    assert (output.final.logits.grad[absent] > 0).all()  # every query is pushed down, in every frame


def test_texts_of_other_videos_are_taken_by_category_where_they_name_it(tmp_path):
    """Nothing is concluded about people, nor from a text that does not name what it means."""
    root = write_mini_ytvos(tmp_path, train=VIDEOS[:2])
    texts = {
        "aa_wide": ("a man", "the zebra at the right", "the person"),
        "bb_absent": ("a hat", "two dogs", "the white one"),
    }

    def write(meta: dict) -> None:
        for name, video in meta["videos"].items():
            for entry, text in zip(video["expressions"].values(), texts[name], strict=True):
                entry["exp"] = text

    def categories(meta: dict) -> None:
        meta["videos"]["bb_absent"]["objects"]["1"]["category"] = "dog"
        meta["videos"]["bb_absent"]["objects"]["2"]["category"] = "dog"

    edit(meta_of(root), write)
    edit(root / "train" / "meta.json", categories)
    data = build_train_loader(mini_args(root, "--binary", "--absent", "0.9")).dataset
    rng = np.random.default_rng(0)
    drawn = {video.video_id: {data.draw_absent(video, rng) for _ in range(60)} for video in data.videos}
    assert drawn == {"aa_wide": {"two dogs"}, "bb_absent": {"the zebra at the right"}}


def test_what_is_like_something_in_the_video_or_is_meant_by_no_expression_is_no_absent_text(tmp_path):
    """A parrot is a bird, too; and the second object of the first video, a cow, is in meta.json alone."""
    root = write_mini_ytvos(tmp_path, train=VIDEOS[:2])

    def write(meta: dict) -> None:
        for name, texts in (("aa_wide", ("a parrot",) * 3), ("bb_absent", ("a bird", "a cow", "a boat"))):
            for entry, text in zip(meta["videos"][name]["expressions"].values(), texts, strict=True):
                entry.update(exp=text, obj_id="1" if name == "aa_wide" else entry["obj_id"])

    def categories(meta: dict) -> None:
        for number, category in (("1", "parrot"), ("2", "cow")):
            meta["videos"]["aa_wide"]["objects"][number]["category"] = category
        meta["videos"]["bb_absent"]["objects"] |= {n: {"category": c} for n, c in (("1", "bird"), ("2", "cow"))}

    edit(meta_of(root), write)
    edit(root / "train" / "meta.json", categories)
    data = build_train_loader(mini_args(root, "--binary")).dataset
    first, second = train_videos(root, 0, True, absent=True)
    assert first.categories == {"parrot", "cow"} and data.videos[0].categories == set()
    texts, rng = AbsentTexts([first, second]), np.random.default_rng(0)
    assert {texts.draw(first, rng) for _ in range(40)} == {None}
    assert {texts.draw(second, rng) for _ in range(40)} == {None}


def test_the_names_of_categories_are_those_of_the_lists():
    known = {*datasets.ytvos.CATEGORIES, *datasets.davis.CATEGORIES}
    assert not set().union(UNSURE, *ALIKE) - known
    assert sum(map(len, ALIKE)) == len(set().union(*ALIKE))  # none is in two groups


def test_an_entry_of_the_list_may_mean_nothing(tmp_path):
    """It is trained as it stands, and is also drawn for other samples of its video."""
    root = write_mini_ytvos(tmp_path, train=VIDEOS[:1])
    edit(meta_of(root), lambda meta: meta["videos"]["aa_wide"]["expressions"]["1"].update(obj_id=None))
    text = videos_of(root, "train")["aa_wide"]["expressions"]["1"]["exp"]
    for flags in ((), ("--absent_object", "replace")):
        for clip in clips(root, *flags):
            assert clip.targets[0].present.any() == (clip.expressions[0] != text.lower())
    (video,) = build_train_loader(mini_args(root)).dataset.videos
    assert AbsentTexts([video]).draw(video, np.random.default_rng(0)) == text


def test_what_is_not_known_is_not_guessed(tmp_path, listing):
    root = write_mini_ytvos(tmp_path, train=VIDEOS[:2])  # no text names its category
    with pytest.raises(ValueError, match="--absent 0.1: no training video of ytvos has .* surely mean nothing"):
        build_train_loader(mini_args(root, "--binary", "--absent", "0.1"))
    (root / "train" / "meta.json").unlink()
    with pytest.raises(FileNotFoundError, match="meta.json: .*leave out --absent"):
        build_train_loader(mini_args(root, "--binary", "--absent", "0.1"))
    edit(meta_of(root), lambda meta: meta["videos"]["aa_wide"].update(absent=["a dog", ""]))
    with pytest.raises(ValueError, match='aa_wide: "absent" must be a list of texts'):
        build_train_loader(mini_args(root, "--binary"))


# Calibration -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    """Scores whose true curve is sigmoid(3 · logit(score) - 4), of 400 present and of more absent expressions."""
    rng = np.random.default_rng(0)
    scores = expit(rng.normal(1.4, 0.7, 4000))
    present = rng.random(4000) < expit(3 * logit(scores) - 4)
    return scores[present], scores[~present]


def test_the_curve_is_found_and_makes_probabilities(drawn):
    present, absent = drawn
    curve = Calibration.fit(present, absent)
    # both kinds weigh the same, which moves the curve by the logit of the share of present ones
    assert curve.slope == pytest.approx(3, rel=0.1)
    assert curve.offset == pytest.approx(-4 - logit(len(present) / 4000), abs=0.4)
    after = [np.array([curve(score) for score in of]) for of in drawn]
    assert calibration_error(*after) < 0.03 < 0.2 < calibration_error(present, absent)
    assert auroc(*after) == pytest.approx(auroc(present, absent))  # the order stays
    assert 0 <= curve(0.0) < curve(0.5) < curve(1.0) <= 1


def test_the_figures_are_those_of_their_definitions():
    present, absent = np.array([0.9, 0.6, 0.6]), np.array([0.6, 0.1])
    pairs = [1.0 if p > a else 0.5 if p == a else 0.0 for p in present for a in absent]
    assert auroc(present, absent) == pytest.approx(np.mean(pairs))
    # bins: [0.1] nothing present; [0.6] two thirds of half present against a half of half absent; [0.9] all present
    two = (1 / 6 + 1 / 6) * 0.6 + 0.25 * 0.6 - (1 / 6 + 1 / 6)
    assert calibration_error(present, absent) == pytest.approx(0.25 * 0.1 + abs(two) + (1 / 6) * 0.1)


def test_scores_that_tell_nothing_give_no_curve():
    with pytest.raises(ValueError, match="do not have higher scores"):
        Calibration.fit(np.array([0.2, 0.3]), np.array([0.8, 0.7]))
    with pytest.raises(ValueError, match="0 absent expressions"):
        Calibration.fit(np.array([0.2]), np.array([]))
    perfect = Calibration.fit(np.full(50, 0.9), np.full(50, 0.2))  # finite, although nothing is on the wrong side
    assert perfect(0.9) > 0.95 and perfect(0.2) < 0.05


# Answers -----------------------------------------------------------------------------------------------------------


def frames() -> torch.Tensor:
    return torch.randint(256, (3, 3, 61, 83), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_below_the_threshold_masks_are_empty_and_nothing_else_changes(capsys):
    model = tiny_model()
    with torch.no_grad():
        model.segmenter.kernel_head.kernel[-1].weight *= 30
    size = dict(eval_size=40, max_size=96)
    plain, scores = Predictor(model, **size)(frames(), list(EXPRESSIONS))
    middle = sorted(scores)[len(scores) // 2]
    curve = Calibration(50.0, -50 * float(logit(middle)) + 1e-3)
    predictor = Predictor(model, **size, calibration=curve)
    found = predictor.segment(InMemory(frames()), list(EXPRESSIONS))
    assert found.scores == pytest.approx([curve(score) for score in scores], abs=1e-4)
    assert found.there == [score >= 0.5 for score in found.scores] == [score >= middle for score in scores]
    for there, mask, before in zip(found.there, found.masks(0, 3), plain, strict=True):
        assert torch.equal(mask, before) if there else not mask.any()
    off = Predictor(model, **size, calibration=curve, not_there=0.0).segment(InMemory(frames()), list(EXPRESSIONS))
    assert all(off.there) and torch.equal(off.masks(0, 3), plain)
    assert predictor.scores_mean.startswith("a score is the probability") and "below 0.5" in predictor.scores_mean
    assert "no probabilities" in Predictor(model, **size).scores_mean
    assert not capsys.readouterr().err
    Predictor(model, **size, not_there=0.3)
    assert "--not_there 0.3: these scores are no probabilities" in capsys.readouterr().err
    assert all(Predictor(model, **size).segment(InMemory(frames()), list(EXPRESSIONS)).there)  # no calibration


@pytest.fixture(scope="module")
def trained(ytvos_root, tmp_path_factory) -> Path:
    """A checkpoint of a tiny model, trained with a hold-out of a set that lists what means nothing."""
    root = write_mini_ytvos(tmp_path_factory.mktemp("held_out"))
    edit(meta_of(root), lambda meta: [v.update(absent=["a zebra", "two men"]) for v in meta["videos"].values()])
    (root / "text").symlink_to(ytvos_root / "text")

    def mark(meta: dict) -> None:
        for video in meta["videos"].values():
            for number, entry in enumerate(video["expressions"].values()):
                entry["obj_id"] = None if number == 2 else "1"

    edit(meta_of(root, "valid"), mark)
    args = mini_args(root, "--binary", "--holdout", "2", "--text_encoder", str(root / "text"), *TINY.split())
    model = models.build_model(args, 1)
    text_encoder = model.text_encoder.description()
    options = vars(args)
    content = dict(model=model.state_dict(), options=options, num_classes=1, text_encoder=text_encoder)
    checkpoint.save(root / "checkpoint.pth", content)
    return root / "checkpoint.pth"


TINY = "--backbone tsm_resnet10_half --hidden_dim 16 --nheads 2 --mask_dim 8 --enc_layers 1 --random_backbone"


def run(monkeypatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["calibrate.py", "--device", "cpu", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        cli.run(calibrate.main)
    return stop.value.code


def test_a_checkpoint_is_calibrated_on_its_hold_out_and_measured_on_a_split(trained, tmp_path, monkeypatch, capsys):
    asked = {}
    monkeypatch.setattr(Predictor, "segment", lambda self, video, texts: _by_words(self, video, texts, asked))
    output = tmp_path / "calibrated.pth"
    assert run(monkeypatch, trained, output) == 0
    held_out = {v.video_id for v in datasets.held_out(mini_args(trained.parent, "--binary", "--holdout", "2"))[0]}
    assert len(asked) == 2 == len(held_out) and "AUROC 1.0000" in capsys.readouterr().out
    saved, before = checkpoint.load(output), checkpoint.load(trained)
    assert saved.pop("calibration")["slope"] > 0 and saved.keys() == before.keys()
    saved = checkpoint.load(output)
    exported = tmp_path / "small.safetensors"
    checkpoint.export(exported, saved, torch.float16)
    assert checkpoint.load(exported)["calibration"] == saved["calibration"]
    predictor = models.load_predictor(exported, "cpu")
    assert predictor.not_there == 0.5 and vars(predictor.calibration) == saved["calibration"]
    assert models.load_predictor(exported, "cpu", not_there=0.0).not_there == 0
    assert models.load_predictor(trained, "cpu").not_there == 0

    assert run(monkeypatch, output, "--split", "valid") == 0
    assert "4 expressions that mean something, 2 that mean nothing" in capsys.readouterr().out


def _by_words(predictor: Predictor, video, texts: list[str], asked: dict) -> Namespace:
    """Scores as of a model that knows boxes."""
    asked[id(video)] = texts
    return Namespace(scores=[0.9 if "box" in text else 0.4 for text in texts])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "give either a file for the calibrated checkpoint, or --split"),
        (("x.pth", "--split", "valid"), "give either"),
        (("x.safetensors",), "tools/export.py makes exported weights of it"),
        (("x.pth", "--holdout", "3"), "only 2 of them were kept out"),
        (("x.pth", "--holdout", "0"), "no training video was kept out"),
        (("--split", "train"), "the checkpoint was trained on these videos"),
        (("--split", "nowhere"), "--split nowhere does not exist for Ref-YouTube-VOS"),
        (
            ("--split", "test", "--dataset_file", "a2d", "--data_path", "."),
            "a2d has no expressions that may mean nothing; choose one of",
        ),
        (("x.pth", "--dataset_file", "joint"), "joint has no hold-out; give one of its parts"),
        ((".",), ". is a folder"),
    ],
)
def test_bad_requests_are_one_line_and_write_nothing(trained, tmp_path, monkeypatch, capsys, words, told):
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, trained, *words) == 2
    error = capsys.readouterr().err
    assert told in error and "Traceback" not in error and "allow_trained" not in error and not list(tmp_path.iterdir())


def test_a_split_without_absent_expressions_has_nothing_to_tell(trained, tmp_path, monkeypatch, capsys):
    other = write_mini_ytvos(tmp_path)
    assert run(monkeypatch, trained, "--split", "valid", "--data_path", other) == 2
    assert "the split valid of ytvos has no expression that means nothing" in capsys.readouterr().err


@pytest.mark.parametrize(
    "curve", [[1.0, 2.0], {"slope": 1.0}, {"slope": 1, "offset": 0.0}, {"slope": float("nan"), "offset": 0.0}]
)
def test_a_damaged_curve_is_refused(tmp_path, curve):
    checkpoint.save(tmp_path / "c.pth", checkpoint_of(calibration=curve))
    with pytest.raises(ValueError, match="c.pth is damaged: its calibration"):
        checkpoint.load(tmp_path / "c.pth")
