"""Whatever a request brings, the answer is a clear problem document and never a 500."""

import cProfile
import json
from inspect import iscoroutinefunction
from typing import Any

import anyio
import httpx2
import pytest
from fastapi import FastAPI, Request
from fastapi.routing import iter_route_contexts
from starlette.routing import Match
from starlette.types import Message, Receive, Scope, Send

from kilowatch.app import _routes, create_app
from kilowatch.config import Settings
from kilowatch.kit.web import BodyLimit, install_errors
from tests.conftest import World

SITE = "/api/v1/sites"
CREATING = [
    ("/sites", {"name": "Home"}),
    ("/users", {"email": "x@example.org", "name": "X", "password": "long enough"}),
    ("/sites/{north}/devices", {"name": "D", "kind": "battery"}),
    ("/me/api-keys", {"name": "k"}),
    ("/subscriptions", {"name": "s", "metric_ids": [1]}),
    ("/auth/refresh", {"refresh_token": "x"}),
]


def send(world: World, body: bytes, *, path: str = SITE, **headers: str) -> httpx2.Response:
    headers = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return world.admin.http.post(f"http://testserver{path}", content=body, headers=headers)


def assert_problem(answer: httpx2.Response, *statuses: int) -> dict[str, Any]:
    assert answer.status_code in statuses, answer.text[:300]
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == answer.status_code
    assert problem["title"]
    assert problem["detail"]
    return problem


class TestBody:
    @pytest.mark.parametrize(
        "body",
        [
            b"{",
            b'{"name": "a"',
            b'{"name": "\xff\xfe"}',
            b"\xff\xfe\x00",
            b"{name: 1}",
            b"nothing",
            b"[" * 100_000,
            b'{"a":' * 50_000,
            b'{"name": ' + b"9" * 5000 + b"}",
        ],
    )
    def test_that_is_no_json_is_400(self, still_world: World, body: bytes) -> None:
        assert_problem(send(still_world, body), 400)

    @pytest.mark.parametrize("body", [b"", b"null", b"[]", b"[{}]", b'"text"', b"1", b"true", b"NaN"])
    @pytest.mark.parametrize("path", [path for path, _ in CREATING])
    def test_that_is_no_object_is_422(self, still_world: World, path: str, body: bytes) -> None:
        path = "/api/v1" + path.format(north=still_world.north)
        problem = assert_problem(send(still_world, body, path=path), 422)
        assert problem["errors"][0]["pointer"] == "#"

    @pytest.mark.parametrize("kind", ["text/plain", "application/xml", "multipart/form-data; boundary=x", "bogus", "/"])
    def test_of_another_kind_is_415(self, still_world: World, kind: str) -> None:
        assert_problem(send(still_world, b'{"name": "Home"}', Content_Type=kind), 415)

    @pytest.mark.parametrize(("path", "body"), CREATING)
    @pytest.mark.parametrize(
        "odd",
        [b"NaN", b"Infinity", b"-Infinity", b"1e400", b"1" + b"0" * 30, b'"\\ud800"', b'"a\\u0000b"', b"[[[[1]]]]"],
    )
    def test_with_an_odd_value_in_each_field_names_it(
        self, still_world: World, path: str, body: dict[str, Any], odd: bytes
    ) -> None:
        for field in body:
            if field in ("password", "refresh_token") and odd == b'"a\\u0000b"':
                continue  # a password is hashed and a token looked up by its hash: any character will do
            raw = json.dumps(body | {field: "ODD"}).encode().replace(b'"ODD"', odd)
            answer = send(still_world, raw, path="/api/v1" + path.format(north=still_world.north))
            pointers = {error["pointer"] for error in assert_problem(answer, 422)["errors"]}
            assert {pointer.split("/")[1] for pointer in pointers} == {field}

    @pytest.mark.parametrize(
        ("name", "pointer"),
        [
            ("\\u0000", "#/%00"),
            ("\\ud800", "#"),  # half a character can not be named
            ("a/b~c", "#/a~1b~0c"),
            ("ü %", "#/%C3%BC%20%25"),
            ("", "#/"),
            ("x" * 100_000, None),
        ],
    )
    def test_with_an_unknown_field_names_it(self, still_world: World, name: str, pointer: str | None) -> None:
        answer = send(still_world, f'{{"name": "Home", "{name}": 1}}'.encode())
        problem = assert_problem(answer, 422)
        assert pointer is None or problem["errors"][0]["pointer"] == pointer
        assert len(answer.content) < 10_000

    def test_with_thousands_of_unknown_fields_is_told_of_the_first_hundred(self, still_world: World) -> None:
        body = json.dumps({f"f{number}": number for number in range(5000)}).encode()
        assert len(assert_problem(send(still_world, body), 422)["errors"]) == 100

    def test_with_very_long_text_is_422(self, still_world: World) -> None:
        body = json.dumps({"name": "x" * 5_000_000}).encode()
        assert assert_problem(send(still_world, body), 422)["errors"][0]["pointer"] == "#/name"

    def test_over_the_limit_is_413(self, still_world: World) -> None:
        problem = assert_problem(send(still_world, b" " * (32 * 1024 * 1024 + 1)), 413)
        assert "33,554,432" in problem["detail"]


class TestPath:
    @pytest.mark.parametrize(
        "number", ["0", "-1", "x", "1.5", "1e3", str(2**31), str(10**30), "9" * 5000, "%00", "%FF"]
    )
    @pytest.mark.parametrize(
        "template", ["/sites/{}", "/devices/{}", "/metrics/{}/latest", "/subscriptions/{}", "/users/{}"]
    )
    def test_with_what_is_no_id_is_422(self, still_world: World, template: str, number: str) -> None:
        problem = assert_problem(still_world.admin.get(template.format(number)), 422)
        assert problem["errors"][0]["in"] == "path"

    @pytest.mark.parametrize("path", ["/nothing", "/sites/", "/sites/1/nothing", "/%00", "/sites/1%2F2/x/y"])
    def test_that_there_is_not_is_404(self, still_world: World, path: str) -> None:
        assert_problem(still_world.admin.get(path), 404)

    @pytest.mark.parametrize(
        ("method", "path", "allow"),
        [
            ("DELETE", "/sites", "GET, POST"),
            ("POST", "/sites/1", "DELETE, GET, PATCH"),
            ("GET", "/sites/1/grants/1", "DELETE, PUT"),
            ("GET", "/readings", "POST"),
            ("OPTIONS", "/users", "GET, POST"),
        ],
    )
    def test_that_has_other_methods_names_them_all(
        self, still_world: World, method: str, path: str, allow: str
    ) -> None:
        answer = still_world.admin.http.request(method, path)
        assert_problem(answer, 405)
        assert answer.headers["allow"] == allow


class TestHeaders:
    @pytest.mark.parametrize("key", ["", " ", "a b", "ü", "x" * 256, "a\tb"])
    def test_a_broken_idempotency_key_is_named(self, still_world: World, key: str) -> None:
        answer = still_world.admin.http.post(
            SITE.removeprefix("/api/v1"), json={"name": "H"}, headers={b"Idempotency-Key": key.encode()}
        )
        problem = assert_problem(answer, 422)
        assert problem["errors"][0] == problem["errors"][0] | {"pointer": "#/idempotency-key", "in": "header"}

    def test_every_answer_has_a_request_id_and_takes_the_callers(self, still_world: World) -> None:
        own = still_world.admin.http.get("/me", headers={"X-Request-ID": "my-id.7"})
        assert own.headers["x-request-id"] == "my-id.7"
        for odd in ("a b", "x" * 65, "<script>"):
            answer = still_world.admin.http.get("/me", headers={"X-Request-ID": odd})
            assert answer.headers["x-request-id"] not in ("", odd)

    def test_what_nobody_foresaw_is_a_500_that_says_nothing_of_itself(
        self, still_world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken() -> None:
            raise RuntimeError("the secret inside")

        monkeypatch.setattr(still_world.services.sign_ins, "_clock", broken)
        answer = still_world.admin.get("/me")
        assert_problem(answer, 500)
        assert "secret" not in answer.text
        assert answer.headers["x-request-id"]


class TestClientThatGoesAway:
    @pytest.mark.parametrize("path", ["/api/v1/readings", "/api/v2/write", "/write"])
    def test_before_its_body_is_all_here_is_no_fault_of_ours(
        self, world: World, path: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        authorization = world.admin.http.headers["authorization"].encode()
        scope = {
            **{"type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "root_path": ""},
            **{"path": path, "raw_path": path.encode(), "query_string": b"", "server": ("testserver", 80)},
            "headers": [
                (b"authorization", authorization),
                (b"content-length", b"9"),
                (b"content-type", b"application/json"),
            ],
        }
        messages: list[Message] = [
            {"type": "http.request", "body": b"{", "more_body": True},
            {"type": "http.disconnect"},
        ]
        statuses: list[int] = []

        async def receive() -> Message:
            return messages.pop(0) if messages else {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        app: Any = world.client.app
        anyio.run(app, scope, receive, send)
        assert statuses == [499]
        assert "unforeseen" not in "".join(capfd.readouterr())


class TestLargeBodies:
    """Those over 1 MiB: 8 at once, 4 of a client."""

    CHUNKED = (b"transfer-encoding", b"chunked")
    DECLARED = (b"content-length", b"2000000")
    SMALL = (b"content-length", b"1000000")
    SMALL_CHUNKED = (b"transfer-encoding", b"Chunked")
    LARGE_CHUNK: Message = {"type": "http.request", "body": bytes(1024 * 1024 + 1), "more_body": True}  # noqa: RUF012

    def _taken(self, clients: list[tuple[str, tuple[bytes, bytes]]]) -> tuple[list[str], list[str]]:
        """Whose bodies are asked for while none of them ends; and whose are in the end."""
        began: list[str] = []
        held: list[str] = []
        may_end = anyio.Event()

        async def app(scope: Scope, receive: Receive, _send: Send) -> None:
            await receive()

        async def ask(limit: BodyLimit, client: str, header: tuple[bytes, bytes]) -> None:
            read = [self.LARGE_CHUNK] if header == self.CHUNKED else []

            async def receive() -> Message:
                if read:
                    return read.pop()
                began.append(client)
                await may_end.wait()
                return {"type": "http.request", "body": b"x", "more_body": False}

            async def send(_message: Message) -> None:
                pass

            await limit({"type": "http", "headers": [header], "client": (client, 1)}, receive, send)

        async def all_at_once() -> None:
            limit = BodyLimit(app, max_bytes=10_000_000)
            async with anyio.create_task_group() as group:
                for client, header in clients:
                    group.start_soon(ask, limit, client, header)
                await anyio.wait_all_tasks_blocked()
                held.extend(began)
                may_end.set()

        anyio.run(all_at_once)
        return held, began

    @pytest.mark.parametrize("header", [CHUNKED, DECLARED])
    def test_of_one_client_wait_while_those_of_others_are_read(self, header: tuple[bytes, bytes]) -> None:
        held, read = self._taken([("a", header)] * 6 + [("b", header)] * 2)
        assert sorted(held) == ["a"] * 4 + ["b"] * 2
        assert sorted(read) == ["a"] * 6 + ["b"] * 2

    def test_are_a_few_at_once_whoever_sends_them(self) -> None:
        held, read = self._taken([(str(number % 5), self.DECLARED) for number in range(15)])
        assert len(held) == 8
        assert len(read) == 15

    def test_keep_no_small_one_waiting(self) -> None:
        held, _ = self._taken(
            [(str(number), self.CHUNKED) for number in range(10)] + [("0", self.SMALL), ("0", self.SMALL_CHUNKED)]
        )
        assert len(held) == 8 + 2

    def test_of_one_network_are_of_one_client(self) -> None:
        held, _ = self._taken([(f"2001:db8::{number}", self.DECLARED) for number in range(6)])
        assert len(held) == 4
        held, _ = self._taken([(f"2001:db8:0:{number}::1", self.DECLARED) for number in range(6)])
        assert len(held) == 6

    @pytest.mark.parametrize("header", [CHUNKED, DECLARED])
    def test_that_come_too_slowly_are_refused_and_the_next_gets_the_turn(self, header: tuple[bytes, bytes]) -> None:
        app = FastAPI()
        install_errors(app)

        @app.post("/")
        async def take(request: Request) -> int:
            return len(await request.body())

        statuses: list[int] = []

        async def ask(limit: BodyLimit, body: list[Message]) -> None:
            chunks = [self.LARGE_CHUNK] if header == self.CHUNKED else []

            async def receive() -> Message:
                if chunks:
                    return chunks.pop()
                if not body:
                    await anyio.sleep_forever()
                return body.pop()

            async def send(message: Message) -> None:
                if message["type"] == "http.response.start":
                    statuses.append(message["status"])

            scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "client": ("a", 1)}
            await limit(scope | {"headers": [header], "app": app}, receive, send)

        async def one_after_another() -> None:
            limit = BodyLimit(app, max_bytes=10_000_000, grace_s=0)
            for _ in range(4):
                await ask(limit, [])
            await ask(limit, [{"type": "http.request", "body": b"x", "more_body": False}])

        anyio.run(one_after_another)
        assert statuses == [408, 408, 408, 408, 200]


class TestRoutes:
    def test_are_prepared_before_the_first_request(self, settings: Settings) -> None:
        """By how many functions are called to find that no route has an address: the first time, and the next."""
        _routes.cache_clear()  # other tests' applications have them too
        app = create_app(settings)
        first, second = (self._calls(app) for _ in range(2))
        assert first < 2 * second

    def _calls(self, app: FastAPI) -> int:
        scope = {"type": "http", "method": "GET", "path": "/nowhere", "root_path": "", "headers": []}
        with cProfile.Profile() as profile:
            assert all(route.matches(scope)[0] is Match.NONE for route in app.routes)
        return sum(entry.callcount for entry in profile.getstats())

    def test_have_no_endpoint_whose_wait_for_a_thread_is_not_told(self, settings: Settings) -> None:
        contexts = iter_route_contexts(create_app(settings).routes)
        endpoints = [context.endpoint for context in contexts if context.endpoint is not None]
        assert len(endpoints) > 100
        assert [endpoint for endpoint in endpoints if not iscoroutinefunction(endpoint)] == []
