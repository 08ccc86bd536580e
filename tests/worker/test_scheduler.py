"""Who waits, who runs, and whose rows come in a pass."""

import pytest

from tests.worker.conftest import greedy
from worker.rows import Chunk, Rows
from worker.scheduler import Scheduler, _shares
from worker.sequence import Sequence
from worker.speculation import Speculation


def scheduler_of(*sequences: Sequence, slots: int = 4) -> Scheduler:
    scheduler = Scheduler(slots)
    scheduler.add(sequences)
    scheduler.admit()
    return scheduler


def test_next_tokens_come_in_the_order_of_slots() -> None:
    gone, early, late = greedy([5, 6]), greedy([1, 2, 3]), greedy([7, 8])
    scheduler = scheduler_of(gone, early)
    scheduler.gather(9)
    early.tokens.append(41)
    scheduler.remove(gone)
    scheduler.add([late])
    scheduler.admit()
    scheduler.gather(9)
    early.tokens.append(42)
    late.tokens.append(43)
    turn = scheduler.gather(9)
    assert turn.rows == Rows(tokens=[43, 42], slots=[0, 1], positions=[2, 4], decodes=2, wanted=[0, 1])
    assert turn.due == [late, early]


def test_a_pass_is_flat() -> None:
    talking, reading = greedy([5, 6]), greedy([7, 8, 9])
    scheduler = scheduler_of(talking, slots=2)
    scheduler.gather(9)
    talking.tokens.append(42)
    scheduler.add([reading])
    scheduler.admit()
    turn = scheduler.gather(3)
    assert turn.rows == Rows(
        tokens=[42, 7, 8],
        slots=[0, 1, 1],
        positions=[2, 0, 1],
        decodes=1,
        chunks=[Chunk(slot=1, row=1, start=0, count=2)],
        wanted=[0],
    )
    assert turn.due == [talking]
    talking.tokens.append(43)
    turn = scheduler.gather(3)
    assert (turn.rows.tokens, turn.rows.wanted, turn.due) == ([43, 9], [0, 1], [talking, reading])


def test_adapters_are_named_for_every_row_where_anybody_has_one() -> None:
    plain, adapted = greedy([5, 6]), greedy([7, 8, 9])
    adapted.adapter = 3
    scheduler = scheduler_of(plain, adapted)
    assert scheduler.gather(4).rows.adapters == [-1, -1, 3, 3]
    plain.tokens.append(1)
    assert scheduler.gather(4).rows.adapters == [-1, 3]
    plain.tokens.append(1)
    adapted.tokens.append(1)
    assert scheduler.gather(4).rows.adapters == [-1, 3]
    scheduler.remove(adapted)
    plain.tokens.append(1)
    assert scheduler.gather(4).rows.adapters == []


def test_all_rows_of_an_echo_and_of_a_draft_are_wanted() -> None:
    echoed, plain = greedy([5, 6, 7], logprobs=1), greedy([8, 9])
    echoed.echo = True
    turn = scheduler_of(plain, echoed).gather(9)
    assert turn.rows.wanted == [1, 2, 3, 4]
    assert (turn.due, turn.places) == ([plain, echoed], [0, 3])
    assert [(echo.place, echo.expected) for echo in turn.echoes] == [(1, [6, 7])]

    guessing = greedy([1, 2, 3, 1, 2], 50)
    scheduler = scheduler_of(guessing, quiet := greedy([7, 8], 50))
    scheduler.gather(9)
    guessing.tokens.append(3)
    quiet.tokens.append(9)
    turn = scheduler.gather(9, Speculation())
    assert turn.rows == Rows(
        tokens=[9, 3, 1, 2, 3],
        slots=[1, 0, 0, 0, 0],
        positions=[2, 5, 6, 7, 8],
        decodes=1,
        chunks=[Chunk(slot=0, row=1, start=5, count=4)],
        wanted=[0, 1, 2, 3, 4],
    )
    assert (turn.due, turn.places, turn.drafts) == ([quiet, guessing], [0, 1], {guessing: [1, 2, 3]})


@pytest.mark.parametrize(
    ("left", "room", "given"),
    [
        ([900], 100, [100]),
        ([900, 20], 100, [80, 20]),
        ([900, 900], 100, [50, 50]),
        ([900, 300, 20, 10], 100, [50, 20, 20, 10]),
        ([30, 300, 20], 100, [30, 50, 20]),
        ([900, 20, 30, 40], 7, [4, 3]),
        ([900, 5], 1, [1]),
        ([5, 6, 7], 100, [5, 6, 7]),
    ],
)
def test_half_of_the_room_is_the_earliest_ones_and_the_rest_the_shortests(
    left: list[int], room: int, given: list[int]
) -> None:
    prompts = [greedy([5] * count) for count in left]
    counts = dict(_shares(prompts, room))
    assert [counts[prompt] for prompt in prompts if prompt in counts] == given


def test_slots_are_counted_for_those_who_wait_and_for_every_beam() -> None:
    scheduler = scheduler_of(greedy([5]), leader := greedy([6], num_beams=3), waiting := greedy([7]))
    assert (scheduler.taken, len(scheduler.running), list(scheduler.waiting)) == (5, 4, [waiting])
    assert leader in scheduler.submitted
    assert len(scheduler.submitted) == 2
    scheduler.remove(leader)
    assert (scheduler.taken, len(scheduler.running)) == (2, 1)
    scheduler.remove(waiting)
    scheduler.remove(waiting)
    assert scheduler.taken == 1
