"""How webhooks are sent, and what a bad target cannot do to us."""

import json
import resource
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from openai import OpenAI

from jobs.outbox import Delivery
from jobs.webhooks import new_secret
from tests.web.receiver import Receiver, receiving
from web import delivery


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def a_delivery(url: str, *signing_secrets: str) -> Delivery:
    return Delivery(
        id="evt_1",
        owner_id=1,
        type="response.completed",
        resource_id="resp_1",
        created_at=datetime.now(UTC),
        attempt=1,
        target="t",
        endpoint_id="we_1",
        url=url,
        signing_secrets=signing_secrets or [new_secret()],
    )


def test_the_official_client_unwraps_it_with_the_old_and_with_the_new_secret(receiver: Receiver) -> None:
    new, old = new_secret(), new_secret()
    assert delivery.send(a_delivery(f"{receiver.url}/hook?a=b", new, old), allow_private=True) == 200
    [(path, headers, body)] = receiver.heard
    assert path == "/hook?a=b"
    assert len(body) < 20_000
    for secret in (new, old):
        client = OpenAI(api_key="-", webhook_secret=secret)
        event = client.webhooks.unwrap(body, headers)
        assert (event.type, event.id, event.data.id) == ("response.completed", "evt_1", "resp_1")
        client.close()
    other = OpenAI(api_key="-", webhook_secret=new_secret())
    with pytest.raises(Exception, match="signature"):
        other.webhooks.unwrap(body, headers)
    other.close()
    assert json.loads(body)["object"] == "event"


def test_a_redirect_is_an_answer_and_not_followed(receiver: Receiver) -> None:
    receiver.statuses = [307]
    assert delivery.send(a_delivery(receiver.url), allow_private=True) == 307
    assert receiver.paths() == ["/"]


@pytest.mark.parametrize("manner", ["hangs", "drips"])
def test_no_target_holds_us_longer_than_the_timeout(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, manner: str
) -> None:
    monkeypatch.setattr(delivery, "TIMEOUT", 0.5)
    receiver.manner = manner
    began = time.monotonic()
    with pytest.raises(delivery.Undelivered, match=r"0\.5 s|timed out"):
        delivery.send(a_delivery(receiver.url), allow_private=True)
    assert time.monotonic() - began < 3


def test_an_endless_answer_is_not_read(receiver: Receiver) -> None:
    receiver.manner = "floods"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert delivery.send(a_delivery(receiver.url), allow_private=True) == 200
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kb < 50_000


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://127.0.0.1:1/", "https"),
        ("https://127.0.0.1:1/", "private"),
        ("https://localhost:1/", "private"),  # what a name resolves to counts
    ],
)
def test_our_own_network_is_out_of_reach(url: str, why: str) -> None:
    with pytest.raises(delivery.Undelivered, match=why):
        delivery.send(a_delivery(url), allow_private=False)


def test_a_target_that_is_not_there_is_said_so(receiver: Receiver) -> None:
    receiver.manner = "cuts"
    with pytest.raises(delivery.Undelivered):
        delivery.send(a_delivery(receiver.url), allow_private=True)
    with pytest.raises(delivery.Undelivered, match="refused"):
        delivery.send(a_delivery("http://127.0.0.1:1"), allow_private=True)
