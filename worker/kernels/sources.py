"""What the kernels are compiled from and how, and where the result of exactly that lies."""

import hashlib
import platform
from pathlib import Path

import torch

HERE = Path(__file__).parent
BUILT = HERE / "built"
UNITS = ("binding.cpp", "model.cpp", "step.cpp")
FLAGS = (
    "-std=c++20",
    "-O3",
    "-g0",
    "-march=x86-64-v4",  # AVX-512 as every processor with VNNI has it
    "-mavx512vnni",
    "-ffp-contract=off",  # it may differ from one copy of a loop to the next, and bits with it
    "-Wno-maybe-uninitialized",  # GCC 12 warns of its own intrinsics
    "-Wno-uninitialized",
)


def library() -> Path:
    """Where the compiled kernels of exactly these sources are, or will be."""
    facts = (*FLAGS, torch.__version__, platform.python_version(), *platform.libc_ver())
    digest = hashlib.sha256("\n".join(facts).encode())
    for source in sorted((*HERE.glob("*.h"), *HERE.glob("*.cpp"))):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return BUILT / digest.hexdigest()[:16] / "step.so"
