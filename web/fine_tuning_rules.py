"""What of a fine-tune's request does not go together; each field by itself its model has checked."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from jobs.catalog import ModelVersion
from jobs.finetune_input import Hyperparameters
from web.errors import BadRequest
from web.fine_tuning_request import FineTuningRequest

_LABEL = re.compile(r"[A-Za-z0-9._/-]+")
_NO_PARAMETER, _NO_VALUE, _TWICE = "unsupported_parameter", "unsupported_value", "duplicate_parameter"


@dataclass(frozen=True)
class _Clash:
    """Something that contradicts something else; `param` is where it stands."""

    param: str
    code: str
    message: str


def refuse_contradictions(asked: FineTuningRequest) -> None:
    """Look at what the request says by itself.

    Raises:
        BadRequest: two parts of it do not go together.
    """
    for rule in (_of_start, _of_adapter, _of_shape, _of_step, _of_rate, _of_seed):
        for clash in rule(asked):
            raise BadRequest(clash.message, param=clash.param, code=clash.code)


def refuse_block(asked: FineTuningRequest, context: int) -> None:
    """Raises BadRequest for rows that are longer than what the model can look at."""
    block = asked.asked.block_size
    if isinstance(block, int) and block > context:
        said = (
            f"'{{param}}' is {block:,}, but the model has a context of {context:,} tokens. Send at most that."
        )
        param = asked.path("block_size")
        raise BadRequest(said.replace("{param}", param), param=param, code="context_length_exceeded")


def refuse_vocabulary(asked: FineTuningRequest, base: ModelVersion | None, tokens: int | None) -> None:
    """Raises BadRequest for a start from scratch whose tokenizer, of so many tokens, does not fit."""
    if tokens is None:
        return
    given = asked.architecture.vocab_size if asked.architecture else base.vocab_size if base else None
    if given is not None and tokens > given:
        whose = "the architecture" if asked.architecture else f"the model '{asked.model}'"
        said = f"The tokenizer has {tokens:,} tokens, but {whose} has room for {given:,}. "
        said += "Send an 'architecture' whose 'vocab_size' is left out or at least that."
        raise BadRequest(said, param="architecture.vocab_size", code="invalid_value")


def refuse_label(asked: FineTuningRequest) -> None:
    """Raises BadRequest for the name of no model with which nothing can start from scratch."""
    if not _LABEL.fullmatch(asked.model):
        said = "There is no model of that name, and no other can be given to one that starts from scratch: "
        said += "send letters, digits, '-', '_', '.' and '/' only."
        raise BadRequest(said, param="model", code="invalid_value")
    if asked.architecture is None:
        said = f"There is no model '{asked.model}' whose architecture could be taken. Send an 'architecture'."
        raise BadRequest(said, param="architecture", code="missing_required_parameter")


def _of_start(asked: FineTuningRequest) -> Iterator[_Clash]:
    if asked.init == "scratch":
        return
    for name in ("architecture", "tokenizer"):
        if getattr(asked, name) is not None:
            said = f"'{name}' is that of the model, unless 'init' is \"scratch\". Leave it out, or send that."
            yield _Clash(name, _NO_PARAMETER, said)


def _of_adapter(asked: FineTuningRequest) -> Iterator[_Clash]:
    if asked.init == "scratch" and asked.adapter != "full":
        said = (
            f'An adapter ("{asked.adapter}") needs weights to adapt, which there are none of at a start from '
        )
        said += "scratch. Leave 'adapter' out."
        yield _Clash("adapter", _NO_VALUE, said)
    if asked.adapter == "full":
        for name in _given(asked, lambda name: name.startswith("lora_")):
            said = (
                f"'{asked.path(name)}' only goes with an 'adapter' of \"lora\" or \"qlora\". Send that, or "
            )
            yield _Clash(asked.path(name), _NO_PARAMETER, said + "leave it out.")


def _of_shape(asked: FineTuningRequest) -> Iterator[_Clash]:
    made = asked.architecture
    if made is not None and made.n_embd % made.n_head:
        said = f"'architecture.n_embd' is {made.n_embd}, which {made.n_head} heads cannot share. Send a "
        yield _Clash("architecture.n_embd", "invalid_value", said + "multiple of 'n_head'.")


def _of_step(asked: FineTuningRequest) -> Iterator[_Clash]:
    given = asked.asked
    if given.tokens_per_step is not None and given.gradient_accumulation_steps != "auto":
        said = f"'{asked.path('tokens_per_step')}' decides 'gradient_accumulation_steps'. Send one of them."
        yield _Clash(asked.path("tokens_per_step"), _TWICE, said)


def _of_rate(asked: FineTuningRequest) -> Iterator[_Clash]:
    given = asked.asked
    if given.learning_rate != "auto" and given.learning_rate_multiplier != "auto":
        said = f"'{asked.path('learning_rate')}' leaves 'learning_rate_multiplier' nothing to multiply. Send "
        yield _Clash(asked.path("learning_rate"), _TWICE, said + "one of them.")
    if given.lr_scheduler_type == "constant" and given.warmup_steps not in ("auto", 0):
        said = f"'{asked.path('warmup_steps')}' does not go with the schedule \"constant\". Send "
        yield _Clash(asked.path("warmup_steps"), _NO_PARAMETER, said + '"constant_with_warmup".')


def _of_seed(asked: FineTuningRequest) -> Iterator[_Clash]:
    inner = asked.asked.seed
    if asked.seed is not None and inner is not None and inner != asked.seed:
        said = f"'seed' is {asked.seed}, and '{asked.path('seed')}' is {inner}. Send one of them."
        yield _Clash(asked.path("seed"), _TWICE, said)


def _given(asked: FineTuningRequest, which: Callable[[str], bool]) -> list[str]:
    """The hyperparameters that the request names."""
    return [
        name for name in Hyperparameters.model_fields if which(name) and name in asked.asked.model_fields_set
    ]
