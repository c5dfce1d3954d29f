"""Whoever comes, however: by keyboard alone, without scripts, in another language, on paper, and where nothing is."""

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from kilowatch.auth.service import Accounts
from tests.browser.conftest import Serve, SignIn
from tests.browser.served import Served
from tests.browser.test_devices import heading, message
from tests.browser.visitors import Visitors
from tests.browser.watch import Watch

MOST_TABS = 80
FOCUSED = """() => {
    const part = document.activeElement, look = getComputedStyle(part), box = part.getBoundingClientRect();
    const name = (part.labels?.[0]?.innerText ?? part.getAttribute("aria-label") ?? part.innerText ?? "").trim();
    const outlined = look.outlineStyle !== "none" && parseFloat(look.outlineWidth) >= 2;
    const seen = box.bottom > 0 && box.right > 0 && box.top < innerHeight && box.left < innerWidth;
    return {name, isMarked: outlined, isSeen: seen, tag: part.tagName};
}"""


def tab_to(page: Page, name: str) -> None:
    """Go on by Tab until this has the focus; whatever has it on the way shows it."""
    passed = []
    for _ in range(MOST_TABS):
        page.keyboard.press("Tab")
        focused = page.evaluate(FOCUSED)
        passed.append(focused["name"])
        if focused["tag"] != "BODY":  # between the end of the page and its beginning
            assert focused["isMarked"], f"{focused} has the focus and does not show it"
            assert focused["isSeen"], f"{focused} has the focus and is out of sight"
        if focused["name"].startswith(name):
            return
    raise AssertionError(f"Tab did not lead to {name!r}, but to: {passed}")


class TestKeyboard:
    def test_is_enough_from_signing_in_to_a_saved_device(self, visitors: Visitors, server: Served, site: int) -> None:
        page, person = visitors.anonymous(server), server.world.technician
        page.goto(f"/sites/{site}")
        tab_to(page, "Email")
        page.keyboard.type(person.email)
        tab_to(page, "Password")
        page.keyboard.type(person.password)
        page.keyboard.press("Enter")
        expect(heading(page)).to_have_text("Place")
        tab_to(page, "Add a device")
        page.keyboard.press("Enter")
        expect(heading(page)).to_have_text("Add a device")
        tab_to(page, "EV charger")
        page.keyboard.press("Enter")
        expect(heading(page)).to_have_text("Add: EV charger")
        tab_to(page, "Name")
        page.keyboard.type("Garage")
        tab_to(page, "Add the device")
        page.keyboard.press("Space")
        expect(message(page)).to_have_text("The device Garage was added.")
        expect(heading(page)).to_have_text("Garage")

    def test_skips_to_the_content(self, page: Page) -> None:
        page.goto("/sites")
        tab_to(page, "To the content")
        page.keyboard.press("Enter")
        expect(page.locator("main")).to_be_focused()
        tab_to(page, "Name")  # the first control of the content, with nothing between
        assert page.evaluate("document.activeElement.closest('main') !== null")


class TestWithoutScripts:
    def test_a_device_is_added_changed_and_deleted(self, sign_in: SignIn, site: int) -> None:
        page = sign_in("technician", java_script_enabled=False)
        page.goto(f"/sites/{site}/devices/new/battery")
        page.get_by_label("Name (required)").fill("Cellar")
        page.get_by_role("button", name="Add the device").click()
        expect(message(page)).to_have_text("The device Cellar was added.")
        page.get_by_role("link", name="Change", exact=True).first.click()
        page.get_by_label("Manufacturer").fill("Voltmaker")
        page.get_by_role("button", name="Save").click()
        expect(message(page)).to_have_text("The changes were saved.")
        page.get_by_role("link", name="Delete", exact=True).first.click()
        page.get_by_role("button", name="Delete for ever").click()
        expect(message(page)).to_have_text("Cellar was deleted, with 0 readings.")


class TestDisplay:
    def test_is_chosen_once_and_kept(self, page: Page) -> None:
        page.goto("/sites")
        page.get_by_role("link", name="Language and theme").click()
        page.get_by_label("Language").select_option("de")
        page.get_by_label("Theme").select_option("dark")
        page.get_by_role("button", name="Save").click()
        expect(heading(page)).to_have_text("Standorte")
        state = page.context.storage_state()
        later = page.context.browser
        assert later is not None
        cookies = {cookie["name"]: cookie["value"] for cookie in state["cookies"]}
        assert (cookies["kilowatch_language"], cookies["kilowatch_theme"]) == ("de", "dark")
        page.goto("/account")
        expect(heading(page)).to_have_text("Mein Konto")
        expect(page.locator("html")).to_have_attribute("lang", "de")
        assert is_dark(page)

    @pytest.mark.parametrize("system", ["light", "dark"])
    def test_follows_the_system_until_it_is_chosen(self, sign_in: SignIn, system: str) -> None:
        page = sign_in("technician", color_scheme=system)
        page.goto("/sites")
        assert is_dark(page) == (system == "dark")


def is_dark(page: Page) -> bool:
    colour: str = page.evaluate("getComputedStyle(document.body).backgroundColor")
    red, green, blue = (int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))
    return red + green + blue < 3 * 128


class TestPrint:
    @pytest.mark.parametrize("theme", ["light", "dark"])
    def test_has_the_content_alone_dark_on_white(self, page: Page, server: Served, site: int, theme: Any) -> None:
        device = server.world.device(site, name="Meter")
        page.emulate_media(color_scheme=theme, media="print")
        page.goto(f"/devices/{device['id']}")
        expect(heading(page)).to_be_visible()
        for part in ("header nav", "footer", "button:not(.legend *)", ".button", ".skip"):
            assert not any(found.is_visible() for found in page.locator(part).all()), part
        assert page.evaluate("getComputedStyle(document.querySelector('h1')).color") == "rgb(26, 33, 39)"


class TestErrors:
    def test_of_an_address_and_of_a_right_are_pages(self, sign_in: SignIn, server: Served) -> None:
        page = sign_in("standard")
        device = server.world.device()
        for path, told in (
            ("/nothing-here", "There is no such page"),
            (f"/devices/{device['id']}/edit", "You may not do this"),
        ):
            page.goto(path)
            expect(heading(page)).to_have_text(told)
            page.get_by_role("link", name="To the sites").click()
            expect(heading(page)).to_have_text("Sites")

    def test_of_our_own_have_an_id_to_ask_for(self, page: Page, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object, **__: object) -> None:
            raise RuntimeError("the secret of it all")

        monkeypatch.setattr(Accounts, "list_api_keys", broken)
        watch.expect("answer 500: GET ")
        watch.expect("status of 500")
        answer = page.goto("/account/keys")
        assert answer is not None
        expect(heading(page)).to_have_text("Something went wrong on our side")
        expect(page.get_by_role("main")).to_contain_text(answer.headers["x-request-id"])
        assert "secret" not in page.content()

    def test_of_too_many_attempts_say_how_long_to_wait(self, visitors: Visitors, serve: Serve) -> None:
        server = serve(login_attempts=1)
        page = visitors.anonymous(server)
        page.goto("/sign-in")
        for told in ("The email or the password is wrong.", "Too many failed sign-ins"):
            page.get_by_label("Email").fill("ada@example.org")
            page.get_by_label("Password").fill("wrong")
            page.get_by_role("button", name="Sign in").click()
            expect(page.get_by_role("alert")).to_contain_text(told)
