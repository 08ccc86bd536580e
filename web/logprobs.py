"""Log-probabilities in OpenAI's two shapes: that of completions, and that of a response's text."""

import codecs
from collections.abc import Mapping, Sequence
from typing import Any

from web.prompts import Tokenizers


def of_completion(
    tokenizers: Tokenizers, tokenizer: str, stored: Sequence[Mapping[str, Any] | None], tokens: Sequence[int]
) -> dict[str, Any]:
    """Parallel lists over `tokens`; `stored` is what the worker wrote of each, None of the very first."""
    pieces = tokenizers.pieces(tokenizer, tokens)
    return {
        "tokens": [_written(piece) for piece in pieces],
        "token_logprobs": [one and one["logprob"] for one in stored],
        "top_logprobs": [one and _likeliest(tokenizers, tokenizer, one) for one in stored],
        "text_offset": _offsets(pieces),
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


def _offsets(pieces: Sequence[bytes]) -> list[int]:
    """In which character of the text each token begins; bytes that are none count as the text shows them."""
    offsets, read, decoder = [], 0, codecs.getincrementaldecoder("utf-8")("replace")
    for piece in pieces:
        read += len(decoder.decode(piece[:1]))
        unfinished, _ = decoder.getstate()
        offsets.append(read if unfinished or not piece else read - 1)
        read += len(decoder.decode(piece[1:]))
    return offsets
