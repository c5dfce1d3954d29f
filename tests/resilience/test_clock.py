"""The clock is set back by hours: readings stay in order, people stay signed in, and nobody is locked out."""

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import numpy as np
import pytest
from fastapi.testclient import TestClient

from kilowatch.app import create_app
from kilowatch.config import Settings
from kilowatch.history.model import Place
from kilowatch.history.store import HistoryStore
from kilowatch.kit.db import Database
from tests.clickhouse import ClickHouse
from tests.conftest import Clock, World, _unique, drop_history, open_world
from tests.history.conftest import batch_of
from tests.processes import wait_until
from tests.simulation.test_simulated_devices import Home

HOURS = 6


def latest(world: World, metric: int) -> float:
    return float(world.admin.get(f"/metrics/{metric}/latest").json()["value"])


def arrived(store: HistoryStore | None, metric: int) -> list[float]:
    """The values of a metric in order of arrival, no two of them at one moment."""
    assert store is not None
    rows = store.arrivals([metric], Place.until(0), until=store.arrived_until(), limit=100)
    assert (np.diff(rows["received_at"]) > 0).all()
    return [float(value) for value in rows["value"]]


def has_heard_of_all(store: HistoryStore) -> bool:
    return store.arrived_until() >= int(store.latest(np.array([1], np.uint32))["received_at"][0])


class TestAClockThatIsSetBack:
    def test_leaves_readings_in_the_order_of_their_arrival(self, world: World, clock: Clock) -> None:
        metric = world.metric()
        world.send(metric, ("2026-01-05T10:00:00Z", 1))
        clock.advance(hours=-HOURS)
        world.send(metric, ("2026-01-05T11:00:00Z", 2))
        world.send(metric, ("2026-01-05T11:00:00Z", 3))  # what is sent last counts
        assert arrived(world.services.history, metric) == [1, 2, 3]
        assert latest(world, metric) == 3

    def test_does_so_over_a_restart(self, settings: Settings, clock: Clock) -> None:
        with open_world(settings, clock) as world:
            metric = world.metric()
            world.send(metric, ("2026-01-05T10:00:00Z", 1))
        clock.advance(hours=-HOURS)
        with TestClient(create_app(settings, clock=clock)) as world.client:
            world.services = world.client.app.state.services  # type: ignore[attr-defined]  # a FastAPI app
            token = world.admin.http.headers["Authorization"].removeprefix("Bearer ")
            world.admin.http = world.http(token)
            world.send(metric, ("2026-01-05T10:00:00Z", 2))
            assert arrived(world.services.history, metric) == [1, 2]
            assert latest(world, metric) == 2

    def test_signs_nobody_out(self, world: World, clock: Clock) -> None:
        clock.advance(hours=-HOURS)
        assert world.standard.get("/me").status_code == 200
        form = {"username": world.standard.email, "password": world.standard.password}
        assert world.client.post("/api/v1/auth/token", data=form).status_code == 200

    def test_locks_nobody_out_until_it_is_there_again(self, world: World, clock: Clock) -> None:
        right = {"username": world.standard.email, "password": world.standard.password}
        statuses = [world.client.post("/api/v1/auth/token", data=right | {"password": "wrong"}) for _ in range(10)]
        assert {answer.status_code for answer in statuses} == {401}
        assert world.client.post("/api/v1/auth/token", data=right).status_code == 429
        clock.advance(minutes=-10)  # which may be the difference of two servers' clocks
        assert world.client.post("/api/v1/auth/token", data=right).status_code == 429
        clock.advance(hours=-HOURS)
        assert world.client.post("/api/v1/auth/token", data=right).status_code == 200

    def test_leaves_simulated_devices_as_they_are_until_it_is_there_again(self, world: World, clock: Clock) -> None:
        home = Home(world, "load_meter")
        clock.advance(hours=HOURS)
        world.services.simulation.tick()
        newest = home.latest("load_meter")["timestamp"]
        clock.advance(hours=-HOURS)
        world.services.simulation.tick()
        assert home.latest("load_meter")["timestamp"] == newest
        clock.advance(hours=HOURS, minutes=1)
        world.services.simulation.tick()
        assert home.latest("load_meter")["timestamp"] > newest


class TestOneOfTwoProcessesWhoseClockIsSetBack:
    @pytest.fixture
    def stores(self, postgres_url: str, clickhouse: ClickHouse, clock: Clock) -> Iterator[list[HistoryStore]]:
        url = f"{clickhouse.url}/{_unique('clock')}"
        behind = Clock()
        behind.advance(hours=-HOURS)
        with ExitStack() as opened:
            stores = []
            for its_clock in (clock, behind):
                database = Database(postgres_url, pool_size=2)
                opened.callback(database.close)
                store = HistoryStore(url, connections=1, sync=False, clock=its_clock, shared_by=database)
                opened.callback(store.close)
                stores.append(store)
            yield stores
        drop_history(url)

    def test_leaves_the_readings_of_both_in_the_order_of_their_arrival(self, stores: list[HistoryStore]) -> None:
        for number in range(6):
            stores[number % 2].append(batch_of((1, [(1_000 + number, float(number))])))
        for number in range(6, 10):
            stores[number % 2].append(batch_of((1, [(1_005, float(number))])))  # what is sent last counts
        for store in stores:
            assert store.latest(np.array([1], np.uint32))["value"].tolist() == [9.0]
            wait_until(partial(has_heard_of_all, store), "it has heard of all")
            found = arrived(store, 1)
            assert found[:5] == [0, 1, 2, 3, 4]
            assert found[-1] == 9
