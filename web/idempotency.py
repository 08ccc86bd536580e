"""Creates that may be sent again: a repetition is answered with what the first request made.

Two things tell a repetition: the same `Idempotency-Key`, for 24 hours; and, for the official clients, which
send none, a retry count above 0 with the same key, path and body, for 10 minutes.
"""

import hashlib
from collections.abc import Callable
from typing import TypeVar

from flask import g, request
from sqlalchemy import Connection

from jobs import creates, records
from jobs.attempts import NewJob
from jobs.creates import Create, KeyReused
from jobs.queue import enqueue
from jobs.records import JobRecord
from jobs.submission import First
from web import connection as client
from web import limits
from web.auth import identity
from web.backend import backend
from web.errors import BadRequest, Unavailable, Unprocessable

_RETRIES = "HTTP_X_STAINLESS_RETRY_COUNT"  # of the official clients, 0 for the first time
_KEY = "HTTP_IDEMPOTENCY_KEY"
_LONGEST_KEY = 255
_MOST_RETRIES = 1000
_NO_BODY = hashlib.sha256().digest()

T = TypeVar("T")


def accept(job: NewJob, also: Callable[[Connection], None] | None = None) -> JobRecord:
    """The job that this request asks for: a new one within the limits of its key, or the one that an
    earlier request made already. `also` writes more rows with a new job.

    Raises:
        RateLimited: the key has no room for it, or too much waits.
        Unavailable: the client has gone.
        Unprocessable: its idempotency key came with another request before.
        DatabaseUnavailable: nothing was accepted.
    """
    asked, who = _asked(None), identity()
    refusal = backend().admission.refusal(job)  # may ask SQL, so not while a connection is held
    if also is None and not limits.are_counted(who) and (asked is None or not asked.repeats):
        if refusal is not None:
            raise refusal
        return _accept_first(job, asked)
    cost = limits.cost_of(backend(), who, job)  # may ask SQL too

    def find(connection: Connection, job_id: str) -> JobRecord | None:
        found = records.find(connection, job.owner_id, job.kind, job_id)
        return (
            found if found is not None and found.stored == job.stored else None
        )  # else deleted by its owner

    def once(connection: Connection, write: Callable[[], JobRecord]) -> JobRecord:
        def make(connection: Connection) -> tuple[str, JobRecord]:
            if refusal is not None:
                raise refusal
            limits.admit_job(connection, backend().limiter, who, cost)
            record = write()
            if also is not None:
                also(connection)
            return job.id, record

        return _once(connection, asked, find, make)[0]

    record = enqueue(backend().database, backend().signals, job, once)
    if record.id == job.id:
        backend().admission.accepted(job)
    return record


def _accept_first(job: NewJob, asked: Create | None) -> JobRecord:
    """A job that is made in any case, together with those of other requests."""
    gone = client.current().gone if asked is not None else lambda: False
    record = backend().together.accept.ask(First(job, asked, gone=gone))
    if record is None:
        raise _client_gone()
    backend().admission.accepted(job)
    return record


def once(
    find: Callable[[Connection, str], T | None],
    make: Callable[[Connection], tuple[str, T]],
    digest: bytes | None = None,
) -> tuple[T, bool]:
    """What this request asks for, and whether an earlier one made it already.

    `find` returns the object of an id as it is now, None where it is gone; `make` writes a new one in the
    transaction that it gets and returns it with its id; `digest` is of a form's parts (see `digest_of`), and
    without it of the JSON body.

    Raises:
        Unavailable: the client has gone.
        Unprocessable: its idempotency key came with another request before.
        DatabaseUnavailable: nothing was made.
    """
    with backend().database.transaction() as connection:
        return _once(connection, _asked(digest), find, make)


def digest_of(*parts: str | bytes) -> bytes:
    """SHA-256 of these parts, of which none can run into the next."""
    whole = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        whole.update(len(raw).to_bytes(8) + raw)
    return whole.digest()


def _once(
    connection: Connection,
    asked: Create | None,
    find: Callable[[Connection, str], T | None],
    make: Callable[[Connection], tuple[str, T]],
) -> tuple[T, bool]:
    if asked is None:
        return make(connection)[1], False
    creates.lock(connection, asked)
    if asked.repeats and (found := _earlier(connection, asked, find)) is not None:
        return found, True
    made_id, made = make(connection)
    creates.record(connection, asked, made_id)
    # nobody would hear of it, and a retry may have been accepted before this request was looked at
    if _RETRIES in request.environ and client.gone():
        raise _client_gone()
    return made, False


def _client_gone() -> Unavailable:
    return Unavailable("The client has gone, so nothing was accepted.", code="client_gone")


def _earlier(connection: Connection, asked: Create, find: Callable[[Connection, str], T | None]) -> T | None:
    try:
        made_id = creates.join(connection, asked)
    except KeyReused:
        raise Unprocessable(
            "This 'Idempotency-Key' came with another request before. Send a new key with a new request.",
            code="idempotency_key_reused",
        ) from None
    if made_id is None:
        return None
    found = find(connection, made_id)
    if found is None:
        creates.forget(connection, made_id)
    return found


def _asked(digest: bytes | None) -> Create | None:
    """This request as a create that may be repeated; None if its client gives no sign that it would."""
    sent = request.environ
    key, count = sent.get(_KEY), sent.get(_RETRIES)
    if key is None and count is None:
        return None
    if key is not None and not 0 < len(key) <= _LONGEST_KEY:
        said = f"'Idempotency-Key' has {len(key)} characters. Send 1 to {_LONGEST_KEY}."
        raise BadRequest(said, param="Idempotency-Key", code="invalid_value")
    return Create(
        api_key_id=identity().key_id,
        path=request.path,
        digest=digest or g.get("body_digest", _NO_BODY),
        idempotency_key=key,
        retries=_retries(count),
    )


def _retries(count: str | None) -> int:
    if count is None or not (count.isascii() and count.isdigit() and len(count) < 10):
        return 0
    return min(int(count), _MOST_RETRIES)
