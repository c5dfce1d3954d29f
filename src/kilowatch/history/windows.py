"""Windows of history out of the engine and out of what is in memory already."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, pairwise

import numpy as np

from kilowatch.errors import Abandoned
from kilowatch.facility.model import PlacedMetric
from kilowatch.facility.quantities import Behaviour
from kilowatch.history.chunks import Source, read_in_chunks
from kilowatch.history.folded import Folded
from kilowatch.history.intervals import QUARTER_MS, Cells, cells_of
from kilowatch.history.model import Flags, Milliseconds, Points, Stop
from kilowatch.history.spans import DAY_MS, WEEK_MS, Spans, Stretch
from kilowatch.kit.timespan import Window, from_ms, resolution_named, zone

_DAYS_AT_MOST = 32
_WEEKS_AT_MOST = 20_000
_SHORT = 10_000  # readings: whoever asks for less need not wait for a whole day
_DENSE = 200_000  # readings a day that are too many to keep
_LONG_MS = 60 * DAY_MS  # what is shorter comes out of quarters as soon
_MOST_RAW_QUARTERS = 10_000
_MOST_STRETCHES = 50
_DAY = resolution_named("1d")
_LAST_MS = 253_402_300_799_999  # of the year 9999


@dataclass(frozen=True, slots=True)
class Measured:
    """A metric, as far as it decides what its cells are."""

    metric_id: int
    behaviour: Behaviour
    max_gap_ms: int | None
    folded_until: int = 0
    """Its readings of before, in ms, may be folded: the days of this time zone into one cell each."""
    timezone: str = "UTC"

    @classmethod
    def of(cls, metric: PlacedMetric) -> "Measured":
        return cls(metric.id, metric.behaviour, metric.max_gap_ms, metric.folded_until_ms, metric.timezone)

    def cells(self, timestamps: Milliseconds, values: np.ndarray, edges: Milliseconds, now_ms: int | None) -> Cells:
        return cells_of(timestamps, values, edges, behaviour=self.behaviour, max_gap_ms=self.max_gap_ms, now_ms=now_ms)


class AllReadings:
    """A source of raw readings, and of those that are kept of quarters that are folded."""

    def __init__(self, source: Source, folded: Folded) -> None:
        self._source = source
        self._folded = folded

    def count_at_most(self, metric_ids: Sequence[int], window: Window) -> int:
        kept = 2 * self._folded.count_at_most(metric_ids, window)
        return self._source.count_at_most(metric_ids, window) + kept

    def first_readings(self, metric_ids: Sequence[int], window: Window, *, limit: int) -> list[Points]:
        found: list[Points] = []
        waiting = [(sorted(metric_ids), window)]
        while waiting and limit > 0:
            ids, span = waiting.pop()
            raw = self._source.first_readings(ids, span, limit=limit)
            if sum(map(len, raw)) == limit:  # there may be more: what is kept is read as far as what is not
                metric_id, last = raw[-1].metric_id, int(raw[-1].timestamps[-1])
                before, after = [one for one in ids if one < metric_id], [one for one in ids if one > metric_id]
                if after:
                    waiting.append((after, span))
                if last + 1 < span.end_ms:
                    waiting.append(([metric_id], _window(last + 1, span.end_ms)))
                part = self._united(raw, before, span, limit=limit)
                part += self._united(raw, [metric_id], _window(span.start_ms, last + 1), limit=limit)
            else:
                part = self._united(raw, ids, span, limit=limit)
            for points in part:
                found.append(points.first(limit))
                limit -= len(found[-1])
        together = [list(parts) for _, parts in groupby(found, key=lambda points: points.metric_id)]
        joined = [Points.joined(parts[0].metric_id, parts) for parts in together]
        return [points for points in joined if len(points)]

    def _united(self, raw: Sequence[Points], ids: Sequence[int], window: Window, *, limit: int) -> list[Points]:
        """Of these metrics what is raw and what is kept, by metric and time."""
        if not ids:
            return []
        # The first and the last quarter of each may have none of their readings in the window.
        kept = {points.metric_id: points for points in self._folded.kept(ids, window, limit=limit + 2 * len(ids))}
        found = {points.metric_id: points.between(window.start_ms, window.end_ms) for points in raw}
        both = sorted(found.keys() & kept.keys())
        begins = self._folded.begins(both, window) if both else {}
        return [
            _with_kept(found.get(metric_id), kept.get(metric_id), begins.get(metric_id))
            for metric_id in ids
            if metric_id in found or metric_id in kept
        ]


def _with_kept(raw: Points | None, kept: Points | None, begins: Milliseconds | None) -> Points:
    if raw is None or kept is None or begins is None:
        one = kept if raw is None else raw
        assert one is not None  # a metric of which there is something
        return one
    is_raw = ~np.isin(raw.timestamps // QUARTER_MS, begins // QUARTER_MS)
    timestamps = np.concatenate((raw.timestamps[is_raw], kept.timestamps))
    values = np.concatenate((raw.values[is_raw], kept.values))
    order = np.argsort(timestamps, kind="stable")
    return Points(raw.metric_id, timestamps[order], values[order])


class HotReadings:
    """A source of readings that keeps the days that are asked for."""

    def __init__(self, source: Source, spans: Spans) -> None:
        self._source = source
        self._spans = spans

    def count_at_most(self, metric_ids: Sequence[int], window: Window) -> int:
        return self._source.count_at_most(metric_ids, window)

    def first_readings(self, metric_ids: Sequence[int], window: Window, *, limit: int) -> list[Points]:
        days = range(window.start_ms // DAY_MS, (window.end_ms - 1) // DAY_MS + 1)
        if limit < _SHORT or len(metric_ids) * len(days) > _DAYS_AT_MOST:
            return self._source.first_readings(metric_ids, window, limit=limit)
        found = []
        for metric_id in sorted(metric_ids):
            points = self._of_days(metric_id, days)
            if points is None:
                return self._source.first_readings(metric_ids, window, limit=limit)
            points = points.between(window.start_ms, window.end_ms)
            if len(points):
                found.append(points)
        return found if sum(map(len, found)) <= limit else self._source.first_readings(metric_ids, window, limit=limit)

    def _of_days(self, metric_id: int, days: range) -> Points | None:
        """A metric's readings of whole days; `None` where they are too many to keep."""
        stretches = [Stretch(metric_id, "readings", DAY_MS, day) for day in days]
        known = {stretch.number: self._spans.find(stretch) for stretch in stretches}
        for first, last in _runs([day for day in days if known[day] is None]):
            moment, most = self._spans.moment(), _DENSE * (last + 1 - first)
            window = _window(first * DAY_MS, (last + 1) * DAY_MS)
            points = Points.joined(metric_id, self._source.first_readings([metric_id], window, limit=most))
            if len(points) == most:
                return None
            for day in range(first, last + 1):
                known[day] = points.between(day * DAY_MS, (day + 1) * DAY_MS).copy()
                self._spans.keep(Stretch(metric_id, "readings", DAY_MS, day), known[day], read_after=moment)
        return Points.joined(metric_id, [known[day] for day in days])


class HotCells:
    """Cells of metrics in a window, of raw readings and folded ones. Those of whole weeks are kept."""

    def __init__(self, source: Source, hot: Source, folded: Folded, spans: Spans) -> None:
        self._source = source
        self._hot = hot
        self._folded = folded
        self._spans = spans

    def cells(
        self, metrics: Sequence[Measured], window: Window, edges: Milliseconds, *, now_ms: int, stop: Stop
    ) -> dict[int, Cells]:
        """The cells of each metric, by its id. Raises `Abandoned` when `stop` says so."""
        found: dict[int, list[Cells]] = {metric.metric_id: [] for metric in metrics}
        days, left = self._of_days(metrics, window, edges)
        for metric_id, cells in days.items():
            found[metric_id].append(cells)
        for (first, last), some in left.items():
            stretch = _window(first, last)
            for metric_id, cells in self._of_quarters(some, stretch, edges, now_ms=now_ms, stop=stop).items():
                found[metric_id].append(cells)
        return {metric_id: _in_order(parts) for metric_id, parts in found.items()}

    def _of_days(
        self, metrics: Sequence[Measured], window: Window, edges: Milliseconds
    ) -> tuple[dict[int, Cells], dict[tuple[int, int], list[Measured]]]:
        """Cells of whole days, where nothing finer is asked; and the rest of the window, of which metrics in which
        stretches."""
        nothing: tuple[dict[int, Cells], dict[tuple[int, int], list[Measured]]]
        nothing = {}, {(window.start_ms, window.end_ms): list(metrics)}
        midnights = _midnights(metrics, window, edges)
        if midnights is None:
            return nothing
        ids, span = [metric.metric_id for metric in metrics], _window(int(midnights[0]), int(midnights[-1]))
        raw = self._folded.raw_quarters(ids, span, most=_MOST_RAW_QUARTERS)  # first: what goes from there has cells
        if raw is None:
            return nothing
        stored = self._folded.days({metric.metric_id: metric.behaviour for metric in metrics}, span)
        found: dict[int, Cells] = {}
        left: dict[tuple[int, int], list[Measured]] = defaultdict(list)
        for metric in metrics:
            days = stored.get(metric.metric_id)
            is_there = np.zeros(len(midnights) - 1, bool)
            if days is not None:
                place = np.minimum(np.searchsorted(midnights, days.begins), len(midnights) - 2)
                fits = (midnights[place] == days.begins) & (midnights[place + 1] == days.ends)
                fits &= days.max_gap_ms == (-1 if metric.max_gap_ms is None else metric.max_gap_ms)
                raw_days = np.searchsorted(midnights, raw.get(metric.metric_id, NO_EDGES), side="right") - 1
                fits &= ~np.isin(place, raw_days)
                is_there[place[fits]] = True
                found[metric.metric_id] = days.cells.at(fits)
            for first, last in _stretches(is_there, midnights, window):
                left[first, last].append(metric)
        return nothing if len(left) > _MOST_STRETCHES else (found, left)

    def _of_quarters(
        self, metrics: Sequence[Measured], window: Window, edges: Milliseconds, *, now_ms: int, stop: Stop
    ) -> dict[int, Cells]:
        begin = -(-window.start_ms // QUARTER_MS) * QUARTER_MS
        end = min(window.end_ms, now_ms) // QUARTER_MS * QUARTER_MS
        weeks = range(begin // WEEK_MS, -(-end // WEEK_MS))
        on_quarters = not (edges[1:-1] % QUARTER_MS).any()
        if end - begin < WEEK_MS or not on_quarters or len(weeks) * len(metrics) > _WEEKS_AT_MOST:
            return self._read(self._hot, metrics, window, edges, now_ms=now_ms, stop=stop)
        # What is before the first whole quarter and behind the last comes out of readings.
        head = self._read(self._hot, metrics, _window(window.start_ms, begin), edges, now_ms=now_ms, stop=stop)
        whole = self._of_weeks(metrics, weeks, stop=stop)
        tail = self._read(self._hot, metrics, _window(end, window.end_ms), edges, now_ms=now_ms, stop=stop)
        return {
            metric_id: Cells.joined([head[metric_id], cells.between(begin, end), tail[metric_id]])
            for metric_id, cells in whole.items()
        }

    def _of_weeks(self, metrics: Sequence[Measured], weeks: range, *, stop: Stop) -> dict[int, Cells]:
        known = {metric: [self._spans.find(_stretch(metric, week)) for week in weeks] for metric in metrics}
        missing: dict[tuple[int, int], list[Measured]] = defaultdict(list)
        for metric, found in known.items():
            for run in _runs([week for week, cells in zip(weeks, found, strict=True) if cells is None]):
                missing[run].append(metric)
        for (first, last), some in missing.items():
            moment = self._spans.moment()
            window = _window(first * WEEK_MS, (last + 1) * WEEK_MS)
            read = self._read(self._source, some, window, NO_EDGES, now_ms=None, stop=stop)
            for metric in some:
                for week in range(first, last + 1):
                    cells = read[metric.metric_id].between(week * WEEK_MS, (week + 1) * WEEK_MS)
                    known[metric][week - weeks[0]] = cells
                    self._spans.keep(_stretch(metric, week), cells, read_after=moment)
        return {metric.metric_id: Cells.joined(found) for metric, found in known.items()}

    def _read(
        self,
        source: Source,
        metrics: Sequence[Measured],
        window: Window,
        edges: Milliseconds,
        *,
        now_ms: int | None,
        stop: Stop,
    ) -> dict[int, Cells]:
        measured = {metric.metric_id: metric for metric in metrics}
        chunks = _while_awaited(read_in_chunks(source, list(measured), window), stop)
        found = {
            metric_id: cells_in_parts(measured[metric_id], points, edges, now_ms)
            for metric_id, points in groupby(chain.from_iterable(chunks), lambda points: points.metric_id)
        }
        nothing = np.empty(0, np.int64), np.empty(0)
        made = {
            metric_id: found.get(metric_id) or metric.cells(*nothing, edges, now_ms)
            for metric_id, metric in measured.items()
        }
        old = {metric.metric_id: metric.behaviour for metric in metrics if metric.folded_until > window.start_ms}
        stored = self._folded.cells(old, window) if old and window.start_ms < window.end_ms else {}
        return made | {metric_id: _united(made[metric_id], cells) for metric_id, cells in stored.items()}


def _midnights(metrics: Sequence[Measured], window: Window, edges: Milliseconds) -> Milliseconds | None:
    """Where days of the window begin and end that may be stored as one cell each: a long row of them, between whose
    first and last nothing finer is asked. `None` if that is not so."""
    zones = {metric.timezone for metric in metrics}
    end = min(window.end_ms, min((metric.folded_until for metric in metrics), default=0))
    if len(zones) != 1 or end - window.start_ms < _LONG_MS:
        return None
    around = _window(window.start_ms - 1, end + 1) if window.start_ms else window
    midnights = np.array(_DAY.buckets(around, zone(zones.pop()))[1:-1], np.int64)
    asked = edges[(edges > midnights[0]) & (edges < midnights[-1])]
    return midnights if np.isin(asked, midnights).all() else None


def _stretches(is_there: Flags, midnights: Milliseconds, window: Window) -> Iterator[tuple[int, int]]:
    """The stretches of the window without the days that are there."""
    begin = window.start_ms
    for first, last in _runs(np.flatnonzero(is_there).tolist()):
        if begin < midnights[first]:
            yield begin, int(midnights[first])
        begin = int(midnights[last + 1])
    if begin < window.end_ms:
        yield begin, window.end_ms


def _in_order(parts: Sequence[Cells]) -> Cells:
    joined = Cells.joined(parts)
    return joined if len(parts) == 1 else joined.at(np.argsort(joined.first_ts, kind="stable"))


def _united(made: Cells, stored: Cells) -> Cells:
    """Cells of raw readings, but for quarters that are folded, with those of the quarters that are."""
    is_raw = ~np.isin(made.first_ts // QUARTER_MS, stored.first_ts // QUARTER_MS)
    both = Cells.joined([made.at(is_raw), stored])
    return both.at(np.argsort(both.first_ts, kind="stable"))


def cells_in_parts(metric: Measured, some: Iterable[Points], edges: Milliseconds, now_ms: int | None) -> Cells:
    """The cells of one metric's readings, which come in any number of parts: none of them is cut by that."""
    parts = []
    rest = Points(metric.metric_id, np.empty(0, np.int64), np.empty(0))
    for points in some:
        whole = Points.joined(metric.metric_id, [rest, points] if len(rest) else [points])
        if not len(whole):
            continue
        last = int(whole.timestamps[-1])
        begin = max(last // QUARTER_MS * QUARTER_MS, *edges[edges <= last][-1:].tolist(), 0)
        cut = int(np.searchsorted(whole.timestamps, begin))
        parts.append(metric.cells(whole.timestamps[:cut], whole.values[:cut], edges, now_ms))
        rest = Points(metric.metric_id, whole.timestamps[cut:], whole.values[cut:])
    parts.append(metric.cells(rest.timestamps, rest.values, edges, now_ms))
    return Cells.joined(parts)


def _stretch(metric: Measured, week: int) -> Stretch:
    return Stretch(metric.metric_id, (metric.behaviour, metric.max_gap_ms), WEEK_MS, week)


NO_EDGES = np.empty(0, np.int64)


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Numbers in rising order as runs without a hole: the first and the last of each."""
    breaks = [place for place, (one, other) in enumerate(pairwise(numbers), 1) if other != one + 1]
    for begin, end in pairwise((0, *breaks, len(numbers))):
        if begin < end:
            yield numbers[begin], numbers[end - 1]


def _window(begin: int, end: int) -> Window:
    return Window(from_ms(begin), from_ms(min(end, _LAST_MS)))


def _while_awaited(chunks: Iterator[list[Points]], stop: Stop) -> Iterator[list[Points]]:
    for chunk in chunks:
        if stop():
            raise Abandoned
        yield chunk
