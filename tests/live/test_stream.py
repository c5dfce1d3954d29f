"""A stream over a real connection: what comes first, what comes then, and what is sent to whoever was away."""

import gzip
import io
import json
import re
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import START, Clock
from tests.live.client import Client, Event
from tests.live.conftest import Live

NINE, TEN, ELEVEN = (f"2026-01-05T{hour}:00:00Z" for hour in ("09", "10", "11"))


def told(events: list[Event]) -> list[tuple[int, str, float]]:
    return [(event.data["metric_id"], event.data["timestamp"], event.data["value"]) for event in events]


class TestConnecting:
    def test_shows_the_latest_values_first_as_they_are_told_elsewhere(self, live: Live) -> None:
        world = live.world
        first, second, never = (world.metric() for _ in range(3))
        world.send(first, (NINE, 1), (TEN, 2))
        world.send(second, (NINE, 3))
        subscription = live.subscribe(second, first, never)
        with live.open(subscription) as client:
            events = client.many("latest", 3)
        assert [event.data for event in events] == world.admin.get(f"/subscriptions/{subscription}/latest").json()[
            "items"
        ]
        assert len({event.id for event in events}) == 1

    def test_tells_clients_and_proxies_what_it_is(self, live: Live) -> None:
        with live.open(live.subscribe(live.world.metric())) as client:
            headers = {name.lower(): value for name, value in client.answer.getheaders()}
            assert client.event() == Event("", None, None, retry="2000")
        assert headers["content-type"] == "text/event-stream; charset=utf-8"
        assert headers["cache-control"] == "no-store"
        assert headers["x-accel-buffering"] == "no"

    def test_is_refused_where_the_subscription_is_not_ones_own(self, live: Live) -> None:
        with live.open(live.subscribe(live.world.metric()), live.world.technician) as client:
            assert client.status == 404

    def test_of_metrics_that_may_not_be_read_says_so_and_ends(self, live: Live) -> None:
        world, metric = live.world, live.world.metric()
        subscription = live.subscribe(metric, person=world.standard)
        world.admin.delete(f"/sites/{world.north}/grants/{world.standard.id}")
        with live.open(subscription, world.standard) as client:
            _, latest, end = client.rest()
        assert (latest.data["metric_id"], latest.data["value"], latest.data["available"]) == (metric, None, False)
        assert (end.name, end.data["reason"]) == ("end", "no_metrics")

    @pytest.mark.parametrize("options", [{"streams_per_user": 2}])
    def test_is_refused_to_a_user_who_has_enough_open(self, live: Live, options: object) -> None:
        subscription = live.subscribe(live.world.metric())
        first, second = live.open(subscription), live.open(subscription)
        with live.open(subscription) as third:
            assert (third.status, third.answer.headers["Retry-After"]) == (429, "10")
            assert "2 streams" in json.loads(third.answer.read())["detail"]
        other = live.world.metric()
        with live.open(live.subscribe(other, person=live.world.standard), live.world.standard) as another:
            assert another.status == 200
        first.close()
        second.close()

    @pytest.mark.parametrize("options", [{"streams": 1}])
    def test_is_refused_where_as_many_are_open_as_are_served(self, live: Live, options: object) -> None:
        subscription = live.subscribe(live.world.metric())
        with live.open(subscription), live.open(subscription) as second:
            assert second.status == 429

    @pytest.mark.parametrize("bad", ["x", "1.2", "-1", "1.2.3.4", "99999999999999"])
    def test_with_an_id_that_is_none_is_refused_naming_the_header(self, live: Live, bad: str) -> None:
        subscription = live.subscribe(live.world.metric())
        with (
            live.open(subscription, last_id=bad) as by_header,
            live.open(subscription, query=f"?last_event_id={bad}") as by_query,
        ):
            problems = [json.loads(client.answer.read()) for client in (by_header, by_query)]
        assert [problem["status"] for problem in problems] == [422, 422]
        assert [(error["pointer"], error["in"]) for problem in problems for error in problem["errors"]] == [
            ("#/Last-Event-ID", "header"),
            ("#/last_event_id", "query"),
        ]


def _json(name: str) -> tuple[str, bytes, dict[str, str]]:
    rows = [{"metric": name, "timestamp": NINE, "value": 1.5}, {"metric": name, "timestamp": TEN, "value": -2}]
    return "/readings", json.dumps({"readings": rows}).encode(), {"Content-Type": "application/json"}


def _columns(name: str) -> tuple[str, bytes, dict[str, str]]:
    series = [{"metric": name, "timestamps": [NINE, TEN], "values": [1.5, -2]}]
    body = gzip.compress(json.dumps({"series": series}).encode())
    return "/readings", body, {"Content-Type": "application/json", "Content-Encoding": "gzip"}


def _csv(name: str) -> tuple[str, bytes, dict[str, str]]:
    text = f"metric,timestamp,value\n{name},{NINE},1.5\n{name},{TEN},-2\n"
    return "/readings", text.encode(), {"Content-Type": "text/csv"}


def _table(name: str) -> pa.Table:
    times = pa.array([datetime.fromisoformat(time) for time in (NINE, TEN)], pa.timestamp("ms", tz="UTC"))
    return pa.table({"metric": [name, name], "timestamp": times, "value": [1.5, -2.0]})


def _parquet(name: str) -> tuple[str, bytes, dict[str, str]]:
    sink = io.BytesIO()
    pq.write_table(_table(name), sink)
    return "/readings", sink.getvalue(), {"Content-Type": "application/vnd.apache.parquet"}


def _arrow(name: str) -> tuple[str, bytes, dict[str, str]]:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, _table(name).schema) as writer:
        writer.write_table(_table(name))
    return "/readings", sink.getvalue(), {"Content-Type": "application/vnd.apache.arrow.stream"}


def _lines(name: str) -> tuple[str, bytes, dict[str, str]]:
    site, device, key = name.split("/")
    times = (1767603600, 1767607200)
    text = "\n".join(
        f"m,site={site},device={device} {key}={value} {time}" for value, time in zip((1.5, -2), times, strict=True)
    )
    return "/api/v2/write?precision=s", text.encode(), {"Content-Type": "text/plain"}


class TestReadings:
    @pytest.mark.parametrize("way", [_json, _columns, _csv, _parquet, _arrow, _lines])
    def test_arrive_whatever_way_they_come_in(self, live: Live, way: Any) -> None:
        world = live.world
        device = world.device(slug="roof")
        metric = device["metrics"][0]["id"]
        path, body, headers = way("north/roof/power")
        with live.open(live.subscribe(metric)) as client:
            client.named("latest")
            base = "http://testserver" if path.startswith("/api") else "http://testserver/api/v1"
            answer = world.admin.http.post(base + path, content=body, headers=headers)
            assert answer.status_code in (200, 204), answer.text
            first, second = client.many("reading", 2)
        assert told([first, second]) == [(metric, NINE, 1.5), (metric, TEN, -2.0)]
        assert set(first.data) == {"metric_id", "timestamp", "value", "received_at"}
        assert re.fullmatch(rf"\d+\.{metric}\.1767603600000", first.id or "")
        latest = world.admin.get(f"/metrics/{metric}/latest").json()
        assert second.data == {name: latest[name] for name in second.data}

    def test_arrive_once_though_they_are_sent_again(self, live: Live) -> None:
        world, metric = live.world, live.world.metric()
        with live.open(live.subscribe(metric)) as client:
            for value in (1, 1, 2, 1, 1):
                world.send(metric, (NINE, value))
            world.send(metric, (TEN, 0))
            assert [value for *_, value in told(client.many("reading", 4))] == [1, 2, 1, 0]

    def test_of_others_do_not_arrive(self, live: Live) -> None:
        world = live.world
        mine, other = world.metric(), world.metric()
        with live.open(live.subscribe(mine)) as client:
            world.send(other, (NINE, 5))
            world.send(mine, (NINE, 1))
            assert told(client.many("reading", 1)) == [(mine, NINE, 1)]

    def test_arrive_at_all_who_listen(self, live: Live) -> None:
        world, metric = live.world, live.world.metric()
        subscription = live.subscribe(metric)
        with live.open(subscription) as one, live.open(subscription) as two:
            for client in (one, two):
                client.named("latest")
            world.send(metric, (NINE, 1), (TEN, 2))
            assert one.many("reading", 2) == two.many("reading", 2)

    def test_of_simulated_devices_arrive_as_time_goes_on_and_not_when_their_past_is_made(
        self, live: Live, clock: Clock
    ) -> None:
        body = {"name": "Load", "kind": "load_meter", "source": "simulated", "commissioned_on": "2025-12-01"}
        device = live.world.admin.post(f"/sites/{live.world.north}/devices", body).json()
        metric = device["metrics"][0]["id"]
        live.world.services.simulation.tick()
        with live.open(live.subscribe(metric)) as client:
            first = client.named("latest").data
            past = {"start": "2025-12-05T00:00:00Z", "end": "2025-12-06T00:00:00Z", "resolution": "raw"}
            answer = live.world.admin.get(f"/metrics/{metric}/history", **past)
            assert len(answer.json()["series"][0]["values"]) == 1440
            clock.advance(minutes=2)
            live.world.services.simulation.tick()
            (second, third) = client.many("reading", 2)
        times = [first["timestamp"], second.data["timestamp"], third.data["timestamp"]]
        assert times == ["2026-01-05T12:00:00Z", "2026-01-05T12:01:00Z", "2026-01-05T12:02:00Z"]
        with live.open(live.subscribe(metric), last_id=second.id) as client:
            client.named("latest")
            assert client.named("reading").data == third.data

    def test_of_a_late_time_arrive_when_they_come(self, live: Live) -> None:
        world, metric = live.world, live.world.metric()
        world.send(metric, (TEN, 1))
        with live.open(live.subscribe(metric)) as client:
            client.named("latest")
            world.send(metric, (NINE, 2))
            assert told(client.many("reading", 1)) == [(metric, NINE, 2)]


class TestResuming:
    def test_goes_on_though_the_clock_was_set_back(self, live: Live, clock: Clock) -> None:
        metric = live.world.metric()
        subscription = live.subscribe(metric)
        with live.open(subscription) as client:
            client.named("latest")
            live.world.send(metric, (NINE, 1))
            client.named("reading")
        clock.advance(hours=-6)
        live.world.send(metric, (TEN, 2))
        with live.open(subscription, last_id=client.last_id) as again:
            assert again.named("reading").data["value"] == 2
            live.world.send(metric, (ELEVEN, 3))
            assert again.named("reading").data["value"] == 3

    def test_brings_what_was_missed_once_and_in_order_then_what_comes(self, live: Live) -> None:
        world = live.world
        one, two = world.metric(), world.metric()
        subscription = live.subscribe(one, two)
        with live.open(subscription) as client:
            client.many("latest", 2)
            world.send(one, (NINE, 1), (TEN, 2))
            client.named("reading")  # the second of the two is missed
        world.send(two, (TEN, 3))
        world.send(one, (NINE, 4))
        with live.open(subscription, last_id=client.last_id) as again:
            assert [event.id for event in again.many("latest", 2)] == [None, None]
            assert told(again.many("reading", 3)) == [(one, TEN, 2), (two, TEN, 3), (one, NINE, 4)]
            world.send(two, (ELEVEN, 5))
            assert told(again.many("reading", 1)) == [(two, ELEVEN, 5)]

    def test_by_the_id_of_the_first_events_brings_all_since_then(self, live: Live) -> None:
        world, metric = live.world, live.world.metric()
        subscription = live.subscribe(metric)
        world.send(metric, (NINE, 1))
        with live.open(subscription) as client:
            client.named("latest")
        world.send(metric, (TEN, 2))
        with live.open(subscription, query=f"?last_event_id={client.last_id}") as again:
            assert told(again.many("reading", 1)) == [(metric, TEN, 2)]

    def test_goes_page_by_page(self, live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("kilowatch.live.stream._PAGE", 7)
        world, metric = live.world, live.world.metric()
        subscription = live.subscribe(metric)
        with live.open(subscription) as client:
            client.named("latest")
        times = [f"2026-01-05T08:{n:02d}:00Z" for n in range(50)]
        for begin in (0, 20):
            world.send(metric, *((time, 1.0) for time in times[begin : begin + 30]))
        with live.open(subscription, last_id=client.last_id) as again:
            assert told(again.many("reading", 50)) == [(metric, time, 1.0) for time in times]

    def test_of_a_replaced_reading_brings_its_last_value(self, live: Live) -> None:
        world, metric = live.world, live.world.metric()
        subscription = live.subscribe(metric)
        with live.open(subscription) as client:
            client.named("latest")
        for value in (1, 2):
            world.send(metric, (NINE, value))
        world.send(metric, (TEN, 3))
        with live.open(subscription, last_id=client.last_id) as again:
            events = again.until(lambda event: event.name == "reading" and event.data["timestamp"] == TEN)
        assert told([event for event in events if event.name == "reading"])[-2:] == [
            (metric, NINE, 2),
            (metric, TEN, 3),
        ]

    @pytest.mark.parametrize(("days", "reset"), [(6.99, False), (7.01, True)])
    def test_after_too_long_says_so_and_goes_on_from_now(
        self, live: Live, clock: Clock, days: float, reset: bool
    ) -> None:
        world = live.world
        metric, key = world.metric(), world.admin.post("/me/api-keys", {"name": "Wall"}).json()["key"]
        subscription = live.subscribe(metric)
        with live.open(subscription) as client:
            client.named("latest")
        world.send(metric, (NINE, 1))
        clock.advance(days=days)
        with Client(live.port, subscription, key, last_id=client.last_id) as again:
            _, *events = again.until(lambda event: event.name == "latest")
            if not reset:
                assert told(again.many("reading", 1)) == [(metric, NINE, 1)]
                return
            first, latest = events
            assert (first.name, first.data["reason"]) == ("reset", "expired")
            assert first.id == latest.id is not None
            assert latest.data["value"] == 1
            rows = [{"metric_id": metric, "timestamp": TEN, "value": 2}]
            assert world.http(key).post("/readings", json={"readings": rows}).status_code == 200
            assert told(again.many("reading", 1)) == [(metric, TEN, 2)]

    def test_from_an_id_of_the_future_says_so_and_goes_on_from_now(self, live: Live) -> None:
        world, metric = live.world, live.world.metric()
        future = int(START.timestamp() * 1000) + 1_000_000
        with live.open(live.subscribe(metric), last_id=f"{future}.1.1") as client:
            assert client.named("reset").data["reason"] == "unknown"
            client.named("latest")
            world.send(metric, (NINE, 1))
            assert told(client.many("reading", 1)) == [(metric, NINE, 1)]


class TestManyAtOnce:
    """An import brings more than is written out for each client: they read it from the store."""

    def test_of_one_metric_arrive_all(self, live: Live) -> None:
        world, metric = live.world, live.world.metric()
        times = [f"2026-01-04T{n // 60 % 24:02d}:{n % 60:02d}:00Z" for n in range(1440)]
        with live.open(live.subscribe(metric)) as client:
            client.named("latest")
            world.send(metric, *((time, 1.0) for time in times))
            world.send(metric, (TEN, 2))
            assert told(client.many("reading", 1441)) == [*((metric, time, 1.0) for time in times), (metric, TEN, 2)]

    def test_arrive_all_though_they_do_not_fit_the_buffer(self, live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("kilowatch.live.stream._MOST_WAITING", 1000)
        world, metrics = live.world, [live.world.metric() for _ in range(3)]
        with live.open(live.subscribe(*metrics)) as client:
            client.many("latest", 3)
            expected = []
            for minute in range(20):
                time = f"2026-01-05T08:{minute:02d}:00Z"
                rows = [{"metric_id": metric, "timestamp": time, "value": minute} for metric in metrics]
                assert world.admin.post("/readings", {"readings": rows * 5}).status_code == 200
                expected += [(metric, time, minute) for metric in metrics]
            assert told(client.many("reading", 60)) == expected


class TestHeartbeat:
    def test_comes_where_nothing_else_does_and_moves_the_id_on(
        self, live: Live, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("kilowatch.live.streams._HEARTBEAT_S", 1.0)
        world, mine, other = live.world, live.world.metric(), live.world.metric()
        with live.open(live.subscribe(mine)) as client:
            begin = client.named("latest").id
            world.send(other, (NINE, 1))
            beat = client.until(lambda event: event.comment == "heartbeat" and event.id != begin)[-1]
        assert (beat.name, beat.data) == ("", None)
        assert int(beat.id or 0) > int(begin or 0)
