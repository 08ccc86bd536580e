"""What a job is asked to do, parsed once at the door; after that, types are trusted."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_SEED = 2**63 - 1
MAX_FINETUNE_SEED = 2**31 - 1  # OpenAI's limit
MAX_SEQUENCES = 128  # of one request: its prompts times `n` or `best_of`
MAX_BEAMS = 16
MAX_LOGPROBS = 20  # alternatives shown for each token

Prompt = str | tuple[int, ...]
"""Text to continue, or its token ids."""


class Sampling(BaseModel):
    """How each next token is chosen and when to stop.

    What changes the logits comes in the order of the fields: first bias and penalties, then temperature,
    then the filters.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    max_tokens: int = Field(ge=0)  # 0: the prompt is read, which is all that an echo needs
    min_tokens: int = Field(default=0, ge=0)
    seed: int = Field(ge=0, le=MAX_SEED)

    logit_bias: dict[int, Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]] = Field(
        default_factory=dict, max_length=300
    )
    repetition_penalty: float = Field(default=1.0, gt=0, le=10, allow_inf_nan=False)
    presence_penalty: float = Field(default=0.0, ge=-2, le=2, allow_inf_nan=False)
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2, allow_inf_nan=False)
    no_repeat_ngram_size: int = Field(default=0, ge=0)  # 0: any n-gram may come again
    bad_words: tuple[Annotated[tuple[int, ...], Field(min_length=1)], ...] = Field(default=(), max_length=200)

    temperature: float = Field(default=1.0, ge=0, le=2, allow_inf_nan=False)  # 0 is greedy
    top_k: int = Field(default=0, ge=0)  # 0 keeps all
    top_p: float = Field(default=1.0, gt=0, le=1, allow_inf_nan=False)
    min_p: float = Field(default=0.0, ge=0, le=1, allow_inf_nan=False)
    typical_p: float = Field(default=1.0, gt=0, le=1, allow_inf_nan=False)

    num_beams: int = Field(default=1, ge=1, le=MAX_BEAMS)  # more than 1: beam search, `temperature` is 0
    length_penalty: float = Field(default=1.0, ge=-10, le=10, allow_inf_nan=False)
    early_stopping: bool | Literal["never"] = False

    stop: tuple[Annotated[str, Field(min_length=1, max_length=256)], ...] = Field(default=(), max_length=4)
    stop_token_ids: tuple[int, ...] = Field(default=(), max_length=64)
    ignore_eos: bool = False

    logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)  # alternatives beside the token's own

    @model_validator(mode="after")
    def _beams_are_greedy(self) -> Self:
        if self.num_beams > 1 and self.temperature > 0:
            raise ValueError("beam search goes with temperature 0")
        return self


class Replay(BaseModel):
    """What a replay is compared with."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    of: str  # the job that said it first
    tokens: tuple[tuple[int, ...], ...]  # of each of its sequences
    receipt: dict[str, str | int | None]


class GenerationInput(BaseModel):
    """`n` continuations of each prompt, chosen from `best_of` by their log-probability per token."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    prompts: tuple[Prompt, ...] = Field(min_length=1, max_length=MAX_SEQUENCES)
    n: int = Field(default=1, ge=1, le=MAX_SEQUENCES)
    best_of: int | None = Field(default=None, ge=1, le=MAX_SEQUENCES)  # None: as many as `n`
    echo: bool = False  # log-probabilities of the prompt too, where any are asked for
    stream: bool = False  # somebody reads the tokens as they come
    sampling: Sampling
    replay: Replay | None = None

    def cost(self, prompt_tokens: int) -> int:
        """The tokens of the prompts, and the most that may be written for them."""
        return prompt_tokens + self.width * self.sampling.max_tokens

    @property
    def width(self) -> int:
        """Its sequences, each of which takes a slot: of a beam search the beams."""
        beams = self.sampling.num_beams
        return len(self.prompts) * (beams if beams > 1 else max(self.n, self.best_of or 1))
