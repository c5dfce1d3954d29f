"""What was stored since a batch was compared with what was stored before."""

import threading
import time
from collections import deque

from kilowatch.history.model import Rows

_MOST = 1_000_000
"""Rows that are remembered, 20 bytes each,"""

_LONGEST_S = 60
"""and how long. Between the two a batch is compared and stored."""


class Changes:
    """States of the store, numbered, and the rows that led from one to the next. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state = self._known_from = 0
        self._stored: deque[tuple[int, float, Rows]] = deque()
        self._count = 0

    @property
    def state(self) -> int:
        """The state that is seen by whoever reads the store from now on, or a later one."""
        return self._state

    def stored(self, rows: Rows) -> None:
        with self._lock:
            self._state += 1
            self._stored.append((self._state, time.monotonic(), rows))
            self._count += len(rows)
            while self._count > _MOST:
                self._forget_first()

    def unknown(self) -> None:
        """Something else was done: whatever was compared by now has to be compared again."""
        with self._lock:
            self._state += 1
            while self._stored:
                self._forget_first()
            self._known_from = self._state

    def forget_old(self) -> None:
        with self._lock:
            while self._stored and self._stored[0][1] < time.monotonic() - _LONGEST_S:
                self._forget_first()

    def since(self, state: int) -> list[Rows] | None:
        """What was stored after a state, the earliest first; `None` if that is not known any more."""
        with self._lock:
            if state < self._known_from:
                return None
            return [rows for reached, _, rows in self._stored if reached > state]

    def _forget_first(self) -> None:
        self._known_from, _, rows = self._stored.popleft()
        self._count -= len(rows)
