"""The official client works unchanged: every scenario, with each of its major versions, in strict mode."""

from importlib import import_module

import pytest

from tests.conformance.conftest import Clients
from tests.conformance.scenarios.registry import SCENARIOS, SINCE
from tests.conformance.versions import CLIENTS, pythons

for file in CLIENTS.with_name("scenarios").glob("[a-z]*.py"):
    import_module(f"tests.conformance.scenarios.{file.stem}")

CASES = [
    pytest.param(version, name, id=f"{version}-{name}")
    for version in pythons()
    for name in SCENARIOS
    if int(version.partition(".")[0]) >= SINCE[name]
]


@pytest.mark.parametrize(("version", "name"), CASES)
def test_the_client_works_unchanged(clients: Clients, version: str, name: str) -> None:
    complaint = clients.outcomes(version)[name]
    assert complaint is None, complaint


def test_there_are_three_major_versions() -> None:
    assert {version.partition(".")[0] for version in pythons()} == {"1", "2", "3"}
