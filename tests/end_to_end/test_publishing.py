"""The example of docs/publishing.md, and what comes out of it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import ROOT
from tests.end_to_end.conftest import RunningStack


def test_the_example_exports_a_model_that_plain_transformers_load(
    stack: RunningStack, tmp_path: Path
) -> None:
    page = (ROOT / "docs" / "publishing.md").read_text()
    code = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)[0]
    assert "http://127.0.0.1:8000" in code
    done = subprocess.run(
        [sys.executable, "-c", code.replace("http://127.0.0.1:8000", stack.url)],
        env={**os.environ, "OPENAI_API_KEY": stack.key},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "succeeded ['README.md', 'config.json', 'generation_config.json']\n"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "starter")
    read = tokenizer("def ", return_tensors="pt")
    written = [
        AutoModelForCausalLM.from_pretrained(folder).generate(**read, max_new_tokens=16, do_sample=False)
        for folder in (tmp_path / "starter", ROOT / "models" / "starter")
    ]
    assert torch.equal(*written)
