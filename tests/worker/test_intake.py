"""Jobs through intake, device and heartbeat: all is real but the network."""

import threading
import time
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from statistics import mean
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sqlalchemy import update
from tokenizers import Tokenizer

from jobs import lifecycle, submission
from jobs.attempts import Claim, NewJob
from jobs.database import Database
from jobs.inputs import Replay
from jobs.queue import QueueName
from jobs.settings import Settings
from jobs.states import State
from jobs.tables import jobs
from tests.conftest import ROOT, wait_for
from tests.jobs import samples
from tests.worker.conftest import EOS
from tests.worker.lanes import FakeModel, describe, make_lane, serve
from tests.worker.whole import EVERY, SLOTS, Bench, slow_down, working
from worker.adapters import Adapter
from worker.device import Device
from worker.engine import Engine
from worker.lanes import Lane
from worker.work import _verification


@pytest.fixture
def bench(database: Database, owner: int, settings: Settings, tokenizer: Tokenizer) -> Iterator[Bench]:
    """Intake and device run; the heartbeat beats when a test says so."""
    with working(database, owner, settings, tokenizer) as made:
        yield made


def test_a_job_with_several_prompts_and_n_answers_in_their_order(bench: Bench) -> None:
    bench.submit("a", prompts=["hello", [5, 6, 7]], task={"n": 2}, temperature=0)
    output = bench.ended("a").output
    texts = [sequence["text"] for sequence in output["sequences"]]
    assert len(texts) == 4
    assert texts[0] == texts[1] != texts[2] == texts[3]
    assert output["prompt_tokens"] == len("hello") + 3
    assert output["output_tokens"] == 4 * 8


def test_the_sequences_of_one_job_are_drawn_apart(bench: Bench) -> None:
    bench.submit("a", task={"n": 3}, temperature=1.5, max_tokens=12)
    assert len({sequence["text"] for sequence in bench.ended("a").output["sequences"]}) == 3


def test_a_result_says_how_it_was_made(bench: Bench) -> None:
    bench.submit("a", seed=7)
    output = bench.said("a")
    receipt = output["receipt"]
    assert {
        "model": samples.MODEL,
        "model_digest": "digest",
        "adapter_digest": None,
    }.items() <= receipt.items()
    assert {"quantization": "fp32", "path": "torch", "seed": 7, "device": "cpu"}.items() <= receipt.items()
    assert receipt["torch"] == torch.__version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert receipt["engine"] == project["version"]


def test_the_best_of_more_are_returned_best_first_and_all_are_counted(bench: Bench) -> None:
    bench.submit("all", task={"n": 6}, temperature=1.5, logprobs=0)
    bench.submit("best", task={"n": 2, "best_of": 6}, temperature=1.5)
    every, best = bench.said("all"), bench.said("best")
    ranked = sorted(every["sequences"], key=lambda s: -mean(one["logprob"] for one in s["logprobs"]))
    assert [s["tokens"] for s in best["sequences"]] == [s["tokens"] for s in ranked[:2]]
    assert best["output_tokens"] == 6 * 8
    assert "logprobs" not in best["sequences"][0]


def test_log_probabilities_and_the_prompt_are_stored_where_asked_for(bench: Bench) -> None:
    bench.submit("a", prompts=[[5, 6, 7]], task={"echo": True}, temperature=0, logprobs=2, max_tokens=3)
    sequence = bench.said("a")["sequences"][0]
    assert sequence["prompt_tokens"] == [5, 6, 7]
    assert [one["token"] for one in sequence["logprobs"]] == sequence["tokens"]
    for one in sequence["logprobs"]:
        assert one["top"][0] == [one["token"], one["logprob"]]
        assert len(one["top"]) == 2
    assert sequence["prompt_logprobs"][0] is None
    assert [one["token"] for one in sequence["prompt_logprobs"][1:]] == [6, 7]


def test_the_score_of_a_prompt_is_stored_without_a_text(bench: Bench) -> None:
    bench.submit("a", prompts=[[5, 6, 7]], task={"echo": True, "n": 2}, logprobs=0, max_tokens=0)
    output = bench.said("a")
    assert (output["prompt_tokens"], output["output_tokens"]) == (3, 0)
    for sequence in output["sequences"]:
        assert [one and one["token"] for one in sequence["prompt_logprobs"]] == [None, 6, 7]
        assert (sequence["text"], sequence["tokens"], sequence["logprobs"]) == ("", [], [])
        assert sequence["finish_reason"] == "length"


def test_the_best_beams_are_returned_best_first(bench: Bench) -> None:
    beams = {"num_beams": 3, "temperature": 0}
    bench.submit("three", prompts=["hello", "you"], task={"n": 3}, **beams)
    bench.submit("one", **beams)
    three, one = bench.said("three")["sequences"], bench.said("one")["sequences"]
    assert len(three) == 6
    assert len({tuple(s["tokens"]) for s in three}) == 6
    assert one == three[:1]


def test_a_job_of_more_sequences_than_slots_takes_them_in_waves_and_nobody_claims_meanwhile(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = slow_down(bench, monkeypatch)
    bench.submit("large", task={"n": 3 * SLOTS}, max_tokens=2)
    wait_for(lambda: bench.state("large") == State.RUNNING)
    bench.submit("next")
    wait_for(lambda: gate.release() or bench.engine.steps >= 2)
    assert bench.state("next") == State.QUEUED
    gate.release(100)
    assert len(bench.said("large")["sequences"]) == 3 * SLOTS
    bench.said("next")


def test_a_prefix_that_another_had_computed_is_counted(bench: Bench) -> None:
    prompt = list(range(1, 100))
    bench.submit("a", prompts=[prompt, prompt[:90]])
    output = bench.said("a")
    assert 64 <= output["cached_tokens"] <= 90
    assert output["prompt_tokens"] == 99 + 90


def test_a_replay_says_whether_it_said_the_same(bench: Bench) -> None:
    bench.submit("first", task={"n": 2}, temperature=1.5)
    tokens = [sequence["tokens"] for sequence in bench.said("first")["sequences"]]
    replay = {"of": "first", "tokens": tokens, "receipt": {"model_digest": "then", "seed": 1}}
    bench.submit("same", task={"n": 2, "replay": replay}, temperature=1.5)
    assert bench.said("same")["verification"] == {
        "of": "first",
        "same": True,
        "sequences": [{"same": True, "first_difference": None}] * 2,
        "receipt": replay["receipt"],
    }
    tokens[1][5] += 1
    bench.submit("other", task={"n": 2, "replay": replay}, temperature=1.5)
    found = bench.said("other")["verification"]
    assert (found["same"], found["sequences"][1]) == (False, {"same": False, "first_difference": 5})
    assert found["sequences"][0]["same"]


@pytest.mark.parametrize(
    ("said", "index"), [([], 0), ([[1, 2]], 2), ([[1, 2, 3, 4]], 3), ([[1, 9, 3]], 1), ([[1, 2, 3]], None)]
)
def test_a_text_that_ends_elsewhere_differs_there(said: list[list[int]], index: int | None) -> None:
    found = _verification(Replay(of="a", tokens=((1, 2, 3),), receipt={}), said)
    assert found["same"] is (said == [[1, 2, 3]])
    assert [one["first_difference"] for one in found["sequences"]] == ([index] if said else [])


def test_every_end_of_text_of_a_model_ends_a_sequence(bench: Bench) -> None:
    bench.submit("long", temperature=0)
    tokens = bench.said("long")["sequences"][0]["tokens"]
    bench.lane.description = describe(bench.lane.description.tokenizer, eos_token_ids=(EOS, tokens[2]))
    bench.submit("ended", temperature=0, ignore_eos=False)
    sequence = bench.said("ended")["sequences"][0]
    assert (sequence["tokens"], sequence["finish_reason"]) == (tokens[: tokens.index(tokens[2]) + 1], "stop")
    bench.submit("ignored", temperature=0)
    assert bench.said("ignored")["sequences"][0]["tokens"] == tokens


def test_a_job_that_cannot_be_read_fails_alone(bench: Bench) -> None:
    bench.submit("bad", task={"n": -1})
    bench.submit("good")
    assert bench.ended("bad").state == State.FAILED
    bench.said("good")


def test_adapters_share_their_models_batch_under_names_of_their_own(bench: Bench) -> None:
    serve_beside(bench, "tuned", Adapter("tuned digest", 4, {}))
    bench.submit("plain", prompts=[[5]], model="other", temperature=0)
    bench.submit("tuned", prompts=[[5]], model="tuned", temperature=0)
    plain, tuned = bench.said("plain"), bench.said("tuned")
    assert plain["sequences"][0]["tokens"] != tuned["sequences"][0]["tokens"]
    assert (tuned["receipt"]["model"], tuned["receipt"]["adapter_digest"]) == ("tuned", "tuned digest")
    assert tuned["receipt"]["model_digest"] == plain["receipt"]["model_digest"]


def test_names_that_share_slots_share_them_out(bench: Bench) -> None:
    lane = serve_beside(bench, "tuned", Adapter("digest", 4, {}))
    bench.device.stop()  # nobody steps: what is claimed stays
    models = {f"plain {number}": "other" for number in range(6)} | {"tuned": "tuned"}
    bench.submit_at_once(models, {"prompts": ["hello"]})
    wait_for(lambda: lane.free == 0)
    running = [name for name in models if bench.state(name) == State.RUNNING]
    assert "tuned" in running, "three plain jobs, who waited for longer, leave it a slot"
    assert len(running) == SLOTS


def test_jobs_whose_sequences_do_not_fit_are_left_to_other_workers(bench: Bench) -> None:
    bench.device.stop()  # nobody steps: what is claimed stays
    models = dict.fromkeys("abc", samples.MODEL)
    bench.submit_at_once(models, {"prompts": ["hello"], "n": SLOTS // 2}, width=SLOTS // 2)
    wait_for(lambda: bench.lane.free == 0)
    bench.intake.wake()
    assert sorted(bench.state(name) for name in models) == [State.QUEUED, State.RUNNING, State.RUNNING]


def serve_beside(bench: Bench, name: str, adapter: Adapter) -> Lane:
    """A second model, that says what it is told to, with an adapter over it."""
    tokenizer = bench.lane.description.tokenizer
    engine = Engine(FakeModel(), tokenizer, slots=SLOTS, token_budget=32)
    return serve(bench.roster, make_lane("other", tokenizer, bench.busy, engine), {name: adapter})


def test_a_job_waits_for_its_model_to_be_loaded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    lane = serve(bench.roster, make_lane("later", bench.lane.description.tokenizer, bench.busy))
    go_on = threading.Event()

    def load(wanted: Lane) -> None:
        assert go_on.wait(20)
        tokenizer = wanted.description.tokenizer
        wanted.start(Engine(FakeModel(), tokenizer, slots=SLOTS, token_budget=32), "torch")

    monkeypatch.setattr(bench.roster.residents, "load", load)
    bench.submit("waits", model="later")
    bench.submit("runs")
    bench.said("runs")
    wait_for(lambda: bench.roster.residents.loading is lane)
    assert bench.state("waits") == State.QUEUED
    go_on.set()
    bench.said("waits")


def test_two_models_that_do_not_fit_together_take_turns(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    residents, tokenizer = bench.roster.residents, bench.lane.description.tokenizer
    other = serve(bench.roster, make_lane("other", tokenizer, bench.busy))

    def load(wanted: Lane) -> None:
        residents._gone.wait(20)
        wanted.start(Engine(FakeModel(), tokenizer, SLOTS, token_budget=32), "torch")

    monkeypatch.setattr(residents, "load", load)
    monkeypatch.setattr(residents, "budget", bench.lane.need.total)
    monkeypatch.setattr("worker.residents._PATIENCE", 0.0)
    gate = slow_down(bench, monkeypatch)
    bench.submit("running", max_tokens=20)
    wait_for(lambda: bench.state("running") == State.RUNNING)
    bench.submit("other", model="other")
    wait_for(lambda: bench.lane.drains)
    bench.submit("behind")
    gate.release(10)
    wait_for(lambda: bench.engine.steps >= 10)
    assert bench.state("behind") == State.QUEUED, "a full lane would have had room for it"
    assert other.engine is None
    gate.release(100)
    finished = [bench.ended(name).finished_at for name in ("running", "other", "behind")]
    assert finished == sorted(finished)


def test_a_prompt_that_does_not_fit_fails_its_job_alone(bench: Bench) -> None:
    bench.submit("bad", prompts=[[1] * 300])
    bench.submit("good")
    assert bench.ended("bad").error["code"] == "invalid_prompt"
    assert bench.ended("good").state == State.SUCCEEDED


def test_a_result_that_cannot_be_stored_fails_its_job_alone(bench: Bench) -> None:
    finish = bench.intake.finish

    def spoil(sequence: Any) -> None:
        if sequence.sampling.seed == 13:
            sequence.tokens[0] = float("nan")  # json has no NaN, and PostgreSQL says so
        finish(sequence)

    bench.device.stop()
    wait_for(lambda: not bench.threads[0].is_alive())
    bench.device = Device(bench.busy)
    bench.start(bench.device.run, bench.roster.residents, spoil, bench.intake.fail)
    bench.submit("bad", seed=13)
    bench.submit("good", seed=14)
    assert bench.ended("bad").error["code"] == "server_error"
    assert bench.ended("good").state == State.SUCCEEDED


def test_an_engine_that_crashes_hands_its_jobs_back_and_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, crashes = bench.engine.model.forward, iter([True])

    def crash_once(rows: Any) -> Any:
        if next(crashes, False):
            raise RuntimeError("the device is gone")
        return forward(rows)

    monkeypatch.setattr(bench.engine.model, "forward", crash_once)
    bench.submit("a")
    row = bench.ended("a")
    assert (row.state, row.attempt, row.failures) == (State.SUCCEEDED, 2, 1)


def test_a_job_whose_every_attempt_crashes_fails(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(rows: Any) -> Any:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(bench.engine.model, "forward", crash)
    bench.submit("a")
    row = bench.ended("a")
    assert (row.state, row.failures, row.error["code"]) == (State.FAILED, 2, "server_error")


def test_a_lost_lease_drops_the_work_and_writes_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = slow_down(bench, monkeypatch)
    bench.submit("a", max_tokens=50)
    wait_for(lambda: bench.state("a") == State.RUNNING)
    samples.alter(bench.database, "a", attempt=7)  # somebody else claimed it since
    bench.heartbeat.beat()
    assert bench.intake.claims() == []
    gate.release(60)
    wait_for(lambda: bench.engine.idle)
    row = samples.row(bench.database, "a")
    assert (row.state, row.attempt, row.output) == (State.RUNNING, 7, None)


def test_a_job_that_is_lost_while_it_begins_does_not_run_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, submit = slow_down(bench, monkeypatch), bench.lane.submit

    def lose_then_submit(*arguments: Any) -> None:
        losing = threading.Thread(target=bench.intake.drop, args=[bench.intake._works.copy()], daemon=True)
        losing.start()
        losing.join(0.2)
        submit(*arguments)

    monkeypatch.setattr(bench.lane, "submit", lose_then_submit)
    bench.submit("a", max_tokens=200)
    wait_for(lambda: bench.state("a") == State.RUNNING and not bench.intake.claims())
    gate.release(3)
    wait_for(lambda: bench.lane.idle, seconds=5)


def test_a_device_that_hangs_renews_no_lease(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = slow_down(bench, monkeypatch)
    bench.submit("a", max_tokens=50)
    wait_for(lambda: bench.state("a") == State.RUNNING)
    wait_for(lambda: not bench.engine.idle)
    bench.heartbeat.beat()
    before = samples.row(bench.database, "a").lease_until
    pass_time(monkeypatch, EVERY + timedelta(seconds=0.1))  # no step since
    bench.heartbeat.beat()
    assert samples.row(bench.database, "a").lease_until == before
    gate.release(60)
    assert bench.ended("a").state == State.SUCCEEDED


def test_our_own_stop_hands_jobs_back_uncharged(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = slow_down(bench, monkeypatch)
    bench.submit("a", max_tokens=50)
    wait_for(lambda: bench.state("a") == State.RUNNING)
    bench.intake.stop(timedelta(0))
    row = samples.row(bench.database, "a")
    assert (row.state, row.attempt, row.failures, row.crashes) == (State.QUEUED, 1, 0, 0)
    assert [job.claim for job in samples.claim(bench.database)] == [Claim("a", 2)], "it is due at once"
    gate.release(60)


def test_who_hands_jobs_back_rings_for_the_others(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, rung = slow_down(bench, monkeypatch), dict[str, State]()
    bench.submit("a", max_tokens=50)
    wait_for(lambda: bench.state("a") == State.RUNNING)
    monkeypatch.setattr(bench.intake._signals, "ring", lambda bell: rung.update({bell: bench.state("a")}))
    bench.intake.stop(timedelta(0))
    assert rung == {QueueName.GENERATE: State.QUEUED}, "after the commit"
    gate.release(60)


def test_what_is_cancelled_while_the_worker_drains_keeps_its_text(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = slow_down(bench, monkeypatch)
    bench.submit("a", max_tokens=50)
    wait_for(lambda: bench.state("a") == State.RUNNING)
    gate.release(2)
    wait_for(lambda: bench.engine.steps >= 2)
    with bench.database.transaction() as connection:
        lifecycle.request_cancel(connection, "a", bench.owner)
    bench.heartbeat.look()
    bench.intake.stop(timedelta(0))
    row = samples.row(bench.database, "a")
    assert (row.state, row.output["output_tokens"]) == (State.CANCELLED, 2)
    gate.release(60)


def test_a_suspect_runs_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = slow_down(bench, monkeypatch)
    bench.submit("running", max_tokens=20)
    wait_for(lambda: bench.state("running") == State.RUNNING)
    with bench.database.transaction() as connection:
        submission.submit(connection, suspect(bench.owner))
        connection.execute(update(jobs).where(jobs.c.id == "suspect").values(crashes=2))
    bench.submit("after")
    alone = []

    def watch() -> bool:
        gate.release()
        states = samples.states(bench.database)
        if states["suspect"] == State.RUNNING:
            alone.append([name for name, state in states.items() if state == State.RUNNING])
        return all(state == State.SUCCEEDED for state in states.values())

    wait_for(watch)
    assert len(alone) > 10, "it ran for a while, and others were due"
    assert all(running == ["suspect"] for running in alone)


def suspect(owner: int) -> NewJob:
    asked = {"max_tokens": 100, "seed": 1, "ignore_eos": True}
    task = {"prompts": [[EOS]], "n": 1, "sampling": asked}
    return samples.new(owner, "suspect", input=task)


def pass_time(monkeypatch: pytest.MonkeyPatch, span: timedelta) -> None:
    """Let the heartbeat's clock jump."""
    now = time.monotonic
    clock = SimpleNamespace(monotonic=lambda: now() + span.total_seconds())
    monkeypatch.setattr("worker.stillness.time", clock)
