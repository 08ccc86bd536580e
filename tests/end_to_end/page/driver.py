"""What a person does on the page, and where they look."""

from playwright.sync_api import Locator, Page, expect

from tests.end_to_end.page.fake_api import KEY


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
