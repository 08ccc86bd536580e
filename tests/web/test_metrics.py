"""What web counts of its requests, by however many processes they are served."""

import os
import signal
import socket
from collections import Counter
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from jobs.database import Database
from jobs.prometheus import serve
from jobs.settings import Settings
from tests.conftest import wait_for
from tests.web.conftest import Caller
from tests.web.test_gunicorn import Server
from web import metrics

SECONDS = "penstock_request_seconds_count"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def counted(port: int) -> Counter[tuple[str, str, str]]:
    """Requests by route, method and status."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=20).text
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    found: Counter[tuple[str, str, str]] = Counter()
    for sample in samples:
        if sample.name == SECONDS:
            found[sample.labels["route"], sample.labels["method"], sample.labels["status"]] = int(
                sample.value
            )
    return found


def served(address: str, key: str) -> int:
    """One request on a connection of its own."""
    return httpx.get(f"{address}/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code


def kill_one(pid: int) -> None:
    """Kill a child of gunicorn and wait until there is another."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    before = set(children.read_text().split())
    assert len(before) == 2
    os.kill(int(min(before)), signal.SIGKILL)
    wait_for(lambda: len(set(children.read_text().split()) - before) == 1)


def test_two_processes_are_added_up_and_none_that_died_is_missing(
    settings: Settings, offered: Database, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("WEB_PROCESSES", "2")
    monkeypatch.setenv("METRICS_PORT", str(port))
    server = Server(settings.var_dir, tmp_path / "log")
    try:
        wait_for(server.answers)
        asked = ("/v1/models", "GET", "2xx")
        for total in (40, 80):
            assert {served(server.address, key) for _ in range(40)} == {200}
            seen = [counted(port)[asked] for _ in range(12)]
            assert seen == [total] * 12, "whichever process is asked answers for both"
            if total == 40:
                kill_one(server.process.pid)
                wait_for(server.answers)
    finally:
        server.stop()


def test_requests_are_named_by_their_route_whatever_is_in_the_url(caller: Caller) -> None:
    def count(route: str, method: str, status: str) -> float:
        labels = {"route": route, "method": method, "status": status}
        return metrics._OWN.get_sample_value(SECONDS, labels) or 0.0

    def named() -> set[str]:
        families = metrics._OWN.collect()
        return {value for family in families for s in family.samples for value in s.labels.values()}

    secret, known = "resp_" + "5" * 32, named()
    before = count("/v1/responses/<response_id>", "GET", "4xx")
    caller.get(f"/v1/responses/{secret}")
    assert count("/v1/responses/<response_id>", "GET", "4xx") == before + 1
    caller.get("/nowhere/secret")
    caller.send("SECRET", "/v1/models")
    assert count("none", "GET", "4xx") >= 1
    assert count("none", "other", "4xx") + count("/v1/models", "other", "4xx") >= 1
    assert not any("secret" in value.lower() or secret in value for value in named() - known)


def test_nothing_is_shown_unless_asked_for_and_a_taken_port_stops_nobody(settings: Settings) -> None:
    assert serve("sweeper", settings) is None
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1] - 4
        assert serve("sweeper", settings.model_copy(update={"metrics_port": port})) is None


def test_what_is_served_is_for_this_machine_alone_by_default(settings: Settings) -> None:
    endpoint = serve("clerk", settings.model_copy(update={"metrics_port": free_port() - 3}))
    assert endpoint is not None
    try:
        assert endpoint._server.server_address[0] == "127.0.0.1"
        assert "python_info" in httpx.get(f"http://127.0.0.1:{endpoint.port}/metrics").text
    finally:
        endpoint.close()
