"""The heart: one step gives one token to everyone who is due. One thread steps; it alone owns the device."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import structlog
import torch
from tokenizers import Tokenizer
from torch import Tensor

from jobs.errors import JobError, NumericalError, OutOfMemory
from jobs.inputs import Sampling
from worker.admission import check
from worker.allowance import Allowance
from worker.breakdown import is_out_of_memory
from worker.decoding.sampling import Draw, sample
from worker.due import Due
from worker.hypotheses import Searches
from worker.pace import Pace
from worker.protocol import Model
from worker.scheduler import Scheduler
from worker.sequence import Sequence
from worker.speculation import ROWS, Speculation
from worker.stopping import Stopping
from worker.transfer import read, sent
from worker.turn import Turn

log = structlog.get_logger(__name__)

T = TypeVar("T")

NOT_FINITE = "The model's logits for this sequence were not finite."
WARM_UP_TOKENS = 6


class Engine:
    """Continuous batching over fixed slots.

    `submit`, `drop`, `idle`, `free` and `steps` are for any thread, the rest for the one that steps.
    """

    def __init__(
        self, model: Model, tokenizer: Tokenizer, slots: int, token_budget: int, *, speculate: bool = True
    ) -> None:
        """`token_budget`: the most rows of a pass. Raises ValueError where it leaves newcomers no room.

        `speculate`: let greedy sequences guess ahead where that changes nothing but the time.
        """
        if token_budget <= slots:
            raise ValueError(f"TOKEN_BUDGET {token_budget} must be larger than SLOTS {slots}")
        model.reserve(slots)
        self.model, self.slots, self.token_budget = model, slots, token_budget
        self.steps = 0  # turns done; whoever watches for a hang looks at this
        self._scheduler = Scheduler(slots)
        self._searches = Searches(self._scheduler, model.copy, model.eos_token_id)
        self._stopping = Stopping(tokenizer, model.eos_token_id)
        self._guesses = Speculation()
        self._guessing = speculate and model.exact_rows
        self._pace = Pace()
        self._allowance = Allowance(slots, token_budget)
        self._lock = threading.Lock()  # for the two below
        self._inbox: list[Sequence] = []
        self._unwanted: set[Sequence] = set()
        self._due = self._sorted([])  # those of the last pass, who are mostly due again

    def submit(self, sequence: Sequence) -> None:
        """Let a sequence join at the next step that has slots for it. Raises InvalidPrompt."""
        model = self.model
        check(
            sequence,
            vocab=model.vocab_size,
            context=model.context,
            eos=model.eos_token_id,
            slots=self.slots,
        )
        with self._lock:
            self._inbox.append(sequence)

    def drop(self, sequence: Sequence) -> None:
        """Let a sequence leave at the next step; it is not returned. One that already left is no matter."""
        with self._lock:
            self._unwanted.add(sequence)

    @property
    def idle(self) -> bool:
        """Whether a step would have nothing to do."""
        return not (self._inbox or self._scheduler.taken)

    @property
    def free(self) -> int:
        """Slots that nobody holds or waits for."""
        with self._lock:
            asked = sum(sequence.sampling.num_beams for sequence in self._inbox)
            return max(0, self._allowance.slots - self._scheduler.taken - asked)

    def warm_up(self) -> None:
        """Run the usual parts once, so that the first job does not pay for it. Raises what a step raises."""
        for temperature in (0.0, 1.0):
            wanted = {"temperature": temperature, "top_p": 0.9, "top_k": 2, "ignore_eos": True}
            sampling = Sampling.model_validate({"max_tokens": WARM_UP_TOKENS, "seed": 0} | wanted)
            self.submit(sequence := Sequence([self.model.eos_token_id], sampling))
            while not sequence.finished:
                self.step()
            if sequence.error:
                raise sequence.error

    def step(self) -> list[Sequence]:
        """One turn: hear the others, one pass over everyone's rows, one token for whoever is due.

        Returns those that finished in it, with a text or an error.
        """
        self.hear()
        self._scheduler.admit()
        began, talking = time.perf_counter(), len(self._scheduler.talking)
        room = self._pace.load(talking, self._allowance.rows - talking)
        turn = self._scheduler.gather(talking + room, self._guesses if self._may_guess() else None)
        finished: list[Sequence] = []
        if turn.rows.tokens:
            fits = True
            try:
                finished = self._run(turn)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                fits = False  # when this block ends, what the pass held is let go with its traceback
            if fits:
                self._pace.learn(time.perf_counter() - began, talking, turn.load)
                self._allow(self._allowance.learn)
            else:
                finished = self._retreat(turn)
        self.steps += 1
        return finished

    def abandon(self) -> list[Sequence]:
        """Let everyone leave as they are, the waiting too, and return them: the engine stops or was hurt."""
        with self._lock:
            left = [*self._scheduler.submitted, *self._scheduler.waiting, *self._inbox]
            self._inbox.clear()
        for sequence in left:
            self._remove(sequence)
        self._scheduler.forget_prefixes()  # nobody knows how far the last pass came
        return left

    def forget(self, adapter: int) -> None:
        """Let a LoRA adapter go that no sequence here has any more."""
        self._scheduler.forget_prefixes(adapter)
        self.model.forget(adapter)

    def hear(self) -> None:
        """Take in newcomers, let the unwanted go."""
        with self._lock:
            newcomers, self._inbox = self._inbox, []
            unwanted, self._unwanted = self._unwanted, set()
            self._scheduler.add(newcomers)
        for sequence in unwanted:
            self._remove(sequence)

    def _retreat(self, turn: Turn) -> list[Sequence]:
        """The device had no room: the same again in half the slots. Returns who had ended or never fits."""
        ended = [each for one in turn.due if one.finished for each in (one, *one.runners_up)]
        running, less = self._scheduler.submitted, self._allow(self._allowance.halve)
        log.warning("no room on the device", sequences=len(running), slots=self._allowance.slots)
        if not less and running:
            largest = max(running, key=lambda one: len(one.script) * one.sampling.num_beams)
            ended += self._fail([largest], OutOfMemory("The device had no room for this sequence alone."))
        for sequence in running:
            self._searches.forget(sequence)
        talked = turn.due if turn.drafts else turn.due[: turn.rows.decodes]
        for slot in self._scheduler.retreat(set(talked)):
            self.model.clear(slot)
        self._due = self._sorted([])
        return ended

    def _allow(self, change: Callable[[int], T]) -> T:
        """Let the allowance of slots change after a pass over those in use."""
        done = change(len(self._scheduler.running))
        self._scheduler.allowed = self._allowance.slots
        return done

    def _may_guess(self) -> bool:
        """Whether few talk, and all of them talked in the last pass, and without logits."""
        talking = self._scheduler.talking
        few = 0 < len(talking) <= ROWS // 2
        return self._guessing and few and self._due.plain and self._due.everybody == talking

    def _sorted(self, due: list[Sequence]) -> Due:
        model = self.model
        return Due.of(due, self._scheduler.members, model.vocab_size, model.eos_token_id, model.device)

    @torch.inference_mode()
    def _run(self, turn: Turn) -> list[Sequence]:
        """The pass and what comes out of it; returns those that ended."""
        if turn.moves:
            self.model.copy(turn.moves, turn.lengths)
        if turn.drafts:
            return self._take_drafts(turn, *self.model.best(turn.rows))
        if turn.due != self._due.everybody:
            self._due = self._sorted(turn.due)
        due = self._due
        if due.plain and not turn.echoes:
            tokens, finite = self.model.best(turn.rows)
            return self._extend(due.singles, Draw(tokens.tolist(), finite.tolist(), []))
        logits = self.model.forward(turn.rows)
        for echo in turn.echoes:
            echo.take(logits)
        if len(turn.places) < len(logits):
            logits = logits[sent(turn.places, logits.device, torch.long)]
        ended = []
        for leader, rows in due.searches.items():
            ended += self._advance(leader, logits[sent(rows, logits.device)])
        if due.singles:
            logits = logits[sent(due.rows, logits.device)] if due.searches else logits
            ended += self._extend(due.singles, sample(logits, due.choices, due.singles))
        return ended

    def _extend(self, due: list[Sequence], draw: Draw) -> list[Sequence]:
        """Add each its token; returns those that ended."""
        ended = []
        for sequence, logprob in zip(due, draw.logprobs, strict=False):
            if logprob is not None and sequence.sampling.max_tokens:
                sequence.cumulative += logprob.logprob
                if sequence.sampling.logprobs is not None:
                    sequence.logprobs.append(logprob)
        for sequence, token, finite in zip(due, draw.tokens, draw.finite, strict=True):
            if not finite:
                ended += self._doubt(sequence)
            elif self._say(sequence, token):
                ended.append(sequence)
        return ended

    def _take_drafts(self, turn: Turn, tokens: Tensor, finite: Tensor) -> list[Sequence]:
        """Add each what of its draft is right, and the token after it; returns those that ended."""
        ended = []
        said, numbers = tokens.tolist(), finite.tolist()
        for sequence, place in zip(turn.due, turn.places, strict=True):
            draft = turn.drafts.get(sequence, [])
            rows = slice(place, place + 1 + len(draft))
            if not all(numbers[rows]):  # a wrong guess too leaves its numbers in the slot
                ended += self._fail([sequence], NumericalError(NOT_FINITE))
                continue
            sure = self._guesses.check(sequence, draft, said[rows])
            if any(self._say(sequence, token) for token in sure):
                ended.append(sequence)
            else:  # what wrong guesses left behind it is written over before it is read
                sequence.cached = len(sequence.prompt) + len(sequence.tokens) - 1
        return ended

    def _advance(self, leader: Sequence, logits: Tensor) -> list[Sequence]:
        """Give the members of a beam search their tokens; returns its answers if it is over."""
        if not read(logits.isfinite().all()):
            return self._doubt(leader)
        now = time.monotonic()
        answers = self._searches.advance(leader, logits)
        ended = [leader, *leader.runners_up] if answers else []
        if leader.first_token_at is None:
            leader.first_token_at = now
        if answers:
            self._remove(leader)
        for sequence, answer in zip(ended, answers, strict=False):
            self._stopping.close(sequence, answer.tokens, answer.finish_reason)
            sequence.cumulative = answer.total
            sequence.first_token_at, sequence.finished_at = leader.first_token_at, now
        return ended

    def _say(self, sequence: Sequence, token: int) -> bool:
        """Add a token; returns whether the sequence ended with it."""
        if sequence.first_token_at is None:
            sequence.first_token_at = time.monotonic()
        if not self._stopping.extend(sequence, token):
            return False
        self._remove(sequence)
        sequence.finished_at = time.monotonic()
        return True

    def _doubt(self, sequence: Sequence) -> list[Sequence]:
        """Fail a sequence whose numbers are not finite, unless that may come with the prefix it was given.

        A source that was still reading may have failed behind the prefix, and what is masked is not always
        kept out: in a product 0 x NaN is NaN.
        """
        if sequence.shared and not sequence.tokens:
            self.model.clear(self._scheduler.read_again(sequence))
            return []
        return self._fail([sequence], NumericalError(NOT_FINITE))

    def _fail(self, sequences: list[Sequence], error: JobError) -> list[Sequence]:
        failed = [each for sequence in sequences for each in (sequence, *sequence.runners_up)]
        for sequence in failed:
            sequence.error = error
            self._remove(sequence)
            sequence.finished_at = time.monotonic()
        return failed

    def _remove(self, sequence: Sequence) -> None:
        """Free its slots, and what they hold where nobody has seen yet that it is finite."""
        for slot in self._scheduler.remove(sequence):
            self.model.clear(slot)
        self._searches.forget(sequence)
        self._stopping.forget(sequence)
        self._guesses.forget(sequence)
