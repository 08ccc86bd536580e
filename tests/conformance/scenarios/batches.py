"""`client.batches`."""

import json
from typing import Any

from openai import ConflictError, NotFoundError
from openai.types import Batch

from tests.conformance.scenarios.registry import Server, refused, scenario, wait_for

ENDED = {"completed", "failed", "expired", "cancelled"}


def line(custom_id: str, url: str, **body: Any) -> str:
    asked = {"custom_id": custom_id, "method": "POST", "url": url, "body": {"model": "starter", **body}}
    return json.dumps(asked) + "\n"


def upload(server: Server, *lines: str) -> str:
    return server.strict.files.create(file=("in.jsonl", "".join(lines).encode()), purpose="batch").id


def end(server: Server, batch: Batch) -> Batch:
    def look() -> Batch | None:
        seen = server.strict.batches.retrieve(batch.id)
        return seen if seen.status in ENDED else None

    return wait_for(look)


def answers(server: Server, file_id: str | None) -> dict[str, dict[str, Any]]:
    assert file_id is not None
    said = server.strict.files.content(file_id).text
    return {one["custom_id"]: one for one in map(json.loads, said.splitlines())}


@scenario
def a_batch_of_each_endpoint_is_run_to_its_end(server: Server) -> None:
    chat = [{"role": "user", "content": "hi"}]
    bodies: dict[str, dict[str, Any]] = {
        "/v1/completions": {"prompt": "def", "max_tokens": 3},
        "/v1/chat/completions": {"model": "lab/chatty:v1", "messages": chat, "max_tokens": 3},
        "/v1/responses": {"input": "def", "max_output_tokens": 3},
    }
    for url, body in bodies.items():
        lines = (line("one", url, **body), line("two", url, **body), line("bad", url, **body, top_p=3))
        made = server.strict.batches.create(
            input_file_id=upload(server, *lines),
            endpoint=url,  # type: ignore[arg-type]
            completion_window="24h",
            metadata={"team": "a"},
            output_expires_after={"anchor": "created_at", "seconds": 3600},
        )
        assert (made.status, made.endpoint, made.metadata) == ("validating", url, {"team": "a"})
        done = end(server, made)
        assert done.status == "completed", done
        assert done.request_counts is not None
        assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (
            3,
            2,
            1,
        )
        good, bad = answers(server, done.output_file_id), answers(server, done.error_file_id)
        assert (set(good), set(bad)) == ({"one", "two"}, {"bad"})
        assert all(one["response"]["status_code"] == 200 for one in good.values())
        assert bad["bad"]["response"]["body"]["error"]["param"] == "top_p"
        output = server.strict.files.retrieve(str(done.output_file_id))
        assert (output.purpose, output.expires_at) == ("batch_output", output.created_at + 3600)


@scenario
def a_batch_with_wrong_lines_fails_and_names_them(server: Server) -> None:
    asked = line("same", "/v1/completions", prompt="a")
    made = server.strict.batches.create(
        input_file_id=upload(server, asked, asked), endpoint="/v1/completions", completion_window="24h"
    )
    done = end(server, made)
    assert done.status == "failed"
    assert done.errors is not None
    assert done.errors.data is not None
    assert [(one.line, one.param) for one in done.errors.data] == [(2, "custom_id")]
    assert done.errors.data[0].code
    assert done.errors.data[0].message


@scenario
def a_batch_is_cancelled_and_batches_are_listed(server: Server) -> None:
    long = line("long", "/v1/completions", prompt="a", max_tokens=400, n=64, ignore_eos=True)
    made = server.strict.batches.create(
        input_file_id=upload(server, long), endpoint="/v1/completions", completion_window="24h"
    )
    assert server.strict.batches.cancel(made.id).status in ("cancelling", "cancelled")
    done = end(server, made)
    assert done.status == "cancelled"
    assert done.cancelled_at
    assert server.strict.batches.cancel(made.id).status == "cancelled"
    another = server.strict.batches.create(
        input_file_id=made.input_file_id, endpoint="/v1/completions", completion_window="24h"
    )
    server.strict.batches.cancel(another.id)
    listed = [batch.id for batch in server.strict.batches.list(limit=1)]
    assert listed.index(another.id) < listed.index(made.id)
    assert len(set(listed)) == len(listed)
    with refused(NotFoundError, None, "id"):
        server.strict.batches.retrieve("batch_none")


@scenario
def an_ended_batch_is_not_cancelled(server: Server) -> None:
    made = server.strict.batches.create(
        input_file_id=upload(server, "no JSON\n"), endpoint="/v1/responses", completion_window="24h"
    )
    assert end(server, made).status == "failed"
    with refused(ConflictError, "not_cancellable", None):
        server.strict.batches.cancel(made.id)
