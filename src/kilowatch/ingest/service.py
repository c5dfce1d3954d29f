"""Decides which readings are taken: metrics that are known to the caller, times and values that can be."""

import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

import numpy as np
import structlog
from sqlalchemy import Connection

from kilowatch.auth.model import OPERATOR, Principal, Role
from kilowatch.auth.service import Caller, Gate
from kilowatch.config import Settings
from kilowatch.errors import Forbidden, TooLarge, Unavailable
from kilowatch.facility import service as facility
from kilowatch.facility.model import PlacedMetric
from kilowatch.history.appender import StoredTooLate
from kilowatch.history.model import Batch, Compared, Flags, MetricIds, Milliseconds
from kilowatch.ingest import formats
from kilowatch.ingest.line_protocol import OldPrecision, read_lines
from kilowatch.ingest.model import Columns, Reference, Report, RowCode
from kilowatch.kit import metrics
from kilowatch.kit.idempotency import Once, recall, remember
from kilowatch.kit.state import Stamp
from kilowatch.kit.timespan import to_ms

log = structlog.get_logger("kilowatch.ingest")

MOST_METRICS = 50_000
"""Different metrics in one request: each name costs the catalogue some 50 µs."""


class Appending(Protocol):
    def submit(self, batch: Batch) -> Future[int]: ...

    def compare(self, batch: Batch, *, as_of: Stamp | None = None) -> Compared: ...

    def are_folded(self, metric_ids: MetricIds, timestamps: Milliseconds) -> Flags: ...


class Intake:
    """Takes readings in."""

    def __init__(self, gate: Gate, history: Appending, settings: Settings) -> None:
        self._gate = gate
        self._history = history
        self._max_future = timedelta(seconds=settings.max_future_s)
        self._most_decoded = settings.max_decoded_bytes

    def begin(
        self,
        caller: Caller,
        body: bytes,
        *,
        content_type: str | None,
        content_encoding: str | None = None,
        once: Once | None = None,
    ) -> "Taking":
        """Read and check the readings of a request body, and submit the good ones, without waiting for them.

        Raises:
            Unreadable, UnknownFormat, TooLarge: the body can't be read; nothing is stored.
            Forbidden: nothing may be written for want of a role.
            Unavailable: the history can't take more now; nothing is stored.
        """
        began_at = time.monotonic()
        begun = self._gate.knowing(caller, scope="ingest")
        if once is not None and (earlier := self._recall(caller, once)) is not None:
            return Taking(earlier, None, [], None, {})
        columns = formats.read(self._decompressed(body, content_encoding), content_type, most=self._most_decoded)
        batch, report, metrics = self._checked(caller, columns, begun.as_of, began_at)
        stored, entries = self._submit(caller, batch, metrics, begun.as_of)
        claim = None if once is None else (caller, once, begun.who.user_id)
        return Taking(report, stored, entries, claim, columns.verdicts.counts, formats.name_of(content_type))

    def begin_lines(
        self, caller: Caller, body: bytes, *, precision: OldPrecision, content_encoding: str | None = None
    ) -> "Taking":
        """As `begin`, of InfluxDB's line protocol. In the report a `row` is the number of a line, from 1."""
        began_at = time.monotonic()
        begun = self._gate.knowing(caller, scope="ingest")
        columns = read_lines(self._decompressed(body, content_encoding), precision=precision, now=begun.now)
        batch, report, metrics = self._checked(caller, columns, begun.as_of, began_at)
        stored, entries = self._submit(caller, batch, metrics, begun.as_of)
        report = columns.by_line(report)
        return Taking(report, stored, entries, None, columns.verdicts.counts, "line_protocol")

    def _decompressed(self, body: bytes, content_encoding: str | None) -> bytes:
        return formats.decompress(body, content_encoding, most=self._most_decoded)

    def wait(self, taking: "Taking") -> Report:
        """Wait until the readings are durable. Raises what the history raises; then nothing is stored."""
        if taking.stored is not None:
            try:
                taking.stored.result()
            except StoredTooLate:
                raise
            except Exception:
                self.give_up(taking)
                raise
        taking.count()
        self.finish(taking)
        return taking.report

    def finish(self, taking: "Taking") -> None:
        """What is left to do once the readings are stored."""
        if taking.once is not None:
            caller, once, user_id = taking.once
            with self._gate.writing(caller, scope="ingest") as work:
                remember(work.connection, once, taking.report, user_id=user_id, now=work.now)

    def give_up(self, taking: "Taking") -> None:
        """What is left to do where the readings could not be stored."""
        self._take_back(taking.entries)

    def _recall(self, caller: Caller, once: Once) -> Report | None:
        with self._gate.reading(caller, scope="ingest") as work:
            return recall(work.connection, once, user_id=work.who.user_id, answer_type=Report, now=work.now)

    def _checked(
        self, caller: Caller, columns: Columns, as_of: Stamp, checked_at: float
    ) -> tuple[Batch, Report, "Found"]:
        """The readings that are good, what became of all, and the metrics that they name, as it was at that time."""
        references = tuple(_possible(columns.references))
        seen = self._gate.seeing(caller, _known, references, scope="ingest", as_of=as_of)
        found, latest = seen.found.metrics, seen.now + self._max_future
        not_made: dict[str, str] = {}
        if seen.found.creating and (arriving := _arriving(columns, seen.found.creating, latest=latest)):
            made, not_made = self._create(caller, arriving)
            found = found | made
        metrics = _Metrics.of(columns, found)
        _refuse_unknown(columns, metrics, not_made)
        _refuse_times(columns, latest)
        _refuse_values(columns, metrics)
        _refuse_folded(columns, metrics, self._history)
        report = columns.verdicts.report()
        if report.accepted == 0 and "forbidden" in columns.verdicts.counts:
            raise Forbidden("Only a technician of the metrics' site may send readings; your role there is `standard`.")
        taken = ~columns.verdicts.refused if report.rejected else slice(None)
        metric_ids = metrics.ids[columns.reference_of[taken]]
        batch = Batch(metric_ids, columns.timestamps[taken], columns.values[taken], checked_at=checked_at)
        return batch, report, found

    def _create(
        self, caller: Caller, arriving: Mapping[str, str | None]
    ) -> tuple[dict[Reference, tuple[PlacedMetric, Role]], dict[str, str]]:
        """Make metrics of names that devices are set to make them of; and why some were not made."""
        with self._gate.writing(caller, scope="ingest") as work:
            not_made = facility.create_on_arrival(work, arriving)
            made = [name for name in arriving if name not in not_made]
            return facility.addressed_metrics(work.connection, work.who, made), not_made

    def _submit(
        self, caller: Caller, batch: Batch, found: "Found", as_of: Stamp
    ) -> tuple[Future[int] | None, list[int]]:
        """Store readings that are not stored already; those that give another value to a time that has one are noted
        in the audit log.

        They are noted before: of the two that a crash can leave, an entry too many is better than one too few.
        """
        if not len(batch):
            return None, []
        entries: list[int] = []
        batch, corrected = self._history.compare(batch, as_of=as_of)
        if corrected:
            metrics = {metric.id: metric for metric, _ in found.values()}
            with self._gate.writing(caller, scope="ingest") as work:
                entries = facility.record_corrections(work, corrected, metrics)
        try:
            return self._history.submit(batch), entries
        except Exception:
            self._take_back(entries)
            raise

    def _take_back(self, entries: list[int]) -> None:
        if not entries:
            return
        try:
            # on our own behalf: the caller's rights may have gone meanwhile
            with self._gate.writing(OPERATOR) as work:
                facility.take_back_corrections(work.connection, entries)
        except Unavailable:
            log.warning("the audit log has corrections that were not made", entries=entries, exc_info=True)


Found = dict[Reference, tuple[PlacedMetric, Role]]


@dataclass(frozen=True, slots=True)
class Taking:
    """Readings that are being taken in: what will be answered, once `stored` is done."""

    report: Report
    stored: Future[int] | None
    entries: list[int]
    """Of the audit log, for the readings that are corrections."""
    once: tuple[Caller, Once, int] | None
    refused: Mapping[RowCode, int]
    """How many were refused for what."""
    format: str | None = None
    """What they came in; `None` if they came before."""

    def count(self) -> None:
        """Have it in the metrics, once it is stored."""
        if self.format is None:
            return
        metrics.INGEST_READINGS.labels(self.format, "accepted").inc(self.report.accepted)
        metrics.INGEST_READINGS.labels(self.format, "rejected").inc(self.report.rejected)
        for code, readings in self.refused.items():
            metrics.INGEST_REJECTIONS.labels(code).inc(readings)
        if untold := self.report.rejected - sum(self.refused.values()):
            metrics.INGEST_REJECTIONS.labels("untold").inc(untold)


class _Known(NamedTuple):
    """The metrics that references stand for, and the names that devices are set to make metrics of."""

    metrics: Found
    creating: list[str]


def _known(connection: Connection, who: Principal, references: tuple[Reference, ...]) -> _Known:
    found = facility.addressed_metrics(connection, who, references)
    unknown = [name for name in references if isinstance(name, str) and name not in found]
    devices = facility.creating_devices(connection, who, unknown) if unknown else ()
    return _Known(found, [name for name in unknown if name.rpartition("/")[0] in devices])


def _arriving(columns: Columns, names: Collection[str], *, latest: datetime) -> dict[str, str | None]:
    """Those of the names that a good reading is for, each with the unit that the first such reading says, if any."""
    good = ~columns.verdicts.refused & (columns.timestamps >= 0) & (columns.timestamps <= to_ms(latest))
    rows = np.flatnonzero(good)
    named, first = np.unique(columns.reference_of[rows], return_index=True)
    arriving: dict[str, str | None] = {}
    for reference, row in zip(named.tolist(), rows[first].tolist(), strict=True):
        name = columns.references[reference]
        if isinstance(name, str) and name in names:
            arriving[name] = None if columns.units is None else columns.unit_names[columns.units[row]]
    return arriving


def _possible(references: Sequence[Reference]) -> list[Reference]:
    """Those that a metric can have, so that a database is asked for no number or text that it can't hold.

    Raises:
        TooLarge: more different ones than can be looked up.
    """
    possible = [
        reference
        for reference in dict.fromkeys(references)  # columns may name a metric in each of many series
        if facility.may_name_a_metric(reference)
    ]
    if len(possible) > MOST_METRICS:
        raise TooLarge(
            f"The readings name {len(possible):,} different metrics; send those of at most {MOST_METRICS:,} at once."
        )
    return possible


@dataclass(frozen=True, slots=True, eq=False)
class _Metrics:
    """What is known of the metrics that a request names, in columns by the position of the reference."""

    ids: np.ndarray
    writable: np.ndarray
    valid_min: np.ndarray
    valid_max: np.ndarray
    units: list[str]
    folded_until: np.ndarray
    """Before which time, in ms, readings may be folded."""

    raw_days: list[int | None]

    @classmethod
    def of(cls, columns: Columns, found: Mapping[Reference, tuple[PlacedMetric, Role]]) -> "_Metrics":
        rows = [found.get(reference) for reference in columns.references]
        metrics = [row[0] if row else None for row in rows]
        return cls(
            ids=np.array([metric.id if metric else 0 for metric in metrics], np.uint32),
            writable=np.array([row is not None and row[1] == "technician" for row in rows], bool),
            valid_min=_limits([metric.valid_min if metric else None for metric in metrics], -np.inf),
            valid_max=_limits([metric.valid_max if metric else None for metric in metrics], np.inf),
            units=[metric.unit if metric else "" for metric in metrics],
            folded_until=np.array([metric.folded_until_ms if metric else 0 for metric in metrics], np.int64),
            raw_days=[metric.raw_days if metric else None for metric in metrics],
        )


def _limits(given: list[float | None], otherwise: float) -> np.ndarray:
    return np.array([otherwise if limit is None else limit for limit in given], np.float64)


def _refuse_unknown(columns: Columns, metrics: _Metrics, not_made: Mapping[str, str]) -> None:
    named = columns.reference_of  # -1 is refused already, and picks some reference harmlessly

    def unknown(row: int) -> str:
        name = str(columns.references[named[row]])
        return not_made.get(name) or f"There is no metric {name[:200]!r} that you can see."

    if not metrics.ids.all():
        columns.verdicts.refuse_where(metrics.ids[named] == 0, "unknown_metric", unknown)
    if not metrics.writable.all():
        columns.verdicts.refuse_where(
            ~metrics.writable[named],
            "forbidden",
            lambda _row: "Only a technician of the metric's site may send readings.",
        )


def _refuse_times(columns: Columns, latest: datetime) -> None:
    def too_early(_row: int) -> str:
        return "Readings from before 1970 can't be stored."

    def too_late(row: int) -> str:
        timestamp = np.datetime64(int(columns.timestamps[row]), "ms")  # which has years beyond 9999
        return f"{timestamp}Z is too far in the future; is the sender's clock right?"

    columns.verdicts.refuse_where(columns.timestamps < 0, "out_of_time_range", too_early)
    columns.verdicts.refuse_where(columns.timestamps > to_ms(latest), "in_the_future", too_late)


def _refuse_values(columns: Columns, metrics: _Metrics) -> None:
    named, verdicts = columns.reference_of, columns.verdicts
    if not len(metrics.ids):
        return

    def outside(row: int) -> str:
        low, high = metrics.valid_min[named[row]], metrics.valid_max[named[row]]
        return f"{columns.values[row]:g} is not from {low:g} to {high:g}, which this metric allows."

    def wrong_unit(row: int) -> str:
        assert columns.units is not None  # asked below
        return (
            f"The metric is in `{metrics.units[named[row]]}`, not in {columns.unit_names[columns.units[row]][:30]!r}."
        )

    if np.isfinite(metrics.valid_min).any() or np.isfinite(metrics.valid_max).any():
        low, high = metrics.valid_min[named], metrics.valid_max[named]
        verdicts.refuse_where((columns.values < low) | (columns.values > high), "out_of_range", outside)
    if columns.units is not None:
        position = {name: index for index, name in enumerate(columns.unit_names)}
        own = np.array([position.get(unit, -1) for unit in metrics.units], np.int64)
        verdicts.refuse_where(columns.units != own[named], "wrong_unit", wrong_unit)


def _refuse_folded(columns: Columns, metrics: _Metrics, history: Appending) -> None:
    """A quarter of an hour that is folded takes no more readings: what it had is not known one by one any more."""
    named, verdicts = columns.reference_of, columns.verdicts
    if not metrics.folded_until.any():
        return

    def folded(row: int) -> str:
        place = named[row]
        days = metrics.raw_days[place]
        until = np.datetime64(int(metrics.folded_until[place]) // 1000, "s")
        kept = "" if days is None else f"its site keeps raw readings for {days} days, and "
        return (
            f"This quarter of an hour is folded: {kept}those from before {until}Z are folded. To send it anew, delete "
            "the metric's readings of the window, then send the whole of it."
        )

    is_old = ~verdicts.refused & (columns.timestamps < metrics.folded_until[named])
    rows = np.flatnonzero(is_old)
    if len(rows):
        is_old[rows] = history.are_folded(metrics.ids[named[rows]], columns.timestamps[rows])
        verdicts.refuse_where(is_old, "folded", folded)
