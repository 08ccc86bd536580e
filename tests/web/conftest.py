"""The application on real services, with models in the catalog and a worker that only pretends."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import delete, func, select
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.trainers import BpeTrainer
from werkzeug.serving import make_server
from werkzeug.test import Client, TestResponse

from jobs import catalog, claims, execution, keys, lifecycle, tables, trainers
from jobs.artifacts import ArtifactStore
from jobs.attempts import ClaimedJob
from jobs.catalog import ModelVersion
from jobs.database import Database
from jobs.queue import QueueName, make_signals
from jobs.settings import Settings
from jobs.signals import ENDED
from jobs.tables import jobs
from jobs.trainers import Trainer
from web import create_app
from web.desk import Desk

CONTEXT = 64
VOCABULARY = 300
WRITER = "c0ffee" * 10 + "beef"
"""Digest of the weights with which the pretended worker writes: those of the starter."""
RECEIPT = {"model": "starter", "model_digest": WRITER, "quantization": "int8", "seed": 7}
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role not in ('user', 'assistant', 'system') %}{{ raise_exception('who?') }}{% endif %}"
    "<{{ message.role }}>{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A byte-level BPE whose token 0 ends a text."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(["def name(self, value): return value"] * 20, trainer)
    return made


@pytest.fixture
def offered(database: Database, settings: Settings, tokenizer: Tokenizer) -> Database:
    """A database whose catalog has two models and one that could not be had."""
    offer_models(database, settings, tokenizer)
    return database


def offer_models(database: Database, settings: Settings, tokenizer: Tokenizer) -> None:
    """Do what a worker does when it starts."""
    artifact = ArtifactStore(settings.artifacts).put(tokenizer.to_str().encode())
    versions = [_version("starter", artifact, None), _version("org/chat", artifact, TEMPLATE)]
    with database.transaction() as connection:
        catalog.offer(connection, "worker", versions, {"gpt2": "the Hub could not be reached."})


def _version(name: str, artifact: str, template: str | None) -> ModelVersion:
    return ModelVersion(
        name=name,
        digest=WRITER if name == "starter" else f"{hash(name) & 0xFFFFFFFFFFFFFFFF:064x}",
        quantization="int8",
        parameters=1234,
        context=CONTEXT,
        vocab_size=VOCABULARY,
        eos_token_id=0,
        tokenizer=artifact,
        chat_template=template,
        slots=8,
    )


@contextmanager
def opened(settings: Settings) -> Iterator[Flask]:
    """An application of its own, for a test that needs other settings or stops it."""
    app = create_app(settings)
    yield app
    app.extensions["penstock"].close()


@pytest.fixture(scope="session")
def _shared_app(services: Path) -> Iterator[Flask]:
    with opened(Settings(_env_file=None, var_dir=services)) as app:
        yield app


@pytest.fixture
def app(_shared_app: Flask, offered: Database) -> Flask:
    """The application, over an empty database; what it remembers does not matter to the next test."""
    return _shared_app


@pytest.fixture
def key(offered: Database) -> str:
    """A key of somebody."""
    return issue(offered, "somebody")


@pytest.fixture
def foreign_key(offered: Database) -> str:
    """A key of somebody else."""
    return issue(offered, "somebody else")


def issue(database: Database, owner: str) -> str:
    with database.transaction() as connection:
        return keys.issue(connection, owner)


class Caller:
    """A client with a key."""

    def __init__(self, app: Flask, key: str | None) -> None:
        self._client = Client(app, TestResponse)
        self._headers = {"Authorization": f"Bearer {key}"} if key is not None else {}

    def get(self, path: str) -> TestResponse:
        return self.send("GET", path)

    def post(self, path: str, **body: Any) -> TestResponse:
        return self.send("POST", path, data=json.dumps(body))

    def delete(self, path: str) -> TestResponse:
        return self.send("DELETE", path)

    def send(
        self, method: str, path: str, data: str | bytes | BytesIO | None = None, **headers: str | None
    ) -> TestResponse:
        """`headers` are written with underscores; a None leaves a default out."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        merged = {**self._headers, "Content-Type": "application/json", **given}
        kept = {name: value for name, value in merged.items() if value is not None}
        if isinstance(data, BytesIO):  # in chunks: nobody says how long it will be
            chunks = {"wsgi.input_terminated": True}
            return self._client.open(
                path, method=method, input_stream=data, headers=kept, environ_overrides=chunks
            )
        return self._client.open(path, method=method, data=data, headers=kept)


@pytest.fixture
def caller(app: Flask, key: str) -> Caller:
    """Somebody."""
    return Caller(app, key)


@pytest.fixture
def stranger(app: Flask, foreign_key: str) -> Caller:
    """Somebody else."""
    return Caller(app, foreign_key)


@pytest.fixture
def address(app: Flask) -> Iterator[str]:
    """The application behind a real socket."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def rows(database: Database) -> int:
    """How many jobs there are."""
    with database.transaction() as connection:
        return connection.execute(select(func.count()).select_from(jobs)).scalar_one()


def output(*texts: str, finish: str = "stop", prompt_tokens: int = 3) -> dict[str, Any]:
    """What a worker stores."""
    sequences = [{"text": text, "tokens": [1, 2], "finish_reason": finish} for text in texts]
    counts = {"prompt_tokens": prompt_tokens, "output_tokens": 2 * len(texts)}
    return {"sequences": sequences, **counts, "model_digest": WRITER, "receipt": RECEIPT}


Perform = Callable[[ClaimedJob], Any]


class FakeWorker:
    """Claims and settles as a worker does; `perform` stands for the model."""

    def __init__(self, settings: Settings) -> None:
        self._database = Database(settings.database, connections=1)
        self._signals = make_signals(settings)
        self._settings = settings
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self.speaks = True

    def claim(self) -> list[ClaimedJob]:
        """Take what there is."""
        with self._database.transaction() as connection:
            return [
                job
                for model in ("starter", "org/chat")
                for job in claims.claim(
                    connection, QueueName.GENERATE, model, "fake", self._settings.lease, 100
                )
            ]

    def settle(self, job: ClaimedJob, outcome: Any) -> None:
        """End one attempt with an output or an error."""
        ending = execution.ending(job, outcome, max_failures=1)
        with self._database.transaction() as connection:
            lifecycle.settle(connection, [ending])
        if self.speaks and not ending.again:
            self._signals.hint(ENDED, [job.claim.job_id])

    def one(self, outcome: Any) -> ClaimedJob:
        """Claim the one job that waits and end it."""
        (job,) = self.claim()
        self.settle(job, outcome)
        return job

    def start(self, perform: Perform) -> None:
        """Work in the background until the test ends."""
        self._thread = threading.Thread(target=self._work, args=(perform,))
        self._thread.start()

    def _work(self, perform: Perform) -> None:
        while not self._stopped.wait(0.01):
            for job in self.claim():
                self.settle(job, perform(job))

    def close(self) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        self._signals.close()
        self._database.close()


@pytest.fixture
def desk(settings: Settings, offered: Database) -> Iterator[Desk]:
    """What the clerk holds open."""
    made = Desk.open(settings)
    yield made
    made.close()


@pytest.fixture
def report(offered: Database) -> Iterator[Callable[..., None]]:
    """Let a trainer say what it can do."""

    def say(refused: dict[str, str] | None = None, memory: int = 2**40, **more: Any) -> None:
        known = {"device": "cpu", "precisions": ["bf16", "fp32"], "calibration": {}} | more
        with offered.transaction() as connection:
            trainers.report(connection, Trainer(name="t", refused=refused or {}, memory=memory, **known))

    yield say
    with offered.transaction() as connection:
        connection.execute(delete(tables.trainers))


@pytest.fixture
def worker(settings: Settings, offered: Database) -> Iterator[FakeWorker]:
    """A worker that does nothing until told."""
    made = FakeWorker(settings)
    yield made
    made.close()


def the_error(answer: Any, status: int, code: str | None) -> dict[str, Any]:
    """The error object of an answer, which is one and nothing else."""
    assert answer.status_code == status, answer.text
    assert set(answer.get_json()) == {"error"}
    error: dict[str, Any] = answer.get_json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert isinstance(error["message"], str)
    assert error["message"].endswith((".", "?"))
    assert "Traceback" not in answer.text
    assert answer.headers["x-request-id"].startswith("req_")
    return error
