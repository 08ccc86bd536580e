"""Whoever publishes a folder and whoever loads it name it alike."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel

from jobs import digests
from jobs.artifacts import ArtifactStore
from jobs.database import Database
from jobs.settings import Settings
from tests.worker.conftest import write_folder
from tests.worker.lanes import TINY, lora, write_adapter
from trainer.bases import Bases
from worker.adapters import read_adapter
from worker.loading import describe, load


def artifacts(folder: Path) -> dict[str, str]:
    return {path.name: digests.sha256(path) for path in folder.iterdir()}


def of(folder: Path) -> str:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return digests.of_model(artifacts(folder), digests.tokenizer_json(tokenizer))


def test_a_model_is_named_by_its_configuration_weights_and_tokenizer(
    tmp_path: Path, gpt2: GPT2LMHeadModel, tokenizer: Tokenizer
) -> None:
    folder = write_folder(tmp_path / "whole", gpt2, tokenizer)
    (folder / "README.md").write_text("not part of it")
    assert of(folder) == describe(str(folder), None, "cpu").digest == load(str(folder), "fp32", "cpu").digest
    assert of(folder) == describe(str(folder), "bf16", "cpu", files=artifacts(folder)).digest
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    assert of(folder) == describe(str(folder), None, "cpu").digest


def test_a_trainer_knows_a_base_that_no_worker_offers_by_the_same_name(
    tmp_path: Path, gpt2: GPT2LMHeadModel, tokenizer: Tokenizer, database: Database, settings: Settings
) -> None:
    folder = write_folder(tmp_path / "whole", gpt2, tokenizer)
    config = settings.model_copy(update={"models": f"mine={folder}"})
    bases = Bases(config, database, ArtifactStore(config.artifacts), tmp_path)
    assert bases.find("mine", 1).digest == describe(str(folder), None, "cpu").digest


def test_shards_count_in_the_order_of_their_names(
    tmp_path: Path, gpt2: GPT2LMHeadModel, tokenizer: Tokenizer
) -> None:
    gpt2.save_pretrained(tmp_path, max_shard_size="200KB")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert of(tmp_path) == describe(str(tmp_path), None, "cpu").digest


def test_a_tokenizer_that_cuts_or_pads_is_kept_without_that(tokenizer: Tokenizer) -> None:
    plain = digests.tokenizer_json(Tokenizer.from_str(tokenizer.to_str()))
    cutting = Tokenizer.from_str(tokenizer.to_str())
    cutting.enable_truncation(8)
    cutting.enable_padding()
    assert digests.tokenizer_json(cutting) == plain


def test_an_adapter_is_named_with_its_base(tmp_path: Path) -> None:
    one = write_adapter(tmp_path / "one", lora(TINY))
    named = digests.of_adapter(artifacts(one), "base")
    assert named == read_adapter(one, TINY).digest_over("base")
    other = write_adapter(tmp_path / "other", {name: -t for name, t in lora(TINY).items()})
    assert (
        len({named, digests.of_adapter(artifacts(one), "x"), digests.of_adapter(artifacts(other), "base")})
        == 3
    )
    assert torch.equal(read_adapter(one, TINY).products["h.0.attn.c_attn"][0], lora(TINY)[_FIRST])


_FIRST = "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"
