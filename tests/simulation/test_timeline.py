"""What makes up a site over time: whatever changes, what was told stays, and to follow it twice changes nothing."""

import itertools
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from kilowatch.simulation.model import Definition, Site, SitePlace
from kilowatch.simulation.timeline import GRID_MS, Told, Wanted, active, followed, segments

KINDS = ("battery", "grid_meter", "inverter", "load_meter", "pv_array", "weather_station")
NOON = 20_000 * 86_400_000

times = st.integers(0, 400).map(lambda number: NOON + number * GRID_MS)
definitions = st.builds(
    Definition,
    kind=st.sampled_from(KINDS),
    properties=st.sampled_from(({}, {"peak_kw": 5.0})),
    interval_s=st.sampled_from((60, 300, 900)),
)
places = st.sampled_from((SitePlace(0, "UTC", None, None, None), SitePlace(0, "Europe/Berlin", 48.0, 11.0, "DE")))


@st.composite
def steps(draw: st.DrawFn) -> list[tuple[list[Wanted], SitePlace, Told]]:
    """A site as it is wanted at some moments, and what was told by then: ever more."""
    found = []
    until = 0
    made: dict[int, int] = {}
    for _ in range(draw(st.integers(1, 5))):
        ids = draw(st.sets(st.integers(1, 5)))
        wanted = [Wanted(number, draw(times), draw(definitions)) for number in sorted(ids)]
        until = max(until, draw(st.just(0) | times))
        made |= dict.fromkeys(draw(st.sets(st.sampled_from(sorted(ids)))) if ids else (), until)
        made = {number: told for number, told in made.items() if number in ids and told}
        since = draw(st.just(0) | times)
        since = since if made and since < until else 0
        found.append((wanted, draw(places), Told(since, dict(made), dict(made))))
    return found


def numbered(site: Site, numbers: Any) -> Site:
    """As it is once it was stored."""
    parts = [msgspec.structs.replace(part, id=part.id or next(numbers)) for part in site.parts]
    return Site(tuple(sorted(parts, key=lambda part: part.id or 0)), site.places)


@given(steps())
def test_a_site_that_was_followed_is_as_it_is_wanted(steps: list[tuple[list[Wanted], SitePlace, Told]]) -> None:
    site, numbers = Site(), itertools.count(1)
    for wanted, place, told in steps:
        site = numbered(followed(1, site, wanted, place, told), numbers)
        assert followed(1, site, wanted, place, told) == site
        still_open = {part.device_id: part.definition for part in site.parts if part.ends is None}
        assert still_open == {one.device_id: one.definition for one in wanted}


@given(steps())
def test_no_device_is_there_twice_at_a_time(steps: list[tuple[list[Wanted], SitePlace, Told]]) -> None:
    site, numbers = Site(), itertools.count(1)
    for wanted, place, told in steps:
        site = numbered(followed(1, site, wanted, place, told), numbers)
        edges = {edge for part in site.parts for edge in (part.begins, part.joins, part.ends or part.begins)}
        for instant in edges:
            here = [part.device_id for part in active(site.parts, instant)]
            assert len(here) == len(set(here))
        assert all(part.begins <= part.joins for part in site.parts)
        assert [found.begins for found in site.places] == sorted({found.begins for found in site.places})


@given(steps())
def test_what_was_told_is_made_of_the_same_parts_as_before(
    steps: list[tuple[list[Wanted], SitePlace, Told]],
) -> None:
    site, numbers = Site(), itertools.count(1)
    for wanted, place, told in steps:
        before = site
        site = numbered(followed(1, site, wanted, place, told), numbers)
        for device_id, until in told.made.items():
            instants = range(max(told.since, NOON), until, 8 * GRID_MS)
            earlier, now = (_made_of(one, device_id, instants) for one in (before, site))
            assert earlier.items() <= now.items()


def _made_of(site: Site, device_id: int, instants: range) -> dict[int, str]:
    """What a device is at each of these times, where it is there."""
    return {
        instant: repr(part.definition)
        for instant in instants
        for part in active(site.parts, instant)
        if part.device_id == device_id
    }


@given(steps())
def test_segments_leave_no_time_out_and_meet_their_step(steps: list[tuple[list[Wanted], SitePlace, Told]]) -> None:
    site, numbers = Site(), itertools.count(1)
    for wanted, place, told in steps:
        site = numbered(followed(1, site, wanted, place, told), numbers)
    whole = list(segments(site, NOON - GRID_MS, NOON + 500 * GRID_MS))
    for segment in whole:
        assert segment.begin < segment.end
        assert segment.begin % (segment.step_s * 1000) == segment.end % (segment.step_s * 1000) == 0
        assert all(part.interval_s % segment.step_s == 0 for part in segment.parts)
    for one, other in itertools.pairwise(whole):
        assert one.end <= other.begin
        assert one.end == other.begin or not active(site.parts, one.end)
