"""What may be asked of a fine-tune, and what is said where parts of it do not go together."""

from collections.abc import Callable
from typing import Any

import pytest

from jobs import records
from jobs.database import Database
from jobs.finetune_input import FinetuneInput, Hyperparameters
from jobs.settings import Settings
from tests.web.conftest import CONTEXT, Caller, the_error
from tests.web.test_fine_tuning import JOBS, a_file, create

INNER = "method.supervised.hyperparameters"
TARGETS = f"{INNER}.lora_target_modules"
ABOVE, MISSING = "integer_above_max_value", "missing_required_parameter"
SMALL = {"n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 32}


@pytest.fixture
def file_id(caller: Caller, offered: Database, settings: Settings) -> str:
    return a_file(offered, settings)


def asked(hyperparameters: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A body with hyperparameters where OpenAI has them now."""
    return more | {"method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}}


def work_of(database: Database, job: dict[str, Any]) -> FinetuneInput:
    with database.transaction() as connection:
        return FinetuneInput.model_validate(records.read(connection, job["id"]).input)


def test_everything_that_can_be_asked_for_is_what_the_trainer_is_told(
    caller: Caller, file_id: str, offered: Database
) -> None:
    values = {
        "n_epochs": 2,
        "batch_size": 3,
        "learning_rate": 0.001,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 4,
        "weight_decay": 0.1,
        "tokens_per_step": 640,
        "max_grad_norm": 0.5,
        "precision": "fp32",
        "block_size": CONTEXT,
        "packing": False,
        "max_steps": 9,
        "eval_steps": "epoch",
        "save_steps": 5,
        "save_total_limit": 4,
        "load_best_model_at_end": True,
        "early_stopping_patience": 2,
        "target_loss": 0.5,
        "lora_r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.1,
        "lora_target_modules": ["c_attn"],
        "seed": 11,
    }
    made = create(caller, file_id, **asked(values, adapter="lora", validation_file=file_id))
    work = work_of(offered, made)
    told = work.hyperparameters.model_dump(mode="json")
    assert told | values == told | {"seed": 11}
    assert (work.seed, work.adapter, made["seed"]) == (11, "lora", 11)
    assert made["hyperparameters"] == told
    assert made["method"] == {"type": "supervised", "supervised": {"hyperparameters": told}}
    assert (made["adapter"], made["init"]) == ("lora", "pretrained")


@pytest.mark.parametrize("name", sorted({*Hyperparameters.model_fields, "seed"}))
def test_no_hyperparameter_takes_anything(caller: Caller, file_id: str, name: str) -> None:
    answer = caller.post(JOBS, model="starter", training_file=file_id, **asked({name: {}}))
    error = the_error(answer, 400, answer.get_json()["error"]["code"])
    assert error["code"] in ("invalid_type", "invalid_value")
    assert error["param"] == f"{INNER}.{name}"


def test_a_start_from_scratch_takes_shape_and_tokenizer_of_the_model_it_names(
    caller: Caller, file_id: str, offered: Database
) -> None:
    work = work_of(offered, create(caller, file_id, init="scratch"))
    assert (work.init, work.architecture, work.tokenizer) == ("scratch", None, "starter")


def test_a_start_from_scratch_may_name_a_shape_a_tokenizer_and_itself(
    caller: Caller, file_id: str, offered: Database
) -> None:
    made = create(
        caller, file_id, model="my/new-one", init="scratch", architecture=SMALL, tokenizer="org/chat"
    )
    work = work_of(offered, made)
    assert work.architecture is not None
    assert (work.architecture.n_embd, work.architecture.vocab_size, work.tokenizer) == (8, None, "org/chat")
    assert (made["model"], made["init"], made["tokenizer"]) == ("my/new-one", "scratch", "org/chat")
    assert made["architecture"] == SMALL | {"vocab_size": None}


def test_without_a_model_the_tokenizer_is_made_of_the_file(
    caller: Caller, file_id: str, offered: Database
) -> None:
    work = work_of(offered, create(caller, file_id, model="mine", init="scratch", architecture="tiny"))
    assert work.tokenizer is None
    assert work.architecture is not None
    assert work.architecture.n_layer == 2


def test_a_model_that_cannot_be_had_is_but_a_name_to_a_start_from_scratch(
    caller: Caller, file_id: str, offered: Database
) -> None:
    body = {"model": "gpt2", "training_file": file_id, "init": "scratch"}
    the_error(caller.post(JOBS, **body), 404, "model_not_found")
    assert work_of(offered, create(caller, file_id, **body | {"architecture": "tiny"})).tokenizer is None


CLASHES: list[tuple[dict[str, Any], str, str]] = [
    (asked({"lora_r": 4}), f"{INNER}.lora_r", "unsupported_parameter"),
    ({"hyperparameters": {"lora_dropout": 0.1}}, "hyperparameters.lora_dropout", "unsupported_parameter"),
    ({"architecture": "tiny"}, "architecture", "unsupported_parameter"),
    ({"tokenizer": "starter"}, "tokenizer", "unsupported_parameter"),
    ({"init": "scratch", "adapter": "qlora"}, "adapter", "unsupported_value"),
    ({"init": "scratch", "adapter": "lora"}, "adapter", "unsupported_value"),
    ({"init": "new"}, "init", "invalid_value"),
    ({"adapter": "dora"}, "adapter", "invalid_value"),
    ({"dry_run": "yes"}, "dry_run", "invalid_type"),
    ({"init": "scratch", "architecture": "huge"}, "architecture", "invalid_value"),
    ({"init": "scratch", "architecture": {"n_layer": 1, "n_head": 1}}, "architecture.n_embd", MISSING),
    ({"init": "scratch", "architecture": SMALL | {"n_embd": 9}}, "architecture.n_embd", "invalid_value"),
    ({"init": "scratch", "architecture": SMALL | {"n_layer": 97}}, "architecture.n_layer", ABOVE),
    ({"init": "scratch", "architecture": SMALL | {"depth": 9}}, "architecture.depth", "unknown_parameter"),
    (
        {"init": "scratch", "architecture": SMALL | {"vocab_size": 257}},
        "architecture.vocab_size",
        "invalid_value",
    ),
    ({"init": "scratch", "architecture": SMALL, "tokenizer": "none"}, "tokenizer", "model_not_found"),
    ({"init": "scratch", "model": "mine"}, "architecture", MISSING),
    ({"init": "scratch", "model": "a b", "architecture": SMALL}, "model", "invalid_value"),
    (
        asked({"block_size": 33}, init="scratch", architecture=SMALL),
        f"{INNER}.block_size",
        "context_length_exceeded",
    ),
    (asked({"block_size": CONTEXT + 1}), f"{INNER}.block_size", "context_length_exceeded"),
    (
        asked({"tokens_per_step": 1000, "gradient_accumulation_steps": 2}),
        f"{INNER}.tokens_per_step",
        "duplicate_parameter",
    ),
    (
        asked({"learning_rate": 0.1, "learning_rate_multiplier": 2}),
        f"{INNER}.learning_rate",
        "duplicate_parameter",
    ),
    (
        asked({"lr_scheduler_type": "constant", "warmup_steps": 5}),
        f"{INNER}.warmup_steps",
        "unsupported_parameter",
    ),
    (asked({"seed": 1}, seed=2), f"{INNER}.seed", "duplicate_parameter"),
    (asked({"seed": 2**31}), f"{INNER}.seed", ABOVE),
    (asked({"lora_target_modules": ["c_attn", "q"]}, adapter="lora"), f"{TARGETS}[1]", "invalid_value"),
    (asked({"lora_target_modules": []}, adapter="lora"), TARGETS, "empty_array"),
    (asked({"lora_target_modules": "c_attn"}, adapter="lora"), TARGETS, "invalid_type"),
    (asked({"learning_rate_multiplier": 1001}), f"{INNER}.learning_rate_multiplier", "invalid_value"),
    (asked({"precision": "int8"}), f"{INNER}.precision", "invalid_value"),
    (asked({"eval_steps": 0}), f"{INNER}.eval_steps", "invalid_value"),
]


@pytest.mark.parametrize(("changes", "param", "code"), CLASHES)
def test_what_does_not_go_together_is_refused_and_named(
    caller: Caller, file_id: str, changes: dict[str, Any], param: str, code: str
) -> None:
    answer = caller.post(JOBS, **{"model": "starter", "training_file": file_id} | changes)
    assert the_error(answer, 404 if code == "model_not_found" else 400, code)["param"] == param
    assert caller.get(JOBS).get_json()["data"] == []


def test_the_same_seed_may_be_said_twice(caller: Caller, file_id: str) -> None:
    assert create(caller, file_id, **asked({"seed": 5}, seed=5))["seed"] == 5


def test_a_range_is_told_in_words(caller: Caller, file_id: str) -> None:
    answer = caller.post(JOBS, model="starter", training_file=file_id, **asked({"learning_rate": 11}))
    said = the_error(answer, 400, "invalid_value")["message"]
    assert said.endswith('Send a number above 0 and at most 10, or "auto".')


@pytest.mark.parametrize(
    ("changes", "what", "param"),
    [
        ({"adapter": "qlora"}, "qlora", "adapter"),
        (asked({"precision": "fp16"}), "fp16", f"{INNER}.precision"),
    ],
)
def test_what_no_trainer_can_do_is_refused_with_the_reason(
    caller: Caller, file_id: str, report: Callable[..., None], changes: dict[str, Any], what: str, param: str
) -> None:
    body = {"model": "starter", "training_file": file_id} | changes
    assert caller.post(JOBS, **body).status_code == 200  # nobody has said anything yet
    report({what: "its CPU has no such thing."})
    error = the_error(caller.post(JOBS, **body), 400, "unsupported_value")
    assert error["param"] == param
    assert "its CPU has no such thing" in error["message"]


def test_a_shape_that_fits_no_trainer_is_refused_with_what_it_would_need(
    caller: Caller, file_id: str, report: Callable[..., None]
) -> None:
    report(memory=8 * 2**30)
    body = {"training_file": file_id, "init": "scratch", "model": "mine"}
    error = the_error(caller.post(JOBS, **body, architecture="gpt2-xl"), 400, "model_too_large")
    assert error["param"] == "architecture"
    assert "needs 22." in error["message"]
    assert "more than 8.0" in error["message"]
    assert caller.post(JOBS, **body, architecture="tiny").status_code == 200
