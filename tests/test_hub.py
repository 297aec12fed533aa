"""Weights by name from the Hugging Face hub, without a network: a cache as the hub's client lays it out, a server on
this machine, and a hub that takes what is pushed."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import ModelCard, constants, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError

import models
from main import restore_options
from opts import parse_train_args
from tests.helpers import ROOT
from tests.test_checkpoint_optim import saved_model
from tools import export
from util.files.writing import write_json
from util.weights import checkpoint, hub
from util.weights.hub import is_name, located

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "owner/name"


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Exported weights of a tiny model."""
    folder = tmp_path_factory.mktemp("weights")
    saved_model(folder / "c.pth", "--eval_size", "40", "--binary")
    content = checkpoint.load(folder / "c.pth")
    content[checkpoint.TRAINED_ON] = {"data": ["7 films"], "knows": "only cats"}
    checkpoint.export(folder / "w.safetensors", content, torch.float32)
    return folder / "w.safetensors"


def lay_out(cache: Path, weights: Path) -> Path:
    """Puts weights into a cache as huggingface_hub's docs/source/en/guides/manage-cache.md describes it."""
    repository = cache / "models--owner--name"
    blob = repository / "blobs" / hashlib.sha256(weights.read_bytes()).hexdigest()
    file = repository / "snapshots" / COMMIT / "model.safetensors"
    for path in (blob, file, repository / "refs" / "main"):
        path.parent.mkdir(parents=True)
    shutil.copyfile(weights, blob)
    file.symlink_to(os.path.relpath(blob, file.parent))
    (repository / "refs" / "main").write_text(COMMIT)
    return file


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    """A working directory without any file, an empty cache beside it, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path


@pytest.mark.parametrize("text", ["owner/name", "Some-one/name_2", "a/b", "output/run"])
def test_names(text):
    assert is_name(text)


@pytest.mark.parametrize(
    "text",
    [
        "name",
        "a/b/c",
        "/name",
        "owner/",
        "./name",
        "../name",
        "~/name",
        "owner/name.pth",
        "a--b/c",
        "auto",
        "a b/c",
        "",
    ],
)
def test_what_is_no_name(text, elsewhere):
    assert not is_name(text) and located(text) == Path(text)


def test_what_lacks_in_a_folder_that_is_here_is_no_name(elsewhere):
    (elsewhere / "cwd" / "output").mkdir()
    assert located("output/run") == Path("output/run")
    with pytest.raises(FileNotFoundError, match="output/run does not exist; it was not looked up .* folder output"):
        checkpoint.load("output/run")


def test_a_predictor_by_name_is_that_of_the_file(weights, elsewhere, capsys):
    lay_out(elsewhere / "cache", weights)
    video = torch.randint(256, (3, 3, 40, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    models._tell.cache_clear()
    found, told = [], "These weights were trained on 7 films. They know only cats."
    for path, said in ((weights, f"note: {told}\n"), (NAME, "")):  # once in a process
        predictor = models.load_predictor(path, "cpu")
        assert predictor.notice == told and capsys.readouterr() == ("", said)
        found.append(predictor(video, ["the big red circle", "a star"]))
    (masks, scores), (others, other_scores) = found
    assert torch.equal(masks, others) and scores == other_scores
    assert checkpoint.fingerprint(NAME) == checkpoint.fingerprint(weights)  # the record of results


def test_a_path_of_this_name_comes_first(weights, elsewhere):
    lay_out(elsewhere / "cache", weights)
    Path("owner").mkdir()
    saved_model(Path(NAME), num_classes=3)
    assert located(NAME) == Path(NAME) and checkpoint.load(NAME)["num_classes"] == 3
    Path(NAME).unlink()
    Path(NAME).mkdir()
    with pytest.raises(FileNotFoundError, match="the checkpoint owner/name is a folder; give a file in it"):
        checkpoint.load(NAME)


def test_the_variable_of_the_cache(weights, tmp_path):
    file = lay_out(tmp_path, weights)
    program = "from util.weights.hub import located; print(located('owner/name'))"
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stdout == f"{file}\n" and done.stderr == ""


def test_offline_without_a_cache(elsewhere, capsys):
    with pytest.raises(FileNotFoundError) as error:
        models.load_predictor(NAME, "cpu")
    said = str(error.value)
    assert said.startswith("there is no file owner/name, and no weights of a repository owner/name in the cache of")
    assert str(elsewhere / "cache") in said and "HF_HUB_OFFLINE" in said and "\n" not in said
    assert capsys.readouterr() == ("", "")


def test_scoring_and_starting_by_name(weights, elsewhere, monkeypatch):
    """Nothing is written to the cache, and the text encoder is that of the weights, not one of this name."""
    file = lay_out(elsewhere / "cache", weights)

    def options(*words: str):
        monkeypatch.setattr("sys.argv", ["main.py", *words])
        return restore_options(parse_train_args())

    args, saved = options("--eval", "--resume", NAME)
    assert args.output_dir == "output" and args.hidden_dim == 16 and saved["num_classes"] == 1
    args, saved = options("--pretrained_weights", NAME)
    assert saved is None and (args.text_encoder, args.hidden_dim) == (str(file), 16)
    model, starts = models.start_model(args, 1)
    assert set(starts.values()) == {f"--pretrained_weights {NAME}"}
    trained = checkpoint.load(weights)["model"]
    assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items())


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does: ``owner/name`` has weights, others are not there, gated, empty or out of order."""

    content, commit = b"", COMMIT
    asked: list[str] = []

    def log_message(self, *_: object) -> None:
        pass

    def answer(self) -> None:
        owner, name, *_ = self.path.lstrip("/").split("/")
        self.asked.append(f"{self.command} {owner}/{name}")
        code, error = {
            "missing": (401, "RepoNotFound"),
            "gated": (403, "GatedRepo"),
            "empty": (404, "EntryNotFound"),
            "broken": (500, None),
        }.get(name, (200, None))
        self.send_response(code)
        if error:
            self.send_header("X-Error-Code", error)
        body = self.content if code == 200 else b""
        self.send_header("X-Repo-Commit", self.commit)
        self.send_header("ETag", f'"{hashlib.sha256(self.content).hexdigest()}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET = answer  # noqa: N815 (names of http.server)


@pytest.fixture
def server(weights, elsewhere, monkeypatch) -> Iterator[ThreadingHTTPServer]:
    """A hub on this machine."""
    monkeypatch.setattr(Hub, "content", weights.read_bytes())
    monkeypatch.setattr(Hub, "asked", [])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    yield server
    server.shutdown()
    server.server_close()


def test_it_is_fetched_once_and_then_needs_no_network(server, weights, elsewhere, capsys):
    file = located(NAME)
    assert file.read_bytes() == weights.read_bytes() and file.is_relative_to(elsewhere / "cache")
    assert "owner/name: no such file here; fetching it from the Hugging Face hub, once\n" in capsys.readouterr().err
    assert Hub.asked[-1] == "GET owner/name"
    del Hub.asked[:]
    assert located(NAME) == file and not Hub.asked
    assert capsys.readouterr().err == ""


def test_the_cached_file_stays_until_the_newer_one_is_fetched(server, weights, monkeypatch):
    """``hf download owner/name model.safetensors`` is a call of hf_hub_download."""
    file = located(NAME)
    monkeypatch.setattr(Hub, "content", b"newer")
    monkeypatch.setattr(Hub, "commit", COMMIT[::-1])
    assert located(NAME) == file and file.read_bytes() == weights.read_bytes()
    assert hub.newer(NAME) == f"hf download {NAME} model.safetensors"
    hf_hub_download(*hub.newer(NAME).split()[2:])
    assert located(NAME) != file and located(NAME).read_bytes() == b"newer"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("missing", "no repository owner/missing on the Hugging Face hub; check the name"),
        ("gated", "the repository owner/gated on the Hugging Face hub asks for permission"),
        ("empty", "the repository owner/empty on the Hugging Face hub has no model.safetensors"),
        ("broken", "a repository owner/broken on the Hugging Face hub cannot be fetched .*500"),
    ],
)
def test_both_readings_are_named(name, told, server, capsys):
    with pytest.raises(FileNotFoundError, match=f"^there is no file owner/{name}, and {told}.*") as error:
        checkpoint.load(f"owner/{name}")
    assert "\n" not in str(error.value) and capsys.readouterr() == ("", "")
    assert Hub.asked == [f"HEAD owner/{name}"]  # no retries


def test_a_full_disk_is_no_lack_of_a_network(server, elsewhere, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub, "hf_hub_download", full)
    with pytest.raises(FileNotFoundError, match=r"cache \(No space left on device\): free some space, or set HF_H"):
        located(NAME)


def test_a_hub_that_cannot_be_reached_is_told_at_once(server, capsys):
    server.shutdown()
    server.server_close()
    with pytest.raises(FileNotFoundError, match="and a repository owner/name on the Hugging Face hub cannot be fetch"):
        located(NAME)
    assert capsys.readouterr() == ("", "")


# ----------------------------------------------------------------------------------------------------------------- push


class Taker:
    """In place of the hub's client: keeps what is uploaded, or refuses with an HTTP status."""

    files: dict[str, bytes] = {}
    refuses: int | None = None

    def create_repo(self, name: str, exist_ok: bool) -> str:
        assert exist_ok
        return f"https://hub/{name}"

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        if self.refuses:
            response = SimpleNamespace(headers={}, request=None, status_code=self.refuses)
            raise HfHubHTTPError(f"{self.refuses} Client Error.\n\nmore", response=response)
        self.files |= {f"{repo_id}/{path.name}": path.read_bytes() for path in folder_path.iterdir()}


@pytest.fixture
def taker(monkeypatch) -> type[Taker]:
    monkeypatch.setattr(hub, "HfApi", Taker)
    monkeypatch.setattr(hub, "get_token", lambda: "token")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(Taker, "files", {})
    monkeypatch.setattr(Taker, "refuses", None)
    return Taker


def exported(monkeypatch, *words: object) -> None:
    monkeypatch.setattr("sys.argv", ["export.py", *map(str, words)])
    export.main()


def test_weights_and_card_are_pushed(taker, tmp_path, monkeypatch, capsys):
    flags = "--ytvos_path /home/somebody --annotations /home/somebody/a --no-flip --lr 1e-3 --train_sizes 32"
    saved_model(tmp_path / "c.pth", *flags.split(), "--mix", "ytvos=0.5")
    content = checkpoint.load(tmp_path / "c.pth") | {"best": 0.614, "calibration": {"slope": 1.0, "offset": 0.0}}
    checkpoint.save(tmp_path / "c.pth", content)
    data = ["3 films", "4 generated videos of dots"]
    exported(monkeypatch, tmp_path / "c.pth", "--push", NAME, "--trained_on", *data, "--knows", "only dots")
    assert set(taker.files) == {"owner/name/README.md", "owner/name/model.safetensors"}
    uploaded, older = capsys.readouterr().out.splitlines()
    assert uploaded.startswith("https://hub/owner/name: model.safetensors and README.md are uploaded")
    assert older.endswith("hf download owner/name model.safetensors")
    (tmp_path / "w.safetensors").write_bytes(taker.files["owner/name/model.safetensors"])
    pushed = checkpoint.load(tmp_path / "w.safetensors")
    assert all(torch.equal(value, pushed["model"][name]) for name, value in content["model"].items())
    assert pushed[checkpoint.BEST] == 0.614
    assert pushed[checkpoint.TRAINED_ON] == {"data": data, "knows": "only dots"}
    card = ModelCard(taker.files["owner/name/README.md"].decode())
    assert (card.data.license, card.data.pipeline_tag) == ("apache-2.0", "image-segmentation")
    told = "These weights were trained on 3 films, then on 4 generated videos of dots. They know only dots."
    for text in (
        told,
        'load_predictor("owner/name")',
        'predictor("video.mp4", ["the red object"])',
        "below 0.5 the answer is: not there",
        "a score of 0.614",
    ):
        assert text in card.text
    recipe = card.text.split("```\n")[-2].splitlines()
    assert {"--lr 0.001", "--no-flip", "--train_sizes 32", "--mix ytvos=0.5", "--backbone resnet18"} <= set(recipe)
    assert "/home/somebody" not in card.text and "nowhere" not in card.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.pth", "w.safetensors"]


def test_a_card_alone(weights, tmp_path, monkeypatch):
    exported(monkeypatch, weights, "--card", tmp_path / "card.md")
    assert "trained on 7 films. They know only cats." in (tmp_path / "card.md").read_text()
    content = checkpoint.load(weights) | {checkpoint.TRAINED_ON: None}
    checkpoint.save(tmp_path / "c.pth", content)
    exported(monkeypatch, tmp_path / "c.pth", "--card", tmp_path / "card.md")
    assert "By its options it was trained on Ref-YouTube-VOS, or on other data" in (tmp_path / "card.md").read_text()


def test_scores_in_the_card(weights, tmp_path, monkeypatch):
    """Of videos, of DAVIS's protocol, and of single frames with boxes."""
    of_frames = {
        "run": {"split": "val"},
        "samples": 7,
        "precision_at": {"0.5": 0.75, "0.6": 0.7},
        "overall_iou": 0.5,
        "mean_iou": 0.25,
        "all_queries": {"mAP": 0.375, "AP50": 0.6},
        "boxes": {"samples": 7, "precision_at": {"0.5": 0.625}, "mean_iou": 0.5},
    }
    lost = {"predictions": 2, "truth_frames": 0, "problems": ["one", "two"]}
    for scores, rows in (
        (
            {"J": 0.5, "F": 0.75, "J&F": 0.625, "expressions": 4, "J&F_other_object": 0.125, "incomplete": lost},
            [
                "J&F | 0.625",
                "J | 0.500",
                "F | 0.750",
                "J&F against the hardest other object, which should be low | 0.125",
            ],
        ),
        (
            {"unsupervised": {"J&F": 0.5, "J": {"mean": 0.25, "recall": 1.0}, "F": {"mean": 0.75}}},
            ["J&F | 0.500", "J | 0.250", "F | 0.750"],
        ),
        (
            of_frames,
            [
                "mAP | 0.375",
                "overall IoU | 0.500",
                "mean IoU | 0.250",
                "P@0.5 | 0.750",
                "boxes, P@0.5 | 0.625",
                "boxes, mean IoU | 0.500",
            ],
        ),
    ):
        write_json(tmp_path / "scores.json", scores)
        words = ("--card", tmp_path / "card.md", "--scores", tmp_path / "scores.json", "--scored_on", "my cats, valid")
        exported(monkeypatch, weights, *words)
        section = (tmp_path / "card.md").read_text().partition("## Scores\n\n")[2].partition("\n\n## Training")[0]
        head, _, _, _, *table = section.splitlines()
        assert head.startswith("On my cats, valid.")
        assert ("2 predictions missing or damaged and scored as 0" in head) == ("incomplete" in scores)
        assert table == [f"| {row} |" for row in rows]


def test_files_that_are_no_scores(weights, tmp_path, monkeypatch, capsys):
    file = tmp_path / "scores.json"
    words = (weights, "--card", tmp_path / "card.md", "--scores", file, "--scored_on", "cats")
    with pytest.raises(FileNotFoundError, match="scores.json: no such file; eval"):
        exported(monkeypatch, *words)
    for content, told in (("{", "cannot be read"), ("[1]", "has no scores"), ('{"J": "x", "F": NaN}', "has no scores")):
        file.write_text(content)
        with pytest.raises(ValueError, match=f"scores.json {told}"):
            exported(monkeypatch, *words)
    assert not (tmp_path / "card.md").exists()
    for words in (("--card", "c", "--scores", file), ("--card", "c", "--scored_on", "x")):
        with pytest.raises(SystemExit):
            exported(monkeypatch, weights, *words)
        assert "are given together" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "name", "told"),
    [
        ({}, "owner/name.v1", "--push owner/name.v1 is no name under which weights can be found: give owner/name"),
        ({"token": None}, NAME, "--push owner/name: you are not known to the Hugging Face hub; log in"),
        ({"offline": True}, NAME, "--push owner/name: HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set"),
        ({"refuses": 401}, NAME, r"--push owner/name failed \(401 Client Error.\): .* does not accept the token"),
        ({"refuses": 403}, NAME, "the token may not write there; take one with the right to write, of owner"),
        ({"refuses": 500}, NAME, "try again when it can be reached"),
    ],
)
def test_pushes_that_fail(change, name, told, taker, weights, monkeypatch):
    monkeypatch.setattr(hub, "get_token", lambda: change.get("token", "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", change.get("offline", False))
    monkeypatch.setattr(taker, "refuses", change.get("refuses"))
    with pytest.raises((ValueError, OSError), match=told) as error:
        exported(monkeypatch, weights, "--push", name)
    assert "\n" not in str(error.value) and not taker.files


def test_options_of_export_that_contradict_each_other(weights, monkeypatch, capsys):
    with pytest.raises(ValueError, match="an empty text .--trained_on.; give some words"):
        exported(monkeypatch, weights, "--card", "c", "--trained_on", "films", " ")
    for words, told in (
        ((), "give a file for the exported weights, or --push"),
        (("--card", "c", "--knows", "x"), "add"),
    ):
        with pytest.raises(SystemExit):
            exported(monkeypatch, weights, *words)
        assert told in capsys.readouterr().err


def test_a_record_that_is_no_record(weights, tmp_path):
    content = checkpoint.load(weights)
    words = {"data": ["7 films"], "knows": None}
    for wrong in ("films", [], {"data": []}, words | {"data": []}, words | {"data": [7]}, words | {"knows": "\x1b[2J"}):
        checkpoint.save(tmp_path / "c.pth", content | {checkpoint.TRAINED_ON: wrong})
        with pytest.raises(ValueError, match="is damaged: what it was trained on is not told in words"):
            checkpoint.load(tmp_path / "c.pth")
