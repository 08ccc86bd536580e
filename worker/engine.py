"""The heart: one step gives one token to everyone who is due. One thread steps; it alone owns the device."""

import threading
import time
from typing import Protocol

import torch
from tokenizers import Tokenizer
from torch import Tensor

from jobs.errors import InvalidPrompt, JobError, NumericalError, OutOfMemory
from jobs.inputs import Sampling
from worker.decoding.sampling import Choices, Draw, sample
from worker.rows import Rows
from worker.scheduler import Scheduler
from worker.sequence import Sequence
from worker.stopping import Stopping


class Model(Protocol):
    """What the engine needs of a language model."""

    vocab_size: int
    context: int  # the most tokens a slot can hold
    eos_token_id: int

    def reserve(self, slots: int) -> None:
        """Make room for the K/V of so many sequences; all that was kept before is gone."""

    def forward(self, rows: Rows) -> Tensor:
        """Logits [wanted, vocab] in fp32 of the wanted rows; K/V of all rows stay in their slots."""

    def clear(self, slot: int) -> None:
        """Forget a slot whose numbers were not finite, or may not have been."""


class Engine:
    """Continuous batching over fixed slots.

    `submit`, `drop`, `idle`, `free` and `steps` are for any thread, the rest for the one that steps.
    """

    def __init__(self, model: Model, tokenizer: Tokenizer, slots: int, token_budget: int) -> None:
        """`token_budget`: the most rows of a pass. Raises ValueError where it leaves newcomers no room."""
        if token_budget <= slots:
            raise ValueError(f"TOKEN_BUDGET {token_budget} must be larger than SLOTS {slots}")
        model.reserve(slots)
        self.model, self.slots, self.token_budget = model, slots, token_budget
        self.steps = 0  # turns done; whoever watches for a hang looks at this
        self._scheduler = Scheduler(slots)
        self._stopping = Stopping(tokenizer, model.eos_token_id)
        self._lock = threading.Lock()  # for the two below
        self._inbox: list[Sequence] = []
        self._unwanted: set[Sequence] = set()
        self._due: list[Sequence] = []
        self._choices = Choices.of([], "cpu")  # of those due last time, who are mostly due again

    def submit(self, sequence: Sequence) -> None:
        """Let a sequence join at the next step that has a slot for it. Raises InvalidPrompt."""
        self._check(sequence)
        with self._lock:
            self._inbox.append(sequence)

    def drop(self, sequence: Sequence) -> None:
        """Let a sequence leave at the next step; it is not returned. One that already left is no matter."""
        with self._lock:
            self._unwanted.add(sequence)

    @property
    def idle(self) -> bool:
        """Whether a step would have nothing to do."""
        return not (self._inbox or self._scheduler.waiting or self._scheduler.running)

    @property
    def free(self) -> int:
        """Slots that nobody holds or waits for."""
        with self._lock:
            taken = len(self._inbox) + len(self._scheduler.waiting) + len(self._scheduler.running)
        return max(0, self.slots - taken)

    def warm_up(self) -> None:
        """Run every part once, so that the first job does not pay for it. Raises what a step raises."""
        sampling = Sampling(max_tokens=2, top_p=0.9, top_k=2, seed=0, ignore_eos=True)
        self.submit(sequence := Sequence([self.model.eos_token_id], sampling))
        while not sequence.finished:
            self.step()
        if sequence.error:
            raise sequence.error

    def step(self) -> list[Sequence]:
        """One turn: hear the others, one pass over everyone's rows, one token for whoever is due.

        Returns those that finished in it, with a text or an error.
        """
        self._hear()
        self._scheduler.admit()
        turn = self._scheduler.gather(self.token_budget)  # next tokens first, then prompt chunks
        finished: list[Sequence] = []
        if turn.rows.tokens:
            try:
                logits = self.model.forward(turn.rows)
                finished = self._extend(turn.due, self._sample(logits, turn.due)) if turn.due else []
            except torch.OutOfMemoryError:
                finished = self._fail(
                    list(self._scheduler.running), OutOfMemory("The device had no room for the batch.")
                )
        self.steps += 1
        return finished

    def abandon(self) -> list[Sequence]:
        """Let everyone leave as they are, the waiting too, and return them: the engine stops or was hurt."""
        with self._lock:
            left = [*self._scheduler.running, *self._scheduler.waiting, *self._inbox]
            self._inbox.clear()
        for sequence in left:
            self._remove(sequence)
        return left

    def _check(self, sequence: Sequence) -> None:
        prompt, limit = sequence.prompt, sequence.sampling.max_tokens
        vocab, context = self.model.vocab_size, self.model.context
        if not prompt:
            raise InvalidPrompt("The prompt is empty; send at least one token.")
        if min(prompt) < 0 or max(prompt) >= vocab:
            raise InvalidPrompt(f"The prompt has a token id outside the model's vocabulary of {vocab}.")
        if len(prompt) + limit > context:
            raise InvalidPrompt(
                f"The prompt's {len(prompt)} tokens and max_tokens {limit} are together more than"
                f" the model's context of {context} tokens; send less of either."
            )

    def _hear(self) -> None:
        """Take in newcomers, let the unwanted go."""
        with self._lock:
            newcomers, self._inbox = self._inbox, []
            unwanted, self._unwanted = self._unwanted, set()
            self._scheduler.add(newcomers)
        for sequence in unwanted:
            self._remove(sequence)

    def _sample(self, logits: Tensor, due: list[Sequence]) -> Draw:
        if due != self._due:
            asked = [(sequence.sampling, sequence.index) for sequence in due]
            self._due, self._choices = due, Choices.of(asked, str(logits.device))
        return sample(
            logits, self._choices, [len(sequence.tokens) for sequence in due], self.model.eos_token_id
        )

    def _extend(self, due: list[Sequence], draw: Draw) -> list[Sequence]:
        """Add each its token; returns those that ended."""
        ended = []
        now = time.monotonic()
        for sequence, token, finite in zip(due, draw.tokens, draw.finite, strict=True):
            if not finite:
                ended += self._fail(
                    [sequence], NumericalError("The model's logits for this sequence were not finite.")
                )
                continue
            if sequence.first_token_at is None:
                sequence.first_token_at = now
            if self._stopping.extend(sequence, token):
                self._remove(sequence)
                sequence.finished_at = now
                ended.append(sequence)
        return ended

    def _fail(self, sequences: list[Sequence], error: JobError) -> list[Sequence]:
        for sequence in sequences:
            sequence.error = error
            self._remove(sequence)
            sequence.finished_at = time.monotonic()
        return sequences

    def _remove(self, sequence: Sequence) -> None:
        """Free a slot, and what it holds where nobody has seen yet that it is finite."""
        slot = self._scheduler.remove(sequence)
        self._stopping.forget(sequence)
        if slot is not None and (sequence.error or not sequence.tokens):
            self.model.clear(slot)
