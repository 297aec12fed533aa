"""The options of main.py: each is read, contradictions are refused, presets give way to flags, the paper's defaults."""

from __future__ import annotations

import ast
from argparse import Namespace
from dataclasses import fields

import pytest

import inference_davis
import inference_long_rvos
import inference_mevis
import inference_ytvos
import opts
from datasets import DATA_SETS
from opts import PRESETS, parse_train_args, train_parser
from tasks.training import RunSettings
from tests.helpers import ROOT
from util.options import referformer_flags
from util.options.inference import InferenceOptions
from util.options.places import FOLDERS
from util.options.start import require_start

# The files that read main.py's options; entry scripts with parsers of their own do not count as readers.
READERS = ("main.py", "models/__init__.py", "datasets/__init__.py", "datasets/sets.py", "util/options/start.py")
READ_BY_NOBODY = {
    "local_rank": "torch.distributed.launch adds it; the environment says the same",
}
DESTINATIONS = {
    action.dest: action for action in train_parser()._actions if action.dest not in ("help", "help_all", "version")
}


# Frozen values that are made of options, and the files that read them under a name.
VALUES = {
    RunSettings: ("settings", ("tasks/training.py", "tasks/plan.py")),
    InferenceOptions: (
        "asked",
        ("tasks/inference.py", "models/__init__.py", "datasets/__init__.py", "inference_mevis.py"),
    ),
}


def _reads(path: str, name: str = "args") -> set[str]:
    """Names that a file takes from ``args``, or from another ``name`` or ``self.name``."""
    return {
        node.attr
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.Attribute) and name in (getattr(node.value, "id", ""), getattr(node.value, "attr", ""))
    }


def _parse(argv: str, **kwargs) -> Namespace:
    return parse_train_args(argv.split(), **kwargs)


def _refusal(argv: str, capsys) -> str:
    """The message with which a command line is refused."""
    with pytest.raises(SystemExit) as stop:
        _parse(argv)
    assert stop.value.code == 2
    return capsys.readouterr().err.rpartition("error: ")[2]


def test_every_option_is_read():
    folders = {data_set.path for data_set in DATA_SETS.values()}  # which are read by these names
    read = set.union(folders, *map(_reads, READERS))
    assert set(DESTINATIONS) - read == set(READ_BY_NOBODY)


def test_the_folders_of_every_data_set_are_looked_for():
    for name, data_set in DATA_SETS.items():
        parts = data_set.parts or (name,)
        assert set(FOLDERS[name]) == {DATA_SETS[part].path for part in parts} and FOLDERS[name][0] == data_set.path


def test_every_option_that_is_read_exists():
    assert set.union(*map(_reads, READERS)) <= set(DESTINATIONS)


@pytest.mark.parametrize("made", VALUES)
def test_every_option_that_becomes_a_value_is_read_there(made):
    """To copy an option into a value is not to read it."""
    name, files = VALUES[made]
    assert {field.name for field in fields(made)} <= set.union(*(_reads(path, name) for path in files))


@pytest.mark.parametrize("script", [inference_ytvos, inference_davis, inference_mevis, inference_long_rvos])
def test_every_flag_of_an_inference_script_becomes_a_value(script, monkeypatch):
    """A flag that no field has a place for would be dropped in silence."""
    seen = []
    monkeypatch.setattr(opts, "inference_options", lambda parsed, of_model: seen.append(parsed) or None)
    script.parse_args(["--resume", "c.pth"])
    flags = set(vars(seen[0])) - opts.model_options() - set(READ_BY_NOBODY)
    of_others = {"data_path", "model"} | ({"mevis_version"} if script is not inference_mevis else set())
    assert {name for name in flags if not name.endswith("_path")} == {
        field.name for field in fields(InferenceOptions)
    } - of_others


def test_defaults_of_the_paper():
    args = vars(parse_train_args([]))
    expected = dict(
        token_stride=32,
        dim_feedforward=0,
        num_queries=5,
        enc_layers=4,
        dec_layers=3,
        hidden_dim=256,
        nheads=8,
        mask_decoder="fpn",
        mask_loss_size="stride4",
        mask_loss_norm="frames",
        jsc_target="joint",
        jsc_temperature=0.07,
        cmie="decoupled",
        proxy_to_video=True,
        video_reads="proxies",
        jsc_video="before",
        no_aux_loss=False,
        focal_alpha=0.25,
        focal_gamma=2,
        lr=1e-4,
        lr_backbone=5e-5,
        lr_text_encoder=1e-5,
        weight_decay=5e-4,
        clip_max_norm=0.1,
        num_frames=5,
        train_sizes=[288, 320, 352, 392, 416, 448, 480, 512],
        eval_size=360,
        max_size=640,
    )
    weights = {"class": 2, "bbox": 5, "giou": 2, "mask": 2, "dice": 5}
    expected |= {f"set_cost_{name}": value for name, value in weights.items()}
    expected |= {f"{name.replace('class', 'cls')}_loss_coef": value for name, value in weights.items()}
    expected |= {"jsc_loss_coef": 1}
    assert {name: args[name] for name in expected} == expected


def test_presets_are_recipes_of_existing_options():
    assert all(set(preset) <= set(DESTINATIONS) for preset in PRESETS.values())
    recipes = {name: (preset["epochs"], preset["lr_drop"]) for name, preset in PRESETS.items()}
    assert recipes.items() >= {"finetune": (6, [3, 5]), "scratch": (10, [6, 8]), "paper": (30, [20, 26])}.items()
    assert recipes["paper_a2d"] == recipes["paper"]
    assert recipes["pretrain"] == recipes["joint"] == (12, [8, 10])
    assert (PRESETS["pretrain"]["batch_size"], PRESETS["pretrain"]["num_frames"]) == (2, 1)
    assert {name for name, preset in PRESETS.items() if not preset["freeze_text_encoder"]} == {"pretrain"}


def test_images_are_pretrained_on_in_referformers_sizes():
    """``make_coco_transforms`` of datasets/refexp.py in github.com/wjn922/ReferFormer."""
    args = _parse("--preset pretrain")
    assert args.train_sizes == list(range(480, 769, 32)) and args.train_max_size == 800
    assert args.crop_sizes == [296, 328, 360, 392, 416, 448, 480, 512] and args.max_size == 640
    assert not args.photometric and args.flip and args.random_crop


def test_clips_without_their_object_are_replaced_in_every_recipe():
    assert {recipe["absent_object"] for recipe in PRESETS.values()} == {"replace"}


def test_recipes_of_a2d():
    common = dict(dataset_file="a2d", batch_size=2, eval_size=320, max_size=576)
    tuned, scratch = (vars(_parse(f"--preset a2d_{name}")) for name in ("finetune", "scratch"))
    assert tuned.items() >= (common | {"epochs": 6, "num_frames": 5, "dropout": 0.1, "weight_decay": 5e-4}).items()
    assert tuned["lr_drop"] == [3, 5]
    assert scratch.items() >= (common | {"epochs": 12, "num_frames": 6, "dropout": 0, "weight_decay": 1e-4}).items()
    assert scratch["lr_drop"] == [8, 10]


@pytest.mark.parametrize(
    ("preset", "of_data"),
    [
        ("paper", dict(dataset_file="ytvos", train_sizes=[360], eval_size=360, max_size=640)),
        ("paper_a2d", dict(dataset_file="a2d", train_sizes=[320], eval_size=320, max_size=576, batch_size=2)),
    ],
)
def test_recipes_of_the_paper_are_what_it_states(preset, of_data):
    """Section IV-B. Its learning rates and T are lost in the text: 1e-4 and 5 are choices."""
    stated = dict(epochs=30, random_crop=False, photometric=False, flip=True, binary=True, num_frames=5, lr=1e-4)
    args = _parse(f"--preset {preset} --pretrained_weights refcoco.pth")
    assert vars(args).items() >= (stated | of_data).items()
    require_start(args)


@pytest.mark.parametrize("preset", ["scratch", "joint", "finetune", "paper", "pretrain"])
def test_recipes_of_ref_youtube_vos_have_one_class(preset):
    assert _parse(f"--preset {preset}").binary and not _parse(f"--preset {preset} --no-binary").binary


_OF_ITS_RECIPES = dict(
    lr=1e-4, lr_backbone=5e-5, lr_text_encoder=1e-5, weight_decay=5e-4, clip_max_norm=0.1, dropout=0.1, num_queries=5,
    num_frames=5, batch_size=1, enc_layers=4, dec_layers=4, dim_feedforward=2048, with_box_refine=True, binary=True,
    freeze_text_encoder=True, eval_size=360, max_size=640, jsc_target="none", text_form="lower",
)  # fmt: skip


@pytest.mark.parametrize(
    ("preset", "otherwise"),
    [
        ("finetune", dict(epochs=6, lr_drop=[3, 5])),
        ("scratch", dict(epochs=10, lr_drop=[6, 8])),
        ("joint", dict(epochs=12, lr_drop=[8, 10], dataset_file="joint")),
        (
            "pretrain",
            dict(epochs=12, lr_drop=[8, 10], dataset_file="all", batch_size=2, num_frames=1, freeze_text_encoder=False),
        ),
        ("a2d_finetune", dict(epochs=6, lr_drop=[3, 5], dataset_file="a2d", batch_size=2, binary=False)),
        (
            "a2d_scratch",
            dict(epochs=12, lr_drop=[8, 10], dataset_file="a2d", num_frames=6, dropout=0, weight_decay=1e-4)
            | dict(binary=False),
        ),
    ],
)
def test_the_baseline_is_trained_by_its_own_recipes(preset, otherwise):
    """scripts/dist_*.sh, docs/A2D-Sentences.md and opts.py of github.com/wjn922/ReferFormer. A2D has one class."""
    args = vars(_parse(f"--model referformer --preset {preset}"))
    expected = _OF_ITS_RECIPES | otherwise
    assert {name: args[name] for name in expected} == expected
    assert not _parse(f"--model referformer --preset {preset} --no-with_box_refine").with_box_refine


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_changes_defaults_and_nothing_else(name):
    assert vars(parse_train_args(["--preset", name])) == vars(parse_train_args([])) | PRESETS[name] | {"preset": name}


@pytest.mark.parametrize("first", [True, False])
def test_flags_win_over_a_preset_wherever_they_stand(first):
    preset, flags = "--preset finetune", "--epochs 2 --lr_drop 1 --no-freeze_text_encoder"
    args = _parse(f"{flags} {preset}" if first else f"{preset} {flags}")
    assert (args.epochs, args.lr_drop, args.freeze_text_encoder) == (2, [1], False)


def test_flags_win_over_a_checkpoint_and_that_over_a_preset():
    saved = dict(epochs=9, lr=0.5, num_queries=3)
    args = _parse("--preset finetune --lr 0.25", defaults=saved)
    assert (args.epochs, args.lr, args.num_queries, args.lr_drop) == (9, 0.25, 3, [3, 5])


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ("--hidden_dim 100 --nheads 8", "--hidden_dim 100 is not a multiple of --nheads 8"),
        ("--hidden_dim 36 --nheads 4", "--hidden_dim 36 is not a multiple of 8"),
        ("--eval", "--resume"),
        ("--eval_split valid", "--eval_split"),
        ("--allow_trained", "--allow_trained"),
        ("--clips independent", "--clips"),
        ("--lr_drop 5 3", "--lr_drop 5 3"),
        ("--lr_drop 3 3", "--lr_drop 3 3"),
        ("--lr_schedule cosine --lr_drop 3", "--lr_drop"),
        ("--epochs 3 --lr_drop 3", "--lr_drop 3: the run has ended after --epochs 3"),
        ("--preset scratch --lr_text_encoder 1e-5", "add --no-freeze_text_encoder"),
        ("--eval_every 3 --epochs 2", "--eval_every 3 is more than --epochs 2"),
        ("--eval --resume c.pth --dry_run", "--dry_run"),
        ("--max_size 200 --train_sizes 256 288", "--max_size 200 is below all of --train_sizes"),
        ("--train_max_size 200 --train_sizes 256", "--train_max_size 200 is below all of --train_sizes"),
        ("--model referformer --token_stride 16", "has no such part: leave --token_stride out"),
        ("--jsc_target none --jsc_temperature 0.1", "--jsc_target none has no JSC loss"),
        ("--jsc_target none --jsc_video after", "--jsc_target none has no JSC loss"),
        ("--jsc_target text --jsc_video after", "--jsc_target text compares the proxies to no video"),
        (
            "--video_reads words --no-proxy_to_video",
            "--video_reads words replaces the proxies that --no-proxy_to_video",
        ),
        ("--model referformer --cmie full --no-proxy_to_video", "leave --cmie, --no-proxy_to_video out"),
        ("--model referformer --video_reads words", "has no such part: leave --video_reads out"),
        ("--model referformer --jsc_video after", "--model referformer has no JSC loss"),
        ("--pretrained_weights a.pth --backbone_pretrained b.pth", "leave --backbone_pretrained out"),
        ("--pretrained_weights a.pth --random_backbone", "leave --random_backbone out"),
        ("--backbone_pretrained a.pth --random_backbone", "leave --random_backbone out"),
        ("--backbone swin_t_p4w7 --no-freeze_stem", "leave it out"),
        ("--backbone resnet50 --stochastic_depth 0.1", "leave --stochastic_depth out"),
    ],
)
def test_contradictions_are_refused(argv, named, capsys):
    assert named in _refusal(argv, capsys)


@pytest.mark.parametrize("argv", ["--lr_schedule cosine", "--lr_schedule cosine --preset scratch"])
def test_a_schedule_without_drops_is_no_contradiction(argv):
    assert _parse(argv).lr_schedule == "cosine"


@pytest.mark.parametrize(
    "argv",
    [
        "--dropout 1",
        "--dropout -0.1",
        "--focal_alpha 1.5",
        "--epochs 0",
        "--epochs 1.5",
        "--batch_size 0",
        "--num_frames -1",
        "--num_workers -1",
        "--num_queries 0",
        "--lr nan",
        "--lr inf",
        "--lr -1",
        "--lr five",
        "--jsc_temperature 0",
        "--lr_drop 0",
        "--train_sizes 0",
        "--train_sizes",
        "--token_stride 8",
        "--dec_layers 4",
        "--seed -1",
        "--preset pretrained",
        "--num_frame 5",
    ],
)
def test_bad_values_and_unknown_flags_are_refused_by_name(argv, capsys):
    assert argv.split()[0] in _refusal(argv, capsys)


@pytest.mark.parametrize("flag", ["--local-rank=0", "--local_rank=0"])
def test_what_the_launchers_of_torch_add_is_accepted(flag):
    assert parse_train_args([flag]).local_rank == 0


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_train_args(["--help_all"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(f"--{name}" in text for name in DESTINATIONS if name != "local_rank")
    assert "local_rank" not in text


# ReferFormer's command lines -----------------------------------------------------------------------------------------


@pytest.fixture
def untold(monkeypatch):
    monkeypatch.setattr(referformer_flags, "_told", set())


@pytest.mark.parametrize(
    "argv",
    [
        # scripts/dist_train_test_ytvos.sh, dist_pretrain.sh, dist_train_a2d.sh of github.com/wjn922/ReferFormer
        "--with_box_refine --binary --freeze_text_encoder --epochs 6 --lr_drop 3 5 --output_dir=o",
        "--with_box_refine --dataset_file all --binary --batch_size 2 --num_frames 1 --epochs 12 --lr_drop 8 10",
        "--dataset_file a2d --with_box_refine --freeze_text_encoder --batch_size 2 --epochs 6 --lr_drop 3 5",
        "--masks --ngpu 4 --position_embedding sine --num_feature_levels=4 --dec_n_points 4 --enc_n_points 4",
        "--controller_layers 3 --dynamic_mask_channels 8 --eos_coef 0.1 --max_skip 3 --remove_difficult --cache_mode",
        "--lr_backbone_names backbone.0 --lr_text_encoder_names text_encoder --lr_linear_proj_names reference_points x",
        "--world_size 1 --dist_url env:// --start_epoch 0 --threshold 0.50 --lr_linear_proj_mult 1.0",
    ],
)
def test_command_lines_of_referformer_run_and_what_means_nothing_is_named_once(argv, untold, capsys):
    given = {word.partition("=")[0] for word in argv.split() if word.startswith("--")}
    args = _parse(argv)
    said = capsys.readouterr().err
    foreign = {flag for flag in given if flag.removeprefix("--") not in DESTINATIONS}
    ignored = foreign | ({"--with_box_refine"} & given)
    assert ignored and said.count("\n") == 1 and "no meaning here: ignored" in said
    assert {word.rstrip(",") for word in said.split() if word.startswith("--")} == ignored
    assert _parse(argv) == args and not capsys.readouterr().err, "said once"


def test_referformer_takes_its_own_flags_and_its_own_defaults(untold, capsys):
    args = _parse("--model referformer --with_box_refine --no_rel_coord --num_feature_levels 3")
    assert (args.with_box_refine, args.no_rel_coord, args.num_feature_levels, args.jsc_target) == (
        True,
        True,
        3,
        "none",
    )
    assert (args.enc_layers, args.dec_layers, args.dim_feedforward) == (4, 4, 2048)
    assert _parse("--model referformer --dec_layers 6").dec_layers == 6 and not capsys.readouterr().err
    assert "2 or 3 steps" in _refusal("--dec_layers 6", capsys)
    assert "has no JSC loss" in _refusal("--model referformer --jsc_loss_coef 1", capsys)


def test_the_other_flags_of_the_line_keep_their_values(untold):
    args = _parse("--lr_linear_proj_names a b --lr_drop 3 5 --masks --epochs 6 --ngpu=2 --train_sizes 64 96")
    assert (args.lr_drop, args.epochs, args.train_sizes) == ([3, 5], 6, [64, 96])


def test_the_ranks_of_a_run_say_it_together_once(untold, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    _parse("--masks")
    assert not capsys.readouterr().err


def test_a_run_goes_on_without_what_only_changed_its_speed_and_memory():
    first = vars(_parse("--fsdp --use_checkpoint --compile"))
    opts.check_train_options(first, "c.pth")
    assert first["compile"] == "inductor"
    assert _parse("", defaults=first) == Namespace(**first)
    args = _parse("--no-fsdp --no-activation_checkpointing --compile off", defaults=first)
    assert (args.fsdp, args.activation_checkpointing, args.compile) == (False, False, None)
    opts.check_train_options(vars(args), "c.pth")


def test_checkpointing_goes_by_referformers_name_too():
    assert _parse("--use_checkpoint").activation_checkpointing


@pytest.mark.parametrize(
    "argv",
    [
        "--two_stage",
        "--dilation",
        "--pre_norm",
        "--no_rel_coord",
        "--position_embedding learned",
        "--num_feature_levels 3",
        "--controller_layers=2",
        "--dynamic_mask_channels 16",
        "--dec_n_points 8",
        "--start_epoch 3",
        "--threshold 0.4",
        "--lr_backbone_names backbone.0 x",
        "--lr_text_encoder_names text",
        "--lr_linear_proj_mult 0.1",
        "--ngpu",
    ],
)
def test_flags_of_referformer_that_would_change_the_result_are_refused(argv, untold, capsys):
    flag = argv.split()[0].partition("=")[0]
    assert flag in _refusal(f"--masks {argv}", capsys)


def test_inference_scripts_take_the_flags_too(untold, capsys):
    for script in (inference_ytvos, inference_davis):
        args = script.parse_args(["--with_box_refine", "--binary", "--ngpu", "8", "--resume", "c.pth"])
        assert args.resume == "c.pth" and args.model == {"binary": True, "with_box_refine": True}
        with pytest.raises(SystemExit):
            script.parse_args(["--resume", "c.pth", "--threshold", "0.3"])
    said = capsys.readouterr().err
    assert said.count("--ngpu") == 1 and "--threshold 0.3 is an option of ReferFormer" in said


def test_davis_is_scored_by_referformers_command_line_too(capsys):
    """``eval_davis.py --results_path=…`` of its scripts/dist_test_davis.sh, and what its parser has besides."""
    import eval_davis

    args = eval_davis.parse_args(["--results_path=o/valid/anno_0", "--set", "val", "--task", "unsupervised"])
    assert (args.results, args.split, args.protocol) == ("o/valid/anno_0", "valid", "unsupervised")
    for argv in ([], ["a", "--results_path", "b"]):
        with pytest.raises(SystemExit):
            eval_davis.parse_args(argv)
        assert "give the folder of the results, once" in capsys.readouterr().err
