"""What is said of published models before any is opened."""

from dataclasses import replace

import pytest

from jobs.published import Published
from tests.jobs.samples import version
from worker.standing import Standing


def adapter(base: str = "base", **lineage: str) -> Published:
    return Published(version("ft:mine", quantization="fp32", slots=1), 1, "ftjob", lineage, base, {})


@pytest.fixture
def standing() -> Standing:
    known = {"base": version("base", slots=7, quantization="bf16")}
    return Standing(known, {"broken": "its file is gone."}, {"slow"})


def test_a_whole_model_stands_by_itself(standing: Standing) -> None:
    standing.add_whole(replace(adapter(), base=None), "int8", 9)
    assert standing.versions["ft:mine"] == version("ft:mine", quantization="int8", slots=9)


@pytest.mark.parametrize("lineage", [{}, {"base_digest": "d"}, {"base_digest": "original"}])
def test_an_adapter_speaks_as_its_base_does(standing: Standing, lineage: dict[str, str]) -> None:
    standing.add_adapter(adapter(**lineage), {"d", "original"})
    assert standing.versions["ft:mine"] == version("ft:mine", quantization="bf16", slots=7)


def test_an_adapter_waits_for_a_base_that_is_being_read(standing: Standing) -> None:
    standing.add_adapter(adapter("slow"), {"d"})
    assert standing.loading == {"slow", "ft:mine"}


@pytest.mark.parametrize(
    ("model", "digests", "reason"),
    [
        (adapter("broken"), {"d"}, "its base model 'broken' is not available: its file is gone."),
        (adapter("none"), {"d"}, "this worker does not have its base model 'none': add it to MODELS."),
        (adapter(), set(), "its base model 'base' is an adapter itself."),
        (adapter(base_digest="other"), {"d"}, "it was trained over other weights of 'base'"),
    ],
)
def test_an_adapter_that_has_nothing_to_speak_over_says_why(
    standing: Standing, model: Published, digests: set[str], reason: str
) -> None:
    standing.add_adapter(model, digests)
    assert standing.failed["ft:mine"].startswith(reason)
    assert "ft:mine" not in standing.versions
