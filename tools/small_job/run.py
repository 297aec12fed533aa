"""The main job in small, from generated videos to scores and pictures, by the commands that a user would give.

./scripts/demo.sh --quick
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.small_job import tune
from tools.small_job.drawing import draw
from tools.small_job.held_out import controls, presence, score, summary, table
from tools.small_job.stages import FRAMES, LONG, PRETRAINED, ROOT, SHORT, VALID_VIDEOS, command, generate, step, train
from util.files.folders import require_new
from util.files.writing import write_json
from util.run import cli
from util.run.device import use_device
from util.run.parser import CommandParser
from util.run.precision import amp_dtype


def parse_args() -> argparse.Namespace:
    parser = CommandParser("demo.sh", __doc__)
    parser.add_argument("--output_dir", type=Path, default=Path("output/demo"), help="everything is written here")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="cuda, cuda:1, cpu; default: a GPU when there is one")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--long", action="store_true", help="train far longer: hours on a CPU")
    size.add_argument(
        "--tune", action="store_true", help="teach the shipped weights new shapes and colours, in minutes"
    )
    size.add_argument("--quick", action="store_true", help=f"train nothing; take {PRETRAINED.relative_to(ROOT)}")
    return parser.parse_args()


def main() -> None:
    asked = parse_args()
    start = time.perf_counter()
    device = use_device(asked.device)
    where = ["--device", asked.device] if asked.device else []
    out, data = asked.output_dir, asked.output_dir / "data"
    results = out / "valid"
    require_new(out)
    slow = device.type == "cpu" and amp_dtype("auto", device) is None
    if slow and not asked.quick:
        print(
            "this CPU has no instructions for bfloat16: in float32 everything takes up to four times as long; --quick "
            "shows a trained model in a minute"
        )
    if (asked.quick or asked.tune) and not PRETRAINED.is_file():
        raise FileNotFoundError(f"{PRETRAINED} is not in this copy of the repository; run without --quick and --tune")
    if asked.tune:
        found = tune.tune(out, asked.seed, device, where, slow, start)
        write_json(out / "metrics.json", found | {"seconds": round(time.perf_counter() - start, 1), "seed": asked.seed})
        print(tune.table(found))
        print(f"\n{time.perf_counter() - start:.0f} seconds. The numbers are in {out / 'metrics.json'},")
        print(f"films of the held-out videos in {out / 'valid' / 'overlays'}, the weights in {out / 'run'}.")
        return

    recipe = SHORT if not (asked.quick or asked.long) else LONG  # with which the shipped weights were trained, too
    if asked.quick:
        step(1, f"generating {VALID_VIDEOS} videos")
        generate(data, videos=1, frames=FRAMES, seed=asked.seed, absent=recipe.absent)
        step(2, f"nothing to train: {PRETRAINED.relative_to(ROOT)} is there")
        trained = PRETRAINED
    else:
        trained = train(recipe, out, data, asked.seed, where)

    step(3, "inference on the held-out videos, submission zip, scores")
    words = ["--resume", trained, "--split", "valid", "--ytvos_path", data, "--output_dir", results]
    command("inference_ytvos.py", *words, "--visualize", *where)
    scores = score(results, data)

    step(4, "the same videos without language, without time, without training")
    checked = controls(trained, out / "controls", data, asked.seed, device=device)
    told = presence(trained, out / "controls" / "not_there", data, device) if recipe.absent else None

    step(5, "pictures")
    sheet, film = out / "contact_sheet.png", out / "demo.mp4"
    draw(scores, results, data, sheet, film)
    metrics = summary(scores, checked) | {"seconds": round(time.perf_counter() - start, 1), "seed": asked.seed}
    metrics |= {"presence": told} if told else {}
    write_json(out / "metrics.json", metrics)
    print(table(metrics))
    print(f"\n{metrics['seconds']:.0f} seconds. Look at {sheet} and {film}; the numbers are in {out / 'metrics.json'},")
    print(f"the submission is {results / 'submission.zip'}, a film of each expression is in {results / 'overlays'},")
    print(f"the checkpoint is {trained}.")


if __name__ == "__main__":
    cli.run(main)
