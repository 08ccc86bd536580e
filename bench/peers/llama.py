"""llama.cpp: continuous batching through its batch API, as its server does it, from a GGUF file."""

import argparse
from typing import Any

import llama_cpp
import numpy as np

from bench.peers.job import Generate, Job, Sampling, serve

_CONTEXT = 512  # positions of a sequence
_ROWS = 512  # of a pass
_SILENT = llama_cpp.llama_log_callback(lambda level, text, data: None)


class Context:
    """A loaded model with room for `slots` sequences."""

    def __init__(self, file: str, threads: int, slots: int, option: dict[str, str]) -> None:
        llama_cpp.llama_backend_init()
        llama_cpp.llama_log_set(_SILENT, None)
        self.model = llama_cpp.llama_model_load_from_file(
            file.encode(), llama_cpp.llama_model_default_params()
        )
        asked = llama_cpp.llama_context_default_params()
        asked.n_ctx, asked.n_seq_max = _CONTEXT * slots, slots
        asked.n_batch = asked.n_ubatch = _ROWS
        asked.n_threads = asked.n_threads_batch = threads
        for name, value in option.items():
            setattr(asked, name, int(value))
        self.slots = slots
        self.context = llama_cpp.llama_init_from_model(self.model, asked)
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self._batch = llama_cpp.llama_batch_init(_ROWS, 0, 1)

    def clear(self, slot: int) -> None:
        """Forget what a slot holds."""
        llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(self.context), slot, -1, -1)

    def decode(self, rows: list[tuple[int, int, int, bool]]) -> np.ndarray[Any, Any]:
        """Logits [wanted, vocab] of rows of (token, position, slot, whether its logits are wanted)."""
        batch = self._batch
        batch.n_tokens = len(rows)
        for row, (token, position, slot, wanted) in enumerate(rows):
            batch.token[row], batch.pos[row], batch.logits[row] = token, position, wanted
            batch.n_seq_id[row], batch.seq_id[row][0] = 1, slot
        failed = llama_cpp.llama_decode(self.context, batch)
        if failed:
            raise RuntimeError(f"llama_decode returned {failed}")
        shape = (sum(row[3] for row in rows), self.vocab)
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits(self.context), shape)


class Request:
    """One request in its slot."""

    def __init__(self, number: int, slot: int, prompt: list[int], length: int, sampler: Any) -> None:
        self.number, self.slot, self.prompt, self.length, self.sampler = number, slot, prompt, length, sampler
        self.tokens: list[int] = []

    def rows(self) -> list[tuple[int, int, int, bool]]:
        """Its rows of the next pass: the whole prompt, then its last token."""
        if self.tokens:
            return [(self.tokens[-1], len(self.prompt) + len(self.tokens) - 1, self.slot, True)]
        last = len(self.prompt) - 1
        return [(token, position, self.slot, position == last) for position, token in enumerate(self.prompt)]


def generate(context: Context, job: Job) -> list[list[int]]:
    """All of a job's requests; one that ends leaves its slot to the next."""
    waiting = list(range(len(job.prompts)))[::-1]
    free = list(range(context.slots))[::-1]
    running: list[Request] = []
    answers: list[list[int]] = [[] for _ in job.prompts]
    while waiting or running:
        room = _ROWS - len(running)
        while waiting and free and len(job.prompts[waiting[-1]]) <= room:
            number, slot = waiting.pop(), free.pop()
            room -= len(job.prompts[number])
            prompt, sampling = job.prompts[number], job.sampling
            sampler = _sampler(sampling, context.vocab, prompt, number) if sampling else None
            running.append(Request(number, slot, prompt, job.lengths[number], sampler))
        for request, token in zip(running, _step(context, running), strict=True):
            request.tokens.append(token)
            if len(request.tokens) == request.length:
                answers[request.number] = request.tokens
                context.clear(request.slot)
                free.append(request.slot)
        running = [request for request in running if len(request.tokens) < request.length]
    return answers


def _step(context: Context, running: list[Request]) -> list[int]:
    rows = [row for request in running for row in request.rows()]
    logits = context.decode(rows)
    if running[0].sampler is None:
        return [int(token) for token in logits.argmax(1)]  # faster than its greedy sampler
    wanted = [row for row, (_, _, _, wants) in enumerate(rows) if wants]
    return [
        llama_cpp.llama_sampler_sample(request.sampler, context.context, row)
        for request, row in zip(running, wanted, strict=True)
    ]


def _sampler(sampling: Sampling, vocab: int, prompt: list[int], seed: int) -> Any:
    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    for part in (
        llama_cpp.llama_sampler_init_penalties(vocab, _CONTEXT, sampling.repetition_penalty, 0.0, 0.0),
        llama_cpp.llama_sampler_init_top_k(sampling.top_k),
        llama_cpp.llama_sampler_init_top_p(sampling.top_p, 1),
        llama_cpp.llama_sampler_init_temp(sampling.temperature),
        llama_cpp.llama_sampler_init_dist(seed),
    ):
        llama_cpp.llama_sampler_chain_add(chain, part)
    for token in prompt:
        llama_cpp.llama_sampler_accept(chain, token)
    return chain


def load(asked: argparse.Namespace) -> Generate:
    """A GGUF file. Options: numbers of llama_context_params."""
    context = Context(str(asked.model), asked.threads, asked.slots, asked.option)
    return lambda job: generate(context, job)


if __name__ == "__main__":
    serve(load)
