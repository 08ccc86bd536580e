"""Each sequence draws from a random stream of its own."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.inputs import MAX_SEED
from worker.decoding.streams import streams, uniforms


@given(st.lists(st.tuples(st.integers(0, MAX_SEED), st.integers(0, 127), st.integers(0, 1023)), min_size=1))
@settings(max_examples=50, deadline=None)
def test_random_numbers_depend_on_seed_index_and_step_alone(rows: list[tuple[int, int, int]]) -> None:
    seeds, indexes, steps = (list(column) for column in zip(*rows, strict=True))
    together = uniforms(streams(seeds, indexes), steps)
    alone = [uniforms(streams([seed], [index]), [step])[0] for seed, index, step in rows]
    assert together.tolist() == alone
    assert all(0 <= number < 1 for number in alone)


def test_neighbouring_seeds_indexes_and_steps_are_not_related() -> None:
    size = 40
    grid = np.array([
        uniforms(streams([seed] * size, [index] * size), list(range(size)))
        for seed in range(size)
        for index in range(size)
    ]).reshape(size, size, size)  # fmt: skip
    assert len(np.unique(grid)) == size**3
    assert abs(grid.mean() - 0.5) < 0.005
    for axis in range(3):
        one, other = grid.take(range(size - 1), axis), grid.take(range(1, size), axis)
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.02
