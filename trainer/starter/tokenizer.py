"""Learns the starter's byte-level BPE and turns documents into one stream of token ids."""

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPT2Tokenizer

from trainer.starter.corpus import Document

END_OF_TEXT = "<|endoftext|>"
VOCAB_SIZE = 4_096
CONTEXT = 512


def learn(texts: Iterable[str], vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """A byte-level BPE that splits text as GPT-2 does, so that every GPT-2 tokenizer class reads it alike.

    GPT-2's pattern keeps a newline and its indentation in one piece. Digits are kept apart while merges are
    learned, so that none joins two of them: numbers are then spelled digit by digit.
    """
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    single_digits = pre_tokenizers.Split(Regex(r" ?\p{N}"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([single_digits, byte_level])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.pre_tokenizer = byte_level
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` for `tokenizers` and `transformers`."""
    GPT2Tokenizer(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
        model_max_length=CONTEXT,
    ).save_pretrained(folder)


def load(folder: Path) -> Tokenizer:
    """The tokenizer of this folder, without transformers."""
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def end_of_text(tokenizer: Tokenizer) -> int:
    """The id of the token between documents. Raises ValueError where the vocabulary has none."""
    token = tokenizer.token_to_id(END_OF_TEXT)
    if token is None:
        raise ValueError(f"this tokenizer has no {END_OF_TEXT}")
    return int(token)


def encode(tokenizer: Tokenizer, documents: list[Document]) -> torch.Tensor:
    """All documents as one int64 stream [tokens], each one led in by the end-of-text token."""
    end = end_of_text(tokenizer)
    stream: list[int] = []
    for encoding in tokenizer.encode_batch([document.text for document in documents]):
        stream += [end, *encoding.ids]
    return torch.tensor([*stream, end])
