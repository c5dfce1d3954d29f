"""Devices and metrics in a real browser: forms that help, changes that clash, deletions that ask."""

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import SignIn
from tests.browser.served import Served


def message(page: Page) -> Locator:
    """What an action left to be said on the next page."""
    return page.locator("main").get_by_role("status")


def heading(page: Page) -> Locator:
    return page.get_by_role("heading", level=1)


def send_unchecked(page: Page, button: str) -> None:
    """Send the form as it is, whatever the browser would say to it."""
    page.locator("main form").evaluate_all("forms => forms.forEach(form => form.noValidate = true)")
    page.get_by_role("button", name=button, exact=True).click()


class TestAddDevice:
    def test_with_a_wrong_and_then_a_right_form(self, page: Page, site: int) -> None:
        page.goto(f"/sites/{site}")
        page.get_by_role("link", name="Add a device").click()
        page.get_by_role("link", name="Battery").click()
        page.get_by_label("Name (required)").fill("Cellar")
        page.get_by_label("Capacity").fill("10")
        page.get_by_label("Round-trip efficiency").fill("1.5")
        send_unchecked(page, "Add the device")

        wrong = page.get_by_label("Round-trip efficiency")
        expect(wrong).to_have_attribute("aria-invalid", "true")
        expect(wrong).to_have_accessible_description(re.compile("Must be at most 1[.]$"))
        expect(wrong).to_have_value("1.5")
        expect(page.get_by_label("Name (required)")).to_have_value("Cellar")
        expect(page.get_by_label("Capacity")).to_have_value("10")
        expect(page.get_by_role("alert")).to_be_focused()
        page.get_by_role("alert").get_by_role("link", name="Round-trip efficiency").click()
        expect(wrong).to_be_focused()

        wrong.fill("0.92")
        page.get_by_role("button", name="Add the device").click()
        expect(message(page)).to_have_text("The device Cellar was added.")
        expect(heading(page)).to_have_text("Cellar")
        expect(page.get_by_role("term").filter(has_text="Capacity").locator("..")).to_contain_text("10 kWh")

    def test_that_the_browser_itself_finds_wrong_is_not_sent(self, page: Page, site: int) -> None:
        page.goto(f"/sites/{site}/devices/new/battery")
        page.get_by_label("Capacity").fill("-1")
        page.get_by_role("button", name="Add the device").click()
        expect(page.get_by_label("Name (required)")).to_be_focused()
        assert page.locator("main :invalid:not(form, fieldset)").count() == 2
        expect(page).to_have_title("Add: Battery · Kilowatch")

    def test_sent_twice_is_added_once(self, page: Page, site: int) -> None:
        page.goto(f"/sites/{site}/devices/new/battery")
        page.get_by_label("Name (required)").fill("Cellar")
        page.get_by_role("button", name="Add the device").dblclick()
        expect(message(page)).to_have_text("The device Cellar was added.")
        page.goto(f"/sites/{site}")
        expect(page.get_by_role("main").get_by_role("link", name="Cellar")).to_have_count(1)

    def test_leaves_a_message_that_is_shown_once(self, page: Page, site: int) -> None:
        page.goto(f"/sites/{site}/devices/new/battery")
        page.get_by_label("Name (required)").fill("Cellar")
        page.get_by_role("button", name="Add the device").click()
        expect(message(page)).to_be_visible()
        page.reload()
        expect(heading(page)).to_have_text("Cellar")
        expect(message(page)).to_have_count(0)


class TestChangeDevice:
    def test_saves_what_was_typed(self, page: Page, server: Served, site: int) -> None:
        device = server.world.device(site, name="Roof", kind="pv_array", metrics=None)
        page.goto(f"/devices/{device['id']}")
        page.get_by_role("link", name="Change", exact=True).first.click()
        page.get_by_label("Manufacturer").fill("Sunmaker")
        page.get_by_label("Peak power").fill("9.8")
        page.get_by_role("button", name="Save").click()
        expect(message(page)).to_have_text("The changes were saved.")
        expect(page.get_by_role("main")).to_contain_text("Sunmaker")
        expect(page.get_by_role("term").filter(has_text="Peak power").locator("..")).to_contain_text("9.8 kW")

    def test_that_somebody_changed_in_the_meantime_shows_both(self, page: Page, server: Served, site: int) -> None:
        device = server.world.device(site, name="Roof", kind="pv_array", metrics=None)
        page.goto(f"/devices/{device['id']}/edit")
        server.world.technician.patch(
            f"/devices/{device['id']}", {"manufacturer": "Quicker"}, headers={"If-Match": f'"{device["version"]}"'}
        )
        page.get_by_label("Manufacturer").fill("Slower")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("alert")).to_contain_text("Somebody else changed this while you were at it")
        expect(page.get_by_role("alert")).to_be_focused()
        expect(page.get_by_label("Manufacturer")).to_have_value("Slower")
        expect(page.get_by_label("Manufacturer")).to_have_accessible_description("Now stored: Quicker")
        page.get_by_role("button", name="Save").click()
        expect(message(page)).to_have_text("The changes were saved.")
        expect(page.get_by_role("main")).to_contain_text("Slower")


class TestDeleteDevice:
    def test_asks_first_and_says_what_goes_along(self, page: Page, server: Served, site: int) -> None:
        device = server.world.device(site, name="Old", kind="battery", metrics=None)
        server.world.send(device["metrics"][0]["id"], ("2026-01-05T12:00:00Z", 1.0), ("2026-01-05T12:15:00Z", 2.0))
        page.goto(f"/devices/{device['id']}")
        page.get_by_role("link", name="Delete", exact=True).first.click()
        expect(page.get_by_role("main")).to_contain_text("5 metrics")
        expect(page.get_by_role("main")).to_contain_text("2 readings")
        page.get_by_role("link", name="Keep it").click()
        expect(heading(page)).to_have_text("Old")
        page.get_by_role("link", name="Delete", exact=True).first.click()
        page.get_by_role("button", name="Delete for ever").click()
        expect(message(page)).to_have_text("Old was deleted, with 2 readings.")
        expect(page.get_by_role("link", name="Old")).to_have_count(0)

    def test_that_somebody_changed_in_the_meantime_is_not_done(self, page: Page, server: Served, site: int) -> None:
        device = server.world.device(site, name="Old")
        page.goto(f"/devices/{device['id']}/delete")
        server.world.technician.patch(
            f"/devices/{device['id']}", {"name": "Still needed"}, headers={"If-Match": f'"{device["version"]}"'}
        )
        page.get_by_role("button", name="Delete for ever").click()
        expect(message(page)).to_contain_text("nothing was deleted")
        expect(heading(page)).to_have_text("Delete Still needed?")


class TestMetric:
    def test_is_added_changed_and_deleted(self, page: Page, server: Served, site: int) -> None:
        device = server.world.device(site, name="Meter")
        page.goto(f"/devices/{device['id']}")
        page.get_by_role("link", name="Add a metric").click()
        page.get_by_label("Key").fill("flow")
        page.get_by_label("Quantity").select_option("temperature")
        page.get_by_role("button", name="Add the metric").click()
        expect(message(page)).to_have_text("The metric Flow was added.")
        page.get_by_role("link", name="Change Flow").click()
        page.get_by_label("Name (required)").fill("Flow temperature")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("rowheader", name="Flow temperature")).to_be_visible()
        page.get_by_role("link", name="Delete Flow temperature").click()
        page.get_by_role("button", name="Delete for ever").click()
        expect(message(page)).to_have_text("Flow temperature was deleted, with 0 readings.")
        expect(page.get_by_role("rowheader", name="Flow temperature")).to_have_count(0)


class TestEachRole:
    CHANGES = ("Add a device", "Change", "Delete", "Add a metric")

    @pytest.mark.parametrize(("role", "is_offered"), [("standard", False), ("technician", True), ("admin", True)])
    def test_is_offered_what_it_may_do(
        self, sign_in: SignIn, server: Served, site: int, role: str, is_offered: bool
    ) -> None:
        device = server.world.device(site, name="Meter")
        page = sign_in(role)
        offered = set()
        for path in (f"/sites/{site}", f"/devices/{device['id']}"):
            page.goto(path)
            found = page.get_by_role("main").get_by_role("link").all_inner_texts()
            offered |= set(found) & set(self.CHANGES)
        assert offered == (set(self.CHANGES) if is_offered else set())

    def test_that_has_no_grant_is_told_so(self, sign_in: SignIn) -> None:
        page = sign_in("newcomer")
        page.goto("/sites")
        expect(page.get_by_role("main")).to_contain_text("No site is granted to you yet")
        expect(page.get_by_role("main").get_by_role("list")).to_have_count(0)

    def test_that_lost_its_grant_finds_nothing_more(self, sign_in: SignIn, server: Served, site: int) -> None:
        page = sign_in("technician")
        page.goto(f"/sites/{site}")
        expect(heading(page)).to_have_text("Place")
        server.world.admin.delete(f"/sites/{site}/grants/{server.world.technician.id}")
        page.reload()
        expect(heading(page)).to_have_text("There is no such page")
