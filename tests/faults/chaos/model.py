"""The tiny random model that the stack serves: `python -m tests.faults.chaos.model FOLDER` writes it."""

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

_CONTEXT = 256  # tokens
_END = "<|endoftext|>"


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
        n_positions=_CONTEXT,
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


if __name__ == "__main__":
    make(Path(sys.argv[1]))
