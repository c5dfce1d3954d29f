"""Where the history of each metric ends, in every one of the processes that store in the same ClickHouse server.

What is newer than that replaces nothing and is stored nowhere yet: so most readings need not be asked for before they
are stored. Memory may say too late a time (readings may have been taken out), which costs a question, but never too
early a one: it hears of each turn that a process took at storing, and until which time that reached. Where it
has not heard of all turns, or not of a metric, the store is asked.
"""

import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping

import numpy as np

from kilowatch.history.model import Flags, MetricIds, Milliseconds

UNKNOWN = np.iinfo(np.int64).max
NOTHING = -1

_GROWTH = 1.5
_KEPT_NEWS = 256


class Frontier:
    """The time of the newest reading, or a later one, of each metric. Safe to use from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._until = np.empty(0, np.int64)
        self._turn = 0
        self._version = 0
        self._news: deque[frozenset[int]] = deque(maxlen=_KEPT_NEWS)
        self._forgot_all_at = 0

    @property
    def version(self) -> int:
        """To be asked for before the store is, for `learn`."""
        return self._version

    def has_heard(self, turn: int, *, within_s: float = 0) -> bool:
        """Whether all turns until this one were heard of, or are within that time."""
        if self._turn >= turn:
            return True
        until = time.monotonic() + within_s
        with self._changed:
            while self._turn < turn and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            return self._turn >= turn

    def hear(self, turn: int, metric_ids: Iterable[int] | None, reached: Mapping[int, int] | None) -> None:
        """Of a turn: of which metrics readings were stored (`None`: of any), and until when (`None`: until any time).

        Turns are heard of in their order.
        """
        with self._changed:
            if metric_ids is None:
                self._forget_all()
            elif reached is None:
                self._forget(metric_ids)
            else:
                self._reach(np.array(list(reached), np.int64), np.array(list(reached.values()), np.int64))
            self._turn = max(turn, self._turn)
            self._changed.notify_all()

    def stored(self, metric_ids: np.ndarray, timestamps: Milliseconds) -> None:
        """By this process: each metric once, with its newest time."""
        with self._changed:
            self._reach(metric_ids.astype(np.int64), timestamps)

    def take(self, turn: int) -> None:
        """This process has this turn, and has heard of all before it."""
        with self._changed:
            self._turn = max(turn, self._turn)

    def forget(self, metric_ids: Iterable[int] | None = None) -> None:
        """What is stored of these metrics (`None`: of any) is not known any more."""
        with self._changed:
            if metric_ids is None:
                self._forget_all()
            else:
                self._forget(metric_ids)

    def of(self, metric_ids: MetricIds) -> Milliseconds:
        """For each of them the time, `NOTHING` if there are no readings, `UNKNOWN` if nothing is known."""
        with self._changed:
            found = np.full(len(metric_ids), UNKNOWN)
            inside = metric_ids < len(self._until)
            found[inside] = self._until[metric_ids[inside]]
            return found

    def learn(self, metric_ids: MetricIds, timestamps: Milliseconds, *, version: int) -> None:
        """What the store says; for metrics of which anything was heard since that version, it may be old already."""
        with self._changed:
            if self._forgot_all_at > version or self._version - version > len(self._news):
                return
            if since := self._version - version:
                named = frozenset[int]().union(*list(self._news)[-since:])
                fresh: Flags = ~np.isin(metric_ids, list(named))
                metric_ids, timestamps = metric_ids[fresh], timestamps[fresh]
            if len(metric_ids):
                self._grow(int(metric_ids.max()))
                self._until[metric_ids] = timestamps

    def _reach(self, metric_ids: np.ndarray, timestamps: Milliseconds) -> None:
        self._note(metric_ids.tolist())
        inside = metric_ids < len(self._until)
        metric_ids, timestamps = metric_ids[inside], timestamps[inside]
        self._until[metric_ids] = np.maximum(self._until[metric_ids], timestamps)  # what is unknown stays so

    def _forget(self, metric_ids: Iterable[int]) -> None:
        metric_ids = list(metric_ids)
        self._note(metric_ids)
        self._until[[metric_id for metric_id in metric_ids if metric_id < len(self._until)]] = UNKNOWN

    def _forget_all(self) -> None:
        self._note(())
        self._forgot_all_at = self._version
        self._until = np.empty(0, np.int64)

    def _note(self, metric_ids: Iterable[int]) -> None:
        self._version += 1
        self._news.append(frozenset(metric_ids))

    def _grow(self, metric_id: int) -> None:
        if metric_id >= len(self._until):
            more = max(metric_id + 1, int(len(self._until) * _GROWTH)) - len(self._until)
            self._until = np.concatenate((self._until, np.full(more, UNKNOWN)))
