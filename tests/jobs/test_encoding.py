"""Both encoders say the same."""

import json
from typing import Any

import pytest

from jobs.encoding import encode


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, -0.0, 1e16, 1e-7, 2**70, True, None], "é": "你 \u2028"},
        '\0 and \x1f, " and \\',
        {"half": ["a pair \ud83d", "é"]},
        (1, 2),
        [float("inf"), float("-inf")],
    ],
    ids=ascii,
)
def test_it_says_what_the_standard_library_says(value: Any) -> None:
    assert json.loads(encode(value)) == json.loads(json.dumps(value))


def test_no_number_stays_none() -> None:
    assert encode(float("nan")) == b"NaN"


def test_what_json_has_nothing_for_is_refused() -> None:
    with pytest.raises(TypeError):
        encode({"a": object()})
