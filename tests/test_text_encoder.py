"""Words in, features out: padding, refusals, freezing, and a description that rebuilds the encoder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertConfig, BertModel, RobertaForMaskedLM

from models.text_encoder import TextEncoder
from tests.tiny_model import EXPRESSIONS, tiny_text_encoder, tiny_tokenizer
from tools.make_tiny_text_encoder import make_encoder

# other ways to write the same words
VARIANTS = (
    "The big red circle.",
    "THE BIG RED CIRCLE!?",
    "\u201cthe\u00a0big\u3000red  circle\u201d \u2026",
    "\ufeffthe\tbig\nr\u200bed cir\u00adcle\u3002",
    "\uff54\uff48\uff45 big red circle",
)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A local RoBERTa, saved with the language head that published ones have."""
    encoder = tiny_text_encoder()
    masked = RobertaForMaskedLM(encoder.model.config)
    masked.roberta.load_state_dict(encoder.model.state_dict())
    masked.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    return tmp_path


@torch.no_grad()
def test_a_batch_gives_the_words_of_each_expression_alone():
    encoder = tiny_text_encoder().eval()
    words, valid = encoder(list(EXPRESSIONS))
    lengths = [len(tiny_tokenizer()(text)["input_ids"]) for text in EXPRESSIONS]
    assert words.shape == (len(EXPRESSIONS), max(lengths), encoder.width) and valid.dtype == torch.bool
    for text, row, mask, length in zip(EXPRESSIONS, words, valid, lengths, strict=True):
        assert mask.tolist() == [True] * length + [False] * (max(lengths) - length)
        torch.testing.assert_close(row[:length], encoder([text])[0][0], atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("texts", [EXPRESSIONS, EXPRESSIONS[:1]], ids=["padded", "alone"])
def test_padding_is_masked_as_transformers_masks_it(texts):
    encoder = tiny_text_encoder().eval()
    ids, valid = encoder.tokenize(list(texts))
    expected = encoder.model(input_ids=ids, attention_mask=valid.long()).last_hidden_state
    assert torch.equal(encoder(list(texts))[0], expected)
    wrong = encoder.model(input_ids=ids).last_hidden_state
    assert torch.equal(wrong, expected) == bool(valid.all())


@pytest.mark.parametrize("text", ["", " ", "\t\n", "?", "\u200b...", "\u201c\u201d"])
def test_empty_expressions_are_refused(text):
    with pytest.raises(ValueError, match="expression is empty"):
        tiny_text_encoder()(["a star", text])


@torch.no_grad()
def test_texts_that_differ_in_form_alone_have_the_same_features():
    encoder = tiny_text_encoder().eval()
    words, valid = encoder(["the big red circle"])
    for text in VARIANTS:
        other, other_valid = encoder([text])
        assert torch.equal(other, words) and torch.equal(other_valid, valid)
    encoder.form = "lower"
    assert torch.equal(encoder(["The  Big Red\tCIRCLE"])[0], words)
    assert not torch.equal(encoder(["the big red circle."])[0][:, : words.shape[1]], words)
    encoder.form = "raw"
    assert torch.equal(encoder(["the big red circle"])[0], words)
    assert encoder.tokenize(["The big red circle"])[0].tolist() == [tiny_tokenizer()("The big red circle")["input_ids"]]


# Too long -------------------------------------------------------------------------------------------------------------


def longer(encoder: TextEncoder, word: str) -> str:
    return word * (encoder.limit + 40)


@torch.no_grad()
@pytest.mark.parametrize("word", ["left ", "zebra, ", "\u72d7", "\U0001f436", "x"])
def test_as_much_is_read_as_there_are_positions_for(word):
    encoder = tiny_text_encoder().eval()
    text = longer(encoder, word)
    read = encoder.read(text)
    assert 0 < len(read) < len(text) and text.startswith(read) and not read.endswith(" ")
    assert len(encoder.tokenizer.encode(read).ids) <= encoder.limit
    further = text[: len(read) + len(word)].rstrip()
    assert len(encoder.tokenizer.encode(further).ids) > encoder.limit
    words, valid = encoder([text, "a star"])
    assert words.shape[1] == len(encoder.tokenizer.encode(read).ids) and valid[0].all()


def test_what_is_too_long_is_told_once_by_its_place(capsys):
    encoder = tiny_text_encoder()
    long, other = longer(encoder, "left "), longer(encoder, "\u72d7")
    texts = [("ytvos, video a, expression 0", long), ("ytvos, video a, expression 1", "a star")]
    texts += [("ytvos, video b, expression 0", other), ("ytvos, video c, expression 7", long)]
    with pytest.raises(ValueError, match="--long_text shorten") as raised:
        encoder.announce(texts, "refuse")
    for where in ("video a, expression 0: ", "video b, expression 0: ", "video c, expression 7: "):
        assert where in str(raised.value)
    assert "video a, expression 1" not in str(raised.value) and "\n" not in str(raised.value)
    assert f"tokens, the text encoder takes {encoder.limit}" in str(raised.value)
    encoder.announce(texts, "shorten")
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 3 and all(line.startswith("warning: ytvos, video ") for line in told)
    encoder.announce(texts, "shorten")
    encoder([long])
    assert not capsys.readouterr().err
    with pytest.raises(ValueError, match="--long_text cut does not exist"):
        encoder.announce([], "cut")
    with pytest.raises(ValueError, match="expression is empty"):
        encoder.announce([("a", "?")], "shorten")


def test_of_many_that_are_too_long_some_are_named(capsys):
    encoder = tiny_text_encoder()
    texts = [(f"video {i}", longer(encoder, "left ") + str(i)) for i in range(30)]
    encoder.announce(texts, "shorten")
    assert capsys.readouterr().err.splitlines()[-1].startswith("warning: 10 more texts are too long")
    with pytest.raises(ValueError, match="25 more texts"):
        tiny_text_encoder().announce(texts, "refuse")


def test_ordinary_texts_cost_nothing():
    encoder = tiny_text_encoder()
    encoder.tokenizer = None
    texts = [("a", "a" * (encoder.limit - 3)), ("b", "\u72d7" * (encoder.limit // 3 - 1)), ("c", "A star.")]
    encoder.announce(texts, "refuse")


def test_an_encoder_without_room_for_a_character_says_so():
    encoder = tiny_text_encoder()
    encoder.model.config.max_position_embeddings = 4
    with pytest.raises(ValueError, match="takes 2 tokens, too few for any of 'a star'"):
        encoder.read("a star")


@pytest.mark.parametrize("frozen", [True, False])
def test_freezing(frozen):
    encoder = tiny_text_encoder(frozen).train()
    assert encoder.training == encoder.model.training == (not frozen)
    first, second = (encoder(["a star"])[0] for _ in range(2))
    assert torch.equal(first, second) == frozen  # dropout
    assert first.requires_grad == (not frozen)
    assert all(p.requires_grad == (not frozen) for p in encoder.parameters())


@torch.no_grad()
def test_a_local_directory_gives_its_own_weights(folder):
    loaded = TextEncoder.from_pretrained(str(folder), frozen=True)
    made = tiny_text_encoder(frozen=True)
    for got, wanted in zip(loaded(list(EXPRESSIONS)), made(list(EXPRESSIONS)), strict=True):
        assert torch.equal(got, wanted)


@torch.no_grad()
def test_a_tokenizer_is_taken_however_it_was_used_before(folder):
    """transformers saves truncation and padding as they were last set; public encoders have both."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer(["a dog"], truncation=True, max_length=3, padding="max_length")
    tokenizer.save_pretrained(folder)
    assert json.loads((folder / "tokenizer.json").read_text())["truncation"]
    encoder = TextEncoder.from_pretrained(str(folder), frozen=False)
    assert encoder.tokenize(["a dog and a cat"])[0].shape[1] > 3


def test_the_description_is_plain_data_that_rebuilds_all_but_the_weights():
    encoder = tiny_text_encoder().eval()
    again = TextEncoder.from_description(json.loads(json.dumps(encoder.description())), frozen=True)
    ids = [e.tokenize(list(EXPRESSIONS)) for e in (encoder, again)]
    assert torch.equal(ids[0][0], ids[1][0]) and torch.equal(ids[0][1], ids[1][1])
    assert not torch.equal(again(["a star"])[0], encoder(["a star"])[0])
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again(["a star"])[0], encoder(["a star"])[0])


def no_such_folder(folder: Path) -> Path:
    return folder / "nowhere"


def empty_folder(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def without_weights(folder: Path) -> Path:
    (folder / "model.safetensors").unlink()
    return folder


def without_tokenizer(folder: Path) -> Path:
    for path in folder.glob("*token*"):
        path.unlink()
    return folder


def with_a_layer_lost(folder: Path) -> Path:
    state = load_file(folder / "model.safetensors")
    del state["roberta.encoder.layer.0.output.dense.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def cut_short(folder: Path) -> Path:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    return folder


def broken_config(folder: Path) -> Path:
    (folder / "config.json").write_text("{")
    return folder


def of_another_kind(folder: Path) -> Path:
    BertModel(BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)).save_pretrained(folder)
    return folder


def of_fewer_tokens(folder: Path) -> Path:
    config = make_encoder(tiny_tokenizer(), hidden_size=16, layers=1, heads=2, seed=0).config
    config.vocab_size = 30
    RobertaForMaskedLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (no_such_folder, "there is no such directory"),
        (empty_folder, "cannot be loaded"),
        (without_weights, "the directory needs config.json, model.safetensors"),
        (without_tokenizer, "tokenizer.json is missing"),
        (with_a_layer_lost, "its weights lack encoder.layer.0.output.dense.weight"),
        (cut_short, "cannot be loaded"),
        (broken_config, "cannot be loaded"),
        (of_another_kind, "it is a bert, not a RoBERTa"),
        (of_fewer_tokens, "tokens, the encoder 30"),
    ],
)
def test_directories_that_do_not_serve_are_named(folder, spoil, complaint):
    path = spoil(folder)
    with pytest.raises(ValueError, match="--text_encoder") as raised:
        TextEncoder.from_pretrained(str(path), frozen=True)
    assert str(path) in str(raised.value) and complaint in str(raised.value)


NESTED = "[" * 100_000 + "]" * 100_000
DAMAGED = {
    "config.json": [{"hidden_size": "16"}, {"model_type": ["roberta"]}, {"dtype": [1]}, {"id2label": 3}, NESTED, "[]"],
    "tokenizer.json": [{"model": {"type": "BPE"}}, {"post_processor": 3}, NESTED, "[]"],
    "tokenizer_config.json": [{"tokenizer_class": ["x"]}, NESTED, "[]"],
    "model.safetensors": ["", "x" * 100],
}


@pytest.mark.parametrize(
    ("file", "number"), [(file, number) for file, contents in DAMAGED.items() for number in range(len(contents))]
)
def test_a_damaged_file_of_an_encoder_is_one_line(folder, file, number, capfd):
    content = DAMAGED[file][number]
    if isinstance(content, dict):
        content = json.dumps(json.loads((folder / file).read_text()) | content)
    (folder / file).write_text(content)
    with pytest.raises(ValueError, match="--text_encoder") as raised:
        TextEncoder.from_pretrained(str(folder), frozen=True)
    assert str(folder) in str(raised.value) and "\n" not in str(raised.value)
    assert "panicked" not in capfd.readouterr().err


def test_weights_of_an_encoder_that_are_not_finite(folder):
    state = load_file(folder / "model.safetensors")
    state["roberta.embeddings.word_embeddings.weight"][3] = float("nan")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="--text_encoder .* hold values that are not finite, .*word_emb"):
        TextEncoder.from_pretrained(str(folder), frozen=True)


def test_a_directory_that_names_code_on_a_hub_is_read_without_it(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {"attn_implementation": "somebody/kernel", "auto_map": {"AutoConfig": "somebody/code--x.Y"}}
    (folder / "config.json").write_text(json.dumps(config))
    description = TextEncoder.from_pretrained(str(folder), frozen=True).description()
    assert "somebody" not in json.dumps(description)


def test_a_hub_name_without_network_says_how_to_fetch_it(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"fetch it once elsewhere .*make_tiny_text_encoder"):
        TextEncoder.from_pretrained("no-such-owner/no-such-roberta", frozen=True)


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch):
    asked = []

    def refuse(_, name, **how):
        asked.append(name)
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuse)
    with pytest.raises(ValueError, match=r"hub cannot be reached \(no route to host\)\. if this machine is offline, "):
        TextEncoder.from_pretrained("no-such-owner/no-such-roberta", frozen=True)
    assert asked == ["no-such-owner/no-such-roberta"]


def test_a_hub_name_that_was_fetched_needs_no_network(folder, tmp_path_factory, monkeypatch):
    """The cache as the hub's client lays it out (huggingface_hub, "Understand caching")."""
    cache, commit = tmp_path_factory.mktemp("cache"), "0" * 40
    (cache / "models--owner--roberta/refs").mkdir(parents=True)
    (cache / "models--owner--roberta/refs/main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: pytest.fail("the hub is asked"))
    shutil.copytree(folder, cache / "models--owner--roberta/snapshots" / commit)
    found = TextEncoder.from_pretrained("owner/roberta", frozen=True)
    kept = TextEncoder.from_pretrained(str(folder), frozen=True)
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), kept.parameters(), strict=True))
