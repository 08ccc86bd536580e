"""What is kept: slots, copies of them, and adapters."""

import pytest
import torch
from torch import Tensor

from tests.worker.kernels.conftest import (
    Made,
    architecture,
    chunk,
    distance,
    reference,
    some_tokens,
    together,
)
from worker.adapters import Adapter
from worker.quantize.codes import decoded

PROMPTS = [some_tokens(length, seed) for seed, length in enumerate([40, 33, 48, 20])]
MOVES = [
    [(0, 1)],
    [(0, 1), (1, 0)],
    [(0, 1), (1, 2), (2, 0)],
    [(0, 1), (0, 2), (0, 3)],
    [(1, 0), (0, 1), (3, 2), (2, 3)],
    [(0, 1), (1, 2), (2, 0), (1, 3)],
    [(2, 2), (0, 1), (1, 0)],
]


@pytest.mark.parametrize("moves", MOVES, ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_slots_are_copied_as_if_all_at_once(moves: list[tuple[int, int]], threads: int) -> None:
    made = Made(architecture())
    made.model.threads = threads
    for slot, prompt in enumerate(PROMPTS):
        made.model.forward(chunk(prompt, slot, wanted=[]))
    expected = [made.model.forward(chunk([7], slot, len(prompt))) for slot, prompt in enumerate(PROMPTS)]
    made.model.copy(moves, [len(PROMPTS[source]) for source, _ in moves])
    came_from = {slot: slot for slot in range(4)} | {target: source for source, target in moves}
    for slot, source in came_from.items():
        found = made.model.forward(chunk([7], slot, len(PROMPTS[source])))
        assert torch.equal(found, expected[source]), (slot, source)


def test_a_prefix_may_be_copied_and_gone_on_with(made: Made) -> None:
    first, second = PROMPTS[0], PROMPTS[0][:21] + PROMPTS[1]
    made.model.forward(chunk(first, 0, wanted=[]))
    made.model.copy([(0, 5)], [21])
    found = made.model.forward(chunk(second[21:], 5, 21))
    assert torch.equal(found, Made(architecture()).model.forward(chunk(second))[21:])


def test_a_copy_of_what_is_not_there_is_an_error(made: Made) -> None:
    with pytest.raises(IndexError, match="no slot 8"):
        made.model.copy([(0, 8)], [5])
    with pytest.raises(IndexError, match="no 101 positions"):
        made.model.copy([(0, 1)], [101])


def test_a_slot_costs_what_it_says(made: Made) -> None:
    a = made.architecture
    assert made.model.slot_bytes >= 2 * 2 * a.n_layer * a.n_embd * a.n_positions
    assert made.model.slot_bytes < 2 * 2 * a.n_layer * a.n_embd * (a.n_positions + 16) + 4096


def test_slots_nobody_uses_cost_nothing() -> None:
    made = Made(architecture(n_positions=1024, n_embd=256))
    made.model.reserve(10_000)  # 32 GB
    tokens = some_tokens(5)
    first = made.model.forward(chunk(tokens, 0))
    assert torch.equal(made.model.forward(chunk(tokens, 9_999)), first)


def adapter(rank: int, seed: int, names: list[str], out: int = 192, into: int = 64) -> Adapter:
    numbers = torch.Generator().manual_seed(seed)
    shapes = {
        "attn.c_attn": (192, 64),
        "attn.c_proj": (64, 64),
        "mlp.c_fc": (256, 64),
        "mlp.c_proj": (64, 256),
    }
    products = {}
    for name in names:
        out, into = shapes[name.split(".", 2)[2]]
        halves = (
            torch.randn(rank, into, generator=numbers),
            torch.randn(out, rank, generator=numbers) * 0.02,
        )
        products[name] = halves
    return Adapter(f"{seed}", rank, products)


EVERYWHERE = [
    f"h.{layer}.{product}"
    for layer in range(3)
    for product in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
]


def dense(of: Adapter) -> dict[str, Tensor]:
    return {name: up @ down for name, (down, up) in of.products.items()}


@pytest.mark.parametrize("names", [EVERYWHERE, ["h.1.mlp.c_fc"], ["h.0.attn.c_attn", "h.2.mlp.c_proj"]])
def test_an_adapter_adds_its_products(made: Made, names: list[str]) -> None:
    of = adapter(5, 1, names)
    rows = chunk(PROMPTS[0])
    plain = made.model.forward(rows)
    rows.adapters = [made.model.adapt(of)] * 40
    expected = reference(made.architecture, made.weights, PROMPTS[0], dense(of))
    found = made.model.forward(rows)
    assert distance(found, expected) < 0.01
    assert distance(found, plain) > 0.02


def test_many_adapters_share_a_pass_and_nobody_is_touched(made: Made) -> None:
    made.model.reserve(33)
    numbers = [made.model.adapt(adapter(2 + seed % 3, seed, EVERYWHERE)) for seed in range(32)]
    assert sorted(numbers) == list(range(32))
    parts, alone = [], []
    for slot, number in enumerate([*numbers, -1]):
        part = chunk(PROMPTS[slot % 4], slot)
        part.adapters = [number] * len(part.tokens)
        parts.append(part)
        alone.append(made.model.forward(part))
    assert torch.equal(made.model.forward(together(*parts)), torch.cat(alone))
    assert torch.equal(alone[32], made.model.forward(chunk(PROMPTS[0], 32)))
    assert not torch.equal(alone[0], alone[4])


def test_a_number_is_given_again_once_its_adapter_is_gone(made: Made) -> None:
    first, second = (made.model.adapt(adapter(3, seed, EVERYWHERE)) for seed in (1, 2))
    made.model.forget(first)
    rows = chunk([1])
    rows.adapters = [first]
    with pytest.raises(IndexError, match="no adapter"):
        made.model.forward(rows)
    assert made.model.adapt(adapter(4, 3, EVERYWHERE)) == first != second
    assert decoded(made.weights["wte.weight"]).isfinite().all()
