"""The page at `/` in a real Chromium: its manners against a fake /v1, and once on the real stack."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from tests.end_to_end.browser import chromium, visit
from tests.end_to_end.fake_api import KEY, FakeApi, serving

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def api(browser: Browser) -> Iterator[FakeApi]:
    with serving(FakeApi()) as api:
        yield api


@pytest.fixture
def page(browser: Browser, api: FakeApi) -> Iterator[Page]:
    """The page of someone who has not yet given a key."""
    with visit(browser, api.url) as page:
        yield page


def connect(page: Page, key: str = KEY) -> None:
    page.get_by_label("API key").fill(key)
    expect(page.locator("#key-note")).to_have_text("Connected.")


def generate(page: Page, prompt: str) -> None:
    page.get_by_label("Prompt").fill(prompt)
    page.get_by_role("button", name="Generate").click()


def row(page: Page, index: int = 0) -> Locator:
    return page.locator("#jobs tbody tr").nth(index)


def cell(page: Page, name: str, index: int = 0) -> Locator:
    return row(page, index).locator(f"td.{name}")


def note(page: Page, field: str) -> Locator:
    return page.locator(f"#{field}-note")


def test_a_newcomer_is_told_where_to_find_a_key(page: Page, api: FakeApi) -> None:
    expect(note(page, "key")).to_contain_text("Paste the key that make up printed")
    generate(page, "x")
    expect(note(page, "key")).to_contain_text("A key is needed")
    expect(page.get_by_label("API key")).to_be_focused()
    assert api.creates == []


def test_the_prompt_is_the_first_textarea_and_every_field_has_its_label(page: Page) -> None:
    assert page.locator("textarea").first.get_attribute("id") == "prompt"
    for label in ("API key", "Prompt", "Model", "Max tokens", "Temperature", "Top N"):
        expect(page.get_by_label(label, exact=True)).to_be_visible()
    expect(page.get_by_label("API key")).to_have_attribute("type", "password")


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
    for top_n, sent in (("40", 40), ("-1", None), ("0", None)):
        page.get_by_label("Top N").fill(top_n)
        generate(page, "x")
        expect(page.locator("#jobs tbody tr")).to_have_count(len(api.jobs))
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


def test_it_asks_once_a_second_with_one_request_and_rests_when_all_is_final(page: Page, api: FakeApi) -> None:
    page.clock.install()
    for _ in range(5):
        api.add("in_progress")
    connect_with_clock(page)
    run_seconds(page, 3)  # past the quick looks after a change
    before = api.lists
    run_seconds(page, 5)
    assert 4 <= api.lists - before <= 6
    for job_id in api.jobs:
        api.move(job_id, "completed", "done")
    run_seconds(page, 1)
    expect(cell(page, "status")).to_have_text("completed")
    rested = api.lists
    run_seconds(page, 30)
    assert api.lists == rested
    assert api.others == 0


def test_a_model_that_is_still_loading_is_offered_once_it_is_there(page: Page, api: FakeApi) -> None:
    api.models = []
    page.clock.install()
    connect_with_clock(page)
    expect(page.get_by_label("Model")).to_have_text("no model is ready yet")
    api.models = ["starter"]
    page.clock.run_for(5_000)
    expect(page.get_by_label("Model")).to_have_value("starter")


def test_a_hidden_tab_asks_nothing(page: Page, api: FakeApi) -> None:
    page.clock.install()
    job = api.add("in_progress")
    connect_with_clock(page)
    set_hidden(page, True)
    asked = api.lists
    run_seconds(page, 10)
    assert api.lists == asked
    api.move(job["id"], "completed", "meanwhile")
    set_hidden(page, False)
    expect(cell(page, "text")).to_contain_text("meanwhile")


def connect_with_clock(page: Page) -> None:
    page.get_by_label("API key").fill(KEY)
    page.clock.run_for(300)
    expect(note(page, "key")).to_have_text("Connected.")


def run_seconds(page: Page, seconds: int) -> None:
    """Let the page's clock go on, in steps short enough for each answer to come before the next."""
    for _ in range(seconds * 4):
        page.clock.run_for(250)
        page.evaluate("() => fetch('/', {cache: 'no-store'}).then((answer) => answer.text())")


def set_hidden(page: Page, hidden: bool) -> None:
    page.evaluate(
        """(hidden) => {
          Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
          document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


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


def test_another_key_takes_the_first_ones_jobs_away(browser: Browser, api: FakeApi) -> None:
    api.add("completed", "secret of the first")
    with visit(browser, api.url, expected=("status of 401",)) as page:
        connect(page)
        expect(cell(page, "text")).to_contain_text("secret of the first")
        page.get_by_label("API key").fill("sk-wrong")
        expect(note(page, "key")).to_have_text("Incorrect API key provided.")
        expect(page.locator("#jobs tbody tr")).to_have_count(0)


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


def test_an_answer_older_than_a_submit_does_not_take_the_new_job_away(page: Page, api: FakeApi) -> None:
    connect(page)
    held: list[Route] = []
    page.route("**/v1/responses?*", held.append, times=1)
    page.get_by_role("button", name="Refresh").click()
    generate(page, "newer")
    api.move(api.last(), "completed", "and done")
    expect(cell(page, "text")).to_contain_text("and done")  # nothing will ask again
    with page.expect_event("requestfinished"):
        held[0].fulfill(json={"data": []})
    page.evaluate(
        "() => fetch('/').then((answer) => answer.text())"
    )  # the old answer was there before this one
    expect(cell(page, "prompt")).to_have_text("newer")


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


def test_the_page_generates_and_cancels_on_the_real_stack(browser: Browser, stack: Any) -> None:
    with visit(browser, stack.url) as page:
        connect(page, stack.key)
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
