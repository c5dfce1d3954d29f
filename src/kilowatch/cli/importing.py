"""`kilowatch import`: files of readings to history."""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import typer

from kilowatch.cli.parts import Broken, Part, Source
from kilowatch.cli.progress import Meter, meter
from kilowatch.cli.resuming import Identity, Record, Records
from kilowatch.cli.terminal import err, opened, out
from kilowatch.config import load_settings
from kilowatch.errors import Invalid, KilowatchError, Unavailable

if TYPE_CHECKING:
    from kilowatch.history.model import Batch, Compared, Flags, MetricIds, Milliseconds
    from kilowatch.ingest.service import Appending, Intake
    from kilowatch.kit.state import Stamp
    from kilowatch.services import Kilowatch

_AT_ONCE = 3
"""Parts that are parsed while another is stored; each takes some ten times its size in memory."""

_CONTENT_TYPES = {"csv": "text/csv", "json": "application/json", "arrow": "application/vnd.apache.arrow.stream"}
Precision = Literal["ns", "us", "ms", "s"]


def _readable_files(paths: list[Path]) -> list[Path]:
    for path in paths:
        if str(path) == "-":
            continue
        if not path.is_file():
            raise typer.BadParameter(f"{path} is {'a directory' if path.is_dir() else 'not there'}; name files.")
        if not os.access(path, os.R_OK):
            raise typer.BadParameter(f"{path} may not be read by this user.")
    return paths


Files = Annotated[
    list[Path],
    typer.Argument(
        callback=_readable_files,
        help="CSV, JSON, JSON lines, Parquet, Arrow or line protocol, also as .gz or .zst; - is standard input.",
    ),
]
Forced = Annotated[
    str | None, typer.Option("--format", help="csv, json, jsonl, parquet, arrow or line; default: by the name's end.")
]
Precisions = Annotated[Precision, typer.Option(help="Unit of line protocol's times.")]
Restart = Annotated[bool, typer.Option("--restart", help="Begin anew, not where an interrupted import stopped.")]


def import_(files: Files, forced: Forced = None, precision: Precisions = "ns", restart: Restart = False) -> None:
    """Store readings from files, and report on the rows that were refused (then the exit status is 1).

    An import that is interrupted goes on where it was when the same command is given again.
    """
    settings = load_settings()
    sources = [Source.named(path, forced) for path in files]
    _refuse_twice(files)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    records = Records(settings)
    runs = [_FileImport.begin(source, records, precision=precision, restart=restart) for source in sources]
    try:
        with opened(settings) as services:
            _import_all(runs, services, precision=precision)
    except KeyboardInterrupt:
        _say_how_to_go_on(runs)
        raise
    _conclude(runs)


def _refuse_twice(files: Sequence[Path]) -> None:
    names = [path.absolute() for path in files]
    for path in files:
        if names.count(path.absolute()) > 1:
            raise Invalid(f"{path} is named twice.")


# ── a file ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True, eq=False)
class _FileImport:
    """How far the import of a file is, and what is to be told about it."""

    source: Source
    records: Records
    record: Record
    earlier: Record
    """What an interrupted import left."""
    told: list[str] = field(default_factory=list)
    problem: str | None = None
    in_flight: int = 0
    is_read: bool = False
    is_stopped: bool = False
    """A part failed: what was read ahead behind it counts for nothing, so that the same command comes back to it."""

    @classmethod
    def begin(cls, source: Source, records: Records, *, precision: Precision, restart: bool) -> "_FileImport":
        """Anew, or where it was interrupted."""
        record = _new_record(source, precision)
        if not restart and not source.is_stdin:
            record = _where_it_was(record, records.find(source.path))
        return cls(source, records, record, record)

    def parts(self) -> Iterator[Part]:
        """What is still to be done, up to where the file is broken if it is."""
        if self.record.finished:
            return
        try:
            yield from self.source.parts(self.record.place)
        except Broken as error:
            self.problem = error.detail

    def stored(self, part: Part, outcome: "_Outcome") -> None:
        if self.is_stopped:
            return
        self.told += outcome.told
        self._keep(
            place=part.place,
            read=part.read,
            accepted=self.record.accepted + outcome.accepted,
            refused=self.record.refused + outcome.refused,
        )

    def failed(self, part: Part, error: KilowatchError) -> None:
        if not self.is_stopped:
            self.is_stopped, self.problem = True, f"{part.span}: {error.detail}"

    def conclude_if_done(self) -> None:
        if not self.is_read or self.in_flight or self.record.finished:
            return
        self._tell_what_was_refused()
        if self.problem is None:
            self._keep(finished=True)
        else:
            err.print("kilowatch: ", style="red", end="")
            err.print(f"{self.source.path}: {' '.join(self.problem.split())}", markup=False)

    def _keep(self, **changes: Any) -> None:
        self.record = msgspec.structs.replace(self.record, **changes)
        if not self.source.is_stdin:
            self.records.save(self.record)

    def _tell_what_was_refused(self) -> None:
        from kilowatch.ingest.model import MAX_REPORTED

        for text in self.told[:MAX_REPORTED]:
            err.print(f"{self.source.path}: {text}", markup=False)
        untold = self.record.refused - self.earlier.refused - len(self.told[:MAX_REPORTED])
        if untold:
            err.print(f"{self.source.path}: and {untold:,} rows more.", markup=False)


def _new_record(source: Source, precision: Precision) -> Record:
    options = f"{source.format} {precision}"
    if source.is_stdin:
        return Record(Identity("-", 0, 0, "", options))
    try:
        return Record(Identity.of(source.path, options=options))
    except OSError as error:
        raise Invalid(f"{source.path} can't be read: {error.strerror}.") from error


def _where_it_was(new: Record, found: Record | None) -> Record:
    path = new.identity.path
    if found is None:
        return new
    if found.identity != new.identity:
        err.print(f"{path}: has changed since its import was interrupted, which begins anew.", markup=False)
        return new
    counts = f"{found.accepted:,} readings stored, {found.refused:,} refused"
    if found.finished:
        err.print(f"{path}: is done already ({counts}); --restart imports it again.", markup=False)
    else:
        err.print(f"{path}: goes on where it was ({counts}).", markup=False)
    return found


# ── all files ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _import_all(runs: Sequence[_FileImport], services: "Kilowatch", *, precision: Precision) -> None:
    assert services.history is not None  # an import opens it
    in_turn = _InTurn(services.history)
    take = _taker(services.intake_into(in_turn), precision)
    with ThreadPoolExecutor(_AT_ONCE) as pool, meter(_bytes_to_read(runs)) as shown:
        pipeline = _Pipeline(take, in_turn, pool, shown)
        try:
            for run in runs:
                pipeline.add(run)
            pipeline.settle_all()
        except BaseException:
            pipeline.abandon()
            raise


def _bytes_to_read(runs: Sequence[_FileImport]) -> int | None:
    sizes = [run.source.size for run in runs if not run.record.finished]
    done = sum(run.record.read for run in runs if not run.record.finished)
    return None if None in sizes else sum(size or 0 for size in sizes) - done


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of a part."""

    accepted: int
    refused: int
    told: list[str]
    """Where in the file the first of the refused rows are, and why."""


_Take = Callable[[Part], _Outcome]


def _taker(intake: "Intake", precision: Precision) -> _Take:
    from kilowatch.auth.model import OPERATOR

    def take(part: Part) -> _Outcome:
        if part.kind == "line":
            taking = intake.begin_lines(OPERATOR, part.body, precision=precision)
        else:
            taking = intake.begin(OPERATOR, part.body, content_type=_CONTENT_TYPES[part.kind])
        report = intake.wait(taking)
        told = [f"{part.where(error.row)}: {error.code}: {error.detail}" for error in report.errors]
        return _Outcome(report.accepted, report.rejected, told)

    return take


class _Stopped(KilowatchError):
    """A part before this one could not be read, so this one is not stored."""


class _InTurn:
    """Passes parts on to the history in their order, though several are read at once.

    So of two readings of the same metric and time the later in the file is also the one that was received last.
    """

    def __init__(self, history: "Appending") -> None:
        self._history = history
        self._next = 0
        self._changed = threading.Condition()
        self._mine = threading.local()
        self._stopped: set[_FileImport] = set()

    @contextmanager
    def part(self, number: int, run: _FileImport) -> Iterator[None]:
        """While a thread works on that part; numbers are taken up in their order."""
        self._mine.number, self._mine.run = number, run
        failed = True
        try:
            yield
            failed = False
        finally:
            self._pass_on(failed=failed)

    def compare(self, batch: "Batch", *, as_of: "Stamp | None" = None) -> "Compared":
        return self._history.compare(batch, as_of=as_of)

    def are_folded(self, metric_ids: "MetricIds", timestamps: "Milliseconds") -> "Flags":
        return self._history.are_folded(metric_ids, timestamps)

    def submit(self, batch: "Batch") -> "Future[int]":
        self._await_turn()
        if self._mine.run in self._stopped:
            raise _Stopped("A part before this one could not be read.")
        stored = self._history.submit(batch)
        self._pass_on()  # the next may join this one's insert
        return stored

    def _await_turn(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._next >= self._mine.number)

    def _pass_on(self, *, failed: bool = False) -> None:
        self._await_turn()
        with self._changed:
            if self._next > self._mine.number:
                return
            if failed:
                self._stopped.add(self._mine.run)
            self._next += 1
            self._changed.notify_all()


class _Pipeline:
    """Reads a file's next parts while the ones before are parsed and stored."""

    def __init__(self, take: _Take, in_turn: _InTurn, pool: ThreadPoolExecutor, shown: Meter) -> None:
        self._take = take
        self._in_turn = in_turn
        self._pool = pool
        self._shown = shown
        self._pending: deque[tuple[_FileImport, Part, Future[_Outcome]]] = deque()
        self._submitted = self._rows = self._bytes = 0

    def add(self, run: _FileImport) -> None:
        """Take up what is to be done of a file."""
        for part in run.parts():
            while len(self._pending) >= _AT_ONCE:
                self._settle_oldest()
            if run.problem:
                break
            future = self._pool.submit(self._work, self._submitted, run, part)
            self._submitted += 1
            run.in_flight += 1
            self._pending.append((run, part, future))
        run.is_read = True
        run.conclude_if_done()

    def settle_all(self) -> None:
        while self._pending:
            self._settle_oldest()

    def abandon(self) -> None:
        """Start nothing more; what is under way is finished and kept."""
        for _, _, future in self._pending:
            future.cancel()
        with suppress(KilowatchError, CancelledError):
            self.settle_all()

    def _work(self, number: int, run: _FileImport, part: Part) -> _Outcome:
        with self._in_turn.part(number, run):
            return self._take(part)

    def _settle_oldest(self) -> None:
        """Wait for the part that was submitted first, and keep what became of it."""
        run, part, future = self._pending[0]
        wait([future])  # an interruption comes here, and then the part is still to be settled
        self._pending.popleft()
        run.in_flight -= 1
        try:
            outcome = future.result()
        except _Stopped:
            pass
        except Unavailable as error:
            raise Unavailable(f"{error.detail} {_GO_ON}") from error
        except KilowatchError as error:
            run.failed(part, error)
        else:
            self._bytes += part.read - run.record.read
            self._rows += outcome.accepted + outcome.refused
            run.stored(part, outcome)
            self._shown.show(run.source.name, done=self._bytes, rows=self._rows)
        run.conclude_if_done()


# ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────────

_GO_ON = "What is stored stays; the same command goes on from there (with --restart it begins anew)."


def _say_how_to_go_on(runs: Sequence[_FileImport]) -> None:
    stored = sum(run.record.accepted for run in runs)
    err.print(f"Interrupted. {stored:,} readings are stored. {_GO_ON}", markup=False)


def _conclude(runs: Sequence[_FileImport]) -> None:
    accepted, refused = sum(run.record.accepted for run in runs), sum(run.record.refused for run in runs)
    broken = sum(run.problem is not None for run in runs)
    out.print(f"{accepted:,} readings stored, {refused:,} refused.")
    if broken:
        err.print(f"{broken} of {len(runs)} files could not be read to the end. {_GO_ON}", markup=False)
    else:
        for run in runs:
            run.records.forget(run.source.path)
    if refused or broken:
        raise SystemExit(1)
