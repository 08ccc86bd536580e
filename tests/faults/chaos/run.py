"""One run: a stack, its load, its faults, its witness, and the verdict."""

import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.faults.chaos import matrix, oracle, report, soak
from tests.faults.chaos.client import Client
from tests.faults.chaos.ground import Ground, Row, strike
from tests.faults.chaos.kills import Killer
from tests.faults.chaos.ledger import Ledger
from tests.faults.chaos.load import Load
from tests.faults.chaos.oracle import Verdict
from tests.faults.chaos.recovery import recovered_after
from tests.faults.chaos.report import Report
from tests.faults.chaos.soak import Sampler, Slope
from tests.faults.chaos.stack import LEASE_SECONDS, Stack
from tests.faults.chaos.trainings import Trainings
from tests.faults.chaos.witness import Witness

OWNERS = 5
_PATIENCE = 90.0  # seconds for one recovery, before the next fault comes anyway
_TOO_MANY = 200.0  # creates per second
_BEAR_SECONDS = 30.0
_SHARE = 0.7  # of what it bears
_END_SECONDS = 240.0  # for everything to end once the faults are over


@dataclass(frozen=True)
class Asked:
    """What a run is."""

    minutes: float
    rate: float  # creates per second
    seed: int
    workers: int = 2
    trainer: bool = False
    kept: Path | None = None  # where logs and ledger go in the end


@contextmanager
def ground(asked: Asked) -> Iterator[tuple[Ground, Ledger]]:
    """A stack under load that knows the right answers; all of it is gone after the block."""
    with tempfile.TemporaryDirectory(prefix="penstock-chaos-") as folder:
        stack = Stack(Path(folder), asked.workers, asked.trainer)
        ledger = Ledger(Path(folder) / "ledger.sqlite")
        try:
            stack.start()
            client = Client(stack.port, ledger, stack.issue_keys(OWNERS), asked.seed)
            trainings = Trainings(client, ledger) if asked.trainer else None
            load = Load(client, ledger, asked.rate, asked.seed, trainings)
            load.learn()
            witness = Witness(stack, ledger)
            witness.start()
            yield Ground(stack, load, witness, random.Random(asked.seed)), ledger
            load.close()
        finally:
            stack.stop()
            ledger.close()
            if asked.kept:
                shutil.copytree(stack.var_dir / "log", asked.kept / "log", dirs_exist_ok=True)
                shutil.copy(Path(folder) / "ledger.sqlite", asked.kept)


def chaos(asked: Asked, rows: Sequence[Row], pause: float) -> tuple[Report, Verdict]:
    """Faults one at a time, each after the recovery from the one before and a pause."""
    with ground(asked) as (where, ledger):
        where.load.start()
        began = time.monotonic()
        while time.monotonic() < began + asked.minutes * 60:
            for row in where.random.sample(rows, len(rows)):
                if time.monotonic() >= began + asked.minutes * 60:
                    break
                _strike(where, ledger, row, began)
                time.sleep(where.random.uniform(0.5, 1.5) * pause)
        seconds = time.monotonic() - began
        verdict = conclude(where, ledger)
        return report.of(ledger, verdict, seconds, dict(where.load.sent)), verdict


def _strike(where: Ground, ledger: Ledger, row: Row, began: float) -> None:
    """Do it, wait for the recovery, and say how long that took."""
    before = where.stack.starts()
    done = strike(where, row)
    _wait_for(lambda: recovered_after(ledger, done) is not None, _PATIENCE)
    after = recovered_after(ledger, done)
    again = where.stack.starts() - before - Counter(done.kills)
    done.said += "".join(f" {role} began again" for role in sorted(again))
    ledger.strike(done)
    took = "not yet" if after is None else f"{after:.1f} s"
    at = time.monotonic() - began
    print(f"{at:6.0f} s  {row.number:>5}  {row.fault}: {took} {done.said}", flush=True)


def kills(asked: Asked, every: float) -> tuple[Report, Verdict]:
    """Deaths only, one after so many seconds, recovered or not."""
    with ground(asked) as (where, ledger):
        where.load.start()
        killer = Killer(where, ledger)
        began, done = time.monotonic(), 0
        while time.monotonic() < began + asked.minutes * 60:
            time.sleep(where.random.uniform(0.5, 1.5) * every)
            if (struck := killer.strike()) is not None:
                ledger.strike(struck)
                done += 1
                if done % 50 == 0:
                    print(f"{time.monotonic() - began:6.0f} s  {done} kills", flush=True)
        seconds = time.monotonic() - began
        verdict = conclude(where, ledger)
        return report.of(ledger, verdict, seconds, dict(where.load.sent)), verdict


def soaked(asked: Asked) -> tuple[Report, Verdict, list[Slope]]:
    """A fault a minute at 70 % of what the stack bore before; memory and files of every process."""
    with ground(asked) as (where, ledger):
        borne = _bear(where)
        where.load.rate = borne * _SHARE
        print(f"borne {borne:.1f} creates/s, load {where.load.rate:.1f}/s", flush=True)
        sampler = Sampler(where.stack)
        sampler.start()
        began, rows = time.monotonic(), list[Row]()
        while time.monotonic() < began + asked.minutes * 60:
            rows = rows or where.random.sample(matrix.ROWS, len(matrix.ROWS))
            time.sleep(max(0.0, _next_minute(began) - time.monotonic()))
            _strike(where, ledger, rows.pop(), began)
        sampler.stop()
        seconds = time.monotonic() - began
        verdict = conclude(where, ledger)
        made = report.of(ledger, verdict, seconds, dict(where.load.sent))
        made.borne, made.rate = round(borne, 1), round(where.load.rate, 1)
        return made, verdict, soak.slopes(sampler.samples)


def _bear(where: Ground) -> float:
    """Creates per second that end while more come than can."""
    where.load.rate = _TOO_MANY
    where.load.start()
    time.sleep(_BEAR_SECONDS / 3)
    began, before = time.monotonic(), where.load.served
    time.sleep(_BEAR_SECONDS)
    borne = (where.load.served - before) / (time.monotonic() - began)
    where.load.rate = 1
    _wait_for(lambda: where.load.in_flight < 10, 60)
    return borne


def _next_minute(began: float) -> float:
    now = time.monotonic()
    return now + 60 - (now - began) % 60


def conclude(where: Ground, ledger: Ledger) -> Verdict:
    """Let everything end, look at everything again, and judge."""
    waiting = where.load.finish(_END_SECONDS)
    if where.load.trainings:
        print(f"{where.load.trainings.ended} trainings ended", flush=True)
    if waiting:
        print(f"{waiting} clients waited in vain", flush=True)
    _wait_for(lambda: where.witness.open_jobs() == 0, 60)
    _wait_for(lambda: where.witness.stale_leases() == 0, LEASE_SECONDS * 3)
    where.load.look_again()
    where.witness.stop()
    verdict = oracle.judge(ledger, where.witness.stale_leases())
    if where.load.held_back:
        print(f"{where.load.held_back} arrivals turned round: too many clients waited", flush=True)
    return verdict


def _wait_for(seen: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not seen():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
