"""The readings that were stored last, in memory: whether a late one replaces another is mostly told by them.

Many senders at once overtake each other, so a reading is often a little older than its metric's newest. To ask the
engine about each of those would cost more than to store it.
"""

import threading
from collections import deque

import numpy as np

from kilowatch.history.model import Rows
from kilowatch.history.newest import Newest, last_of_each

_MOST = 50_000
_LARGEST = 1_000  # rows of one insert: what comes in bulk is not worth it


class Recent:
    """Readings by metric and time. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[tuple[int, int], float] = {}
        self._order: deque[Rows] = deque()
        self._count = 0
        self._settled = Newest()

    def settle(self, found: np.ndarray) -> None:
        """`NEWEST_DTYPE` rows: what is not newer than they are may be stored without being known here."""
        self._settled.put(found)

    def stored(self, rows: Rows) -> None:
        if len(rows) > _LARGEST:
            self.settle(last_of_each(rows))
            return
        with self._lock:
            self._values.update(zip(_keys(rows.metric_ids, rows.timestamps), rows.values.tolist(), strict=True))
            self._order.append(rows)
            self._count += len(rows)
            while self._count > _MOST:
                self._forget_first()

    def clear(self) -> None:
        """Readings were taken out: ask the engine about all until now."""
        with self._lock:
            while self._order:
                self._forget_first()

    def values_at(self, metric_ids: np.ndarray, timestamps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each metric and time whether it is known what is stored there, and what: NaN for nothing."""
        with self._lock:
            is_known = timestamps > self._settled.of(metric_ids)["ts"]
            values = np.full(len(timestamps), np.nan)
            for place in np.flatnonzero(is_known).tolist():
                values[place] = self._values.get((int(metric_ids[place]), int(timestamps[place])), np.nan)
            return is_known, values

    def _forget_first(self) -> None:
        rows = self._order.popleft()
        self._count -= len(rows)
        self.settle(last_of_each(rows))
        for key in _keys(rows.metric_ids, rows.timestamps):
            self._values.pop(key, None)


def _keys(metric_ids: np.ndarray, timestamps: np.ndarray) -> list[tuple[int, int]]:
    return list(zip(metric_ids.tolist(), timestamps.tolist(), strict=True))
