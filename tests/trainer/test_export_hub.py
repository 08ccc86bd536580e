"""Exports that are pushed, to as much of the Hub as a test needs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import trainers
from jobs.database import Database
from jobs.exports import HUB
from jobs.settings import Settings
from tests.trainer.export_host import Host, working, write_models
from tests.trainer.fake_hub import READER, TOKEN, FakeHub, serving
from trainer.hub import NO_TOKEN
from trainer.surveyor import Surveyor


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def host(settings: Settings, database: Database, owner: int, models: Path, tmp_path: Path) -> Iterator[Host]:
    with working(settings, database, owner, models, tmp_path) as made:
        yield made


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serving() as made:
        monkeypatch.setenv("HF_ENDPOINT", made.url)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield made


def test_model_and_space_are_pushed(host: Host, models: Path, hub: FakeHub) -> None:
    host.publish(models / "base", base=None)
    job_id = host.submit(push_to_hub="me/poems", space="me/try-poems", private=False)
    host.start(hf_token=TOKEN)
    row = host.end_of(job_id)
    assert row.state == "succeeded", row.error
    assert row.output["hub"] == f"{hub.url}/me/poems"
    assert row.output["space"] == f"{hub.url}/spaces/me/try-poems"
    assert row.output["file_id"]
    model, space = hub.repositories["models", "me/poems"], hub.repositories["spaces", "me/try-poems"]
    assert {"README.md", "model.safetensors", "tokenizer.json", "config.json"} <= set(model.files)
    assert not [name for name in model.files if name.startswith("space/")]
    assert set(space.files) == {"app.py", "requirements.txt", "README.md"}
    assert space.variables == {"MODEL_ID": "me/poems"}
    assert (model.private, space.private, space.sdk) == (False, False, "gradio")
    assert b'from_pretrained("me/poems")' in model.files["README.md"]


def test_a_private_space_brings_its_model(host: Host, hub: FakeHub) -> None:
    job_id = host.submit("base", push_to_hub="me/base", space="me/base")
    host.start(hf_token=TOKEN)
    assert host.end_of(job_id).state == "succeeded"
    space = hub.repositories["spaces", "me/base"]
    assert {"app.py", "model/config.json", "model/model.safetensors"} <= set(space.files)
    assert space.variables == {}
    assert space.private
    assert hub.repositories["models", "me/base"].private


def test_a_second_push_goes_into_the_same_repository(host: Host, hub: FakeHub) -> None:
    host.start(hf_token=TOKEN)
    for _ in range(2):
        row = host.end_of(host.submit("base", push_to_hub="me/base"))
        assert (row.state, row.output["hub"]) == ("succeeded", f"{hub.url}/me/base")
    assert len(hub.repositories) == 1


REFUSED = [
    ("hf_nobody_s", "does not know the token in HF_TOKEN"),
    (READER, "may not write to 'me/base'"),
]


@pytest.mark.parametrize(("token", "said"), REFUSED)
def test_a_push_that_the_hub_refuses_leaves_the_file(host: Host, hub: FakeHub, token: str, said: str) -> None:
    job_id = host.submit("base", push_to_hub="me/base")
    host.start(hf_token=token)
    row = host.end_of(job_id)
    assert (row.state, row.error["code"], row.attempt) == ("failed", "hub_failed", 1)
    assert said in row.error["message"]
    assert token not in row.error["message"]
    assert row.output["file_id"]
    assert hub.repositories == {}


def test_what_was_pushed_before_a_failure_is_named(host: Host, hub: FakeHub) -> None:
    hub.refused = "spaces"
    job_id = host.submit("base", push_to_hub="me/base", space="me/base")
    host.start(hf_token=TOKEN)
    row = host.end_of(job_id)
    assert (row.state, row.output["hub"], row.output["space"]) == ("failed", f"{hub.url}/me/base", None)
    assert "refused 'me/base' with status 400. Spaces rest" in row.error["message"]


def test_a_hub_that_is_out_of_reach_is_explained(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    host.start(hf_token=TOKEN)
    for offline, said in (("1", "HF_HUB_OFFLINE is set"), ("0", "could not be reached")):
        monkeypatch.setenv("HF_HUB_OFFLINE", offline)
        row = host.end_of(host.submit("base", push_to_hub="me/base"))
        assert (row.state, row.error["code"]) == ("failed", "hub_failed")
        assert said in row.error["message"]
        assert row.output["file_id"]


def test_without_a_token_nothing_is_even_written(host: Host, hub: FakeHub) -> None:
    job_id = host.submit("base", push_to_hub="me/base")
    host.start()
    row = host.end_of(job_id)
    assert (row.state, row.error["message"]) == ("failed", NO_TOKEN)
    assert (host.files(), hub.repositories) == (0, {})


def test_a_trainer_says_whether_it_has_a_token(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = '{"device": "cpu", "precisions": [], "refused": {}, "calibration": {}, "memory": 1}'
    monkeypatch.setattr(
        "trainer.surveyor.subprocess.Popen",
        lambda *_, **__: type(
            "P",
            (),
            {
                "communicate": lambda self, timeout=None: (measured, ""),
                "returncode": 0,
            },
        )(),
    )
    for token, reason in ((None, NO_TOKEN), (TOKEN, None)):
        config = host.settings.model_copy(update={"hf_token": token})
        found = Surveyor(config, host.database)._measure()
        assert found is not None
        with host.database.transaction() as connection:
            trainers.report(connection, found)
            assert trainers.refusal(connection, HUB) == reason
