"""The table of moves, drawn once more as facts."""

import pytest

from jobs.states import FINAL, State, sources

Q, R, S, F, C = State.QUEUED, State.RUNNING, State.SUCCEEDED, State.FAILED, State.CANCELLED


@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        (Q, {R}),  # a retry, a lost lease, our own shutdown
        (R, {Q}),  # a claim
        (S, {R}),  # a result comes from nobody but a running attempt
        (F, {Q, R}),
        (C, {Q, R}),
    ],
)
def test_a_state_is_reached_from_these_and_no_others(target: State, allowed: set[State]) -> None:
    assert sources(target) == allowed


def test_an_ended_job_stays_as_it_is() -> None:
    assert {S, F, C} == FINAL


def test_every_state_can_be_reached_from_the_first() -> None:
    reached = {Q}
    while more := {state for state in State if sources(state) & reached} - reached:
        reached |= more
    assert reached == set(State)
