"""The whole stack on one machine: start it, try it, give it keys. Knows processes, not tensors."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The repository."""
