"""`kilowatch import`: files of readings to history."""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, cast

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from kilowatch.cli.terminal import err, opened, out
from kilowatch.config import load_settings
from kilowatch.errors import Invalid, KilowatchError

if TYPE_CHECKING:
    from kilowatch.ingest.model import RowError

_CHUNK_BYTES = 4 * 1024 * 1024


def import_(
    files: Annotated[
        list[Path],
        typer.Argument(exists=True, dir_okay=False, readable=True, help="CSV with `metric,timestamp,value`; .gz too."),
    ],
) -> None:
    """Store readings from CSV files, and report on the rows that were refused (then the exit status is 1)."""
    from kilowatch.auth.model import OPERATOR
    from kilowatch.ingest.model import MAX_REPORTED

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    accepted = rejected = 0
    with opened(load_settings()) as services, Progress(*columns, console=err) as bar:
        for path in files:
            task = bar.add_task(path.name, total=path.stat().st_size)
            refused: list[tuple[int, RowError]] = []
            row = file_rejected = 0
            for body, position in _csv_parts(path):
                try:
                    report = services.intake.take(OPERATOR, body, content_type="text/csv")
                except KilowatchError as problem:
                    raise Invalid(f"{path.name}: {problem.detail} {accepted:,} readings are stored.") from problem
                refused += [(row + error.row, error) for error in report.errors]
                row += report.accepted + report.rejected
                accepted += report.accepted
                file_rejected += report.rejected
                bar.update(task, completed=position)
            rejected += file_rejected
            for number, error in refused[:MAX_REPORTED]:
                err.print(f"{path.name}: row {number}: {error.code}: {error.detail}", markup=False)
            if file_rejected > MAX_REPORTED:
                err.print(f"{path.name}: and {file_rejected - MAX_REPORTED:,} rows more.", markup=False)
    out.print(f"{accepted:,} readings stored, {rejected:,} refused.")
    raise SystemExit(1 if rejected else 0)


def _csv_parts(path: Path) -> Iterator[tuple[bytes, int]]:
    """A file in parts that each have the header and whole lines, and how many bytes of the file are read by then."""
    with path.open("rb") as raw:
        file: IO[bytes] = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw
        try:
            header = file.readline()
            rest = b""
            empty = True
            while chunk := file.read(_CHUNK_BYTES):
                lines, _, rest_of_line = (rest + chunk).rpartition(b"\n")
                rest = rest_of_line
                if lines.strip():
                    empty = False
                    yield header.rstrip(b"\r\n") + b"\n" + lines + b"\n", raw.tell()
            if rest.strip() or empty:
                yield header.rstrip(b"\r\n") + b"\n" + rest, raw.tell()
        except (OSError, EOFError) as error:
            raise Invalid(f"{path} can't be read: {error}; what came before is stored.") from error
