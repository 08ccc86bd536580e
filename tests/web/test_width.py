"""A job says from its birth how many slots it takes."""

from typing import Any

import pytest

from jobs.attempts import ClaimedJob
from tests.web.conftest import Caller, FakeWorker, output


@pytest.mark.parametrize(
    ("body", "width"),
    [
        ({}, 1),
        ({"prompt": ["a", "b", "c"]}, 3),
        ({"prompt": ["a", "b"], "n": 2, "best_of": 4}, 8),
        ({"prompt": ["a", "b"], "n": 2, "num_beams": 5, "temperature": 0}, 10),
    ],
)
def test_a_completion_takes_a_slot_for_each_sequence(
    caller: Caller, worker: FakeWorker, body: dict[str, Any], width: int
) -> None:
    widths = []

    def perform(job: ClaimedJob) -> dict[str, Any]:
        widths.append(job.width)
        return output(*["x"] * len(job.input["prompts"]) * job.input["n"])

    worker.start(perform)
    answer = caller.post("/v1/completions", model="starter", **({"prompt": "a"} | body))
    assert (answer.status_code, widths) == (200, [width])


def test_several_answers_to_a_chat_take_a_slot_each(caller: Caller, worker: FakeWorker) -> None:
    widths = []

    def perform(job: ClaimedJob) -> dict[str, Any]:
        widths.append(job.width)
        return output(*["x"] * job.input["n"])

    worker.start(perform)
    asked = [{"role": "user", "content": "a"}]
    answer = caller.post("/v1/chat/completions", model="org/chat", messages=asked, n=3)
    assert (answer.status_code, widths) == (200, [3])


def test_a_beam_search_and_its_replay_take_a_slot_for_each_beam(caller: Caller, worker: FakeWorker) -> None:
    asked = {"model": "starter", "input": "a", "background": True, "num_beams": 4, "temperature": 0}
    made = caller.post("/v1/responses", **asked).get_json()
    digest = caller.get("/v1/models/starter").get_json()["digest"]
    assert worker.one(output("x") | {"model_digest": digest}).width == 4
    caller.post(f"/v1/responses/{made['id']}/verify")
    assert worker.one(output("x")).width == 4
