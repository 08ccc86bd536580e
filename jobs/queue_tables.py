"""The tables beside `jobs` that say how its queues stand: whose turn it is, what waits, how fast it goes.

What they hold is advice: without it the order starts anew, and nothing is lost.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Integer,
    SmallInteger,
    Table,
    Text,
)

from jobs.tables import metadata, moment

tier_turns = Table(
    "tier_turns",
    metadata,
    Column("queue", Text, primary_key=True),
    Column("line", Text, primary_key=True),  # the model; empty where jobs of all models stand in one line
    Column("tier", SmallInteger, primary_key=True),
    # virtual times, in tokens over the tier's weight
    Column("start", Float, nullable=False),  # when its last claim began
    Column("finish", Float, nullable=False),  # when what it got so far ends
    Column("owners_start", Float, nullable=False),  # the same as `start` between the owners, in tokens
)

owner_turns = Table(
    "owner_turns",
    metadata,
    Column("queue", Text, primary_key=True),
    Column("line", Text, primary_key=True),
    Column("tier", SmallInteger, primary_key=True),
    Column("owner_id", ForeignKey("owners.id", ondelete="CASCADE"), primary_key=True),
    # virtual times, in tokens
    Column("start", Float, nullable=False),
    Column("finish", Float, nullable=False),
)

backlog = Table(
    "backlog",
    metadata,
    Column("queue", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("tier", SmallInteger, primary_key=True),
    Column("owner_id", ForeignKey("owners.id", ondelete="CASCADE"), primary_key=True),
    Column("jobs", Integer, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("first_seq", BigInteger, nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("oldest", moment, nullable=False),
    Column("soonest_deadline", moment),
    Column("measured_at", moment, nullable=False),
)

rates = Table(
    "rates",
    metadata,
    Column("queue", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("tokens_per_second", Float, nullable=False),  # of all who run at once
    Column("stream_tokens_per_second", Float, nullable=False),  # of one of them
    # an estimate times this holds for so many of a hundred jobs
    Column("late50", Float, nullable=False),
    Column("late90", Float, nullable=False),
    Column("updated_at", moment, nullable=False),
)

predictions = Table(
    "predictions",
    metadata,
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),  # one of many
    Column("seconds", Float, nullable=False),  # that it was expected to take, before what `rates` adds
    Column("made_at", moment, nullable=False),
)
"""What was said of some jobs, until their ends show how true it was."""
