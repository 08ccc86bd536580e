"""What models may take, and the slots that fit into it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel

from jobs.errors import ModelUnavailable
from tests.conftest import ROOT
from tests.worker.conftest import ours
from tests.worker.lanes import describe
from worker import memory
from worker.loading import give_back
from worker.memory import Need, fitted
from worker.quantize.methods import Method

GB = 10**9


def test_a_setting_is_taken_at_its_word() -> None:
    assert memory.budget(1.5, on_cuda=False) == 1_500_000_000


@pytest.mark.parametrize(("limit", "expected"), [("2000000000\n", 1.4 * GB), ("max\n", 7 * GB)])
def test_without_one_it_is_a_share_of_the_container_or_the_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str, expected: float
) -> None:
    (tmp_path / "memory.max").write_text(limit)
    monkeypatch.setattr(memory, "_LIMITS", (str(tmp_path / "memory.max"), str(tmp_path / "nowhere")))
    monkeypatch.setattr(memory, "_physical", lambda: 10 * GB)
    assert memory.budget(0, on_cuda=False) == pytest.approx(expected)


def test_slots_are_as_many_as_fit_and_no_more_than_asked_for() -> None:
    need = Need(weights=100, slot=10, step=50, adapters=20)
    assert fitted(need, 32, 1000).slots == 32
    assert fitted(need, 32, 200).slots == 3
    assert fitted(need, 32, 200).total == 200


def test_a_model_that_does_not_fit_is_refused_with_the_numbers() -> None:
    need = Need(weights=3 * GB, slot=GB // 10, step=GB // 10)
    with pytest.raises(ModelUnavailable) as raised:
        fitted(need, 32, 2 * GB)
    assert str(raised.value) == (
        "it needs 3.20 GB with one slot, the budget is 2.00 GB: raise MEMORY_GB or take a smaller"
        " quantization."
    )


def given_back() -> int:
    """Bytes that go back to the system of 200 MB that are freed."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    kept, freed = [], []
    for _ in range(2000):  # too small to be mapped one by one, and each with a neighbour that stays
        freed.append(torch.ones(25_000))
        kept.append(torch.ones(100))
    before = resident()
    freed.clear()
    give_back()
    return before - resident()


def test_what_was_freed_goes_back_to_the_system() -> None:
    """In a process of its own: the holes that other tests leave in the heap would be filled first."""
    code = "from tests.worker.test_memory import given_back; print(given_back())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 0.8 * 2000 * 100_000


@pytest.mark.parametrize("method", ["fp32", "bf16", "int8"])
def test_a_slot_is_counted_as_large_as_the_model_makes_it(
    gpt2: GPT2LMHeadModel, tokenizer: Tokenizer, method: Method
) -> None:
    need = memory.estimate(describe(tokenizer, quantization=method), [], slots=4, rows=100)
    assert need.slot == ours(gpt2, method).slot_bytes
