"""Backups of both stores, made while they are in use. Why in this order: docs/adr/0017-backups.md."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Connection, Table, select

import kilowatch
from kilowatch import migrations
from kilowatch.errors import Invalid
from kilowatch.history import copying
from kilowatch.history.copying import NOTHING, Block, Contents, added
from kilowatch.kit.compression import zstd
from kilowatch.kit.db import Database
from kilowatch.transfer import catalogue
from kilowatch.transfer.catalogue import Lines
from kilowatch.transfer.manifest import FORMAT, CatalogueFile, Draft, HistoryFile, Manifest, Measured, write_manifest

Tell = Callable[[str, int], None]
"""Is told what is under way, and how many rows were just done. What it raises ends the backup."""

_MADE_SPANS = "simulation_spans"
_WINDOW_ERASURES, _DONE_AT = "window_erasures", "done_at"
_PAUSE = 1.0
"""Of the time that a block took: so ingest, and whoever reads, have the machine for half of the time at least."""

_BLOCK = 50_000
"""Rows, and so a few tens of ms."""

Spans = dict[int, list[tuple[int, int]]]


class Stores(NamedTuple):
    """What is backed up."""

    database: Database
    contents: Contents
    now: Callable[[], datetime]


class Before(NamedTuple):
    """What is known before the history is read."""

    at: datetime
    revision: str
    made: Spans
    """Which readings of simulated devices are in the history for sure, by metric."""


def write_backup(stores: Stores, draft: Draft, *, tell: Tell = lambda _what, _rows: None) -> Manifest:
    """Write all files of a backup, the manifest last.

    Raises:
        Invalid: the catalogue is not up to date, or was migrated meanwhile.
        Unavailable: a store does not answer.
        Whatever the draft raises.
    """
    before = _look(stores)
    until = stores.contents.received_until()
    erased = _erased(stores)
    history = [file for table in stores.contents.tables() for file in _write_table(stores, draft, table, until, tell)]
    with stores.database.read() as connection:
        if migrations.current_revision(connection) != before.revision:
            raise Invalid("The catalogue was brought up to date while the backup was made; make another one.")
        tables = catalogue.tables_of(connection)
        sequences = catalogue.sequences_of(connection, tables)
        files = []
        for table in tables:
            lines = catalogue.lines_of(connection, table)
            if table.name == _MADE_SPANS:
                lines = _sure_spans(connection, table, before.made, until)
            elif table.name == _WINDOW_ERASURES:
                lines = _to_be_done(lines, _names(table), erased)
            files.append(_write_lines(draft, table, lines, tell))
    manifest = Manifest(
        format=FORMAT,
        kilowatch=kilowatch.__version__,
        made_at=before.at.astimezone(UTC).isoformat(timespec="seconds"),
        until=until,
        revision=before.revision,
        history_schema=stores.contents.schema(),
        sequences=sequences,
        catalogue=files,
        history=history,
    )
    write_manifest(draft, manifest)
    return manifest


def rows_about(stores: Stores) -> int:
    """How many rows of the history a backup will have, roughly."""
    return sum(sum(stores.contents.counts(table).values()) for table in stores.contents.tables())


def _look(stores: Stores) -> Before:
    with stores.database.read() as connection:
        revision = migrations.current_revision(connection)
        if revision is None or revision not in migrations.revisions():
            raise Invalid("The catalogue is of another version; run `kilowatch migrate` first.")
        return Before(stores.now(), revision, _spans(connection, catalogue.tables_of(connection)))


def _erased(stores: Stores) -> set[int]:
    """Notes of deletions that are done, so that nothing of what they deleted will be read."""
    with stores.database.read() as connection:
        for table in catalogue.tables_of(connection):
            if table.name == _WINDOW_ERASURES and _DONE_AT in table.columns:
                notes = select(table.columns["id"]).where(table.columns[_DONE_AT].is_not(None))
                return set(connection.execute(notes).scalars())
    return set()


# ── the history ──


def _write_table(stores: Stores, draft: Draft, table: copying.Table, until: int, tell: Tell) -> Iterator[HistoryFile]:
    for month in stores.contents.counts(table):
        yield _write_month(stores, draft, table, month, until, tell)


def _write_month(stores: Stores, draft: Draft, table: copying.Table, month: int, until: int, tell: Tell) -> HistoryFile:
    path = f"history/{table.name}/{month // 100}-{month % 100:02}.parquet"
    schema = pa.schema([(name, _arrow_type(kind)) for name, kind in table.columns.items()])
    total = NOTHING
    with draft.create(path) as raw:
        out = Measured(raw)
        with _parquet(out, schema) as writer:
            for block in _gently(stores.contents.blocks(table, month, until=until, rows=_BLOCK)):
                writer.write_table(_arrow(block, schema))
                total = added(total, table.sum_of(block))
                tell(f"{table.name} {month // 100}-{month % 100:02}", len(block[table.kept.time]))
    return HistoryFile(path, table.name, total.rows, total.checksum, out.bytes, out.sha256, month=month)


def _gently(blocks: Iterator[Block]) -> Iterator[Block]:
    """With pauses, as others need the machine too."""
    begun = time.monotonic()
    for block in blocks:
        yield block
        time.sleep(_PAUSE * (time.monotonic() - begun))
        begun = time.monotonic()


def _parquet(out: Measured, schema: pa.Schema) -> Any:
    """Times in rising order as differences, measured values, which are rounded and come again, by a dictionary."""
    times = [field.name for field in schema if pa.types.is_timestamp(field.type)]
    return pq.ParquetWriter(
        pa.PythonFile(out, "w"),
        schema,
        compression="zstd",
        use_dictionary=[field.name for field in schema if field.name not in times],
        column_encoding=dict.fromkeys(times, "DELTA_BINARY_PACKED"),
    )


def _arrow_type(kind: str) -> pa.DataType:
    if kind.startswith("DateTime64"):
        return pa.timestamp("ms", tz="UTC")
    if kind.startswith("DateTime"):
        return pa.timestamp("s", tz="UTC")
    return {"Float64": pa.float64(), "Float32": pa.float32(), "Bool": pa.uint8()}.get(kind) or getattr(
        pa, kind.lower()
    )()


def _arrow(block: Block, schema: pa.Schema) -> pa.Table:
    arrays = []
    for field in schema:
        column = block[field.name]
        if pa.types.is_timestamp(field.type):
            column = column.astype(np.int64, copy=False)
        arrays.append(pa.array(column).cast(field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


# ── the catalogue ──


def _write_lines(draft: Draft, table: Table, lines: Iterator[list[bytes]], tell: Tell) -> CatalogueFile:
    path, name = f"catalogue/{table.name}.jsonl.zst", str(table.name)
    total = Lines()
    with draft.create(path) as raw:
        out = Measured(raw)
        with zstd().ZstdFile(out, "wb") as packed:
            for some in lines:
                packed.write(b"".join(line + b"\n" for line in some))
                total = total.plus(some)
                tell(name, len(some))
    return CatalogueFile(path, name, total.rows, total.checksum, out.bytes, out.sha256, columns=_names(table))


def _names(table: Table) -> list[str]:
    return [str(name) for name in table.columns.keys()]  # noqa: SIM118 - a collection of columns has columns


def _to_be_done(lines: Iterator[list[bytes]], names: Sequence[str], erased: Collection[int]) -> Iterator[list[bytes]]:
    """Rows of `window_erasures`: what was erased while the history was read is to be erased once more.

    It may be in the backup. The first start after a restore does it.
    """
    for some in lines:
        rows = [dict(zip(names, msgspec.json.decode(line), strict=True)) for line in some]
        for row in rows:
            if _DONE_AT in row and row["id"] not in erased:
                row[_DONE_AT] = None
        yield [msgspec.json.encode(list(row.values())) for row in rows]


def _spans(connection: Connection, tables: Sequence[Table]) -> Spans:
    found: Spans = {}
    for table in tables:
        if table.name == _MADE_SPANS:
            columns = table.columns
            for metric_id, begins, ends in connection.execute(
                select(columns["metric_id"], columns["begins"], columns["ends"]).order_by(
                    columns["metric_id"], columns["begins"]
                )
            ):
                found.setdefault(metric_id, []).append((begins, ends))
    return found


def _sure_spans(connection: Connection, table: Table, before: Spans, until: int) -> Iterator[list[bytes]]:
    """Which simulated readings are in the backup: those that were made before it began, and still count at its end.

    Others may have been made after their month was read. They are made again when they are needed.
    """
    rows = []
    for metric_id, spans in _spans(connection, [table]).items():
        for begins, ends in overlaps(spans, before.get(metric_id, [])):
            values: Mapping[str, int] = {"metric_id": metric_id, "begins": begins, "ends": min(ends, until + 1)}
            if begins < values["ends"]:
                rows.append(msgspec.json.encode([values[name] for name in _names(table)]))
    yield rows


def overlaps(some: Sequence[tuple[int, int]], others: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The times `[begin, end)` that both have, in order."""
    found = []
    place = 0
    for begin, end in some:
        while place < len(others) and others[place][1] <= begin:
            place += 1
        at = place
        while at < len(others) and others[at][0] < end:
            found.append((max(begin, others[at][0]), min(end, others[at][1])))
            at += 1
    return found
