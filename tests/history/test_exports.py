"""Raw history going out over HTTP: pages and whole windows, in all formats, to clients that are slow or leave."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import orjson
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Message

from kilowatch.config import Settings
from kilowatch.errors import NotFound
from kilowatch.history import formats, service
from kilowatch.kit.timespan import from_ms
from tests.conftest import SECRET_KEY, Clock, World, open_world
from tests.history.conftest import ms

START = ms("2026-01-01T00:00")
WINDOW = {"start": "2026-01-01T00:00:00Z", "end": "2026-01-05T00:00:00Z", "resolution": "raw"}
WHOLE = WINDOW | {"limit": "all"}


@pytest.fixture(scope="module")
def world(sqlite_template: Path, shared_history_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One world for the module: each test takes metrics of its own."""
    made = Settings(
        data_dir=tmp_path_factory.mktemp("exports"),
        history_url=shared_history_url,
        history_sync=False,
        history_threads=2,
        secret_key=SECRET_KEY,  # type: ignore[arg-type]  # pydantic makes it a SecretStr
        log_level="error",
    )
    with open_world(made, Clock()) as world:
        yield world


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a million readings bring about happens with some hundred."""
    monkeypatch.setattr(service, "CHUNK", 30)
    monkeypatch.setattr(formats, "PART_BYTES", 200)
    monkeypatch.setattr(formats, "_ROWS_AT_ONCE", 10)
    monkeypatch.setattr(formats, "_ROWS_A_GROUP", 10)


def filled(world: World, count: int, *, site_id: int | None = None, step_ms: int = 60_000) -> int:
    """A metric with that many readings."""
    metric = world.metric(site_id)
    if count:
        times = [from_ms(START + n * step_ms).isoformat() for n in range(count)]
        body = {"series": [{"metric_id": metric, "timestamps": times, "values": [n / 8 for n in range(count)]}]}
        answer = world.admin.post("/readings", body)
        assert answer.json() == {"accepted": count, "rejected": 0, "errors": []}
    return metric


def subscribe(world: World, *metrics: int) -> str:
    answer = world.admin.post("/subscriptions", {"name": "All", "metric_ids": list(metrics)})
    assert answer.status_code == 201, answer.text
    return f"/subscriptions/{answer.json()['id']}/history"


def points(document: dict[str, Any]) -> dict[int, list[tuple[str, float | None]]]:
    return {one["metric_id"]: list(zip(one["timestamps"], one["values"], strict=True)) for one in document["series"]}


def pages(world: World, path: str, limit: int) -> Iterator[dict[str, Any]]:
    cursor: dict[str, str] = {}
    while True:
        answer = world.admin.get(path, **WINDOW, limit=limit, **cursor)
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        yield document
        if document["next"] is None:
            assert "link" not in answer.headers
            return
        cursor = {"cursor": document["next"]}
        assert f"cursor={document['next']}" in answer.headers["link"]


class TestWholeWindow:
    @pytest.fixture(scope="class")
    @staticmethod
    def path(world: World) -> str:
        counts = (40, 0, 25, 1)
        return subscribe(world, *reversed([filled(world, count) for count in counts]))

    @settings(max_examples=15, deadline=None)
    @given(limit=st.integers(1, 80))
    def test_is_the_pages_one_after_another(self, world: World, path: str, limit: int) -> None:
        whole = world.admin.get(path, **WHOLE).json()
        assert whole["next"] is None
        joined: dict[int, list[tuple[str, float | None]]] = {metric: [] for metric in points(whole)}
        for page in pages(world, path, limit):
            assert sum(map(len, points(page).values())) <= limit
            for metric, some in points(page).items():
                joined[metric] += some
        assert joined == points(whole)
        assert [len(some) for some in joined.values()] == [1, 25, 0, 40]

    def test_goes_on_from_a_page(self, world: World, path: str) -> None:
        first = next(pages(world, path, 30))
        rest = world.admin.get(path, **WHOLE, cursor=first["next"]).json()
        whole = points(world.admin.get(path, **WHOLE).json())
        for metric, some in points(first).items():
            assert some + points(rest)[metric] == whole[metric]

    @pytest.mark.parametrize("short", ["json", "csv", "parquet", "arrow"])
    def test_is_the_same_in_small_parts(
        self, world: World, path: str, short: str, request: pytest.FixtureRequest
    ) -> None:
        at_once = world.admin.get(path, **WHOLE, format=short)
        request.getfixturevalue("small_parts")
        in_parts = world.admin.get(path, **WHOLE, format=short)
        assert "content-length" in at_once.headers
        assert "content-length" not in in_parts.headers
        if short in ("json", "csv"):
            assert in_parts.content == at_once.content
        else:
            assert table(in_parts.content, short).equals(table(at_once.content, short))

    def test_says_no_to_other_words(self, world: World, path: str) -> None:
        for limit in ("none", "0", "1000001", "-1", ""):
            answer = world.admin.get(path, **WINDOW, limit=limit)
            assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#/limit"), limit

    def test_buckets_have_no_pages_anyway(self, world: World, path: str) -> None:
        asked = WHOLE | {"resolution": "1h"}
        assert world.admin.get(path, **asked).json() == world.admin.get(path, **{**asked, "limit": 5}).json()


def table(body: bytes, short: str) -> pa.Table:
    return pa_parquet.read_table(io.BytesIO(body)) if short == "parquet" else pa.ipc.open_stream(body).read_all()


class TestTables:
    @pytest.mark.parametrize(("short", "media"), [("parquet", formats.PARQUET), ("arrow", formats.ARROW)])
    def test_of_buckets(self, world: World, short: str, media: str) -> None:
        metric = world.metric(max_gap_s=3600)
        world.send(metric, ("2025-03-30T01:30:00+01:00", 2.5))
        asked = {"start": "2025-03-30T01:00:00+01:00", "end": "2025-03-30T04:00:00+02:00", "resolution": "1h"}
        by_name = world.standard.get(f"/metrics/{metric}/history", **asked, format=short)
        by_accept = world.standard.http.get(f"/metrics/{metric}/history", params=asked, headers={"Accept": media})
        assert by_name.headers["content-type"] == by_accept.headers["content-type"] == media
        assert by_name.content == by_accept.content
        rows = table(by_name.content, short)
        assert [time.isoformat() for time in rows["timestamp"].to_pylist()] == [
            "2025-03-30T01:00:00+01:00",
            "2025-03-30T03:00:00+02:00",
        ]
        assert rows["value"].to_pylist() == [2.5, 2.5]
        assert rows["coverage"].to_pylist() == [0.5, 0.5]
        assert rows["metric_id"].to_pylist() == [metric] * 2
        assert rows["aggregate"].to_pylist() == ["mean"] * 2
        assert rows.schema.metadata[b"timezone"] == b"Europe/Berlin"

    @pytest.mark.parametrize("short", ["parquet", "arrow"])
    def test_of_a_page_name_the_next(self, world: World, short: str) -> None:
        metric = filled(world, 5)
        answer = world.admin.get(f"/metrics/{metric}/history", **WINDOW, limit=3, format=short)
        first = table(answer.content, short)
        following = first.schema.metadata[b"next"].decode()
        assert following in answer.headers["link"]
        rest = world.admin.get(f"/metrics/{metric}/history", **WINDOW, limit=3, format=short, cursor=following)
        values = first["value"].to_pylist() + table(rest.content, short)["value"].to_pylist()
        assert values == [n / 8 for n in range(5)]
        assert b"next" not in table(rest.content, short).schema.metadata

    @pytest.mark.parametrize("short", ["csv", "parquet", "arrow"])
    def test_of_a_subscription_leave_out_what_may_not_be_read(self, world: World, short: str) -> None:
        north, south = filled(world, 2, site_id=world.north), filled(world, 2, site_id=world.south)
        person = world.person(f"visitor-{short}")
        for site in (world.north, world.south):
            world.grant(person, site, "standard")
        made = person.post("/subscriptions", {"name": "Both", "metric_ids": [south, north]}).json()["id"]
        path = f"/subscriptions/{made}/history"
        assert world.admin.delete(f"/sites/{world.south}/grants/{person.id}").status_code == 204
        whole = person.get(path, **WHOLE).json()
        assert (whole["unavailable"], list(points(whole))) == ([south], [north])
        body = person.get(path, **WHOLE, format=short).content
        if short == "csv":
            assert len(body.splitlines()) == 1 + 2
            assert b"south" not in body
        else:
            assert table(body, short)["metric_id"].to_pylist() == [north, north]
            assert b"south" not in body

    def test_are_refused_by_head_as_before(self, world: World) -> None:
        answer = world.standard.http.head(f"/metrics/{world.metric()}/history", params=WHOLE)
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET")

    def test_are_named_where_a_format_is_unknown(self, world: World) -> None:
        path = f"/metrics/{world.metric()}/history"
        unknown = world.standard.get(path, **WHOLE, format="orc")
        assert (unknown.status_code, "parquet" in unknown.json()["detail"]) == (422, True)
        none = world.standard.http.get(path, params=WHOLE, headers={"Accept": "application/x-orc"})
        assert (none.status_code, formats.ARROW in none.json()["detail"]) == (406, True)

    def test_of_a_site_without_grant_are_not_there(self, world: World) -> None:
        metric = filled(world, 2)
        for short in ("json", "csv", "parquet", "arrow"):
            hidden = world.newcomer.get(f"/metrics/{metric}/history", **WHOLE, format=short)
            never = world.newcomer.get("/metrics/999999/history", **WHOLE, format=short)
            assert (hidden.status_code, hidden.content) == (404, never.content)


class Client:
    """One request straight to the application, by a client that takes parts when it likes and leaves when it likes."""

    def __init__(self, world: World, path: str, params: dict[str, str], *, leaves_after: int | None = None) -> None:
        self.parts: list[bytes] = []
        self.complete = False
        self.status = 0
        self.may_take = anyio.Event()
        self.waits = anyio.Event()
        self._leaves_after = leaves_after
        self._left = anyio.Event()
        self._app: Any = world.client.app
        authorization = world.admin.http.headers["authorization"].encode()
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": f"/api/v1{path}",
            "raw_path": f"/api/v1{path}".encode(),
            "root_path": "",
            "query_string": "&".join(f"{name}={value}" for name, value in params.items()).encode(),
            "headers": [(b"host", b"testserver"), (b"authorization", authorization)],
            "client": ("testclient", 1),
            "server": ("testserver", 80),
        }

    async def ask(self) -> None:
        if self._leaves_after == 0:
            self._left.set()
        await self._app(self._scope, self._receive, self._send)

    async def _receive(self) -> Message:
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            return
        self.waits.set()
        await self.may_take.wait()
        self.parts.append(message["body"])
        self.complete = not message.get("more_body", False)
        if len(self.parts) == self._leaves_after:
            self._left.set()
            await anyio.lowlevel.checkpoint()  # the application hears of it as it would from a server


@pytest.mark.usefixtures("small_parts")
class TestClients:
    def test_one_that_leaves_stops_the_work(self, world: World) -> None:
        path = f"/metrics/{filled(world, 500)}/history"

        async def ask() -> Client:
            client = Client(world, path, WHOLE, leaves_after=2)
            client.may_take.set()
            await client.ask()
            return client

        client = run(world, ask)
        assert (client.status, client.complete) == (200, False)
        assert len(client.parts) <= 4
        assert len(whole(world, path).parts) > 20

    def test_one_that_left_before_the_first_part_is_told_nothing(self, world: World) -> None:
        path = f"/metrics/{filled(world, 500)}/history"

        async def ask() -> Client:
            client = Client(world, path, WHOLE, leaves_after=0)
            client.may_take.set()
            await client.ask()
            return client

        client = run(world, ask)
        assert (client.status, b"".join(client.parts)) == (499, b"")

    def test_slow_ones_hold_up_nobody(self, world: World) -> None:
        """Twice as many as the history has threads; each waits in the middle of its answer."""
        path = f"/metrics/{filled(world, 300)}/history"

        async def ask() -> list[Client]:
            clients = [Client(world, path, WHOLE) for _ in range(4)]
            async with anyio.create_task_group() as group:
                for client in clients:
                    group.start_soon(client.ask)
                for client in clients:
                    await client.waits.wait()
                quick = Client(world, path, WHOLE | {"limit": "1"})
                quick.may_take.set()
                with anyio.fail_after(60):
                    await quick.ask()
                assert quick.complete
                for client in clients:
                    assert not client.parts
                    client.may_take.set()
            return clients

        expected = b"".join(whole(world, path).parts)
        assert [b"".join(client.parts) == expected for client in run(world, ask)] == [True] * 4

    def test_one_whose_right_ends_meanwhile_gets_no_end(self, world: World) -> None:
        """The answer breaks off: what came is no valid document, and nothing closes the body."""
        site = world.site("passing")
        path = f"/metrics/{filled(world, 300, site_id=site)}/history"

        async def ask() -> Client:
            client, errors = Client(world, path, WHOLE), list[Exception]()
            async with anyio.create_task_group() as group:
                group.start_soon(_ask, client, errors)
                await client.waits.wait()
                await anyio.to_thread.run_sync(world.admin.delete, f"/sites/{site}")
                client.may_take.set()
            assert isinstance(errors[0].__cause__, NotFound)
            return client

        client = run(world, ask)
        assert (client.status, client.complete) == (200, False)
        with pytest.raises(orjson.JSONDecodeError):
            orjson.loads(b"".join(client.parts))


async def _ask(client: Client, errors: list[Exception]) -> None:
    try:
        await client.ask()
    except Exception as error:
        errors.append(error)


def whole(world: World, path: str) -> Client:
    async def ask() -> Client:
        client = Client(world, path, WHOLE)
        client.may_take.set()
        await client.ask()
        return client

    client: Client = run(world, ask)
    assert client.complete
    return client


def run(world: World, ask: Any) -> Any:
    """In the application's own event loop."""
    assert world.client.portal is not None
    return world.client.portal.call(ask)


class TestAggregates:
    def test_stop_between_parts_when_nobody_waits(self, world: World) -> None:
        path = f"/metrics/{filled(world, 50)}/history"

        async def ask() -> Client:
            client = Client(world, path, WINDOW | {"resolution": "1h"}, leaves_after=0)
            client.may_take.set()
            await client.ask()
            return client

        assert run(world, ask).status == 499
