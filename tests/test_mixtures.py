"""Several data sets in one training: which, how often, and what must agree."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from datasets import DATA_SETS, build_train_loader, num_classes
from datasets.samplers import ClipRequest
from opts import parse_train_args, train_parser
from tests.mini_refcoco import write_mini_refcoco
from tests.mini_ytvos import write_mini_ytvos

SMALL = "--train_sizes 32 48 --max_size 96 --num_frames 3 --num_workers 0"
# Windows of three frames of the four mini videos, times three expressions; sentences of the three training images.
YTVOS, COCO = 3 * (3 + 2 + 3 + 1), 12


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("mixtures")
    return write_mini_ytvos(root / "ytvos"), write_mini_refcoco(root / "coco")


def loader(roots, flags: str):
    paths = ["--ytvos_path", str(roots[0]), "--coco_path", str(roots[1])]
    return build_train_loader(parse_train_args([*SMALL.split(), *paths, *flags.split()]))


def occurrences(made, epoch: int) -> Counter:
    """How often an entry of each set occurs in an epoch."""
    owners = [name for name, count in index_of(made) for _ in range(count)]
    made.batch_sampler.set_epoch(epoch)
    return Counter(owners[request.index] for requests in made.batch_sampler for request in requests)


def index_of(made) -> list[tuple[str, int]]:
    """The entries that each set has in the index, in its order."""
    return [(name, YTVOS if name == "ytvos" else COCO) for name in made.clips]


def test_a_single_set_is_itself(roots):
    made = loader(roots, "--dataset_file ytvos")
    assert made.clips == {"ytvos": YTVOS} and len(made.dataset) == YTVOS
    assert loader(roots, "--dataset_file refcocog").clips == {"refcocog": COCO}


def test_all_is_the_three_sets_with_cocos_classes(roots):
    made = loader(roots, "--dataset_file all")
    assert made.clips == {"refcoco": COCO, "refcoco+": COCO, "refcocog": COCO}
    assert occurrences(made, 0) == made.clips
    assert num_classes(parse_train_args(["--dataset_file", "all"])) == 91
    assert {t for batch in made for t in batch.targets.labels.flatten().tolist()} == {1, 24}


def test_joint_mixes_videos_and_pseudo_videos(roots):
    made = loader(roots, "--dataset_file joint --binary --batch_size 2")
    assert made.clips == {"ytvos": YTVOS, "refcoco": COCO, "refcoco+": COCO, "refcocog": COCO}
    videos = set()
    for batch in made:
        assert batch.video.shape[1] == 3 and not batch.targets.labels.any()
        videos |= {clip["video_id"] for clip in batch.clips}
    assert {"aa_wide", "COCO_train2014_000000000009"} <= videos


@pytest.mark.parametrize(
    ("mix", "expected"),
    [
        ("", {"ytvos": YTVOS, "refcoco": 12, "refcoco+": 12, "refcocog": 12}),
        ("--mix refcoco=0.5 refcocog=2", {"ytvos": YTVOS, "refcoco": 6, "refcoco+": 12, "refcocog": 24}),
        ("--mix ytvos=3 refcoco=0 refcoco+=0", {"ytvos": 3 * YTVOS, "refcocog": 12}),
    ],
)
def test_weights_say_how_often_clips_occur(roots, mix, expected):
    made = loader(roots, f"--dataset_file joint --binary {mix}")
    assert made.clips == expected
    drawn = set()
    for epoch in range(4):
        found = occurrences(made, epoch)
        assert found == expected, epoch
        made.batch_sampler.set_epoch(epoch)
        drawn.add(tuple(sorted(request.index for requests in made.batch_sampler for request in requests)))
    # another half in another epoch
    assert (len(drawn) > 1) == ("0.5" in mix)


def test_a_set_of_weight_0_is_not_even_read(roots, tmp_path):
    flags = "--dataset_file joint --binary --mix ytvos=0"
    assert "ytvos" not in loader((tmp_path / "nowhere", roots[1]), flags).clips


def test_objects_that_the_sets_share_are_no_negatives_of_each_other(roots):
    data = loader(roots, "--dataset_file all").dataset
    identities = [data[ClipRequest(i)].targets[0].identity for i in range(3 * COCO)]
    assert set(Counter(identities).values()) == {3, 9}


def test_joint_needs_binary(roots):
    message = r"--dataset_file joint mixes .*ytvos has 65, refcoco has 91.*add --binary"
    with pytest.raises(ValueError, match=message):
        loader(roots, "--dataset_file joint")
    with pytest.raises(ValueError, match=message):
        num_classes(parse_train_args(["--dataset_file", "joint"]))
    assert num_classes(parse_train_args(["--preset", "joint"])) == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--dataset_file all --mix ytvos=2", r"--mix ytvos=2: .*no part of --dataset_file all, .* refcoco, refcoco\+"),
        ("--dataset_file refcoco --mix refcocog=2", "no part of --dataset_file refcoco, which is made of refcoco"),
        ("--dataset_file all --mix refcoco=0 refcoco+=0 refcocog=0", "every weight is 0"),
        ("--dataset_file refcoco --mix refcoco=0.01", "an epoch has no clip"),
        (
            "--dataset_file all --holdout 2",
            "--holdout 2: no training videos of all can be kept .*ytvos, davis",
        ),
        ("--dataset_file refcoco --holdout 2", "--holdout 2: no training videos of refcoco can be kept out"),
    ],
)
def test_impossible_mixtures_are_refused(roots, flags, message):
    with pytest.raises(ValueError, match=message):
        loader(roots, flags)


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ("ytvos", "NAME=WEIGHT"),
        ("=2", "NAME=WEIGHT"),
        ("ytvos=-1", "finite number of at least 0"),
        ("ytvos=nan", "finite number of at least 0"),
        ("ytvos=many", "invalid"),
        ("ytvos=1 ytvos=2", "names a data set twice"),
    ],
)
def test_weights_that_are_none_are_refused(mix, message, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_train_args(["--dataset_file", "joint", "--mix", *mix.split()])
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_every_data_set_can_be_asked_for():
    choices = next(action.choices for action in train_parser()._actions if action.dest == "dataset_file")
    assert sorted(choices) == sorted(DATA_SETS)
    assert all(set(data_set.parts) <= DATA_SETS.keys() for data_set in DATA_SETS.values())
