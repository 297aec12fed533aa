"""Texts that no encoder takes: found by the checker and at the start, named, shortened or refused. Forms of texts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import inference_davis
import inference_mevis
import inference_ytvos
import main
from datasets import build_train_loader
from datasets.samplers import ClipRequest
from tasks import plan
from tests.helpers import edit
from tests.mini_a2d import write_mini_a2d
from tests.mini_davis import write_mini_davis
from tests.mini_jhmdb import write_mini_jhmdb
from tests.mini_long_rvos import write_mini_long_rvos
from tests.mini_mevis import write_mini_mevis
from tests.mini_refcoco import write_mini_refcoco
from tests.mini_ytvos import VIDEOS, mini_args, write_mini_ytvos
from tests.runs import CPU, log, trainer
from tests.test_checkpoint_optim import saved_model
from tests.tiny_model import tiny_text_encoder, tiny_tokenizer
from tools.data import make_sentences_annotations
from tools.data.convert_davis_to_ytvos import convert
from util.weights import checkpoint

TRAIN, VALID = (f"meta_expressions/{split}/meta_expressions.json" for split in ("train", "valid"))
ENGLISH, CHINESE = "the left box and " * 300, "\u5de6\u8fb9\u7684\u7ea2\u8272\u76d2\u5b50" * 30
OLD = "the red box on the left"


def plant(root: Path, meta: str, text: str, exp_id: str = "1") -> None:
    edit(root / meta, lambda c: next(iter(c["videos"].values()))["expressions"][exp_id].update(exp=text))


@pytest.fixture
def ytvos(tmp_path) -> Path:
    """A text of too many tokens in each list, about the first video of two, and a text encoder in ``text``."""
    root = write_mini_ytvos(tmp_path / "ytvos", train=VIDEOS[:2])
    for meta, text in ((TRAIN, ENGLISH), (VALID, CHINESE)):
        plant(root, meta, text)
    tiny_text_encoder().model.save_pretrained(root / "text")
    tiny_tokenizer().save_pretrained(root / "text")
    return root


# The form of the texts that are trained on ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "read"),
    [
        ([], "the box on the left"),
        (["lower"], "\u201cthe box on the left.\u201d"),
        (["raw"], "\u201cThe BOX  on the Left.\u201d"),
    ],
)
def test_clips_have_their_texts_in_the_form_of_the_run(tmp_path, form, read):
    root = write_mini_ytvos(tmp_path, train=VIDEOS[:1])
    for exp_id in "012":
        plant(root, TRAIN, "\u201cThe BOX  on the Left.\u201d", exp_id)
    flags = ["--no-random_crop", "--no-photometric", *(["--text_form", *form] if form else [])]
    data = build_train_loader(mini_args(root, *flags)).dataset
    seen = {data[ClipRequest(index, epoch)].expressions[0] for index in range(len(data)) for epoch in range(3)}
    assert seen == {read, read.replace("left", "right").replace("Left", "Right")}


# Training and its rehearsal ------------------------------------------------------------------------------------------


def test_training_names_what_is_too_long_and_goes_on(ytvos, tmp_path, capsys):
    run = trainer(ytvos, tmp_path / "run", "--epochs", 1, "--holdout", 1, "--eval_every", 1, "--eval_split", "holdout")
    told = capsys.readouterr().err
    assert "warning: ytvos, video aa_wide, expression 1: " in told and "tokens, the text encoder takes 512" in told
    assert "video bb_absent" not in told and told.count("warning") == 1
    run.run()
    assert len(log(tmp_path / "run")) == 1
    saved = checkpoint.load(tmp_path / "run" / "checkpoint.pth")
    assert (saved["options"]["long_text"], saved["options"]["text_form"]) == ("shorten", "clean")
    # another answer does not make it another run
    with pytest.raises(ValueError, match="video aa_wide, expression 1.*--long_text shorten"):
        trainer(ytvos, tmp_path / "run", "--epochs", 2, "--holdout", 1, "--eval_every", 1, "--long_text", "refuse")


@pytest.mark.parametrize("where", [TRAIN, VALID])
def test_training_that_refuses_does_so_before_anything_is_written(ytvos, tmp_path, where):
    for meta in {TRAIN, VALID} - {where}:
        plant(ytvos, meta, OLD)
    edit(
        ytvos / VALID, lambda c: [e.update(obj_id="1") for v in c["videos"].values() for e in v["expressions"].values()]
    )
    with pytest.raises(ValueError, match="ytvos, video aa_wide, expression 1: .*--long_text shorten"):
        trainer(ytvos, tmp_path / "run", "--eval_every", 1, "--eval_split", "valid", "--long_text", "refuse")
    assert not (tmp_path / "run").exists()


def test_the_rehearsal_names_it_too(ytvos, tmp_path, capsys):
    run = trainer(ytvos, tmp_path / "run", "--dry_run")
    assert "warning: ytvos, video aa_wide, expression 1: " in capsys.readouterr().err
    plan.rehearse(run)
    assert "steps left" in capsys.readouterr().out


# Inference and scores ------------------------------------------------------------------------------------------------


def run_script(script, *words: object) -> None:
    asked = script.parse_args([*map(str, words), "--device", "cpu"])
    script.run_inference(asked, script.infer)


def test_inference_does_all_videos_or_refuses_at_the_start(ytvos, tmp_path, capsys):
    saved_model(tmp_path / "c.pth", "--eval_size", "40", "--ytvos_path", str(ytvos))
    out = tmp_path / "out"
    words = ["--resume", tmp_path / "c.pth", "--output_dir", out]
    with pytest.raises(ValueError, match="ytvos, video aa_wide, expression 1: .*--long_text shorten"):
        run_script(inference_ytvos, *words, "--long_text", "refuse")
    assert not out.exists()
    run_script(inference_ytvos, *words)
    told = capsys.readouterr()
    assert told.err.count("warning: ytvos, video aa_wide, expression 1: ") == 1
    assert "2 videos, 39 masks" in told.out and len(list(out.rglob("aa_wide/1/*.png"))) == 7


def test_a_score_names_it_too(ytvos, tmp_path, capsys):
    saved_model(tmp_path / "c.pth", "--eval_size", "40")
    words = ["--holdout", "1", "--eval", "--resume", str(tmp_path / "c.pth"), "--output_dir", str(tmp_path / "out")]
    for refusing in (["--long_text", "refuse"], []):
        args = mini_args(ytvos, *words, "--allow_trained", *refusing)
        if refusing:
            with pytest.raises(ValueError, match="ytvos, video aa_wide, expression 1: "):
                main.evaluate(args, checkpoint.load(tmp_path / "c.pth"), CPU)
            assert not (tmp_path / "out").exists()
        else:
            main.evaluate(args, checkpoint.load(tmp_path / "c.pth"), CPU)
    told = capsys.readouterr()
    assert "warning: ytvos, video aa_wide, expression 1: " in told.err and "J&F" in told.out


@pytest.mark.parametrize("script", [inference_davis, inference_mevis])
def test_the_other_scripts_name_it_too(script, tmp_path):
    name = script.__name__.removeprefix("inference_")
    if name == "davis":
        convert(write_mini_davis(tmp_path / name), workers=1)
        meta = VALID
    else:
        write_mini_mevis(tmp_path / name)
        meta = "valid/meta_expressions.json"
    plant(tmp_path / name, meta, CHINESE)
    saved_model(tmp_path / "c.pth")
    words = ["--resume", tmp_path / "c.pth", f"--{name}_path", tmp_path / name, "--output_dir", tmp_path / "out"]
    with pytest.raises(ValueError, match=f"{name}, video .*, expression 1: .*--long_text shorten"):
        run_script(script, *words, "--long_text", "refuse")
    assert not (tmp_path / "out").exists()


# The checker ---------------------------------------------------------------------------------------------------------


def of_a2d(root: Path) -> str:
    write_mini_a2d(root)
    path = root / "text_annotations" / "a2d_annotation.txt"
    lines = path.read_text(encoding="utf-8").splitlines()
    row = next(i for i, line in enumerate(lines[1:], 1) if "copy" not in line)
    lines[row] = ",".join((*lines[row].split(",")[:2], CHINESE))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    make_sentences_annotations.make_a2d(root, overwrite=False)
    return "video "


def of_jhmdb(root: Path) -> str:
    write_mini_jhmdb(root)
    edit(root / "jhmdb_sentences_samples_metadata.json", lambda rows: rows[0].__setitem__(4, CHINESE))
    make_sentences_annotations.make_jhmdb(root, overwrite=False)
    return "sample v_"


def of_refcoco(root: Path) -> str:
    write_mini_refcoco(root)
    path = next(root.rglob("instances_refcoco_train.json"))
    edit(path, lambda c: c["images"][0].update(caption=CHINESE))
    return "sentence "


def of_ytvos(root: Path) -> str:
    write_mini_ytvos(root)
    plant(root, TRAIN, "\uff21" * 511)
    return "video aa_wide, expression 1: the text has 511 bytes, more than 510"


def of_davis(root: Path) -> str:
    convert(write_mini_davis(root), workers=1)
    plant(root, VALID, CHINESE)
    return "expression 1: the text has 630 bytes"


def of_mevis(root: Path) -> str:
    write_mini_mevis(root)
    plant(root, "valid_u/meta_expressions.json", ENGLISH)
    return "expression 1: the text has 5099 bytes"


def of_long_rvos(root: Path) -> str:
    write_mini_long_rvos(root)
    plant(root, "valid/meta_expressions.json", ENGLISH)
    return "expression 1: the text has 5099 bytes"


@pytest.mark.parametrize("plant_one", [of_a2d, of_jhmdb, of_refcoco, of_ytvos, of_davis, of_mevis, of_long_rvos])
def test_the_checker_names_it(plant_one, checked, tmp_path):
    where = plant_one(tmp_path / "data")
    code, faults, again, text = checked(plant_one.__name__.removeprefix("of_"), tmp_path / "data")
    (fault,) = [fault for fault in faults if fault[0] == "long_text"]
    assert code == 1 and not again and where in fault[2] and "so it may be shortened" in fault[2]
    assert "texts that may be too long for the text encoder: 1" in text and "--long_text refuse" in text


def test_the_checker_lets_pass_what_surely_fits(checked, tmp_path):
    root = write_mini_ytvos(tmp_path / "data")
    plant(root, TRAIN, "\u72d7" * 170 + "  !")
    assert checked("ytvos", root)[0] == 0


def test_a_gradient_comes_of_a_text_that_is_too_long():
    encoder = tiny_text_encoder()
    words, valid = encoder([ENGLISH, "a star"])
    words[valid].sum().backward()
    gradients = [parameter.grad for parameter in encoder.parameters() if parameter.grad is not None]
    assert words.shape[1] <= encoder.limit and torch.isfinite(words).all()
    assert any(g.any() for g in gradients) and all(g.isfinite().all() for g in gradients)
