"""Each clause that keeps a job whole is removed in turn, and the state machine must notice."""

import inspect
import sys
from types import ModuleType

import pytest
from sqlalchemy.exc import IntegrityError

import jobs
from jobs import claims, lifecycle, ordering
from jobs.attempts import Claim
from jobs.database import Database
from tests.jobs import machine
from tests.jobs.machine import Rooms

ANY_ATTEMPT = "and_(jobs.c.id == given.c.id, jobs.c.state == State.RUNNING)"
FIRST = Claim("job0", 1)
SUBMIT = ("submit", [0])
TWO = ("submit", [0, 0])  # of them the second is 3 wide
CLAIM = ("claim", "w1", 1, False)
HAND_BACK = ("settle", [(FIRST, "stopping")])
DIE = ("a_worker_falls_silent", "w1", True)

# the clause, what it says, what it says once it is removed, and the shortest history that needs it
MUTATIONS = {
    "the fence": (
        "        _owned_by(given),\n        *where,",
        f"        {ANY_ATTEMPT},\n        *where,",
        [SUBMIT, CLAIM, HAND_BACK, CLAIM, ("settle", [(FIRST, "success")])],
    ),
    "the heartbeat's fence": (
        "locked = _locked(held, reached).cte",
        "given = _given(held)\n"
        f"    locked = select(jobs.c.id, given.c.reached).join(given, {ANY_ATTEMPT}).cte",
        [SUBMIT, CLAIM, HAND_BACK, CLAIM, ("heartbeat", [FIRST])],
    ),
    "the state guard of every move": (
        "or_(*(jobs.c.state == source for source in sorted(states.sources(target)))), *where",
        "*where",
        [SUBMIT],
    ),
    "the state guard of an owner": (
        ", jobs.c.state == State.RUNNING)\n",
        ")\n",
        [SUBMIT, CLAIM, HAND_BACK, ("settle", [(FIRST, "fatal")])],
    ),
    "a cancel wins over a result": (
        "group, jobs.c.cancel_requested_at.is_(None))",
        "group)",
        [SUBMIT, CLAIM, ("request_cancel", "job0"), ("settle", [(FIRST, "success")])],
    ),
    "attempt grows with every claim": (
        "attempt=jobs.c.attempt + 1",
        "attempt=jobs.c.attempt",
        [SUBMIT, CLAIM],
    ),
    "a suspect is left to an idle worker": (
        '_TRUSTED = f"crashes < {SUSPECT_AFTER}"',
        '_TRUSTED = "TRUE"',
        [SUBMIT, CLAIM, DIE, CLAIM, DIE, CLAIM],
    ),
    "a retry waits": (
        '"available_at <= clock_timestamp() AND paused_at IS NULL"',
        '"paused_at IS NULL"',
        [SUBMIT, CLAIM, ("settle", [(FIRST, "retryable")]), CLAIM],
    ),
    "the order of the claim": (
        "ORDER BY job.priority DESC, job.seq ROWS",
        "ORDER BY job.seq ROWS",
        [("submit", [0, 1]), CLAIM],
    ),
    "a claim takes what fits": (
        "line.c.filled <= slots,",
        "line.c.filled <= slots + 1000,",
        [TWO, ("claim", "w1", 3, False)],
    ),
    "a job wider than the slots goes first": (
        ", line.c.filled == line.c.width)",
        ")",
        [TWO, CLAIM, CLAIM],
    ),
    "a death is counted": (
        "else_=jobs.c.crashes + 1)",
        "else_=jobs.c.crashes)",
        [SUBMIT, CLAIM, DIE],
    ),
    "a death after progress is the first": (
        "jobs.c.reached > jobs.c.reached_at_death, 1",
        "literal(False), 1",
        [SUBMIT, CLAIM, DIE, CLAIM, ("heartbeat", [Claim("job0", 2)], 2), DIE],
    ),
    "progress counts once": (
        '"reached_at_death": jobs.c.reached}',
        '"reached_at_death": jobs.c.reached_at_death}',
        [SUBMIT, CLAIM, ("heartbeat", [FIRST], 2), DIE],
    ),
    "an attempt that is behind another is no progress": (
        "func.greatest(jobs.c.reached, locked.c.reached)",
        "locked.c.reached",
        [SUBMIT, CLAIM, ("heartbeat", [FIRST], 2), ("heartbeat", [FIRST], 1)],
    ),
    "every move is logged": (".add_cte(log_of(moved, moved.c.code))", "", [SUBMIT, CLAIM]),
    "only its owner cancels a job": (
        "jobs.c.id == job_id, jobs.c.owner_id == owner_id",
        "jobs.c.id == job_id",
        [SUBMIT, ("request_cancel", "job0")],
    ),
}


def without(clause: str, replacement: str) -> Rooms:
    """The modules that move jobs with one clause replaced, as modules of their own."""
    sources = {module.__name__: inspect.getsource(module) for module in (ordering, lifecycle, claims)}
    where = next((name for name, source in sources.items() if source.count(clause) == 1), None)
    assert where, f"nobody says {clause!r} once; say here what is said now"
    sources[where] = sources[where].replace(clause, replacement)
    mutants = {name: ModuleType(name) for name in sources}
    with pytest.MonkeyPatch.context() as patch:  # each finds the mutants of the others
        for name, source in sources.items():
            exec(compile(source, name, "exec"), mutants[name].__dict__)
            patch.setitem(sys.modules, name, mutants[name])
            patch.setattr(jobs, name.removeprefix("jobs."), mutants[name])
    return Rooms(mutants["jobs.lifecycle"], mutants["jobs.claims"])


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_state_machine_notices_the_loss_of(name: str, database: Database, owner: int) -> None:
    clause, replacement, history = MUTATIONS[name]
    machine.play(database, owner, Rooms(lifecycle, claims), history)
    with pytest.raises((AssertionError, IntegrityError)):
        machine.play(database, owner, without(clause, replacement), history)
