"""What one reader of a stream knows of its job: tokens in, however they come, and pieces of text out."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from jobs.records import JobRecord
from jobs.states import State
from web.deltas import Deltas
from web.following import Entry


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of one text, which is certain, and the tokens that were said for it."""

    sequence: int  # as in the job's output
    text: str  # empty only where it closes its sequence
    tokens: list[int]
    logprobs: list[dict[str, Any]]  # as stored, one for each of `tokens`; none where none were asked for
    finish_reason: str | None = None  # of the one that closes its sequence


class Changed(Exception):
    """A new attempt at the job says something else than what its reader was told already."""


@dataclass
class _Text:
    """One sequence, as far as it is known."""

    deltas: Deltas
    tokens: list[int] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    pushed: int = 0  # tokens that `deltas` has seen
    given: int = 0  # tokens that a Delta has shown

    def hear(self, index: int, tokens: list[int], logprobs: list[Any]) -> None:
        """Take what follows on what is known. What leaves a gap is left for the end. Raises Changed."""
        known = max(0, len(self.tokens) - index)
        if self.tokens[index : index + len(tokens)] != tokens[:known]:
            raise Changed
        if index <= len(self.tokens):
            self.tokens += tokens[known:]
            self.logprobs += logprobs[known:]

    def forget(self) -> None:
        """Drop what nobody was told: a new attempt says it again."""
        del self.tokens[self.pushed :], self.logprobs[self.pushed :]

    def pieces(self, text: str | None = None) -> Iterator[str]:
        """What each new token makes certain; with the whole `text`, the last token ends it."""
        while self.pushed < len(self.tokens):
            token, self.pushed = self.tokens[self.pushed], self.pushed + 1
            last = text is not None and self.pushed == len(self.tokens)
            piece = self.deltas.last(token, text or "") if last else self.deltas.push(token)
            if piece:
                yield piece

    def delta(self, sequence: int, text: str, finish_reason: str | None = None) -> Delta:
        """A piece, with the tokens since the one before."""
        since, self.given = self.given, self.pushed
        tokens, logprobs = self.tokens[since : self.pushed], self.logprobs[since : self.pushed]
        return Delta(sequence, text, tokens, logprobs, finish_reason)


class Reader:
    """Turns entries of the token stream, and in the end the job's row, into Deltas, each token's once.

    The Deltas of a sequence depend on its tokens alone: one for each token that makes text certain.
    """

    def __init__(self, deltas: Callable[[], Deltas]) -> None:
        """`deltas` makes those of one sequence."""
        self._deltas = deltas
        self._texts: dict[int, _Text] = {}
        self._attempt = 0  # the newest that said something

    def hear(self, entries: Iterable[Entry]) -> Iterator[Delta]:
        """What these entries add. Raises Changed."""
        for entry in entries:
            if entry.attempt > self._attempt:
                self._attempt = entry.attempt
                for text in self._texts.values():
                    text.forget()
            if entry.attempt == self._attempt:  # a worker that lost its lease may still be talking
                self._of(entry.sequence).hear(entry.index, entry.tokens, entry.logprobs or [])
        for sequence, text in self._texts.items():
            for piece in text.pieces():
                yield text.delta(sequence, piece)

    def close(self, record: JobRecord) -> Iterator[Delta]:
        """What the output of a job that has ended adds. Raises Changed."""
        for sequence, stored in enumerate((record.output or {}).get("sequences", ())):
            try:
                yield from self._close(sequence, stored)
            except (Changed, ValueError):
                if record.state is State.SUCCEEDED:
                    raise Changed from None
                # an attempt that was cancelled early may know less than those before it had said

    def _close(self, sequence: int, stored: Mapping[str, Any]) -> Iterator[Delta]:
        text = self._of(sequence)
        text.forget()
        if len(stored["tokens"]) < text.pushed:
            raise Changed
        text.hear(0, stored["tokens"], stored.get("logprobs") or [])
        for piece in text.pieces(stored["text"]):
            yield text.delta(sequence, piece)
        rest, finish_reason = text.deltas.rest(stored["text"]), stored["finish_reason"]
        if rest or finish_reason:
            yield text.delta(sequence, rest, finish_reason)

    def _of(self, sequence: int) -> _Text:
        if sequence not in self._texts:
            self._texts[sequence] = _Text(self._deltas())
        return self._texts[sequence]
