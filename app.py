"""Segments a video in the browser: upload it, write what to look for, see and download the masks.

    ./scripts/app.sh --resume pretrained_weights/demo.safetensors
    python app.py --resume output/run/checkpoint.pth --port 7861

The page is served on this machine only, unless --host names another address. It needs gradio, which scripts/app.sh
installs in a separate environment (requirements-app.txt says why).
"""

from __future__ import annotations

import argparse
import contextlib
import contextvars
import html
import importlib.util
import os
import signal
import socket
import time
import traceback
from pathlib import Path

import models
from models.predictor import Predictor
from opts import PREDICTOR_OPTIONS, add_predictor_options, add_text_encoder
from tasks.door import Door, LocalPage
from tasks.hosts import Names
from tasks.limits import LABELS, MASKS, Limits
from tasks.look import MESSAGE, SCRIPT, STYLE
from tasks.page import Desk, Stopped
from tasks.room import COMING, Room
from tools.data.make_synthetic import make_scene, paint
from util.files.own_folder import own_folder
from util.options.inference import add_not_there
from util.run import cli
from util.run.device import use_device
from util.run.parser import CommandParser
from util.video.visualize import write_video

EXAMPLES = (17, 10, 9)  # of the generator
EXAMPLE_SIZE = (288, 480)
EXAMPLE_FRAMES = 8  # as the shipped weights were trained
EXAMPLE_FPS = 4
ROOM = 2**31, 12  # bytes that the page's files may take, and so many of the largest uploads on top
TIDY_SECONDS = 5  # between two looks at them
COMMON = ("resume", "device", "amp", "not_there", "host", "port", "allow_origin", "max_megabytes", "max_seconds")
SESSIONS = 64  # whose inputs gradio remembers
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser("app.py", __doc__, COMMON)
    add_predictor_options(parser)
    add_text_encoder(parser)
    add_not_there(parser, None)
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in, whoever uses them")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument(
        "--allow_origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="another name of the page, as in https://name.example:8443; may be given several times",
    )
    parser.add_argument("--max_megabytes", type=int, default=200, metavar="N", help="of an uploaded video")
    parser.add_argument("--max_seconds", type=float, default=60, metavar="N", help="of the part that is segmented")
    parser.add_argument("--max_masks", type=int, default=MASKS, metavar="N", help="frames times expressions")
    args = parser.parse_args(argv)
    if not 0 < args.port < 65536:
        parser.error(f"--port {args.port}: is between 1 and 65535")
    if min(args.max_megabytes, args.max_masks) < 1 or not 0 < args.max_seconds < float("inf"):
        parser.error("--max_megabytes, --max_seconds and --max_masks must be above 0")
    try:
        args.names = Names(args.host, args.port, args.allow_origin)
    except ValueError as error:
        parser.error(str(error))
    return args


def example_clips(folder: Path) -> list[tuple[Path, str]]:
    """Draws a few videos of moving shapes; returns their files, each with its expressions, one per line."""
    clips = []
    for i, number in enumerate(EXAMPLES, 1):
        scene, expressions, rng = make_scene(0, "valid", number, EXAMPLE_FRAMES, EXAMPLE_SIZE)
        path = folder / f"shapes_{i}.mp4"
        write_video(path, paint(scene, rng), EXAMPLE_FPS)
        one_each: dict[int, str] = {}
        for expression in expressions:
            one_each.setdefault(expression.target, expression.text)
        clips.append((path, "\n".join(one_each.values())))
    return clips


def import_gradio(folder: Path) -> None:
    """Imports gradio as ``gr``. It reads these settings when it is imported, and keeps its files in ``folder``.

    Its reader of uploads is told to take one file and nothing else, because it keeps other fields in memory, of any
    size; and to write where the room deletes what an upload leaves that does not come to its end.
    """
    global gr
    os.environ |= {"GRADIO_TEMP_DIR": str(folder), "GRADIO_ANALYTICS_ENABLED": "False"}
    import gradio as gr
    from gradio import route_utils

    reader = route_utils.GradioMultiPartParser

    def one_file(*args, **how):
        return reader(*args, **how | dict(max_files=1, max_fields=0, upload_dir=COMING.get()))

    route_utils.GradioMultiPartParser = one_file


def told(error: Exception) -> gr.Error:
    """The message of an error for the page, which shows it as HTML."""
    if isinstance(error, cli.USER_ERRORS):
        return gr.Error(html.escape(str(error)), print_exception=False)
    if cli.lacks_memory(error):
        return gr.Error("memory does not suffice for this video; choose a part of it", print_exception=False)
    traceback.print_exception(error)
    fault = "This is a fault of the app, not of yours; the terminal in which it runs says more."
    return gr.Error(fault, print_exception=False)


def build_page(desk: Desk, clips: list[tuple[Path, str]]) -> gr.Blocks:
    """The page.

    Args:
        desk: answers the requests.
        clips: videos to pick, with expressions.
    """

    def segment(video, text, start, end, every, request: gr.Request, progress=gr.Progress()):  # noqa: B008 (its way)
        try:
            # gradio looks up here whose progress it shows; frames are read in another thread
            here = contextvars.copy_context()
            part = dict(start=start, end=end, every=every)
            path = video and video["path"]
            job = desk.segment(request.session_hash, path, text, **part, report=lambda *done: here.run(progress, *done))
            return {
                results: gr.Column(visible=True),
                legend: job.legend(),
                film: str(job.film),
                position: gr.Slider(1, max(2, len(job)), 1, step=1, visible=len(job) > 1),
                shown: gr.CheckboxGroup(
                    [(asked, i) for i, asked in enumerate(job.expressions)], value=list(range(len(job.expressions)))
                ),
                frame: job.frame(0),
                save_film: gr.DownloadButton(value=str(job.film)),
                save_masks: gr.DownloadButton(value=str(job.archive)),
            }
        except Stopped:
            gr.Info("stopped")
            return gr.skip()
        except Exception as error:
            raise told(error) from None

    def step(position, shown, request: gr.Request):
        try:
            return desk.frame(request.session_hash, position, shown)
        except Exception as error:
            raise told(error) from None

    def expect(request: gr.Request):
        desk.expect(request.session_hash)

    def stop(request: gr.Request):
        desk.stop(request.session_hash)

    def leave(request: gr.Request):
        desk.leave(request.session_hash)

    with gr.Blocks(title="ProxyFormer", analytics_enabled=False, fill_width=True) as page:
        meaning = desk.predictor.scores_mean
        gr.Markdown(f"# ProxyFormer\nFinds what you describe in every frame of a video; {meaning}.")
        gr.HTML(html.escape(desk.predictor.notice or ""), visible=bool(desk.predictor.notice), elem_id="notice")
        with gr.Row():
            with gr.Column(scale=2):
                video = gr.Video(label="Video", sources=["upload"], height=240, elem_id="video")
                text = gr.Textbox(
                    label="What to find, one expression per line",
                    placeholder="the dog on the left\nthe person jumping",
                    lines=4,
                    max_lines=desk.limits.expressions,
                    elem_id="expressions",
                )
                with gr.Accordion("Only a part of the video", open=False, elem_id="part"), gr.Row():
                    start = gr.Number(0, label=LABELS["--start"], minimum=0, elem_id="start")
                    end = gr.Number(0, label=LABELS["--end"], info="0: to its end", minimum=0, elem_id="end")
                    every = gr.Number(1, label=LABELS["--every"], minimum=1, precision=0, elem_id="every")
                with gr.Row():
                    run = gr.Button("Segment", variant="primary", scale=3, elem_id="segment")
                    halt = gr.Button("Stop", scale=1, elem_id="stop")
                gr.HTML(MESSAGE, elem_id="messages")
                gr.Markdown(f"At most {desk.limits}.")
            with gr.Column(scale=3):
                legend = gr.HTML("What is found appears here.", min_height=120, elem_id="legend")
                with gr.Column(visible=False) as results:
                    picture = dict(interactive=False, show_label=False, buttons=[])
                    with gr.Row():
                        with gr.Column(min_width=280):
                            gr.Markdown("**The film** with all that was found")
                            film = gr.Video(label="Overlay", autoplay=True, loop=True, elem_id="film", **picture)
                        with gr.Column(min_width=280):
                            gr.Markdown("**One frame** of it, chosen below")
                            frame = gr.Image(label="Frame", format="jpeg", elem_id="frame", **picture)
                    position = gr.Slider(1, 2, 1, step=1, label="Frame", buttons=[], elem_id="position")
                    shown = gr.CheckboxGroup(label="Painted over", elem_id="shown")
                    with gr.Row():
                        save_film = gr.DownloadButton("Overlay (mp4)", elem_id="save_film")
                        save_masks = gr.DownloadButton("Masks (zip of PNG)", elem_id="save_masks")
        gr.Examples(
            [[str(path), asked] for path, asked in clips],
            [video, text],
            label="Drawn shapes to try",
            elem_id="examples",
        )
        # what comes is checked by the desk, as it is, not by gradio
        as_it_is = dict(preprocess=False, api_visibility="private")
        run.click(
            segment,
            [video, text, start, end, every],
            [results, legend, film, position, shown, frame, save_film, save_masks],
            show_progress_on=legend,
            **as_it_is,
        )
        # outside of the queue: these need not wait for a segmentation
        beside = dict(queue=False, show_progress="hidden", **as_it_is)
        for moved in (position.input, shown.input):
            moved(step, [position, shown], frame, trigger_mode="always_last", **beside)
        run.click(expect, **beside)
        halt.click(stop, **beside)
        page.unload(leave)
    return page.queue(max_size=desk.limits.waiting, default_concurrency_limit=1, api_open=False)


def serve(args: argparse.Namespace, predictor: Predictor, folder: Path) -> None:
    """Serves the page until Ctrl-C, SIGTERM or SIGHUP; all its files are in ``folder``."""
    import_gradio(folder / "page")
    examples = folder / "examples"
    examples.mkdir()
    limits = Limits(args.max_megabytes, args.max_seconds, masks=args.max_masks)
    desk = Desk(predictor, folder / "jobs", limits)
    page = build_page(desk, example_clips(examples))
    room = Room(folder / "page", ROOM[0] + ROOM[1] * args.max_megabytes * 2**20)
    inputs = {number: len(function.inputs) for number, function in page.fns.items()}
    door = dict(names=args.names, room=room, given=[examples], megabytes=args.max_megabytes, inputs=inputs)
    try:
        _, address, _ = page.launch(
            server_name=args.host,
            server_port=args.port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=args.max_megabytes * 2**20,
            state_session_capacity=SESSIONS,
            allowed_paths=[str(examples)],
            theme=gr.themes.Base(font=("system-ui", "sans-serif"), font_mono=("monospace",)),
            css=STYLE,
            js=SCRIPT,
            app_kwargs={"middleware": [(Door, (), door), (LocalPage, (), {})]},
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
        )
        print(f"{address}  (Ctrl-C ends it)", flush=True)
        while True:
            time.sleep(TIDY_SECONDS)
            room.tidy()
            # gradio would list the files of all times
            for known in page.temp_file_sets:
                known.clear()
    finally:
        desk.close()
        page.close()


def check_can_serve(host: str, port: int) -> None:
    """Raises ValueError where the page cannot be served, before the checkpoint is read."""
    if importlib.util.find_spec("gradio") is None:
        raise ValueError(
            "gradio is not installed here. ./scripts/app.sh takes the same options, installs it in an environment of "
            "its own and starts the app. What it installs, among it an older Pillow, is in requirements-app.txt"
        )
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise ValueError(
            f"--host {host} --port {port} cannot be served: {error.strerror or error}; give another"
        ) from error


def end_by_signals() -> None:
    """Makes every signal of :data:`ENDING` end the process as Ctrl-C does, so that its folder is deleted."""
    for number in ENDING:
        # under nohup SIGHUP is ignored, so that the page outlives its terminal; this stays
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


def main() -> int:
    args = parse_args()
    check_can_serve(args.host, args.port)
    how = {name: getattr(args, name) for name in PREDICTOR_OPTIONS}
    predictor = models.load_predictor(args.resume, use_device(args.device), **how)
    end_by_signals()
    with own_folder("proxyformer-") as folder:
        try:
            serve(args, predictor, folder)
        except KeyboardInterrupt:
            with contextlib.suppress(OSError):  # the terminal may be gone
                print("stopped", flush=True)
        finally:
            # nothing interrupts the deletion of the folder
            for number in ENDING:
                signal.signal(number, signal.SIG_IGN)
    return 0


if __name__ == "__main__":
    cli.run(main)
