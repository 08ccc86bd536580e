"""The OpenAPI document: routes from Flask, words from docstrings, schemas from the models that parse."""

import re
from typing import Any

from apispec import APISpec
from flask import Flask
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from werkzeug.routing import Rule

from web.answers import Error
from web.file_upload import ExpiresAfter, Form
from web.operations import OPERATIONS, Operation
from web.query import Query
from web.requests import Request

_VERSION = "3.1.0"
_REFERENCE = "#/components/schemas/{model}"
_STATUSES = {
    400: "The request cannot be taken as it is.",
    401: "No API key, or none of this server.",
    403: "The API key does not allow this.",
    404: "There is no such thing, or it belongs to somebody else.",
    409: "It does not go with how things are.",
    413: "The body is over the limit.",
    415: "The body is compressed.",
    416: "The range begins behind the end.",
    422: "The Idempotency-Key came with another request before.",
    429: "A limit of the API key is reached.",
    500: "The job has failed.",
    503: "Not now: nothing was accepted, try again.",
}
_OF_ALL = (400, 401, 403, 429, 503)
_OF_BODIES = (413, 415)
_OPTIONAL_NULL = {"type": "null"}

Schema = dict[str, Any]

_EVENT: Schema = {
    "description": "One event of the stream.",
    "type": "object",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
}


def document(app: Flask) -> dict[str, Any]:
    """The OpenAPI document of the routes of `app` that are in the table of operations."""
    spec = APISpec(
        title="Penstock",
        version="1",
        openapi_version=_VERSION,
        info={"description": "Text generation and fine-tuning, over OpenAI's wire contract."},
        security=[{"key": []}],
    )
    spec.components.security_scheme("key", {"type": "http", "scheme": "bearer"})
    for tag in dict.fromkeys(name.partition(".")[0] for name in OPERATIONS):
        spec.tag({"name": tag})
    schemas = _Schemas(spec)
    for status, said in _STATUSES.items():
        content = {"application/json": {"schema": schemas.of_answer(Error)}}
        spec.components.response(str(status), {"description": said, "headers": _HEADERS, "content": content})
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule):
        operation = OPERATIONS.get(rule.endpoint)
        if operation is not None:
            view = app.view_functions[rule.endpoint]
            spec.path(path_of(rule), operations=_operations(rule, operation, view.__doc__ or "", schemas))
    return spec.to_dict()


def path_of(rule: Rule) -> str:
    """The URL of a route in OpenAPI's spelling."""
    return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)


_HEADERS = {
    "x-request-id": {"description": "The name of this request in the logs.", "schema": {"type": "string"}}
}


class _Schemas:
    """The schemas of all models, each a component."""

    def __init__(self, spec: APISpec) -> None:
        asked: set[Any] = {one.body for one in OPERATIONS.values() if one.body not in (None, Form)}
        answered: set[Any] = {one.answer for one in OPERATIONS.values() if one.answer is not None} | {Error}
        models = [(model, "validation") for model in _sorted(asked)]
        models += [(model, "serialization") for model in _sorted(answered)]
        self._references, made = models_json_schema(models, ref_template=_REFERENCE)  # type: ignore[arg-type]
        for model in asked:
            if issubclass(model, Request):
                _complete(made["$defs"][_name(self._references[model, "validation"])], model)
        for name, schema in made["$defs"].items():
            spec.components.schema(name, schema)

    def of_answer(self, model: type[BaseModel]) -> Schema:
        """What refers to an answer."""
        return self._references[model, "serialization"]

    def of_body(self, model: type[BaseModel]) -> Schema:
        """What refers to a JSON body."""
        return self._references[model, "validation"]


def _sorted(models: Any) -> list[Any]:
    return sorted(models, key=lambda model: model.__name__)


def _name(reference: Schema) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def _complete(schema: Schema, model: type[Request]) -> None:
    """Say what `Request.parse` does beside the model: a null leaves a parameter out, and of OpenAI's that
    we do not have, the values that change nothing pass."""
    properties = schema["properties"]
    for name, one in properties.items():
        if name not in schema.get("required", ()) and _OPTIONAL_NULL not in one.get("anyOf", ()):
            title = {key: one.pop(key) for key in ("default", "title") if key in one}
            properties[name] = {"anyOf": [one, _OPTIONAL_NULL], **title}
    for name, values in model.unsupported.items():
        if name not in properties:
            properties[name] = {"enum": [None, *values], "description": "Not supported: it changes nothing."}


def _operations(rule: Rule, operation: Operation, words: str, schemas: _Schemas) -> dict[str, Any]:
    summary, _, rest = words.strip().partition("\n")
    described: dict[str, Any] = {
        "operationId": rule.endpoint,
        "tags": [rule.endpoint.partition(".")[0]],
        "summary": summary.rstrip(":"),
        "description": re.sub(r"\n +", "\n", rest).strip(),
        "parameters": _parameters(rule, operation),
        "responses": _responses(rule, operation, schemas),
    }
    if operation.body is not None:
        described["requestBody"] = _body(operation, schemas)
    if not rule.rule.startswith("/v1"):
        described["security"] = []
    return {method.lower(): described for method in rule.methods or () if method not in ("HEAD", "OPTIONS")}


def _parameters(rule: Rule, operation: Operation) -> list[Schema]:
    text = {"type": "string", "minLength": 1}
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": text} for name in sorted(rule.arguments)
    ]
    return [*in_path, *_query(operation.query), *operation.parameters]


def _query(model: type[Query]) -> list[Schema]:
    schema = model.model_json_schema()
    found = [
        {"name": name, "in": "query", "schema": _not_null(one)}
        for name, one in schema.get("properties", {}).items()
    ]
    return found + [
        {
            "name": name,
            "in": "query",
            "description": "Not supported: it changes nothing.",
            "schema": {"type": "string", "enum": list(values)},
        }
        for name, values in model.unsupported.items()
    ]


def _not_null(schema: Schema) -> Schema:
    """A query has no null: what is left out is not there."""
    if _OPTIONAL_NULL not in schema.get("anyOf", ()):
        return schema
    (one,) = [choice for choice in schema["anyOf"] if choice != _OPTIONAL_NULL]
    return {**one, "title": schema["title"]}


def _body(operation: Operation, schemas: _Schemas) -> Schema:
    if operation.body is Form:
        content = {"multipart/form-data": {"schema": _form()}}
    else:
        assert operation.body is not None
        content = {"application/json": {"schema": schemas.of_body(operation.body)}}
        if operation.example is not None:
            content["application/json"]["example"] = operation.example
    return {"required": operation.body_required, "content": content}


def _form() -> Schema:
    """A form has no objects in it: a[b] is in a."""
    life = ExpiresAfter.model_json_schema()["properties"]
    return {
        "type": "object",
        "properties": {
            "file": {"type": "string", "format": "binary"},
            "purpose": Form.model_json_schema()["properties"]["purpose"],
            **{f"expires_after[{name}]": one for name, one in life.items()},
        },
        "required": ["file", "purpose"],
        "additionalProperties": False,
    }


def _responses(rule: Rule, operation: Operation, schemas: _Schemas) -> Schema:
    if operation.answer is None:
        content: Schema = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
        success = {"200": "All of it.", "206": "The range asked for."}
    else:
        content = {"application/json": {"schema": schemas.of_answer(operation.answer)}}
        success = {"200": "Done."}
    if any("stream" in model.model_fields for model in (operation.query, operation.body or Query)):
        content["text/event-stream"] = {"schema": _EVENT}
    statuses = {*operation.refusals}
    if not rule.rule.startswith("/v1"):
        success |= {str(status): _STATUSES[status] for status in statuses}
        statuses.clear()
    else:
        statuses |= {*_OF_ALL, *(_OF_BODIES if operation.body is not None else ())}
        statuses |= {404} if rule.arguments else set()
    return {
        **{
            status: {"description": said, "headers": _HEADERS, "content": content}
            for status, said in success.items()
        },
        **{str(status): str(status) for status in sorted(statuses)},  # the name of a component
    }
