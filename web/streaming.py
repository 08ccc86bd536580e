"""How an answer is streamed as server-sent events: who is told what and when, whatever the frames say."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, Protocol

import structlog
from flask import Response

from jobs import records
from jobs.attempts import NewJob
from jobs.errors import DatabaseUnavailable
from jobs.records import JobRecord
from jobs.states import FINAL
from web import connection, idempotency, synchronous
from web.auth import owner_id
from web.backend import Backend
from web.catalogue import Models
from web.deltas import Deltas
from web.errors import ApiError, Unavailable
from web.following import Tail
from web.reader import Changed, Delta, Reader

log = structlog.get_logger(__name__)

KEEPALIVE_SECONDS = 10.0  # of silence; shorter than the patience of proxies
_KEEPALIVE = ": keepalive\n\n"
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Frames(Protocol):
    """The frames of one answer: a method's depend on its arguments and the calls before, on nothing else."""

    def begin(self) -> Iterable[str]:
        """Those that come at once."""

    def say(self, delta: Delta) -> Iterable[str]:
        """Those of a piece of text."""

    def end(self, record: JobRecord) -> Iterable[str]:
        """Those of the job's end, whatever it was."""

    def broken(self, error: ApiError) -> Iterable[str]:
        """Those that say that nothing more comes."""


MakeFrames = Callable[[JobRecord], Frames]


def data(value: Mapping[str, Any]) -> str:
    """An event without a name."""
    return f"data: {json.dumps(value, separators=(',', ':'))}\n\n"


def event(value: Mapping[str, Any]) -> str:
    """An event named by its `type`."""
    return f"event: {value['type']}\n{data(value)}"


def tokenizer_of(models: Models, record: JobRecord) -> str:
    """The artifact with the tokenizer of a job's tokens; before its end, that of whoever will run it."""
    if record.output is None:
        return models.offers.reads(record.model)
    return models.offers.tokenizer(record.model, record.output["model_digest"])


def create(backend: Backend, job: NewJob, frames: MakeFrames, background: bool = False) -> Response:
    """Accept a job and stream its answer; without its client it is cancelled, unless in the `background`.

    Raises:
        Unavailable: all places are taken.
        DatabaseUnavailable: nothing was accepted, or nobody could have waited for it.
        ApiError: as `idempotency.accept`.
    """
    with ExitStack() as held:
        _take_place(backend, held)
        record = idempotency.accept(job)
        stream = _Stream(backend, record, frames(record), resumable=background)
        if not background:
            held.callback(stream.give_up)
        return _answer(stream, held)


def resume(backend: Backend, record: JobRecord, frames: MakeFrames) -> Response:
    """Stream the answer of a job that goes on without a reader.

    Raises:
        Unavailable: all places are taken.
        DatabaseUnavailable: the job could not be looked at.
    """
    stream = _Stream(backend, record, frames(record), resumable=True)
    if record.state in FINAL and record.output is not None:
        return Response(stream.whole(record), mimetype="text/event-stream", headers=_HEADERS)
    with ExitStack() as held:
        _take_place(backend, held)
        return _answer(stream, held)


class _Stream:
    """One answer on its way to one client."""

    def __init__(self, backend: Backend, record: JobRecord, frames: Frames, resumable: bool) -> None:
        self._backend, self.record, self._frames = backend, record, frames
        self._owner_id = owner_id()
        self._resumable = resumable
        self._reader = Reader(_deltas(backend, record))
        self._ended = False

    def whole(self, record: JobRecord) -> Iterator[str]:
        """All of a job that has ended."""
        yield "".join(self._frames.begin())
        try:
            yield from self._end(record)
        except Changed:
            yield from self._frames.broken(_CHANGED)

    def live(self, tail: Tail) -> Iterator[str]:
        """All of a job as it comes; ends early, without its last frames, where the client can ask again."""
        yield "".join(self._frames.begin())
        try:
            yield from self._follow(tail)
            if tail.ended:
                yield from self._end(self._final())
            elif tail.stopping and not self._resumable:
                yield from self._frames.broken(_STOPPING)
        except Changed:
            yield from self._frames.broken(_CHANGED)
        except DatabaseUnavailable as error:
            log.warning("a stream ends early, the database is out of reach", error=str(error))
            if not self._resumable:
                yield from self._frames.broken(_NO_DATABASE)

    def give_up(self) -> None:
        """Cancel the job unless it has ended: its client has gone."""
        if self._ended:
            return
        try:
            synchronous.give_up(self._backend, self.record.id, self._owner_id)
        except DatabaseUnavailable as error:
            log.warning("a job that nobody waits for goes on", job_id=self.record.id, error=str(error))

    def _follow(self, tail: Tail) -> Iterator[str]:
        """What is said until the job ends or there is no use in going on."""
        spoke = time.monotonic()
        while not (tail.ended or tail.gone or tail.stopping):
            heard = tail.next(max(0.0, spoke + KEEPALIVE_SECONDS - time.monotonic()))
            said = "".join(f for delta in self._reader.hear(heard) for f in self._frames.say(delta))
            if not said and time.monotonic() < spoke + KEEPALIVE_SECONDS:
                continue
            yield said or _KEEPALIVE
            spoke = time.monotonic()

    def _final(self) -> JobRecord | None:
        with self._backend.database.transaction() as connected:
            return records.find(connected, self._owner_id, self.record.kind, self.record.id)

    def _end(self, record: JobRecord | None) -> Iterator[str]:
        self._ended = True
        if record is None:
            yield from self._frames.broken(_DELETED)
            return
        said = [f for delta in self._reader.close(record) for f in self._frames.say(delta)]
        yield "".join([*said, *self._frames.end(record)])


_STOPPING = Unavailable("The server stops, so the job was cancelled. Try again.", code="stopping")
_DELETED = Unavailable("The job was deleted before it ended.", code="job_deleted", should_retry=False)
_NO_DATABASE = Unavailable("The database is out of reach. Try again.", code="database_unavailable")
_CHANGED = ApiError(
    "The worker died, and the job ran again on other hardware, where it says something else than what was "
    "streamed. Ask for the whole answer again, from the beginning.",
    code="stream_changed",
)


def _take_place(backend: Backend, held: ExitStack) -> None:
    if not held.enter_context(backend.waiting.place()):
        said = "Too many calls wait for their answers here. Try again, or set 'background': true and poll."
        raise Unavailable(said, code="too_many_waiting", retry_after=2)


def _answer(stream: _Stream, held: ExitStack) -> Response:
    """The response; what is held is let go when the server closes it, begun or not."""
    tail = held.enter_context(stream._backend.following.follow(stream.record.id, connection.current()))
    response = Response(stream.live(tail), mimetype="text/event-stream", headers=_HEADERS)
    response.call_on_close(held.pop_all().close)
    return response


def _deltas(models: Models, record: JobRecord) -> Callable[[], Deltas]:
    """What makes the Deltas of a job's sequences."""
    tokenizer = models.tokenizers.tokenizer(tokenizer_of(models, record))
    stop = record.input["sampling"]["stop"]
    return lambda: Deltas(tokenizer, stop)
