"""Examples share rows so that little of them is padding."""

import random
import time

import pytest

from jobs import packing


def drawn(count: int, most: int) -> list[int]:
    return random.Random(count).choices(range(1, most + 1), k=count)


def first_fit(lengths: list[int], block: int) -> int:
    """How many rows best fit needs, looked for in the plainest way."""
    room: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [index for index, left in enumerate(room) if left >= length]
        if fitting:
            room[min(fitting, key=lambda index: room[index])] -= length
        else:
            room.append(block - length)
    return len(room)


@pytest.mark.parametrize(
    ("count", "most", "block"), [(1, 8, 8), (500, 64, 64), (300, 50, 64), (200, 9, 1024)]
)
def test_every_example_is_in_one_row_and_no_row_is_too_full(count: int, most: int, block: int) -> None:
    lengths = drawn(count, most)
    found = packing.rows(lengths, block)
    assert sorted(index for row in found for index in row) == list(range(count))
    assert all(sum(lengths[index] for index in row) <= block for row in found)
    assert len(found) == first_fit(lengths, block)


def test_the_same_examples_share_the_same_rows() -> None:
    lengths = drawn(1000, 100)
    assert packing.rows(lengths, 128) == packing.rows(list(lengths), 128)


def test_a_row_is_filled_by_what_fits_it_best() -> None:
    assert packing.rows([6, 5, 4, 3, 2], 10) == [[0, 2], [1, 3, 4]]


def test_no_examples_fill_no_rows() -> None:
    assert packing.rows([], 8) == []
    assert packing.padding(0, 0, 8) == 0


def test_an_example_longer_than_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match="9 tokens does not fit a row of 8"):
        packing.rows([3, 9], 8)


def test_a_million_examples_are_packed_in_seconds() -> None:
    lengths = drawn(1_000_000, 700)
    begun = time.process_time()
    found = packing.rows(lengths, 1024)
    assert time.process_time() - begun < 20  # about 2 s; one that looks at every row takes hours
    assert packing.padding(sum(lengths), len(found), 1024) < 0.01


def test_what_may_be_cut_leaves_room_in_the_last_row_alone() -> None:
    assert packing.cut_rows([5, 5, 5], 8) == 2
    assert packing.cut_rows([5, 5, 9], 8, together=False) == 4
    assert packing.padding(15, 2, 8) == pytest.approx(1 / 16)
