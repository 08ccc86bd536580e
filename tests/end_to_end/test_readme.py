"""The README's examples run as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.end_to_end.conftest import RunningStack


def example(language: str, stack: RunningStack) -> str:
    """The README's block of that language, aimed at the test's stack."""
    found = re.findall(
        rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )
    assert len(found) == 1
    block: str = found[0]
    assert "http://127.0.0.1:8000" in block
    return block.replace("http://127.0.0.1:8000", stack.url)


def run(command: list[str], stack: RunningStack, folder: Path) -> str:
    environment = {**os.environ, "KEY": stack.key}
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_curl_example_submits_and_reads_text(stack: RunningStack, tmp_path: Path) -> None:
    printed = run(["bash", "-euo", "pipefail", "-c", example("bash", stack)], stack, tmp_path)
    assert '"status":"queued"' in printed
    assert '"type":"output_text","text":"' in printed


def test_the_openai_client_example_prints_text(stack: RunningStack, tmp_path: Path) -> None:
    printed = run([sys.executable, "-c", example("python", stack)], stack, tmp_path)
    status, _, text = printed.partition(" ")
    assert status in {"completed", "incomplete"}
    assert text.strip()


def test_every_setting_is_in_the_table_with_its_default(stack: RunningStack) -> None:
    readme = (ROOT / "README.md").read_text()
    fields = type(stack.settings).model_fields
    for name, field in fields.items():
        assert f"`{name.upper()}`" in readme, f"{name.upper()} is missing"
        if isinstance(field.default, int | float) and field.default:  # 0: it depends on the machine
            assert f"`{field.default:g}`" in readme, f"the default of {name.upper()} is wrong"
