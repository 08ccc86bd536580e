"""OpenVINO GenAI: its continuous batching pipeline on int8 weights, requests handed over all at once."""

import argparse
from typing import Any

import numpy as np
import openvino
import openvino_genai

from bench.peers.job import Generate, Job, serve


def load(asked: argparse.Namespace) -> Generate:
    """A folder that optimum-cli exported. Options: rows, cache_gb, and OpenVINO's own properties."""
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = int(asked.option.pop("cache_gb", 4))
    scheduler.max_num_batched_tokens = int(asked.option.pop("rows", 512))
    scheduler.max_num_seqs = asked.slots
    scheduler.enable_prefix_caching = False
    properties = {"INFERENCE_NUM_THREADS": asked.threads, **asked.option}
    pipeline = openvino_genai.ContinuousBatchingPipeline(str(asked.model), scheduler, "CPU", properties)

    def generate(job: Job) -> list[list[int]]:
        prompts = [openvino.Tensor(np.array([prompt], dtype=np.int64)) for prompt in job.prompts]
        results = pipeline.generate(prompts, [_config(job, length) for length in job.lengths])
        return [list(result.m_generation_ids[0]) for result in results]

    return generate


def _config(job: Job, length: int) -> Any:
    config = openvino_genai.GenerationConfig(max_new_tokens=length, ignore_eos=True)
    if job.sampling:
        config.do_sample = True
        config.temperature = job.sampling.temperature
        config.top_k = job.sampling.top_k
        config.top_p = job.sampling.top_p
        config.repetition_penalty = job.sampling.repetition_penalty
    return config


if __name__ == "__main__":
    serve(load)
