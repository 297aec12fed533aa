"""A text encoder as a checkpoint describes it, the configuration of RoBERTa and its tokenizer, checked before use.

transformers and tokenizers trust their files. A configuration may name a kernel on a hub, and Rust ends some damaged
tokenizers by a panic. So only the values that RoBERTa's network needs are taken, and only a byte-level BPE all of whose
parts have the documented form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from tokenizers import Tokenizer
from transformers import RobertaConfig

from util.options.saved import Kind
from util.options.types import below_one, between

_LARGEST = 32 * 2**20  # characters of a tokenizer
_LONGEST_TOKEN = 1000  # characters

# What RobertaModel reads of its configuration (transformers/models/roberta/modeling_roberta.py); a decoder, and the
# ways to compute attention, are left out.
CONFIG = {
    "vocab_size": Kind(between(3, 2**20)),
    "hidden_size": Kind(between(1, 8192)),
    "num_hidden_layers": Kind(between(1, 100)),
    "num_attention_heads": Kind(between(1, 1024)),
    "intermediate_size": Kind(between(1, 65536)),
    "hidden_act": Kind(str, ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu")),
    "hidden_dropout_prob": Kind(below_one),
    "attention_probs_dropout_prob": Kind(below_one),
    "max_position_embeddings": Kind(between(4, 65536)),
    "type_vocab_size": Kind(between(1, 64)),
    "initializer_range": Kind(below_one),
    "layer_norm_eps": Kind(below_one),
    "pad_token_id": Kind(between(0, 2**20)),
    "bos_token_id": Kind(between(0, 2**20)),
    "eos_token_id": Kind(between(0, 2**20)),
}
_BOOLEANS = ("add_prefix_space", "trim_offsets", "use_regex")
_ADDED = ("single_word", "lstrip", "rstrip", "normalized", "special")
# steps before the pieces of a text are looked up; those that search with patterns are left out
_NORMALIZERS = ("NFC", "NFD", "NFKC", "NFKD", "Lowercase")


def read_description(described: Mapping[str, object]) -> tuple[RobertaConfig, Tokenizer]:
    """Configuration and tokenizer from what ``TextEncoder.description`` gives. Raises ValueError as the functions
    below."""
    config = read_config(described["config"])
    return config, read_tokenizer(described["tokenizer"], config.vocab_size)


def read_config(described: Mapping[str, object]) -> RobertaConfig:
    """The configuration with the values of :data:`CONFIG` alone.

    Raises:
        ValueError: a value is missing or out of its range, or two contradict each other.
    """
    values = {name: described.get(name) for name in CONFIG}
    for name, kind in CONFIG.items():
        if fault := kind.fault(values[name]):
            raise ValueError(f"{name} of the text encoder {fault}")
        if kind.type is below_one:  # transformers refuses a 0 that is no 0.0
            values[name] = float(values[name])
    if values["hidden_size"] % values["num_attention_heads"]:
        raise ValueError("hidden_size of the text encoder is no multiple of num_attention_heads")
    if values["pad_token_id"] >= min(values["vocab_size"], values["max_position_embeddings"] - 3):
        raise ValueError("pad_token_id of the text encoder is out of its range")
    return RobertaConfig(**values)


def read_tokenizer(described: str, vocab_size: int) -> Tokenizer:
    """The tokenizer that ``Tokenizer.to_str`` has written.

    Args:
        vocab_size: tokens that the encoder has.

    Raises:
        ValueError: it is no byte-level BPE with the start and end tokens of RoBERTa, or a part of it is damaged.
    """
    fault = "it is too long"
    if len(described) <= _LARGEST:
        try:
            fault = _fault(json.loads(described), vocab_size)
        except (ValueError, RecursionError) as error:
            fault = f"it is no JSON: {type(error).__name__}"
    if fault:
        raise ValueError(f"the tokenizer of the text encoder is damaged or of another kind: {fault}")
    try:
        return Tokenizer.from_str(described)
    except Exception as error:  # tokenizers raises plain exceptions
        raise ValueError(f"the tokenizer of the text encoder is damaged: {str(error)[:200]}") from error


def _fault(content: object, vocab_size: int) -> str | None:
    if not isinstance(content, dict) or not _is_bpe(content.get("model")):
        return "its model is no BPE"
    if content.get("truncation") is not None:
        return "it truncates texts"
    model, vocab = content["model"], content["model"]["vocab"]
    ids = set(vocab.values())
    if not (len(ids) == len(vocab) and all(type(i) is int and 0 <= i < vocab_size for i in ids)):
        return f"the numbers of its tokens are not all different and below {vocab_size}, which the encoder has"
    if not all(0 < len(token) <= _LONGEST_TOKEN for token in vocab):
        return "a token is empty or too long"
    if not all(_is_merge(merge, vocab) for merge in model["merges"]):
        return "a merge joins pieces that are no tokens"
    added = content.get("added_tokens")
    if not isinstance(added, list) or not _are_added(added, vocab, vocab_size):
        return "its added tokens have other numbers than tokenizers gives them"
    if not all(_is_byte_level(content.get(part)) for part in ("pre_tokenizer", "decoder")):
        return "it does not split texts into bytes"
    normalizer = content.get("normalizer")
    if normalizer is not None and not (
        isinstance(normalizer, dict) and normalizer.keys() == {"type"} and normalizer["type"] in _NORMALIZERS
    ):
        return f"its normalizer is none of {', '.join(_NORMALIZERS)}"
    if not _is_roberta(content.get("post_processor"), vocab):
        return "it does not add RoBERTa's start and end tokens"
    return _padding_fault(content.get("padding"), vocab_size)


def _is_bpe(model: object) -> bool:
    return (
        isinstance(model, dict)
        and model.get("type", "BPE") == "BPE"
        and isinstance(model.get("vocab"), dict)
        and isinstance(model.get("merges"), list)
        and len(model["merges"]) <= 2**20
        and model.get("dropout") is None
        and not any(model.get(name) for name in ("continuing_subword_prefix", "end_of_word_suffix"))
        and (model.get("unk_token") is None or _among(model["unk_token"], model["vocab"]))
        and all(isinstance(model.get(name, False), bool) for name in ("fuse_unk", "byte_fallback", "ignore_merges"))
    )


def _is_merge(merge: object, vocab: Mapping[str, int]) -> bool:
    pair = merge.split(" ") if isinstance(merge, str) else merge  # files of tokenizers before 0.20 have texts
    if not isinstance(pair, list) or len(pair) != 2 or not all(_among(piece, vocab) for piece in pair):
        return False
    return "".join(pair) in vocab


def _are_added(tokens: list, vocab: Mapping[str, int], vocab_size: int) -> bool:
    """Whether these are tokens of the model under their own numbers, or further ones with the numbers that follow."""
    numbers = dict(vocab)
    for token in tokens:
        content = token.get("content") if isinstance(token, dict) else None
        if not isinstance(content, str) or not 0 < len(content) <= _LONGEST_TOKEN:
            return False
        number = numbers.setdefault(content, len(numbers))
        if type(token.get("id")) is not int or token["id"] != number or number >= vocab_size:
            return False
        if not all(isinstance(token.get(name, False), bool) for name in _ADDED):
            return False
    return True


def _is_byte_level(part: object) -> bool:
    return (
        isinstance(part, dict)
        and part.get("type") == "ByteLevel"
        and all(isinstance(part.get(name, True), bool) for name in _BOOLEANS)
    )


def _is_roberta(part: object, vocab: Mapping[str, int]) -> bool:
    if not isinstance(part, dict) or part.get("type") != "RobertaProcessing":
        return False
    ends = [part.get("sep"), part.get("cls")]
    return all(isinstance(part.get(name, True), bool) for name in _BOOLEANS) and all(
        isinstance(end, list) and len(end) == 2 and _among(end[0], vocab) and end[1] == vocab[end[0]] for end in ends
    )


def _padding_fault(padding: object, vocab_size: int) -> str | None:
    """The encoder sets its own padding; what the file says need only be readable."""
    if padding is None:
        return None
    sound = (
        isinstance(padding, dict)
        and padding.get("strategy") == "BatchLongest"
        and padding.get("direction") in ("Left", "Right")
        and padding.get("pad_to_multiple_of") is None
        and all(Kind(between(0, vocab_size - 1)).fault(padding.get(name)) is None for name in ("pad_id", "pad_type_id"))
        and isinstance(padding.get("pad_token"), str)
    )
    return None if sound else "its padding has another form"


def _among(token: object, vocab: Mapping[str, int]) -> bool:
    return isinstance(token, str) and token in vocab
