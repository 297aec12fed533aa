"""Makes a small RoBERTa with random weights and a tokenizer that is trained on the expressions of a data set.

    python tools/make_tiny_text_encoder.py data/synthetic/meta_expressions/train/meta_expressions.json \\
        --output_dir data/synthetic/text_encoder

The folder loads like any local RoBERTa (``AutoModel`` and ``AutoTokenizer``); nothing is downloaded.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import RobertaConfig, RobertaModel, RobertaTokenizer

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from util.files.folders import new_folder, require_new  # noqa: E402
from util.files.reading import read_json  # noqa: E402
from util.run.cli import run  # noqa: E402
from util.run.parser import CommandParser
from util.samples.text import in_form, is_empty  # noqa: E402

SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]  # ids 0 to 4, the first four as in roberta-base
MAX_TOKENS = 512


def read_expressions(path: str | Path) -> list[str]:
    """All expressions of a ``meta_expressions.json``, in the form in which the text encoder reads them.

    Raises:
        FileNotFoundError, ValueError: the file is missing, of another format, or holds no expression.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give a meta_expressions.json of a data set")
    try:
        videos = read_json(path)["videos"]
        found = [entry["exp"] for video in videos.values() for entry in video["expressions"].values()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'{path} is not a meta_expressions.json, {{"videos": {{name: {{"expressions": {{id: {{"exp": …}}}}}}}}}}: '
            f"{type(error).__name__} {error}"
        ) from error
    if not all(isinstance(text, str) for text in found):
        raise ValueError(f"{path}: an expression is not a string")
    if all(map(is_empty, found)):
        raise ValueError(f"{path} holds no expression to train a tokenizer on")
    return [in_form(text) for text in found]


def train_tokenizer(expressions: list[str], vocab_size: int) -> RobertaTokenizer:
    """A byte-level BPE tokenizer with RoBERTa's special tokens; at most ``vocab_size`` tokens, fewer on little text."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    least = len(SPECIAL_TOKENS) + len(alphabet)
    if vocab_size < least:
        raise ValueError(f"--vocab_size {vocab_size}: the bytes and the special tokens alone need {least}")
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL_TOKENS, initial_alphabet=alphabet, show_progress=False
    )
    trained.train_from_iterator(expressions, trainer)
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    return RobertaTokenizer(vocab=model["vocab"], merges=merges, model_max_length=MAX_TOKENS)


def make_encoder(tokenizer: RobertaTokenizer, *, hidden_size: int, layers: int, heads: int, seed: int) -> RobertaModel:
    """A RoBERTa for ``tokenizer`` with random weights; does not change the caller's random state."""
    for flag, value in (("hidden_size", hidden_size), ("layers", layers), ("heads", heads)):
        if value < 1:
            raise ValueError(f"--{flag} {value}: must be at least 1")
    if hidden_size % heads:
        raise ValueError(f"--hidden_size {hidden_size} cannot be divided into --heads {heads} equal parts")
    if seed < 0:
        raise ValueError(f"--seed {seed}: must not be negative")
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden_size,
        # positions are counted from the padding id + 1
        max_position_embeddings=MAX_TOKENS + tokenizer.pad_token_id + 1,
        type_vocab_size=1,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RobertaModel(config, add_pooling_layer=False)


def main() -> None:
    parser = CommandParser("make_tiny_text_encoder.py", __doc__)
    parser.add_argument("meta_expressions", nargs="+", metavar="META_EXPRESSIONS_JSON")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--hidden_size", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--vocab_size", type=int, default=400, help="largest number of tokens")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    output = Path(args.output_dir)
    require_new(output)
    expressions = [text for path in args.meta_expressions for text in read_expressions(path)]
    tokenizer = train_tokenizer(expressions, args.vocab_size)
    model = make_encoder(tokenizer, hidden_size=args.hidden_size, layers=args.layers, heads=args.heads, seed=args.seed)
    with new_folder(output) as folder:
        tokenizer.save_pretrained(folder)
        # Older readers of RoBERTa directories need the two parts of the tokenizer's model as separate files.
        tokenizer.backend_tokenizer.model.save(str(folder))
        model.save_pretrained(folder)
    print(f"{output}: {len(tokenizer)} tokens, {sum(p.numel() for p in model.parameters()):,} parameters")


if __name__ == "__main__":
    run(main)
