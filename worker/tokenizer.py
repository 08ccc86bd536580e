"""The only place that reads a tokenizer and a chat template from a model's folder."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from jobs.errors import ModelUnavailable
from worker.checkpoint import read_json


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer, without cutting or padding. Raises ModelUnavailable, OSError."""
    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_buffer(path.read_bytes()) if path.exists() else _byte_level(folder)
    except (OSError, ModelUnavailable):
        raise
    except Exception as error:  # the library raises nothing more precise
        raise ModelUnavailable(f"the tokenizer cannot be read: {error}.") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def read_chat_template(folder: Path) -> str | None:
    """The Jinja text from whichever file holds it; it begins with the special tokens that it may name.

    Raises ModelUnavailable.
    """
    path = folder / "tokenizer_config.json"
    config = read_json(path) if path.exists() else {}
    path = folder / "chat_template.jinja"
    template = path.read_text(encoding="utf-8") if path.exists() else config.get("chat_template")
    if isinstance(template, str):
        return "".join(_named(config)) + template
    if template is None:
        return None
    raise ModelUnavailable("tokenizer_config.json has a chat_template that is not one text.")


def _named(config: Mapping[str, Any]) -> Iterator[str]:
    """What transformers would hand to the template beside the messages, as assignments."""
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        token = config.get(name)
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            # the plus keeps a line break with which the template begins
            yield f"{{% set {name} = {json.dumps(text, ensure_ascii=False)} +%}}"


def _byte_level(folder: Path) -> Tokenizer:
    """GPT-2's tokenizer from its two old files."""
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    if not (vocab.exists() and merges.exists()):
        raise ModelUnavailable("there is neither tokenizer.json nor both vocab.json and merges.txt.")
    tokenizer = Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer
