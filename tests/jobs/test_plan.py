"""What `auto` becomes, and what a run will need."""

from typing import Any

import pytest

from jobs import plan
from jobs.finetune_input import PRESETS, FinetuneInput, Hyperparameters
from jobs.plan import Corpus, Plan, Shape

GPT2 = Shape(12, 12, 768, 1024, 50_257)
SMALL = Shape(6, 4, 256, 512, 4096)
BOOK = Corpus(examples=1, tokens=338_025, rows=331)


def decided(
    corpus: Corpus = BOOK,
    shape: Shape = GPT2,
    work: dict[str, Any] | None = None,
    processes: int = 1,
    **asked: Any,
) -> Plan:
    whole = FinetuneInput(training_file="f", seed=1, hyperparameters=Hyperparameters(**asked), **work or {})
    return plan.decide(whole, shape, corpus, "bf16", processes)


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
    ],
)
def test_a_shape_has_the_parameters_of_the_published_model_and_is_told_from_them(
    preset: str, parameters: int
) -> None:
    made = PRESETS[preset]
    shape = Shape(made.n_layer, made.n_head, made.n_embd, made.n_positions, 50_257)
    assert shape.parameters == parameters
    found = Shape.of(parameters, 1024, 50_257)
    assert (found.n_layer, found.n_embd) == (shape.n_layer, shape.n_embd)


def test_a_shape_is_found_for_any_number_of_parameters() -> None:
    assert Shape.of(1234, 64, 300).n_layer == 1


def test_lora_adds_what_peft_adds() -> None:
    # print_trainable_parameters of PEFT, GPT-2 with r=8: c_attn alone, and all three
    assert GPT2.lora_parameters(8, ["c_attn"]) == 294_912
    assert GPT2.lora_parameters(8, ["c_attn", "c_proj", "c_fc"]) == 1_179_648


def test_every_auto_is_decided_but_that_of_the_clock() -> None:
    chosen = decided().hyperparameters
    assert set(chosen) == set(Hyperparameters.model_fields)
    assert [name for name, value in chosen.items() if value == "auto"] == ["save_steps"]


def test_what_was_asked_for_stays() -> None:
    asked = {
        "n_epochs": 7,
        "batch_size": 5,
        "learning_rate_multiplier": 3.0,
        "warmup_steps": 2,
        "gradient_accumulation_steps": 3,
        "block_size": 64,
        "eval_steps": 11,
        "save_steps": 13,
    }
    chosen = decided(**asked).hyperparameters
    assert {name: chosen[name] for name in asked} == asked
    assert chosen["learning_rate"] == pytest.approx(3 * 5e-5)


@pytest.mark.parametrize(
    ("rows", "asked", "batch", "accumulation", "steps"),
    [
        (331, {}, 5, 2, 34),  # 11 rows a step, for 30 steps
        (20_000, {}, 5, 3, 1334),  # 16 rows a step, for 16,384 tokens
        (10, {}, 1, 1, 10),
        (331, {"batch_size": 4}, 4, 1, 83),  # as whoever knows OpenAI's would expect
        (331, {"gradient_accumulation_steps": 4}, 2, 4, 42),
        (331, {"tokens_per_step": 8192}, 5, 2, 34),
        (331, {"tokens_per_step": 8192, "batch_size": 2}, 2, 4, 42),
    ],
)
def test_a_step_has_tokens_enough_and_an_epoch_steps_enough(
    rows: int, asked: dict[str, Any], batch: int, accumulation: int, steps: int
) -> None:
    made = decided(Corpus(1, rows * 1024, rows), **asked)
    chosen = made.hyperparameters
    assert (chosen["batch_size"], chosen["gradient_accumulation_steps"]) == (batch, accumulation)
    assert made.steps_per_epoch == steps


def test_two_processes_share_a_step() -> None:
    alone, shared = (
        decided(batch_size=4, gradient_accumulation_steps=2),
        decided(batch_size=4, gradient_accumulation_steps=1, processes=2),
    )
    assert alone.total_steps == shared.total_steps


@pytest.mark.parametrize(
    ("tokens", "work", "epochs"),
    [
        (338_025, {}, 3),
        (5_000_000, {}, 2),
        (50_000_000, {}, 1),
        (338_025, {"init": "scratch"}, 20),
        (500_000_000, {"init": "scratch"}, 5),
    ],
)
def test_the_less_there_is_the_more_often_it_is_read(tokens: int, work: dict[str, Any], epochs: int) -> None:
    corpus = Corpus(1, tokens, -(-tokens // 1024))
    assert decided(corpus, work=work).hyperparameters["n_epochs"] == epochs


def test_the_steps_asked_for_are_made_unless_the_epochs_asked_for_end_first() -> None:
    assert decided(batch_size=1, max_steps=5000).total_steps == 5000
    assert decided(batch_size=1, max_steps=5000).hyperparameters["n_epochs"] == 16
    assert decided(batch_size=1, max_steps=5000, n_epochs=2).total_steps == 662
    assert decided(batch_size=1, max_steps=3, n_epochs=2).total_steps == 3


@pytest.mark.parametrize(
    ("shape", "work", "rate"),
    [
        (GPT2, {}, 5e-5),
        (GPT2, {"adapter": "lora"}, 2e-4),
        (GPT2, {"init": "scratch"}, 6e-4),
        (SMALL, {"init": "scratch"}, 1.8e-3),
        (Shape(2, 2, 16, 64, 300), {}, 4e-4),
        (Shape(48, 25, 6400, 1024, 50_257), {}, 1.25e-5),
    ],
)
def test_the_rate_fits_the_method_and_the_width(shape: Shape, work: dict[str, Any], rate: float) -> None:
    chosen = decided(shape=shape, work=work).hyperparameters
    assert chosen["learning_rate"] == rate
    assert chosen["learning_rate_multiplier"] == 1


def test_a_rate_of_ones_own_shows_how_many_times_the_usual_it_is() -> None:
    assert decided(learning_rate=1e-4).hyperparameters["learning_rate_multiplier"] == pytest.approx(2)


def test_a_constant_schedule_has_no_warm_up() -> None:
    assert decided().hyperparameters["warmup_steps"] == 5
    assert decided(lr_scheduler_type="constant").hyperparameters["warmup_steps"] == 0


def test_a_word_for_the_epoch_becomes_its_steps() -> None:
    made = decided(eval_steps="epoch", save_steps="epoch")
    assert {made.hyperparameters[name] for name in ("eval_steps", "save_steps")} == {made.steps_per_epoch}


def test_a_block_is_the_context_or_what_fits_it() -> None:
    assert plan.block_size("auto", SMALL) == 512
    assert plan.block_size("auto", Shape(1, 1, 64, 4096, 300)) == 1024
    assert plan.block_size(4096, Shape(1, 1, 64, 4096, 300)) == 4096
    with pytest.raises(ValueError, match="does not fit a context of 512"):
        plan.block_size(513, SMALL)


def test_the_precision_is_the_fastest_of_the_host() -> None:
    assert plan.precision("auto", ["bf16", "fp16", "fp32"]) == "bf16"
    assert plan.precision("auto", ["fp32"]) == "fp32"
    assert plan.precision("fp32", ["bf16", "fp32"]) == "fp32"
    with pytest.raises(ValueError, match="fp16 is not among fp32"):
        plan.precision("fp16", ["fp32"])


def test_a_twentieth_is_held_out_but_never_much() -> None:
    assert [plan.held_out(count) for count in (0, 19, 20, 331, 1_000_000)] == [0, 0, 1, 16, 128]


def test_an_adapter_needs_less_memory_less_work_and_less_disk() -> None:
    full, lora, qlora = (decided(work={"adapter": one}) for one in ("full", "lora", "qlora"))
    assert (
        plan.memory(full, GPT2, "full") > plan.memory(lora, GPT2, "lora") > plan.memory(qlora, GPT2, "qlora")
    )
    assert plan.memory(full, GPT2, "full") > 16 * GPT2.parameters
    assert plan.operations(full, GPT2, "full") > plan.operations(lora, GPT2, "lora") > 0
    work = FinetuneInput(training_file="f", seed=1, hyperparameters=Hyperparameters())
    assert plan.checkpoint_bytes(GPT2, work) > 12 * GPT2.parameters
    adapted = work.model_copy(update={"adapter": "lora"})
    assert plan.trainable(adapted, GPT2) == 1_179_648
    assert plan.checkpoint_bytes(GPT2, adapted) < 20_000_000


def test_the_work_is_six_operations_for_each_weight_and_token_and_attention() -> None:
    made = decided(n_epochs=1)
    multiplied = GPT2.parameters - 1024 * 768
    attention = 12 * 12 * 768 * 1024
    assert plan.operations(made, GPT2, "full") == pytest.approx(331 * 1024 * (6 * multiplied + attention))
