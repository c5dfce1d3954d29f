"""A backup back into stores: checked before anything is written, into empty ones only, and compared afterwards."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Connection

from kilowatch import migrations
from kilowatch.errors import Invalid, KilowatchError
from kilowatch.history.copying import NOTHING, Block, Contents, Sum, Table, added
from kilowatch.kit.compression import zstd
from kilowatch.kit.db import Database
from kilowatch.transfer import catalogue
from kilowatch.transfer.manifest import CatalogueFile, HistoryFile, Manifest, check_file, lines_of, read_manifest
from kilowatch.transfer.places import Place

Tell = Callable[[str, int], None]

_ROWS_AT_ONCE = 250_000


class Restored(NamedTuple):
    readings: int
    """And cells made of them."""
    left_out: int
    """Of metrics that were deleted while the backup was made."""
    rows: int
    """Of the catalogue."""
    began_anew: bool
    """After a restore that was cut off."""


def open_backup(place: Place, name: str, *, tell: Tell = lambda _what, _bytes: None) -> Manifest:
    """The manifest of a backup whose files are all as they were written.

    Raises:
        Invalid: one is missing or damaged, or the backup is of a newer version.
    """
    manifest = read_manifest(place, name)
    if manifest.revision not in migrations.revisions():
        raise Invalid(
            f"{name} was made by a newer version of Kilowatch ({manifest.kilowatch}); install that one to restore it."
        )
    for file in manifest.files:
        check_file(place, name, file)
        tell(file.path, file.size)
    return manifest


def refuse_used_catalogue(database: Database) -> None:
    """Raises `NotEmpty` if the catalogue has rows."""
    if database.is_sqlite and not Path(database.url.database or "").exists():
        return
    with database.read() as connection:
        catalogue.refuse_what_is_not_empty(connection, "KILOWATCH_DATABASE_URL")


def restore(
    place: Place,
    name: str,
    manifest: Manifest,
    database: Database,
    contents: Contents,
    *,
    tell: Tell = lambda _what, _rows: None,
) -> Restored:
    """Put a backup, which `open_backup` has checked, into empty stores.

    Raises:
        Invalid: a store is not empty, or what came out is not what went in. Then both are as they were.
        Unavailable: a store does not answer.
    """
    refuse_used_catalogue(database)
    began_anew = contents.is_being_restored()
    if not began_anew and not contents.is_empty():
        raise Invalid(
            "KILOWATCH_HISTORY_URL has readings already, and nothing is overwritten. Name an empty database, or a "
            "directory that is not there yet."
        )
    contents.begin_restore()
    try:
        contents.clear()
        readings, left_out = _load_history(place, name, manifest, contents, tell)
        with database.migrating() as connection:
            _load_catalogue(place, name, manifest, connection, tell)
            contents.end_restore()
    except BaseException:
        # Where this does not succeed either, the mark that is left lets the next restore begin anew.
        with suppress(KilowatchError):
            contents.begin_restore()
            contents.clear()
            contents.end_restore()
        raise
    return Restored(readings, left_out, sum(file.rows for file in manifest.catalogue), began_anew)


# ── the history ──


def _load_history(place: Place, name: str, manifest: Manifest, contents: Contents, tell: Tell) -> tuple[int, int]:
    """How many rows were stored, and how many left out."""
    known = _metric_ids(place, name, manifest)
    stored = left_out = 0
    for table in contents.tables():
        sums = {}
        for file in manifest.history:
            if file.table == table.name:
                sums[file.month] = _load_month(place, name, file, contents, table, known, tell)
                stored, left_out = stored + sums[file.month].rows, left_out + file.rows - sums[file.month].rows
        _compare(table, {month: sum_ for month, sum_ in sums.items() if sum_.rows}, contents)
    contents.make_latest()
    return stored, left_out


def _load_month(
    place: Place, name: str, file: HistoryFile, contents: Contents, table: Table, known: np.ndarray, tell: Tell
) -> Sum:
    total = NOTHING
    for block in _blocks(place, name, file):
        tell(f"{table.name} {file.month // 100}-{file.month % 100:02}", len(block["metric_id"]))
        is_known = np.isin(block["metric_id"], known)
        if not is_known.all():
            block = {column: values[is_known] for column, values in block.items()}  # noqa: PLW2901 - less of the same
        if len(block["metric_id"]):
            contents.put(table, block)
            total = added(total, table.sum_of(block))
    return total


def _blocks(place: Place, name: str, file: HistoryFile) -> Iterator[Block]:
    with place.read(name, file.path) as content:
        for batch in pq.ParquetFile(content).iter_batches(_ROWS_AT_ONCE):
            yield {column: _numbers(batch.column(number)) for number, column in enumerate(batch.schema.names)}


def _numbers(column: pa.Array) -> np.ndarray:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    numbers: np.ndarray = column.to_numpy(zero_copy_only=False)
    return numbers


def _compare(table: Table, wanted: dict[int, Sum], contents: Contents) -> None:
    found = contents.months(table)
    for month in sorted(wanted.keys() | found.keys()):
        if wanted.get(month) != found.get(month):
            raise Invalid(
                f"The {table.name} of {month // 100}-{month % 100:02} came out different from what is in the backup; "
                "nothing was restored."
            )


def _metric_ids(place: Place, name: str, manifest: Manifest) -> np.ndarray:
    (file,) = (file for file in manifest.catalogue if file.table == "metrics")
    at = file.columns.index("id")
    return np.array([msgspec.json.decode(line)[at] for line in _lines(place, name, file)], np.uint32)


# ── the catalogue ──


def _load_catalogue(place: Place, name: str, manifest: Manifest, connection: Connection, tell: Tell) -> None:
    """As it was, in the tables of then; which are brought up to date in the same transaction."""
    tables = catalogue.make_empty_tables(connection, "KILOWATCH_DATABASE_URL", manifest.revision)
    files = {file.table: file for file in manifest.catalogue}
    if files.keys() != {table.name for table in tables}:
        raise Invalid(f"{name} has other tables than its version of the catalogue has; it can't be restored.")
    for table in tables:
        file = files[table.name]
        catalogue.load(connection, table, file.columns, _lines(place, name, file))
        tell(table.name, file.rows)
        if catalogue.stored(connection, table) != lines_of(file):
            raise Invalid(
                f"The table `{table.name}` came out different from what is in the backup; nothing was restored."
            )
    catalogue.set_sequences(connection, tables, manifest.sequences)
    migrations.upgrade_within(connection)


def _lines(place: Place, name: str, file: CatalogueFile) -> Iterator[bytes]:
    if file.rows == 0:
        return  # there is nothing to unpack, not even a head
    with place.read(name, file.path) as content, zstd().ZstdFile(content, "rb") as unpacked:
        for line in unpacked:
            yield line.rstrip(b"\n")
