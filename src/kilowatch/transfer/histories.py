"""One history into another: month by month, metric by metric, and only what is not there yet.

What is there is told by counts and checksums of both sides, nothing is noted elsewhere. So a copy that was cut off
anywhere goes on when it is made again, and one that is made again later brings what came meanwhile. Readings that the
source has folded since are removed from the target: their quarters of an hour come with the tables that follow.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kilowatch.errors import Invalid
from kilowatch.history.copying import ALL, BLOCK, NOTHING, Contents, Sum, Table
from kilowatch.history.intervals import QUARTER_MS

Tell = Callable[[str, int], None]
"""Is told what is under way, and how many rows were just done."""

_MOST_METRICS = 10_000
_TIME_BITS = 48
"""Of a time in ms, which leaves 15 for a metric's place among those."""


class Compared(NamedTuple):
    """A month of a table on both sides."""

    table: str
    month: int
    source: Sum
    target: Sum

    @property
    def name(self) -> str:
        return f"{self.month // 100}-{self.month % 100:02}"

    @property
    def is_same(self) -> bool:
        return self.source == self.target


@dataclass(frozen=True, slots=True)
class Part:
    """Of a month what the target does not have: rows of these metrics."""

    table: Table
    month: int
    metric_ids: list[int]
    rows: int
    outdated: list[int]
    """Metrics of which the target has rows that the source has no more; all of theirs are removed before."""


@dataclass(frozen=True, slots=True)
class Plan:
    until: int
    """What was received later (ms since 1970) is left for the next time."""

    parts: list[Part]

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)


def plan_copy(source: Contents, target: Contents, *, delete: bool = False) -> Plan:
    """What is to be copied.

    Args:
        delete: remove what the source does not have, and has not folded, instead of refusing it.

    Raises:
        Invalid: the target has what the source does not.
        Unavailable: an engine does not answer.
    """
    until = source.received_until()
    parts = [
        _missing_of_month(source, target, table, month, until, delete=delete)
        for table in _tables(source, target)
        for month in _differing_months(source, target, table, until)
    ]
    return Plan(until, parts)


def copy(source: Contents, target: Contents, plan: Plan, *, tell: Tell = lambda _what, _rows: None) -> list[Compared]:
    """Copy what was planned, and compare every month of both sides."""
    for part in plan.parts:
        if part.outdated:
            target.remove(part.table, part.month, part.outdated)
        blocks = source.blocks(part.table, part.month, until=plan.until, metric_ids=part.metric_ids)
        for block in blocks:
            target.put(part.table, block)
            tell(f"{part.table.name} {_name(part.month)}", len(block["metric_id"]))
    target.make_latest()
    return compare(source, target, until=plan.until)


def compare(source: Contents, target: Contents, *, until: int) -> list[Compared]:
    """Each month that either has, of what was received until then."""
    found = []
    for table in _tables(source, target):
        here, there = source.months(table, until=_until(table, until)), target.months(table)
        found += [
            Compared(table.name, month, here.get(month, NOTHING), there.get(month, NOTHING))
            for month in sorted(here.keys() | there.keys())
        ]
    return found


def _tables(source: Contents, target: Contents) -> list[Table]:
    """Raises `Invalid` where their schemas differ."""
    here, there = source.tables(), target.tables()
    if here != there:
        raise Invalid("FROM and TO have tables of different versions; run `kilowatch migrate` with both first.")
    return here


def _until(table: Table, until: int) -> int:
    return until if table.kept.received else ALL


def _differing_months(source: Contents, target: Contents, table: Table, until: int) -> list[int]:
    here, there = source.months(table, until=until), target.months(table)
    return [month for month in sorted(here.keys() | there.keys()) if here.get(month) != there.get(month)]


def _missing_of_month(
    source: Contents, target: Contents, table: Table, month: int, until: int, *, delete: bool
) -> Part:
    here, there = source.metrics(table, month, until=until), target.metrics(table, month)
    missing, begun = here[~np.isin(here, there)], there[~np.isin(there, here)]
    outdated = []
    for metric_ids in _some_at_once(begun):
        foreign = _foreign_keys(source, target, table, month, metric_ids, until)
        if not delete and not _are_folded(source, table, month, foreign).all():
            raise _refusal(table, month)
        outdated += np.unique(foreign["metric_id"]).tolist()
    return Part(table, month, missing["metric_id"].tolist(), int(missing["rows"].sum()), outdated)


def _some_at_once(sums: np.ndarray) -> Iterator[list[int]]:
    """Metrics that have so many rows together as may be in memory."""
    portion = np.maximum(np.cumsum(sums["rows"]) // BLOCK, np.arange(len(sums)) // _MOST_METRICS)
    for number in np.unique(portion):
        yield sums["metric_id"][portion == number].tolist()


def _foreign_keys(
    source: Contents, target: Contents, table: Table, month: int, metric_ids: list[int], until: int
) -> np.ndarray:
    """The target's rows that the source does not have, or has as of earlier: copying would not replace them."""
    here, there = source.keys(table, month, metric_ids, until=until), target.keys(table, month, metric_ids)
    foreign: np.ndarray = there[~_have(here, there, metric_ids)]
    return foreign


def _are_folded(source: Contents, table: Table, month: int, foreign: np.ndarray) -> np.ndarray:
    """Which of the target's rows are readings that the source has folded: its quarters stand for them."""
    if table.kept.received is None or not len(foreign):
        return np.zeros(len(foreign), bool)
    metric_ids = np.unique(foreign["metric_id"]).tolist()
    quarters = foreign.copy()
    quarters["time"] -= quarters["time"] % QUARTER_MS
    return _have(source.folded(month, metric_ids), quarters, metric_ids)


def _have(known: np.ndarray, rows: np.ndarray, metric_ids: list[int]) -> np.ndarray:
    """For which rows there is a known one of the same metric and time, of the same version or later."""
    if not len(known):
        return np.zeros(len(rows), bool)
    keys, wanted = (
        np.searchsorted(metric_ids, some["metric_id"]).astype(np.int64) << _TIME_BITS | some["time"]
        for some in (known, rows)
    )
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    found: np.ndarray = (keys[place] == wanted) & (known["version"][place] >= rows["version"])
    return found


def _refusal(table: Table, month: int) -> Invalid:
    return Invalid(
        f"TO has {table.name} of {_name(month)} that FROM does not have: they were deleted from FROM since they were "
        "copied, or TO is a history of its own. Nothing was changed. Where TO is but a copy of FROM, run it again with "
        "--delete, which removes from TO what FROM does not have; else name an empty database for TO."
    )


def _name(month: int) -> str:
    return f"{month // 100}-{month % 100:02}"
