"""Whether a file is what its purpose needs: read once by the clerk, before anything is made of it."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Annotated, Any, BinaryIO, Literal

import structlog
from pydantic import Field, ValidationError

from jobs import files, lines, training_data
from jobs.errors import DatabaseUnavailable
from jobs.files import FileRecord
from jobs.lines import Flaw
from jobs.queue import Chore
from web import refusals
from web.desk import Desk
from web.endpoints import ENDPOINTS
from web.errors import BadRequest
from web.requests import Request

log = structlog.get_logger(__name__)

MOST_REQUESTS = 50_000
MOST_BATCH_BYTES = 200_000_000
MOST_EXAMPLES = 5_000_000
_KEPT = 100  # errors of one file
_SAID = 3  # of those in its sentence

Findings = Iterator[Flaw | int]
"""What is wrong, and after each part that was read the number of its last line."""


class BatchLine(Request):
    """One line of a batch's file; its `body` is for the endpoint to judge."""

    custom_id: Annotated[str, Field(min_length=1, max_length=512)]
    method: Literal["POST"]
    url: Literal[tuple(ENDPOINTS)]  # type: ignore[valid-type]
    body: dict[str, Any]


class Stopped(Exception):
    """The process ends; the file is read again by the next."""


def batch_findings(stream: BinaryIO, size: int) -> Findings:
    """Of a batch's file: requests with one url and a `custom_id` each of its own."""
    if size > MOST_BATCH_BYTES:
        yield Flaw("file_too_large", f"A batch's file may have at most {MOST_BATCH_BYTES // 10**6} MB.")
        return
    known: set[bytes] = set()
    url: str | None = None
    for number, content in lines.objects(stream):
        if number > MOST_REQUESTS:
            yield Flaw("too_many_lines", f"A batch's file may have at most {MOST_REQUESTS:,} lines.")
            return
        line = content if isinstance(content, Flaw) else _batch_line(number, content)
        if isinstance(line, BatchLine):
            name = hashlib.blake2b(line.custom_id.encode(), digest_size=16).digest()
            url = url or line.url
            if name in known:
                said = "Another line has this 'custom_id'. Give each its own."
                yield Flaw("duplicate_custom_id", said, number, "custom_id")
            elif line.url != url:
                yield Flaw(
                    "mismatched_url", f"All lines must have one 'url'; the first has {url}.", number, "url"
                )
            known.add(name)
        else:
            yield line
        yield number


def training_findings(stream: BinaryIO, filename: str) -> Findings:
    """Of training data, in any of its forms (see `training_data`)."""
    head = stream.read(4096)
    stream.seek(0)
    if training_data.is_plain_text(filename, head):
        yield from _text_findings(stream)
        return
    for count, (number, example) in enumerate(training_data.examples(stream), start=1):
        if count > MOST_EXAMPLES:
            yield Flaw("too_many_lines", f"Training data may have at most {MOST_EXAMPLES:,} examples.")
            return
        if isinstance(example, Flaw):
            yield example
        yield number


def validate(
    record: FileRecord, stream: BinaryIO, stopped: Callable[[], bool]
) -> tuple[int, list[Flaw], int]:
    """The lines of a file, the first flaws and how many there are.

    Raises:
        Stopped: it was not read to its end.
    """
    batch = record.purpose == "batch"
    found = batch_findings(stream, record.bytes) if batch else training_findings(stream, record.filename)
    last, count = 0, 0
    flaws: list[Flaw] = []
    for finding in found:
        if isinstance(finding, int):
            last = finding
            if stopped():
                raise Stopped
            continue
        count += 1
        if len(flaws) < _KEPT:
            flaws.append(finding)
    if last == 0 and count == 0:
        flaws, count = [Flaw("empty_file", "The file has no lines.")], 1
    return last, flaws, count


def work(desk: Desk, stopped: Callable[[], bool] = lambda: False) -> None:
    """Validate every file that waits. May be lost, doubled, or killed at any point."""
    stumbled: set[str] = set()
    while not stopped():
        with files.unvalidated(desk.database, stumbled) as taken:
            if taken is None:
                return
            connection, record = taken
            try:
                lines_read, flaws, count = _read(desk, record, stopped)
            except Stopped:
                return
            except DatabaseUnavailable:
                raise
            except Exception:
                log.exception("a file could not be validated, tried again later", file_id=record.id)
                stumbled.add(record.id)
                continue
            files.settle(connection, record.id, lines_read, _details(flaws, count), flaws)
        log.info("validated a file", file_id=record.id, lines=lines_read, errors=count)
        desk.signals.ring(Chore.BATCHES if record.purpose == "batch" else Chore.FINETUNES)


def _read(desk: Desk, record: FileRecord, stopped: Callable[[], bool]) -> tuple[int, list[Flaw], int]:
    try:
        stream = desk.store.open(record.artifact)
    except FileNotFoundError:
        return 0, [Flaw("file_lost", "The bytes of this file are gone. Upload it again.")], 1
    with stream:
        return validate(record, stream, stopped)


def _batch_line(number: int, content: dict[str, Any]) -> BatchLine | Flaw:
    try:
        return BatchLine.parse(content)
    except ValidationError as error:
        refusal = refusals.first(error)
        return Flaw(refusal.code, refusal.message, number, refusal.param)
    except BadRequest as error:
        return Flaw(error.code or "invalid_request", str(error), number, error.param)


def _text_findings(stream: BinaryIO) -> Findings:
    line, blank = 1, True
    for block in training_data.text_blocks(stream):
        if isinstance(block, Flaw):
            yield block
            return
        line += block.count("\n")
        blank = blank and not block.strip()
        yield line
    if blank:
        yield Flaw("empty_file", "The file has no text.")


def _details(flaws: list[Flaw], count: int) -> str | None:
    """One sentence for each of the first flaws, and how many more there are."""
    if not flaws:
        return None
    said = [f"Line {flaw.line}: {flaw.message}" if flaw.line else flaw.message for flaw in flaws[:_SAID]]
    if count > len(said):
        more = count - len(said)
        said.append(f"And {more:,} more {'error' if more == 1 else 'errors'}.")
    return " ".join(said)
