"""Ref-DAVIS17 from converted files to scores: index, fusion of objects, four annotators, the scripts in a row."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import eval_davis
import inference_davis
from datasets import build_train_loader, eval_set, num_classes
from datasets.collate import identity_numbers
from datasets.davis import CATEGORIES
from davis2017.davis_protocol import score_results
from davis2017.label_maps import read_labels
from davis2017.metrics import db_eval_boundary, db_eval_iou
from engine import predict_annotators
from models import build_model
from models.postprocess import fuse_objects
from models.predictor import Predictor
from opts import parse_train_args
from tests.helpers import SHARED, needs_shared
from tests.mini_davis import TRAIN, VALID, VOID, write_masks, write_mini_davis
from tests.test_end_to_end import NETWORK, run
from tests.tiny_model import tiny_model, tiny_text_encoder
from tools import verify_published
from tools.data.convert_davis_to_ytvos import convert
from tools.model_card import read_scores
from util.masks.results import ANNOTATOR_ROOTS, claim_results
from util.weights import checkpoint

SMALL = "--dataset_file davis --train_sizes 32 48 --max_size 96 --eval_size 40 --num_frames 3 --num_workers 0"


def mini_args(root: Path, *flags: str):
    return parse_train_args([*SMALL.split(), "--davis_path", str(root), *flags])


@pytest.fixture(scope="module")
def mini(tmp_path_factory) -> Path:
    root = write_mini_davis(tmp_path_factory.mktemp("davis"))
    convert(root)
    return root


@pytest.fixture
def fresh(mini, tmp_path) -> Path:
    """A copy for tests that change the files of expressions and categories."""
    return shutil.copytree(mini, tmp_path / "fresh", symlinks=True)


def rewrite(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content["videos"])
    path.write_text(json.dumps(content))


# ---------------------------------------------------------------------------------------------------------- index


def test_categories_are_the_78_in_order():
    """Copied from ``davis_category_list`` of ReferFormer's datasets/categories.py (github.com/wjn922/ReferFormer)."""
    published = (
        "airplane backpack ball bear bicycle bird boat bottle box bus camel car carriage cat cellphone chamaleon cow "
        "deer dog dolphin drone elephant excavator fish goat golf_cart golf_club grass guitar gun helicopter horse "
        "hoverboard kart key kite koala leash lion lock mask microphone monkey motorcycle oar paper paraglide person "
        "pig pole potted_plant puck rack rhino rope sail scale scooter selfie_stick sheep skateboard ski ski_poles "
        "snake snowboard stick stroller surfboard swing tennis_racket tractor trailer train truck turtle varanus "
        "violin wheelchair"
    )
    assert list(CATEGORIES) == [name.replace("_", " ") for name in published.split()]
    assert len(CATEGORIES) == 78


def test_training_clips_have_the_masks_and_categories_of_the_originals(mini):
    plain = ("--no-flip", "--no-random_crop", "--no-photometric", "--train_sizes", "48")
    loader = build_train_loader(mini_args(mini, *plain, "--max_size", "80"))
    known, seen = {video.name: video for video in TRAIN}, set()
    for batch in loader:
        clip = batch.clips[0]
        video = known[clip["video_id"]]
        numbers = identity_numbers([f"{video.name}/{n}" for n in range(1, video.named + 1)]).tolist()
        number = 1 + numbers.index(batch.targets.identities[0])
        masks = [video.labels(video.frames.index(name)) == number for name in clip["frame_ids"]]
        assert np.array_equal(batch.targets.masks[0, :, 0, :48, :80], masks)
        assert batch.targets.labels.tolist() == [[CATEGORIES.index(video.categories[number - 1])]]
        seen.add((video.name, number, batch.expressions[0]))
    texts = {(v.name, n, v.text(k, n)) for v in TRAIN for n in range(1, v.named + 1) for k in range(4)}
    assert {(name, number, text) for name, number, text in seen} == texts


def test_binary_needs_no_known_category(fresh):
    rewrite(fresh / "train/meta.json", lambda videos: videos["classic-car"]["objects"]["1"].update(category="swan"))
    with pytest.raises(ValueError, match="'swan' is none of the 78 categories of Ref-DAVIS17; .*--binary.*Ref-DAVIS17"):
        build_train_loader(mini_args(fresh))
    args = mini_args(fresh, "--binary")
    assert num_classes(args) == 1 and num_classes(mini_args(fresh)) == 78
    (fresh / "train/meta.json").unlink()
    assert all(not batch.targets.labels.any() for batch in build_train_loader(args))


def test_holdout_is_taken_from_the_training_videos(mini):
    args = mini_args(mini, "--holdout", "1")
    (held,) = eval_set(args, "holdout").videos()
    trained = {clip["video_id"] for batch in build_train_loader(args) for clip in batch.clips}
    assert trained == {video.name for video in TRAIN} - {held.video_id} and len(trained) == 2


def test_every_annotator_names_every_object(mini):
    goat, pigs = eval_set(mini_args(mini), "valid").videos()
    assert goat.annotators == (
        {1: "the red café"},
        {1: "a red café going down"},
        {1: "señor red"},
        {1: "the red señor"},
    )
    assert pigs.annotators[2] == {1: "señor red", 2: "señor blue"}
    assert len(pigs.expressions) == 8 and pigs.read([4]).shape == (1, 3, 48, 80)


def _of_pigs(change):
    return lambda videos: change(videos["pigs"]["expressions"])


BAD = {
    "an annotator names fewer": (
        _of_pigs(lambda e: e.pop("6")),
        r"video pigs: .* annotator 0 names the objects \[1, 2\], annotator 2 the objects \[1\]; .*convert_davis",
    ),
    "an annotator names another": (_of_pigs(lambda e: e["6"].update(obj_id="3")), r"annotator 2 the objects \[1, 3\]"),
    "twice": (_of_pigs(lambda e: e["6"].update(obj_id="1")), "annotator 2 names object 1 twice, .* expression 6"),
    "id that is no number": (_of_pigs(lambda e: e.update(x=e["6"])), "expression id 'x' is not a number"),
    "no object": (_of_pigs(lambda e: e["6"].pop("obj_id")), 'pigs, expression 6 must name its object as "obj_id"'),
}


@pytest.mark.parametrize("case", BAD)
def test_expressions_that_are_not_of_four_annotators(fresh, case):
    change, message = BAD[case]
    rewrite(fresh / "meta_expressions/valid/meta_expressions.json", change)
    with pytest.raises(ValueError, match=rf"{message}.*see docs/data\.md, Ref-DAVIS17"):
        eval_set(mini_args(fresh), "valid").videos()


def test_missing_files_and_splits_are_named(fresh):
    with pytest.raises(
        ValueError, match="--split test does not exist for Ref-DAVIS17; choose one of train, holdout, va"
    ):
        eval_set(mini_args(fresh), "test").videos()
    shutil.rmtree(fresh / "DAVIS")
    with pytest.raises(
        FileNotFoundError, match=r"goat/00000\.jpg: the frame is listed in .*docs/data\.md, Ref-DAVIS17"
    ):
        eval_set(mini_args(fresh), "valid").videos()
    shutil.rmtree(fresh / "meta_expressions")
    with pytest.raises(FileNotFoundError, match=r"meta_expressions\.json: this file does not exist; .*Ref-DAVIS17"):
        build_train_loader(mini_args(fresh, "--binary"))


@needs_shared
def test_real_videos():
    args = mini_args(SHARED / "data/ref-davis", "--binary", "--expressions_per_clip", "7")
    swan, car = eval_set(args, "valid").videos()
    assert [len(swan.frame_names), len(car.frame_names)] == [50, 40] and swan.original_size == (480, 854)
    assert car.annotators[1] == {1: "a white car crossing a signal"}
    batch = next(iter(build_train_loader(args)))
    assert batch.clips[0]["video_id"] == "schoolgirls" and batch.targets.present.any()
    # Its expressions are two of each object, not four.
    with pytest.raises(ValueError, match="video schoolgirls: by their expression ids annotator 0 names the objects"):
        eval_set(args, "train").videos()


# --------------------------------------------------------------------------------------------------------- fusion


def test_the_best_score_wins_and_nothing_below_a_half():
    probability = torch.tensor(
        [
            # one pixel each: alone, both, neither, exactly a half, a tie, below the background too
            [0.9, 0.6, 0.49, 0.5, 0.7, 0.05],
            [0.1, 0.8, 0.3, 0.2, 0.7, 0.05],
        ]
    )
    logits = probability.logit().reshape(2, 1, 1, 6)
    labels = fuse_objects(zip((3, 5), logits, strict=True))
    assert labels.dtype == torch.uint8 and labels.tolist() == [[[3, 5, 0, 3, 3, 0]]]
    assert fuse_objects([(255, logits[0])]).tolist() == [[[255, 255, 0, 255, 255, 0]]]
    with pytest.raises(ValueError, match="no object"):
        fuse_objects([])


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """Of a random model whose masks are neither full nor empty."""
    model = tiny_model()
    with torch.no_grad():
        model.segmenter.kernel_head.kernel[-1].weight *= 30
    return Predictor(model, eval_size=40, max_size=96)


def test_label_maps_are_those_of_each_annotators_objects(mini, predictor, tmp_path):
    """Against the whole stack of scores of all objects, as the definition has it."""
    videos = eval_set(mini_args(mini), "valid").videos()
    predict_annotators(predictor, videos, tmp_path)
    pigs, different = videos[1], set()
    for root, texts in zip(ANNOTATOR_ROOTS, pigs.annotators, strict=True):
        found = predictor.segment(pigs, list(texts.values()))
        scores = torch.stack([found.logits(e, 0, len(pigs)).sigmoid() for e in range(len(texts))])
        scores[scores < 0.5] = 0
        stack = torch.cat([torch.full_like(scores[:1], 0.1), scores])
        expected = stack.argmax(0).numpy()
        written = np.stack([read_labels(tmp_path / root / "pigs" / f"{name}.png") for name in pigs.frame_names])
        assert (written != expected).mean() < 1e-3
        assert 0 < (written > 0).mean() < 1
        different.add(written.tobytes())
    assert len(different) > 1
    with Image.open(tmp_path / "anno_0/goat/00000.png") as image:
        assert image.mode == "P" and image.getpalette()[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]


def test_interrupted_runs_go_on_and_frames_are_encoded_once_for_all(mini, predictor, tmp_path):
    videos, calls = eval_set(mini_args(mini), "valid").videos(), []
    hook = predictor.model.backbone.register_forward_hook(lambda *_: calls.append(1))
    try:
        predict_annotators(predictor, videos, tmp_path)
        assert len(calls) == 2
        before = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
        assert len(before) == 4 * 10
        (tmp_path / "anno_2/pigs/00003.png").unlink()
        (tmp_path / "anno_1/pigs/00000.png").write_bytes(b"cut short")
        times = {path: path.stat().st_mtime_ns for path in before if path.is_file()}
        predict_annotators(predictor, videos, tmp_path)
        assert len(calls) == 3
        predict_annotators(predictor, videos, tmp_path)
        assert len(calls) == 3
    finally:
        hook.remove()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.png")} == before
    again = {path for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert {path.parent.relative_to(tmp_path).as_posix() for path in again} == {"anno_1/pigs", "anno_2/pigs"}


# -------------------------------------------------------------------------------------------------------- scripts


@pytest.fixture(scope="module")
def ytvos_checkpoint(tmp_path_factory) -> Path:
    """A checkpoint of Ref-YouTube-VOS from before there was another data set."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_text_encoder().model.save_pretrained(folder / "text")
    tiny_text_encoder().tokenizer.save(str(folder / "text" / "tokenizer.json"))
    words = [*NETWORK.split(), "--text_encoder", str(folder / "text"), "--holdout", "2"]
    args = parse_train_args(words)
    torch.manual_seed(0)
    model = build_model(args, 1)
    content = {"options": vars(args), "num_classes": 1, "text_encoder": model.text_encoder.description()}
    del content["options"]["davis_path"]
    checkpoint.save(folder / "checkpoint.pth", {"model": model.state_dict(), **content})
    return folder / "checkpoint.pth"


def infer(*words) -> None:
    asked = inference_davis.parse_args([*map(str, words), "--device", "cpu"])
    inference_davis.run_inference(asked, inference_davis.infer)


def test_a_checkpoint_of_ref_youtube_vos_segments_davis(mini, ytvos_checkpoint, tmp_path, capsys):
    words = ("--resume", ytvos_checkpoint, "--davis_path", mini, "--output_dir", tmp_path / "out")
    infer(*words, "--visualize")
    out = tmp_path / "out"
    assert f"2 videos, 3 objects, 4 annotators: {out} is complete" in capsys.readouterr().out
    expected = {f"{root}/{v.name}/{f}.png" for root in ANNOTATOR_ROOTS for v in VALID for f in v.frames}
    assert {path.relative_to(out).as_posix() for path in out.rglob("*.png")} == expected
    overlays = {f"{v.name}/{root}.mp4" for root in ANNOTATOR_ROOTS for v in VALID}
    assert {path.relative_to(out / "overlays").as_posix() for path in out.rglob("*.mp4")} == overlays

    # the same run may go on, one with another input size may not
    infer(*words)
    with pytest.raises(ValueError, match="holds the masks of another run .*eval_size.*--overwrite"):
        infer(*words, "--eval_size", 32)
    (out / "inference.json").unlink()
    with pytest.raises(ValueError, match="unknown origin"):
        infer(*words, "--eval_size", 32, "--overwrite")
    # DAVIS's training videos are no training videos of this checkpoint
    infer("--resume", ytvos_checkpoint, "--davis_path", mini, "--output_dir", tmp_path / "train", "--split", "train")
    assert len(list((tmp_path / "train/anno_3").iterdir())) == len(TRAIN)


def test_masks_of_earlier_versions_are_gone_on_with_where_they_are(mini, ytvos_checkpoint, tmp_path, capsys):
    """These added the name of the split to ``--output_dir``."""
    words = ("--resume", ytvos_checkpoint, "--davis_path", mini, "--output_dir")
    infer(*words, tmp_path / "out" / "valid")
    masks = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    with pytest.raises(ValueError, match=f"give --output_dir {tmp_path}/out/valid, else another"):
        infer(*words, tmp_path / "out")
    infer(*words, tmp_path / "out" / "valid")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")} == masks and masks


def test_a_submission_in_a_run_is_not_taken_for_masks_of_davis(mini, ytvos_checkpoint, tmp_path, capsys):
    claim_results(tmp_path / "run" / "valid", {"checkpoint": "a"}, replace=False)
    infer("--resume", ytvos_checkpoint, "--davis_path", mini, "--output_dir", tmp_path / "run")
    assert (tmp_path / "run" / "anno_0").is_dir() and not (tmp_path / "run" / "valid" / "anno_0").exists()


def test_the_report_on_a_published_file_is_that_of_the_scripts(mini, ytvos_checkpoint, tmp_path, capsys, monkeypatch):
    def verify(*words) -> str:
        words = ("verify_published.py", ytvos_checkpoint, "--davis_path", mini, "--device", "cpu", *words)
        monkeypatch.setattr("sys.argv", [*map(str, words)])
        verify_published.main()
        return capsys.readouterr().out

    names = [video.name for video in VALID]
    said = verify("--videos", *names, "--picture", tmp_path / "a.png")
    infer("--resume", ytvos_checkpoint, "--davis_path", mini, "--output_dir", tmp_path)
    truths, videos, _ = eval_davis.ground_truths(eval_davis.parse_args([str(tmp_path), "--davis_path", str(mini)]))
    scores = score_results(tmp_path, truths["unsupervised"], videos)
    for name in names:
        expected = 100 * np.mean([each["sequences"][name]["J&F"] for each in scores["annotators"].values()])
        assert f"{name}: J&F {expected:.1f} (J " in said
    assert f"SHA-256 {checkpoint.fingerprint(ytvos_checkpoint)}" in said
    assert Image.open(tmp_path / "a.png").width > 500
    with pytest.raises(ValueError, match="has no video blackswan, car-shadow in its valid split"):
        verify()


def test_missing_data_leaves_no_results_folder(ytvos_checkpoint, tmp_path):
    with pytest.raises(FileNotFoundError, match="docs/data.md, Ref-DAVIS17"):
        infer("--resume", ytvos_checkpoint, "--davis_path", tmp_path, "--output_dir", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _best(truths: list[np.ndarray], predictions: list[np.ndarray]) -> list[float]:
    """(J+F)/2 of each object under the best assignment, by trying all."""
    void = [truth == VOID for truth in truths]
    count = max(int(truths[0][truths[0] != VOID].max()), max(int(p.max()) for p in predictions))

    def quality(n: int, p: int) -> float:
        frames = zip(truths, predictions, void, strict=True)
        return np.mean([[m(a == n, b == p, v) for m in (db_eval_iou, db_eval_boundary)] for a, b, v in frames])

    numbers = range(1, int(truths[0][truths[0] != VOID].max()) + 1)
    every = [
        [quality(n, p) for n, p in zip(numbers, order, strict=False)]
        for order in itertools.permutations(range(1, count + 1))
    ]
    return max(every, key=sum)


def test_convert_train_infer_and_score(mini, tmp_path):
    """The scripts in a row; the score is that of the definition, and --eval of main.py says the same."""
    text = tmp_path / "text"
    expressions = mini / "meta_expressions/train/meta_expressions.json"
    run("tools/make_tiny_text_encoder.py", expressions, "--output_dir", text, "--hidden_size", 16)
    words = [*NETWORK.split(), "--dataset_file", "davis", "--davis_path", mini, "--text_encoder", text, "--epochs", 1]
    words += ["--num_frames", 5, "--batch_size", 5]
    run("main.py", *words, "--random_backbone", "--output_dir", tmp_path / "run")
    trained = ("--resume", tmp_path / "run" / "checkpoint.pth")
    out = tmp_path / "results"
    run("inference_davis.py", *trained, "--davis_path", mini, "--output_dir", out, "--device", "cpu")
    run("eval_davis.py", out, "--davis_path", mini, "--json", tmp_path / "scores.json", "--workers", 1)
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert read_scores(tmp_path / "scores.json") == scores["unsupervised"]  # for a model card

    means = []
    for root in ANNOTATOR_ROOTS:
        objects = []
        for video in VALID:
            truths = [video.labels(t, video.void) for t in range(video.length)]
            objects += _best(truths, [read_labels(out / root / video.name / f"{f}.png") for f in video.frames])
        means.append(np.mean(objects))
        assert scores["unsupervised"]["annotators"][root]["J&F"] == pytest.approx(means[-1], abs=1e-9)
    assert scores["unsupervised"]["J&F"] == pytest.approx(np.mean(means), abs=1e-9)
    assert scores["unsupervised"]["objects"] == scores["semi-supervised"]["objects"] == 4

    done = run("main.py", "--eval", *trained)
    assert f"valid: J&F {scores['unsupervised']['J&F']:.4f}" in done.stdout
    # a checkpoint that was trained on DAVIS
    done = run("inference_davis.py", *trained, "--davis_path", mini, "--split", "train", ok=False)
    assert done.returncode == 2 and "--allow_trained" in done.stderr


@pytest.mark.parametrize(
    ("order", "unsupervised", "semi"),
    [({1: 1, 2: 2}, 0.75, 0.75), ({1: 2, 2: 1}, 0.75, 0.25)],
    ids=["right", "swapped"],
)
def test_ideal_masks_of_the_objects_with_text(mini, tmp_path, order, unsupervised, semi):
    """Three of the four objects have text. Swapping the two pigs that have costs both in the second protocol."""
    for root, video in itertools.product(ANNOTATOR_ROOTS, VALID):
        maps = {}
        for t, name in enumerate(video.frames):
            labels = video.labels(t)
            renamed = np.zeros_like(labels)
            for number in range(1, video.named + 1):
                renamed[labels == number] = order[number] if video.named > 1 else number
            maps[name] = renamed
        write_masks(tmp_path / root / video.name, maps)
    truths, videos, left_out = eval_davis.ground_truths(
        eval_davis.parse_args([str(tmp_path), "--davis_path", str(mini)])
    )
    assert left_out is None
    found = [score_results(tmp_path, folder, videos, protocol)["J&F"] for protocol, folder in truths.items()]
    assert found == [pytest.approx(unsupervised), pytest.approx(semi)]
