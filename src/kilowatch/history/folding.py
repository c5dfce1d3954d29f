"""Folds readings that are older than their site keeps raw ones into quarters of an hour. Restartable at any point.

What is decided is written down before anything follows from it, and each step comes some minutes after the one before,
so that whoever is still at work with what was known before it is done by then:

1. the site's border is moved (`folded_until` in the catalogue);
2. quarters before it become cells; from then on the cells count, and their readings no more; and days of which no
   reading is left become longer cells besides;
3. those readings are deleted.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from datetime import time as clock_time
from itertools import chain, groupby
from typing import Protocol, TypeVar

import numpy as np
import structlog

from kilowatch.errors import Unavailable
from kilowatch.facility import service as facility
from kilowatch.facility.erasures import FOLDING
from kilowatch.facility.model import KeptSite, PlacedMetric
from kilowatch.history.chunks import read_in_chunks
from kilowatch.history.intervals import QUARTER_MS, Cells
from kilowatch.history.model import Flags, Milliseconds, Points, Stop
from kilowatch.history.store import HistoryStore
from kilowatch.history.windows import NO_EDGES, Measured, cells_in_parts
from kilowatch.kit import timespan
from kilowatch.kit.db import Database
from kilowatch.kit.timespan import Window, from_ms, to_ms

T = TypeVar("T")

log = structlog.get_logger("kilowatch.history")

WAIT = timedelta(minutes=10)
"""Between two steps. Longer than any request that brings readings, or asks for a page of them, may take."""

_DELETE_EVERY = timedelta(days=1)
"""A deletion writes all parts of a month anew that have something of it."""

_LOOK_AGAIN = timedelta(hours=6)
"""When quarters that were not folded, as they hold what was received lately, are looked at again."""

_LATE = timedelta(hours=1)
"""How much longer than streams may be away their readings are left where they are."""

_LEAP = timedelta(days=2)
"""How far a border may move at once by a clock that has not been watched for long."""

WATCHED = timedelta(hours=6)
"""After which the clock is believed, whatever it says: a wrong one is mostly set right, or noticed, by then."""

_UNEVEN = timedelta(minutes=1)
"""By how much a clock that runs evenly may be off between two looks."""

_DAY = timespan.resolution_named("1d")
_A_DAY_MS = 26 * 3_600_000

_READINGS_AT_ONCE = 250_000
"""Of one step: some 5 MB, and a third of a second."""

_METRICS_AT_ONCE = 100
"""Of one step, and of one question for what there is to fold."""

_LOOKED_AT_ONCE = 2_000_000
"""Readings of metrics whose quarters are asked for together."""

_TAKEN_BACK_AT_ONCE = 20
"""Quarters, each of which is read for it."""


class Making(Protocol):
    """Readings that are made when they are asked for: the room above fills this in, `services.py` joins the two."""

    def unmade(self, metrics: Sequence[PlacedMetric], window: Window) -> Mapping[int, Sequence[tuple[int, int]]]:
        """From when until when (ms) readings of the window are still to be made, for metrics of which some are."""
        ...


@dataclass(frozen=True, slots=True)
class _Border:
    """A site's border as this process has seen it: since when (elapsed s) it is this one, and the one that is old
    enough."""

    at: datetime
    since: float
    settled: datetime | None

    def followed_by(self, border: datetime, elapsed: float) -> "_Border":
        settled = self.at if elapsed - self.since >= WAIT.total_seconds() else self.settled
        return _Border(self.at, self.since, settled) if border == self.at else _Border(border, elapsed, settled)


@dataclass(frozen=True, slots=True)
class _Looked:
    """What a metric had of readings before a border (ms), and when (elapsed s) it is looked at again though it has the
    same."""

    until: int
    readings: int
    received_until: int
    again_at: float | None

    def is_enough(self, until: int, readings: int, received_until: int, elapsed: float) -> bool:
        is_the_same = (self.until, self.readings, self.received_until) == (until, readings, received_until)
        return is_the_same and (self.again_at is None or elapsed < self.again_at)


class _Watch:
    """Whether the clock runs as evenly as one that nobody sets."""

    def __init__(self, now: datetime, elapsed: float) -> None:
        self._now, self._elapsed, self._since = now, elapsed, elapsed

    def look(self, now: datetime, elapsed: float) -> bool:
        """Whether it has done so for long enough to be believed."""
        went, should = (now - self._now).total_seconds(), elapsed - self._elapsed
        self._now, self._elapsed = now, elapsed
        if abs(went - should) > _UNEVEN.total_seconds():
            self._since = elapsed
            log.warning("the clock was set; borders of what is folded move little for some hours", by_s=went - should)
        return elapsed - self._since >= WATCHED.total_seconds()


@dataclass(frozen=True, slots=True, eq=False)
class _Quarters:
    """Quarters of one metric to be folded: when each begins, its readings, and when the last of them was received."""

    metric: PlacedMetric
    begins: Milliseconds
    readings: Milliseconds
    received_until: Milliseconds

    def parts(self, most: int) -> Iterator["_Quarters"]:
        """With at most so many readings each, if no single quarter has more."""
        portion = (np.cumsum(self.readings) - 1) // most
        for number in np.unique(portion):
            chosen = portion == number
            columns = self.begins[chosen], self.readings[chosen], self.received_until[chosen]
            yield _Quarters(self.metric, *columns)


class Folding:
    """Used by one thread, in one of the processes.

    What it waits for is counted by `elapsed`, so that nothing is cut short when the clock is set.
    """

    def __init__(
        self,
        database: Database,
        store: HistoryStore,
        clock: Callable[[], datetime],
        *,
        elapsed: Callable[[], float],
        making: Making,
        kept_for: timedelta,
    ) -> None:
        """
        Args:
            elapsed: seconds by a clock that nobody sets.
            kept_for: how long a stream's reader may be away and still gets all that arrived, out of `readings`.
        """
        self._database = database
        self._store = store
        self._clock = clock
        self._elapsed = elapsed
        self._making = making
        self._kept_for = kept_for + _LATE
        self._leads = False
        self._begin()

    def lead(self, leads: bool) -> None:
        """Whether this process is the one that folds. When it becomes it, another one may have folded until then."""
        if leads and not self._leads:
            self._begin()
        self._leads = leads

    def _begin(self) -> None:
        elapsed = self._elapsed()
        self._watch = _Watch(self._clock(), elapsed)
        self._borders: dict[int, _Border] = {}
        self._looked: dict[int, _Looked] = {}
        self._days_made: dict[int, tuple[str, int | None, int]] = {}
        self._made_until: int | None = None
        self._may_be_hidden = True
        self._folded_at = self._delete_at = elapsed  # what another one has folded is old enough after a while, too

    def tick(self, *, stop: Stop = lambda: False) -> None:
        """Do what is due at all sites.

        Args:
            stop: asked before each step; once it has said so, nothing is begun any more.

        Raises:
            Unavailable: a store does not answer. What was done by then stays.
            What went wrong at a site, or an ExceptionGroup of such at several. The others are done.
        """
        now, elapsed = self._clock(), self._elapsed()
        is_believed = self._watch.look(now, elapsed)
        if self._made_until is None:
            self._made_until = self._store.folded.made_until()
        # What is folded now is not to be deleted yet.
        may_delete = self._may_be_hidden and elapsed >= max(self._folded_at + WAIT.total_seconds(), self._delete_at)
        made_until = self._made_until
        with self._database.read() as connection:
            sites = facility.folding_sites(connection)
        problems: list[Exception] = []
        for site in sites:
            if stop():
                return
            try:
                until = self._until(site, now, elapsed, is_believed=is_believed)
                if until is not None:
                    self._fold(site, until, now, stop)
            except Unavailable:
                raise
            except Exception as error:  # no site waits for another
                problems.append(error)
        if may_delete and not stop():
            self._delete(sites, made_until, stop)
        if len(problems) == 1:
            raise problems[0]
        if problems:
            raise ExceptionGroup("some sites could not be folded", problems)

    # ── the border ──

    def _until(self, site: KeptSite, now: datetime, elapsed: float, *, is_believed: bool) -> int | None:
        """Move the site's border where that is due. Returns until when (ms) there may be folded, if anything may.

        That is before a border that everybody knows of by now, and before what is due by the clock of now.
        """
        border, due = site.folded_until, None
        if site.raw_days is not None:
            due = border_of(site.timezone, site.raw_days, now)
            if border is not None and due - border > _LEAP and not is_believed:
                log.warning(
                    "more is to be folded than days have gone by; it waits until the clock was watched for some hours",
                    site=site.id,
                    folded_until=border.isoformat(),
                    due_until=due.isoformat(),
                )
                due = None
            elif border is None or due > border:
                with self._database.write() as connection:
                    facility.put_folded_until(connection, site.id, due)
                border = due
        assert border is not None  # one of the two is why the site is asked about
        seen = self._borders.get(site.id, _Border(border, elapsed, None)).followed_by(border, elapsed)
        self._borders[site.id] = seen
        return None if seen.settled is None or due is None else to_ms(min(seen.settled, due))

    # ── folding ──

    def _fold(self, site: KeptSite, until: int, now: datetime, stop: Stop) -> None:
        with self._database.read() as connection:
            metrics = {metric.id: metric for metric in facility.metrics_of_site(connection, site.id)}
        try:
            for step in _steps(self._due(metrics, until, now, stop)):
                if stop():
                    self._looked.clear()
                    return
                self._fold_step(step)
            self._fold_days(site, metrics, until, stop)
        except BaseException:
            self._looked.clear()  # some were looked at, and not folded
            raise

    def _due(self, metrics: dict[int, PlacedMetric], until: int, now: datetime, stop: Stop) -> Iterator[_Quarters]:
        elapsed = self._elapsed()
        pending = {}
        for metric_id, readings, received_until in self._store.folded.old(list(metrics), until=until).tolist():
            looked = self._looked.get(metric_id)
            if looked is None or not looked.is_enough(until, readings, received_until, elapsed):
                pending[metric_id] = (readings, received_until)
        sized = ((metric_id, readings) for metric_id, (readings, _) in pending.items())
        for some in _in_parts(sized, most=_LOOKED_AT_ONCE):
            asked = [metrics[metric_id] for metric_id in some]
            for due, are_all in self._quarters(asked, until, now, stop):
                metric_id = due.metric.id
                yield from due.parts(_READINGS_AT_ONCE)
                again_at = None if are_all else elapsed + _LOOK_AGAIN.total_seconds()
                self._looked[metric_id] = _Looked(until, *pending[metric_id], again_at)

    def _quarters(
        self, metrics: Sequence[PlacedMetric], until: int, now: datetime, stop: Stop
    ) -> Iterator[tuple[_Quarters, bool]]:
        """The quarters of each metric that are to be folded; and whether no other is left to be.

        Those that are not wholly made are left as they are: what is made later would count no more.
        """
        unmade = self._making.unmade(metrics, Window(from_ms(0), from_ms(until)))  # first: readings only come to it
        found = self._store.folded.old_quarters([metric.id for metric in metrics], until=until)
        for metric in metrics:
            if metric.id not in found:
                continue
            raw, folded = found[metric.id]
            place = np.minimum(np.searchsorted(folded["begins"], raw["begins"]), max(len(folded) - 1, 0))
            is_folded = folded["begins"][place] == raw["begins"] if len(folded) else np.zeros(len(raw), bool)
            are_late = len(folded) > 0 and self._take_back(metric, raw[is_folded], folded[place[is_folded]], stop)
            is_due = ~is_folded & ~_touched(raw["begins"], unmade.get(metric.id, ()))
            raw = raw[is_due]
            is_quiet = raw["received_until"] <= to_ms(now - self._kept_for)
            raw = raw[is_quiet]
            columns = (raw["begins"].astype(np.int64), raw["readings"].astype(np.int64), raw["received_until"])
            yield _Quarters(metric, *columns), bool(is_quiet.all()) and not are_late

    def _take_back(self, metric: PlacedMetric, raw: np.ndarray, folded: np.ndarray, stop: Stop) -> bool:
        """Make quarters raw again that got readings while they were folded, if all of theirs are there still.

        Returns:
            Whether there are such.
        """
        is_late = (raw["received_until"] > folded["received_until"]) & (raw["readings"] >= folded["readings"])
        late = raw["begins"][is_late].astype(np.int64)
        for begin in range(0, len(late), _TAKEN_BACK_AT_ONCE):
            if stop():
                break
            with self._database.alone(FOLDING):
                if self._store.folded.is_deleting():  # perhaps these: what is whole now may not be so in a moment
                    break
                some = late[begin : begin + _TAKEN_BACK_AT_ONCE]
                some = some[np.array([self._is_whole(metric, quarter) for quarter in some.tolist()], bool)]
                if len(some):
                    self._store.unfold(metric, some, made_at=self._next_made_at())
        return len(late) > 0

    def _is_whole(self, metric: PlacedMetric, begin: int) -> bool:
        """Whether a folded quarter's first and last reading are there still: none of its readings was deleted then."""
        quarter = Window(from_ms(begin), from_ms(begin + QUARTER_MS))
        kept = Points.joined(metric.id, self._store.folded.kept([metric.id], quarter, limit=1))
        raw = Points.joined(metric.id, list(chain.from_iterable(read_in_chunks(self._store, [metric.id], quarter))))
        return len(kept) > 0 and bool(np.isin(kept.timestamps, raw.timestamps).all())

    def _fold_step(self, step: Sequence[_Quarters]) -> None:
        with self._database.alone(FOLDING):
            with self._database.read() as connection:
                there = facility.foldable_metrics(connection, [quarters.metric.id for quarters in step])
            step = [quarters for quarters in step if quarters.metric.id in there]
            if step:
                self._store.fold(list(self._cells(step)), made_at=self._next_made_at())
        for quarters in step:
            self._days_made.pop(quarters.metric.id, None)
        self._may_be_hidden, self._folded_at = True, self._elapsed()

    def _next_made_at(self) -> int:
        """Of what is decided now (ms): later than all that was decided before, though the clock was set back since."""
        assert self._made_until is not None  # it is looked up before anything else
        self._made_until = max(to_ms(self._clock()), self._made_until + 1)
        return self._made_until

    def _cells(self, step: Sequence[_Quarters]) -> Iterator[tuple[PlacedMetric, Cells, Milliseconds]]:
        """What the quarters hold now, if nobody else has folded them meanwhile."""
        wanted = {quarters.metric.id: quarters for quarters in step}
        first = min(int(quarters.begins[0]) for quarters in step)
        last = max(int(quarters.begins[-1]) for quarters in step)
        window = Window(from_ms(first), from_ms(last + QUARTER_MS))
        already = self._store.folded.begins(sorted(wanted), window)
        chunks = read_in_chunks(self._store, sorted(wanted), window)
        for metric_id, points in groupby(chain.from_iterable(chunks), lambda points: points.metric_id):
            quarters = wanted[metric_id]
            cells = cells_in_parts(Measured.of(quarters.metric), points, NO_EDGES, None)
            begins = cells.first_ts // QUARTER_MS * QUARTER_MS
            chosen = np.isin(begins, quarters.begins) & ~np.isin(begins, already.get(metric_id, NO_EDGES))
            if chosen.any():
                received_until = quarters.received_until[np.searchsorted(quarters.begins, begins[chosen])]
                yield quarters.metric, cells.at(chosen), received_until

    # ── days ──

    def _fold_days(self, site: KeptSite, metrics: dict[int, PlacedMetric], until: int, stop: Stop) -> None:
        """Of metrics whose readings of before the border are all folded. Others' come once theirs are."""
        made_with = {metric.id: (site.timezone, metric.max_gap_ms, until) for metric in metrics.values()}
        waiting = {metric_id for metric_id, looked in self._looked.items() if looked.again_at is not None}
        due = [
            metric
            for metric_id, metric in metrics.items()
            if metric_id not in waiting and self._days_made.get(metric_id) != made_with[metric_id]
        ]
        for begin in range(0, len(due), _METRICS_AT_ONCE):
            some = due[begin : begin + _METRICS_AT_ONCE]
            first = min(self._store.folded.first_begins([metric.id for metric in some]).values(), default=until)
            for missing in self._store.missing_days(some, _midnights(site.timezone, first, until)):
                if stop():
                    return
                with self._database.alone(FOLDING):
                    self._store.fold_days(missing, made_at=self._next_made_at())
            self._days_made.update({metric.id: made_with[metric.id] for metric in some})

    # ── deleting ──

    def _delete(self, sites: Sequence[KeptSite], made_until: int, stop: Stop) -> None:
        """Delete readings that were folded by then. Several sites' at once, and a month's at once: see
        `_DELETE_EVERY`."""
        if self._store.folded.is_deleting():
            return
        with self._database.read() as connection:
            ids = [metric.id for site in sites for metric in facility.metrics_of_site(connection, site.id)]
        until = max((to_ms(site.folded_until) for site in sites if site.folded_until), default=0)
        deleted, is_more_to_come = 0, False
        for first, last in self._store.folded.old_months(ids, until=until):
            window = Window(from_ms(first), from_ms(last))
            deleted += self._store.folded.delete_raw(ids, window, made_until=made_until, stop=stop)
            if stop():
                return
            is_more_to_come |= self._store.folded.has_any_made_since(ids, window, made_until)
        if deleted:
            log.info("readings that are folded were deleted", readings=deleted)
            self._delete_at = self._elapsed() + _DELETE_EVERY.total_seconds()
        self._may_be_hidden = is_more_to_come


def border_of(timezone: str, raw_days: int, now: datetime) -> datetime:
    """The start of the day of that zone before which readings are older than so many days."""
    zone = timespan.zone(timezone)
    day = now.astimezone(zone).date() - timedelta(days=raw_days)
    midnight = datetime.combine(day, clock_time(), zone).astimezone(UTC)
    return from_ms(max(0, to_ms(midnight) // QUARTER_MS * QUARTER_MS))


def _midnights(timezone: str, first: int, until: int) -> Milliseconds:
    """The beginnings of that zone's days from the one that has `first` to the one that begins at `until`, in ms."""
    window = Window(from_ms(max(0, first - _A_DAY_MS)), from_ms(until + _A_DAY_MS))
    edges = np.array(_DAY.buckets(window, timespan.zone(timezone))[1:-1], np.int64)
    return edges[edges <= until]


def _touched(begins: np.ndarray, spans: Sequence[tuple[int, int]]) -> Flags:
    """Which of the quarters that begin there, by time, have something of one of the spans."""
    touched = np.zeros(len(begins), bool)
    for first, last in spans:
        low = int(np.searchsorted(begins, first - QUARTER_MS, side="right"))
        touched[low : int(np.searchsorted(begins, last))] = True
    return touched


def _in_parts(
    sized: Iterable[tuple[T, int]], *, most: int, are_apart: Callable[[T, T], bool] = lambda _one, _next: False
) -> Iterator[list[T]]:
    """What follows each other, some metrics' together: as much as has `most` readings, if no single one has more."""
    part: list[T] = []
    readings = 0
    for one, size in sized:
        is_full = len(part) == _METRICS_AT_ONCE or readings + size > most
        if part and (is_full or are_apart(part[-1], one)):
            yield part
            part, readings = [], 0
        part.append(one)
        readings += size
    if part:
        yield part


def _steps(quarters: Iterator[_Quarters]) -> Iterator[list[_Quarters]]:
    """As many as one step may have; each metric once."""
    sized = ((some, int(some.readings.sum())) for some in quarters if len(some.begins))
    return _in_parts(sized, most=_READINGS_AT_ONCE, are_apart=lambda one, other: one.metric.id == other.metric.id)
