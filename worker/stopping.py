"""The only place that says a sequence is over, and where its text ends."""

from tokenizers import Tokenizer

from jobs.inputs import Sampling
from worker.sequence import FinishReason, Sequence

INCOMPLETE = "�"  # what a decoder says for bytes that are not a character, or not yet
LONGEST_WINDOW = 64  # tokens


class Detokenizer:
    """Text of a growing list of tokens, decoding only the newest; a character waits for its last byte."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []  # tokens since the last whole character, and the one that ended it
        self._told = 0  # characters of the window that were returned

    def push(self, token: int) -> str:
        """The characters that this token settles."""
        self._window.append(token)
        text = self._tokenizer.decode(self._window)
        settled = text.removesuffix(INCOMPLETE)
        fresh = settled[self._told :]
        self._told = max(self._told, len(settled))
        if settled == text:
            self._restart(text, keep=1)
        elif len(self._window) > LONGEST_WINDOW:  # bytes that never become characters
            self._restart(text, keep=LONGEST_WINDOW // 2)
        return fresh

    def _restart(self, text: str, keep: int) -> None:
        """Shorten the window; the kept tokens are what the next one is decoded after."""
        self._window = self._window[-keep:]
        self._told -= len(text) - len(self._tokenizer.decode(self._window))


class StopWatch:
    """Sees the token that completes a stop string, wherever token borders fall."""

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...], min_tokens: int) -> None:
        self.stop = stop
        self.deaf = 0  # characters before which a stop string must not end: they came before `min_tokens`
        self._min_tokens = min_tokens
        self._pushed = 0
        self._detokenizer = Detokenizer(tokenizer)
        self._tail = ""
        self._reach = max(map(len, stop)) - 1

    def push(self, token: int) -> bool:
        """Whether this token completes a stop string."""
        fresh = self._detokenizer.push(token)
        self._pushed += 1
        text = self._tail + fresh
        self._tail = text[-self._reach :] if self._reach else ""
        if self._pushed < self._min_tokens:
            self.deaf += len(fresh)
            return False
        return any(stop in text[-(len(fresh) + len(stop) - 1) :] for stop in self.stop if fresh)

    def cut(self, text: str) -> str | None:
        """The text before the earliest stop string, or None where there is none."""
        starts = [text.find(stop, max(0, self.deaf - len(stop) + 1)) for stop in self.stop]
        found = [start for start in starts if start >= 0]
        return text[: min(found)] if found else None


def last_tokens(sampling: Sampling, eos_token_id: int) -> set[int]:
    """The tokens that end a sequence."""
    return {*sampling.stop_token_ids, *(() if sampling.ignore_eos else (eos_token_id,))}


class Stopping:
    """Ends sequences: at end-of-text, at a stop token, at a stop string, at `max_tokens`."""

    def __init__(self, tokenizer: Tokenizer, eos_token_id: int) -> None:
        self._tokenizer, self._eos = tokenizer, eos_token_id
        self._watches: dict[Sequence, StopWatch] = {}  # of the running sequences with stop strings

    def forget(self, sequence: Sequence) -> None:
        """The sequence has left."""
        self._watches.pop(sequence, None)

    def extend(self, sequence: Sequence, token: int) -> bool:
        """Add a token; returns whether the sequence ended, and then it has its text and its reason.

        One that was only to read its prompt ends without the token.
        """
        sampling, tokens = sequence.sampling, sequence.tokens
        if sampling.max_tokens == 0:
            self._end(sequence, "length", tokens)
            return True
        tokens.append(token)
        if (token == self._eos and not sampling.ignore_eos) or token in sampling.stop_token_ids:
            self._end(sequence, "stop", tokens[:-1])
        elif sampling.stop and self._hears_stop(sequence, token):
            self._end(sequence, "stop", tokens)
        elif len(tokens) >= sampling.max_tokens:
            self._end(sequence, "length", tokens)
        else:
            return False
        return True

    def close(self, sequence: Sequence, tokens: list[int], reason: FinishReason) -> None:
        """End a sequence with all that it ever said, as a beam search finds it."""
        sequence.tokens = tokens
        self._end(sequence, reason, tokens[:-1] if reason == "stop" else tokens)

    def _hears_stop(self, sequence: Sequence, token: int) -> bool:
        watch = self._watches.get(sequence)
        if watch is None:
            watch = StopWatch(self._tokenizer, sequence.sampling.stop, sequence.sampling.min_tokens)
            self._watches[sequence] = watch
        # some decoders say other things for a few tokens than for all: the whole text decides
        return watch.push(token) and watch.cut(self._tokenizer.decode(sequence.tokens)) is not None

    def _end(self, sequence: Sequence, reason: FinishReason, said: list[int]) -> None:
        text = self._tokenizer.decode(said)
        watch = self._watches.pop(sequence, None)
        cut = watch.cut(text) if watch else None
        # a last incomplete character can still complete a stop string here
        sequence.finish_reason = reason if cut is None else "stop"
        sequence.text = text if cut is None else cut
