"""Who may do what: every operation of the OpenAPI document, as every kind of caller, on both databases."""

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlencode

import httpx2
import pytest
from fastapi.testclient import TestClient

from kilowatch.app import create_app
from kilowatch.config import Settings
from tests.conftest import Person, World

ROLES = ("anonymous", "newcomer", "standard", "neighbour", "technician", "admin")
"""`standard` and `technician` have their roles at the site that is asked about, `neighbour` is technician elsewhere.
Subscriptions and API keys that are asked about are the technician's."""

EVERYONE_READS = "401 404 200 404 200 200"
FOR_TECHNICIANS = "401 404 403 404 200 200"
ADMINS_CHANGE_A_SITE = "401 404 403 404 403 200"
ADMINS = "401 403 403 403 403 200"
SIGNED_IN = "401 200 200 200 200 200"
ITS_OWNER = "401 404 404 404 200 404"
ANYONE = "200 200 200 200 200 200"

MATRIX = {
    #                                              anonymous, newcomer, standard, neighbour, technician, admin
    "POST /api/v1/auth/token": ANYONE,
    "POST /api/v1/auth/refresh": ANYONE,
    "POST /api/v1/auth/logout": "401 204 204 204 204 204",
    "GET /api/v1/me": SIGNED_IN,
    "GET /api/v1/me/api-keys": SIGNED_IN,
    "POST /api/v1/me/api-keys": "401 201 201 201 201 201",
    "DELETE /api/v1/me/api-keys/{key_id}": "401 404 404 404 204 404",
    "GET /api/v1/users": ADMINS,
    "POST /api/v1/users": "401 403 403 403 403 201",
    "GET /api/v1/users/{user_id}": ADMINS,
    "PATCH /api/v1/users/{user_id}": ADMINS,
    "DELETE /api/v1/users/{user_id}": "401 403 403 403 403 204",
    "GET /api/v1/audit": ADMINS,
    "GET /api/v1/operations": ADMINS,
    "GET /api/v1/device-kinds": SIGNED_IN,
    "GET /api/v1/sites": SIGNED_IN,
    "POST /api/v1/sites": "401 403 403 403 403 201",
    "GET /api/v1/sites/{site_id}": EVERYONE_READS,
    "PATCH /api/v1/sites/{site_id}": ADMINS_CHANGE_A_SITE,
    "DELETE /api/v1/sites/{site_id}": ADMINS_CHANGE_A_SITE,
    "GET /api/v1/sites/{site_id}/audit": FOR_TECHNICIANS,
    "GET /api/v1/sites/{site_id}/grants": ADMINS_CHANGE_A_SITE,
    "PUT /api/v1/sites/{site_id}/grants/{user_id}": ADMINS_CHANGE_A_SITE,
    "DELETE /api/v1/sites/{site_id}/grants/{user_id}": "401 404 403 404 403 204",
    "GET /api/v1/sites/{site_id}/devices": EVERYONE_READS,
    "POST /api/v1/sites/{site_id}/devices": "401 404 403 404 201 201",
    "GET /api/v1/sites/{site_id}/latest": EVERYONE_READS,
    "GET /api/v1/sites/{site_id}/flow": EVERYONE_READS,
    "GET /api/v1/sites/{site_id}/balance": EVERYONE_READS,
    "GET /api/v1/devices/{device_id}": EVERYONE_READS,
    "PATCH /api/v1/devices/{device_id}": FOR_TECHNICIANS,
    "DELETE /api/v1/devices/{device_id}": FOR_TECHNICIANS,
    "GET /api/v1/devices/{device_id}/latest": EVERYONE_READS,
    "GET /api/v1/devices/{device_id}/metrics": EVERYONE_READS,
    "POST /api/v1/devices/{device_id}/metrics": "401 404 403 404 201 201",
    "GET /api/v1/metrics": SIGNED_IN,
    "GET /api/v1/metrics/{metric_id}": EVERYONE_READS,
    "PATCH /api/v1/metrics/{metric_id}": FOR_TECHNICIANS,
    "DELETE /api/v1/metrics/{metric_id}": FOR_TECHNICIANS,
    "DELETE /api/v1/metrics/{metric_id}/readings": FOR_TECHNICIANS,
    "GET /api/v1/metrics/{metric_id}/latest": EVERYONE_READS,
    "GET /api/v1/metrics/{metric_id}/history": EVERYONE_READS,
    "GET /api/v1/latest": EVERYONE_READS,
    "GET /api/v1/history": EVERYONE_READS,
    "GET /api/v1/stream": EVERYONE_READS,
    # a metric that one can't see is reported as an unknown one, in a report that takes nothing
    "POST /api/v1/readings": "401 200 403 200 200 200",
    # InfluxDB's clients are told so by a 400
    "POST /api/v2/write": "401 400 403 400 204 204",
    "POST /write": "401 400 403 400 204 204",
    "GET /api/v1/subscriptions": SIGNED_IN,
    # naming a metric that one can't see is 422, as for one that never was
    "POST /api/v1/subscriptions": "401 422 201 422 201 201",
    "GET /api/v1/subscriptions/{subscription_id}": ITS_OWNER,
    "PATCH /api/v1/subscriptions/{subscription_id}": ITS_OWNER,
    "DELETE /api/v1/subscriptions/{subscription_id}": "401 404 404 404 204 404",
    "GET /api/v1/subscriptions/{subscription_id}/latest": ITS_OWNER,
    "GET /api/v1/subscriptions/{subscription_id}/history": ITS_OWNER,
    "GET /api/v1/subscriptions/{subscription_id}/stream": ITS_OWNER,
    "PUT /api/v1/subscriptions/{subscription_id}/webhook": ITS_OWNER,
    "GET /api/v1/subscriptions/{subscription_id}/webhook": ITS_OWNER,
    "DELETE /api/v1/subscriptions/{subscription_id}/webhook": "401 404 404 404 204 404",
    "GET /api/v1/subscriptions/{subscription_id}/webhook/deliveries": ITS_OWNER,
    "GET /health/live": ANYONE,
    "GET /health/ready": ANYONE,
}

PUBLIC = {operation for operation, row in MATRIX.items() if row == ANYONE}
FOR_SIGN_INS_ALONE = {
    "POST /api/v1/auth/logout",
    "POST /api/v1/me/api-keys",
    "DELETE /api/v1/me/api-keys/{key_id}",
}
# what a webhook is sent is read, and where to is written: tests/webhooks has a key with both
FOR_MORE_THAN_A_SCOPE = {*FOR_SIGN_INS_ALONE, "PUT /api/v1/subscriptions/{subscription_id}/webhook"}
OF_NAMED_METRICS = ["GET /api/v1/latest", "GET /api/v1/history", "GET /api/v1/stream"]
"""What they are about stands in the query."""
OF_A_SITE = [op for op in MATRIX if any(part in op for part in ("{site_id}", "{device_id}", "{metric_id}"))]
OF_A_SITE += OF_NAMED_METRICS
WITH_AN_ID = [op for op in MATRIX if "{" in op]
NEVER_USED = 2_000_000_000
WINDOW = {"start": "2026-01-05T00:00:00Z", "end": "2026-01-05T02:00:00Z", "resolution": "1h"}
POWER = {"key": "power", "quantity": "power", "unit": "kW"}
HEAT = {"key": "temperature", "quantity": "temperature", "unit": "°C"}


def documented_operations() -> list[str]:
    """Every operation of the document, as `METHOD /path`."""
    paths: dict[str, Any] = create_app(Settings(data_dir=Path("unused"))).openapi()["paths"]
    return [f"{method.upper()} {path}" for path, item in paths.items() for method in item]


@dataclass
class Target:
    """What an operation is asked about: one of each kind, at a site of its own."""

    site_id: int
    device_id: int
    metric_id: int
    technician: Person
    subscription_id: int = 0
    user_id: int = 0
    key_id: int = 0
    refresh_token: str = ""
    site: str = ""
    device: str = ""

    @classmethod
    def make(cls, world: World, operation: str = "") -> "Target":
        """A site with a device; and whatever else the operation is about."""
        name = uuid.uuid4().hex[:12]
        site_id = world.site(f"site-{name}")
        for role in ("standard", "technician"):
            world.grant(getattr(world, role), site_id, role)
        device = world.device(site_id, metrics=[POWER, HEAT])
        target = cls(site_id, device["id"], device["metrics"][0]["id"], world.technician)
        target.site, target.device = f"site-{name}", device["slug"]
        if not operation or "{subscription_id}" in operation:
            subscription = {"name": name, "metric_ids": [target.metric_id]}
            target.subscription_id = world.technician.post("/subscriptions", subscription).json()["id"]
        if not operation or "/webhook" in operation:
            path = f"/subscriptions/{target.subscription_id}/webhook"
            assert world.technician.put(path, BODIES[PUT_WEBHOOK](target)).status_code == 201
        if not operation or "{key_id}" in operation:
            target.key_id = world.technician.post("/me/api-keys", {"name": name}).json()["id"]
        if not operation or "{user_id}" in operation or "refresh" in operation:
            user = world.person(f"user-{name}")
            world.grant(user, site_id, "standard")
            target.user_id, target.refresh_token = user.id, sign_in(world, user)["refresh_token"]
        return target


def sign_in(world: World, person: Person) -> dict[str, Any]:
    answer = world.anonymous.post("/auth/token", data={"username": person.email, "password": person.password})
    tokens: dict[str, Any] = answer.json()
    return tokens


PUT_WEBHOOK = "PUT /api/v1/subscriptions/{subscription_id}/webhook"
BODIES: dict[str, Callable[[Target], dict[str, Any]]] = {
    "POST /api/v1/auth/refresh": lambda target: {"refresh_token": target.refresh_token},
    "POST /api/v1/me/api-keys": lambda _: {"name": "Gateway"},
    "POST /api/v1/users": lambda _: {
        "email": f"{uuid.uuid4().hex}@example.org",
        "name": "Ada",
        "password": "correct horse",
    },
    "PATCH /api/v1/users/{user_id}": lambda _: {"name": "Ada L."},
    "POST /api/v1/sites": lambda _: {"name": f"Site {uuid.uuid4().hex}"},
    "PATCH /api/v1/sites/{site_id}": lambda _: {"notes": "changed"},
    "PUT /api/v1/sites/{site_id}/grants/{user_id}": lambda _: {"role": "technician"},
    "POST /api/v1/sites/{site_id}/devices": lambda _: {"name": "Roof", "kind": "pv_array"},
    "PATCH /api/v1/devices/{device_id}": lambda _: {"manufacturer": "changed"},
    "POST /api/v1/devices/{device_id}/metrics": lambda _: {"key": f"k{uuid.uuid4().hex}", "quantity": "power"},
    "PATCH /api/v1/metrics/{metric_id}": lambda _: {"name": "changed"},
    "POST /api/v1/readings": lambda target: {
        "readings": [{"metric_id": target.metric_id, "timestamp": "2026-01-05T09:30:00Z", "value": 1.5}]
    },
    "POST /api/v1/subscriptions": lambda target: {"name": "Mine", "metric_ids": [target.metric_id]},
    "PATCH /api/v1/subscriptions/{subscription_id}": lambda _: {"name": "changed"},
    PUT_WEBHOOK: lambda _: {"url": "https://example.org/hook", "enabled": False},  # so nothing is looked up or sent
}


LINES = ("POST /api/v2/write", "POST /write")
INGEST = ("POST /api/v1/readings", *LINES)


def ask(http: httpx2.Client, operation: str, target: Target, **ids: int) -> httpx2.Response:
    """Ask for an operation on the target; `ids` take the place of the target's."""
    method, template = operation.split(" ")
    asked = vars(target) | ids
    path = template.format(**asked)
    more: dict[str, Any] = {"params": {}}
    if operation in BODIES:
        more["json"] = BODIES[operation](target)
    if operation in LINES:
        more["content"] = f"m,site={target.site},device={target.device} power=1.5\n"
        more["headers"] = {"Content-Type": "text/plain"}
    if operation == "POST /api/v1/auth/token":
        more["data"] = {"username": target.technician.email, "password": target.technician.password}
    if operation in OF_NAMED_METRICS:
        more["params"] |= {"metric": asked["metric_id"]}
    if operation.endswith("/history"):
        more["params"] |= WINDOW
    if operation.startswith("DELETE ") and operation.endswith("/readings"):
        more["params"] = {"start": WINDOW["start"], "end": WINDOW["end"]}
    if operation.endswith("/stream"):
        return beginning_of(http, path, urlencode(more["params"]))
    return http.request(method, f"http://testserver{path}", **more)


def beginning_of(http: httpx2.Client, path: str, query: str = "") -> httpx2.Response:
    """An answer as far as its first part, at which the client leaves: of one that has no end."""
    assert isinstance(http, TestClient)
    app, headers = http.app, [(name.lower(), value) for name, value in http.headers.raw]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": headers,
        "server": ("testserver", 80),
        "client": ("testclient", 50_000),
        "state": {},
    }

    async def ask() -> httpx2.Response:
        sent: list[Any] = []
        left = asyncio.Event()

        async def receive() -> dict[str, Any]:
            if not sent:  # it is not there yet
                return {"type": "http.request", "body": b"", "more_body": False}
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)
            if message["type"] == "http.response.body":
                left.set()

        await app(scope, receive, send)
        return httpx2.Response(sent[0]["status"], headers=sent[0]["headers"], content=sent[1]["body"])

    return asyncio.run(ask())


class Targets:
    """A target for reading that all share, and a fresh one for what changes something."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._shared = Target.make(world)

    def of(self, operation: str, status: int = 200) -> Target:
        """A target for an operation that is to end in this status: what is refused changes nothing."""
        is_harmless = operation.startswith("GET ") or operation in (
            "POST /api/v1/auth/token",
            "POST /api/v1/auth/logout",
        )
        return self._shared if is_harmless or status >= 400 else Target.make(self.world, operation)

    def new(self) -> Target:
        return Target.make(self.world)

    def http(self, role: str, operation: str) -> httpx2.Client:
        person: Person = getattr(self.world, role)
        if operation == "POST /api/v1/auth/logout" and person.id:
            return self.world.http(sign_in(self.world, person)["access_token"])
        return person.http

    def key_of(self, owner: str, **fields: Any) -> httpx2.Client:
        answer = getattr(self.world, owner).post("/me/api-keys", {"name": "key", **fields})
        assert answer.status_code == 201, answer.text
        return self.world.http(answer.json()["key"])


@pytest.fixture(scope="module")
def targets(still_world: World) -> Targets:
    return Targets(still_world)


def test_the_matrix_has_every_documented_operation_and_no_other() -> None:
    assert sorted(MATRIX) == sorted(documented_operations())


@pytest.mark.parametrize("operation", documented_operations())
def test_each_role_may_do_what_the_matrix_says(targets: Targets, operation: str) -> None:
    expected = dict(zip(ROLES, map(int, MATRIX[operation].split()), strict=True))
    got = {
        role: ask(targets.http(role, operation), operation, targets.of(operation, status)).status_code
        for role, status in expected.items()
    }
    assert got == expected


def test_readings_of_a_metric_that_one_can_not_see_are_not_taken(targets: Targets) -> None:
    operation = "POST /api/v1/readings"
    target = targets.of(operation)
    accepted = {
        role: ask(targets.http(role, operation), operation, target).json()["accepted"]
        for role in ("newcomer", "neighbour", "technician", "admin")
    }
    assert accepted == {"newcomer": 0, "neighbour": 0, "technician": 1, "admin": 1}


# ── API keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def scope_for(operation: str) -> str:
    """The scope that a key needs for an operation."""
    if operation in INGEST:
        return "ingest"
    return "read" if operation.startswith("GET ") else "write"


@pytest.mark.parametrize("operation", documented_operations())
@pytest.mark.parametrize("owner", ["technician", "admin"])
def test_an_api_key_does_what_its_owner_may_within_its_scope(
    targets: Targets, owner: Literal["technician", "admin"], operation: str
) -> None:
    of_owner = int(MATRIX[operation].split()[ROLES.index(owner)])
    expected, got = {}, {}
    for scope in ("read", "write", "ingest"):
        allowed = operation in PUBLIC or (scope == scope_for(operation) and operation not in FOR_MORE_THAN_A_SCOPE)
        expected[scope] = of_owner if allowed else 403
        http = targets.key_of(owner, scopes=[scope])
        got[scope] = ask(http, operation, targets.of(operation, expected[scope])).status_code
    assert got == expected


@pytest.mark.parametrize("operation", OF_A_SITE)
@pytest.mark.parametrize("owner", ["technician", "admin"])
def test_a_key_for_one_site_does_not_see_another(targets: Targets, owner: str, operation: str) -> None:
    world = targets.world
    other = world.site(f"other-{uuid.uuid4().hex[:12]}")
    world.grant(world.technician, other, "technician")
    assert ask(targets.key_of(owner, site_id=other), operation, targets.of(operation, 404)).status_code == 404


@pytest.mark.parametrize("operation", OF_A_SITE)
def test_a_key_for_one_site_does_there_what_its_owner_may(targets: Targets, operation: str) -> None:
    of_owner = int(MATRIX[operation].split()[ROLES.index("technician")])
    target = targets.of(operation, of_owner)
    assert ask(targets.key_of("technician", site_id=target.site_id), operation, target).status_code == of_owner


class TestAKeyForOneSite:
    @pytest.fixture
    def other(self, targets: Targets) -> int:
        other = targets.world.site(f"other-{uuid.uuid4().hex[:12]}")
        targets.world.grant(targets.world.technician, other, "technician")
        return other

    @pytest.mark.parametrize("owner", ["technician", "admin"])
    def test_lists_that_site_alone(self, targets: Targets, other: int, owner: str) -> None:
        key = targets.key_of(owner, site_id=other)
        assert [site["id"] for site in key.get("/sites").json()["items"]] == [other]
        assert {grant["site_id"] for grant in key.get("/me").json()["grants"]} <= {other}

    @pytest.mark.parametrize("operation", [op for op, row in MATRIX.items() if row.startswith("401 403 403 403 403")])
    def test_does_not_administer(self, targets: Targets, other: int, operation: str) -> None:
        assert ask(targets.key_of("admin", site_id=other), operation, targets.of(operation, 403)).status_code == 403

    def test_sends_no_readings_to_another(self, targets: Targets, other: int) -> None:
        operation = "POST /api/v1/readings"
        for owner in ("technician", "admin"):
            report = ask(targets.key_of(owner, site_id=other), operation, targets.of(operation)).json()
            assert (report["accepted"], report["errors"][0]["code"]) == (0, "unknown_metric")

    def test_subscribes_to_nothing_at_another(self, targets: Targets, other: int) -> None:
        operation = "POST /api/v1/subscriptions"
        assert (
            ask(targets.key_of("technician", site_id=other), operation, targets.of(operation, 422)).status_code == 422
        )

    def test_reaches_no_subscription_that_names_metrics_of_another(self, targets: Targets, other: int) -> None:
        target = targets.new()
        targets.world.send(target.metric_id, ("2026-01-05T00:30:00Z", 2.5))
        path = f"/subscriptions/{target.subscription_id}"
        key = targets.key_of("technician", site_id=other)
        assert key.get(path).status_code == 404
        assert key.get(f"{path}/latest").status_code == 404
        assert key.get(f"{path}/history", params=WINDOW).status_code == 404
        assert key.get("/subscriptions").json()["items"] == []


# ── what one may not see does not exist ──────────────────────────────────────────────────────────────────────────────


def as_seen(answer: httpx2.Response) -> tuple[int, bytes, dict[str, str]]:
    """All of an answer but the request's own id and, where the caller may not ask at all, the path asked for."""
    if answer.status_code == 403:
        return 403, answer.json()["detail"].encode(), {}
    headers = {name: value for name, value in answer.headers.items() if name != "x-request-id"}
    return answer.status_code, answer.content, headers


@pytest.mark.parametrize("operation", WITH_AN_ID)
@pytest.mark.parametrize("role", ["newcomer", "neighbour"])
def test_a_foreign_id_and_a_never_used_one_look_the_same(targets: Targets, role: str, operation: str) -> None:
    target = targets.of(operation, 404)
    parameter = operation.partition("{")[2].partition("}")[0]
    http = targets.http(role, operation)
    foreign = ask(http, operation, target)
    never_used = ask(http, operation, target, **{parameter: NEVER_USED})
    assert as_seen(foreign) == as_seen(never_used)
    assert foreign.status_code == (403 if "/users/{user_id}" in operation else 404)


@pytest.mark.parametrize("operation", [op for op in WITH_AN_ID if "{subscription_id}" in op or "{key_id}" in op])
def test_what_is_anothers_own_does_not_exist_for_an_administrator(targets: Targets, operation: str) -> None:
    target = targets.of(operation, 404)
    parameter = operation.partition("{")[2].partition("}")[0]
    http = targets.world.admin.http
    foreign, never_used = ask(http, operation, target), ask(http, operation, target, **{parameter: NEVER_USED})
    assert foreign.status_code == 404
    assert as_seen(foreign) == as_seen(never_used)


@pytest.mark.parametrize("operation", OF_NAMED_METRICS)
@pytest.mark.parametrize("role", ["newcomer", "neighbour"])
def test_a_foreign_metric_and_a_never_used_one_look_the_same_but_for_their_names(
    targets: Targets, role: str, operation: str
) -> None:
    target, http = targets.of(operation, 404), targets.http(role, operation)

    def seen(metric_id: int) -> tuple[int, bytes, dict[str, str]]:
        status, body, headers = as_seen(ask(http, operation, target, metric_id=metric_id))
        headers.pop("content-length", None)
        return status, body.replace(f"'{metric_id}'".encode(), b"'ID'"), headers

    assert seen(target.metric_id) == seen(NEVER_USED)
    assert seen(NEVER_USED)[0] == 404


def test_unknown_metrics_look_the_same_in_a_subscription_and_in_a_report(targets: Targets) -> None:
    neighbour = targets.world.neighbour
    foreign = targets.new().metric_id

    def subscribe(metric_id: int) -> httpx2.Response:
        return neighbour.post("/subscriptions", {"name": "S", "metric_ids": [metric_id]})

    def send(metric_id: int) -> bytes:
        row = {"metric_id": metric_id, "timestamp": "2026-01-05T09:30:00Z", "value": 1}
        return neighbour.post("/readings", {"readings": [row]}).content.replace(str(metric_id).encode(), b"ID")

    assert as_seen(subscribe(foreign)) == as_seen(subscribe(NEVER_USED))
    assert send(foreign) == send(NEVER_USED)


@pytest.mark.parametrize("operation", OF_A_SITE)
def test_a_revoked_grant_takes_effect_on_the_next_request(targets: Targets, operation: str) -> None:
    world, target = targets.world, targets.new()
    assert world.technician.get(f"/sites/{target.site_id}").status_code == 200
    revoked = world.admin.delete(f"/sites/{target.site_id}/grants/{world.technician.id}")
    assert revoked.status_code == 204
    assert ask(world.technician.http, operation, target).status_code == 404


def test_a_changed_role_takes_effect_on_the_next_request(targets: Targets) -> None:
    world, target = targets.world, targets.new()
    change = f"/devices/{target.device_id}"
    assert world.technician.patch(change, {"model": "a"}).status_code == 200
    world.grant(world.technician, target.site_id, "standard")
    assert world.technician.patch(change, {"model": "b"}).status_code == 403
    world.grant(world.technician, target.site_id, "technician")
    assert world.technician.patch(change, {"model": "c"}).status_code == 200


def test_a_demoted_administrator_is_one_no_more(targets: Targets) -> None:
    world, target = targets.world, targets.new()
    deputy = world.person(f"deputy-{uuid.uuid4().hex[:8]}", is_admin=True)
    assert deputy.get(f"/sites/{target.site_id}").status_code == 200
    assert world.admin.patch(f"/users/{deputy.id}", {"is_admin": False}).status_code == 200
    assert deputy.get(f"/sites/{target.site_id}").status_code == 404
    assert deputy.get("/users").status_code == 403
