"""Streams of any metrics, in no subscription; and streams of a browser's session."""

import pytest

from tests.conftest import Clock
from tests.live.client import Client
from tests.live.conftest import Live
from tests.live.test_ending import soon
from tests.pages.browser import Browser, browser_of

NINE, TEN, ELEVEN = (f"2026-01-05T{hour}:00:00Z" for hour in ("09", "10", "11"))
SESSION = "kilowatch_session"


@pytest.fixture
def database_url(any_database_url: str) -> str:
    return any_database_url


class TestAStreamOfMetrics:
    def test_shows_their_latest_values_and_then_what_arrives(self, live: Live) -> None:
        world = live.world
        first, second, other = (world.metric() for _ in range(3))
        world.send(second, (NINE, 1))
        with live.open([second, first]) as client:
            latest = client.many("latest", 2)
            world.send(other, (TEN, 2))
            world.send(first, (TEN, 3))
            reading = client.named("reading")
        assert [event.data["metric_id"] for event in latest] == [second, first]
        assert (reading.data["metric_id"], reading.data["value"]) == (first, 3)

    def test_goes_on_where_it_was_left(self, live: Live) -> None:
        world, metric = live.world, live.world.metric()
        with live.open([metric]) as client:
            client.named("latest")
            world.send(metric, (NINE, 1))
            last = client.named("reading").id
        world.send(metric, (TEN, 2))
        world.send(metric, (ELEVEN, 3))
        with live.open([metric], last_id=last) as client:
            assert [event.data["value"] for event in client.many("reading", 2)] == [2, 3]

    def test_of_one_that_can_not_be_seen_is_none(self, live: Live) -> None:
        world = live.world
        with live.open([world.metric(), world.metric(world.south)], world.technician) as client:
            assert client.status == 404

    def test_says_which_may_not_be_read_any_more_and_goes_on(self, live: Live) -> None:
        world, person = live.world, live.world.neighbour
        world.grant(person, world.north, "standard")
        lost, kept = world.metric(world.north), world.metric(world.south)
        with live.open([lost, kept], person) as client:
            client.many("latest", 2)
            gone = soon(client, lambda: world.admin.delete(f"/sites/{world.north}/grants/{person.id}"), "unavailable")
            assert gone.data == {"metric_ids": [lost], "reason": "not_readable"}
            world.send(lost, (NINE, 1))
            world.send(kept, (NINE, 2))
            assert client.named("reading").data["metric_id"] == kept
            world.grant(person, world.north, "standard")
            latest = client.named("latest")
            assert (latest.data["metric_id"], latest.data["value"]) == (lost, 1)

    def test_says_which_was_deleted(self, live: Live) -> None:
        world = live.world
        device, kept = world.device(), world.metric()
        deleted = device["metrics"][0]["id"]
        with live.open([deleted, kept]) as client:
            client.many("latest", 2)
            gone = soon(client, lambda: world.admin.delete(f"/devices/{device['id']}"), "unavailable")
        assert gone.data == {"metric_ids": [deleted], "reason": "not_readable"}

    def test_ends_with_the_last_of_them(self, live: Live) -> None:
        world, person = live.world, live.world.standard
        with live.open([world.metric()], person) as client:
            client.named("latest")
            end = soon(client, lambda: world.admin.delete(f"/sites/{world.north}/grants/{person.id}"), "end")
        assert end.data["reason"] == "no_metrics"

    def test_stands_beside_those_of_subscriptions(self, live: Live) -> None:
        world, metric = live.world, live.world.metric()
        with live.open([metric]) as one, live.open(live.subscribe(metric)) as other, live.open([metric]) as third:
            for client in (one, other, third):
                client.named("latest")
            world.send(metric, (NINE, 1))
            assert [client.named("reading").data["value"] for client in (one, other, third)] == [1, 1, 1]


class TestAStreamOfABrowser:
    def open(self, live: Live, browser: Browser, *metrics: int, **headers: str) -> Client:
        cookie = f"{SESSION}={browser.http.cookies[SESSION]}"
        return Client(live.port, metrics, None, headers={"Cookie": cookie, **headers})

    def test_ends_soon_after_signing_out(self, live: Live) -> None:
        world = live.world
        browser = browser_of(world, world.standard)
        form = browser.get("/account").fields("/sign-out")
        with self.open(live, browser, world.metric()) as client:
            client.named("latest")
            end = soon(client, lambda: browser.post("/sign-out", form), "end")
        assert end.data["reason"] == "signed_out"

    def test_is_none_for_another_site(self, live: Live) -> None:
        browser = browser_of(live.world, live.world.standard)
        with self.open(live, browser, live.world.metric(), **{"Sec-Fetch-Site": "cross-site"}) as client:
            assert client.status == 403

    def test_lasts_as_long_as_the_session_is_used(self, live: Live, clock: Clock) -> None:
        world, person = live.world, live.world.neighbour
        world.grant(person, world.north, "standard")
        lost, kept = world.metric(world.north), world.metric(world.south)
        admin = world.http(world.admin.post("/me/api-keys", {"name": "outlasts the clock"}).json()["key"])
        browser = browser_of(world, person)
        with self.open(live, browser, lost, kept) as client:
            client.many("latest", 2)
            clock.advance(hours=11)
            assert browser.get("/sites").status == 200
            clock.advance(hours=2)
            # that rights were looked up since is told by one that is lost
            soon(client, lambda: admin.delete(f"/sites/{world.north}/grants/{person.id}"), "unavailable")
            admin.post("/readings", json={"readings": [{"metric_id": kept, "timestamp": NINE, "value": 1}]})
            assert client.named("reading").data["metric_id"] == kept
            end = soon(client, lambda: clock.advance(hours=12), "end")
        assert end.data["reason"] == "signed_out"

    def test_does_not_outlast_the_sessions_days(self, live: Live, clock: Clock) -> None:
        metric, browser = live.world.metric(), browser_of(live.world, live.world.standard)
        for _ in range(14):
            clock.advance(hours=11.5)
            assert browser.get("/sites").status == 200
        with self.open(live, browser, metric) as client:
            client.named("latest")
            end = soon(client, lambda: clock.advance(hours=8), "end")
        assert end.data["reason"] == "signed_out"
