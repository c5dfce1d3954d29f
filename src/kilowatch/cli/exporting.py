"""`kilowatch export`: history to files."""

import contextlib
import gzip
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, cast

import msgspec
import typer

from kilowatch.cli.progress import Meter, meter
from kilowatch.cli.terminal import err, opened
from kilowatch.config import load_settings
from kilowatch.errors import Invalid, NotFound
from kilowatch.kit.compression import zstd

if TYPE_CHECKING:
    from kilowatch.auth.model import Principal
    from kilowatch.history.model import Series
    from kilowatch.history.service import Query
    from kilowatch.services import Kilowatch

_FORMATS = {"csv": "csv", "json": "json", "parquet": "parquet", "arrow": "arrow", "arrows": "arrow"}
_TEXTS = ("csv", "json")
_COMPRESSIONS = ("gz", "zst")
_MANIFEST = "kilowatch-export.json"

Metrics = Annotated[
    list[str] | None,
    typer.Option("--metric", help="site/device/key, an id, or all of site/device or of site; may be given again."),
]


def export(
    start: Annotated[str, typer.Option(help="Begin of the window: RFC 3339 with an offset.")],
    end: Annotated[str, typer.Option(help="End of the window, not part of it.")],
    metric: Metrics = None,
    every: Annotated[bool, typer.Option("--all", help="All metrics there are.")] = False,
    subscription: Annotated[int | None, typer.Option(help="A subscription's id; its owner's rights apply.")] = None,
    resolution: Annotated[str, typer.Option(help="raw, 1h, 1d, …")] = "raw",
    aggregate: Annotated[str | None, typer.Option(help="mean, energy, energy_positive, delta, …")] = None,
    timezone: Annotated[str | None, typer.Option(help="IANA name.")] = None,
    unit: Annotated[str | None, typer.Option(help="Unit to convert to.")] = None,
    forced: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="csv, json, parquet or arrow, also csv.gz, csv.zst, …; default: by the output's name, or csv.",
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="File to write; standard output if left out.")] = None,
    output_dir: Annotated[Path | None, typer.Option(help="Directory to write a file for each metric into.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Write files anew that are complete already.")] = False,
) -> None:
    """Write the history of metrics, or of a subscription, as CSV, JSON, Parquet or Arrow.

    With --output-dir an export that is interrupted goes on where it was when the same command is given again.
    """
    from kilowatch.history.model import AGGREGATES
    from kilowatch.history.service import Query
    from kilowatch.kit.timespan import Window

    if bool(metric) + every + (subscription is not None) != 1:
        raise Invalid("Name either metrics (--metric), or --all, or a subscription (--subscription).")
    if output is not None and output_dir is not None:
        raise Invalid("Name either a file (--output) or a directory (--output-dir).")
    if aggregate is not None and aggregate not in AGGREGATES:
        raise Invalid(f"--aggregate is one of {', '.join(AGGREGATES)}.")
    form = _Form.of(forced, output)
    window = Window.parse(start, end)
    query = Query(window, resolution, aggregate=aggregate, timezone=timezone, unit=unit, limit=None)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with opened(load_settings()) as services:
        asked = _Export(services, _chosen(services, metric or [], subscription), query, form)
        if output_dir is not None:
            asked.to_directory(output_dir, restart=restart)
        elif output is not None:
            asked.to_file(output)
        else:
            asked.to_stdout()


# ── which metrics ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The metrics to export, by id, with their names `site/device/key`; and who reads them."""

    reader: "Principal"
    names: dict[int, str]


def _chosen(services: "Kilowatch", texts: Sequence[str], subscription_id: int | None) -> _Chosen:
    """Those that are named, or those of the subscription, or all."""
    from kilowatch.auth.model import OPERATOR
    from kilowatch.kit.text import MAX_ID

    for text in (*texts, str(subscription_id or 0)):
        if text.isdecimal() and int(text) > MAX_ID:
            raise NotFound(f"There is no metric or subscription {text}.")
    if subscription_id is not None:
        return _of_subscription(services, subscription_id)
    if not texts:
        return _Chosen(OPERATOR, {metric.id: metric.path for metric in services.catalogue.metrics_where(OPERATOR)})
    found: dict[int, str] = {}
    for text in texts:
        some = services.catalogue.metrics_where(OPERATOR, **_fitting(text))
        if not some:
            raise NotFound(f"There is no metric {text!r}, and no device or site of that name with one.")
        found |= {metric.id: metric.path for metric in some}
    return _Chosen(OPERATOR, found)


def _fitting(text: str) -> dict[str, Any]:
    """What `7`, `site`, `site/device` or `site/device/key` says of a metric."""
    if text.isdecimal():
        return {"metric_id": int(text)}
    parts = text.split("/")
    if len(parts) > 3 or not all(parts) or not _is_text(text):
        raise NotFound(f"There is no metric {text!r}; write site/device/key, site/device or site.")
    return dict(zip(("site", "device", "key"), parts, strict=False))


def _is_text(argument: str) -> bool:
    """False if it has bytes that are no characters, which reach us as half ones."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


def _of_subscription(services: "Kilowatch", subscription_id: int) -> _Chosen:
    from kilowatch.auth.model import OPERATOR

    owner = services.subscriptions.owner(OPERATOR, subscription_id)
    metrics = services.subscriptions.get_subscription(owner, subscription_id).metrics
    for metric in metrics:
        if not metric.available:
            err.print(f"Metric {metric.metric_id} is left out, as the subscription's owner may not read it any more.")
    return _Chosen(
        owner,
        {metric.metric_id: f"{metric.site}/{metric.device}/{metric.metric}" for metric in metrics if metric.available},
    )


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Form:
    """A format, and the compression around it (`gz`, `zst` or none)."""

    name: str
    compression: str = ""

    @classmethod
    def of(cls, forced: str | None, output: Path | None) -> "_Form":
        """What `--format` says, or else the end of the output's name. Raises `Invalid` if that is none."""
        if forced is None and (output is None or not output.suffix):
            return cls("csv")
        said = f".{forced}" if forced is not None else cast(Path, output).name
        parts = said.lower().split(".")
        compression = parts.pop() if parts[-1] in _COMPRESSIONS else ""
        name = _FORMATS.get(parts[-1])
        if name is None or (forced is not None and len(parts) > 2):
            which = f"--format {forced}" if forced is not None else str(output)
            raise Invalid(f"{which} is no format; say --format csv, json, parquet or arrow (csv.gz, csv.zst, …).")
        if compression and name not in _TEXTS:
            raise Invalid(f"{name} is not written as .{compression}; leave that out.")
        return cls(name, compression)

    @property
    def suffix(self) -> str:
        return f".{self.name}" + (f".{self.compression}" if self.compression else "")

    @property
    def media(self) -> str:
        from kilowatch.history import formats

        return {"csv": formats.CSV, "json": formats.JSON, "parquet": formats.PARQUET, "arrow": formats.ARROW}[self.name]

    @contextmanager
    def around(self, file: IO[bytes]) -> Iterator[IO[bytes]]:
        """The file, to be written through the compression."""
        if self.compression == "gz":
            with gzip.GzipFile(fileobj=file, mode="wb", mtime=0, compresslevel=6) as compressed:
                yield cast(IO[bytes], compressed)
        elif self.compression == "zst":
            with zstd().ZstdFile(file, "wb") as compressed:
                yield cast(IO[bytes], compressed)
        else:
            yield file


@dataclass(frozen=True, slots=True)
class _Export:
    """What is to be written, and how."""

    services: "Kilowatch"
    chosen: _Chosen
    query: "Query"
    form: _Form

    def to_stdout(self) -> None:
        with self._meter(list(self.chosen.names)) as tally:
            try:
                self._write(list(self.chosen.names), sys.stdout.buffer, tally)
            except BrokenPipeError:
                raise  # nobody reads on
            except OSError as error:
                raise Invalid(f"Standard output can't be written: {error.strerror}.") from error

    def to_file(self, path: Path) -> None:
        with self._meter(list(self.chosen.names)) as tally, _drafted(path) as draft:
            self._write(list(self.chosen.names), draft, tally)
        err.print(f"Wrote {path}", markup=False)

    def to_directory(self, directory: Path, *, restart: bool) -> None:
        """A file for each metric; those that are there are complete, as each is renamed into its place."""
        files = {
            metric_id: directory / (name.replace("/", ".") + self.form.suffix)
            for metric_id, name in self.chosen.names.items()
        }
        _prepare_directory(directory, self._parameters(), files.values(), restart=restart)
        missing = [metric_id for metric_id, file in files.items() if not file.exists()]
        try:
            with self._meter(missing) as tally:
                for metric_id in missing:
                    tally.what = self.chosen.names[metric_id]
                    with _drafted(files[metric_id]) as draft:
                        self._write([metric_id], draft, tally)
        except KeyboardInterrupt:
            done = sum(file.exists() for file in files.values())
            err.print(f"Interrupted. {done:,} of {len(files):,} files are complete; the same command goes on.")
            raise
        before = f", {len(files) - len(missing):,} were complete already" if len(missing) < len(files) else ""
        err.print(f"Wrote {len(missing):,} files to {directory}{before}.", markup=False)

    def _parameters(self) -> dict[str, Any]:
        query = self.query
        return {
            "start": query.window.start.isoformat(),
            "end": query.window.end.isoformat(),
            "resolution": query.resolution,
            "aggregate": query.aggregate,
            "timezone": query.timezone,
            "unit": query.unit,
            "format": self.form.suffix[1:],
        }

    def _write(self, metric_ids: Sequence[int], file: IO[bytes], tally: "_Tally") -> None:
        from kilowatch.history import formats

        stream = self.services.histories.stream_of_metrics(self.chosen.reader, metric_ids, self.query)
        counted = replace(stream, pieces=tally.counting(stream.pieces))
        tally.raw_from |= stream.raw_from
        with self.form.around(file) as content:
            for part in formats.write(counted, self.form.media):
                content.write(part)
        file.flush()

    @contextmanager
    def _meter(self, metric_ids: Sequence[int]) -> Iterator["_Tally"]:
        with meter(self._rows_to_read(metric_ids)) as shown:
            tally = _Tally(shown, self.form.suffix[1:])
            yield tally
        tally.tell_folded()

    def _rows_to_read(self, metric_ids: Sequence[int]) -> int | None:
        """About how many rows there will be; not known of buckets."""
        assert self.services.history is not None  # an export opens it
        if self.query.resolution != "raw":
            return None
        return self.services.history.count_in_window(metric_ids, self.query.window)


@dataclass(slots=True)
class _Tally:
    """Counts what is written, and shows it."""

    shown: Meter
    what: str
    rows: int = 0
    raw_from: dict[int, int] = field(default_factory=dict)
    """Since when (ms) all readings are there, by metric, where some are folded."""

    def tell_folded(self) -> None:
        if self.raw_from:
            from kilowatch.kit.timespan import from_ms

            until = from_ms(max(self.raw_from.values()))
            err.print(
                f"Not all readings from before {until:%Y-%m-%dT%H:%M:%SZ} are raw any more: of quarters of an hour "
                "that are folded the first and the last were written. A --resolution of 15m, 1h, … has all in it."
            )

    def counting(self, pieces: Iterator["Series"]) -> Iterator["Series"]:
        for piece in pieces:
            yield piece
            self.rows += len(piece.timestamps)
            self.shown.show(self.what, done=self.rows, rows=self.rows)


@contextmanager
def _drafted(path: Path) -> Iterator[IO[bytes]]:
    """Whole or not at all: what was there stays until the new file is complete, and on the disk.

    A pipe or a device, such as `/dev/stdout`, is written into: a file renamed over it would take its place for all.
    """
    is_special = path.exists() and not path.is_file()
    draft = path if is_special else path.with_name(path.name + ".part")
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            if not is_special:
                os.fsync(file.fileno())
        if not is_special:
            draft.replace(path)
    except BrokenPipeError:
        raise  # as of standard output: nobody reads on
    except OSError as error:
        raise Invalid(f"{path} can't be written: {error.strerror}.") from error
    finally:
        if not is_special:
            with contextlib.suppress(OSError):
                draft.unlink()


def _prepare_directory(directory: Path, parameters: dict[str, Any], files: Iterable[Path], *, restart: bool) -> None:
    """Make it, or see that what is in it is of the same export.

    Raises:
        Invalid: it holds another export, or files of these names that are of none.
    """
    manifest = directory / _MANIFEST
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if restart:
            for file in (manifest, *files):
                file.unlink(missing_ok=True)
        elif manifest.exists():
            _refuse_another(directory, _read_manifest(manifest), parameters)
            return
        elif taken := next((file for file in files if file.exists()), None):
            raise Invalid(
                f"{taken} is there, but of no export; choose another directory, or replace it with --restart."
            )
        with _drafted(manifest) as draft:
            draft.write(msgspec.json.format(msgspec.json.encode(parameters)))
    except OSError as error:
        raise Invalid(f"{directory} can't be written: {error.strerror}.") from error


def _refuse_another(directory: Path, earlier: dict[str, Any], parameters: dict[str, Any]) -> None:
    differing = ", ".join(sorted(name for name in parameters if earlier.get(name) != parameters[name]))
    if differing:
        raise Invalid(f"{directory} holds an export with another {differing}; choose another directory, or --restart.")


def _read_manifest(manifest: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(manifest.read_bytes(), type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise Invalid(f"{manifest} can't be read: {error}; choose another directory, or --restart.") from error
