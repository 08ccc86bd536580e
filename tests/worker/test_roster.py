"""Names with the models and adapters behind them, as MODELS has them and as web hears of them."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel

from jobs import catalog, submission
from jobs.catalog import Offer
from jobs.database import Database
from jobs.settings import Settings
from jobs.states import State
from tests.conftest import wait_for
from tests.jobs import samples
from tests.worker.conftest import greedy, write_folder
from tests.worker.lanes import TINY, lora, write_adapter
from worker.roster import Roster

Open = Callable[..., Roster]


@pytest.fixture
def folder(tmp_path: Path, gpt2: GPT2LMHeadModel, tokenizer: Tokenizer) -> Path:
    return write_folder(tmp_path / "base", gpt2, tokenizer)


@pytest.fixture
def opened(database: Database, settings: Settings) -> Iterator[Open]:
    """A roster that has decided on every entry of MODELS; a thread releases what shall leave."""
    stopped = threading.Event()
    devices = []

    def make(models: dict[str, Path], **changes: object) -> Roster:
        entries = ",".join(f"{name}={source}" for name, source in models.items())
        given = {"models": entries, "slots": 4, "worker_name": "w", "device": "cpu", "kernel": "torch"}
        config = settings.model_copy(update=given | changes)
        roster = Roster(config, database, threading.Event())
        roster.open(lambda: None)

        def release() -> None:
            while not stopped.wait(0.01):
                roster.residents.release()

        devices.append(threading.Thread(target=release, daemon=True))
        devices[-1].start()
        return roster

    yield make
    stopped.set()
    for device in devices:
        device.join(timeout=5)


def offers(database: Database) -> dict[str, Offer]:
    with database.transaction() as connection:
        return catalog.listing(connection)


def reason(database: Database, name: str) -> str:
    found = offers(database)[name]
    assert found.status == "unavailable"
    assert found.reason is not None
    return found.reason


def test_all_are_offered_and_the_first_is_loaded(opened: Open, folder: Path, database: Database) -> None:
    roster = opened({"one": folder, "two": folder})
    found = offers(database)
    assert {name: offer.status for name, offer in found.items()} == {"one": "available", "two": "available"}
    assert [lane.source.name for lane in roster.residents.loaded] == ["one"]
    assert found["two"].version is not None
    assert found["two"].version.slots == 4


def test_a_model_is_loaded_once_a_job_waits_for_it_and_says_the_same(opened: Open, folder: Path) -> None:
    roster = opened({"one": folder, "two": folder})
    roster.want(["two"])
    wait_for(lambda: roster.residents.loading is None)
    said = []
    for lane in roster.residents.loaded:
        lane.submit([sequence := greedy([1, 2, 3])], None)
        while not lane.idle:
            lane.step()
        said.append(sequence.tokens)
    assert said[0] == said[1]
    assert len(said) == 2


def test_a_model_that_can_never_fit_is_refused_with_the_numbers(
    opened: Open, folder: Path, database: Database
) -> None:
    opened({"one": folder}, memory_gb=0.000_001)
    assert "one slot, the budget is 0 MB: raise MEMORY_GB" in reason(database, "one")


def test_slots_are_fewer_where_memory_is_short(opened: Open, folder: Path, database: Database) -> None:
    whole = opened({"one": folder})
    need = whole.residents.lanes[0].need
    opened({"one": folder}, memory_gb=(need.total - need.slot) / 1e9)
    version = offers(database)["one"].version
    assert version is not None
    assert version.slots == 3


def test_an_adapter_is_offered_under_its_own_name_over_its_model(
    opened: Open, folder: Path, tmp_path: Path, database: Database
) -> None:
    for name, base in (("named", "one"), ("placed", str(folder))):
        write_adapter(tmp_path / name, lora(TINY), base_model_name_or_path=base)
    roster = opened({"named": tmp_path / "named", "one": folder, "placed": tmp_path / "placed"})
    found = offers(database)
    assert {name: offer.status for name, offer in found.items()} == dict.fromkeys(found, "available")
    versions = [found[name].version for name in ("one", "named", "placed")]
    assert len({version.digest for version in versions if version}) == 3
    assert len({(version.tokenizer, version.context, version.slots) for version in versions if version}) == 1
    assert len(roster.residents.lanes) == 1
    assert sorted(roster.names(roster.residents.lanes[0])) == ["named", "one", "placed"]


def test_an_adapter_changes_what_is_said(opened: Open, folder: Path, tmp_path: Path) -> None:
    write_adapter(tmp_path / "tuned", lora(TINY), base_model_name_or_path="one")
    roster = opened({"one": folder, "tuned": tmp_path / "tuned"})
    (lane,) = roster.residents.lanes
    said = {}
    for name, served in roster.served.items():
        lane.submit([sequence := greedy([1, 2, 3])], served.adapter)
        said[name] = sequence
    while not lane.idle:
        lane.step()
    assert said["one"].error is None
    assert said["one"].tokens != said["tuned"].tokens


def test_an_adapter_over_nothing_says_what_is_missing(
    opened: Open, folder: Path, tmp_path: Path, database: Database
) -> None:
    write_adapter(tmp_path / "lost", lora(TINY), base_model_name_or_path="gpt2")
    opened({"one": folder, "lost": tmp_path / "lost"})
    said = reason(database, "lost")
    assert "base_model_name_or_path is 'gpt2', which is neither the name nor the source of another" in said
    assert offers(database)["one"].status == "available"


def test_an_adapter_cannot_be_quantized(
    opened: Open, folder: Path, tmp_path: Path, database: Database
) -> None:
    write_adapter(tmp_path / "tuned", lora(TINY), base_model_name_or_path="one")
    opened({"one": folder, "tuned": Path(f"{tmp_path / 'tuned'}@int8")})
    assert "leave @int8 out" in reason(database, "tuned")


def test_a_broken_adapter_leaves_its_model_alone(
    opened: Open, folder: Path, tmp_path: Path, database: Database
) -> None:
    tensors = lora(TINY)
    next(iter(tensors.values()))[0, 0] = torch.nan
    write_adapter(tmp_path / "tuned", tensors, base_model_name_or_path="one")
    opened({"one": folder, "tuned": tmp_path / "tuned"})
    assert "holds NaN" in reason(database, "tuned")
    assert offers(database)["one"].status == "available"


def test_adapters_of_a_model_that_cannot_be_had_are_not_offered(
    opened: Open, folder: Path, tmp_path: Path, database: Database
) -> None:
    write_adapter(tmp_path / "tuned", lora(TINY), base_model_name_or_path="one")
    (folder / "config.json").unlink()
    opened({"one": folder, "tuned": tmp_path / "tuned"})
    assert "config.json is missing" in reason(database, "one")
    assert "config.json is missing" in reason(database, "tuned")


def test_a_model_that_turns_out_broken_when_it_is_needed_is_taken_back(
    opened: Open,
    folder: Path,
    tmp_path: Path,
    gpt2: GPT2LMHeadModel,
    tokenizer: Tokenizer,
    database: Database,
    owner: int,
) -> None:
    spoiled = write_folder(tmp_path / "spoiled", gpt2, tokenizer)
    data = bytearray((spoiled / "model.safetensors").read_bytes())
    data[-4:] = b"\xff\xff\xff\xff"  # NaN
    (spoiled / "model.safetensors").write_bytes(data)
    roster = opened({"one": folder, "two": spoiled})
    assert offers(database)["two"].status == "available", "nobody has read its numbers yet"
    submit(database, owner, "waits", "two")
    roster.want(["two"])
    wait_for(lambda: roster.residents.loading is None)
    assert "NaN" in reason(database, "two")
    assert list(roster.served) == ["one"]
    submit(database, owner, "late", "two")  # taken by a web that had not heard yet
    roster.turn_away(database)
    for name in ("waits", "late"):
        row = samples.row(database, name)
        assert (row.state, row.error["code"]) == (State.FAILED, "model_unavailable")
        assert "NaN" in row.error["message"]


def submit(database: Database, owner: int, name: str, model: str) -> None:
    with database.transaction() as connection:
        submission.submit(connection, replace(samples.new(owner, name), model=model))
