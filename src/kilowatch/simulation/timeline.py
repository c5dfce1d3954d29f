"""Which devices make up a site at which time, so that its past stays as it was told though its devices change."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import msgspec

from kilowatch.simulation.model import Definition, Part, Site, SitePlace

GRID_MS = 900_000
"""Every step and interval divides it."""

_STEPS_S = (900, 300, 60)
_AFFECTED: dict[str, tuple[str, ...]] = {
    "pv_array": ("pv_array", "inverter", "battery", "grid_meter"),
    "inverter": ("pv_array", "inverter", "battery", "grid_meter"),
    "wind_turbine": ("battery", "grid_meter"),
    "load_meter": ("ev_charger", "battery", "grid_meter"),
    "ev_charger": ("battery", "grid_meter"),
    "heat_pump": ("battery", "grid_meter"),
    "battery": ("battery", "grid_meter"),
    "grid_meter": (),
    "weather_station": (),
}
"""The kinds of device whose readings become others when one of a kind joins their site."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A device as the catalogue has it now. `start` is when it is said to begin, in ms since 1970."""

    device_id: int
    start: int
    definition: Definition


@dataclass(frozen=True, slots=True)
class Segment:
    """A span `[begin, end)` in which a site does not change; both are multiples of the step."""

    begin: int
    end: int
    step_s: int
    parts: tuple[Part, ...]
    place: SitePlace


def followed(site_id: int, site: Site, wanted: Sequence[Wanted], place: SitePlace, told: Mapping[int, int]) -> Site:
    """The site once it is as the catalogue wants it: what is there, changed, and what is new.

    What was told is not changed: another definition of a device holds from where its readings end, a device joins the
    site's balance from where the readings end of all those that it would change, and a site moves when all end.

    Args:
        place: where the site is now.
        told: for each device until when there are readings of it, in ms since 1970; 0 for none.
    """
    follower = _Follower(site_id, site.parts, wanted, told)
    parts = sorted(follower.parts(), key=lambda part: (part.id is None, part.id or 0))
    return Site(tuple(parts), _places(site.places, place, _up(max(told.values(), default=0), follower.step_ms)))


def _places(places: Sequence[SitePlace], now: SitePlace, at: int) -> tuple[SitePlace, ...]:
    if places and msgspec.structs.replace(places[-1], begins=0) == now:
        return tuple(places)
    stay = [place for place in places if place.begins < at]
    return (*stay, msgspec.structs.replace(now, begins=at if stay else 0))


class _Follower:
    """Goes through the devices of one site."""

    def __init__(self, site_id: int, parts: Sequence[Part], wanted: Sequence[Wanted], told: Mapping[int, int]) -> None:
        self._site_id, self._parts, self._wanted, self._told = site_id, parts, wanted, told
        self._kinds = {part.device_id: part.kind for part in parts}
        intervals = [part.interval_s for part in parts] + [one.definition.interval_s for one in wanted]
        self.step_ms = max(intervals, default=60) * 1000

    def parts(self) -> Iterator[Part]:
        yield from (part for part in self._parts if part.ends is not None)
        here = {part.device_id: part for part in self._parts if part.ends is None}
        for one in self._wanted:
            part = here.pop(one.device_id, None)
            if part is None:
                yield self._new(one)
            elif part.definition != one.definition:
                yield from self._changed(part, one)
            else:
                yield self._restarted(part, one.start)
        for part in here.values():
            at = self._free_from(part.device_id, part.kind)
            if at > part.begins:
                yield msgspec.structs.replace(part, ends=at)

    def _new(self, one: Wanted, *, part_id: int | None = None) -> Part:
        """It begins when it is said to, or behind what was measured of it."""
        begins = max(_up(one.start, GRID_MS), self._own(one.device_id))
        joins = max(begins, self._others(one.device_id, one.definition.kind))
        return self._part(one, begins=begins, joins=joins, part_id=part_id)

    def _changed(self, part: Part, one: Wanted) -> Iterator[Part]:
        at = self._free_from(one.device_id, part.kind, one.definition.kind)
        if at <= part.begins:
            yield self._new(one, part_id=part.id)
        else:
            yield msgspec.structs.replace(part, ends=at)
            yield self._part(one, begins=at, joins=max(at, part.joins))

    def _restarted(self, part: Part, start: int) -> Part:
        """A part that is said to begin at another time: always earlier, later only if nothing of it was told."""
        if start == part.start:
            return part
        begins = _up(start, GRID_MS)
        was_on_time = part.begins == _up(part.start, GRID_MS)
        if was_on_time and (begins < part.begins or not self._own(part.device_id)):
            joins = begins if self._others(part.device_id, part.kind) <= begins else max(part.joins, begins)
            return msgspec.structs.replace(part, start=start, begins=begins, joins=joins)
        return msgspec.structs.replace(part, start=start)

    def _part(self, wanted: Wanted, *, begins: int, joins: int, part_id: int | None = None) -> Part:
        return Part(
            **msgspec.structs.asdict(wanted.definition),
            id=part_id,
            site_id=self._site_id,
            device_id=wanted.device_id,
            start=wanted.start,
            begins=begins,
            joins=joins,
        )

    def _free_from(self, device_id: int, *kinds: str) -> int:
        """From when on it may be another, or gone."""
        return max(self._own(device_id), *(self._others(device_id, kind) for kind in kinds))

    def _own(self, device_id: int) -> int:
        return _up(self._told.get(device_id, 0), self.step_ms)

    def _others(self, device_id: int, kind: str) -> int:
        """Until when readings of others are told that one of this kind, coming or going, would change."""
        affected = (other for other, its in self._kinds.items() if its in _AFFECTED[kind] and other != device_id)
        return _up(max((self._told.get(other, 0) for other in affected), default=0), self.step_ms)


def active(parts: Sequence[Part], instant: int) -> list[Part]:
    return [part for part in parts if part.begins <= instant and (part.ends is None or instant < part.ends)]


def segments(site: Site, begin: int, end: int) -> Iterator[Segment]:
    """What is at the site from `begin` until before `end` (multiples of its steps), where anything is."""
    times = {instant for part in site.parts for instant in (part.begins, part.joins, part.ends)}
    times |= {place.begins for place in site.places}
    for first, last in pairwise((*sorted(time for time in times if time is not None), None)):
        assert first is not None  # only the last is not
        if first >= end or (last is not None and last <= begin):
            continue
        if here := active(site.parts, first):
            place = next(place for place in reversed(site.places) if place.begins <= first)
            until = end if last is None else min(last, end)
            yield Segment(max(first, begin), until, _step_s(here, first, last), tuple(here), place)


def reach(site: Site, now_ms: int) -> int:
    """Until when a site can be simulated now: to the sample after the newest."""
    instant = now_ms // 1000 * 1000
    step_ms = next((segment.step_s * 1000 for segment in segments(site, instant, instant + 1)), 60_000)
    return (now_ms // step_ms + 1) * step_ms


def _step_s(parts: Sequence[Part], begin: int, end: int | None) -> int:
    """The longest step that meets both ends, and at which each of them reports."""
    shortest = min(part.interval_s for part in parts)
    ends = (begin, begin if end is None else end)
    return next(step for step in _STEPS_S if step <= shortest and all(edge % (step * 1000) == 0 for edge in ends))


def _up(instant: int, step: int) -> int:
    return -(-instant // step) * step
