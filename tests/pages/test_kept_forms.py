"""A form that was sent after its session had ended: it is shown again, filled, to the same user, and never sent."""

import pytest

from kilowatch.auth.model import OPERATOR
from kilowatch.kit.paging import PageRequest
from kilowatch.pages.visitors import SECRETS
from tests.conftest import Person, World
from tests.pages.browser import Browser, Page, browser_of
from tests.pages.test_protection import MATRIX, Sessions


@pytest.fixture
def database_url(any_database_url: str) -> str:
    return any_database_url


def too_late(world: World, person: Person, path: str, **changes: str) -> tuple[Browser, Page]:
    """The browser, and the answer to a form of the page that was sent 13 hours after it was opened."""
    browser = browser_of(world, person)
    page = browser.get(path)
    assert page.status == 200
    world.clock.advance(hours=13)
    return browser, browser.resubmit(page, path, **changes)


def devices(world: World) -> list[str]:
    page = world.services.catalogue.list_devices(OPERATOR, world.north, PageRequest(), kind=None, words=None)
    return [device.name for device in page.items]


def sign_in_again(browser: Browser, page: Page, person: Person) -> Page:
    return browser.resubmit(page, "/sign-in", email=person.email, password=person.password)


class TestAFormThatComesTooLate:
    def test_is_kept_by_the_page_to_sign_in_and_shown_again_filled(self, world: World) -> None:
        path = f"/sites/{world.north}/devices/new/battery"
        browser, page = too_late(world, world.technician, path, name="New battery", properties__capacity_kwh="12")
        assert (page.status, page.heading) == (401, "Sign in")
        assert page.faults_of_structure() == []
        again = browser.follow(sign_in_again(browser, page, world.technician))
        assert again.status == 200
        fields = again.fields(path)
        assert (fields["name"], fields["properties/capacity_kwh"]) == ("New battery", "12")
        assert "Nothing was saved yet" in again.flash
        assert devices(world) == []

    def test_is_saved_once_it_is_sent_again(self, world: World) -> None:
        path = f"/sites/{world.north}/devices/new/battery"
        browser, page = too_late(world, world.technician, path, name="New battery")
        again = browser.follow(sign_in_again(browser, page, world.technician))
        assert browser.resubmit(again, path).status == 303
        assert devices(world) == ["New battery"]

    def test_still_knows_which_version_it_was_about(self, world: World) -> None:
        device = world.device()
        path = f"/devices/{device['id']}/edit"
        browser, page = too_late(world, world.technician, path, name="Mine")
        world.services.catalogue.change_device(OPERATOR, device["id"], {"name": "Theirs"}, if_match=None)
        again = browser.follow(sign_in_again(browser, page, world.technician))
        answer = browser.resubmit(again, path)
        assert (answer.status, "Now stored: Theirs" in answer.body) == (412, True)

    def test_survives_a_wrong_password(self, world: World) -> None:
        path = f"/sites/{world.north}/devices/new/battery"
        browser, page = too_late(world, world.technician, path, name="New battery")
        wrong = browser.resubmit(page, "/sign-in", email=world.technician.email, password="not this one")
        assert wrong.status == 401
        again = browser.follow(sign_in_again(browser, wrong, world.technician))
        assert again.fields(path)["name"] == "New battery"

    def test_is_not_shown_to_somebody_else(self, world: World) -> None:
        path = f"/sites/{world.north}/devices/new/battery"
        browser, page = too_late(world, world.technician, path, name="My secret plan")
        onward = sign_in_again(browser, page, world.admin)
        assert onward.location == path
        assert "My secret plan" not in browser.follow(onward).answer.text

    def test_is_not_shown_to_somebody_else_who_knows_its_address(self, world: World) -> None:
        path = f"/sites/{world.north}/devices/new/battery"
        browser, page = too_late(world, world.technician, path, name="My secret plan")
        address = sign_in_again(browser, page, world.technician).location
        other = browser_of(world, world.admin).get(address)
        assert (other.status, "My secret plan" in other.answer.text) == (200, False)

    def test_keeps_no_password(self, world: World) -> None:
        browser, page = too_late(world, world.admin, "/admin/users/new", name="Ada", password="correct horse")
        again = browser.follow(sign_in_again(browser, page, world.admin))
        assert again.fields("/admin/users/new")["name"] == "Ada"
        assert "correct horse" not in again.answer.text
        with world.services.database.read() as connection:
            kept = connection.exec_driver_sql("SELECT answer FROM idempotency_keys").scalars().all()
        assert len(kept) == 1
        assert b"Ada" in bytes(kept[0]) and b"correct horse" not in bytes(kept[0])

    def test_of_passwords_alone_is_not_kept_at_all(self, world: World) -> None:
        fields = {"old": world.technician.password, "new": "correct horse", "again": "correct horse"}
        _, page = too_late(world, world.technician, "/account/password", **fields)
        assert (page.status, page.location) == (303, "/sign-in?next=%2Faccount%2Fpassword")

    def test_in_the_matrix_of_grants_keeps_what_was_chosen(self, world: World) -> None:
        path, cell = "/admin/grants", f"grant-{world.newcomer.id}-{world.south}-none"
        browser, page = too_late(world, world.admin, path, **{cell: "technician"})
        again = browser.follow(sign_in_again(browser, page, world.admin))
        assert again.fields(path)[cell] == "technician"

    @pytest.mark.parametrize("token", ["", "0" * 64, "1-" + "0" * 64, "x-y", "1-ä", "9" * 400])
    def test_that_is_forged_is_not_kept(self, world: World, token: str) -> None:
        browser = browser_of(world, world.technician)
        world.clock.advance(hours=13)
        page = browser.post(f"/sites/{world.north}/devices/new/battery", {"name": "Evil", "form_owner": token})
        assert (page.status, "unsent" in page.answer.text) == (303, False)

    @pytest.mark.parametrize("unsent", ["x", "x.y", "e30=.0000", ".", "ä.ö"])
    def test_that_we_did_not_seal_is_not_believed(self, world: World, unsent: str) -> None:
        page = Browser(world).sign_in(world.standard, unsent=unsent)
        assert (page.status, page.location) == (303, "/")


def test_every_field_for_a_password_is_one_that_is_not_kept(still_world: World) -> None:
    sessions, found = Sessions(still_world), set()
    for page in MATRIX:
        if page.startswith("GET ") and "static" not in page:
            answer = sessions.ask("admin", page, sessions.shared)
            found |= set(answer.tree.xpath("//input[@type='password']/@name"))
    assert found >= {"password", "old", "new", "again"}
    assert found <= set(SECRETS)
