import multiprocessing
import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def training_processes() -> Iterator[None]:
    """One process imports what a training needs; all children are forked from it."""
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    before = dict(os.environ)
    os.environ.update(environment)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trainer.session", "trainer.run"])
    yield
    os.environ.clear()
    os.environ.update(before)
