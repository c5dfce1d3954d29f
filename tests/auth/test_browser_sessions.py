"""The API asked by the scripts of pages: with the cookie of a browser's session, and by no other site's scripts."""

from typing import Any

import httpx2
import pytest

from tests.conftest import Person, World
from tests.pages.browser import Browser, browser_of

HOST = "http://testserver"
FOREIGN = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Origin": HOST},
    {"Sec-Fetch-Site": ""},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": f"{HOST}.evil.example"},
    {"Origin": f"{HOST}:8443"},
    {"Origin": ""},
]


class Script:
    """What a page of ours can ask of the API, in a browser in which this person is signed in."""

    def __init__(self, world: World, person: Person, **base: str) -> None:
        self.browser: Browser = browser_of(world, person, **base)
        self.token = self.browser.get("/account").fields("/sign-out")["form_token"]

    def get(self, path: str, **headers: str) -> httpx2.Response:
        return self.browser.http.get(f"/api/v1{path}", headers={"Accept": "*/*", **headers})

    def post(self, path: str, json: Any, *, token: str | None = None, **headers: str) -> httpx2.Response:
        """With the session's own form token, unless another is given; `""` for none at all."""
        given = {"X-Form-Token": self.token if token is None else token}
        return self.browser.http.post(f"/api/v1{path}", json=json, headers=(given if token != "" else {}) | headers)


BODY = {"name": "Mine", "metric_ids": [1]}


@pytest.fixture
def script(world: World) -> Script:
    return Script(world, world.technician)


class TestReading:
    def test_is_done_as_whoever_is_signed_in(self, world: World, script: Script) -> None:
        assert script.get("/me").json() == world.technician.get("/me").json()
        assert script.get(f"/sites/{world.south}").status_code == 404

    @pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}, {}])
    def test_by_pages_of_ours_and_from_the_address_bar_works(self, script: Script, headers: dict[str, str]) -> None:
        answer = script.get("/me", **headers)
        assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")

    @pytest.mark.parametrize("headers", FOREIGN)
    def test_by_another_site_is_refused(self, script: Script, headers: dict[str, str]) -> None:
        answer = script.get("/me", **headers)
        assert answer.status_code == 403
        assert "Another site" in answer.json()["detail"]

    def test_ends_with_the_session(self, script: Script) -> None:
        script.browser.post("/sign-out", {"form_token": script.token})
        assert script.get("/me").status_code == 401

    def test_needs_a_cookie_that_is_one_of_ours(self, world: World) -> None:
        for value in ("made-up", "a b", "\u00e4"):
            answer = world.client.get("/api/v1/me", headers=[(b"Cookie", f"kilowatch_session={value}".encode())])
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"

    def test_behind_tls_takes_the_cookie_of_this_host_alone(self, world: World) -> None:
        browser = Browser(world, base_url="https://testserver")
        browser.sign_in(world.technician)
        assert browser.http.get("/api/v1/me").status_code == 200
        token = browser.http.cookies["__Host-kilowatch_session"]
        other = Browser(world, base_url="https://testserver")
        other.http.cookies.set("kilowatch_session", token)
        assert other.http.get("/api/v1/me").status_code == 401


class TestChanging:
    def test_is_done_with_the_form_token_of_the_session(self, world: World, script: Script) -> None:
        body = {"name": "Mine", "metric_ids": [world.metric()]}
        answer = script.post("/subscriptions", body, Origin=HOST)
        assert answer.status_code == 201
        assert world.technician.get("/subscriptions").json()["items"] == [answer.json()]

    def test_takes_readings_too(self, world: World, script: Script) -> None:
        reading = {"metric_id": world.metric(), "timestamp": "2026-01-05T09:30:00Z", "value": 1.5}
        assert script.post("/readings", {"readings": [reading]}).json()["accepted"] == 1
        assert script.post("/readings", {"readings": [reading]}, token="").status_code == 403

    @pytest.mark.parametrize("token", ["", "0" * 64])
    def test_without_the_right_token_is_refused(self, world: World, script: Script, token: str) -> None:
        answer = script.post("/subscriptions", BODY, token=token)
        assert answer.status_code == 403
        assert "X-Form-Token" in answer.json()["detail"]

    def test_with_the_token_of_another_session_is_refused(self, world: World, script: Script) -> None:
        other = Script(world, world.technician)
        assert script.post("/subscriptions", BODY, token=other.token).status_code == 403

    @pytest.mark.parametrize("headers", FOREIGN)
    def test_by_another_site_is_refused_though_it_knows_the_token(
        self, script: Script, headers: dict[str, str]
    ) -> None:
        assert script.post("/subscriptions", BODY, **headers).status_code == 403

    @pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
    def test_by_any_method_needs_the_token(self, world: World, script: Script, method: str) -> None:
        device = world.device()["id"]
        answer = script.browser.http.request(method, f"/api/v1/devices/{device}", json={"model": "x"})
        assert answer.status_code in (403, 405)
        assert world.admin.get(f"/devices/{device}").json()["model"] is None

    def test_of_a_session_that_ended_is_not_told_from_that_of_nobody(self, world: World, script: Script) -> None:
        script.browser.post("/sign-out", {"form_token": script.token})
        script.browser.http.cookies.set("kilowatch_session", "x" * 43)
        assert script.post("/subscriptions", BODY).status_code == 401


class TestBesideAToken:
    def test_the_cookie_does_not_count(self, world: World, script: Script) -> None:
        bearer = world.standard.http.headers["Authorization"]
        assert script.get("/me", Authorization=bearer).json()["email"] == world.standard.email
        for wrong in ("Bearer nonsense", "Basic YTpi", "Bearer", ""):
            assert script.get("/me", Authorization=wrong).status_code == 401

    def test_the_request_may_come_from_anywhere(self, world: World, script: Script) -> None:
        bearer = world.technician.http.headers["Authorization"]
        assert script.get("/me", Authorization=bearer, **FOREIGN[0]).status_code == 200


class TestTheSession:
    def test_is_used_by_what_scripts_ask(self, world: World, script: Script) -> None:
        for _ in range(4):
            world.clock.advance(hours=11)
            assert script.get("/me").status_code == 200

    def test_ends_when_it_was_left_alone(self, world: World, script: Script) -> None:
        world.clock.advance(hours=12, seconds=1)
        assert script.get("/me").status_code == 401

    def test_ends_after_its_days_however_it_is_used(self, world: World, script: Script) -> None:
        for _ in range(14):
            world.clock.advance(hours=11.9)
            assert script.get("/me").status_code == 200
        world.clock.advance(hours=11.9)
        assert script.get("/me").status_code == 401

    def test_is_not_used_by_what_other_sites_ask(self, world: World, script: Script) -> None:
        world.clock.advance(hours=11)
        assert script.get("/me", **FOREIGN[0]).status_code == 403
        world.clock.advance(hours=2)
        assert script.get("/me").status_code == 401
