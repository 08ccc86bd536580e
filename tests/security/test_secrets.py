"""Secrets: none that anybody would guess is taken, and none is written into a log."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import settings
from jobs.errors import BadSetting
from ops import passwords
from tests.conftest import ROOT

GUESSED = ["postgres", "password", "Password", "changeme", "secret", "penstock", "admin", "123456", "example"]


@pytest.mark.parametrize("password", GUESSED)
@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("DATABASE_URL", "postgresql://app:{}@db/penstock"),
        ("DATABASE_URL", "postgresql+psycopg://app@db/penstock?password={}"),
        ("REDIS_URL", "redis://:{}@redis:6379/0"),
        ("REDIS_URL", "rediss://app:{}@redis:6379/0"),
        ("REDIS_URL", "unix:///run/redis.sock?password={}"),
    ],
)
def test_a_password_that_everybody_tries_first_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, url: str, password: str
) -> None:
    monkeypatch.setenv(name, url.format(password))
    with pytest.raises(BadSetting, match=f"^{name} .*everybody tries first.*openssl rand"):
        settings.read()


def test_nor_is_one_that_is_the_user_s_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://Bob:bob@db/penstock")
    with pytest.raises(BadSetting, match="tries first"):
        settings.read()
    monkeypatch.setenv("DATABASE_URL", "postgresql://bob@db/penstock")  # a password file, or a certificate
    settings.read()


@pytest.mark.parametrize("module", ["worker.app", "jobs.sweeper", "web.wsgi", "stack.migrate"])
def test_no_process_starts_with_such_a_password(module: str, tmp_path: Path) -> None:
    env = os.environ | {
        "DATABASE_URL": "postgresql://penstock:penstock@127.0.0.1:1/penstock",
        "VAR_DIR": str(tmp_path),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-m", module],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert "everybody tries first" in done.stderr
    assert "penstock:penstock" not in done.stderr


def test_the_passwords_that_are_made_are_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("app", "postgres", "redis"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(passwords, "VOLUMES", tmp_path)
    monkeypatch.setattr(os, "chown", lambda *_: None)  # only root may
    passwords.make()
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path / "app"))
    made = settings.read()
    assert made.database_url == (tmp_path / "app" / "database_url").read_text()


LEAKING = """
import structlog, logging
from pydantic import BaseModel
from sqlalchemy import create_engine
from jobs import logs
logs.configure("worker", "INFO")
log = structlog.get_logger("penstock")
KEY = "sk-penstock-0123456789ab-" + "k" * 43
log.info("a key", key=KEY, many=[KEY], inside={"a": KEY})
log.warning(f"in the sentence: {KEY}")
logging.getLogger("a.library").warning("it sent %s", {"Authorization": "Bearer " + KEY})
log.info("others", webhook="whsec_" + "Q" * 32, hub="hf_" + "Q" * 34, url="redis://app:Q%2FQ@host/0")
log.info("two\\nlines", text='"}\\n{"event": "forged"}')
class Job(BaseModel):
    prompt: int
try:
    Job(prompt="the prompt QQQQ")
except ValueError as error:
    log.error("attempt crashed", exc_info=error)
try:
    raise ValueError("new row violates\\nDETAIL:  Failing row contains (1, the prompt QQQQ\\nand more QQQQ).")
except ValueError as error:
    log.error("attempt crashed", exc_info=error)
log.info("an error as a fact", error=ValueError("Bearer " + KEY))
"""


def test_no_line_of_a_log_holds_a_key_a_password_or_a_value() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEAKING], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert len(lines) == 8
    assert "forged" not in {line["event"] for line in lines}
    assert {line["process"] for line in lines} == {"worker"}
    assert "kkkk" not in done.stderr
    assert "QQQQ" not in done.stderr
    assert "Q%2FQ" not in done.stderr
    assert "ValidationError" in done.stderr, "what went wrong is told all the same"
    assert "sk-penstock-***" in done.stderr
