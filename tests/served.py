"""app.py as a process of its own, for tests."""

from __future__ import annotations

import importlib.util
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

import numpy as np

from tests.helpers import ROOT
from util.video.visualize import write_video

OVER = ROOT / ".venv-app" / "bin" / "python"
PYTHON = sys.executable if importlib.util.find_spec("gradio") else str(OVER) if OVER.is_file() else None
SECONDS = 3


def missing() -> list[str]:
    """What this machine lacks."""
    return [] if PYTHON else ["gradio (./scripts/test.sh --browser installs it in .venv-app)"]


class Server:
    """app.py as a process of its own; its temporary files go to ``temporary``. Use it in ``with``."""

    def __init__(self, temporary: Path, *options: str) -> None:
        self.temporary = temporary
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [PYTHON, ROOT / "app.py", "--resume", ROOT / "pretrained_weights" / "demo.safetensors"]
        command += ["--port", str(port), "--device", "cpu", "--max_megabytes", "1", "--max_seconds", str(SECONDS)]
        command += options
        self.process = subprocess.Popen(
            command,
            env=os.environ | {"TMPDIR": str(temporary)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.said: list[str] = []
        address: queue.Queue[str] = queue.Queue()

        def listen() -> None:
            for line in self.process.stdout:
                self.said.append(line)
                if "(Ctrl-C ends it)" in line:
                    address.put(line.split()[0])
            address.put("")

        self._listener = threading.Thread(target=listen, daemon=True)
        self._listener.start()
        self.address = address.get(timeout=180)
        assert self.address == f"http://127.0.0.1:{port}/", self.said

    def files(self) -> list[Path]:
        """What lies in its folders of answers and of uploads, the examples aside."""
        (folder,) = self.temporary.glob("proxyformer-*")
        paths = [p for place in ("jobs", "page") for p in (folder / place).rglob("*") if p.is_file()]
        return [path for path in paths if not path.name.startswith("shapes_")]

    def ends(self, by: signal.Signals) -> None:
        """Ends it, as it should end: with a message, without an error, and leaving nothing."""
        self.process.send_signal(by)
        assert self.process.wait(60) == 0
        self._listener.join(20)
        assert "Traceback" not in "".join(self.said) and self.said[-1] == "stopped\n"
        assert list(self.temporary.glob("proxyformer-*")) == []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.process.kill()
        self.process.wait()


def film(path: Path, seconds: float, fps: float = 10, size: tuple[int, int] = (96, 161)) -> Path:
    """A video of a red square that moves over black."""
    frames = np.zeros((round(seconds * fps), *size, 3), np.uint8)
    for t, frame in enumerate(frames):
        frame[30:60, 20 + t % 60 : 50 + t % 60] = 215, 40, 40
    write_video(path, frames, fps)
    return path
