"""Who listens to which metrics. What arrives is written out once, however many listen to it."""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Protocol

import numpy as np

from kilowatch.errors import Unavailable
from kilowatch.history.model import ReadArrived, Rows
from kilowatch.live import events
from kilowatch.live.feed import Arrival

_MANY_OF_ONE = 100
"""Readings of one metric in one insert: more are an import, which those who listen read from the store."""

_MOST_AT_ONCE = 50_000
"""Readings in one insert that are listened to; to write out more would hold up everyone else in the event loop."""

_Run = tuple[int, int, int]
"""A metric, and where its rows begin and end."""


class Ear(Protocol):
    def put(self, received_at: int, metric_id: int, written: bytes) -> None:
        """Events of a metric; those of one moment follow each other by rising metric, without a pause between."""

    def fall_behind(self) -> None:
        """There is something that has to be read from the store."""


class Hub:
    """Passes on what arrives. A `Listener` of the store; all else in the event loop that it is made in."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ears: dict[int, set[Ear]] = {}

    def add(self, ear: Ear, metric_ids: Iterable[int]) -> None:
        """What can't be read from the store by now will be passed on."""
        for metric_id in metric_ids:
            self._ears.setdefault(metric_id, set()).add(ear)

    def remove(self, ear: Ear, metric_ids: Iterable[int]) -> None:
        for metric_id in metric_ids:
            ears = self._ears.get(metric_id, set())
            ears.discard(ear)
            if not ears:
                self._ears.pop(metric_id, None)

    # ── by the thread that stores, or hears of what others store ──

    def arrived(self, rows: Rows) -> None:
        if self._ears:
            runs = [run for run in _runs(rows) if run[0] in self._ears]
            if runs:
                self._soon(self._pass_on, rows, runs)

    def arrived_in_part(self, _received_at: int) -> None:
        if self._ears:
            self._soon(self._all_fall_behind)

    def arrived_elsewhere(self, metric_ids: frozenset[int], read: ReadArrived) -> None:
        wanted = metric_ids & self._ears.keys()
        if not wanted:
            return
        try:
            for rows in read(wanted):
                self._soon(self._pass_on, rows, list(_runs(rows)))
        except Unavailable:  # or too much to pass on
            self._soon(self._all_fall_behind)

    def _soon(self, call: Callable[..., None], *args: Any) -> None:
        with suppress(RuntimeError):  # the event loop has ended, and all streams with it
            self._loop.call_soon_threadsafe(call, *args)

    # ── in the event loop ──

    def _pass_on(self, rows: Rows, runs: list[_Run]) -> None:
        is_much = sum(end - begin for _, begin, end in runs) > _MOST_AT_ONCE
        for metric_id, begin, end in runs:
            ears = self._ears.get(metric_id, ())
            if is_much or end - begin > _MANY_OF_ONE:
                for ear in ears:
                    ear.fall_behind()
            elif ears:
                written = _written(rows, metric_id, begin, end)
                for ear in ears:
                    ear.put(rows.received_at, metric_id, written)

    def _all_fall_behind(self) -> None:
        for ear in {ear for ears in self._ears.values() for ear in ears}:
            ear.fall_behind()


def _runs(rows: Rows) -> Iterable[_Run]:
    begins = np.flatnonzero(np.diff(rows.metric_ids, prepend=0))  # metric 0 never is
    ends = np.append(begins[1:], len(rows))
    return zip(rows.metric_ids[begins].tolist(), begins.tolist(), ends.tolist(), strict=True)


def _written(rows: Rows, metric_id: int, begin: int, end: int) -> bytes:
    return events.readings(
        Arrival(metric_id, ts, value, rows.received_at)
        for ts, value in zip(rows.timestamps[begin:end].tolist(), rows.values[begin:end].tolist(), strict=True)
    )
