"""Pretrains a backbone and a text encoder together, from random weights, to find the object that an expression means.

    python tools/small_job/pretrain_alignment.py data/synthetic --backbone tsm_resnet10_half \\
        --text_encoder data/synthetic/text_encoder --output_dir output/pretrained

For real videos, encoders learn this from ImageNet, Kinetics and RoBERTa's corpus; here they learn it from the training
videos. The masks of all objects are given, the features of the backbone are averaged within each mask, and the text has
to pick one object. That takes far fewer steps than learning to segment, and the features carry over to segmentation.
Two more losses teach the features the category of each pixel and the direction in which it moves.

main.py takes the results: ``--backbone_pretrained OUTPUT_DIR/backbone.pth --text_encoder OUTPUT_DIR/text_encoder``.
It is for small networks and sets of one frame size.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.data import IterableDataset
from transformers import AutoTokenizer

from datasets.loader import TrainLoader, single_threaded
from datasets.sides import swap_sides
from datasets.ytvos import annotations_root, frame_files, frames_root, is_object_id, read_videos, split_videos
from models.backbone import build_backbone
from models.criterion import subsample
from models.text_encoder import TextEncoder
from tools.small_job.stages import ends
from util.files.folders import new_folder, require_new
from util.run.cli import run
from util.run.device import use_device
from util.run.log import progress_bar
from util.run.parser import CommandParser
from util.run.precision import amp_dtype, autocast
from util.samples.frames import normalise
from util.samples.structures import Movable
from util.samples.text import in_form
from util.video.pictures import image_size, read_frames, read_label_maps

BACKGROUND_WEIGHT = 0.1  # most pixels are background, which teaches little
DIRECTIONS = 5  # none, left, right, up, down
STILL = 1.2  # pixels per frame; slower objects have no direction. Fits the generator's default size and length
FIRST_STEPS, TIMED_STEPS = 5, 15  # the first ones are slower; then so many are timed
MIN_STEPS = 20  # the one-cycle schedule rises for a tenth of the steps, and needs two for it
UNKNOWN = -100  # a class that the loss ignores
WHOLE_SHARE = 0.7  # of an object's largest area in the clip; with less in view its centre does not show its motion


@dataclass
class Clips(Movable):
    """Some clips with their annotations. Shapes: v clips, t frames, b expressions. Objects are numbered from 1.

    Attributes:
        frames: uint8 ``[v, t, 3, H, W]``.
        labels: uint8 ``[v, t, H, W]``, the object of each pixel; 0: no object.
        classes: uint8 ``[v, t, H, W]``, the category of each pixel, from 1; 0: no object.
        texts: b expressions.
        clip: long ``[b]``, the clip of each expression; target: long ``[b]``, the object that it means.
    """

    frames: Tensor
    labels: Tensor
    classes: Tensor
    texts: list[str]
    clip: Tensor
    target: Tensor


class Videos:
    """Training videos with expressions, masks and categories, in the layout of Ref-YouTube-VOS.

    Args:
        root: folder of the data set; num_frames: of a clip; holdout: training videos to leave out, as in main.py.

    Attributes:
        names: of the videos; categories: of their objects, sorted; objects: the largest number of an object.

    Raises:
        FileNotFoundError, ValueError: a file is missing or not of the documented form, a video is too short, or the
            frames have several sizes.
    """

    def __init__(self, root: Path, num_frames: int, holdout: int = 0) -> None:
        self.root, self.num_frames = root, num_frames
        self.videos = split_videos(root, "train", holdout)
        self.names = list(self.videos)
        path = root / "train" / "meta.json"
        known = read_videos(path)
        category = {name: _categories(path, known, name, self.videos[name]) for name in self.names}
        self.categories = sorted({c for objects in category.values() for c in objects.values()})
        if len(self.categories) > 255:
            raise ValueError(f"{path} has {len(self.categories)} categories; this tool is for at most 255")
        self.objects = max(max(objects) for objects in category.values())
        self._class_of = {}
        for name, objects in category.items():
            table = torch.zeros(256, dtype=torch.uint8)
            for number, c in objects.items():
                table[number] = self.categories.index(c) + 1
            self._class_of[name] = table
        shortest = min(self.names, key=lambda name: len(self.videos[name]["frames"]))
        if len(self.videos[shortest]["frames"]) < num_frames:
            raise ValueError(
                f"--num_frames {num_frames}: video {shortest} has {len(self.videos[shortest]['frames'])} frames; "
                "give at most as many"
            )
        self.files = frame_files(frames_root(root, "train"), self.videos)
        first = {name: image_size(frames_root(root, "train") / name / self.files[name][0]) for name in self.names}
        other = next((name for name in self.names if first[name] != first[self.names[0]]), None)
        if other is not None:
            raise ValueError(
                f"{root}: video {other} is {first[other]} pixels, {self.names[0]} {first[self.names[0]]}; this tool is "
                "for sets of one size"
            )

    def draw(self, count: int, generator: torch.Generator) -> Clips:
        """Random clips of consecutive frames with all expressions of their videos; half of the clips are mirrored.

        A clip with an expression that may become wrong by mirroring (:func:`swap_sides`) is not mirrored.
        """
        picks = torch.randint(len(self.names), (count,), generator=generator).tolist()
        frames, labels, classes = [], [], []
        texts: list[str] = []
        clip: list[int] = []
        target: list[int] = []
        for number, name in enumerate(self.names[i] for i in picks):
            entry = self.videos[name]
            start = int(torch.randint(len(entry["frames"]) - self.num_frames + 1, (), generator=generator))
            chosen = entry["frames"][start : start + self.num_frames]
            files = self.files[name][start : start + self.num_frames]
            images = read_frames([frames_root(self.root, "train") / name / file for file in files])
            masks = [annotations_root(self.root, "train") / name / f"{f}.png" for f in chosen]
            label = read_label_maps(masks, tuple(images.shape[-2:]))[:, 0]
            asked = [in_form(expression["exp"]) for expression in entry["expressions"].values()]
            swapped = [swap_sides(text) for text in asked]
            mirrored = bool(torch.rand((), generator=generator) < 0.5) and None not in swapped
            if mirrored:
                images, label = images.flip(-1), label.flip(-1)
            category = self._class_of[name][label.long()]
            frames.append(images)
            labels.append(label * (category > 0))  # void pixels have no category in meta.json
            classes.append(category)
            texts += swapped if mirrored else asked
            for expression in entry["expressions"].values():
                clip.append(number)
                target.append(int(expression["obj_id"]))
        return Clips(
            torch.stack(frames),
            torch.stack(labels),
            torch.stack(classes),
            texts,
            torch.tensor(clip),
            torch.tensor(target),
        )


def _categories(path: Path, known: dict, name: str, video: dict) -> dict[int, str]:
    """Category of each object of a video, by number. Raises ValueError where meta.json lacks one."""
    entry = known.get(name)
    objects = entry.get("objects") if isinstance(entry, dict) else None
    if not isinstance(objects, dict) or not objects:
        raise ValueError(f'{path}: video {name} must list its "objects"')
    for number, described in objects.items():
        if (
            not is_object_id(number)
            or not isinstance(described, dict)
            or not isinstance(described.get("category"), str)
        ):
            raise ValueError(f'{path}: video {name}, object {number} must be a number from 1 to 255 with a "category"')
    missing = {str(e["obj_id"]) for e in video["expressions"].values()} - {str(int(number)) for number in objects}
    if missing:
        raise ValueError(f"{path}: video {name} lacks object {min(missing)}, which an expression means")
    return {int(number): described["category"] for number, described in objects.items()}


class ClipStream(IterableDataset):
    """``steps`` draws of ``count`` clips each; equal seeds give equal draws."""

    def __init__(self, videos: Videos, *, count: int, steps: int, seed: int) -> None:
        self.videos, self.count, self.steps, self.seed = videos, count, steps, seed

    def __iter__(self) -> Iterator[Clips]:
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.steps):
            yield self.videos.draw(self.count, generator)


class Aligner(nn.Module):
    """A backbone and a text encoder with simple heads that compare objects with expressions.

    Args:
        classes: number of pixel classes, with the background; objects: largest number of an object; width: of the
            embeddings that are compared.
    """

    def __init__(self, backbone: nn.Module, text_encoder: TextEncoder, *, classes: int, objects: int, width: int = 128):
        super().__init__()
        self.backbone, self.text_encoder, self.objects = backbone, text_encoder, objects
        self.pixel_classes = nn.ModuleList(nn.Conv2d(c, classes, 1) for c in backbone.channels)
        self.pixel_directions = nn.ModuleList(nn.Conv2d(c, DIRECTIONS, 1) for c in backbone.channels[1:])
        self.features = nn.ModuleList(nn.Conv2d(c, width, 1) for c in backbone.channels[1:])
        self.object_embedding = nn.Sequential(
            nn.LayerNorm(2 * width), nn.Linear(2 * width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.text_embedding = nn.Linear(text_encoder.width, width)
        self.scale = width**-0.5

    def forward(self, frames: Tensor, regions: Tensor, texts: list[str], clip: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``frames [v, t, 3, H, W]``, ``regions [v, t, o, H, W]`` (the masks of o objects) and b expressions, each
        about one of the clips (``clip [b]``).

        Returns:
            Similarity of each expression and each object of its clip, ``[b, o]``; logits of the pixels' classes
            ``[(v t), classes, H/4, W/4]`` and of their directions ``[(v t), DIRECTIONS, H/8, W/8]``.
        """
        maps = [rearrange(x, "v t c h w -> (v t) c h w") for x in self.backbone(frames)]
        classes = _sum_up([head(x) for head, x in zip(self.pixel_classes, maps, strict=True)])
        directions = _sum_up([head(x) for head, x in zip(self.pixel_directions, maps[1:], strict=True)])
        features = _sum_up([head(x) for head, x in zip(self.features, maps[1:], strict=True)])
        share = F.adaptive_avg_pool2d(regions.flatten(0, 1).float(), features.shape[-2:])
        within = torch.einsum("nchw,nohw->noc", features.float(), share) / (share.sum((2, 3))[..., None] + 1e-3)
        within = within.unflatten(0, frames.shape[:2])
        there = regions.flatten(3).any(-1).float()[..., None]
        # each half of the clip by itself, so that the features keep the order of events
        t = frames.shape[1]
        halves = [
            (within[:, part] * there[:, part]).sum(1) / there[:, part].sum(1).clamp(min=1)
            for part in (slice(0, (t + 1) // 2), slice(t // 2, t))
        ]
        objects = self.object_embedding(torch.cat(halves, -1))
        words, valid = self.text_encoder(texts)
        text = self.text_embedding((words * valid[..., None]).sum(1) / valid.sum(1, keepdim=True))
        fit = torch.einsum("bc,boc->bo", text.float(), objects[clip].float()) * self.scale
        return fit, classes, directions


def _sum_up(maps: list[Tensor]) -> Tensor:
    """The sum of maps ``[n, c, h_i, w_i]``, finest first, in the finest size."""
    total = maps[-1]
    for finer in maps[-2::-1]:
        total = finer + F.interpolate(total, size=finer.shape[-2:], mode="bilinear")
    return total


def directions_of(regions: Tensor) -> Tensor:
    """The direction in which each object moves in each frame, from the frame before to the next: long ``[v, t, o]``.

    It is :data:`UNKNOWN` where the object is cut off in one of these frames, or the clip has one frame.

    Args:
        regions: bool ``[v, t, o, H, W]``.
    """
    t, (height, width) = regions.shape[1], regions.shape[-2:]
    area = regions.flatten(3).sum(-1)
    whole = (area > WHOLE_SHARE * area.amax(1, keepdim=True)) & (area > 0)
    x = (regions.sum(-2) * torch.arange(width, device=area.device)).sum(-1) / area.clamp(min=1)
    y = (regions.sum(-1) * torch.arange(height, device=area.device)).sum(-1) / area.clamp(min=1)
    centre = torch.stack((x, y), -1)
    number = torch.arange(t, device=area.device)
    before, after = (number - 1).clamp(min=0), (number + 1).clamp(max=t - 1)
    speed = (centre[:, after] - centre[:, before]) / (after - before).clamp(min=1)[:, None, None]
    axis = speed.abs().argmax(-1, keepdim=True)
    forward = speed.gather(-1, axis)[..., 0] > 0
    direction = torch.where(speed.abs().amax(-1) < STILL, 0, 1 + 2 * axis[..., 0] + forward)
    known = whole & whole[:, before] & whole[:, after] & (after > before)[:, None]
    return torch.where(known, direction, UNKNOWN)


def per_pixel(values: Tensor, labels: Tensor, background: int) -> Tensor:
    """The value of each pixel's object: ``values [v, t, o]`` and ``labels [v, t, H, W]`` to ``[v, t, H, W]``."""
    table = F.pad(values, (1, 0), value=background)
    return table.gather(2, labels.long().flatten(2)).view(labels.shape)


def pretrain(aligner: Aligner, stream: Iterable[Clips], *, steps: int, lr: float) -> float:
    """Trains in place on the ``steps`` draws of ``stream``; ``lr`` is the highest rate of a one-cycle schedule.

    It computes on the device of the aligner. After some steps it prints when it will end.

    Returns:
        Share of the expressions in the last tenth of the steps whose object was found; 0 without such expressions.
    """
    aligner.train()
    device = aligner.text_embedding.weight.device
    weight = torch.ones(aligner.pixel_classes[0].out_channels, device=device)
    weight[0] = BACKGROUND_WEIGHT
    text = list(aligner.text_encoder.parameters())
    text_ids = {id(p) for p in text}
    # half the rate, because the text encoder becomes unstable at high rates
    groups = [{"params": [p for p in aligner.parameters() if id(p) not in text_ids]}, {"params": text}]
    optimizer = torch.optim.AdamW(groups, lr=lr, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [lr, lr / 2], total_steps=steps, pct_start=0.1)
    amp = amp_dtype("auto", device)
    scene = torch.arange(1, aligner.objects + 1, device=device)[:, None, None]
    found: list[Tensor] = []
    for number, clips in enumerate(bar := progress_bar(stream, desc="alignment", unit="step", total=steps)):
        if number == FIRST_STEPS:
            start = time.perf_counter()
        if number == FIRST_STEPS + TIMED_STEPS:
            each = (time.perf_counter() - start) / TIMED_STEPS
            bar.write(f"alignment: {ends(steps - number, each)}")
            sys.stdout.flush()  # also into a file at once
        clips = clips.to(device, non_blocking=True)
        regions = clips.labels[:, :, None] == scene
        frames = normalise(clips.frames.flatten(0, 1)).unflatten(0, clips.labels.shape[:2])
        with autocast(device, amp):
            fit, classes, directions = aligner(frames, regions, clips.texts, clips.clip)
        shown = regions.flatten(3).any(-1).any(1)
        fit = fit.masked_fill(~shown[clips.clip], -1e4)
        asked = shown[clips.clip, clips.target - 1]  # the object may be out of sight in these frames
        loss = F.cross_entropy(
            classes.float(), subsample(clips.classes.flatten(0, 1), classes.shape[-2:]).long(), weight=weight
        )
        moving = subsample(
            per_pixel(directions_of(regions), clips.labels, UNKNOWN).flatten(0, 1), directions.shape[-2:]
        )
        if (moving != UNKNOWN).any():
            loss = loss + F.cross_entropy(directions.float(), moving, ignore_index=UNKNOWN)
        if asked.any():
            loss = loss + F.cross_entropy(fit[asked], clips.target[asked] - 1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        found.append(fit[asked].argmax(1) + 1 == clips.target[asked])
        bar.set_postfix(found=f"{torch.cat(found[-10:]).float().mean().item():.2f}", refresh=False)
    last = torch.cat(found[-max(1, steps // 10) :]).float()
    return last.mean().item() if len(last) else 0.0


def main() -> None:
    parser = CommandParser("pretrain_alignment.py", __doc__)
    parser.add_argument("ytvos_path", type=Path, help="data set in the layout of Ref-YouTube-VOS, with train/meta.json")
    parser.add_argument("--backbone", default="tsm_resnet10_half", help="as in main.py")
    parser.add_argument("--text_encoder", required=True, help="as in main.py")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch_size", type=int, default=6, help="clips")
    parser.add_argument("--num_frames", type=int, default=3, help="frames of a clip")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--holdout", type=int, default=0, metavar="N", help="as will be given to main.py")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="cuda, cuda:1, cpu; default: a GPU when there is one")
    args = parser.parse_args()
    if args.steps < MIN_STEPS or args.batch_size < 1 or args.num_frames < 1 or args.seed < 0 or not args.lr > 0:
        parser.error(
            f"--steps must be at least {MIN_STEPS}, --batch_size and --num_frames at least 1, --seed at least 0, --lr "
            "above 0"
        )
    require_new(args.output_dir)
    device = use_device(args.device)
    videos = Videos(args.ytvos_path, args.num_frames, args.holdout)
    torch.manual_seed(args.seed)
    backbone = build_backbone(args.backbone, pretrained=False)
    text_encoder = TextEncoder.from_pretrained(args.text_encoder, frozen=False)
    tokenizer = AutoTokenizer.from_pretrained(args.text_encoder)
    for layer in text_encoder.modules():  # generated expressions are too short for dropout
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    aligner = Aligner(backbone, text_encoder, classes=len(videos.categories) + 1, objects=videos.objects).to(device)
    stream = ClipStream(videos, count=args.batch_size, steps=args.steps, seed=args.seed)
    pinned = device.type == "cuda"
    loader = TrainLoader(stream, batch_size=None, num_workers=1, worker_init_fn=single_threaded, pin_memory=pinned)
    found = pretrain(aligner, loader, steps=args.steps, lr=args.lr)
    with new_folder(args.output_dir) as folder:
        aligner.cpu()
        torch.save(getattr(backbone, "net", backbone).state_dict(), folder / "backbone.pth")
        tokenizer.save_pretrained(folder / "text_encoder")
        text_encoder.model.save_pretrained(folder / "text_encoder")
    print(f"{args.output_dir}: {found:.1%} of the last expressions had their object found")


if __name__ == "__main__":
    run(main)
