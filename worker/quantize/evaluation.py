"""The only place that judges a model: how well it predicts a text, how fast it writes, what room it takes.

`python -m worker.quantize.evaluation FOLDER --evaluate FILE` prints one row of the table as JSON; memory and
speed are those of a process that did nothing else, so each method is judged in a fresh one (`report_apart`).
"""

import argparse
import gc
import json
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from jobs import logs, settings
from jobs.errors import ModelUnavailable, NumericalError, PenstockError
from jobs.inputs import Sampling
from worker.checkpoint import weight_files
from worker.engine import Engine
from worker.loading import load
from worker.protocol import Model
from worker.rows import Rows
from worker.sequence import Sequence

MODULE = "worker.quantize.evaluation"
REFUSED = 2  # the exit status after a sentence about what cannot be done
ROWS = 128  # of one pass: bounds the logits to 128 x vocab (26 MB for GPT-2)
MEGABYTE = 10**6
PROMPT, SAID = 64, 128  # tokens read and written by each sequence whose speed is measured
SAMPLE_CHARACTERS = 1000  # of the text, in which the sample's prompt is
SAMPLE_PROMPT, SAMPLE_SAID = 16, 48  # tokens


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicts a text."""

    loss: float  # nats per predicted token
    tokens: int  # predicted: all of the text but its first

    @property
    def perplexity(self) -> float:
        """Between how many equally likely tokens it hesitates: exp(loss)."""
        return math.exp(self.loss)


@dataclass(frozen=True)
class Report:
    """One method's row of the table."""

    method: str
    path: str  # what multiplied: avx512_vnni or torch
    validation_loss: float  # nats per token
    tokens: int  # that the loss is the mean over
    perplexity: float
    disk_megabytes: float  # the weights' files
    resident_megabytes: float  # see resident_megabytes()
    tokens_per_second_1: float
    tokens_per_second_32: float
    sample: str


@dataclass(frozen=True)
class Window:
    """Tokens `begin` to `end` of a text, seen together; those from `first` on are predicted."""

    begin: int
    first: int
    end: int


def evaluate(model: Model, token_ids: list[int], context: int, stride: int) -> Evaluation:
    """The mean negative log-probability of a text's tokens, each predicted once.

    Windows of `context` tokens move by `stride`: a token is predicted from at least context - stride tokens
    before it (in the first window from all there are). As in Hugging Face's guide "Perplexity of fixed-length
    models", summed over tokens instead of averaged over windows. The model's slots are reserved anew.

    Raises:
        ValueError: fewer than two tokens, a context that is not in 2 to model.context, a stride not below it.
        NumericalError: the logits of a row are not finite.
    """
    _check_text(token_ids)
    if not 2 <= context <= model.context:
        raise ValueError(f"The context must be 2 to the model's {model.context} tokens, not {context}.")
    if not 1 <= stride < context:
        raise ValueError(f"The stride must be 1 to {context - 1}, less than the context, not {stride}.")
    model.reserve(1)
    lost = sum(_lost(model, token_ids, window) for window in windows(len(token_ids), context, stride))
    return Evaluation(loss=lost / (len(token_ids) - 1), tokens=len(token_ids) - 1)


def windows(tokens: int, context: int, stride: int) -> Iterator[Window]:
    """Which parts of a text are seen together; `first` to `end` of all of them are the text but its first."""
    first = 1
    for begin in range(0, tokens, stride):
        end = min(begin + context, tokens)
        yield Window(begin, first, end)
        if end == tokens:
            return
        first = end


def throughput(make_engine: Callable[[int], Engine], slots: int, runs: int = 3) -> float:
    """Tokens per second that so many sequences write together, the median of several runs.

    Greedy; each reads 64 tokens, time that counts, and writes 128 (fewer where the context is short). Prompts
    are random token ids, the same for every model of a vocabulary, and none comes twice.
    """
    engine = make_engine(slots)
    engine.warm_up()
    chosen = random.Random(0)
    return median(_rate(engine, chosen) for _ in range(runs))


def resident_megabytes(device: str = "cpu") -> float:
    """Memory that this process holds, in 10**6 bytes: resident (on Linux), or on the GPU."""
    gc.collect()
    if device == "cuda":
        return torch.cuda.memory_reserved() / MEGABYTE
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MEGABYTE


def sample_text(engine: Engine, prompt: list[int]) -> str:
    """What the model says after a prompt, drawn with a fixed seed. Raises what the engine raises."""
    prompt = prompt[: engine.model.context // 2]
    room = engine.model.context - len(prompt)
    sampling = Sampling(max_tokens=min(SAMPLE_SAID, room), temperature=0.8, top_k=40, seed=0, ignore_eos=True)
    sequence = Sequence(prompt, sampling)
    _write(engine, [sequence])
    return sequence.text


def report(folder: Path, text: Path, device: str = "cpu") -> Report:
    """Judge the model of a folder on a text, in this process, which should have done nothing else.

    Resident memory is read once the model has written its sample. Speed is measured without guessing ahead,
    whose gain depends on the text, with the worker's number of threads.

    Raises:
        ModelUnavailable: the folder cannot be loaded.
        BadSetting: a setting of the environment does not parse.
        ValueError: the text is too short.
        NumericalError: a logit is not finite.
    """
    config = settings.read()
    torch.set_num_threads(1)  # as in the worker: a pass has threads of its own
    loaded = load(str(folder), None, device, kernel=config.kernel, threads=config.threads)
    model, tokenizer = loaded.model, loaded.tokenizer

    def make_engine(slots: int) -> Engine:
        return Engine(model, tokenizer, slots, slots + ROWS, speculate=False)

    said = text.read_text(encoding="utf-8")
    prompt = tokenizer.encode(said[:SAMPLE_CHARACTERS], add_special_tokens=False).ids[:SAMPLE_PROMPT]
    _check_text(prompt)
    sample = sample_text(make_engine(1), prompt)
    resident = resident_megabytes(model.device)  # before all of the text's tokens are in it too
    token_ids = tokenizer.encode(said, add_special_tokens=False).ids
    evaluation = evaluate(model, token_ids, loaded.context, loaded.context // 2)
    speeds = {slots: throughput(make_engine, slots) for slots in (1, 32)}
    return Report(
        method=loaded.quantization,
        path=loaded.path,
        validation_loss=evaluation.loss,
        tokens=evaluation.tokens,
        perplexity=evaluation.perplexity,
        disk_megabytes=sum(path.stat().st_size for path in weight_files(folder)) / MEGABYTE,
        resident_megabytes=resident,
        tokens_per_second_1=speeds[1],
        tokens_per_second_32=speeds[32],
        sample=sample,
    )


def report_apart(folder: Path, text: Path, device: str = "cpu") -> Report:
    """`report` in a fresh process. Raises ModelUnavailable with what that process said."""
    command = [sys.executable, "-m", MODULE, str(folder), "--evaluate", str(text), "--device", device]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:]
        if done.returncode != REFUSED:  # it was killed or crashed: what it said last may be of anything
            said = [f"its process ended with {done.returncode}.", *said]
        raise ModelUnavailable(f"{folder} could not be judged: {' '.join(said)}")
    return Report(**json.loads(done.stdout))


def _check_text(token_ids: list[int]) -> None:
    if len(token_ids) < 2:
        raise ValueError("The text has fewer than two tokens; give a longer one.")


def _lost(model: Model, token_ids: list[int], window: Window) -> float:
    """Sum of the negative log-probabilities of what a window predicts, in nats."""
    lost = 0.0
    for start in range(window.begin, window.end - 1, ROWS):
        seen = token_ids[start : min(start + ROWS, window.end - 1)]
        skipped = min(max(window.first - 1 - start, 0), len(seen))  # predicted by an earlier window
        logits = model.forward(_rows(seen, start - window.begin, skipped))
        if skipped < len(seen):
            targets = token_ids[start + skipped + 1 : start + len(seen) + 1]
            lost += _cross_entropy(logits, targets, first=start + skipped + 1)
    return lost


def _rows(tokens: list[int], start: int, skipped: int) -> Rows:
    """Consecutive tokens in slot 0 from position `start` on, all but the first `skipped` wanted."""
    rows = Rows()
    rows.wanted.extend(rows.add_chunk(0, start, tokens)[skipped:])
    return rows


def _cross_entropy(logits: Tensor, targets: list[int], first: int) -> float:
    """In nats, summed; `first` is the place in the text of the first target."""
    wanted = torch.tensor(targets, device=logits.device)
    lost = torch.nn.functional.cross_entropy(logits.float(), wanted, reduction="none").double()
    if not lost.isfinite().all():
        place = first + int((~lost.isfinite()).nonzero()[0])
        raise NumericalError(f"The model's logits for token {place} of the text are not finite.")
    return lost.sum().item()


def _rate(engine: Engine, chosen: random.Random) -> float:
    vocab, context = engine.model.vocab_size, engine.model.context
    prompt = min(PROMPT, context // 3)
    sampling = Sampling(max_tokens=min(SAID, context - prompt), temperature=0, seed=0, ignore_eos=True)
    sequences = [Sequence(chosen.choices(range(vocab), k=prompt), sampling) for _ in range(engine.slots)]
    began = time.perf_counter()
    _write(engine, sequences)
    return sum(len(sequence.tokens) for sequence in sequences) / (time.perf_counter() - began)


def _write(engine: Engine, sequences: list[Sequence]) -> None:
    for sequence in sequences:
        engine.submit(sequence)
    while not engine.idle:
        engine.step()
    for sequence in sequences:
        if sequence.error:
            raise sequence.error


def main() -> int:
    """Print the report of one folder as JSON; REFUSED after a sentence about what cannot be done."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("folder", type=Path, help="as python -m worker.quantize wrote it")
    parser.add_argument("--evaluate", type=Path, required=True, metavar="FILE", help="text, UTF-8")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cpu")
    given = parser.parse_args()
    logs.configure("evaluation", "INFO")
    try:
        found = report(given.folder, given.evaluate, given.device)
    except (PenstockError, ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED
    sys.stdout.write(json.dumps(asdict(found)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
