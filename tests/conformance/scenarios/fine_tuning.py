"""`client.fine_tuning.jobs`."""

from typing import Any

from openai import BadRequestError, NotFoundError
from openai.types.fine_tuning import FineTuningJob

from tests.conformance.scenarios.registry import Server, refused, scenario, wait_for

LINE = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'


def create(server: Server, **more: Any) -> FineTuningJob:
    file = server.strict.files.create(file=("train.jsonl", LINE * 20), purpose="fine-tune")
    return server.strict.fine_tuning.jobs.create(model="starter", training_file=file.id, **more)


@scenario
def a_fine_tune_is_created_paused_resumed_and_cancelled(server: Server) -> None:
    jobs = server.strict.fine_tuning.jobs
    made = create(
        server,
        suffix="mine",
        seed=7,
        metadata={"team": "a"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
    )
    assert made.status in ("validating_files", "queued")
    assert (made.model, made.seed, made.metadata) == ("starter", 7, {"team": "a"})
    assert made.hyperparameters.n_epochs == 2
    paused = jobs.pause(made.id)
    assert paused.status in ("queued", "running")
    assert paused.model_extra is not None
    assert paused.model_extra["paused_at"]
    resumed = jobs.resume(made.id)
    assert resumed.model_extra is not None
    assert resumed.model_extra["paused_at"] is None
    jobs.cancel(made.id)

    def look() -> FineTuningJob | None:
        seen = jobs.retrieve(made.id)
        return seen if seen.status == "cancelled" else None

    assert wait_for(look).finished_at
    assert jobs.cancel(made.id).status == "cancelled"
    with refused(BadRequestError, "job_ended", "id"):
        jobs.pause(made.id)
    events = [event.message for event in jobs.list_events(made.id, limit=1)]
    assert len(events) > 1
    assert "created" in events[-1]


@scenario
def fine_tunes_are_listed_page_by_page_and_by_metadata(server: Server) -> None:
    jobs = server.strict.fine_tuning.jobs
    made = [create(server, metadata={"series": "s", "n": str(n)}).id for n in range(3)]
    for one in made:
        jobs.cancel(one)
    assert [job.id for job in jobs.list(metadata={"series": "s"}, limit=2)] == made[::-1]
    assert [job.id for job in jobs.list(metadata={"series": "s", "n": "1"})] == [made[1]]
    assert [job.id for job in jobs.list(metadata={"series": "none"})] == []
    with refused(NotFoundError, None, "after"):
        jobs.list(after="ftjob-none")


@scenario
def a_fine_tune_shows_its_metrics_and_checkpoints(server: Server) -> None:
    jobs = server.strict.fine_tuning.jobs
    metrics = [event for event in jobs.list_events(server.fine_tune, limit=2) if event.type == "metrics"]
    assert [event.data["step"] for event in metrics] == [2, 1]  # type: ignore[index]
    found = list(jobs.checkpoints.list(server.fine_tune, limit=1))
    assert [one.step_number for one in found] == [2, 1]
    assert all(one.fine_tuning_job_id == server.fine_tune for one in found)
    assert found[0].metrics.train_loss == 0.5
    assert found[0].fine_tuned_model_checkpoint.endswith(":ckpt-step-2")


@scenario
def a_dry_run_tells_what_a_job_would_be_and_makes_none(server: Server) -> None:
    jobs = server.strict.fine_tuning.jobs
    file = server.strict.files.create(file=("train.jsonl", LINE * 40), purpose="fine-tune")
    rehearsed = jobs.with_raw_response.create(
        model="starter",
        training_file=file.id,
        metadata={"series": "dry"},
        extra_body={"dry_run": True, "adapter": "lora"},
    )
    found = rehearsed.http_response.json()
    assert found["object"] == "fine_tuning.job.dry_run"
    assert found["examples"] == 38  # two are kept to evaluate
    assert found["steps"] > 0
    assert found["trainable_parameters"] < found["parameters"]
    assert [job.id for job in jobs.list(metadata={"series": "dry"})] == []


@scenario
def ours_goes_into_a_job_beside_openais(server: Server) -> None:
    ours: Any = {"n_epochs": 1, "block_size": 64, "lora_r": 4}
    method: Any = {"type": "supervised", "supervised": {"hyperparameters": ours}}
    made = create(server, method=method, extra_body={"adapter": "lora"})
    assert made.hyperparameters.model_extra is not None
    assert (made.hyperparameters.model_extra["block_size"], made.hyperparameters.n_epochs) == (64, 1)
    assert made.model_extra is not None
    assert made.model_extra["adapter"] == "lora"
    server.strict.fine_tuning.jobs.cancel(made.id)


@scenario
def what_cannot_be_trained_is_refused(server: Server) -> None:
    with refused(BadRequestError, "file_not_found", "training_file"):
        server.strict.fine_tuning.jobs.create(model="starter", training_file="file-none")
    with refused(BadRequestError, "invalid_value", "method.supervised.hyperparameters.n_epochs"):
        create(server, method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 99}}})
    with refused(NotFoundError, None, "id"):
        server.strict.fine_tuning.jobs.retrieve("ftjob-none")
