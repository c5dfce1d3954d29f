"""Administration: users, sites, grants, the log, and how the installation is doing."""

import re
from typing import Any

import pytest

from kilowatch.auth.model import OPERATOR
from kilowatch.errors import Unavailable
from kilowatch.facility.service import Catalogue
from kilowatch.history.engine import HistoryUnavailable
from tests.conftest import World
from tests.pages.browser import Browser, browser_of
from tests.test_rights import sign_in


@pytest.fixture
def database_url(any_database_url: str) -> str:
    return any_database_url


@pytest.fixture
def browser(world: World) -> Browser:
    """The administrator's."""
    return browser_of(world, world.admin)


def user_named(world: World, name: str) -> dict[str, Any]:
    (user,) = world.admin.get("/users", q=name).json()["items"]
    return dict(user)


def actions(world: World) -> list[str]:
    """What the log of everything says was done, the newest first."""
    return [entry["action"] for entry in world.admin.get("/audit").json()["items"]]


class TestNavigation:
    def test_leads_to_it_for_administrators_alone(self, world: World, browser: Browser) -> None:
        assert "/admin" in browser.get("/sites").links()
        assert "/sites/new" in browser.get("/sites").links()
        assert f"/sites/{world.north}/edit" in browser.get(f"/sites/{world.north}").links()
        technicians = browser_of(world, world.technician)
        links = [*technicians.get("/sites").links(), *technicians.get(f"/sites/{world.north}").links()]
        assert [link for link in links if re.match(r"/admin|/sites/new|/sites/\d+/(edit|delete|grants)", link)] == []
        assert f"/sites/{world.north}/audit" in links
        readers = browser_of(world, world.standard).get(f"/sites/{world.north}").links()
        assert f"/sites/{world.north}/audit" not in readers


# ── overview ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class TestOverview:
    def test_tells_that_all_is_well(self, browser: Browser) -> None:
        page = browser.get("/admin")
        assert "All is well." in page.body
        assert page.text("//h2[contains(., 'History')]") == "History answers"
        assert page.faults_of_structure() == []

    def test_is_there_though_the_history_is_not(
        self, world: World, browser: Browser, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def dead() -> None:
            raise Unavailable("no answer")

        monkeypatch.setattr(world.services.history, "check", dead)
        page = browser.get("/admin")
        assert page.status == 200
        assert page.text("//h2[contains(., 'History')]") == "History does not answer"
        assert "readings are neither stored nor shown" in page.body
        assert "All is well." not in page.body

    def test_says_so_where_the_database_does_not_tell_in_time(
        self, world: World, browser: Browser, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def dead() -> None:
            raise Unavailable("no answer")

        for name in ("ask_database", "amounts"):
            monkeypatch.setattr(world.services.operations, name, dead)
        page = browser.get("/admin")
        assert page.status == 200
        assert page.text("//h2[contains(., 'Database')]") == "Database does not answer"
        assert page.body.count("The database did not say in time.") == 2


# ── users ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class TestUsers:
    def test_are_listed_and_found(self, browser: Browser) -> None:
        assert "technician@example.org" in browser.get("/admin/users").body
        found = browser.get("/admin/users", q="NEIGH")
        assert "neighbour@example.org" in found.body
        assert "technician@example.org" not in found.body

    def test_are_listed_in_pages(self, world: World, browser: Browser) -> None:
        for number in range(50):
            world.services.accounts.create_user(
                OPERATOR, email=f"u{number}@example.org", name=f"U{number}", password="a password", is_admin=False
            )
        first = browser.get("/admin/users")
        (following,) = [link for link in first.links() if "cursor=" in link]
        assert "u49@example.org" not in first.body
        assert "u49@example.org" in browser.get(following).body

    def test_are_added_and_may_sign_in(self, world: World, browser: Browser) -> None:
        page = browser.submit("/admin/users/new", name="Ada", email="Ada@Example.org", password="correct horse")
        user = user_named(world, "Ada")
        assert (page.status, page.location) == (303, f"/admin/users/{user['id']}/grants")
        assert (user["email"], user["is_admin"]) == ("ada@example.org", False)
        assert Browser(world).post("/sign-in", {"email": "ada@example.org", "password": "correct horse"}).status == 303
        assert actions(world)[0] == "user_created"

    def test_are_added_once_though_the_form_is_sent_twice(self, world: World, browser: Browser) -> None:
        page = browser.get("/admin/users/new")
        more = {"name": "Ada", "email": "ada@example.org", "password": "correct horse"}
        first, second = (browser.resubmit(page, "/admin/users/new", **more) for _ in range(2))
        assert (first.status, second.status) == (303, 303)
        assert first.location == second.location

    @pytest.mark.parametrize(
        ("field", "value", "told"),
        [
            ("email", "nobody", "Must be an email address"),
            ("email", "standard@example.org", "There is a user with this email already."),
            ("name", "", "Must not be empty."),
            ("password", "short", "Needs at least 8 characters."),
        ],
    )
    def test_have_what_is_wrong_beside_the_field(self, browser: Browser, field: str, value: str, told: str) -> None:
        right = {"name": "Ada", "email": "ada@example.org", "password": "correct horse"}
        page = browser.submit("/admin/users/new", **right | {field: value})
        assert page.status in (409, 422)
        assert told in page.error_of(field)
        assert page.fields("/admin/users/new")["email"] == (value if field == "email" else "ada@example.org")
        assert "correct horse" not in page.answer.text

    def test_are_changed_field_by_field(self, world: World, browser: Browser) -> None:
        path = f"/admin/users/{world.newcomer.id}/edit"
        page = browser.submit(path, name="Nina", is_admin="on")
        assert (page.status, page.location) == (303, "/admin/users")
        user = world.admin.get(f"/users/{world.newcomer.id}").json()
        assert (user["name"], user["is_admin"], user["email"]) == ("Nina", True, "newcomer@example.org")
        assert Browser(world).sign_in(world.newcomer).status == 303  # the password stayed as it was

    def test_get_a_new_password_that_ends_their_sessions(self, world: World, browser: Browser) -> None:
        theirs = browser_of(world, world.newcomer)
        browser.submit(f"/admin/users/{world.newcomer.id}/edit", password="another password")
        assert theirs.get("/account").status == 303
        new = {"email": world.newcomer.email, "password": "another password"}
        assert Browser(world).post("/sign-in", new).status == 303

    def test_that_somebody_else_changed_are_not_overwritten(self, world: World, browser: Browser) -> None:
        path = f"/admin/users/{world.newcomer.id}/edit"
        page = browser.get(path)
        world.admin.patch(f"/users/{world.newcomer.id}", {"name": "Theirs"})
        stale = browser.resubmit(page, path, name="Mine")
        assert (stale.status, "Now stored: Theirs" in stale.body) == (412, True)
        assert stale.fields(path)["name"] == "Mine"
        assert browser.resubmit(stale, path).status == 303
        assert world.admin.get(f"/users/{world.newcomer.id}").json()["name"] == "Mine"

    def test_are_deleted_after_it_was_said_what_goes_along(self, world: World, browser: Browser) -> None:
        metric = world.metric()
        world.technician.post("/subscriptions", {"name": "S", "metric_ids": [metric]})
        world.technician.post("/me/api-keys", {"name": "Gateway"})
        path = f"/admin/users/{world.technician.id}/delete"
        told = browser.get(path).body
        for part in ("1 grant", "1 API key", "1 sign-in", "1 subscription"):
            assert part in told
        assert browser.submit(path).location == "/admin/users"
        assert world.admin.get(f"/users/{world.technician.id}").status_code == 404
        assert actions(world)[0] == "user_deleted"

    def test_keep_their_last_administrator(self, world: World, browser: Browser) -> None:
        path = f"/admin/users/{world.admin.id}"
        refused = browser.submit(f"{path}/delete")
        assert refused.status == 409
        assert "This is the last administrator" in refused.text("//*[@role='alert']")
        demoted = browser.submit(f"{path}/edit", is_admin=None)
        assert demoted.status == 409
        assert "This is the last administrator" in demoted.text("//*[@role='alert']")
        assert world.admin.get(f"/users/{world.admin.id}").json()["is_admin"] is True

    def test_are_told_in_german(self, world: World) -> None:
        german = browser_of(world, world.admin, **{"Accept-Language": "de"})
        refused = german.submit(f"/admin/users/{world.admin.id}/delete")
        assert "Das ist der letzte Administrator" in refused.body
        taken = german.submit("/admin/users/new", name="A", email="standard@example.org", password="a password")
        assert taken.error_of("email") == "Es gibt schon einen Benutzer mit dieser E-Mail."


# ── sites ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class TestSites:
    def test_are_added(self, world: World, browser: Browser) -> None:
        page = browser.submit(
            "/sites/new", name="West", timezone="Europe/Lisbon", latitude="38,7", longitude="-9.1", country="PT"
        )
        (site,) = world.admin.get("/sites", q="west").json()["items"]
        assert (page.status, page.location) == (303, f"/sites/{site['id']}")
        told = (site["slug"], site["timezone"], site["latitude"], site["longitude"], site["country"])
        assert told == ("west", "Europe/Lisbon", 38.7, -9.1, "PT")

    @pytest.mark.parametrize(
        ("field", "value", "told"),
        [
            ("name", " ", "Must not be empty."),
            ("slug", "north", "There is a site with the short name north already."),
            ("slug", "A B", "Small letters, digits and single hyphens only."),
            ("latitude", "91", "Must be at most 90."),
            ("longitude", "east", "Must be a number."),
            ("country", "Portugal", "Two capital letters"),
            ("currency", "eur", "Three capital letters"),
            ("timezone", "Lisbon", "is not a time zone"),
        ],
    )
    def test_have_what_is_wrong_beside_the_field(self, browser: Browser, field: str, value: str, told: str) -> None:
        page = browser.submit("/sites/new", **{"name": "West", "timezone": "UTC"} | {field: value})
        assert page.status in (409, 422)
        assert told in page.error_of(field)
        assert page.fields("/sites/new")[field] == value

    def test_are_changed_and_emptied(self, world: World, browser: Browser) -> None:
        path = f"/sites/{world.north}/edit"
        browser.submit(path, notes="First\nsecond", currency="EUR")
        assert world.admin.get(f"/sites/{world.north}").json()["notes"] == "First\nsecond"
        browser.submit(path, notes="", currency="")
        site = world.admin.get(f"/sites/{world.north}").json()
        assert (site["notes"], site["currency"], site["timezone"]) == (None, None, "Europe/Berlin")

    def test_that_somebody_else_changed_are_not_overwritten(self, world: World, browser: Browser) -> None:
        path = f"/sites/{world.north}/edit"
        page = browser.get(path)
        world.admin.patch(f"/sites/{world.north}", {"notes": "Theirs"})
        stale = browser.resubmit(page, path, notes="Mine")
        assert (stale.status, "Now stored: Theirs" in stale.body) == (412, True)

    def test_are_deleted_after_it_was_said_what_goes_along(self, world: World, browser: Browser) -> None:
        metric = world.metric()
        world.send(metric, ("2026-01-05T10:00:00Z", 1.0), ("2026-01-05T10:01:00Z", 2.0))
        path = f"/sites/{world.north}/delete"
        told = browser.get(path).body
        for part in ("1 device", "1 metric", "2 readings"):
            assert part in told
        page = browser.submit(path)
        assert (page.status, page.location) == (303, "/sites")
        assert "with 2 readings" in browser.follow(page).flash
        assert world.admin.get(f"/sites/{world.north}").status_code == 404
        entry = world.admin.get("/audit").json()["items"][0]
        assert (entry["action"], entry["object"], entry["site_id"]) == ("site_deleted", "north", None)
        assert entry["details"] == {"name": "North", "devices": 1, "metrics": 1, "readings": 2}

    def test_are_not_deleted_if_they_changed_meanwhile(self, world: World, browser: Browser) -> None:
        path = f"/sites/{world.north}/delete"
        page = browser.get(path)
        world.admin.patch(f"/sites/{world.north}", {"notes": "It is needed"})
        answer = browser.resubmit(page, path)
        assert (answer.status, answer.location) == (303, path)
        assert "has changed since you looked" in browser.follow(answer).flash
        assert world.admin.get(f"/sites/{world.north}").status_code == 200


# ── grants ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def grants_of(world: World, name: str) -> dict[int, str]:
    return {grant["site_id"]: grant["role"] for grant in getattr(world, name).get("/me").json()["grants"]}


class TestGrants:
    PATH = "/admin/grants"

    def test_are_a_matrix_with_a_name_for_each_cell(self, world: World, browser: Browser) -> None:
        page = browser.get(self.PATH)
        assert page.fields(self.PATH)[f"grant-{world.technician.id}-{world.north}-technician"] == "technician"
        assert page.fields(self.PATH)[f"grant-{world.technician.id}-{world.south}-none"] == "none"
        names = page.tree.xpath("//select/@aria-label")
        assert "Technician at North" in names
        assert len(set(names)) == len(names) == 5 * 2
        assert page.faults_of_structure() == []

    def test_are_changed_all_at_once(self, world: World, browser: Browser) -> None:
        page = browser.submit(
            self.PATH,
            **{
                f"grant-{world.technician.id}-{world.north}-technician": "none",
                f"grant-{world.technician.id}-{world.south}-none": "standard",
                f"grant-{world.newcomer.id}-{world.south}-none": "technician",
            },
        )
        assert page.status == 303
        assert "3 grants were changed." in browser.follow(page).flash
        assert grants_of(world, "technician") == {world.south: "standard"}
        assert grants_of(world, "newcomer") == {world.south: "technician"}
        entries = world.admin.get("/audit", action="grant_changed", limit=3).json()["items"]
        roles = {entry["details"]["user"]: entry["details"]["changes"]["role"] for entry in entries}
        assert roles["newcomer@example.org"] == {"old": None, "new": "technician"}

    def test_that_stay_as_they_are_are_not_in_the_log(self, world: World, browser: Browser) -> None:
        before = actions(world)
        assert browser.submit(self.PATH).status == 303
        assert actions(world) == before

    def test_that_somebody_else_changed_are_told_and_none_is_saved(self, world: World, browser: Browser) -> None:
        page = browser.get(self.PATH)
        world.grant(world.newcomer, world.south, "standard")
        cell, other = f"grant-{world.newcomer.id}-{world.south}", f"grant-{world.standard.id}-{world.south}"
        answer = browser.resubmit(page, self.PATH, **{f"{cell}-none": "technician", f"{other}-none": "standard"})
        assert answer.status == 409
        assert "Now stored: reads" in answer.error_of(f"{cell}-standard")
        assert answer.fields(self.PATH)[f"{cell}-standard"] == "technician"
        assert answer.fields(self.PATH)[f"{other}-none"] == "standard"
        assert grants_of(world, "standard") == {world.north: "standard"}
        assert browser.resubmit(answer, self.PATH).status == 303
        assert grants_of(world, "newcomer") == {world.south: "technician"}
        assert grants_of(world, "standard") == {world.north: "standard", world.south: "standard"}

    def test_that_are_as_they_are_to_be_by_now_are_no_conflict(self, world: World, browser: Browser) -> None:
        page = browser.get(self.PATH)
        world.grant(world.newcomer, world.south, "standard")
        cell = f"grant-{world.newcomer.id}-{world.south}-none"
        assert browser.resubmit(page, self.PATH, **{cell: "standard"}).status == 303

    def test_of_who_is_gone_are_told(self, world: World, browser: Browser) -> None:
        page = browser.get(self.PATH)
        world.admin.delete(f"/users/{world.newcomer.id}")
        answer = browser.resubmit(page, self.PATH, **{f"grant-{world.newcomer.id}-{world.south}-none": "standard"})
        assert (answer.status, "none was saved" in answer.body) == (409, True)

    def test_of_no_role_are_refused(self, world: World, browser: Browser) -> None:
        cell = f"grant-{world.newcomer.id}-{world.south}-none"
        answer = browser.submit(self.PATH, **{cell: "king"})
        assert (answer.status, "Choose one of the list." in answer.error_of(cell)) == (422, True)

    def test_are_filtered_both_ways(self, world: World, browser: Browser) -> None:
        page = browser.get(self.PATH, q_users="newcomer", q_sites="south")
        fields = page.fields(f"{self.PATH}?q_users=newcomer&q_sites=south")
        assert [name for name in fields if name.startswith("grant-")] == [
            f"grant-{world.newcomer.id}-{world.south}-none"
        ]

    def test_come_in_pages_both_ways(self, world: World, browser: Browser) -> None:
        for number in range(8):
            world.site(f"more-{number}")
        for number in range(25):
            world.services.accounts.create_user(
                OPERATOR, email=f"u{number}@example.org", name=f"U{number}", password="a password", is_admin=False
            )
        first = browser.get(self.PATH)
        assert len(first.tree.xpath("//select")) == 25 * 8
        (users,) = [link for link in first.links() if re.search(r"[?&]users=", link)]
        (sites,) = [link for link in first.links() if re.search(r"[?&]sites=", link)]
        assert "u24@example.org" in browser.get(users).body
        assert "More-7" in browser.get(sites).body

    def test_of_one_site(self, world: World, browser: Browser) -> None:
        path = f"/sites/{world.south}/grants"
        page = browser.submit(path, **{f"grant-{world.newcomer.id}-{world.south}-none": "standard"})
        assert (page.status, page.location) == (303, path)
        assert grants_of(world, "newcomer") == {world.south: "standard"}

    def test_of_one_user(self, world: World, browser: Browser) -> None:
        path = f"/admin/users/{world.newcomer.id}/grants"
        assert browser.get(path).faults_of_structure() == []
        page = browser.submit(path, **{f"grant-{world.newcomer.id}-{world.north}-none": "technician"})
        assert (page.status, page.location) == (303, path)
        assert grants_of(world, "newcomer") == {world.north: "technician"}


# ── the log ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def told_in(browser: Browser, path: str, **asked: str) -> list[str]:
    """What the entries of the log are about."""
    rows = browser.get(path, **asked).tree.xpath("//table//tbody/tr")
    return [row.xpath("string(td[1])").strip() for row in rows]


class TestLog:
    def test_tells_what_was_what_before_and_is_now(self, world: World, browser: Browser) -> None:
        world.admin.patch(f"/sites/{world.north}", {"notes": "New", "latitude": 52.5})
        body = browser.get(f"/sites/{world.north}/audit").body
        assert "Site changed" in body
        assert "Latitude – is now → 52.5" in body  # noqa: RUF001 - as on the page
        assert "admin@example.org" in body

    def test_tells_times_in_the_zone_of_the_site(self, world: World, browser: Browser) -> None:
        assert "2026-01-05 13:00:00 CET" in browser.get(f"/sites/{world.north}/audit").body
        assert "2026-01-05 12:00:00 UTC" in browser.get("/admin/audit").body

    def test_tells_of_users_in_the_log_of_everything_alone(self, world: World, browser: Browser) -> None:
        browser.submit(f"/admin/users/{world.newcomer.id}/edit", name="Nina", password="another password")
        row = browser.get("/admin/audit", action="user_changed")
        assert "newcomer@example.org" in row.body
        assert "Nina" in row.body
        assert "New password" in row.body
        assert "another password" not in row.answer.text
        assert "newcomer@example.org" not in browser.get(f"/sites/{world.north}/audit").body

    def test_is_filtered(self, world: World) -> None:
        world.clock.advance(days=1)
        browser = browser_of(world, world.admin)
        world.technician.http = world.http(sign_in(world, world.technician)["access_token"])
        world.technician.post(f"/sites/{world.north}/devices", {"name": "Roof", "kind": "battery"})
        assert told_in(browser, "/admin/audit", user="TECHNICIAN@") == ["Device added"]
        assert told_in(browser, "/admin/audit", action="device_created") == ["Device added"]
        assert told_in(browser, "/admin/audit", since="2026-01-06") == ["Device added"]
        assert "Device added" not in told_in(browser, "/admin/audit", until="2026-01-05")
        assert told_in(browser, "/admin/audit", since="2026-01-06", until="2026-01-06") == ["Device added"]
        assert "Device added" not in told_in(browser, "/admin/audit", site_id=str(world.south))
        assert told_in(browser, f"/sites/{world.south}/audit") == ["Grant changed", "Site added"]
        assert "No entry is like that." in browser.get("/admin/audit", user="nobody").body

    @pytest.mark.parametrize("day", ["yesterday", "2026-13-01", "9999-12-31"])
    def test_names_a_day_that_is_none(self, browser: Browser, day: str) -> None:
        page = browser.get("/admin/audit", until=day)
        assert (page.status, "Must be a date" in page.body) == (422, True)

    def test_comes_in_pages_that_keep_the_filter(self, world: World, browser: Browser) -> None:
        for number in range(51):
            world.admin.patch(f"/sites/{world.north}", {"notes": f"note {number}"})
        first = browser.get("/admin/audit", action="site_changed")
        (following,) = [link for link in first.links() if "cursor=" in link]
        rest = browser.get(following)
        assert len(rest.tree.xpath("//table//tbody/tr")) == 1
        assert "note 0" in rest.body

    def test_shows_no_html_of_names(self, world: World, browser: Browser) -> None:
        world.admin.patch(f"/sites/{world.north}", {"notes": "<script>alert(1)</script> 100%"})
        page = browser.get("/admin/audit")
        assert "<script>alert(1)" not in page.answer.text
        assert "<script>alert(1)</script> 100%" in page.body

    def test_is_in_the_language_of_the_reader(self, world: World) -> None:
        german = browser_of(world, world.admin, **{"Accept-Language": "de"})
        world.grant(world.newcomer, world.north, "technician")
        told = german.get(f"/sites/{world.north}/audit").body
        assert "Recht geändert" in told
        assert "kein Zugang ist jetzt → Techniker" in told


class TestMessagesOfServices:
    """All are told in the reader's language: the German of some that come about in ways of their own."""

    @pytest.mark.parametrize(
        ("path", "status", "told"),
        [
            ("/admin", 403, "Nur ein Administrator darf das."),
            ("/subscriptions?cursor=x", 422, "beginnen Sie am Anfang"),
            ("/sign-out", 405, "anders benutzt"),
        ],
    )
    def test_on_the_pages_of_errors(self, world: World, path: str, status: int, told: str) -> None:
        page = browser_of(world, world.standard, **{"Accept-Language": "de"}).get(path)
        assert page.status == status
        assert told in page.body

    def test_that_a_store_does_not_answer(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        german = browser_of(world, world.admin, **{"Accept-Language": "de"})

        def dead(*_: object, **__: object) -> None:
            raise HistoryUnavailable

        monkeypatch.setattr(Catalogue, "list_sites", dead)
        page = german.get("/explore")
        assert (page.status, "Der Messwertspeicher antwortet nicht" in page.body) == (503, True)
