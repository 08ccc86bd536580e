"""`client.webhooks`: endpoints, and the deliveries that they get."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from openai import BadRequestError, InvalidWebhookSignatureError, NotFoundError, OpenAI

from tests.conformance.scenarios.registry import Server, raising, refused, scenario, since, wait_for

Heard = list[tuple[str, dict[str, str]]]


@contextmanager
def receiving() -> Iterator[tuple[str, Heard]]:
    """The URL of a target, and what it has heard."""
    heard: Heard = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            heard.append((body, dict(self.headers)))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    target = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=target.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{target.server_port}/hook", heard
    finally:
        target.shutdown()
        thread.join()
        target.server_close()


def secret_of(server: Server, url: str, *types: str) -> tuple[str, str]:
    """An endpoint's id and secret, made without what only the newest client has."""
    made: Any = server.lenient.post(
        "/webhook_endpoints", cast_to=object, body={"name": "mine", "url": url, "event_types": types}
    )
    return made["id"], made["signing_secret"]


@scenario
def a_delivery_is_verified_and_unwrapped(server: Server) -> None:
    with receiving() as (url, heard):
        name, secret = secret_of(server, url, "response.incomplete")
        asked: Any = {"model": "starter", "input": "a", "max_output_tokens": 2, "background": True}
        made = server.strict.responses.create(**asked, extra_body={"ignore_eos": True})
        payload, headers = wait_for(lambda: next((one for one in heard if made.id in one[0]), None))
        event = server.strict.webhooks.unwrap(payload, headers, secret=secret)
        assert (event.type, event.data.id) == ("response.incomplete", made.id)  # type: ignore[union-attr]
        with raising(InvalidWebhookSignatureError):
            server.strict.webhooks.unwrap(payload.replace("resp_", "resq_"), headers, secret=secret)
        server.lenient.delete(f"/webhook_endpoints/{name}", cast_to=object)


@scenario
def a_request_brings_a_webhook_of_its_own(server: Server) -> None:
    with receiving() as (url, heard):
        own = {"webhook": url, "webhook_events_filter": ["response.incomplete"], "ignore_eos": True}
        asked: Any = {"model": "starter", "input": "a", "max_output_tokens": 2, "background": True}
        made = server.strict.responses.create(**asked, extra_body=own)
        payload, _ = wait_for(lambda: heard[0] if heard else None)
        assert made.id in payload


@since(3)
def an_endpoint_is_made_changed_rotated_tested_and_deleted(server: Server) -> None:
    webhooks = server.strict.webhooks
    with receiving() as (url, heard):
        made = webhooks.create(name="mine", url=url, event_types=["batch.completed"])
        assert made.signing_secret.startswith("whsec_")
        assert webhooks.retrieve(made.id).url == url
        changed = webhooks.update(made.id, name="yours", event_types=["batch.failed", "response.failed"])
        assert (changed.name, changed.url, len(changed.event_types)) == ("yours", url, 2)
        rotated = webhooks.rotate_secret(made.id, keep_old_secret_active_for_24_hours=True)
        assert rotated.signing_secret != made.signing_secret
        tried = webhooks.test(made.id, event_type="batch.completed")
        assert (tried.success, tried.status_code, tried.webhook_endpoint_id) == (True, 204, made.id)
        payload, headers = heard[-1]
        named = OpenAI(api_key="-", webhook_secret=rotated.signing_secret)
        assert named.webhooks.unwrap(payload, headers).type == "batch.completed"
        named.close()
    gone = webhooks.delete(made.id)
    assert (gone.id, gone.deleted) == (made.id, True)
    with refused(NotFoundError, None, "id"):
        webhooks.retrieve(made.id)


@since(3)
def endpoints_are_listed_page_by_page(server: Server) -> None:
    webhooks = server.strict.webhooks
    kinds = [str(one) for one in webhooks.event_types.list().data]
    assert {"response.completed", "batch.completed", "fine_tuning.job.succeeded"} <= set(kinds)
    made = [
        webhooks.create(name=str(n), url="https://example.com/", event_types=["batch.expired"]).id
        for n in range(3)
    ]
    listed = [one.id for one in webhooks.list(limit=1)]
    assert [one for one in listed if one in made] == made[::-1]
    for one in made:
        webhooks.delete(one)
    with refused(BadRequestError, "invalid_value", "event_types"):
        webhooks.create(name="x", url="https://example.com/", event_types=["video.completed"])
