"""What an interval means: the rules of `docs/concepts.md`, as arithmetic on columns. No engine, no clock, no HTTP.

Readings are summed up twice: first those of each quarter of an hour into a **cell**, which knows nothing of what lies
around it and so can be kept; then cells into buckets, where what happens between two cells is added.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from kilowatch.facility.quantities import Behaviour
from kilowatch.history.model import ENERGIES, Aggregate, Floats, Milliseconds

MS_PER_HOUR = 3_600_000
QUARTER_MS = 900_000
"""Every time zone's offset of today is a multiple of it, so that cells fit buckets of a quarter and more."""

Reading = tuple[int, float]
"""A time in ms since 1970, and a value."""


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Stretches of time with the readings of one metric that lie in each: columns of one length, by time.

    `held_ms` and the integrals (value · ms) are of the time from a cell's first reading to its last: of all values, and
    of the amounts of the positive and the negative ones. `rises` sums up by how much a counter rose to the readings
    between those two.
    """

    first_ts: Milliseconds
    last_ts: Milliseconds
    first: Floats
    second: Floats
    last_but_one: Floats
    last: Floats
    minimum: Floats
    maximum: Floats
    total: Floats
    count: Milliseconds
    held_ms: Milliseconds
    integral: Floats
    positive: Floats
    negative: Floats
    rises: Floats

    def __len__(self) -> int:
        return len(self.first_ts)

    @property
    def nbytes(self) -> int:
        return 8 * len(self) * len(fields(self))

    def at(self, chosen: np.ndarray) -> "Cells":
        """Those at positions, or where a flag is set."""
        return Cells(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def between(self, begin: int, end: int) -> "Cells":
        """Those whose readings lie in `[begin, end)`, as copies that keep nothing else in memory."""
        low, high = np.searchsorted(self.first_ts, (begin, end))
        return Cells(*(getattr(self, field.name)[low:high].copy() for field in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence["Cells"]) -> "Cells":
        parts = [part for part in parts if len(part)] or parts[:1]
        if len(parts) == 1:
            return parts[0]
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


@dataclass(frozen=True, slots=True, eq=False)
class Buckets:
    """One entry a bucket: the aggregate (NaN for none), how many ms data vouches for, and the number of readings."""

    values: Floats
    held_ms: Milliseconds
    counts: Milliseconds


# ── readings to cells ────────────────────────────────────────────────────────────────────────────────────────────────


@np.errstate(over="ignore", invalid="ignore")  # sums may overflow; what is then not finite is no figure
def cells_of(
    timestamps: Milliseconds,
    values: Floats,
    edges: Milliseconds,
    *,
    behaviour: Behaviour,
    max_gap_ms: int | None,
    now_ms: int | None = None,
) -> Cells:
    """One metric's readings in cells, each of one quarter of an hour and between two of the `edges`.

    Nothing speaks of the time after `now_ms`, which nobody has seen yet.
    """
    begins = _beginnings(timestamps, edges)
    ends = np.append(begins[1:], len(timestamps)) if len(begins) else begins
    last = ends - 1
    empty = np.zeros(len(begins))
    held_ms, integral, positive, negative = empty.astype(np.int64), empty, empty, empty
    rises = empty
    if len(begins):
        spans = _spans(timestamps, last, max_gap_ms=max_gap_ms, now_ms=now_ms)
        held_ms = np.add.reduceat(spans, begins)
        weighted = values * spans
        integral = np.add.reduceat(weighted, begins)
        if behaviour == "gauge":
            positive = np.add.reduceat(np.maximum(weighted, 0.0), begins)
            negative = np.add.reduceat(np.maximum(-weighted, 0.0), begins)
        else:
            inner = _rises(values)
            inner[begins] = inner[last] = 0.0
            rises = np.add.reduceat(inner, begins)
    return Cells(
        first_ts=timestamps[begins],
        last_ts=timestamps[last],
        first=values[begins],
        second=values[np.minimum(begins + 1, last)],
        last_but_one=values[np.maximum(last - 1, begins)],
        last=values[last],
        minimum=np.minimum.reduceat(values, begins) if len(begins) else empty,
        maximum=np.maximum.reduceat(values, begins) if len(begins) else empty,
        total=np.add.reduceat(values, begins) if len(begins) else empty,
        count=ends - begins,
        held_ms=held_ms,
        integral=integral,
        positive=positive,
        negative=negative,
        rises=rises,
    )


def _beginnings(timestamps: Milliseconds, edges: Milliseconds) -> np.ndarray:
    """The places of the readings with which a cell begins."""
    begins = np.empty(len(timestamps), bool)
    if len(timestamps):
        quarters = timestamps // QUARTER_MS
        begins[0] = True
        np.not_equal(quarters[1:], quarters[:-1], out=begins[1:])
        cuts = np.searchsorted(timestamps, edges)
        begins[cuts[cuts < len(timestamps)]] = True
    return np.flatnonzero(begins)


def _spans(timestamps: Milliseconds, last: np.ndarray, *, max_gap_ms: int | None, now_ms: int | None) -> Milliseconds:
    """For how many ms each reading speaks until the next one of its cell."""
    spans = np.zeros(len(timestamps), np.int64)
    np.subtract(timestamps[1:], timestamps[:-1], out=spans[:-1])
    if max_gap_ms is not None:
        np.minimum(spans, max_gap_ms, out=spans)
    if now_ms is not None and timestamps[-1] > now_ms:
        np.clip(spans, 0, np.maximum(now_ms - timestamps, 0), out=spans)
    spans[last] = 0
    return spans


def _rises(values: Floats) -> Floats:
    """By how much a counter rose up to each reading; NaN for the first.

    A reset is a fall to less than half of the value before, from which the next reading does not come back: it counts
    from zero. Any other fall is a glitch: its difference stays, and its recovery cancels it.
    """
    rises = np.full(len(values), np.nan)
    before, value = values[:-1], values[1:]
    comes_back = np.append(values[2:] >= before[:-1], False) if len(values) > 1 else np.empty(0, bool)
    is_reset = (before > 0) & (value < before / 2) & ~comes_back
    rises[1:] = np.where(is_reset, value, value - before)
    return rises


# ── cells to longer cells ───────────────────────────────────────────────────────────────────────────────────────────


@np.errstate(over="ignore", invalid="ignore")
def merged(cells: Cells, edges: Milliseconds, *, behaviour: Behaviour, max_gap_ms: int | None) -> Cells:
    """One metric's cells put together to one between each two of the `edges`, none of which cuts a cell.

    It is the cell of all their readings, but for the rounding of sums.
    """
    if not len(cells):
        return cells
    places = np.searchsorted(edges, cells.first_ts, side="right")
    begins = np.flatnonzero(np.diff(places, prepend=-1))
    last = np.append(begins[1:], len(cells)) - 1
    gaps = np.zeros(len(cells), np.int64)
    gaps[:-1] = cells.first_ts[1:] - cells.last_ts[:-1]
    if max_gap_ms is not None:
        np.minimum(gaps, max_gap_ms, out=gaps)
    gaps[last] = 0  # what follows is the next one's
    held = cells.last * gaps
    if behaviour == "gauge":
        positive, negative = cells.positive + np.maximum(held, 0.0), cells.negative + np.maximum(-held, 0.0)
        rises = cells.rises
    else:
        positive, negative = cells.positive, cells.negative
        at_ends, of_cell, is_outer = _rises_at_ends(cells, begins, last)
        rises = cells.rises + np.bincount(of_cell, np.where(is_outer, 0.0, at_ends), len(cells))
    following, before = np.minimum(begins + 1, last), np.maximum(last - 1, begins)
    return Cells(
        first_ts=cells.first_ts[begins],
        last_ts=cells.last_ts[last],
        first=cells.first[begins],
        second=np.where(cells.count[begins] > 1, cells.second[begins], cells.first[following]),
        last_but_one=np.where(cells.count[last] > 1, cells.last_but_one[last], cells.last[before]),
        last=cells.last[last],
        minimum=np.minimum.reduceat(cells.minimum, begins),
        maximum=np.maximum.reduceat(cells.maximum, begins),
        total=np.add.reduceat(cells.total, begins),
        count=np.add.reduceat(cells.count, begins),
        held_ms=np.add.reduceat(cells.held_ms + gaps, begins),
        integral=np.add.reduceat(cells.integral + held, begins),
        positive=np.add.reduceat(positive, begins),
        negative=np.add.reduceat(negative, begins),
        rises=np.add.reduceat(rises, begins),
    )


def _rises_at_ends(cells: Cells, begins: np.ndarray, last: np.ndarray) -> tuple[Floats, np.ndarray, np.ndarray]:
    """The rises to the cells' first and last readings; the cell of each; and whether it is the first or the last
    reading of a longer cell, of those that begin and end with these cells, or stands for none."""
    ends = _Ends.of(cells)
    rises = _rises(ends.values)
    is_outer = ~ends.is_end
    is_outer[ends.first[begins]] = is_outer[ends.last[last]] = True
    return rises, ends.cell, is_outer


# ── cells to buckets ─────────────────────────────────────────────────────────────────────────────────────────────────


@np.errstate(over="ignore", invalid="ignore")
def aggregate_cells(
    cells: Cells,
    edges: Milliseconds,
    *,
    before: Reading | None,
    after: Reading | None,
    aggregate: Aggregate,
    behaviour: Behaviour,
    max_gap_ms: int | None,
    now_ms: int,
) -> Buckets:
    """The aggregate of each bucket `[edges[i], edges[i + 1])`; energies are in the values' unit times hours.

    Args:
        cells: of the window, none of them across an edge.
        before: the last reading before the window.
        after: for a counter the first one after it.
    """
    size = len(edges) - 1
    bucket = np.searchsorted(edges, cells.first_ts, side="right") - 1
    begins, ends, values = _between(cells, int(edges[-1]), before=before, after=after, behaviour=behaviour)
    if max_gap_ms is not None:
        ends = np.minimum(ends, begins + max_gap_ms)
    held = _Held.of(begins, np.minimum(ends, now_ms), edges)
    held_ms = held.sums(None, size) + np.bincount(bucket, cells.held_ms, size)
    counts = np.bincount(bucket, cells.count, size).astype(np.int64)
    if aggregate == "mean" or aggregate in ENERGIES:
        inner, values = _one_direction(cells, values, aggregate)
        integral = held.sums(values, size) + np.bincount(bucket, inner, size)
        divisor = held_ms if aggregate == "mean" else np.full(size, MS_PER_HOUR)
        results = np.divide(integral, divisor, out=np.full(size, np.nan), where=held_ms > 0)
    elif aggregate == "delta":
        results = _delta(cells, bucket, size, before=before, after=after)
    else:
        results = _of_readings(cells, bucket, size, aggregate)
    return Buckets(results, held_ms.astype(np.int64), counts)


def _between(
    cells: Cells, window_end: int, *, before: Reading | None, after: Reading | None, behaviour: Behaviour
) -> tuple[Milliseconds, Milliseconds, Floats]:
    """From each cell's last reading, and the one before the window, until the next cell: begins, ends and values.

    A gauge's value holds until the next reading, a counter's tells of the time until it. So the last of a counter's
    readings tells of nothing after it, and the last of a gauge's holds on.
    """
    begins, values = cells.last_ts, cells.last
    if before is not None:
        begins, values = np.append(before[0], begins), np.append(before[1], values)
    if not len(begins):
        return begins, begins, values
    if behaviour == "gauge":
        end = window_end
    else:
        end = int(begins[-1]) if after is None else after[0]
    ends = np.append(cells.first_ts if before is not None else cells.first_ts[1:], end)
    return begins, ends, values


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """Stretches of time, cut at the buckets' edges: their lengths in ms, where they came from, and their buckets."""

    lengths: Milliseconds
    origin: np.ndarray
    bucket: np.ndarray

    @classmethod
    def of(cls, begins: Milliseconds, ends: Milliseconds, edges: Milliseconds) -> "_Held":
        begins, ends = np.maximum(begins, edges[0]), np.minimum(ends, edges[-1])
        origin = np.flatnonzero(ends > begins)
        begins, ends = begins[origin], ends[origin]
        first = np.searchsorted(edges, begins, side="right") - 1
        pieces = np.searchsorted(edges, ends, side="left") - first  # of each stretch: mostly one
        if (pieces > 1).any():
            place = np.repeat(np.arange(len(origin)), pieces)
            within = np.arange(len(place)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
            first, origin = first[place] + within, origin[place]
            begins, ends = np.maximum(begins[place], edges[first]), np.minimum(ends[place], edges[first + 1])
        return cls(ends - begins, origin, first)

    def sums(self, values: Floats | None, size: int) -> Floats:
        """Of each bucket the lengths, or the values times their lengths."""
        weights = self.lengths if values is None else values[self.origin] * self.lengths
        return np.bincount(self.bucket, weights, size).astype(np.float64, copy=False)


def _one_direction(cells: Cells, values: Floats, aggregate: Aggregate) -> tuple[Floats, Floats]:
    """Of the powers those of one sign, as amounts, and 0 for the others; all of them where no direction is asked."""
    if aggregate == "energy_positive":
        return cells.positive, np.maximum(values, 0.0)
    if aggregate == "energy_negative":
        return cells.negative, np.maximum(-values, 0.0)
    return cells.integral, values


def _of_readings(cells: Cells, bucket: np.ndarray, size: int, aggregate: Aggregate) -> Floats:
    """Aggregates of the readings that lie in a bucket; NaN where none does."""
    results = np.full(size, np.nan)
    if not len(cells):
        return results
    first = np.flatnonzero(np.diff(bucket, prepend=-1))  # where the cells of each bucket begin
    last = np.append(first[1:], len(cells)) - 1
    if aggregate == "first":
        found = cells.first[first]
    elif aggregate == "last":
        found = cells.last[last]
    elif aggregate == "min":
        found = np.minimum.reduceat(cells.minimum, first)
    elif aggregate == "max":
        found = np.maximum.reduceat(cells.maximum, first)
    elif aggregate == "count":
        found = np.add.reduceat(cells.count, first).astype(np.float64)
    else:
        found = np.add.reduceat(cells.total, first)
    results[bucket[first]] = found
    return results


@dataclass(frozen=True, slots=True, eq=False)
class _Ends:
    """What decides about the rises to cells' first and last readings: both, their neighbours inside of the cell, and
    those of the next cells. `is_end` says which are a first or a last, `first` and `last` where each cell's are."""

    values: Floats
    cell: np.ndarray
    is_end: np.ndarray
    first: np.ndarray
    last: np.ndarray

    @classmethod
    def of(cls, cells: Cells) -> "_Ends":
        four = np.stack((cells.first, cells.second, cells.last_but_one, cells.last), axis=1)
        is_there = np.ones(four.shape, bool)
        is_there[:, 1], is_there[:, 2], is_there[:, 3] = cells.count > 2, cells.count > 3, cells.count > 1
        is_end = np.zeros(four.shape, bool)
        is_end[:, 0] = is_end[:, 3] = True
        cell = np.broadcast_to(np.arange(len(cells))[:, np.newaxis], four.shape)[is_there]
        last = np.cumsum(is_there.sum(axis=1)) - 1
        return cls(four[is_there], cell, is_end[is_there], np.append(0, last[:-1] + 1), last)


def _delta(cells: Cells, bucket: np.ndarray, size: int, *, before: Reading | None, after: Reading | None) -> Floats:
    """The rises that end in a bucket: those inside of cells are known, those to a first and a last reading are made."""
    if not len(cells):
        return np.full(size, np.nan)
    ends = _Ends.of(cells)
    lead = 0 if before is None else 1
    around = ([] if before is None else [before[1]], ends.values, [] if after is None else [after[1]])
    rises = _rises(np.concatenate(around))[lead : lead + len(ends.values)]
    cell, counts = ends.cell, ends.is_end & ~np.isnan(rises)
    amount = np.bincount(bucket, cells.rises, size) + np.bincount(bucket[cell[counts]], rises[counts], size)
    number = np.bincount(bucket, np.maximum(cells.count - 2, 0), size) + np.bincount(bucket[cell[counts]], None, size)
    return np.where(number > 0, amount, np.nan)
