"""Prompts as a model reads them: rendered by its chat template, counted by its tokenizer."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from tokenizers import Tokenizer, decoders

from jobs.artifacts import ArtifactStore
from jobs.catalog import ModelVersion
from jobs.chat_template import TemplateRefusal, render
from jobs.inputs import Prompt
from web.errors import BadRequest
from web.offload import LONG_TEXT, offload
from web.response_request import InputMessage

_KEPT = 64  # tokenizers in memory, a few megabytes each


@dataclass(frozen=True)
class _Loaded:
    tokenizer: Tokenizer
    longest: int  # characters of its longest token


class Tokenizers:
    """The tokenizers of the catalog's models, read once each."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store
        self._loaded: dict[str, _Loaded] = {}
        self._loading = threading.Lock()

    def count(self, model: ModelVersion, prompt: Prompt, param: str, output: int = 1) -> int:
        """How many tokens a prompt has, beside which the context must hold `output` at least.

        Raises:
            BadRequest: it cannot fit the context, or names a token that the model does not have.
        """
        if not isinstance(prompt, str):
            refuse_unknown_tokens(model, prompt, param)
            count = len(prompt)
        else:
            loaded = self._load(model.tokenizer)
            if len(prompt) > model.context * loaded.longest:  # spares the work for what cannot fit
                raise _too_long(model, f"at least {len(prompt) // loaded.longest:,}", param, output)
            # the only one of its methods that lets other threads run meanwhile
            encode = partial(loaded.tokenizer.encode_batch_fast, [prompt], add_special_tokens=False)
            count = len((offload(encode) if len(prompt) > LONG_TEXT else encode())[0])
        if count + output > model.context:
            raise _too_long(model, f"{count:,}", param, output)
        return count

    def eos(self, model: ModelVersion) -> str:
        """The end-of-text token as text."""
        return self._load(model.tokenizer).tokenizer.id_to_token(model.eos_token_id) or ""

    def spellings(self, model: ModelVersion, words: Sequence[str]) -> list[tuple[int, ...]]:
        """The token ids of words, each as it is and after a space: a tokenizer reads these differently."""
        tokenizer = self._load(model.tokenizer).tokenizer
        spelled = [spelling for word in words for spelling in (word, f" {word}")]
        found = tokenizer.encode_batch_fast(spelled, add_special_tokens=False) if spelled else []
        return sorted({tuple(encoding.ids) for encoding in found if encoding.ids})

    def text(self, tokenizer: str, tokens: Sequence[int]) -> str:
        """What tokens say together; `tokenizer` names the artifact."""
        said: str = self._load(tokenizer).tokenizer.decode(list(tokens), skip_special_tokens=False)
        return said

    def tokenizer(self, name: str) -> Tokenizer:
        """The tokenizer in an artifact, shared by everybody who reads with it."""
        return self._load(name).tokenizer

    def pieces(self, tokenizer: str, tokens: Sequence[int]) -> list[bytes]:
        """The bytes of each token; several may be needed for one character."""
        loaded = self._load(tokenizer).tokenizer
        return [_bytes(loaded, token) for token in tokens]

    def _load(self, name: str) -> _Loaded:
        loaded = self._loaded.get(name)
        if loaded is None:
            with self._loading:  # one at a time: loading takes memory and a while
                loaded = self._loaded.get(name) or self._read(name)
        return loaded

    def _read(self, name: str) -> _Loaded:
        if len(self._loaded) >= _KEPT:
            self._loaded.clear()
        tokenizer = Tokenizer.from_str(self._store.get(name).decode())
        loaded = _Loaded(tokenizer, longest=max(len(token) for token in tokenizer.get_vocab()))
        self._loaded[name] = loaded
        return loaded


def _bytes(tokenizer: Tokenizer, token: int) -> bytes:
    written = tokenizer.id_to_token(token)
    if written is None:  # the vocabulary of the weights may be padded
        return b""
    if isinstance(tokenizer.decoder, decoders.ByteLevel) and all(sign in _BYTES for sign in written):
        return bytes(_BYTES[sign] for sign in written)
    return str(tokenizer.decode([token], skip_special_tokens=False)).encode()


def _byte_signs() -> dict[str, int]:
    """The character that stands for each byte in a byte-level vocabulary (source: GPT-2's encoder)."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTES = _byte_signs()


def refuse_unknown_tokens(model: ModelVersion, tokens: Iterable[int], param: str) -> None:
    """Raises BadRequest for the first id outside the model's vocabulary."""
    for token in tokens:
        if not 0 <= token < model.vocab_size:
            said = f"'{param}' holds {str(token)[:20]}, which is no token id of the model '{model.name}'."
            raise BadRequest(
                f"{said} Send ids from 0 to {model.vocab_size - 1}.", param=param, code="invalid_value"
            )


def _too_long(model: ModelVersion, count: str, param: str, output: int) -> BadRequest:
    return BadRequest(
        f"The prompt has {count} tokens, but the context of the model '{model.name}' holds {model.context:,} "
        f"of prompt and output together. Send at most {model.context - output:,}.",
        param=param,
        code="context_length_exceeded",
    )


def conversation(
    tokenizers: Tokenizers, model: ModelVersion, messages: Sequence[InputMessage], instructions: str | None
) -> str:
    """The text that the model continues.

    Raises:
        BadRequest: a base model was given more than plain text, or the template refuses the messages.
    """
    if model.chat_template is None:
        return _plain(model, messages, instructions)
    turns = [turn("system", instructions)] if instructions is not None else []
    turns += [turn(message.role, message.text) for message in messages]
    return rendered(tokenizers, model, turns, "input")


def turn(role: str, content: str, name: str | None = None) -> dict[str, str]:
    """A message as templates know it: they have the older name of the developer's role."""
    said = {"role": "system" if role == "developer" else role, "content": content}
    return said if name is None else said | {"name": name}


def rendered(
    tokenizers: Tokenizers, model: ModelVersion, turns: Sequence[Mapping[str, str]], param: str
) -> str:
    """The turns as the chat template of the model, which must have one, writes them.

    Raises:
        BadRequest: the template refuses them.
    """
    assert model.chat_template is not None
    try:
        return render(model.chat_template, turns, tokenizers.eos(model))
    except TemplateRefusal as refusal:
        raise BadRequest(
            f"The chat template of the model '{model.name}' refused these messages: {refusal}. "
            "Send turns of 'user' and 'assistant' in alternation, ending with 'user'.",
            param=param,
            code="invalid_value",
        ) from None


def _plain(model: ModelVersion, messages: Sequence[InputMessage], instructions: str | None) -> str:
    base = f"The model '{model.name}' is a base model without a chat template: it continues plain text."
    if instructions is not None:
        raise BadRequest(
            f"{base} Leave 'instructions' out and write all of it into 'input'.",
            param="instructions",
            code="unsupported_parameter",
        )
    if len(messages) != 1 or messages[0].role != "user":
        raise BadRequest(f"{base} Send 'input' as one string.", param="input", code="unsupported_value")
    return messages[0].text
