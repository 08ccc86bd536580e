"""What is stored of a job's sequences."""

from types import SimpleNamespace
from typing import Any

from jobs.inputs import GenerationInput, Sampling
from worker.sequence import Logprob, Sequence
from worker.work import Work


def test_a_job_cut_short_within_a_step_has_a_log_probability_for_each_token() -> None:
    sampling = Sampling(seed=1, max_tokens=5, logprobs=0)
    sequence = Sequence([1], sampling)
    sequence.tokens.append(7)
    sequence.logprobs += [Logprob(7, -0.5, ()), Logprob(8, -0.7, ())]  # the engine writes these first
    tokenizer = SimpleNamespace(decode=lambda tokens: "x" * len(tokens))
    served: Any = SimpleNamespace(lane=SimpleNamespace(description=SimpleNamespace(tokenizer=tokenizer)))
    job: Any = None
    task = GenerationInput(prompts=((1,),), sampling=sampling)
    stored = Work(job, served, task, [[sequence]], unfinished=1)._stored(sequence)
    assert [one["token"] for one in stored["logprobs"]] == stored["tokens"] == [7]
