"""Knows which tokens each slot holds the K/V of, so that what somebody has read is not read again."""

from collections.abc import Iterable
from dataclasses import dataclass

from worker.sequence import Sequence

WORTH = 16  # tokens; a shorter prefix is sooner read again than found


@dataclass(frozen=True)
class Source:
    """A slot that holds a prefix, or will: a free one, or that of a sequence that runs."""

    slot: int
    length: int  # tokens
    reader: Sequence | None = None  # who holds the slot; None: nobody

    @property
    def ready(self) -> bool:
        """Whether the whole prefix has been read."""
        return self.reader is None or self.reader.cached >= self.length


class Prefixes:
    """What free slots keep until they are given away, and the longest prefix that anybody shares."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[int | None, list[int]]] = {}  # free slot: adapter, tokens

    def keep(self, slot: int, sequence: Sequence) -> None:
        """The slot is free, and still holds what its sequence had read and said."""
        self._kept[slot] = sequence.adapter, (sequence.prompt + sequence.tokens)[: sequence.cached]

    def give(self, slot: int) -> None:
        """The slot is somebody's."""
        self._kept.pop(slot, None)

    def forget(self, adapter: int | None = None) -> None:
        """What free slots hold is not valid any more; of one adapter, or all of it."""
        held = self._kept.items()
        self._kept = {slot: kept for slot, kept in held if adapter is not None and kept[0] != adapter}

    def find(self, sequence: Sequence, running: Iterable[tuple[Sequence, int]]) -> Source | None:
        """Where the longest prefix of its prompt is; of `running` only those before it count.

        The last token of a prompt is never part of it: its logits are wanted.
        """
        prompt, best, found = sequence.prompt[:-1], WORTH - 1, None
        for slot, (adapter, tokens) in self._kept.items():
            if adapter == sequence.adapter and (length := _common(prompt, tokens, best)):
                best, found = length, Source(slot, length)
        for other, slot in running:
            if other is sequence:
                break  # whoever waits for a later one could wait for ever
            if other.adapter == sequence.adapter and (length := _common(prompt, other.prompt, best)):
                best, found = length, Source(slot, length, other)
        return found


def _common(prompt: list[int], tokens: list[int], least: int) -> int:
    """How many tokens they begin with alike, where these are more than `least`; otherwise 0."""
    if min(len(prompt), len(tokens)) <= least or prompt[least] != tokens[least]:
        return 0
    if prompt[:least] != tokens[:least]:
        return 0
    pairs = zip(prompt, tokens, strict=False)
    return next(
        (place for place, (one, other) in enumerate(pairs) if one != other), min(len(prompt), len(tokens))
    )
