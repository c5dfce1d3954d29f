"""When the latest reading of a metric is stale: it is older than a value of it is believed, or than it ever gets."""

import threading
from collections import defaultdict
from collections.abc import Sequence

from kilowatch.facility.model import PlacedMetric
from kilowatch.history.store import HistoryStore
from kilowatch.kit.timespan import Window, from_ms

DEFAULT_STALE_AFTER_MS = 2_700_000
"""Where neither `max_gap_s` nor enough readings say more."""

_TIMES_USUAL = 3
_HOUR_MS = 3_600_000
_REACHES_MS = (2 * _HOUR_MS, 24 * _HOUR_MS, 32 * 24 * _HOUR_MS)
_KNOWN_FOR_MS = 900_000
_ASKED_AT_MOST = 32


class Freshness:
    """Knows the usual interval of metrics that have no `max_gap_s`: the median of those between their last readings.

    They are looked for in the two hours until the metric's latest reading, in the day, or in the 32 days where these
    have less than three; and looked up again after a quarter of an hour.
    """

    def __init__(self, store: HistoryStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._known: dict[int, tuple[int, int]] = {}  # when it was looked up, and the ms after which it is stale

    def stale_after_ms(self, metrics: Sequence[PlacedMetric], latest_ms: Sequence[int], *, now_ms: int) -> list[int]:
        """For each metric the age from which on its latest reading, at the time given (-1 for none), is stale."""
        missing = {
            metric.id: latest
            for metric, latest in zip(metrics, latest_ms, strict=True)
            if metric.max_gap_ms is None and latest >= 0 and not self._is_known(metric.id, now_ms)
        }
        if missing:
            self._look_up(missing, now_ms)
        unknown = (0, DEFAULT_STALE_AFTER_MS)
        return [
            self._known.get(metric.id, unknown)[1] if metric.max_gap_ms is None else metric.max_gap_ms
            for metric in metrics
        ]

    def _is_known(self, metric_id: int, now_ms: int) -> bool:
        known = self._known.get(metric_id)
        return known is not None and abs(now_ms - known[0]) < _KNOWN_FOR_MS

    def _look_up(self, latest: dict[int, int], now_ms: int) -> None:
        found: dict[int, int] = {}
        for reach in _REACHES_MS:
            left = {metric_id: instant for metric_id, instant in latest.items() if metric_id not in found}
            for ids, window in _together(left, reach):
                found |= self._store.usual_intervals_ms(ids, window)
        with self._lock:
            for metric_id in latest:
                usual = found.get(metric_id)
                self._known[metric_id] = (now_ms, DEFAULT_STALE_AFTER_MS if usual is None else _TIMES_USUAL * usual)


def _together(latest: dict[int, int], reach: int) -> list[tuple[list[int], Window]]:
    """Metrics whose latest readings are near each other can be asked about together; those of the newest come first."""
    groups: dict[int, list[int]] = defaultdict(list)
    for metric_id, instant in latest.items():
        groups[instant // reach].append(metric_id)
    nearest = sorted(groups.items(), reverse=True)[:_ASKED_AT_MOST]
    return [
        (ids, Window(from_ms(max(0, min(latest[i] for i in ids) - reach)), from_ms(max(latest[i] for i in ids) + 1)))
        for _, ids in nearest
    ]
