"""`load` gives a GPU its own model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel

from tests.worker.conftest import greedy, ours, run, write_folder
from tests.worker.cuda.conftest import Rerun
from tests.worker.cuda.pretended import Pretended
from worker import loading
from worker.cuda import model as cuda_model
from worker.engine import Engine
from worker.quantize.weights import Weight


@pytest.mark.usefixtures("cuda")
def test_a_model_on_cuda_runs_recorded_passes(
    gpt2: GPT2LMHeadModel, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class There(loading._Opened):
        def weights(self) -> dict[str, Weight]:
            return {name: Pretended(w.contiguous()) for name, w in super().weights().items()}  # type: ignore

    def with_rerun(*given: Any) -> cuda_model.CudaGPT2:
        return cuda_model.CudaGPT2(*given, Rerun)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(loading, "_Opened", There)
    monkeypatch.setattr(loading, "CudaGPT2", with_rerun)
    loaded = loading.load(str(write_folder(tmp_path, gpt2, tokenizer)), "fp32", "auto")
    assert (loaded.path, loaded.model.device, loaded.model.exact_rows) == ("cuda", "cuda", False)
    engine = Engine(loaded.model, tokenizer, 2, 40)
    engine.warm_up()
    run(engine, [one := greedy([5, 6, 7], 10)])
    run(Engine(ours(gpt2), tokenizer, 2, 40), [other := greedy([5, 6, 7], 10)])
    assert one.tokens == other.tokens
