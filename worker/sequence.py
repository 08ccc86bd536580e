"""One generation in flight: what it was asked, what it has said so far, and how it ended."""

from dataclasses import dataclass, field
from typing import Literal

from jobs.errors import JobError
from jobs.inputs import Sampling

FinishReason = Literal["stop", "length"]


@dataclass(eq=False)
class Sequence:
    """Continuation number `index` of a job's prompt; equal only to itself.

    What it says depends on (model, prompt, sampling, index) alone, never on its neighbours or its slot.
    """

    prompt: list[int]
    sampling: Sampling
    index: int = 0
    tokens: list[int] = field(default_factory=list)  # generated ids, the end-of-text that ended it included
    text: str = ""  # set at the end; neither the stop string nor the end-of-text is in it
    finish_reason: FinishReason | None = None
    error: JobError | None = None
    first_token_at: float | None = None  # time.monotonic()
    finished_at: float | None = None  # time.monotonic()
    cached: int = 0  # how many of prompt + tokens have their K/V in the slot

    @property
    def finished(self) -> bool:
        """Whether it has its text or its error."""
        return self.finished_at is not None
