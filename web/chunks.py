"""A completion or chat completion as a stream of chunks; the last of each choice has its `finish_reason`."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

from jobs.inputs import GenerationInput
from jobs.records import JobRecord
from jobs.states import State
from web import errors, streaming
from web.catalogue import Models
from web.chat_object import logprobs_object
from web.completion_object import continued, head, usage
from web.errors import ApiError, failed_job
from web.logprobs import Offsets, of_completion, of_text
from web.reader import Delta


class Chunks(ABC):
    """What both have in common; each says what its choices look like."""

    def __init__(self, models: Models, record: JobRecord, kind: str, include_usage: bool) -> None:
        self._models = models
        self._tokenizer = models.offers.reads(record.model)
        self._task = GenerationInput.model_validate(record.input)
        self._head = head(record, kind)
        self._usage: dict[str, Any] = {"usage": None} if include_usage else {}

    def begin(self) -> Iterable[str]:
        """The chunks that no token is needed for."""
        return ()

    def say(self, delta: Delta) -> Iterable[str]:
        """The chunks of some more text, or of a choice's end."""
        if delta.text or delta.logprobs:
            yield self._chunk(delta.sequence, self._part(delta), None)
        if delta.finish_reason is not None:
            yield self._chunk(delta.sequence, self._nothing(), delta.finish_reason)

    def end(self, record: JobRecord) -> Iterable[str]:
        """What follows on the last choice; of a job that was cut short, an error."""
        if record.state is not State.SUCCEEDED or record.output is None:
            yield from self.broken(failed_job(record.error))
            return
        if self._usage:
            yield streaming.data(self._head | {"choices": [], "usage": usage(record.output)})
        yield "data: [DONE]\n\n"

    def broken(self, error: ApiError) -> Iterable[str]:
        """The official client raises what stands here, and reads no further."""
        yield streaming.data({"error": errors.body(error)})

    @abstractmethod
    def _part(self, delta: Delta) -> dict[str, Any]:
        """A choice's next piece."""

    @abstractmethod
    def _nothing(self) -> dict[str, Any]:
        """A choice's last piece, which says nothing."""

    @property
    def _indices(self) -> range:
        return range(len(self._task.prompts) * self._task.n)

    def _chunk(self, index: int, part: dict[str, Any], finish_reason: str | None) -> str:
        choice = {"index": index, **part, "finish_reason": finish_reason}
        return streaming.data({**self._head, "choices": [choice], **self._usage})


class ChatChunks(Chunks):
    """`chat.completion.chunk` objects: first the role of each choice, then what it says."""

    def __init__(self, models: Models, record: JobRecord, include_usage: bool) -> None:
        super().__init__(models, record, "chat.completion.chunk", include_usage)

    def begin(self) -> Iterable[str]:
        """Who speaks."""
        opening = {"role": "assistant", "content": "", "refusal": None}
        for index in self._indices:
            yield self._chunk(index, {"delta": opening, "logprobs": None}, None)

    def _part(self, delta: Delta) -> dict[str, Any]:
        stored = delta.logprobs or None
        told = stored and of_text(self._models.tokenizers, self._tokenizer, stored)
        return {"delta": {"content": delta.text}, "logprobs": logprobs_object(told)}

    def _nothing(self) -> dict[str, Any]:
        return {"delta": {}, "logprobs": None}


class CompletionChunks(Chunks):
    """`text_completion` objects; with `echo`, the prompt is the first chunk of each choice."""

    def __init__(self, models: Models, record: JobRecord, include_usage: bool) -> None:
        super().__init__(models, record, "text_completion", include_usage)
        self._offsets = [Offsets() for _ in self._indices]
        self._scored = self._task.echo and self._task.sampling.logprobs is not None
        self._held: list[Delta] = []  # what a prompt scores is known at the end, and comes before the text

    def begin(self) -> Iterable[str]:
        """The prompts, where they are only repeated."""
        if self._task.echo and not self._scored:
            for index in self._indices:
                yield self._chunk(index, {"text": self._prompt(index), "logprobs": None}, None)

    def say(self, delta: Delta) -> Iterable[str]:
        """The chunks of some more text, or of a choice's end."""
        if self._scored:
            self._held.append(delta)
            return ()
        return super().say(delta)

    def end(self, record: JobRecord) -> Iterable[str]:
        """What follows on the last choice, and all of a stream that begins with scored prompts."""
        if record.state is State.SUCCEEDED and record.output is not None and self._scored:
            yield from self._scores(record.output["sequences"])
            for delta in self._held:
                yield from super().say(delta)
        yield from super().end(record)

    def _scores(self, sequences: list[dict[str, Any]]) -> Iterator[str]:
        for index, sequence in enumerate(sequences):
            told = self._told(index, sequence["prompt_logprobs"], sequence["prompt_tokens"])
            yield self._chunk(index, {"text": self._prompt(index), "logprobs": told}, None)

    def _part(self, delta: Delta) -> dict[str, Any]:
        told = self._told(delta.sequence, delta.logprobs, delta.tokens) if delta.logprobs else None
        return {"text": delta.text, "logprobs": told}

    def _nothing(self) -> dict[str, Any]:
        return {"text": "", "logprobs": None}

    def _prompt(self, index: int) -> str:
        return continued(self._models.tokenizers, self._tokenizer, self._task, index)

    def _told(self, index: int, stored: list[Any], tokens: list[int]) -> dict[str, Any]:
        offsets = self._offsets[index]
        return of_completion(self._models.tokenizers, self._tokenizer, stored, tokens, offsets)
