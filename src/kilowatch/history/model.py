"""Readings, what can be asked of them, and what is answered."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Literal, NamedTuple, Protocol, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from kilowatch.facility.model import PlacedMetric
from kilowatch.kit.timespan import Resolution, Window
from kilowatch.kit.units import Conversion

Aggregate = Literal[
    "mean", "min", "max", "first", "last", "sum", "count", "energy", "energy_positive", "energy_negative", "delta"
]
AGGREGATES: tuple[Aggregate, ...] = get_args(Aggregate)
ENERGIES: tuple[Aggregate, ...] = ("energy", "energy_positive", "energy_negative")
"""What a power amounts to over time: both directions together, and each by itself as an amount of 0 or more."""

Milliseconds = NDArray[np.int64]
Floats = NDArray[np.float64]
MetricIds = NDArray[np.uint32]
Flags = NDArray[np.bool_]

Stop = Callable[[], bool]
"""Says whether nobody waits for the answer any more."""


def joined(columns: Sequence[np.ndarray], dtype: type[np.generic | bool]) -> np.ndarray:
    """Columns of that type one after another as one; a single one as it is."""
    return columns[0] if len(columns) == 1 else np.concatenate([np.empty(0, dtype), *columns])


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Readings in columns of one length, in order of arrival. Times are ms since 1970; values are finite."""

    metric_ids: MetricIds
    timestamps: Milliseconds
    values: Floats
    same: Flags | None = None
    """Which of them were stored already with this value when they were compared; `None` stands for none."""
    compared_at: int | None = None
    """The state of the store (`Changes.state`) that they were compared with, if they were."""
    checked_at: float | None = None
    """When it was checked that none of them is of a folded quarter of an hour, by `time.monotonic()`; `None` if there
    is no need to."""

    def __len__(self) -> int:
        return len(self.timestamps)


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What one insert stores: columns ordered by metric and time, each pair once, all received at one moment."""

    metric_ids: MetricIds
    timestamps: Milliseconds
    values: Floats
    received_at: int
    same: Flags | None = None
    compared_at: int | None = None
    """As of a `Batch`: the earliest state that any of them was compared with."""

    def __len__(self) -> int:
        return len(self.timestamps)

    def at(self, chosen: np.ndarray) -> "Rows":
        """Those at rising positions, or where a flag is set."""
        return Rows(
            self.metric_ids[chosen],
            self.timestamps[chosen],
            self.values[chosen],
            self.received_at,
            None if self.same is None else self.same[chosen],
            self.compared_at,
        )


class Place(NamedTuple):
    """Where a reading stands in the order of arrival; also "all that came until then".

    Times are ms since 1970. What one insert stores arrives at one moment, then by metric and time, so a place is never
    taken twice. As text, `received_at.metric_id.ts`; or `received_at` alone, which is the end of that moment.
    """

    received_at: int
    metric_id: int
    ts: int

    @classmethod
    def until(cls, received_at: int) -> "Place":
        """Behind all that was received until then."""
        return cls(received_at, _LAST_METRIC, _LAST_TIME)

    @classmethod
    def parse(cls, text: str) -> "Place | None":
        """The place that a text says; `None` if it says none."""
        if (found := _PLACE.fullmatch(text)) is None:
            return None
        received_at, metric_id, ts = found.groups()
        place = cls.until(int(received_at)) if metric_id is None else cls(int(received_at), int(metric_id), int(ts))
        return place if place <= cls.until(_LAST_TIME) and place[1:] <= (_LAST_METRIC, _LAST_TIME) else None

    def __str__(self) -> str:
        if self == Place.until(self.received_at):
            return str(self.received_at)
        return f"{self.received_at}.{self.metric_id}.{self.ts}"


_PLACE = re.compile(r"([0-9]{1,13})(?:\.([0-9]{1,10})\.([0-9]{1,13}))?")
_LAST_METRIC = 2**32 - 1
_LAST_TIME = 10**13 - 1  # in the year 2286


class Listener(Protocol):
    """Is told what arrives, by the thread that stores it: so it takes no time and never fails."""

    def arrived(self, rows: Rows) -> None:
        """These were just stored. Each moment of arrival is later than the one before."""

    def arrived_in_part(self, received_at: int) -> None:
        """Readings of any metric may have been stored until that moment: they have to be read from the store."""

    def arrived_elsewhere(self, metric_ids: frozenset[int], read: "ReadArrived") -> None:
        """Another process stored readings of these metrics; `read` gives those of the metrics that it is asked for.

        Raises `Unavailable` where these can't be read.
        """


ReadArrived = Callable[[Collection[int]], Iterable[Rows]]


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Readings of one metric by time, in its own unit."""

    metric_id: int
    timestamps: Milliseconds
    values: Floats

    def __len__(self) -> int:
        return len(self.timestamps)

    @property
    def nbytes(self) -> int:
        return self.timestamps.nbytes + self.values.nbytes

    @classmethod
    def joined(cls, metric_id: int, parts: Sequence["Points"]) -> "Points":
        """Readings that follow each other."""
        timestamps = joined([part.timestamps for part in parts], np.int64)
        return cls(metric_id, timestamps, joined([part.values for part in parts], np.float64))

    def between(self, begin: int, end: int) -> "Points":
        """Those from `begin` until before `end`."""
        low, high = np.searchsorted(self.timestamps, (begin, end))
        if low == 0 and high == len(self):
            return self
        return Points(self.metric_id, self.timestamps[low:high], self.values[low:high])

    def copy(self) -> "Points":
        """The same, which keeps nothing else in memory."""
        return Points(self.metric_id, self.timestamps.copy(), self.values.copy())

    def first(self, count: int) -> "Points":
        return Points(self.metric_id, self.timestamps[:count], self.values[:count])


@dataclass(frozen=True, slots=True)
class Stored:
    """How many readings a window has, the replaced ones not counted, and when the last of them was received (ms)."""

    readings: int
    received_until: int
    cuts_at_start: bool = False
    """Whether the window begins inside of a folded quarter of an hour,"""
    cuts_at_end: bool = False
    """and whether it ends inside of one."""


@dataclass(frozen=True, slots=True)
class Replaced:
    """How many stored readings of a metric get another value, and the times of the first and the last (ms)."""

    readings: int
    first: int
    last: int


class Compared(NamedTuple):
    """A batch, with what it would change."""

    batch: Batch
    replaced: dict[int, Replaced]
    """The stored readings that would get another value, by metric; metrics without one are missing."""


@dataclass(frozen=True, slots=True)
class SeriesRequest:
    """A metric and how its readings are to be aggregated and converted."""

    metric: PlacedMetric
    aggregate: Aggregate | None
    unit: str
    conversion: Conversion
    factor: float = 1.0
    """Applied to the aggregate: kW·h to the asked unit of energy."""


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One metric's answer: columns of one length. NaN stands for a gap; raw readings have no coverage."""

    request: SeriesRequest
    timestamps: Milliseconds
    values: Floats
    coverage: Floats | None

    def part(self, begin: int, end: int) -> "Series":
        coverage = None if self.coverage is None else self.coverage[begin:end]
        return Series(self.request, self.timestamps[begin:end], self.values[begin:end], coverage)


@dataclass(frozen=True, slots=True, eq=False)
class HistoryStream:
    """What a window holds, to be read once, piece by piece.

    `pieces` has the metrics in the order of `requests`; each has one piece at least, and all its pieces one after
    another, by time. Reading on may raise what reading the history may raise.
    """

    window: Window
    resolution: Resolution | None
    timezone: str
    requests: Sequence[SeriesRequest]
    pieces: Iterator[Series]
    next: str | None = None
    unavailable: tuple[int, ...] = ()
    raw_from: Mapping[int, int] = field(default_factory=dict)
    """Of raw readings: since when (ms) all are there, by metric; of those of before, only some are kept."""


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """What a window holds, for some metrics in the order that they were asked."""

    window: Window
    resolution: Resolution | None
    timezone: str
    series: list[Series] = field(default_factory=list)
    next: str | None = None
    unavailable: tuple[int, ...] = ()
    raw_from: Mapping[int, int] = field(default_factory=dict)
    """As of a `HistoryStream`."""

    def stream(self) -> HistoryStream:
        return HistoryStream(
            self.window,
            self.resolution,
            self.timezone,
            [series.request for series in self.series],
            iter(self.series),
            self.next,
            self.unavailable,
            self.raw_from,
        )


@dataclass(frozen=True, slots=True, eq=False)
class LatestColumns:
    """The newest readings of some metrics, in each one's unit: NaN, time -1 and stale where there is none yet."""

    timestamps: Milliseconds
    values: Floats
    stale: Flags


class LatestReading(msgspec.Struct, frozen=True):
    """A metric's newest reading; `value` and the times are null while it has none."""

    metric_id: int
    site: str | None
    device: str | None
    metric: str | None
    value: float | None
    unit: str | None
    timestamp: datetime | None
    received_at: datetime | None
    age_s: Annotated[float | None, msgspec.Meta(description="Seconds from the reading's timestamp until now.")]
    stale: Annotated[bool, msgspec.Meta(description="Older than a value of this metric is believed, or none at all.")]
    available: Annotated[bool, msgspec.Meta(description="False when the caller may not read the metric any more.")] = (
        True
    )


class LatestReadings(msgspec.Struct, frozen=True):
    """All of them: `next` is always null."""

    items: list[LatestReading]
    next: None = None


class SeriesOut(msgspec.Struct, frozen=True, omit_defaults=True):
    """One metric's history."""

    metric_id: int
    site: str
    device: str
    metric: str
    unit: str
    aggregate: Annotated[Aggregate | None, msgspec.Meta(description="Null for raw readings.")]
    timestamps: Annotated[list[datetime], msgspec.Meta(description="Starts of the buckets, in the answer's time zone.")]
    values: Annotated[list[float | None], msgspec.Meta(description="Null where there is a gap.")]
    coverage: Annotated[
        list[float] | msgspec.UnsetType,
        msgspec.Meta(description="Share of the bucket that data vouches for, 0 to 1; not on raw."),
    ] = msgspec.UNSET
    raw_from: Annotated[
        datetime | None,
        msgspec.Meta(
            description="Of raw readings, where some of the window are folded: since when all are there. Of before, "
            "the first and the last of each quarter of an hour are."
        ),
    ] = None


class HistoryOut(msgspec.Struct, frozen=True):
    """The history of some metrics in a window `[start, end)`."""

    start: datetime
    end: datetime
    resolution: str
    timezone: str
    series: list[SeriesOut]
    next: Annotated[str | None, msgspec.Meta(description="Cursor of the next page of raw readings.")]
    unavailable: Annotated[
        list[int], msgspec.Meta(description="Metrics of the subscription that the caller may not read any more.")
    ] = []
