"""The scenarios by name, and what each of them is given: a client of the running stack."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import openai
from openai import APIStatusError, OpenAI, OpenAIError

MAJOR = int(openai.__version__.partition(".")[0])

T = TypeVar("T")
E = TypeVar("E", bound=Exception)


@dataclass
class Server:
    """The stack, and what was put there for this version's owner."""

    url: str
    key: str
    keys: Mapping[str, str]
    """Others: `stranger` is somebody else, `trains` may only train, `slow` has a limit of requests."""
    fine_tune: str
    """A fine-tune that has run, with events and checkpoints."""
    fine_tuned: str
    """A model that can be deleted."""

    @cached_property
    def strict(self) -> OpenAI:
        """The client that refuses every object which is not exactly as documented."""
        return self.client(_strict_response_validation=True)

    @cached_property
    def lenient(self) -> OpenAI:
        """The client as most use it."""
        return self.client()

    def client(self, key: str | None = None, url: str | None = None, **options: Any) -> OpenAI:
        """A client that tries each request once, unless told otherwise."""
        given: dict[str, Any] = {"max_retries": 0, "timeout": 60} | options
        return OpenAI(base_url=f"{url or self.url}/v1", api_key=key or self.key, **given)


Scenario = Callable[[Server], None]
SCENARIOS: dict[str, Scenario] = {}
SINCE: dict[str, int] = {}
"""The major version of the client from which on it has what a scenario calls."""


def scenario(made: Scenario, since: int = 1) -> Scenario:
    """Let a function be one of the scenarios."""
    SCENARIOS[made.__name__] = made
    SINCE[made.__name__] = since
    return made


def since(major: int) -> Callable[[Scenario], Scenario]:
    """Let a function be a scenario of the versions from `major` on."""
    return lambda made: scenario(made, major)


@contextmanager
def raising(kind: type[E]) -> Iterator[list[E]]:
    """What is inside must raise just this exception of the client, which is in the list afterwards."""
    caught: list[Any] = []
    try:
        yield caught
    except (OpenAIError, ValueError) as error:  # a wrong signature is a ValueError
        caught.append(error)
    assert [type(error) for error in caught] == [kind], caught


@contextmanager
def refused(kind: type[APIStatusError], code: str | None, param: str | None) -> Iterator[None]:
    """What is inside must be refused with this exception, code and parameter."""
    with raising(kind) as caught:
        yield
    (error,) = caught
    assert (error.code, error.param) == (code, param), (error.code, error.param)
    assert error.type
    assert str(error.request_id).startswith("req_")
    assert error.body["message"]  # type: ignore[index]


def wait_for(look: Callable[[], T], seconds: float = 40) -> T:
    """Look until something true is seen, and return it."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, f"not seen within {seconds} s"
        time.sleep(0.05)
    return seen
