"""The shell scripts in a repository of their own, with an interpreter that only writes down how it was called."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.helpers import ROOT

# Appends a record to $CALLS: working directory, CUDA_VISIBLE_DEVICES, arguments. Fails where the regular expression
# $FAIL fits them; with $STOP ends under torchrun as a run that left this word. Names in $OLD are Python 3.10. The look
# for packages is the real one. Under the name apt-get it puts what it installs beside itself.
INTERPRETER = rf"""#!/bin/bash
(IFS=$'\x1f'; printf '%s\x1e' "$PWD"$'\x1f'"${{CUDA_VISIBLE_DEVICES-unset}}"$'\x1f'"$*") >>"$CALLS"
[[ -z "${{STOP:-}}" || -z "${{PROXYFORMER_STOPPED:-}}" ]] || {{ echo "$STOP" >"$PROXYFORMER_STOPPED"; exit 1; }}
[[ -n "$FAIL" && " $* " =~ $FAIL ]] && exit 3
case " $* " in
    *" -m venv "*) mkdir -p "${{!#}}/bin" && touch "${{!#}}/pyvenv.cfg" && cp "$0" "${{!#}}/bin/python" ;;
    *" chromium chromium-driver "*) cp "$0" "${{0%/*}}/chromium" && cp "$0" "${{0%/*}}/chromedriver" ;;
    *" pip install "*) sleep "${{PIP_SECONDS:-0}}" ;;
    *device_count*) echo "${{FOUND:-0}}" ;;
    *version_info*) if [[ " $OLD " == *" ${{0##*/}} "* ]]; then echo 3.10.4; else echo 3.12.1; fi ;;
    *" - "*) exec {sys.executable} "$@" ;;
esac
exit 0
"""
NAMES = ("python3", "python3.14", "python3.13", "python3.12", "python3.11")


class Call(NamedTuple):
    cwd: str
    gpus: str
    args: list[str]


class Sandbox:
    """A copy of the scripts as a repository of its own, and the interpreter above under all names on the PATH."""

    def __init__(self, root: Path) -> None:
        self.root = root / "repository"
        self.log = root / "calls"
        self.env = {"PATH": f"{root / 'bin'}:/usr/bin:/bin", "CALLS": str(self.log), "HOME": str(root), "FAIL": ""}
        for folder in ("scripts", ".ci"):
            shutil.copytree(ROOT / folder, self.root / folder)
        for name in ("opts.py", "app.py", "inference_davis.py", "util", "tools"):
            (self.root / name).symlink_to(ROOT / name)
        self.require("einops==1.0\n", "pytest==1.0\n")
        for name in NAMES:
            self.interpreter(root / "bin" / name)
        self.venv = self.root / ".venv"
        self.python = str(root / "bin" / "python3")

    def require(self, run: str, development: str) -> None:
        (self.root / "requirements.txt").write_text(run)
        (self.root / "requirements-dev.txt").write_text(f"-r requirements.txt\n{development}")

    @staticmethod
    def interpreter(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(INTERPRETER)
        path.chmod(0o755)
        return path

    def start(self, script: str, *args: str, cwd: Path | None = None, **env: object) -> subprocess.Popen:
        environment = self.env | {name: str(value) for name, value in env.items()}
        path = self.root / ("scripts" if script.endswith(".sh") else ".") / script
        return subprocess.Popen(
            [path, *args],
            cwd=cwd or self.root,
            env=environment,
            stdout=-1,
            stderr=-1,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def run(self, script: str, *args: str, code: int = 0, **kwargs: object) -> str:
        """What a script prints; ``code`` is the exit status it must have."""
        process = self.start(script, *args, **kwargs)
        out, err = process.communicate(timeout=60)
        assert process.returncode == code, out + err
        return out + err

    def calls(self) -> list[Call]:
        """The calls since the last look, without questions about the version, the packages and the GPUs."""
        records = self.log.read_text().split("\x1e")[:-1] if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        calls = [Call(cwd, gpus, args) for cwd, gpus, *args in (record.split("\x1f") for record in records)]
        return [call for call in calls if call.args[0] not in ("-I", "-P", "-c")]

    def installs(self) -> list[str]:
        """Of the calls since the last look: "venv", and the requirements files given to pip."""
        calls = [call.args for call in self.calls() if "--version" not in call.args]
        return ["venv" if args[1] == "venv" else Path(args[-1]).name for args in calls]
