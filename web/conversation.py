"""The items that a response reads: those of its request, those of the responses before it, and which fit."""

import secrets
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jobs import records
from jobs.catalog import ModelVersion
from jobs.states import State
from web import prompts, response_object
from web.catalogue import Models
from web.errors import BadRequest
from web.response_request import InputMessage, ResponseRequest

KIND = "response"
Item = dict[str, Any]


@dataclass(frozen=True)
class Conversation:
    """What a model reads before it answers."""

    items: list[Item]
    prompt: str
    tokens: int  # of the prompt


def read(models: Models, owner_id: int, model: ModelVersion, asked: ResponseRequest) -> Conversation:
    """The whole conversation of a request, cut at its beginning where that was asked for.

    Raises:
        BadRequest: it does not fit, the model takes none, or the response before it cannot be continued.
    """
    own = items = [_item(message) for message in asked.input]
    if asked.previous_response_id is not None:
        _check_template(model)
        items = [*_before(models, owner_id, asked.previous_response_id), *items]
    if asked.truncation == "auto":
        items = _fitting(models, model, items, asked)
    if items is own:
        prompt = prompts.conversation(models.tokenizers, model, asked.input, asked.instructions)
    else:
        prompt = _prompt(models, model, items, asked)
    return Conversation(items, prompt, models.tokenizers.count(model, prompt, "input"))


def _item(message: InputMessage) -> Item:
    """A message of a request as an item with a name of its own."""
    said: list[Item] = [{"type": "input_text", "text": part.text} for part in message.content]
    if message.role == "assistant":
        said = [response_object.text_part(part.text, []) for part in message.content]
    name = f"msg_{secrets.token_hex(16)}"
    return {"id": name, "type": "message", "role": message.role, "status": "completed", "content": said}


def _before(models: Models, owner_id: int, response_id: str) -> list[Item]:
    """What the response of that id had read, and what it answered."""
    with models.database.reading() as connection:
        record = records.find(connection, owner_id, KIND, response_id)
        items = records.conversation(connection, owner_id, response_id)
    if record is None or not record.stored:
        said = f"Previous response with id '{response_id[:100]}' not found."
        raise BadRequest(said, param="previous_response_id", code="previous_response_not_found")
    if record.state is not State.SUCCEEDED or items is None:
        said = f"The response '{response_id}' has no answer to continue: it is {record.state}."
        raise BadRequest(
            f"{said} Wait for its end, or name one that is completed.",
            param="previous_response_id",
            code="previous_response_not_completed",
        )
    return [*items, *response_object.response_object(record, [])["output"]]


def _check_template(model: ModelVersion) -> None:
    if model.chat_template is None:
        said = f"The model '{model.name}' is a base model without a chat template: it has no conversations."
        raise BadRequest(
            f"{said} Leave 'previous_response_id' out and write all of it into 'input'.",
            param="previous_response_id",
            code="unsupported_parameter",
        )


def _fitting(models: Models, model: ModelVersion, items: list[Item], asked: ResponseRequest) -> list[Item]:
    """Without the oldest items where the answer would have no room; the newest of the user stays always.

    What is left does not begin with an answer, which chat templates refuse.
    """
    newest = max((i for i, item in enumerate(items) if item["role"] == "user"), default=len(items) - 1)
    starts = [i for i in range(newest + 1) if i in (0, newest) or items[i]["role"] != "assistant"]
    wanted = asked.max_output_tokens or asked.max_tokens or model.context // _SHARE

    def fits(start: int) -> bool:
        prompt = _prompt(models, model, items[start:], asked)
        try:
            return models.tokenizers.count(model, prompt, "input", wanted) > 0
        except BadRequest:
            return False

    found = bisect_left(starts, True, key=fits)
    return items[starts[min(found, len(starts) - 1)] :]


_SHARE = 4  # of the context, that is left to an answer whose length nobody asked for


def _prompt(models: Models, model: ModelVersion, items: Iterable[Item], asked: ResponseRequest) -> str:
    messages: Sequence[InputMessage] = [InputMessage.model_validate(item) for item in items]
    return prompts.conversation(models.tokenizers, model, messages, asked.instructions)
