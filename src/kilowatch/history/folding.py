"""Folds readings that are older than their site keeps raw ones into quarters of an hour. Restartable at any point.

What is decided is written down before anything follows from it, and each step comes some minutes after the one before,
so that whoever is still at work with what was known before it is done by then:

1. the site's border is moved (`folded_until` in the catalogue);
2. quarters before it become cells; from then on the cells count, and their readings no more; and days of which no
   reading is left become longer cells besides;
3. those readings are deleted.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from datetime import time as clock_time
from itertools import chain, groupby

import numpy as np
import structlog

from kilowatch.errors import Unavailable
from kilowatch.facility import service as facility
from kilowatch.facility.model import KeptSite, PlacedMetric
from kilowatch.history.chunks import read_in_chunks
from kilowatch.history.intervals import QUARTER_MS, Cells
from kilowatch.history.model import Milliseconds, Points, Stop
from kilowatch.history.store import HistoryStore
from kilowatch.history.windows import NO_EDGES, Measured, cells_in_parts
from kilowatch.kit import timespan
from kilowatch.kit.db import Database
from kilowatch.kit.timespan import Window, from_ms, to_ms

log = structlog.get_logger("kilowatch.history")

WAIT = timedelta(minutes=10)
"""Between two steps. Longer than any request that brings readings, or asks for a page of them, may take."""

_DELETE_EVERY = timedelta(days=1)
"""A deletion writes all parts of a month anew that have something of it."""

_LOOK_AGAIN = timedelta(hours=6)
"""When quarters that were not folded, as they hold what was received lately, are looked at again."""

_LATE = timedelta(hours=1)
"""How much longer than streams may be away their readings are left where they are."""

_DAY = timespan.resolution_named("1d")
_A_DAY = timedelta(hours=26)

_READINGS_AT_ONCE = 500_000
"""Of one step: some 10 MB, and a second."""


@dataclass(frozen=True, slots=True)
class _Border:
    """A site's border as this process has seen it: since when it is this one, and the one that is old enough."""

    at: datetime
    since: datetime
    settled: datetime | None

    def followed_by(self, border: datetime, now: datetime) -> "_Border":
        settled = self.at if now - self.since >= WAIT else self.settled
        return _Border(self.at, self.since, settled) if border == self.at else _Border(border, now, settled)


@dataclass(frozen=True, slots=True)
class _Looked:
    """What a metric had of readings before a border (ms), and when it is looked at again though it has the same."""

    until: int
    readings: int
    received_until: int
    again_at: datetime | None

    def is_enough(self, until: int, readings: int, received_until: int, now: datetime) -> bool:
        is_the_same = (self.until, self.readings, self.received_until) == (until, readings, received_until)
        return is_the_same and (self.again_at is None or now < self.again_at)


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
    """Used by one thread, in one of the processes."""

    def __init__(
        self, database: Database, store: HistoryStore, clock: Callable[[], datetime], *, kept_for: timedelta
    ) -> None:
        """`kept_for`: how long a stream's reader may be away and still gets all that arrived, out of `readings`."""
        self._database = database
        self._store = store
        self._clock = clock
        self._kept_for = kept_for + _LATE
        self._borders: dict[int, _Border] = {}
        self._looked: dict[int, _Looked] = {}
        self._days_made: dict[int, tuple[str, int | None, int]] = {}
        self._may_be_hidden = True
        self._delete_at = clock() + WAIT  # what was folded before this process began is old enough then

    def tick(self, *, stop: Stop = lambda: False) -> None:
        """Do what is due at all sites.

        Raises:
            Unavailable: a store does not answer. What was done by then stays.
            What went wrong at a site, or an ExceptionGroup of such at several. The others are done.
        """
        now = self._clock()
        with self._database.read() as connection:
            sites = facility.folding_sites(connection)
        problems: list[Exception] = []
        for site in sites:
            try:
                border = self._settled(site, now)
                if border is not None and site.raw_days is not None:
                    self._fold(site, to_ms(border), now, stop)
            except Unavailable:
                raise
            except Exception as error:  # no site waits for another
                problems.append(error)
        if self._may_be_hidden and now >= self._delete_at and not stop():
            self._delete(sites, now, stop)
        if len(problems) == 1:
            raise problems[0]
        if problems:
            raise ExceptionGroup("some sites could not be folded", problems)

    # ── the border ──

    def _settled(self, site: KeptSite, now: datetime) -> datetime | None:
        """Move the site's border where that is due. Returns the last one that everybody knows of by now."""
        border = site.folded_until
        if site.raw_days is not None:
            due = border_of(site.timezone, site.raw_days, now)
            if border is None or due > border:
                with self._database.write() as connection:
                    facility.put_folded_until(connection, site.id, due)
                border = due
        assert border is not None  # one of the two is why the site is asked about
        seen = self._borders.get(site.id, _Border(border, now, None)).followed_by(border, now)
        self._borders[site.id] = seen
        return seen.settled

    # ── folding ──

    def _fold(self, site: KeptSite, until: int, now: datetime, stop: Stop) -> None:
        with self._database.read() as connection:
            metrics = {metric.id: metric for metric in facility.metrics_of_site(connection, site.id)}
        try:
            for step in _steps(self._due(metrics, until, now)):
                if stop():
                    return
                self._fold_step(step, now)
            self._fold_days(site, metrics, until, now, stop)
        except BaseException:
            self._looked.clear()  # some were looked at, and not folded
            raise

    def _due(self, metrics: dict[int, PlacedMetric], until: int, now: datetime) -> Iterator[_Quarters]:
        for metric_id, readings, received_until in self._store.folded.old(list(metrics), until=until).tolist():
            looked = self._looked.get(metric_id)
            if looked is not None and looked.is_enough(until, readings, received_until, now):
                continue
            due, are_all = self._quarters(metrics[metric_id], until, now)
            yield from due.parts(_READINGS_AT_ONCE)
            self._looked[metric_id] = _Looked(until, readings, received_until, None if are_all else now + _LOOK_AGAIN)

    def _quarters(self, metric: PlacedMetric, until: int, now: datetime) -> tuple[_Quarters, bool]:
        """The quarters of a metric that are to be folded; and whether no other is left to be."""
        raw, folded = self._store.folded.old_quarters(metric.id, until=until)
        place = np.minimum(np.searchsorted(folded["begins"], raw["begins"]), max(len(folded) - 1, 0))
        is_folded = folded["begins"][place] == raw["begins"] if len(folded) else np.zeros(len(raw), bool)
        are_late = len(folded) > 0 and self._take_back(metric, raw[is_folded], folded[place[is_folded]], now)
        raw = raw[~is_folded]
        is_quiet = raw["received_until"] <= to_ms(now - self._kept_for)
        raw = raw[is_quiet]
        columns = (raw["begins"].astype(np.int64), raw["readings"].astype(np.int64), raw["received_until"])
        return _Quarters(metric, *columns), bool(is_quiet.all()) and not are_late

    def _take_back(self, metric: PlacedMetric, raw: np.ndarray, folded: np.ndarray, now: datetime) -> bool:
        """Make quarters raw again that got readings while they were folded, if all of theirs are there still."""
        is_late = (raw["received_until"] > folded["received_until"]) & (raw["readings"] >= folded["readings"])
        begins = raw["begins"][is_late].astype(np.int64)
        begins = begins[np.array([self._is_whole(metric, begin) for begin in begins.tolist()], bool)]
        if len(begins):
            self._store.unfold(metric, begins, made_at=to_ms(now))
        return len(begins) > 0

    def _is_whole(self, metric: PlacedMetric, begin: int) -> bool:
        """Whether a folded quarter's first and last reading are there still: none of its readings was deleted then."""
        quarter = Window(from_ms(begin), from_ms(begin + QUARTER_MS))
        kept = Points.joined(metric.id, self._store.folded.kept([metric.id], quarter, limit=1))
        raw = Points.joined(metric.id, list(chain.from_iterable(read_in_chunks(self._store, [metric.id], quarter))))
        return bool(np.isin(kept.timestamps, raw.timestamps).all())

    def _fold_step(self, step: Sequence[_Quarters], now: datetime) -> None:
        with self._database.alone(facility.FOLDING):
            with self._database.read() as connection:
                there = facility.foldable_metrics(connection, [quarters.metric.id for quarters in step])
            step = [quarters for quarters in step if quarters.metric.id in there]
            if step:
                self._store.fold(list(self._cells(step)), made_at=to_ms(self._clock()))
                for quarters in step:
                    self._days_made.pop(quarters.metric.id, None)
        self._may_be_hidden, self._delete_at = True, max(self._delete_at, now + WAIT)

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

    def _fold_days(
        self, site: KeptSite, metrics: dict[int, PlacedMetric], until: int, now: datetime, stop: Stop
    ) -> None:
        """Of metrics whose readings of before the border are all folded. Others' come once theirs are."""
        zone = timespan.zone(site.timezone)
        for metric_id, metric in metrics.items():
            made_with = site.timezone, metric.max_gap_ms, until
            looked = self._looked.get(metric_id)
            is_whole = looked is None or looked.again_at is None
            if not is_whole or self._days_made.get(metric_id) == made_with:
                continue
            if stop():
                return
            with self._database.alone(facility.FOLDING):
                span = self._store.folded.extent(metric_id)
                if span is not None:
                    window = Window(from_ms(span[0]) - _A_DAY, from_ms(max(span[1], until)))
                    edges = [edge for edge in _DAY.buckets(window, zone)[1:-1] if edge <= until]
                    if edges and edges[-1] < until == window.end_ms:
                        edges.append(until)
                    if len(edges) > 1:
                        self._store.fold_days(metric, np.array(edges, np.int64), made_at=to_ms(now))
            self._days_made[metric_id] = made_with

    # ── deleting ──

    def _delete(self, sites: Sequence[KeptSite], now: datetime, stop: Stop) -> None:
        """Delete readings that are folded. Several sites' at once, and a month's at once: see `_DELETE_EVERY`."""
        if self._store.folded.is_deleting():
            return
        with self._database.read() as connection:
            ids = [metric.id for site in sites for metric in facility.metrics_of_site(connection, site.id)]
        until = max((to_ms(site.folded_until) for site in sites if site.folded_until), default=0)
        made_until, deleted, is_more_to_come = to_ms(now - WAIT), 0, False
        for first, last in self._store.folded.old_months(ids, until=until):
            window = Window(from_ms(first), from_ms(last))
            deleted += self._store.folded.delete_raw(ids, window, made_until=made_until, stop=stop)
            if stop():
                return
            is_more_to_come |= self._store.folded.has_any_made_since(ids, window, made_until)
        if deleted:
            log.info("readings that are folded were deleted", readings=deleted)
            self._delete_at = now + _DELETE_EVERY
        self._may_be_hidden = is_more_to_come


def border_of(timezone: str, raw_days: int, now: datetime) -> datetime:
    """The start of the day of that zone before which readings are older than so many days."""
    zone = timespan.zone(timezone)
    day = now.astimezone(zone).date() - timedelta(days=raw_days)
    midnight = datetime.combine(day, clock_time(), zone).astimezone(UTC)
    return from_ms(max(0, to_ms(midnight) // QUARTER_MS * QUARTER_MS))


def _steps(quarters: Iterator[_Quarters]) -> Iterator[list[_Quarters]]:
    """Some metrics' together, with about as many readings as one step may have; each metric once."""
    step: list[_Quarters] = []
    readings = 0
    for some in quarters:
        if not len(some.begins):
            continue
        count = int(some.readings.sum())
        if step and (readings + count > _READINGS_AT_ONCE or step[-1].metric.id == some.metric.id):
            yield step
            step, readings = [], 0
        step.append(some)
        readings += count
    if step:
        yield step
