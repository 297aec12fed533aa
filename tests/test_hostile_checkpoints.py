"""Checkpoints that somebody has made up or damaged: each is refused in one line that names the file, at no cost."""

from __future__ import annotations

import copy
import json
import pickle
import resource
import struct
import time
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.serialization import MAGIC_NUMBER, PROTOCOL_VERSION

import main
import models
from tests.runs import trainer
from tests.tiny_model import tiny_args, tiny_text_encoder
from util.run.cli import USER_ERRORS
from util.weights import checkpoint

NESTED = "[" * 200_000 + "]" * 200_000


@pytest.fixture(scope="module")
def sound() -> dict:
    """The content of a checkpoint for inference."""
    torch.manual_seed(0)
    args = tiny_args("--binary", "--backbone", "tsm_resnet10_half", "--ytvos_path", "data")
    model = models.assemble(args, 1, tiny_text_encoder())
    described = {"options": vars(args), "num_classes": 1, "text_encoder": model.text_encoder.description()}
    return {"model": model.state_dict(), **described}


def memory() -> int:
    """The most memory that this process has ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def refused(path: Path, match: str | None = None) -> None:
    """The file is refused in a line that names it, in a few seconds and without much memory."""
    before, start = memory(), time.perf_counter()
    with pytest.raises(USER_ERRORS, match=match) as raised:
        models.load_predictor(path, "cpu")
    said = str(raised.value)
    assert str(path) in said and "\n" not in said and len(said) < 1500 and said.isprintable()
    assert memory() - before < 2**28 and time.perf_counter() - start < 20


def put(*path: str, value: object):
    """A change of a checkpoint: the value at a place in it."""

    def change(content: dict) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return change


def drop(*path: str):
    def change(content: dict) -> None:
        for key in path[:-1]:
            content = content[key]
        del content[path[-1]]

    return change


def of_tokenizer(edit):
    """A change of the tokenizer's JSON."""

    def change(content: dict) -> None:
        tokenizer = json.loads(content["text_encoder"]["tokenizer"])
        edit(tokenizer)
        content["text_encoder"]["tokenizer"] = json.dumps(tokenizer)

    return change


def first_weight(make):
    def change(content: dict) -> None:
        name = next(iter(content["model"]))
        content["model"][name] = make(content["model"][name])

    return change


def more_words(tokenizer: dict) -> None:
    tokenizer["model"]["vocab"] |= {f"word{i}": 10_000 + i for i in range(10)}


CHANGES = {
    **{f"no {part}": drop(part) for part in ("model", "options", "num_classes", "text_encoder")},
    **{f"{part} is a text": put(part, value="x") for part in ("model", "options", "num_classes", "text_encoder")},
    "no weight": put("model", value={}),
    "an average of a number": put("average", value=3),
    "no config": drop("text_encoder", "config"),
    "no tokenizer": drop("text_encoder", "tokenizer"),
    "options by number": put("options", value={1: 2}),
    "true classes": put("num_classes", value=True),
    "a million classes": put("num_classes", value=10**6),
    "no option": drop("options", "backbone"),
    "no option that may be empty": drop("options", "backbone_pretrained"),
    # options
    "width as text": put("options", "hidden_dim", value="16"),
    "width as true": put("options", "hidden_dim", value=True),
    "width of a float": put("options", "hidden_dim", value=16.0),
    "no heads": put("options", "nheads", value=0),
    "odd heads": put("options", "nheads", value=3),
    "negative layers": put("options", "enc_layers", value=-1),
    "a billion layers": put("options", "enc_layers", value=10**9),
    "as wide as possible": put("options", "hidden_dim", value=8192),
    "a huge number": put("options", "mask_dim", value=10**5000),
    "a deep option": put("options", "dropout", value=json.loads("[" * 200 + "]" * 200)),
    "not a number": put("options", "dropout", value=float("nan")),
    "a tensor": put("options", "num_queries", value=torch.ones(3)),
    "another mask decoder": put("options", "mask_decoder", value="unet"),
    "a list as choice": put("options", "jsc_target", value=["joint"]),
    "no backbone": put("options", "backbone", value="resnet1"),
    "a backbone of a hub": put("options", "backbone", value="timm:hf-hub:somebody/something"),
    "a backbone of a folder": put("options", "backbone", value="timm:local-dir:/tmp"),
    "a backbone with a line": put("options", "backbone", value="resnet18\nerror: \x1b[31mred"),
    "another backbone": put("options", "backbone", value="resnet50"),
    "a large backbone": put("options", "backbone", value="timm:convnext_xxlarge"),
    "no size": put("options", "eval_size", value=None),
    "a size of 0": put("options", "max_size", value=0),
    "another amp": put("options", "amp", value="int8"),
    "freeze by number": put("options", "freeze", value=3),
    # the text encoder
    **{
        f"{name} {value}": put("text_encoder", "config", name, value=value)
        for name, value in (
            ("hidden_size", 17),
            ("hidden_size", 2**40),
            ("num_hidden_layers", 10**9),
            ("num_attention_heads", 0),
            ("vocab_size", 2**20),
            ("vocab_size", -1),
            ("hidden_act", "eval"),
            ("max_position_embeddings", 1),
            ("pad_token_id", 10**6),
            ("layer_norm_eps", "0"),
            ("layer_norm_eps", 65535),
            ("hidden_dropout_prob", None),
        )
    },
    "a tokenizer of a text": put("text_encoder", "tokenizer", value="x"),
    "a tokenizer of nothing": put("text_encoder", "tokenizer", value="{}"),
    "a deep tokenizer": put("text_encoder", "tokenizer", value=NESTED),
    "a word piece": of_tokenizer(lambda t: t["model"].update(type="WordPiece")),
    "tokens beyond the encoder": of_tokenizer(more_words),
    "a token twice": of_tokenizer(lambda t: t["model"]["vocab"].update(a=5, b=5)),
    "a token of a text": of_tokenizer(lambda t: t["model"]["vocab"].update(a="5")),
    "a merge of nothing": of_tokenizer(lambda t: t["model"]["merges"].append(["never", "seen"])),
    "a merge of one": of_tokenizer(lambda t: t["model"]["merges"].append(["a"])),
    "a pattern that takes for ever": of_tokenizer(
        lambda t: t.update(pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated"})
    ),
    "a replacement": of_tokenizer(lambda t: t.update(normalizer={"type": "Prepend", "prepend": "x" * 1000})),
    "no start": of_tokenizer(lambda t: t.update(post_processor=None)),
    "another start": of_tokenizer(lambda t: t["post_processor"].update(cls=["<s>", 10**9])),
    "added tokens by the way": of_tokenizer(lambda t: t["added_tokens"].append({"id": 10**9, "content": "x y"})),
    "random tokens": of_tokenizer(lambda t: t["model"].update(dropout=0.5)),
    # weights
    "a weight of a list": first_weight(lambda w: [1.0]),
    "a sparse weight": first_weight(lambda w: w.to_sparse()),
    "a weight of eight bits": first_weight(lambda w: w.to(torch.float8_e4m3fn)),
    "a weight without memory": first_weight(lambda w: w.to("meta")),
    "a complex weight": first_weight(lambda w: w.to(torch.complex64)),
    "a weight of another shape": first_weight(lambda w: w[None]),
    "a weight of a number": first_weight(lambda w: torch.zeros(()).expand(2**20, 2**20)),
    "infinity": first_weight(lambda w: torch.full_like(w, float("inf"))),
    "no number": first_weight(lambda w: w.clone().index_fill_(0, torch.tensor(0), float("nan"))),
    "a weight by number": lambda content: content["model"].update({7: torch.ones(1)}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_made_up_checkpoint_is_refused_in_one_line(change, sound, tmp_path, capfd):
    content = copy.deepcopy(sound)
    change(content)
    path = tmp_path / "c.pth"
    checkpoint.save(path, content)
    refused(path)
    assert "panicked" not in capfd.readouterr().err  # Rust's own message


def test_the_file_without_a_change_is_read(sound, tmp_path):
    checkpoint.save(tmp_path / "c.pth", sound)
    models.load_predictor(tmp_path / "c.pth", "cpu")


def test_numbers_may_be_written_without_a_point(sound, tmp_path):
    content = copy.deepcopy(sound)
    content["text_encoder"]["config"] |= {"hidden_dropout_prob": 0, "layer_norm_eps": 0}
    checkpoint.save(tmp_path / "c.pth", content)
    models.load_predictor(tmp_path / "c.pth", "cpu")


def test_what_names_code_on_a_hub_is_left_out(sound, tmp_path):
    content = copy.deepcopy(sound)
    config = content["text_encoder"]["config"]
    config |= {"attn_implementation": "somebody/kernel", "_attn_implementation": "somebody/kernel"}
    config |= {"auto_map": {"AutoModel": "somebody/code--x.Y"}, "is_decoder": True, "experts_implementation": "x/y"}
    checkpoint.save(tmp_path / "c.pth", content)
    model = models.load_predictor(tmp_path / "c.pth", "cpu").model
    kept = model.text_encoder.model.config
    assert kept._attn_implementation == "sdpa" and not kept.is_decoder
    assert "somebody" not in json.dumps(model.text_encoder.description())


class Bomb:
    """A pickle that would fill the memory when it is read."""

    def __reduce__(self):
        return bytearray, (2**36,)


def test_a_file_that_grows_when_it_is_read_is_refused_before(sound, tmp_path):
    path = tmp_path / "c.pth"
    checkpoint.save(path, sound)
    packed = tmp_path / "packed.pth"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            with target.open(entry.filename, "w", force_zip64=True) as file:
                for _ in range(2**10 if entry.filename.endswith("data/0") else 0):
                    file.write(bytes(2**20))
                file.write(source.read(entry))
    assert packed.stat().st_size < 2**24
    refused(packed, "its content is packed")

    torch.save({"format": 1, "model": Bomb()}, path)
    refused(path, "more than tensors and plain data: .*bytearray")
    path.write_bytes(pickle.dumps({"format": 1, "model": Bomb()}, 2))  # not in a zip
    refused(path, "more than tensors and plain data: .*bytearray")


PICKLES = b"".join(pickle.dumps(value, 2) for value in (MAGIC_NUMBER, PROTOCOL_VERSION, {"little_endian": True}))


def test_the_file_that_is_looked_at_is_the_one_that_torch_reads(sound, tmp_path):
    """Two files in one: what zipfile finds in it is sound."""
    path, evil = tmp_path / "c.pth", pickle.dumps(Bomb(), 2)
    checkpoint.save(path, sound)
    whole = path.read_bytes()
    path.write_bytes(PICKLES + evil + pickle.dumps([], 2) + whole)  # torch reads it as a file of releases before 1.6
    refused(path, "more than tensors and plain data: .*bytearray")

    path.write_bytes(whole[: whole.rindex(b"PK\6\6")] + whole[whole.rindex(b"PK\5\6") :])
    models.load_predictor(path, "cpu")
    content = bytearray(path.read_bytes())
    length, start = struct.unpack("<2L", content[-10:-2])
    # another directory in front of this one, at the place that the end record names
    path.write_bytes(content[:start] + content[start : start + length] + content[start:])
    refused(path, "does not end as a zip of torch")

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("c/DATA.PKL", evil)
        archive.writestr("c/version", "3")
    refused(path, "more than tensors and plain data: .*bytearray")


def test_no_function_that_makes_data_larger_is_called(tmp_path):
    """Each call makes it twice as large."""
    step = b"c_codecs\nencode\nh\0X\3\0\0\0hex\x86Rq\0"
    path = tmp_path / "c.pth"
    path.write_bytes(PICKLES + b"\x80\2X\1\0\0\0aq\0" + 40 * step + b"." + pickle.dumps([], 2))
    refused(path, "more than tensors and plain data: _codecs.encode")


def test_options_of_other_programs_are_plain_data_too(sound, tmp_path):
    """They are written again when the weights are exported."""
    many = [1]
    for _ in range(60):
        many = [many, many]  # a few bytes in a pickle
    for value in (many, torch.ones(2), float("nan"), {(1, 2): 3}):
        for place in (("options",), ("text_encoder", "config")):
            content = copy.deepcopy(sound)
            put(*place, "theirs", value=value)(content)
            checkpoint.save(tmp_path / "c.pth", content)
            refused(tmp_path / "c.pth", "is damaged: .* no plain data")


def test_dtypes_devices_and_sets_are_plain_data(tmp_path):
    """Checkpoints of other programs may hold them; torch makes them without a call of anything else."""
    content = {"dtype": torch.bfloat16, "device": torch.device("cpu"), "seen": {1, 2}, "value": torch.ones(2).half()}
    torch.save(content, tmp_path / "w.pth")
    assert checkpoint.read_plain(tmp_path / "w.pth", "w")["dtype"] == torch.bfloat16


def test_headers_of_exported_weights(sound, tmp_path):
    weights = {name: value.contiguous() for name, value in sound["model"].items()}
    described = {"format": 1} | {name: sound[name] for name in checkpoint.DESCRIPTION}
    path = tmp_path / "c.safetensors"
    for header in (NESTED, "{", "3", "null", json.dumps(described | {"options": []}), json.dumps([described])):
        save_file(weights, path, {"proxyformer": header})
        refused(path)
    deep = f'{{"a": {NESTED}}}'.encode()
    path.write_bytes(len(deep).to_bytes(8, "little") + deep)
    refused(path)
    path.write_bytes((2**63).to_bytes(8, "little") + b"{}")
    refused(path)
    weights[next(iter(weights))].view(-1)[0] = float("nan")
    save_file(weights, path, {"proxyformer": json.dumps(described)})
    refused(path, "1 tensors hold values that are not finite")


# ------------------------------------------------------------------------------------------------- going on with a run


@pytest.fixture(scope="module")
def run(ytvos_root, tmp_path_factory) -> Path:
    """The folder of a run, with a checkpoint after its first epoch."""
    folder = tmp_path_factory.mktemp("run")
    trainer(ytvos_root, folder, "--epochs", "1", "--ema_decay", "0.9").run()
    return folder


def rank(name: str, value: object):
    def change(content: dict) -> None:
        content["ranks"][0][name] = value

    return change


def moments(make):
    def change(content: dict) -> None:
        state = next(iter(content["optimizer"]["state"].values()))
        state["exp_avg"] = make(state["exp_avg"])

    return change


STATES = {
    **{f"no {part}": drop(part) for part in ("scheduler", "scaler", "ranks", "epoch", "step", "taken", "skipped")},
    **{f"{part} is a text": put(part, value="x") for part in ("scheduler", "ranks", "epoch", "best", "optimizer")},
    "a negative epoch": put("epoch", value=-1),
    "no ranks": put("ranks", value=[]),
    "a rank of nothing": put("ranks", value=[None]),
    "a short random stream": rank("rng", torch.zeros(3, dtype=torch.uint8)),
    "a random stream of noise": rank("rng", torch.full((5056,), 7, dtype=torch.uint8)),
    "a random stream of floats": rank("rng", torch.zeros(5056)),
    "sums of texts": rank("sums", {"loss": "x"}),
    "no groups": put("optimizer", "param_groups", value=[]),
    "moments of another shape": moments(lambda m: m[None]),
    "moments of a list": moments(lambda m: [1.0]),
    "moments that are not finite": moments(lambda m: m * float("nan")),
    "a parameter that is none": lambda content: content["optimizer"]["state"].update({10**6: {}}),
    "no average": put("average", value=None),
    "an average of others": put("average", value={"w": torch.ones(1)}),
    "a schedule without its step": drop("scheduler", "last_epoch"),
    "a schedule at a text": put("scheduler", "last_epoch", value="x"),
    "a learning rate as text": put("options", "lr", value="0.1"),
    "a global batch of -2": put("options", "global_batch_size", value=-2),
    "groups of no clip": put("grouped", value=0),
    "groups of more clips than a step": put("grouped", value=4),
    "groups of a text": put("grouped", value="x"),
    "drops that are no list": put("options", "lr_drop", value=3),
    "a mixture of texts": put("options", "mix", value=["ytvos"]),
    "another schedule": put("options", "lr_schedule", value="exp"),
}


@pytest.mark.parametrize("change", STATES.values(), ids=STATES)
def test_a_made_up_state_of_a_run_is_refused_in_one_line(change, run, ytvos_root, tmp_path):
    content = torch.load(run / "checkpoint.pth", weights_only=True)
    change(content)
    path = tmp_path / "checkpoint_00000001.pth"
    torch.save(content, path)
    with pytest.raises(USER_ERRORS) as raised:
        trainer(ytvos_root, tmp_path, "--epochs", "2", "--ema_decay", "0.9", resume=path)
    said = str(raised.value)
    assert str(path) in said and "\n" not in said and len(said) < 1500


def test_a_checkpoint_does_not_say_where_to_write(run, ytvos_root, tmp_path, monkeypatch):
    content = torch.load(run / "checkpoint.pth", weights_only=True)
    content["options"]["output_dir"] = str(tmp_path / "elsewhere")
    path = tmp_path / "copy" / "c.pth"
    path.parent.mkdir()
    torch.save(content, path)
    for flags, folder in ((), str(path.parent)), (("--output_dir", "mine"), "mine"):
        monkeypatch.setattr("sys.argv", ["main.py", "--resume", str(path), *flags])
        args, _ = main.restore_options(main.parse_train_args())
        assert args.output_dir == folder
