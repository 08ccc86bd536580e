"""Promises and matrix are whole: every row and every promise names tests, and these exist."""

import ast
import re

import pytest

from tests.conftest import ROOT
from tests.faults.rows import ROWS, table

DOCUMENT = ROOT / "docs" / "promises.md"
PROMISES = 8
HARNESS = ("test_rows.py", "test_proxy.py", "test_oracle.py", "test_chaos.py")
"""Files that are not about a row."""


def exists(name: str) -> bool:
    """Whether there is a test of that path::name."""
    path, _, test = name.partition("::")
    tree = ast.parse((ROOT / path).read_text())
    return test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_row_but_that_of_sqlite_is_shown() -> None:
    assert ROWS.keys() == {*range(1, 33)} - {12}
    assert all(row.tests for row in ROWS.values())


@pytest.mark.parametrize("row", ROWS)
def test_every_test_of_a_row_exists(row: int) -> None:
    for name in ROWS[row].tests:
        assert exists(name), name


def test_the_document_has_the_table_as_it_is() -> None:
    written = DOCUMENT.read_text().splitlines()
    assert [line for line in table() if line not in written] == [], "python -m tests.faults.rows prints it"


def test_every_promise_names_tests_that_exist() -> None:
    promises = DOCUMENT.read_text().partition("## The fault matrix")[0]
    lines = [line for line in promises.splitlines() if re.match(r"\d\. ", line)]
    assert len(lines) == PROMISES
    for line in lines:
        named = re.findall(r"`(\w+(?:/\w+)*\.py::\w+)`", line)
        assert named, line
        for name in named:
            assert exists(f"tests/{name}"), name


def test_every_test_of_faults_belongs_to_a_row() -> None:
    shown = {name for row in ROWS.values() for name in row.tests}
    for path in sorted((ROOT / "tests" / "faults").glob("test_*.py")):
        if path.name in HARNESS:
            continue
        tree = ast.parse(path.read_text())
        tests = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        for test in (name for name in tests if name.startswith("test_")):
            assert f"{path.relative_to(ROOT)}::{test}" in shown, test
