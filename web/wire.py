"""What we put in place of Flask's own where every request passes: how an answer becomes JSON and bytes."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

from flask import Flask, Request, Response
from flask.json.provider import DefaultJSONProvider
from flask.sessions import NullSession, SessionInterface
from werkzeug.routing import MapAdapter

from jobs.encoding import encode

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_JSON = "application/json"


class Json(DefaultJSONProvider):
    """Writes answers with one encoder; Flask's makes one for each of them."""

    def dumps(self, obj: Any, **named: Any) -> str:
        """The value as JSON."""
        return super().dumps(obj, **named) if named else encode(obj).decode()

    def response(self, *args: Any, **named: Any) -> Response:
        """What `jsonify` returns."""
        return Answer.of(encode(self._prepare_response_obj(args, named)))


class Answer(Response):
    """A response; one that is a JSON text goes out as it is, without the repairs that others may need."""

    _whole = False

    @classmethod
    def of(cls, text: bytes) -> "Answer":
        """The answer that is this JSON."""
        answer = cls(content_type=_JSON)
        answer.response = [text + b"\n"]
        answer.headers.add("Content-Length", str(len(text) + 1))
        answer._whole = True
        return answer

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Werkzeug's way counts the bytes, looks for locations and copies all headers twice."""
        if self._whole and environ["REQUEST_METHOD"] != "HEAD":
            start_response(self.status, self.headers.to_wsgi_list())
            return cast(Iterable[bytes], self.response)
        return super().__call__(environ, start_response)


class _NoSessions(SessionInterface):
    """There are no cookies, so one empty session is everybody's."""

    _empty = NullSession()

    def open_session(self, app: Flask, request: Request) -> NullSession:
        """The one."""
        return self._empty


class Application(Flask):
    """Flask without what this API does not have: sessions, coroutines, and URLs that depend on the host."""

    json_provider_class = Json
    response_class = Answer
    session_interface = _NoSessions()

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """What finds the route of a request; Flask looks into its host three times first."""
        if request is None:
            return super().create_url_adapter(request)
        environ = request.environ
        path = environ["PATH_INFO"].encode("latin-1").decode(errors="replace") or "/"
        return MapAdapter(
            self.url_map, "", "/", "", environ["wsgi.url_scheme"], path, environ["REQUEST_METHOD"]
        )

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """All are, and Flask looks for each function of each request."""
        return func
