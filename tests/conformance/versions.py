"""Which versions of the official client there are to run, and the interpreter that has each."""

import os
import sys
from importlib.metadata import version
from pathlib import Path

from tests.conftest import ROOT

CLIENTS = Path(__file__).parent / "clients"
"""A file of requirements for each older version; the newest stands in requirements-dev.txt."""


def pythons() -> dict[str, Path]:
    """Version -> interpreter, the oldest first."""
    folder = ROOT / os.environ.get("OPENAI", ".venv-openai")
    older = {file.stem: folder / file.stem / "bin" / "python" for file in sorted(CLIENTS.glob("*.txt"))}
    return older | {version("openai"): Path(sys.executable)}
