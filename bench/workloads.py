"""What every contestant is asked: the same random prompts, all requests at once."""

import random

from bench.peers.job import Job, Sampling

VOCABULARY = 50_000  # of the prompts' random ids; no end-of-text among them
PROMPT_TOKENS = 64
NEW_TOKENS = 128


def streams(count: int, sampling: Sampling | None = None) -> Job:
    """So many prompts of 64 tokens, 128 new tokens each."""
    draw = random.Random(3)
    return Job([_prompt(draw, PROMPT_TOKENS) for _ in range(count)], [NEW_TOKENS] * count, sampling)


def mixed(requests: int = 64) -> Job:
    """Prompts and answers of 16 to 256 tokens, more of them than slots."""
    draw = random.Random(7)
    prompts = [_prompt(draw, draw.randint(16, 256)) for _ in range(requests)]
    return Job(prompts, [draw.randint(16, 256) for _ in range(requests)])


def _prompt(draw: random.Random, tokens: int) -> list[int]:
    return [draw.randrange(VOCABULARY) for _ in range(tokens)]


WORKLOADS = {
    "1": streams(1),
    "8": streams(8),
    "32": streams(32),
    "mixed": mixed(),
    "sampled": streams(32, Sampling()),
}
CUDA_WORKLOADS = {"1": streams(1), "32": streams(32), "256": streams(256)}
