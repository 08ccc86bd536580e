"""What a result says of how it was made, so that it can be made again."""

import torch

from worker.lanes import Served

VERSION = "0.1.0"
"""Penstock's, as in pyproject.toml."""


def receipt(served: Served, seed: int) -> dict[str, str | int | None]:
    """Everything that the tokens depend on, beside the request."""
    over = served.lane.description.digest
    return {
        "model": served.version.name,
        "model_digest": over if served.adapter else served.version.digest,
        "adapter_digest": served.adapter.digest if served.adapter else None,
        "quantization": served.version.quantization,
        "path": served.lane.path,
        "seed": seed,
        "engine": VERSION,
        "torch": torch.__version__,
        "device": served.lane.device,
    }


def device_name(on_cuda: bool) -> str:
    """A GPU by its name, a processor by the widest instructions that torch uses on it."""
    return torch.cuda.get_device_name() if on_cuda else f"cpu {torch.backends.cpu.get_cpu_capability()}"
