"""What ends a stream, or a part of it, says so soon; and a reader that takes nothing is cut off."""

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from kilowatch.live import streams
from tests.conftest import Clock, Person, World
from tests.history.conftest import batch_of
from tests.live.client import DEADLINE_S, Client, Event
from tests.live.conftest import Live, token_of

NINE, TEN = "2026-01-05T09:00:00Z", "2026-01-05T10:00:00Z"


@pytest.fixture
def database_url(any_database_url: str) -> str:
    return any_database_url


def new_token(world: World, person: Person) -> str:
    answer = world.anonymous.post("/auth/token", data={"username": person.email, "password": person.password})
    return str(answer.json()["access_token"])


def soon(client: Client, do: Callable[[], Any], name: str) -> Event:
    """The event of that name which follows."""
    do()
    return client.named(name)


def test_is_looked_for_often_enough_for_what_is_promised() -> None:
    promised_s = 5
    assert promised_s > streams._LOOK_EVERY_S + streams._TICK_S
    assert promised_s > streams._SURE_FOR_S + streams._TICK_S + streams._LOOK_AT_LEAST_S


class TestEnds:
    def test_with_the_sign_in(self, live: Live) -> None:
        world, person = live.world, live.world.standard
        subscription = live.subscribe(world.metric(), person=person)
        token = new_token(world, person)
        with Client(live.port, subscription, token) as client, live.open(subscription, person) as other:
            end = soon(client, lambda: world.http(token).post("/auth/logout"), "end")
            assert end.data["reason"] == "signed_out"
            assert client.event() is None
            world.send(world.metric(), (NINE, 1))
            assert other.event() is not None  # another sign-in of the same user goes on

    def test_with_the_user(self, live: Live) -> None:
        world, person = live.world, live.world.standard
        with live.open(live.subscribe(world.metric(), person=person), person) as client:
            end = soon(client, lambda: world.admin.delete(f"/users/{person.id}"), "end")
        assert end.data["reason"] == "signed_out"

    def test_when_nobody_can_look_up_who_may_listen(self, live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
        async def look(*_: object) -> None:
            await asyncio.sleep(2 * DEADLINE_S)

        with live.open(live.subscribe(live.world.metric())) as client:
            client.named("latest")
            monkeypatch.setattr(live.server._app.state.streams, "_look", look)
            assert client.named("end").data["reason"] == "unavailable"

    def test_with_the_subscription(self, live: Live) -> None:
        subscription = live.subscribe(live.world.metric())
        with live.open(subscription) as client:
            end = soon(client, lambda: live.world.admin.delete(f"/subscriptions/{subscription}"), "end")
        assert end.data["reason"] == "subscription_gone"

    def test_with_the_api_key(self, live: Live) -> None:
        world = live.world
        key = world.admin.post("/me/api-keys", {"name": "Wall"}).json()
        with Client(live.port, live.subscribe(world.metric()), key["key"]) as client:
            client.named("latest")
            end = soon(client, lambda: world.admin.delete(f"/me/api-keys/{key['id']}"), "end")
        assert end.data["reason"] == "key_ended"

    def test_when_the_api_key_expires_though_nothing_is_committed(self, live: Live, clock: Clock) -> None:
        world = live.world
        body = {"name": "Wall", "expires_at": "2026-01-05T12:30:00Z"}
        key = world.admin.post("/me/api-keys", body).json()["key"]
        with Client(live.port, live.subscribe(world.metric()), key) as client:
            client.named("latest")
            end = soon(client, lambda: clock.advance(minutes=31), "end")
        assert end.data["reason"] == "key_ended"

    def test_with_the_last_metric(self, live: Live) -> None:
        world, metric = live.world, live.world.metric()
        person = world.standard
        with live.open(live.subscribe(metric, person=person), person) as client:
            client.named("latest")
            world.admin.delete(f"/sites/{world.north}/grants/{person.id}")
            *_, unavailable, end = client.rest()
        assert unavailable.data == {"metric_ids": [metric], "reason": "not_readable"}
        assert (end.name, end.data["reason"]) == ("end", "no_metrics")

    def test_with_the_server_which_says_so(self, live: Live) -> None:
        subscription = live.subscribe(live.world.metric())
        clients = [live.open(subscription) for _ in range(5)]
        for client in clients:
            client.named("latest")
        live.stop()
        assert [client.rest()[-1].data["reason"] for client in clients] == ["shutdown"] * 5
        for client in clients:
            client.close()


class TestAMetric:
    def test_that_may_not_be_read_any_more_sends_nothing_from_then_on(self, live: Live) -> None:
        world, person = live.world, live.world.neighbour
        world.grant(person, world.north, "standard")
        lost, kept = world.metric(world.north), world.metric(world.south)
        with live.open(live.subscribe(lost, kept, person=person), person) as client:
            client.many("latest", 2)
            gone = soon(client, lambda: world.admin.delete(f"/sites/{world.north}/grants/{person.id}"), "unavailable")
            assert gone.data == {"metric_ids": [lost], "reason": "not_readable"}
            world.send(lost, (NINE, 1))
            world.send(kept, (NINE, 2))
            assert client.named("reading").data["metric_id"] == kept

    def test_that_may_be_read_again_shows_its_latest_value_and_goes_on(self, live: Live) -> None:
        world, person = live.world, live.world.neighbour
        world.grant(person, world.north, "standard")
        metric, other = world.metric(world.north), world.metric(world.south)
        with live.open(live.subscribe(metric, other, person=person), person) as client:
            client.many("latest", 2)
            world.admin.delete(f"/sites/{world.north}/grants/{person.id}")
            client.named("unavailable")
            world.send(metric, (NINE, 1))
            back = soon(client, lambda: world.grant(person, world.north, "standard"), "latest")
            assert (back.data["metric_id"], back.data["value"], back.id) == (metric, 1, None)
            world.send(metric, (TEN, 2))
            assert client.named("reading").data["value"] == 2

    def test_that_is_added_or_taken_out_comes_and_goes(self, live: Live) -> None:
        world = live.world
        first, second = world.metric(), world.metric()
        world.send(second, (NINE, 7))
        subscription = live.subscribe(first)
        with live.open(subscription) as client:
            client.named("latest")
            path = f"/subscriptions/{subscription}"
            added = soon(client, lambda: world.admin.patch(path, {"metric_ids": [first, second]}), "latest")
            assert (added.data["metric_id"], added.data["value"]) == (second, 7)
            removed = soon(client, lambda: world.admin.patch(path, {"metric_ids": [second]}), "unavailable")
            assert removed.data == {"metric_ids": [first], "reason": "removed"}

    def test_that_is_deleted_is_told(self, live: Live) -> None:
        world = live.world
        device = world.device(metrics=[{"key": key, "quantity": "power", "unit": "kW"} for key in ("a", "b")])
        gone, kept = (metric["id"] for metric in device["metrics"])
        with live.open(live.subscribe(gone, kept)) as client:
            client.many("latest", 2)
            told = soon(client, lambda: world.admin.delete(f"/metrics/{gone}"), "unavailable")
        assert told.data["metric_ids"] == [gone]


class TestAReaderThatTakesNothing:
    @pytest.mark.parametrize("options", [{"stream_stall_s": 0.5}])
    def test_is_cut_off_and_gets_all_of_it_when_it_comes_back(self, live: Live, options: object) -> None:
        world, metric = live.world, live.world.metric()
        subscription = live.subscribe(metric)
        with live.open(subscription) as client:
            begin = client.named("latest").id
        token = token_of(world.admin.http)
        with socket.create_connection(("127.0.0.1", live.port)) as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.sendall(
                f"GET /api/v1/subscriptions/{subscription}/stream HTTP/1.1\r\nHost: x\r\n"
                f"Authorization: Bearer {token}\r\n\r\n".encode()
            )
            assert deaf.recv(100).startswith(b"HTTP/1.1 200")
            count = 60_000  # 10 MB of events are more than any kernel keeps for it
            readings = [(1_600_000_000_000 + 1000 * n, 1.0) for n in range(count)]
            assert world.services.history is not None
            world.services.history.append(batch_of((metric, readings)))
            deaf.settimeout(DEADLINE_S)
            served = live.server._app.state.streams
            deadline = time.monotonic() + DEADLINE_S
            while served._open:  # it is forgotten, and what was kept for it with it
                assert time.monotonic() < deadline
                world.client.get("/health/live")
        served._limits = replace(served._limits, stall_s=DEADLINE_S)
        with live.open(subscription, last_id=begin) as again:
            events = again.many("reading", count)
        assert len({event.id for event in events}) == count
        assert events[-1].data["timestamp"] == "2020-09-14T05:06:39Z"
