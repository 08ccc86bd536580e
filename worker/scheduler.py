"""Who waits, who runs in which slot, and whose rows make the next pass. Holds no tensor."""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Collection, Iterable, Iterator

from worker.echo import is_echoed
from worker.prefixes import Prefixes, Source
from worker.sequence import Sequence
from worker.speculation import Speculation
from worker.turn import Turn, adapter_number

COPIED = 128  # positions whose K/V are copied in the time that it takes to read one; the kernels copy 250


class Scheduler:
    """First come, first served, over fixed slots.

    A beam search is one sequence, its leader, which takes `num_beams` slots at once: one for itself, the rest
    for members made for it, who stay silent until the prompt is read and `fork` lets them talk.
    """

    def __init__(self, slots: int, *, share: bool = True) -> None:
        """`share`: read a prefix that several prompts have only once."""
        self.allowed = slots  # how many may be given away; who comes first gets what it needs in any case
        self.waiting: deque[Sequence] = deque()
        self.running: dict[Sequence, int] = {}  # to its slot, in the order of arrival; members too
        self.talking: list[Sequence] = []  # those who have read their prompt, in the order of their slots
        self.members: dict[Sequence, list[Sequence]] = {}  # of each leader, itself the first
        self.taken = 0  # slots that somebody holds or waits for
        self._free = list(range(slots))  # ascending: low slots first keep the batch dense
        self._slots: list[int] = []  # of those who talk
        self._adapters: list[int] = []  # likewise
        self._reading: list[Sequence] = []  # the others, in the order of arrival
        self._share = share
        self._prefixes = Prefixes()
        self._sources: dict[Sequence, Source] = {}  # what readers are about to copy

    def add(self, sequences: Iterable[Sequence]) -> None:
        """Queue newcomers."""
        for sequence in sequences:
            self.waiting.append(sequence)
            self.taken += sequence.sampling.num_beams

    def admit(self) -> None:
        """Give free slots to those who have waited longest."""
        while self.waiting and self._has_room(self.waiting[0].sampling.num_beams):
            leader = self.waiting.popleft()
            self._seat(leader, self._choose_slot(leader))
            self._reading.append(leader)
            if leader.sampling.num_beams > 1:
                self.members[leader] = [leader, *self._seat_members(leader)]

    def fork(self, leader: Sequence) -> None:
        """The leader of a beam search has its prompt in its slot: its members talk from now on."""
        for member in self.members[leader][1:]:
            member.cached = leader.cached
            self._let_talk(member)

    def remove(self, sequence: Sequence) -> list[int]:
        """Let a sequence leave; returns those of its slots whose numbers nobody has seen to be finite."""
        if sequence not in self.running:
            if sequence in self.waiting:
                self.waiting.remove(sequence)
                self.taken -= sequence.sampling.num_beams
            return []
        finite = sequence.error is None and bool(sequence.tokens)
        left = [self._leave(member, finite) for member in self.members.pop(sequence, [sequence])]
        return [] if finite else left

    def read_again(self, sequence: Sequence) -> int:
        """Let a sequence read all of its prompt by itself, as if it came now; returns its slot."""
        slot = self.running[sequence]
        self._hush(slot)
        self._reading.append(sequence)
        sequence.cached = sequence.shared = 0
        return slot

    def retreat(self, talked: Collection[Sequence]) -> list[int]:
        """A pass failed, and its rows count for nothing; returns the slots that were left.

        Those who `talked` before it talk on, as many as are allowed in the order of their arrival. All others
        wait again, before whoever waits already, to read again what they had read and said; beam searches
        begin anew.
        """
        kept, left, back = 0, list[int](), list[Sequence]()
        for sequence in self.submitted:
            if kept < self.allowed and sequence in talked and sequence not in self.members:
                sequence.cached = len(sequence.script) - 1
                kept += 1
                continue
            if sequence in self.members:
                sequence.tokens = []
            left += [self._leave(member, finite=False) for member in self.members.pop(sequence, [sequence])]
            sequence.cached = 0
            if not sequence.tokens:
                sequence.shared, sequence.prompt_logprobs = 0, []
            back.append(sequence)
        self.waiting.extendleft(reversed(back))
        self.taken += sum(sequence.sampling.num_beams for sequence in back)
        self._prefixes.forget()  # nobody knows how far the pass came
        return left

    @property
    def submitted(self) -> list[Sequence]:
        """Those who run, without the members that beam searches made."""
        made = {member for leader in self.members for member in self.members[leader][1:]}
        return [sequence for sequence in self.running if sequence not in made]

    def forget_prefixes(self, adapter: int | None = None) -> None:
        """What free slots hold is not valid any more; of one adapter, or all of it."""
        self._prefixes.forget(adapter)

    def gather(self, budget: int, speculation: Speculation | None = None) -> Turn:
        """The rows of the next pass: the talking, and prompts as far as `budget`, the rows in all, has room.

        With `speculation` the talking may come with drafts, where nobody reads beside them.
        """
        turn = Turn()
        if speculation and not self._reading:
            self._add_drafts(turn, speculation)
            return turn
        turn.add_next_tokens(self.talking, self._slots, self._adapters)
        if self._reading and budget > len(turn.rows.tokens):
            self._add_prompts(turn, budget - len(turn.rows.tokens))
        return turn

    def _has_room(self, slots: int) -> bool:
        used = len(self.running)
        return len(self._free) >= slots and (not used or used + slots <= self.allowed)

    def _choose_slot(self, sequence: Sequence) -> int:
        """The free slot that holds most of the prompt already, otherwise the lowest."""
        source = self._find(sequence)
        if source and source.reader is None:
            sequence.cached = sequence.shared = source.length
            return source.slot
        if source:
            self._sources[sequence] = source
        return self._free[0]

    def _find(self, sequence: Sequence) -> Source | None:
        if not self._share or sequence.tokens or is_echoed(sequence):
            return None
        return self._prefixes.find(sequence, self.running.items())

    def _seat(self, sequence: Sequence, slot: int) -> None:
        self._free.remove(slot)
        self._prefixes.give(slot)
        self.running[sequence] = slot

    def _seat_members(self, leader: Sequence) -> Iterator[Sequence]:
        for _ in range(1, leader.sampling.num_beams):
            member = Sequence(leader.prompt, leader.sampling, leader.index, leader.adapter)
            self._seat(member, self._free[0])
            yield member

    def _let_talk(self, sequence: Sequence) -> None:
        slot = self.running[sequence]
        place = bisect_left(self._slots, slot)
        self._slots.insert(place, slot)
        self._adapters.insert(place, adapter_number(sequence))
        self.talking.insert(place, sequence)

    def _leave(self, sequence: Sequence, finite: bool) -> int:
        slot = self.running.pop(sequence)
        self.taken -= 1
        insort(self._free, slot)
        if sequence in self._reading:
            self._reading.remove(sequence)
            self._sources.pop(sequence, None)
        else:
            self._hush(slot)
        if finite:
            self._prefixes.keep(slot, sequence)
        return slot

    def _hush(self, slot: int) -> None:
        """Whoever has the slot does not talk any more; the members of a search may not have begun to."""
        place = bisect_left(self._slots, slot)
        if self._slots[place : place + 1] == [slot]:
            del self._slots[place], self._adapters[place], self.talking[place]

    def _add_drafts(self, turn: Turn, speculation: Speculation) -> None:
        """A row for those of whom nothing can be guessed, several for the others."""
        drafts = [speculation.draft(sequence, len(self.talking)) for sequence in self.talking]
        single = [place for place, draft in enumerate(drafts) if not draft]
        turn.add_next_tokens(
            [self.talking[place] for place in single],
            [self._slots[place] for place in single],
            [self._adapters[place] for place in single],
        )
        for sequence, slot, draft in zip(self.talking, self._slots, drafts, strict=True):
            if draft:
                turn.add_draft(sequence, slot, draft)

    def _add_prompts(self, turn: Turn, room: int) -> None:
        """Chunks of prompts, as much as there is room for."""
        ready = []
        for sequence in self._reading:
            if turn.load >= room:
                break
            if sequence not in self._sources or self._copy_prefix(turn, sequence):
                ready.append(sequence)
        # one row at least, however much is copied: copies are made in a pass, and that needs a row
        for sequence, count in _shares(ready, max(1, room - turn.load)):
            turn.add_prompt(sequence, self.running[sequence], count)
            if sequence.cached == len(sequence.script):
                self._reading.remove(sequence)
                self._let_talk(sequence)

    def _copy_prefix(self, turn: Turn, sequence: Sequence) -> bool:
        """Whether its next rows can be read now: what is copied is there, or nobody has it any more."""
        source: Source | None = self._sources.pop(sequence)
        if source and source.reader not in self.running:
            source = self._find(sequence)
        if source is None:
            return True
        fresh = {target for _, target in turn.moves}  # holds its prefix only when the pass begins
        if not source.ready or source.slot in fresh:
            self._sources[sequence] = source
            return False
        turn.moves.append((source.slot, self.running[sequence]))
        turn.lengths.append(source.length)
        turn.load += -(-source.length // COPIED)
        sequence.cached = sequence.shared = source.length
        return True


def _shares(ready: list[Sequence], room: int) -> Iterator[tuple[Sequence, int]]:
    """How many rows each may read: half of the room is the earliest one's, the rest goes to the shortest.

    So a short prompt never waits long for a long one, and no prompt waits for ever.
    """
    if not ready:
        return
    first, *others = ready
    left = {sequence: len(sequence.script) - sequence.cached for sequence in ready}
    unasked = room - sum(left[sequence] for sequence in others)
    count = min(left[first], max(unasked, -(-room // 2)))
    yield first, count
    for sequence in sorted(others, key=left.__getitem__):
        room -= count
        count = min(left[sequence], room)
        if count <= 0:
            return
        yield sequence, count
