"""What a batch's lines ended with becomes its output file and its error file."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import Connection

from jobs import batches, files, lines, records
from jobs.artifacts import Writer
from jobs.batches import Batch, Results
from jobs.errors import DatabaseUnavailable
from jobs.files import NewFile
from jobs.lines import Flaw
from jobs.queue import Chore
from jobs.records import JobRecord
from jobs.states import State
from web.desk import Desk
from web.endpoints import ENDPOINTS
from web.errors import ApiError, failed_job
from web.errors import body as errors_body

log = structlog.get_logger(__name__)

_PAGE = 100  # jobs in memory; with log-probabilities each may have half a megabyte

_CANCELLED = {"code": "batch_cancelled", "message": "The batch was cancelled before this line had ended."}
_EXPIRED = {"code": "batch_expired", "message": "This line had not ended when the batch's window passed."}


@dataclass
class _Sheets:
    """The two files on their way, and what is counted meanwhile."""

    batch: Batch
    output: Writer
    errors: Writer
    completed: int = 0
    failed: int = 0
    usage: dict[str, int] = field(
        default_factory=lambda: {"input_tokens": 0, "cached_tokens": 0, "output_tokens": 0}
    )

    def succeeded(
        self, line: int, custom_id: str, body: Mapping[str, Any], output: Mapping[str, Any]
    ) -> None:
        self.completed += 1
        self.usage["input_tokens"] += output["prompt_tokens"]
        self.usage["cached_tokens"] += output.get("cached_tokens", 0)
        self.usage["output_tokens"] += output["output_tokens"]
        self._write(self.output, line, custom_id, response=(200, body))

    def refused(self, line: int, custom_id: str, status: int, error: Mapping[str, Any]) -> None:
        self.failed += 1
        self._write(self.errors, line, custom_id, response=(status, {"error": error}))

    def left(self, line: int, custom_id: str) -> None:
        """A line that had not ended when the batch was stopped."""
        why = _CANCELLED if self.batch.expired_at is None else _EXPIRED
        self._write(self.errors, line, custom_id, error=why)

    def _write(
        self,
        file: Writer,
        line: int,
        custom_id: str,
        response: tuple[int, Mapping[str, Any]] | None = None,
        error: Mapping[str, str] | None = None,
    ) -> None:
        # the same whenever it is written, so that a clerk that has to begin again writes the same file
        name = hashlib.sha256(f"{self.batch.id}:{line}".encode()).hexdigest()[:32]
        answer = None
        if response is not None:
            answer = {"status_code": response[0], "request_id": f"req_{name}", "body": response[1]}
        entry = {"id": f"batch_req_{name}", "custom_id": custom_id, "response": answer, "error": error}
        file.write(json.dumps(entry).encode() + b"\n")


def finalize(desk: Desk, batch: Batch) -> Iterator[None]:
    """Write the files of a batch whose lines have all ended, and end it with them in one transaction.

    Yields after every page of lines. It stays as it is while some line has not ended.
    """
    with desk.database.transaction() as connection:
        if batches.has_unended(connection, batch.id):
            return
    with desk.store.writer() as output, desk.store.writer() as errors:
        sheets = _Sheets(batch, output, errors)
        yield from _write_jobs(desk, sheets)
        yield from _write_refusals(desk, sheets)
        yield from _write_rest(desk, sheets)
        kept = [files.keep(desk.database, sheet) if sheet.size else None for sheet in (output, errors)]
    with desk.database.transaction() as connection:
        if batches.hold(connection, batch.id, batch.status):
            output_id = _register(connection, batch, "output", kept[0], output.size)
            error_id = _register(connection, batch, "error", kept[1], errors.size)
            results = Results(output_id, error_id, sheets.completed, sheets.failed, sheets.usage)
            batches.end(connection, batch, results)
    desk.signals.ring(Chore.DELIVER)
    yield


def _register(connection: Connection, batch: Batch, name: str, artifact: str | None, size: int) -> str | None:
    if artifact is None:
        return None
    seconds = batch.output_expires_after
    expires = None if seconds is None else timedelta(seconds=seconds)
    filename = f"{batch.id}_{name}.jsonl"
    new = NewFile(batch.owner_id, filename, "batch_output", size, artifact, expires)
    return files.create(connection, new).id


def _write_jobs(desk: Desk, sheets: _Sheets) -> Iterator[None]:
    last = 0
    while True:
        with desk.database.transaction() as connection:
            page = records.lines(connection, sheets.batch.id, last, _PAGE)
        for line, custom_id, record in page:
            _write_job(desk, sheets, line, custom_id, record)
            last = line
        if len(page) < _PAGE:
            return
        yield


def _write_job(desk: Desk, sheets: _Sheets, line: int, custom_id: str, record: JobRecord) -> None:
    if record.state is State.SUCCEEDED and record.output is not None:
        try:
            body = ENDPOINTS[sheets.batch.endpoint].answer(desk, record)
        except (DatabaseUnavailable, OSError):
            raise
        except Exception:  # a defect of ours, which over HTTP answers 500; the other lines go on
            log.exception("the answer of a line crashed", batch_id=sheets.batch.id, line=line)
            error = ApiError("The server had an error while answering this line. Its log has the trace.")
            sheets.refused(line, custom_id, error.status, errors_body(error))
        else:
            sheets.succeeded(line, custom_id, body, record.output)
    elif record.error is not None:
        error = failed_job(record.error)
        sheets.refused(line, custom_id, error.status, errors_body(error))
    else:
        sheets.left(line, custom_id)


def _write_refusals(desk: Desk, sheets: _Sheets) -> Iterator[None]:
    last = 0
    while True:
        with desk.database.transaction() as connection:
            page = batches.refusals(connection, sheets.batch.id, last, _PAGE)
        for refused in page:
            sheets.refused(refused.line, refused.custom_id, refused.status_code, refused.error)
            last = refused.line
        if len(page) < _PAGE:
            return
        yield


def _write_rest(desk: Desk, sheets: _Sheets) -> Iterator[None]:
    """The lines that never became jobs, because the batch was stopped before."""
    batch = sheets.batch
    if batch.in_progress_at is not None or not batch.total:
        return
    with desk.database.transaction() as connection:
        done = batches.expanded_to(connection, batch.id)
        file = files.find(connection, batch.owner_id, batch.input_file_id)
    if file is None:
        return
    with desk.store.open(file.artifact) as stream:
        for number, line in lines.objects(stream):
            if number > done and not isinstance(line, Flaw):
                sheets.left(number, line["custom_id"])
            if number % _PAGE == 0:
                yield
