"""What an interval means: the rules of `docs/concepts.md`, as arithmetic on columns. No engine, no clock, no HTTP.

One metric at a time. `timestamps` (ms since 1970, rising, each once) and `values` hold the readings of the window, the
last one before it, and for counters the first one after it, where there are such.
"""

from dataclasses import dataclass

import numpy as np

from kilowatch.facility.quantities import Behaviour
from kilowatch.history.model import ENERGIES, Aggregate, Floats, Milliseconds

MS_PER_HOUR = 3_600_000


@dataclass(frozen=True, slots=True, eq=False)
class Buckets:
    """One entry a bucket: the aggregate (NaN for none), and how many ms of the bucket data vouches for."""

    values: Floats
    held_ms: Milliseconds


@np.errstate(over="ignore", invalid="ignore")  # sums may overflow; what is then not finite is no figure
def aggregate_readings(
    timestamps: Milliseconds,
    values: Floats,
    edges: Milliseconds,
    *,
    aggregate: Aggregate,
    behaviour: Behaviour,
    max_gap_ms: int | None,
    now_ms: int,
) -> Buckets:
    """The aggregate of each bucket `[edges[i], edges[i + 1])`.

    The energies take values in kW and give kWh; all others keep the values' unit. Nothing speaks of the time after
    `now_ms`, which nobody has seen yet.
    """
    until = _speaks_until(timestamps, edges[-1], behaviour=behaviour, max_gap_ms=max_gap_ms)
    lengths, reading, bucket = _pieces(timestamps, np.minimum(until, now_ms), edges)
    held_ms = np.bincount(bucket, lengths, len(edges) - 1)
    if aggregate == "mean" or aggregate in ENERGIES:
        values = _one_direction(values, aggregate)
        integral = np.bincount(bucket, values[reading] * lengths, len(edges) - 1)
        divisor = held_ms if aggregate == "mean" else np.full(len(held_ms), MS_PER_HOUR)
        results = np.divide(integral, divisor, out=np.full(len(held_ms), np.nan), where=held_ms > 0)
    else:
        results = _of_readings(timestamps, values, edges, aggregate)
    return Buckets(results, held_ms.astype(np.int64))


def _one_direction(values: Floats, aggregate: Aggregate) -> Floats:
    """Of the powers those of one sign, as amounts, and 0 for the others; all of them where no direction is asked."""
    if aggregate == "energy_positive":
        return np.maximum(values, 0.0)
    if aggregate == "energy_negative":
        return np.maximum(-values, 0.0)
    return values


def _speaks_until(
    timestamps: Milliseconds, window_end: int, *, behaviour: Behaviour, max_gap_ms: int | None
) -> Milliseconds:
    """Until when each reading speaks: a gauge's holds until the next one, a counter's tells of the time until it.

    So the last of a counter's readings tells of nothing after it, and the last of a gauge's holds on.
    """
    if not len(timestamps):
        return timestamps
    following = np.append(timestamps[1:], window_end if behaviour == "gauge" else timestamps[-1])
    return following if max_gap_ms is None else np.minimum(following, timestamps + max_gap_ms)


def _pieces(
    timestamps: Milliseconds, until: Milliseconds, edges: Milliseconds
) -> tuple[Milliseconds, np.ndarray, np.ndarray]:
    """The window cut at every edge and every reading, where a reading speaks.

    Returns:
        For each piece, in order: its length in ms, the position of the reading that speaks in it, and
        the number of its bucket.
    """
    inside = timestamps[(timestamps > edges[0]) & (timestamps < edges[-1])]
    cuts = np.unique(np.concatenate((edges, inside)))
    begins, ends = cuts[:-1], cuts[1:]
    reading = np.searchsorted(timestamps, begins, side="right") - 1
    known = reading >= 0
    begins, ends, reading = begins[known], ends[known], reading[known]
    lengths = np.maximum(np.minimum(ends, until[reading]) - begins, 0)
    return lengths, reading, np.searchsorted(edges, begins, side="right") - 1


def _of_readings(timestamps: Milliseconds, values: Floats, edges: Milliseconds, aggregate: Aggregate) -> Floats:
    """Aggregates of the readings that lie in a bucket; NaN where none does."""
    inside = (timestamps >= edges[0]) & (timestamps < edges[-1])
    if aggregate == "delta":
        rises = _rises(values)
        inside &= ~np.isnan(rises)
        values = rises
    timestamps, values = timestamps[inside], values[inside]
    results = np.full(len(edges) - 1, np.nan)
    if not len(values):
        return results
    bucket = np.searchsorted(edges, timestamps, side="right") - 1
    first = np.flatnonzero(np.diff(bucket, prepend=-1))  # where the readings of each bucket begin
    last = np.append(first[1:], len(values)) - 1
    if aggregate == "first":
        found = values[first]
    elif aggregate == "last":
        found = values[last]
    elif aggregate == "min":
        found = np.minimum.reduceat(values, first)
    elif aggregate == "max":
        found = np.maximum.reduceat(values, first)
    elif aggregate == "count":
        found = (last - first + 1).astype(np.float64)
    else:
        found = np.add.reduceat(values, first)
    results[bucket[first]] = found
    return results


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
