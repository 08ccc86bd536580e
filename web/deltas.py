"""The only place that says how much of a text is certain while its tokens still come."""

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


class Deltas:
    """A text in pieces: never half a character, and never what may become a stop string.

    The pieces depend on the tokens alone, and together they are the text.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stream: DecodeStream | None = DecodeStream(skip_special_tokens=True)
        self._stop = stop
        self._said = ""  # all that was returned
        self._held = ""  # decoded, and may yet be cut off by a stop string

    def push(self, token: int) -> str:
        """What this token makes certain; it must not be one that ends a text by its id."""
        fresh = self._decode(token)
        # a stop string within what was held would have ended the text before this token
        text, known = self._held + fresh, len(self._held)
        certain = min((self._doubt(text, stop, known) for stop in self._stop), default=len(text))
        self._held = text[certain:]
        self._said += text[:certain]
        return text[:certain]

    def last(self, token: int, text: str) -> str:
        """As `push`, of a token that may be the last of a sequence whose whole text is known."""
        said, held = self._said, self._held
        piece = self.push(token)
        if not text.startswith(self._said):  # it ends the text and is none of it
            self._said, self._held, piece = said, held, ""
        return piece

    def rest(self, text: str) -> str:
        """What is left of the whole text.

        Raises:
            ValueError: it does not begin with what was said of it.
        """
        if not text.startswith(self._said):
            raise ValueError("the text is not what its tokens say")
        return text[len(self._said) :]

    def _decode(self, token: int) -> str:
        if self._stream is None:
            return ""
        try:
            return self._stream.step(self._tokenizer, token) or ""
        except Exception:  # noqa: BLE001  a decoder that takes back what it said; the library has no better type
            self._stream = None  # the rest comes at the end
            return ""

    @staticmethod
    def _doubt(text: str, stop: str, known: int) -> int:
        """Where a stop string begins that ends behind `known`, or that is not whole yet."""
        found = text.find(stop, max(0, known - len(stop) + 1))
        if found >= 0:
            return found
        starts = range(max(0, len(text) - len(stop) + 1), len(text))
        return next((start for start in starts if stop.startswith(text[start:])), len(text))
