"""What tests/web runs, for those who attack it."""

from tests.web.conftest import (
    _shared_app,
    app,
    caller,
    desk,
    foreign_key,
    key,
    offered,
    report,
    stranger,
    tokenizer,
    worker,
)
from tests.web.test_foreign import foreign
from tests.web.test_gunicorn import server

__all__ = [
    "_shared_app",
    "app",
    "caller",
    "desk",
    "foreign",
    "foreign_key",
    "key",
    "offered",
    "report",
    "server",
    "stranger",
    "tokenizer",
    "worker",
]
