"""The state of a site is the same whatever was asked before: proven against one run from the very beginning."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kilowatch.simulation.course import BLOCK_MS, Course, Piece
from kilowatch.simulation.model import KnownState, Part, Site, SitePlace
from kilowatch.simulation.plant import CHANNELS
from kilowatch.simulation.timeline import GRID_MS

DAY_MS = 86_400_000
FIRST = 20_000 * DAY_MS  # 2024-10-04
PLACE = SitePlace(0, "Europe/Berlin", 48.1, 11.6, "DE")
ENERGY = {"energy", "energy_charged", "energy_discharged", "energy_imported", "energy_exported"}


def part(device_id: int, kind: str, *, begins: int = FIRST, joins: int | None = None, **more: Any) -> Part:
    joins = begins if joins is None else joins
    fields: dict[str, Any] = {"properties": {}, "interval_s": 900} | more
    return Part(
        id=device_id, site_id=1, device_id=device_id, kind=kind, start=begins, begins=begins, joins=joins, **fields
    )


def a_home(**battery: Any) -> Site:
    parts = (
        part(1, "load_meter"),
        part(2, "pv_array"),
        part(3, "battery", **battery),
        part(4, "grid_meter"),
        part(5, "wind_turbine", properties={"rated_kw": 2, "cut_out_ms": 14}),
    )
    return Site(parts, (PLACE,))


def first_states(site: Site, at: int) -> list[KnownState]:
    return [
        KnownState(
            one.device_id, max(at, one.begins), dict.fromkeys(ENERGY & _keys(one), "36000000000000"), is_first=True
        )
        for one in site.parts
    ]


def _keys(one: Part) -> set[str]:
    return {channel.key for channel in CHANNELS[one.kind]}


Values = dict[tuple[int, str], np.ndarray]


def joined(pieces: Sequence[Piece]) -> Values:
    names = {name for piece in pieces for name in piece.values}
    return {name: np.concatenate([piece.values[name] for piece in pieces if name in piece.values]) for name in names}


def asked(site: Site, known: list[KnownState], begin: int, end: int) -> Values:
    """The values of a window, and what was learned added to `known`."""
    course = Course(1, site, known)
    values = joined(list(course.pieces(begin, end, course.state_at(begin, until=end))))
    known += course.take_found()
    return values


def from_the_beginning(site: Site, begin: int, end: int) -> Values:
    """The values of a window, of a run that begins with the first device and knows no counter."""
    course = Course(1, site, [])
    pieces = list(course.pieces(FIRST, end, {}, cuts=[begin]))
    return joined([piece for piece in pieces if piece.begin >= begin])


def assert_same(values: Values, expected: Values) -> None:
    """Counters may differ by what they showed at first."""
    assert values.keys() == expected.keys()
    for (device_id, key), course in values.items():
        other = expected[device_id, key]
        if key in ENERGY:
            np.testing.assert_allclose(course - course[0], other - other[0], atol=1e-6)
        else:
            np.testing.assert_array_equal(course, other, err_msg=f"{device_id} {key}")


MADE_AT = FIRST + 47 * DAY_MS + 5 * GRID_MS


class TestTheStateAtATime:
    @pytest.mark.parametrize("days", [0, 1, 9, 10, 31, 47, 60])
    def test_is_that_of_a_run_from_the_beginning(self, days: int) -> None:
        site, begin = a_home(), FIRST + days * DAY_MS
        values = asked(site, first_states(site, MADE_AT), begin, begin + DAY_MS)
        assert_same(values, from_the_beginning(site, begin, begin + DAY_MS))

    def test_is_found_for_a_battery_that_never_moves(self) -> None:
        """Nothing tells how full it was but the beginning."""
        site = Site((part(3, "battery"), part(4, "grid_meter")), (PLACE,))
        begin = FIRST + 60 * DAY_MS
        values = asked(site, first_states(site, MADE_AT), begin, begin + DAY_MS)
        assert_same(values, from_the_beginning(site, begin, begin + DAY_MS))
        assert set(values[3, "state_of_charge"]) == {50.0}

    def test_is_found_for_a_battery_that_takes_weeks_to_fill(self) -> None:
        site = a_home(properties={"capacity_kwh": 120})
        begin = FIRST + 47 * DAY_MS
        values = asked(site, first_states(site, MADE_AT), begin, begin + DAY_MS)
        assert_same(values, from_the_beginning(site, begin, begin + DAY_MS))

    def test_is_found_for_batteries_that_wait_for_each_other(self) -> None:
        more = (
            part(6, "battery", properties={"capacity_kwh": 5}),
            part(7, "battery", properties={"capacity_kwh": 7}, joins=FIRST + 500 * DAY_MS),
        )
        site = Site((*a_home().parts, *more), (PLACE,))
        begin = FIRST + 55 * DAY_MS
        values = asked(site, first_states(site, MADE_AT), begin, begin + DAY_MS)
        assert_same(values, from_the_beginning(site, begin, begin + DAY_MS))

    def test_counters_show_what_is_known_where_it_is_known(self) -> None:
        site = a_home()
        begin = MADE_AT - GRID_MS
        values = asked(site, first_states(site, MADE_AT), begin, begin + 2 * GRID_MS)
        for one in site.parts:
            for key in ENERGY & _keys(one):
                assert values[one.device_id, key][1] == 10_000, (one.kind, key)


class TestWindowsInAnyOrder:
    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        windows=st.lists(
            st.tuples(st.integers(0, 70 * 96), st.integers(1, 3 * 96)), min_size=2, max_size=4, unique=True
        )
    )
    def test_have_the_same_values_to_the_last_bit(self, windows: list[tuple[int, int]]) -> None:
        site = a_changing_site()
        whole = asked(site, first_states(site, MADE_AT), FIRST, FIRST + 74 * DAY_MS)
        times = times_of(site)
        known = first_states(site, MADE_AT)
        for offset, length in windows:
            begin, end = FIRST + offset * GRID_MS, FIRST + (offset + length) * GRID_MS
            for (device_id, key), values in asked(site, known, begin, end).items():
                inside = (times[device_id] >= begin) & (times[device_id] < end)
                np.testing.assert_array_equal(values, whole[device_id, key][inside], err_msg=f"{device_id} {key}")


def a_changing_site() -> Site:
    """Devices come, join, change and go while it is looked at."""
    twentieth, thirtieth = FIRST + 20 * DAY_MS + 3 * GRID_MS, FIRST + 30 * DAY_MS
    parts = (
        part(1, "load_meter"),
        part(2, "pv_array", ends=thirtieth),
        part(12, "pv_array", begins=thirtieth, properties={"peak_kw": 12}),
        part(3, "battery", joins=twentieth),
        part(4, "grid_meter"),
        part(6, "ev_charger", begins=twentieth),
        part(7, "wind_turbine", begins=FIRST + DAY_MS, ends=FIRST + 50 * DAY_MS, properties={"rated_kw": 3}),
    )
    moved = SitePlace(FIRST + 40 * DAY_MS, "Australia/Melbourne", -37.8, 145.0, "AU")
    return Site(parts, (PLACE, moved))


def times_of(site: Site) -> dict[int, np.ndarray]:
    last = FIRST + 74 * DAY_MS
    return {one.device_id: np.arange(one.begins, min(one.ends or last, last), GRID_MS) for one in site.parts}


class TestWhatIsKept:
    def test_is_a_state_each_ten_days(self) -> None:
        site, known = a_home(), first_states(a_home(), MADE_AT)
        asked(site, known, FIRST, FIRST + 35 * DAY_MS)
        times = {state.at for state in known if not state.is_first}
        assert {at for at in times if at % BLOCK_MS == 0} >= {
            FIRST // BLOCK_MS * BLOCK_MS + BLOCK_MS * number for number in (1, 2, 3)
        }

    def test_saves_the_way_back(self) -> None:
        """Once known, a state in the past needs ten days at most to be reached."""
        site, known = a_home(), first_states(a_home(), MADE_AT)
        asked(site, known, FIRST, FIRST + 35 * DAY_MS)
        course = Course(1, site, known)
        course.state_at(FIRST + 33 * DAY_MS, until=FIRST + 34 * DAY_MS)
        assert course.take_found() == []
