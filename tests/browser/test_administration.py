"""Administration in a real browser, by keyboard alone where it has most to press."""

import uuid

from playwright.sync_api import expect

from tests.browser.conftest import SignIn
from tests.browser.served import Served
from tests.browser.test_devices import message
from tests.browser.test_manners import tab_to


class TestGrants:
    def test_are_given_and_taken_by_keyboard(self, sign_in: SignIn, server: Served) -> None:
        world = server.world
        name = f"Yard {uuid.uuid4().hex[:8]}"
        site_id = world.site(f"yard-{uuid.uuid4().hex[:12]}", name=name)
        page = sign_in("admin")
        page.goto(f"/admin/grants?q_sites={name.replace(' ', '+')}")
        for user, key in (("Newcomer", "t"), ("Standard", "r")):
            tab_to(page, f"{user} at {name}")
            page.keyboard.press(key)  # the role that begins so
        tab_to(page, "Save the grants")
        with page.expect_navigation():
            page.keyboard.press("Enter")
        expect(message(page)).to_be_visible()
        expect(page.get_by_label(f"Newcomer at {name}")).to_have_value("technician")
        expect(page.get_by_label(f"Standard at {name}")).to_have_value("standard")
        assert world.newcomer.get(f"/sites/{site_id}").status_code == 200

        tab_to(page, f"Newcomer at {name}")
        page.keyboard.press("n")
        tab_to(page, "Save the grants")
        with page.expect_navigation():
            page.keyboard.press("Enter")
        expect(page.get_by_label(f"Newcomer at {name}")).to_have_value("none")
        assert world.newcomer.get(f"/sites/{site_id}").status_code == 404


class TestUsers:
    def test_are_made_changed_and_deleted(self, sign_in: SignIn) -> None:
        page, email = sign_in("admin"), f"{uuid.uuid4().hex[:8]}@example.org"
        page.goto("/admin/users")
        page.get_by_role("link", name="Add a user").click()
        page.get_by_label("Name").fill("Ada")
        page.get_by_label("Email").fill(email)
        page.get_by_label("Password").first.fill("a long enough password")
        page.get_by_role("button", name="Add the user").click()
        expect(message(page)).to_contain_text("Ada")
        page.goto(f"/admin/users?q={email}")
        page.get_by_role("link", name="Change Ada").click()
        page.get_by_label("Name").fill("Ada Lovelace")
        page.get_by_role("button", name="Save").click()
        expect(message(page)).to_be_visible()
        page.goto(f"/admin/users?q={email}")
        page.get_by_role("link", name="Delete Ada Lovelace").click()
        page.get_by_role("main").get_by_role("button", name="Delete").click()
        expect(message(page)).to_contain_text("Ada Lovelace")
        page.goto(f"/admin/users?q={email}")
        expect(page.get_by_role("rowheader", name="Ada Lovelace")).to_have_count(0)
