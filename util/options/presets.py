"""The recipes of the paper and of ReferFormer, as defaults that explicit flags still override. Plain data."""

from __future__ import annotations

_A2D = dict(dataset_file="a2d", batch_size=2, eval_size=320, max_size=576, freeze_text_encoder=True)

# sizes for images: make_coco_transforms in ReferFormer's datasets/refexp.py
_STILLS = dict(
    train_sizes=[480, 512, 544, 576, 608, 640, 672, 704, 736, 768],
    train_max_size=800,
    crop_sizes=[296, 328, 360, 392, 416, 448, 480, 512],
    photometric=False,
)

# The paper, Section IV-B: length, augmentation and sizes (eval_size and max_size are main.py's defaults, or those of
# _A2D). It resizes all frames to one size, so RandomResize has one short side, as in MTTR, which has the same windows
# and sizes (datasets/*/*_dataset.py and configs/ of github.com/mttr2021/MTTR). Lost in our text, so choices: the
# learning rate (1e-4) and T (5), main.py's defaults. What the paper does not say is ReferFormer's.
_PAPER = dict(epochs=30, lr_drop=[20, 26], binary=True, freeze_text_encoder=True, random_crop=False, photometric=False)
# that start from weights pretrained on RefCOCO
FROM_REFCOCO = {"finetune", "paper", "a2d_finetune", "paper_a2d"}

PRESETS: dict[str, dict] = {
    "finetune": dict(epochs=6, lr_drop=[3, 5], binary=True, freeze_text_encoder=True),
    "scratch": dict(epochs=10, lr_drop=[6, 8], binary=True, freeze_text_encoder=True),
    "paper": dict(**_PAPER, train_sizes=[360]),
    "paper_a2d": _A2D | dict(**_PAPER, train_sizes=[320]),
    "pretrain": dict(
        dataset_file="all",
        binary=True,  # the class head then fits a fine-tuning on a data set with other categories
        epochs=12,
        lr_drop=[8, 10],
        batch_size=2,
        num_frames=1,
        freeze_text_encoder=False,
        **_STILLS,
    ),
    "joint": dict(dataset_file="joint", binary=True, epochs=12, lr_drop=[8, 10], freeze_text_encoder=True),
    "a2d_finetune": dict(**_A2D, epochs=6, lr_drop=[3, 5]),
    "a2d_scratch": dict(**_A2D, epochs=12, lr_drop=[8, 10], num_frames=6, dropout=0.0, weight_decay=1e-4),
}
for _recipe in PRESETS.values():
    _recipe["absent_object"] = "replace"

# What ReferFormer's own recipes set otherwise. Sources in github.com/wjn922/ReferFormer: scripts/dist_*.sh and
# docs/A2D-Sentences.md (refinement; one clip a GPU in the training from scratch on A2D), make_coco_transforms in
# datasets/a2d.py (sizes), __getitem__ in datasets/*.py (text).
_ITS_OWN = dict(with_box_refine=True, text_form="lower")
_ITS_A2D = dict(eval_size=360, max_size=640)
_DIFFERENCES = {
    "a2d_finetune": _ITS_A2D,
    "a2d_scratch": dict(**_ITS_A2D, batch_size=1),
}


def recipe(name: str, model: str) -> dict[str, object]:
    """The defaults of ``--preset`` for a ``--model``."""
    if model != "referformer":
        return PRESETS[name]
    return PRESETS[name] | _ITS_OWN | _DIFFERENCES.get(name, {})
