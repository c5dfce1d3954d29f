"""A store that was just found to hang is not asked again by everyone at once."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_REST_S = 1.0
_LONG_S = 1.0


class Breaker:
    """Once an attempt took long and failed, others are told at once for a second; then one at a time tries, until one
    succeeds.

    Else each would wait for itself until a store that hangs is given up, a few at a time, and those behind them for as
    long again. Where attempts fail at once, everyone may try. Safe to use from any thread.
    """

    def __init__(
        self, *trips: type[Exception], refusal: Callable[[], Exception], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """
        Args:
            trips: the errors of an attempt that say that the store does not answer.
            refusal: what those are told who may not try.
            clock: seconds that never go back.
        """
        self._trips, self._refusal, self._clock = trips, refusal, clock
        self._hung_at: float | None = None
        self._trying = threading.Lock()

    def check(self) -> None:
        """Raises the refusal while nobody may try."""
        if self._hung_at is not None and (self._clock() < self._hung_at + _REST_S or self._trying.locked()):
            raise self._refusal()

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Whatever asks the store. Raises the refusal instead, while nobody may, or another one is trying."""
        if self._hung_at is None:
            with self._noting():
                yield
            return
        self.check()
        if not self._trying.acquire(blocking=False):
            raise self._refusal()
        try:
            with self._noting():
                yield
        finally:
            self._trying.release()

    @contextmanager
    def _noting(self) -> Iterator[None]:
        began = self._clock()
        try:
            yield
        except self._trips:
            now = self._clock()
            self._hung_at = now if now - began >= _LONG_S else None
            raise
        self._hung_at = None
