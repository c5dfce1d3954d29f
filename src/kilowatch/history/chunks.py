"""Reads raw readings chunk by chunk, so that no statement is long and memory stays flat, however many there are."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from kilowatch.history.model import Points
from kilowatch.kit.timespan import Window, from_ms

CHUNK = 600_000
"""Readings that are in memory at once (10 MB): a metric-year of minutes is one chunk."""

_ESTIMATED_AT_MOST = 2  # chunks: the estimate is too high by up to a granule a month
_SHORT = 200_000
_METRIC_DAYS_UNASKED = 32
_DAY_MS = 86_400_000
_STEADY = 0.75  # of a chunk is aimed at, so that a few more readings than before still fit
_GROWTH = 8


class Source(Protocol):
    def count_at_most(self, metric_ids: Sequence[int], window: Window) -> int: ...

    def first_readings(self, metric_ids: Sequence[int], window: Window, *, limit: int) -> list[Points]: ...


def read_in_chunks(
    source: Source, metric_ids: Sequence[int], window: Window, *, chunk: int = CHUNK
) -> Iterator[list[Points]]:
    """All readings in the window: metric by metric in the order given, by time, `chunk` at most at once.

    A metric may be in several lists, one after another, and one without readings in none.
    """
    length = window.end_ms - window.start_ms
    if not metric_ids or length <= 0:
        return
    estimate = 0
    # What is surely short is read unasked: to ask costs nearly as much.
    if len(metric_ids) * length > _METRIC_DAYS_UNASKED * _DAY_MS:
        estimate = source.count_at_most(metric_ids, window)
        if estimate == 0:
            return
    if estimate > max(_ESTIMATED_AT_MOST * chunk, _SHORT):
        yield from _divided(source, metric_ids, window, chunk=chunk, estimate=estimate)
        return
    found = source.first_readings(metric_ids, window, limit=chunk)
    complete = sum(map(len, found)) < chunk
    if complete:
        place = {metric_id: place for place, metric_id in enumerate(metric_ids)}
        yield sorted(found, key=lambda points: place[points.metric_id])
    elif list(metric_ids) == sorted(metric_ids):  # then what was found is the beginning
        yield found
        metric_id, last = found[-1].metric_id, int(found[-1].timestamps[-1])
        width = last + 1 - int(found[-1].timestamps[0])
        yield from _in_slices(source, metric_id, _later(window, last + 1), width=width, chunk=chunk)
        following = metric_ids[metric_ids.index(metric_id) + 1 :]
        yield from read_in_chunks(source, following, window, chunk=chunk)
    else:
        yield from _divided(source, metric_ids, window, chunk=chunk, estimate=2 * chunk)


def _divided(
    source: Source, metric_ids: Sequence[int], window: Window, *, chunk: int, estimate: int
) -> Iterator[list[Points]]:
    if len(metric_ids) > 1:
        half = len(metric_ids) // 2
        yield from read_in_chunks(source, metric_ids[:half], window, chunk=chunk)
        yield from read_in_chunks(source, metric_ids[half:], window, chunk=chunk)
    else:
        width = int((window.end_ms - window.start_ms) * _STEADY * chunk / estimate)
        yield from _in_slices(source, metric_ids[0], window, width=width, chunk=chunk)


def _in_slices(source: Source, metric_id: int, window: Window, *, width: int, chunk: int) -> Iterator[list[Points]]:
    """One metric in slices of time, each as wide as the readings of the one before it were dense."""
    begin, end = window.start_ms, window.end_ms
    while begin < end:
        until = min(begin + max(width, 1), end)
        found = source.first_readings([metric_id], Window(from_ms(begin), from_ms(until)), limit=chunk)
        yield found
        count = sum(map(len, found))
        if count < chunk:
            width = int((until - begin) * min(_GROWTH, _STEADY * chunk / max(count, 1))) + 1
            begin = until
        else:  # there may be more in the slice
            last = int(found[-1].timestamps[-1])
            width = int((last + 1 - int(found[-1].timestamps[0])) * _STEADY)
            begin = last + 1


def _later(window: Window, start_ms: int) -> Window:
    """The window from that instant on, which may leave nothing of it."""
    return Window(from_ms(min(max(window.start_ms, start_ms), window.end_ms)), window.end)


def read_after(
    source: Source, metric_ids: Sequence[int], window: Window, *, after: tuple[int, int], chunk: int = CHUNK
) -> Iterator[list[Points]]:
    """As `read_in_chunks`, what comes behind `after`, a metric and a time, where metrics are ordered by their ids."""
    metric_id, last = after
    later = [one for one in metric_ids if one > metric_id]
    if metric_id not in metric_ids:
        yield from read_in_chunks(source, later, window, chunk=chunk)
        return
    before = sum(one > metric_id for one in metric_ids[: list(metric_ids).index(metric_id)])
    yield from read_in_chunks(source, later[:before], window, chunk=chunk)
    yield from read_in_chunks(source, [metric_id], _later(window, last + 1), chunk=chunk)
    yield from read_in_chunks(source, later[before:], window, chunk=chunk)
