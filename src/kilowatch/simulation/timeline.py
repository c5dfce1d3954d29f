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


@dataclass(frozen=True, slots=True)
class Told:
    """Which readings of a site's simulated devices are told, and so stay as they are. Times are ms since 1970.

    `made` has until when readings of each device were made, `own` until when it has readings of any source. While a
    site is being set up only the newest were told: `since` is from when on. Later it is 0: all before counts as told.
    """

    since: int
    made: Mapping[int, int]
    own: Mapping[int, int]


def followed(site_id: int, site: Site, wanted: Sequence[Wanted], place: SitePlace, told: Told) -> Site:
    """The site once it is as the catalogue wants it: what is there, changed, and what is new.

    What was told is not changed: there a device stays what it was, and what joins a site's balance is not yet in it.

    Args:
        place: where the site is now.
    """
    follower = _Follower(site_id, site.parts, wanted, told)
    parts = sorted(follower.parts(), key=lambda part: (part.id is None, part.id or 0, part.begins, part.device_id))
    return Site(tuple(parts), _places(site.places, place, told, follower.step_ms))


def _places(places: Sequence[SitePlace], now: SitePlace, told: Told, step_ms: int) -> tuple[SitePlace, ...]:
    if places and msgspec.structs.replace(places[-1], begins=0) == now:
        return tuple(places)
    until = _up(max(told.made.values(), default=0), step_ms)
    if not until or not places:
        return (now,)
    kept = tuple(
        msgspec.structs.replace(place, begins=max(place.begins, told.since))
        for place, following in pairwise((*places, None))
        if place is not None and place.begins < until and (following is None or following.begins > told.since)
    )
    before = (now,) if told.since else ()
    return (*before, *kept, msgspec.structs.replace(now, begins=until))


class _Follower:
    """Goes through the devices of one site."""

    def __init__(self, site_id: int, parts: Sequence[Part], wanted: Sequence[Wanted], told: Told) -> None:
        self._site_id, self._wanted, self._told = site_id, wanted, told
        self._parts: dict[int, list[Part]] = {}
        for part in parts:
            self._parts.setdefault(part.device_id, []).append(part)
        self._kinds = {part.device_id: part.kind for part in parts}
        intervals = [part.interval_s for part in parts] + [one.definition.interval_s for one in wanted]
        self.step_ms = max(intervals, default=60) * 1000

    def parts(self) -> Iterator[Part]:
        wanted = {one.device_id: one for one in self._wanted}
        for device_id in wanted.keys() | self._parts.keys():
            parts = self._parts.get(device_id, [])
            open_part = next((part for part in parts if part.ends is None), None)
            one = wanted.get(device_id)
            if one is None:
                until = self._told_until(device_id, *(part.kind for part in parts if part is open_part))
                yield from parts if open_part is None else self._kept(parts, until)
            elif open_part is None:
                yield from parts
                gone_at = max((part.ends for part in parts if part.ends is not None), default=0)
                yield from self._new(one, self._told_until(device_id, one.definition.kind), not_before=gone_at)
            elif open_part.definition != one.definition:
                until = self._told_until(device_id, open_part.kind, one.definition.kind)
                yield from self._kept(parts, until)
                yield from self._changed(one, parts, until)
            else:
                yield from self._restarted(parts, open_part, one)

    def _kept(self, parts: Sequence[Part], until: int) -> Iterator[Part]:
        """What stays of a device that is another now, or gone: what was told of it."""
        for part in parts:
            begins = max(part.begins, self._told.since)
            ends = until if part.ends is None else min(part.ends, until)
            if begins < ends:
                yield msgspec.structs.replace(part, begins=begins, joins=max(part.joins, begins), ends=ends)

    def _new(self, one: Wanted, until: int, *, not_before: int = 0) -> Iterator[Part]:
        """It begins when it is said to, or behind what was measured of it; what was told it only sees."""
        begins = max(_up(one.start, GRID_MS), self._own(one.device_id), not_before)
        if begins < min(self._told.since, until):
            yield self._part(one, begins=begins, joins=begins, ends=self._told.since)
            begins = self._told.since
        yield self._part(one, begins=begins, joins=max(begins, until))

    def _changed(self, one: Wanted, parts: Sequence[Part], until: int) -> Iterator[Part]:
        """The device as it is now, before and after what was told of it."""
        first = min(part.begins for part in parts)
        if first >= until:
            yield from self._new(one, until)
            return
        if first < self._told.since:
            yield self._part(one, begins=first, joins=first, ends=self._told.since)
        joins = max(part.joins for part in parts)
        yield self._part(one, begins=until, joins=max(until, joins))

    def _restarted(self, parts: Sequence[Part], open_part: Part, one: Wanted) -> Iterator[Part]:
        """A device that is said to begin at another time: always earlier, later only if nothing of it was told."""
        if one.start == open_part.start:
            yield from parts
            return
        begins, first = _up(one.start, GRID_MS), min(parts, key=lambda part: part.begins)
        waits_for_measured = first.begins > _up(open_part.start, GRID_MS)
        if waits_for_measured or (begins > first.begins and self._own(one.device_id)):
            begins = first.begins
        until = self._told_until(one.device_id, open_part.kind)
        for part in parts:
            changes: dict[str, int] = {"start": one.start}
            if part is first:
                is_free = until <= begins or begins < self._told.since
                changes |= {"begins": begins, "joins": begins if is_free else max(part.joins, begins)}
            yield msgspec.structs.replace(part, **changes)

    def _part(self, wanted: Wanted, *, begins: int, joins: int, ends: int | None = None) -> Part:
        return Part(
            **msgspec.structs.asdict(wanted.definition),
            site_id=self._site_id,
            device_id=wanted.device_id,
            start=wanted.start,
            begins=begins,
            joins=joins,
            ends=ends,
        )

    def _told_until(self, device_id: int, *kinds: str) -> int:
        """Until when readings are told of a device, or of others that one of these kinds would change."""
        affected = {kind for one in kinds for kind in _AFFECTED[one]}
        others = (other for other, kind in self._kinds.items() if kind in affected or other == device_id)
        return _up(max((self._told.made.get(other, 0) for other in others), default=0), self.step_ms)

    def _own(self, device_id: int) -> int:
        return _up(self._told.own.get(device_id, 0), self.step_ms)


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
