"""CTranslate2: static batches of int8, sorted by length, which shrink as requests end."""

import argparse
import json
from typing import Any

import ctranslate2

from bench.peers.job import Generate, Job, serve


def load(asked: argparse.Namespace) -> Generate:
    """A folder of ct2-transformers-converter."""
    generator = ctranslate2.Generator(str(asked.model), intra_threads=asked.threads, **asked.option)
    words = json.loads((asked.model / "vocabulary.json").read_text())

    def generate(job: Job) -> list[list[int]]:
        answers: list[list[int]] = [[] for _ in job.prompts]
        for batch in _batches(job, asked.slots):
            prompts = [[words[token] for token in job.prompts[number]] for number in batch]
            options = _options(job, batch)
            results = generator.generate_batch(prompts, include_prompt_in_result=False, **options)
            for number, result in zip(batch, results, strict=True):
                answers[number] = result.sequences_ids[0]
        return answers

    return generate


def _options(job: Job, batch: list[int]) -> dict[str, Any]:
    lengths = [job.lengths[number] for number in batch]
    prompts = [len(job.prompts[number]) for number in batch]
    options: dict[str, Any] = {"min_length": max(lengths), "max_length": max(lengths)}  # no end before it
    if min(lengths) < max(lengths):  # it takes one length for all: ask at each token whether it was the last
        shortest = min(prompts)  # steps count from where the shortest prompt ends
        last = [prompt - shortest + length - 1 for prompt, length in zip(prompts, lengths, strict=True)]
        options["callback"] = lambda result: result.step >= last[result.batch_id]
    if job.sampling:
        options |= {
            "sampling_temperature": job.sampling.temperature,
            "sampling_topk": job.sampling.top_k,
            "sampling_topp": job.sampling.top_p,
            "repetition_penalty": job.sampling.repetition_penalty,
        }
    return options


def _batches(job: Job, slots: int) -> list[list[int]]:
    """Numbers of requests, the longest prompts first, as its own `max_batch_size` would split them."""
    order = sorted(range(len(job.prompts)), key=lambda number: -len(job.prompts[number]))
    return [order[start : start + slots] for start in range(0, len(order), slots)]


if __name__ == "__main__":
    serve(load)
