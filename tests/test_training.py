"""A run of training within one process: interruptions, faults, and what is kept."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from main import restore_options
from models.criterion import Criterion
from opts import parse_train_args
from tasks import training
from tests.commands import FORKS_TRAIN
from tests.helpers import full_disk
from tests.mini_ytvos import write_mini_ytvos
from tests.runs import log, same, trainer
from util.run import dist
from util.run.interrupt import Interrupted
from util.run.log import read_lines
from util.weights import checkpoint
from util.weights.saver import NEWEST


def interrupt_after(monkeypatch, step: int, number: int = signal.SIGTERM) -> None:
    """A signal arrives in step ``step``, counted from 1, of the process."""
    taken, real = [], training.train_step

    def train_step(*args, **options):
        taken.append(None)
        if len(taken) == step:
            os.kill(os.getpid(), number)
        return real(*args, **options)

    monkeypatch.setattr(training, "train_step", train_step)


def assert_same_run(folder: Path, other: Path) -> None:
    states = [checkpoint.load(f / NEWEST) for f in (folder, other)]
    for part in ("model", "optimizer", "scheduler", "scaler", "average", "best", "ranks", "epoch", "step"):
        assert same(*(state[part] for state in states)), part
    assert log(folder) == log(other)


# Interruptions -----------------------------------------------------------------------------------------------------


# numbers of frames that are drawn would show a state that was not kept, too
FURTHER = ["", "--global_batch_size 4 --ema_decay 0.9", "--num_workers 2 --time_encoding random"]


@pytest.fixture(scope="module", params=FURTHER)
def whole(request, ytvos_root, tmp_path_factory) -> tuple[Path, list[str]]:
    """The folder of a run without interruption, and its further flags."""
    folder, flags = tmp_path_factory.mktemp("whole") / "run", request.param.split()
    run = trainer(ytvos_root, folder, *flags)
    assert run.steps >= 3
    run.run()
    return folder, flags


@pytest.mark.parametrize(
    ("step", "number"), [(1, signal.SIGTERM), (2, signal.SIGINT), (-1, signal.SIGHUP), (0, signal.SIGUSR1)]
)
def test_an_interrupted_run_ends_as_one_without_interruption(ytvos_root, whole, tmp_path, monkeypatch, step, number):
    """The signal comes within the first epoch, in its last step (-1), or in the first step of the second epoch (0)."""
    folder, flags = whole
    first = trainer(ytvos_root, tmp_path / "run", *flags)
    sent = {-1: first.steps, 0: first.steps + 1}.get(step, step)
    interrupt_after(monkeypatch, sent, number)
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="go on with --resume"):
        first.run()
    assert signal.getsignal(number) is before
    monkeypatch.undo()
    second = trainer(ytvos_root, tmp_path / "run", *flags)
    assert second.steps_done == sent
    second.run()
    assert_same_run(tmp_path / "run", folder)


def die_in_the_third_step(root: Path, folder: Path, flags: list[str]) -> None:
    """What the forked process does; it has none of the threads of its parent."""
    signal.alarm(120)
    torch.set_num_threads(1)
    run = trainer(root, folder, *flags, "--save_every", 1, "--keep", 9)
    real = run.train_step

    def train_step(*args) -> None:
        if run.steps_done == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        real(*args)

    run.train_step = train_step
    run.run()


@pytest.mark.skipif(not FORKS_TRAIN, reason="where there is a GPU a forked process cannot train")
def test_a_killed_run_ends_as_one_without_interruption(ytvos_root, whole, tmp_path):
    folder, flags = whole
    arguments = (ytvos_root, tmp_path / "run", flags)
    killed = multiprocessing.get_context("fork").Process(target=die_in_the_third_step, args=arguments)
    killed.start()
    killed.join()  # with a limit of time it would wait for the workers, too, which end five seconds later
    assert killed.exitcode == -signal.SIGKILL
    run = trainer(ytvos_root, tmp_path / "run", *flags)
    assert run.steps_done in (1, 2)  # the second may not have been written yet
    run.run()
    assert_same_run(tmp_path / "run", folder)


def test_a_run_that_is_asked_to_stop_in_its_last_step_has_ended(ytvos_root, whole, tmp_path, monkeypatch):
    folder, flags = whole
    run = trainer(ytvos_root, tmp_path / "run", *flags)
    interrupt_after(monkeypatch, 2 * run.steps)
    run.run()
    assert_same_run(tmp_path / "run", folder)


def test_the_scale_of_float16_goes_on(ytvos_root, tmp_path, monkeypatch):
    flags = ["--amp", "fp16"]
    first = trainer(ytvos_root, tmp_path / "run", *flags)
    first.scaler = torch.amp.GradScaler("cpu", init_scale=512.0)
    interrupt_after(monkeypatch, 2)
    with pytest.raises(Interrupted):
        first.run()
    state = trainer(ytvos_root, tmp_path / "run", *flags).scaler.state_dict()
    assert state == first.scaler.state_dict() and state["scale"] == 512 and state["_growth_tracker"] == 2


def test_scoring_waits_for_the_next_run_when_this_one_is_to_stop(ytvos_root, tmp_path, monkeypatch):
    flags = ["--holdout", 1, "--eval_every", 1, "--epochs", 1]
    run = trainer(ytvos_root, tmp_path / "run", *flags)
    interrupt_after(monkeypatch, run.steps)
    with pytest.raises(Interrupted):
        run.run()
    assert not (tmp_path / "run" / "log.jsonl").exists()
    trainer(ytvos_root, tmp_path / "run", *flags).run()
    assert "score_holdout" in log(tmp_path / "run")[0]


def test_scoring_ends_at_once_when_the_run_is_to_stop(ytvos_root, tmp_path, monkeypatch):
    flags = ["--holdout", 1, "--eval_every", 1, "--epochs", 1]
    trainer(ytvos_root, tmp_path / "other", *flags).run()

    def score(*_) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("scoring went on")

    with monkeypatch.context() as patch:
        patch.setattr(training, "score_split", score)
        with pytest.raises(Interrupted, match="go on with --resume"):
            trainer(ytvos_root, tmp_path / "run", *flags).run()
    trainer(ytvos_root, tmp_path / "run", *flags).run()
    assert_same_run(tmp_path / "run", tmp_path / "other")


def test_ranks_that_leave_together_wait_for_the_checkpoint(ytvos_root, tmp_path, monkeypatch):
    run = trainer(ytvos_root, tmp_path / "run")
    interrupt_after(monkeypatch, 2)
    save, there = checkpoint.save, []

    def slow(*args) -> None:
        time.sleep(0.5)
        save(*args)

    monkeypatch.setattr(checkpoint, "save", slow)
    monkeypatch.setattr(dist, "barrier", lambda: there.append((tmp_path / "run" / NEWEST).exists()))
    with pytest.raises(Interrupted):
        run.run()
    assert there == [True]


def test_a_checkpoint_that_does_not_say_what_it_takes_to_go_on_is_refused(ytvos_root, tmp_path):
    trainer(ytvos_root, tmp_path / "run", "--epochs", 1).run()
    path = tmp_path / "run" / NEWEST
    saved = checkpoint.load(path)
    del saved["ranks"]
    checkpoint.save(path, saved)
    with pytest.raises(ValueError, match="--pretrained_weights"):
        trainer(ytvos_root, tmp_path / "run")


def test_a_run_is_taken_up_again_from_before_it_went_astray(ytvos_root, tmp_path, capsys):
    folder = tmp_path / "run"
    first = trainer(ytvos_root, folder, "--epochs", 1, "--save_every", 1, "--keep", 99)
    first.run()
    again = trainer(ytvos_root, folder, "--epochs", 1, resume=folder / "checkpoint_00000001.pth")
    assert again.steps_done == 1
    real = again.next_batches

    def next_batches(loaded):
        if again.step == 2:
            raise Interrupted
        return real(loaded)

    again.next_batches = next_batches
    with pytest.raises(Interrupted):  # before it saves for the first time
        again.run()
    assert trainer(ytvos_root, folder, "--epochs", 1).steps_done == 1
    assert len(list(folder.glob("abandoned_checkpoint_*.pth"))) == first.steps - 1
    assert "checkpoint_00000002.pth is of a later step" in capsys.readouterr().err


def test_a_folder_that_holds_another_run_is_refused(ytvos_root, whole, tmp_path):
    (tmp_path / "checkpoint_00000001.pth").touch()
    with pytest.raises(ValueError, match="already holds a run"):
        trainer(ytvos_root, tmp_path, *whole[1], resume=whole[0] / NEWEST)
    with pytest.raises(ValueError, match="already holds a run; go on with it by --resume auto"):
        trainer(ytvos_root, tmp_path, resume=None)


def test_processes_that_are_started_again_go_on_from_the_newest(ytvos_root, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    run = trainer(ytvos_root, folder, "--epochs", 1, "--save_every", 1, "--keep", 99)
    run.run()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    for resume in (None, folder / "checkpoint_00000001.pth"):
        assert trainer(ytvos_root, folder, resume=resume).steps_done == run.steps
    monkeypatch.setattr("sys.argv", ["main.py", "--resume", str(folder / "checkpoint_00000001.pth")])
    monkeypatch.chdir(tmp_path)
    args, saved = restore_options(parse_train_args())  # without --output_dir the folder is that of the checkpoint
    assert args.output_dir == str(folder) and saved["epoch"] == 1
    elsewhere = tmp_path / "elsewhere"  # died before it saved
    assert trainer(ytvos_root, elsewhere, resume=folder / "checkpoint_00000001.pth").steps_done == 1
    assert trainer(ytvos_root, elsewhere, resume=None).steps_done == 0


def test_fewer_epochs_than_are_done_are_refused(ytvos_root, tmp_path, monkeypatch):
    run = trainer(ytvos_root, tmp_path / "run", "--epochs", 3)
    interrupt_after(monkeypatch, run.steps + 1)
    with pytest.raises(Interrupted):
        run.run()
    assert run.epoch > 0
    with pytest.raises(ValueError, match="--epochs 1: .* are done; give more"):
        trainer(ytvos_root, tmp_path / "run", "--epochs", 1)


def test_the_curves_of_a_lost_attempt_are_dropped(ytvos_root, tmp_path, monkeypatch):
    """A run that was killed after its last checkpoint takes some steps again; each is in the curves once."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = trainer(ytvos_root, tmp_path / "run", "--epochs", 1, "--save_every", 1, "--keep", 9)
    run.run()
    for path in (tmp_path / "run" / NEWEST, *sorted((tmp_path / "run").glob("checkpoint_*.pth"))[1:]):
        path.unlink()
    trainer(ytvos_root, tmp_path / "run", "--epochs", 1).run()
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(run.steps))


# Faults ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(monkeypatch):
    """Makes the loss NaN, whatever is backpropagated, in these steps of the process, from 1."""

    def at(*steps: int) -> None:
        real, calls = Criterion.__call__, []

        def call(self, *args):
            calls.append(None)
            loss, terms = real(self, *args)
            return (loss * float("nan") if len(calls) in steps else loss), terms

        monkeypatch.setattr(Criterion, "__call__", call)

    return at


def test_a_step_that_is_not_finite_changes_nothing(ytvos_root, tmp_path, broken, capsys):
    broken(1, 2)
    run = trainer(ytvos_root, tmp_path / "run", "--epochs", 1, "--max_skipped_steps", 2)

    def state() -> dict[str, Tensor]:
        return {name: value.clone() for name, value in run.model.state_dict().items()}

    before, states, real = state(), [], run.train_step
    run.train_step = lambda *args: (real(*args), states.append(state()))
    run.run()
    assert same(states[1], before) and not same(states[2], before)
    assert log(tmp_path / "run")[0]["skipped_steps"] == 2
    said = capsys.readouterr().err
    assert "step 1 of epoch 0 is not finite (loss nan" in said and "had videos" in said
    assert all(value.isfinite().all() for value in run.model.state_dict().values())


def test_too_many_of_them_end_the_run_and_leave_their_inputs(ytvos_root, tmp_path, broken, monkeypatch):
    broken(1, 2)
    run = trainer(ytvos_root, tmp_path / "run", "--max_skipped_steps", 1)
    with pytest.raises(FloatingPointError, match=r"step 2 of epoch 0.*--max_skipped_steps.*not_finite_rank0.pth"):
        run.run()
    (inputs,) = torch.load(tmp_path / "run" / "not_finite_rank0.pth", weights_only=True)
    assert inputs["video"].ndim == 5 and inputs["targets"]["masks"].any() and len(inputs["clips"]) == 2
    assert checkpoint.load(tmp_path / "run" / NEWEST)["step"] == 2
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")  # by torchrun, which does not know why it ended
    with pytest.raises(FloatingPointError, match="the restarted processes do not go on"):
        trainer(ytvos_root, tmp_path / "run", "--max_skipped_steps", 1).run()


def test_inputs_that_cannot_be_written_cost_no_checkpoint(ytvos_root, tmp_path, broken, monkeypatch):
    save = torch.save

    def full(content, file) -> None:
        if isinstance(file, Path):  # a checkpoint goes to an open file
            raise RuntimeError("unexpected pos 768 vs 662")
        save(content, file)

    broken(1, 2)
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(FloatingPointError, match="inputs could not be written to .*unexpected pos 768 vs 662"):
        trainer(ytvos_root, tmp_path / "run", "--max_skipped_steps", 1).run()
    assert checkpoint.load(tmp_path / "run" / NEWEST)["step"] == 2


def test_a_gradient_that_is_not_finite_is_noticed_too(ytvos_root, tmp_path):
    run = trainer(ytvos_root, tmp_path / "run", "--epochs", 1)
    weight = run.model.segmenter.kernel_head.kernel[0].weight
    steps = []

    def explode(gradient: Tensor) -> Tensor:
        steps.append(None)
        return gradient * float("inf") if len(steps) == 1 else gradient

    weight.register_hook(explode)
    run.run()
    assert log(tmp_path / "run")[0]["skipped_steps"] == 1 and weight.isfinite().all()


def test_float16_overflows_only_lower_the_scale(ytvos_root, tmp_path):
    run = trainer(ytvos_root, tmp_path / "run", "--epochs", 1, "--amp", "fp16", "--max_skipped_steps", 0)
    run.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.run()
    assert log(tmp_path / "run")[0]["skipped_steps"] == 0
    assert checkpoint.load(tmp_path / "run" / NEWEST)["scaler"]["scale"] < 2.0**40
    assert same(run.model.state_dict(), before) == (run.taken == 0)


def test_a_damaged_frame_ends_the_run_unless_it_is_to_be_skipped(tmp_path, ytvos_root, capsys):
    own = write_mini_ytvos(tmp_path / "data")
    (own / "text").symlink_to(ytvos_root / "text")
    frames = sorted((own / "train" / "JPEGImages" / "aa_wide").iterdir())
    frame = frames[2]
    frame.write_bytes(frame.read_bytes()[:200])
    first = trainer(own, tmp_path / "fails", "--seed", 0)
    with pytest.raises(ValueError, match=frame.name):
        first.run()
    # nothing is lost of what was trained until then
    assert checkpoint.load(tmp_path / "fails" / NEWEST)["step"] == first.step > 0
    run = trainer(own, tmp_path / "run", "--epochs", 1, "--bad_sample", "skip")
    run.run()
    said = [line for line in capsys.readouterr().err.splitlines() if "a clip is skipped" in line]
    assert said and all(str(frame) in line for line in said)
    assert log(tmp_path / "run")[0]["skipped_clips"] == len(said)
    frames[0].unlink()  # from which the size of the video is read before
    with pytest.raises(FileNotFoundError, match=frames[0].name):
        trainer(own, tmp_path / "lacking")
    trainer(own, tmp_path / "lacking", "--epochs", 1, "--bad_sample", "skip").run()
    assert f"{frames[0]}" in capsys.readouterr().err


def test_skipping_ends_where_nothing_can_be_read(tmp_path, ytvos_root):
    own = write_mini_ytvos(tmp_path / "data")
    (own / "text").symlink_to(ytvos_root / "text")
    for frame in (own / "train" / "JPEGImages").rglob("*.jpg"):
        frame.write_bytes(frame.read_bytes()[:700])  # the size is still to be read
    with pytest.raises(ValueError, match="--bad_sample skip: 11 clips in a row are no good, the last: "):
        trainer(own, tmp_path / "run", "--bad_sample", "skip").run()


def test_a_dead_worker_is_replaced(ytvos_root, whole, tmp_path, capsys):
    folder, flags = whole
    if "--num_workers" not in flags:
        pytest.skip("without workers none can die")
    run = trainer(ytvos_root, tmp_path / "run", *flags)
    real = run.train_step

    def train_step(*args):
        if run.steps_done == 1:
            os.kill(run.loader._iterator._workers[1].pid, signal.SIGKILL)
        real(*args)

    run.train_step = train_step
    run.run()
    assert "exited unexpectedly" in (said := capsys.readouterr().err) and "starting new ones" in said
    assert_same_run(tmp_path / "run", folder)


def test_workers_that_keep_dying_end_the_run(ytvos_root, tmp_path, monkeypatch):
    run = trainer(ytvos_root, tmp_path / "run", "--num_workers", 1)

    def die(*_):
        os._exit(1)

    monkeypatch.setattr(type(run.loader.dataset), "__getitem__", die)
    with pytest.raises(OSError, match="lower --num_workers"):
        run.run()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of TensorBoard's writer
def test_a_full_disk_costs_log_and_checkpoint_and_no_training(ytvos_root, tmp_path, capsys):
    """Once there is space again both go on, and the run ends as one that never lacked it."""
    other = trainer(ytvos_root, tmp_path / "other")
    other.run()
    run = trainer(ytvos_root, tmp_path / "run")
    finish = run.finish_epoch

    def in_the_first_epoch(seconds: float) -> None:
        if run.epoch:
            finish(seconds)
            return
        with full_disk(1):
            finish(seconds)
            run.log.flush()
            run.saver.settle()

    run.finish_epoch = in_the_first_epoch
    run.run()
    assert run.epoch == 2
    said = capsys.readouterr().err
    assert "the log is not written, training goes on" in said and "no checkpoint was written, training goes on" in said
    assert [line["epoch"] for line in read_lines(tmp_path / "run" / "log.jsonl")] == [1]
    assert len(list((tmp_path / "run").glob("checkpoint_*.pth"))) == 1
    wanted, got = (checkpoint.load(tmp_path / name / NEWEST) for name in ("other", "run"))
    assert same(wanted["model"], got["model"]) and same(wanted["optimizer"], got["optimizer"])
