"""What the kernels do not serve is refused in one sentence, and the torch path serves it."""

from pathlib import Path
from typing import Any

import pytest

from tests.worker.kernels.conftest import architecture
from worker import kernels
from worker.kernels import build, refusal


def test_a_gpt2_in_int8_is_served() -> None:
    assert refusal(architecture(), "int8", "cpu") is None
    assert refusal(architecture(), "int8_static", "cpu") is None


@pytest.mark.parametrize(
    ("shape", "method", "device", "word"),
    [
        ({}, "bf16", "cpu", "bf16"),
        ({}, "int8", "cuda", "cuda"),
        ({"activation_function": "relu"}, "int8", "cpu", "relu"),
        ({"n_embd": 72}, "int8", "cpu", "n_embd"),
        ({"n_head": 8}, "int8", "cpu", "head_width"),
        ({"n_inner": 100}, "int8", "cpu", "inner"),
    ],
)
def test_what_is_not_served_has_its_reason(
    shape: dict[str, Any], method: str, device: str, word: str
) -> None:
    reason = refusal(architecture(**shape), method, device)
    assert reason is not None
    assert word in reason


def test_an_older_processor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "processor_flags", lambda: frozenset({"avx2", "fma", "avx512f"}))
    assert refusal(architecture(), "int8", "cpu") == "This processor has no AVX512-VNNI."


def test_kernels_that_are_not_compiled_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kernels, "library", lambda: tmp_path / "step.so")
    reason = refusal(architecture(), "int8", "cpu")
    assert reason is not None
    assert "python -m worker.kernels.build" in reason


def test_without_a_compiler_the_build_says_so_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "library", lambda: tmp_path / "step.so")
    monkeypatch.setenv("CXX", "no-such-compiler")
    build.main([])
    assert "no-such-compiler" in capsys.readouterr().err


def test_what_is_compiled_is_not_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "compile_kernels", lambda: pytest.fail("compiled again"))
    build.main([])
