"""What a fine-tune is asked to do, parsed once at the door; what is `auto` the plan chooses (see `plan`)."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from jobs.inputs import MAX_FINETUNE_SEED

Auto = Literal["auto"]
Precision = Literal["fp32", "bf16", "fp16"]
Adapter = Literal["full", "lora", "qlora"]
Schedule = Literal["linear", "cosine", "constant", "constant_with_warmup"]
Target = Literal["c_attn", "c_proj", "c_fc"]
"""The products of GPT-2 that can be adapted; `c_proj` is that of the attention and that of the MLP."""

_STRICT = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Hyperparameters(BaseModel):
    """How a fine-tune trains. The first three are OpenAI's; the job shows what was chosen for each `auto`."""

    model_config = _STRICT

    n_epochs: Auto | Annotated[int, Field(ge=1, le=50)] = "auto"
    batch_size: Auto | Annotated[int, Field(ge=1, le=256)] = "auto"  # packed rows of one pass, per process
    learning_rate_multiplier: Auto | Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = "auto"

    learning_rate: Auto | Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] = "auto"  # the peak
    lr_scheduler_type: Schedule = "linear"
    warmup_steps: Auto | Annotated[int, Field(ge=0)] = "auto"
    weight_decay: float = Field(default=0.0, ge=0, le=10, allow_inf_nan=False)
    gradient_accumulation_steps: Auto | Annotated[int, Field(ge=1, le=4096)] = "auto"
    tokens_per_step: Annotated[int, Field(ge=1, le=16_777_216)] | None = None  # instead of the one above
    max_grad_norm: float = Field(default=1.0, ge=0, allow_inf_nan=False)  # 0: no clipping
    precision: Auto | Precision = "auto"
    block_size: Auto | Annotated[int, Field(ge=8, le=65_536)] = "auto"  # tokens of a row
    packing: bool = True  # several examples in one row, which do not see each other
    max_steps: Annotated[int, Field(ge=1)] | None = None
    eval_steps: Auto | Literal["epoch"] | Annotated[int, Field(ge=1)] = "auto"
    save_steps: Auto | Literal["epoch"] | Annotated[int, Field(ge=1)] = "auto"
    save_total_limit: int = Field(default=2, ge=1, le=100)  # the newest; the best is kept beside them
    load_best_model_at_end: bool = False
    early_stopping_patience: Annotated[int, Field(ge=1, le=1000)] | None = None  # evaluations without gain
    target_loss: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None  # of a step; then it ends
    lora_r: int = Field(default=8, ge=1, le=256)
    lora_alpha: float = Field(default=16, gt=0, le=10_000, allow_inf_nan=False)
    lora_dropout: float = Field(default=0.0, ge=0, lt=1, allow_inf_nan=False)
    lora_target_modules: tuple[Target, ...] = Field(default=("c_attn", "c_proj", "c_fc"), min_length=1)


class Architecture(BaseModel):
    """The shape of a GPT-2 that starts from fresh weights."""

    model_config = _STRICT

    n_layer: int = Field(ge=1, le=96)
    n_head: int = Field(ge=1, le=128)
    n_embd: int = Field(ge=8, le=16_384)
    n_positions: int = Field(default=1024, ge=8, le=65_536)  # tokens of context
    vocab_size: int | None = Field(default=None, ge=257, le=1_000_000)  # None: the tokenizer's


PRESETS = {
    "tiny": Architecture(n_layer=2, n_head=2, n_embd=64, n_positions=256, vocab_size=1024),
    "starter": Architecture(n_layer=6, n_head=4, n_embd=256, n_positions=512, vocab_size=4096),
    "gpt2": Architecture(n_layer=12, n_head=12, n_embd=768),
    "gpt2-medium": Architecture(n_layer=24, n_head=16, n_embd=1024),
    "gpt2-large": Architecture(n_layer=36, n_head=20, n_embd=1280),
    "gpt2-xl": Architecture(n_layer=48, n_head=25, n_embd=1600),
}
"""Shapes by name; the `gpt2` ones are those of Radford et al. (2019), with any vocabulary."""

TRAINED_VOCABULARY = 8192
"""Tokens of a tokenizer that is trained on the file, where the architecture does not say."""


class FinetuneInput(BaseModel):
    """What is trained on what. The base model is the job's `model`."""

    model_config = _STRICT

    training_file: str
    validation_file: str | None = None
    suffix: str | None = None  # of the name of the model that comes out
    seed: int = Field(ge=0, le=MAX_FINETUNE_SEED)
    adapter: Adapter = "full"
    init: Literal["pretrained", "scratch"] = "pretrained"
    architecture: Architecture | None = None  # of a start from scratch; None: the base model's
    tokenizer: str | None = None  # of a start from scratch: a model's name; None: trained on the file
    hyperparameters: Hyperparameters
