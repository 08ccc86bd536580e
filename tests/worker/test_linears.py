"""What each method keeps, and what it costs."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.linears import FloatLinear, Int4WeightLinear, Int8Linear, Int8WeightLinear, product
from worker.quantize import int4
from worker.quantize.codes import decoded, int8

numbers = torch.Generator().manual_seed(0)


def dynamic(weight: torch.Tensor, bias: torch.Tensor | None = None) -> Int8Linear:
    return Int8Linear(int8(weight), bias)


def whole_numbers(rows: int, columns: int, reach: int) -> torch.Tensor:
    """Values that int8 holds exactly, because the largest of each row is `reach`."""
    found = torch.randint(-reach, reach + 1, (rows, columns), generator=numbers).float()
    found[:, 0] = reach
    return found


@given(rows=st.integers(1, 70), into=st.integers(1, 600), out=st.integers(1, 100))
@settings(max_examples=40, deadline=None)
def test_int8_sums_are_exact(rows: int, into: int, out: int) -> None:
    weight = whole_numbers(out, into, 127)
    product = dynamic(weight)
    x = whole_numbers(rows, into, product.reach)
    assert torch.equal(product(x), (x.double() @ weight.double().t()).float())


def test_activations_round_to_the_nearest_code() -> None:
    product = dynamic(torch.eye(5))
    x = torch.tensor([[product.reach, 0.4, 0.6, -0.4, -0.6]])
    torch.testing.assert_close(product(x), torch.tensor([[product.reach, 0.0, 1.0, 0.0, -1.0]]))


def test_int8_is_near_the_exact_product() -> None:
    weight, x = torch.randn(300, 256, generator=numbers), torch.randn(50, 256, generator=numbers)
    exact = x @ weight.t()
    error = (dynamic(weight)(x) - exact).norm() / exact.norm()
    assert 0.001 < error < 0.02  # below: nothing was quantized


def test_an_outlier_does_not_change_its_neighbours() -> None:
    product = dynamic(torch.randn(64, 64, generator=numbers))
    x = torch.randn(8, 64, generator=numbers)
    wild = x.clone()
    wild[3] *= 1e6
    calm, beside = product(x), product(wild)
    others = [row for row in range(8) if row != 3]
    assert torch.equal(calm[others], beside[others])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_so_in_its_row_alone(bad: float) -> None:
    product = dynamic(torch.randn(64, 64, generator=numbers))
    x = torch.randn(3, 64, generator=numbers)
    x[1, 5] = bad
    assert product(x).isfinite().all(1).tolist() == [True, False, True]


def test_a_row_of_zeros_gives_the_bias() -> None:
    bias = torch.randn(64, generator=numbers)
    product = dynamic(torch.randn(64, 64, generator=numbers), bias)
    assert torch.equal(product(torch.zeros(2, 64)), bias.expand(2, -1))


WITHOUT_VNNI = """
import torch
from worker.linears import Int8Linear
from worker.quantize.codes import int8
Int8Linear.reach = 63
x, weight = torch.full((1, 512), 63.0), torch.full((32, 512), 127.0)
assert torch.equal(Int8Linear(int8(weight), None)(x), x @ weight.t())
"""


def test_sums_are_exact_on_a_processor_without_vnni() -> None:
    # such a processor adds pairs of products in 16 bits, where 8-bit activations would not fit
    limited = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", WITHOUT_VNNI], env=limited, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_half_a_code_rounds_to_the_even_one() -> None:
    identity = dynamic(torch.eye(5))
    x = torch.tensor([[identity.reach, 0.5, 1.5, -0.5, -2.5]])
    assert identity(x)[0, 1:].tolist() == [0, 2, 0, -2]


def test_static_int8_clips_what_calibration_did_not_see() -> None:
    static = Int8Linear(int8(torch.eye(3), input_scale=1 / 127), None)
    found = static(torch.tensor([[0.5, 1.0, 3.0], [-9.0, 0.0, 0.25]]))
    expected = torch.tensor([[0.5, 1.0, 1.0], [-1.0, 0.0, 0.25]])
    torch.testing.assert_close(found, expected, atol=0.5 / static.reach, rtol=0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_static_int8_does_not_make_a_code_of_what_is_not_finite(bad: float) -> None:
    static = Int8Linear(int8(torch.randn(64, 64, generator=numbers), input_scale=0.02), None)
    x = torch.randn(3, 64, generator=numbers)
    x[1, 5] = bad
    assert static(x).isfinite().all(1).tolist() == [True, False, True]


@pytest.mark.parametrize("rows", [1, 16, 17, 100])
def test_weight_only_products_have_the_weights_numbers_within_bf16(rows: int) -> None:
    weight, bias = torch.randn(96, 64, generator=numbers), torch.randn(96, generator=numbers)
    x = torch.randn(rows, 64, generator=numbers)
    for kept in (int8(weight), int4.nearest(weight)):
        multiply = product(kept, bias, "int8_weight", "cpu")
        assert isinstance(multiply, Int8WeightLinear | Int4WeightLinear)
        exact = x @ decoded(kept).t() + bias
        assert (multiply(x) - exact).norm() / exact.norm() < 0.005


def test_bf16_and_fp32_keep_their_numbers() -> None:
    weight, x = torch.randn(48, 32, generator=numbers), torch.randn(5, 32, generator=numbers)
    for dtype, near in ((torch.float32, 1e-6), (torch.bfloat16, 0.005)):
        multiply = product(weight.to(dtype), None, "bf16", "cpu")
        assert isinstance(multiply, FloatLinear)
        found, exact = multiply(x), x @ weight.t()
        assert found.dtype == torch.float32
        assert (found - exact).norm() / exact.norm() < near
