"""The counter between SQL and the engines: claims what fits the free slots, commits results in groups."""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DataError

from jobs import batches, claims, execution, lifecycle, metrics, outbox
from jobs.attempts import Claim, ClaimedJob, Ending
from jobs.database import Database
from jobs.errors import DatabaseUnavailable, Unexpected, WorkerStopping
from jobs.failpoints import failpoint
from jobs.queue import Chore, QueueName
from jobs.signals import ENDED, Signals
from worker.lanes import Lane, Served
from worker.roster import Roster
from worker.sequence import Sequence
from worker.work import Work

log = structlog.get_logger(__name__)

_POLL_SECONDS = 1.0  # a doorbell may get lost; nobody waits longer than this for one
_FULL_SECONDS = 0.25  # between looks while no slot is free
_COMMIT_SECONDS = 2.0  # for the last commit, after the drain


class Intake:
    """`run` has a thread of its own and alone talks to SQL; all else may be called from any thread."""

    def __init__(
        self,
        database: Database,
        signals: Signals,
        roster: Roster,
        worker: str,
        lease: timedelta,
        max_failures: int,
    ) -> None:
        self._database = database
        self._signals = signals
        self._roster = roster
        self._worker = worker
        self._lease = lease
        self._max_failures = max_failures
        self.moves = True  # the device, as far as the heartbeat sees
        self.streaming = threading.Event()  # set when a job begins whose tokens somebody reads
        self.began: Callable[[ClaimedJob], None] = lambda _: None  # called with each job that joins its batch
        self._works: dict[Claim, Work] = {}
        self._of: dict[Sequence, Work] = {}
        self._endings: deque[Ending] = deque()
        self._lock = threading.Lock()  # over the three above
        self._awake = threading.Event()
        self._stopping = threading.Event()
        self._may_claim = threading.Lock()  # held from the look for work to its begin
        self._halted = False
        self.turns = 0  # of `run`; whoever watches for a hang looks at this
        self._drained = threading.Event()
        self._bell = threading.Event()  # rung since the last claim
        self._more = True  # there may be work that nobody will ring for
        self._news = False  # somebody waits to be told of an end
        self._batch_ended = False  # a batch has no line left, its files can be written
        self._claimed_at = 0.0  # time.monotonic()
        self._suspected: str | None = None
        self._suspect_asked = 0.0  # time.monotonic()
        self._deadline = 0.0  # of the drain, time.monotonic()

    def claims(self) -> list[Claim]:
        """What this process holds, results on their way to SQL included."""
        with self._lock:
            return [*self._works, *(ending.claim for ending in self._endings)]

    def reached(self) -> dict[Claim, int]:
        """What this process holds, and how many tokens each job has; of results on their way 0."""
        with self._lock:
            going = {claim: work.reached for claim, work in self._works.items()}
            return going | {ending.claim: 0 for ending in self._endings}

    def holds_suspect(self) -> bool:
        """Whether a job whose workers died is running, alone."""
        with self._lock:
            return any(work.job.suspect for work in self._works.values())

    def streamed(self) -> list[tuple[Claim, Sequence, int]]:
        """The sequences that somebody reads, each with how many of its tokens may be told.

        Taken under the lock, so that the output of a job that is cancelled has at least as many.
        """
        with self._lock:
            return [
                (claim, sequence, count)
                for claim, work in self._works.items()
                if work.task.stream
                for sequence, count in work.tellable()
            ]

    def wake(self) -> None:
        """Somebody rang: there is work to claim."""
        self._bell.set()
        self._awake.set()

    def finish(self, sequence: Sequence) -> None:
        """A sequence has left; its job ends with its last one, or with the first error."""
        with self._lock:
            work = self._of.pop(sequence, None)
            if work is None:
                return  # its job was dropped meanwhile
            work.unfinished -= sequence.finished
            if sequence.error is not None:
                self._end(work, sequence.error)
            elif work.unfinished == 0 or (work.unwanted and not self._has_slots(work)):
                self._end(work, work.output())  # a cancel that was asked for wins in `settle`
        self._awake.set()

    def fail(self, lane: Lane, error: BaseException) -> None:
        """The engine itself failed: every job in it ends with that."""
        with self._lock:
            for work in [work for work in self._works.values() if work.served.lane is lane]:
                self._end(work, error)
        self._awake.set()

    def drop(self, lost: Iterable[Claim]) -> None:
        """Somebody else owns these now: stop, and write nothing."""
        with self._lock:
            for claim in lost:
                if work := self._works.get(claim):
                    metrics.LEASE_LOSSES.inc()
                    log.warning("lease lost", job_id=claim.job_id, attempt=claim.attempt)
                    self._remove(work)

    def cancel(self, unwanted: Iterable[Claim]) -> None:
        """Stop these at their next step; once their slots are free they end with what they have so far."""
        with self._lock:
            for claim in unwanted:
                if (work := self._works.get(claim)) and not work.unwanted:
                    work.unwanted = True
                    self._drop(work)

    def run(self) -> None:
        """Commit what ended, claim what fits, sleep until woken; after `stop`, drain."""
        while not self._stopping.is_set():
            self.turns += 1
            with self._may_claim:
                if self._turn() and self.moves and not self._halted and self._is_worth_claiming():
                    self._claim()
            rung_or_ended = self._awake.wait(_POLL_SECONDS * random.uniform(0.8, 1.2))
            self._awake.clear()
            self._more |= not rung_or_ended  # nobody said anything: look anyway
        self._drain()
        self._drained.set()

    def halt(self, seconds: float) -> dict[Claim, int]:
        """Claim no more; returns as `reached` what is held after up to `seconds` for results to be stored."""
        self._halted = True
        self._awake.set()
        deadline = time.monotonic() + seconds
        if self._may_claim.acquire(timeout=seconds):  # whoever was about to claim has done so
            self._may_claim.release()
        while self._endings and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.reached()

    def stop(self, drain: timedelta) -> None:
        """Claim no more, finish what ends within `drain`, hand the rest back uncharged."""
        self._deadline = time.monotonic() + drain.total_seconds()
        self._stopping.set()
        self._awake.set()
        self._drained.wait(drain.total_seconds() + _COMMIT_SECONDS)

    def _is_worth_claiming(self) -> bool:
        """Whether there may be work and there is room; a result alone is no reason to ask for more."""
        if self._bell.is_set():
            self._bell.clear()  # before the claim: a bell that rings during it counts for the next
            self._more = True
        lanes = self._roster.residents.lanes
        if not self._more:
            return False
        if not lanes or any(lane.engine is None or lane.free > 0 for lane in lanes):
            return True
        # everybody is full: what is left to find is a published model that nobody has opened
        return bool(self._roster.closed) and time.monotonic() >= self._claimed_at + _FULL_SECONDS

    def _drain(self) -> None:
        while self.claims() and time.monotonic() < self._deadline:
            self.turns += 1
            if not self._turn():
                self._stopping.wait(_POLL_SECONDS)
            self._awake.wait(0.05)
            self._awake.clear()
        with self._lock:
            unfinished = list(self._works.values())
            stopping = WorkerStopping("The worker stopped before this job was done.")
            for work in unfinished:
                self._end(work, work.output() if work.unwanted else stopping)
        if self._turn() and unfinished:
            self._signals.ring(QueueName.GENERATE)  # others take it now, not at their next look
        log.info("stopped", handed_back=len(unfinished))

    def _turn(self) -> bool:
        """Commit every ending there is, in one transaction; return whether the database took them."""
        with self._lock:
            group = list(self._endings)
        try:
            settled = self._commit(group)
        except DatabaseUnavailable as error:
            log.warning("results wait for the database", results=len(group), error=str(error))
            return False
        if group:
            failpoint("after_settle")
        with self._lock:
            for _ in group:
                self._endings.popleft()
        ended = [e.claim.job_id for e in group if e.claim in settled and not e.again]
        if ended:
            self._signals.hint(ENDED, ended)
        if self._news:
            self._signals.ring(Chore.DELIVER)
            self._news = False
        if self._batch_ended:
            self._signals.ring(Chore.BATCHES)
            self._batch_ended = False
        metrics.count(group, settled)
        for ending in group:
            if ending.claim not in settled:
                log.warning("result dropped, lease lost", job_id=ending.claim.job_id)
        return True

    def _commit(self, group: list[Ending]) -> set[Claim]:
        """Settle a group; a result that PostgreSQL cannot store fails alone and holds up nobody."""
        if not group:
            return set()
        try:
            with self._database.transaction() as connection:
                settled = lifecycle.settle(connection, group)
                self._news |= outbox.any_due(connection)
                self._batch_ended |= batches.any_idle(connection, {ending.batch_id for ending in group})
                failpoint("before_settle_commit")
                return settled
        except DataError as error:
            if len(group) > 1:
                return set().union(*(self._commit([ending]) for ending in group))
            log.error("result cannot be stored", job_id=group[0].claim.job_id, exc_info=error)
            instead = Unexpected("The result cannot be stored.")
            return self._commit([replace(group[0], output=None, error=instead, again=False)])

    def _claim(self) -> None:
        self._claimed_at = time.monotonic()
        before = self._roster.served  # others may close a name between its job's claim and its begin
        jobs, waiting = list[ClaimedJob](), list[str]()
        try:
            waiting = self._claim_for_every_lane(jobs)
        except DatabaseUnavailable as error:
            log.warning("cannot claim, database is out of reach", error=str(error))
        if jobs:
            failpoint("after_claim")
        for job in jobs:
            self._begin(job, before)
        # only now, or a model could leave before it got the jobs that it was loaded for
        self._more |= self._roster.want(waiting)

    def _claim_for_every_lane(self, jobs: list[ClaimedJob]) -> list[str]:
        """Add what is claimed to `jobs`; returns the names that jobs waited for just before.

        Raises:
            DatabaseUnavailable: there may be some in `jobs` by then.
        """
        self._more = False
        self._roster.turn_away(self._database)
        with self._lock:
            if any(work.job.suspect for work in self._works.values()):
                self._more = True
                return []
        with self._database.reading() as connection:
            name, waiting = self._suspect(connection), self._waiting(connection)
        if name:
            # it may take the process down: let everybody else finish first
            self._more = True
            if not self.claims():
                jobs += self._take(claims.claim_suspect, name)
            return []
        for lane in self._roster.residents.loaded:
            if not lane.drains:
                self._claim_for(lane, waiting, jobs)
        return waiting

    def _take(self, claim: Callable[..., list[ClaimedJob]], name: str, *slots: int) -> list[ClaimedJob]:
        """Each claim is a transaction: two workers take for the same names in any order."""
        with self._database.transaction() as connection:
            taken = claim(connection, QueueName.GENERATE, name, self._worker, self._lease, *slots)
            if taken:
                failpoint("before_claim_commit")
        return taken

    def _suspect(self, connection: Connection) -> str | None:
        """The loaded name that a suspect waits for. They are rare: asked once a second, and until claimed."""
        if self._suspected is not None or time.monotonic() >= self._suspect_asked + _POLL_SECONDS:
            names = [name for name, served in self._roster.served.items() if served.lane.engine is not None]
            waits = (name for name in names if claims.suspect_waits(connection, QueueName.GENERATE, name))
            self._suspected, self._suspect_asked = next(waits, None), time.monotonic()
        return self._suspected

    def _waiting(self, connection: Connection) -> list[str]:
        """Of the names that share a lane or are not loaded: those with jobs, who waited longest first."""
        names = self._roster.closed
        for lane in self._roster.residents.lanes:
            answering = self._roster.names(lane)
            if lane.engine is None or len(answering) > 1:
                names |= set(answering)
        return claims.waiting(connection, QueueName.GENERATE, names) if names else []

    def _claim_for(self, lane: Lane, waiting: list[str], jobs: list[ClaimedJob]) -> None:
        """What fits into a lane's free slots, shared out among its names."""
        names = self._roster.names(lane)
        if len(names) > 1:
            names = [name for name in waiting if name in names]
        free = lane.free
        for others, name in zip(reversed(range(len(names))), names, strict=True):
            share = -(-free // (others + 1))
            if share > 0:
                claimed = self._take(claims.claim, name, share)
                taken = sum(job.width for job in claimed)
                self._more |= taken >= share or bool(claimed and claimed[-1].followed)
                free -= taken
                jobs += claimed

    def _begin(self, job: ClaimedJob, before: Mapping[str, Served]) -> None:
        try:
            work = Work.of(job, self._roster.serving(job.model, before))
        except Exception as error:  # noqa: BLE001  one job must not take its neighbours along
            with self._lock:
                self._endings.append(execution.ending(job, error, self._max_failures))
            self._awake.set()
            return
        with self._lock:
            self._works[job.claim] = work
            self._of.update((sequence, work) for sequence in work.sequences)
            # under the lock: dropped between the two it would run on for nobody
            work.served.lane.submit(work.submitted, work.served.adapter)
        self.began(job)
        if work.task.stream:
            self.streaming.set()

    def _end(self, work: Work, outcome: Mapping[str, Any] | BaseException) -> None:
        self._remove(work)
        self._endings.append(execution.ending(work.job, outcome, self._max_failures))

    def _remove(self, work: Work) -> None:
        self._works.pop(work.job.claim, None)
        for sequence in work.sequences:
            self._of.pop(sequence, None)
        self._drop(work)

    def _drop(self, work: Work) -> None:
        for sequence in work.submitted:
            work.served.lane.drop(sequence)

    def _has_slots(self, work: Work) -> bool:
        """Whether some of its sequences are still in the batch, or wait to join."""
        return any(sequence in self._of for sequence in work.submitted)
