"""What the codes keep of a weight."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import GPT2LMHeadModel

from jobs.errors import ModelUnavailable
from tests.worker.conftest import random_gpt2
from worker.model import Architecture
from worker.quantize.codes import decoded, int8, quantized_weights
from worker.quantize.int4 import gptq, groups, nearest
from worker.quantize.methods import METHODS, Method, choose_method
from worker.quantize.weights import GROUP, Int4Weight, Int8Weight

numbers = torch.Generator().manual_seed(0)


def checkpoint(reference: GPT2LMHeadModel) -> tuple[Architecture, dict[str, Tensor]]:
    architecture = Architecture.model_validate(reference.config.to_dict())
    tensors = {
        name.removeprefix("transformer."): tensor.detach() for name, tensor in reference.state_dict().items()
    }
    return architecture, tensors


def error(weight: Tensor, kept: Tensor) -> float:
    return float((kept - weight).norm() / weight.norm())


@given(out=st.integers(1, 200), into=st.integers(1, 100), scale=st.floats(1e-20, 1e20))
@settings(max_examples=30, deadline=None)
def test_int8_is_never_further_off_than_half_a_step(out: int, into: int, scale: float) -> None:
    weight = torch.randn(out, into, generator=numbers) * scale
    kept = int8(weight)
    largest = weight.abs().amax(1, keepdim=True)
    assert ((decoded(kept) - weight).abs() <= largest / 127 * 0.5001).all()
    assert (kept.codes.abs().amax(1) == 127).all()


def test_a_channel_of_zeros_stays_zero() -> None:
    weight = torch.randn(3, 64, generator=numbers)
    weight[1] = 0
    for kept in (int8(weight), nearest(weight)):
        assert kept.scales.all()
        assert decoded(kept)[1].tolist() == [0] * 64
        assert decoded(kept)[0].any()


def test_int4_is_better_than_rounding_to_the_largest() -> None:
    weight = torch.randn(100, 768, generator=numbers)
    groups = weight.view(100, -1, GROUP)
    scales = groups.abs().amax(-1, keepdim=True) / 7
    plain = ((groups / scales).round() * scales).view(100, -1)
    assert error(weight, decoded(nearest(weight))) < 0.9 * error(weight, plain)
    assert 0.05 < error(weight, decoded(nearest(weight))) < 0.09  # below: that were more than 4 bits


def test_int4_keeps_what_it_can_hold_exactly() -> None:
    weight = torch.randint(-8, 8, (20, 4 * GROUP), generator=numbers).float()
    weight[:, ::GROUP] = -8
    assert torch.equal(decoded(nearest(weight * 0.5)), weight * 0.5)


def test_two_int4_codes_lie_in_a_byte_the_even_one_low() -> None:
    weight = torch.zeros(1, GROUP)
    weight[0, :3] = torch.tensor([-8.0, 1.0, 2.0])
    kept = nearest(weight)
    assert (kept.codes.dtype, tuple(kept.codes.shape), tuple(kept.scales.shape)) == (
        torch.uint8,
        (1, 16),
        (1, 1),
    )
    assert kept.codes[0, :2].tolist() == [0 | 9 << 4, 10 | 8 << 4]


def test_int4_with_moments_errs_where_it_matters_least() -> None:
    weight = torch.randn(50, 128, generator=numbers)
    x = torch.randn(2000, 64, generator=numbers) @ torch.randn(64, 128, generator=numbers)
    plain, fitted = nearest(weight), gptq(weight, x.t() @ x)
    exact = x @ weight.t()
    assert error(exact, x @ decoded(fitted).t()) < 0.6 * error(exact, x @ decoded(plain).t())


def test_int4_with_moments_survives_inputs_that_never_vary() -> None:
    weight = torch.randn(5, 64, generator=numbers)
    for moments in (torch.zeros(64, 64), torch.ones(64, 64)):
        kept = gptq(weight, moments)
        assert error(weight, decoded(kept)) < 0.5


def test_int4_needs_whole_groups() -> None:
    with pytest.raises(ModelUnavailable, match=r"mlp.c_fc.weight has 48"):
        groups(48, "mlp.c_fc.weight")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_a_whole_checkpoint(gpt2: GPT2LMHeadModel, method: Method) -> None:
    architecture, tensors = checkpoint(gpt2)
    products = {name for name in tensors if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))}
    ranges = {name.removesuffix(".weight"): 12.7 for name in (*products, "wte.weight")}
    given = dict(tensors)
    kept = quantized_weights(architecture, given, method, ranges)
    assert not set(given) & set(kept)  # the originals were let go
    assert list(kept) == list(architecture.shapes())
    worst = {"fp32": 0, "bf16": 0.003, "int4_weight": 0.09}.get(method, 0.01)
    for name, weight in kept.items():
        original = tensors[name].t() if name in products else tensors[name]
        assert error(original, decoded(weight)) <= worst
        if name == "wpe.weight":
            assert torch.equal(decoded(weight), original if method == "fp32" else original.bfloat16().float())
        elif name not in products | {"wte.weight"}:
            assert torch.equal(decoded(weight), original)
        elif method == "int8_static":
            assert isinstance(weight, Int8Weight)
            assert weight.input_scale == pytest.approx(0.1)
        elif method == "int4_weight":
            assert isinstance(weight, Int8Weight if name == "wte.weight" else Int4Weight)


def test_an_untied_embedding_has_no_input_scale() -> None:
    architecture, tensors = checkpoint(random_gpt2(tie_word_embeddings=False))
    ranges = dict.fromkeys((name.removesuffix(".weight") for name in tensors if name != "wte.weight"), 1.0)
    kept = quantized_weights(architecture, tensors, "int8_static", ranges)
    embedding, head = kept["wte.weight"], kept["lm_head.weight"]
    assert isinstance(embedding, Int8Weight)
    assert isinstance(head, Int8Weight)
    assert (embedding.input_scale, head.input_scale) == (None, pytest.approx(1 / 127))


def test_static_int8_needs_ranges(gpt2: GPT2LMHeadModel) -> None:
    with pytest.raises(ModelUnavailable, match="--calibrate FILE"):
        quantized_weights(*checkpoint(gpt2), "int8_static")


def test_the_default_follows_the_device() -> None:
    assert (choose_method(None, "cpu"), choose_method(None, "cuda")) == ("int8", "bf16")
    assert choose_method("int4_weight", "cuda") == "int4_weight"


@pytest.mark.parametrize(
    ("wanted", "device", "named"),
    [("int4", "cpu", "'int4'"), ("int8", "cuda", "CPU only"), ("int8_static", "cuda", "int8_weight")],
)
def test_a_method_that_cannot_be_had_is_refused(wanted: str, device: str, named: str) -> None:
    with pytest.raises(ModelUnavailable, match=named):
        choose_method(wanted, device)
