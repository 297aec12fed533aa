"""The script for SLURM, with stand-ins for its commands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers import ROOT

# like the real one it passes signals on to all processes of its nodes
SRUN = """#!/bin/bash
set -m
shift
nodes=()
for node in 0 1; do
    SLURM_NODEID=$node "$@" &
    nodes+=($!)
done
trap 'kill -TERM -- "${nodes[@]/#/-}"' TERM
code=0
for node in "${nodes[@]}"; do
    while kill -0 "$node" 2>/dev/null; do wait "$node"; done
    wait "$node"
    last=$?
    ((last == 0)) || code=$last
done
exit $code
"""
SCONTROL = """#!/bin/bash
case "$1" in
    show) printf 'first\\nsecond\\n' ;;
    requeue) echo "$2" >"$REQUEUED" ;;
esac
"""
RECIPE = f"""#!/bin/bash
echo "$NODE_RANK of $NNODES, $GPUS_PER_NODE GPUs, at $MASTER_ADDR:$PORT: $*" >>"$1.$NODE_RANK"
[[ "$2" == fail ]] && exit 3
[[ "$2" == wait ]] || exit 0
{sys.executable} -c 'import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
pathlib.Path(sys.argv[1]).touch()
time.sleep(60)' "$1.ready.$NODE_RANK"
code=$?
echo "left with $code" >>"$1.$NODE_RANK"
exit $code
"""


@pytest.fixture
def job(tmp_path):
    """Starts the script as a job on two nodes whose recipe gets these arguments."""
    for path, text in {"bin/srun": SRUN, "bin/scontrol": SCONTROL, "scripts/recipe.sh": RECIPE}.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
        (tmp_path / path).chmod(0o755)
    env = os.environ | {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "REQUEUED": str(tmp_path / "requeued"),
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "nodes",
        "SLURM_JOB_ID": "20007",
        "SLURM_GPUS_ON_NODE": "4",
    }

    def start(*arguments: str) -> subprocess.Popen:
        words = ["bash", ROOT / "scripts" / "slurm_train.sh", *arguments]
        return subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    return start


def test_every_node_runs_the_recipe(job, tmp_path):
    done = job("recipe.sh", str(tmp_path / "out"), "--lr", "0.1")
    assert done.communicate(timeout=30)[0] == "" and done.returncode == 0
    for rank in (0, 1):
        said = (tmp_path / f"out.{rank}").read_text()
        assert said == f"{rank} of 2, 4 GPUs, at first:20007: {tmp_path}/out --lr 0.1\n"
    assert not (tmp_path / "requeued").exists()


def test_the_job_is_queued_again_when_its_time_is_up(job, tmp_path):
    running = job("recipe.sh", str(tmp_path / "out"), "wait")
    deadline = time.monotonic() + 30
    while len(list(tmp_path.glob("out.ready.*"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    running.send_signal(signal.SIGUSR1)
    said = running.communicate(timeout=30)[0]
    assert running.returncode == 75 and "queued again" in said
    assert (tmp_path / "requeued").read_text() == "20007\n"
    assert all((tmp_path / f"out.{rank}").read_text().endswith("left with 75\n") for rank in (0, 1))


def test_a_failure_is_not_queued_again(job, tmp_path):
    failed = job("recipe.sh", str(tmp_path / "out"), "fail")
    failed.communicate(timeout=30)
    assert failed.returncode == 3 and not (tmp_path / "requeued").exists()


@pytest.mark.parametrize(
    ("arguments", "message"), [(["recipe.sh"], "usage: sbatch"), (["no.sh", "out"], "is no script")]
)
def test_what_is_missing_is_said(job, arguments: list[str], message: str, tmp_path: Path):
    refused = job(*arguments)
    assert message in refused.communicate(timeout=30)[0] and refused.returncode == 2
