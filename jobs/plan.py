"""What `auto` means: a fine-tune's hyperparameters chosen from its data, its model and its host.

- `block_size`: the model's context, at most 1024.
- a step: 16,384 tokens, but few enough rows that an epoch has 30 steps; `tokens_per_step` says it otherwise,
  and where only `batch_size` is given, that many rows. It is divided into passes of `batch_size` rows, as
  many as leave the activations under 4 GiB and at most 16, and `gradient_accumulation_steps`.
- `n_epochs`: 3 up to a million tokens, 2 up to ten million, then 1. From scratch as many as show the model 20
  tokens for each parameter, from 1 to 20. With `max_steps` as many as those need.
- the peak of the learning rate at a width of 768: 5e-5, LoRA and QLoRA 2e-4, from scratch 6e-4; times
  768 / width, at most eightfold and at least a quarter; times `learning_rate_multiplier`.
- `warmup_steps`: a twentieth of all steps, at most 500; from scratch a tenth, at most 2,000. A constant
  schedule has none.
- `eval_steps`: so that there are at least ten evaluations in all, and four an epoch.
- `save_steps` stays `auto`: a checkpoint every few minutes.
- `precision`: bf16 where the host multiplies it fast, else fp16 where it does, else fp32.

The rates are those of published practice: GPT-2 fine-tunes with Adam, the LoRA and QLoRA papers, and GPT-3's
table of models trained from scratch, whose rates fall with the width as here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobs.finetune_input import Adapter, FinetuneInput, Hyperparameters, Precision

LONGEST_AUTO_BLOCK = 1024

_STEP_TOKENS = 16_384
_STEPS_PER_EPOCH = 30
_ACTIVATIONS = 4 * 2**30  # bytes of one pass
_MOST_ROWS = 16  # of one pass
_SCRATCH_TOKENS = 20  # for each parameter (Hoffmann et al., 2022)
_SCRATCH_EPOCHS = 20
_WIDTH = 768
_RATES: dict[str, float] = {"full": 5e-5, "lora": 2e-4, "qlora": 2e-4, "scratch": 6e-4}
_PREFERRED: tuple[Precision, ...] = ("bf16", "fp16", "fp32")

_HELD_OUT = 20  # one of so many
_MOST_HELD_OUT = 128

# bytes; what is not plain arithmetic is fitted to 13 trainings on a CPU: 0.92 to 1.37 of their peaks.
# A GPU does not keep the scores of attention, but all logits, and was not measured.
_TRAINED = 16  # weight, gradient and Adam's two moments in fp32
_SAVED = 12  # the same without the gradient
_WEIGHT = 4  # frozen ones are in fp32, too
_CAST = {"fp32": 0, "bf16": 2, "fp16": 2}  # of each weight while it is multiplied
_NF4 = 0.5
_ACTIVATION = {"fp32": 90, "bf16": 50, "fp16": 50}  # per token, layer and unit of width
_ADAPTED = 40  # likewise, what LoRA adds
_SCORES = {"fp32": 1 / 18, "bf16": 1 / 36, "fp16": 1 / 36}  # likewise, and per token of the block
_LOGIT = {"fp32": 4, "bf16": 2, "fp16": 2}
_LOGIT_ROWS = 2048  # tokens whose logits are there at once
_AROUND = 250_000_000  # of the process, once it trains
_BESIDE = 2**20  # configuration, tokenizer and states of generators in a checkpoint


@dataclass(frozen=True)
class Shape:
    """The shape of a GPT-2; its output shares the weights of its input."""

    n_layer: int
    n_head: int
    n_embd: int
    n_positions: int
    vocab_size: int

    @property
    def parameters(self) -> int:
        """How many it has."""
        return self.embeddings + self.n_layer * _of_layer(self.n_embd) + 2 * self.n_embd

    @property
    def embeddings(self) -> int:
        """How many of them are those of tokens and positions."""
        return self.n_embd * (self.vocab_size + self.n_positions)

    def lora_parameters(self, r: int, targets: Sequence[str]) -> int:
        """How many LoRA adds."""
        widths = {"c_attn": 1 + 3, "c_proj": 1 + 1 + 4 + 1, "c_fc": 1 + 4}  # of in and out, both of c_proj's
        return self.n_layer * r * self.n_embd * sum(widths[target] for target in set(targets))

    @classmethod
    def of(cls, parameters: int, n_positions: int, vocab_size: int) -> "Shape":
        """The shape that a model of so many parameters has, told from that number.

        Of the widths that divide by 8 that whose count comes nearest; of equal ones, with layers nearest to
        the usual 1 of 64 units. For a GPT-2 it is exact, but for `n_head`, on which nothing here depends.
        """

        def fit(width: int) -> tuple[int, float, Shape]:
            beside = width * (vocab_size + n_positions + 2)
            layers = max(1, round((parameters - beside) / _of_layer(width)))
            shape = cls(layers, max(1, width // 64), width, n_positions, vocab_size)
            return abs(shape.parameters - parameters), abs(math.log(64 * layers / width)), shape

        widest = max(8, min(parameters // (vocab_size + n_positions), math.isqrt(parameters // 12)))
        return min((fit(width) for width in range(8, widest + 8, 8)), key=lambda one: one[:2])[2]


@dataclass(frozen=True)
class Corpus:
    """What is trained on, without what is held out to evaluate."""

    examples: int
    tokens: int
    rows: int  # of a block each


@dataclass(frozen=True)
class Plan:
    """What will be done: every name of Hyperparameters, each auto decided, and what follows from it."""

    hyperparameters: dict[str, Any]
    steps_per_epoch: int
    total_steps: int
    rows: int  # that the whole run reads, on all processes


def block_size(asked: int | str, shape: Shape) -> int:
    """Tokens of a row.

    Raises:
        ValueError: more than the model's context.
    """
    if not isinstance(asked, int):
        return min(shape.n_positions, LONGEST_AUTO_BLOCK)
    if asked > shape.n_positions:
        raise ValueError(f"a block of {asked} does not fit a context of {shape.n_positions}")
    return asked


def precision(asked: str, available: Sequence[str]) -> Precision:
    """In what is multiplied, on a host that can do these.

    Raises:
        ValueError: it cannot.
    """
    found = next((one for one in _PREFERRED if one in available and asked in (one, "auto")), None)
    if found is None:
        raise ValueError(f"precision {asked} is not among {', '.join(available)}")
    return found


def held_out(count: int) -> int:
    """How many of so many rows or examples are kept to evaluate, where there is no file for that."""
    return min(count // _HELD_OUT, _MOST_HELD_OUT)


def decide(
    work: FinetuneInput, shape: Shape, corpus: Corpus, precision: Precision, processes: int = 1
) -> Plan:
    """Choose what is `auto`; what was asked for stays.

    Raises:
        ValueError: a block that does not fit the context.
    """
    asked = work.hyperparameters
    block = block_size(asked.block_size, shape)
    each = _activation_bytes(shape, precision, block, work.adapter) * block
    batch, accumulation = _step(asked, corpus.rows, block, each, processes)
    passes = math.ceil(corpus.rows / (batch * processes))
    per_epoch = max(1, math.ceil(passes / accumulation))
    epochs = _number(asked.n_epochs) or _epochs(work, shape, corpus, per_epoch)
    total = epochs * per_epoch
    if asked.max_steps is not None:
        total = min(total, asked.max_steps)
    rate, multiplier = _rate(work, shape)
    chosen = asked.model_dump() | {
        "n_epochs": epochs,
        "batch_size": batch,
        "learning_rate_multiplier": multiplier,
        "learning_rate": rate,
        "warmup_steps": min(_warmup(work, total), total),
        "gradient_accumulation_steps": accumulation,
        "precision": precision,
        "block_size": block,
        "eval_steps": _every(
            asked.eval_steps, per_epoch, max(1, min(math.ceil(per_epoch / 4), math.ceil(total / 10)))
        ),
        "save_steps": "auto" if asked.save_steps == "auto" else _every(asked.save_steps, per_epoch, 0),
    }
    return Plan(chosen, per_epoch, total, round(corpus.rows * total / per_epoch))


def trainable(work: FinetuneInput, shape: Shape) -> int:
    """How many parameters learn."""
    if work.adapter == "full":
        return shape.parameters
    asked = work.hyperparameters
    return shape.lora_parameters(asked.lora_r, asked.lora_target_modules)


def memory(plan: Plan, shape: Shape, adapter: Adapter) -> int:
    """About how many bytes a process needs for the network, the optimizer and one pass."""
    chosen = plan.hyperparameters
    precision, block = chosen["precision"], chosen["block_size"]
    tokens = chosen["batch_size"] * block
    held = tokens * _activation_bytes(shape, precision, block, adapter)
    logits = min(tokens, _LOGIT_ROWS) * shape.vocab_size * _LOGIT[precision]
    head = shape.vocab_size * shape.n_embd * (_CAST[precision] + (8 if adapter == "full" else 0))
    return int(_weight_bytes(plan, shape, adapter) + held + logits + head + _AROUND)


def operations(plan: Plan, shape: Shape, adapter: Adapter) -> float:
    """Floating-point operations of the whole run, evaluations apart.

    Two for each weight and token forward and four back, of which a frozen weight needs two; and attention.
    """
    chosen = plan.hyperparameters
    block = float(chosen["block_size"])
    multiplied = shape.parameters - shape.embeddings + shape.n_embd * shape.vocab_size  # each token, once
    if adapter == "full":
        per_token = 6.0 * multiplied
    else:
        added = shape.lora_parameters(chosen["lora_r"], chosen["lora_target_modules"])
        per_token = 4.0 * multiplied + 6.0 * added
    attention = 12.0 * shape.n_layer * shape.n_embd * block
    return plan.rows * block * (per_token + attention)


def checkpoint_bytes(shape: Shape, work: FinetuneInput) -> int:
    """About how large one checkpoint is on a disk."""
    return trainable(work, shape) * _SAVED + _BESIDE


def _of_layer(width: int) -> int:
    return 12 * width**2 + 13 * width


def _step(asked: Hyperparameters, rows: int, block: int, row_bytes: float, processes: int) -> tuple[int, int]:
    """Rows of a pass, and passes of a step; the activations of a row have `row_bytes`."""
    batch, accumulation = _number(asked.batch_size), _number(asked.gradient_accumulation_steps)
    wanted = max(1, min(_STEP_TOKENS // block, rows // _STEPS_PER_EPOCH))  # rows of a step on all processes
    if asked.tokens_per_step is not None:
        wanted = max(1, round(asked.tokens_per_step / block))
    elif batch is not None and accumulation is None:
        accumulation = 1
    if batch is None:
        fit = max(1, min(_MOST_ROWS, int(_ACTIVATIONS / row_bytes)))
        batch = max(1, min(fit, wanted // (processes * (accumulation or 1))))
    if accumulation is None:
        accumulation = max(1, round(wanted / (batch * processes)))
    return batch, accumulation


def _number(asked: int | str) -> int | None:
    return asked if isinstance(asked, int) else None


def _epochs(work: FinetuneInput, shape: Shape, corpus: Corpus, per_epoch: int) -> int:
    steps = work.hyperparameters.max_steps
    if steps is not None:
        return math.ceil(steps / per_epoch)
    if work.init == "scratch":
        wanted = math.ceil(_SCRATCH_TOKENS * shape.parameters / max(1, corpus.tokens))
        return min(wanted, _SCRATCH_EPOCHS)
    return 3 if corpus.tokens <= 1_000_000 else 2 if corpus.tokens <= 10_000_000 else 1


def _rate(work: FinetuneInput, shape: Shape) -> tuple[float, float]:
    """The peak of the learning rate, and how many times the usual one it is."""
    asked = work.hyperparameters
    usual = _RATES["scratch" if work.init == "scratch" else work.adapter]
    usual *= min(8.0, max(0.25, _WIDTH / shape.n_embd))
    if asked.learning_rate != "auto":
        return asked.learning_rate, _rounded(asked.learning_rate / usual)
    multiplier = 1.0 if asked.learning_rate_multiplier == "auto" else asked.learning_rate_multiplier
    return _rounded(usual * multiplier), multiplier


def _rounded(number: float) -> float:
    """As one would write it: 0.00015, not 0.00015000000000000001."""
    return float(f"{number:.6g}")


def _warmup(work: FinetuneInput, total: int) -> int:
    asked = work.hyperparameters
    if asked.warmup_steps != "auto":
        return asked.warmup_steps
    if asked.lr_scheduler_type == "constant":
        return 0
    return min(total // 10, 2_000) if work.init == "scratch" else min(total // 20, 500)


def _every(asked: int | str, per_epoch: int, auto: int) -> int:
    if asked == "epoch":
        return per_epoch
    return auto if asked == "auto" else int(asked)


def _activation_bytes(shape: Shape, precision: str, block: int, adapter: Adapter) -> float:
    """Of one token, kept for the way back."""
    each = _ACTIVATION[precision] + _SCORES[precision] * block + (0 if adapter == "full" else _ADAPTED)
    return each * shape.n_layer * shape.n_embd


def _weight_bytes(plan: Plan, shape: Shape, adapter: Adapter) -> float:
    """Of the network and what Adam knows of it."""
    chosen = plan.hyperparameters
    if adapter == "full":
        return float(shape.parameters * _TRAINED)
    trained = shape.lora_parameters(chosen["lora_r"], chosen["lora_target_modules"]) * _TRAINED
    each = _WEIGHT + _CAST[chosen["precision"]]
    products = shape.n_layer * 12 * shape.n_embd**2 if adapter == "qlora" else 0
    return trained + products * _NF4 + (shape.parameters - products) * each
