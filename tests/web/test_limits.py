"""What a key may do in a minute and at once, also while Redis is away."""

import math
import time
from pathlib import Path

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st

from jobs import keys
from jobs.database import Database
from jobs.keys import Limits
from jobs.settings import Settings
from tests.conftest import wait_for
from tests.web.conftest import Caller, FakeWorker, opened, output, rows, the_error
from web import limits
from web.limits import Window


def limited(app: Flask, database: Database, **most: int) -> Caller:
    """Somebody whose key has limits."""
    with database.transaction() as connection:
        return Caller(app, keys.issue(connection, "ann", limits=Limits(**most)))


def submit(caller: Caller, text: str = "d", tokens: int = 4) -> object:
    return caller.post(
        "/v1/responses", model="starter", input=text, background=True, max_output_tokens=tokens
    )


def test_a_key_without_limits_hears_of_none(caller: Caller) -> None:
    answer = caller.get("/v1/models")
    assert not [name for name, _ in answer.headers if name.lower().startswith("x-ratelimit")]


def test_requests_beyond_the_limit_are_refused_and_every_answer_says_how_the_key_stands(
    app: Flask, offered: Database
) -> None:
    caller = limited(app, offered, requests_per_minute=3)
    answers = [caller.get("/v1/models"), submit(caller), caller.get("/v1/nothing")]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["2", "1", "0"]
    assert {answer.headers["x-ratelimit-limit-requests"] for answer in answers} == {"3"}
    refused = caller.get("/v1/models")
    error = the_error(refused, 429, "rate_limit_exceeded")
    assert error["type"] == "requests"
    assert "3 requests per minute" in error["message"]
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.headers["x-ratelimit-reset-requests"][-1] == "s"
    assert "x-ratelimit-limit-tokens" not in refused.headers


def test_one_key_at_its_limit_leaves_its_sister_alone(app: Flask, offered: Database) -> None:
    first, second = (limited(app, offered, requests_per_minute=1) for _ in range(2))
    assert [first.get("/v1/models").status_code for _ in range(2)] == [200, 429]
    assert second.get("/v1/models").status_code == 200


def test_tokens_are_the_prompt_and_the_most_that_may_be_written(app: Flask, offered: Database) -> None:
    caller = limited(app, offered, tokens_per_minute=50)
    answer = submit(caller, "def", 20)
    assert answer.headers["x-ratelimit-limit-tokens"] == "50"
    left = int(answer.headers["x-ratelimit-remaining-tokens"])
    assert 50 - 20 - 3 <= left < 50 - 20
    refused = submit(caller, "def", left)
    assert the_error(refused, 429, "rate_limit_exceeded")["type"] == "tokens"
    assert refused.headers["x-ratelimit-remaining-tokens"] == str(left), "what is refused costs nothing"
    assert refused.headers["x-should-retry"] == "true"
    assert caller.get("/v1/models").headers["x-ratelimit-remaining-tokens"] == str(left)
    assert rows(offered) == 1


def test_a_request_that_can_never_fit_is_not_to_be_sent_again(app: Flask, offered: Database) -> None:
    refused = submit(limited(app, offered, tokens_per_minute=10), "def", 20)
    assert "Ask for less" in the_error(refused, 429, "rate_limit_exceeded")["message"]
    assert refused.headers["x-should-retry"] == "false"
    assert refused.headers["Retry-After"] == "60"


@pytest.mark.parametrize("which", ["queued_jobs", "concurrent_jobs"])
def test_a_key_has_only_so_many_jobs(app: Flask, offered: Database, worker: FakeWorker, which: str) -> None:
    caller = limited(app, offered, **{which: 2})
    assert [submit(caller).status_code for _ in range(2)] == [200, 200]
    refused = submit(caller)
    assert "2" in the_error(refused, 429, "rate_limit_exceeded")["message"]
    assert refused.headers["x-should-retry"] == "false"
    running = worker.claim()
    assert submit(caller).status_code == (200 if which == "queued_jobs" else 429)
    for job in running:
        worker.settle(job, output("t"))
    assert submit(caller).status_code == 200


def test_while_redis_is_away_each_process_counts_by_itself_and_nobody_waits(
    settings: Settings, offered: Database, tmp_path: Path
) -> None:
    deaf = settings.model_copy(update={"redis_url": f"unix://{tmp_path}/no.sock"})
    with opened(deaf) as app:
        caller = limited(app, offered, requests_per_minute=5, tokens_per_minute=1000)
        began = time.monotonic()
        assert [caller.get("/v1/models").status_code for _ in range(7)] == [200] * 5 + [429] * 2
        assert time.monotonic() - began < 2
        assert caller.get("/v1/models").headers["x-ratelimit-limit-tokens"] == "1000"


def test_a_redis_that_does_not_answer_costs_half_a_second_once(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "mute.sock"))
        mute.listen()
        limiter = limits.Limiter(f"unix://{tmp_path}/mute.sock")
        began = time.monotonic()
        assert [limiter.take("a", 2, 1)[0] for _ in range(3)] == [True, True, False]
        assert time.monotonic() - began < 1.5
        limiter.close()


def test_redis_counts_again_once_it_is_back(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "_BREAK_SECONDS", 0.1)
    ours, theirs = limits.Limiter(settings.redis), limits.Limiter(settings.redis)
    assert theirs.take("a", 2, 2)[0]
    ours._broken_until = time.monotonic() + 0.1
    assert ours.take("a", 2, 1)[0], "alone"
    wait_for(lambda: not ours.take("a", 2, 1)[0], seconds=5)
    ours.close()
    theirs.close()


@given(
    limit=st.integers(1, 1000),
    previous=st.integers(0, 1000),
    current=st.integers(0, 1000),
    fading=st.floats(0, 60),
    cost=st.integers(1, 1000),
)
def test_after_the_wait_that_is_told_it_fits(
    limit: int, previous: int, current: int, fading: float, cost: int
) -> None:
    window = Window(limit, previous, fading, current, fading + 60)
    wait = window.wait(cost)
    if cost > limit:
        assert math.isinf(wait)
        return
    assert 0 <= wait <= 120
    assert later(window, wait + 1e-6).remaining >= cost
    assert wait == 0 or later(window, max(0, wait - 1)).remaining <= cost + (previous + current) / 30


def later(window: Window, seconds: float) -> Window:
    """The same window after a while in which nothing came."""
    if seconds <= window.previous_seconds:
        fading = window.previous_seconds - seconds
        return Window(window.limit, window.previous, fading, window.current, window.current_seconds - seconds)
    return Window(window.limit, window.current, max(0.0, window.current_seconds - seconds), 0, 0.0)


@pytest.mark.parametrize(
    ("seconds", "spelled"),
    [(0, "0ms"), (0.0121, "13ms"), (1, "1s"), (8.64, "8.64s"), (60, "1m0s"), (99.5, "1m39.5s")],
)
def test_durations_are_spelled_as_openai_does(seconds: float, spelled: str) -> None:
    assert limits._duration(seconds) == spelled
