"""Readings of simulated devices that are folded: what nobody had asked for by then is made all the same."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import World
from tests.simulation.test_simulated_devices import Home

ASKED = ("2026-01-20T06:00:00Z", "2026-01-20T18:00:00Z")


@pytest.fixture
def database_url(any_database_url: str) -> str:
    return any_database_url


def a_home(world: World) -> Home:
    """It reported from 12:07 until 12:20, was switched off for twenty days, and on again for a moment.

    Of what lies between somebody has asked for a day.
    """
    world.clock.advance(minutes=7)
    home = Home(world, "load_meter", "pv_array", "grid_meter")
    home.latest("grid_meter")
    world.clock.advance(minutes=13)
    home.latest("grid_meter")
    world.clock.advance(days=20)
    home.latest("grid_meter")
    world.clock.advance(days=10)
    home.latest("grid_meter")
    home.raw("grid_meter", "power", *ASKED)
    return home


def answers(home: Home) -> list[Any]:
    found = []
    for key, aggregate, resolution in (
        ("power", "energy_positive", "15m"),
        ("power", "count", "1d"),
        ("energy_imported", "delta", "1h"),
    ):
        asked = {"start": "2026-01-02T00:00:00Z", "end": "2026-01-27T00:00:00Z"}
        asked |= {"resolution": resolution, "aggregate": aggregate}
        answer = home.http.get(f"/metrics/{home.metric('grid_meter', key)}/history", params=asked)
        assert answer.status_code == 200, answer.text
        (series,) = answer.json()["series"]
        found.append((series["timestamps"], series["values"], series["coverage"]))
    return found


def test_what_nobody_asked_for_is_the_same_before_and_after(world: World, others: Callable[[], World]) -> None:
    """To the bit, also of the quarters of an hour of which only a part was made when they became old."""
    expected = answers(a_home(others()))
    home = a_home(world)
    history = world.services.history
    assert history is not None
    ids = [metric["id"] for metric in home.devices["grid_meter"]["metrics"]]
    answer = home.http.patch(f"/sites/{home.site_id}", json={"raw_days": 7})
    assert answer.status_code == 200, answer.text
    for _ in range(2):
        world.fold()
        assert history.folded.count(ids)[0] > 0
        assert answers(home) == expected
        world.clock.advance(days=1)
    world.fold()
    assert answers(home) == expected
    raw = home.values("grid_meter", "power", "2026-01-05T12:00:00Z", "2026-01-05T13:00:00Z")
    assert len(raw) == 8  # all is folded by now
