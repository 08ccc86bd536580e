"""What a job is asked to do, parsed once at the door; after that, types are trusted."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MAX_SEED = 2**63 - 1
MAX_SEQUENCES = 128  # of one request: its prompts times `n`

Prompt = str | tuple[int, ...]
"""Text to continue, or its token ids."""


class Sampling(BaseModel):
    """How each next token is chosen and when to stop."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    max_tokens: int = Field(ge=1)
    min_tokens: int = Field(default=0, ge=0)
    temperature: float = Field(default=1.0, ge=0, le=2, allow_inf_nan=False)  # 0 is greedy
    top_p: float = Field(default=1.0, gt=0, le=1, allow_inf_nan=False)
    top_k: int = Field(default=0, ge=0)  # 0 keeps all
    seed: int = Field(ge=0, le=MAX_SEED)
    stop: tuple[Annotated[str, Field(min_length=1, max_length=256)], ...] = Field(default=(), max_length=4)
    ignore_eos: bool = False


class GenerationInput(BaseModel):
    """`n` continuations of each prompt."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    prompts: tuple[Prompt, ...] = Field(min_length=1, max_length=MAX_SEQUENCES)
    n: int = Field(default=1, ge=1, le=MAX_SEQUENCES)
    sampling: Sampling
