"""Measures the exported starter and writes its model card: `python -m trainer.starter.evaluate`."""

import argparse
import ast
import math
import os
import string
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from trainer.starter import corpus, export, network
from trainer.starter.corpus import Document

PROMPTS = ("\ndef", "\nclass")
SAMPLES = 100
SAMPLE_TOKENS = 128
TEMPERATURE = 0.7  # what the playground starts with
SAMPLE_SEED = 1
LINES = 3
CONTEXT = 512  # tokens
END_OF_TEXT = 0


@dataclass(frozen=True)
class Measured:
    """What the held-out files and the samples say of a model."""

    nats_per_token: float
    bits_per_byte: float
    parsed: int
    samples: list[str]


def parses(text: str) -> bool:
    """Whether some first lines of the text, at least three of them non-blank, are Python by themselves."""
    lines = text.strip("\n").split("\n")[:-1]  # the last one may have been cut off
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "\d" in a plain string: odd, but accepted
        return any(
            sum(bool(line.strip()) for line in lines[:count]) >= LINES
            and _is_python("\n".join(lines[:count]))
            for count in range(LINES, len(lines) + 1)
        )


def _is_python(source: str) -> bool:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError):
        return False
    return True


def sample(model: GPT2LMHeadModel, tokenizer: Tokenizer, prompt: str, count: int) -> list[str]:
    """This many texts that begin with the prompt, each up to its end of text."""
    start = torch.tensor([tokenizer.encode(prompt).ids] * count)
    rows = model.generate(  # type: ignore[misc]  # transformers types its own mixin's self
        start,
        attention_mask=torch.ones_like(start),
        do_sample=True,
        temperature=TEMPERATURE,
        top_k=0,
        max_new_tokens=SAMPLE_TOKENS,
        pad_token_id=END_OF_TEXT,
    )
    return [tokenizer.decode(row.tolist()) for row in rows]  # leaves out the end-of-text padding


def encode(tokenizer: Tokenizer, documents: list[Document]) -> torch.Tensor:
    """All documents as one int64 stream [tokens], each one led in by the end-of-text token."""
    stream: list[int] = []
    for encoding in tokenizer.encode_batch([document.text for document in documents]):
        stream += [END_OF_TEXT, *encoding.ids]
    return torch.tensor([*stream, END_OF_TEXT])


def measure(folder: Path, facts: export.Facts) -> Measured:
    """Judge the model of this folder on the files that were held out from it.

    Raises ValueError where this interpreter's library is not the one it was trained on: the held-out files
    would be others.
    """
    held_out = corpus.split(corpus.read_documents(), facts.seed).held_out
    size = corpus.size(held_out)
    if size != facts.bytes[1]:
        raise ValueError(f"the held-out files have {size} bytes here and {facts.bytes[1]} in {export.FACTS}")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32)
    stream = encode(tokenizer, held_out)
    with network.half_precision():
        nats = network.held_out_loss(model, stream, CONTEXT)
    torch.manual_seed(SAMPLE_SEED)
    samples = [
        text for prompt in PROMPTS for text in sample(model, tokenizer, prompt, SAMPLES // len(PROMPTS))
    ]
    return Measured(
        nats_per_token=nats,
        bits_per_byte=nats * (len(stream) - 1) / math.log(2) / size,
        parsed=sum(parses(text) for text in samples),
        samples=samples,
    )


def training_figures(facts: export.Facts) -> dict[str, object]:
    """What the card says about the data and the training, ready to print."""
    parts = {"train": 0, "held": 1}
    return {
        "commands": "\n".join([*facts.commands, "python -m trainer.starter.evaluate"]),
        "python": facts.python,
        "hardware": facts.hardware,
        "seed": facts.seed,
        "parameters": f"{facts.parameters:,}",
        **{f"{part}_files": facts.files[index] for part, index in parts.items()},
        **{f"{part}_bytes": f"{facts.bytes[index]:,}" for part, index in parts.items()},
        **{f"{part}_tokens": f"{facts.tokens[index]:,}" for part, index in parts.items()},
        "tokens_seen": f"{facts.tokens_seen:,}",
        "epochs": f"{facts.tokens_seen / facts.tokens[0]:.1f}",
        "steps": f"{facts.steps:,}",
        "step_tokens": f"{facts.tokens_seen // max(1, facts.steps):,}",
        "optimizer": facts.optimizer,
        "minutes": round(facts.seconds / 60),
    }


def measured_figures(measured: Measured) -> dict[str, object]:
    """What the card says about the model's quality, ready to print."""
    return {
        "nats": f"{measured.nats_per_token:.3f}",
        "bits": f"{measured.bits_per_byte:.3f}",
        "parsed": measured.parsed,
        "sampled": len(measured.samples),
        "sample_tokens": SAMPLE_TOKENS,
        "temperature": TEMPERATURE,
        "sample_seed": SAMPLE_SEED,
        "sample": measured.samples[0].strip("\n"),
    }


def write_card(folder: Path) -> Measured:
    """Measure the model of this folder and write its README.md, every figure from the measurement."""
    facts = export.read_facts(folder)
    measured = measure(folder, facts)
    config = GPT2Config.from_pretrained(folder)
    template = string.Template(Path(__file__).with_name("card.md").read_text())
    card = template.substitute(
        training_figures(facts) | measured_figures(measured),
        layers=config.n_layer,
        width=config.n_embd,
        heads=config.n_head,
        context=config.n_positions,
        vocabulary=f"{config.vocab_size:,}",
        end_of_text=config.eos_token_id,
    )
    aside = folder / "README.md.part"
    aside.write_text(card)
    os.replace(aside, folder / "README.md")
    return measured


def main() -> None:
    """Write the card and print what it says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("models/starter"), help="an exported starter")
    measured = write_card(parser.parse_args().model)
    count = len(measured.samples)
    print(
        f"held-out loss {measured.nats_per_token:.3f} nats per token,"
        f" {measured.bits_per_byte:.3f} bits per byte, {measured.parsed} of {count} samples parse"
    )


if __name__ == "__main__":
    main()
