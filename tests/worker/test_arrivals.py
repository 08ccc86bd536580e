"""Models that are published while a worker runs, as a whole worker serves them."""

import errno
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import text
from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel

from jobs import catalog, published, submission
from jobs.artifacts import ArtifactStore
from jobs.catalog import Offer
from jobs.database import Database
from jobs.published import Published
from jobs.settings import Settings
from jobs.states import FINAL, State
from tests.conftest import wait_for
from tests.jobs import samples
from tests.worker.conftest import write_folder
from tests.worker.lanes import TINY, lora, write_adapter
from tests.worker.publishing import publish, varied
from worker.app import Worker
from worker.loading import describe
from worker.roster import Roster


@dataclass
class House:
    """A database with an owner, a store, a folder with a model, and workers that come and go."""

    database: Database
    owner: int
    config: Settings
    store: ArtifactStore
    base: Path
    tokenizer: Tokenizer
    workers: list[Worker] = field(default_factory=list)

    def start(self, **changes: Any) -> Roster:
        worker = Worker(self.config.model_copy(update=changes))
        worker.start()
        self.workers.append(worker)
        return worker._roster

    def stop(self) -> None:
        for worker in self.workers:
            loader = next(thread for thread in worker._threads if thread.name == "loader")
            loader.join(timeout=10)
            worker.stop()
        self.workers.clear()

    def publish(self, name: str, folder: Path | None = None, **over: Any) -> Published:
        folder = folder or varied(self.base.with_name(name.replace(":", "_")), self.base, len(name))
        return publish(self.database, self.store, self.owner, f"ft:base:org:{name}", folder, **over)

    def adapter(self, name: str, seed: int = 1) -> Path:
        folder = write_adapter(self.base.with_name(f"adapter {name}"), lora(TINY, seed=seed))
        self.tokenizer.save(str(folder / "tokenizer.json"))
        return folder

    def digest(self) -> str:
        return describe(str(self.base), None, "cpu").digest

    def submit(self, name: str, model: str, **task: Any) -> None:
        sampling = {"max_tokens": 6, "seed": 1, "temperature": 0, "ignore_eos": True}
        new = samples.new(self.owner, name, input={"prompts": ["hello"], "sampling": sampling} | task)
        with self.database.transaction() as connection:
            submission.submit(connection, replace(new, model=model))
        for worker in self.workers:
            worker.intake.wake()

    def ended(self, name: str) -> Any:
        wait_for(lambda: samples.row(self.database, name).state in FINAL)
        return samples.row(self.database, name)

    def said(self, name: str) -> Any:
        row = self.ended(name)
        assert row.state == State.SUCCEEDED, row.error
        return row.output

    def says(self, model: str, job: str | None = None) -> Any:
        self.submit(job or f"job of {model}", model)
        return self.said(job or f"job of {model}")

    def offers(self) -> dict[str, Offer]:
        with self.database.transaction() as connection:
            return catalog.listing(connection)

    def status(self, name: str) -> str | None:
        found = self.offers().get(name)
        return found and found.status

    def folders(self) -> set[str]:
        shelf = self.config.var_dir / "models"
        return {path.name for path in shelf.iterdir()} if shelf.exists() else set()

    def remove(self, name: str) -> None:
        with self.database.transaction() as connection:
            assert published.remove(connection, name)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory, gpt2: GPT2LMHeadModel, tokenizer: Tokenizer) -> Path:
    return write_folder(tmp_path_factory.mktemp("arrivals") / "base", gpt2, tokenizer)


@pytest.fixture
def house(
    database: Database,
    owner: int,
    settings: Settings,
    tmp_path: Path,
    saved: Path,
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[House]:
    monkeypatch.setattr("worker.heartbeat._FOLLOW_SECONDS", 0.0)
    # whenever a model leaves it would go through everything that pytest and transformers have made
    monkeypatch.setattr("worker.residents.gc", SimpleNamespace(collect=lambda: None))
    given = {
        "database_url": settings.database,
        "redis_url": settings.redis,
        "var_dir": tmp_path / "var",
        "models": f"base={saved}",
        "slots": 4,
        "worker_name": "w",
        "device": "cpu",
        "kernel": "torch",
        "heartbeat_seconds": 0.05,
        "drain_seconds": 5,
    }
    config = settings.model_copy(update=given)
    folder = Path(tmp_path / "base")
    folder.mkdir()
    for path in saved.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    made = House(database, owner, config, ArtifactStore(config.artifacts), folder, tokenizer)
    yield made
    made.stop()


def test_a_model_is_served_without_a_restart_once_it_was_published(house: House) -> None:
    roster = house.start()
    house.says("base")
    new = house.publish("mine")
    name = new.version.name
    wait_for(lambda: house.status(name) == "available")
    assert house.folders() == set(), "nobody needs its files yet"
    found = house.offers()[name]
    assert found.version is not None
    assert (found.version.quantization, found.version.slots, found.owner_id) == ("int8", 4, house.owner)
    output = house.says(name)
    assert output["model_digest"] == output["receipt"]["model_digest"] == new.version.digest
    assert output["sequences"][0]["tokens"] == house.said("job of base")["sequences"][0]["tokens"]
    assert house.folders() == {new.version.digest}
    assert sorted(lane.source.name for lane in roster.residents.loaded) == ["base", name]
    with house.database.transaction() as connection:
        assert catalog.tokenizer(connection, name, output["model_digest"]) == new.version.tokenizer


def test_an_adapter_runs_in_the_batch_of_its_base(house: House) -> None:
    roster = house.start()
    plain = house.says("base")
    new = house.publish("mine", house.adapter("mine"), base="base", base_digest=house.digest())
    wait_for(lambda: house.status(new.version.name) == "available")
    output = house.says(new.version.name)
    assert output["sequences"][0]["tokens"] != plain["sequences"][0]["tokens"]
    assert output["model_digest"] == new.version.digest
    assert output["receipt"]["model_digest"] == house.digest()
    assert [lane.source.name for lane in roster.residents.lanes] == ["base"]


def test_an_adapter_over_a_published_model_brings_that_along(house: House) -> None:
    over = house.publish("whole")
    names = [
        house.publish(
            name, house.adapter(name, seed), base=over.version.name, base_digest=over.version.digest
        ).version.name
        for seed, name in enumerate(("one", "two"))
    ]
    roster = house.start()
    wait_for(lambda: all(house.status(name) == "available" for name in names))
    for name in names:
        house.submit(name, name)
    said = [house.said(name)["sequences"][0]["tokens"] for name in names]
    assert said[0] != said[1]
    assert {lane.source.name for lane in roster.residents.lanes} == {"base", over.version.name}


@pytest.mark.parametrize(
    ("base", "base_digest", "reason"),
    [
        ("gpt2", None, "this worker does not have its base model 'gpt2': add it to MODELS."),
        ("base", "ab" * 32, "it was trained over other weights of 'base' than this worker has"),
    ],
)
def test_an_adapter_without_its_base_says_why(
    house: House, base: str, base_digest: str | None, reason: str
) -> None:
    new = house.publish("mine", house.adapter("mine"), base=base, base_digest=base_digest)
    house.start()
    wait_for(lambda: house.status(new.version.name) == "unavailable")
    assert str(house.offers()[new.version.name].reason).startswith(reason)


def test_many_models_share_a_memory_that_has_room_for_two(house: House) -> None:
    whole = house.start()
    wait_for(lambda: whole.residents.loaded)
    need = whole.residents.loaded[0].need.total
    house.stop()
    names = [house.publish(f"{number}" * (number + 1)).version.name for number in range(12)]
    roster = house.start(memory_gb=2.5 * need / 1e9)
    wait_for(lambda: all(house.status(name) == "available" for name in names))
    most, jobs = 0, [f"{number}" for number in range(16)]
    for job, name in zip(jobs, [*names, "base", *names[:3]], strict=True):
        house.submit(job, name)

    def have_ended() -> bool:
        nonlocal most
        most = max(most, len(roster.residents.loaded))
        return all(state in FINAL for state in samples.states(house.database).values())

    wait_for(have_ended, seconds=60, every=0.01)
    said = [house.said(job)["sequences"][0]["tokens"] for job in jobs]
    assert len({tuple(tokens) for tokens in said}) == 1
    assert most == 2
    wait_for(lambda: len(roster.residents.lanes) <= 3)
    assert len(house.folders()) == 12, "what left memory is not fetched again"


def test_more_adapters_than_a_model_takes_at_once_take_turns(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.arrivals.MOST_ADAPTERS", 2)
    monkeypatch.setattr("worker.lanes.MOST_ADAPTERS", 2)
    over = {"base": "base", "base_digest": house.digest()}
    names = [
        house.publish(f"{seed}", house.adapter(f"{seed}", seed), **over).version.name for seed in range(6)
    ]
    roster = house.start()
    wait_for(lambda: all(house.status(name) == "available" for name in names))
    for job, name in enumerate(names * 2):
        house.submit(f"{job}", name)
    said = [tuple(house.said(f"{job}")["sequences"][0]["tokens"]) for job in range(12)]
    assert said[:6] == said[6:]
    assert len(set(said)) == 6, "each speaks for itself"
    assert len(roster.names(roster.residents.lanes[0])) <= 3, "the model and two of them"


def test_a_model_is_opened_though_every_slot_is_taken(house: House) -> None:
    new = house.publish("mine")
    roster = house.start()
    wait_for(lambda: house.status(new.version.name) == "available")
    for number in range(8):
        house.submit(f"long {number}", "base", sampling={"max_tokens": 200, "seed": 1, "ignore_eos": True})
    wait_for(lambda: [lane.free for lane in roster.residents.loaded] == [0])
    house.submit("short", new.version.name)
    assert house.said("short")
    assert State.RUNNING in samples.states(house.database).values()


def test_an_adapter_for_which_memory_has_no_room_says_so(house: House) -> None:
    new = house.publish("mine", house.adapter("mine"), base="base", base_digest=house.digest())
    roster = house.start()
    wait_for(lambda: roster.residents.loaded)
    need = roster.residents.loaded[0].need
    house.stop()
    house.start(memory_gb=(need.total - 3 * need.slot + 1) / 1e9)
    house.submit("waits", new.version.name)
    assert "memory has no room for it beside its base model" in house.ended("waits").error["message"]
    assert house.status("base") == "available"


def test_what_was_fetched_once_is_not_fetched_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []
    fetch = ArtifactStore.fetch

    def count(store: ArtifactStore, name: str, path: Path) -> None:
        fetched.append(path.name)
        fetch(store, name, path)

    monkeypatch.setattr(ArtifactStore, "fetch", count)
    names = [house.publish(name).version.name for name in ("one", "other")]
    roster = house.start()
    wait_for(lambda: house.status(names[1]) == "available")
    house.says(names[0])
    need = roster.residents.loaded[0].need.total
    assert fetched.count("model.safetensors") == 1
    house.stop()
    roster = house.start(memory_gb=1.5 * need / 1e9)
    for number, name in enumerate([names[0], names[1], names[0]]):
        house.says(name, f"again {number}")
    assert fetched.count("model.safetensors") == 2, "one of each"


def test_a_deleted_model_leaves_memory_and_disk(house: House) -> None:
    roster = house.start()
    whole = house.publish("whole")
    over = house.publish(
        "adapter", house.adapter("over"), base=whole.version.name, base_digest=whole.version.digest
    )
    wait_for(lambda: house.status(over.version.name) == "available")
    house.says(over.version.name)
    house.says(whole.version.name)
    assert len(house.folders()) == 2
    house.remove(over.version.name)
    house.remove(whole.version.name)
    assert house.status(whole.version.name) is None, "web hears of it at once"
    wait_for(lambda: [lane.source.name for lane in roster.residents.lanes] == ["base"])
    wait_for(lambda: house.folders() == set())
    house.submit("late", whole.version.name)  # taken by a web that had not heard yet
    late = house.ended("late")
    assert (late.error["code"], late.error["message"]) == ("model_unavailable", "The model was deleted.")
    assert house.offers().keys() == {"base"}
    with house.database.transaction() as connection:
        assert catalog.tokenizer(connection, whole.version.name, whole.version.digest) is None


def test_a_base_that_is_deleted_takes_its_adapters_along(house: House) -> None:
    roster = house.start()
    whole = house.publish("whole")
    over = house.publish("adapter", house.adapter("over"), base=whole.version.name)
    wait_for(lambda: house.status(over.version.name) == "available")
    house.says(over.version.name)
    house.remove(whole.version.name)
    wait_for(lambda: house.status(over.version.name) == "unavailable")
    wait_for(lambda: [lane.source.name for lane in roster.residents.lanes] == ["base"])


def test_a_torn_artifact_is_the_reason_of_that_name_alone(house: House) -> None:
    house.start()
    new, good = house.publish("torn"), house.publish("good")
    artifact = new.files["model.safetensors"]
    assert good.files["model.safetensors"] == artifact, "nothing but the configuration differs"
    torn = house.publish("one", broken(house, "nan", b"\xff\xff\xff\xff"))
    path = Path(house.store._path(torn.files["model.safetensors"]))
    path.unlink()
    path.write_bytes(b"half of it")
    wait_for(lambda: house.status(torn.version.name) == "available")
    house.submit("waits", torn.version.name)
    error = house.ended("waits").error
    assert error["code"] == "model_unavailable"
    assert f"The artifact {torn.files['model.safetensors']} is damaged" in error["message"]
    assert house.status(torn.version.name) == "unavailable"
    assert house.says(good.version.name)
    assert house.folders() == {good.version.digest}


def test_a_model_whose_files_did_not_come_is_tried_again_later(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, sleeps, fetch = house.publish("mine"), [True], ArtifactStore.fetch

    def unreachable(store: ArtifactStore, name: str, path: Path) -> None:
        if sleeps:
            raise OSError(errno.EHOSTUNREACH, "No route to host")
        fetch(store, name, path)

    monkeypatch.setattr(ArtifactStore, "fetch", unreachable)
    monkeypatch.setattr("worker.arrivals._AGAIN_SECONDS", 0.5)
    house.start()
    house.submit("early", new.version.name)
    assert "could not be fetched just now: No route to host" in house.ended("early").error["message"]
    sleeps.clear()
    wait_for(lambda: house.status(new.version.name) == "available")
    assert house.says(new.version.name)


def broken(house: House, name: str, end: bytes) -> Path:
    folder = varied(house.base.with_name(name), house.base, 99)
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: -len(end)] + end)
    return folder


def test_a_model_whose_numbers_are_not_finite_says_so(house: House) -> None:
    house.start()
    new = house.publish("nan", broken(house, "spoiled", b"\xff\xff\xff\xff"))
    wait_for(lambda: house.status(new.version.name) == "available")
    house.submit("waits", new.version.name)
    assert "holds NaN or infinity" in house.ended("waits").error["message"]
    found = house.offers()[new.version.name]
    assert found.reason is not None
    assert str(house.config.var_dir) not in found.reason, "where it lies is nobody's business"


def test_a_folder_that_was_damaged_on_this_host_is_fetched_again(house: House) -> None:
    new = house.publish("mine")
    house.start()
    wait_for(lambda: house.status(new.version.name) == "available")
    house.says(new.version.name)
    house.stop()
    weights = house.config.var_dir / "models" / new.version.digest / "model.safetensors"
    data = bytearray(weights.read_bytes())
    weights.unlink()
    data[-1] ^= 1
    weights.write_bytes(data)
    house.start()
    assert house.says(new.version.name, "again")["model_digest"] == new.version.digest
    assert weights.read_bytes() != bytes(data)


def test_a_restarted_worker_goes_on_with_what_was_published(house: House) -> None:
    names = [house.publish(name).version.name for name in ("stays", "goes")]
    house.start()
    wait_for(lambda: house.status(names[1]) == "available")
    for name in names:
        house.says(name)
    house.stop()
    house.remove(names[1])
    seen = set[str | None]()
    house.submit("waits", names[0])
    house.start()
    while samples.row(house.database, "waits").state not in FINAL:
        seen.add(house.status(names[0]))
    assert house.said("waits")
    assert seen <= {"available"}, "web refused no job meanwhile"
    assert len(house.folders()) == 1


def test_an_offer_of_hundreds_writes_nothing_where_nothing_changed(house: House) -> None:
    with house.database.transaction() as connection:
        for number in range(300):
            version = samples.version(f"ft:base:org:{number}", digest=f"{number:064}", quantization="fp32")
            new = Published(version, house.owner, "ftjob", {}, None, {"config.json": "a" * 64})
            published.publish(connection, new)
    roster = house.start()
    wait_for(lambda: len(house.offers()) == 301)
    before = written(house)
    roster.offer(house.database)
    assert len(written(house) - before) == 1, "the sign of life"


def written(house: House) -> set[tuple[str, str]]:
    """Each offer, with the transaction that wrote it last."""
    with house.database.transaction() as connection:
        return {(row[0], row[1]) for row in connection.execute(text("SELECT name, xmin::text FROM offers"))}
