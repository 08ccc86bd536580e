"""What the client sends again because its connection was cut makes nothing twice."""

import http.client
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

from openai import OpenAI

from tests.conformance.scenarios.registry import Server, scenario

LINE = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
Answers = list[tuple[str, bytes]]


class _Proxy(socketserver.ThreadingTCPServer):
    daemon_threads, allow_reuse_address = True, True


@contextmanager
def cutting(upstream: str) -> Iterator[tuple[str, Answers]]:
    """A URL that hands everything on, but cuts the connection at the first answer; and all answers."""
    answers: Answers = []
    host = urlsplit(upstream).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            connection = http.client.HTTPConnection(host, timeout=60)
            connection.request("POST", self.path, body, dict(self.headers))
            answer = connection.getresponse()
            said = answer.read()
            answers.append((self.headers["x-stainless-retry-count"], said))
            self.close_connection = True
            if len(answers) == 1:
                return
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers["Content-Type"])
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: Any) -> None:
            pass

    with _Proxy(("127.0.0.1", 0), Handler) as proxy:
        threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02}).start()
        try:
            yield f"http://127.0.0.1:{proxy.server_address[1]}", answers
        finally:
            proxy.shutdown()


def made_once(server: Server, create: Callable[[OpenAI], Any]) -> str:
    """The id of what is made, which both tries were answered with."""
    with cutting(server.url) as (url, answers):
        made = create(server.client(url=url, max_retries=2, _strict_response_validation=True))
    assert [count for count, _ in answers] == ["0", "1"]
    assert all(made.id in said.decode() for _, said in answers), answers
    return str(made.id)


@scenario
def a_cut_background_response_is_one(server: Server) -> None:
    asked: Any = {"model": "starter", "input": "cut off", "max_output_tokens": 1, "background": True}
    name = made_once(server, lambda client: client.responses.create(**asked))
    listed: Any = server.lenient.get("/responses?limit=100", cast_to=object)
    assert [one["id"] for one in listed["data"] if one["id"] == name] == [name]
    others = {server.strict.responses.create(**asked).id for _ in range(2)}
    assert len(others | {name}) == 3  # the same words, but nobody's retry


@scenario
def a_cut_completion_is_one(server: Server) -> None:
    asked: Any = {"model": "starter", "prompt": "cut off", "max_tokens": 2}
    made_once(server, lambda client: client.completions.create(**asked))


@scenario
def a_cut_upload_batch_and_fine_tune_are_one_each(server: Server) -> None:
    name = made_once(
        server, lambda client: client.files.create(file=("cut.jsonl", LINE * 20), purpose="fine-tune")
    )
    job = made_once(
        server, lambda client: client.fine_tuning.jobs.create(model="starter", training_file=name)
    )
    server.strict.fine_tuning.jobs.cancel(job)
    lines = server.strict.files.create(file=("batch.jsonl", b"no JSON\n"), purpose="batch").id
    made_once(
        server,
        lambda client: client.batches.create(
            input_file_id=lines, endpoint="/v1/completions", completion_window="24h"
        ),
    )
