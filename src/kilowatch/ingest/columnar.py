"""Parquet files and Arrow streams to columns.

Both may expand to any size: what they would take is added up from their own headers, which their readers go by too,
before anything is decoded.
"""

import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kilowatch.errors import TooLarge, Unreadable
from kilowatch.history.model import Floats, Milliseconds, joined
from kilowatch.ingest.columns import are_columns, in_milliseconds, not_finite, references_of, shown
from kilowatch.ingest.model import Columns, Verdicts
from kilowatch.ingest.parquet_pages import check_pages

_BYTES_OF_A_ROW = 16  # the timestamp and the value
_MOST_MESSAGES = 10_000
_MOST_COLUMNS_SHOWN = 10
_ROWS_AT_ONCE = 1 << 18
_LONGEST_NAME = 200  # more than any metric's; so that long ones are not kept again and again
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_MOST_PASSES = 16  # over dictionaries: each batch has those before it checked anew


def read_arrow(body: bytes, *, most: int) -> Columns:
    """Columns from an Arrow stream. Raises `Unreadable`; or `TooLarge` if it decodes to more than `most` bytes."""
    with _readable("Arrow stream"):
        _check_messages(body, most)
        with pa.ipc.open_stream(pa.BufferReader(body)) as reader:
            return _columns(_valid(reader), most)


def read_parquet(body: bytes, *, most: int) -> Columns:
    """Columns from a Parquet file. Raises `Unreadable`; or `TooLarge` if it decodes to more than `most` bytes."""
    with _readable("Parquet file"):
        check_pages(body, most=most)
        with pq.ParquetFile(pa.BufferReader(body), pre_buffer=False) as file:
            _check_schema(file.schema_arrow)
            _check_rows(file.metadata.num_rows, most)
            # Texts stay in their dictionary: written out, they would be as many times as large as there are rows.
            texts = [name for name in ("metric", "unit") if name in file.schema_arrow.names]
        with pq.ParquetFile(pa.BufferReader(body), read_dictionary=texts, pre_buffer=False) as file:
            _check_schema(file.schema_arrow)
            return _columns(_counted(_valid(file.iter_batches(_ROWS_AT_ONCE, use_threads=False)), most), most)


@contextmanager
def _readable(what: str) -> Iterator[None]:
    """Whatever else goes wrong inside is the body's fault."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, KeyError, IndexError, struct.error, MemoryError) as error:
        # what a lookup did not find tells nobody anything
        why = "it is damaged." if isinstance(error, LookupError) else " ".join(str(error).split())[:200]
        raise Unreadable(f"The {what} can't be read: {why}") from error


# ── what it would take ───────────────────────────────────────────────────────────────────────────────────────────────


def _check_messages(body: bytes, most: int) -> None:
    """Add up what a stream's messages would take once decompressed, from their headers."""
    rows = decoded = dictionaries = checked = 0
    for number, message in enumerate(pa.ipc.MessageReader.open_stream(pa.BufferReader(body))):
        if number > _MOST_MESSAGES:
            raise Unreadable(f"The Arrow stream has more than {_MOST_MESSAGES:,} batches; make them larger.")
        if number == 0 and message.type == "schema":  # of another type, Arrow would read it as one and crash
            _check_schema(pa.ipc.read_schema(message))
            continue
        if number == 0 or message.type not in ("record batch", "dictionary"):
            raise Unreadable("An Arrow stream is a schema, then record batches and dictionaries.")
        header = _Header(message)
        decoded += header.decoded_bytes
        if header.is_dictionary:
            dictionaries += header.decoded_bytes
            decoded += dictionaries  # a delta makes all of it anew
        else:
            rows += header.rows
            checked += dictionaries
        if decoded > most or checked > _MOST_PASSES * most:
            raise _too_large(most)
    _check_rows(rows, most)


def _check_rows(rows: int, most: int) -> None:
    if rows * _BYTES_OF_A_ROW > most:
        raise _too_large(most)


def _too_large(most: int) -> TooLarge:
    return TooLarge(f"The body is larger than {most:,} bytes once decoded; send it in parts.")


class _Header:
    """What the metadata of a record or dictionary batch says; Arrow has checked that it is well formed.

    See `format/Message.fbs` of Arrow, and FlatBuffers' internals: a table begins with the distance back to its vtable,
    which has for each field its place in the table.
    """

    def __init__(self, message: pa.Message) -> None:
        self._data = memoryview(message.metadata)
        self._body = memoryview(message.body)
        self.is_dictionary = message.type == "dictionary"
        batch = self._table(self._at(self._table(0), 2))
        if self.is_dictionary:
            batch = self._table(self._at(batch, 1))
        length = self._field(batch, 0)
        self.rows = 0 if length is None else self._int("<q", length)
        self.decoded_bytes = len(self._body) if self._field(batch, 3) is None else self._decompressed(batch)

    def _decompressed(self, batch: int) -> int:
        vector = self._table(self._at(batch, 2))
        return sum(self._buffer(vector + 4 + 16 * index) for index in range(self._int("<I", vector)))

    def _buffer(self, place: int) -> int:
        """A compressed buffer begins with its length before; -1 if it is not compressed after all."""
        offset, length = self._int("<q", place), self._int("<q", place + 8)
        if length < 8:
            return 0
        (before,) = struct.unpack_from("<q", self._body, offset)
        if before < -1:
            raise ValueError("a buffer has a negative length")
        return length if before == -1 else int(before)

    def _int(self, kind: str, place: int) -> int:
        return int(struct.unpack_from(kind, self._data, place)[0])

    def _table(self, place: int) -> int:
        return place + self._int("<I", place)

    def _field(self, table: int, number: int) -> int | None:
        vtable = table - self._int("<i", table)
        slot = 4 + 2 * number
        distance = self._int("<H", vtable + slot) if slot < self._int("<H", vtable) else 0
        return table + distance if distance else None

    def _at(self, table: int, number: int) -> int:
        place = self._field(table, number)
        if place is None:
            raise ValueError("a batch has no data")
        return place


# ── its columns ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _check_schema(schema: pa.Schema) -> None:
    """Raises `Unreadable`, naming the first column that is not as it must be."""
    if not are_columns(schema.names):
        names = ", ".join(schema.names[:_MOST_COLUMNS_SHOWN]) + ("…" if len(schema) > _MOST_COLUMNS_SHOWN else "")
        raise Unreadable(
            f"There are {len(schema):,} columns: {shown(names, most=120)}; they must be `metric` or `metric_id`, "
            "`timestamp`, `value`, and `unit` if you like, each once. Nothing was stored."
        )
    for field in schema:
        wanted, fits = _WANTED[field.name]
        if not fits(field.type):
            raise Unreadable(
                f"The column `{field.name}` is of type {shown(str(field.type))}; it must be {wanted}. "
                "Nothing was stored."
            )


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return any(is_one(kind) for is_one in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _is_instant(kind: pa.DataType) -> bool:
    return pa.types.is_timestamp(kind) and bool(kind.tz)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


_WANTED = {
    "metric": ("text", _is_text),
    "metric_id": ("an integer", pa.types.is_integer),
    "timestamp": ("a timestamp with a time zone, such as timestamp[ms, tz=UTC]", _is_instant),
    "value": ("an integer, a float or a decimal", _is_number),
    "unit": ("text", _is_text),
}


def _valid(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """What came from outside may point anywhere in memory: nothing looks at it before all of it is checked."""
    for batch in batches:
        batch.validate(full=True)
        yield batch


def _counted(batches: Iterable[pa.RecordBatch], most: int) -> Iterator[pa.RecordBatch]:
    rows = decoded = 0
    for batch in batches:
        rows, decoded = rows + len(batch), decoded + batch.nbytes
        _check_rows(rows, most)
        if decoded > most:
            raise _too_large(most)
        yield batch


class _Names:
    """The different texts or numbers of a column, and for each row its position among them (-1: null)."""

    def __init__(self) -> None:
        self.position: dict[Any, int] = {}
        self._rows: list[np.ndarray] = []

    def add(self, column: pa.Array, most: int) -> None:
        encoded = column if pa.types.is_dictionary(column.type) else _plain(column, most).dictionary_encode()
        dictionary = encoded.dictionary
        places = encoded.indices.cast(pa.int64()).fill_null(len(dictionary)).to_numpy()
        used = np.zeros(len(dictionary) + 1, bool)
        used[places] = True
        used[-1] = False
        some = _plain(dictionary.take(pa.array(np.flatnonzero(used))), most)
        if not pa.types.is_integer(some.type):
            some = pc.utf8_slice_codeunits(some, 0, _LONGEST_NAME)
        positions = np.full(len(used), -1)
        positions[used] = [
            -1 if name is None else self.position.setdefault(name, len(self.position)) for name in some.to_pylist()
        ]
        self._rows.append(positions[places])

    @property
    def rows(self) -> np.ndarray:
        return joined(self._rows, np.int64)


def _plain(texts: pa.Array, most: int) -> pa.Array:
    """Texts as an array that has each of its own; views may show the same long text again and again."""
    if not pa.types.is_string_view(texts.type):
        return texts
    lengths = np.frombuffer(texts.buffers()[1], np.int32)[4 * texts.offset :][: 4 * len(texts) : 4]
    if lengths.sum(dtype=np.int64) > most:
        raise _too_large(most)
    return texts.cast(pa.large_string())


def _columns(batches: Iterable[pa.RecordBatch], most: int) -> Columns:
    metrics, units = _Names(), _Names()
    timestamps: list[Milliseconds] = []
    values: list[Floats] = []
    untimed: list[np.ndarray] = []
    unvalued: list[np.ndarray] = []
    names: list[str] = []
    for batch in batches:
        names = batch.schema.names
        metrics.add(batch.column("metric" if "metric" in names else "metric_id"), most)
        if "unit" in names:
            units.add(batch.column("unit"), most)
        timestamps.append(_milliseconds(batch.column("timestamp")))
        values.append(_floats(batch.column("value")))
        untimed.append(_nulls(batch.column("timestamp")))
        unvalued.append(_nulls(batch.column("value")))
    reference_of = metrics.rows
    verdicts = Verdicts(len(reference_of))
    references, reference_of = references_of(list(metrics.position), reference_of, verdicts)
    columns = Columns(references, reference_of, joined(timestamps, np.int64), joined(values, np.float64), verdicts)
    _refuse_missing(columns, joined(untimed, bool), joined(unvalued, bool))
    if "unit" in names:
        columns.unit_names = [*units.position, ""]
        columns.units = np.where(units.rows < 0, len(units.position), units.rows)
    return columns


def _refuse_missing(columns: Columns, untimed: np.ndarray, unvalued: np.ndarray) -> None:
    verdicts, values = columns.verdicts, columns.values
    verdicts.refuse_where(untimed, "bad_timestamp", lambda _row: "The timestamp is missing.")
    verdicts.refuse_where(unvalued, "bad_value", lambda _row: "The value is missing, not a number.")
    if not (finite := np.isfinite(values)).all():
        verdicts.refuse_where(~finite, "not_finite", lambda row: not_finite(float(values[row]))[1])


def _nulls(column: pa.Array) -> np.ndarray:
    if not column.null_count:
        return np.zeros(len(column), bool)
    nulls: np.ndarray = column.is_null().to_numpy(zero_copy_only=False)
    return nulls


def _milliseconds(column: pa.Array) -> Milliseconds:
    """Ms since 1970, rounded down; beyond any year that is taken, some such year."""
    ticks: np.ndarray = column.view(pa.int64()).fill_null(0).to_numpy()
    return in_milliseconds(ticks, _PER_SECOND[column.type.unit])


def _floats(column: pa.Array) -> Floats:
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    values: Floats = column.to_numpy(zero_copy_only=False).astype(np.float64, copy=False)
    return values
