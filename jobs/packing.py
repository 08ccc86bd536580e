"""Which examples share a row: best fit, the longest first, so that little of a row is padding."""

from collections.abc import Sequence


def rows(lengths: Sequence[int], block: int) -> list[list[int]]:
    """The indices of the examples in each row of `block` tokens; the same lengths give the same rows.

    Each example goes into the fullest row that it fits, or else begins one. The rows come in the order in
    which they were begun, so the longest examples first: shuffle them.

    Raises:
        ValueError: an example is longer than a row.
    """
    if max(lengths, default=0) > block:
        raise ValueError(f"an example of {max(lengths)} tokens does not fit a row of {block}")
    made: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(block + 1)]  # rows by the tokens that they still take
    there = 0  # bit n: `with_room[n]` has a row
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        length = lengths[index]
        if fitting := there >> length:
            room = length + (fitting & -fitting).bit_length() - 1  # the lowest bit: the fullest row
            row = with_room[room].pop()
            if not with_room[room]:
                there ^= 1 << room
        else:
            room, row = block, len(made)
            made.append([])
        made[row].append(index)
        if left := room - length:
            with_room[left].append(row)
            there |= 1 << left
    return made


def cut_rows(lengths: Sequence[int], block: int, together: bool = True) -> int:
    """How many rows documents fill that may be cut anywhere: one after the other, or each in its own."""
    if together:
        return -(-sum(lengths) // block)
    return sum(-(-length // block) for length in lengths)


def padding(tokens: int, rows: int, block: int) -> float:
    """The share of the rows that no token fills."""
    return 1 - tokens / (rows * block) if rows else 0.0
