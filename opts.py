"""Command-line options, in groups; every option is read somewhere (tests/test_opts.py)."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping

from util.options.data import LONG_TEXT_HELP, add_data_options
from util.options.given import named_options
from util.options.inference import InferenceOptions, add_not_there, add_window_options, inference_options
from util.options.losses import add_loss_options
from util.options.precision import add_precision_options
from util.options.presets import PRESETS, recipe
from util.options.ranks import add_collective_options, add_rank_options
from util.options.referformer_flags import settle_for_proxyformer, without_referformer_flags
from util.options.saved import KINDS, OF_MODEL, check_values, misfits
from util.options.start import add_backbone_options, add_start_options, start_contradictions
from util.options.types import (
    below_one,
    compile_backend,
    non_negative_float,
    non_negative_int,
    positive_int,
)
from util.options.variants import add_variant_options, variant_contradictions
from util.run.cores import cores
from util.run.parser import CommandParser


def add_run_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("run")
    group.add_argument("--output_dir", default="output", help="folder for checkpoints, logs and results")
    group.add_argument("--device", default=None, help="cuda, cuda:1, cpu; default: a GPU when there is one")
    group.add_argument("--seed", type=non_negative_int, default=42)
    add_precision_options(group, "off", "off; of a new training on a GPU: auto")
    group.add_argument(
        "--num_workers",
        type=non_negative_int,
        default=min(4, cores()),
        help="data loading processes per rank; default: as many as there are cores, at most 4",
    )
    group.add_argument(
        "--loader_timeout",
        **KINDS["loader_timeout"].argument(),
        default=120,
        help="seconds to wait for data; 0: no limit",
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model", **KINDS["model"].argument(), default="proxyformer", help="referformer: the baseline of the paper"
    )
    add_backbone_options(group)
    group.add_argument("--text_encoder", default="roberta-base", help="hub name or folder of RoBERTa, or a checkpoint")
    group.add_argument("--freeze_text_encoder", action=argparse.BooleanOptionalAction, default=False)
    for name, default, words in (
        ("token_stride", 32, "stride of the CMIE tokens"),
        ("hidden_dim", 256, "width of tokens and proxies (C)"),
        ("nheads", 8, "heads of each attention"),
        ("enc_layers", None, "stacked CMIE modules (K); layers of ReferFormer's encoder; default: 4"),
        ("dec_layers", None, "top-down steps of the FPN, default: 3; layers of ReferFormer's decoder, default: 4"),
        ("num_queries", 5, "proxy queries per frame (N)"),
        ("dim_feedforward", None, "of the CMIE, default: 0, none (Figure 2); of ReferFormer, default: 2048"),
        ("dropout", 0.1, None),
        ("mask_dim", 256, "channels of the mask features (C_m)"),
        ("mask_decoder", "fpn", None),
        ("time_encoding", "absolute", "what tells the frames apart in temporal attention"),
        ("text_form", "clean", "see docs/data.md, Text"),
        ("jsc_target", "joint", None),
        ("num_feature_levels", 4, "maps that ReferFormer's transformer reads"),
        ("controller_layers", 3, "dynamic convolutions of ReferFormer's masks"),
        ("dynamic_mask_channels", 8, "channels between them"),
    ):
        group.add_argument(f"--{name}", **KINDS[name].argument(), default=default, help=words)
    group.add_argument(
        "--binary", action=argparse.BooleanOptionalAction, default=False, help="one class instead of categories"
    )
    group.add_argument("--no_aux_loss", action="store_true", help="supervise the last stage only")
    group.add_argument(
        "--with_box_refine",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="ReferFormer refines boxes in each layer (all its presets)",
    )
    group.add_argument("--no_rel_coord", action="store_true", help="ReferFormer's masks without relative places")
    add_variant_options(parser)


# options of the model that change no answer; ReferFormer's command lines give the first at inference, too
OF_TRAINING = {"freeze_text_encoder", "freeze_stem", "stochastic_depth"}


def model_options() -> set[str]:
    """Names of the options that a model is built from."""
    parser = argparse.ArgumentParser()
    add_model_options(parser)
    return set(vars(parser.parse_args([])))


def differing(now: Mapping[str, object], saved: Mapping[str, object], names: Iterable[str]) -> str:
    """Which of these options differ from those of a checkpoint, and how; empty where none does."""
    return "; ".join(
        f"--{name} is {saved.get(name)} there, {now[name]} now"
        for name in sorted(names)
        if saved.get(name) != now[name]
    )


def add_train_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", type=positive_int, default=10)
    group.add_argument("--batch_size", type=positive_int, default=1, help="clips per rank")
    group.add_argument(
        "--global_batch_size",
        type=positive_int,
        help="clips per step on all ranks together; gradients are accumulated until a step has so many",
    )
    group.add_argument("--lr", type=non_negative_float, default=1e-4, help="learning rate; default: 1e-4")
    group.add_argument("--lr_backbone", type=non_negative_float, default=5e-5)
    group.add_argument("--lr_text_encoder", type=non_negative_float, default=1e-5)
    group.add_argument("--lr_schedule", choices=("step", "cosine"), default="step")
    group.add_argument(
        "--lr_drop", type=positive_int, nargs="+", default=[6, 8], help="epochs after which lr is divided by 10"
    )
    group.add_argument("--warmup_steps", type=non_negative_int, default=0, help="steps of linear warm-up")
    group.add_argument("--weight_decay", type=non_negative_float, default=5e-4)
    group.add_argument("--clip_max_norm", type=non_negative_float, default=0.1, help="gradient norm limit; 0: none")
    group.add_argument(
        "--freeze",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help="names of parameters not to train, such as backbone.* or cmie.stages.0.*",
    )
    group.add_argument(
        "--activation_checkpointing",
        "--use_checkpoint",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="compute the activations of backbone and CMIE again in the backward pass: less memory, more time",
    )
    group.add_argument(
        "--compile",
        type=compile_backend,
        nargs="?",
        const="inductor",
        metavar="BACKEND",
        help="compile the blocks of the encoders with torch.compile; default backend: inductor; off: do not",
    )
    group.add_argument(
        "--fsdp",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="shard weights, gradients and the optimiser's state over the ranks (FSDP2), for large backbones",
    )
    group.add_argument(
        "--dry_run",
        action="store_true",
        help="print the plan and its cost, and end; builds everything, and takes a step on clips of each shape",
    )
    add_start_options(group)
    group.add_argument(
        "--resume",
        metavar="CKPT",
        help="continue from this checkpoint, with its options; auto: from the newest readable checkpoint in "
        "--output_dir, or from the start if there is none; with --eval also owner/name on the Hugging Face hub",
    )
    group.add_argument(
        "--save_every", type=non_negative_int, default=0, metavar="STEPS", help="save also within epochs; 0: do not"
    )
    group.add_argument(
        "--eval_every",
        type=non_negative_int,
        default=0,
        metavar="EPOCHS",
        help="score --eval_split during training and keep the best checkpoint; 0: do not",
    )
    group.add_argument(
        "--ema_decay",
        type=below_one,
        default=0.0,
        metavar="DECAY",
        help="keep an exponential moving average of the weights, to score and infer with; such as 0.999; 0: do not",
    )
    group.add_argument("--keep", type=positive_int, default=2, help="how many of the newest checkpoints to keep")
    group.add_argument(
        "--max_skipped_steps",
        type=non_negative_int,
        default=10,
        metavar="N",
        help="skip at most N steps per epoch whose loss or gradient is not finite; one more ends the run",
    )
    group.add_argument("--eval", action="store_true", help="score the checkpoint of --resume, without training")
    group.add_argument(
        "--eval_split",
        metavar="SPLIT",
        help="what to score; holdout (the default with --holdout), or ytvos, davis, joint: valid; mevis, mevis_v2: "
        "valid_u; long_rvos: valid, test; a2d, jhmdb: test; refcoco, refcoco+: val, testA, testB; refcocog: val, test",
    )
    group.add_argument("--allow_trained", action="store_true", help="also score videos of the training")
    group.add_argument("--strict", action="store_true", help="with --eval: a damaged or missing file is an error")
    add_window_options(group)
    add_rank_options(group)
    add_collective_options(group)


# of models.load_predictor
PREDICTOR_OPTIONS = (
    "eval_size",
    "max_size",
    "amp",
    "float32",
    "window",
    "overlap",
    "clips",
    "long_text",
    "text_encoder",
    "not_there",
)


def add_text_encoder(parser: argparse.ArgumentParser) -> None:
    """Adds the option for published files, which is one of the model's, too."""
    parser.add_argument("--text_encoder", help="RoBERTa of a published file of ReferFormer; default: roberta-base")


def add_predictor_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a predictor: its weights, and how it predicts."""
    parser.add_argument(
        "--resume",
        required=True,
        metavar="CKPT",
        help="checkpoint of main.py, exported weights, or owner/name on the hub",
    )
    parser.add_argument(
        "--eval_size", **KINDS["eval_size"].argument(), help="short side of the input; default: as in training"
    )
    parser.add_argument(
        "--max_size", **KINDS["max_size"].argument(), help="limit of its long side; default: as in training"
    )
    add_precision_options(parser, None, "off if training was off, else auto")
    add_window_options(parser)
    parser.add_argument("--device", help="cuda, cuda:1, cpu; default: a GPU when there is one")
    parser.add_argument("--long_text", **KINDS["long_text"].argument(), default="shorten", help=LONG_TEXT_HELP)


def inference_parser(program: str, about: str, output: str, own: str) -> argparse.ArgumentParser:
    """A parser with the options that all inference scripts share; each script adds its own.

    Args:
        about: the docstring of the script; output: default of ``--output_dir``; own: name of the option with the folder
            of the data set.
    """
    parser = CommandParser(program, about, (own, *COMMON_AT_INFERENCE))
    add_predictor_options(parser)
    parser.add_argument("--output_dir", default=output, help="folder for the masks")
    parser.add_argument(
        "--holdout", **KINDS["holdout"].argument(), metavar="N", help="hold-out videos; default: as in training"
    )
    parser.add_argument(
        "--loader_timeout", **KINDS["loader_timeout"].argument(), help="seconds to wait for a frame; 0: no limit"
    )
    add_not_there(parser, 0.0)
    parser.add_argument("--visualize", action="store_true", help="also write videos with the masks painted over")
    parser.add_argument("--allow_trained", action="store_true", help="also take videos of the training")
    parser.add_argument("--overwrite", action="store_true", help="delete masks that another run left in --output_dir")
    parser.add_argument("--strict", action="store_true", help="the first video that cannot be read is an error")
    add_rank_options(parser)
    # The checkpoint holds the options of the model. ReferFormer's commands give them, and must not contradict it.
    add_model_options(parser)
    parser.set_defaults(**dict.fromkeys(model_options()))
    return parser


def parse_inference_args(parser: argparse.ArgumentParser, argv: list[str] | None = None) -> InferenceOptions:
    """Parses with a parser of :func:`inference_parser` to which a script has added options."""
    return inference_options(parser.parse_args(without_referformer_flags(parser, argv)), model_options())


# what main.py --help shows
COMMON = (
    "preset",
    "output_dir",
    "dataset_file",
    "ytvos_path",
    "backbone",
    "backbone_pretrained",
    "pretrained_weights",
    "random_backbone",
    "epochs",
    "batch_size",
    "lr",
    "dry_run",
    "resume",
    "eval",
    "eval_split",
)
# and those of the inference scripts
COMMON_AT_INFERENCE = (
    "resume",
    "split",
    "output_dir",
    "eval_size",
    "amp",
    "device",
    "visualize",
    "overwrite",
    "strict",
)


def train_parser() -> argparse.ArgumentParser:
    """The parser of ``main.py``."""
    parser = CommandParser(
        "main.py",
        """Trains ProxyFormer, or scores a checkpoint with --eval.

    python main.py --preset scratch --random_backbone --output_dir output/run
    python main.py --eval --eval_split valid --resume output/run/checkpoint.pth
        """,
        COMMON,
        note="docs/train.md has the recipes, and how to start it on several GPUs.",
    )
    parser.add_argument("--preset", choices=sorted(PRESETS), help="defaults of a recipe of docs/train.md")
    for add in (add_run_options, add_data_options, add_model_options, add_loss_options, add_train_options):
        add(parser)
    return parser


def check_train_options(options: Mapping[str, object], source: object) -> None:
    """Raises ValueError, naming ``source``, unless the options of a checkpoint are such as ``main.py`` takes."""
    check_values(train_parser()._actions, options, source)


def given_options(argv: list[str] | None = None) -> dict[str, object]:
    """The options that a command line of ``main.py`` names."""
    parser = train_parser()
    return named_options(parser, without_referformer_flags(parser, argv))


def given_model_options(argv: list[str] | None = None) -> dict[str, object]:
    """Of :func:`given_options` those of the model."""
    return {name: value for name, value in given_options(argv).items() if name in model_options()}


def parse_train_args(argv: list[str] | None = None, defaults: dict | None = None) -> argparse.Namespace:
    """Parses ``main.py``'s options. Explicit flags win over ``defaults`` (a checkpoint's options), those over a preset.

    Exits with a message (argparse's way) when options contradict each other.
    """
    parser = train_parser()
    argv = without_referformer_flags(parser, argv)
    flags = named_options(parser, argv)
    if flags.get("preset"):
        parser.set_defaults(**recipe(flags["preset"], flags.get("model", parser.get_default("model"))))
    parser.set_defaults(**(defaults or {}))
    args = parser.parse_args(argv)
    for name, default in OF_MODEL[args.model].items():
        if getattr(args, name) is None:
            setattr(args, name, default)
    if defaults and args.model != defaults.get("model", args.model):
        parser.error(f"--model {args.model}: the checkpoint is a {defaults['model']}; leave --model out")
    # where a checkpoint is resumed, its options are still to come, and among them which model it is
    if defaults is not None or args.resume in (None, "auto"):
        if args.model == "proxyformer":
            settle_for_proxyformer(parser, vars(args))
        else:
            args.jsc_target = "none"
        for misfit in misfits(vars(args)):
            parser.error(misfit)
    settled = defaults is not None or (args.resume in (None, "auto") and not args.pretrained_weights)
    for wrong, message in _contradictions(args, set(flags), settled):
        if wrong:
            parser.error(message)
    return args


def _contradictions(args: argparse.Namespace, given: set[str], settled: bool) -> Iterator[tuple[bool, str]]:
    """Yields pairs: whether two options contradict each other, and the message with the mend.

    Args:
        given: names of the options that were given as flags. Such a flag must have an effect.
        settled: whether the options have all that weights and checkpoints bring.
    """
    yield (
        not args.eval and (args.train_max_size or args.max_size) < min(args.train_sizes),
        f"--{'train_' if args.train_max_size else ''}max_size {args.train_max_size or args.max_size} is below all of "
        "--train_sizes; give smaller ones, or a larger limit",
    )
    # scoring
    yield args.eval and args.resume in (None, "auto"), "--eval needs the checkpoint to score: add --resume CKPT"
    yield args.eval and args.dry_run, "--dry_run rehearses training, and --eval does not train; leave one out"
    yield (
        args.eval_split and not (args.eval or args.eval_every),
        "--eval_split is for scoring: add --eval or --eval_every, or leave it out",
    )
    yield args.allow_trained and not args.eval, "--allow_trained is for scoring: add --eval, or leave it out"
    yield args.strict and not args.eval, "--strict is for scoring: add --eval, or leave it out"
    yield (
        not (args.eval or args.eval_every) and bool(given & {"window", "overlap", "clips"}),
        "--window, --overlap and --clips are for scoring: add --eval or --eval_every, or leave them out",
    )
    yield (
        not args.eval and args.eval_every > args.epochs,
        f"--eval_every {args.eval_every} is more than --epochs {args.epochs}, so no epoch would be scored",
    )
    yield len(dict(args.mix or ())) < len(args.mix or ()), "--mix names a data set twice"
    # learning rates
    drops = " ".join(map(str, args.lr_drop))
    yield args.lr_drop != sorted(set(args.lr_drop)), f"--lr_drop {drops}: the epochs must rise"
    yield (
        "lr_drop" in given and args.lr_schedule == "cosine",
        "--lr_drop is for --lr_schedule step; cosine falls by itself",
    )
    yield (
        "lr_drop" in given and args.lr_drop[-1] >= args.epochs,
        f"--lr_drop {drops}: the run has ended after --epochs {args.epochs}",
    )
    yield (
        "lr_text_encoder" in given and args.freeze_text_encoder,
        "--lr_text_encoder has no effect on a frozen text encoder: leave it out, or add --no-freeze_text_encoder",
    )
    # parts that are left out
    yield from variant_contradictions(vars(args), given)
    yield from start_contradictions(args, given, settled)
