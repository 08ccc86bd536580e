"""`/v1/files`: upload, list, retrieve, read, delete."""

import re
import unicodedata
from collections.abc import Iterator
from typing import Annotated, Any, BinaryIO, Literal
from urllib.parse import quote

from flask import Blueprint, Response, jsonify, request
from pydantic import Field
from sqlalchemy import Connection
from werkzeug.exceptions import RequestedRangeNotSatisfiable

from jobs import files, published
from jobs.failpoints import failpoint
from jobs.files import FileRecord, NewFile
from jobs.queue import Chore
from web import file_upload, idempotency, query
from web.auth import owner_id
from web.backend import backend
from web.errors import Conflict, NotFound
from web.file_upload import Form
from web.offload import offload
from web.paging import page_of

blueprint = Blueprint("files", __name__)

_ID = re.compile(r"file-[0-9a-f]{32}")
_BLOCK = 262_144
_POLL_MS = 1000


@blueprint.post("/v1/files")
def create() -> Response:
    """Take a file as a stream; the clerk validates it where its purpose needs that."""
    query.parse(query.Query)
    with backend().artifacts.writer() as writer:
        form, filename = file_upload.receive(writer, int(backend().settings.max_file_mb * 1_000_000))
        files.announce(backend().database, writer.name)
        artifact = offload(writer.keep)
        failpoint("after_artifact")
        new = NewFile(owner_id(), filename, form.purpose, writer.size, artifact, form.life)
    record, again = _created(form, new)
    if record.status == "uploaded" and not again:
        backend().signals.ring(Chore.VALIDATE)
    return _answer(record)


@blueprint.get("/v1/files")
def index() -> Response:
    """The owner's files, page by page, the newest first."""
    asked = query.parse(IndexQuery)
    with backend().database.transaction() as connection:
        if asked.after is not None:
            _find(connection, asked.after, param="after")
        found, more = files.page(
            connection, owner_id(), asked.purpose, asked.after, asked.limit, asked.order == "desc"
        )
    return page_of([file_object(record) for record in found], more)


@blueprint.get("/v1/files/<file_id>")
def show(file_id: str) -> Response:
    """One file."""
    query.parse(query.Query)
    with backend().database.transaction() as connection:
        return _answer(_find(connection, file_id))


@blueprint.get("/v1/files/<file_id>/content")
def content(file_id: str) -> Response:
    """Its bytes, or the range of them that is asked for."""
    query.parse(query.Query)
    with backend().database.transaction() as connection:
        record = _find(connection, file_id)
    try:
        blocks = _Blocks(offload(backend().artifacts.open, record.artifact))
    except FileNotFoundError:
        raise NotFound("The bytes of this file are gone. Upload it again.", code="file_lost") from None
    response = Response(blocks, mimetype="application/octet-stream", direct_passthrough=True)
    response.content_length = record.bytes
    response.headers.set("Content-Disposition", "attachment", **_names(record.filename))
    response.set_etag(record.artifact)
    response.headers["X-Accel-Buffering"] = "no"  # a proxy need not keep what is read as fast as it is taken
    asked = request.range  # several ranges, or none that can be read, may be ignored
    one = asked is not None and asked.units == "bytes" and len(asked.ranges) == 1
    try:
        response.make_conditional(request, accept_ranges=True, complete_length=record.bytes if one else None)
    except RequestedRangeNotSatisfiable:
        blocks.close()
        raise
    return response


@blueprint.delete("/v1/files/<file_id>")
def delete(file_id: str) -> Response:
    """Delete a file that no batch and no fine-tune needs.

    The answer names the models that were trained on it, which stay until they are deleted themselves.
    """
    query.parse(query.Query)
    with backend().database.transaction() as connection:
        if not _ID.fullmatch(file_id) or not files.lock(connection, owner_id(), file_id):
            raise _missing(file_id)
        if user := files.in_use(connection, file_id):
            said = f"The {user} still needs this file. Cancel it, or wait for its end."
            raise Conflict(said, param="id", code="file_in_use", should_retry=False)
        record = _find(connection, file_id)
        trained = published.trained_on(connection, owner_id(), file_id, record.artifact)
        files.remove(connection, file_id)
    return jsonify(id=file_id, object="file", deleted=True, trained_models=trained)


class IndexQuery(query.Query):
    """`GET /v1/files`."""

    purpose: (
        Literal[
            "assistants",
            "assistants_output",
            "batch",
            "batch_output",
            "fine-tune",
            "fine-tune-results",
            "vision",
            "user_data",
            "evals",
        ]
        | None
    ) = None
    limit: Annotated[int, Field(ge=1, le=10_000)] = 10_000
    after: str | None = None
    order: Literal["asc", "desc"] = "desc"


def file_object(record: FileRecord) -> dict[str, Any]:
    """OpenAI's FileObject."""
    shown: dict[str, Any] = {
        "id": record.id,
        "object": "file",
        "bytes": record.bytes,
        "created_at": int(record.created_at.timestamp()),
        "filename": record.filename,
        # OpenAI's upload takes this purpose, but its file object has no such value
        "purpose": "user_data" if record.purpose == "evals" else record.purpose,
        "status": record.status,
        "status_details": record.status_details,
    }
    if record.expires_at is not None:
        shown["expires_at"] = int(record.expires_at.timestamp())
    return shown


def _names(filename: str) -> dict[str, str]:
    """The name as the header of a download may carry it: plain where it is ASCII, else in both spellings."""
    plain = unicodedata.normalize("NFKD", filename).encode("ascii", "replace").decode()
    if plain == filename:
        return {"filename": filename}
    return {"filename": plain, "filename*": f"UTF-8''{quote(filename, safe='')}"}


class _Blocks:
    """A stream in blocks, each read beside the event loop; it can seek, as werkzeug needs for a range."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.seekable, self.seek, self.tell, self.close = (
            stream.seekable,
            stream.seek,
            stream.tell,
            stream.close,
        )

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if block := offload(self._stream.read, _BLOCK):
            return block
        raise StopIteration


def _created(form: Form, new: NewFile) -> tuple[FileRecord, bool]:
    """The row of a new file, or of the one that the same request made before."""
    said = ("purpose", form.purpose, "filename", new.filename, "sha256", new.artifact, "life", str(form.life))

    def find(connection: Connection, file_id: str) -> FileRecord | None:
        return files.find(connection, owner_id(), file_id)

    def make(connection: Connection) -> tuple[str, FileRecord]:
        record = files.create(connection, new)
        return record.id, record

    return idempotency.once(find, make, digest=idempotency.digest_of(*said))


def _find(connection: Connection, file_id: str, param: str = "id") -> FileRecord:
    """The owner's file of that id.

    Raises:
        NotFound: there is none; somebody else's is the same to us.
    """
    record = files.find(connection, owner_id(), file_id) if _ID.fullmatch(file_id) else None
    if record is None:
        raise _missing(file_id, param)
    return record


def _missing(file_id: str, param: str = "id") -> NotFound:
    return NotFound(f"No such File object: '{file_id[:100]}'.", param=param)


def _answer(record: FileRecord) -> Response:
    response = jsonify(file_object(record))
    if record.status == "uploaded":
        response.headers["openai-poll-after-ms"] = str(_POLL_MS)
    return response
