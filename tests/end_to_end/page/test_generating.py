"""The page from the key to the text, and that the text is only ever text."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.end_to_end.page.browser import visit
from tests.end_to_end.page.driver import cell, connect, generate, note, row
from tests.end_to_end.page.fake_api import FakeApi

pytestmark = pytest.mark.browser


def test_a_newcomer_is_told_where_to_find_a_key(page: Page, api: FakeApi) -> None:
    expect(note(page, "key")).to_contain_text("Paste the key that the stack printed at its first start")
    generate(page, "x")
    expect(note(page, "key")).to_contain_text("A key is needed")
    expect(page.get_by_label("API key")).to_be_focused()
    assert api.creates == []


def test_a_generation_is_followed_until_its_text_comes(page: Page, api: FakeApi) -> None:
    api.add("in_progress")
    api.add("queued", queue_position=1)
    connect(page)
    generate(page, "def fib(n):")
    expect(cell(page, "status")).to_have_text("queued · 2nd")
    expect(cell(page, "prompt")).to_have_text("def fib(n):")
    expect(page.locator("#outcome")).to_have_text("Sent: 2nd in the queue.")
    api.move(api.last(), "in_progress")
    expect(cell(page, "status")).to_have_text("in progress")
    api.move(api.last(), "completed", "\n    return fib(n - 1)")
    expect(cell(page, "status")).to_have_text("completed")
    assert row(page).locator(".generated").text_content() == "\n    return fib(n - 1)"
    expect(cell(page, "tokens")).to_have_text("4")
    expect(page.locator("#outcome")).to_have_text("Done: 4 tokens.")
    expect(row(page).get_by_role("button", name="Cancel")).to_be_hidden()


def test_defaults_are_sent_and_no_top_n_means_all(page: Page, api: FakeApi) -> None:
    connect(page)
    generate(page, "x")
    expect(row(page)).to_be_visible()
    expected: dict[str, Any] = {"model": "starter", "input": "x", "background": True}
    assert api.creates == [expected | {"max_output_tokens": 100, "temperature": 0.7}]


def test_what_is_typed_is_what_is_sent(page: Page, api: FakeApi) -> None:
    connect(page)
    page.get_by_label("Model").select_option("gpt2")
    page.get_by_label("Max tokens").fill("7")
    page.get_by_label("Temperature").fill("0")
    for count, (top_n, sent) in enumerate((("40", 40), ("-1", None), ("0", None)), 1):
        page.get_by_label("Top N").fill(top_n)
        generate(page, "x")
        expect(page.locator("#jobs tbody tr")).to_have_count(count)
        expect(page.get_by_role("button", name="Generate")).to_be_enabled()
        create = api.creates[-1]
        assert (create["model"], create["max_output_tokens"], create["temperature"]) == ("gpt2", 7, 0)
        assert create.get("top_k") == sent


def test_ctrl_enter_generates(page: Page, api: FakeApi) -> None:
    connect(page)
    page.get_by_label("Prompt").fill("by keyboard")
    page.get_by_label("Prompt").press("Control+Enter")
    expect(cell(page, "prompt")).to_have_text("by keyboard")
    assert len(api.creates) == 1


@pytest.mark.parametrize("status", ["queued", "in_progress"])
def test_an_unfinished_job_can_be_cancelled(page: Page, api: FakeApi, status: str) -> None:
    api.cancels_at_once = False
    job = api.add(status)
    connect(page)
    row(page).get_by_role("button", name="Cancel").click()
    expect(cell(page, "action")).to_have_text("Cancelling…")
    api.move(job["id"], "cancelled", "as far as it came")
    expect(cell(page, "status")).to_have_text("cancelled")
    expect(cell(page, "text")).to_contain_text("as far as it came")
    expect(row(page).get_by_role("button", name="Cancel")).to_be_hidden()


def test_a_synchronous_job_offers_no_cancel(page: Page, api: FakeApi) -> None:
    api.add("in_progress", background=False)
    connect(page)
    expect(cell(page, "status")).to_have_text("in progress")
    expect(row(page).get_by_role("button", name="Cancel")).to_be_hidden()


def test_generated_markup_stays_text(page: Page, api: FakeApi) -> None:
    payload = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    api.add("completed", payload)
    api.add("failed", error={"code": "server_error", "message": payload}, model=payload)
    connect(page)
    expect(row(page, 1).locator(".generated")).to_have_text(payload)
    expect(row(page, 0).locator(".generated")).to_have_text(payload)
    expect(cell(page, "model")).to_have_text(payload)
    expect(page.locator("#jobs img, #jobs script")).to_have_count(0)


def test_the_browser_itself_refuses_markup_and_foreign_scripts(browser: Browser, api: FakeApi) -> None:
    with visit(
        browser, api.url, expected=("policy breached", "TrustedHTML", "Content Security Policy")
    ) as page:
        refused = page.evaluate(
            """() => {
              try { document.body.innerHTML = "<b>x</b>"; } catch (error) { return error.name; }
              return "";
            }"""
        )
        assert refused == "TypeError"
        policy = page.request.get(api.url).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy


def test_a_reload_keeps_the_key_and_the_prompts_but_a_new_tab_does_not(
    browser: Browser, page: Page, api: FakeApi
) -> None:
    connect(page)
    generate(page, "once upon a time")
    expect(cell(page, "prompt")).to_have_text("once upon a time")
    page.reload()
    expect(note(page, "key")).to_have_text("Connected.")
    expect(cell(page, "prompt")).to_have_text("once upon a time")
    with visit(browser, api.url) as other:
        expect(note(other, "key")).to_contain_text("Paste the key")
        connect(other)
        expect(cell(other, "prompt")).to_have_text("—")


def test_the_page_generates_and_cancels_on_the_real_stack(browser: Browser, stack: Any) -> None:
    with visit(browser, stack.url) as page:
        connect(page, stack.key)
        page.get_by_label("Model").select_option("starter", timeout=60_000)  # there once a worker offers it
        page.get_by_label("Max tokens").fill("20")
        page.get_by_label("Temperature").fill("0")
        generate(page, "def read(path):\n")
        expect(cell(page, "status")).to_have_text(re.compile("^completed"), timeout=60_000)
        expect(row(page).locator(".generated")).not_to_be_empty()
        expect(cell(page, "prompt")).to_contain_text("def read(path):")
        expect(cell(page, "tokens")).to_have_text(re.compile(r"^\d+"))

        with busy(page, stack):
            generate(page, "import os\n")
            expect(cell(page, "prompt")).to_have_text("import os")
            row(page).get_by_role("button", name="Cancel").click()
            expect(cell(page, "status")).to_have_text("cancelled", timeout=30_000)


@contextmanager
def busy(page: Page, stack: Any) -> Iterator[None]:
    """Enough long jobs ahead of the next one that there is time to cancel it, however fast the model is."""
    post = partial(page.request.post, headers={"Authorization": f"Bearer {stack.key}"})
    model = page.get_by_label("Model").input_value()
    long = {"model": model, "input": "x", "background": True, "max_output_tokens": 400, "ignore_eos": True}
    sent = [post(f"{stack.url}/v1/responses", data=long) for _ in range(64)]
    try:
        yield
    finally:
        for answer in reversed(
            sent
        ):  # the waiting ones first, or they would start in the places that get free
            post(f"{stack.url}/v1/responses/{answer.json()['id']}/cancel")
