"""A load generator in a process of its own: keep-alive connections, one thread each, every latency kept."""

import argparse
import http.client
import json
import threading
import time
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Load:
    """What one run sends."""

    port: int
    key: str
    kind: str  # empty | submit | result | completion
    concurrency: int
    requests: int  # in total
    model: str = "starter"
    tokens: int = 1  # of one generation; with `spread`, on average
    spread: bool = False
    prompt: str = "\ndef "
    prompts: list[list[int]] = field(default_factory=list)  # of completions: token ids of each request


def length(number: int, mean: int) -> int:
    """Half to one and a half of the mean, the same for the same number: clients do not march in step."""
    return mean // 2 + number * 37 % (mean + 1)


@dataclass
class Measured:
    """What came back: seconds from first to last, each request's seconds, tokens in total."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    tokens: int = 0

    def percentile(self, share: float) -> float:
        """The latency that `share` of the requests did not exceed, in seconds."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Connection:
    """One client."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._http = http.client.HTTPConnection("127.0.0.1", load.port, timeout=300)
        self._headers = {"Authorization": f"Bearer {load.key}", "Content-Type": "application/json"}

    def once(self, number: int) -> int:
        """One request of the kind that is measured; return the tokens it brought."""
        if self._load.kind == "empty":
            self._call("POST", "/empty", b"{}")
            return 0
        if self._load.kind == "completion":
            completed = json.loads(self._call("POST", "/v1/completions", self._completion(number)))
            return int(completed["usage"]["completion_tokens"])
        submitted = self._call("POST", "/v1/responses", self._body(number))
        if self._load.kind == "submit":
            return 0
        job = json.loads(submitted)
        while job["status"] in ("queued", "in_progress"):
            job = json.loads(self._call("GET", f"/v1/responses/{job['id']}?wait=60"))
        return int(job["usage"]["output_tokens"])

    def _body(self, number: int) -> bytes:
        body: dict[str, Any] = {
            "model": self._load.model,
            "input": self._load.prompt,
            "background": True,
            "max_output_tokens": length(number, self._load.tokens)
            if self._load.spread
            else self._load.tokens,
            "ignore_eos": True,
            "seed": number,
        }
        return json.dumps(body).encode()

    def _completion(self, number: int) -> bytes:
        """Greedy, from token ids."""
        load = self._load
        asked = {"prompt": load.prompts[number], "max_tokens": load.tokens, "temperature": 0}
        return json.dumps({"model": load.model, "ignore_eos": True, **asked}).encode()

    def _call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        self._http.request(method, path, body, self._headers)
        answer = self._http.getresponse()
        data = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{method} {path}: {answer.status} {data[:300]!r}")
        return data


def run(load: Load) -> Measured:
    """Send `load.requests` requests from `load.concurrency` connections."""
    measured, lock = Measured(), threading.Lock()
    numbers = iter(range(load.requests))
    ready = threading.Barrier(load.concurrency + 1)

    def client() -> None:
        connection = Connection(load)
        ready.wait()
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            began = time.perf_counter()
            tokens = connection.once(number)
            took = time.perf_counter() - began
            with lock:
                measured.latencies.append(took)
                measured.tokens += tokens

    threads = [threading.Thread(target=client) for _ in range(load.concurrency)]
    for thread in threads:
        thread.start()
    ready.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    measured.seconds = time.perf_counter() - began
    if len(measured.latencies) != load.requests:
        raise RuntimeError(f"{load.requests - len(measured.latencies)} requests failed")
    return measured


def main() -> None:
    """Read a Load as JSON, print what was measured as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("load", help="a Load as JSON")
    print(json.dumps(asdict(run(Load(**json.loads(parser.parse_args().load))))))


if __name__ == "__main__":
    main()
