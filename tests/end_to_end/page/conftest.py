"""One Chromium for all tests of the page, and for each test a fake /v1 and a fresh visitor."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.end_to_end.page.browser import chromium, visit
from tests.end_to_end.page.fake_api import FakeApi, serving


# not for the session: while Playwright runs, no other test can start an event loop
@pytest.fixture(scope="package")
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
