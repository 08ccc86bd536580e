"""What the page says when something is wrong, and where."""

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.end_to_end.page.browser import visit
from tests.end_to_end.page.driver import cell, connect, generate, note
from tests.end_to_end.page.fake_api import FakeApi

pytestmark = pytest.mark.browser


def test_a_wrong_key_shows_the_servers_sentence_beside_the_key(browser: Browser, api: FakeApi) -> None:
    with visit(browser, api.url, expected=("status of 401",)) as page:
        page.get_by_label("API key").fill("sk-wrong")
        expect(note(page, "key")).to_have_text("Incorrect API key provided.")
        expect(page.get_by_label("API key")).to_have_attribute("aria-invalid", "true")
        connect(page)
        expect(page.get_by_label("API key")).not_to_have_attribute("aria-invalid", "true")


def test_a_key_that_no_header_can_carry_is_named(page: Page) -> None:
    page.get_by_label("API key").fill("schlüssel")
    expect(note(page, "key")).to_contain_text("This is no key")


def test_another_key_takes_the_first_ones_jobs_away(browser: Browser, api: FakeApi) -> None:
    api.add("completed", "secret of the first")
    with visit(browser, api.url, expected=("status of 401",)) as page:
        connect(page)
        expect(cell(page, "text")).to_contain_text("secret of the first")
        page.get_by_label("API key").fill("sk-wrong")
        expect(note(page, "key")).to_have_text("Incorrect API key provided.")
        expect(page.locator("#jobs tbody tr")).to_have_count(0)


@pytest.mark.parametrize(
    ("param", "field"),
    [
        ("max_output_tokens", "max-tokens"),
        ("temperature", "temperature"),
        ("top_k", "top-n"),
        ("model", "model"),
        ("input", "prompt"),
        ("input[0].content", "prompt"),
    ],
)
def test_a_refused_value_is_explained_beside_its_field(
    browser: Browser, api: FakeApi, param: str, field: str
) -> None:
    sentence = "This cannot be, for a reason that only the server knows."
    with visit(browser, api.url, expected=("status of 400",)) as page:
        connect(page)
        api.refusal = (400, sentence, param)
        hint = note(page, field).inner_text()
        generate(page, "x")
        expect(note(page, field)).to_have_text(sentence)
        expect(page.locator(f"#{field}")).to_be_focused()
        api.refusal = None
        generate(page, "x")
        expect(note(page, field)).to_have_text(hint)


def test_a_refusal_about_no_field_is_shown_beside_generate(browser: Browser, api: FakeApi) -> None:
    with visit(browser, api.url, expected=("status of 429",)) as page:
        connect(page)
        api.refusal = (429, "Your quota is used up until midnight.", None)
        generate(page, "x")
        expect(page.locator("#outcome")).to_have_text("Your quota is used up until midnight.")


def test_an_unreadable_number_is_not_sent(page: Page, api: FakeApi) -> None:
    connect(page)
    page.get_by_label("Max tokens").fill("")
    page.get_by_label("Max tokens").press_sequentially("1e")
    generate(page, "x")
    expect(note(page, "max-tokens")).to_have_text("This is not a number.")
    assert api.creates == []


@pytest.mark.parametrize(("label", "field"), [("Top N", "top-n"), ("Max tokens", "max-tokens")])
def test_a_broken_number_is_not_sent(page: Page, api: FakeApi, label: str, field: str) -> None:
    connect(page)
    for number in ("1.5", "-0.5"):
        page.get_by_label(label).fill(number)
        generate(page, "x")
        expect(note(page, field)).to_have_text("Send a whole number.")
        expect(page.locator(f"#{field}")).to_be_focused()
    assert api.creates == []
    page.get_by_label(label).fill("1e1")
    generate(page, "x")
    expect(page.locator("#jobs tbody tr")).to_have_count(1)


def test_an_unreachable_server_is_said_and_found_again(browser: Browser, api: FakeApi) -> None:
    with visit(browser, api.url, expected=("net::ERR_FAILED", "status of 503")) as page:
        page.clock.install()
        connect(page)
        page.route("**/v1/**", lambda route: route.abort())
        generate(page, "x")
        expect(page.locator("#outcome")).to_have_text(f"The server at {api.url} does not answer.")
        page.get_by_role("button", name="Refresh").click()
        expect(page.locator("#pulse")).to_contain_text("Not live")
        page.unroute("**/v1/**")
        api.down = "The database cannot be reached."
        page.clock.run_for(5_000)
        expect(note(page, "key")).to_have_text("The database cannot be reached.")
        api.down = None
        page.clock.run_for(5_000)
        expect(note(page, "key")).to_have_text("Connected.")
