"""LoRA adapters: PEFT's folder is read as PEFT reads it, and what does not fit is refused by name."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2LMHeadModel

from jobs.errors import ModelUnavailable
from tests.worker.conftest import ours
from tests.worker.lanes import lora, write_adapter
from worker.adapters import read_adapter
from worker.model import Architecture
from worker.rows import Chunk, Rows

PREFIX = "base_model.model.transformer."
FIRST = f"{PREFIX}h.0.attn.c_attn.lora_A.weight"


@pytest.fixture
def architecture(gpt2: GPT2LMHeadModel) -> Architecture:
    return Architecture.model_validate(gpt2.config.to_dict())


def prompt_rows(tokens: list[int], adapter: int) -> Rows:
    """A whole prompt in slot 0."""
    count = len(tokens)
    return Rows(
        tokens=tokens,
        slots=[0] * count,
        positions=list(range(count)),
        adapters=[adapter] * count,
        chunks=[Chunk(slot=0, row=0, start=0, count=count)],
        wanted=list(range(count)),
    )


def merged(reference: GPT2LMHeadModel, tensors: dict[str, Tensor], scaling: float) -> dict[str, Tensor]:
    """The reference's weights with the adapter added, as PEFT's merge does for Conv1D."""
    state = {name: tensor.clone() for name, tensor in reference.state_dict().items()}
    for name in [name for name in tensors if ".lora_A." in name]:
        delta = tensors[name.replace("lora_A", "lora_B")] @ tensors[name] * scaling
        product = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        state[f"{product}.weight"] += delta.t()
    return state


@pytest.mark.parametrize(
    ("changes", "scaling"), [({}, 8 / 4), ({"use_rslora": True, "lora_alpha": 3}, 3 / math.sqrt(4))]
)
def test_an_adapters_logits_are_those_of_the_merged_weights(
    gpt2: GPT2LMHeadModel, architecture: Architecture, tmp_path: Path, changes: dict[str, Any], scaling: float
) -> None:
    tensors = lora(architecture)
    adapter = read_adapter(write_adapter(tmp_path, tensors, **changes), architecture)
    model = ours(gpt2)
    model.reserve(1)
    said = model.forward(prompt_rows([5, 6, 7, 8, 9], model.adapt(adapter)))
    plain = model.forward(prompt_rows([5, 6, 7, 8, 9], -1))
    whole = GPT2LMHeadModel(gpt2.config).eval()
    whole.load_state_dict(merged(gpt2, tensors, scaling))
    with torch.no_grad():
        expected = whole(torch.tensor([[5, 6, 7, 8, 9]])).logits[0]
    torch.testing.assert_close(said, expected, atol=1e-4, rtol=0)
    assert (plain - expected).abs().max() > 0.1, "the adapter changes what is said"


def test_names_may_lack_the_language_models_prefix(architecture: Architecture, tmp_path: Path) -> None:
    tensors = lora(architecture)
    short = {name.replace("transformer.", ""): tensor for name, tensor in tensors.items()}
    adapter = read_adapter(write_adapter(tmp_path, short), architecture)
    assert len(adapter.products) == 4 * architecture.n_layer


def test_half_precision_is_read_as_fp32(architecture: Architecture, tmp_path: Path) -> None:
    tensors = {name: tensor.half() for name, tensor in lora(architecture).items()}
    adapter = read_adapter(write_adapter(tmp_path, tensors), architecture)
    a, b = adapter.products["h.0.attn.c_attn"]
    assert a.dtype == b.dtype == torch.float32
    assert torch.equal(a, tensors[FIRST].float())
    assert torch.equal(b, tensors[FIRST.replace("lora_A", "lora_B")].float() * 2), "8 / 4 is in B"


def test_an_adapter_of_some_layers_leaves_the_others_alone(
    architecture: Architecture, tmp_path: Path
) -> None:
    tensors = {name: tensor for name, tensor in lora(architecture).items() if ".h.1." in name}
    adapter = read_adapter(write_adapter(tmp_path, tensors, layers_to_transform=[1]), architecture)
    assert {name.split(".")[1] for name in adapter.products} == {"1"}


def test_a_digest_follows_every_number(architecture: Architecture, tmp_path: Path) -> None:
    tensors = lora(architecture)
    first = read_adapter(write_adapter(tmp_path / "a", tensors), architecture)
    again = read_adapter(write_adapter(tmp_path / "b", tensors), architecture)
    tensors[FIRST][0, 0] += 1e-3
    other = read_adapter(write_adapter(tmp_path / "c", tensors), architecture)
    scaled = read_adapter(write_adapter(tmp_path / "d", lora(architecture), lora_alpha=9), architecture)
    assert first.digest == again.digest
    assert len({first.digest, other.digest, scaled.digest}) == 3
    assert first.digest_over("one") != first.digest_over("two")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peft_type": "IA3"}, "peft_type"),
        ({"r": 257}, "r: .* 256"),
        ({"r": 0}, "at r"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"lora_bias": True}, "lora_bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"c_attn": 2}}, "rank_pattern"),
        ({"alpha_pattern": {"c_attn": 2}}, "alpha_pattern"),
        ({"lora_alpha": 0}, "lora_alpha"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa'"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"target_modules": ["c_attn", "wte"]}, "'wte' in target_modules"),
        ({"target_modules": None}, "target_modules"),
        ({"base_model_name_or_path": None}, "base_model_name_or_path"),
    ],
)
def test_a_configuration_that_is_more_than_lora_is_refused_by_its_field(
    architecture: Architecture, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    folder = write_adapter(tmp_path, lora(architecture), **changes)
    with pytest.raises(ModelUnavailable, match=rf"adapter_config\.json .*{said}") as raised:
        read_adapter(folder, architecture)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda t: t.update({FIRST: torch.zeros(4, 9)}),
            r"h\.0\.attn\.c_attn\.lora_A\.weight .*\[4, 9\].*\[4, 64\]",
        ),
        (lambda t: t.update({FIRST: torch.zeros(2, 64)}), r"\[2, 64\]"),
        (lambda t: t.update({FIRST: torch.full((4, 64), torch.nan)}), "lora_A.weight holds NaN"),
        (lambda t: t.update({FIRST: torch.zeros(4, 64, dtype=torch.int32)}), "int32"),
        (lambda t: t.pop(FIRST), r"lacks lora_A of h\.0\.attn\.c_attn"),
        (lambda t: [t.pop(name) for name in list(t) if ".h.2.mlp.c_fc" in name], r"lacks h\.2\.mlp\.c_fc"),
        (lambda t: t.update({f"{PREFIX}wte.lora_embedding_A": torch.zeros(4)}), "lora_embedding_A"),
        (lambda t: t.update({FIRST.replace("h.0", "h.9"): torch.zeros(4, 64)}), r"h\.9"),
        (lambda t: t.clear(), "no tensors"),
    ],
)
def test_weights_that_do_not_fit_their_model_are_refused_by_name(
    architecture: Architecture, tmp_path: Path, spoil: Any, said: str
) -> None:
    tensors = lora(architecture)
    spoil(tensors)
    with pytest.raises(ModelUnavailable, match=said):
        read_adapter(write_adapter(tmp_path, tensors), architecture)


def test_a_pickle_is_never_opened(architecture: Architecture, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path, lora(architecture))
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ModelUnavailable, match=r"adapter_model\.bin is a pickle, which is never opened"):
        read_adapter(folder, architecture)


def test_a_file_that_was_cut_off_is_refused(architecture: Architecture, tmp_path: Path) -> None:
    path = write_adapter(tmp_path, lora(architecture)) / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelUnavailable, match="not a whole safetensors file"):
        read_adapter(path.parent, architecture)
