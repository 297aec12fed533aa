"""Teaches a backbone the categories of a data set, pixel by pixel, before any language is involved.

    python tools/pretrain_backbone.py data/synthetic --backbone timm:resnet10t --output_file backbone.pth

A network on generated videos starts from random weights, and learning what a triangle is through sentences alone takes
it most of its training. ImageNet or Kinetics weights do this for real videos; here the masks and categories of the
training videos do. The file is for ``--backbone_pretrained``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.video_io import read_frames, read_label_maps
from datasets.ytvos import annotations_root, frames_root
from models.backbone import TimmBackbone, build_backbone
from models.criterion import subsample
from util.cli import run
from util.frames import normalise
from util.log import progress_bar
from util.memory import keep_large_buffers
from util.writers import atomic_path

BACKGROUND_WEIGHT = 0.1  # most pixels are background, which has little to teach


class Frames:
    """Random training frames with the category of each pixel.

    Raises:
        FileNotFoundError, ValueError: there is no readable ``train/meta.json``.
    """

    def __init__(self, root: Path) -> None:
        path = root / "train" / "meta.json"
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; the categories come from it")
        try:
            videos = json.loads(path.read_text(encoding="utf-8"))["videos"]
            objects = {
                video: {int(o): entry["category"] for o, entry in content["objects"].items()}
                for video, content in videos.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a meta.json with a category for every object: {error}") from error
        self.root, self.objects, self.videos = root, objects, sorted(objects)
        self.categories = sorted({category for entry in objects.values() for category in entry.values()})

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """uint8 frames ``[count, 3, H, W]`` and their classes, long ``[count, H, W]``, 0 being the background."""
        frames, classes = zip(*(self._one(generator) for _ in range(count)), strict=True)
        if len({frame.shape for frame in frames}) > 1:
            raise ValueError(f"{self.root}: the frames have several sizes; this tool is for sets of one size")
        return torch.stack(frames), torch.stack(classes)

    def _one(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        video = self.videos[int(torch.randint(len(self.videos), (), generator=generator))]
        masks = sorted((annotations_root(self.root, "train") / video).glob("*.png"))
        if not masks:
            raise FileNotFoundError(f"{annotations_root(self.root, 'train') / video} holds no masks")
        mask = masks[int(torch.randint(len(masks), (), generator=generator))]
        frame = read_frames([frames_root(self.root, "train") / video / f"{mask.stem}.jpg"])[0]
        labels = read_label_maps([mask], tuple(frame.shape[1:]))[0, 0].long()
        table = torch.zeros(256, dtype=torch.long)
        for number, category in self.objects[video].items():
            table[number] = self.categories.index(category) + 1
        if torch.rand((), generator=generator) < 0.5:
            frame, labels = frame.flip(-1), labels.flip(-1)
        return frame, table[labels]


class PixelClassifier(nn.Module):
    """A backbone with the simplest head: class scores of its four maps, summed at the finest."""

    def __init__(self, backbone: nn.Module, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleList(nn.Conv2d(channels, classes, 1) for channels in backbone.channels)

    def forward(self, images: Tensor) -> Tensor:
        """``[b, 3, H, W]`` to scores ``[b, classes, H/4, W/4]``."""
        maps = [head(x[:, 0]) for head, x in zip(self.heads, self.backbone(images[:, None]), strict=True)]
        scores = maps[-1]
        for finer in maps[-2::-1]:
            scores = finer + F.interpolate(scores, size=finer.shape[-2:], mode="bilinear")
        return scores


def pretrain(backbone: nn.Module, frames: Frames, *, steps: int, batch_size: int, lr: float, seed: int) -> float:
    """Trains the backbone in place; returns the share of object pixels of the last tenth of steps that were right."""
    generator = torch.Generator().manual_seed(seed)
    network = PixelClassifier(backbone, len(frames.categories) + 1).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    weight = torch.tensor([BACKGROUND_WEIGHT] + [1.0] * len(frames.categories))
    right: list[float] = []
    for _ in (bar := progress_bar(range(steps), desc="backbone", unit="step")):
        images, classes = frames.draw(batch_size, generator)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            scores = network(normalise(images))
        classes = subsample(classes, scores.shape[-2:])
        loss = F.cross_entropy(scores.float(), classes, weight=weight)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        found = (scores[:, 1:].argmax(1) + 1 == classes)[classes > 0]
        right.append(found.float().mean().item() if len(found) else 1.0)
        bar.set_postfix(right=f"{right[-1]:.2f}", refresh=False)
    last = right[-max(1, steps // 10) :]
    return sum(last) / len(last)


def main() -> None:
    parser = argparse.ArgumentParser("pretrain_backbone.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("ytvos_path", type=Path, help="data set in the layout of Ref-YouTube-VOS, with train/meta.json")
    parser.add_argument("--backbone", default="timm:resnet10t", help="as in main.py")
    parser.add_argument("--output_file", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.steps < 2 or args.batch_size < 1 or args.seed < 0 or not args.lr > 0:
        parser.error("--steps must be at least 2, --batch_size at least 1, --seed at least 0 and --lr above 0")
    keep_large_buffers()
    torch.manual_seed(args.seed)
    backbone = build_backbone(args.backbone, pretrained=False)
    frames = Frames(args.ytvos_path)
    right = pretrain(backbone, frames, steps=args.steps, batch_size=args.batch_size, lr=args.lr, seed=args.seed)
    weights = backbone.net if isinstance(backbone, TimmBackbone) else backbone
    with atomic_path(args.output_file) as temporary:
        torch.save(weights.state_dict(), temporary)
    print(
        f"{args.output_file}: {right:.1%} of the object pixels in their category, {len(frames.categories)} categories"
    )


if __name__ == "__main__":
    run(main)
