"""Decides what a question about history means (units, zone, resolution, aggregate), and how much may be asked."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import chain
from typing import Protocol

import numpy as np

from kilowatch.auth.service import Caller, Gate
from kilowatch.errors import Fault, Invalid, Unavailable, invalid, said
from kilowatch.facility import service as facility
from kilowatch.facility.model import PlacedMetric
from kilowatch.history import intervals
from kilowatch.history.chunks import CHUNK, Source, read_after
from kilowatch.history.freshness import Freshness
from kilowatch.history.intervals import Cells
from kilowatch.history.model import (
    ENERGIES,
    Aggregate,
    Floats,
    History,
    HistoryStream,
    LatestColumns,
    LatestReading,
    Milliseconds,
    Points,
    Series,
    SeriesRequest,
    Stop,
)
from kilowatch.history.spans import DAY_MS
from kilowatch.history.store import HistoryStore
from kilowatch.history.windows import AllReadings, HotCells, HotReadings, Measured
from kilowatch.kit import timespan, units
from kilowatch.kit.memory import leave
from kilowatch.kit.paging import decode_cursor, encode_cursor
from kilowatch.kit.timespan import Window, from_ms, to_ms

MAX_BUCKETS = 110_000
"""Buckets that are answered for each series: a year in those of five minutes has 105,408 at most."""

MAX_VALUES = 5_000_000
"""Buckets that are answered over all series."""

DEFAULT_POINTS = 500
DEFAULT_RAW_LIMIT = 100_000
MAX_RAW_LIMIT = 1_000_000

LEAST_RAW_DAYS = 7
"""A site keeps raw readings for so long at least."""

_CELLS_AT_ONCE = 1_000_000
"""120 bytes each, and as much twice while they are put together: twenty metrics of a year are not divided."""

_FEW = 1_000
"""Metrics whose latest readings are told in some ms; more would hold up everyone else in the event loop."""

_NO_LIMIT = 2**62
_ENERGY_UNIT = "kWh"
_POWER_UNIT = "kW"


@dataclass(frozen=True, slots=True)
class Query:
    """A question about history; `None` leaves the choice to the metrics."""

    window: Window
    resolution: str = "auto"
    points: int = DEFAULT_POINTS
    aggregate: Aggregate | None = None
    timezone: str | None = None
    unit: str | None = None
    limit: int | None = DEFAULT_RAW_LIMIT
    """Raw readings a page; `None` for all there are."""
    cursor: str | None = None


class Preparing(Protocol):
    """Readings that are made when they are asked for: the room above fills this in, `services.py` joins the two."""

    def prepare(self, metrics: Sequence[PlacedMetric], window: Window, *, stop: Stop) -> None: ...

    def refresh(self, metrics: Sequence[PlacedMetric]) -> None: ...


class Histories:
    """Latest values and history of metrics whose rights are checked here, or by the room above that passes them."""

    def __init__(self, gate: Gate, store: HistoryStore, clock: Callable[[], datetime], simulation: Preparing) -> None:
        self._gate = gate
        self._store = store
        self._clock = clock
        self._simulation = simulation
        self._freshness = Freshness(store)

    def now(self) -> datetime:
        """The time that it is for all answers."""
        return self._clock()

    # ── by the catalogue's ids ──

    def latest_of_metric(self, caller: Caller, metric_id: int) -> LatestReading:
        return self.latest([self._gate.seeing(caller, facility.placed_metric, metric_id).found])[0]

    def latest_of_device(self, caller: Caller, device_id: int) -> list[LatestReading]:
        return self.latest(self._gate.seeing(caller, facility.placed_metrics_of_device, device_id).found)

    def latest_of_devices(self, caller: Caller, device_ids: Sequence[int]) -> dict[int, list[LatestReading]]:
        """By device, of those that the caller may see."""
        metrics = self._gate.seeing(caller, facility.placed_metrics_of_devices, tuple(device_ids)).found
        found: dict[int, list[LatestReading]] = {}
        for metric, reading in zip(metrics, self.latest(metrics), strict=True):
            found.setdefault(metric.device_id, []).append(reading)
        return found

    def latest_of_site(self, caller: Caller, site_id: int) -> list[LatestReading]:
        return self.latest(self._gate.seeing(caller, facility.placed_metrics_of_site, site_id).found)

    def latest_of_metrics(self, caller: Caller, references: Sequence[int | str]) -> list[LatestReading]:
        """By ids or names (`site/device/key`). Raises `NoSuchMetric` naming the first that the caller can't see."""
        return self.latest(self.addressed(caller, references))

    def history_of_metric(self, caller: Caller, metric_id: int, query: Query) -> History:
        return self.history([self._gate.seeing(caller, facility.placed_metric, metric_id).found], query)

    def stream_of_metric(
        self, caller: Caller, metric_id: int, query: Query, *, stop: Stop = lambda: False
    ) -> HistoryStream:
        """Ends with `NoSuchMetric` once the caller may not read it any more."""

        def metric() -> PlacedMetric:
            return self._gate.seeing(caller, facility.placed_metric, metric_id).found

        return self.stream([metric()], query, check=metric, stop=stop)

    def history_of_metrics(self, caller: Caller, references: Sequence[int | str], query: Query) -> History:
        """By ids or names (`site/device/key`). Raises `NoSuchMetric` naming the first that the caller can't see."""
        return self.history(self.addressed(caller, references), query)

    def stream_of_metrics(
        self, caller: Caller, references: Sequence[int | str], query: Query, *, stop: Stop = lambda: False
    ) -> HistoryStream:
        """By ids or names (`site/device/key`). Raises `NoSuchMetric` naming the first that the caller can't see.

        Ends with it too, once the caller may not read one of them any more.
        """
        metrics = self.addressed(caller, references)
        return self.stream(metrics, query, check=lambda: self.addressed(caller, references), stop=stop)

    def addressed(self, caller: Caller, references: Sequence[int | str]) -> list[PlacedMetric]:
        """Each once, in their order. Raises `NoSuchMetric` naming the first that the caller can't see."""
        possible = tuple(filter(facility.may_name_a_metric, references))
        found = self._gate.seeing(caller, facility.addressed_metrics, possible).found
        for reference in references:
            if reference not in found:
                raise facility.NoSuchMetric(str(reference))
        # a metric may be named by its id and its path
        return list({found[reference][0].id: found[reference][0] for reference in references}.values())

    # ── of metrics that are known to be readable ──

    def latest(self, metrics: Sequence[PlacedMetric]) -> list[LatestReading]:
        """The newest reading of each, in their order; a metric with none has nulls."""
        newest, stale_after, now_ms = self._newest(metrics)
        return [
            _latest_reading(metric, timestamp, received_at, value, now_ms=now_ms, stale_after_ms=limit)
            for metric, (_, timestamp, received_at, value), limit in zip(
                metrics, newest.tolist(), stale_after, strict=True
            )
        ]

    def latest_columns(self, metrics: Sequence[PlacedMetric]) -> LatestColumns:
        """What `latest` tells, as columns in their order: of thousands of metrics in some ms."""
        newest, stale_after, now_ms = self._newest(metrics)
        is_there = newest["ts"] >= 0
        stale = ~is_there | (np.maximum(now_ms - newest["ts"], 0) > np.array(stale_after, np.int64))
        return LatestColumns(newest["ts"], np.where(is_there, newest["value"], np.nan), stale)

    def _newest(self, metrics: Sequence[PlacedMetric]) -> tuple[np.ndarray, list[int], int]:
        """`NEWEST_DTYPE` rows, the age in ms from which on each is stale, and now."""
        if len(metrics) > _FEW:
            leave()
        self._simulation.refresh(metrics)
        now_ms = to_ms(self._clock())
        newest = self._store.latest(np.array([metric.id for metric in metrics], np.uint32))
        return newest, self._freshness.stale_after_ms(metrics, newest["ts"].tolist(), now_ms=now_ms), now_ms

    def history(self, metrics: Sequence[PlacedMetric], query: Query, *, stop: Stop = lambda: False) -> History:
        """The history of each metric, in their order.

        Raises:
            Invalid: naming the parameter that does not fit the metrics or is too much for one answer.
            Abandoned: `stop` said so.
        """
        return self._history(metrics, query, (query.aggregate,), stop=stop)

    def both_directions(
        self, metrics: Sequence[PlacedMetric], query: Query, *, stop: Stop = lambda: False
    ) -> tuple[list[Series], list[Series]]:
        """The `energy_positive` and the `energy_negative` of each power, in their order, read once for both.

        Raises as `history`. Raw readings have no energy: `query` asks for buckets.
        """
        series = self._history(metrics, query, ("energy_positive", "energy_negative"), stop=stop).series
        return series[::2], series[1::2]

    def _history(
        self,
        metrics: Sequence[PlacedMetric],
        query: Query,
        aggregates: Sequence[Aggregate | None],
        *,
        stop: Stop,
    ) -> History:
        """For each metric a series of each aggregate."""
        zone = timespan.zone(query.timezone or _common_zone(metrics), place="query")
        if query.resolution == "raw":
            limit = _NO_LIMIT if query.limit is None else query.limit
            return self._page(metrics, query, zone.key, limit=limit, stop=stop)
        is_open = query.resolution == "auto"
        query = replace(query, window=self.answerable(metrics, query.window, may_widen=is_open))
        is_old = _folded_until(metrics) > query.window.start_ms
        most = min(MAX_BUCKETS, MAX_VALUES // max(len(metrics) * len(aggregates), 1))
        if query.resolution == "auto":
            points = min(query.points, most)
            resolution = timespan.finest_resolution(query.window, zone, points=points, of_quarters=is_old)
        else:
            resolution = timespan.resolution_named(query.resolution)
        timespan.check_bucket_count(resolution, query.window, zone, most=most)
        requests = [[_aggregated(metric, query, aggregate) for aggregate in aggregates] for metric in metrics]
        self._simulation.prepare(metrics, query.window, stop=stop)
        edges = np.array(resolution.buckets(query.window, zone), np.int64)
        if is_old:
            self._refuse_cut_quarters(metrics, query.window, edges, resolution.name)
        now_ms = to_ms(self._clock())
        hot = HotReadings(self._source(metrics, query.window), self._store.spans)
        hot_cells = HotCells(self._store, hot, self._store.folded, self._store.spans)
        near = _Near.of(self._store, metrics, query.window)
        series: list[Series] = []
        at_once = self._metrics_at_once(metrics, query.window, edges)
        for begin in range(0, len(requests), at_once):
            some = requests[begin : begin + at_once]
            measured = [Measured.of(of_metric[0].metric) for of_metric in some]
            cells = hot_cells.cells(measured, query.window, edges, now_ms=now_ms, stop=stop)
            if any(
                len(of) and not (edges[0] <= of.first_ts[0] and of.first_ts[-1] < edges[-1]) for of in cells.values()
            ):
                # The window was `answerable` when it was asked, and a quarter that it cuts has been folded since.
                raise Unavailable(
                    "Readings at the window's edges were folded at this moment; ask again.", retry_after_s=1
                )
            series += [
                _series(request, cells[request.metric.id], near, edges, now_ms=now_ms)
                for of_metric in some
                for request in of_metric
            ]
        return History(query.window, resolution, zone.key, series)

    def _metrics_at_once(self, metrics: Sequence[PlacedMetric], window: Window, edges: Milliseconds) -> int:
        """Of how many metrics the cells may be in memory together."""
        cells_each = (window.end_ms - window.start_ms) // intervals.QUARTER_MS + len(edges)
        at_once = max(1, _CELLS_AT_ONCE // cells_each)
        if at_once >= len(metrics):
            return at_once
        readings = self._source(metrics, window).count_at_most([metric.id for metric in metrics], window)
        return len(metrics) if readings <= _CELLS_AT_ONCE else at_once

    def stream(
        self,
        metrics: Sequence[PlacedMetric],
        query: Query,
        *,
        check: Callable[[], object] = lambda: None,
        stop: Stop = lambda: False,
    ) -> HistoryStream:
        """The history of each metric, in their order, to be read piece by piece.

        All raw readings (`limit=None`) are read from the engine as the pieces are asked for, so memory stays flat.
        Everything else is read by the time this returns.

        Args:
            check: raises if the reader may not read on; it is asked after each chunk of all raw readings.
            stop: says whether nobody waits for the answer any more.

        Raises:
            Invalid: as `history`.
            Abandoned: `stop` said so.
        """
        if query.resolution != "raw" or query.limit is not None:
            return self.history(metrics, query, stop=stop).stream()
        zone = timespan.zone(query.timezone or _common_zone(metrics), place="query")
        requests = _raw_requests(metrics, query)
        self._simulation.prepare(metrics, query.window, stop=stop)
        # While it is read, for however long, what was raw when it began may be folded.
        is_old = query.window.start < self._clock() - timedelta(days=LEAST_RAW_DAYS)
        source = AllReadings(self._store, self._store.folded) if is_old else self._store
        pieces = self._pieces(source, requests, query, check)
        raw_from = self._raw_from(metrics, query.window)
        return HistoryStream(query.window, None, zone.key, requests, pieces, raw_from=raw_from)

    # ── folded readings ──

    def answerable(self, metrics: Sequence[PlacedMetric], window: Window, *, may_widen: bool = False) -> Window:
        """The window, with a start or an end that lies inside of a folded quarter of an hour moved to where it begins.

        What a part of a quarter held is not known any more. As both are moved the same way, windows that follow each
        other still do.
        """
        edges = np.array([window.start_ms, window.end_ms])
        if not (edges % intervals.QUARTER_MS).any() or window.start_ms >= _folded_until(metrics):
            return window
        ids = np.array([metric.id for metric in metrics], np.uint32)
        times = np.repeat(edges, len(ids))
        are_folded = self._store.folded.are_folded(np.tile(ids, 2), times).reshape(2, -1).any(axis=1)
        start, end = np.where(are_folded, edges // intervals.QUARTER_MS * intervals.QUARTER_MS, edges).tolist()
        if start == end and not may_widen:
            told = said("Readings are folded here into quarters of an hour; ask for a whole one at least.")
            raise invalid("end", told, place="query")
        return Window(from_ms(start), from_ms(max(end, start + intervals.QUARTER_MS) if start == end else end))

    def _refuse_cut_quarters(
        self, metrics: Sequence[PlacedMetric], window: Window, edges: Milliseconds, resolution: str
    ) -> None:
        inner = edges[1:-1]
        cutting = inner[inner % intervals.QUARTER_MS > 0]
        if not len(cutting):
            return
        folded_until = max(self._raw_from(metrics, window).values(), default=0)
        if cutting[0] < folded_until:
            raise invalid(
                "resolution",
                said(
                    "Readings from before %(time)s are kept as quarters of an hour, which `%(asked)s` would cut; "
                    "choose `15m` or a multiple of it, or a later start.",
                    time=from_ms(folded_until).strftime("%Y-%m-%dT%H:%M:%SZ"),
                    asked=resolution,
                ),
                place="query",
            )

    def _raw_from(self, metrics: Sequence[PlacedMetric], window: Window) -> dict[int, int]:
        """Since when (ms) all readings of the window are there, for each metric of which some are not."""
        ids = [metric.id for metric in metrics if metric.folded_until_ms > window.start_ms]
        return self._store.folded.until(ids, window) if ids else {}

    def _source(self, metrics: Sequence[PlacedMetric], window: Window) -> Source:
        """All readings of the window that there are, raw or kept; and of the whole days that it begins and ends in.

        Days of them are kept in memory, and answer for other windows, too.
        """
        if _folded_until(metrics) > window.start_ms // DAY_MS * DAY_MS:
            return AllReadings(self._store, self._store.folded)
        return self._store

    def _page(self, metrics: Sequence[PlacedMetric], query: Query, timezone: str, *, limit: int, stop: Stop) -> History:
        """A page of raw readings. It is in memory as numbers, 16 bytes a reading."""
        requests = _raw_requests(metrics, query)
        self._simulation.prepare(metrics, query.window, stop=stop)
        ids = sorted(request.metric.id for request in requests)
        hot = HotReadings(self._source(metrics, query.window), self._store.spans)
        chunks = read_after(hot, ids, query.window, after=_after(query), chunk=min(CHUNK, limit + 1))
        found: dict[int, list[Points]] = {metric_id: [] for metric_id in ids}
        room, last, following = limit, (0, 0), None
        for points in chain.from_iterable(chunks):
            kept = points.first(room)
            if len(kept):
                found[kept.metric_id].append(kept)
                room, last = room - len(kept), (kept.metric_id, int(kept.timestamps[-1]))
            if len(kept) < len(points):
                following = encode_cursor(*last)
                break
        series = [_raw_series(request, found[request.metric.id]) for request in requests]
        raw_from = self._raw_from(metrics, query.window)
        return History(query.window, None, timezone, series, following, raw_from=raw_from)

    def _pieces(
        self, source: Source, requests: Sequence[SeriesRequest], query: Query, check: Callable[[], object]
    ) -> Iterator[Series]:
        """Raw readings as they are read. `check` is asked after each chunk: it raises if no more may be read."""
        places = {request.metric.id: place for place, request in enumerate(requests)}
        begun = -1
        # A metric alone is read in as few statements as may be; of many, smaller chunks keep the engine's memory down.
        size = CHUNK if len(places) == 1 else CHUNK // 3
        for chunk in read_after(source, list(places), query.window, after=_after(query), chunk=size):
            for points in chunk:
                place = places[points.metric_id]
                yield from (_raw_series(request, []) for request in requests[begun + 1 : place])
                yield _raw_series(requests[place], [points])
                begun = place
            check()
        yield from (_raw_series(request, []) for request in requests[begun + 1 :])


@dataclass(frozen=True, slots=True, eq=False)
class _Near:
    """The readings next to a window, by metric: the last before it, and for counters the first after it."""

    before: dict[int, intervals.Reading]
    after: dict[int, intervals.Reading]

    @classmethod
    def of(cls, store: HistoryStore, metrics: Sequence[PlacedMetric], window: Window) -> "_Near":
        """Look them up. What is before a window matters while a gauge's value is believed, and always for a counter."""
        reach = {metric.id: metric.max_gap_ms if metric.behaviour == "gauge" else None for metric in metrics}
        counters = [metric.id for metric in metrics if metric.behaviour == "counter"]
        border = _folded_until(metrics)
        found = (
            store.last_before(reach, window.start_ms, folded_until=border),
            store.first_from(counters, window.end_ms, folded_until=border),
        )
        before, after = ({metric_id: (ts, value) for metric_id, ts, value in rows.tolist()} for rows in found)
        return cls(before, after)


def _folded_until(metrics: Sequence[PlacedMetric]) -> int:
    """Before which time, in ms, readings of some of them may be folded."""
    return max((metric.folded_until_ms for metric in metrics), default=0)


def _series(request: SeriesRequest, cells: Cells, near: _Near, edges: Milliseconds, *, now_ms: int) -> Series:
    """One metric's buckets, in the unit that is asked."""
    metric, conversion = request.metric, request.conversion
    assert request.aggregate is not None  # raw readings have no buckets
    buckets = intervals.aggregate_cells(
        cells,
        edges,
        before=near.before.get(metric.id),
        after=near.after.get(metric.id),
        aggregate=request.aggregate,
        behaviour=metric.behaviour,
        max_gap_ms=metric.max_gap_ms,
        now_ms=now_ms,
    )
    if request.aggregate == "sum":  # each of the readings has its offset
        conversion = units.Conversion(conversion.scale, 0.0)
        offsets = request.conversion.offset * buckets.counts
        values = _converted(buckets.values, conversion) + offsets
    else:
        values = _converted(buckets.values, conversion)
    values = _converted(values, units.Conversion(request.factor))
    return Series(request, edges[:-1], values, buckets.held_ms / np.diff(edges))


def _converted(values: Floats, conversion: units.Conversion) -> Floats:
    """In another unit; NaN for what is not finite (any more)."""
    with np.errstate(over="ignore", invalid="ignore"):
        converted = values * conversion.scale + conversion.offset
    return np.where(np.isfinite(converted), converted, np.nan)


def _after(query: Query) -> tuple[int, int]:
    """Behind which metric and time a page of raw readings begins."""
    if query.cursor is None:
        return 0, 0
    metric_id, instant = decode_cursor(query.cursor, parts=2)
    return metric_id, instant


def _raw_requests(metrics: Sequence[PlacedMetric], query: Query) -> list[SeriesRequest]:
    if query.aggregate is not None:
        raise invalid(
            "aggregate", said("Raw readings are not aggregated; leave it out, or choose a resolution."), place="query"
        )
    return [
        SeriesRequest(metric, None, unit, _conversion(metric, unit))
        for metric in metrics
        for unit in (query.unit or metric.unit,)
    ]


def _raw_series(request: SeriesRequest, found: Sequence[Points]) -> Series:
    points = Points.joined(request.metric.id, found)
    values = points.values
    if request.conversion != units.Conversion():
        values = _converted(values, request.conversion)
    return Series(request, points.timestamps, values, None)


def _latest_reading(
    metric: PlacedMetric, timestamp: int, received_at: int, value: float, *, now_ms: int, stale_after_ms: int
) -> LatestReading:
    names = (metric.id, metric.site, metric.device, metric.key)
    if timestamp < 0:
        return LatestReading(*names, None, metric.unit, None, None, None, stale=True)
    age_s = max(0, now_ms - timestamp) / 1000
    return LatestReading(
        *names,
        value,
        metric.unit,
        from_ms(timestamp),
        from_ms(received_at),
        age_s,
        stale=age_s * 1000 > stale_after_ms,
    )


def _common_zone(metrics: Sequence[PlacedMetric]) -> str:
    zones = {metric.timezone for metric in metrics}
    return zones.pop() if len(zones) == 1 else "UTC"


def _aggregated(metric: PlacedMetric, query: Query, asked: Aggregate | None) -> SeriesRequest:
    """What is to be computed of one metric. Raises `Invalid` where the aggregate or the unit does not fit it."""
    aggregate: Aggregate = asked or ("delta" if metric.behaviour == "counter" else "mean")
    if aggregate == "delta" and metric.behaviour != "counter":
        raise invalid(
            "aggregate", said("`delta` is for counters; %(metric)s is a gauge.", metric=metric.path), place="query"
        )
    if aggregate in ENERGIES:
        if metric.behaviour != "gauge" or metric.quantity != "power":
            is_energy = metric.quantity == "energy"
            names = {"aggregate": aggregate, "metric": metric.path}
            detail = (
                said("`%(aggregate)s` is for gauges of power; %(metric)s is none; its `delta` is its energy.", **names)
                if is_energy
                else said("`%(aggregate)s` is for gauges of power; %(metric)s is none.", **names)
            )
            raise invalid("aggregate", detail, place="query")
        unit = query.unit or _ENERGY_UNIT
        if not units.compatible(unit, _ENERGY_UNIT):
            raise invalid("unit", said("%(unit)s is no unit of energy; `kWh` is.", unit=repr(unit)), place="query")
        factor = units.conversion(_ENERGY_UNIT, unit).scale
        return SeriesRequest(metric, aggregate, unit, units.conversion(metric.unit, _POWER_UNIT), factor)
    if aggregate == "count":
        if query.unit is not None:
            raise invalid("unit", said("A count has no unit; leave it out."), place="query")
        return SeriesRequest(metric, aggregate, "dimensionless", units.Conversion())
    unit = query.unit or metric.unit
    conversion = _conversion(metric, unit)
    if aggregate == "delta":
        conversion = units.Conversion(conversion.scale)  # a difference has no zero point: 10 °C more are 18 °F more
    return SeriesRequest(metric, aggregate, unit, conversion)


def _conversion(metric: PlacedMetric, unit: str) -> units.Conversion:
    if not units.compatible(metric.unit, unit):
        detail = said(
            "%(metric)s is in `%(own)s`, which can't be converted to %(asked)s.",
            metric=metric.path,
            own=metric.unit,
            asked=repr(unit),
        )
        raise Invalid(detail, faults=(Fault("/unit", detail, "query"),))
    return units.conversion(metric.unit, unit)
