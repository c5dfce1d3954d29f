"""Every page, looked at by machine: accessible (axe-core), valid, and as wide as the window, in both themes."""

from collections.abc import Iterator
from typing import Any, Literal

import pytest
from playwright.sync_api import Page

from tests.browser.served import Served
from tests.browser.validity import WEB, Validator, running_validator
from tests.browser.views import MOMENTS, NOT_PAGES, VIEWS, Moment, Showcase, View
from tests.browser.visitors import NARROW, WIDE, Visitors
from tests.pages.test_protection import pages_there_are

THEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
# All rules of axe-core that are no experiments, the best practices too; and this one, which is in WCAG 2.2 AA.
_RULES = {"resultTypes": ["violations"], "rules": {"target-size": {"enabled": True}}}


@pytest.fixture(scope="module")
def showcase(server: Served) -> Showcase:
    return Showcase.make(server.world)


@pytest.fixture(scope="module")
def validator() -> Iterator[Validator]:
    with running_validator() as validator:
        yield validator


@pytest.fixture(scope="module")
def axe() -> str:
    return (WEB / "node_modules" / "axe-core" / "axe.min.js").read_text()


def test_every_page_is_among_the_views() -> None:
    routes = {page.removeprefix("GET ") for page in pages_there_are() if page.startswith("GET ")}
    assert {view.route for view in VIEWS} | NOT_PAGES.keys() == routes


FAULTY = """<!doctype html><html lang="en"><head><title>x</title></head><body><main><h1>x</h1>
<p id="a" id="b" class="wide">grey<img src="data:,"></p></main><style>p { color: #aaa; width: 2000px }</style></body>"""


def test_what_is_wrong_with_a_page_is_seen(visitors: Visitors, server: Served, validator: Validator, axe: str) -> None:
    page = visitors.anonymous(server)
    page.set_content(FAULTY)
    page.evaluate(axe)
    assert {fault.split(":")[0] for fault in violations(page)} == {"color-contrast", "image-alt"}
    assert overflows(page)[0].startswith("wider than 1280 px: ")
    assert any("(no-dup-attr)" in fault for fault in validator.faults(FAULTY))


@pytest.mark.parametrize("view", [*VIEWS, *MOMENTS], ids=str)
def test_is_accessible_and_valid_at_every_width_in_every_theme(
    visitors: Visitors, server: Served, showcase: Showcase, validator: Validator, axe: str, view: View | Moment
) -> None:
    page = reached(visitors, server, showcase, view)
    faults = [f"HTML: {fault}" for fault in validator.faults(visitors.documents[-1].text())]
    page.evaluate(axe)
    for theme in THEMES:
        page.emulate_media(color_scheme=theme)
        for size in (WIDE, NARROW):
            page.set_viewport_size(size)
            at = f"{size['width']} px, {theme}"
            faults += [f"{at}: {fault}" for fault in violations(page)]
            faults += [f"{at}: {fault}" for fault in overflows(page)]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_fits_small_and_magnified_windows_in_german_and_keeps_still_where_asked_to(
    visitors: Visitors, server: Served, showcase: Showcase, view: View
) -> None:
    """German has long words. 1280 px at 200 % are 640 wide for the page, and at 400 % they are 320 (WCAG 1.4.10)."""
    page = reached(visitors, server, showcase, view, locale="de-DE", viewport=NARROW, reduced_motion="reduce")
    assert page.locator("html").get_attribute("lang") == "de"
    faults = []
    for width in (360, 640, 320):
        page.set_viewport_size({"width": width, "height": 450})
        faults += overflows(page)
    faults += page.evaluate("document.getAnimations().map(moving => `moves: ${moving.effect.target.outerHTML}`)")
    assert not faults, "\n".join(faults)


def reached(visitors: Visitors, server: Served, showcase: Showcase, view: View | Moment, **options: Any) -> Page:
    if isinstance(view, Moment):
        return view.reach(visitors, server, showcase)
    page = visitors.seen_by(server, view.role, **options)
    answer = page.goto(showcase.path(view))
    assert answer is not None
    assert answer.status == 200
    return page


def violations(page: Page) -> list[str]:
    found = page.evaluate("rules => axe.run(document, rules).then(result => result.violations)", _RULES)
    return [f"{rule['id']}: {rule['help']}: {node['html'][:200]}" for rule in found for node in rule["nodes"]]


def overflows(page: Page) -> list[str]:
    """What makes the page wider than the window. A part that scrolls by itself does not."""
    faults: list[str] = page.evaluate(
        """() => {
            const width = document.documentElement.clientWidth;
            if (document.documentElement.scrollWidth <= width) return [];
            const wide = [...document.body.querySelectorAll("*")].filter(part => {
                const box = part.getBoundingClientRect();
                return box.right + window.scrollX > width + 1 && box.width > 0;
            });
            return [`wider than ${width} px: ${document.documentElement.scrollWidth}`]
                .concat(wide.slice(0, 5).map(part => part.outerHTML.slice(0, 150)));
        }"""
    )
    return faults
