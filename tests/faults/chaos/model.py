"""The tiny random model that the stack serves, and the prompt that kills its workers.

`python -m tests.faults.chaos.model` is the worker's entry with that weakness.
"""

import os
import signal
import weakref
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from worker import app
from worker.engine import Engine
from worker.sequence import Sequence

NAME = "tiny"
CONTEXT = 256  # tokens
POISON = "~!~ poison ~!~"
_END = "<|endoftext|>"
_SURVIVED = 2  # steps that its neighbours get beside it


def make(folder: Path) -> Path:
    """Write config, weights and a tokenizer of one token per byte into `folder`; return it."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE({_END: 0} | {each: number for number, each in enumerate(letters, 1)}, [])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=1 + len(letters),
        n_positions=CONTEXT,
        n_embd=64,
        n_layer=3,
        n_head=4,
        initializer_range=0.2,  # wide enough that each prompt goes its own way
        bos_token_id=0,
        eos_token_id=0,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    saved = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token=_END, eos_token=_END
    )
    saved.save_pretrained(folder)
    return folder


def weaken() -> None:
    """Let the process die, as a fault of a device would end it, a few steps after POISON joined the batch."""
    submit, step = Engine.submit, Engine.step
    poisons: weakref.WeakSet[Sequence] = weakref.WeakSet()

    def submit_and_look(engine: Engine, sequence: Sequence) -> None:
        submit(engine, sequence)
        if bytes(each - 1 for each in sequence.prompt if each) == _POISON:
            poisons.add(sequence)

    def step_or_die(engine: Engine) -> list[Sequence]:
        finished = step(engine)
        if any(len(poison.tokens) >= _SURVIVED for poison in poisons):
            os.kill(os.getpid(), signal.SIGKILL)
        return finished

    Engine.submit, Engine.step = submit_and_look, step_or_die  # type: ignore[method-assign, assignment]


def _codes(text: str) -> bytes:
    """The token ids of a text, less one, as bytes."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    places = {letter: number for number, letter in enumerate(letters)}
    return bytes(places["Ġ" if each == " " else each] for each in text)


_POISON = _codes(POISON)


if __name__ == "__main__":
    weaken()
    app.main()
