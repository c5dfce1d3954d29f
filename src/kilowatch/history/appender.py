"""Group commit: readings of many writers go into the engine with one insert.

An insert of one row costs about as much as one of ten thousand. So while one insert runs, what arrives waits and goes
with the next: under load batches grow by themselves, and a lone writer waits for nobody.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime

import numpy as np

from kilowatch.errors import Unavailable
from kilowatch.history.model import READING_DTYPE, Batch
from kilowatch.kit.timespan import to_ms

MOST_WAITING = 4_000_000
"""Readings that may wait for the engine; 28 bytes each. Beyond that, writers are sent away for a second."""

MOST_AT_ONCE = 1_000_000


class Overloaded(Unavailable):
    def __init__(self) -> None:
        super().__init__("More readings arrive than can be stored; send them again in a moment.", retry_after_s=1)


class Appender:
    """Writes batches in the order of their arrival, from one thread of its own."""

    def __init__(
        self, insert: Callable[[np.ndarray], None], *, clock: Callable[[], datetime], last_received_at: int = 0
    ) -> None:
        self._insert = insert
        self._clock = clock
        self._waiting: list[tuple[Batch, Future[int]]] = []
        self._waiting_rows = 0
        self._last_received_at = last_received_at
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="history-appender", daemon=True)
        self._thread.start()

    def append(self, batch: Batch) -> int:
        """See `HistoryStore.append`."""
        done: Future[int] = Future()
        with self._changed:
            if self._closed or (self._waiting and self._waiting_rows + len(batch) > MOST_WAITING):
                raise Overloaded
            self._waiting.append((batch, done))
            self._waiting_rows += len(batch)
            self._changed.notify()
        return done.result()

    def close(self) -> None:
        """Write what waits, then stop."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while group := self._next_group():
            try:
                received_at = max(to_ms(self._clock()), self._last_received_at + 1)
                self._last_received_at = received_at
                self._insert(_rows([batch for batch, _ in group], received_at))
            # Whatever it is, it belongs to those who wait for this insert: each of them raises it.
            except Exception as error:
                for _, done in group:
                    done.set_exception(error)
            else:
                for _, done in group:
                    done.set_result(received_at)

    def _next_group(self) -> list[tuple[Batch, Future[int]]]:
        """The batches that go with the next insert; none when closed and everything is written."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            size = count = 0
            for batch, _ in self._waiting:
                if count and size + len(batch) > MOST_AT_ONCE:
                    break
                size, count = size + len(batch), count + 1
            group, self._waiting = self._waiting[:count], self._waiting[count:]
            self._waiting_rows -= size
            return group


def _rows(batches: list[Batch], received_at: int) -> np.ndarray:
    """One row for each metric and time, the last that arrived, ordered as the table is: `READING_DTYPE`."""
    metric_ids = np.concatenate([batch.metric_ids for batch in batches])
    timestamps = np.concatenate([batch.timestamps for batch in batches])
    values = np.concatenate([batch.values for batch in batches])
    order = np.lexsort((timestamps, metric_ids))  # stable: equal ones stay in order of arrival
    metric_ids, timestamps = metric_ids[order], timestamps[order]
    last = np.ones(len(order), bool)
    last[:-1] = (metric_ids[1:] != metric_ids[:-1]) | (timestamps[1:] != timestamps[:-1])
    rows = np.empty(int(last.sum()), READING_DTYPE)
    rows["metric_id"], rows["ts"], rows["value"] = metric_ids[last], timestamps[last], values[order][last]
    rows["received_at"] = received_at
    return rows
