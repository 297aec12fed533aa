"""The scripts of the benchmarks besides Ref-YouTube-VOS: which programs they start, with which options."""

from __future__ import annotations

import pytest

import eval_davis
import inference_davis
import inference_mevis
from opts import parse_train_args
from tests.sandbox import Sandbox


@pytest.fixture
def sandbox(tmp_path):
    return Sandbox(tmp_path)


class TestOtherBenchmarks:
    """Each script: what it is called with, and the programs that it starts with the options that matter."""

    TRAIN = {"output_dir": "out", "resume": "auto", "eval": False}
    EVAL = {"output_dir": "out", "resume": "out/checkpoint.pth", "eval": True}
    SCRIPTS = {
        "dist_pretrain.sh": (
            ["out"],
            [("main.py", TRAIN | dict(dataset_file="all", binary=True, num_frames=1, epochs=12, batch_size=2))],
        ),
        "dist_joint_train_ytvos.sh": (
            ["out"],
            [("main.py", TRAIN | dict(dataset_file="joint", binary=True, epochs=12)), ("inference_ytvos.py", {})],
        ),
        "dist_train_test_refcoco.sh": (
            ["out", "refcocog"],
            [
                ("main.py", TRAIN | dict(dataset_file="refcocog", num_frames=1, epochs=12)),
                ("main.py", EVAL | dict(eval_split="val")),
                ("main.py", EVAL | dict(eval_split="test")),
            ],
        ),
        "dist_train_a2d.sh": (
            ["out", "weights.pth"],
            [
                ("main.py", TRAIN | dict(dataset_file="a2d", pretrained_weights="weights.pth", epochs=6)),
                ("main.py", EVAL | dict(eval_split="test")),
            ],
        ),
        "dist_train_a2d_scratch.sh": (
            ["out"],
            [
                ("main.py", TRAIN | dict(dataset_file="a2d", num_frames=6, epochs=12)),
                ("main.py", EVAL | dict(eval_split="test")),
            ],
        ),
        "dist_test_jhmdb.sh": (
            ["out", "weights.pth"],
            [("main.py", EVAL | dict(resume="weights.pth", dataset_file="jhmdb"))],
        ),
        "dist_train_test_mevis.sh": (
            ["out"],
            [
                ("main.py", TRAIN | dict(dataset_file="mevis", epochs=10)),
                ("main.py", EVAL | dict(eval_split="valid_u")),
                ("inference_mevis.py", {}),
            ],
        ),
        "dist_train_test_long_rvos.sh": (
            ["out"],
            [
                ("main.py", TRAIN | dict(dataset_file="long_rvos", mix=[("long_rvos", 0.05)], epochs=10)),
                ("main.py", EVAL | dict(eval_split="valid")),
                ("main.py", EVAL | dict(eval_split="test")),
            ],
        ),
    }

    @pytest.mark.parametrize("script", SCRIPTS)
    def test_starts_its_programs(self, sandbox, tmp_path, script):
        (tmp_path / "weights.pth").touch()
        first, programs = self.SCRIPTS[script]
        text = sandbox.run(script, *first, "--amp", "bf16", cwd=tmp_path, PYTHON=sandbox.python)
        calls = sandbox.calls()
        assert [call.args[0] for call in calls] == [f"{sandbox.root}/{name}" for name, _ in programs]
        for call, (name, wanted) in zip(calls, programs, strict=True):
            if name == "main.py":
                args = vars(parse_train_args(call.args[1:]))
                assert {key: args[key] for key in wanted} == wanted
                assert args["amp"] == ("bf16" if call is calls[0] else "off")  # a checkpoint brings its own
            else:
                assert call.args[1:] == [
                    *("--resume", "out/checkpoint.pth", "--split", "valid", "--output_dir", "out/valid", "--overwrite")
                ]
                assert text.endswith("out/valid/submission.zip\n")

    @pytest.mark.parametrize("script", SCRIPTS)
    def test_missing_arguments_get_the_usage(self, sandbox, script):
        first, _ = self.SCRIPTS[script]
        for given in (first[:-1], [*first[:-1], "--lr"]):
            assert f"{script} OUTPUT_DIR" in sandbox.run(script, *given, code=2)
        assert sandbox.calls() == []

    @pytest.mark.parametrize(("words", "name"), [([], "mevis"), (["1"], "mevis"), (["2"], "mevis_v2")])
    def test_mevis_has_two_versions(self, sandbox, tmp_path, words, name):
        version = ["--mevis_version", *words] if words else []
        sandbox.run(
            "dist_train_test_mevis.sh", "out", "--amp", "bf16", *version, "--epochs", "3", PYTHON=sandbox.python
        )
        train, _, infer = sandbox.calls()
        args = parse_train_args(train.args[1:])
        assert (args.dataset_file, args.amp, args.epochs) == (name, "bf16", 3)
        assert inference_mevis.parse_args(infer.args[1:]).mevis_version == int((words or ["1"])[0])

    @pytest.mark.parametrize("words", [["--mevis_version"], ["--mevis_version", "3"], ["--mevis_version=2"]])
    def test_other_versions_of_mevis_stop_it_first(self, sandbox, words):
        text = sandbox.run("dist_train_test_mevis.sh", "out", "--amp", "bf16", *words, code=2)
        assert "give --mevis_version 1 or --mevis_version 2" in text and sandbox.calls() == []

    def test_davis_is_scored_where_its_data_lies(self, sandbox, tmp_path):
        (tmp_path / "weights.pth").touch()
        for folder in ("data/ref-davis", "a b", "c"):
            (tmp_path / folder).mkdir(parents=True)
        for words, path in ([], "data/ref-davis"), (["--davis_path", "a b"], "a b"), (["--davis_path=c"], "c"):
            sandbox.run("dist_test_davis.sh", "out", "weights.pth", *words, cwd=tmp_path, PYTHON=sandbox.python)
            infer, score = sandbox.calls()
            asked = inference_davis.parse_args(infer.args[1:])
            assert (asked.resume, asked.output_dir, asked.data_path) == ("weights.pth", "out/valid", path)
            asked = eval_davis.parse_args(score.args[1:])
            assert (asked.results, asked.davis_path, asked.json) == ("out/valid", path, "out/valid/scores.json")

    def test_unknown_sets_and_missing_files_stop_it_first(self, sandbox):
        assert "refcocoplus" in sandbox.run("dist_train_test_refcoco.sh", "out", "refcocoplus", code=2)
        for script in ("dist_train_a2d.sh", "dist_test_jhmdb.sh", "dist_test_davis.sh"):
            assert "gone.pth" in sandbox.run(script, "out", "gone.pth", code=2)
        assert sandbox.calls() == []
