"""The small RoBERTa made from a data set's expressions loads and behaves like any local RoBERTa directory."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel, AutoTokenizer

from tests.commands import started
from tools.make_tiny_text_encoder import make_encoder, read_expressions, train_tokenizer

TEXTS = ["the big red circle", "a small square moving to the left", "the star left of the blue circle"]


def meta_file(path: Path, texts: list) -> Path:
    expressions = {str(i): {"exp": text} for i, text in enumerate(texts)}
    path.write_text(json.dumps({"videos": {"one": {"expressions": expressions, "frames": []}}}))
    return path


def script(*arguments) -> subprocess.CompletedProcess:
    return started("tools/make_tiny_text_encoder.py", *arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("encoder")
    files = [meta_file(root / f"{i}.json", TEXTS[i:]) for i in (0, 1)]
    made = script(*files, "--output_dir", root / "made", "--hidden_size", 32, "--layers", 1, "--vocab_size", 300)
    assert made.returncode == 0, made.stderr
    return root / "made"


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


@pytest.fixture(scope="module")
def model(folder):
    return AutoModel.from_pretrained(folder, local_files_only=True, add_pooling_layer=False).eval()


def test_special_tokens_are_those_of_roberta(tokenizer, model):
    ids = tokenizer(TEXTS[0])["input_ids"]
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3]) == ["<s>", "<pad>", "</s>", "<unk>"]
    assert ids[0] == tokenizer.cls_token_id == 0 and ids[-1] == tokenizer.sep_token_id == 2
    assert tokenizer.pad_token_id == model.config.pad_token_id == 1
    assert tokenizer.mask_token == "<mask>"
    assert len(tokenizer) == model.config.vocab_size <= 300


def test_words_of_the_data_set_are_whole_tokens(folder):
    tokenizer = train_tokenizer(TEXTS * 5, 400)
    assert len(tokenizer("the big red circle")["input_ids"]) == 4 + 2


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40).filter(lambda text: "<" not in text))
@settings(max_examples=200, deadline=None)
def test_any_text_comes_back_from_its_tokens(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids[1:-1], clean_up_tokenization_spaces=False) == text


def test_padding_is_masked_and_changes_nothing(tokenizer, model):
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    lengths = [len(tokenizer(text)["input_ids"]) for text in TEXTS]
    assert batch["attention_mask"].sum(dim=1).tolist() == lengths
    assert (batch["input_ids"] == tokenizer.pad_token_id).sum(dim=1).tolist() == [max(lengths) - n for n in lengths]
    with torch.no_grad():
        together = model(**batch).last_hidden_state
        assert together.shape == (len(TEXTS), max(lengths), 32)
        for text, length, states in zip(TEXTS, lengths, together, strict=True):
            alone = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
            torch.testing.assert_close(states[:length], alone, atol=1e-5, rtol=0)


def test_longest_text_fits_the_positions(tokenizer, model):
    ids = torch.tensor([tokenizer("left " * 600, truncation=True)["input_ids"]])
    assert ids.shape[1] == tokenizer.model_max_length
    assert model(input_ids=ids).last_hidden_state.shape[1] == ids.shape[1]


def test_same_seed_same_folder_other_seed_other_weights(folder, tokenizer, model):
    again = train_tokenizer([text for i in (0, 1) for text in TEXTS[i:]], 300)
    assert again.get_vocab() == tokenizer.get_vocab()
    before = torch.random.get_rng_state()
    same, other = (make_encoder(again, hidden_size=32, layers=1, heads=4, seed=seed).state_dict() for seed in (0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(value, same[name]) for name, value in model.state_dict().items())
    name = "embeddings.word_embeddings.weight"
    assert not torch.equal(same[name], other[name])


def test_expressions_of_a_file_are_read_in_order(tmp_path):
    assert read_expressions(meta_file(tmp_path / "meta.json", TEXTS)) == TEXTS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        ("{", "is not a meta_expressions.json"),
        ("[]", "is not a meta_expressions.json"),
        ('{"videos": {"one": {}}}', "KeyError 'expressions'"),
        ('{"videos": {}}', "holds no expression"),
        ('{"videos": {"one": {"expressions": {"0": {"exp": " "}}}}}', "holds no expression"),
        ('{"videos": {"one": {"expressions": {"0": {"exp": 3}}}}}', "is not a string"),
    ],
)
def test_bad_files_are_named(tmp_path, content, message):
    path = tmp_path / "meta.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as raised:
        read_expressions(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("bad", "flag"),
    [
        (dict(hidden_size=30), "--hidden_size 30"),
        (dict(layers=0), "--layers 0"),
        (dict(heads=0), "--heads 0"),
        (dict(seed=-1), "--seed -1"),
    ],
)
def test_bad_shapes_are_named(tokenizer, bad, flag):
    with pytest.raises(ValueError, match=flag):
        make_encoder(tokenizer, **{**dict(hidden_size=32, layers=1, heads=4, seed=0), **bad})


def test_vocabulary_must_hold_all_bytes():
    train_tokenizer(TEXTS, 261)
    with pytest.raises(ValueError, match="--vocab_size 260: .* need 261"):
        train_tokenizer(TEXTS, 260)


def test_script_ends_without_traceback_and_keeps_existing_folders(tmp_path, folder):
    meta, kept = meta_file(tmp_path / "meta.json", TEXTS), sorted(folder.iterdir())
    result = script(meta, "--output_dir", folder)
    assert result.returncode == 2
    assert "already holds something" in result.stderr and "Traceback" not in result.stderr
    assert sorted(folder.iterdir()) == kept
