"""RoBERTa and its tokenizer: expressions to word features.

Shapes: b expressions, l tokens of the longest expression with its start and end tokens, d width of the encoder.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
import transformers
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, RobertaConfig, RobertaModel

from models.text_description import read_config, read_description, read_tokenizer
from util.run import dist
from util.run.memory import sent
from util.samples.text import in_form, shortened
from util.weights import checkpoint

LONG_TEXT = ("shorten", "refuse")  # ways to treat a text of more tokens than the encoder takes
HUB_SECONDS = 10  # until a hub that does not answer is taken for one that cannot be reached
_NAMED, _REFUSED = 20, 5  # how many such texts warnings name, and how many an error names


class TextEncoder(nn.Module):
    """Last hidden states of RoBERTa.

    Args:
        config: shape of the encoder; weights are random until loaded.
        tokenizer: the encoder's byte-level BPE, which also adds the start and end tokens.
        frozen: do not train the encoder, and run it without dropout and gradient.
        form: of the expressions, see :func:`util.samples.text.in_form`.
        pooler: also give a feature of the whole expression, which RoBERTa's pooler makes.
    """

    def __init__(
        self,
        *,
        config: RobertaConfig,
        tokenizer: Tokenizer,
        frozen: bool,
        form: str = "clean",
        pooler: bool = False,
    ) -> None:
        super().__init__()
        self.model = RobertaModel(config, add_pooling_layer=pooler)
        self.model.set_attn_implementation("sdpa")  # takes the mask that `pooled` makes
        self.tokenizer = tokenizer
        self.tokenizer.no_truncation()
        self.tokenizer.enable_padding(pad_id=config.pad_token_id)
        self.form = form
        self._told: set[str] = set()  # texts that a warning has named as too long
        self.frozen = frozen
        if frozen:
            self.model.requires_grad_(False)
        self.train()

    @classmethod
    def from_pretrained(cls, name: str, *, frozen: bool, pooler: bool = False) -> TextEncoder:
        """Loads a hub name (``roberta-base``), a local directory, or the text encoder in a checkpoint of this program.
        A pooler that a hub name or a directory lacks starts anew.

        Raises:
            ValueError: the encoder is missing here and on the hub, or does not fit; the message has the mend.
        """
        if Path(name).is_file():
            return cls._in_checkpoint(name, frozen=frozen, pooler=pooler)
        config, tokenizer, found = cls._published(name, pooler=pooler)
        encoder = cls(config=config, tokenizer=tokenizer, frozen=frozen, pooler=pooler)
        checkpoint.load_weights(encoder.model, found.state_dict(), f"--text_encoder {name}")
        return encoder

    @classmethod
    def _in_checkpoint(cls, path: str, *, frozen: bool, pooler: bool) -> TextEncoder:
        content = checkpoint.load(path)
        try:
            encoder = cls.from_description(content["text_encoder"], frozen=frozen, pooler=pooler)
        except ValueError as error:
            raise ValueError(f"--text_encoder {path} is damaged: {error}") from error
        begin = "text_encoder.model."  # behind the prefixes of wrappers
        weights = {name.partition(begin)[2]: x for name, x in checkpoint.best_weights(content).items() if begin in name}
        checkpoint.load_weights(encoder.model, weights, f"--text_encoder {path}")
        return encoder

    @classmethod
    def described_by(cls, name: str) -> dict:
        """A :meth:`description` with the configuration and tokenizer of a hub name or a local directory, whose weights
        are not read. Raises as :meth:`from_pretrained`."""
        config, tokenizer, _ = cls._published(name, weights=False)
        return {"config": config.to_dict(), "tokenizer": tokenizer.to_str()}

    @staticmethod
    def _published(
        name: str, *, pooler: bool = False, weights: bool = True
    ) -> tuple[RobertaConfig, Tokenizer, RobertaModel | None]:
        folder, model, loading = Path(name).is_dir(), None, {"missing_keys": ()}
        if not folder and (name.startswith((".", "/", "~")) or name.count("/") > 1):
            raise ValueError(f"--text_encoder {name}: there is no such directory, and no such checkpoint")
        try:
            if not (local := folder or _in_cache(name, weights)):
                # asked once: transformers would ask six times for each file, for half a minute, and print each time
                _ask_hub(name)
            found = AutoConfig.from_pretrained(name, local_files_only=local, trust_remote_code=False)
            tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=local, trust_remote_code=False)
            config = read_config(found.to_dict()) if found.model_type == "roberta" else found
            if weights:
                model, loading = RobertaModel.from_pretrained(
                    name, config=config, local_files_only=local, add_pooling_layer=pooler, output_loading_info=True
                )
        except MemoryError:
            raise
        except Exception as error:  # damaged files raise almost any
            lines = str(error).strip().splitlines() or [type(error).__name__]
            cause = " ".join(line.strip() for line in lines[: 1 + lines[0].endswith(":")])
            mend = (
                "the directory needs config.json, model.safetensors and the tokenizer's files"
                if folder
                else "if this machine is offline, fetch it once elsewhere (AutoModel and AutoTokenizer "
                ".from_pretrained(NAME) then .save_pretrained(DIR)) and give the directory; "
                "tools/make_tiny_text_encoder.py makes a small one for trials"
            )
            raise ValueError(f"--text_encoder {name} cannot be loaded: {cause.rstrip('.')}. {mend}") from error
        misfit = None
        if config.model_type != "roberta":
            misfit = f"it is a {config.model_type}, not a RoBERTa"
        elif missing := [name for name in loading["missing_keys"] if not name.startswith("pooler.")]:
            misfit = f"its weights lack {', '.join(sorted(missing)[:6])}"
        elif not hasattr(tokenizer, "backend_tokenizer"):
            misfit = "it needs a fast tokenizer (tokenizer.json)"
        elif len(tokenizer) <= len(tokenizer.all_special_tokens):
            # transformers makes such a tokenizer from a directory without the tokenizer's files
            misfit = "its tokenizer knows no word; tokenizer.json is missing"
        elif len(tokenizer) > config.vocab_size:
            misfit = f"its tokenizer has {len(tokenizer)} tokens, the encoder {config.vocab_size}; they do not match"
        if misfit:
            raise ValueError(f"--text_encoder {name}: {misfit}")
        own = tokenizer.backend_tokenizer
        own.no_truncation()  # transformers saves both as they were last used
        own.no_padding()
        try:
            return config, read_tokenizer(own.to_str(), config.vocab_size), model
        except ValueError as error:
            raise ValueError(f"--text_encoder {name}: {error}") from error

    def description(self) -> dict:
        """Config and tokenizer, from which :meth:`from_description` builds the encoder; plain data for a checkpoint."""
        config = self.model.config.to_dict()
        config.pop("_name_or_path", None)  # a path on this machine
        return {"config": config, "tokenizer": self.tokenizer.to_str()}

    @classmethod
    def from_description(cls, description: dict, *, frozen: bool, pooler: bool = False) -> TextEncoder:
        """The encoder that :meth:`description` describes, with random weights. Raises ValueError for a damaged one."""
        config, tokenizer = read_description(description)
        return cls(config=config, tokenizer=tokenizer, frozen=frozen, pooler=pooler)

    @property
    def width(self) -> int:
        return self.model.config.hidden_size

    @property
    def limit(self) -> int:
        """The largest number of tokens of a text, including the start and end tokens."""
        # RoBERTa counts positions from pad_token_id + 1
        return self.model.config.max_position_embeddings - self.model.config.pad_token_id - 1

    def read(self, text: str) -> str:
        """The text that the encoder reads of an expression: in its form, and cut to the longest beginning that fits.

        Raises:
            ValueError: the expression is empty, or none of its characters fits into the encoder's positions.
        """
        formed = self._formed(text)
        if self._fits(formed):
            return formed
        found = shortened(formed.strip(), self._fits)
        if not found:
            raise ValueError(f"the text encoder takes {self.limit} tokens, too few for any of {text[:60]!r}")
        return found

    def _formed(self, text: str) -> str:
        formed = in_form(text, self.form)
        if not formed.strip():
            raise ValueError(f"an expression is empty: there is nothing to refer to in {text[:60]!r}")
        return formed

    def _fits(self, formed: str) -> bool:
        # Byte-level BPE makes at most one token of each byte of the text and of the space before it; start and end add
        # two. So the length alone shows that an ordinary text fits, without tokenizing it.
        return len(formed.encode()) + 3 <= self.limit or self._tokens(formed) <= self.limit

    def _tokens(self, formed: str) -> int:
        return len(self.tokenizer.encode(formed).ids)

    def announce(self, texts: Iterable[tuple[str, str]], long_text: str) -> None:
        """Warns of texts that are too long for the encoder, once for each text. To be called before the work begins.

        Args:
            texts: pairs of a place, which the message names, and a text.
            long_text: "shorten": only the beginning of such a text will be read. "refuse": such a text is an error.

        Raises:
            ValueError: an expression is empty, or too long with "refuse"; or there is no such ``long_text``.
        """
        if long_text not in LONG_TEXT:
            raise ValueError(f"--long_text {long_text} does not exist; choose one of {', '.join(LONG_TEXT)}")
        long = {}
        for where, text in texts:
            formed = self._formed(text)
            if text not in self._told and not self._fits(formed):
                long[where] = text, f"{where}: {self._tokens(formed)} tokens, the text encoder takes {self.limit}"
        if not long:
            return
        if long_text == "refuse":
            named = "; ".join(told for _, told in list(long.values())[:_REFUSED])
            more = f"; and {len(long) - _REFUSED} more texts" if len(long) > _REFUSED else ""
            raise ValueError(f"{named}{more}: shorten them, or give --long_text shorten")
        self._told.update(text for text, _ in long.values())
        lines = [
            f"{told}; {len(self.read(text))} of its {len(self._formed(text))} characters are read"
            for text, told in list(long.values())[:_NAMED]
        ]
        if len(long) > _NAMED:
            lines.append(f"{len(long) - _NAMED} more texts are too long; tools/data/check.py names those of a data set")
        if dist.is_main():
            print(*(f"warning: {line}" for line in lines), sep="\n", file=sys.stderr, flush=True)

    def tokenize(self, expressions: list[str]) -> tuple[Tensor, Tensor]:
        """Token ids ``[b, l]`` and bool validity ``[b, l]``, on the CPU, of the texts that :meth:`read` returns.

        Raises:
            ValueError: an expression is empty.
        """
        tokens = self.tokenizer.encode_batch([self.read(text) for text in expressions])
        ids = torch.tensor([t.ids for t in tokens])
        valid = torch.tensor([t.attention_mask for t in tokens], dtype=torch.bool)
        return ids, valid

    def forward(self, expressions: list[str]) -> tuple[Tensor, Tensor]:
        """Word features ``[b, l, d]`` and their validity ``[b, l]``, on the model's device."""
        return self.pooled(expressions)[:2]

    def pooled(self, expressions: list[str]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Word features and their validity, and with a pooler the feature of each whole expression ``[b, d]``."""
        device = next(self.parameters()).device
        ids, valid = self.tokenize(expressions)
        padded = not valid.all()  # asked here, on the CPU: transformers would ask a GPU, and wait for its answer
        ids, valid = sent(ids, device), sent(valid, device)
        seen = valid[:, None, None].expand(-1, 1, valid.shape[1], -1) if padded else None
        with torch.no_grad() if self.frozen else contextlib.nullcontext():
            found = self.model(input_ids=ids, attention_mask=seen)
        return found.last_hidden_state, valid, found.pooler_output

    def train(self, mode: bool = True) -> TextEncoder:
        return super().train(mode and not self.frozen)


def _in_cache(name: str, weights: bool) -> bool:
    """Whether the hub's cache on this machine has the encoder of this name, so that no network is needed."""
    parts = [("config.json",), ("tokenizer.json", "vocab.json")]
    parts += [("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")] * weights
    return all(any(isinstance(try_to_load_from_cache(name, file), str) for file in files) for files in parts)


def _ask_hub(name: str) -> None:
    """Raises OSError where no hub answers; what a hub has to say against a name, transformers tells."""
    try:
        HfApi().model_info(name, timeout=HUB_SECONDS)
    except HfHubHTTPError:
        return
    except Exception as error:  # of the client's transport, which differs between versions
        raise OSError(f"the Hugging Face hub cannot be reached ({error})") from error


# transformers would show a progress bar for reading a single file
transformers.utils.logging.disable_progress_bar()
# the tokenizers' threads can hang processes that the data loader forks; a few expressions need no threads
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
