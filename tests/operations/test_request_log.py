"""What the log says of requests: who, what, how long, and where the time of slow ones went."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
import structlog
from fastapi import FastAPI
from fastapi.testclient import TestClient

from kilowatch.config import Settings
from kilowatch.kit import handling
from kilowatch.kit.lanes import Lane
from kilowatch.kit.requests import RequestLog
from tests.conftest import World
from tests.live.conftest import Live, live  # noqa: F401 - a fixture
from tests.operations.metering import Change
from tests.processes import wait_until

NINE, TEN = "2026-01-05T09:00:00Z", "2026-01-05T10:00:00Z"
Lines = list[Any]


@pytest.fixture
def log() -> Iterator[Lines]:
    """The log's lines from now on."""
    with structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as lines:
        yield lines


def requests(log: Lines, event: str = "request") -> Lines:
    return [line for line in log if line["event"] == event]


class TestRequestLine:
    def test_says_who_asked_from_where_for_what(self, world: World, log: Lines) -> None:
        answer = world.standard.get(f"/sites/{world.north}", words="x")
        (line,) = requests(log)
        assert line.pop("ms") > 0
        assert line == {
            "event": "request",
            "log_level": "info",
            "request_id": answer.headers["x-request-id"],
            "method": "GET",
            "path": f"/api/v1/sites/{world.north}",
            "route": "/api/v1/sites/{site_id}",
            "status": 200,
            "client": "testclient",
            "user_id": world.standard.id,
        }

    def test_names_the_api_key(self, world: World, log: Lines) -> None:
        key = world.technician.post("/me/api-keys", {"name": "k", "scopes": ["read"]}).json()
        log.clear()
        for _ in range(2):  # looked up, and from memory
            world.http(key["key"]).get(f"/metrics/{world.metric()}/latest")
        lines = [line for line in requests(log) if line["route"] == "/api/v1/metrics/{metric_id}/latest"]
        assert [(line["user_id"], line["api_key_id"]) for line in lines] == [(world.technician.id, key["id"])] * 2

    def test_names_nobody_who_is_not_known(self, world: World, log: Lines) -> None:
        world.anonymous.get("/sites")
        world.http("kw_unknown").get("/sites")
        assert [(line["status"], "user_id" in line) for line in requests(log)] == [(401, False)] * 2

    def test_says_who_signed_in(self, world: World, log: Lines) -> None:
        form = {"username": world.admin.email, "password": world.admin.password}
        world.anonymous.http.post("/auth/token", data=form)
        world.anonymous.http.post("/auth/token", data=form | {"password": "wrong"})
        assert [line.get("user_id") for line in requests(log)] == [world.admin.id, None]

    def test_and_all_others_have_no_secret(self, world: World, log: Lines) -> None:
        key = world.technician.post("/me/api-keys", {"name": "k", "scopes": ["ingest"]}).json()["key"]
        world.client.post("/write", params={"p": key}, content=b"x,site=north,device=none power=1")
        world.client.post("/write", params={"p": "a guess"}, content=b"x,site=north,device=none power=1")
        assert len(requests(log)) == 3
        assert key not in str(log)
        assert "guess" not in str(log)


class TestLinesOfARequest:
    def test_have_its_id_in_the_threads_of_lanes_too(self, log: Lines) -> None:
        app = FastAPI()
        app.add_middleware(RequestLog, slow_ms=0)
        inner = structlog.get_logger("inner")

        @app.get("/lane")
        async def by_lane() -> None:
            await Lane(1).run(inner.info, "in a lane")
            await Lane(1).run_within(10, lambda: inner.info("in a lane for a while"))

        @app.get("/endpoint")
        def by_endpoint() -> None:
            inner.info("in an endpoint")

        with TestClient(app) as client:
            for path in ("/lane", "/endpoint"):
                client.get(path, headers={"X-Request-ID": path[1:]})
        assert [(line["event"], line["request_id"]) for line in log] == [
            ("in a lane", "lane"),
            ("in a lane for a while", "lane"),
            ("request", "lane"),
            ("in an endpoint", "endpoint"),
            ("request", "endpoint"),
        ]


class TestSlowRequest:
    @pytest.fixture
    def settings(self, settings: Settings, request: pytest.FixtureRequest) -> Settings:
        return settings.model_copy(update={"slow_request_ms": getattr(request, "param", 1)})

    def test_is_told_with_the_parts_of_its_time(self, world: World, log: Lines) -> None:
        metric = world.metric()
        world.admin.get("/me/api-keys")  # a `def` endpoint
        (listing,) = [line for line in requests(log, "slow request") if line["path"] == "/api/v1/me/api-keys"]
        assert 0 < listing["waiting_ms"] < listing["ms"]
        log.clear()
        change = Change()
        world.send(metric, (NINE, 1), (TEN, 2))
        window = {"start": NINE, "end": "2026-01-05T11:00:00Z", "resolution": "raw"}
        history = world.admin.http.get(f"/metrics/{metric}/history", params=window)
        storing, reading = requests(log, "slow request")
        assert storing["log_level"] == "warning"
        assert storing["received_bytes"] > 0
        assert reading["sent_bytes"] == len(history.content)
        assert 0 < storing["storing_ms"] < storing["ms"]
        assert 0 < storing["catalogue_ms"] < storing["ms"]
        assert 0 < reading["history_ms"] < reading["ms"]
        assert {"waiting_ms", "sending_ms", "user_id", "route", "request_id"} <= reading.keys()
        assert change.of("kilowatch_http_slow_requests_total", route="/api/v1/readings") == 1

    @pytest.mark.parametrize("settings", [0, 600_000], indirect=True)
    def test_is_not_told_where_none_is_slow(self, world: World, log: Lines) -> None:
        world.send(world.metric(), (NINE, 1))
        assert requests(log)
        assert not requests(log, "slow request")

    def test_is_no_stream(self, live: Live, log: Lines) -> None:  # noqa: F811 - the fixture
        with live.open(live.subscribe(live.world.metric())) as client:
            client.named("latest")
        route = "/api/v1/subscriptions/{subscription_id}/stream"
        wait_until(lambda: any(line["route"] == route for line in requests(log)), "the stream's end is logged")
        assert [line for line in requests(log, "slow request") if line["route"] == route] == []

    def test_has_waited_for_a_thread(self) -> None:
        """Two calls and one thread: the second is made when the first has ended."""
        lane, may_end = Lane(1), threading.Event()
        waits: dict[str, float] = {}

        async def call(name: str, work: Any) -> None:
            handled = handling.begin()
            await lane.run(work)
            waits[name] = handled.seconds["waiting"]

        async def both() -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(call, "first", may_end.wait)
                while not lane.use().busy:
                    await anyio.sleep(0)
                group.start_soon(call, "second", lambda: None)
                while not lane.use().waiting:
                    await anyio.sleep(0)
                waiting_since = time.perf_counter()
                assert lane.use() == (1, 1, 1)
                waits["at least"] = time.perf_counter() - waiting_since
                may_end.set()

        anyio.run(both)
        assert waits["second"] >= waits["at least"] > 0
