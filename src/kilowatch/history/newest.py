"""The newest reading of every metric, in memory: what "latest" reads, however long the history is."""

import threading
from collections.abc import Iterable

import numpy as np

from kilowatch.history.model import MetricIds, Rows

NEWEST_DTYPE = np.dtype([("metric_id", "<u4"), ("ts", "<i8"), ("received_at", "<i8"), ("value", "<f8")])
"""A metric's newest reading; times in ms since 1970, `ts` -1 where there is none. A row of `latest` in RowBinary."""

_GROWTH = 1.5


class Newest:
    """A row for each metric number up to the highest that has a reading (28 bytes each). Safe in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows = _nothing(0)
        self._changed: set[int] = set()

    def put(self, found: np.ndarray) -> None:
        """`NEWEST_DTYPE` rows, each metric once. One is taken if it is newer, or as new and received later."""
        if not len(found):
            return
        with self._lock:
            self._reach(int(found["metric_id"].max()))
            known = self._rows[found["metric_id"]]
            newer = (found["ts"] > known["ts"]) | (
                (found["ts"] == known["ts"]) & (found["received_at"] >= known["received_at"])
            )
            found = found[newer]
            self._rows[found["metric_id"]] = found
            self._changed.update(found["metric_id"].tolist())

    def replace(self, metric_id: int, found: np.ndarray) -> None:
        """Make this (a row, or none) a metric's newest reading though it is older: others were removed."""
        with self._lock:
            self._reach(metric_id)
            self._rows[metric_id] = found[0] if len(found) else _nothing(1)[0]
            self._changed.discard(metric_id)

    def forget(self, metric_ids: Iterable[int]) -> None:
        with self._lock:
            gone = [metric_id for metric_id in metric_ids if metric_id < len(self._rows)]
            self._rows[gone] = _nothing(1)
            self._changed.difference_update(gone)

    def of(self, metric_ids: MetricIds) -> np.ndarray:
        """`NEWEST_DTYPE` rows, one for each that is asked, in that order."""
        with self._lock:
            inside = metric_ids < len(self._rows)
            if inside.all():
                return self._rows[metric_ids]
            found = _nothing(len(metric_ids))
            found[inside] = self._rows[metric_ids[inside]]
            return found

    def all(self) -> np.ndarray:
        with self._lock:
            return self._rows[self._rows["ts"] >= 0]

    def take_changes(self) -> np.ndarray:
        """The rows that changed since this was asked last."""
        with self._lock:
            changed, self._changed = sorted(self._changed), set()
            return self._rows[changed]

    def _reach(self, metric_id: int) -> None:
        if metric_id >= len(self._rows):
            more = _nothing(max(metric_id + 1, int(len(self._rows) * _GROWTH)) - len(self._rows))
            self._rows = np.concatenate((self._rows, more))


def last_of_each(rows: Rows) -> np.ndarray:
    """The newest of the rows for each metric that they have: `NEWEST_DTYPE`."""
    last = np.flatnonzero(np.diff(rows.metric_ids, append=0))  # metric 0 never is, so the last row ends its metric
    found = np.empty(len(last), NEWEST_DTYPE)
    found["metric_id"], found["ts"] = rows.metric_ids[last], rows.timestamps[last]
    found["received_at"], found["value"] = rows.received_at, rows.values[last]
    return found


def complete_until(received_at: int) -> np.ndarray:
    """A row of no metric, which says that the table has the newest of all readings received until then."""
    mark = np.zeros(1, NEWEST_DTYPE)
    mark["ts"] = mark["received_at"] = received_at  # by `ts` the latest mark wins
    return mark


def in_order(found: np.ndarray, metric_ids: MetricIds) -> np.ndarray:
    """Of rows by rising metric, one for each that is asked, in that order; `ts` -1 for what was not found."""
    rows = _nothing(len(metric_ids))
    if len(found):
        at = np.minimum(np.searchsorted(found["metric_id"], metric_ids), len(found) - 1)
        there = found["metric_id"][at] == metric_ids
        rows[there] = found[at[there]]
    return rows


def _nothing(size: int) -> np.ndarray:
    rows = np.zeros(size, NEWEST_DTYPE)
    rows["ts"] = -1
    return rows
