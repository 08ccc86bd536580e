"""training."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "trainers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("precisions", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("refused", postgresql.JSON(astext_type=sa.Text()), nullable=False),
        sa.Column("calibration", postgresql.JSON(astext_type=sa.Text()), nullable=False),
        sa.Column("memory", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_trainers")),
    )
    op.create_table(
        "model_files",
        sa.Column("version_id", sa.BigInteger(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("artifact", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"], ["model_versions.id"], name=op.f("fk_model_files_version_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("version_id", "path", name=op.f("pk_model_files")),
    )
    op.create_index(op.f("ix_model_files_artifact"), "model_files", ["artifact"], unique=False)
    op.create_table(
        "checkpoint_files",
        sa.Column("checkpoint_id", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("artifact", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["checkpoint_id"],
            ["checkpoints.id"],
            name=op.f("fk_checkpoint_files_checkpoint_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("checkpoint_id", "path", name=op.f("pk_checkpoint_files")),
    )
    op.create_index(op.f("ix_checkpoint_files_artifact"), "checkpoint_files", ["artifact"], unique=False)
    op.add_column(
        "checkpoints", sa.Column("best", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.add_column("model_versions", sa.Column("base", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("model_versions", "base")
    op.drop_column("checkpoints", "best")
    op.drop_index(op.f("ix_checkpoint_files_artifact"), table_name="checkpoint_files")
    op.drop_table("checkpoint_files")
    op.drop_index(op.f("ix_model_files_artifact"), table_name="model_files")
    op.drop_table("model_files")
    op.drop_table("trainers")
