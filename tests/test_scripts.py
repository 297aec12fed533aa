"""The shell scripts, run with an interpreter that only writes down how it was called."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

import inference_ytvos
from opts import parse_train_args
from tests.helpers import ROOT
from tests.sandbox import NAMES, Call, Sandbox
from util.run.parser import CommandParser
from util.run.version import VERSION

SCRIPTS = sorted((ROOT / "scripts").glob("*.sh"))
FINETUNE, SCRATCH = "dist_train_test_ytvos.sh", "dist_train_test_ytvos_scratch.sh"


@pytest.fixture
def sandbox(tmp_path):
    return Sandbox(tmp_path)


@pytest.mark.parametrize("path", [*SCRIPTS, ROOT / ".ci/run"], ids=lambda path: path.name)
def test_scripts_are_sound(path):
    subprocess.run(["bash", "-n", path], check=True)
    sourced = path.name.startswith("_")
    assert os.access(path, os.X_OK) != sourced
    assert path.read_text().startswith("#!/usr/bin/env bash\n") != sourced


class TestSetup:
    def test_installs_once(self, sandbox):
        first = sandbox.run("setup.sh")
        assert sandbox.installs() == ["venv", "requirements.txt"]
        second = sandbox.run("setup.sh")
        assert sandbox.installs() == []
        assert second == f"Python 3.12.1: {sandbox.venv}/bin/python\n" and first.endswith(second)

    def test_development_packages_are_added_and_suffice_for_all(self, sandbox):
        sandbox.run("setup.sh")
        sandbox.run("setup.sh", "--dev")
        assert sandbox.installs() == ["venv", "requirements.txt", "requirements-dev.txt"]
        sandbox.run("setup.sh")
        sandbox.run("setup.sh", "--dev")
        assert sandbox.installs() == []

    @pytest.mark.parametrize(
        ("run", "development", "expected"),
        [
            ("einops==1.1\n", "pytest==1.0\n", ["requirements.txt", "requirements-dev.txt"]),
            ("einops==1.0\n", "pytest==1.1\n", ["requirements-dev.txt"]),
        ],
    )
    def test_other_requirements_are_installed_into_the_same_environment(self, sandbox, run, development, expected):
        sandbox.run("setup.sh", "--dev")
        sandbox.calls()
        sandbox.require(run, development)
        for arguments in ((), ("--dev",), (), ("--dev",)):
            sandbox.run("setup.sh", *arguments)
        assert sandbox.installs() == expected

    def test_another_interpreter_in_the_environment_installs_anew(self, sandbox):
        sandbox.run("setup.sh")
        stamp = sandbox.venv / "installed"
        stamp.write_text(stamp.read_text().replace("3.12.1", "3.11.9"))
        sandbox.calls()
        sandbox.run("setup.sh")
        assert sandbox.installs() == ["requirements.txt"]

    @pytest.mark.parametrize(
        ("failing", "code", "mended"),
        [("pip install", 2, ["requirements.txt"]), ("-m venv", 3, ["venv", "requirements.txt"])],
    )
    def test_a_half_finished_installation_is_finished(self, sandbox, failing, code, mended):
        sandbox.run("setup.sh", FAIL=failing, code=code)
        sandbox.calls()
        sandbox.run("setup.sh")
        assert sandbox.installs() == mended

    def test_a_failed_update_is_not_taken_for_the_state_before(self, sandbox):
        sandbox.run("setup.sh")
        sandbox.require("einops==1.1\n", "")
        sandbox.run("setup.sh", FAIL="pip install", code=2)
        sandbox.require("einops==1.0\n", "")
        sandbox.calls()
        sandbox.run("setup.sh")
        assert sandbox.installs() == ["requirements.txt"]

    def test_an_environment_without_pip_is_made_anew(self, sandbox):
        sandbox.run("setup.sh")
        (sandbox.venv / "installed").unlink()
        (sandbox.venv / "left over").touch()
        sandbox.calls()
        sandbox.run("setup.sh", FAIL="pip --version")
        assert sandbox.installs() == ["venv", "requirements.txt"]
        assert not (sandbox.venv / "left over").exists()

    def test_two_at_once_install_once(self, sandbox):
        both = [sandbox.start("setup.sh", PIP_SECONDS=0.5) for _ in range(2)]
        outputs = [process.communicate(timeout=60) for process in both]
        assert [process.returncode for process in both] == [0, 0], outputs
        assert sandbox.installs() == ["venv", "requirements.txt"]

    @pytest.mark.parametrize("old", NAMES[:4])
    def test_a_newer_python_beside_an_old_python3_is_found(self, sandbox, old):
        names = NAMES[: NAMES.index(old) + 1]
        assert "3.12.1" in sandbox.run("setup.sh", OLD=" ".join(names))

    def test_an_old_python_is_refused(self, sandbox):
        assert "Python 3.11 or newer" in sandbox.run("setup.sh", OLD=" ".join(NAMES), code=2)
        message = sandbox.run("setup.sh", PYTHON=sandbox.python, OLD="python3", code=2)
        assert sandbox.python in message and "3.10.4" in message

    def test_a_python_without_venv_gets_the_mend(self, sandbox):
        message = sandbox.run("setup.sh", FAIL="import ensurepip", code=2)
        assert "apt install python3.12-venv" in message
        sandbox.run("setup.sh")

    @pytest.mark.parametrize("variable", ["PYTHON", "VIRTUAL_ENV", "CONDA_PREFIX", "PYTHON relative", "found .venv"])
    def test_an_environment_of_the_user_is_left_alone(self, sandbox, tmp_path, variable):
        home = sandbox.venv if variable == "found .venv" else tmp_path / "own"
        python = sandbox.interpreter(home / "bin" / "python")
        (home / "pyvenv.cfg").touch()
        env = {"PYTHON": python, "PYTHON relative": "own/bin/python", "found .venv": ""}.get(variable, home)
        chosen = {"cwd": tmp_path, variable.split()[0]: env}
        before = sorted(sandbox.root.rglob("*")), sorted(home.rglob("*"))

        assert sandbox.run("setup.sh", "--dev", **chosen) == f"Python 3.12.1: {python}\n"
        sandbox.require("no-such-package==1.0\neinops==1.0\nopencv-python-headless==5.0\n", "nor-this-one==1.0\n")
        message = sandbox.run("setup.sh", code=2, **chosen)
        assert f"{python} -m pip install no-such-package\n" in message
        message = sandbox.run("setup.sh", "--dev", code=2, **chosen)
        assert f"{python} -m pip install no-such-package nor-this-one\n" in message
        assert sandbox.calls() == []
        assert (sorted(sandbox.root.rglob("*")), sorted(home.rglob("*"))) == before

    @pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "VIRTUAL_ENV by a link", "PYTHON"])
    def test_its_own_environment_is_kept_current_when_active(self, sandbox, tmp_path, variable):
        (tmp_path / "link").symlink_to(sandbox.root)
        active = {"PYTHON": sandbox.venv / "bin/python", "VIRTUAL_ENV": sandbox.venv}.get(
            variable, tmp_path / "link/.venv"
        )
        sandbox.run("setup.sh")
        sandbox.run("setup.sh", "--dev", **{variable.split()[0]: active})
        assert sandbox.installs() == ["venv", "requirements.txt", "requirements-dev.txt"]

    def test_condas_base_is_no_choice(self, sandbox, tmp_path):
        sandbox.interpreter(tmp_path / "own/bin/python")
        message = sandbox.run("setup.sh", CONDA_PREFIX=tmp_path / "own", CONDA_DEFAULT_ENV="base")
        assert str(sandbox.venv) in message

    def test_an_environment_that_is_gone_is_named(self, sandbox, tmp_path):
        for variable in ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHON"):
            assert str(tmp_path / "gone") in sandbox.run("setup.sh", code=2, **{variable: tmp_path / "gone"})

    def test_other_arguments_get_the_usage(self, sandbox):
        for arguments in (["--bogus"], ["--dev", "x"]):
            assert "usage: setup.sh [--dev]" in sandbox.run("setup.sh", *arguments, code=2)


class TestBeforeSetUp:
    """Arguments, files and folders are checked before anything is installed, with any Python that is at hand."""

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            ("demo.sh --bogus", "demo.sh: error: unrecognized arguments: --bogus"),
            ("demo.sh --store_true", "demo.sh: error: unrecognized arguments: --store_true"),
            ("demo.sh --quick --long", "--long: not allowed with argument --quick"),
            ("demo.sh --seed x", "--seed: invalid int value"),
            ("demo.sh --output_dir", "--output_dir: expected one argument"),
            ("demo.sh --output_dir=full", "demo.sh: error: --output_dir full already holds something"),
            ("app.sh", "app.sh: error: --resume CKPT is missing"),
            ("app.sh --resume full/c.pth", "app.sh: error: --resume full/c.pth: there is no such file"),
            ("app.sh --resume full/c", "app.sh: error: --resume full/c: there is no such file"),
            ("app.sh --resume full/file --prot 1", "--prot: did you mean --port?"),
            ("app.sh --resum full/file", "--resum: did you mean --resume?"),
            ("app.sh --resume full/file --epochs 1", "app.py: error: unrecognized arguments: --epochs"),
            ("app.sh --resume full/file --window x", "--window"),
            ("dist_test_davis.sh out full/file", "--davis_path data/ref-davis: there is no such folder"),
            ("dist_test_davis.sh out full/file --bogus", "unrecognized arguments: --bogus"),
            ("dist_test_jhmdb.sh out full/file --jhmdb_path gone", "--jhmdb_path gone: there is no such folder"),
            (f"{SCRATCH} out", f"{SCRATCH}: error: --ytvos_path data/ref-youtube-vos: there is no such folder"),
            (f"{SCRATCH} out --ytvos_path full --epoch 3", "--epoch: did you mean --epochs?"),
            (f"{SCRATCH} out --ytvos_path full", "would start from random weights"),
            (f"{SCRATCH} out --ytvos_path full --backbone_pretrained gone.pth", "gone.pth: there is no such file"),
            ("dist_joint_train_ytvos.sh out --ytvos_path full", "--coco_path data/coco: there is no such folder"),
        ],
    )
    def test_what_cannot_run_stops_first(self, sandbox, tmp_path, words, told):
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "file").touch()
        (tmp_path / "bin" / "python3").unlink()
        (tmp_path / "bin" / "python3").symlink_to(sys.executable)
        script, *words = words.split()
        assert told in sandbox.run(script, *words, cwd=tmp_path, code=2)
        assert not sandbox.installs() and not sandbox.venv.exists() and not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("script", "command"),
        [("app.sh", "app.py"), ("demo.sh", "tools/small_job/run.py"), ("dist_test_davis.sh", "inference_davis.py")],
    )
    def test_the_options_that_are_checked_are_those_of_the_command(self, script, command, monkeypatch):
        known = []

        def parse(parser: CommandParser, *_: object) -> NoReturn:
            known.append(set(parser._option_string_actions))
            sys.exit()

        monkeypatch.setattr(CommandParser, "parse_known_args", parse)
        for words in (["scripts/check_options.py", script], [command]):
            monkeypatch.setattr("sys.argv", words)
            with pytest.raises(SystemExit):
                runpy.run_path(str(ROOT / words[0]), run_name="__main__")
        assert known[0] == known[1] and len(known[0]) > 5

    @pytest.mark.parametrize("script", ["demo.sh", "app.sh", "setup.sh", "slurm_train.sh", SCRATCH])
    def test_the_version_is_told_without_an_environment(self, sandbox, script):
        assert sandbox.run(script, "--version") == f"ProxyFormer {VERSION}\n" and sandbox.calls() == []

    def test_all_options_of_the_page_are_shown_without_weights(self, sandbox):
        sandbox.run("app.sh", "--help_all", PYTHON=sandbox.python)
        assert sandbox.calls()[-1].args == [f"{sandbox.root}/app.py", "--help_all"]

    @pytest.mark.parametrize("path", [path for path in SCRIPTS if not path.name.startswith("_")])
    def test_help_is_the_comment_at_the_top(self, sandbox, path):
        said = sandbox.run(path.name, "--help")
        first = next(line for line in path.read_text().splitlines() if line.startswith("# "))
        assert first.removeprefix("# ") == said.splitlines()[0] and "SBATCH" not in said
        assert "source " not in said and sandbox.calls() == []


class TestIncompleteWork:
    """Code 3 says that all is done but for some items."""

    def test_the_other_splits_are_scored_all_the_same(self, sandbox, tmp_path):
        sandbox.run(
            "dist_train_test_refcoco.sh",
            *("out", "refcoco"),
            cwd=tmp_path,
            PYTHON=sandbox.python,
            code=3,
            FAIL="--eval_split val",
        )
        scored = [call.args[call.args.index("--eval_split") + 1] for call in sandbox.calls() if "--eval" in call.args]
        assert scored == ["val", "testA", "testB"]

    def test_masks_of_davis_that_are_there_are_scored(self, sandbox, tmp_path):
        (tmp_path / "c.pth").touch()
        (tmp_path / "data/ref-davis").mkdir(parents=True)
        words = ("dist_test_davis.sh", "out", "c.pth")
        sandbox.run(*words, cwd=tmp_path, PYTHON=sandbox.python, code=3, FAIL="inference_davis.py")
        assert [Path(call.args[0]).name for call in sandbox.calls()][-2:] == ["inference_davis.py", "eval_davis.py"]


class TestRecipes:
    @pytest.fixture(params=[FINETUNE, SCRATCH])
    def recipe(self, request, sandbox, tmp_path):
        """Runs one of the scripts in ``tmp_path`` with output folder ``out``, and gives what it called."""
        (tmp_path / "weights.pth").touch()
        first = ["out", "weights.pth"] if request.param == FINETUNE else ["out"]

        def run(*args: str, code: int = 0, **env: object) -> tuple[list[Call], str]:
            text = sandbox.run(request.param, *first, *args, cwd=tmp_path, PYTHON=sandbox.python, code=code, **env)
            return sandbox.calls(), text

        run.script = request.param
        return run

    def test_trains_with_the_recipe_then_infers(self, recipe, sandbox, tmp_path):
        (train, infer), text = recipe("--lr", "0.5", "--ytvos_path", "a b")
        assert {train.cwd, infer.cwd} == {str(tmp_path)}
        assert train.args[0] == f"{sandbox.root}/main.py" and infer.args[0] == f"{sandbox.root}/inference_ytvos.py"
        args = parse_train_args(train.args[1:])
        finetune = recipe.script == FINETUNE
        assert (args.epochs, args.lr_drop) == ((6, [3, 5]) if finetune else (10, [6, 8]))
        assert args.pretrained_weights == ("weights.pth" if finetune else None)
        assert args.freeze_text_encoder and args.resume == "auto"
        assert (args.output_dir, args.lr, args.ytvos_path) == ("out", 0.5, "a b")
        asked = inference_ytvos.parse_args(infer.args[1:])
        assert (asked.resume, asked.split, asked.output_dir) == ("out/checkpoint.pth", "valid", "out/valid")
        assert text.endswith("out/valid/submission.zip\n")

    def test_weights_may_be_a_name_on_the_hub(self, sandbox, tmp_path):
        text = sandbox.run(FINETUNE, "out", "none/x.pth", cwd=tmp_path, PYTHON=sandbox.python, code=2)
        assert "PRETRAINED_WEIGHTS none/x.pth: there is no such file" in text and not sandbox.calls()
        sandbox.run(FINETUNE, "out", "owner/name", cwd=tmp_path, PYTHON=sandbox.python)
        assert parse_train_args(sandbox.calls()[0].args[1:]).pretrained_weights == "owner/name"
        sandbox.run(FINETUNE, "out", "own.er/na-me_2", cwd=tmp_path, PYTHON=sandbox.python)
        for word in ("own.er/", ".own/name", "own--er/name", "a/b/c", "bin/name"):
            text = sandbox.run(FINETUNE, "out", word, cwd=tmp_path, PYTHON=sandbox.python, code=2)
            assert f"PRETRAINED_WEIGHTS {word}: there is no such file" in text

    def test_a_run_goes_on_without_the_weights_that_it_started_from(self, sandbox, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "checkpoint.pth").touch()
        sandbox.run(FINETUNE, "out", "none/x.pth", cwd=tmp_path, PYTHON=sandbox.python)
        assert parse_train_args(sandbox.calls()[0].args[1:]).resume == "auto"

    def test_flags_win_over_the_recipe_but_the_output_folder_is_the_first_argument(self, recipe):
        (train, _), _ = recipe("--epochs", "2", "--lr_drop", "1", "--output_dir", "elsewhere")
        args = parse_train_args(train.args[1:])
        assert (args.epochs, args.lr_drop, args.output_dir) == (2, [1], "out")

    def test_goes_on_from_another_checkpoint_where_it_is_named(self, recipe):
        (train, _), _ = recipe("--resume", "other.pth")
        assert parse_train_args(train.args[1:]).resume == "other.pth"

    @pytest.mark.parametrize(
        ("env", "processes", "meeting"),
        [
            ({"GPUS": 2}, 2, ["--standalone"]),
            ({"GPUS": 2, "MAX_RESTARTS": 3}, 2, ["--standalone"]),
            ({"GPUS_PER_NODE": 3}, 3, ["--standalone"]),
            ({"FOUND": 4}, 4, ["--standalone"]),
            ({"FOUND": 8, "GPUS": 2, "PORT": 29511}, 2, ["--master_port", "29511"]),
            (
                {"GPUS": 8, "NNODES": 2, "NODE_RANK": 1, "MASTER_ADDR": "first", "PORT": 29511},
                4,
                ["--nnodes", "2", "--node_rank", "1", "--master_addr", "first", "--master_port", "29511"],
            ),
            (
                {"FOUND": 1, "NNODES": 2, "NODE_RANK": 0, "MASTER_ADDR": "first"},
                1,
                ["--nnodes", "2", "--node_rank", "0", "--master_addr", "first", "--master_port", "29500"],
            ),
        ],
    )
    def test_several_processes_under_torchrun(self, recipe, env, processes, meeting):
        calls, _ = recipe(**env)
        before = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
        before += ["--max_restarts", str(env.get("MAX_RESTARTS", 0)), *meeting]
        programs = []
        for call in calls:
            assert call.args[: len(before)] == before and call.gpus == "unset"
            programs.append(Path(call.args[len(before)]).name)
        assert programs == ["main.py", "inference_ytvos.py"]

    @pytest.mark.parametrize(("word", "code"), [("stopped", 75), ("incomplete", 3)])
    def test_codes_of_runs_that_were_stopped_or_left_something_out(self, recipe, tmp_path, word, code):
        """Of one process its own code does; torchrun makes 1 of all."""
        calls, _ = recipe(GPUS=2, STOP=word, TMPDIR=tmp_path, code=code)
        assert len(calls) == 1 and not list(tmp_path.glob("tmp.*"))

    @pytest.mark.parametrize(
        ("env", "gpus"), [({}, ""), ({"GPUS": 0, "FOUND": 2}, ""), ({"FOUND": 1}, "unset"), ({"GPUS": 1}, "unset")]
    )
    def test_one_process_is_started_plainly(self, recipe, env, gpus):
        calls, _ = recipe(**env)
        assert [(Path(call.args[0]).name, call.gpus) for call in calls] == [
            ("main.py", gpus),
            ("inference_ytvos.py", gpus),
        ]

    @pytest.mark.parametrize(
        ("env", "named"),
        [
            ({"GPUS": "two"}, "GPUS=two"),
            ({"PORT": "-1"}, "PORT=-1"),
            ({"GPUS": 8, "GPUS_PER_NODE": 4}, "GPUS=8"),
            ({"GPUS": 3, "NNODES": 2, "NODE_RANK": 0, "MASTER_ADDR": "a"}, "GPUS=3"),
            ({"FOUND": 4, "NNODES": 2}, "MASTER_ADDR"),
            ({"NNODES": 0}, "NNODES=0"),
            ({"NNODES": 2, "NODE_RANK": 0, "MASTER_ADDR": "a"}, "no GPU"),
        ],
    )
    def test_impossible_numbers_are_refused(self, recipe, env, named):
        calls, text = recipe(code=2, **env)
        assert calls == [] and named in text

    @pytest.mark.parametrize(("failing", "reached"), [("main.py", 1), ("inference_ytvos.py", 2)])
    @pytest.mark.parametrize("gpus", [0, 2])
    def test_a_failed_step_is_the_last(self, recipe, failing, reached, gpus):
        calls, text = recipe(FAIL=failing, GPUS=gpus, code=3)
        assert len(calls) == reached and "submission.zip" not in text

    def test_packages_are_looked_for_first(self, recipe, sandbox):
        sandbox.require("no-such-package==1.0\n", "")
        calls, text = recipe(code=2)
        assert calls == [] and "no-such-package" in text

    @pytest.mark.parametrize(
        ("script", "args"),
        [
            (FINETUNE, []),
            (FINETUNE, ["out"]),
            (FINETUNE, ["out", "--lr", "1"]),
            (FINETUNE, ["-x"]),
            (SCRATCH, []),
            (SCRATCH, ["--lr", "1"]),
        ],
    )
    def test_missing_arguments_get_the_usage(self, sandbox, script, args):
        assert f"{script} OUTPUT_DIR" in sandbox.run(script, *args, code=2)
        assert sandbox.calls() == []

    def test_missing_weights_stop_it_before_anything_starts(self, sandbox):
        message = sandbox.run(FINETUNE, "out", "gone.pth", code=2)
        assert "gone.pth" in message and sandbox.calls() == []
        assert not sandbox.venv.exists()
