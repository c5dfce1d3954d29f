"""One history into another: month by month, metric by metric, and only what is not there yet.

What is there is told by counts and checksums of both sides, nothing is noted elsewhere. So a copy that was cut off
anywhere goes on when it is made again, and one that is made again later brings what came meanwhile.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kilowatch.errors import Invalid
from kilowatch.history.copying import ALL, NOTHING, Contents, Sum, Table

Tell = Callable[[str, int], None]
"""Is told what is under way, and how many rows were just done."""


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


@dataclass(frozen=True, slots=True)
class Plan:
    until: int
    """What was received later (ms since 1970) is left for the next time."""

    parts: list[Part]

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)


def plan_copy(source: Contents, target: Contents) -> Plan:
    """What is to be copied.

    Raises:
        Invalid: the target has what the source does not.
        Unavailable: an engine does not answer.
    """
    until = source.received_until()
    return Plan(until, [part for table in _tables(source, target) for part in _missing(source, target, table, until)])


def copy(source: Contents, target: Contents, plan: Plan, *, tell: Tell = lambda _what, _rows: None) -> list[Compared]:
    """Copy what was planned, and compare every month of both sides."""
    for part in plan.parts:
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


def _missing(source: Contents, target: Contents, table: Table, until: int) -> Iterator[Part]:
    here, there = source.months(table, until=until), target.months(table)
    for month in sorted(there.keys() - here.keys()):
        raise _foreign(table, month)
    for month, wanted in here.items():
        if there.get(month) != wanted:
            yield _missing_of_month(source, target, table, month, until)


def _missing_of_month(source: Contents, target: Contents, table: Table, month: int, until: int) -> Part:
    here, there = source.metrics(table, month, until=until), target.metrics(table, month)
    if not np.isin(there["metric_id"], here["metric_id"]).all():
        raise _foreign(table, month)
    is_same = np.isin(here, there)
    begun = np.intersect1d(here["metric_id"][~is_same], there["metric_id"])
    for metric_id in begun.tolist():
        _refuse_what_is_foreign(source, target, table, month, metric_id, until)
    missing = here[~is_same]
    return Part(table, month, missing["metric_id"].tolist(), int(missing["rows"].sum()))


def _refuse_what_is_foreign(
    source: Contents, target: Contents, table: Table, month: int, metric_id: int, until: int
) -> None:
    """Rows that the source does not have, or has as of earlier: copying would not replace them."""
    here, there = source.keys(table, month, metric_id, until=until), target.keys(table, month, metric_id)
    place = np.minimum(np.searchsorted(here["time"], there["time"]), len(here) - 1)
    is_known = (here["time"][place] == there["time"]) & (here["version"][place] >= there["version"])
    if not is_known.all():
        raise _foreign(table, month)


def _foreign(table: Table, month: int) -> Invalid:
    return Invalid(
        f"TO has {table.name} of {_name(month)} that FROM does not have (any more), and nothing there is overwritten. "
        "Name an empty database for TO, or drop that one first."
    )


def _name(month: int) -> str:
    return f"{month // 100}-{month % 100:02}"
