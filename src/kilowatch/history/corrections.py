"""What is stored already at the times of a batch's readings: memory is asked first, then the engine for little else."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from kilowatch.history import replacing, statements
from kilowatch.history.chunks import Source, read_in_chunks
from kilowatch.history.engine import Engine
from kilowatch.history.model import Batch, Points
from kilowatch.history.recent import Recent
from kilowatch.history.replacing import NewestOf, NotNewer
from kilowatch.kit.timespan import Window, from_ms

_LATE_AT_MOST = 1_000  # readings that are looked for one by one in memory
_POINTS_AT_ONCE = 5_000  # as text in a parameter, of which a server takes 128 KB
_FEW = 100_000  # readings that are sooner read back than looked for


class History(Source, Protocol):
    def count_in_window(self, metric_ids: Sequence[int], window: Window) -> int: ...


class Corrections:
    """Compares readings that are to be stored with those that are."""

    def __init__(self, engine: Engine, history: History, recent: Recent | None) -> None:
        """`recent` only where no other process stores readings."""
        self._engine = engine
        self._history = history
        self._recent = recent

    def compare(self, batch: Batch, newest: NewestOf) -> NotNewer | None:
        """What is stored already where the batch has readings; `None` if nothing can be, as all of them are newer."""
        found = replacing.not_newer(batch, newest)
        if found is None:
            return None
        open_ = np.flatnonzero(np.isnan(found.stored))
        if self._recent is not None and 0 < len(open_) <= _LATE_AT_MOST:
            is_known, values = self._recent.values_at(found.rows["metric_id"][open_], found.rows["ts"][open_])
            found.stored[open_] = values
            open_ = open_[~is_known]
        for part in replacing.spans(found.rows[open_]):
            positions = open_[part]
            rows = found.rows[positions]
            for stored in self._stored_near(rows):
                values = replacing.values_at(rows, stored)
                is_found = ~np.isnan(values)
                found.stored[positions[is_found]] = values[is_found]
        return found

    def _stored_near(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """What is stored at the rows' times, and perhaps around them, in parts: `POINT_DTYPE` by (metric, time)."""
        metric_ids = np.unique(rows["metric_id"]).tolist()
        window = Window(from_ms(int(rows["ts"].min())), from_ms(int(rows["ts"].max()) + 1))
        if self._recent is None and len(rows) <= _LATE_AT_MOST:  # of a server, each question costs more than its answer
            most = 2 * len(rows) + _LATE_AT_MOST
            found = self._history.first_readings(metric_ids, window, limit=most)
            if sum(map(len, found)) < most:
                return iter([_merged(found)])
        if self._history.count_in_window(metric_ids, window) > 10 * len(rows) + _FEW:
            return self._read_points(rows)
        return self._read_back(metric_ids, window)

    def _read_points(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """What is stored at the rows' times, some of the rows at a time."""
        for begin in range(0, len(rows), _POINTS_AT_ONCE):
            part = rows[begin : begin + _POINTS_AT_ONCE]
            parameters = {"ids": part["metric_id"].tolist(), "times": part["ts"].tolist()}
            yield self._engine.query(statements.READINGS_AT, parameters, statements.POINT_DTYPE)

    def _read_back(self, metric_ids: Sequence[int], window: Window) -> Iterator[np.ndarray]:
        """What the metrics have in the window, a chunk at a time."""
        yield from map(_merged, read_in_chunks(self._history, metric_ids, window))


def _merged(found: Sequence[Points]) -> np.ndarray:
    """The same as `POINT_DTYPE`."""
    stored = np.empty(sum(map(len, found)), statements.POINT_DTYPE)
    begin = 0
    for points in found:
        part = stored[begin : begin + len(points)]
        part["metric_id"], part["ts"], part["value"] = points.metric_id, points.timestamps, points.values
        begin += len(points)
    return stored
