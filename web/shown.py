"""Finished jobs as they were shown last: a poll of one asks SQL only whether it is still there, as it was."""

import threading
from dataclasses import dataclass

_MOST_BYTES = 16_000_000  # of all texts; about 10,000 short answers
_LONGEST = 250_000  # one with many log-probabilities would push out a hundred others


@dataclass(frozen=True)
class Text:
    """The body of an answer, and the version of the row that it shows."""

    version: str
    body: bytes


class Shown:
    """Texts by the id of their job; where there is no room, the one that came first goes."""

    def __init__(self) -> None:
        self._texts: dict[str, Text] = {}
        self._bytes = 0
        self._changing = threading.Lock()

    def find(self, job_id: str) -> Text | None:
        """What was shown of a job; it may have changed or be gone since."""
        return self._texts.get(job_id)

    def keep(self, job_id: str, text: Text) -> None:
        """Remember it in place of what was shown before."""
        if len(text.body) > _LONGEST:
            return
        with self._changing:
            self._drop(job_id)
            self._texts[job_id] = text
            self._bytes += len(text.body)
            while self._bytes > _MOST_BYTES:
                self._drop(next(iter(self._texts)))

    def _drop(self, job_id: str) -> None:
        gone = self._texts.pop(job_id, None)
        self._bytes -= len(gone.body) if gone is not None else 0
