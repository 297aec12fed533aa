"""Scoring single frames: a predictor double with hand-computed scores, two processes, and the scripts end to end."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from datasets import a2d, jhmdb
from datasets.base import EvalClip
from engine import predict_clips, read_ahead
from models import load_with_options
from models.predictor import FrameAnswer
from tasks.scoring import score_clips
from tests.commands import run, run_ranks
from tests.mini_a2d import QUERIES, frame_number, mask, write_mini_a2d
from tests.mini_jhmdb import write_mini_jhmdb
from tools.data import make_sentences_annotations as tool
from tools.make_tiny_text_encoder import make_encoder, train_tokenizer
from util.masks.metrics import score_masks
from util.run import dist


class KnownPredictor:
    """Answers from what the frames show.

    Of red things the best of its two queries is right and the other one empty; of blue things the best query has the
    upper three quarters, the other one all.
    """

    def announce(self, texts: Iterable[tuple[str, str]]) -> None:
        """Takes texts of any length."""

    def answer_frame(self, frames: Tensor, expressions: list[str], frame: int) -> Iterator[FrameAnswer]:
        picture = frames[frame].permute(1, 2, 0).numpy()
        for text in expressions:
            red = "red" in text
            number = frame_number(picture)
            right = torch.from_numpy(mask(0 if red else 1, number, picture.shape[:2]))
            other = right.clone()
            other[0 if red else number + 9 :] = False
            scores = torch.tensor((0.9, 0.1) if red else (0.3, 0.8))
            yield FrameAnswer(torch.stack((right, other)), scores, torch.tensor([[1.0, 2.0, 4.0, 8.0]] * 2))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("single_frames")
    tool.make_a2d(write_mini_a2d(root / "a2d"), overwrite=False)
    tool.make_jhmdb(write_mini_jhmdb(root / "jhmdb"), overwrite=False)
    return root


# A2D's test split has two red samples (IoU 1) and three blue ones (IoU 3/4). COCO takes precision at 101 recalls.
# Best query: up to threshold 0.75 everything is right. Above, the two red ones come first, then three misses: precision
# 1 up to recall 2/5, which are 41 recalls, 0 beyond.
BEST_QUERY = (6 + 4 * 41 / 101) / 10
# All queries: the second queries of the blue samples are right and come fourth to eighth; the best precision at a
# recall of more than 2/5 is that of 5 right ones among 8.
ALL_QUERIES = (6 + 4 * (41 + 60 * 5 / 8) / 101) / 10


def test_scores_of_known_masks_by_hand(data, tmp_path):
    scores = score_clips(KnownPredictor(), a2d.eval_clips(data / "a2d", 5), a2d.truth(data / "a2d"), tmp_path, {"x": 1})
    assert scores["samples"] == 5
    assert list(scores["precision_at"].values()) == pytest.approx([1, 1, 1, 0.4, 0.4])
    assert scores["mean_iou"] == pytest.approx((2 + 3 * 0.75) / 5, abs=1e-6)
    red, blue = 12 * 16, 12 * 34
    assert scores["overall_iou"] == pytest.approx((2 * red + 3 * 0.75 * blue) / (2 * red + 3 * blue))
    assert scores["best_query"]["mAP"] == pytest.approx(BEST_QUERY)
    assert scores["all_queries"]["mAP"] == pytest.approx(ALL_QUERIES)
    assert json.loads((tmp_path / "scores.json").read_text()) == {"run": {"x": 1}, **scores}
    predictions = json.loads((tmp_path / "predictions.json").read_text())
    assert score_masks(a2d.truth(data / "a2d"), predictions) == scores
    assert len(predictions) == 2 * 5 and predictions[0]["bbox"] == [1, 2, 3, 6]


def test_the_person_of_jhmdb_is_found_in_each_scored_frame(data, tmp_path):
    clips = jhmdb.eval_clips(data / "jhmdb", 4)
    scores = score_clips(KnownPredictor(), clips, jhmdb.truth(data / "jhmdb"), tmp_path, {})
    assert scores["samples"] == 5
    assert scores["best_query"]["mAP"] == scores["overall_iou"] == pytest.approx(1)


def one_rank(rank: int, folder: str, a2d_root: str) -> None:
    """Scores as one of two ranks; leaves what it got in ``folder``."""
    root = Path(a2d_root)
    clips = a2d.eval_clips(root, 5)
    results = Path(folder, f"of_{rank}")
    scores = score_clips(KnownPredictor(), clips, a2d.truth(root), results, {})
    # fewer clips than ranks: one of them has nothing to do
    single = predict_clips(KnownPredictor(), clips[:1])
    Path(folder, f"{rank}.json").write_text(json.dumps([scores, len(single), dist.gather_list([rank] * (rank + 1))]))


def test_two_ranks_score_every_sample_once(data, tmp_path):
    clips = a2d.eval_clips(data / "a2d", 5)
    assert len(clips) % 2
    alone = score_clips(KnownPredictor(), clips, a2d.truth(data / "a2d"), tmp_path / "alone", {})
    run_ranks(one_rank, 2, str(tmp_path), str(data / "a2d"))
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == [alone, 2 * len(clips[0].expressions), [0, 1, 1]]
    assert second == [None, 0, []] and not (tmp_path / "of_1").exists()
    for name in ("predictions.json", "scores.json"):
        assert (tmp_path / "of_0" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


class Recorded(EvalClip):
    """A clip that says when it is read."""

    reads: list[str] = []

    def read(self) -> Tensor:
        self.reads.append(self.clip_id)
        if self.clip_id == "bad":
            raise ValueError("bad.mp4: is damaged")
        return torch.tensor([len(self.clip_id)])


def test_clips_are_read_in_order_and_only_a_little_ahead():
    Recorded.reads.clear()
    clips = [Recorded("x" * n, {}, 0) for n in range(1, 8)]
    ahead = read_ahead(clips)
    clip, frames = next(ahead)
    assert clip is clips[0] and frames.item() == 1 and len(Recorded.reads) <= 3
    assert [frames.item() for _, frames in ahead] == [2, 3, 4, 5, 6, 7]
    assert sorted(Recorded.reads) == sorted(clip.clip_id for clip in clips)
    assert list(read_ahead([])) == []


def test_a_clip_that_cannot_be_read_stops_with_its_own_message():
    with pytest.raises(ValueError, match="bad.mp4: is damaged"):
        list(read_ahead([Recorded("a", {}, 0), Recorded("bad", {}, 0), *(Recorded("b", {}, 0) for _ in range(9))]))


# ------------------------------------------------------------------------------------------------------- the scripts

NETWORK = """
    --backbone resnet18 --random_backbone --hidden_dim 16 --nheads 2 --mask_dim 8 --enc_layers 1 --num_queries 3
    --train_sizes 48 --no-random_crop --epochs 1 --eval_size 48 --max_size 80 --num_frames 4 --expressions_per_clip 2
    --num_workers 0 --device cpu
"""


@pytest.fixture(scope="module")
def trained(data) -> Path:
    """The folder of a run of two steps on A2D."""
    tokenizer = train_tokenizer([text.lower() for text in QUERIES.values()] * 5, 300)
    tokenizer.save_pretrained(data / "text")
    make_encoder(tokenizer, hidden_size=16, layers=1, heads=2, seed=0).save_pretrained(data / "text")
    words = ("--preset", "a2d_scratch", *shlex.split(NETWORK), "--text_encoder", data / "text")
    done = run("main.py", *words, "--a2d_path", data / "a2d", "--output_dir", data / "run")
    assert "1 epoch of 2 steps" in done.stdout
    return data / "run"


def test_a2d_trains_and_is_scored(data, trained):
    line = json.loads((trained / "log.jsonl").read_text())
    assert line["loss_mask"] > 0 and line["loss_bbox"] > 0
    done = run("main.py", "--eval", "--resume", trained / "checkpoint.pth", "--device", "cpu")
    results = trained / "eval_a2d_test"
    scores = json.loads((results / "scores.json").read_text())
    assert scores["run"].items() >= {"dataset_file": "a2d", "split": "test", "num_frames": 4, "eval_size": 48}.items()
    assert "a2d test, 5 samples in 3 frames" in done.stdout
    assert f"overall IoU                      {100 * scores['overall_iou']:6.2f}" in done.stdout

    # what the scripts predict is what the model says of each clip's middle frame
    predictor, args = load_with_options(trained / "checkpoint.pth", "cpu")
    predictions = predict_clips(predictor, a2d.eval_clips(data / "a2d", args.num_frames))
    saved = json.loads((results / "predictions.json").read_text())
    assert [p["image_id"] for p in saved] == [p["image_id"] for p in predictions] and len(saved) == 5 * 3
    assert [p["score"] for p in saved] == pytest.approx([p["score"] for p in predictions], abs=1e-5)
    assert {k: v for k, v in scores.items() if k != "run"} == score_masks(a2d.truth(data / "a2d"), saved)


def test_jhmdb_is_scored_with_the_checkpoint_of_a2d_by_two_processes(data, trained):
    launch = ("-m", "torch.distributed.launch", "--nproc_per_node", 2, "--master_port", 29617)
    words = ("--eval", "--resume", trained / "checkpoint.pth", "--dataset_file", "jhmdb", "--device", "cpu")
    paths = ("--jhmdb_path", data / "jhmdb", "--output_dir", data / "of_jhmdb")
    done = run(*launch, "main.py", *words, *paths)
    assert done.stdout.count("mAP, all queries (as published)") == 1
    assert done.stdout.count("1 of 6 samples have no ground truth") == 1
    predictions = json.loads((data / "of_jhmdb" / "eval_jhmdb_test" / "predictions.json").read_text())
    samples = [name for clip in jhmdb.eval_clips(data / "jhmdb", 4) for name in clip.expressions]
    assert [p["image_id"] for p in predictions] == [name for name in samples for _ in range(3)]
