"""`make bench-web`: what one web process takes and holds, as ratios over an empty route on the same server.

create    background jobs accepted per second, over an empty Flask route's requests
poll      GET of a finished response per second, over the same
held      p99 of /healthz and memory while 1,000 long polls and 500 streams are held, 32 of them speaking

The load generator and PostgreSQL share the machine's cores with the web process that is measured.
"""

import argparse
import json
import re
import resource
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from bench import stack
from bench.sockets import Client, rate, request
from jobs import signals
from jobs.settings import Settings
from stack.processes import supervisor

_REQUESTS = {"empty": 4000, "create": 1000, "poll": 2000}  # of one round: one to two seconds
_POLLED = 64  # finished responses that are polled in turn
_SPEAKING = 32  # streams that get tokens: as many as a worker has slots
_SPEAK_SECONDS = 0.1  # between two tokens of each
_PROBE_SECONDS = 10.0
_ID = re.compile(rb'"id": ?"(resp_[0-9a-f]{32})"')


@dataclass
class Web:
    """The web process of a running stack, and the empty route beside it."""

    bench: stack.Bench

    def ask(self, method: str, path: str, **body: object) -> bytes:
        """A request of the key that the bench made."""
        return request(method, path, self.bench.key, json.dumps(body).encode() if body else b"")

    def create(self, **more: object) -> bytes:
        """A request for one token in the background."""
        body = {"model": "starter", "input": "\ndef ", "background": True, "max_output_tokens": 1}
        return self.ask("POST", "/v1/responses", **body, **more)

    def rate(self, sent: list[bytes], count: int, port: int | None = None) -> tuple[float, list[bytes]]:
        """Answers per second to these requests over and over, and the answers."""
        return rate(port or self.bench.port, lambda number: sent[number % len(sent)], count)

    def created(self, count: int) -> list[str]:
        """The ids of so many new jobs."""
        return [_id_of(answer) for answer in self.rate([self.create()], count)[1]]

    def memory(self) -> int:
        """Bytes that the process which serves has in memory."""
        with supervisor(self.settings) as control:
            parent = control.getProcessInfo("app:web")["pid"]
        (child,) = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        pages = int(Path(f"/proc/{child}/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    @property
    def settings(self) -> Settings:
        """Where the stack lives."""
        return Settings(var_dir=Path(self.bench.environment["VAR_DIR"]))


def ratios(web: Web, rounds: int) -> None:
    """Creates and polls over the empty route, interleaved."""
    finished = web.created(_POLLED)
    web.rate([web.ask("GET", f"/v1/responses/{one}?wait=30") for one in finished], _POLLED)
    sent = {
        "empty": ([web.ask("POST", "/empty", nothing=1)], web.bench.empty_port),
        "create": ([web.create()], None),
        "poll": ([web.ask("GET", f"/v1/responses/{one}") for one in finished], None),
    }
    found: dict[str, list[float]] = {name: [] for name in sent}
    for _ in range(rounds):
        with web.bench.worker_stopped():
            for name, (these, port) in sent.items():
                found[name].append(web.rate(these, _REQUESTS[name], port)[0])
        web.bench.load("result", 1, 1)  # returns when the worker has done what was submitted before
    print(f"empty     {statistics.median(found['empty']):.0f}/s")
    for name in ("create", "poll"):
        over = [one / nothing for one, nothing in zip(found[name], found["empty"], strict=True)]
        print(f"{name:<9} {statistics.median(found[name]):.0f}/s, {stack.ratio(over)}")


def held(web: Web, polls: int, streams: int) -> None:
    """What it costs to hold connections, and how quickly others are served meanwhile."""
    with web.bench.worker_stopped():
        ids = web.created(polls)
        before = web.memory()
        alone = _p99(_probe(web))
        waiting = [Client(web.bench.port) for _ in range(polls + streams)]
        for client, job_id in zip(waiting, ids, strict=False):
            client.send(web.ask("GET", f"/v1/responses/{job_id}?wait=300"))
        followed = [_opened(web, client) for client in waiting[polls:]]
        time.sleep(1)  # until the last of them waits
        each = (web.memory() - before) / len(waiting)
        print(f"held      {polls} long polls and {streams} streams, {each / 1000:.0f} kB of memory each")
        silent = _p99(_probe(web))
        with _speaking(web, followed[:_SPEAKING]):
            spoken = _p99(_probe(web))
        for client in waiting:
            client.connection.close()
    said = f"{silent:.1f} ms while they are silent, {spoken:.1f} ms while {_SPEAKING} speak"
    print(f"healthz   p99 {alone:.1f} ms alone, {said}")


def _opened(web: Web, client: Client) -> str:
    """Begin a stream; return its job's id once its first event is there."""
    client.send(web.create(stream=True))
    received = b""
    while not _ID.search(received):
        received += client.connection.recv(65_536)
    return _id_of(received)


def _id_of(answer: bytes) -> str:
    found = _ID.search(answer)
    if found is None:
        raise RuntimeError(f"no response: {answer[:300]!r}")
    return found[1].decode()


def _probe(web: Web) -> list[float]:
    """Seconds that /healthz took, asked 100 times a second on one connection."""
    client, sent, took = Client(web.bench.port), web.ask("GET", "/healthz"), []
    end = time.perf_counter() + _PROBE_SECONDS
    while time.perf_counter() < end:
        client.send(sent)
        while client.receive() is None:
            pass
        took.append(time.perf_counter() - client.began)
        time.sleep(0.01)
    client.connection.close()
    return took


def _p99(seconds: list[float]) -> float:
    """Milliseconds."""
    return statistics.quantiles(seconds, n=100)[98] * 1000


@contextmanager
def _speaking(web: Web, job_ids: list[str]) -> Iterator[None]:
    """Say tokens for these jobs as a worker does."""
    stopped = threading.Event()

    def speak(client: "redis.Redis") -> None:
        index = 0
        while not stopped.wait(_SPEAK_SECONDS):
            with client.pipeline(transaction=False) as words:
                for job_id in job_ids:
                    entry = {"a": 1, "s": 0, "i": index, "t": "[65]", "l": ""}
                    words.xadd(signals.tokens_key(job_id), entry)  # type: ignore[arg-type]
                words.publish(signals.SAID, json.dumps(job_ids))
                words.execute()
            index += 1

    with redis.Redis.from_url(web.settings.redis) as client:
        thread = threading.Thread(target=speak, args=(client,))
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--polls", type=int, default=1000)
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--only", choices=("ratios", "held"))
    asked = parser.parse_args()
    parts: dict[str, Callable[[Web], None]] = {
        "ratios": lambda web: ratios(web, asked.rounds),
        "held": lambda web: held(web, asked.polls, asked.streams),
    }
    with stack.running() as running:
        for name, part in parts.items():
            if asked.only in (None, name):
                part(Web(running))


if __name__ == "__main__":
    main()
