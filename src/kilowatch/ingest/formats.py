"""Request bodies to columns: JSON rows, JSON columns, CSV, Parquet and Arrow, plain or compressed with gzip or zstd.

Each has a fast way, in which a library reads all of it at once, and a careful one, taken when something in it is wrong,
which finds out for each row what is.
"""

import contextlib
import json
import math
import sys
import zlib
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from kilowatch.errors import Fault, TooLarge, UnknownFormat, Unreadable
from kilowatch.ingest.columnar import read_arrow, read_parquet
from kilowatch.ingest.columns import FEW, are_columns, columns_of, encodable, encoded, shown
from kilowatch.ingest.model import Columns

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

JSON, CSV = "application/json", "text/csv"
PARQUET, ARROW = "application/vnd.apache.parquet", "application/vnd.apache.arrow.stream"
_CHUNK = 1 << 20
_PIECE = 1 << 16
_MOST_MEMBERS = 1000  # each costs a new stream, and an empty one has no more than 9 bytes
_LONGEST_NUMBER = 400  # digits; Python makes no int of more than 4300, and no float of more than 309


# ── compression ──────────────────────────────────────────────────────────────────────────────────────────────────────


class _Stream(Protocol):
    """One member's decompressor, of either library. It takes all that it is given unless its output is full."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: memoryview, max_length: int, /) -> bytes: ...


def decompress(body: bytes, encoding: str | None, *, most: int) -> bytes:
    """The body as it was before it was compressed (gzip, zstd or not at all).

    Raises:
        UnknownFormat: compressed in another way.
        Unreadable: broken, cut off, or in more members than anyone needs.
        TooLarge: more than `most` bytes; found out without making them.
    """
    name = (encoding or "identity").strip().lower()
    if name in ("identity", ""):
        return body
    if name in ("gzip", "x-gzip"):
        return _expand(body, most, "gzip", lambda: zlib.decompressobj(wbits=31), (zlib.error,))
    if name == "zstd":
        return _expand(body, most, "zstd", zstd.ZstdDecompressor, (zstd.ZstdError, MemoryError))
    raise UnknownFormat(f"Content-Encoding {name!r} is not known; use gzip, zstd or none.")


def _expand(
    body: bytes, most: int, name: str, start: Callable[[], _Stream], errors: tuple[type[Exception], ...]
) -> bytes:
    """All members of the body (zstd calls them frames), one after another, as one."""
    out = bytearray()
    rest = memoryview(body)
    members = 0
    while rest:
        if members == _MOST_MEMBERS:
            raise Unreadable(f"The {name} body has too many members; compress it in one piece.")
        members += 1
        stream = start()
        while not stream.eof:
            if not rest:
                raise Unreadable(f"The {name} body is cut off.")
            # a piece at a time, as a stream copies what it was given behind its end into `unused_data`
            piece = rest[:_PIECE]
            try:
                out += stream.decompress(piece, most + 1 - len(out))
            except errors as error:
                raise Unreadable(f"The body is not {name}: {error}.") from error
            if len(out) > most:
                raise TooLarge(f"The body is larger than {most:,} bytes once decompressed; send it in parts.")
            rest = rest[len(piece) - len(stream.unused_data) :]
    return bytes(out)


def _media(content_type: str | None) -> str:
    return (content_type or JSON).split(";")[0].strip().lower()


# ── entry ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def read(body: bytes, content_type: str | None, *, most: int) -> Columns:
    """Columns from a body; what is wrong with single rows is in `verdicts`.

    Raises:
        Unreadable, UnknownFormat: the body can't be read at all.
        TooLarge: Parquet or Arrow that is more than `most` bytes once decoded; found out without making them.
    """
    media = _media(content_type)
    if media == JSON:
        return _read_json(body)
    if media in (CSV, "application/csv"):
        return _read_csv(body)
    if media == ARROW:
        return read_arrow(body, most=most)
    if media == PARQUET:
        return read_parquet(body, most=most)
    raise UnknownFormat(f"Content-Type {media!r} is not read here; send {JSON}, {CSV}, {PARQUET} or {ARROW}.")


_NAMES = {JSON: "json", CSV: "csv", "application/csv": "csv", ARROW: "arrow", PARQUET: "parquet"}


def name_of(content_type: str | None) -> str:
    """What the format of a body that was read is called where it is counted."""
    return _NAMES[_media(content_type)]


# ── JSON ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


# None of these can be part of a cycle (`gc=False`): a third of the time to read rows was the garbage collector's.
class _NamedRow(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    metric: str
    timestamp: str
    value: float


class _NumberedRow(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    metric_id: int
    timestamp: str
    value: float


class _Series(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    timestamps: list[str]
    values: list[float]
    metric_id: int | None = None
    metric: str | None = None


class _NamedRows(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    readings: list[_NamedRow]


class _NumberedRows(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    readings: list[_NumberedRow]


class _AllSeries(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    series: list[_Series]


_FIELDS = frozenset({"metric", "metric_id", "timestamp", "value"})
# A body that is of another kind is found out at its first row.
_decoders: tuple[msgspec.json.Decoder[_NamedRows | _NumberedRows | _AllSeries], ...] = (
    msgspec.json.Decoder(_NamedRows),
    msgspec.json.Decoder(_NumberedRows),
    msgspec.json.Decoder(_AllSeries),
)


def _read_json(body: bytes) -> Columns:
    for decoder in _decoders:
        try:
            document = decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
        if isinstance(document, _AllSeries):
            return _from_series([(_reference(s.metric_id, s.metric), s.timestamps, s.values) for s in document.series])
        return _from_rows(document.readings)
    return _read_json_carefully(body)


def _from_rows(rows: Sequence[_NamedRow] | Sequence[_NumberedRow]) -> Columns:
    if rows and isinstance(rows[0], _NumberedRow):
        references: list[Any] = [row.metric_id for row in rows]  # type: ignore[union-attr]  # all are like the first
    else:
        references = [row.metric for row in rows]  # type: ignore[union-attr]
    return columns_of(*_distinct(references), [row.timestamp for row in rows], [row.value for row in rows])


def _distinct(references: list[Any]) -> tuple[list[Any], np.ndarray]:
    """The different ones, and each row's position among them."""
    if len(references) > FEW:
        with contextlib.suppress(pa.ArrowException, TypeError, ValueError):  # half a character, or not all are texts
            texts = pa.array(references, pa.string())
            if not texts.null_count:
                return encoded(texts)
    position: dict[Any, int] = {}
    places = [position.setdefault(reference, len(position)) for reference in references]
    return list(position), np.array(places, np.int64)


def _read_json_carefully(body: bytes) -> Columns:
    document = _decoded(body)
    if not isinstance(document, dict) or len(document) != 1:
        raise _neither_rows_nor_columns()
    ((name, content),) = document.items()
    if name not in ("readings", "series") or not isinstance(content, list):
        raise _neither_rows_nor_columns()
    if name == "series":
        return _from_series([_checked_series(index, item) for index, item in enumerate(content)])
    references, timestamps, values, odd = [], [], [], {}
    for index, item in enumerate(content):
        row = item if isinstance(item, dict) else {}
        if not isinstance(item, dict):
            odd[index] = "A reading is an object with `metric_id` or `metric`, `timestamp` and `value`."
        elif not row.keys() <= _FIELDS:
            odd[index] = f"There is no field {shown(min(row.keys() - _FIELDS))} in a reading."
        references.append(_reference(row.get("metric_id"), row.get("metric")))
        timestamps.append(row.get("timestamp"))
        values.append(row.get("value"))
    return columns_of(*_distinct(references), timestamps, values, odd=odd)


def _decoded(body: bytes) -> Any:
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return msgspec.json.decode(body)  # 5 times as fast, but strict: no NaN, no number that is too large
    try:
        # decoded here, as json.loads would guess other encodings
        return json.loads(body.decode("utf-8-sig"), parse_int=_whole_number)
    except RecursionError as error:
        raise Unreadable("The JSON is nested too deep.") from error
    except UnicodeDecodeError as error:
        raise _not_utf8(error) from error
    except ValueError as error:
        raise Unreadable(f"The body is not JSON: {error}.") from error


def _not_utf8(error: UnicodeDecodeError) -> Unreadable:
    return Unreadable(f"The body is not UTF-8: {error.reason} at byte {error.start}.")


def _whole_number(digits: str) -> int | float:
    return int(digits) if len(digits) < _LONGEST_NUMBER else math.copysign(math.inf, -1 if digits[0] == "-" else 1)


def _neither_rows_nor_columns() -> Unreadable:
    return Unreadable('The body is neither `{"readings": […]}` nor `{"series": […]}`.')


def _checked_series(index: int, item: Any) -> tuple[Any, list[Any], list[Any]]:
    if not isinstance(item, dict):
        raise _bad_series(index, "is no object")
    timestamps, values = item.get("timestamps"), item.get("values")
    if not isinstance(timestamps, list) or not isinstance(values, list):
        raise _bad_series(index, "needs `timestamps` and `values`, both lists")
    if unknown := sorted(map(str, item.keys() - {"metric_id", "metric", "timestamps", "values"})):
        raise _bad_series(index, f"has a field {shown(unknown[0])}, which there is not")
    return _reference(item.get("metric_id"), item.get("metric")), timestamps, values


def _from_series(series: Sequence[tuple[Any, list[Any], list[Any]]]) -> Columns:
    timestamps: list[Any] = []
    values: list[Any] = []
    for index, (_, some_timestamps, some_values) in enumerate(series):
        if len(some_timestamps) != len(some_values):
            raise _bad_series(index, f"has {len(some_timestamps)} timestamps and {len(some_values)} values")
        timestamps += some_timestamps
        values += some_values
    reference_of = np.repeat(np.arange(len(series)), [len(item[1]) for item in series])
    return columns_of([reference for reference, _, _ in series], reference_of, timestamps, values)


def _bad_series(index: int, what: str) -> Unreadable:
    detail = f"Series {index} {what}; nothing was stored."
    return Unreadable(detail, faults=(Fault(f"/series/{index}", detail),))


def _reference(metric_id: Any, metric: Any) -> Any:
    """The reading's one metric; `None` if it names none, or two, or something else than a number or a text."""
    if (metric_id is None) == (metric is None):
        return None
    reference = metric if metric_id is None else metric_id
    wanted = str if metric_id is None else int
    if not isinstance(reference, wanted) or isinstance(reference, bool):
        return None
    return encodable(reference) if isinstance(reference, str) else reference


# ── CSV ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

_TEXTS = pa.dictionary(pa.int32(), pa.string())


def _read_csv(body: bytes) -> Columns:
    body = body.removeprefix(b"\xef\xbb\xbf")
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise _not_utf8(error) from error
    if not body.strip():
        raise Unreadable("The CSV is empty; its first line is `metric,timestamp,value`.")
    if b"\n" not in body:
        body += b"\n"
    header = body[: body.find(b"\n")]
    names = [name.strip().strip('"') for name in header.decode("utf-8", "replace").rstrip("\r").split(",")]
    _check_header(names)
    odd: dict[int, str] = {}
    table = _csv_table(body, names, odd, values=pa.float64())
    if table is None or odd:
        odd.clear()
        table = _csv_table(body, names, odd, values=pa.string())
        assert table is not None  # all of it is text
    fields = {name: _with_gaps(_as_one(table.column(name)), odd) for name in names}
    named, reference_of = encoded(fields["metric" if "metric" in fields else "metric_id"])
    references: list[Any] = [name.strip() for name in named]
    if "metric" not in fields:
        references = [int(name) if name.isascii() and name.isdigit() and len(name) < 19 else None for name in named]
    values = fields["value"]
    columns = columns_of(
        references,
        reference_of,
        fields["timestamp"],
        values if values.type == pa.string() else values.to_numpy(),
        odd=odd,
    )
    if "unit" in fields:
        columns.unit_names, units = encoded(fields["unit"])
        columns.units = units.astype(np.int64)
    return columns


def _csv_table(body: bytes, names: list[str], odd: dict[int, str], *, values: pa.DataType) -> pa.Table | None:
    """The CSV as columns; `None` if a value is no finite number, and numbers were asked for.

    What is wrong with lines of too few or too many fields, which the table does not have, is put into `odd`.
    """

    def ragged(row: pa_csv.InvalidRow) -> str:
        # numbered from 1, the header among them, empty lines not; always known as one thread reads
        odd[row.number - 2] = f"{row.actual_columns} fields, where the header has {row.expected_columns}."
        return "skip"

    types = dict.fromkeys(names, _TEXTS) | {"timestamp": pa.string(), "value": values}
    try:
        table = pa_csv.read_csv(
            pa.BufferReader(body),
            read_options=pa_csv.ReadOptions(
                column_names=names, skip_rows=1, use_threads=False, block_size=max(_CHUNK, len(body))
            ),
            parse_options=pa_csv.ParseOptions(invalid_row_handler=ragged),
            convert_options=pa_csv.ConvertOptions(column_types=types, strings_can_be_null=False, null_values=[]),
        )
    except pa.ArrowInvalid as error:
        if values != pa.string():
            return None
        raise Unreadable(f"The CSV can't be read: {str(error)[:200]}") from error
    if values != pa.string() and not np.isfinite(table.column("value").to_numpy()).all():
        return None
    return table


def _as_one(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.unify_dictionaries().combine_chunks()


def _with_gaps(column: pa.Array, gaps: Collection[int]) -> pa.Array:
    """The column with an empty text at each of the gaps' positions."""
    if not gaps:
        return column
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    is_gap = np.zeros(len(column) + len(gaps), bool)
    is_gap[list(gaps)] = True
    where = np.cumsum(~is_gap) - 1
    return column.take(pa.array(where, pa.int64(), mask=is_gap)).fill_null("")


def _check_header(names: list[str]) -> None:
    if not are_columns(names):
        raise Unreadable(
            f"The CSV's first line is {shown(','.join(names), most=120)}; it must be `metric,timestamp,value` "
            "(`metric_id` instead of `metric` will do, and `unit` may follow)."
        )
