"""What protects pages: who may open and send which, forged requests, headers, and errors that are pages."""

import re
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest
from fastapi.routing import APIRoute

from kilowatch.app import create_app
from kilowatch.auth.model import OPERATOR, User
from kilowatch.auth.service import user_etag
from kilowatch.balance.portfolio import Portfolio
from kilowatch.config import Settings
from kilowatch.facility.model import Site
from kilowatch.facility.service import site_etag
from kilowatch.pages.routes import router
from tests.conftest import Person, World
from tests.pages.browser import ORIGIN, Browser, Page, browser_of
from tests.test_rights import NEVER_USED, ROLES, sign_in

EVERYONE_READS = "sign-in 404 200 404 200 200"
FOR_TECHNICIANS = "sign-in 404 403 404 200 200"
CHANGES = "sign-in 404 403 404 303 303"
SIGNED_IN = "sign-in 200 200 200 200 200"
ADMINS = "sign-in 403 403 403 403 200"
ADMINS_DO = "sign-in 403 403 403 403 303"
ADMINS_OF_A_SITE = "sign-in 404 403 404 403 200"
ITS_OWNER = "sign-in 404 404 404 200 404"
ANYONE = "200 200 200 200 200 200"

MATRIX = {
    #                                        anonymous, newcomer, standard, neighbour, technician, admin
    "GET /": "sign-in 303 303 303 303 303",
    "GET /static/{name}": ANYONE,
    "GET /sign-in": ANYONE,
    "POST /sign-in": "303 303 303 303 303 303",
    "POST /sign-out": "sign-in 303 303 303 303 303",
    "GET /display": ANYONE,
    "POST /display": "303 303 303 303 303 303",
    "GET /sites": SIGNED_IN,
    "GET /sites/cards": SIGNED_IN,
    "GET /sites/{site_id}": EVERYONE_READS,
    "GET /sites/{site_id}/now": EVERYONE_READS,
    "GET /sites/{site_id}/today": EVERYONE_READS,
    "GET /sites/{site_id}/devices/new": FOR_TECHNICIANS,
    "GET /sites/{site_id}/devices/new/{kind}": FOR_TECHNICIANS,
    "POST /sites/{site_id}/devices/new/{kind}": CHANGES,
    "GET /devices/{device_id}": EVERYONE_READS,
    "GET /devices/{device_id}/edit": FOR_TECHNICIANS,
    "POST /devices/{device_id}/edit": CHANGES,
    "GET /devices/{device_id}/delete": FOR_TECHNICIANS,
    "POST /devices/{device_id}/delete": CHANGES,
    "GET /devices/{device_id}/metrics/new": FOR_TECHNICIANS,
    "POST /devices/{device_id}/metrics/new": CHANGES,
    "GET /metrics/{metric_id}/edit": FOR_TECHNICIANS,
    "POST /metrics/{metric_id}/edit": CHANGES,
    "GET /metrics/{metric_id}/delete": FOR_TECHNICIANS,
    "POST /metrics/{metric_id}/delete": CHANGES,
    "GET /sites/new": ADMINS,
    "POST /sites/new": ADMINS_DO,
    "GET /sites/{site_id}/edit": ADMINS_OF_A_SITE,
    "POST /sites/{site_id}/edit": "sign-in 404 403 404 403 303",
    "GET /sites/{site_id}/delete": ADMINS_OF_A_SITE,
    "POST /sites/{site_id}/delete": "sign-in 404 403 404 403 303",
    "GET /sites/{site_id}/grants": ADMINS_OF_A_SITE,
    "POST /sites/{site_id}/grants": "sign-in 404 403 404 403 303",
    "GET /sites/{site_id}/audit": FOR_TECHNICIANS,
    "GET /admin": ADMINS,
    "GET /admin/users": ADMINS,
    "GET /admin/users/new": ADMINS,
    "POST /admin/users/new": ADMINS_DO,
    "GET /admin/users/{user_id}/edit": ADMINS,
    "POST /admin/users/{user_id}/edit": ADMINS_DO,
    "GET /admin/users/{user_id}/delete": ADMINS,
    "POST /admin/users/{user_id}/delete": ADMINS_DO,
    "GET /admin/users/{user_id}/grants": ADMINS,
    "POST /admin/users/{user_id}/grants": ADMINS_DO,
    "GET /admin/grants": ADMINS,
    "POST /admin/grants": ADMINS_DO,
    "GET /admin/audit": ADMINS,
    "GET /explore": SIGNED_IN,
    "GET /explore/metrics": SIGNED_IN,
    # the subscription that is asked about is the technician's
    "GET /subscriptions": SIGNED_IN,
    "POST /subscriptions/new": "sign-in 422 303 422 303 303",
    "POST /subscriptions/{subscription_id}/metrics": "sign-in 404 404 404 303 404",
    "GET /subscriptions/{subscription_id}/edit": ITS_OWNER,
    "POST /subscriptions/{subscription_id}/edit": "sign-in 404 404 404 303 404",
    "GET /subscriptions/{subscription_id}/delete": ITS_OWNER,
    "POST /subscriptions/{subscription_id}/delete": "sign-in 404 404 404 303 404",
    "GET /account": SIGNED_IN,
    "POST /account/end-others": "sign-in 303 303 303 303 303",
    "GET /account/password": SIGNED_IN,
    "POST /account/password": "sign-in 303 303 303 303 303",
    "GET /account/keys": SIGNED_IN,
    "GET /account/keys/new": SIGNED_IN,
    "POST /account/keys/new": SIGNED_IN,
    # the key that is asked about is the technician's
    "GET /account/keys/{key_id}/delete": ITS_OWNER,
    "POST /account/keys/{key_id}/delete": "sign-in 404 404 404 303 404",
}
PARTS = ("GET /sites/cards", "GET /sites/{site_id}/now", "GET /sites/{site_id}/today", "GET /explore/metrics")
"""Parts of pages, which a page asks for as it changes."""
WITH_A_SESSION = [page for page, row in MATRIX.items() if row.startswith("sign-in")]
POSTS = [page for page in WITH_A_SESSION if page.startswith("POST ")]
WITH_AN_ID = [page for page in WITH_A_SESSION if "_id}" in page]
OF_USERS = [page for page in WITH_AN_ID if "{user_id}" in page]


def pages_there_are() -> list[str]:
    """Every route of the room: its own, and those of the routers that it includes."""
    included = [route.original_router for route in router.routes if hasattr(route, "original_router")]
    routes = [route for of in (router, *included) for route in of.routes if isinstance(route, APIRoute)]
    return [f"{method} {route.path}" for route in routes for method in route.methods or ()]


@dataclass
class Target:
    """A device at a site of its own, and a key of the technician's."""

    site_id: int
    device_id: int
    metric_id: int
    version: int
    key_id: int
    user: User
    site: Site
    subscription_id: int
    kind: str = "battery"
    name: str = ""

    @property
    def user_id(self) -> int:
        return self.user.id

    @classmethod
    def make(cls, world: World) -> "Target":
        site_id = world.site(f"site-{uuid.uuid4().hex[:12]}")
        for role in ("standard", "technician"):
            world.grant(getattr(world, role), site_id, role)
        device = world.device(site_id, kind="battery", metrics=None)
        key = world.technician.post("/me/api-keys", {"name": "Gateway"}).json()["id"]
        metric_id = device["metrics"][0]["id"]
        subscription = {"name": "Mine", "metric_ids": [metric_id]}
        subscription_id = world.technician.post("/subscriptions", subscription).json()["id"]
        style = Browser(world).get("/sign-in").tree.xpath("//link[@rel='stylesheet']/@href")[0]
        email = f"{uuid.uuid4().hex}@example.org"
        user = world.services.accounts.create_user(
            OPERATOR, email=email, name="Somebody", password="a password", is_admin=False
        )
        site = world.services.catalogue.get_site(OPERATOR, site_id)
        name = style.rpartition("/")[2]
        return cls(site_id, device["id"], metric_id, device["version"], key, user, site, subscription_id, name=name)

    def ids(self) -> dict[str, object]:
        """What stands in addresses."""
        return vars(self) | {"user_id": self.user.id}


def fields_for(page: str, target: Target, person: Person) -> dict[str, str]:
    """What a right form would say."""
    version = {"version": str(target.version)}
    return {
        "POST /sign-in": {"email": person.email or "technician@example.org",
                          "password": person.password or "password of technician"},
        "POST /sites/{site_id}/devices/new/{kind}": {"name": "New"},
        "POST /devices/{device_id}/edit": {**version, "name": "Other"},
        "POST /devices/{device_id}/delete": version,
        "POST /devices/{device_id}/metrics/new": {"key": f"k{uuid.uuid4().hex}", "quantity": "power"},
        "POST /metrics/{metric_id}/edit": {**version, "name": "Other"},
        "POST /metrics/{metric_id}/delete": version,
        "POST /sites/new": {"name": "New", "timezone": "UTC"},
        "POST /sites/{site_id}/edit": {"version": site_etag(target.site), "notes": "Other"},
        "POST /sites/{site_id}/delete": {"version": site_etag(target.site)},
        "POST /sites/{site_id}/grants": {f"grant-{target.user.id}-{target.site_id}-none": "technician"},
        "POST /admin/grants": {f"grant-{target.user.id}-{target.site_id}-none": "technician"},
        "POST /admin/users/{user_id}/grants": {f"grant-{target.user.id}-{target.site_id}-none": "technician"},
        "POST /admin/users/new": {"name": "New", "email": f"{uuid.uuid4().hex}@example.org", "password": "a password"},
        "POST /admin/users/{user_id}/edit": {"version": user_etag(target.user), "name": "Other"},
        "POST /admin/users/{user_id}/delete": {"version": user_etag(target.user)},
        "POST /subscriptions/new": {"name": "Mine", "metrics": str(target.metric_id)},
        "POST /subscriptions/{subscription_id}/metrics": {"metrics": str(target.metric_id)},
        "POST /subscriptions/{subscription_id}/edit": {"name": "Other"},
        "POST /account/password": {"old": person.password, "new": person.password, "again": person.password},
        "POST /account/keys/new": {"name": "Gateway", "scope-read": "on"},
    }.get(page, {})  # fmt: skip


class Sessions:
    """A browser for each role."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.shared = Target.make(world)
        self._browsers: dict[str, Browser] = {}

    def of(self, role: str, page: str) -> Browser:
        """A fresh one for what ends sessions."""
        person = getattr(self.world, role)
        if "sign-" in page or "end-others" in page or "password" in page:
            return browser_of(self.world, person)
        browser = self._browsers.get(role)
        if browser is None or (person.id and browser.get("/account").status != 200):
            browser = self._browsers[role] = browser_of(self.world, person)
        return browser

    def ask(self, role: str, page: str, target: Target, **ids: int) -> Page:
        method, template = page.split(" ")
        path = template.format(**target.ids() | ids)
        browser, person = self.of(role, page), getattr(self.world, role)
        if method == "GET":
            return browser.get(path)
        if person.id and ("end-others" in path or "password" in path):  # which end this person's sign-in to the API
            return self._once(browser, person, path, fields_for(page, target, person))
        token = browser.get("/account").tree.xpath("//input[@name='form_token']/@value")
        return browser.post(path, fields_for(page, target, person) | {"form_token": token[0] if token else ""})

    def _once(self, browser: Browser, person: Person, path: str, fields: dict[str, str]) -> Page:
        answer = browser.post(path, fields | browser.get("/account").fields("/sign-out"))
        person.http = self.world.http(sign_in(self.world, person)["access_token"])
        return answer


@pytest.fixture(scope="module")
def sessions(still_world: World) -> Sessions:
    return Sessions(still_world)


def test_the_matrix_has_every_page_and_form_and_no_other() -> None:
    assert sorted(MATRIX) == sorted(pages_there_are())


@pytest.mark.parametrize("page", MATRIX)
def test_each_role_may_do_what_the_matrix_says(sessions: Sessions, page: str) -> None:
    expected = dict(zip(ROLES, MATRIX[page].split(), strict=True))
    got = {}
    for role, status in expected.items():
        harmless = page.startswith("GET ") or status in ("403", "404", "sign-in")
        answer = sessions.ask(role, page, sessions.shared if harmless else Target.make(sessions.world))
        sent_to_sign_in = answer.status == 303 and answer.location.startswith("/sign-in?")
        is_first_page = page == "GET /" and answer.location == "/sign-in"
        is_first_page |= page == "POST /sign-out" and role == "anonymous" and answer.location.startswith("/sign-in")
        got[role] = "sign-in" if sent_to_sign_in or is_first_page else str(answer.status)
        if answer.status != 303 and "static" not in page:
            is_part = page in PARTS and answer.status == 200
            assert answer.faults_of_structure(is_part=is_part) == [], (role, page)
    assert got == expected


@pytest.mark.parametrize("page", WITH_AN_ID)
@pytest.mark.parametrize("role", ["newcomer", "neighbour"])
def test_a_foreign_id_and_a_never_used_one_look_the_same(sessions: Sessions, role: str, page: str) -> None:
    parameter = re.findall(r"\{(\w+_id)\}", page)[0]
    foreign = sessions.ask(role, page, sessions.shared)
    never_used = sessions.ask(role, page, sessions.shared, **{parameter: NEVER_USED})
    assert foreign.status == never_used.status == (403 if page in OF_USERS else 404)

    def as_seen(answer: Page, number: int) -> tuple[str, dict[str, str]]:
        """All but the request's own id, and the address, which the link to the choice of language leads back to."""
        headers = {name: value for name, value in answer.answer.headers.items() if name != "x-request-id"}
        headers["content-length"] = ""
        return answer.answer.text.replace(f"/{number}", "/ID"), headers

    asked = getattr(sessions.shared, parameter)
    assert as_seen(foreign, asked) == as_seen(never_used, NEVER_USED)


class TestForgedForms:
    @pytest.mark.parametrize("page", POSTS)
    def test_of_another_session_are_refused(self, sessions: Sessions, page: str) -> None:
        target, path = sessions.shared, page.split(" ")[1].format(**sessions.shared.ids())
        browser = browser_of(sessions.world, sessions.world.technician)
        strange = browser_of(sessions.world, sessions.world.technician).get("/account").fields("/sign-out")
        fields = fields_for(page, target, sessions.world.technician)
        for token in ({}, {"form_token": ""}, {"form_token": "0" * 64}, strange):
            answer = browser.post(path, fields | token)
            assert (answer.status, "not sent by a page" in answer.body) == (403, True)
        assert sessions.world.technician.get(f"/devices/{target.device_id}").status_code == 200

    @pytest.mark.parametrize("page", POSTS)
    @pytest.mark.parametrize(
        "headers",
        [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"},
         {"Sec-Fetch-Site": "same-site"}, {"Origin": f"{ORIGIN}.evil.example"}],
    )  # fmt: skip
    def test_of_another_site_are_refused_though_they_know_the_token(
        self, sessions: Sessions, page: str, headers: dict[str, str]
    ) -> None:
        target = sessions.shared
        browser = sessions.of("technician", "")
        fields = fields_for(page, target, sessions.world.technician) | browser.get("/account").fields("/sign-out")
        assert browser.post(page.split(" ")[1].format(**target.ids()), fields, **headers).status == 403

    @pytest.mark.parametrize("path", ["/sign-in", "/display"])
    @pytest.mark.parametrize("headers", [{}, {"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
    def test_without_a_session_need_an_origin_of_ours(
        self, sessions: Sessions, path: str, headers: dict[str, str]
    ) -> None:
        person = sessions.world.technician
        fields = {"email": person.email, "password": person.password, "theme": "dark"}
        browser = Browser(sessions.world)
        answer = browser.http.post(path, data=fields, headers=headers)
        assert (answer.status_code, len(browser.http.cookies)) == (403, 0)

    def test_a_page_is_opened_from_other_sites_as_any(self, sessions: Sessions) -> None:
        browser = sessions.of("technician", "")
        answer = browser.http.get("/sites", headers={"Sec-Fetch-Site": "cross-site"})
        assert answer.status_code == 200


class TestHeaders:
    def test_let_a_page_load_and_run_files_of_ours_only(self, sessions: Sessions) -> None:
        for page in (Browser(sessions.world).get("/sign-in"), sessions.of("technician", "").get("/nothing-here")):
            headers = page.answer.headers
            policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
            assert policy["default-src"] == "'none'"
            assert policy["frame-ancestors"] == "'none'"
            assert policy["script-src"] == policy["connect-src"] == "'self'"
            assert "unsafe" not in headers["content-security-policy"]
            assert headers["x-frame-options"] == "DENY"
            assert headers["referrer-policy"] == "same-origin"
            assert headers["cache-control"] == "no-store"

    def test_let_files_be_kept_for_ever_by_names_that_change_with_them(self, sessions: Sessions) -> None:
        browser = Browser(sessions.world)
        page = browser.get("/sign-in")
        addresses = {str(a) for a in page.tree.xpath("//link/@href | //img/@src | //script/@src")}
        assert any(address.endswith(".js") for address in addresses), "run scripts/assets first"
        for address in addresses:
            file = browser.http.get(address)
            assert re.fullmatch(r"/static/\w+\.([0-9a-f]{16}\.(css|svg)|[0-9A-Z]{8}\.(css|js))", address)
            assert (file.status_code, file.headers.get_list("cache-control")) == (
                200,
                ["public, max-age=31536000, immutable"],
            )
        assert browser.get("/static/style.0000000000000000.css").status == 404
        assert browser.get("/static/manifest.json").status == 404
        assert browser.get("/static/..%2Fwords.py").status == 404


class TestErrors:
    def test_are_pages_for_browsers_and_problems_for_programs(self, sessions: Sessions) -> None:
        browser = Browser(sessions.world)
        page = browser.get("/nothing-here")
        assert (page.status, page.heading, page.faults_of_structure()) == (404, "There is no such page", [])
        for path, accept in (("/nothing-here", "*/*"), ("/api/v1/nothing", "text/html"), ("/sites", "*/*")):
            answer = browser.http.get(path, headers={"Accept": accept})
            assert answer.headers["content-type"] == "application/problem+json"

    @pytest.mark.parametrize("path", ["/sites/0", "/sites/abc", "/devices/99999999999999999999", "/metrics/-1/edit"])
    def test_an_address_that_can_be_none_is_no_page(self, sessions: Sessions, path: str) -> None:
        assert sessions.of("technician", "").get(path).status == 404

    @pytest.mark.parametrize("query", [{"page": "0"}, {"q": "x" * 500}, {"q": "\x00"}])
    def test_a_question_that_can_be_none_is_told(self, sessions: Sessions, query: dict[str, str]) -> None:
        page = sessions.of("technician", "").get("/sites", **query)
        assert (page.status, page.heading) == (422, "Something in this address is wrong")

    def test_a_method_that_an_address_does_not_have_is_told(self, sessions: Sessions) -> None:
        assert sessions.of("technician", "").get("/sign-out").status == 405

    def test_in_the_language_of_the_reader(self, sessions: Sessions) -> None:
        page = Browser(sessions.world, **{"Accept-Language": "de"}).get("/nothing-here")
        assert page.heading == "Diese Seite gibt es nicht"

    def test_what_nobody_foresaw_is_told_with_the_requests_id_and_nothing_else(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object, **__: object) -> None:
            raise RuntimeError("the secret of it all")

        browser = browser_of(world, world.technician)
        monkeypatch.setattr(Portfolio, "overview", broken)
        page = browser.get("/sites")
        assert (page.status, page.heading) == (500, "Something went wrong on our side")
        assert page.answer.headers["x-request-id"] in page.body
        assert "secret" not in page.answer.text

    def test_a_flash_that_is_not_ours_is_not_shown(self, sessions: Sessions) -> None:
        browser = Browser(sessions.world)
        for value in ("x", "x.y", "WyJkb25lIiwgIkhpIl0=.0000", ".", "ä"):
            answer = browser.http.get(
                "/sign-in", headers=[(b"Cookie", f"kilowatch_flash={value}".encode()), (b"Accept", b"text/html")]
            )
            assert (answer.status_code, "flash" in answer.text) == (200, False)


NONSENSE = [
    "\x00",
    "\ud800",
    "<script>alert(1)</script>",
    "9" * 400,
    "-1",
    "%s%(x)s{{7*7}}",
    "NaN",
    "null",
    "[]",
    "\r\n",
]


@pytest.mark.parametrize("page", [page for page in POSTS if "delete" not in page and "sign-out" not in page])
def test_no_nonsense_in_a_form_is_an_error_of_ours(sessions: Sessions, page: str) -> None:
    """Each field in turn says each thing; the answer is a page that says what is wrong, or does it."""
    target = Target.make(sessions.world)
    path = page.split(" ")[1].format(**target.ids())
    is_ones_own = "{subscription_id}" in page
    browser = browser_of(sessions.world, sessions.world.technician if is_ones_own else sessions.world.admin)
    has_a_page = page.replace("POST", "GET") in MATRIX
    form = browser.get(path).fields(path) if has_a_page else {}
    right = form | fields_for(page, target, sessions.world.admin) | browser.get("/account").fields("/sign-out")
    right.pop("old", None)
    cell = f"grant-{target.user.id}-{target.site_id}-none"
    right = {name: value for name, value in right.items() if name == cell or not name.startswith("grant-")}
    for name in right.keys() - {"form_token", "form_owner"}:
        for value in NONSENSE:
            sent = right | {name: value.encode(errors="replace").decode()}
            answer = browser.post(path, sent)
            assert answer.status in (200, 303, 409, 412, 422, 429), (name, value)
            assert "<script>alert(1)" not in answer.answer.text


def test_pages_are_not_in_the_apis_document() -> None:
    paths = create_app(Settings(data_dir=Path("unused"))).openapi()["paths"]
    assert [path for path in paths if not path.startswith(("/api/", "/health/", "/write"))] == []
