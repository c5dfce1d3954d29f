"""Decides which readings of simulated devices are to be made, and makes them: each once, where it is first needed."""

import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, time
from typing import NamedTuple, Protocol, TypeVar
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import structlog
from sqlalchemy import Connection

from kilowatch.errors import Abandoned, Unavailable
from kilowatch.facility import service as facility
from kilowatch.facility.model import PlacedMetric, SimulatedDevice
from kilowatch.history.model import Batch, Compared, Floats, MetricIds, Milliseconds, Stop, joined
from kilowatch.kit import units
from kilowatch.kit.db import Database, take_turns
from kilowatch.kit.memory import Memory, leave
from kilowatch.kit.timespan import Window, to_ms
from kilowatch.kit.units import Conversion
from kilowatch.simulation import store
from kilowatch.simulation.channels import channel_of
from kilowatch.simulation.course import BLOCK_MS, Course, Piece
from kilowatch.simulation.meters import counted_before
from kilowatch.simulation.model import Definition, KnownState, Part, Site, SitePlace
from kilowatch.simulation.plant import Channel, State
from kilowatch.simulation.spans import Span, missing, union
from kilowatch.simulation.timeline import GRID_MS, Told, Wanted, followed, reach

T = TypeVar("T")

log = structlog.get_logger("kilowatch.simulation")

_DAY_MS = 86_400_000
_YEARS_BACK = 5
_MOST_AT_ONCE = 500_000
"""Readings of one insert; 20 bytes each."""

_AT_ONCE_MS = 60 * _DAY_MS
"""Time that is made in one go: others wait for the site's newest readings meanwhile."""

_TOLD_AS_NEW_MS = _DAY_MS
"""How much of what was missed while nothing ran is told as new once it runs again."""

_LOOK_EVERY_S = 0.2
"""How often those who wait for a site look whether anybody still waits for them."""

_SETTING_UP_MS = 3_600_000
"""After the first reading of a site was made: what is entered by then belongs to its past too, but to what was told."""


class Readings(Protocol):
    """What the simulation needs of the history."""

    def compare(self, batch: Batch) -> Compared: ...

    def submit(self, batch: Batch) -> Future[int]: ...

    def backfill(self, batch: Batch) -> None: ...

    def latest(self, metric_ids: MetricIds) -> np.ndarray: ...


class Simulated(NamedTuple):
    """A metric whose readings are made: of which device and channel, how often, and since when there are any."""

    device_id: int
    channel: str
    conversion: Conversion
    interval_ms: int
    begins: int

    def until(self, now_ms: int) -> int:
        """When the reading that is the newest now is followed by the next."""
        return (now_ms // self.interval_ms + 1) * self.interval_ms


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A site as it is to be simulated, and for which times the readings of each metric are made already."""

    site_id: int
    site: Site
    metrics: Mapping[int, Simulated]
    made: Mapping[int, Sequence[Span]]

    def lacking(self, metric_id: int, begin: int, end: int) -> list[Span]:
        """What of a span is still to be made for a metric."""
        return missing((max(begin, self.metrics[metric_id].begins), end), self.made[metric_id])

    def due(self, now_ms: int) -> dict[int, list[Span]]:
        """The newest readings of each metric that are still to be made.

        Those that were missed for longer are made when they are asked for, and not told as new then.
        """
        found = {}
        for metric_id, metric in self.metrics.items():
            until = metric.until(now_ms)
            made_until = self.made[metric_id][-1][1] if self.made[metric_id] else 0
            begin = made_until if until - made_until <= _TOLD_AS_NEW_MS else until - metric.interval_ms
            if spans := self.lacking(metric_id, begin, until):
                found[metric_id] = spans
        return found


@dataclass(slots=True)
class _Place:
    """Where one at a time makes a site's readings. `reached`: times and states that a course can be gone on from."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    site: Site | None = None
    reached: list[tuple[int, State]] = field(default_factory=list)


class Simulation:
    """Makes the readings of simulated devices. Safe to use from any thread."""

    def __init__(self, database: Database, readings: Readings, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._readings = readings
        self._clock = clock
        self._memory = Memory()
        self._places: dict[int, _Place] = {}

    def prepare(self, metrics: Sequence[PlacedMetric], window: Window, *, stop: Stop = lambda: False) -> None:
        """Make what is missing of the metrics' readings in the window, and of the next to it on both sides.

        Raises:
            Abandoned: `stop` said so. What was made by then stays.
        """
        self.refresh(metrics)
        for site_id, ids in _by_site(metrics).items():
            for begin in range(window.start_ms // _DAY_MS * _DAY_MS, window.end_ms, _AT_ONCE_MS):
                self._prepare(site_id, ids, begin, min(begin + _AT_ONCE_MS, window.end_ms), stop)

    def lacks(self, metrics: Sequence[PlacedMetric], window: Window) -> bool:
        """Whether some of the metrics' readings in the window are still to be made."""
        return any(
            self._lacking(self._plan(site_id), ids, window.start_ms, window.end_ms, now_ms=to_ms(self._clock()))
            for site_id, ids in _by_site(metrics).items()
        )

    def unmade(self, metrics: Sequence[PlacedMetric], window: Window) -> dict[int, list[Span]]:
        """From when until when (ms) readings of the window are still to be made, for metrics of which some are.

        What was made once is there: it only becomes less, unless a device is said to begin earlier.
        """
        found = {}
        for site_id, ids in _by_site(metrics).items():
            plan = self._plan(site_id)
            for metric_id in filter(plan.metrics.__contains__, ids):
                if spans := plan.lacking(metric_id, window.start_ms, window.end_ms):
                    found[metric_id] = spans
        return found

    def _prepare(self, site_id: int, ids: Sequence[int], begin: int, end: int, stop: Stop) -> None:
        if not self._lacking(self._plan(site_id), ids, begin, end, now_ms=to_ms(self._clock())):
            return
        leave()
        with self._alone_at(site_id, stop) as place:
            now_ms = to_ms(self._clock())
            self._refresh(site_id, now_ms)  # what became due while this waited is told as new, and not made as of old
            plan = self._plan(site_id)
            lacking = self._lacking(plan, ids, begin, end, now_ms=now_ms)
            for portion in self._make(plan, place, lacking, stop, now_ms=now_ms):
                self._readings.backfill(portion.batch())
                self._note(site_id, portion)

    @contextmanager
    def _alone_at(self, site_id: int, stop: Stop) -> Iterator[_Place]:
        """Raises `Abandoned` if `stop` says so while it waits for others who make the site's readings."""
        place = self._place(site_id)
        while not place.lock.acquire(timeout=_LOOK_EVERY_S):
            if stop():
                raise Abandoned
        try:
            yield place
        finally:
            place.lock.release()

    def _place(self, site_id: int) -> _Place:
        return self._places.setdefault(site_id, _Place())

    def _lacking(self, plan: Plan, ids: Iterable[int], begin: int, end: int, *, now_ms: int) -> dict[int, list[Span]]:
        """Whole days of what is still to be made, so that small windows do not leave many small spans."""
        found = {}
        for metric_id in ids:
            if (metric := plan.metrics.get(metric_id)) is None:
                continue
            first = (begin - metric.interval_ms) // _DAY_MS * _DAY_MS
            last = -(-(end + metric.interval_ms) // _DAY_MS) * _DAY_MS
            if spans := plan.lacking(metric_id, first, min(last, metric.until(now_ms))):
                found[metric_id] = spans
        return found

    # ── the newest ──

    def refresh(self, metrics: Sequence[PlacedMetric]) -> None:
        """Make the newest readings of the metrics' sites, where they are due."""
        for site_id in _by_site(metrics):
            if self._plan(site_id).due(to_ms(self._clock())):
                leave()
                with self._place(site_id).lock:
                    self._refresh(site_id, to_ms(self._clock()))

    def tick(self) -> None:
        """Make the newest readings of all sites, where they are due; a site that is at work is left for the next time.

        One that fails holds up no other.

        Raises:
            Unavailable: a store does not answer.
        """
        for site_id in self._answer("sites", facility.sites_with_simulated_devices):
            lock = self._place(site_id).lock
            if lock.acquire(blocking=False):
                try:
                    self._refresh(site_id, to_ms(self._clock()))
                except Unavailable:
                    raise
                except Exception:  # nobody waits for this; whoever asks for the site's readings is told
                    log.exception("the simulated devices of a site could not report", site=site_id)
                finally:
                    lock.release()

    def _refresh(self, site_id: int, now_ms: int) -> None:
        """By who holds the lock of the site's place."""
        plan = self._plan(site_id)
        if not (due := plan.due(now_ms)):
            return
        for portion in self._make(plan, self._place(site_id), due, lambda: False, now_ms=now_ms):
            batch, _ = self._readings.compare(portion.batch())  # some may be there from before a crash
            self._readings.submit(batch).result()
            self._note(site_id, portion)

    # ── making ──

    def _make(
        self, plan: Plan, place: _Place, lacking: Mapping[int, Sequence[Span]], stop: Stop, *, now_ms: int
    ) -> Iterator["_Portion"]:
        """Readings in portions, by time. Whoever calls it holds the place's lock, and stores each before the next."""
        if place.site != plan.site:
            place.site, place.reached = plan.site, []
        with self._database.read() as connection:
            known = store.states(connection, plan.site_id)
        course = Course(plan.site_id, plan.site, known, stop=stop)
        for begin, end in _stretches(lacking):
            portion = _Portion(plan, lacking, begin)
            start, state = _start(course, place, begin, end)
            for piece in course.pieces(start, min(end, reach(plan.site, now_ms)), state):
                portion.add(piece)
                place.reached = [*place.reached[-2:], (piece.end, piece.state)]
                if len(portion) >= _MOST_AT_ONCE:
                    yield portion.until(piece.end, course.take_found())
                    portion = _Portion(plan, lacking, piece.end)
            yield portion.until(end, course.take_found())

    def _note(self, site_id: int, portion: "_Portion") -> None:
        """Readings that are stored are not made again."""
        with self._database.write() as connection:
            devices = facility.simulated_devices(connection, site_id)
            there = {metric.id for device in devices for metric in device.metrics}
            made = {metric_id: spans for metric_id, spans in portion.spans.items() if metric_id in there}
            store.add_spans(connection, made)
            if devices:  # or the site may be gone
                store.add_states(connection, site_id, portion.known)

    # ── in step with the catalogue ──

    def _plan(self, site_id: int) -> Plan:
        while True:
            plan = self._answer(("plan", site_id), lambda connection: self._read_plan(connection, site_id))
            if plan is not None:
                return plan
            leave()
            with self._place(site_id).lock:
                self._follow(site_id)

    def _answer(self, question: Hashable, look_up: Callable[[Connection], T]) -> T:
        """From memory, if nothing was committed to the catalogue since it was looked up."""
        stamp = self._database.stamp()
        found: T | None = self._memory.find(stamp, question)
        if found is None:
            with self._database.read() as connection:
                found = look_up(connection)
            if found is not None:
                self._memory.keep(stamp, question, found)
        return found

    def _read_plan(self, connection: Connection, site_id: int) -> Plan | None:
        """`None` where the catalogue has changed since the site was noted."""
        devices = facility.simulated_devices(connection, site_id)
        site = store.find_site(connection, site_id)
        if self._followed(connection, site_id, devices, site) != site:
            return None
        metrics = {
            metric.id: _simulated(device, site, channel, metric.unit)
            for device in devices
            for metric in device.metrics
            if (channel := channel_of(device.kind, metric, device.metrics)) is not None
        }
        return Plan(site_id, site, metrics, store.spans(connection, list(metrics)))

    def _follow(self, site_id: int) -> None:
        """Note what has changed at a site since it was last looked at."""
        with self._database.write() as connection:
            take_turns(connection, f"simulation of site {site_id}")
            devices = facility.simulated_devices(connection, site_id)
            before = store.find_site(connection, site_id)
            after = self._followed(connection, site_id, devices, before)
            if after == before:
                return
            store.put_site(connection, site_id, before, after)
            store.forget_states(connection, site_id, after=_changed_from(before, after))
            counted = {state.device_id for state in store.states(connection, site_id)}
            new = {part.device_id: part for part in reversed(after.parts) if part.device_id not in counted}
            now_ms = to_ms(self._clock())
            store.add_states(connection, site_id, [_first_state(part, now_ms) for part in new.values()])

    def _followed(self, connection: Connection, site_id: int, devices: Sequence[SimulatedDevice], site: Site) -> Site:
        if not devices and not site.parts:
            return site
        position = facility.position_of_site(connection, site_id)
        if position is None:
            return site
        wanted = [_wanted(device) for device in devices]
        return followed(site_id, site, wanted, SitePlace(0, *position), self._told(connection, devices))

    def _told(self, connection: Connection, devices: Sequence[SimulatedDevice]) -> Told:
        ids = [metric.id for device in devices for metric in device.metrics]
        newest = dict(zip(ids, self._readings.latest(np.array(ids, np.uint32))["ts"].tolist(), strict=True))
        spans = store.spans(connection, ids)
        own = {
            device.id: max((newest[metric.id] + device.interval_s * 1000 for metric in device.metrics), default=0)
            for device in devices
            if any(newest[metric.id] >= 0 for metric in device.metrics)
        }
        made = {
            device.id: max(own.get(device.id, 0), *(spans[metric.id][-1][1] for metric in some))
            for device in devices
            if (some := [metric for metric in device.metrics if spans[metric.id]])
        }
        since = min((made_of[0][0] for made_of in spans.values() if made_of), default=0)
        is_being_set_up = since > to_ms(self._clock()) - _SETTING_UP_MS
        return Told(since if is_being_set_up else 0, made, own)


class _Portion:
    """Readings that were made from `begin` on, to be stored together."""

    def __init__(self, plan: Plan, lacking: Mapping[int, Sequence[Span]], begin: int) -> None:
        self._plan = plan
        self._lacking = lacking
        self._begin = begin
        self._columns: dict[int, list[tuple[Milliseconds, Floats]]] = {metric_id: [] for metric_id in sorted(lacking)}
        self._count = 0
        self.spans: dict[int, list[Span]] = {}
        self.known: list[KnownState] = []

    def __len__(self) -> int:
        return self._count

    def add(self, piece: Piece) -> None:
        for metric_id, columns in self._columns.items():
            metric = self._plan.metrics[metric_id]
            values = piece.values.get((metric.device_id, metric.channel))
            if values is None:  # it is not there at that time
                continue
            step_ms = piece.step_s * 1000
            for begin, end in self._lacking[metric_id]:
                first = -(-max(begin, piece.begin) // metric.interval_ms) * metric.interval_ms
                timestamps = np.arange(first, min(end, piece.end), metric.interval_ms, dtype=np.int64)
                if len(timestamps):
                    some = values[(timestamps - piece.begin) // step_ms]
                    columns.append((timestamps, some * metric.conversion.scale + metric.conversion.offset))
                    self._count += len(timestamps)

    def until(self, end: int, known: list[KnownState]) -> "_Portion":
        """Complete: it has all there is from its beginning until before `end`."""
        clipped = {
            metric_id: [(max(first, self._begin), min(last, end)) for first, last in spans]
            for metric_id, spans in self._lacking.items()
        }
        self.spans = {metric_id: [span for span in spans if span[0] < span[1]] for metric_id, spans in clipped.items()}
        self.known = known
        return self

    def batch(self) -> Batch:
        """By metric and time, each pair once."""
        some = {metric_id: columns for metric_id, columns in self._columns.items() if columns}
        counts = [sum(len(timestamps) for timestamps, _ in columns) for columns in some.values()]
        pairs = [pair for columns in some.values() for pair in columns]
        return Batch(
            np.repeat(np.array(list(some), np.uint32), counts),
            joined([timestamps for timestamps, _ in pairs], np.int64),
            joined([values for _, values in pairs], np.float64),
        )


def _start(course: Course, place: _Place, begin: int, end: int) -> tuple[int, State]:
    """A time at or before `begin` from which the course can be gone on with, and what is carried there."""
    reached = [(at, state) for at, state in place.reached if at <= begin < at + BLOCK_MS and course.can_go_on(at, end)]
    if reached:
        return max(reached, key=lambda one: one[0])
    begin = begin // GRID_MS * GRID_MS
    return begin, course.state_at(begin, until=end)


def _stretches(lacking: Mapping[int, Sequence[Span]]) -> Iterator[Span]:
    """Times of which something is lacking, those together that are near each other."""
    begin = end = None
    for first, last in union(span for spans in lacking.values() for span in spans):
        if begin is None or end is None:
            begin, end = first, last
        elif first - end <= BLOCK_MS:
            end = last
        else:
            yield begin, end
            begin, end = first, last
    if begin is not None and end is not None:
        yield begin, end


def _by_site(metrics: Iterable[PlacedMetric]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for metric in metrics:
        if metric.simulated:
            found.setdefault(metric.site_id, []).append(metric.id)
    return found


def _simulated(device: SimulatedDevice, site: Site, channel: Channel, unit: str) -> Simulated:
    begins = min(part.begins for part in site.parts if part.device_id == device.id)
    conversion = units.conversion(channel.unit, unit)
    return Simulated(device.id, channel.key, conversion, device.interval_s * 1000, begins)


def _wanted(device: SimulatedDevice) -> Wanted:
    """What the catalogue says; a device of which nothing else is said begins five years before it was entered."""
    zone = ZoneInfo(device.timezone)
    day = device.commissioned_on
    if day is None:
        entered = device.created_at.astimezone(zone).date()
        day = entered.replace(year=entered.year - _YEARS_BACK, day=min(entered.day, 28))
    start = to_ms(datetime.combine(day, time(), zone).astimezone(UTC))
    return Wanted(device.id, max(start, 0), Definition(device.kind, device.properties, device.interval_s))


def _first_state(part: Part, now_ms: int) -> KnownState:
    """What the counters of a device that begins with this part show now; 0 if it begins later."""
    interval_ms = part.interval_s * 1000
    at = max(part.begins, now_ms // interval_ms * interval_ms)
    counted = counted_before(part.kind, part.properties, (at - part.begins) / 1000)
    return KnownState(part.device_id, at, dict(counted), is_first=True)


def _changed_from(before: Site, after: Site) -> int:
    """From when on a site is another than it was noted to be."""
    known = {part.id: part for part in before.parts}
    changes = [place.begins for place in set(before.places) ^ set(after.places)]
    for part in after.parts:
        earlier = known.pop(part.id, None)
        if earlier is None:
            changes.append(part.joins)
        elif earlier != part:
            same = msgspec.structs.replace(part, ends=None) == earlier
            changes.append(part.ends if same and part.ends is not None else min(earlier.begins, part.begins))
    return min([*changes, *(part.begins for part in known.values())], default=0)
