"""Whether the C++ kernels can serve a model here, and why not; the torch path serves what they cannot."""

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from worker.kernels.sources import library

if TYPE_CHECKING:  # the image compiles before the rest of the worker is there
    from worker.model import Architecture

NEEDED = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_vnni"}
METHODS = ("int8", "int8_static")
ACTIVATIONS = ("gelu_new", "gelu_fast", "gelu_pytorch_tanh")
LANES = 16
NO_VNNI = "This processor has no AVX512-VNNI."


def refusal(architecture: "Architecture", method: str, device: str) -> str | None:
    """Why the kernels do not serve this, as a sentence; None when they do."""
    if device != "cpu":
        return f"The kernels run on the CPU, not on {device}."
    if method not in METHODS:
        return f"The kernels multiply {' and '.join(METHODS)}, not {method}."
    if architecture.activation_function not in ACTIVATIONS:
        return f"The kernels have no activation {architecture.activation_function}."
    for field in ("n_embd", "head_width", "inner"):
        if getattr(architecture, field) % LANES:
            return (
                f"The kernels need {field} to be a multiple of {LANES}, not {getattr(architecture, field)}."
            )
    if not processor_flags() >= NEEDED:
        return NO_VNNI
    if not library().exists():
        return "The kernels are not compiled; run python -m worker.kernels.build."
    return None


@cache
def processor_flags() -> frozenset[str]:
    """What Linux says that the processor can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:  # not Linux
        return frozenset()
    flags = (line.partition(":")[2] for line in lines if line.startswith("flags"))
    return frozenset(next(flags, "").split())


@cache
def compiled() -> ModuleType:
    """The compiled module; only for whom `refusal` lets through: others' processors lack its instructions."""
    spec = importlib.util.spec_from_file_location("step", library())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
