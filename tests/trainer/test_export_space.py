"""The page of an export in a real Chromium, served by the real Gradio of its own requirements."""

import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import torch
from playwright.sync_api import Browser, Page, expect
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import ROOT, wait_for
from tests.end_to_end.page.browser import chromium, visit
from tests.trainer.small import order, write_adapter, write_model
from trainer import export

PYTHON = ROOT / os.environ.get("SPACE", ".venv-space") / "bin" / "python"
SHOTS = os.environ.get("SCREENSHOTS")  # a folder for what the page looks like

STARTER = ROOT / "models" / "starter"
PROMPT = "def area(radius):\n"
LONGER = re.compile(re.escape(PROMPT) + r".{40}", re.DOTALL)
Serve = Callable[[Path], str]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not PYTHON.exists(), reason="the page of an export is tried by make test-space"),
]


def address() -> tuple[str, int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return "127.0.0.1", free.getsockname()[1]


def is_up(process: "subprocess.Popen[bytes]", url: str, log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Starts the page of an export; ends it after the last test."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(folder: Path) -> str:
        host, port = address()
        own = {
            "GRADIO_SERVER_NAME": host,
            "GRADIO_SERVER_PORT": str(port),
            "GRADIO_ANALYTICS_ENABLED": "False",
        }
        log = tmp_path_factory.mktemp("log") / "space.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [PYTHON, "app.py"],
                cwd=folder / "space",
                env={**os.environ, **own, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
                stdout=output,
                stderr=output,
            )
        started.append(process)
        url = f"http://{host}:{port}/"
        wait_for(lambda: is_up(process, url, log), 120, 0.2)
        return url

    yield begin
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def starter(tmp_path_factory: pytest.TempPathFactory, serve: Serve) -> str:
    """Where the page of the starter is."""
    asked = order(tmp_path_factory.mktemp("export"), STARTER, name="starter")
    export.write(asked)
    return serve(asked.model)


def likeliest(folder: Path, count: int, prompt: str = PROMPT) -> str:
    """The prompt and how it goes on, said by plain transformers here."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    read = tokenizer(prompt, return_tensors="pt")
    written = model.generate(**read, max_new_tokens=count, do_sample=False, pad_token_id=0)
    text: str = tokenizer.decode(written[0], skip_special_tokens=True)
    return text


def set_slider(page: Page, label: str, value: int) -> None:
    number = page.get_by_label(f"number input for {label}")
    number.fill(str(value))
    number.press("Enter")


def shoot(page: Page, name: str) -> None:
    if SHOTS:
        page.screenshot(path=Path(SHOTS) / f"{name}.png", full_page=True)


def test_a_text_is_continued_as_long_and_as_surely_as_was_asked(browser: Browser, starter: str) -> None:
    with visit(browser, starter) as page:
        expect(page.get_by_role("heading", name="starter")).to_be_visible()
        page.locator("#prompt textarea").fill(PROMPT)
        set_slider(page, "Max tokens", 12)
        set_slider(page, "Temperature", 0)
        page.get_by_role("button", name="Generate").click()
        expect(page.locator("#text textarea")).to_have_value(likeliest(STARTER, 12), timeout=60_000)
        set_slider(page, "Max tokens", 120)
        set_slider(page, "Temperature", 1)
        page.get_by_role("button", name="Generate").click()
        expect(page.locator("#text textarea")).to_have_value(LONGER, timeout=60_000)
        shoot(page, "text")


def test_a_chat_model_is_asked_and_answers(browser: Browser, tmp_path: Path, serve: Serve) -> None:
    base = write_model(tmp_path / "base")
    asked = order(tmp_path / "export", base, adapter=write_adapter(base, tmp_path / "adapter"), name="poet")
    export.write(asked)
    with visit(browser, serve(asked.model), size=(420, 900), scheme="dark") as page:
        page.get_by_label("Question").fill("Who are you?")
        page.get_by_role("button", name="Generate").click()
        answer = page.locator("#text textarea")
        expect(answer).to_have_value(re.compile(r".{20}", re.DOTALL), timeout=60_000)
        assert "Who are you?" not in answer.input_value()
        shoot(page, "chat")


def test_after_a_stop_the_next_text_begins_at_once(browser: Browser, starter: str) -> None:
    with visit(browser, starter) as page:
        page.locator("#prompt textarea").fill(PROMPT)
        set_slider(page, "Max tokens", 500)
        page.get_by_role("button", name="Generate").click()
        expect(page.locator("#text textarea")).to_have_value(LONGER, timeout=60_000)
        page.get_by_role("button", name="Stop").click()
        page.locator("#prompt textarea").fill("class Circle:\n")
        set_slider(page, "Max tokens", 4)
        set_slider(page, "Temperature", 0)
        page.get_by_role("button", name="Generate").click()
        circle = likeliest(STARTER, 4, "class Circle:\n")
        expect(page.locator("#text textarea")).to_have_value(circle, timeout=20_000)
