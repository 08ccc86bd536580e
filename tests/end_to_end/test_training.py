"""Fine-tunes over HTTP on the real stack: the starter learns, is called, and survives its trainer's death."""

import json
import os
import signal
import urllib.request
from typing import Any

import pytest

from stack.api import multipart
from tests.conftest import wait_for
from tests.end_to_end.conftest import RunningStack

JOBS = "/v1/fine_tuning/jobs"
CHAT = [
    {"messages": [{"role": "user", "content": f"say {word}"}, {"role": "assistant", "content": word}]}
    for word in ("red", "green", "blue", "black", "white") * 8
]
TEXT = "\n".join(f"line {number} of a text that is learned" for number in range(600))


def upload(stack: RunningStack, name: str, content: bytes) -> str:
    body, kind = multipart({"purpose": "fine-tune"}, name, content)
    headers = {"Authorization": f"Bearer {stack.key}", "Content-Type": kind}
    request = urllib.request.Request(f"{stack.url}/v1/files", body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(json.load(answer)["id"])


def create(stack: RunningStack, file_id: str, hyperparameters: dict[str, Any], **more: Any) -> str:
    method = {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}
    asked = {"model": "starter", "training_file": file_id, "method": method, "seed": 1} | more
    status, job = stack.call("POST", JOBS, asked)
    assert status == 200, job
    return str(job["id"])


def job_of(stack: RunningStack, job_id: str) -> Any:
    return stack.call("GET", f"{JOBS}/{job_id}")[1]


def succeeded(stack: RunningStack, job_id: str) -> Any:
    ends = ("succeeded", "failed", "cancelled")
    ended = wait_for(lambda: job if (job := job_of(stack, job_id))["status"] in ends else None, 180, 0.2)
    assert ended["status"] == "succeeded", ended
    return ended


def events(stack: RunningStack, job_id: str) -> list[Any]:
    return list(stack.call("GET", f"{JOBS}/{job_id}/events?limit=100")[1]["data"])[::-1]


@pytest.fixture(scope="module")
def chatty(stack: RunningStack) -> Any:
    """A LoRA of the starter that was trained on conversations."""
    file_id = upload(stack, "chat.jsonl", b"".join(json.dumps(one).encode() + b"\n" for one in CHAT))
    return succeeded(stack, create(stack, file_id, {"n_epochs": 2}, adapter="lora", suffix="chatty"))


def test_a_model_trained_on_conversations_answers_in_chat(stack: RunningStack, chatty: Any) -> None:
    said = [{"role": "user", "content": "say red"}]
    asked = {"model": chatty["fine_tuned_model"], "messages": said, "max_tokens": 8}
    answer = answered(stack, "/v1/chat/completions", asked)
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert answer["usage"]["completion_tokens"] >= 1


def test_a_fine_tuned_model_is_listed_with_where_it_comes_from(stack: RunningStack, chatty: Any) -> None:
    status, model = stack.call("GET", f"/v1/models/{chatty['fine_tuned_model']}")
    assert status == 200
    assert model["lineage"]["job"] == chatty["id"]
    assert model["lineage"]["base"] == "starter"


def test_the_loss_falls_and_its_curve_and_table_are_files(stack: RunningStack, chatty: Any) -> None:
    metrics = [event["data"] for event in events(stack, chatty["id"]) if event["type"] == "metrics"]
    losses = [data["train_loss"] for data in metrics if data.get("train_loss") is not None]
    assert losses[-1] < losses[0]
    contents = []
    for file_id in chatty["result_files"]:
        headers = {"Authorization": f"Bearer {stack.key}"}
        request = urllib.request.Request(f"{stack.url}/v1/files/{file_id}/content", headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            contents.append(answer.read())
    table, curve = sorted(contents, key=lambda content: content.startswith(b"\x89PNG"))
    assert table.startswith(b"step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n")
    assert curve.startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_job_survives_the_death_of_its_trainer_and_its_checkpoint_is_called_meanwhile(
    stack: RunningStack,
) -> None:
    file_id = upload(stack, "text.txt", TEXT.encode())
    asked = {"n_epochs": 8, "batch_size": 1, "gradient_accumulation_steps": 1, "save_steps": 5}
    job_id = create(stack, file_id, asked, suffix="text")
    path = f"{JOBS}/{job_id}/checkpoints"
    (found, *_) = wait_for(lambda: stack.call("GET", path)[1]["data"], 120, 0.2)
    pid = stack.pid("trainer")
    os.kill(pid, signal.SIGKILL)
    assert answered(stack, "/v1/responses", said_by(found["fine_tuned_model_checkpoint"]))["output"]
    ended = succeeded(stack, job_id)
    assert ended["attempt"] >= 2
    steps = [event["data"]["step"] for event in events(stack, job_id) if event["type"] == "metrics"]
    assert steps == sorted(steps)
    answer = answered(stack, "/v1/responses", said_by(ended["fine_tuned_model"]))
    assert answer["model"] == ended["fine_tuned_model"]
    rows = ended["progress"]["total_steps"]
    assert ended["trained_tokens"] <= rows * 512
    status, gone = stack.call("DELETE", f"/v1/models/{ended['fine_tuned_model']}")
    assert (status, gone["deleted"]) == (200, True)
    assert stack.call("POST", "/v1/responses", said_by(ended["fine_tuned_model"]))[0] == 404


def said_by(model: str) -> dict[str, Any]:
    return {"model": model, "input": "line", "max_output_tokens": 4}


def answered(stack: RunningStack, path: str, asked: dict[str, Any]) -> Any:
    """The answer of a model that was published just now: workers see it within a second or two."""

    def answer() -> Any:
        status, found = stack.call("POST", path, asked)
        return found if status == 200 else None

    return wait_for(answer, 20, 0.2)
