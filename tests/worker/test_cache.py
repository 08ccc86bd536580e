"""Keys and values stay in their slots, and what a row sees there is its own affair."""

import pytest
import torch

from worker.attention import look_back, plan
from worker.cache import SEGMENT, Cache
from worker.parts import parted
from worker.rows import Chunk, Rows

HEADS, WIDTH, CONTEXT = 4, 16, 600
NUMBERS = torch.randn(3, CONTEXT, HEADS, WIDTH, generator=torch.Generator().manual_seed(0))


def made(slots: int, dtype: torch.dtype = torch.float16) -> Cache:
    return Cache(1, slots, HEADS, CONTEXT, WIDTH, dtype, "cpu")


def see(cache: Cache, rows: Rows) -> torch.Tensor:
    """What each row sees; a position has the same query, key and value in every slot."""
    query, key, value = NUMBERS[:, rows.positions]
    planned = plan(cache, rows)
    cache.keep(0, key.to(cache.dtype), value.to(cache.dtype), planned.places)
    return look_back(cache, 0, (query * 0.25).to(cache.dtype), planned)


def chunk(slot: int, start: int, end: int) -> Rows:
    count = end - start
    return Rows([1] * count, [slot] * count, list(range(start, end)), chunks=[Chunk(slot, 0, start, count)])


def next_tokens(*ends: tuple[int, int]) -> Rows:
    slots, positions = (list(column) for column in zip(*ends, strict=True))
    return Rows([1] * len(ends), slots, positions, decodes=len(ends))


@torch.inference_mode()
def test_a_row_sees_the_softmax_over_all_before_it() -> None:
    cache = made(2, torch.float32)
    found = torch.cat(
        (see(cache, chunk(1, 0, 100)), see(cache, chunk(1, 100, 170)), see(cache, next_tokens((1, 170))))
    )
    query, key, value = (part[:171].transpose(0, 1) for part in NUMBERS)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=0.25)
    torch.testing.assert_close(found, expected.transpose(0, 1).flatten(1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@torch.inference_mode()
def test_a_row_has_the_same_bits_in_chunks_and_in_company(dtype: torch.dtype) -> None:
    lengths = {0: 500, 3: 3, 4: 190, 9: 450, 10: 65}
    alone = {length: see(made(1, dtype), chunk(0, 0, length)) for length in lengths.values()}
    cache = made(11, dtype)
    for slot, length in lengths.items():
        for start in range(0, length - 1, 37):
            end = min(start + 37, length - 1)
            assert torch.equal(see(cache, chunk(slot, start, end)), alone[length][start:end])
    last = next_tokens(*((slot, length - 1) for slot, length in lengths.items()))
    together = see(cache, last)
    for row, (slot, length) in enumerate(lengths.items()):
        only = see(cache, next_tokens((slot, length - 1)))[0]
        assert torch.equal(only, together[row])
        assert torch.equal(only, alone[length][-1])


def test_a_row_reads_the_segments_it_has_and_no_more() -> None:
    planned = plan(made(10), next_tokens((0, 63), (1, 5), (4, 64), (9, 5 * SEGMENT)))
    assert planned.askers.bincount().tolist() == [1] * HEADS + [1] * HEADS + [2] * HEADS + [6] * HEADS
    assert len(planned.keys) == 10 * HEADS * WIDTH
    assert len(planned.values) == 10 * HEADS * SEGMENT


def test_a_pass_is_cut_into_parts_that_last_as_long_and_wait_for_a_cut_chunk() -> None:
    rows = Rows(
        list(range(20)), [0, 1, *[2] * 5, *[3] * 13], [7, 8, *range(5), *range(40, 53)],
        decodes=2, chunks=[Chunk(2, 2, 0, 5), Chunk(3, 7, 40, 13)], wanted=[0, 1, 6, 19],
    )  # fmt: skip
    first, second = parted(rows, 2, layers=3)
    assert first.rows.chunks == [Chunk(2, 2, 0, 5), Chunk(3, 7, 40, 3)]
    assert second.rows.chunks == [Chunk(3, 0, 43, 10)]
    assert (first.rows.decodes, second.rows.decodes) == (2, 0)
    assert (first.rows.wanted, second.rows.wanted) == ([0, 1, 6], [9])
    assert first.rows.tokens + second.rows.tokens == rows.tokens
    assert len(first.ahead) == 3
    assert first.ahead is second.behind


def test_a_long_row_has_a_part_of_its_own_and_no_part_is_empty() -> None:
    rows = next_tokens((0, 599), *((slot, 0) for slot in range(1, 4)), *((slot, 9) for slot in range(4, 8)))
    assert [part.rows.decodes for part in parted(rows, 2, layers=1)] == [3, 5]
    rows = next_tokens((0, 100_000), *((slot, 0) for slot in range(1, 8)))
    assert [part.rows.decodes for part in parted(rows, 2, layers=1)] == [1, 7]


def test_few_rows_stay_one_part() -> None:
    assert len(parted(next_tokens((0, 1), (1, 1), (2, 1)), 8, layers=1)) == 1


def test_positions_that_nobody_uses_cost_no_memory() -> None:
    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    before = resident()
    cache = Cache(12, 64, 12, 1024, 64, torch.float16, "cpu")  # 2.4 GB
    with torch.inference_mode():
        numbers = torch.zeros(64, 12, 64, dtype=torch.float16)
        for layer in range(12):
            cache.keep(layer, numbers, numbers, cache.places(next_tokens(*((slot, 0) for slot in range(64)))))
        cache.clear(5)
    assert resident() - before < 150e6
    assert cache.slot_bytes == 12 * 2 * 12 * 1024 * 64 * 2
