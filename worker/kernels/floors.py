"""The least time that each part of a pass can take on this machine, to hold `KernelGPT2.profile` against."""

import sys

from worker.kernels import compiled
from worker.model import Architecture

REPEATS = 5
PANEL = 48  # columns of a head are padded to


def read_bandwidth(threads: int) -> float:
    """Bytes a second that the threads read together from memory that no cache holds."""
    found: float = compiled().read_bandwidth(threads, REPEATS)
    return found


def dot_rate(threads: int) -> float:
    """int8 multiplications and additions a second, with nothing to wait for."""
    found: float = compiled().dot_rate(threads, REPEATS)
    return found


def floors(
    architecture: Architecture, rows: int, length: int, bandwidth: float, rate: float
) -> dict[str, float]:
    """Seconds of a pass of `rows` next tokens, each after `length` positions, under `profile`'s names.

    A product reads its weights once and makes two operations with each for every row; attention reads 16-bit
    keys and values. The larger of bytes / bandwidth and operations / rate counts.
    """
    a = architecture
    weights = {
        "c_attn": a.n_layer * 3 * a.n_embd * a.n_embd,
        "attn.c_proj": a.n_layer * a.n_embd * a.n_embd,
        "c_fc": a.n_layer * a.n_embd * a.inner,
        "mlp.c_proj": a.n_layer * a.n_embd * a.inner,
        "head": -(-a.vocab_size // PANEL) * PANEL * a.n_embd,
    }
    found = {part: max(size / bandwidth, 2 * rows * size / rate) for part, size in weights.items()}
    found["attention"] = 2 * 2 * a.n_layer * a.n_embd * rows * length / bandwidth
    return found


def main() -> None:
    """Print what this machine can do."""
    for threads in (1, 2):
        reads, dots = read_bandwidth(threads) / 1e9, dot_rate(threads) / 1e9
        sys.stdout.write(f"{threads} threads: {reads:.1f} GB/s read, {dots:,.0f} int8 GOP/s\n")


if __name__ == "__main__":
    main()
