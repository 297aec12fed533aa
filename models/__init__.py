"""Builds the model, its losses and its predictor. The one file of ``models`` that reads options."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import torch

from models import prepare
from models.backbone import SWINS, build_backbone, load_pretrained
from models.calibration import Calibration
from models.criterion import Criterion
from models.earlier import upgraded
from models.fast import for_inference, for_training
from models.matcher import LossWeights, TrajectoryMatcher
from models.network import Network
from models.predictor import Predictor, PredictorSettings
from models.proxyformer import ProxyFormer
from models.published import LIMIT_OF_FRAMES, NO_LIMIT, as_checkpoint, is_published
from models.reading import look_inside
from models.referformer import ReferFormer
from models.start import by_part, load_pretrained_model
from models.text_description import read_description
from models.text_encoder import TextEncoder
from models.windows import window_sizes
from util.options.inference import InferenceOptions
from util.run import dist, optim
from util.run.device import device_of
from util.run.memory import keep_large_buffers
from util.run.precision import AMP, amp_dtype, inference_amp, use_float32
from util.weights import checkpoint
from util.weights.checkpoint import CALIBRATION
from util.weights.history import notice

__all__ = [
    "Network",
    "Predictor",
    "PredictorSettings",
    "ProxyFormer",
    "ReferFormer",
    "asked_settings",
    "assemble",
    "build_criterion",
    "build_model",
    "build_optimizer",
    "build_predictor",
    "inference_predictor",
    "is_published",
    "load_checkpoint",
    "load_predictor",
    "load_pretrained_model",
    "load_with_options",
    "look_inside",
    "predictor_settings",
    "prepare_model",
    "restore_model",
    "scoring_settings",
    "settled_amp",
    "start_model",
    "upgraded",
]

TEXT_ENCODER = "roberta-base"  # of all published files


def build_model(args: argparse.Namespace, num_classes: int) -> Network:
    """The model of :func:`start_model` alone."""
    return start_model(args, num_classes)[0]


def start_model(args: argparse.Namespace, num_classes: int) -> tuple[Network, dict[str, str]]:
    """A new model as the options describe it, with the pretrained parts that they name.

    Args:
        args: of ``opts.parse_train_args``.
        num_classes: of the data set.

    Returns:
        The model, and what each part of it starts from: a flag with its file, or random weights. A part is a module of
        the network, or, where its weights are of several origins, a module of that.

    Raises:
        FileNotFoundError, ValueError: a weights file or the text encoder is missing or does not fit.
    """
    pooler = args.model == "referformer"
    text_encoder = TextEncoder.from_pretrained(args.text_encoder, frozen=args.freeze_text_encoder, pooler=pooler)
    model = assemble(args, num_classes, text_encoder)
    origins = dict.fromkeys(model.state_dict(), "random weights")

    def begin(names: Iterable[str], flag: str, value: object) -> None:
        origins.update(dict.fromkeys(names, f"--{flag} {value}"))

    begin((name for name in origins if name.startswith("text_encoder.")), "text_encoder", args.text_encoder)
    if args.backbone_pretrained:
        load_pretrained(model.backbone, args.backbone_pretrained)
        of_backbone = (name for name in origins if name.startswith("backbone."))
        begin(of_backbone, "backbone_pretrained", args.backbone_pretrained)
    if args.pretrained_weights:
        taken = load_pretrained_model(model, args.pretrained_weights)
        begin(taken, "pretrained_weights", args.pretrained_weights)
    return model, by_part(origins)


def assemble(args: argparse.Namespace, num_classes: int, text_encoder: TextEncoder) -> Network:
    """The model that the options describe, with random weights around the given text encoder.

    The form in which the encoder reads texts is set to that of the options.
    """
    text_encoder.form = args.text_form
    pretrained = args.backbone_pretrained or args.pretrained_weights
    backbone = build_backbone(
        args.backbone,
        pretrained=pretrained is not None,
        freeze_stem=args.freeze_stem,
        stochastic_depth=args.stochastic_depth,
    )
    if args.model == "referformer":
        return ReferFormer(
            backbone=backbone,
            map_norms=args.backbone in SWINS,
            text_encoder=text_encoder,
            dim=args.hidden_dim,
            heads=args.nheads,
            dropout=args.dropout,
            dim_feedforward=args.dim_feedforward,
            enc_layers=args.enc_layers,
            dec_layers=args.dec_layers,
            levels=args.num_feature_levels,
            num_queries=args.num_queries,
            num_classes=num_classes,
            mask_dim=args.mask_dim,
            mask_channels=args.dynamic_mask_channels,
            mask_layers=args.controller_layers,
            relative=not args.no_rel_coord,
            refine=args.with_box_refine,
            aux_loss=not args.no_aux_loss,
        )
    return ProxyFormer(
        backbone=backbone,
        text_encoder=text_encoder,
        dim=args.hidden_dim,
        heads=args.nheads,
        dropout=args.dropout,
        enc_layers=args.enc_layers,
        dec_layers=args.dec_layers,
        num_queries=args.num_queries,
        num_classes=num_classes,
        mask_dim=args.mask_dim,
        dim_feedforward=args.dim_feedforward,
        token_stride=args.token_stride,
        mask_decoder=args.mask_decoder,
        time_encoding=args.time_encoding,
        aux_loss=not args.no_aux_loss,
        jsc_target=args.jsc_target,
        full=args.cmie == "full",
        video_reads=args.video_reads if args.proxy_to_video else "nothing",
        jsc_after=args.jsc_video == "after",
    )


def build_criterion(args: argparse.Namespace) -> Criterion:
    """Matching and losses as the options weight them."""
    focal = dict(focal_alpha=args.focal_alpha, focal_gamma=args.focal_gamma)
    costs = LossWeights(
        args.set_cost_class, args.set_cost_bbox, args.set_cost_giou, args.set_cost_mask, args.set_cost_dice
    )
    return Criterion(
        matcher=TrajectoryMatcher(costs, **focal),
        weights=LossWeights(
            args.cls_loss_coef, args.bbox_loss_coef, args.giou_loss_coef, args.mask_loss_coef, args.dice_loss_coef
        ),
        mask_loss_size=args.mask_loss_size,
        mask_loss_norm=args.mask_loss_norm,
        jsc_weight=args.jsc_loss_coef,
        jsc_temperature=args.jsc_temperature,
        all_frames=args.jsc_target != "none",
        **focal,
    )


def load_checkpoint(path: str | Path, given: Mapping[str, object] | None = None) -> dict:
    """The content of a checkpoint of this program, of whichever version, or of a published file of ReferFormer.

    Args:
        given: options of the command line that describe the model of a published file; ``text_encoder`` is the RoBERTa
            whose tokenizer it was trained with, by default ``roberta-base``.

    Raises:
        FileNotFoundError, ValueError: the file is missing, damaged, or of another program.
    """
    content = checkpoint.read(path)
    if is_published(content):
        given = dict(given or {})
        content = as_checkpoint(content, path, str(given.pop("text_encoder", None) or TEXT_ENCODER), given)
    return upgraded(checkpoint.checked(content, path), path)


def restore_model(saved: dict, source: str | Path, *, to_train: bool = False) -> Network:
    """The model in the content of a checkpoint. No other file is needed.

    It gets the averaged weights if the checkpoint has some, or with ``to_train`` those of the last step.

    Raises:
        ValueError: naming ``source``, which describes no model, or whose weights do not fit its own options.
    """
    saved = upgraded(saved, source)
    args = argparse.Namespace(**saved["options"])
    weights = saved["model"] if to_train else checkpoint.best_weights(saved)
    try:
        config, tokenizer = read_description(saved["text_encoder"])
    except ValueError as error:
        raise ValueError(f"{source} is damaged: {error}") from error

    def build() -> Network:
        how = dict(frozen=args.freeze_text_encoder, pooler=args.model == "referformer")
        text_encoder = TextEncoder(config=config, tokenizer=tokenizer, **how)
        return assemble(args, saved["num_classes"], text_encoder)

    # without memory for its weights, so that a description of a huge model costs nothing
    try:
        with torch.device("meta"):
            sketch = build()
    except ValueError as error:
        raise ValueError(f"the model of {source} cannot be built: {error}") from error
    weights = checkpoint.check_weights(sketch.state_dict(), weights, source)
    model = build()
    model.load_state_dict(weights)
    return model


def predictor_settings(args: argparse.Namespace, **given: object) -> PredictorSettings:
    """The settings of a predictor, from the options.

    Args:
        given: settings that replace those of the options; None leaves the option.
    """
    of_options = dict(
        eval_size=args.eval_size,
        max_size=args.max_size,
        amp=args.amp,
        long_text=args.long_text,
        patience=args.loader_timeout,
    )
    return PredictorSettings(**of_options | _given(given))


def scoring_settings(args: argparse.Namespace, scores_frames: bool, amp: str) -> PredictorSettings:
    """The settings to score a split with.

    Where a ReferFormer has no limit of the long side, that of single frames is the one of its own evaluation.

    Args:
        args: of ``opts.parse_train_args``.
        scores_frames: whether the split has single frames, not whole videos.
        amp: settled on a device.

    Raises:
        ValueError: the options of windows, which single frames do not have, are given for them.
    """
    windows = dict(window=args.window, overlap=args.overlap, clips=args.clips)
    computed = dict(amp=amp, float32=args.float32)
    if not scores_frames:
        return predictor_settings(args, **computed, **windows)
    if windows != dict(window=None, overlap=None, clips="followed"):
        raise ValueError("--window, --overlap and --clips are for whole videos, not for single frames; leave them out")
    unlimited = args.model == "referformer" and args.max_size == NO_LIMIT
    return predictor_settings(args, **computed, max_size=LIMIT_OF_FRAMES if unlimited else None)


def asked_settings(saved: Mapping[str, object], asked: InferenceOptions, device: torch.device) -> PredictorSettings:
    """The settings of an inference script's predictor, the same on all ranks; all ranks must call it.

    Args:
        saved: the content of the checkpoint.
        asked: the options given on the command line, which win over those of the training.

    Raises:
        ValueError: the windows are impossible.
    """
    args = argparse.Namespace(**saved["options"])
    window, overlap = window_sizes(asked.window, asked.overlap, asked.clips)
    return predictor_settings(
        args,
        eval_size=asked.eval_size,
        max_size=asked.max_size,
        amp=settled_amp(asked.amp or inference_amp(args.amp), device),
        float32=asked.float32,
        window=window,
        overlap=overlap,
        clips=asked.clips,
        long_text=asked.long_text,
        patience=asked.loader_timeout,
        calibration=Calibration.of(saved.get(CALIBRATION)),
        not_there=asked.not_there,
    )


def settled_amp(amp: str, device: torch.device) -> str:
    """``amp``, where "auto" is replaced by the type that rank 0 chooses. All ranks must call it.

    On a CPU "auto" is decided by a measurement, which may turn out differently on other ranks or in a later run.
    """
    return dist.from_main(AMP[amp_dtype("auto", device)]) if amp == "auto" else amp


def build_predictor(model: Network, settings: PredictorSettings) -> Predictor:
    """A predictor of a model as it is, on the device where it is."""
    device, how = next(model.parameters()).device, dict(vars(settings))
    use_float32(how.pop("float32"), device)
    return Predictor(model, **how | {"amp": amp_dtype(settings.amp, device)})


def inference_predictor(model: Network, settings: PredictorSettings, device: torch.device) -> Predictor:
    """:func:`build_predictor` on ``device`` of a model that is only for inference from now on."""
    predictor = build_predictor(model.to(device), settings)
    for_inference(model, predictor.amp)
    return predictor


def prepare_model(args: argparse.Namespace, model: Network, device: torch.device) -> dict[str, int]:
    """Moves a model to the device and prepares it for training: its fast forms, and what the options ask for.

    Returns:
        How many parameters each pattern of ``--freeze`` names (:func:`models.prepare.freeze`).

    Raises:
        ValueError: an option does not fit this model.
    """
    use_float32(args.float32, device)
    model.to(device)
    if dist.active():  # now, because the average of the weights starts from them before the first step
        dist.copy_from_main(model.state_dict())
    for_training(model)
    frozen = prepare.freeze(model, args.freeze)
    if args.activation_checkpointing:
        prepare.recompute_activations(model)
    if args.compile:
        prepare.compile_blocks(model, args.compile)
    if args.fsdp:
        prepare.shard(model, device)
    return frozen


def build_optimizer(
    args: argparse.Namespace, model: Network, steps_per_epoch: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW and its learning-rate schedule, as the options set them."""
    groups = optim.parameter_groups(
        model, lr=args.lr, lr_backbone=args.lr_backbone, lr_text_encoder=args.lr_text_encoder
    )
    factor = optim.lr_factor(
        schedule=args.lr_schedule,
        warmup_steps=args.warmup_steps,
        steps_per_epoch=steps_per_epoch,
        epochs=args.epochs,
        lr_drop=args.lr_drop,
    )
    return optim.build_optimizer(groups, args.weight_decay, factor)


def load_predictor(
    path: str | Path,
    device: str | torch.device | None = None,
    *,
    eval_size: int | None = None,
    max_size: int | None = None,
    amp: str | None = None,
    float32: str = "tf32",
    window: int | None = None,
    overlap: int | None = None,
    clips: str = "followed",
    long_text: str = "shorten",
    text_encoder: str | None = None,
    not_there: float | None = None,
) -> Predictor:
    """A predictor from a checkpoint of ``main.py``, from exported weights or from a published file of ReferFormer.

    A note on stderr says what the weights were trained on and what they know, where they record it.

    ::

        predictor = load_predictor("checkpoint.pth")
        masks, scores = predictor("video.mp4", ["the dog on the left", "a man in red"])

    Args:
        path: of the checkpoint; or ``owner/name``, weights on the Hugging Face hub, where no path has this name.
        device: None takes a GPU when there is one.
        eval_size, max_size: short side of the network's input and limit of its long side; None: as in the training.
        amp: what to compute in, "off" (float32), "bf16", "fp16" or "auto"; None: off, or auto if the training was not.
        float32: how a GPU computes products of float32, for the whole process: "tf32", from factors rounded to 11 bits,
            or "ieee".
        window: frames that the network sees together; None: 40. overlap: frames that neighbouring windows share; None:
            8, or half of a window of fewer than 16.
        clips: how the windows of a long video are answered: "followed" follows objects from one to the next,
            "independent" answers each by itself, without overlap.
        long_text: "shorten" warns of a text that is longer than the text encoder takes, and reads its beginning;
            "refuse" raises ValueError.
        text_encoder: hub name or directory of the RoBERTa of a published file, whose configuration and tokenizer are
            read; None: ``roberta-base``. Other files hold their own.
        not_there: score below which an expression means nothing in the video, and its masks are empty; 0: they never
            are. None: 0.5 where the checkpoint is calibrated (tools/calibrate.py), so that scores are probabilities;
            else 0.

    Raises:
        FileNotFoundError, ValueError: the file is missing or damaged, or a setting is impossible.
    """
    asked = dict(eval_size=eval_size, max_size=max_size, amp=amp, float32=float32, long_text=long_text)
    asked |= dict(window=window, overlap=overlap, clips=clips, not_there=not_there)
    return load_with_options(path, device, text_encoder=text_encoder, **asked)[0]


def load_with_options(
    path: str | Path,
    device: str | torch.device | None = None,
    text_encoder: str | None = None,
    **asked: object,
) -> tuple[Predictor, argparse.Namespace]:
    """:func:`load_predictor` and the options of the training."""
    device = device_of(device)
    if device.type == "cpu":  # not use_device: a library leaves the current GPU of its caller as it is
        keep_large_buffers()
    saved = load_checkpoint(path, {"text_encoder": text_encoder})
    model, args = restore_model(saved, path), argparse.Namespace(**saved["options"])
    trained_in = inference_amp(args.amp)
    # no time limit: reading a long film may take long
    usual = {"amp": trained_in, "patience": 0, "calibration": Calibration.of(saved.get(CALIBRATION))}
    settings = predictor_settings(args, **usual | _given(asked))
    predictor = inference_predictor(model, settings, device)
    predictor.notice = notice(saved)
    if predictor.notice:
        _tell(predictor.notice)
    return predictor, args


@cache
def _tell(what: str) -> None:
    """Prints a note, once in a process."""
    if dist.is_main():
        print(f"note: {what}", file=sys.stderr, flush=True)


def _given(values: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}
