"""The readers of checkpoints, submissions, pictures and films."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from random import Random

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor

import models
from models.text_encoder import TextEncoder
from opts import parse_train_args
from tools.fuzzing import mutations
from tools.fuzzing.data_sets import YTVOS, each
from tools.fuzzing.runner import Target
from tools.make_tiny_text_encoder import make_encoder, train_tokenizer
from util.masks.results import write_mask_png
from util.masks.submission import validate_submission, write_submission_zip
from util.video.own_video import open_video
from util.video.pictures import image_size, orientation, read_frame, read_labels
from util.video.video_io import VideoFile
from util.weights import checkpoint

_TINY = "--hidden_dim 16 --nheads 2 --mask_dim 8 --enc_layers 1 --num_queries 2 --backbone tsm_resnet10_half"
_FILMS = {
    "mp4": ("libx264", "yuv420p"),
    "avi": ("mpeg4", "yuv420p"),
    "mkv": ("ffv1", "yuv420p"),
    "webm": ("libvpx", "yuv420p"),
}
_PICTURES = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")


def targets(root: Path) -> list[Target]:
    """A target for each kind of file; ``root`` holds the data sets, and is written to."""
    return [*_submissions(root), *_checkpoints(root), *_pictures(root), *_films(root)]


# ------------------------------------------------------------------------------------------------------- submissions


def _submissions(root: Path) -> list[Target]:
    videos = json.loads((root / YTVOS / "meta_expressions/valid/meta_expressions.json").read_text())["videos"]
    size = (48, 80)
    for vid, video in videos.items():
        for number, eid in enumerate(video["expressions"]):
            for frame in video["frames"]:
                mask = np.zeros(size, bool)
                mask[number : number + 9] = True
                write_mask_png(root / "results" / "Annotations" / vid / eid / f"{frame}.png", mask)
    path = root / "submission.zip"
    write_submission_zip(root / "results", path)

    def read() -> None:
        validate_submission(path, videos, lambda _: size)

    return [Target("submission", path, [path.read_bytes()], mutations.as_zip(mutations.as_png), read, root, inputs=80)]


# ------------------------------------------------------------------------------------------------------- checkpoints


def _checkpoints(root: Path) -> list[Target]:
    tokenizer = train_tokenizer(["the red circle", "a star that moves to the left"] * 5, 300)
    encoder = make_encoder(tokenizer, hidden_size=16, layers=1, heads=2, seed=0)
    text_encoder = TextEncoder(config=encoder.config, tokenizer=tokenizer.backend_tokenizer, frozen=False)
    args = parse_train_args(_TINY.split())
    model = models.assemble(args, 1, text_encoder)
    content = {
        "options": vars(args),
        "num_classes": 1,
        "text_encoder": text_encoder.description(),
        "model": model.state_dict(),
        "epoch": 1,
    }
    saved, exported = root / "checkpoint.pth", root / "weights.safetensors"
    checkpoint.save(saved, content)
    checkpoint.export(exported, checkpoint.load(saved), torch.float32)

    def restored(path: Path) -> Callable[[], None]:
        def read() -> None:
            predictor = models.load_predictor(path, "cpu")
            predictor(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), ["the red circle"])

        return read

    return [
        Target("checkpoint", saved, [saved.read_bytes()], _as_checkpoint, restored(saved), root, inputs=40),
        Target(
            "safetensors",
            exported,
            [exported.read_bytes()],
            mutations.as_safetensors,
            restored(exported),
            root,
            inputs=60,
        ),
    ]


def _as_checkpoint(random: Random, sounds: Sequence[bytes]) -> bytes:
    """A checkpoint with other options, another text encoder or other tensors; or one whose zip is damaged."""
    if random.random() < 0.25:
        return mutations.as_zip()(random, sounds)
    content = torch.load(BytesIO(sounds[0]), weights_only=True)
    weights = content["model"]
    for _ in range(random.choice((1, 1, 3))):
        name = random.choice(list(weights))
        what = random.randrange(12)
        if what == 0:
            weights[name] = random.choice(_odd_tensors(weights[name]))
        elif what == 1:
            weights[random.choice(("x", 3, None, name + ".x"))] = weights.pop(name)
        elif what == 2:
            key = random.choice(list(content))
            content[key] = random.choice(mutations.VALUES)
        else:
            key = random.choice(("options", "text_encoder", "text_encoder", "num_classes"))
            with suppress(ValueError, RecursionError):  # no JSON any more, or deeper than Python reads and writes it
                changed = json.loads(mutations.changed_json(random, content[key]))
                torch.save(changed, BytesIO())
                content[key] = changed
    out = BytesIO()
    torch.save(content, out)
    return out.getvalue()


def _odd_tensors(sound: Tensor) -> list[object]:
    tiny = torch.zeros((), dtype=sound.dtype)  # of any shape without memory
    return [
        sound.flatten(),
        sound.double(),
        sound.to(torch.complex64),
        sound.bool(),
        sound.float().mul(float("nan")),
        sound.float().add(float("inf")),
        sound.to_sparse(),
        tiny.expand(sound.shape),
        tiny.expand(2**20, 2**20),
        torch.empty(sound.shape, device="meta"),
        None,
        [1.0],
        "x",
    ]


# ------------------------------------------------------------------------------------------------- pictures and films


def _drawn(number: int = 0) -> np.ndarray:
    """uint8 RGB ``[48, 80, 3]``."""
    ramp = np.add.outer(np.arange(48), np.arange(80))[..., None] * np.array([1, 2, 0])
    return ((ramp + 5 * number) % 256).astype(np.uint8)


def _pictures(root: Path) -> list[Target]:
    pictures = []
    for name in _PICTURES:
        with BytesIO() as out:
            exif = Image.Exif()
            exif[0x0112] = 6
            more = {"exif": exif} if name in ("JPEG", "PNG", "WEBP") else {}
            Image.fromarray(_drawn()).save(out, name, **more)
            pictures.append(out.getvalue())
    labels = []
    for mode in ("P", "L", "1", "I;16", "RGB"):
        with BytesIO() as out:
            grey = Image.fromarray(_drawn()[..., 0] // 32)
            image = Image.fromarray(np.asarray(grey, np.uint16)) if mode == "I;16" else grey.convert(mode)
            image.save(out, "PNG")
            labels.append(out.getvalue())
    frame, mask = root / "frame.jpg", root / "mask.png"

    def read_picture() -> None:
        each(lambda: image_size(frame), lambda: orientation(frame), lambda: read_frame(frame))

    return [
        Target("picture", frame, pictures, mutations.as_png, read_picture, root, inputs=400),
        Target("label-map", mask, labels, mutations.as_png, lambda: read_labels(mask), root, inputs=400),
    ]


def _films(root: Path) -> list[Target]:
    films = []
    for suffix, (codec, pixels) in _FILMS.items():
        path = root / f"sound.{suffix}"
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt, stream.gop_size = 80, 48, pixels, 4
            container.metadata["title"] = "a film"
            for number in range(8):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(_drawn(number), format="rgb24")))
            container.mux(stream.encode())
        films.append((path, path.read_bytes()))

    def reader(path: Path) -> Callable[[], None]:
        def own() -> None:
            with open_video(path) as video:
                video.read(range(min(len(video), 4)))

        def of_data_set() -> None:
            with VideoFile(path) as video:
                video.read([0, len(video) - 1])

        return lambda: each(own, of_data_set)

    return [
        Target(f"film-{path.suffix[1:]}", path, [content], mutations.raw, reader(path), root, inputs=100)
        for path, content in films
    ]
