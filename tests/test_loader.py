"""Workers are alive and no batch arrives: the run ends and says what to do. Signals are heard meanwhile."""

from __future__ import annotations

import ctypes
import errno
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

import datasets.loader
from datasets.base import ClipDataset, EvalClip, VideoEntry
from datasets.loader import TrainLoader, WorkerDied, set_up_worker
from datasets.undelivered import reasons
from engine import read_ahead
from models.predictor import Predictor
from tasks import training
from tests.commands import FORKS_TRAIN, Program
from tests.helpers import ROOT
from tests.runs import FLAGS, trainer
from tests.tiny_model import EXPRESSIONS, tiny_model
from util.run.daemon_threads import Stalled
from util.weights import checkpoint
from util.weights.saver import NEWEST

needs_forks = pytest.mark.skipif(not FORKS_TRAIN, reason="with CUDA a fork cannot train")


class Made(Dataset):
    """Items of a megabyte; before each of them ``work(index)`` is done."""

    def __init__(self, work: Callable[[int], object], length: int = 8) -> None:
        self.work, self.length = work, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        self.work(index)
        return torch.full((1 << 18,), float(index))


def loader(work: Callable[[int], object], *, workers: int = 2, patience: float = 1.0, length: int = 8) -> TrainLoader:
    made = TrainLoader(
        Made(work, length),
        batch_size=None,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=set_up_worker,
        generator=torch.Generator(),
    )
    made.patience = patience
    return made


def nothing(_: int) -> None:
    pass


def hang(_: int) -> None:
    time.sleep(60)


def gone(workers: list) -> bool:
    for worker in workers:
        worker.join(2)
    return not any(worker.is_alive() for worker in workers)


def said_by(batches: TrainLoader) -> str:
    with pytest.raises(Stalled) as raised:
        list(batches)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_that_hangs_ends_with_what_may_be_done(workers):
    batches = loader(hang, workers=workers)
    before = time.monotonic()
    said = said_by(batches)
    assert 1 <= time.monotonic() - before < 10
    assert "for 1 s (--loader_timeout)" in said and "see that the file system of the data answers" in said
    mends = ("2 living data loading processes", "--shm-size", "--ipc=host", "lower --num_workers", "ulimit -n")
    assert all((mend in said) == (workers > 0) for mend in mends)


def die(index: int) -> None:
    if index == 1:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(("work", "error"), [(hang, Stalled), (die, WorkerDied)])
def test_workers_that_hang_or_are_left_over_are_ended(monkeypatch, work, error):
    batches = loader(work, length=2)
    processes = []
    monkeypatch.setattr(TrainLoader, "forget_workers", lambda self: processes.extend(self._iterator._workers))
    with pytest.raises(error):
        list(batches)
    assert len(processes) == 2 and gone(processes)


def test_what_arrives_from_other_workers_counts():
    """The first item takes longer than the patience; those of the other worker come meanwhile."""
    batches = loader(lambda index: time.sleep(1.6 if index == 0 else 0.7), patience=1.0, length=4)
    assert [int(batch[0]) for batch in batches] == [0, 1, 2, 3]


def test_without_a_limit_it_takes_what_it_takes(monkeypatch):
    monkeypatch.setattr(datasets.loader, "LOOK_SECONDS", 0.1)
    assert len(list(loader(lambda index: time.sleep(0.5), workers=1, patience=0, length=2))) == 2


def test_persistent_workers_that_stop_between_epochs_are_named():
    batches = loader(nothing)
    assert len(list(batches)) == 8
    stopped = batches._iterator._workers[1]
    os.kill(stopped.pid, signal.SIGSTOP)
    said = said_by(batches)
    assert f"process {stopped.pid} is stopped: let it go on with kill -CONT {stopped.pid}" in said
    assert len(list(batches)) == 8  # new ones


@contextmanager
def limit(kind: int, value: int) -> Iterator[None]:
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


def first_free_file() -> int:
    """Its number; with this as the limit no file can be opened. There may be higher ones that are open."""
    number = os.open(os.devnull, os.O_RDONLY)
    os.close(number)
    return number


def test_a_batch_that_finds_no_room_in_shared_memory_is_told_at_once(capfd):
    def little(_: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, 1 << 19))  # which holds in shared memory, too

    before = time.monotonic()
    said = said_by(loader(little, patience=60))
    assert "/dev/shm has " in said and "--shm-size" in said and "--ipc=host" in said and "lower --num_workers" in said
    assert "File too large" in said and time.monotonic() - before < 10
    assert "Traceback" not in capfd.readouterr().err


def test_too_many_open_files_of_a_worker_are_told_at_once(capfd):
    def few(_: int) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (first_free_file(), resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    assert "ulimit -n" in said_by(loader(few, patience=60))
    assert "Traceback" not in capfd.readouterr().err


def test_too_many_open_files_of_the_trainer_are_told_at_once():
    kept = []
    batches = loader(nothing, patience=60, length=200)
    with limit(resource.RLIMIT_NOFILE, first_free_file() + 60), pytest.raises(Stalled, match="ulimit -n"):
        kept.extend(batches)  # each batch is a file that is open
    assert kept


def test_an_error_of_the_trainers_own_files_is_told_with_its_mend():
    batches = loader(nothing, workers=0)

    def full(_: int) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    batches.dataset.work = full
    assert "ulimit -n" in said_by(batches)


def test_a_thread_that_pins_memory_and_ends_has_a_reason(monkeypatch):
    def ended_thread(*_):
        raise RuntimeError("Pin memory thread exited unexpectedly")

    batches = loader(nothing)
    monkeypatch.setattr("torch.utils.data.dataloader._MultiProcessingDataLoaderIter._get_data", ended_thread)
    with pytest.raises(WorkerDied, match="Pin memory thread exited unexpectedly; .*ulimit -n"):
        list(batches)


@pytest.mark.parametrize("error", [ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), EOFError()])
def test_a_worker_that_dies_while_it_hands_over_a_batch_has_died(error, monkeypatch):
    """The connection breaks before the process has ended, so the trainer sees the broken connection first."""

    def cut_off(batches):
        os.kill(batches._workers[0].pid, signal.SIGKILL)
        raise error

    batches = loader(nothing)
    monkeypatch.setattr("torch.utils.data.dataloader._MultiProcessingDataLoaderIter._get_data", cut_off)
    with pytest.raises(WorkerDied, match="process \\d+ exited unexpectedly; .*lower --num_workers"):
        list(batches)


def test_a_broken_connection_between_living_processes_is_told_as_it_is(monkeypatch):
    def cut_off(_):
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    batches = loader(nothing)
    monkeypatch.setattr("torch.utils.data.dataloader._MultiProcessingDataLoaderIter._get_data", cut_off)
    with pytest.raises(ConnectionResetError):
        list(batches)


def test_a_frame_that_too_many_open_files_hide_is_not_called_damaged(ytvos_root, tmp_path):
    run = trainer(ytvos_root, tmp_path / "run", "--num_workers", 1)
    make = ClipDataset.make

    def few(*arguments):
        with limit(resource.RLIMIT_NOFILE, first_free_file()):
            return make(*arguments)

    run.loader.dataset.make = lambda request: few(run.loader.dataset, request)
    with pytest.raises(Stalled, match="ulimit -n"):
        run.run()


@pytest.mark.filterwarnings("ignore")
def test_a_bus_error_is_known_for_what_it_is():
    def no_room(_: int) -> None:
        signal.signal(signal.SIGBUS, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGBUS)

    with pytest.raises(WorkerDied, match="bus error: give Docker more shared memory"):
        list(loader(no_room))


def test_full_shared_memory_is_the_reason_where_it_is_full(monkeypatch):
    monkeypatch.setattr("datasets.undelivered._shared_memory", lambda: (3 << 20, 64 << 20))
    assert reasons([os.getpid()]).startswith("/dev/shm has 3 of 64 MB free: give Docker more shared memory")
    monkeypatch.setattr("datasets.undelivered._shared_memory", lambda: None)
    assert "there is no /dev/shm" in reasons([os.getpid()])


@needs_forks
def test_docker_with_little_shared_memory(tmp_path):
    """Without the error no batch would ever come, and the run would never end."""
    said = tmp_path / "said"
    child = multiprocessing.get_context("fork").Process(target=with_little_shared_memory, args=(said,))
    child.start()
    child.join(60)
    if child.exitcode == 77:
        pytest.skip("this user may not mount a file system of its own")
    assert child.exitcode == 0
    told = said.read_text()
    assert "of 2 MB free: give Docker more shared memory" in told
    assert re.search("No space left|unable to allocate shared memory", told), "of torch 2.15, of 2.11"


def with_little_shared_memory(said: Path) -> None:
    new_mounts = 0x20000  # CLONE_NEWNS of unshare(2)
    mounts = ["--make-rprivate", "/"], ["-t", "tmpfs", "-o", "size=2m", "tmpfs", "/dev/shm"]
    if ctypes.CDLL(None).unshare(new_mounts) or any(subprocess.run(["mount", *words]).returncode for words in mounts):
        sys.exit(77)
    said.write_text(said_by(loader(nothing, workers=4, patience=60)))


# Signals -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def run_that_hangs(ytvos_root, tmp_path, monkeypatch):
    """The words of a run of main.py in which no clip can be read after the first two steps, and its folder."""
    make = ClipDataset.make

    def stuck(self, request):
        if request.step >= 2:
            (tmp_path / "stuck").touch()
            time.sleep(100)
        return make(self, request)

    steps, step = [], training.train_step

    def counted(*args, **options):
        taken = step(*args, **options)
        steps.append(None)
        if len(steps) == 2:
            (tmp_path / "trained").touch()
        return taken

    monkeypatch.setattr(ClipDataset, "make", stuck)
    monkeypatch.setattr(training, "train_step", counted)
    words = [*FLAGS.split(), "--ytvos_path", ytvos_root, "--text_encoder", ytvos_root / "text"]
    return ["main.py", *words, "--output_dir", tmp_path / "run"], tmp_path


@needs_forks
@pytest.mark.parametrize(
    ("number", "workers"),
    [(signal.SIGTERM, 2), (signal.SIGINT, 2), (signal.SIGUSR1, 2), (signal.SIGHUP, 2), (signal.SIGTERM, 0)],
)
def test_signals_are_heard_while_nothing_comes(run_that_hangs, number, workers):
    words, folder = run_that_hangs
    with Program(*words, "--num_workers", workers) as program:
        program.until(lambda: (folder / "stuck").exists() and (folder / "trained").exists())
        time.sleep(0.2)  # until the trainer waits
        before = time.monotonic()
        os.kill(program.pid, number)
        code = program.wait(20)
        took = time.monotonic() - before
        said = program.said()
    assert code == 75 and took < 5, said
    assert f"{number.name}: saving" in said and "go on with --resume" in said and "Traceback" not in said
    assert checkpoint.load(folder / "run" / NEWEST)["step"] == 2


@needs_forks
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_whose_loading_hangs_saves_and_ends(run_that_hangs, workers):
    words, folder = run_that_hangs
    with Program(*words, "--num_workers", workers, "--loader_timeout", 2) as program:
        code, said = program.wait(60), program.said()
    assert code == 2 and "Traceback" not in said, said
    assert "main.py: error: no batch from " in said and "for 2 s (--loader_timeout)" in said
    assert checkpoint.load(folder / "run" / NEWEST)["step"] == 2


@needs_forks
def test_a_signal_ends_a_scoring_whose_reading_hangs(ytvos_root, tmp_path, monkeypatch):
    def stuck(*_) -> None:
        (tmp_path / "stuck").touch()
        time.sleep(100)

    monkeypatch.setattr(VideoEntry, "read", stuck)
    words = [*FLAGS.split(), "--ytvos_path", ytvos_root, "--text_encoder", ytvos_root / "text", "--holdout", 1]
    with Program("main.py", *words, "--eval_every", 1, "--output_dir", tmp_path / "run") as program:
        program.until((tmp_path / "stuck").exists)
        os.kill(program.pid, signal.SIGTERM)
        code, said = program.wait(5), program.said()
    assert code == 75 and "go on with --resume" in said and "Traceback" not in said, said
    assert checkpoint.load(tmp_path / "run" / NEWEST)["step"] > 0


def test_a_scoring_whose_reading_hangs_costs_no_training(ytvos_root, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(VideoEntry, "read", lambda *_: time.sleep(60))
    flags = ["--epochs", 1, "--holdout", 1, "--eval_every", 1, "--loader_timeout", 1]
    trainer(ytvos_root, tmp_path / "run", *flags).run()
    said = capsys.readouterr().err
    assert "epoch 0 has no score, training goes on" in said and "nothing was read for 1 s" in said


# At inference ------------------------------------------------------------------------------------------------------


class Hanging(EvalClip):
    def read(self) -> Tensor:
        if self.clip_id == "gone":
            time.sleep(60)
        return torch.zeros(1, 3, 8, 8, dtype=torch.uint8)


def test_a_clip_that_never_comes_is_named():
    clips = [Hanging(name, {}, 0) for name in ("a", "b", "gone", "c")]
    with pytest.raises(Stalled, match="the clip gone: nothing was read for 1 s.*--loader_timeout"):
        list(read_ahead(clips, patience=1))


class Film:
    """Frames that come in time until ``broken``."""

    video_id = "the film"

    def __init__(self) -> None:
        self.broken = False

    def __len__(self) -> int:
        return 4

    def read(self, positions) -> Tensor:
        if self.broken:
            time.sleep(60)
        return torch.zeros(len(positions), 3, 32, 48, dtype=torch.uint8)


def test_frames_that_never_come_are_named_and_the_next_video_has_a_chance():
    predictor, film = Predictor(tiny_model(), eval_size=32, max_size=64, patience=1), Film()
    film.broken = True
    with pytest.raises(Stalled, match="the film: nothing was read for 1 s"):
        predictor.segment(film, [EXPRESSIONS[0]])
    masks, _ = predictor(Film(), [EXPRESSIONS[0]])
    assert masks.shape == (1, 4, 32, 48)


def test_a_process_ends_although_a_read_hangs():
    program = "import sys, time; from util.run.daemon_threads import DaemonThreads as Threads; "
    program += "Threads('x').submit(time.sleep, 60); sys.exit(7)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=30).returncode == 7
