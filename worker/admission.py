"""Says which sequences an engine cannot run, and why."""

from jobs.errors import InvalidPrompt
from worker.decoding.processors import refusal
from worker.sequence import Sequence
from worker.stopping import last_tokens


def check(sequence: Sequence, *, vocab: int, context: int, eos: int, slots: int) -> None:
    """Raises InvalidPrompt with one sentence that names what does not fit."""
    prompt, limit = sequence.prompt, sequence.sampling.max_tokens
    if not prompt:
        raise InvalidPrompt("The prompt is empty; send at least one token.")
    if min(prompt) < 0 or max(prompt) >= vocab:
        raise InvalidPrompt(f"The prompt has a token id outside the model's vocabulary of {vocab}.")
    if len(prompt) + limit > context:
        raise InvalidPrompt(
            f"The prompt's {len(prompt)} tokens and max_tokens {limit} are together more than"
            f" the model's context of {context} tokens; send less of either."
        )
    if reason := refusal(sequence.sampling, vocab):
        raise InvalidPrompt(reason)
    if sequence.sampling.num_beams > 1:
        _check_beams(sequence, vocab - len(last_tokens(sequence.sampling, eos)), slots)


def _check_beams(sequence: Sequence, going_on: int, slots: int) -> None:
    sampling, beams = sequence.sampling, sequence.sampling.num_beams
    if beams > slots:
        raise InvalidPrompt(f"num_beams {beams} is more than the {slots} slots here; ask for fewer beams.")
    if beams > going_on:
        raise InvalidPrompt(
            f"num_beams {beams} is more than the {going_on} tokens that do not end a text; ask for fewer."
        )
    if sampling.max_tokens == 0:
        raise InvalidPrompt("Beam search needs max_tokens of 1 at least; ask for one or leave num_beams out.")
    if len(sequence.runners_up) >= beams:
        raise InvalidPrompt(f"n is more than num_beams {beams}; ask for fewer answers or more beams.")
    if sampling.stop or sampling.logprobs is not None:
        raise InvalidPrompt("Beam search goes without stop and logprobs; leave them out.")
