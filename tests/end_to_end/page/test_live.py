"""How often the page asks, and when it stops."""

import pytest
from playwright.sync_api import APIResponse, Page, Route, expect

from tests.end_to_end.page.driver import cell, connect, connect_with_clock, generate, run_seconds, set_hidden
from tests.end_to_end.page.fake_api import FakeApi

pytestmark = pytest.mark.browser


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
    generate(page, "too early")
    expect(page.locator("#model-note")).to_contain_text("No model is ready yet")
    api.models = ["starter"]
    page.clock.run_for(5_000)
    expect(page.get_by_label("Model")).to_have_value("starter")
    expect(page.locator("#model-note")).to_be_empty()


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


def test_an_answer_older_than_a_submit_does_not_take_the_new_job_away(page: Page, api: FakeApi) -> None:
    connect(page)
    held: list[Route] = []
    page.route("**/v1/responses?*", lambda route: held.append(route), times=1)
    with page.expect_request("**/v1/responses?*"):
        page.get_by_role("button", name="Refresh").click()
    generate(page, "newer")
    expect(cell(page, "prompt")).to_have_text("newer")
    api.move(api.last(), "completed", "and done")
    expect(cell(page, "text")).to_contain_text("and done")  # nothing will ask again
    with page.expect_event("requestfinished"):
        held[0].fulfill(json={"data": []})
    page.evaluate(
        "() => fetch('/').then((answer) => answer.text())"
    )  # the old answer was there before this one
    expect(cell(page, "prompt")).to_have_text("newer")


def test_a_look_that_overtakes_the_submit_does_not_lose_the_prompt(page: Page, api: FakeApi) -> None:
    api.add("in_progress")  # so that the page looks
    connect(page)
    held: list[tuple[Route, APIResponse]] = []
    page.route("**/v1/responses", lambda route: held.append((route, route.fetch())), times=1)
    generate(page, "overtaken")
    expect(page.locator("#jobs tbody tr")).to_have_count(2)
    expect(cell(page, "prompt")).to_have_text("—")
    route, answer = held[0]
    route.fulfill(response=answer)
    expect(cell(page, "prompt")).to_have_text("overtaken")
    expect(page.locator("#jobs tbody tr")).to_have_count(2)
