"""A model of a job's life in plain Python, and random histories of workers and clients it must agree with."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import accumulate, pairwise
from types import ModuleType
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, func, select, update

from jobs import submission
from jobs.attempts import Claim, ClaimedJob, Ending, Tier
from jobs.database import Database
from jobs.errors import InvalidPrompt, JobError, OutOfMemory, WorkerStopping
from jobs.states import FINAL, TRANSITIONS, State
from jobs.tables import job_events, jobs
from tests.jobs.samples import LEASE, MODEL, QUEUE, new

EXAMPLES = int(os.environ.get("LIFECYCLE_EXAMPLES", "0"))
"""0: the same short run every time, as CI wants it. More: that many new random histories."""

PROFILE = settings(
    max_examples=EXAMPLES or 30,
    stateful_step_count=50 if EXAMPLES else 30,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    print_blob=bool(EXAMPLES),
    suppress_health_check=list(HealthCheck),
)
Move = tuple[str, int, str | None, str | None]
"""State, attempt, code of the error, worker."""

_WIDTHS = (1, 3, 1, 2)  # of the first job and those after it
_FAR = timedelta(hours=1)
_ENDS: dict[str, JobError | None] = {
    "success": None,
    "retryable": OutOfMemory("no room"),
    "fatal": InvalidPrompt("too long"),
    "stopping": WorkerStopping("stopping"),
}
_HOWS = ["stopping", "retryable", "stopping", "retryable", "success", "fatal"]


@dataclass(frozen=True)
class Rooms:
    """The modules that are tried."""

    lifecycle: ModuleType
    claims: ModuleType


@dataclass
class Expected:
    """What must be true of one job."""

    turn: tuple[int, int]  # priority and number; who has less goes first
    width: int = 1
    state: State = State.QUEUED
    attempt: int = 0
    failures: int = 0
    crashes: int = 0
    reached: int = 0  # the most tokens that an attempt had
    reached_at_death: int = 0
    wanted: bool = True
    due: bool = True
    expired: bool = False
    worker: str | None = None
    output: dict[str, Any] | None = None
    code: str | None = None
    moves: list[Move] = field(default_factory=list)

    def move(self, state: State, code: str | None = None) -> None:
        self.state, self.expired = state, False
        self.moves.append((state, self.attempt, code, self.worker))

    def die(self) -> State:
        """Its worker has; returns where it goes. Who got further than ever is charged with this one alone."""
        self.crashes = 1 if self.reached > self.reached_at_death else self.crashes + 1
        self.reached_at_death = self.reached
        to = State.CANCELLED if not self.wanted else State.FAILED if self.crashes >= 3 else State.QUEUED
        self.code = {State.CANCELLED: None, State.FAILED: "poisoned"}.get(to, self.code)
        self.due = True
        self.move(to, "poisoned" if to is State.FAILED else None)
        return to


def _ending(claim: Claim, how: str) -> Ending:
    error = _ENDS[how]
    output = {"by": [claim.job_id, claim.attempt]} if error is None else None
    return Ending(claim, output, error, again=how in ("retryable", "stopping"))


@dataclass(frozen=True)
class Seen:
    """One look at the database."""

    rows: dict[str, Any]
    moves: dict[str, list[Move]]


class Lifecycle(RuleBasedStateMachine):
    """Clients, workers, a sweeper and the clock, in any order, over a few jobs."""

    names = Bundle("names")
    claims = Bundle("claims")
    workers = st.sampled_from(["w1", "w2"])
    priorities = st.lists(st.sampled_from([1, 0]), min_size=1, max_size=2)
    hows = st.sampled_from(_HOWS)

    def __init__(self, database: Database, owner: int, rooms: Rooms) -> None:
        super().__init__()
        self.database, self.owner = database, owner
        self.lifecycle, self.queue = rooms.lifecycle, rooms.claims
        self.jobs: dict[str, Expected] = {}
        self.issued: set[Claim] = set()
        self.renewed: set[str] = set()  # jobs whose lease this step had to change
        with database.transaction() as connection:
            connection.execute(delete(jobs))
        self.seen = Seen({}, {})

    # ---- what clients do ----

    @initialize(target=names, priorities=priorities)
    def begin(self, priorities: list[int]) -> Any:
        return self.submit(priorities)

    @precondition(lambda self: len(self.jobs) < 5)
    @rule(target=names, priorities=priorities)
    def submit(self, priorities: list[int]) -> Any:
        names = [f"job{len(self.jobs) + n}" for n in range(len(priorities))]
        with self.database.transaction() as connection:
            for name, priority in zip(names, priorities, strict=True):
                width = _WIDTHS[len(self.jobs) % len(_WIDTHS)]
                asked = new(self.owner, name, Tier.STANDARD, {"prompt": name})
                submission.submit(connection, replace(asked, width=width, priority=priority))
                self.jobs[name] = Expected((-priority, len(self.jobs)), width)
                self.jobs[name].move(State.QUEUED)
        return multiple(*names)

    @rule(name=names)
    def request_cancel(self, name: str) -> None:
        job = self.jobs[name]
        with self.database.transaction() as connection:
            assert self.lifecycle.request_cancel(connection, name, self.owner + 1) is None, "a stranger"
            assert self.lifecycle.request_cancel(connection, name, self.owner) == job.state
        if job.state not in FINAL:
            job.wanted = False
        if job.state is State.QUEUED:
            job.code = None
            job.move(State.CANCELLED)

    # ---- what workers do ----

    @rule(target=claims, worker=workers, slots=st.integers(1, 4), idle=st.booleans())
    def claim(self, worker: str, slots: int, idle: bool) -> Any:
        suspects = self._due(suspects=True)
        with self.database.transaction() as connection:
            assert self.queue.suspect_waits(connection, QUEUE, MODEL) == bool(suspects)
            if idle and suspects:
                taken = self.queue.claim_suspect(connection, QUEUE, MODEL, worker, LEASE)
                return self._taken(taken, suspects[:1], worker)
            taken = self.queue.claim(connection, QUEUE, MODEL, worker, LEASE, slots)
            return self._taken(taken, self._fitting(self._due(suspects=False), slots), worker)

    @precondition(lambda self: self.issued)
    @rule(held=st.lists(claims, min_size=1, max_size=4), said=st.integers(0, 3))
    def heartbeat(self, held: list[Claim], said: int = 0) -> None:
        owned = {claim for claim in held if self._owns(claim)}
        reached = dict.fromkeys(held, said)
        with self.database.transaction() as connection:
            lost, unwanted = self.lifecycle.heartbeat(connection, held, LEASE, reached)
        assert lost == set(held) - owned
        assert unwanted == {claim for claim in owned if not self.jobs[claim.job_id].wanted}
        for claim in owned:
            job = self.jobs[claim.job_id]
            job.expired, job.reached = False, max(job.reached, said)
            self.renewed.add(claim.job_id)

    @precondition(lambda self: self.issued)
    @rule(held=st.lists(claims, min_size=1, max_size=4))
    def a_worker_gives_up(self, held: list[Claim]) -> None:
        """It says so, which is as if the leases had run out; of some it does not know that they are lost."""
        expected: dict[State, int] = {}
        for claim in dict.fromkeys(held):
            if self._owns(claim):
                to = self.jobs[claim.job_id].die()
                expected[to] = expected.get(to, 0) + 1
        with self.database.transaction() as connection:
            assert self.lifecycle.surrender(connection, held) == expected

    @precondition(lambda self: self.issued)
    @rule(ends=st.lists(st.tuples(claims, hows), min_size=1, max_size=4, unique_by=lambda end: end[0]))
    def settle(self, ends: list[tuple[Claim, str]]) -> None:
        """In groups, as results come; some claims are long lost, some were settled before."""
        given = [_ending(claim, how) for claim, how in ends]
        owned = {ending.claim for ending in given if self._owns(ending.claim)}
        with self.database.transaction() as connection:
            assert self.lifecycle.settle(connection, given) == owned
        for ending in given:
            if ending.claim in owned:
                wanted = self.jobs[ending.claim.job_id].wanted
                again = State.QUEUED if ending.again else State.FAILED
                self._ended(
                    ending, (again if ending.error else State.SUCCEEDED) if wanted else State.CANCELLED
                )
        self._check_backoff(claim.job_id for claim in owned)

    # ---- what the sweeper and the clock do ----

    @precondition(lambda self: self.issued)
    @rule(worker=workers, seen=st.sampled_from([True, True, False]))
    def a_worker_falls_silent(self, worker: str, seen: bool) -> None:
        """Its leases run out; it may come back with its old claims, before or after the sweeper came."""
        names = [n for n, job in self.jobs.items() if job.state is State.RUNNING and job.worker == worker]
        self._alter(names, lease_until=func.clock_timestamp() - timedelta(seconds=1))
        for name in names:
            self.jobs[name].expired = True
            self.renewed.add(name)
        if seen:
            self._sweep()

    def _sweep(self) -> None:
        expected: dict[State, int] = {}
        for job in self.jobs.values():
            if job.state is not State.RUNNING or not job.expired:
                continue
            to = job.die()
            expected[to] = expected.get(to, 0) + 1
        with self.database.transaction() as connection:
            assert self.lifecycle.recover_lost(connection) == expected

    @precondition(lambda self: any(job.state is State.QUEUED for job in self.jobs.values()))
    @rule()
    def retries_come_due(self) -> None:
        """Time passes."""
        queued = [name for name, job in self.jobs.items() if job.state is State.QUEUED]
        past = func.clock_timestamp()
        self._alter(queued, available_at=past)
        for name in queued:
            self.jobs[name].due = True

    # ---- what must hold after every step ----

    @invariant()
    def the_database_agrees(self) -> None:
        before, self.seen = self.seen, self._look()
        assert self.seen.rows.keys() == self.jobs.keys()
        for name, job in self.jobs.items():
            row = self.seen.rows[name]
            found = (row.state, row.attempt, row.failures, row.crashes, row.cancel_requested_at is None)
            assert found == (job.state, job.attempt, job.failures, job.crashes, job.wanted), name
            assert (row.reached, row.reached_at_death) == (job.reached, job.reached_at_death), name
            assert (row.worker, row.output) == (job.worker, job.output), name
            assert (row.error and row.error["code"]) == job.code, name
            assert self.seen.moves[name] == job.moves, "one event per move, in order"
            self._check_against_the_past(name, before, row)
        self.renewed.clear()

    def _check_against_the_past(self, name: str, before: Seen, row: Any) -> None:
        """What needs no model: how a row may differ from what it was one step ago."""
        assert (row.state == State.RUNNING) == (row.lease_until is not None)
        assert (row.state in FINAL) == (row.finished_at is not None)
        was = before.rows.get(name)
        if was is None:
            return
        if was.state in FINAL:
            assert row == was, "a final row changed"
        steps = [was.state, *(move[0] for move in self.seen.moves[name][len(before.moves[name]) :])]
        for source, target in pairwise(steps):
            assert State(target) in TRANSITIONS[State(source)], f"{name}: {source} to {target}"
        assert steps[-1] == row.state
        assert row.attempt - was.attempt == steps[1:].count(State.RUNNING), (
            "attempt grows with every claim only"
        )
        if was.state == row.state == State.RUNNING and was.attempt == row.attempt:
            assert (was.lease_until != row.lease_until) == (name in self.renewed), f"{name}'s lease"

    def teardown(self) -> None:
        """Whatever happened, one honest worker and a sweeper end every job, and then it stays as it is."""
        self._move_carelessly()
        for _ in range(len(self.jobs) + 2):  # a suspect at a time
            alive = [name for name, row in self._look().rows.items() if row.state not in FINAL]
            if not alive:
                return self._move_carelessly()
            self._alter(alive, available_at=func.clock_timestamp())
            with self.database.transaction() as connection:
                taken = self.queue.claim(connection, QUEUE, MODEL, "last", LEASE, len(alive))
                taken += self.queue.claim_suspect(connection, QUEUE, MODEL, "last", LEASE)
                self.lifecycle.settle(connection, [Ending(job.claim, output={}) for job in taken])
            self._alter(alive, lease_until=jobs.c.lease_until - _FAR)
            with self.database.transaction() as connection:
                self.lifecycle.recover_lost(connection)
        raise AssertionError(f"these never end: {alive}")

    def _move_carelessly(self) -> None:
        """The table of moves holds even for a caller who forgets every other condition."""
        with self.database.transaction() as connection:
            for target in State:
                forbidden = [source for source in State if target not in TRANSITIONS[source]]
                assert self.lifecycle._move(connection, target, jobs.c.state.in_(forbidden)) == [], target

    def _due(self, suspects: bool) -> list[str]:
        """The jobs that a claim must give, in its order."""
        due = [
            name
            for name, job in self.jobs.items()
            if job.state is State.QUEUED and job.due and (job.crashes >= 2) == suspects
        ]
        return sorted(due, key=lambda name: self.jobs[name].turn)

    def _fitting(self, due: list[str], slots: int) -> list[str]:
        """The first, however wide, and those after it while there is room for the next."""
        filled = accumulate(self.jobs[name].width for name in due)
        fitting = sum(total <= slots for total in filled)
        return due[: max(1, fitting)]

    def _owns(self, claim: Claim) -> bool:
        job = self.jobs[claim.job_id]
        return job.state is State.RUNNING and job.attempt == claim.attempt

    def _taken(self, taken: list[ClaimedJob], due: list[str], worker: str) -> Any:
        assert [(job.claim, job.model, job.input, job.failures, job.width) for job in taken] == [
            (Claim(name, job.attempt + 1), MODEL, {"prompt": name}, job.failures, job.width)
            for name, job in ((name, self.jobs[name]) for name in due)
        ]
        claims = [job.claim for job in taken]
        assert not self.issued.intersection(claims), "two owners of one attempt"
        self.issued.update(claims)
        for name in due:
            job = self.jobs[name]
            job.attempt, job.worker = job.attempt + 1, worker
            job.move(State.RUNNING)
        return multiple(*claims)

    def _ended(self, ending: Ending, state: State) -> None:
        job = self.jobs[ending.claim.job_id]
        code = None if ending.error is None else ending.error.code
        charged = ending.error is not None and ending.error.charged
        job.failures += charged
        job.output = None if ending.output is None else dict(ending.output)
        job.code = None if state is State.CANCELLED else code
        job.due = not charged
        job.move(state, code)

    def _check_backoff(self, names: Iterable[str]) -> None:
        """A charged retry waits at most 1, 2, 4 ... s, by chance; here it waits until a rule says so."""
        waiting = [
            name for name in names if self.jobs[name].state is State.QUEUED and not self.jobs[name].due
        ]
        if not waiting:
            return
        query = select(jobs.c.id, jobs.c.available_at - func.clock_timestamp()).where(jobs.c.id.in_(waiting))
        with self.database.transaction() as connection:
            for name, delay in connection.execute(query):
                assert delay <= timedelta(seconds=2 ** (self.jobs[name].failures - 1))
        self._alter(waiting, available_at=func.clock_timestamp() + _FAR)

    def _alter(self, names: Iterable[str], **values: Any) -> None:
        with self.database.transaction() as connection:
            connection.execute(update(jobs).where(jobs.c.id.in_(names)).values(**values))

    def _look(self) -> Seen:
        logged = select(job_events).order_by(job_events.c.id)
        with self.database.transaction() as connection:
            rows = {row.id: row for row in connection.execute(select(jobs))}
            moves: dict[str, list[Move]] = {name: [] for name in rows}
            for event in connection.execute(logged):
                moves[event.job_id].append((event.state, event.attempt, event.code, event.worker))
        return Seen(rows, moves)


def check(database: Database, owner: int, rooms: Rooms) -> None:
    """Raise AssertionError if some random history makes the modules disagree with the model."""
    run_state_machine_as_test(lambda: Lifecycle(database, owner, rooms), settings=PROFILE)


def play(database: Database, owner: int, rooms: Rooms, history: Iterable[tuple[Any, ...]]) -> None:
    """Raise AssertionError if this history, steps of `Lifecycle` with their arguments, does."""
    machine = Lifecycle(database, owner, rooms)
    for step, *arguments in history:
        getattr(machine, step)(*arguments)
        machine.the_database_agrees()
    machine.teardown()
