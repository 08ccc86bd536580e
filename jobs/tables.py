"""The tables, as SQLAlchemy sees them; `migrations/` makes them."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON

from jobs.states import SUSPECT_AFTER, State

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_NOW = text("now()")
moment = DateTime(timezone=True)
_optional = JSON(none_as_null=True)

owners = Table(
    "owners",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("created_at", moment, nullable=False, server_default=_NOW),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("owner_id", ForeignKey("owners.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("prefix", Text, nullable=False, unique=True),  # finds the row; not secret
    Column("digest", LargeBinary, nullable=False),  # SHA-256 of the whole key
    Column("scopes", ARRAY(Text), nullable=False),
    # None: no limit
    Column("requests_per_minute", Integer),
    Column("tokens_per_minute", Integer),
    Column("queued_jobs", Integer),
    Column("concurrent_jobs", Integer),
    Column("created_at", moment, nullable=False, server_default=_NOW),
    Column("revoked_at", moment),
)

usage = Table(
    "usage",
    metadata,
    Column("api_key_id", ForeignKey("api_keys.id", ondelete="CASCADE"), primary_key=True),
    Column("day", Date, primary_key=True),  # in UTC
    Column("jobs", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("worker_seconds", Float, nullable=False),
)

creates = Table(
    "creates",
    metadata,
    Column("resource_id", Text, primary_key=True),  # what was made
    Column("api_key_id", ForeignKey("api_keys.id", ondelete="CASCADE"), nullable=False),
    Column("path", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),  # SHA-256 of the body, or of a form's parts
    Column("idempotency_key", Text),
    Column("retries", Integer, nullable=False),  # the highest retry count that was answered with it
    Column("waiters", Integer, nullable=False, server_default="1"),  # requests that it was the answer to
    Column("created_at", moment, nullable=False, server_default=_NOW),
    Index(
        "uq_creates_api_key_id_idempotency_key",
        "api_key_id",
        "idempotency_key",
        unique=True,
        postgresql_where=text("idempotency_key IS NOT NULL"),
    ),
    Index("ix_creates_api_key_id_digest", "api_key_id", "digest"),
    Index("ix_creates_created_at", "created_at"),
)

files = Table(
    "files",
    metadata,
    Column("id", Text, primary_key=True),
    Column("seq", BigInteger, Identity(), nullable=False),  # order of arrival
    Column("owner_id", ForeignKey("owners.id", ondelete="CASCADE"), nullable=False),
    Column("filename", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("artifact", Text, nullable=False, index=True),
    Column("status", Text, nullable=False),  # uploaded: not validated yet; processed; error
    Column(
        "errors", _optional
    ),  # [{code, line, message, param}] of a file that is not what its purpose needs
    Column("status_details", Text),  # one sentence about them all
    Column("lines", Integer),  # of a validated file
    Column("created_at", moment, nullable=False, server_default=_NOW),
    Column("expires_at", moment),
    CheckConstraint("status IN ('uploaded', 'processed', 'error')", name="status"),
    Index("ix_files_owner_id_seq", "owner_id", "seq"),
    Index("ix_files_unvalidated", "seq", postgresql_where=text("status = 'uploaded'")),
    Index("ix_files_expires_at", "expires_at", postgresql_where=text("expires_at IS NOT NULL")),
)

loose_artifacts = Table(
    "loose_artifacts",
    metadata,
    Column("artifact", Text, primary_key=True),  # of a file, perhaps of none; looked at after a while
    Column("since", moment, nullable=False, server_default=_NOW, index=True),
)

batches = Table(
    "batches",
    metadata,
    Column("id", Text, primary_key=True),
    Column("seq", BigInteger, Identity(), nullable=False),  # order of arrival
    Column("owner_id", ForeignKey("owners.id", ondelete="CASCADE"), nullable=False),
    Column("api_key_id", BigInteger),
    Column("endpoint", Text, nullable=False),
    Column(
        "input_file_id", Text, nullable=False, index=True
    ),  # the file may be gone once the batch has ended
    Column("completion_window", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("model", Text),
    Column("metadata", JSON, nullable=False),
    Column("output_expires_after", Integer),  # seconds
    Column("errors", _optional),  # [{code, line, message, param}]
    Column("total", Integer, nullable=False, server_default="0"),
    Column("counts", _optional),  # {completed, failed} and usage, kept when the lines' jobs are gone
    Column("usage", _optional),
    Column("has_lines", Boolean, nullable=False, server_default=text("false")),  # their jobs are there
    Column("output_file_id", Text),
    Column("error_file_id", Text),
    Column("created_at", moment, nullable=False, server_default=_NOW),
    Column("expires_at", moment, nullable=False),
    Column("in_progress_at", moment),
    Column("finalizing_at", moment),
    Column("completed_at", moment),
    Column("failed_at", moment),
    Column("expired_at", moment),
    Column("cancelling_at", moment),
    Column("cancelled_at", moment),
    CheckConstraint(
        "status IN ('validating', 'failed', 'in_progress', 'finalizing', 'completed', 'expired', "
        "'cancelling', 'cancelled')",
        name="status",
    ),
    Index("ix_batches_owner_id_seq", "owner_id", "seq"),
    Index(
        "ix_batches_open",
        "seq",
        postgresql_where=text("status IN ('validating', 'in_progress', 'finalizing', 'cancelling')"),
    ),
    Index("ix_batches_has_lines", "seq", postgresql_where=text("has_lines")),
)

batch_refusals = Table(
    "batch_refusals",
    metadata,
    Column("batch_id", ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
    Column("line", Integer, primary_key=True),  # the first is 1
    Column("custom_id", Text, nullable=False),
    Column("status_code", Integer, nullable=False),
    Column("error", JSON, nullable=False),  # the error object that the endpoint answers
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("seq", BigInteger, Identity(), nullable=False),  # order of arrival
    Column("owner_id", ForeignKey("owners.id", ondelete="CASCADE"), nullable=False),
    Column("kind", Text, nullable=False),  # the resource it is shown as: response, completion
    Column("queue", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("tier", SmallInteger, nullable=False, server_default=text("1")),  # see `attempts.Tier`
    Column(
        "priority", SmallInteger, nullable=False, server_default=text("0")
    ),  # within its owner, higher first
    Column("tokens", Integer, nullable=False, server_default="1"),  # what it may cost: read and written
    Column("deadline", moment),  # not begun by then, it has failed
    Column("available_at", moment, nullable=False, server_default=_NOW),  # not before: retry backoff
    Column("attempt", Integer, nullable=False, server_default="0"),  # the fence; only ever grows
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("crashes", Integer, nullable=False, server_default="0"),
    Column("reached", Integer, nullable=False, server_default="0"),  # the most tokens an attempt had
    Column("reached_at_death", Integer, nullable=False, server_default="0"),  # of its worker, the last time
    Column("lease_until", moment),
    Column("worker", Text),
    Column("cancel_requested_at", moment),
    Column("paused_at", moment),  # a wish, as a cancel is
    Column("api_key_id", BigInteger),  # with which it was asked for: its limits and its usage
    Column("batch_id", ForeignKey("batches.id", ondelete="CASCADE")),  # whose line it is
    Column("line", Integer),  # of the batch's file, the first is 1
    Column("custom_id", Text),  # of that line
    Column("webhook", _optional),  # {url, events} to tell of its end, beside the owner's endpoints
    Column("width", Integer, nullable=False, server_default="1"),  # slots that it takes: its sequences
    Column("stored", Boolean, nullable=False),  # false: gone once its caller was answered
    # json, not jsonb: it keeps every text that a tokenizer can write, NUL included, and the order of keys
    Column("request", JSON, nullable=False),  # what the resource echoes
    Column("input", JSON, nullable=False),  # what the worker needs
    Column("conversation", _optional),  # of a response: the items that were sent, and those before them
    Column("progress", _optional),  # of a fine-tune
    Column("output", JSON),
    Column("error", JSON),
    Column("created_at", moment, nullable=False, server_default=_NOW),
    Column("started_at", moment),
    Column("finished_at", moment),
    CheckConstraint(f"state IN ({', '.join(repr(str(s)) for s in State)})", name="state"),
    CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name="lease"),
    Index(
        "ix_jobs_queue",
        "queue",
        "model",
        "tier",
        "owner_id",
        text("priority DESC"),
        "seq",
        postgresql_include=["tokens"],
        postgresql_where=text("state = 'queued'"),
    ),
    Index(
        "ix_jobs_deadline",
        "deadline",
        postgresql_where=text("state = 'queued' AND deadline IS NOT NULL"),
    ),
    Index(
        "ix_jobs_suspects",
        "queue",
        "model",
        "seq",
        postgresql_where=text(f"state = 'queued' AND crashes >= {SUSPECT_AFTER}"),
    ),
    Index("ix_jobs_lease_until", "lease_until", postgresql_where=text("state = 'running'")),
    Index("ix_jobs_finished_at", "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
    Index("ix_jobs_unstored", "finished_at", postgresql_where=text("NOT stored")),
    Index("ix_jobs_owner_id_kind_seq", "owner_id", "kind", "seq"),
    Index(
        "ix_jobs_batch_id_line",
        "batch_id",
        "line",
        unique=True,
        postgresql_where=text("batch_id IS NOT NULL"),
    ),
    Index("ix_jobs_batch_id_state", "batch_id", "state", postgresql_where=text("batch_id IS NOT NULL")),
    Index(
        "ix_jobs_api_key_id_state",
        "api_key_id",
        "state",
        postgresql_where=text("batch_id IS NULL AND state IN ('queued', 'running')"),
    ),
)

job_events = Table(
    "job_events",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("at", moment, nullable=False, server_default=text("clock_timestamp()")),
    Column("attempt", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("code", Text),  # of the error, where there was one
    Column("worker", Text),
    # what a fine-tune says beside its moves
    Column("level", Text),
    Column("message", Text),
    Column("data", _optional),
    Index("ix_job_events_job_id_id", "job_id", "id"),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("id", Text, primary_key=True),
    Column("seq", BigInteger, Identity(), nullable=False),
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("step", Integer, nullable=False),
    Column("model", Text, nullable=False),  # the name under which it can be called
    Column("metrics", JSON, nullable=False),
    Column("best", Boolean, nullable=False, server_default=text("false")),  # kept beside the newest
    Column("created_at", moment, nullable=False, server_default=_NOW),
    UniqueConstraint("job_id", "step"),
)

checkpoint_files = Table(
    "checkpoint_files",
    metadata,
    Column("checkpoint_id", ForeignKey("checkpoints.id", ondelete="CASCADE"), primary_key=True),
    Column("path", Text, primary_key=True),  # in the checkpoint's folder
    Column("artifact", Text, nullable=False, index=True),
)
"""All that a trainer needs to go on from a checkpoint, wherever it runs."""

webhook_endpoints = Table(
    "webhook_endpoints",
    metadata,
    Column("id", Text, primary_key=True),
    Column("seq", BigInteger, Identity(), nullable=False),
    Column("owner_id", ForeignKey("owners.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("event_types", ARRAY(Text), nullable=False),
    Column("secret", Text, nullable=False),  # whsec_...; it signs, so it cannot be kept as a hash
    Column("old_secret", Text),  # signs too until then
    Column("old_secret_until", moment),
    Column("created_at", moment, nullable=False, server_default=_NOW),
    Column("updated_at", moment, nullable=False, server_default=_NOW),
    Column("disabled_at", moment),  # its target said 410
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", Text, primary_key=True),  # evt_...
    Column("owner_id", ForeignKey("owners.id", ondelete="CASCADE"), nullable=False),
    Column("endpoint_id", ForeignKey("webhook_endpoints.id", ondelete="CASCADE"), index=True),
    # of a request's own webhook, which has no endpoint: its target, and the key whose digest signs
    Column("url", Text),
    Column("api_key_id", BigInteger),
    Column("type", Text, nullable=False),  # response.completed, batch.failed, ...
    Column("resource_id", Text, nullable=False),
    Column("created_at", moment, nullable=False, server_default=_NOW),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("due_at", moment),  # of the next attempt; None: delivered or given up
    Column("delivered_at", moment),
    Column("last_error", Text),
    CheckConstraint("(endpoint_id IS NULL) <> (url IS NULL)", name="target"),
    Index("ix_outbox_due_at", "due_at", postgresql_where=text("due_at IS NOT NULL")),
    Index("ix_outbox_created_at", "created_at"),
)

model_versions = Table(
    "model_versions",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("name", Text, nullable=False),
    Column("digest", Text, nullable=False),  # SHA-256 of configuration, weights and tokenizer
    Column("quantization", Text, nullable=False),
    Column("parameters", BigInteger, nullable=False),
    Column("context", Integer, nullable=False),  # tokens: prompt plus output
    Column("vocab_size", Integer, nullable=False),
    Column("eos_token_id", Integer, nullable=False),
    Column("tokenizer", Text, nullable=False),  # artifact: a tokenizer.json
    Column("chat_template", Text),
    # of a fine-tuned one
    Column("owner_id", ForeignKey("owners.id", ondelete="CASCADE")),
    Column("job_id", Text),  # the fine-tune that made it
    Column("lineage", _optional),  # base, data, hyperparameters, code
    Column("base", Text),  # of an adapter: the name of the model under it
    Column("created_at", moment, nullable=False, server_default=_NOW),
    UniqueConstraint("name", "digest", "quantization"),
)

model_files = Table(
    "model_files",
    metadata,
    Column("version_id", ForeignKey("model_versions.id", ondelete="CASCADE"), primary_key=True),
    Column("path", Text, primary_key=True),  # in the model's folder
    Column("artifact", Text, nullable=False, index=True),
)
"""The folder of a model that was made here; of one from MODELS there are none."""

trainers = Table(
    "trainers",
    metadata,
    Column("name", Text, primary_key=True),
    Column("device", Text, nullable=False),  # cpu or cuda
    Column("precisions", ARRAY(Text), nullable=False),
    Column("refused", JSON, nullable=False),  # {adapter or precision: why this host cannot}
    Column("calibration", JSON, nullable=False),  # {precision: floating-point operations per second}
    Column("memory", BigInteger, nullable=False),  # bytes that a training may take
    Column("seen_at", moment, nullable=False, server_default=_NOW),
)

offers = Table(
    "offers",
    metadata,
    Column("worker", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("version_id", ForeignKey("model_versions.id", ondelete="CASCADE")),
    Column("reason", Text),  # why the worker cannot offer it
    Column("slots", Integer),  # the most sequences, and so beams, of one batch of this worker
    Column("seen_at", moment, nullable=False, server_default=_NOW),
    CheckConstraint("(version_id IS NULL) <> (reason IS NULL)", name="either"),
)
