"""Passes of any size run in one of a few shapes."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from worker.cuda.layout import lay_out
from worker.cuda.shapes import PIECE, Shape, Shapes
from worker.rows import Rows


@given(slots=st.integers(1, 300), context=st.integers(1, 40), data=st.data())
def test_a_pass_has_room_in_its_shape_and_the_shape_is_recorded(
    slots: int, context: int, data: st.DataObject
) -> None:
    shapes = Shapes.of(slots, 64 * context)
    singles, pieces = data.draw(st.integers(0, slots)), data.draw(st.integers(0, 16))
    length = data.draw(st.integers(1, 64 * context))
    shape = shapes.choose(max(singles, not pieces), pieces, length, singles + pieces)
    assert (shape.singles >= singles, shape.pieces >= pieces, shape.context >= length) == (True,) * 3
    assert shape in shapes.everyone()


def test_the_shapes_are_few() -> None:
    assert len(Shapes.of(1, 1024).everyone()) <= 40
    assert len(Shapes.of(256, 1024).everyone()) <= 100


def test_next_tokens_alone_never_pay_for_prompts() -> None:
    assert Shapes.of(256, 1024).choose(5, 0, 100, 5) == Shape(8, 0, 128, 8)


def test_rows_stand_where_their_slots_are_and_prompts_in_pieces() -> None:
    rows = Rows(tokens=[7, 8], slots=[1, 3], positions=[20, 30], decodes=2, wanted=[0, 1])
    rows.add_chunk(5, 100, list(range(1000, 1070)))
    rows.wanted.append(71)
    (layout,) = lay_out(rows, Shapes.of(6, 256))
    shape = layout.shape
    assert (shape.singles, shape.pieces, shape.context) == (6, 4, 256)
    tokens, positions, slots, wanted = shape.split(layout.packed)
    assert positions[:6].tolist() == [-1, 20, -1, 30, -1, -1]
    assert tokens[[1, 3]].tolist() == [7, 8]
    assert slots.tolist() == [5, 5, 0, 0]
    assert positions[6 : 6 + 70].tolist() == list(range(100, 170))
    assert (positions[6 + 70 :] == -1).all()
    assert wanted[: layout.wanted].tolist() == [1, 3, 6 + 69]


def test_many_prompts_make_several_passes_in_their_order() -> None:
    rows = Rows()
    for slot in range(20):
        rows.wanted.append(rows.add_chunk(slot, 0, [slot] * (1 + slot % 3 * PIECE))[-1])
    layouts = list(lay_out(rows, Shapes.of(20, 256)))
    assert len(layouts) > 1
    said: list[int] = []
    for layout in layouts:
        tokens, _, _, wanted = layout.shape.split(layout.packed)
        said += tokens[wanted[: layout.wanted]].tolist()
    assert said == list(range(20))
    assert sum(int(np.sum(layout.shape.split(layout.packed)[1] >= 0)) for layout in layouts) == len(
        rows.tokens
    )
