"""A tokenizer is the same from whichever files hold it."""

import json
from pathlib import Path

import jinja2
import pytest
from tokenizers import Tokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from jobs.errors import ModelUnavailable
from worker.tokenizer import read_chat_template, read_tokenizer


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_the_two_old_tokenizer_files_serve(folder: Path, tokenizer: Tokenizer) -> None:
    (folder / "tokenizer.json").unlink()
    tokenizer.model.save(str(folder))
    read = read_tokenizer(folder)
    for text in ("the end", "é€ 😀\n\n", "a<|endoftext|>b"):
        assert read.encode(text).ids == tokenizer.encode(text).ids
        assert read.decode(read.encode(text).ids) == tokenizer.decode(tokenizer.encode(text).ids)


def test_a_saved_tokenizer_does_not_cut_or_pad(folder: Path, tokenizer: Tokenizer) -> None:
    spoiled = Tokenizer.from_str(tokenizer.to_str())
    spoiled.enable_truncation(3)
    spoiled.enable_padding(length=50)
    spoiled.save(str(folder / "tokenizer.json"))
    read = Tokenizer.from_buffer(read_tokenizer(folder).to_str().encode())
    assert read.encode("abcdefgh").ids == tokenizer.encode("abcdefgh").ids


def test_a_chat_template_is_read_from_either_file(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"chat_template": "old"}')
    assert read_chat_template(folder) == "old"
    (folder / "chat_template.jinja").write_text("new")
    assert read_chat_template(folder) == "new"


def test_a_chat_template_brings_the_special_tokens_that_it_names(folder: Path) -> None:
    tokens = {"bos_token": "<s>", "eos_token": {"content": '"</s>"', "lstrip": False}, "pad_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens))
    text = "{{ bos_token }}{{ messages[0]['content'] }}{{ eos_token }}{{ pad_token }}"
    (folder / "chat_template.jinja").write_text(f"\n{text}")
    (theirs,), _ = render_jinja_template(
        [[{"content": "a"}]], chat_template=f"\n{text}", bos_token="<s>", eos_token='"</s>"'
    )
    template = read_chat_template(folder)
    assert template is not None
    assert (
        jinja2.Environment(trim_blocks=True).from_string(template).render(messages=[{"content": "a"}])
        == theirs
    )


def test_a_model_without_a_chat_template_has_none(folder: Path) -> None:
    assert read_chat_template(folder) is None


def test_several_chat_templates_are_refused(folder: Path) -> None:
    several = {"chat_template": [{"name": "default", "template": "a"}]}
    (folder / "tokenizer_config.json").write_text(json.dumps(several))
    with pytest.raises(ModelUnavailable, match="chat_template that is not one text"):
        read_chat_template(folder)
