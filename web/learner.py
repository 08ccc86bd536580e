"""What learns in a fine-tune, as far as the catalog knows it: enough to read its data as it will."""

from dataclasses import dataclass

from sqlalchemy import Connection

from jobs import finetunes, plan, rendering
from jobs.catalog import ModelVersion
from jobs.errors import ModelUnavailable
from jobs.finetune_input import TRAINED_VOCABULARY, FinetuneInput
from jobs.plan import Shape
from jobs.rendering import Reader
from jobs.training_data import Layout
from web.prompts import Tokenizers


@dataclass(frozen=True)
class Learner:
    """A shape, and how it reads."""

    shape: Shape
    tokenizer: str | None  # artifact; None: it is made of the training file, by the trainer
    eos_token_id: int
    chat_template: str | None

    def reader(self, tokenizers: Tokenizers, layout: Layout, block: int) -> Reader:
        """How it reads data of a layout; it must have a tokenizer."""
        assert self.tokenizer is not None
        return Reader(
            tokenizer=tokenizers.tokenizer(self.tokenizer),
            eos_token_id=self.eos_token_id,
            vocab_size=self.shape.vocab_size,
            chat_template=rendering.template_for(layout, self.chat_template),
            block_size=block,
        )

    def block(self, work: FinetuneInput) -> int:
        """Tokens of a row."""
        return plan.block_size(work.hyperparameters.block_size, self.shape)


def learner_of(
    work: FinetuneInput, base: ModelVersion | None, reads: ModelVersion | None, tokenizers: Tokenizers
) -> Learner:
    """What begins with `base`, or from scratch; `reads` is the model whose tokenizer that takes."""
    if work.init == "pretrained":
        assert base is not None
        return _with_tokenizer(_shape(base), base)
    if work.architecture is None:
        assert base is not None
        shape = _shape(base)
    else:
        asked = work.architecture
        vocabulary = asked.vocab_size or _tokens(reads, tokenizers)
        shape = Shape(asked.n_layer, asked.n_head, asked.n_embd, asked.n_positions, vocabulary)
    if reads is None:
        return Learner(shape, tokenizer=None, eos_token_id=0, chat_template=None)
    return _with_tokenizer(shape, reads)


def find(
    connection: Connection, owner_id: int, model: str, work: FinetuneInput
) -> tuple[ModelVersion | None, ...]:
    """The versions of base and tokenizer that a job's input names.

    Raises:
        ModelUnavailable: there is no such model any more.
    """
    from_base = work.init == "pretrained" or work.architecture is None
    names = (model if from_base else None, work.tokenizer)
    return tuple(None if name is None else _version(connection, owner_id, name) for name in names)


def tokenizer_size(reads: ModelVersion, tokenizers: Tokenizers) -> int:
    """How many tokens the tokenizer of a model makes; its weights may have room for more."""
    return int(tokenizers.tokenizer(reads.tokenizer).get_vocab_size())


def _version(connection: Connection, owner_id: int, name: str) -> ModelVersion:
    found = finetunes.version(connection, owner_id, name)
    if found is None:
        raise ModelUnavailable(f"There is no model '{name}' any more.")
    return found


def _tokens(reads: ModelVersion | None, tokenizers: Tokenizers) -> int:
    return TRAINED_VOCABULARY if reads is None else tokenizer_size(reads, tokenizers)


def _with_tokenizer(shape: Shape, reads: ModelVersion) -> Learner:
    return Learner(shape, reads.tokenizer, reads.eos_token_id, reads.chat_template)


def _shape(version: ModelVersion) -> Shape:
    """The shape of a model that is there: its vocabulary and context are known, its size tells the rest."""
    return Shape.of(version.parameters, version.context, version.vocab_size)
