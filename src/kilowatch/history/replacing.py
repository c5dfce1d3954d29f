"""What is stored already at the times of a batch's readings: arithmetic on columns, no engine."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from kilowatch.history.model import Batch, Flags, Floats, MetricIds, Replaced, Rows
from kilowatch.history.statements import POINT_DTYPE

APART_MS = 3_600_000
MOST_SPANS = 32
_TIME_BITS = 44  # ms until the year 2527

NewestOf = Callable[[MetricIds], np.ndarray]
"""Says the latest reading of each metric (`NEWEST_DTYPE`), its time -1 for one that has none. That time may be said
later than it is, but then without a value."""


class NotNewer(NamedTuple):
    """What of a batch is not newer than its metric's latest reading, and so may be stored already."""

    rows: np.ndarray
    """`POINT_DTYPE` by (metric, time), each once: of several the last in the batch."""
    stored: Floats
    """The value that is stored at each, NaN for nothing. Here the latest readings' alone, to be completed."""
    positions: np.ndarray
    """Where in the batch those are that are not newer,"""
    row_of: np.ndarray
    """and which of `rows` each of them is about."""

    def same(self, batch: Batch) -> Flags:
        """Which of the batch's readings have the value that is stored."""
        same = np.zeros(len(batch), bool)
        same[self.positions] = self.stored[self.row_of] == batch.values[self.positions]
        return same

    def replaced(self) -> dict[int, Replaced]:
        return by_metric(self.rows[~np.isnan(self.stored) & (self.stored != self.rows["value"])])


def not_newer(batch: Batch, latest: NewestOf) -> NotNewer | None:
    """`None` if all of it is newer, as mostly."""
    newest = _newest(batch.metric_ids, latest)
    old = np.flatnonzero(batch.timestamps <= newest["ts"])
    if not len(old):
        return None
    rows = np.empty(len(old), POINT_DTYPE)
    rows["metric_id"], rows["ts"], rows["value"] = batch.metric_ids[old], batch.timestamps[old], batch.values[old]
    order = np.lexsort((rows["ts"], rows["metric_id"]))  # stable: equal ones stay in order of arrival
    rows, newest = rows[order], newest[old][order]
    last = np.ones(len(rows), bool)
    last[:-1] = (rows["metric_id"][1:] != rows["metric_id"][:-1]) | (rows["ts"][1:] != rows["ts"][:-1])
    row_of = np.cumsum(last) - last
    rows, newest = rows[last], newest[last]
    stored = np.where(rows["ts"] == newest["ts"], newest["value"], np.nan)
    return NotNewer(rows, stored, old[order], row_of)


def late(rows: Rows, latest: NewestOf) -> np.ndarray:
    """The positions of those rows that are not newer than their metric's latest reading."""
    begins = np.flatnonzero(np.diff(rows.metric_ids, prepend=0))
    newest = latest(rows.metric_ids[begins])["ts"]
    if (rows.timestamps[begins] > newest).all():
        return np.empty(0, np.int64)
    return np.flatnonzero(rows.timestamps <= np.repeat(newest, np.diff(begins, append=len(rows))))


def points_of(rows: Rows | Batch) -> np.ndarray:
    """The same as `POINT_DTYPE`."""
    points = np.empty(len(rows), POINT_DTYPE)
    points["metric_id"], points["ts"], points["value"] = rows.metric_ids, rows.timestamps, rows.values
    return points


def near(points: np.ndarray, rows: Rows) -> bool:
    """Whether they may have a metric and time in common; `points` are some."""
    return bool(
        rows.metric_ids[0] <= points["metric_id"][-1]
        and points["metric_id"][0] <= rows.metric_ids[-1]
        and rows.timestamps.min() <= points["ts"].max()
        and points["ts"].min() <= rows.timestamps.max()
    )


def _newest(metric_ids: MetricIds, latest: NewestOf) -> np.ndarray:
    """The latest reading of each row's metric (`NEWEST_DTYPE`), its time -1 for a metric that has none."""
    # a batch mostly comes metric by metric, so not each row is looked up, but each run of one metric
    begins = np.flatnonzero(np.diff(metric_ids, prepend=0))
    return np.repeat(latest(metric_ids[begins]), np.diff(begins, append=len(metric_ids)))


def spans(rows: np.ndarray) -> Iterator[np.ndarray]:
    """The rows' positions in parts that are near in time, so that what is stored around each can be read back with
    little else.

    A part ends where nothing follows for an hour; there are 32 at most, cut at the widest gaps.
    """
    if not len(rows):
        return
    by_time = np.argsort(rows["ts"], kind="stable")
    gaps = np.diff(rows["ts"][by_time])
    cuts = np.flatnonzero(gaps > APART_MS)
    if len(cuts) >= MOST_SPANS:
        cuts = np.sort(cuts[np.argsort(gaps[cuts])[-(MOST_SPANS - 1) :]])
    yield from (np.sort(part) for part in np.split(by_time, cuts + 1) if len(part))


def values_at(rows: np.ndarray, stored: np.ndarray) -> Floats:
    """The stored value at each row's metric and time, NaN where there is none. Both are by (metric, time)."""
    if not len(stored):
        return np.full(len(rows), np.nan)
    metric_ids = np.unique(rows["metric_id"])
    stored = stored[np.isin(stored["metric_id"], metric_ids)]
    if not len(stored):
        return np.full(len(rows), np.nan)
    wanted, there = _keys(rows, metric_ids), _keys(stored, metric_ids)
    position = np.minimum(np.searchsorted(there, wanted), len(there) - 1)
    return np.where(there[position] == wanted, stored["value"][position], np.nan)


def _keys(rows: np.ndarray, metric_ids: np.ndarray) -> np.ndarray:
    """One whole number for each (metric, time), in the same order."""
    keys: np.ndarray = np.searchsorted(metric_ids, rows["metric_id"]) << _TIME_BITS | rows["ts"]
    return keys


def by_metric(rows: np.ndarray) -> dict[int, Replaced]:
    """How many rows each metric has, and their first and last time."""
    if not len(rows):
        return {}
    metric_ids, position = np.unique(rows["metric_id"], return_inverse=True)
    counts = np.bincount(position, minlength=len(metric_ids))
    first, last = np.full(len(metric_ids), np.iinfo(np.int64).max), np.full(len(metric_ids), -1)
    np.minimum.at(first, position, rows["ts"])
    np.maximum.at(last, position, rows["ts"])
    columns = (metric_ids.tolist(), counts.tolist(), first.tolist(), last.tolist())
    return {metric_id: Replaced(*told) for metric_id, *told in zip(*columns, strict=True)}
