"""Runs beam searches in the batch: says which slot holds which hypothesis, and what is copied among them."""

from collections.abc import Callable

import torch
from torch import Tensor

from worker.beams import Answer, BeamSearch
from worker.decoding.processors import processed
from worker.scheduler import Scheduler
from worker.sequence import Sequence
from worker.stopping import last_tokens
from worker.transfer import sent

Copy = Callable[[list[tuple[int, int]], list[int]], None]
"""As a model's `copy`: moves from slot to slot, and how many positions of each."""


class Searches:
    """Those in flight, by their leaders."""

    def __init__(self, scheduler: Scheduler, copy: Copy, eos_token_id: int) -> None:
        self._scheduler, self._copy, self._eos = scheduler, copy, eos_token_id
        self._running: dict[Sequence, Hypotheses] = {}

    def advance(self, leader: Sequence, logits: Tensor) -> list[Answer]:
        """Give the members their next tokens, from finite logits [members who talk, vocab] in their order.

        Returns the answers, best first, when the search is over; until then nothing.
        """
        members, slots = self._scheduler.members[leader], self._scheduler.running
        search = self._running.get(leader)
        if search is None:
            search = self._running[leader] = Hypotheses(members, self._eos)
            self._scheduler.fork(leader)
        moves = search.advance(logits)
        if moves:
            moves = [(slots[members[one]], slots[members[other]]) for one, other in moves]
            self._copy(moves, [leader.cached] * len(moves))
        return search.answers if moves is None else []

    def forget(self, leader: Sequence) -> None:
        """The leader has left."""
        self._running.pop(leader, None)


class Hypotheses:
    """The members of one search. Before the first advance only the leader, the first one, talks."""

    def __init__(self, members: list[Sequence], eos_token_id: int) -> None:
        asked = members[0].sampling
        ends = last_tokens(asked, eos_token_id)
        self._members, self._eos = members, eos_token_id
        self._speakers = [0]  # of each hypothesis of the search, likeliest first: which member says it
        self._search = BeamSearch(
            asked.num_beams, ends, asked.max_tokens, asked.length_penalty, asked.early_stopping
        )

    @property
    def answers(self) -> list[Answer]:
        """The best hypotheses, best first, once the search is over."""
        return self._search.answers

    def advance(self, logits: Tensor) -> list[tuple[int, int]] | None:
        """Give every member its next token, as `Searches.advance` does.

        Returns which member's K/V another one needs now, as (from, to); None when the search is over.
        A hypothesis stays with the member that said it so far, so that few are copied.
        """
        leader = self._members[0]
        scores = torch.log_softmax(logits[sent(self._speakers, logits.device)], -1)
        scores = processed(scores, leader.sampling, leader.prompt, self._search.hypotheses, self._eos)
        parents = self._search.advance(scores)
        if parents is None:
            return None
        origins = [self._speakers[parent] for parent in parents]
        self._speakers = _placed(origins)
        for speaker, hypothesis in zip(self._speakers, self._search.hypotheses, strict=True):
            self._members[speaker].tokens = hypothesis
        moves = zip(origins, self._speakers, strict=True)
        return [(origin, speaker) for origin, speaker in moves if origin != speaker]


def _placed(origins: list[int]) -> list[int]:
    """A member of its own for each hypothesis: the one that it comes from, where no better one took it."""
    spare = set(range(len(origins))) - set(origins)
    placed: list[int] = []
    for origin in origins:
        placed.append(spare.pop() if origin in placed else origin)
    return placed
