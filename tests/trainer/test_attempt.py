"""One attempt at a fine-tune, as the trainer's parent sees it: real PostgreSQL, a child that pretends."""

import time
from pathlib import Path

import pytest
from sqlalchemy import select

from jobs import lifecycle, published
from jobs.states import State
from jobs.tables import files
from tests.conftest import wait_for
from tests.trainer.conftest import JOB, Bench
from trainer import attempt as attempts
from trainer import checkpoint
from trainer.child import _processes
from trainer.wishes import Wish


def model_of(bench: Bench, name: str) -> published.Published | None:
    with bench.database.transaction() as connection:
        return published.find(connection, name)


def name(bench: Bench, step: int | None = None) -> str:
    made = f"ft:fresh:org-{bench.owner}::{'ab' * 6}"
    return made if step is None else f"{made}:ckpt-step-{step}"


def test_a_fine_tune_ends_with_a_model_its_lineage_and_its_result_files(bench: Bench) -> None:
    bench.submit("step 1", "step 9", "done 9", suffix=None)
    row = bench.train()
    assert (row.state, row.error, row.output["fine_tuned_model"]) == (State.SUCCEEDED, None, name(bench))
    assert row.output["trained_tokens"] == 90
    made = model_of(bench, name(bench))
    assert made is not None
    assert bench.store.get(made.files["model.safetensors"]) == b"the last weights"
    assert (made.owner_id, made.job_id, made.version.context) == (bench.owner, JOB, 64)
    assert made.lineage["training_file"] == row.input["training_file"]
    assert len(made.lineage["training_sha256"]) == 64
    assert made.lineage["hyperparameters"]["batch_size"] == 2
    assert made.lineage["code"]["torch"]
    with bench.database.transaction() as connection:
        kept = connection.execute(select(files).where(files.c.id.in_(row.output["result_files"]))).all()
    assert {one.filename for one in kept} == {f"{JOB}_metrics.csv", f"{JOB}_loss.png"}
    assert {one.purpose for one in kept} == {"fine-tune-results"}


def test_what_the_child_says_becomes_events_and_progress(bench: Bench) -> None:
    bench.submit("step 1", "message A sample: x", "step 9", "done 9")
    row = bench.train()
    assert row.progress["hyperparameters"]["n_epochs"] == 1
    assert (row.progress["step"], row.progress["total_steps"], row.progress["trained_tokens"]) == (9, 9, 90)
    assert abs(row.progress["estimated_finish"] - time.time()) < 30
    said = bench.events()
    assert [one.data["step"] for one in said if one.data] == [1, 9]
    assert said[-1].message == "Step 9/9: training loss=0.1111"
    assert "A sample: x" in bench.messages()


def test_a_checkpoint_is_a_model_while_its_job_still_trains_and_goes_with_it(bench: Bench) -> None:
    bench.submit("checkpoint 3", "checkpoint 4", "forget 3", "message here", "until_stop")
    bench.begin()
    bench.wait_for_message("here")
    assert bench.row().state == State.RUNNING
    assert bench.checkpoints() == [4]
    found = model_of(bench, name(bench, 4))
    assert found is not None
    assert bench.store.get(found.files["model.safetensors"]) == b"weights of step 4"
    assert "optimizer.pt" not in found.files
    assert model_of(bench, name(bench, 3)) is None


@pytest.mark.parametrize("phase", ["loading", "training", "evaluating", "saving"])
def test_a_pause_saves_a_checkpoint_and_the_resumed_job_goes_on_from_it(bench: Bench, phase: str) -> None:
    bench.submit(f"phase {phase}", "message begun", "until_stop")
    bench.begin()
    bench.wait_for_message("begun")
    bench.change(paused_at=bench.row().created_at)
    row = bench.end()
    assert (row.state, row.failures, row.crashes) == (State.QUEUED, 0, 0)
    assert bench.checkpoints() == [5]
    bench.change(paused_at=None)
    bench.begin()
    bench.wait_for_message("goes on from its checkpoint of step 5")
    bench.cancel()
    assert bench.end().state == State.CANCELLED


@pytest.mark.parametrize("phase", ["loading", "training", "evaluating", "saving"])
def test_a_cancel_ends_every_process_of_the_child_within_five_seconds(bench: Bench, phase: str) -> None:
    bench.submit(f"phase {phase}", "message there", "hang")
    bench.begin()
    bench.wait_for_message("there")
    assert _processes(bench.folder())
    bench.cancel()
    began = time.monotonic()
    wait_for(lambda: not _processes(bench.folder()), 5)
    row = bench.end()
    assert row.state == State.CANCELLED
    assert time.monotonic() - began < 5
    assert row.error is None


def test_an_attempt_whose_lease_is_lost_writes_nothing_more(bench: Bench) -> None:
    bench.submit("message begun", "hang")
    bench.begin()
    bench.wait_for_message("begun")
    bench.change(attempt=7)  # as if somebody else had claimed it
    row = bench.end()
    assert (row.state, row.attempt) == (State.RUNNING, 7)
    assert not _processes(bench.folder())


def test_a_child_that_dies_is_tried_again_and_charged(bench: Bench) -> None:
    bench.submit("die 9")
    for failures in (1, 2):
        row = bench.train()
        assert (row.state, row.failures) == (State.QUEUED, failures)
    row = bench.train()
    assert (row.state, row.error["code"]) == (State.FAILED, "training_crashed")
    assert "SIGKILL" in row.error["message"]


def test_deaths_before_a_new_checkpoint_do_not_count_after_it(bench: Bench) -> None:
    bench.submit("die_unless 1")
    bench.train()
    bench.change(crashes=2)
    script = bench.store.put(b"checkpoint 1\ndie 9")
    with bench.database.transaction() as connection:
        connection.execute(files.update().values(artifact=script))
    row = bench.train()
    assert (row.state, row.crashes, row.failures) == (State.QUEUED, 0, 1)


def test_what_cannot_be_trained_fails_with_the_childs_code_and_sentence(bench: Bench) -> None:
    bench.submit("checkpoint 3", "fail training_diverged")
    row = bench.train()
    assert (row.state, row.error) == (
        State.FAILED,
        {"code": "training_diverged", "message": "It cannot be trained."},
    )
    assert bench.checkpoints() == [3]  # the last good checkpoint stays


def test_our_own_shutdown_hands_the_job_back_uncharged_with_a_checkpoint(bench: Bench) -> None:
    bench.submit("message begun", "until_stop")
    attempt = bench.begin()
    bench.wait_for_message("begun")
    attempt.wish(Wish.STOP, 10)
    row = bench.end()
    assert (row.state, row.failures, row.crashes) == (State.QUEUED, 0, 0)
    assert bench.checkpoints() == [5]


def test_a_child_that_does_not_stop_in_time_is_killed_and_the_job_handed_back(bench: Bench) -> None:
    bench.submit("message begun", "hang")
    attempt = bench.begin()
    bench.wait_for_message("begun")
    attempt.wish(Wish.STOP, 0.3)
    row = bench.end()
    assert (row.state, row.failures) == (State.QUEUED, 0)
    assert not _processes(bench.folder())


@pytest.mark.parametrize("harm", ["truncated", "flipped", "lost"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(bench: Bench, harm: str) -> None:
    bench.submit("checkpoint 3", "checkpoint 4", "message survived", "until_stop")
    attempt = bench.begin()
    bench.wait_for_message("survived")
    attempt.wish(Wish.LOST)
    bench.end()
    harmed = checkpoint.folder_of(bench.folder(), 4) / "model.safetensors"
    damage(harmed, harm)
    bench.change(lease_until=bench.row().created_at)
    with bench.database.transaction() as connection:
        lifecycle.recover_lost(connection)
    bench.begin()
    expected = 4 if harm == "lost" else 3  # what is only lost here is in the store
    bench.wait_for_message(f"goes on from its checkpoint of step {expected}")
    bench.cancel()
    bench.end()


def damage(path: Path, harm: str) -> None:
    content = bytearray(path.read_bytes())
    if harm == "truncated":
        path.write_bytes(content[:-1])  # in place: the store's is the same file
    elif harm == "flipped":
        content[3] ^= 1
        path.write_bytes(content)
    else:
        path.unlink()


def test_another_host_goes_on_from_the_checkpoint_in_the_store(bench: Bench) -> None:
    bench.submit("checkpoint 3", "die_unless 3", "done 9")
    assert bench.train("here").state == State.QUEUED
    assert bench.train("there").state == State.SUCCEEDED
    assert "The training goes on from its checkpoint of step 3." in bench.messages()


def test_what_was_said_of_a_step_is_not_said_again_after_a_resume(bench: Bench) -> None:
    bench.submit("step 1", "step 2", "checkpoint 1", "die_unless 1", "step 3", "done 3")
    assert bench.train().state == State.QUEUED
    assert bench.train().state == State.SUCCEEDED
    assert [one.data["step"] for one in bench.events() if one.data] == [1, 2, 3]


def test_a_training_that_makes_no_step_any_more_is_ended_and_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "_STEP_SECONDS", 0.5)
    bench.submit("step 1", "hang")
    row = bench.train()
    assert (row.state, row.error["code"]) == (State.QUEUED, "training_stalled")
    assert not _processes(bench.folder())


def test_a_job_keeps_its_lease_while_it_loads_for_longer_than_that(bench: Bench) -> None:
    bench.submit("phase loading", "message there", "until_stop")
    attempt = bench.begin()
    bench.wait_for_message("there")
    claimed = bench.row().lease_until
    wait_for(lambda: (bench.row().lease_until - claimed).total_seconds() > 3)
    attempt.wish(Wish.STOP, 10)
    bench.end()


def test_a_cancel_before_the_commit_wins_and_no_model_is_published(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.submit("step 9", "done 9")
    keep_all = attempts.publishing.keep_all

    def cancelled_meanwhile(*arguments: object) -> dict[str, str]:
        bench.cancel()
        return keep_all(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(attempts.publishing, "keep_all", cancelled_meanwhile)
    row = bench.train()
    assert (row.state, row.error) == (State.CANCELLED, None)
    assert model_of(bench, name(bench)) is None


def test_a_file_that_is_gone_fails_the_job(bench: Bench) -> None:
    bench.submit("done 1")
    with bench.database.transaction() as connection:
        connection.execute(files.delete())
    row = bench.train()
    assert (row.state, row.error["code"]) == (State.FAILED, "invalid_training_file")
    assert "Upload it again" in row.error["message"]


def test_a_base_model_that_cannot_be_had_fails_the_job(bench: Bench) -> None:
    bench.submit("done 1", init="pretrained", architecture=None)
    row = bench.train()
    assert (row.state, row.error["code"]) == (State.FAILED, "model_unavailable")
    assert "'fresh' is neither in this trainer's MODELS nor trained here." in row.error["message"]
