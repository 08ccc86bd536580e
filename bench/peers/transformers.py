"""transformers: `generate` over padded batches, or its continuous batching (`--option way=continuous`)."""

import argparse
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, GPT2LMHeadModel
from transformers.utils import logging

from bench.peers.job import Generate, Job, serve

_END = 50256


def load(asked: argparse.Namespace) -> Generate:
    """A folder in Hugging Face layout. Options: way, dtype, device."""
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    torch.set_num_threads(asked.threads)
    dtype = getattr(torch, asked.option.get("dtype", "bfloat16"))
    model: Any = GPT2LMHeadModel.from_pretrained(asked.model, dtype=dtype)
    model = model.eval().to(asked.option.get("device", "cpu"))
    if asked.option.get("way") == "continuous":
        return Continuous(model, asked).generate
    return lambda job: static(model, job, asked.slots)


@torch.inference_mode()
def static(model: Any, job: Job, slots: int) -> list[list[int]]:
    """Batch after batch, padded on the left; each goes on until its longest request has all its tokens."""
    answers: list[list[int]] = []
    for start in range(0, len(job.prompts), slots):
        prompts, lengths = job.prompts[start : start + slots], job.lengths[start : start + slots]
        widest = max(map(len, prompts))
        padded = torch.tensor([[_END] * (widest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (widest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        config = _config(job, max(lengths))
        said = model.generate(
            padded.to(model.device), attention_mask=mask.to(model.device), generation_config=config
        )
        rows = said[:, widest:].tolist()
        answers += [row[:length] for row, length in zip(rows, lengths, strict=True)]
    return answers


class Continuous:
    """Its continuous batching; what was allocated and captured is kept from job to job."""

    def __init__(self, model: Any, asked: argparse.Namespace) -> None:
        self._model, self._slots = model, asked.slots
        self._sampling: Any = "none yet"

    def generate(self, job: Job) -> list[list[int]]:
        """All of a job's requests."""
        if job.sampling != self._sampling and self._sampling != "none yet":
            self._model.destroy_cached_continuous_batching_manager()
        self._sampling = job.sampling
        running = self._model.continuous_batching_context_manager(
            generation_config=_config(job, max(job.lengths)),
            continuous_batching_config=self._batching(),
            persistent_manager=True,
            block=True,
            warmup=True,
        )
        with running as manager:
            for number, (prompt, length) in enumerate(zip(job.prompts, job.lengths, strict=True)):
                manager.add_request(prompt, str(number), max_new_tokens=length, eos_token_id=-1)
            answers: dict[int, list[int]] = {}
            while len(answers) < len(job.prompts):
                result = manager.get_result(timeout=60)
                if result is None or result.error:
                    raise RuntimeError(f"continuous batching stopped: {result and result.error}")
                if result.is_finished():
                    answers[int(result.request_id)] = list(result.generated_tokens)
        return [answers[number] for number in range(len(job.prompts))]

    def _batching(self) -> ContinuousBatchingConfig:
        if self._model.device.type == "cuda":
            return ContinuousBatchingConfig(max_requests_per_batch=self._slots)
        return ContinuousBatchingConfig(
            max_requests_per_batch=self._slots, num_blocks=3 * self._slots, max_batch_tokens=self._slots + 256
        )


def _config(job: Job, length: int) -> Any:
    drawn = {"do_sample": True, **vars(job.sampling)} if job.sampling else {}
    ends = {"pad_token_id": _END, "eos_token_id": _END}
    return GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=length, min_new_tokens=length, **ends, **drawn
    )


if __name__ == "__main__":
    serve(load)
