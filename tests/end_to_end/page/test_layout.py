"""What the page looks like, as far as a measure can tell."""

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.end_to_end.page.browser import visit
from tests.end_to_end.page.driver import cell, connect, generate, note, row
from tests.end_to_end.page.fake_api import FakeApi

pytestmark = pytest.mark.browser


def test_the_prompt_is_the_first_textarea_and_every_field_has_its_label(page: Page) -> None:
    assert page.locator("textarea").first.get_attribute("id") == "prompt"
    for label in ("API key", "Prompt", "Model", "Max tokens", "Temperature", "Top N"):
        expect(page.get_by_label(label, exact=True)).to_be_visible()
    expect(page.get_by_label("API key")).to_have_attribute("type", "password")


def test_long_text_unfolds_and_stays_so_while_the_table_is_live(page: Page, api: FakeApi) -> None:
    api.add("completed", "\n".join(f"line {n}" for n in range(40)))
    running = api.add("in_progress")
    connect(page)
    text = row(page, 1).locator(".generated")
    folded = text.bounding_box()
    row(page, 1).get_by_role("button", name="Show all").click()
    api.move(running["id"], "completed", "short")
    expect(cell(page, "text")).to_contain_text("short")
    unfolded = text.bounding_box()
    assert folded is not None
    assert unfolded is not None
    assert unfolded["height"] > 4 * folded["height"]
    expect(row(page).get_by_role("button", name="Show")).to_have_count(0)


def test_tokens_have_a_rate_once_the_time_is_known(page: Page, api: FakeApi) -> None:
    api.add("completed", "word " * 100, run_ms=4000.0)
    api.add("cancelled", "word " * 100, run_ms=None)
    connect(page)
    expect(cell(page, "tokens", 1)).to_have_text("10025/s")
    expect(cell(page, "tokens", 0)).to_have_text("100")


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_runs_out_of_the_window(browser: Browser, api: FakeApi, width: int) -> None:
    api.add("completed", "x" * 300, model="a-rather-long-model-name/with-a-folder")
    api.add("queued", queue_position=1000)
    with visit(browser, api.url, size=(width, 800)) as page:
        connect(page)
        expect(cell(page, "status")).to_have_text("queued · 1000th or later")
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_status_or_a_note_moves_nothing_below_it(browser: Browser, api: FakeApi) -> None:
    job = api.add("queued", queue_position=1)
    with visit(browser, api.url, expected=("status of 400",)) as page:
        connect(page)
        table, below = page.locator("#jobs"), row(page)
        before = (table.bounding_box(), below.bounding_box())
        api.move(job["id"], "in_progress")
        expect(cell(page, "status")).to_have_text("in progress")
        api.refusal = (400, "Must be at least 1.", "max_output_tokens")
        generate(page, "x")
        expect(note(page, "max-tokens")).to_have_text("Must be at least 1.")
        api.move(job["id"], "cancelled")
        expect(cell(page, "status")).to_have_text("cancelled")
        assert (table.bounding_box(), below.bounding_box()) == before
