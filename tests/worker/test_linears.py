"""What int8 keeps, and what it costs."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2LMHeadModel

from jobs.errors import ModelUnavailable
from tests.worker.conftest import ours
from worker.linears import FloatLinear, Int8Linear, choose_method, quantized

numbers = torch.Generator().manual_seed(0)


def test_every_product_of_the_default_is_int8(gpt2: GPT2LMHeadModel) -> None:
    network = ours(gpt2, choose_method(None, "cpu")).network
    products = [network.head]
    for block in network.blocks:
        products += [block.query_key_value, block.attention_out, block.mlp_in, block.mlp_out]
    assert len(products) == 4 * 3 + 1
    for product in products:
        assert isinstance(product, Int8Linear)
        assert product.weight.dtype == torch.int8
        assert product.weight.element_size() == 1
    inner = network.blocks[0].mlp_in
    assert isinstance(inner, Int8Linear)
    assert inner.weight.numel() == 64 * 256


def whole_numbers(rows: int, columns: int, reach: int) -> torch.Tensor:
    """Values that int8 holds exactly, because the largest of each row is `reach`."""
    found = torch.randint(-reach, reach + 1, (rows, columns), generator=numbers).float()
    found[:, 0] = reach
    return found


@given(rows=st.integers(1, 70), into=st.integers(1, 600), out=st.integers(1, 100))
@settings(max_examples=40, deadline=None)
def test_int8_sums_are_exact(rows: int, into: int, out: int) -> None:
    weight = whole_numbers(out, into, 127)
    product = Int8Linear(weight, None)
    x = whole_numbers(rows, into, product.reach)
    assert torch.equal(product(x), (x.double() @ weight.double().t()).float())


def test_activations_round_to_the_nearest_code() -> None:
    product = Int8Linear(torch.eye(5), None)
    x = torch.tensor([[product.reach, 0.4, 0.6, -0.4, -0.6]])
    torch.testing.assert_close(product(x), torch.tensor([[product.reach, 0.0, 1.0, 0.0, -1.0]]))


def test_int8_is_near_the_exact_product() -> None:
    weight, x = torch.randn(300, 256, generator=numbers), torch.randn(50, 256, generator=numbers)
    exact = x @ weight.t()
    error = (Int8Linear(weight, None)(x) - exact).norm() / exact.norm()
    assert 0.001 < error < 0.02  # below: nothing was quantized


def test_an_outlier_does_not_change_its_neighbours() -> None:
    product = Int8Linear(torch.randn(64, 64, generator=numbers), None)
    x = torch.randn(8, 64, generator=numbers)
    wild = x.clone()
    wild[3] *= 1e6
    calm, beside = product(x), product(wild)
    others = [row for row in range(8) if row != 3]
    assert torch.equal(calm[others], beside[others])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_so_in_its_row_alone(bad: float) -> None:
    product = Int8Linear(torch.randn(64, 64, generator=numbers), None)
    x = torch.randn(3, 64, generator=numbers)
    x[1, 5] = bad
    assert product(x).isfinite().all(1).tolist() == [True, False, True]


def test_a_row_of_zeros_gives_the_bias() -> None:
    bias = torch.randn(64, generator=numbers)
    product = Int8Linear(torch.randn(64, 64, generator=numbers), bias)
    assert torch.equal(product(torch.zeros(2, 64)), bias.expand(2, -1))


WITHOUT_VNNI = """
import torch
from worker.linears import Int8Linear
Int8Linear.reach = 63
x, weight = torch.full((1, 512), 63.0), torch.full((32, 512), 127.0)
assert torch.equal(Int8Linear(weight, None)(x), x @ weight.t())
"""


def test_sums_are_exact_on_a_processor_without_vnni() -> None:
    # such a processor adds pairs of products in 16 bits, where 8-bit activations would not fit
    limited = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", WITHOUT_VNNI], env=limited, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_bf16_and_fp32_keep_their_numbers() -> None:
    weight = torch.randn(8, 8, generator=numbers)
    for method, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        product = quantized(weight, None, method, "cpu")
        assert isinstance(product, FloatLinear)
        assert product.weight.dtype == dtype
        assert product(torch.eye(8)).dtype == torch.float32


def test_the_default_follows_the_device() -> None:
    assert (choose_method(None, "cpu"), choose_method(None, "cuda")) == ("int8", "bf16")


@pytest.mark.parametrize(
    ("wanted", "device", "named"), [("int4", "cpu", "int4"), ("int8", "cuda", "CPU only")]
)
def test_a_method_that_cannot_be_had_is_refused(wanted: str, device: str, named: str) -> None:
    with pytest.raises(ModelUnavailable, match=named):
        choose_method(wanted, device)
