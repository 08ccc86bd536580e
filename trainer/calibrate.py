"""Measures what a host can train and how fast, and prints it as JSON: `python -m trainer.calibrate auto`."""

import importlib
import json
import os
import sys
import time
import warnings
from typing import Any

import torch
from transformers import GPT2Config

from jobs.finetune_input import Precision
from trainer import precision
from trainer.network import Student, quickened

_VOCABULARY = 8192
_ROWS, _TOKENS = 2, 256  # of a step
_STEPS = 3  # timed, after one that is not
_PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16")
_SHARE = 0.7  # of the memory that a training may take


def survey(wanted: str) -> dict[str, Any]:
    """The fields of `jobs.trainers.Trainer`, apart from its name."""
    on_cuda = wanted != "cpu" and torch.cuda.is_available()
    device = "cuda" if on_cuda else "cpu"
    refused = _refused(on_cuda)
    return {
        "device": device,
        "precisions": precision.available(device),
        "refused": refused,
        "calibration": {one: _rate(device, one) for one in _PRECISIONS if one not in refused},
        "memory": _memory(on_cuda),
    }


def _refused(on_cuda: bool) -> dict[str, str]:
    """What this host cannot do, and why."""
    reasons = {}
    if not on_cuda:
        reasons["fp16"] = "Training in fp16 needs a CUDA device. Send bf16 or fp32."
    if on_cuda and not torch.cuda.is_bf16_supported():
        reasons["bf16"] = "The trainer's GPU has no bf16. Send fp16 or fp32."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("bitsandbytes")
    except (ImportError, RuntimeError, OSError) as error:
        reasons["qlora"] = f"QLoRA needs bitsandbytes, which does not load on the trainer's host: {error}."
    return reasons


def _rate(device: str, asked: Precision) -> float:
    """Floating-point operations per second of whole training steps of a small GPT-2."""
    torch.manual_seed(0)
    shape = GPT2Config(vocab_size=_VOCABULARY, n_positions=_TOKENS, n_layer=2, bos_token_id=0, eos_token_id=0)
    model: torch.nn.Module = quickened(Student(shape))
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    tokens = torch.randint(_VOCABULARY, (_ROWS, _TOKENS), device=device)
    positions = torch.arange(_TOKENS, device=device).expand(_ROWS, -1)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[asked]
    best = float("inf")
    for _ in range(_STEPS + 1):  # the fastest counts: the first warms up, others may be disturbed
        began = time.perf_counter()
        with torch.autocast(device, dtype, enabled=asked != "fp32"):
            loss = model(input_ids=tokens, position_ids=positions, labels=tokens)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 6 * sum(one.numel() for one in model.parameters()) * tokens.numel() / best


def _memory(on_cuda: bool) -> int:
    if on_cuda:
        return int(torch.cuda.get_device_properties(0).total_memory * 0.95)
    return int(_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def main() -> None:
    """Print one line."""
    if threads := int(os.environ.get("TRAINER_THREADS", "0")):
        torch.set_num_threads(threads)
    sys.stdout.write(json.dumps(survey(sys.argv[1] if len(sys.argv) > 1 else "auto")) + "\n")


if __name__ == "__main__":
    main()
