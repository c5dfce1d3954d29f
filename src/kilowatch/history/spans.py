"""What was read from the engine, kept in memory by metric and stretch of time until something in it changes."""

import threading
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from kilowatch.history.model import Milliseconds, Rows

DAY_MS = 86_400_000
WEEK_MS = 7 * DAY_MS

_CHANGES_REMEMBERED = 1000
_CHANGED_METRICS_REMEMBERED = 100_000  # of all these changes together; 24 bytes each
_BYTES_BESIDE = 2_000  # what a stretch takes besides its numbers

FOREVER = (-(2**62), 2**62)


class Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of one metric's history: the `number`th of this `length` since 1970, in one `form`."""

    metric_id: int
    form: Hashable
    length: int
    number: int


class Spans:
    """Stretches of history, those dropped first that were not asked for the longest. Safe to use from any thread.

    A stretch is kept only if nothing of it changed since before it was read, so that what is found is what the engine
    would say now. For one process that has the engine alone: it is told of each change before that is acknowledged.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[Stretch, Any] = OrderedDict()
        self._of_metric: dict[int, set[Stretch]] = {}
        self._bytes = 0
        self._moment = 0
        self._changes: deque[tuple[int, Milliseconds, Milliseconds, Milliseconds]] = deque()
        self._changed_metrics = 0
        self._forgotten_until = 0

    def moment(self) -> int:
        """To be asked before something is read that is to be kept."""
        with self._lock:
            return self._moment

    def find(self, stretch: Stretch) -> Any:
        """What is known of it; `None` if nothing is."""
        with self._lock:
            found = self._kept.get(stretch)
            if found is not None:
                self._kept.move_to_end(stretch)
            return found

    def keep(self, stretch: Stretch, content: Sized, *, read_after: int) -> None:
        """Keep what was read after a moment, unless something of it changed since."""
        with self._lock:
            if stretch in self._kept or self._changed_since(read_after, stretch):
                return
            self._kept[stretch] = content
            self._of_metric.setdefault(stretch.metric_id, set()).add(stretch)
            self._bytes += content.nbytes + _BYTES_BESIDE
            while self._bytes > self._most_bytes:
                self._drop(next(iter(self._kept)))

    def stored(self, rows: Rows) -> None:
        """These readings are in the engine now."""
        if not len(rows):
            return
        begins = np.flatnonzero(np.diff(rows.metric_ids, prepend=0))
        ends = np.append(begins[1:], len(rows))
        ids = rows.metric_ids[begins].astype(np.int64)
        with self._lock:
            self._note(ids, rows.timestamps[begins], rows.timestamps[ends - 1])
            for metric_id, begin, end in zip(ids.tolist(), begins.tolist(), ends.tolist(), strict=True):
                if known := self._of_metric.get(metric_id):
                    self._forget_where(known, rows.timestamps[begin:end])

    def removed(self, metric_ids: Iterable[int], begin: int = FOREVER[0], end: int = FOREVER[1]) -> None:
        """Readings of these metrics from `begin` until before `end` are not in the engine any more."""
        ids = np.array(sorted(metric_ids), np.int64)
        with self._lock:
            self._note(ids, np.full(len(ids), begin), np.full(len(ids), end))
            for metric_id in ids.tolist():
                for stretch in list(self._of_metric.get(metric_id, ())):
                    if begin < (stretch.number + 1) * stretch.length and stretch.number * stretch.length < end:
                        self._drop(stretch)

    def _note(self, ids: Milliseconds, first: Milliseconds, last: Milliseconds) -> None:
        self._moment += 1
        self._changes.append((self._moment, ids, first, last))
        self._changed_metrics += len(ids)
        while len(self._changes) > _CHANGES_REMEMBERED or self._changed_metrics > _CHANGED_METRICS_REMEMBERED:
            self._forgotten_until, forgotten, _, _ = self._changes.popleft()
            self._changed_metrics -= len(forgotten)

    def _changed_since(self, moment: int, stretch: Stretch) -> bool:
        if self._forgotten_until > moment:
            return True  # perhaps: more changed since than is remembered
        begin, end = stretch.number * stretch.length, (stretch.number + 1) * stretch.length
        for noted, ids, first, last in reversed(self._changes):
            if noted <= moment:
                return False
            place = int(np.searchsorted(ids, stretch.metric_id))
            if place < len(ids) and ids[place] == stretch.metric_id and first[place] < end and last[place] >= begin:
                return True
        return False

    def _forget_where(self, known: set[Stretch], timestamps: Milliseconds) -> None:
        lengths = {stretch.length for stretch in known}
        touched = {(length, number) for length in lengths for number in np.unique(timestamps // length).tolist()}
        for stretch in [stretch for stretch in known if (stretch.length, stretch.number) in touched]:
            self._drop(stretch)

    def _drop(self, stretch: Stretch) -> None:
        self._bytes -= self._kept.pop(stretch).nbytes + _BYTES_BESIDE
        of_metric = self._of_metric[stretch.metric_id]
        of_metric.discard(stretch)
        if not of_metric:
            del self._of_metric[stretch.metric_id]
