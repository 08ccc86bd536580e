"""A claimed job in flight: the sequences that it takes, and what is stored of them."""

import time
from collections.abc import Sequence as Several
from dataclasses import dataclass, field
from typing import Any

from jobs.attempts import ClaimedJob
from jobs.inputs import GenerationInput, Prompt, Replay, Sampling
from worker.lanes import Served
from worker.receipt import receipt
from worker.sequence import Logprob, Sequence
from worker.stopping import last_tokens


@dataclass(eq=False)
class Work:
    """A job's sequences, prompt by prompt, and how many have not ended yet."""

    job: ClaimedJob
    served: Served
    task: GenerationInput
    prompts: list[list[Sequence]]  # of each prompt, all that are generated
    unfinished: int
    began: float = field(default_factory=time.monotonic)  # seconds
    unwanted: bool = False  # it ends as soon as its last sequence has left

    @classmethod
    def of(cls, job: ClaimedJob, served: Served) -> "Work":
        """The work of a job. Raises ValidationError."""
        task = GenerationInput.model_validate(job.input)
        prompts, first = [], 0
        for prompt in task.prompts:
            prompts.append(_sequences(task, served, prompt, first))
            first += len(prompts[-1])
        return cls(job, served, task, prompts, unfinished=first)

    @property
    def sequences(self) -> list[Sequence]:
        """All of them."""
        return [sequence for prompt in self.prompts for sequence in prompt]

    @property
    def reached(self) -> int:
        """Tokens that it has, of all sequences."""
        return sum(len(sequence.tokens) for sequence in self.sequences)

    @property
    def submitted(self) -> list[Sequence]:
        """Those that go to the engine: of a beam search the first, which brings the others."""
        if self.task.sampling.num_beams > 1:
            return [prompt[0] for prompt in self.prompts]
        return self.sequences

    def tellable(self) -> list[tuple[Sequence, int]]:
        """Each sequence, and how many of its tokens may be told already: not the one that ends it."""
        eos = self.served.version.eos_token_id
        return [(one, _tellable(one, eos)) for one in self.sequences]

    def output(self) -> dict[str, Any]:
        """What is stored of the generation, complete or not.

        `output_tokens` counts what was generated, so of `best_of` also what is not shown; of a beam search
        the hypotheses that are shown. A prompt counts once, however many continuations it has.
        """
        shown = [sequence for prompt in self.prompts for sequence in self._best(prompt)]
        submitted = set(self.submitted)
        shared = (min(s.shared for s in prompt if s in submitted) for prompt in self.prompts)
        ends = [sequence.finished_at or time.monotonic() for sequence in self.sequences]
        output = {
            "sequences": [self._stored(sequence) for sequence in shown],
            "prompt_tokens": sum(len(prompt[0].prompt) for prompt in self.prompts),
            "cached_tokens": sum(shared),
            "output_tokens": sum(len(sequence.tokens) for sequence in self.sequences),
            "engine_ms": round((max(ends, default=self.began) - self.began) * 1000, 1),
            "model_digest": self.served.version.digest,
            "receipt": receipt(self.served, self.task.sampling.seed),
        }
        if self.task.replay is not None and self.unfinished == 0:
            output["verification"] = _verification(self.task.replay, [s.tokens for s in shown])
        return output

    def _best(self, sequences: list[Sequence]) -> list[Sequence]:
        """The `n` with the highest log-probability per token, where more than `n` were generated."""
        if len(sequences) <= self.task.n:
            return sequences
        ranked = sorted(sequences, key=lambda s: s.cumulative / max(1, len(s.tokens)), reverse=True)
        return ranked[: self.task.n]

    def _stored(self, sequence: Sequence) -> dict[str, Any]:
        tokens = list(sequence.tokens)
        text = sequence.text if sequence.finished else self.served.lane.description.tokenizer.decode(tokens)
        stored: dict[str, Any] = {"text": text, "tokens": tokens, "finish_reason": sequence.finish_reason}
        if self.task.echo:
            stored["prompt_tokens"] = sequence.prompt
        if self.task.sampling.logprobs is not None:
            stored["logprobs"] = [stored_logprob(one) for one in sequence.logprobs[: len(tokens)]]
            if self.task.echo:
                stored["prompt_logprobs"] = [one and stored_logprob(one) for one in sequence.prompt_logprobs]
        return stored


def _sequences(task: GenerationInput, served: Served, prompt: Prompt, first: int) -> list[Sequence]:
    """What continues a prompt; `first` is the number of the first of them in the job."""
    sampling = _ended(task.sampling, served.lane.description.eos_token_ids)
    beams = sampling.num_beams > 1
    count = task.n if beams else max(task.n, task.best_of or 0)
    tokens = _tokens(prompt, served)
    made = [
        Sequence(
            tokens,
            sampling,
            index=first + number,
            echo=task.echo and sampling.logprobs is not None,
            scored=count > task.n,
        )
        for number in range(count)
    ]
    if beams:
        made[0].runners_up = made[1:]
    return made


def _tokens(prompt: Prompt, served: Served) -> list[int]:
    """As the door counted them: a template has written the special tokens already."""
    if isinstance(prompt, str):
        tokens: list[int] = served.lane.description.tokenizer.encode(prompt, add_special_tokens=False).ids
        return tokens
    return list(prompt)


def _ended(sampling: Sampling, ends: tuple[int, ...]) -> Sampling:
    """With every token that ends a text of this model; the engine knows the first by itself."""
    if len(ends) == 1 or sampling.ignore_eos:
        return sampling
    return sampling.model_copy(update={"stop_token_ids": (*sampling.stop_token_ids, *ends[1:])})


def _tellable(sequence: Sequence, eos_token_id: int) -> int:
    count = len(sequence.tokens)
    if count and sequence.tokens[count - 1] in last_tokens(sequence.sampling, eos_token_id):
        count -= 1
    return count


def stored_logprob(one: Logprob) -> dict[str, Any]:
    """As rows and streams have it."""
    return {"token": one.token, "logprob": one.logprob, "top": [list(pair) for pair in one.top]}


def _verification(replay: Replay, said: Several[Several[int]]) -> dict[str, Any]:
    """Whether a replay said the same as the job it repeats."""
    first = [_first_difference(old, new) for old, new in zip(replay.tokens, said, strict=False)]
    return {
        "of": replay.of,
        "same": len(replay.tokens) == len(said) and all(index is None for index in first),
        "sequences": [{"same": index is None, "first_difference": index} for index in first],
        "receipt": replay.receipt,
    }


def _first_difference(old: Several[int], new: Several[int]) -> int | None:
    """Where two texts part; one that goes on where the other ends differs there."""
    for index, (a, b) in enumerate(zip(old, new, strict=False)):
        if a != b:
            return index
    return None if len(old) == len(new) else min(len(old), len(new))
