"""wire."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("owner_id", sa.BigInteger(), nullable=False),
        sa.Column("api_key_id", sa.BigInteger(), nullable=True),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("input_file_id", sa.Text(), nullable=False),
        sa.Column("completion_window", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("metadata", postgresql.JSON(astext_type=sa.Text()), nullable=False),
        sa.Column("output_expires_after", sa.Integer(), nullable=True),
        sa.Column("errors", postgresql.JSON(astext_type=sa.Text()), nullable=True),
        sa.Column("total", sa.Integer(), server_default="0", nullable=False),
        sa.Column("counts", postgresql.JSON(astext_type=sa.Text()), nullable=True),
        sa.Column("usage", postgresql.JSON(astext_type=sa.Text()), nullable=True),
        sa.Column("has_lines", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("output_file_id", sa.Text(), nullable=True),
        sa.Column("error_file_id", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("in_progress_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finalizing_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("failed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expired_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancelling_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancelled_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "status IN ('validating', 'failed', 'in_progress', 'finalizing', 'completed', 'expired', "
            "'cancelling', 'cancelled')",
            name=op.f("ck_batches_status"),
        ),
        sa.ForeignKeyConstraint(
            ["owner_id"], ["owners.id"], name=op.f("fk_batches_owner_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
    )
    op.create_index(op.f("ix_batches_input_file_id"), "batches", ["input_file_id"], unique=False)
    op.create_index(
        "ix_batches_open",
        "batches",
        ["seq"],
        unique=False,
        postgresql_where=sa.text("status IN ('validating', 'in_progress', 'finalizing', 'cancelling')"),
    )
    op.create_index(
        "ix_batches_has_lines",
        "batches",
        ["seq"],
        unique=False,
        postgresql_where=sa.text("has_lines"),
    )
    op.create_index("ix_batches_owner_id_seq", "batches", ["owner_id", "seq"], unique=False)
    op.create_table(
        "files",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("owner_id", sa.BigInteger(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("artifact", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("errors", postgresql.JSON(astext_type=sa.Text()), nullable=True),
        sa.Column("status_details", sa.Text(), nullable=True),
        sa.Column("lines", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("status IN ('uploaded', 'processed', 'error')", name=op.f("ck_files_status")),
        sa.ForeignKeyConstraint(
            ["owner_id"], ["owners.id"], name=op.f("fk_files_owner_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_files")),
    )
    op.create_table(
        "loose_artifacts",
        sa.Column("artifact", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("artifact", name=op.f("pk_loose_artifacts")),
    )
    op.create_index(op.f("ix_loose_artifacts_since"), "loose_artifacts", ["since"], unique=False)
    op.create_index(op.f("ix_files_artifact"), "files", ["artifact"], unique=False)
    op.create_index(
        "ix_files_expires_at",
        "files",
        ["expires_at"],
        unique=False,
        postgresql_where=sa.text("expires_at IS NOT NULL"),
    )
    op.create_index("ix_files_owner_id_seq", "files", ["owner_id", "seq"], unique=False)
    op.create_index(
        "ix_files_unvalidated",
        "files",
        ["seq"],
        unique=False,
        postgresql_where=sa.text("status = 'uploaded'"),
    )
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("owner_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("event_types", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("old_secret", sa.Text(), nullable=True),
        sa.Column("old_secret_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["owner_id"], ["owners.id"], name=op.f("fk_webhook_endpoints_owner_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_endpoints")),
    )
    op.create_index(op.f("ix_webhook_endpoints_owner_id"), "webhook_endpoints", ["owner_id"], unique=False)
    op.create_table(
        "batch_refusals",
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("custom_id", sa.Text(), nullable=False),
        sa.Column("status_code", sa.Integer(), nullable=False),
        sa.Column("error", postgresql.JSON(astext_type=sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["batches.id"], name=op.f("fk_batch_refusals_batch_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("batch_id", "line", name=op.f("pk_batch_refusals")),
    )
    op.create_table(
        "creates",
        sa.Column("resource_id", sa.Text(), nullable=False),
        sa.Column("api_key_id", sa.BigInteger(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("retries", sa.Integer(), nullable=False),
        sa.Column("waiters", sa.Integer(), server_default="1", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["api_key_id"], ["api_keys.id"], name=op.f("fk_creates_api_key_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("resource_id", name=op.f("pk_creates")),
    )
    op.create_index("ix_creates_api_key_id_digest", "creates", ["api_key_id", "digest"], unique=False)
    op.create_index("ix_creates_created_at", "creates", ["created_at"], unique=False)
    op.create_index(
        "uq_creates_api_key_id_idempotency_key",
        "creates",
        ["api_key_id", "idempotency_key"],
        unique=True,
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("owner_id", sa.BigInteger(), nullable=False),
        sa.Column("endpoint_id", sa.Text(), nullable=True),
        sa.Column("url", sa.Text(), nullable=True),
        sa.Column("api_key_id", sa.BigInteger(), nullable=True),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("resource_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.CheckConstraint("(endpoint_id IS NULL) <> (url IS NULL)", name=op.f("ck_outbox_target")),
        sa.ForeignKeyConstraint(
            ["endpoint_id"], ["webhook_endpoints.id"], name=op.f("fk_outbox_endpoint_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["owner_id"], ["owners.id"], name=op.f("fk_outbox_owner_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
    )
    op.create_index("ix_outbox_created_at", "outbox", ["created_at"], unique=False)
    op.create_index(op.f("ix_outbox_endpoint_id"), "outbox", ["endpoint_id"], unique=False)
    op.create_index(
        "ix_outbox_due_at", "outbox", ["due_at"], unique=False, postgresql_where=sa.text("due_at IS NOT NULL")
    )
    op.create_table(
        "usage",
        sa.Column("api_key_id", sa.BigInteger(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("jobs", sa.BigInteger(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("worker_seconds", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["api_key_id"], ["api_keys.id"], name=op.f("fk_usage_api_key_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("api_key_id", "day", name=op.f("pk_usage")),
    )
    op.create_table(
        "checkpoints",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("metrics", postgresql.JSON(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_checkpoints_job_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_checkpoints")),
        sa.UniqueConstraint("job_id", "step", name=op.f("uq_checkpoints_job_id_step")),
    )
    op.create_index(op.f("ix_checkpoints_job_id"), "checkpoints", ["job_id"], unique=False)
    op.add_column("api_keys", sa.Column("requests_per_minute", sa.Integer(), nullable=True))
    op.add_column("api_keys", sa.Column("tokens_per_minute", sa.Integer(), nullable=True))
    op.add_column("api_keys", sa.Column("queued_jobs", sa.Integer(), nullable=True))
    op.add_column("api_keys", sa.Column("concurrent_jobs", sa.Integer(), nullable=True))
    op.add_column("job_events", sa.Column("level", sa.Text(), nullable=True))
    op.add_column("job_events", sa.Column("message", sa.Text(), nullable=True))
    op.add_column("job_events", sa.Column("data", postgresql.JSON(astext_type=sa.Text()), nullable=True))
    op.create_index("ix_job_events_job_id_id", "job_events", ["job_id", "id"], unique=False)
    op.drop_index(op.f("ix_job_events_job_id"), table_name="job_events")
    op.add_column("jobs", sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("jobs", sa.Column("api_key_id", sa.BigInteger(), nullable=True))
    op.add_column("jobs", sa.Column("batch_id", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("line", sa.Integer(), nullable=True))
    op.add_column("jobs", sa.Column("custom_id", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("width", sa.Integer(), server_default="1", nullable=False))
    op.add_column("jobs", sa.Column("webhook", postgresql.JSON(astext_type=sa.Text()), nullable=True))
    op.add_column("jobs", sa.Column("conversation", postgresql.JSON(astext_type=sa.Text()), nullable=True))
    op.add_column("jobs", sa.Column("progress", postgresql.JSON(astext_type=sa.Text()), nullable=True))
    op.create_index(
        "ix_jobs_api_key_id_state",
        "jobs",
        ["api_key_id", "state"],
        unique=False,
        postgresql_where=sa.text("batch_id IS NULL AND state IN ('queued', 'running')"),
    )
    op.create_index(
        "ix_jobs_batch_id_line",
        "jobs",
        ["batch_id", "line"],
        unique=True,
        postgresql_where=sa.text("batch_id IS NOT NULL"),
    )
    op.create_index(
        "ix_jobs_batch_id_state",
        "jobs",
        ["batch_id", "state"],
        unique=False,
        postgresql_where=sa.text("batch_id IS NOT NULL"),
    )
    op.create_foreign_key(
        op.f("fk_jobs_batch_id"), "jobs", "batches", ["batch_id"], ["id"], ondelete="CASCADE"
    )
    op.add_column("model_versions", sa.Column("owner_id", sa.BigInteger(), nullable=True))
    op.add_column("model_versions", sa.Column("job_id", sa.Text(), nullable=True))
    op.add_column(
        "model_versions", sa.Column("lineage", postgresql.JSON(astext_type=sa.Text()), nullable=True)
    )
    op.create_foreign_key(
        op.f("fk_model_versions_owner_id"),
        "model_versions",
        "owners",
        ["owner_id"],
        ["id"],
        ondelete="CASCADE",
    )


def downgrade() -> None:
    op.drop_constraint(op.f("fk_model_versions_owner_id"), "model_versions", type_="foreignkey")
    op.drop_column("model_versions", "lineage")
    op.drop_column("model_versions", "job_id")
    op.drop_column("model_versions", "owner_id")
    op.drop_constraint(op.f("fk_jobs_batch_id"), "jobs", type_="foreignkey")
    op.drop_index(
        "ix_jobs_batch_id_state", table_name="jobs", postgresql_where=sa.text("batch_id IS NOT NULL")
    )
    op.drop_index(
        "ix_jobs_batch_id_line", table_name="jobs", postgresql_where=sa.text("batch_id IS NOT NULL")
    )
    op.drop_index(
        "ix_jobs_api_key_id_state",
        table_name="jobs",
        postgresql_where=sa.text("batch_id IS NULL AND state IN ('queued', 'running')"),
    )
    op.drop_column("jobs", "progress")
    op.drop_column("jobs", "conversation")
    op.drop_column("jobs", "webhook")
    op.drop_column("jobs", "width")
    op.drop_column("jobs", "custom_id")
    op.drop_column("jobs", "line")
    op.drop_column("jobs", "batch_id")
    op.drop_column("jobs", "api_key_id")
    op.drop_column("jobs", "paused_at")
    op.create_index(op.f("ix_job_events_job_id"), "job_events", ["job_id"], unique=False)
    op.drop_index("ix_job_events_job_id_id", table_name="job_events")
    op.drop_column("job_events", "data")
    op.drop_column("job_events", "message")
    op.drop_column("job_events", "level")
    op.drop_column("api_keys", "concurrent_jobs")
    op.drop_column("api_keys", "queued_jobs")
    op.drop_column("api_keys", "tokens_per_minute")
    op.drop_column("api_keys", "requests_per_minute")
    op.drop_index(op.f("ix_checkpoints_job_id"), table_name="checkpoints")
    op.drop_table("checkpoints")
    op.drop_table("usage")
    op.drop_index("ix_outbox_due_at", table_name="outbox", postgresql_where=sa.text("due_at IS NOT NULL"))
    op.drop_index(op.f("ix_outbox_endpoint_id"), table_name="outbox")
    op.drop_index("ix_outbox_created_at", table_name="outbox")
    op.drop_table("outbox")
    op.drop_index(
        "uq_creates_api_key_id_idempotency_key",
        table_name="creates",
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.drop_index("ix_creates_created_at", table_name="creates")
    op.drop_index("ix_creates_api_key_id_digest", table_name="creates")
    op.drop_table("creates")
    op.drop_table("batch_refusals")
    op.drop_index(op.f("ix_webhook_endpoints_owner_id"), table_name="webhook_endpoints")
    op.drop_table("webhook_endpoints")
    op.drop_index("ix_files_unvalidated", table_name="files", postgresql_where=sa.text("status = 'uploaded'"))
    op.drop_index("ix_files_owner_id_seq", table_name="files")
    op.drop_index(
        "ix_files_expires_at", table_name="files", postgresql_where=sa.text("expires_at IS NOT NULL")
    )
    op.drop_index(op.f("ix_files_artifact"), table_name="files")
    op.drop_index(op.f("ix_loose_artifacts_since"), table_name="loose_artifacts")
    op.drop_table("loose_artifacts")
    op.drop_table("files")
    op.drop_index("ix_batches_owner_id_seq", table_name="batches")
    op.drop_index("ix_batches_has_lines", table_name="batches", postgresql_where=sa.text("has_lines"))
    op.drop_index(
        "ix_batches_open",
        table_name="batches",
        postgresql_where=sa.text("status IN ('validating', 'in_progress', 'finalizing', 'cancelling')"),
    )
    op.drop_index(op.f("ix_batches_input_file_id"), table_name="batches")
    op.drop_table("batches")
