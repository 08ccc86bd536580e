"""queueing: classes, fair turns, deadlines, and what is measured of the queues."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_QUEUED = "state = 'queued'"


def upgrade() -> None:
    for column in (
        sa.Column("tier", sa.SmallInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("priority", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("tokens", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("deadline", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reached", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("reached_at_death", sa.Integer(), server_default=sa.text("0"), nullable=False),
    ):
        op.add_column("jobs", column)
    op.execute(
        "UPDATE jobs SET tier = CASE WHEN batch_id IS NOT NULL THEN 2 ELSE 0 END"
        " WHERE state = 'queued' AND (batch_id IS NOT NULL OR turn < created_at + interval '5 seconds')"
    )
    op.drop_index(op.f("ix_jobs_suspects"), table_name="jobs")
    op.drop_index(op.f("ix_jobs_turn"), table_name="jobs")
    op.drop_column("jobs", "turn")
    op.create_index(
        op.f("ix_jobs_suspects"),
        "jobs",
        ["queue", "model", "seq"],
        postgresql_where=sa.text("state = 'queued' AND crashes >= 2"),
    )
    op.create_index(
        op.f("ix_jobs_queue"),
        "jobs",
        ["queue", "model", "tier", "owner_id", sa.text("priority DESC"), "seq"],
        postgresql_include=["tokens"],
        postgresql_where=sa.text(_QUEUED),
    )
    op.create_index(
        op.f("ix_jobs_deadline"),
        "jobs",
        ["deadline"],
        postgresql_where=sa.text("state = 'queued' AND deadline IS NOT NULL"),
    )
    # rows pass through the queue quickly, and its index should not fill with those that are gone
    op.execute("ALTER TABLE jobs SET (autovacuum_vacuum_scale_factor = 0.02)")
    _create_turns()
    _create_measures()


def _create_turns() -> None:
    op.create_table(
        "tier_turns",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("line", sa.Text(), nullable=False),
        sa.Column("tier", sa.SmallInteger(), nullable=False),
        sa.Column("start", sa.Float(), nullable=False),
        sa.Column("finish", sa.Float(), nullable=False),
        sa.Column("owners_start", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("queue", "line", "tier", name=op.f("pk_tier_turns")),
    )
    op.create_table(
        "owner_turns",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("line", sa.Text(), nullable=False),
        sa.Column("tier", sa.SmallInteger(), nullable=False),
        sa.Column("owner_id", sa.BigInteger(), nullable=False),
        sa.Column("start", sa.Float(), nullable=False),
        sa.Column("finish", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["owner_id"], ["owners.id"], name=op.f("fk_owner_turns_owner_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("queue", "line", "tier", "owner_id", name=op.f("pk_owner_turns")),
    )


def _create_measures() -> None:
    op.create_table(
        "backlog",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("tier", sa.SmallInteger(), nullable=False),
        sa.Column("owner_id", sa.BigInteger(), nullable=False),
        sa.Column("jobs", sa.Integer(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("first_seq", sa.BigInteger(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("oldest", sa.DateTime(timezone=True), nullable=False),
        sa.Column("soonest_deadline", sa.DateTime(timezone=True), nullable=True),
        sa.Column("measured_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["owner_id"], ["owners.id"], name=op.f("fk_backlog_owner_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("queue", "model", "tier", "owner_id", name=op.f("pk_backlog")),
    )
    op.create_table(
        "rates",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("tokens_per_second", sa.Float(), nullable=False),
        sa.Column("stream_tokens_per_second", sa.Float(), nullable=False),
        sa.Column("late50", sa.Float(), nullable=False),
        sa.Column("late90", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("queue", "model", name=op.f("pk_rates")),
    )
    op.create_table(
        "predictions",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_predictions_job_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_predictions")),
    )


def downgrade() -> None:
    for table in ("predictions", "rates", "backlog", "owner_turns", "tier_turns"):
        op.drop_table(table)
    op.execute("ALTER TABLE jobs RESET (autovacuum_vacuum_scale_factor)")
    op.drop_index(op.f("ix_jobs_deadline"), table_name="jobs")
    op.drop_index(op.f("ix_jobs_queue"), table_name="jobs")
    op.drop_index(op.f("ix_jobs_suspects"), table_name="jobs")
    op.add_column("jobs", sa.Column("turn", sa.DateTime(timezone=True), nullable=True))
    op.execute("UPDATE jobs SET turn = created_at")
    op.alter_column("jobs", "turn", nullable=False)
    op.create_index(
        op.f("ix_jobs_suspects"),
        "jobs",
        ["queue", "model", "turn"],
        postgresql_where=sa.text("state = 'queued' AND crashes >= 2"),
    )
    op.create_index(
        op.f("ix_jobs_turn"),
        "jobs",
        ["queue", "model", "turn", "seq"],
        postgresql_where=sa.text(_QUEUED),
    )
    for column in ("reached_at_death", "reached", "deadline", "tokens", "priority", "tier"):
        op.drop_column("jobs", column)
