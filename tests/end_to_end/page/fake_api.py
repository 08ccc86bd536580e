"""A server with the real page and a /v1 whose jobs move only when a test says so."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flask import Flask, Response, jsonify, request
from werkzeug.serving import make_server

from web.page import blueprint

KEY = "sk-the-right-one"


class FakeApi:
    """What the page asks of /v1, and the levers that a test moves."""

    def __init__(self) -> None:
        self.url = ""
        self.jobs: dict[str, dict[str, Any]] = {}
        self.creates: list[dict[str, Any]] = []
        self.lists = 0  # how often the latest jobs were asked for
        self.others = 0  # calls that are neither a list, a create, a cancel nor the models
        self.refusal: tuple[int, str, str | None] | None = None  # of the next create: status, message, param
        self.down: str | None = None  # the sentence with which every call is answered 503
        self.cancels_at_once = True
        self.models = ["starter", "gpt2"]

    def add(self, status: str = "queued", text: str = "", **fields: Any) -> dict[str, Any]:
        """A job that stands in the list."""
        job: dict[str, Any] = {
            "id": f"resp_{len(self.jobs)}",
            "object": "response",
            "created_at": int(time.time()),
            "model": "starter",
            "background": True,
            "output": [],
            "usage": None,
            "error": None,
            "queue_position": None,
        }
        self.jobs[job["id"]] = job
        return self.move(job["id"], status, text, **fields)

    def move(self, job_id: str, status: str, text: str = "", **fields: Any) -> dict[str, Any]:
        """Bring a job into a status, with the text it has by then."""
        job = self.jobs[job_id]
        job.update(status=status, queue_position=None)
        if text:
            job["output"] = [{"type": "message", "content": [{"type": "output_text", "text": text}]}]
            job["usage"] = {"input_tokens": 3, "output_tokens": len(text.split())}
        job.update(fields)
        return job

    def last(self) -> str:
        """The id of the newest job."""
        return list(self.jobs)[-1]


def app(api: FakeApi) -> Flask:
    """The page and the fake /v1 in one Flask application."""
    flask = Flask("fake", static_folder=None)
    flask.register_blueprint(blueprint)

    @flask.before_request
    def check() -> tuple[Response, int] | None:
        if not request.path.startswith("/v1"):
            return None
        if api.down:
            return _error(503, api.down)
        if request.authorization is None or request.authorization.token != KEY:
            return _error(401, "Incorrect API key provided.")
        return None

    @flask.get("/v1/models")
    def models() -> Response:
        return jsonify(data=[{"id": name, "object": "model"} for name in api.models])

    @flask.get("/v1/responses")
    def latest() -> Response:
        api.lists += 1
        newest = list(api.jobs.values())[::-1]
        return jsonify(data=newest[: request.args.get("limit", 20, int)])

    @flask.post("/v1/responses")
    def create() -> Response | tuple[Response, int]:
        body = request.get_json()
        api.creates.append(body)
        if api.refusal:
            return _error(*api.refusal)
        waiting = sum(job["status"] == "queued" for job in api.jobs.values())
        return jsonify(api.add(queue_position=waiting + 1, model=body["model"]))

    @flask.post("/v1/responses/<job_id>/cancel")
    def cancel(job_id: str) -> Response:
        if api.cancels_at_once:
            api.move(job_id, "cancelled")
        return jsonify(api.jobs[job_id])

    @flask.get("/v1/responses/<job_id>")
    def one(job_id: str) -> Response:
        api.others += 1
        return jsonify(api.jobs[job_id])

    return flask


def _error(status: int, message: str, param: str | None = None) -> tuple[Response, int]:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": None}
    return jsonify(error=error), status


@contextmanager
def serving(api: FakeApi) -> Iterator[FakeApi]:
    """The application on a free port of the loopback."""
    server = make_server("127.0.0.1", 0, app(api), threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    api.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
