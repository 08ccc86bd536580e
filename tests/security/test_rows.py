"""The matrix is whole: each of its rows is shown by tests that exist, and told in docs/security.md."""

import ast
import re

import pytest

from tests.conftest import ROOT
from tests.security.rows import ROWS

ASKED = {*range(1, 12), *range(14, 19), *range(22, 27), 28}


def test_these_rows_are_shown_and_no_others() -> None:
    assert ROWS.keys() == ASKED
    assert all(ROWS.values())


@pytest.mark.parametrize("row", ROWS)
def test_every_test_that_is_named_exists(row: int) -> None:
    for name in ROWS[row]:
        path, _, test = name.partition("::")
        tree = ast.parse((ROOT / path).read_text())
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, name


def test_the_document_tells_each_row_and_where_its_tests_are() -> None:
    lines = (ROOT / "docs" / "security.md").read_text().splitlines()
    told = {int(found[1]): line for line in lines if (found := re.match(r"\| (\d+) \|", line))}
    assert told.keys() == ROWS.keys()
    for row, names in ROWS.items():
        for name in names:
            path = name.partition("::")[0].removeprefix("tests/").removesuffix(".py")
            assert f"`{path}`" in told[row], (row, path)


def test_every_attack_here_belongs_to_a_row() -> None:
    shown = {name for names in ROWS.values() for name in names}
    files = {name.partition("::")[0] for name in shown}
    here = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests" / "security").glob("test_*.py")
        if path.name != "test_rows.py"
    }
    assert here <= files
