"""Readings on their way in, and the report on what became of them."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec
import numpy as np

from kilowatch.history.model import Floats, Milliseconds

RowCode = Literal[
    "malformed",
    "missing_metric",
    "unknown_metric",
    "forbidden",
    "bad_timestamp",
    "naive_timestamp",
    "out_of_time_range",
    "in_the_future",
    "bad_value",
    "not_finite",
    "out_of_range",
    "wrong_unit",
    "folded",
]

Refusal = tuple[RowCode, str]
"""Why a row is refused, as a code and in words."""

MAX_REPORTED = 100


class RowError(msgspec.Struct, frozen=True):
    """Why one row was refused."""

    row: Annotated[int, msgspec.Meta(description="Position among the request's readings, from 0.")]
    code: RowCode
    detail: str


class Report(msgspec.Struct, frozen=True):
    """What became of the readings: `accepted` ones are stored durably, `rejected` ones are not."""

    accepted: int
    rejected: int
    errors: Annotated[list[RowError], msgspec.Meta(description="The first 100 of the rejected rows.")]


class Verdicts:
    """Which rows are refused, and why: every one is counted, the first 100 are told."""

    def __init__(self, rows: int) -> None:
        self.refused = np.zeros(rows, bool)
        self.counts: Counter[RowCode] = Counter()
        """Refused rows by code; those that nobody is told of may be missing."""
        self._errors: list[RowError] = []

    def refuse(self, row: int, code: RowCode, detail: str) -> None:
        """Refuse a row, unless it is already."""
        if self.refused[row]:
            return
        self.refused[row] = True
        self.counts[code] += 1
        self._errors.append(RowError(row, code, detail))
        if len(self._errors) >= 4 * MAX_REPORTED:
            self._keep_the_first()

    def refuse_where(self, mask: np.ndarray, code: RowCode, detail: Callable[[int], str]) -> None:
        """Refuse all rows of a mask; `detail` says for a row what is wrong with it."""
        if not mask.any():
            return
        rows = np.flatnonzero(mask & ~self.refused)
        if len(rows):
            self.refused[rows] = True
            self.counts[code] += len(rows)
            self._errors += [RowError(row, code, detail(row)) for row in rows[:MAX_REPORTED].tolist()]
            self._keep_the_first()

    def refuse_each(self, mask: np.ndarray, why: Callable[[int], Refusal]) -> None:
        """Refuse all rows of a mask; `why` is asked only of those that may be told."""
        rows = np.flatnonzero(mask & ~self.refused)
        self.refused[rows] = True
        for row in rows[:MAX_REPORTED].tolist():
            code, detail = why(row)
            self.counts[code] += 1
            self._errors.append(RowError(row, code, detail))
        self._keep_the_first()

    def report(self) -> Report:
        self._keep_the_first()
        rejected = int(self.refused.sum())
        return Report(len(self.refused) - rejected, rejected, list(self._errors))

    def _keep_the_first(self) -> None:
        self._errors.sort(key=lambda error: error.row)
        del self._errors[MAX_REPORTED:]


Reference = int | str
"""A metric's id, or its name `site/device/key`."""


@dataclass(slots=True, eq=False)
class Columns:
    """Readings as they were read: columns of one length, and the rows that could not be.

    `references` holds each metric that is named once; `reference_of` says which of them a row is about (-1: none).
    `units` holds, for each row, the position in `unit_names` of the unit that it claims; `None` if none is said.
    `lines` holds, for each row, the line that it was in, from 1; `None` if the format has no lines that matter.
    """

    references: list[Reference]
    reference_of: np.ndarray
    timestamps: Milliseconds
    values: Floats
    verdicts: Verdicts
    unit_names: list[str] = field(default_factory=list)
    units: np.ndarray | None = None
    lines: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.timestamps)

    def by_line(self, report: Report) -> Report:
        """The report with lines for rows."""
        assert self.lines is not None  # asked of a format that has lines
        errors = [msgspec.structs.replace(error, row=int(self.lines[error.row])) for error in report.errors]
        return msgspec.structs.replace(report, errors=errors)
