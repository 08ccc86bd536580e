"""A stack of its own for the clients, with an owner for each of their versions, and what they found."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from openai import OpenAI
from sqlalchemy import insert

from jobs import catalog, finetunes, keys, records
from jobs.database import Database
from jobs.keys import Limits
from jobs.tables import checkpoints, model_versions, offers
from tests.conformance.versions import pythons
from tests.conftest import ROOT, wait_for
from tests.end_to_end.conftest import CHAT_TEMPLATE, RunningStack, start_stack

LINE = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
SECONDS = 120  # for all scenarios of one version


# not for the session: the end-to-end tests start a stack too
@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A stack that may send webhooks to this machine; `lab/chatty:v1` has a chat template."""
    folder = tmp_path_factory.mktemp("conformance")
    shutil.copytree(ROOT / "models" / "starter", folder / "chatty")
    (folder / "chatty" / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    models = f"starter=models/starter,lab/chatty:v1={folder / 'chatty'}"
    running = start_stack(folder / "var", MODELS=models, WEBHOOK_ALLOW_PRIVATE="1", SLOTS="64")
    yield running
    assert running.stop() == 0


@dataclass
class Clients:
    """One process for each version of the client, all at once."""

    running: dict[str, "subprocess.Popen[str]"]
    found: dict[str, dict[str, Any]] = field(default_factory=dict)

    def outcomes(self, version: str) -> dict[str, str | None]:
        """What each scenario of a version said: nothing, or its traceback."""
        if version not in self.found:
            printed, complaints = self.running[version].communicate(timeout=SECONDS)
            assert printed, complaints
            self.found[version] = json.loads(printed)
            assert self.found[version]["version"] == version
        outcomes: dict[str, str | None] = self.found[version]["outcomes"]
        return outcomes


@pytest.fixture(scope="package")
def clients(stack: RunningStack) -> Iterator[Clients]:
    """The scenarios, running in every environment."""
    database = Database(stack.settings.database, connections=1)
    started: dict[str, subprocess.Popen[str]] = {}
    for version, python in pythons().items():
        assert python.exists(), f"openai {version} is not installed. Run make .venv-openai/{version}/ready"
        started[version] = process = subprocess.Popen(
            [str(python), "-m", "tests.conformance.scenarios"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(prepare(stack, database, version)))
        process.stdin.close()
        process.stdin = None
    database.close()
    yield Clients(started)
    for process in started.values():
        process.kill()
        process.communicate()


def prepare(stack: RunningStack, database: Database, version: str) -> dict[str, Any]:
    """What a version's scenarios are given: keys of its own, a fine-tune that has run, a model to delete."""
    with database.transaction() as connection:
        key = keys.issue(connection, f"user of {version}")
        others = {
            "stranger": keys.issue(connection, f"stranger to {version}"),
            "trains": keys.issue(connection, f"user of {version}", ["training"]),
            "slow": keys.issue(connection, f"user of {version}", limits=Limits(requests_per_minute=2)),
        }
        identity = keys.identify(connection, key)
        assert identity is not None
    fine_tune = trained(stack, database, key, identity.owner_id)
    fine_tuned = f"ft:starter:org:v{version}:1/2"
    with database.transaction() as connection:
        values = {
            "digest": "0" * 64,
            "quantization": "int8",
            "parameters": 1,
            "context": 64,
            "vocab_size": 300,
            "eos_token_id": 0,
            "tokenizer": "0" * 64,
        }
        made = insert(model_versions).values(
            name=fine_tuned, owner_id=identity.owner_id, job_id=fine_tune, **values
        )
        row = connection.execute(made.returning(model_versions.c.id)).scalar_one()
        offer = {"worker": "elsewhere", "name": fine_tuned, "version_id": row, "slots": 1}
        connection.execute(insert(offers).values(**offer))
        loading = {"worker": f"elsewhere {version}", "name": "soon", "reason": catalog.LOADING}
        connection.execute(insert(offers).values(**loading))
    return {"url": stack.url, "key": key, "keys": others, "fine_tune": fine_tune, "fine_tuned": fine_tuned}


def trained(stack: RunningStack, database: Database, key: str, owner_id: int) -> str:
    """A fine-tune with what a trainer would have written of it."""
    with OpenAI(base_url=f"{stack.url}/v1", api_key=key) as client:
        file = client.files.create(file=("train.jsonl", LINE * 20), purpose="fine-tune")
        job = client.fine_tuning.jobs.create(model="starter", training_file=file.id)
        client.fine_tuning.jobs.cancel(job.id)
        wait_for(lambda: client.fine_tuning.jobs.retrieve(job.id).status == "cancelled")
    with database.transaction() as connection:
        record = records.find(connection, owner_id, finetunes.KIND, job.id)
        assert record is not None
        for step in (1, 2):
            data = {"step": step, "total_steps": 2, "train_loss": 1 / step}
            finetunes.say(connection, record, f"Step {step}/2", data=data)
            row = {
                "id": f"ftckpt_{job.id[6:]}{step}",
                "job_id": job.id,
                "step": step,
                "model": f"ft:starter:org::{job.id}:ckpt-step-{step}",
                "metrics": {"step": step, "train_loss": 1 / step},
            }
            connection.execute(insert(checkpoints).values(**row))
    return job.id
