"""Deletions that the history engine has not finished in time, or at all before the process ended."""

from collections.abc import Iterator

import pytest

from kilowatch.config import Settings
from kilowatch.history.store import HistoryStore
from kilowatch.services import Kilowatch
from tests.conftest import Clock, World
from tests.history.conftest import impatient

WINDOW = "?start=2026-01-05T00:00:00Z&end=2026-01-05T01:00:00Z"


@pytest.fixture
def metric(world: World) -> Iterator[int]:
    """With a reading whose deletion is noted, while the engine does not begin with it."""
    metric = world.metric()
    world.send(metric, ("2026-01-05T00:00:00Z", 1.0), ("2026-01-05T02:00:00Z", 2.0))
    engine = store_of(world.services)._engine
    engine.command("SYSTEM STOP MERGES readings", {})
    with impatient():
        refused = world.technician.delete(f"/metrics/{metric}/readings{WINDOW}")
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "60")
    yield metric
    engine.command("SYSTEM START MERGES readings", {})


def store_of(services: Kilowatch) -> HistoryStore:
    assert services.history is not None
    return services.history


def test_keep_no_process_from_starting_and_are_finished_later(
    world: World, metric: int, settings: Settings, clock: Clock
) -> None:
    with impatient():
        started = Kilowatch(settings, clock=clock)
    with started:
        assert store_of(started).count([metric]) == 2
        store_of(started)._engine.command("SYSTEM START MERGES readings", {})
        started.catalogue.finish_erasures()
        assert store_of(started).count([metric]) == 1
    again = world.technician.delete(f"/metrics/{metric}/readings{WINDOW}")
    assert again.json() == {"readings": 0}


def test_of_devices_are_finished_later_too(world: World, metric: int) -> None:
    device = world.technician.get(f"/metrics/{metric}").json()["device_id"]
    with impatient():
        assert world.technician.delete(f"/devices/{device}").json()["readings"] is None
    engine = store_of(world.services)._engine
    engine.command("SYSTEM START MERGES readings", {})
    world.services.catalogue.finish_erasures()
    assert store_of(world.services).count([metric]) == 0
