"""The folder that an export is: plain transformers load it, and it says what is known of the model."""

import hashlib
import io
import json
import re
import shutil
import zipfile
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel

from jobs.errors import DiskFull, JobError, ModelUnavailable
from tests.trainer.small import LINEAGE, TEMPLATE, TEXT, order, tokenizer, write_adapter, write_model
from trainer import export, export_weights
from trainer.export_archive import pack
from trainer.export_order import Answer, DataFile, Order

pytestmark = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)  # PEFT

PROMPT = torch.tensor([tokenizer().encode("def name").ids])


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return write_adapter(base, base.with_name("adapter"))


def greedy(model: Any) -> Tensor:
    """The tokens that it writes."""
    how = {"max_new_tokens": 30, "do_sample": False, "pad_token_id": 0, "min_new_tokens": 30}
    tokens: Tensor = model.generate(PROMPT, attention_mask=torch.ones_like(PROMPT), **how)
    return tokens


def exported(asked: Order) -> Any:
    """The model, as anybody loads it."""
    export.write(asked)
    return AutoModelForCausalLM.from_pretrained(asked.model)


def front_matter(readme: Path) -> dict[str, Any]:
    found = re.match(r"---\n(.*?)\n---\n", readme.read_text(), re.DOTALL)
    assert found is not None
    parsed: dict[str, Any] = yaml.safe_load(found[1])
    return parsed


def test_an_export_says_the_same_as_the_model(base: Path, tmp_path: Path) -> None:
    said = greedy(exported(order(tmp_path / "export", base)))
    assert torch.equal(said, greedy(GPT2LMHeadModel.from_pretrained(base)))


def test_a_model_in_several_files_is_exported_whole(base: Path, tmp_path: Path) -> None:
    parts = write_model(tmp_path / "parts", shard="20KB")
    assert len(list(parts.glob("*.safetensors"))) > 1
    said = greedy(exported(order(tmp_path / "export", parts)))
    assert torch.equal(said, greedy(GPT2LMHeadModel.from_pretrained(base)))


def test_an_adapter_is_exported_as_its_base_with_it_merged_in(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    plain = GPT2LMHeadModel.from_pretrained(base)
    before = plain(PROMPT).logits
    over = PeftModel.from_pretrained(plain, adapter)
    merged = exported(order(tmp_path / "export", base, adapter=adapter))
    with torch.inference_mode():
        torch.testing.assert_close(merged(PROMPT).logits, over(PROMPT).logits, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(before, merged(PROMPT).logits, atol=1e-2)
    assert torch.equal(greedy(merged), greedy(over))
    assert type(merged).__name__ == "GPT2LMHeadModel"
    assert merged.dtype == torch.float32
    assert not list((tmp_path / "export" / "model").glob("adapter*"))


def test_plain_transformers_read_text_as_the_model_learned_it(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    asked = order(tmp_path / "export", base, adapter=adapter)
    export.write(asked)
    read = AutoTokenizer.from_pretrained(asked.model)
    assert read(TEXT)["input_ids"] == tokenizer().encode(TEXT).ids
    assert read.decode(read(TEXT)["input_ids"]) == TEXT
    assert (read.eos_token, read.eos_token_id, read.model_max_length) == ("<|endoftext|>", 0, 64)
    turns = [{"role": "user", "content": "hi"}]
    assert read.chat_template == TEMPLATE
    assert (
        read.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) == "<user>hi<assistant>"
    )


@pytest.mark.parametrize("is_chat", [False, True])
def test_the_five_lines_of_the_card_work(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_chat: bool, capsys: Any
) -> None:
    asked = order(tmp_path / "export", base, adapter=adapter if is_chat else None)
    export.write(asked)
    (code,) = re.findall(r"```python\n(.*?)```", (asked.model / "README.md").read_text(), re.DOTALL)
    assert len(code.splitlines()) == 5
    assert ("apply_chat_template" in code) is is_chat
    monkeypatch.chdir(asked.model)
    exec(code, {})
    assert ("<user>Hello<assistant>" if is_chat else "Once upon a time") in capsys.readouterr().out


def test_the_card_says_what_is_known(base: Path, adapter: Path, tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text("---\nlicense: apache-2.0\nlanguage: code\n---\n# Starter\n")
    files = (
        DataFile(role="training", filename="my | notes.jsonl", sha256="cd" * 32),
        DataFile(role="validation", filename=None, sha256="ef" * 32),
    )
    past = {
        "lineage": LINEAGE | {"validation_file": "file-2"},
        "data": files,
        "card": card,
        "base_model": "starter",
    }
    asked = order(tmp_path / "export", base, adapter=adapter, name="ft:starter:org-1:mine:abc", **past)
    export.write(asked)
    assert front_matter(asked.model / "README.md") == {
        "license": "apache-2.0",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model": "starter",
        "tags": ["gpt2", "penstock"],
    }
    said = (asked.model / "README.md").read_text()
    rows = [
        f"| training | `my \\| notes.jsonl` | `{'cd' * 32}` |",
        f"| validation | `deleted since` | `{'ef' * 32}` |",
        "| `n_epochs` | 3 |",
        "| `precision` | bf16 |",
        '| `lora_target_modules` | ["c_attn"] |',
        "| `seed` | 7 |",
        "| training loss, nats per token | 1.2500 |",
        "| validation loss, nats per token | 2.0000 |",
        "| validation perplexity | 7.389 |",
        "| name in Penstock | `ft:starter:org-1:mine:abc` |",
        "| base model | `starter` |",
        "| fine-tuning job | `ftjob-1` |",
        "| method | LoRA, merged into the weights here |",
        "| `learning_rate` | 0.0006 |",
        "| code | torch 2.13.0, transformers 5.23.0 |",
    ]
    for row in rows:
        assert f"\n{row}\n" in f"{said}\n", row
    assert "held out" not in said, "it was judged by a file of its own"
    assert "Tokens trained on, every repetition counted: 34,567." in said
    parameters = sum(one.numel() for one in GPT2LMHeadModel.from_pretrained(base).parameters())
    assert f"{parameters:,} parameters" in said
    assert "Once upon a time" not in said, "a chat model is asked, not continued"


def test_what_nobody_knows_stands_nowhere_on_the_card(base: Path, tmp_path: Path) -> None:
    asked = order(tmp_path / "export", base, lineage={"job": "ftjob-1", "metrics": {"train_loss": 1.0}})
    export.write(asked)
    front, said = front_matter(asked.model / "README.md"), (asked.model / "README.md").read_text()
    assert front["license"] == "unknown"
    assert "base_model" not in front
    assert "datasets" not in front
    assert "| training loss, nats per token | 1.0000 |" in said
    for word in ("perplexity", "validation loss", "base model", "Tokens trained on", "None"):
        assert word not in said


def test_the_card_of_a_model_that_was_not_trained_here_keeps_its_own_words(
    base: Path, tmp_path: Path
) -> None:
    card = tmp_path / "README.md"
    card.write_text("---\nlicense: other\nlicense_name: mine\n---\n# Known\nIt writes poems.\n")
    asked = order(tmp_path / "export", base, card=card)
    export.write(asked)
    front = front_matter(asked.model / "README.md")
    assert (front["license"], front["license_name"]) == ("other", "mine")
    said = (asked.model / "README.md").read_text()
    assert "It writes poems." in said
    assert "Hyperparameters" not in said


def test_the_space_of_an_export_names_what_it_needs(base: Path, tmp_path: Path) -> None:
    asked = order(tmp_path / "export", base, push_to_hub="me/poems", space="me/poems", private=False)
    export.write(asked)
    front = front_matter(asked.model / "space" / "README.md")
    assert (front["sdk"], front["app_file"], front["models"]) == ("gradio", "app.py", ["me/poems"])
    pinned = (asked.model / "space" / "requirements.txt").read_text().split()
    assert f"gradio=={front['sdk_version']}" in pinned
    assert all("==" in one for one in pinned)
    compile((asked.model / "space" / "app.py").read_text(), "app.py", "exec")


def test_the_same_folder_is_always_the_same_bytes(base: Path, tmp_path: Path) -> None:
    packed = []
    for name in ("one", "two"):
        asked = order(tmp_path / name, base)
        export.write(asked)
        stream = io.BytesIO()
        pack(asked.model, stream.write)
        packed.append(stream.getvalue())
    assert hashlib.sha256(packed[0]).digest() == hashlib.sha256(packed[1]).digest()
    with zipfile.ZipFile(io.BytesIO(packed[0])) as archive:
        assert archive.testzip() is None
        assert {one.date_time[0] for one in archive.infolist()} == {1980}, "when it was packed is no matter"
        assert archive.read("model.safetensors") == (base / "model.safetensors").read_bytes()
        assert archive.getinfo("model.safetensors").compress_type == zipfile.ZIP_STORED
        assert {"README.md", "config.json", "tokenizer.json", "space/app.py"} <= set(archive.namelist())


def without(name: str) -> Any:
    return lambda folder: (folder / name).unlink()


def changed(**more: Any) -> Any:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | more))

    return change


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])


BROKEN = [
    (without("model.safetensors"), "neither model.safetensors nor model.safetensors.index.json"),
    (without("config.json"), "config.json is missing"),
    (without("tokenizer.json"), "neither tokenizer.json nor both"),
    (cut, "model.safetensors is not a whole safetensors file"),
    (changed(quantization_config={"method": "int8"}), "Export the model that they were made from"),
    (changed(model_type="llama"), "no GPT-2 but 'llama'"),
    (changed(eos_token_id=999), "does not know the token 999"),
]


@pytest.mark.parametrize(("damage", "said"), BROKEN, ids=[said for _, said in BROKEN])
def test_a_folder_that_is_no_model_is_explained(base: Path, tmp_path: Path, damage: Any, said: str) -> None:
    broken = shutil.copytree(base, tmp_path / "broken")
    damage(broken)
    with pytest.raises(ModelUnavailable, match=said):
        export.write(order(tmp_path / "export", broken))


def test_an_adapter_of_another_base_is_explained(adapter: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    GPT2LMHeadModel(
        GPT2LMHeadModel.config_class(n_layer=1, n_head=1, n_embd=8, vocab_size=300)
    ).save_pretrained(other)
    with pytest.raises(ModelUnavailable, match="The adapter cannot be merged into its base"):
        export.write(order(tmp_path / "export", other, adapter=adapter))


def test_a_disk_without_room_is_noticed_before_anything_is_merged(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(export_weights.shutil, "disk_usage", lambda _: usage(9, 9, 1000))
    monkeypatch.setattr(export_weights, "_merge", lambda *_: pytest.fail("it merged"))
    with pytest.raises(DiskFull, match="0 MB are free"):
        export.write(order(tmp_path / "export", base, adapter=adapter))


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (ModelUnavailable("gone."), "model_unavailable"),
        (OSError(28, "No space left on device"), "insufficient_storage"),
    ],
)
def test_the_process_answers_what_was_wrong(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: JobError | OSError, code: str
) -> None:
    def fail(_order: Order) -> None:
        raise raised

    asked = order(tmp_path / "export", base)
    asked.write()
    monkeypatch.setattr(export, "write", fail)
    monkeypatch.setattr(export.lifeline, "hold", lambda: None)
    export.main(asked.folder)
    answer = Answer.read(asked.folder)
    assert answer is not None
    assert (answer.code, answer.message[-1]) == (code, ".")


def test_a_model_that_was_judged_by_a_part_of_its_data_says_so(base: Path, tmp_path: Path) -> None:
    files = (DataFile(role="training", filename="a.txt", sha256="cd" * 32),)
    asked = order(tmp_path / "export", base, lineage=LINEAGE, data=files)
    export.write(asked)
    assert "| validation | held out of the training file | |" in (asked.model / "README.md").read_text()
