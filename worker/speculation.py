"""Guesses what a greedy sequence says next from what it has read and said: prompt lookup decoding.

A draft costs hardly anything to check while few sequences talk, since a pass of up to `ROWS` rows is bound by
reading the weights. Source: A. Saxena, "Prompt Lookup Decoding" (2023); vLLM has it as `ngram`.
"""

from worker.sequence import Sequence

ROWS = 8  # of a pass that costs what one row costs
LONGEST, SHORTEST = 3, 2  # tokens that must have come before for what followed them to be guessed again
PATIENCE = 32  # steps: the longest pause after guesses that were wrong


class Lookup:
    """Where each n-gram of one sequence was last followed by something."""

    def __init__(self, prompt: list[int]) -> None:
        self._text: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # n-gram: the place behind it
        self._misses = 0
        self._pause = 0  # steps until the next guess
        self.extend(prompt)

    def __len__(self) -> int:
        return len(self._text)

    def extend(self, tokens: list[int]) -> None:
        """The text goes on."""
        text, after = self._text, self._after
        for token in tokens:
            place = len(text)
            for size in range(SHORTEST, LONGEST + 1):
                if place >= size:
                    after[tuple(text[place - size :])] = place
            text.append(token)

    def guess(self, most: int) -> list[int]:
        """What followed the last time; beyond the end of the text, what followed goes round."""
        if self._pause:
            self._pause -= 1
            return []
        text = self._text
        for size in range(LONGEST, SHORTEST - 1, -1):
            start = self._after.get(tuple(text[-size:]))
            if start is not None:
                guessed = text[start : start + most]
                while len(guessed) < most:
                    guessed.append(guessed[len(guessed) - (len(text) - start)])
                return guessed
        return []

    def learn(self, accepted: int) -> None:
        """How many tokens of the last guess were right: after wrong ones it waits, each time longer."""
        self._misses = 0 if accepted else self._misses + 1
        self._pause = min(PATIENCE, 2**self._misses - 1) if self._misses > 1 else 0


class Speculation:
    """The drafts of the sequences in flight."""

    def __init__(self) -> None:
        self._lookups: dict[Sequence, Lookup] = {}
        self.drafted = 0  # tokens, ever
        self.accepted = 0  # of them

    def draft(self, sequence: Sequence, talking: int) -> list[int]:
        """What it may say after its next token, with so many sequences talking; may be nothing."""
        left = sequence.sampling.max_tokens - len(sequence.tokens) - 1
        most = min(ROWS // talking - 1, left)
        if most <= 0:
            return []
        lookup = self._lookups.get(sequence)
        if lookup is None:
            lookup = self._lookups[sequence] = Lookup(sequence.prompt)
        lookup.extend(sequence.tokens[len(lookup) - len(sequence.prompt) :])
        return lookup.guess(most)

    def check(self, sequence: Sequence, draft: list[int], said: list[int]) -> list[int]:
        """The tokens that are sure: `said[i]` is the model's word after the first i tokens of the draft."""
        pairs = zip(draft, said, strict=False)
        right = next((place for place, (guess, token) in enumerate(pairs) if guess != token), len(draft))
        if draft:
            self._lookups[sequence].learn(right)
            self.drafted += len(draft)
            self.accepted += right
        return said[: right + 1]

    def forget(self, sequence: Sequence) -> None:
        """The sequence has left."""
        self._lookups.pop(sequence, None)
