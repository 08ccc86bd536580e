"""GPT-2 folders of a given shape with random weights: nothing to download, the same on every machine."""

import argparse
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

SHAPES = {"124M": GPT2Config(), "774M": GPT2Config(n_embd=1280, n_layer=36, n_head=20)}
WANDERING = 0.2  # standard deviation of weights with which greedy text does not repeat itself
REPEATING = 0.02  # GPT-2's own before training: a few tokens over and over, a gift to whoever guesses ahead
_SEED = 0
_END = "<|endoftext|>"


def make(shape: str, folder: Path, spread: float = WANDERING) -> Path:
    """Write config, weights in fp32 and a tokenizer into `folder`, if they are not there; return it."""
    if not (folder / "tokenizer.json").exists():
        torch.manual_seed(_SEED)
        config = GPT2Config(**SHAPES[shape].to_diff_dict() | {"initializer_range": spread})
        GPT2LMHeadModel(config).save_pretrained(folder)
        tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
            tokenizer_object=_tokenizer(), bos_token=_END, eos_token=_END, unk_token=_END
        )
        tokenizer.save_pretrained(folder)  # last: its file says that the folder is whole
    return folder


def _tokenizer() -> Tokenizer:
    """As large as GPT-2's, made up: 256 bytes, 50,000 pairs of bytes, the end of text."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [(first, second) for first in letters for second in letters][:50_000]
    vocabulary = {token: number for number, token in enumerate([*letters, *map("".join, pairs)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(_END, special=True)])
    return tokenizer


def main() -> None:
    """Make one folder and print its path."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="124M")
    parser.add_argument("--spread", type=float, default=WANDERING)
    asked = parser.parse_args()
    print(make(asked.shape, asked.folder, asked.spread))


if __name__ == "__main__":
    main()
