"""A dry run says what a fine-tune would be, and makes nothing."""

import json
import random
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import text
from tokenizers import Tokenizer

from jobs import packing, plan
from jobs.database import Database
from jobs.errors import InvalidTrainingFile
from jobs.finetune_input import FinetuneInput
from jobs.plan import Corpus, Shape
from jobs.settings import Settings
from tests.web.conftest import CONTEXT, Caller, rows, the_error
from tests.web.test_fine_tuning import JOBS, a_file
from tests.web.test_fine_tuning_requests import SMALL, asked
from tests.web.test_fine_tuning_review import GOOD, LONG, jsonl
from trainer.dataset import prepare, split
from trainer.spec import Data
from web import connection as client
from web import dry_run, fine_tuning_data
from web.learner import Learner

TALK = {"messages": [{"role": "user", "content": "def"}, {"role": "assistant", "content": "name"}]}


@pytest.fixture
def upload(caller: Caller, offered: Database, settings: Settings) -> Callable[[bytes], str]:
    """A file that nobody has read yet."""
    return lambda content: a_file(offered, settings, content=content)


@pytest.fixture(autouse=True)
def _no_two_at_once() -> Iterator[None]:
    yield
    assert dry_run._AT_ONCE._value == 2  # type: ignore[attr-defined]  # none is left taken


def rehearse(caller: Caller, file_id: str, **more: Any) -> dict[str, Any]:
    answer = caller.post(JOBS, **{"model": "starter", "training_file": file_id, "dry_run": True} | more)
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.get_json()
    assert made["object"] == "fine_tuning.job.dry_run"
    return made


def test_a_file_that_nobody_has_read_yet_is_counted_and_nothing_is_made(
    caller: Caller, upload: Callable[[bytes], str], offered: Database
) -> None:
    file_id = upload(jsonl(*[GOOD] * 100))
    made = rehearse(caller, file_id)
    each = made["tokens"] // made["examples"]
    assert (made["examples"], made["tokens"]) == (95, 95 * each)  # five are kept to evaluate
    assert made["model"] == "starter"
    assert made["trained_tokens"] == made["tokens"] * made["hyperparameters"]["n_epochs"]
    assert made["hyperparameters"]["block_size"] == CONTEXT
    assert made["steps"] > 0
    assert 0 <= made["padding"] < 0.2
    assert made["memory_bytes"] > 16 * made["parameters"]
    assert rows(offered) == 0
    with offered.transaction() as connection:
        assert connection.execute(text("SELECT count(*) FROM creates")).scalar() == 0
        assert connection.execute(text("SELECT status FROM files")).scalar() == "uploaded"


def test_the_plan_is_the_trainers_own(
    caller: Caller,
    upload: Callable[[bytes], str],
    report: Callable[..., None],
) -> None:
    report()
    draw = random.Random(3)
    data = jsonl(
        *[{"prompt": "d" * draw.randint(1, 20), "completion": "n" * draw.randint(1, 20)} for _ in range(400)]
    )
    wish = asked({"lora_r": 2, "n_epochs": 2}, adapter="lora", init="pretrained")
    made = rehearse(caller, upload(data), **wish, validation_file=upload(data))
    work = FinetuneInput(
        training_file="f", seed=0, adapter="lora", hyperparameters={"lora_r": 2, "n_epochs": 2}
    )
    lengths = [len(one["prompt"] + one["completion"]) + 1 for one in map(json.loads, data.splitlines())]
    assert (made["examples"], made["tokens"]) == (400, sum(lengths))
    corpus = Corpus(400, sum(lengths), len(packing.rows(lengths, CONTEXT)))
    decided = plan.decide(work, Shape.of(1234, CONTEXT, 300), corpus, "bf16")
    assert made["steps"] == decided.total_steps
    shown = made["hyperparameters"] | {
        "lora_target_modules": tuple(made["hyperparameters"]["lora_target_modules"])
    }
    assert shown == decided.hyperparameters
    assert made["padding"] == pytest.approx(1 - corpus.tokens / (corpus.rows * CONTEXT), abs=1e-4)
    assert made["trainable_parameters"] < made["parameters"]
    assert made["warnings"] == [
        "No trainer has measured itself in this precision yet, so the duration is unknown."
    ]


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("record", [GOOD, {"text": "def name " * 40}])
def test_tokens_and_rows_are_those_that_the_trainer_will_have(
    tokenizer: Tokenizer, tmp_path: Path, record: dict[str, str], packing: bool
) -> None:
    raw = jsonl(*[{name: (text * 9)[: 3 + 2 * n] for name, text in record.items()} for n in range(150)])
    work = FinetuneInput(training_file="f", seed=5, hyperparameters={"packing": packing})
    learner = Learner(Shape(1, 1, 8, CONTEXT, 300), "here", 0, None)
    here: Any = SimpleNamespace(tokenizer=lambda _: tokenizer)
    found = fine_tuning_data.read(BytesIO(raw), "a.jsonl", learner, here, CONTEXT)
    (tmp_path / "file").write_bytes(raw)
    kept = prepare(
        Data(path=tmp_path / "file", filename="a.jsonl", sha256=""),
        learner.reader(here, found.layout, CONTEXT),
        tmp_path / "corpus",
        InvalidTrainingFile,
        lambda: None,
    )
    rows, _ = split(kept, CONTEXT, packing, work.seed, plan.held_out)
    corpus = fine_tuning_data.corpus_of(found, work, CONTEXT)
    assert (corpus.tokens, corpus.rows) == (rows.tokens, len(rows))
    assert corpus.tokens < sum(found.lengths)


def test_the_duration_comes_from_what_the_fastest_trainer_measured(
    caller: Caller,
    upload: Callable[[bytes], str],
    report: Callable[..., None],
) -> None:
    file_id = upload(jsonl(*[{"text": "def name " * 50}] * 100))
    unknown = rehearse(caller, file_id)
    assert unknown["duration_seconds"] is None
    assert any("duration is unknown" in one for one in unknown["warnings"])
    assert unknown["hyperparameters"]["precision"] == "fp32"
    report(calibration={"bf16": 2e6, "fp32": 1e6})
    fast, slow = rehearse(caller, file_id), rehearse(caller, file_id, **asked({"precision": "fp32"}))
    assert fast["warnings"] == []
    assert fast["hyperparameters"]["precision"] == "bf16"
    assert slow["duration_seconds"] == pytest.approx(2 * fast["duration_seconds"], rel=0.01)


def test_a_text_has_its_tokens_and_no_padding_but_in_its_last_row(
    caller: Caller, upload: Callable[[bytes], str]
) -> None:
    many = rehearse(caller, upload(jsonl(*[{"text": "def name " * 50}] * 100)))
    apart = rehearse(caller, upload(jsonl(*[{"text": "def name " * 50}] * 100)), **asked({"packing": False}))
    assert many["padding"] < 0.01
    assert apart["padding"] > many["padding"]


@pytest.mark.parametrize("param", ["training_file", "validation_file"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"prompt": "a"}\n', "line 1: 'completion' is missing."),
        (jsonl(GOOD) + b"{\n", "line 2: The line is not JSON"),
        (jsonl(GOOD, LONG), "line 2: An answer has"),
        (b"", "The file has no lines."),
    ],
)
def test_what_is_wrong_with_a_file_is_said_by_line(
    caller: Caller, upload: Callable[[bytes], str], param: str, content: bytes, said: str
) -> None:
    files = {"training_file": upload(jsonl(GOOD)), "validation_file": upload(jsonl(GOOD))} | {
        param: upload(content)
    }
    answer = caller.post(JOBS, model="starter", dry_run=True, **files)
    error = the_error(answer, 400, f"invalid_{param}")
    assert error["param"] == param
    assert said in error["message"]


def test_a_file_found_wrong_before_is_not_read_again(
    caller: Caller, upload: Callable[[bytes], str], offered: Database
) -> None:
    file_id = upload(jsonl(GOOD))
    with offered.transaction() as connection:
        wrong = json.dumps([{"code": "x", "line": 7, "message": "It is odd.", "param": None}])
        change = "UPDATE files SET status = 'error', errors = CAST(:wrong AS json) WHERE id = :id"
        connection.execute(text(change), {"wrong": wrong, "id": file_id})
    answer = caller.post(JOBS, model="starter", dry_run=True, training_file=file_id)
    assert "line 7: It is odd." in the_error(answer, 400, "invalid_training_file")["message"]


def test_what_a_job_would_be_refused_for_a_dry_run_is_too(
    caller: Caller,
    stranger: Caller,
    upload: Callable[[bytes], str],
    report: Callable[..., None],
) -> None:
    file_id = upload(jsonl(GOOD))
    report({"qlora": "no."})
    for who, body, status, code in [
        (caller, {"adapter": "qlora"}, 400, "unsupported_value"),
        (caller, {"model": "none"}, 404, "model_not_found"),
        (caller, {"training_file": "file-none"}, 400, "file_not_found"),
        (caller, asked({"block_size": 65}), 400, "context_length_exceeded"),
        (caller, asked({"early_stopping_patience": 1}), 400, "invalid_training_file"),
        (stranger, {}, 400, "file_not_found"),
    ]:
        answer = who.post(JOBS, **{"model": "starter", "training_file": file_id, "dry_run": True} | body)
        the_error(answer, status, code)


def test_what_is_cut_and_what_cannot_be_evaluated_are_warnings(
    caller: Caller, upload: Callable[[bytes], str]
) -> None:
    made = rehearse(caller, upload(jsonl({"prompt": "~" * 200, "completion": "name"})))
    assert made["warnings"][1].startswith("In 1 example of the training_file the beginning of the prompt")
    assert "too little data" in made["warnings"][2]
    assert len(made["warnings"]) == 3


def test_a_model_without_a_chat_template_gets_one_and_is_told_so(
    caller: Caller, upload: Callable[[bytes], str]
) -> None:
    file_id = upload(jsonl(TALK))
    assert any("no chat template" in one for one in rehearse(caller, file_id)["warnings"])
    assert not any(
        "no chat template" in one for one in rehearse(caller, file_id, model="org/chat")["warnings"]
    )


def test_a_start_from_scratch_has_the_size_of_its_shape(
    caller: Caller, upload: Callable[[bytes], str]
) -> None:
    file_id = upload(jsonl(*[{"text": "def name " * 50}] * 100))
    made = rehearse(caller, file_id, init="scratch", architecture=SMALL | {"vocab_size": 400})
    assert made["parameters"] == Shape(1, 2, 8, 32, 400).parameters == made["trainable_parameters"]
    assert made["hyperparameters"]["block_size"] == 32
    unknown = rehearse(caller, file_id, init="scratch", architecture="tiny", model="mine")
    assert (unknown["tokens"], unknown["steps"], unknown["duration_seconds"]) == (None, None, None)
    assert "known once the tokenizer was made" in unknown["warnings"][0]
    assert unknown["parameters"] == Shape(2, 2, 64, 256, 1024).parameters


def test_a_client_that_goes_away_is_read_for_no_longer(
    caller: Caller, upload: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file_id = upload(jsonl(GOOD))
    monkeypatch.setattr(client.Connection, "gone", lambda _: True)
    the_error(caller.post(JOBS, model="starter", training_file=file_id, dry_run=True), 503, "client_gone")


def test_a_third_dry_run_at_once_is_to_come_again(caller: Caller, upload: Callable[[bytes], str]) -> None:
    file_id = upload(jsonl(GOOD))
    with dry_run._alone(), dry_run._alone():
        answer = caller.post(JOBS, model="starter", training_file=file_id, dry_run=True)
        the_error(answer, 503, "dry_run_busy")
        assert answer.headers["Retry-After"] == "5"
    rehearse(caller, file_id)
