"""The tables, as SQLAlchemy sees them; `migrations/` makes them."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
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
_moment = DateTime(timezone=True)

owners = Table(
    "owners",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("created_at", _moment, nullable=False, server_default=_NOW),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("owner_id", ForeignKey("owners.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("prefix", Text, nullable=False, unique=True),  # finds the row; not secret
    Column("digest", LargeBinary, nullable=False),  # SHA-256 of the whole key
    Column("scopes", ARRAY(Text), nullable=False),
    Column("created_at", _moment, nullable=False, server_default=_NOW),
    Column("revoked_at", _moment),
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
    Column("turn", _moment, nullable=False),  # the claim's order: arrival plus what its class waits behind
    Column("available_at", _moment, nullable=False, server_default=_NOW),  # not before: retry backoff
    Column("attempt", Integer, nullable=False, server_default="0"),  # the fence; only ever grows
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("crashes", Integer, nullable=False, server_default="0"),
    Column("lease_until", _moment),
    Column("worker", Text),
    Column("cancel_requested_at", _moment),
    Column("stored", Boolean, nullable=False),  # false: gone once its caller was answered
    # json, not jsonb: it keeps every text that a tokenizer can write, NUL included, and the order of keys
    Column("request", JSON, nullable=False),  # what the resource echoes
    Column("input", JSON, nullable=False),  # what the worker needs
    Column("output", JSON),
    Column("error", JSON),
    Column("created_at", _moment, nullable=False, server_default=_NOW),
    Column("started_at", _moment),
    Column("finished_at", _moment),
    CheckConstraint(f"state IN ({', '.join(repr(str(s)) for s in State)})", name="state"),
    CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name="lease"),
    Index("ix_jobs_turn", "queue", "model", "turn", "seq", postgresql_where=text("state = 'queued'")),
    Index(
        "ix_jobs_suspects",
        "queue",
        "model",
        "turn",
        postgresql_where=text(f"state = 'queued' AND crashes >= {SUSPECT_AFTER}"),
    ),
    Index("ix_jobs_lease_until", "lease_until", postgresql_where=text("state = 'running'")),
    Index("ix_jobs_finished_at", "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
    Index("ix_jobs_unstored", "finished_at", postgresql_where=text("NOT stored")),
    Index("ix_jobs_owner_id_kind_seq", "owner_id", "kind", "seq"),
)

job_events = Table(
    "job_events",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("at", _moment, nullable=False, server_default=text("clock_timestamp()")),
    Column("attempt", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("code", Text),  # of the error, where there was one
    Column("worker", Text),
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
    Column("created_at", _moment, nullable=False, server_default=_NOW),
    UniqueConstraint("name", "digest", "quantization"),
)

offers = Table(
    "offers",
    metadata,
    Column("worker", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("version_id", ForeignKey("model_versions.id", ondelete="CASCADE")),
    Column("reason", Text),  # why the worker cannot offer it
    Column("slots", Integer),  # the most sequences, and so beams, of one batch of this worker
    Column("seen_at", _moment, nullable=False, server_default=_NOW),
    CheckConstraint("(version_id IS NULL) <> (reason IS NULL)", name="either"),
)
