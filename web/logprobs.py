"""Log-probabilities in OpenAI's two shapes: that of completions, and that of a response's text."""

import codecs
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from web.prompts import Tokenizers


class Offsets:
    """In which character of a text each token begins; bytes that are none count as the text shows them."""

    def __init__(self) -> None:
        self._read = 0  # characters
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def follow(self, pieces: Iterable[bytes]) -> list[int]:
        """Those of the next tokens."""
        return [self._next(piece) for piece in pieces]

    def _next(self, piece: bytes) -> int:
        self._read += len(self._decoder.decode(piece[:1]))
        unfinished, _ = self._decoder.getstate()
        offset = self._read if unfinished or not piece else self._read - 1
        self._read += len(self._decoder.decode(piece[1:]))
        return offset


def of_completion(
    tokenizers: Tokenizers,
    tokenizer: str,
    stored: Sequence[Mapping[str, Any] | None],
    tokens: Sequence[int],
    offsets: Offsets | None = None,
) -> dict[str, Any]:
    """Parallel lists over `tokens`; `stored` is what the worker wrote of each, None of the very first.

    `offsets` has followed the tokens before them, if there were any.
    """
    pieces = tokenizers.pieces(tokenizer, tokens)
    return {
        "tokens": [_written(piece) for piece in pieces],
        "token_logprobs": [one and one["logprob"] for one in stored],
        "top_logprobs": [one and _likeliest(tokenizers, tokenizer, one) for one in stored],
        "text_offset": (offsets or Offsets()).follow(pieces),
    }


def of_text(
    tokenizers: Tokenizers, tokenizer: str, stored: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """One object for each token, with the likeliest others inside."""
    return [
        _token(tokenizers, tokenizer, one["token"], one["logprob"])
        | {"top_logprobs": [_token(tokenizers, tokenizer, token, logprob) for token, logprob in one["top"]]}
        for one in stored
    ]


def _token(tokenizers: Tokenizers, tokenizer: str, token: int, logprob: float) -> dict[str, Any]:
    (piece,) = tokenizers.pieces(tokenizer, [token])
    return {"token": piece.decode(errors="replace"), "bytes": list(piece), "logprob": logprob}


def _likeliest(tokenizers: Tokenizers, tokenizer: str, one: Mapping[str, Any]) -> dict[str, float]:
    """The token itself is there too, as OpenAI shows it, even where it is none of the likeliest."""
    shown = [*one["top"], (one["token"], one["logprob"])]
    pieces = tokenizers.pieces(tokenizer, [token for token, _ in shown])
    return {_written(piece): logprob for piece, (_, logprob) in zip(pieces, shown, strict=True)}


def _written(piece: bytes) -> str:
    """A token as text; where it is not one, its bytes, as OpenAI writes them."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)
