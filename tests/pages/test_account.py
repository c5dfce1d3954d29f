"""My account: the password, API keys, and where one is signed in."""

import pytest

from tests.conftest import Person, World
from tests.pages.browser import Browser, browser_of

NEW = "a new password"


@pytest.fixture
def browser(world: World) -> Browser:
    agent = "Mozilla/5.0 (X11; Linux x86_64; rv:133.0) Gecko/20100101 Firefox/133.0"
    return browser_of(world, world.standard, **{"User-Agent": agent})


def is_signed_in(browser: Browser) -> bool:
    return browser.get("/account").status == 200


def change(browser: Browser, person: Person, **fields: str) -> dict[str, str]:
    return {"old": person.password, "new": NEW, "again": NEW, **fields}


class TestPassword:
    def test_is_changed_and_ends_all_other_sign_ins(self, world: World, browser: Browser) -> None:
        other = browser_of(world, world.standard)
        page = browser.submit("/account/password", **change(browser, world.standard))
        assert "Your password was changed" in browser.follow(page).flash
        assert (is_signed_in(browser), is_signed_in(other)) == (True, False)
        assert world.standard.get("/me").status_code == 401
        assert Browser(world).sign_in(world.standard).status == 401
        world.standard.password = NEW
        assert Browser(world).sign_in(world.standard).status == 303

    @pytest.mark.parametrize(
        ("field", "typed", "told"),
        [
            ("old", "wrong", "This is not your password."),
            ("old", "", "This is not your password."),
            ("new", "short", "Needs at least 8 characters."),
            ("new", "x" * 201, "May have at most 200 characters."),
            ("again", "another one", "This is not the same as above."),
        ],
    )
    def test_is_not_changed_by_a_wrong_form(
        self, world: World, browser: Browser, field: str, typed: str, told: str
    ) -> None:
        page = browser.submit("/account/password", **change(browser, world.standard, **{field: typed}))
        assert (page.status, page.error_of(field)) == (422, told)
        assert page.faults_of_structure() == []
        assert world.standard.password not in page.answer.text
        assert Browser(world).sign_in(world.standard).status == 303

    def test_can_not_be_guessed_from_a_session(self, world: World, browser: Browser) -> None:
        fields = change(browser, world.standard, old="wrong")
        told = [browser.submit("/account/password", **fields).status for _ in range(11)]
        assert told == [422] * 10 + [429]
        right = browser.submit("/account/password", **change(browser, world.standard))
        assert right.status == 429


class TestSignIns:
    def test_are_listed_with_the_one_that_asks(self, world: World, browser: Browser) -> None:
        page = browser.get("/account")
        rows = [" ".join(row.itertext()).split() for row in page.tree.xpath("//tbody/tr")]
        assert [row[:2] for row in rows] == [["Firefox", "·"], ["testclient", "API"]]
        assert [" ".join(row).count("this one") for row in rows] == [1, 0]

    def test_are_ended_but_for_this_one(self, world: World, browser: Browser) -> None:
        other, neighbour = browser_of(world, world.standard), browser_of(world, world.neighbour)
        page = browser.submit("/account", to="/account/end-others")
        assert browser.follow(page).flash == "2 other sign-ins were ended."
        assert [is_signed_in(one) for one in (browser, other, neighbour)] == [True, False, True]
        assert world.standard.get("/me").status_code == 401

    def test_that_can_not_be_used_any_more_are_not_listed(self, world: World) -> None:
        browser_of(world, world.standard)
        world.clock.advance(hours=13)
        browser = browser_of(world, world.standard)
        assert len(browser.get("/account").tree.xpath("//tbody/tr")) == 2  # this one, and the API's


class TestApiKeys:
    def test_one_is_shown_once_and_works(self, world: World, browser: Browser) -> None:
        page = browser.submit("/account/keys/new", name="Gateway", scope_read="on", site_id=str(world.north), days="30")
        key = page.text("//code[@class='secret']")
        assert page.status == 200
        assert page.faults_of_structure() == []
        assert world.http(key).get("/sites").status_code == 200
        (stored,) = world.standard.get("/me/api-keys").json()["items"]
        assert (stored["scopes"], stored["site_id"]) == (["ingest", "read"], world.north)
        assert stored["expires_at"] == "2026-02-04T12:00:00Z"
        listed = browser.get("/account/keys")
        assert key not in listed.answer.text
        assert "Gateway" in listed.body
        assert "North" in listed.body
        assert "2026-02-04 12:00:00 UTC" in listed.body

    def test_a_reload_shows_the_same_key_and_makes_no_other(self, world: World, browser: Browser) -> None:
        page = browser.get("/account/keys/new")
        first, again = (browser.resubmit(page, "/account/keys/new", name="Gateway") for _ in range(2))
        assert first.text("//code[@class='secret']") == again.text("//code[@class='secret']")
        assert len(world.standard.get("/me/api-keys").json()["items"]) == 1

    @pytest.mark.parametrize(
        ("fields", "name", "told"),
        [
            ({"name": ""}, "name", "Must not be empty."),
            ({"days": "0"}, "days", "Must be a whole number of days, from 1 to 3650."),
            ({"days": "soon"}, "days", "Must be a whole number of days, from 1 to 3650."),
            ({"site_id": "2"}, "site_id", "There is no such site."),
            ({"site_id": "x"}, "site_id", "Must be a number."),
            ({"scope_ingest": None}, None, "Choose at least one thing that the key may do."),
        ],
    )
    def test_a_wrong_form_says_what_is_wrong(
        self, world: World, browser: Browser, fields: dict[str, str], name: str | None, told: str
    ) -> None:
        page = browser.submit("/account/keys/new", **{"name": "Gateway", **fields})
        assert page.status == 422
        assert (page.error_of(name) if name else page.text("//*[@role='alert']//li")) == told
        assert page.faults_of_structure() == []
        assert world.standard.get("/me/api-keys").json()["items"] == []

    def test_one_is_deleted_when_it_is_confirmed(self, world: World, browser: Browser) -> None:
        made = world.standard.post("/me/api-keys", {"name": "Gateway"})
        world.standard.post("/me/api-keys", {"name": "Other"})
        path = f"/account/keys/{made.json()['id']}/delete"
        assert browser.get(path).heading == "Delete Gateway?"
        assert browser.follow(browser.submit(path)).flash == "The key was deleted."
        assert [key["name"] for key in world.standard.get("/me/api-keys").json()["items"]] == ["Other"]
        assert browser.get(path).status == 404
