"""Which readings of a batch give another value to a time that has one: arithmetic on columns, no engine."""

from collections.abc import Callable, Iterator

import numpy as np

from kilowatch.history.model import Batch, MetricIds, Replaced
from kilowatch.history.statements import POINT_DTYPE

_NOTHING = np.empty(0, POINT_DTYPE)
APART_MS = 3_600_000
MOST_SPANS = 32
_TIME_BITS = 44  # ms until the year 2527


def not_newer(batch: Batch, latest: Callable[[MetricIds], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """What of a batch can replace anything: `POINT_DTYPE` rows at the time of their metric's latest reading whose value
    is another, and rows before it. Of rows of one metric and time the last counts; both are by (metric, time).
    """
    newest = _newest(batch.metric_ids, latest)
    old = np.flatnonzero(batch.timestamps <= newest["ts"])
    if not len(old):
        return _NOTHING, _NOTHING
    rows = np.empty(len(old), POINT_DTYPE)
    rows["metric_id"], rows["ts"], rows["value"] = batch.metric_ids[old], batch.timestamps[old], batch.values[old]
    order = np.lexsort((rows["ts"], rows["metric_id"]))  # stable: equal ones stay in order of arrival
    rows, newest = rows[order], newest[old][order]
    last = np.ones(len(rows), bool)
    last[:-1] = (rows["metric_id"][1:] != rows["metric_id"][:-1]) | (rows["ts"][1:] != rows["ts"][:-1])
    rows, newest = rows[last], newest[last]
    at_newest = rows["ts"] == newest["ts"]
    return rows[at_newest & (rows["value"] != newest["value"])], rows[~at_newest]


def _newest(metric_ids: MetricIds, latest: Callable[[MetricIds], np.ndarray]) -> np.ndarray:
    """The latest reading of each row's metric (`NEWEST_DTYPE`), its time -1 for a metric that has none."""
    # a batch mostly comes metric by metric, so not each row is looked up, but each run of one metric
    begins = np.flatnonzero(np.diff(metric_ids, prepend=0))
    return np.repeat(latest(metric_ids[begins]), np.diff(begins, append=len(metric_ids)))


def spans(rows: np.ndarray) -> Iterator[np.ndarray]:
    """The rows in parts that are near in time, so that what is stored around each can be read back with little else.

    A part ends where nothing follows for an hour; there are 32 at most, cut at the widest gaps.
    """
    if not len(rows):
        return
    by_time = np.argsort(rows["ts"], kind="stable")
    gaps = np.diff(rows["ts"][by_time])
    cuts = np.flatnonzero(gaps > APART_MS)
    if len(cuts) >= MOST_SPANS:
        cuts = np.sort(cuts[np.argsort(gaps[cuts])[-(MOST_SPANS - 1) :]])
    yield from (rows[np.sort(part)] for part in np.split(by_time, cuts + 1) if len(part))


def differing(rows: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """Those of the rows whose metric and time are stored with another value. Both are by (metric, time)."""
    if not len(stored):
        return rows[:0]
    metric_ids = np.unique(rows["metric_id"])
    wanted, there = _keys(rows, metric_ids), _keys(stored, metric_ids)
    position = np.minimum(np.searchsorted(there, wanted), len(there) - 1)
    differs = (there[position] == wanted) & (stored["value"][position] != rows["value"])
    found: np.ndarray = rows[differs]
    return found


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
