"""A worker's threads around one engine, and the door to its queue: all is real but the network."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from tokenizers import Tokenizer

from jobs import submission
from jobs.database import Database
from jobs.queue import make_signals
from jobs.settings import Settings
from jobs.states import State
from tests.conftest import wait_for
from tests.jobs import samples
from tests.worker.lanes import FakeModel, make_lane, serve
from worker.device import Device
from worker.engine import Engine
from worker.heartbeat import Heartbeat
from worker.intake import Intake
from worker.lanes import Lane
from worker.roster import Roster

LEASE, EVERY = timedelta(seconds=5), timedelta(seconds=1)
SLOTS = 4


@dataclass
class Bench:
    """A worker's threads around one engine, and the door to its queue."""

    database: Database
    owner: int
    busy: threading.Event
    roster: Roster
    lane: Lane
    engine: Engine
    intake: Intake
    heartbeat: Heartbeat
    device: Device
    threads: list[threading.Thread] = field(default_factory=list)
    gates: list[threading.Semaphore] = field(default_factory=list)

    def submit(
        self,
        name: str,
        prompts: list[Any] | None = None,
        model: str = samples.MODEL,
        task: dict[str, Any] | None = None,
        **sampling: Any,
    ) -> None:
        whole = {"prompts": prompts or ["hello"]} | (task or {})
        self.submit_at_once({name: model}, whole, **sampling)

    def submit_at_once(
        self, models: dict[str, str], task: dict[str, Any], width: int = 1, **sampling: Any
    ) -> None:
        asked = {"max_tokens": 8, "seed": 1, "ignore_eos": True} | sampling
        with self.database.transaction() as connection:
            for name, model in models.items():
                new = samples.new(self.owner, name, input=task | {"sampling": asked})
                submission.submit(connection, replace(new, model=model, width=width))
        self.intake.wake()

    def said(self, name: str) -> Any:
        row = self.ended(name)
        assert row.state == State.SUCCEEDED, row.error
        return row.output

    def start(self, target: Callable[..., object], *arguments: Any) -> None:
        self.threads.append(threading.Thread(target=target, args=arguments, daemon=True))
        self.threads[-1].start()

    def state(self, name: str) -> State:
        return State(samples.row(self.database, name).state)

    def ended(self, name: str) -> Any:
        wait_for(lambda: self.state(name) not in {State.QUEUED, State.RUNNING})
        return samples.row(self.database, name)


@contextmanager
def working(
    database: Database, owner: int, settings: Settings, tokenizer: Tokenizer, model: Any = None
) -> Iterator[Bench]:
    """Intake and device run; the heartbeat beats when a test says so."""
    busy, signals = threading.Event(), make_signals(settings)
    roster = Roster(settings, database, busy)
    engine = Engine(model or FakeModel(), tokenizer, SLOTS, token_budget=32)
    lane = serve(roster, make_lane(samples.MODEL, tokenizer, busy, engine))
    intake = Intake(database, signals, roster, "w", LEASE, max_failures=2)
    roster._changed = intake.wake
    device = Device(busy)
    pulse = partial(device.pulse, roster.residents)
    heartbeat = Heartbeat(database, intake, roster, LEASE, EVERY, pulse)
    made = Bench(database, owner, busy, roster, lane, engine, intake, heartbeat, device)
    made.start(device.run, roster.residents, intake.finish, intake.fail)
    made.start(intake.run)
    yield made
    for gate in made.gates:
        gate.release(1000)
    heartbeat.stop()
    intake.stop(timedelta(0))
    made.device.stop()
    for thread in made.threads:
        thread.join(timeout=10)
    signals.close()


def slow_down(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Let the engine step only when the test releases one; at most 10 s late, so that no test hangs."""
    gate, forward = threading.Semaphore(0), bench.engine.model.forward

    def wait_then_forward(rows: Any) -> Any:
        gate.acquire(timeout=10)
        return forward(rows)

    monkeypatch.setattr(bench.engine.model, "forward", wait_then_forward)
    bench.gates.append(gate)
    return gate
