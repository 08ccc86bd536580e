"""Says how likely a prompt's own tokens were, from the logits of its rows."""

from dataclasses import dataclass

from torch import Tensor

from worker.decoding.logprobs import logprobs_of
from worker.sequence import Sequence


def is_echoed(sequence: Sequence) -> bool:
    """Whether the log-probabilities of its prompt are wanted, which takes the logits of every prompt row.

    One that has said something has them.
    """
    return sequence.echo and sequence.sampling.logprobs is not None and not sequence.tokens


@dataclass(frozen=True)
class Echo:
    """Some prompt rows of a pass, and what came after each of them."""

    sequence: Sequence
    place: int  # of the first one among the wanted rows
    expected: list[int]  # the prompt's next tokens; of its last row nothing is expected

    def take(self, logits: Tensor) -> None:
        """Add to `prompt_logprobs`, from logits [wanted, vocab]. Nothing comes before the first token."""
        sequence, top = self.sequence, self.sequence.sampling.logprobs or 0
        if not sequence.prompt_logprobs:
            sequence.prompt_logprobs.append(None)
        rows = logits[self.place : self.place + len(self.expected)]
        sequence.prompt_logprobs += logprobs_of(rows, self.expected, top)
