"""Whoever can write to the broker cannot run code: what is no JSON is refused, and the process goes on."""

import base64
import json
import os
import pickle
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from jobs.database import Database
from jobs.queue import QUIET, Chore, QueueName, make_signals
from jobs.settings import Settings
from tests.conftest import ROOT, wait_for
from tests.security.test_models import Evil
from tests.web.conftest import Caller
from tests.web.things import upload

LIST = f"penstock:{QueueName.CLERK}"


@pytest.fixture
def clerk(settings: Settings, offered: Database, tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A running one, as `make up` starts it."""
    celery = [sys.executable, "-m", "celery", "--quiet", "--app", "web.clerk", "worker"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*celery, "--queues", QueueName.CLERK, "-n", "clerk@test", *QUIET],
            cwd=ROOT,
            env=os.environ | {"VAR_DIR": str(settings.var_dir), "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=log,
        )
    yield process
    process.terminate()
    process.wait(timeout=30)


def message(kind: str, body: bytes, task: str = Chore.VALIDATE) -> str:
    """An envelope as kombu writes it."""
    name = str(uuid.uuid4())
    properties: dict[str, Any] = {
        "correlation_id": name,
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": QueueName.CLERK},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": name,
    }
    headers = {"lang": "py", "task": task, "id": name, "root_id": name, "argsrepr": "()", "kwargsrepr": "{}"}
    envelope = {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "binary" if "json" not in kind else "utf-8",
        "content-type": kind,
        "headers": headers,
        "properties": properties,
    }
    return json.dumps(envelope)


def test_messages_that_are_no_json_run_nothing_and_the_clerk_goes_on(
    clerk: "subprocess.Popen[bytes]", caller: Caller, settings: Settings, tmp_path: Path
) -> None:
    mark = tmp_path / "run"
    evil = pickle.dumps(((Evil(mark),), {}, {}))
    attack = yaml.dump({"a": 1}).encode() + b"\n!!python/object/apply:os.system ['true']"
    sent = [
        message("application/x-python-serialize", evil),
        message("application/x-python-serialize", evil, task="builtins.eval"),
        message("application/x-yaml", attack),
        message("application/x-msgpack", b"\x81\xa1a\x01"),
        message("application/json", json.dumps([[str(mark)], {}, {}]).encode(), task="os.mkdir"),
        message(
            "application/json",
            json.dumps([[], {}, {"chord": "x" * 100}]).encode(),
            task="celery.backend_cleanup",
        ),
    ]
    with redis.Redis.from_url(settings.redis) as client:
        client.lpush(LIST, *sent)
        wait_for(lambda: client.llen(LIST) == 0, seconds=60)
        line = b'{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "d"}}\n'
        name = upload(caller, "batch", line)
        signals = make_signals(settings)
        signals.ring(Chore.VALIDATE)
        wait_for(lambda: caller.get(f"/v1/files/{name}").get_json()["status"] == "processed", seconds=60)
        signals.close()
    assert clerk.poll() is None
    assert not mark.exists()
