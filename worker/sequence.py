"""One generation in flight: what it was asked, what it has said so far, and how it ended."""

from dataclasses import dataclass, field
from typing import Literal

from jobs.errors import JobError
from jobs.inputs import Sampling

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Logprob:
    """What the model thought of one token: natural logarithms of its softmax over the raw logits."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()  # the likeliest tokens and theirs, best first


@dataclass(eq=False)
class Sequence:
    """Continuation number `index` of a job's prompt; equal only to itself.

    What it says depends on (model, adapter, prompt, sampling, index) alone, never on its neighbours or
    its slot. Of a beam search the best hypothesis is the sequence itself, the next ones are its `runners_up`.
    """

    prompt: list[int]
    sampling: Sampling
    index: int = 0
    adapter: int | None = None  # number of the LoRA adapter, as the model gave it
    echo: bool = False  # log-probabilities of the prompt are wanted
    scored: bool = False  # `cumulative` is wanted, even where no log-probability is shown
    runners_up: "list[Sequence]" = field(default_factory=list)  # of a beam search: filled at its end

    tokens: list[int] = field(default_factory=list)  # generated ids, the end-of-text that ended it included
    text: str = ""  # set at the end; neither the stop string nor the end-of-text is in it
    finish_reason: FinishReason | None = None
    error: JobError | None = None
    cumulative: float = 0.0  # sum of the log-probabilities of its tokens
    logprobs: list[Logprob] = field(default_factory=list)  # one for each token, if asked for
    prompt_logprobs: list[Logprob | None] = field(
        default_factory=list
    )  # one for each of the prompt; first None
    first_token_at: float | None = None  # time.monotonic()
    finished_at: float | None = None  # time.monotonic()
    cached: int = 0  # how many of prompt + tokens have their K/V in the slot
    shared: int = 0  # how many of those another sequence had computed

    @property
    def script(self) -> list[int]:
        """What is read before the next token: the prompt, and what was said if the reading begins anew."""
        return self.prompt + self.tokens if self.tokens else self.prompt

    @property
    def finished(self) -> bool:
        """Whether it has its text or its error."""
        return self.finished_at is not None
