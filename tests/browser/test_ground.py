"""The ground that tests in a browser stand on: what a page must never do is seen."""

import asyncio
import time
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, Route

from tests.browser.watch import Watch

POLICY = "default-src 'none'; script-src 'self'; style-src 'self'"


def open_document(page: Page, html: str, **headers: str) -> None:
    """A page of the server's, with this in it."""

    def answer(route: Route) -> None:
        route.fulfill(status=200, content_type="text/html", body=f"<!doctype html>{html}", headers=dict(headers))

    page.route("**/faulty", answer)
    page.goto("/faulty")


def wait_until(page: Page, true: Callable[[], bool]) -> None:
    """What a page does after it is open takes a moment; what was expected and does not come is told by `Watch`."""
    deadline = time.monotonic() + 30
    while not true() and time.monotonic() < deadline:
        page.wait_for_timeout(10)


class TestFaults:
    @pytest.mark.parametrize(
        ("html", "fault"),
        [
            ("<script>console.error('broken')</script>", "console error: broken"),
            ("<script>console.warn('old')</script>", "console warning: old"),
            ("<script>setTimeout(() => nothing.at.all)</script>", "uncaught error: "),
            ("<script>Promise.reject(new Error('lost'))</script>", "uncaught error: lost"),
            ("<img src='http://example.org/x.png' alt=''>", "request to another host: GET http://example.org/x.png"),
            ("<img src='/static/nothing.png' alt=''>", "status of 404"),
            ("<script>fetch('/nothing')</script>", "status of 404"),
        ],
    )
    def test_are_seen(self, page: Page, watch: Watch, html: str, fault: str) -> None:
        watch.expect(fault)
        if "example.org" in html:
            watch.expect("ERR_NAME_NOT_RESOLVED")
        open_document(page, html)
        wait_until(page, lambda: any(fault in noted for noted in watch.faults))

    @pytest.mark.parametrize("html", ["<script>1</script>", "<p style='color: red'>x</p>", "<a onclick='1'>x</a>"])
    def test_violations_of_the_policy_are_seen(self, page: Page, watch: Watch, html: str) -> None:
        watch.expect("Content Security Policy")
        open_document(page, html, **{"Content-Security-Policy": POLICY})

    def test_answers_that_blame_the_server_are_seen(self, page: Page, watch: Watch) -> None:
        watch.expect("answer 503: GET ")
        watch.expect("status of 503")
        page.route("**/faulty", lambda route: route.fulfill(status=503, body="no"))
        page.goto("/faulty")

    def test_that_were_expected_and_did_not_happen_are_told(self) -> None:
        watch = Watch()
        watch.expect("broken")
        with pytest.raises(AssertionError, match="broken"):
            watch.verify()

    def test_a_page_that_is_refused_is_no_fault(self, page: Page) -> None:
        answer = page.goto("/sites/0")
        assert answer is not None
        assert answer.status == 404


def test_other_tests_of_the_same_process_can_run_a_loop_of_their_own(chromium: object) -> None:
    asyncio.run(asyncio.sleep(0))
