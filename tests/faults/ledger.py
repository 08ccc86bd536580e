"""The record outside the system: every id that a client was told, and what its job must say in the end."""

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sqlalchemy import Row, text

from jobs.states import FINAL
from tests.conftest import wait_for
from tests.faults.house import Answer, House

PROMPTS = tuple(
    f"\ndef {name}(" for name in ("main", "read", "write", "close", "open", "parse", "run", "stop")
)
LONGEST = 300  # tokens of the reference

_FINAL = tuple(sorted(FINAL))
_ROWS = text("""
    SELECT id, state, attempt, failures, crashes, output, created_at, started_at, finished_at,
      (SELECT count(*) FROM job_events e WHERE e.job_id = jobs.id AND e.state = ANY(:final)) AS ends,
      (SELECT max(e.attempt) FROM job_events e WHERE e.job_id = jobs.id AND e.state = ANY(:final)) AS ended,
      (SELECT e.code FROM job_events e WHERE e.job_id = jobs.id ORDER BY e.id DESC LIMIT 1) AS code
    FROM jobs WHERE id = ANY(:ids)
""")


class Ledger:
    """Submits greedy jobs, notes which were accepted, and judges by the database alone."""

    def __init__(self, house: House, reference: dict[str, list[int]]) -> None:
        """`reference`: of each prompt the tokens that an undisturbed run says."""
        self._house = house
        self._reference = reference
        self.accepted: dict[
            str, tuple[str, int]
        ] = {}  # of an id: its prompt, and how many tokens it asked for
        self.seconds: list[float] = []  # that each create took

    def create(
        self, prompt: str, tokens: int, headers: Mapping[str, str] | None = None, **more: Any
    ) -> Answer:
        """Ask for one background job, and note it if it was accepted; `more` goes into its body."""
        began = time.monotonic()
        answer = self._house.call("POST", "/v1/responses", asked(prompt, tokens) | more, headers)
        self.seconds.append(time.monotonic() - began)
        if answer.status == 200:
            self.accepted[answer.body["id"]] = (prompt, tokens)
        return answer

    def submit(self, count: int, tokens: int = 8, clients: int = 1) -> list[str]:
        """So many jobs, all accepted; their ids."""

        def one(number: int) -> str:
            answer = self.create(PROMPTS[number % len(PROMPTS)], tokens)
            assert answer.status == 200, answer.body
            return str(answer.body["id"])

        with ThreadPoolExecutor(clients) as pool:
            return list(pool.map(one, range(count)))

    def rows(self, ids: Iterable[str] | None = None) -> list[Row[Any]]:
        """What the database says of jobs, by default of all that were accepted."""
        given = {"ids": list(self.accepted if ids is None else ids), "final": list(_FINAL)}
        with self._house.database.transaction() as connection:
            return list(connection.execute(_ROWS, given).all())

    def row(self, job_id: str) -> Row[Any]:
        """What the database says of one job."""
        return self.rows([job_id])[0]

    def states(self) -> list[str]:
        """The state of every accepted job."""
        return [row.state for row in self.rows()]

    def running(self, job_id: str) -> bool:
        """Whether a worker has it."""
        return bool(self.row(job_id).state == "running")

    def all_end(self, seconds: float = 60) -> list[Row[Any]]:
        """Wait until every accepted job has ended; returns how, after `judge`."""
        wait_for(lambda: set(self.states()) <= set(_FINAL), seconds, every=0.05)
        return self.judge()

    def judge(self, final: tuple[str, ...] = ("succeeded",)) -> list[Row[Any]]:
        """Nothing lost or doubled: each ended once, in one of these states, with the reference's tokens."""
        rows = self.rows()
        assert {row.id for row in rows} == set(self.accepted), "an accepted job is gone"
        for row in rows:
            prompt, tokens = self.accepted[row.id]
            assert row.state in final, (row.id, row.state, row.code)
            assert (row.ends, row.ended) == (1, row.attempt), (row.id, row.ends, row.ended, row.attempt)
            if row.state == "succeeded":
                [said] = row.output["sequences"]
                assert said["tokens"] == self._reference[prompt][:tokens], (
                    row.id,
                    "differs from the reference",
                )
        assert self.unleased() == 0
        return rows

    def unleased(self) -> int:
        """Jobs that are said to run and that nobody's lease covers."""
        count = text("SELECT count(*) FROM jobs WHERE state = 'running' AND lease_until < clock_timestamp()")
        with self._house.database.transaction() as connection:
            return int(connection.execute(count).scalar_one())

    def jobs(self) -> int:
        """How many jobs there are at all, told of or not."""
        with self._house.database.transaction() as connection:
            return int(connection.execute(text("SELECT count(*) FROM jobs")).scalar_one())

    def p99(self) -> float:
        """Seconds within which 99 of 100 creates were answered."""
        ordered = sorted(self.seconds)
        return ordered[max(0, -(-len(ordered) * 99 // 100) - 1)]


def asked(prompt: str, tokens: int) -> dict[str, Any]:
    """The body of a greedy background job that says exactly so many tokens."""
    fixed = {"model": "starter", "background": True, "temperature": 0, "ignore_eos": True, "seed": 1}
    return {**fixed, "input": prompt, "max_output_tokens": tokens}
