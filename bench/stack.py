"""`make bench`: what the stack adds to Flask and to the engine, as ratios from one run.

accept    jobs/s that one web process accepts, over an empty Flask route on the same gunicorn
latency   from submit to result of a 1-token generation, at concurrency 1 and 64
share     tokens/s of the whole stack at 32 concurrent, over the bare engine's
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from flask import Flask

from bench.client import Load, Measured
from jobs.settings import Settings
from stack import ROOT
from stack.processes import supervisor
from stack.up import available, wait_for_models

_TOKENS = 128
_START_SECONDS = 300


def empty() -> Flask:
    """The peer: a Flask application with one route that does nothing."""
    app = Flask("empty")
    app.add_url_rule("/empty", view_func=dict, methods=["POST"])
    return app


@dataclass
class Bench:
    """A running stack and, beside it, the empty application on the same gunicorn."""

    environment: dict[str, str]
    port: int
    empty_port: int
    key: str
    source: str

    def load(self, kind: str, concurrency: int, requests: int, tokens: int = 1) -> Measured:
        """One run of the load generator."""
        port = self.empty_port if kind == "empty" else self.port
        load = Load(port, self.key, kind, concurrency, requests, tokens=tokens, spread=tokens > 1)
        return Measured(**json.loads(self._run("bench.client", json.dumps(asdict(load)))))

    def completions(self, prompts: list[list[int]], tokens: int, concurrency: int) -> Measured:
        """So many new tokens for each prompt, from `concurrency` clients that wait for theirs."""
        load = Load(
            self.port, self.key, "completion", concurrency, len(prompts), tokens=tokens, prompts=prompts
        )
        return Measured(**json.loads(self._run("bench.client", json.dumps(asdict(load)))))

    def bare(self, sequences: int) -> float:
        """Tokens/s of the engine alone."""
        flags = {"--source": self.source, "--tokens": str(_TOKENS), "--sequences": str(sequences)}
        printed = self._run("bench.bare", *(part for flag in flags.items() for part in flag))
        return float(json.loads(printed)["tokens_per_second"])

    def _run(self, module: str, *arguments: str) -> str:
        return _run(self.environment, module, *arguments)

    @contextmanager
    def worker_stopped(self) -> Iterator[None]:
        """Accepting is measured alone, without the work that was accepted."""
        with supervisor(Settings(var_dir=Path(self.environment["VAR_DIR"]))) as control:
            pid = control.getProcessInfo("app:worker")["pid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)


@contextmanager
def running(source: str = "models/starter", **settings: str) -> Iterator[Bench]:
    """Start both, in a folder of their own, with these settings; stop them at the end."""
    port, empty_port = _free_port(), _free_port()
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        own = {"VAR_DIR": folder, "PORT": str(port), "DATABASE_URL": "", "REDIS_URL": "", "ARTIFACTS_URL": ""}
        common = {"LOG_LEVEL": "WARNING", "MODELS": f"starter={source}", **settings}
        environment = {**os.environ, **own, **common}
        stack = _start(environment, ["-m", "stack.up"], Path(folder) / "up.log")
        peer = _start(environment, _empty_on_gunicorn(empty_port), None)
        try:
            _wait_for_a_model(port, stack)
            bench = Bench(environment, port, empty_port, _run(environment, "stack.key").strip(), source)
            bench.load("result", 1, 3)
            yield bench
        finally:
            for process in (peer, stack):
                process.send_signal(signal.SIGTERM)
                process.wait(timeout=60)


def _wait_for_a_model(port: int, stack: "subprocess.Popen[bytes]") -> None:
    ready = wait_for_models(f"http://127.0.0.1:{port}", _START_SECONDS, lambda: stack.poll() is None)
    if ready is None or not available(ready):
        raise SystemExit("the stack did not start")


def _empty_on_gunicorn(port: int) -> list[str]:
    """The same worker class as web's."""
    flags = ["--worker-class", "gevent", "--keep-alive", "30", "--no-control-socket"]
    return ["-m", "gunicorn", *flags, "--bind", f"127.0.0.1:{port}", "bench.stack:empty()"]


def accept(bench: Bench, rounds: int, requests: int) -> None:
    """Jobs/s accepted over an empty route's requests/s, interleaved."""
    ratios, accepted, nothing = [], [], []
    for _ in range(rounds):
        nothing.append(requests / bench.load("empty", 16, requests).seconds)
        with bench.worker_stopped():
            accepted.append(requests / bench.load("submit", 16, requests).seconds)
        ratios.append(accepted[-1] / nothing[-1])
        bench.load("result", 1, 1)  # returns when the worker has done what was submitted before
    print(
        f"accept    {statistics.median(accepted):.0f} jobs/s, empty route {statistics.median(nothing):.0f}/s"
    )
    print(f"          {ratio(ratios)}")


def latency(bench: Bench, rounds: int, requests: int) -> None:
    """p50 and p99 from submit to result of one token."""
    for concurrency in (1, 64):
        runs = [bench.load("result", concurrency, requests) for _ in range(rounds)]
        p50, p99 = (statistics.median(run.percentile(share) for run in runs) * 1000 for share in (0.5, 0.99))
        print(f"latency   concurrency {concurrency}: p50 {p50:.1f} ms, p99 {p99:.1f} ms")


def share(bench: Bench, rounds: int, sequences: int) -> None:
    """Tokens/s through the whole stack over the bare engine's, interleaved."""
    ratios, whole, alone = [], [], []
    for _ in range(rounds):
        alone.append(bench.bare(sequences))
        measured = bench.load("result", 32, sequences, tokens=_TOKENS)
        whole.append(measured.tokens / measured.seconds)
        ratios.append(whole[-1] / alone[-1])
    print(f"share     {statistics.median(whole):.0f} tokens/s, bare engine {statistics.median(alone):.0f}")
    print(f"          {ratio(ratios)}")


def ratio(ratios: list[float]) -> str:
    """The median and the range."""
    return f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _run(environment: dict[str, str], module: str, *arguments: str) -> str:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def _start(environment: dict[str, str], arguments: list[str], log: Path | None) -> "subprocess.Popen[bytes]":
    output = log.open("wb") if log else subprocess.DEVNULL
    return subprocess.Popen(
        [sys.executable, *arguments], env=environment, cwd=ROOT, stdout=output, stderr=output
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Run all three and print a line each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--source", default="models/starter", help="the model, as in MODELS")
    parser.add_argument("--sequences", type=int, default=256, help="generations of one round of share")
    parser.add_argument("--only", choices=("accept", "latency", "share"))
    asked = parser.parse_args()
    with running(asked.source) as bench:
        if asked.only in (None, "accept"):
            accept(bench, asked.rounds, 2000)
        if asked.only in (None, "latency"):
            latency(bench, asked.rounds, 300)
        if asked.only in (None, "share"):
            share(bench, asked.rounds, asked.sequences)


if __name__ == "__main__":
    main()
