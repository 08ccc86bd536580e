"""A real headless Chromium, and what it complained about while a test used it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = [
    "--no-sandbox",  # Chromium's own does not work for root, and the pages here are ours
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Chromium reports a breach of the policy on the console too, but not every one as an error
REPORT_BREACHES = """
document.addEventListener("securitypolicyviolation", (event) =>
  console.error("policy breached:", event.violatedDirective, event.blockedURI, event.sample));
"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """The machine's Chromium; skips the test where there is none."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no Chromium found ({', '.join(NAMES)}): the page was not tested")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visit(
    browser: Browser,
    url: str,
    expected: tuple[str, ...] = (),
    size: tuple[int, int] = (1280, 900),
    scheme: Literal["dark", "light"] = "light",
) -> Iterator[Page]:
    """The page at `url` in a fresh profile; fails if it breached its policy or wrote an error on the console.

    `expected`: the parts of console messages that the test provokes, such as "status of 401".
    """
    complaints: list[str] = []

    def listen(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not any(part in message.text for part in expected):
            complaints.append(message.text)

    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, locale="en-GB"
    )
    context.add_init_script(REPORT_BREACHES)
    page = context.new_page()
    page.set_default_timeout(10_000)
    page.on("console", listen)
    page.on("pageerror", lambda error: complaints.append(f"uncaught: {error}"))
    page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
    try:
        page.goto(url)
        yield page
    finally:
        context.close()
    assert complaints == []
