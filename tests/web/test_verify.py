"""Verifying a response: the same job once more, and whether it said the same."""

from typing import Any

import pytest

from jobs.errors import NumericalError
from tests.web.conftest import RECEIPT, Caller, FakeWorker, output, the_error


def finished(caller: Caller, worker: FakeWorker, **asked: Any) -> dict[str, Any]:
    """A response that said something, written by the weights that are offered."""
    made = caller.post("/v1/responses", model="starter", input="a", background=True, **asked).get_json()
    digest = caller.get("/v1/models/starter").get_json()["digest"]
    worker.one(output("x") | {"model_digest": digest})
    shown: dict[str, Any] = caller.get(f"/v1/responses/{made['id']}").get_json()
    return shown


def test_a_result_carries_its_receipt(caller: Caller, worker: FakeWorker) -> None:
    made = finished(caller, worker)
    assert made["receipt"] == RECEIPT
    assert made["verification"] is None


def test_verifying_runs_the_same_job_again_and_says_whether_it_said_the_same(
    caller: Caller, worker: FakeWorker
) -> None:
    made = finished(caller, worker, seed=5, metadata={"a": "b"})
    replay = caller.post(f"/v1/responses/{made['id']}/verify").get_json()
    assert replay["id"] != made["id"]
    assert (replay["status"], replay["background"], replay["metadata"]) == ("queued", True, {"a": "b"})
    verification = {"of": made["id"], "same": True, "sequences": [{"same": True, "first_difference": None}]}
    job = worker.one(output("x") | {"verification": verification})
    assert job.input["sampling"]["seed"] == 5
    assert job.input["prompts"] == ["a"]
    assert job.input["replay"] == {"of": made["id"], "tokens": [[1, 2]], "receipt": RECEIPT}
    assert caller.get(f"/v1/responses/{replay['id']}").get_json()["verification"] == verification


def test_what_was_written_before_there_were_receipts_can_be_verified(
    caller: Caller, worker: FakeWorker
) -> None:
    made = caller.post("/v1/responses", model="starter", input="a", background=True).get_json()
    digest = caller.get("/v1/models/starter").get_json()["digest"]
    old = {name: value for name, value in output("x").items() if name != "receipt"}
    worker.one(old | {"model_digest": digest})
    caller.post(f"/v1/responses/{made['id']}/verify")
    assert worker.one(output("x")).input["replay"]["receipt"] == {}


def test_what_has_no_whole_answer_cannot_be_verified(caller: Caller, worker: FakeWorker) -> None:
    made = caller.post("/v1/responses", model="starter", input="a", background=True).get_json()
    error = the_error(caller.post(f"/v1/responses/{made['id']}/verify"), 400, "not_verifiable")
    assert "queued" in error["message"]
    worker.one(NumericalError("no"))
    error = the_error(caller.post(f"/v1/responses/{made['id']}/verify"), 400, "not_verifiable")
    assert "failed" in error["message"]


def test_other_weights_under_the_same_name_are_said_so(caller: Caller, worker: FakeWorker) -> None:
    made = caller.post("/v1/responses", model="starter", input="a", background=True).get_json()
    worker.one(output("x") | {"model_digest": "0ther" * 8})  # by weights that nobody offers
    the_error(caller.post(f"/v1/responses/{made['id']}/verify"), 409, "model_changed")


@pytest.mark.parametrize("response_id", ["resp_" + "0" * 32, "nonsense"])
def test_nobody_verifies_what_is_not_there(caller: Caller, response_id: str) -> None:
    the_error(caller.post(f"/v1/responses/{response_id}/verify"), 404, None)


def test_nobody_verifies_what_belongs_to_somebody_else(
    caller: Caller, stranger: Caller, worker: FakeWorker
) -> None:
    made = finished(caller, worker)
    the_error(stranger.post(f"/v1/responses/{made['id']}/verify"), 404, None)
