"""Each clause that keeps a job whole is removed in turn, and the state machine must notice."""

import inspect
from types import ModuleType

import pytest
from sqlalchemy.exc import IntegrityError

from jobs import lifecycle
from jobs.attempts import INTERACTIVE, STANDARD, Claim
from jobs.database import Database
from tests.jobs import machine

ANY_ATTEMPT = "and_(jobs.c.id == given.c.id, jobs.c.state == State.RUNNING)"
FIRST = Claim("job0", 1)
SUBMIT = ("submit", [STANDARD])
TWO = ("submit", [STANDARD, STANDARD])  # of them the second is 3 wide
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
        "locked = _locked(held).cte",
        f"given = _given(held)\n    locked = select(jobs.c.id).join(given, {ANY_ATTEMPT}).cte",
        [SUBMIT, CLAIM, HAND_BACK, CLAIM, ("heartbeat", [FIRST])],
    ),
    "the state guard of every move": ("jobs.c.state.in_(states.sources(target)), *where", "*where", [SUBMIT]),
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
        "lease, slots, jobs.c.crashes < SUSPECT_AFTER",
        "lease, slots, literal(True)",
        [SUBMIT, CLAIM, DIE, CLAIM, DIE, CLAIM],
    ),
    "a retry waits": (
        "        jobs.c.available_at <= _NOW,\n",
        "",
        [SUBMIT, CLAIM, ("settle", [(FIRST, "retryable")]), CLAIM],
    ),
    "the order of the claim": (
        ".order_by(jobs.c.turn, jobs.c.seq)",
        ".order_by(jobs.c.seq)",
        [("submit", [STANDARD, INTERACTIVE]), CLAIM],
    ),
    "a claim takes what fits": (
        "line.c.filled <= slots,",
        "literal(True),",
        [TWO, ("claim", "w1", 3, False)],
    ),
    "a job wider than the slots goes first": (
        ", line.c.filled == line.c.width)",
        ")",
        [TWO, CLAIM, CLAIM],
    ),
    "a death is counted": (
        "crashes = jobs.c.crashes + 1",
        "crashes = jobs.c.crashes",
        [SUBMIT, CLAIM, DIE],
    ),
    "every move is logged": (".add_cte(log_of(moved, moved.c.code))", "", [SUBMIT, CLAIM]),
    "only its owner cancels a job": (
        "jobs.c.id == job_id, jobs.c.owner_id == owner_id",
        "jobs.c.id == job_id",
        [SUBMIT, ("request_cancel", "job0")],
    ),
}


def without(clause: str, replacement: str) -> ModuleType:
    """`jobs.lifecycle` with one clause replaced, as a module of its own."""
    source = inspect.getsource(lifecycle)
    assert source.count(clause) == 1, f"lifecycle.py no longer says {clause!r}; say here what it says now"
    mutant = ModuleType("mutant")
    exec(compile(source.replace(clause, replacement), "mutant", "exec"), mutant.__dict__)
    return mutant


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_state_machine_notices_the_loss_of(name: str, database: Database, owner: int) -> None:
    clause, replacement, history = MUTATIONS[name]
    machine.play(database, owner, lifecycle, history)
    with pytest.raises((AssertionError, IntegrityError)):
        machine.play(database, owner, without(clause, replacement), history)
