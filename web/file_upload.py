"""A multipart upload as it comes in: its few fields are collected, its file goes on to the artifact store."""

from datetime import timedelta
from typing import Annotated, Any, Literal

from flask import request
from multipart import (  # type: ignore[import-untyped]
    MultipartError,
    MultipartSegment,
    ParserLimitReached,
    PushMultipartParser,
)
from pydantic import BaseModel, ConfigDict, Field
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

from jobs.artifacts import Writer
from web import refusals
from web.errors import BadRequest, TooLarge, UnsupportedEncoding
from web.malformed import NOT_HTTP
from web.offload import offload

_BLOCK = 262_144
_FORM = 65_536  # bytes of a body beside its file
_MOST_PARTS = 16
_MOST_HEADERS = 8
_LONGEST_HEADER = 8_192
_LONGEST_VALUE = 1_024  # bytes of a field
_LONGEST_NAME = 255  # characters of a file's name
_FILE = "file"
_FIELDS = ("purpose", "expires_after[anchor]", "expires_after[seconds]")


class ExpiresAfter(BaseModel):
    """When the server shall delete the file by itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3_600, le=2_592_000)]


class Form(BaseModel):
    """The fields beside the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    purpose: Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
    expires_after: ExpiresAfter | None = None

    @property
    def life(self) -> timedelta | None:
        """How long the file is asked to be kept."""
        return None if self.expires_after is None else timedelta(seconds=self.expires_after.seconds)


def receive(writer: Writer, most: int) -> tuple[Form, str]:
    """Write the file of this request's form; return the other fields and the file's name.

    Args:
        writer: where the file goes.
        most: bytes that it may have.

    Raises:
        BadRequest: it is not the form that it should be, or it broke off.
        ValidationError: a field has a wrong value (see `web.refusals`).
        TooLarge: the file has more than `most` bytes.
        UnsupportedEncoding: it is compressed.
        StorageFailed: there is no room for the file.
    """
    boundary = _boundary()
    request.max_content_length = most + _FORM
    too_large = TooLarge(f"The file is over the limit of this server. Send at most {most / 1e6:g} MB.")
    parser = PushMultipartParser(
        boundary,
        max_header_size=_LONGEST_HEADER,
        max_header_count=_MOST_HEADERS,
        max_segment_count=_MOST_PARTS,
    )
    form = _Received(writer, most, too_large)
    try:
        for event in parser.parse_blocking(request.stream.read, _BLOCK):
            form.take(event)
    except RequestEntityTooLarge:
        raise too_large from None
    except (ClientDisconnected, NOT_HTTP):
        said = "The request body broke off, or its chunks are not well-formed. Send it again."
        raise BadRequest(said, code="malformed_request") from None
    except ParserLimitReached:
        said = (
            f"The form has too many parts or too long headers. Send '{_FILE}' and {', '.join(_FIELDS)} alone."
        )
        raise BadRequest(said, code="malformed_form") from None
    except MultipartError as error:
        said = f"The request body is no whole multipart form ({error})."
        raise BadRequest(f"{said} Send it again as a client library would.", code="malformed_form") from None
    return form.checked()


def _boundary() -> str:
    if request.mimetype != "multipart/form-data":
        got = f"Unsupported content type: '{request.mimetype}'."
        instead = "Send 'Content-Type: multipart/form-data' with the parts 'purpose' and 'file'."
        raise BadRequest(f"{got} {instead}", code="unsupported_content_type")
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise UnsupportedEncoding("Compressed bodies are not taken. Send the form as it is.")
    boundary = request.mimetype_params.get("boundary", "")
    if not 0 < len(boundary) <= 70 or not boundary.isascii() or not boundary.isprintable():
        said = "The header 'Content-Type' names no valid boundary."
        raise BadRequest(f"{said} Let a client library make the form.", code="malformed_form")
    return boundary


class _Received:
    """The parts so far."""

    def __init__(self, writer: Writer, most: int, too_large: TooLarge) -> None:
        self._writer, self._most, self._too_large = writer, most, too_large
        self._values: dict[str, bytes] = {}
        self._filename: str | None = None
        self._part: str = ""  # whose bytes come now

    def take(self, event: MultipartSegment | bytes | bytearray | None) -> None:
        """Note the next event of the parser: a part's head, its bytes, its end."""
        if isinstance(event, MultipartSegment):
            self._begin(event)
        elif event is None:
            pass
        elif self._part == _FILE:
            if self._writer.size + len(event) > self._most:
                raise self._too_large
            offload(self._writer.write, bytes(event))
        else:
            self._values[self._part] += event
            if len(self._values[self._part]) > _LONGEST_VALUE:
                said = f"'{self._part}' is too long. Send at most {_LONGEST_VALUE} bytes."
                raise BadRequest(said, param=self._part, code="string_above_max_length")

    def _begin(self, part: MultipartSegment) -> None:
        name = part.name
        if name not in (_FILE, *_FIELDS):
            raise BadRequest.of(refusals.unknown(name, (_FILE, *_FIELDS)))
        if name in self._values or (name == _FILE and self._filename is not None):
            raise BadRequest(
                f"'{name}' is given twice. Send it once.", param=name, code="duplicate_parameter"
            )
        if name == _FILE:
            self._filename = _filename(part.filename)
        else:
            self._values[name] = b""
        self._part = name

    def checked(self) -> tuple[Form, str]:
        """The whole form, whose file has arrived."""
        form = Form.model_validate(_nested(self._values))
        if self._filename is None:
            raise BadRequest(
                f"Missing required parameter: '{_FILE}'.", param=_FILE, code="missing_required_parameter"
            )
        if self._writer.size == 0:
            raise BadRequest("The file is empty. Send at least one byte.", param=_FILE, code="empty_file")
        return form, self._filename


def _filename(given: str | None) -> str:
    """The name as text, which nobody takes for a path."""
    if not given:
        said = f"The part '{_FILE}' has no filename, so it is no file. Send it with one."
        raise BadRequest(said, param=_FILE, code="invalid_file")
    if len(given) > _LONGEST_NAME or not given.isprintable():
        said = f"The filename has characters that cannot be printed, or more than {_LONGEST_NAME}."
        raise BadRequest(f"{said} Send another.", param=_FILE, code="invalid_filename")
    return given


def _nested(values: dict[str, bytes]) -> dict[str, Any]:
    """The fields as JSON would have them: a[b] is in a, which is an object."""
    found: dict[str, Any] = {}
    for name, raw in values.items():
        try:
            value = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise BadRequest(f"'{name}' is not UTF-8. Send text.", param=name, code="invalid_value") from None
        outer, _, inner = name.rstrip("]").partition("[")
        if inner:
            found.setdefault(outer, {})[inner] = value
        else:
            found[name] = value
    return found
