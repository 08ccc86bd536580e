"""A batch's file becomes jobs, line by line and in order, some thousand per transaction."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

import structlog
from pydantic import ValidationError

from jobs import batches, files, lines, submission
from jobs.attempts import NewJob, Tier
from jobs.batch_states import Status
from jobs.batches import Batch, Refused
from jobs.errors import DatabaseUnavailable
from jobs.files import FileRecord
from jobs.keys import Identity
from jobs.lines import Flaw
from jobs.queue import Chore, QueueName
from web import refusals
from web.desk import Desk
from web.endpoints import ENDPOINTS
from web.errors import ApiError, BadRequest, Unavailable, body

log = structlog.get_logger(__name__)

_LINES = 1000  # of one transaction
_BYTES = 4_000_000  # of its lines; parsed they take several times that


@dataclass
class _Chunk:
    """Lines on their way into one transaction."""

    jobs: list[NewJob] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    size: int = 0  # bytes
    blocked: bool = False  # what comes next cannot be taken yet: its model is being loaded

    def add(self, made: NewJob | Refused, size: int) -> None:
        if isinstance(made, Refused):
            self.refused.append(made)
        else:
            self.jobs.append(made)
        self.size += size

    @property
    def lines(self) -> int:
        return len(self.jobs) + len(self.refused)

    @property
    def full(self) -> bool:
        return self.lines >= _LINES or self.size >= _BYTES


def expand(desk: Desk, batch: Batch) -> Iterator[None]:
    """Bring a validating batch to `in_progress` or `failed`; or let it wait for its file or a model.

    Yields after every transaction. Killed at any point, it goes on after the last line that was written.
    """
    with desk.database.transaction() as connection:
        file = files.find(connection, batch.owner_id, batch.input_file_id)
        done = batches.expanded_to(connection, batch.id)
    if file is not None and file.status == "uploaded":
        return
    if file is None or (errors := _errors(desk, batch, file)):
        gone = Flaw("file_not_found", f"The file '{batch.input_file_id}' is gone. Upload it again.")
        with desk.database.transaction() as connection:
            batches.fail(connection, batch.id, errors if file is not None else [gone.row()])
        desk.signals.ring(Chore.DELIVER)
        yield
        return
    with desk.store.open(file.artifact) as stream:
        for chunk in _chunks(desk, batch, stream, done):
            if chunk.lines:
                if not _accept(desk, batch, chunk):
                    return  # it was cancelled, or its time is over
                yield
            if chunk.blocked:
                return
    with desk.database.transaction() as connection:
        batches.start(connection, batch.id)
    yield


def _errors(desk: Desk, batch: Batch, file: FileRecord) -> list[dict[str, Any]]:
    """Why this file cannot be this batch; if it can, the batch learns how many lines it has."""
    if file.status == "error":
        return file.errors or []
    with desk.store.open(file.artifact) as stream:
        number, first = next(lines.objects(stream))
    if isinstance(first, Flaw):
        return [first.row()]
    if first["url"] != batch.endpoint:  # all lines of a validated file have the same
        said = f"The URL '{first['url']}' is not the endpoint of this batch, which is '{batch.endpoint}'."
        return [Flaw("invalid_url", f"{said} Send one of the two again.", number, "url").row()]
    model = first["body"].get("model")
    with desk.database.transaction() as connection:
        batches.begin(connection, batch.id, file.lines or 0, model if isinstance(model, str) else None)
    return []


def _accept(desk: Desk, batch: Batch, chunk: _Chunk) -> bool:
    """Write the lines of a chunk if the batch is still to be expanded, then ring for them."""
    with desk.database.transaction() as connection:
        if not batches.hold(connection, batch.id, Status.VALIDATING):
            return False
        submission.submit_many(connection, chunk.jobs)
        batches.refuse(connection, batch.id, chunk.refused)
    if chunk.jobs:
        desk.signals.ring(QueueName.GENERATE)
    return True


def _chunks(desk: Desk, batch: Batch, stream: BinaryIO, done: int) -> Iterator[_Chunk]:
    chunk = _Chunk()
    for number, raw in lines.read(stream):
        if number <= done:
            continue
        try:
            made = _take(desk, batch, number, raw)
        except Unavailable:
            chunk.blocked = True
            break
        chunk.add(made, len(raw) if isinstance(raw, bytes) else 0)
        if chunk.full:
            yield chunk
            chunk = _Chunk()
    if chunk.lines or chunk.blocked:
        yield chunk


def _take(desk: Desk, batch: Batch, number: int, raw: bytes | Flaw) -> NewJob | Refused:
    """The job of a line, or what the endpoint says against it.

    Raises:
        Unavailable: not now.
        DatabaseUnavailable, OSError: the catalog or a tokenizer cannot be read now.
    """
    line = lines.parse(number, raw) if isinstance(raw, bytes) else raw
    if isinstance(line, Flaw):  # validation let it pass: an older version of it had other rules
        return _refused(number, "", BadRequest(line.message, param=line.param, code=line.code))
    custom_id = line["custom_id"]
    who = Identity(batch.owner_id, frozenset({"inference"}), batch.api_key_id)
    try:
        job = ENDPOINTS[batch.endpoint].new_job(desk, who, _body(line))
    except (Unavailable, DatabaseUnavailable, OSError):
        raise
    except ApiError as error:
        return _refused(number, custom_id, error)
    except ValidationError as error:
        return _refused(number, custom_id, BadRequest.of(refusals.first(error)))
    except Exception:  # a defect of ours, which over HTTP answers 500; the other lines go on
        log.exception("a line of a batch crashed", batch_id=batch.id, line=number)
        said = "The server had an error while processing this line. Its log has the trace."
        return _refused(number, custom_id, ApiError(said))
    return replace(job, tier=Tier.BATCH, stored=False, batch_id=batch.id, line=number, custom_id=custom_id)


def _body(line: Mapping[str, Any]) -> Mapping[str, Any]:
    """Raises BadRequest if its answer is to go elsewhere."""
    body: Mapping[str, Any] = line["body"]
    for name in ("stream", "webhook"):
        if body.get(name):
            said = f"A line of a batch answers with its file alone. Leave '{name}' out."
            raise BadRequest(said, param=name, code="unsupported_value")
    return body


def _refused(number: int, custom_id: str, error: ApiError) -> Refused:
    return Refused(number, custom_id, error.status, body(error))
