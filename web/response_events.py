"""A response as the events of a stream, in OpenAI's order."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from jobs.records import JobRecord
from jobs.states import State
from web import logprobs, response_object
from web.catalogue import Models
from web.errors import ApiError
from web.reader import Delta
from web.streaming import event, tokenizer_of

_AT_THE_END = (
    *("attempt", "queue_position", "eta", "receipt", "verification"),
    *("queue_ms", "run_ms", "engine_ms", "cancel_ms"),
)
"""Of a response: what changes until it has ended, so that a stream shows it with the last event only."""


class Events:
    """The events of one response from the one after number `after` on.

    They are the same for everybody who reads it, whenever, however often and from wherever: what stands in
    them depends on the request, the tokens and the end alone, and every token's text has its own event.
    """

    def __init__(self, models: Models, record: JobRecord, after: int = -1) -> None:
        self._models, self._record, self._after = models, record, after
        self._tokenizer = tokenizer_of(models, record)
        self._number = 0  # of the next event
        self._working = False  # in_progress was said
        self._open = False  # the message was
        self._message = response_object.message(record.id, "in_progress", [])
        self._place = {"item_id": self._message["id"], "output_index": 0, "content_index": 0}

    def begin(self) -> Iterator[str]:
        """It exists; in the background it may yet wait for long."""
        if self._record.request["background"]:
            yield from self._state("response.created", State.QUEUED)
            yield from self._state("response.queued", State.QUEUED)
        else:
            yield from self._state("response.created", State.RUNNING)
            yield from self._work()

    def say(self, delta: Delta) -> Iterator[str]:
        """A piece of its text."""
        if not delta.text:
            return
        yield from self._begin_message()
        said = {"delta": delta.text, "logprobs": self._shown(delta)}
        yield from self._event("response.output_text.delta", self._place | said)

    def end(self, record: JobRecord) -> Iterator[str]:
        """Its end. One that was cancelled is `incomplete` with that status: no event is called so."""
        response = response_object.answer(self._models, record)
        if record.attempt > 0:
            yield from self._work()
        if response["output"]:
            yield from self._end_message(response["output"][0])
        if record.state is not State.SUCCEEDED:
            # what a worker took to its grave may have been streamed: the end comes after that too
            self._number = max(self._number, self._after + 1)
        name = {"completed": "completed", "failed": "failed"}.get(response["status"], "incomplete")
        yield from self._event(f"response.{name}", {"response": response})

    def broken(self, error: ApiError) -> Iterator[str]:
        """It cannot be streamed any further."""
        self._number = max(self._number, self._after + 1)
        yield from self._event("error", {"code": error.code, "message": str(error), "param": error.param})

    def _begin_message(self) -> Iterator[str]:
        """With the first text, the message and its only part."""
        if self._open:
            return
        self._open = True
        yield from self._work()
        yield from self._event("response.output_item.added", {"output_index": 0, "item": self._message})
        part = response_object.text_part("", [])
        yield from self._event("response.content_part.added", self._place | {"part": part})

    def _end_message(self, message: Mapping[str, Any]) -> Iterator[str]:
        (part,) = message["content"]
        whole = {"text": part["text"], "logprobs": part["logprobs"]}
        yield from self._begin_message()
        yield from self._event("response.output_text.done", self._place | whole)
        yield from self._event("response.content_part.done", self._place | {"part": part})
        yield from self._event("response.output_item.done", {"output_index": 0, "item": message})

    def _work(self) -> Iterator[str]:
        if not self._working:
            self._working = True
            yield from self._state("response.in_progress", State.RUNNING)

    def _state(self, name: str, state: State) -> Iterator[str]:
        """The response as it was when it stood there."""
        then = replace(self._record, state=state, output=None, error=None, started_at=None, finished_at=None)
        response = response_object.response_object(then, [])
        stable = {name: value for name, value in response.items() if name not in _AT_THE_END}
        yield from self._event(name, {"response": stable})

    def _event(self, name: str, content: Mapping[str, Any]) -> Iterator[str]:
        number, self._number = self._number, self._number + 1
        if number > self._after:
            yield event({"type": name, "sequence_number": number, **content})

    def _shown(self, delta: Delta) -> list[dict[str, Any]]:
        if not delta.logprobs:
            return []
        return logprobs.of_text(self._models.tokenizers, self._tokenizer, delta.logprobs)
