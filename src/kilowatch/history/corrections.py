"""Which stored readings a batch would give another value: memory is asked first, then the engine for little else."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from kilowatch.history import replacing, statements
from kilowatch.history.chunks import Source, read_in_chunks
from kilowatch.history.engine import Engine
from kilowatch.history.model import Batch, MetricIds, Replaced
from kilowatch.history.recent import Recent
from kilowatch.kit.timespan import Window, from_ms

_LATE_AT_MOST = 1_000  # readings that are looked for one by one in memory
_POINTS_AT_ONCE = 5_000  # as text in a parameter, of which a server takes 128 KB
_FEW = 100_000  # readings that are sooner read back than looked for


class History(Source, Protocol):
    def latest(self, metric_ids: MetricIds) -> np.ndarray: ...

    def count_in_window(self, metric_ids: Sequence[int], window: Window) -> int: ...


class Corrections:
    """Compares readings that are to be stored with those that are."""

    def __init__(self, engine: Engine, history: History, recent: Recent | None) -> None:
        """`recent` only where no other process stores readings."""
        self._engine = engine
        self._history = history
        self._recent = recent

    def by(self, batch: Batch) -> dict[int, Replaced]:
        """See `HistoryStore.replaced`."""
        at_latest, before_latest = replacing.not_newer(batch, self._history.latest)
        found = [at_latest]
        if self._recent is not None and 0 < len(before_latest) <= _LATE_AT_MOST:
            is_known, values = self._recent.values_at(before_latest["metric_id"], before_latest["ts"])
            differs = is_known & ~np.isnan(values) & (values != before_latest["value"])
            found.append(before_latest[differs])
            before_latest = before_latest[~is_known]
        for rows in replacing.spans(before_latest):
            found += [replacing.differing(rows, stored) for stored in self._stored_near(rows)]
        return replacing.by_metric(np.concatenate(found))

    def _stored_near(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """What is stored at the rows' times, and perhaps around them, in parts: `POINT_DTYPE` by (metric, time)."""
        metric_ids = np.unique(rows["metric_id"]).tolist()
        window = Window(from_ms(int(rows["ts"].min())), from_ms(int(rows["ts"].max()) + 1))
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
        for chunk in read_in_chunks(self._history, metric_ids, window):
            stored = np.empty(sum(map(len, chunk)), statements.POINT_DTYPE)
            begin = 0
            for points in chunk:
                part = stored[begin : begin + len(points)]
                part["metric_id"], part["ts"], part["value"] = points.metric_id, points.timestamps, points.values
                begin += len(points)
            yield stored
