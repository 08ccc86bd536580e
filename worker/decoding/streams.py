"""The only source of chance: a number that depends on (seed, index, step) and on nothing else."""

import numpy as np
from numpy.typing import NDArray

GOLDEN = 0x9E3779B97F4A7C15

Counters = NDArray[np.uint64]


def streams(seeds: list[int], indexes: list[int]) -> Counters:
    """Where the random stream of each (seed, index) starts."""
    return _mixed(_mixed(np.array(seeds, np.uint64)) + np.array(indexes, np.uint64))


def uniforms(starts: Counters, steps: list[int]) -> NDArray[np.float64]:
    """Numbers in [0, 1): splitmix64 (Steele, Lea and Flood 2014) with the step as its counter."""
    bits = _mixed(starts + (np.array(steps, np.uint64) + np.uint64(1)) * np.uint64(GOLDEN))
    return (bits >> np.uint64(24)).astype(np.float64) * 2.0**-40


def _mixed(bits: Counters) -> Counters:
    """The finalizer of splitmix64; arrays of unsigned numbers wrap around."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
