"""Signing in and out in a browser: sessions, their limits, and what protects them."""

from datetime import timedelta

import pytest
from sqlalchemy import text

from tests.conftest import World
from tests.pages.browser import ORIGIN, Browser, Page, browser_of

SESSION = "kilowatch_session"


@pytest.fixture
def database_url(any_database_url: str) -> str:
    return any_database_url


def is_signed_in(browser: Browser) -> bool:
    return browser.get("/account").status == 200


class TestSignIn:
    def test_leads_to_the_sites(self, world: World) -> None:
        browser = Browser(world)
        page = browser.sign_in(world.standard)
        assert (page.status, page.location) == (303, "/")
        assert browser.follow(page).location == "/sites"

    def test_comes_first_and_then_the_page_that_was_asked_for(self, world: World) -> None:
        browser = Browser(world)
        asked = browser.get(f"/sites/{world.north}", q="a b", kind="battery")
        assert asked.location == f"/sign-in?next=%2Fsites%2F{world.north}%3Fq%3Da%2Bb%26kind%3Dbattery"
        page = browser.resubmit(
            browser.follow(asked), "/sign-in", email=world.standard.email, password=world.standard.password
        )
        assert page.location == f"/sites/{world.north}?q=a+b&kind=battery"

    @pytest.mark.parametrize(
        "onward",
        ["https://evil.example", "//evil.example", "/\\evil.example", "\\\\evil.example", "/\t/evil.example",
         "javascript:alert(1)", "/ok\r\nSet-Cookie: a=b", " //evil.example", "", "sites"],
    )  # fmt: skip
    def test_leads_to_no_other_site(self, world: World, onward: str) -> None:
        browser = Browser(world)
        assert browser.get("/sign-in", next=onward).fields("/sign-in")["next"] == "/"
        page = browser.sign_in(world.standard, next=onward)
        assert (page.status, page.location) == (303, "/")

    def test_answers_a_wrong_password_and_an_unknown_email_alike(self, world: World) -> None:
        wrong = Browser(world).post("/sign-in", {"email": world.standard.email, "password": "wrong"})
        unknown = Browser(world).post("/sign-in", {"email": "nobody@example.org", "password": "wrong"})
        assert (wrong.status, unknown.status) == (401, 401)
        assert "The email or the password is wrong." in wrong.body
        assert wrong.answer.text.replace(world.standard.email, "") == unknown.answer.text.replace(
            "nobody@example.org", ""
        )

    def test_keeps_the_email_and_not_the_password(self, world: World) -> None:
        page = Browser(world).post("/sign-in", {"email": "ada@example.org", "password": "not this one"})
        assert page.fields("/sign-in")["email"] == "ada@example.org"
        assert "not this one" not in page.answer.text
        assert page.faults_of_structure() == []

    @pytest.mark.parametrize("email", ["a\x00@example.org", "x" * 300, "", "\ud800".encode(errors="replace").decode()])
    def test_refuses_what_can_be_no_email(self, world: World, email: str) -> None:
        assert Browser(world).post("/sign-in", {"email": email, "password": "x"}).status == 401
        assert Browser(world).post("/sign-in", {}).status == 401

    def test_has_the_same_limit_of_attempts_as_the_api(self, world: World) -> None:
        email, browser = world.standard.email, Browser(world)
        for _ in range(5):
            assert world.anonymous.post("/auth/token", data={"username": email, "password": "x"}).status_code == 401
            assert browser.post("/sign-in", {"email": email, "password": "x"}).status == 401
        refused = browser.sign_in(world.standard)
        assert (refused.status, refused.answer.headers["retry-after"]) == (429, "900")
        assert "Too many failed sign-ins" in refused.body
        world.clock.advance(minutes=16)
        assert browser.sign_in(world.standard).status == 303

    def test_makes_a_new_session_and_ends_the_one_before(self, world: World) -> None:
        browser = browser_of(world, world.standard)
        before = browser.http.cookies[SESSION]
        thief = Browser(world)
        thief.http.cookies.set(SESSION, before)
        browser.sign_in(world.standard)
        assert browser.http.cookies[SESSION] != before
        assert (is_signed_in(browser), is_signed_in(thief)) == (True, False)

    def test_takes_no_session_that_somebody_else_thought_of(self, world: World) -> None:
        browser = Browser(world)
        browser.http.cookies.set(SESSION, "chosen-by-an-attacker")
        browser.sign_in(world.standard)
        thief = Browser(world)
        thief.http.cookies.set(SESSION, "chosen-by-an-attacker")
        assert not is_signed_in(thief)

    def test_sets_a_cookie_that_scripts_and_other_sites_do_not_reach(self, world: World) -> None:
        (cookie,) = Browser(world).sign_in(world.standard).answer.headers.get_list("set-cookie")
        told = {part.strip().lower() for part in cookie.split(";")[1:]}
        assert told == {"httponly", "path=/", "samesite=lax"}

    def test_behind_tls_the_cookie_is_for_tls_and_this_host_alone(self, world: World) -> None:
        browser = Browser(world, base_url="https://testserver")
        (cookie,) = browser.sign_in(world.standard).answer.headers.get_list("set-cookie")
        assert cookie.startswith("__Host-kilowatch_session=")
        assert {part.strip().lower() for part in cookie.split(";")[1:]} == {
            "httponly",
            "path=/",
            "samesite=lax",
            "secure",
        }
        assert is_signed_in(browser)

    def test_keeps_nothing_of_the_cookie_but_a_hash(self, world: World) -> None:
        token = browser_of(world, world.standard).http.cookies[SESSION]
        with world.services.database.read() as connection:
            rows = connection.execute(text("SELECT token_hash FROM page_sessions")).scalars().all()
        assert len(rows) == 1
        assert token not in rows[0]


class TestSession:
    def test_ends_when_it_is_left_alone(self, world: World) -> None:
        browser = browser_of(world, world.standard)
        world.clock.advance(hours=11, minutes=59)
        assert is_signed_in(browser)
        world.clock.advance(hours=11, minutes=59)
        assert is_signed_in(browser)
        world.clock.advance(hours=12)
        assert not is_signed_in(browser)

    def test_ends_after_its_time_however_it_is_used(self, world: World) -> None:
        browser = browser_of(world, world.standard)
        began = world.clock.now
        while world.clock.now - began < timedelta(days=7):
            assert is_signed_in(browser)
            world.clock.advance(hours=6)
        ended = browser.get("/account")
        assert ended.location == "/sign-in?next=%2Faccount"
        assert SESSION not in browser.http.cookies

    def test_has_a_page_sign_in_as_a_whole_when_a_part_of_it_is_asked_for_after_the_end(self, world: World) -> None:
        browser = Browser(world)
        asks = {"HX-Request": "true", "HX-Current-URL": f"{ORIGIN}/sites?q=a", "Accept": "text/html"}
        answer = browser.http.get(f"/sites/{world.north}", headers=asks)
        assert (answer.status_code, answer.headers["hx-redirect"]) == (401, "/sign-in?next=%2Fsites%3Fq%3Da")
        elsewhere = browser.http.get(
            "/sites", headers=asks | {"HX-Current-URL": "https://elsewhere.example//x.example/y"}
        )
        assert elsewhere.headers["hx-redirect"] == "/sign-in"

    def test_ends_with_signing_out(self, world: World) -> None:
        browser = browser_of(world, world.standard)
        thief = Browser(world)
        thief.http.cookies.set(SESSION, browser.http.cookies[SESSION])
        page = browser.submit("/account", to="/sign-out")
        assert browser.follow(page).flash == "You are signed out."
        assert (is_signed_in(browser), is_signed_in(thief)) == (False, False)

    def test_ends_with_the_password_and_the_user(self, world: World) -> None:
        for name, end in (("ada", "password"), ("bob", "user")):
            person = world.person(name)
            browser = browser_of(world, person)
            assert is_signed_in(browser)
            if end == "password":
                world.admin.patch(f"/users/{person.id}", {"password": "another password"})
            else:
                world.admin.delete(f"/users/{person.id}")
            assert not is_signed_in(browser)

    def test_outlives_sign_ins_to_the_api_and_is_forgotten_in_the_end(self, world: World) -> None:
        browser = browser_of(world, world.standard)
        world.anonymous.post("/auth/token", data={"username": world.admin.email, "password": world.admin.password})
        assert is_signed_in(browser)
        world.clock.advance(days=8)
        browser_of(world, world.admin)
        with world.services.database.read() as connection:
            assert connection.execute(text("SELECT count(*) FROM page_sessions")).scalar() == 1

    def test_is_no_bearer_token_for_the_api(self, world: World) -> None:
        token = browser_of(world, world.admin).http.cookies[SESSION]
        assert world.http(token).get("/me").status_code == 401

    def test_that_ended_leads_back_to_the_form_that_was_sent(self, world: World) -> None:
        browser = browser_of(world, world.technician)
        path = f"/sites/{world.north}/devices/new/battery"
        page = browser.get(path)
        world.clock.advance(days=1)
        answer = browser.resubmit(page, path, name="Cellar")
        assert (answer.status, answer.fields("/sign-in")["next"]) == (401, path)


class TestDisplay:
    def test_language_follows_the_browser_until_one_is_chosen(self, world: World) -> None:
        german = Browser(world, **{"Accept-Language": "fr, de-AT;q=0.8, en;q=0.5"})
        assert german.get("/sign-in").heading == "Anmelden"
        assert german.get("/sign-in").tree.get("lang") == "de"
        assert german.submit("/display", language="en").location == "/"
        assert german.get("/sign-in").heading == "Sign in"

    @pytest.mark.parametrize(
        "accepted", ["", "xx", "de;q=0", "*", ";;;,,q=", "de;q=nonsense;q=1" * 50, "en-GB, de;q=0.9"]
    )
    def test_language_is_english_where_nothing_better_is_known(self, world: World, accepted: str) -> None:
        if accepted.startswith("de;q=nonsense"):
            assert Browser(world, **{"Accept-Language": accepted}).get("/sign-in").status == 200
        else:
            assert Browser(world, **{"Accept-Language": accepted}).get("/sign-in").heading == "Sign in"

    def test_theme_is_kept_and_leads_back(self, world: World) -> None:
        browser = Browser(world)
        assert browser.get("/sign-in").tree.get("data-theme") == "system"
        page: Page = browser.get("/display", next="/sign-in?next=%2Faccount")
        assert browser.resubmit(page, "/display", theme="dark").location == "/sign-in?next=%2Faccount"
        assert browser.get("/sign-in").tree.get("data-theme") == "dark"

    def test_nonsense_changes_nothing(self, world: World) -> None:
        browser = Browser(world)
        page = browser.post("/display", {"theme": "<script>", "language": "xx", "next": "//evil.example"})
        assert (page.location, len(browser.http.cookies)) == ("/", 0)
