"""The interval rules of the user guide once more: exact, slow, and written without a look at the SQL.

Here a window is read as a sentence is: what does each reading say, about which stretch of time, and what does that make
of a bucket? Times are ms since 1970, values exact fractions, `None` is a gap.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

MS_PER_HOUR = 3_600_000

# What power over time counts: with its sign, or only where it has the one asked for, and then as an amount.
DIRECTIONS: dict[str, Callable[[Fraction], int]] = {
    "energy": lambda amount: 1 if amount > 0 else -1,
    "energy_positive": lambda amount: 1 if amount > 0 else 0,
    "energy_negative": lambda amount: 1 if amount < 0 else 0,
}


@dataclass(frozen=True)
class Bucket:
    value: Fraction | None
    coverage: Fraction
    magnitude: Fraction
    """The sum of all absolute amounts that went into the value: what a float's rounding is relative to."""


@dataclass(frozen=True)
class Held:
    """A value, and the stretch of time `[begin, end)` that it speaks for."""

    begin: int
    end: int
    value: Fraction

    def within(self, begin: int, end: int) -> int:
        """How much of a bucket it speaks for, in ms."""
        return max(0, min(self.end, end) - max(self.begin, begin))


def surviving(readings: Iterable[tuple[int, float]]) -> list[tuple[int, Fraction]]:
    """Of readings in the order of their arrival those that count, by time: the last received of each instant."""
    last = {instant: Fraction(value) for instant, value in readings}
    return sorted(last.items())


def held_values(
    readings: Sequence[tuple[int, Fraction]], *, behaviour: str, max_gap_s: int | None, window_end: int, now: int
) -> list[Held]:
    held = []
    for number, (instant, value) in enumerate(readings):
        following = readings[number + 1][0] if number + 1 < len(readings) else None
        if behaviour == "gauge":
            # believed until it is contradicted, and no longer than max_gap_s
            end = window_end if following is None else following
        else:
            # a counter tells what flowed between two readings: nothing is known behind the last one
            end = instant if following is None else following
        if max_gap_s is not None:
            end = min(end, instant + max_gap_s * 1000)
        # nobody knows the time to come
        held.append(Held(instant, min(end, now), value))
    return held


def rises(readings: Sequence[tuple[int, Fraction]]) -> list[tuple[int, Fraction]]:
    """How much a counter rose until each reading but the first: (instant of the reading, rise)."""
    found = []
    for number in range(1, len(readings)):
        before, (instant, value) = readings[number - 1][1], readings[number]
        following = readings[number + 1][1] if number + 1 < len(readings) else None
        found.append((instant, _rise(before, value, following)))
    return found


def _rise(before: Fraction, value: Fraction, following: Fraction | None) -> Fraction:
    fell_by_more_than_half = before > 0 and value < before / 2
    came_back = following is not None and following >= before
    if fell_by_more_than_half and not came_back:
        return value  # it was reset, and has counted from zero since
    return value - before


def history(
    readings: Iterable[tuple[int, float]],
    *,
    aggregate: str,
    behaviour: str,
    max_gap_s: int | None,
    edges: Sequence[int],
    now: int,
    scale: Fraction = Fraction(1),
    offset: Fraction = Fraction(0),
) -> list[Bucket]:
    """Each bucket of a metric whose readings arrived in this order.

    `scale` and `offset` lead from the metric's unit to the asked one (for the energies: to kW).
    """
    kept = [(instant, value * scale + offset) for instant, value in surviving(readings)]
    held = held_values(kept, behaviour=behaviour, max_gap_s=max_gap_s, window_end=edges[-1], now=now)
    rose = rises(kept)
    # a rise is a difference of two readings, so it is rounded relative to them
    largest = sum((abs(value) for _, value in kept), Fraction(0))
    buckets = []
    for begin, end in pairwise(edges):
        if aggregate == "delta":
            amounts = _between(rose, begin, end)
            value = sum(amounts, Fraction(0)) if amounts else None
            buckets.append(Bucket(value, _coverage(held, begin, end), largest))
        else:
            buckets.append(_bucket(_between(kept, begin, end), _pieces(held, begin, end), aggregate, end - begin))
    return buckets


def _between(rows: Sequence[tuple[int, Fraction]], begin: int, end: int) -> list[Fraction]:
    """The values of the instants in `[begin, end)`; the rows are in order."""
    first, last = (bisect_left(rows, edge, key=lambda row: row[0]) for edge in (begin, end))
    return [value for _, value in rows[first:last]]


def _pieces(held: Sequence[Held], begin: int, end: int) -> list[tuple[Fraction, int]]:
    """The values that hold in a bucket, each with for how many ms of it."""
    first = bisect_right(held, begin, key=lambda part: part.end)
    last = bisect_left(held, end, key=lambda part: part.begin)
    found = [(part.value, part.within(begin, end)) for part in held[first:last]]
    return [(value, ms) for value, ms in found if ms]


def _coverage(held: Sequence[Held], begin: int, end: int) -> Fraction:
    return Fraction(sum(ms for _, ms in _pieces(held, begin, end)), end - begin)


def _bucket(own: Sequence[Fraction], pieces: Sequence[tuple[Fraction, int]], aggregate: str, length: int) -> Bucket:
    """From the readings in it, and from what holds in it."""
    covered = sum(ms for _, ms in pieces)
    amounts = [value * ms for value, ms in pieces]
    value: Fraction | None = None
    if aggregate == "mean":
        value = sum(amounts, Fraction(0)) / covered if covered else None
        amounts = [amount / covered for amount in amounts]
    elif aggregate in DIRECTIONS:
        wanted = DIRECTIONS[aggregate]
        amounts = [abs(amount) / MS_PER_HOUR * wanted(amount) for amount in amounts]
        value = sum(amounts, Fraction(0)) if covered else None
    elif own:
        amounts = list(own)
        value = {
            "min": min(own),
            "max": max(own),
            "first": own[0],
            "last": own[-1],
            "sum": sum(own, Fraction(0)),
            "count": Fraction(len(own)),
        }[aggregate]
    return Bucket(value, Fraction(covered, length), sum(map(abs, amounts), Fraction(0)))
