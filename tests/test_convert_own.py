"""One's own data: every form of videos, masks and tables becomes the same set, and all that does not fit is named."""

from __future__ import annotations

import json
import shlex
import shutil

import numpy as np
import pytest
from PIL import Image

from datasets import build_train_loader
from datasets.samplers import ClipRequest
from datasets.ytvos import eval_videos, train_videos
from tests.commands import run
from tests.mini_own import (
    FILM,
    FORMS,
    ROWS,
    TRACKS,
    VIDEOS,
    Mine,
    convert,
    listed,
    names,
    picture,
    rle,
    write_json_table,
    write_own,
    write_table,
)
from tests.mini_ytvos import mini_args
from tools.data.make_synthetic import generate
from tools.data.own.plan import numbered
from tools.data.own.write import divide
from util.video.pictures import read_frame, read_labels


@pytest.fixture(scope="module")
def all_forms(tmp_path_factory) -> Mine:
    return write_own(tmp_path_factory.mktemp("mine"), *FORMS)


@pytest.fixture
def mine(tmp_path) -> Mine:
    """Label maps that a test may change."""
    return write_own(tmp_path / "mine", "label_maps")


# --------------------------------------------------------------------------------------------------------- the layout


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_masks_becomes_the_same_set(all_forms, checked, form):
    if form == "youtube_vis":
        write_json_table(all_forms, TRACKS)
    out, counts, _ = convert(all_forms, form, table="json" if form == "youtube_vis" else "csv")
    assert counts == {"train": dict(videos=2, objects=4, expressions=4, frames=9, masks=9)}
    first, second = (TRACKS["clip", number] - 300 if form == "youtube_vis" else number for number in (1, 2))
    entries = listed(out)
    assert entries["clip"]["expressions"] == {
        "0": {"exp": "a box that is blue", "obj_id": str(second)},
        "1": {"exp": "the red one", "obj_id": str(first)},
    }
    assert entries["at_home"]["expressions"]["1"]["exp"] == "the Blue box, to the right"
    numbers = {"at_home": {11: 1, 12: 2}} if form == "youtube_vis" else {}
    for video in VIDEOS:
        assert entries[video.name]["frames"] == names(video)
        for t, name in enumerate(names(video)):
            labels = read_labels(out / "train" / "Annotations" / video.name / f"{name}.png")
            for written, meant in numbers.get(video.name, {}).items():
                labels[labels == written] = meant
            assert np.array_equal(labels, video.labels(t)), (video.name, t)
            frame = read_frame(out / "train" / "JPEGImages" / video.name / f"{name}.jpg").permute(1, 2, 0).numpy()
            assert np.abs(frame.astype(int) - picture(video, t)).mean() < 6
    code, faults, _, text = checked("own", out)
    assert code == 0 and not faults and "train: videos 2, expressions 4, frames 9, objects 4" in text
    shutil.rmtree(out)


def test_nothing_is_copied_that_can_be_a_link(mine, tmp_path):
    out, _, _ = convert(mine, "label_maps")
    frames, masks = out / "train" / "JPEGImages", out / "train" / "Annotations"
    assert (frames / "at_home").resolve() == mine.videos / "at_home"
    assert [(masks / video.name).resolve() for video in VIDEOS] == [
        mine.masks("label_maps") / video.name for video in VIDEOS
    ]
    assert sorted(path.name for path in (frames / "clip").iterdir()) == [f"0000{t}.jpg" for t in range(5)]
    assert not (frames / "clip").is_symlink()
    # a folder with other files gets a link for each frame, and so does one of which only some are taken
    (mine.videos / "at_home" / "notes.txt").write_text("x")
    out, counts, notes = convert(mine, "label_maps", "--every", 2)
    assert [path.name for path in sorted((frames / "at_home").iterdir())] == ["00000.jpg", "00010.jpg"]
    assert all(path.is_symlink() for path in (frames / "at_home").iterdir())
    assert listed(out)["clip"]["frames"] == ["00000", "00002", "00004"]
    assert counts["train"]["frames"] == counts["train"]["masks"] == 5
    assert "4 masks belong to frames that --every leaves out" in notes
    frame = read_frame(frames / "clip" / "00004.jpg").permute(1, 2, 0).numpy()
    assert np.abs(frame.astype(int) - picture(FILM, 4)).mean() < 6
    # within the set links are relative, so that it can be moved as a whole
    inside = Mine(tmp_path / "moved" / "own")
    shutil.copytree(mine.root, inside.root, ignore=shutil.ignore_patterns("own"))
    words = ("--output_dir", inside.root)
    convert(inside, "label_maps", *words)
    inside.root.rename(tmp_path / "elsewhere")
    assert read_frame(tmp_path / "elsewhere" / "train" / "JPEGImages" / "at_home" / "00005.jpg").shape == (3, 48, 80)


def test_a_former_result_stays_until_the_next_is_complete(mine, capsys, monkeypatch):
    out, _, _ = convert(mine, "label_maps")
    before = listed(out)
    (out / ".meta_expressions.unfinished" / "train").mkdir(parents=True)  # left by a process that was killed
    with monkeypatch.context() as patch:
        patch.setattr("tools.data.own.write.write_frames", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(OSError, match=r"cannot be written \(No space left on device\); free some space"):
            convert(mine, "label_maps", "--every", 2)
    assert listed(out) == before and sorted(p.name for p in out.iterdir()) == ["meta_expressions", "train"]
    write_table(mine, [*ROWS, ("at_home", 9, "a ninth one")])
    with pytest.raises(ValueError, match="1 mismatch"):
        convert(mine, "label_maps")
    assert listed(out) == before
    write_table(mine, ROWS[:1])
    convert(mine, "label_maps")
    assert list(listed(out)) == ["at_home"]
    (out / "meta_expressions" / "converted_from.json").unlink()
    with pytest.raises(ValueError, match=r"already holds train, meta_expressions, not written by this program"):
        convert(mine, "label_maps")


def test_masks_may_be_of_some_frames_and_of_one_object(mine):
    """A mask of 0 and 255 shows object 255."""
    folder = mine.masks("label_maps")
    for path in folder.rglob("*.png"):
        Image.fromarray((read_labels(path) == 1).astype(np.uint8) * 255).save(path)
    (folder / "clip" / "00003.png").unlink()
    (folder / "clip" / "00004.png").rename(folder / "clip" / "frame_000004.PNG")
    write_table(mine, [("clip", 255, "the red one")])
    out, counts, notes = convert(mine, "label_maps")
    assert counts["train"]["masks"] == 4
    assert notes == ["1 frame has no mask and is not supervised", *notes[1:]] and "at_home" in notes[-1]
    (video,) = train_videos(out, 0, True)
    assert video.annotated(range(5)).tolist() == [True, True, True, False, True]
    masks = video.masks([0, 4], [(255,)], video.size())
    assert all(np.array_equal(masks[i, 0].numpy(), FILM.labels(t) == 1) for i, t in enumerate((0, 4)))


def test_where_objects_overlap_the_smaller_keeps_the_pixels(all_forms, tmp_path):
    big, small, blank = (np.zeros((48, 80), bool) for _ in range(3))
    big[10:30, 10:50] = small[20:26, 40:60] = True
    images = [{"id": "a", "file_name": "at_home/00000.png"}, {"id": "b", "file_name": "at_home\\00005.png"}]
    annotations = [
        {"image_id": "a", "instance_id": "dog", "segmentation": rle(small)},
        {"image_id": "a", "instance_id": 0, "segmentation": rle(big)},
        {"image_id": "a", "instance_id": "0", "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4], [1, 2, 3]]},
        {"image_id": "b", "instance_id": "dog", "segmentation": rle(blank)},
    ]
    mine = Mine(tmp_path)
    shutil.copytree(all_forms.videos, mine.videos)
    mine.masks("coco").write_text(json.dumps({"images": images, "annotations": annotations}))
    write_table(mine, [("at_home", "dog", "the dog"), ("at_home", 0, "the other")])
    out, _, notes = convert(mine, "coco")
    expected = np.where(small, 2, big).astype(np.uint8)
    expected[:4, :4] = 1  # pieces of one object are joined
    folder = out / "train" / "Annotations" / "at_home"
    assert np.array_equal(read_labels(folder / "00000.png"), expected)
    assert not read_labels(folder / "00005.png").any() and len(list(folder.iterdir())) == 2
    assert [e["obj_id"] for e in listed(out)["at_home"]["expressions"].values()] == ["2", "1"]
    record = json.loads((out / "meta_expressions" / "converted_from.json").read_text())
    assert record["objects"] == {"at_home": {"1": "0", "2": "dog"}}
    assert notes == [
        "1 polygon has fewer than three corners and is left out",
        "1 mask holds objects that overlap; the object with fewer pixels in the frame keeps the overlap",
        "2 frames have no mask and are not supervised",
        "1 video is in no row of the table and left out (clip.mp4)",
    ]


def test_an_object_that_another_one_covers_is_shown_nowhere(all_forms, tmp_path, capsys):
    """No label map could have both, so its row is a mismatch, and no set is written that training would refuse."""
    mask = np.zeros((48, 80), bool)
    mask[10:30, 10:50] = True
    annotations = [{"image_id": "a", "instance_id": number, "segmentation": rle(mask)} for number in (1, 2)]
    mine = Mine(tmp_path)
    shutil.copytree(all_forms.videos, mine.videos)
    images = [{"id": "a", "file_name": "at_home/00000.png"}]
    mine.masks("coco").write_text(json.dumps({"images": images, "annotations": annotations}))
    write_table(mine, [("at_home", 1, "the dog"), ("at_home", 2, "the other")])
    with pytest.raises(ValueError, match="1 mismatch"):
        convert(mine, "coco")
    assert "row 2" in capsys.readouterr().err


def test_an_expression_without_object_means_nothing_in_its_video(mine):
    write_table(mine, [*ROWS[:2], ("at_home", "", "the zebra"), ("clip", "", "a giraffe")])
    shutil.rmtree(mine.masks("label_maps") / "clip")  # no masks are needed where nothing is meant
    out, counts, notes = convert(mine, "label_maps")
    assert counts["train"] == dict(videos=2, objects=2, expressions=4, frames=9, masks=9)
    assert "2 expressions name no object: they mean nothing in their video" in notes
    assert listed(out)["at_home"]["expressions"]["2"] == {"exp": "the zebra", "obj_id": None}
    clips = build_train_loader(mini_args(out, "--binary", "--expressions_per_clip", "3")).dataset
    for i in range(len(clips)):
        clip = clips[ClipRequest(i)]
        for text, target in zip(clip.expressions, clip.targets, strict=True):
            assert not (target.present.any() and text in ("the zebra", "a giraffe"))
            assert target.annotated.all()


def test_own_data_is_divided_by_videos():
    videos = [f"video {i}" for i in range(40)]
    first = divide(videos, 0.2, 0)
    assert list(first.values()).count("valid") == 8 and first == divide(videos[::-1], 0.2, 0) != divide(videos, 0.2, 1)
    # a new video does not draw the others anew
    more = divide([*videos, "one more"], 0.2, 0)
    assert sum(more[name] != split for name, split in first.items()) <= 1
    assert set(divide(videos, 0, 0).values()) == {"train"}
    assert sorted(divide(["a", "b"], 0.01, 0).values()) == sorted(divide(["a", "b"], 0.99, 0).values())
    with pytest.raises(ValueError, match="--valid 0.2: the table names one video, which cannot be divided"):
        divide(["a"], 0.2, 0)


def test_objects_keep_their_numbers_where_a_label_map_can_have_them():
    assert numbered({"10", "9", "255"}) == {"9": 9, "10": 10, "255": 255}
    assert numbered({"0", "7"}) == {"0": 1, "7": 2}
    assert numbered({"300", "cat", "7"}) == {"7": 1, "300": 2, "cat": 3}
    assert numbered(set()) == {}


# --------------------------------------------------------------------------------------------------------- end to end


def test_the_five_steps_of_the_docs(tmp_path):
    """Convert, check, fine-tune from exported weights without an option of the model, score."""
    data, own, out = tmp_path / "mine", tmp_path / "own", tmp_path / "run"
    generate(data, format="own", train_videos=2, valid_videos=1, frames=6, size=(48, 80), workers=1)
    with (data / "expressions.csv").open("a") as file:
        file.writelines(f"{video},,a purple elephant\n" for video in ("train_00000", "train_00001", "valid_00000"))
    words = ("--masks", data / "coco.json", "--table", data / "expressions.csv", "--output_dir", own)
    *_, check, train, _ = run("tools/data/convert_own.py", data / "videos", *words).stdout.splitlines()
    program, *checked = shlex.split(check.removeprefix("next: python "))
    assert "in order" in run(program, *checked, "--workers", 1).stdout
    sizes = ("--train_sizes", 48, "--eval_size", 48, "--max_size", 80, "--num_frames", 2, "--num_workers", 0)
    start = train.removeprefix("then: python ").replace("FILE", "pretrained_weights/demo.safetensors")
    done = run(*shlex.split(start), *sizes, "--epochs", 1, "--output_dir", out)
    assert (
        "starting from --pretrained_weights pretrained_weights/demo.safetensors: backbone, text_encoder, "
        in done.stdout
    )
    assert "random weights" not in done.stdout
    scored = run("main.py", "--eval", "--eval_split", "valid", "--resume", out / "checkpoint.pth").stdout
    (video,) = eval_videos(own, "valid", 0)
    assert "valid: J&F 0." in scored and "N-acc" in scored and video.original_size == (48, 80)


def test_the_generated_example_is_one_set_in_all_forms(tmp_path):
    mine = Mine(tmp_path / "mine")
    generate(mine.root, format="own", train_videos=2, valid_videos=1, frames=6, size=(48, 80), workers=1)
    shown = []
    for form, table in (("label_maps", "csv"), ("objects", "csv"), ("coco", "csv"), ("youtube_vis", "json")):
        shutil.copy(mine.root / f"expressions.{table}", mine.table(table))
        out, counts, _ = convert(mine, form, table=table)
        masks = sorted((out / "train" / "Annotations").glob("*/*.png"))
        assert counts["train"]["videos"] == 3 and len(masks) == 18
        shown.append([read_labels(path) > 0 for path in masks])
        texts = [e["exp"] for video in listed(out).values() for e in video["expressions"].values()]
        assert len(texts) == counts["train"]["expressions"] > 6
    assert all(np.array_equal(shown[0], of_form) for of_form in shown[1:])


def test_masks_of_videos_that_the_table_does_not_name_are_not_read(mine):
    (mine.masks("label_maps") / "clip" / "00000.png").write_bytes(b"damaged")
    write_table(mine, ROWS[:2])
    _, counts, notes = convert(mine, "label_maps")
    assert counts["train"]["videos"] == 1
    assert "1 video is in no row of the table and left out (clip.mp4)" in notes
