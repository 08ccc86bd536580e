"""The tokenizer of a training: that of the base model, or one that is learned from the file."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from jobs import training_data
from jobs.errors import ModelUnavailable
from jobs.lines import Flaw

FILE, CONFIG, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
END_OF_TEXT = "<|endoftext|>"


def read(folder: Path) -> Tokenizer:
    """The tokenizer of a model's folder, without cutting or padding. Raises ModelUnavailable."""
    path, vocab, merges = folder / FILE, folder / "vocab.json", folder / "merges.txt"
    try:
        if path.exists():
            found = Tokenizer.from_buffer(path.read_bytes())
        elif vocab.exists() and merges.exists():
            found = _byte_level(Tokenizer(models.BPE.from_file(str(vocab), str(merges))))
            found.add_special_tokens([END_OF_TEXT])
        else:
            raise ModelUnavailable(f"{folder} has neither {FILE} nor both vocab.json and merges.txt.")
    except ModelUnavailable:
        raise
    except Exception as error:  # the library raises nothing more precise
        raise ModelUnavailable(f"The tokenizer in {folder} cannot be read: {error}.") from error
    found.no_truncation()
    found.no_padding()
    return found


def learn(texts: Iterator[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE that splits text as GPT-2 does; digits are never joined. Token 0 ends a text."""
    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Split(Regex(r" ?\p{N}"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _byte_level(tokenizer)


def texts(stream: BinaryIO, filename: str) -> Iterator[str]:
    """All that a validated file says, for a tokenizer to learn from."""
    if training_data.is_text(stream, filename):
        yield from (block for block in training_data.text_blocks(stream) if not isinstance(block, Flaw))
        return
    for _, record in training_data.examples(stream):
        if not isinstance(record, Flaw):
            yield from _strings(record)


def config_of(folder: Path) -> dict[str, Any]:
    """What tokenizer_config.json says, without a chat template. Raises ModelUnavailable."""
    found = _config(folder)
    found.pop("chat_template", None)
    return found


def chat_template(folder: Path) -> str | None:
    """The Jinja text of a model's folder, as its author wrote it. Raises ModelUnavailable."""
    path = folder / TEMPLATE
    found = path.read_text(encoding="utf-8") if path.exists() else _config(folder).get("chat_template")
    if found is None or isinstance(found, str):
        return found
    raise ModelUnavailable(f"{CONFIG} in {folder} has a chat_template that is not one text.")


def named(template: str, config: dict[str, Any]) -> str:
    """A template behind the special tokens that it may name: as a worker reads it from a model's folder."""
    names = []
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        token = config.get(name)
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            names.append(f"{{% set {name} = {json.dumps(text, ensure_ascii=False)} +%}}")
    return "".join(names) + template


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        found = json.loads(path.read_bytes()) if path.exists() else {}
    except ValueError as error:
        raise ModelUnavailable(f"{path} is not JSON.") from error
    if not isinstance(found, dict):
        raise ModelUnavailable(f"{path} is not a JSON object.")
    return found


def _byte_level(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def _strings(value: Any) -> Iterator[str]:
    """Every text of an example, but for the names of roles."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one)
    elif isinstance(value, dict):
        for name, one in value.items():
            if name != "role":
                yield from _strings(one)
