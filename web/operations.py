"""What each route takes and answers, for the OpenAPI document: the models with which its view parses."""

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from web import answers as a
from web import files, responses, usage
from web import holdings as h
from web.batch_request import BatchesQuery, BatchRequest
from web.chat_request import ChatRequest
from web.completion_request import CompletionRequest
from web.export_request import ExportQuery, ExportRequest
from web.file_upload import Form
from web.fine_tuning_request import CheckpointsQuery, EventsQuery, FineTuningRequest, JobsQuery
from web.query import Query
from web.response_request import ResponseRequest
from web.webhook_requests import EndpointChange, EndpointRequest, EndpointsQuery, Rotation, Trial


@dataclass(frozen=True)
class Operation:
    """One method of one URL."""

    answer: Any
    """The model of its success; None: bytes."""
    query: type[Query] = Query
    body: type[BaseModel] | None = None
    body_required: bool = True
    refusals: tuple[int, ...] = ()
    """Statuses beside those that every route of its kind has."""
    parameters: tuple[dict[str, Any], ...] = ()
    """Of the query, beside its model."""
    example: dict[str, Any] | None = None
    """A body to begin with."""


_METADATA = {
    "name": "metadata",
    "in": "query",
    "style": "deepObject",
    "explode": True,
    "description": "Only those that have each of these: metadata[name]=value.",
    "schema": {"type": "object", "additionalProperties": {"type": "string"}},
}
_LINE = {"input_file_id": "file-...", "endpoint": "/v1/responses", "completion_window": "24h"}
_HOOK = {"name": "mine", "url": "https://example.com/hook", "event_types": ["response.completed"]}
_SAID = {"model": "starter", "messages": [{"role": "user", "content": "Hello"}]}
_ONCE = 422  # an idempotency key that came with another body before
_GONE_WRONG = 500  # the job that a synchronous call waited for

OPERATIONS = {
    "responses.create": Operation(
        a.Response,
        body=ResponseRequest,
        example={"model": "starter", "input": "def ", "background": True},
        refusals=(404, _ONCE),
    ),
    "responses.index": Operation(a.NamedPage[a.Response], responses.IndexQuery, refusals=(404,)),
    "responses.show": Operation(a.Response, responses.ShowQuery),
    "responses.cancel": Operation(a.Response),
    "responses.verify": Operation(a.Response, refusals=(_ONCE,)),
    "responses.delete": Operation(a.DeletedResponse),
    "responses.input_items": Operation(a.NamedPage[a.InputItem], responses.ItemsQuery),
    "completions.create": Operation(
        a.Completion,
        body=CompletionRequest,
        example={"model": "starter", "prompt": "def "},
        refusals=(404, _ONCE, _GONE_WRONG),
    ),
    "chat.create": Operation(
        a.ChatCompletion, body=ChatRequest, example=_SAID, refusals=(404, _ONCE, _GONE_WRONG)
    ),
    "files.create": Operation(h.FileObject, body=Form, refusals=(_ONCE,)),
    "files.index": Operation(a.NamedPage[h.FileObject], files.IndexQuery, refusals=(404,)),
    "files.show": Operation(h.FileObject),
    "files.content": Operation(None, refusals=(416,)),
    "files.delete": Operation(h.DeletedFile, refusals=(409,)),
    "batches.create": Operation(h.Batch, body=BatchRequest, example=_LINE, refusals=(404, _ONCE)),
    "batches.index": Operation(a.NamedPage[h.Batch], BatchesQuery, refusals=(404,)),
    "batches.show": Operation(h.Batch),
    "batches.cancel": Operation(h.Batch, refusals=(409,)),
    "fine_tuning.create": Operation(
        h.FineTuningJobOrDryRun,
        body=FineTuningRequest,
        example={"model": "starter", "training_file": "file-..."},
        refusals=(404, _ONCE),
    ),
    "fine_tuning.index": Operation(
        a.Page[h.FineTuningJob], JobsQuery, refusals=(404,), parameters=(_METADATA,)
    ),
    "fine_tuning.show": Operation(h.FineTuningJob),
    "fine_tuning.cancel": Operation(h.FineTuningJob),
    "fine_tuning.pause": Operation(h.FineTuningJob),
    "fine_tuning.resume": Operation(h.FineTuningJob),
    "fine_tuning.events": Operation(a.Page[h.FineTuningEvent], EventsQuery),
    "fine_tuning.checkpoints": Operation(a.NamedPage[h.FineTuningCheckpoint], CheckpointsQuery),
    "models.index": Operation(a.Listing[a.Model]),
    "models.show": Operation(a.Model),
    "models.delete": Operation(a.DeletedModel, refusals=(409,)),
    "exports.create": Operation(
        h.ModelExport, body=ExportRequest, body_required=False, refusals=(_ONCE,), example={"private": True}
    ),
    "exports.newest": Operation(h.ModelExport),
    "exports.show": Operation(h.ModelExport, ExportQuery),
    "exports.cancel": Operation(h.ModelExport),
    "webhooks.event_types": Operation(a.Listing[str]),
    "webhooks.create": Operation(
        h.WebhookEndpointWithSecret, body=EndpointRequest, example=_HOOK, refusals=(_ONCE,)
    ),
    "webhooks.index": Operation(a.NamedPage[h.WebhookEndpoint], EndpointsQuery, refusals=(404,)),
    "webhooks.show": Operation(h.WebhookEndpoint),
    "webhooks.change": Operation(h.WebhookEndpoint, body=EndpointChange, example=_HOOK),
    "webhooks.delete": Operation(h.DeletedWebhookEndpoint),
    "webhooks.rotate_secret": Operation(
        h.WebhookEndpointWithSecret,
        body=Rotation,
        example={"keep_old_secret_active_for_24_hours": True},
        body_required=False,
    ),
    "webhooks.test": Operation(h.WebhookTest, body=Trial, example={"event_type": "response.completed"}),
    "usage.index": Operation(h.UsagePage, usage.UsageQuery),
    "health.alive": Operation(a.Health),
    "health.ready": Operation(a.Health, refusals=(503,)),
}
"""By the name of the endpoint in Flask."""
