import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoTokenizer, GPT2LMHeadModel

from jobs.rendering import DEFAULT_CHAT_TEMPLATE
from tests.trainer.children import Child, prose, run, spec_of
from trainer.spec import Spec
from trainer.words import Chosen, Done, Measured, Said
from worker.adapters import read_adapter
from worker.loading import describe

# of PEFT's use of transformers
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

STARTER = Path(__file__).parents[2] / "models" / "starter"
SHORT = {
    "batch_size": 2,
    "block_size": 32,
    "max_steps": 4,
    "n_epochs": 2,
    "eval_steps": 2,
    "learning_rate": 0.01,
}
QUESTIONS = json.dumps(
    [
        {"instruction": f"What {verb}s?", "output": f"The mill {verb}s."}
        for verb in ("turn", "hold", "feed") * 20
    ]
)


def done(child: Child) -> Done:
    last = child.words[-1]
    assert isinstance(last, Done)
    return last


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> tuple[Spec, Child]:
    spec = spec_of(tmp_path_factory.mktemp("scratch") / "job", hyperparameters=SHORT)
    return spec, run(spec)


def test_a_model_from_scratch_is_one_that_workers_and_transformers_take(scratch: tuple[Spec, Child]) -> None:
    spec, child = scratch
    folder, said = spec.folder / "result", done(child)
    config = json.loads((folder / "config.json").read_bytes())
    assert config["architectures"] == ["GPT2LMHeadModel"]
    assert (config["eos_token_id"], config["dtype"], config["use_cache"]) == (0, "float32", True)
    described = describe(str(folder), None, "cpu")
    assert described.parameters == said.parameters
    assert (described.context, described.vocab_size) == (said.context, said.vocab_size) == (64, 300)
    assert described.eos_token_id == said.eos_token_id
    assert described.chat_template is None
    model = GPT2LMHeadModel.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = prose(3)
    assert tokenizer(text)["input_ids"] == described.tokenizer.encode(text).ids
    tokens = torch.tensor([tokenizer(text)["input_ids"][:30]])
    with torch.no_grad():
        assert model(tokens, labels=tokens).loss.item() < 5.7  # the logarithm of 300


def test_metrics_samples_and_files_tell_how_it_went(scratch: tuple[Spec, Child]) -> None:
    spec, child = scratch
    metrics = [word.data for word in child.said(Measured)]
    trained = [data for data in metrics if "valid_loss" not in data]
    assert [data["step"] for data in trained] == [1, 2, 3, 4]
    names = {"step", "total_steps", "train_loss", "train_mean_token_accuracy", "learning_rate"}
    assert names | {"tokens_per_second", "grad_norm"} <= trained[0].keys()
    assert [data["step"] for data in metrics if "valid_loss" in data] == [2, 4]
    assert sum(word.message.startswith("Sample at step") for word in child.said(Said)) == 2
    header, *rows = (spec.folder / "metrics.csv").read_text().splitlines()
    assert header == "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"
    assert [row.split(",")[0] for row in rows] == ["1", "2", "3", "4"]
    assert float(rows[3].split(",")[3]) == pytest.approx(done(child).metrics["valid_loss"])
    assert (spec.folder / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_tokens_of_every_step_are_counted_without_padding(scratch: tuple[Spec, Child]) -> None:
    _, child = scratch
    assert done(child).trained_tokens == 4 * 2 * 32


@pytest.mark.parametrize("adapter", ["lora", "qlora"])
def test_an_adapter_over_its_base(adapter: str, tmp_path: Path) -> None:
    spec = spec_of(
        tmp_path / "job",
        QUESTIONS,
        "questions.json",
        model=STARTER,
        base_name="starter",
        init="pretrained",
        architecture=None,
        adapter=adapter,
        hyperparameters=SHORT | {"block_size": 64, "lora_r": 4},
    )
    child = run(spec)
    chosen, folder = child.said(Chosen)[0], spec.folder / "result"
    assert chosen.trainable == 4 * 6 * 256 * (1 + 3 + 1 + 1 + 4 + 1 + 1 + 4)
    assert done(child).is_adapter
    assert json.loads((folder / "adapter_config.json").read_bytes())["base_model_name_or_path"] == "starter"
    assert read_adapter(folder, describe(str(STARTER), None, "cpu").architecture).rank == 4
    assert (folder / "chat_template.jinja").read_text() == DEFAULT_CHAT_TEMPLATE
    assert (folder / "tokenizer.json").exists()
    model = PeftModel.from_pretrained(GPT2LMHeadModel.from_pretrained(STARTER, dtype=torch.float32), folder)
    assert any(one.abs().max() > 0 for name, one in model.named_parameters() if "lora_B" in name)


def test_an_adapter_over_a_base_with_one_becomes_a_whole_model(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "model": STARTER,
        "init": "pretrained",
        "architecture": None,
        "adapter": "lora",
        "hyperparameters": SHORT | {"block_size": 64, "precision": "fp32"},
    }
    first = spec_of(tmp_path / "one" / "job", QUESTIONS, "questions.json", base_name="starter", **given)
    run(first)
    second = spec_of(
        tmp_path / "two" / "job",
        QUESTIONS,
        "questions.json",
        base_name="ft:starter",
        base_adapter=first.folder / "result",
        **given,
    )
    said = done(run(second))
    assert not said.is_adapter
    folder = second.folder / "result"
    assert describe(str(folder), None, "cpu").parameters == said.parameters
    ours = GPT2LMHeadModel.from_pretrained(folder)
    theirs = GPT2LMHeadModel.from_pretrained(STARTER, dtype=torch.float32)
    for adapter in (first.folder / "result", second.folder / "checkpoint-4" / "adapter"):
        theirs = PeftModel.from_pretrained(theirs, adapter).merge_and_unload()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_a_full_fine_tune_keeps_what_its_base_says_of_itself(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for path in STARTER.iterdir():
        (base / path.name).write_bytes(path.read_bytes())
    config = json.loads((base / "config.json").read_bytes()) | {"resid_pdrop": 0.1, "attn_pdrop": 0.2}
    (base / "config.json").write_text(json.dumps(config))
    (base / "chat_template.jinja").write_text(DEFAULT_CHAT_TEMPLATE + " ")
    hyperparameters = SHORT | {"block_size": 64, "max_steps": 1}
    spec = spec_of(
        tmp_path / "job", model=base, init="pretrained", architecture=None, hyperparameters=hyperparameters
    )
    run(spec)
    found = json.loads((spec.folder / "result" / "config.json").read_bytes())
    assert (found["resid_pdrop"], found["attn_pdrop"]) == (0.1, 0.2)
    assert found["activation_function"] == "gelu_new"
    assert (spec.folder / "result" / "chat_template.jinja").read_text() == DEFAULT_CHAT_TEMPLATE + " "
    assert describe(str(spec.folder / "result"), None, "cpu").eos_token_id == 0
