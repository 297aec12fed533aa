"""Videos longer than a window: where the windows lie, and that an object stays the same from one to the next."""

from __future__ import annotations

import itertools
import re
import time
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models import predictor as predictor_module
from models import windows as module
from models.predictor import InMemory, Predictor
from models.windows import Waiting, follow, window_bytes, window_sizes, windows
from tests.tiny_model import EXPRESSIONS, tiny_model
from util.samples.structures import Prediction


@given(st.integers(1, 300), st.integers(2, 50), st.data())
def test_each_frame_is_answered_once_from_a_window_that_sees_it(length, size, data):
    overlap = data.draw(st.integers(1, size - 1))
    found = windows(length, size, overlap)
    assert [frame for w in found for frame in range(w.first, w.last)] == list(range(length))
    for w in found:
        assert 0 <= w.start <= w.first < w.last <= w.stop <= length and w.stop - w.start == min(size, length)
    for before, now in itertools.pairwise(found):
        assert before.stop - now.start >= overlap
        assert abs((before.stop - before.last) - (now.first - now.start)) <= 1  # half of what they share


def test_windows_of_a_hundred_frames():
    assert [(w.start, w.stop, w.first, w.last) for w in windows(100, 40, 8)] == [
        (0, 40, 0, 36),
        (32, 72, 36, 66),
        (60, 100, 66, 100),
    ]
    assert len(windows(40, 40, 8)) == 1 and len(windows(41, 40, 8)) == 2


@pytest.mark.parametrize("overlap", [0, 40, 41])
def test_windows_that_leave_no_step_or_nothing_to_follow_are_refused(overlap):
    with pytest.raises(ValueError, match="--overlap .* must be at least 1 and below --window 40"):
        Predictor(tiny_model(), eval_size=40, max_size=96, window=40, overlap=overlap)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, (40, 8)),
        ({"window": 100}, (100, 8)),
        ({"window": 16}, (16, 8)),
        ({"window": 8}, (8, 4)),
        ({"window": 3}, (3, 1)),
        ({"window": 2}, (2, 1)),
        ({"overlap": 9}, (40, 9)),
        ({"window": 8, "overlap": 7}, (8, 7)),
    ],
)
def test_an_overlap_that_is_not_given_fits_the_window(given, wanted):
    predictor = tiny_predictor(**given)
    assert (predictor.window, predictor.overlap) == wanted
    assert window_sizes(given.get("window"), given.get("overlap")) == wanted


@given(st.integers(1, 300), st.integers(1, 50))
def test_clips_without_overlap_lie_one_after_the_other_and_the_last_is_shorter(length, size):
    found = windows(length, size, 0)
    frames = [frame for w in found for frame in range(w.start, w.stop)]
    assert frames == list(range(length)) and all((w.start, w.stop) == (w.first, w.last) for w in found)
    assert all(w.stop - w.start == size for w in found[:-1]) and 1 <= found[-1].stop - found[-1].start <= size


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"overlap": 4}, "--overlap 4: clips share no frame with --clips independent; leave it out"),
        ({"window": 0}, "--window 0 is too small: a clip has at least one frame"),
        ({"clips": "apart"}, "--clips apart does not exist; choose one of followed, independent"),
    ],
)
def test_what_independent_clips_cannot_have_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        tiny_predictor(**{"clips": "independent"} | given)


@pytest.mark.parametrize("window", [0, 1])
def test_a_window_too_small_to_share_a_frame_is_named(window):
    with pytest.raises(ValueError, match=f"--window {window} is too small: .* give at least 2"):
        tiny_predictor(window=window)


def boxes(*columns: int, frames: int = 3) -> Tensor:
    """bool ``[n, t, 4, 8]``: each mask is two columns wide; -1 is an empty one."""
    masks = torch.zeros(len(columns), frames, 4, 8, dtype=torch.bool)
    for mask, column in zip(masks, columns, strict=True):
        if column >= 0:
            mask[..., column : column + 2] = True
    return masks


@pytest.mark.parametrize(
    ("before", "now", "wanted"),
    [
        ((0, 2, 4), (4, 0, 2), [1, 2, 0]),
        ((0, 2, 4), (0, 2, 4), [0, 1, 2]),
        ((-1, -1, -1), (-1, -1, -1), [0, 1, 2]),
        ((-1, 2, -1), (2, -1, -1), [1, 0, 2]),  # the others have nothing to go by
        ((0, 0, 6), (6, 0, 0), [2, 1, 0]),  # of two that are the same each goes on with itself where it can
        ((3, 1, 6), (2, 4, 6), [1, 0, 2]),  # the best for all, not for each
    ],
)
def test_proxies_are_followed_by_their_masks(before, now, wanted):
    assert follow(boxes(*before), boxes(*now)).tolist() == wanted


# Whole videos ------------------------------------------------------------------------------------------------------


def video(length: int) -> InMemory:
    generator = torch.Generator().manual_seed(0)
    return InMemory(torch.randint(256, (length, 3, 32, 48), dtype=torch.uint8, generator=generator))


def tiny_predictor(**options) -> Predictor:
    model = tiny_model()
    with torch.no_grad():
        model.segmenter.kernel_head.kernel[-1].weight *= 30
    return Predictor(model, eval_size=32, max_size=96, **options)


@pytest.mark.parametrize("window", [9, 40])
def test_a_window_as_long_as_the_video_gives_the_result_of_the_whole_video(window):
    predictor, frames = tiny_predictor(window=window, overlap=2), video(9)
    found = predictor.segment(frames, list(EXPRESSIONS))
    whole = list(predictor._samples(predictor.encode(frames.frames), list(EXPRESSIONS), batch=8))
    for e, (logits, masks) in enumerate(whole):
        scores = logits.sigmoid().mean(0)[:, 0]
        assert found.scores[e] == pytest.approx(scores.max().item(), abs=1e-7)
        full = torch.nn.functional.interpolate(masks[:, scores.argmax()][None], (32, 48), mode="bilinear")[0]
        assert torch.equal(found.masks(0, 9)[e], full > 0)
        assert torch.equal(found.masks(2, 5)[e], full[2:5] > 0)


@pytest.mark.parametrize("window", [1, 4, 9, 40])
def test_an_independent_clip_is_answered_as_a_video_of_its_own(monkeypatch, window):
    predictor, frames = tiny_predictor(window=window, clips="independent"), video(9)
    samples, queries, best = predictor._samples, itertools.cycle([0, 3, 1]), []

    def another_query_is_the_best_in_each_clip(*given):
        best.append(next(queries))
        for logits, masks in samples(*given):
            yield logits + 9 * torch.nn.functional.one_hot(torch.tensor(best[-1]), 4)[:, None], masks

    monkeypatch.setattr(predictor, "_samples", another_query_is_the_best_in_each_clip)
    found = predictor.segment(frames, list(EXPRESSIONS))
    chosen, best[:], queries = list(best), [], itertools.cycle([0, 3, 1])
    masks, scores = [], torch.zeros(len(EXPRESSIONS))
    for start in range(0, 9, window):
        clip = InMemory(frames.frames[start : start + window])
        alone = predictor.segment(clip, list(EXPRESSIONS))
        masks.append(alone.masks(0, len(clip)))
        scores += torch.tensor(alone.scores) * len(clip) / 9
    assert best == chosen and len(chosen) == -(-9 // window)
    assert torch.equal(found.masks(0, 9), torch.cat(masks, 1)) and found.scores == pytest.approx(scores.tolist())
    assert torch.equal(found.masks(3, 6), torch.cat(masks, 1)[:, 3:6])


class Restless:
    """In place of the network: each window shows the objects of a fixed film by proxies in another order."""

    def __init__(self, length: int, proxies: int = 4) -> None:
        generator = torch.Generator().manual_seed(1)
        self.truth = torch.zeros(length, proxies, 8, 12, dtype=torch.bool)
        for t, n in itertools.product(range(length), range(proxies)):
            self.truth[t, n, 2 * n : 2 * n + 2, t % 9 : t % 9 + 3] = True
        self.certainty = torch.rand(length, proxies, generator=generator) / 2
        self.certainty[:, 2] += 0.4  # the object that is meant
        self.orders = itertools.cycle([[0, 1, 2, 3], [2, 0, 3, 1], [3, 2, 1, 0]])

    def predictions(self, encoded: list[int], expressions: list[str], batch: int):
        order = next(self.orders)
        masks = (self.truth[encoded][:, order].float() * 20 - 10)[None]
        logits = self.certainty[encoded][:, order].logit()[None, ..., None]
        for _ in expressions:
            yield Prediction(logits, torch.zeros(1, len(encoded), 4, 4), masks, None)


def test_an_object_stays_the_same_however_the_proxies_change(monkeypatch):
    length = 50
    film, predictor = Restless(length), tiny_predictor(window=12, overlap=4)
    encode, seen = predictor.encode, []  # the numbers of the frames of each window
    frames = InMemory(torch.arange(length, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 32, 48))
    monkeypatch.setattr(
        predictor, "encode", lambda given, _: (seen.append(given[:, 0, 0, 0].tolist()), encode(given))[1]
    )
    monkeypatch.setattr(predictor, "_predictions", lambda _, texts, batch: film.predictions(seen[-1], texts, batch))
    found = predictor.segment(frames, ["one", "another"])
    assert len(seen) == len(windows(length, 12, 4)) > 3
    wanted = torch.nn.functional.interpolate(
        film.truth[:, 2].float()[None] * 20 - 10, size=(32, 48), mode="bilinear", align_corners=False
    )[0]
    for e in range(2):
        assert torch.equal(found.masks(0, length)[e], wanted > 0)
        assert found.scores[e] == pytest.approx(film.certainty[:, 2].mean().item(), abs=1e-6)


def test_progress_is_told_frame_by_frame_of_each_window():
    told = []
    tiny_predictor(window=8, overlap=2).segment(video(20), ["a star"], seen=told.append)
    assert [frames for frames in told if frames] == [7, 6, 7]


def test_what_is_told_of_the_progress_may_end_the_work_between_expressions():
    told = []

    def stop(frames: int) -> None:
        told.append(frames)
        raise ValueError("stopped")

    with pytest.raises(ValueError, match="stopped"):
        tiny_predictor().segment(video(5), ["a star", "another"], seen=stop)
    assert told == [0]


class Recorded:
    """A video that tells when which frames were read."""

    def __init__(self, events: list, name: str, length: int, size: tuple[int, int] = (32, 48)) -> None:
        self.events, self.name, self.frames = events, name, torch.zeros(length, 3, *size, dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self.frames)

    def read(self, positions) -> Tensor:
        self.events.append((self.name, *positions))
        return self.frames[list(positions)]


def test_the_next_frames_are_read_while_the_network_is_at_work(monkeypatch):
    """Those of the next window, and of the first window of the video that follows, each once."""
    predictor, events = tiny_predictor(window=4, overlap=2), []
    first, second = Recorded(events, "a", 6), Recorded(events, "b", 3)
    encode = predictor.encode

    def encode_when_the_next_is_read(*given):
        while len(events) < len(encoded) + 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        encoded.append(None)
        return encode(*given)

    deadline, encoded = time.monotonic() + 60, []
    monkeypatch.setattr(predictor, "encode", encode_when_the_next_is_read)
    predictor.segment(first, ["a star"], following=second)
    monkeypatch.setattr(predictor, "encode", encode)
    found = predictor.segment(second, ["a star"])
    assert events == [("a", 0, 1, 2, 3), ("a", 4, 5), ("b", 0, 1, 2)]
    assert torch.equal(found.masks(0, 3), predictor(second.frames, ["a star"])[0])


def test_an_error_ends_when_nothing_is_being_read_any_more(monkeypatch):
    """A film may then be closed; reading it on would take the process with it."""
    events = []
    film, predictor = Recorded(events, "a", 12), tiny_predictor(window=4, overlap=2)
    read = film.read

    def slow(positions) -> Tensor:
        frames = read(positions)
        time.sleep(0.5 * (len(events) > 1))
        events.append("done")
        return frames

    def fail(*_) -> None:
        raise ValueError("the network has failed")

    film.read = slow
    monkeypatch.setattr(predictor, "encode", fail)
    with pytest.raises(ValueError, match="the network has failed"):
        predictor.segment(film, ["a star"])
    assert events == [("a", 0, 1, 2, 3), "done", ("a", 4, 5), "done"]


def test_an_empty_expression_is_refused_before_anything_is_read():
    events = []
    with pytest.raises(ValueError, match="expression is empty"):
        tiny_predictor().segment(Recorded(events, "a", 4), ["a star", " "])
    assert not events


@pytest.mark.parametrize(("window", "overlap", "length"), [(12, 4, 37), (9, 8, 21), (16, 2, 17), (2, 1, 5)])
def test_every_frame_of_several_windows_is_read_once(monkeypatch, window, overlap, length):
    """What windows share is kept, and they see what they would see if each were read whole."""
    predictor, events, seen = tiny_predictor(window=window, overlap=overlap), [], []
    frames = Recorded(events, "a", length)
    frames.frames = video(length).frames
    encode = predictor.encode
    monkeypatch.setattr(
        predictor, "encode", lambda fitted, size: (seen.append(fitted.clone()), encode(fitted, size))[1]
    )
    predictor.segment(frames, ["a star"])
    assert [position for _, *positions in events for position in positions] == list(range(length))
    spans = windows(length, window, overlap)
    assert len(seen) == len(spans) > 1
    for shown, span in zip(seen, spans, strict=True):
        assert torch.equal(shown, frames.frames[span.start : span.stop])


def test_features_of_a_window_make_room_for_the_next(monkeypatch):
    predictor, before = tiny_predictor(window=4, overlap=2), []
    encode = predictor.encode

    def encode_alone(*given):
        assert all(features() is None for features in before)
        encoded = encode(*given)
        before.append(weakref.ref(encoded))
        return encoded

    monkeypatch.setattr(predictor, "encode", encode_alone)
    predictor.segment(video(9), ["a star"])
    assert len(before) == 4


def test_large_frames_are_read_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr(predictor_module, "AT_ONCE", 2)
    predictor, events = tiny_predictor(), []
    video = Recorded(events, "a", 5, size=(64, 96))
    masks = predictor.segment(video, ["a star"]).masks(0, 5)
    assert masks.shape == (1, 5, 64, 96) and events == [("a", 0, 1), ("a", 2, 3), ("a", 4)]


def test_the_estimate_counts_no_frame_that_is_not_there(monkeypatch):
    """Where the mask decoder takes 64 frames at once it holds no more of them than a window asks for."""
    model, size = tiny_model(), (320, 640)

    def taken(*window: int, at_once: int) -> int:
        monkeypatch.setattr(module.segmenter, "frames_at_once", lambda device: at_once)
        return window_bytes(model, size, *window)

    assert taken(5, 1, at_once=64) == taken(5, 1, at_once=5) < taken(5, 2, at_once=64) < taken(5, 3, at_once=64)
    assert taken(40, 2, at_once=64) == taken(40, 3, at_once=64) < taken(40, 70, at_once=64)
    one = (taken(5, 2, at_once=64) - taken(5, 1, at_once=64)) / 5
    assert taken(40, 2, at_once=4) == pytest.approx(taken(40, 2, at_once=64) - 60 * one, abs=2)


@pytest.mark.parametrize(("share", "said"), [(0.8, r"--window [67] would do"), (0.01, "lower --eval_size"), (1.1, "")])
def test_lack_of_memory_is_told_before_the_network_starts(monkeypatch, capsys, share, said):
    predictor = tiny_predictor(window=9, overlap=2)
    needed = window_bytes(predictor.model, (32, 48), 9, 1)
    monkeypatch.setattr(predictor_module, "free_bytes", lambda _: int(share * needed))
    predictor.segment(video(20), ["a star"])
    first = capsys.readouterr().err
    assert re.search(f"warning: 9 frames of 32x48 .*{said}", first) if said else not first
    assert first.count("warning") <= 1
    predictor.segment(video(20), ["a star"])
    assert not capsys.readouterr().err
    # what the first video took is kept by the process, and serves the second
    monkeypatch.setattr(predictor_module, "free_bytes", lambda _: int(0.2 * needed))
    predictor.segment(video(20), ["a star", "a square"])
    assert not capsys.readouterr().err


def test_a_full_disk_is_named_with_the_mend(monkeypatch):
    class Full:
        def write(self, _: bytes) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.tempfile, "TemporaryFile", Full)
    with pytest.raises(OSError, match="No space left on device; free some space there, set TMPDIR"):
        Waiting(on_disk=True).put(0, 0, torch.zeros(1, 1, 2, 2))


def test_what_waits_on_disk_is_what_was_put_there_but_for_rounding():
    logits = torch.randn(7, 3, 4, 5)
    waiting = Waiting(on_disk=True)
    for e in (0, 1):
        waiting.put(e, 0, logits[:4] + e)
        waiting.put(e, 4, logits[4:] + e)
    got = waiting.get(1, 2, 2, 6, torch.device("cpu"))
    torch.testing.assert_close(got, logits[2:6, 2] + 1, rtol=1e-3, atol=1e-3)


def test_no_expressions_and_no_frames():
    predictor = tiny_predictor()
    assert predictor.segment(video(3), []).masks(0, 3).shape == (0, 3, 32, 48)
    with pytest.raises(ValueError, match="the video has no frames"):
        predictor.segment(video(0), ["a star"])
