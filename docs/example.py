"""What texts refer to in a video, from Python. In the repository's folder:

    PYTHONPATH=. python docs/example.py VIDEO "the dog on the left" "a man in red"

It writes the frame in the middle with the masks painted over it to output/example.png.

`masks, scores = predictor(VIDEO, texts)` is the short form; it holds the masks of the whole video at once.
"""

import sys
from pathlib import Path

from PIL import Image

from models import load_predictor
from util.run import cli
from util.video.own_video import open_video
from util.video.visualize import distinct_colours, painter


def main(path: str, *texts: str) -> None:
    predictor = load_predictor("pretrained_weights/demo.safetensors")  # or a checkpoint of main.py
    with open_video(path) as video:  # a film, a folder of frames or an image
        found = predictor.segment(video, list(texts))
        for text, score in zip(texts, found.scores, strict=True):
            print(f"{score:.2f}  {text}")
        paint = painter(texts, distinct_colours(len(texts)))
        for start in range(0, len(video), 8):
            frames = video.read(range(start, min(start + 8, len(video))))  # uint8 [t, 3, H, W]
            masks = found.masks(start, start + len(frames))  # bool [texts, t, H, W]
            pixels = masks.flatten(2).sum(2)
            for t, frame in enumerate(frames, start):
                print(f"frame {t}:", *(f"{count:6d} pixels" for count in pixels[:, t - start]))
                if t == len(video) // 2:
                    picture = paint(frame.permute(1, 2, 0).numpy(), masks[:, t - start].numpy())
                    Path("output").mkdir(exist_ok=True)
                    Image.fromarray(picture).save("output/example.png")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    cli.run(lambda: main(*sys.argv[1:]))  # what is wrong with the video, or a text, in one line
