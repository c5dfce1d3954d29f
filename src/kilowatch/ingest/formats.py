"""Request bodies to columns: JSON rows, JSON columns and CSV, plain or compressed with gzip or zstd.

Each has a fast way, in which the whole column is read at once by a library, and a careful one, taken when something in
it is wrong, which finds out for each row what is.
"""

import json
import math
import re
import sys
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import date
from typing import Any, Protocol

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from kilowatch.errors import Fault, TooLarge, UnknownFormat, Unreadable
from kilowatch.ingest.model import Columns, Reference, RowCode, Verdicts

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

JSON, CSV = "application/json", "text/csv"
_CHUNK = 1 << 20
_PIECE = 1 << 16
_MOST_MEMBERS = 1000  # each costs a new stream, and an empty one has no more than 9 bytes
_MICROSECONDS, _NANOSECONDS = pa.timestamp("us", "UTC"), pa.timestamp("ns", "UTC")
_LONGEST_NUMBER = 400  # digits; Python makes no int of more than 4300, and no float of more than 309
_WHITE_SPACE = " \t\n\r\v\f"
_NAME_ONE_METRIC = "A reading names one metric: `metric_id`, or `metric` as `site/device/key`."
_TIMESTAMP_HINT = "write RFC 3339 with an offset, such as `2025-06-01T00:00:00Z`"


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


# ── entry ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def read(body: bytes, content_type: str | None) -> Columns:
    """Columns from a body. Raises `Unreadable` or `UnknownFormat`; what is wrong with single rows is in `verdicts`."""
    media = (content_type or JSON).split(";")[0].strip().lower()
    if media == JSON:
        return _read_json(body)
    if media in (CSV, "application/csv"):
        return _read_csv(body)
    raise UnknownFormat(f"Content-Type {media!r} is not read here; send {JSON} or {CSV}.")


# ── JSON ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Row(msgspec.Struct, forbid_unknown_fields=True):
    timestamp: str
    value: float
    metric_id: int | None = None
    metric: str | None = None


class _Series(msgspec.Struct, forbid_unknown_fields=True):
    timestamps: list[str]
    values: list[float]
    metric_id: int | None = None
    metric: str | None = None


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    readings: list[_Row] | None = None
    series: list[_Series] | None = None


_FIELDS = frozenset(_Row.__struct_fields__)
_decoder = msgspec.json.Decoder(_Body)


def _read_json(body: bytes) -> Columns:
    try:
        document = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _read_json_carefully(body)
    if (document.readings is None) == (document.series is None):
        raise _neither_rows_nor_columns()
    if document.readings is not None:
        rows = document.readings
        return _columns(
            [_reference(row.metric_id, row.metric) for row in rows],
            [row.timestamp for row in rows],
            [row.value for row in rows],
        )
    return _from_series([(_reference(s.metric_id, s.metric), s.timestamps, s.values) for s in document.series or ()])


def _read_json_carefully(body: bytes) -> Columns:
    try:
        # decoded here, as json.loads would guess other encodings
        document = json.loads(body.decode("utf-8-sig"), parse_int=_whole_number)
    except RecursionError as error:
        raise Unreadable("The JSON is nested too deep.") from error
    except UnicodeDecodeError as error:
        raise _not_utf8(error) from error
    except ValueError as error:
        raise Unreadable(f"The body is not JSON: {error}.") from error
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
            odd[index] = f"There is no field {_shown(min(row.keys() - _FIELDS))} in a reading."
        references.append(_reference(row.get("metric_id"), row.get("metric")))
        timestamps.append(row.get("timestamp"))
        values.append(row.get("value"))
    return _columns(references, timestamps, values, odd=odd)


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
        raise _bad_series(index, f"has a field {_shown(unknown[0])}, which there is not")
    return _reference(item.get("metric_id"), item.get("metric")), timestamps, values


def _from_series(series: Sequence[tuple[Any, list[Any], list[Any]]]) -> Columns:
    references: list[Any] = []
    timestamps: list[Any] = []
    values: list[Any] = []
    for index, (reference, some_timestamps, some_values) in enumerate(series):
        if len(some_timestamps) != len(some_values):
            raise _bad_series(index, f"has {len(some_timestamps)} timestamps and {len(some_values)} values")
        references += [reference] * len(some_timestamps)
        timestamps += some_timestamps
        values += some_values
    return _columns(references, timestamps, values)


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
    return _encodable(reference) if isinstance(reference, str) else reference


# ── CSV ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

_CSV_COLUMNS = ("metric", "metric_id", "timestamp", "value", "unit")


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

    def ragged(row: pa_csv.InvalidRow) -> str:
        # numbered from 1, the header among them, empty lines not; always known as one thread reads
        odd[row.number - 2] = f"{row.actual_columns} fields, where the header has {row.expected_columns}."
        return "skip"

    try:
        table = pa_csv.read_csv(
            pa.BufferReader(body),
            read_options=pa_csv.ReadOptions(
                column_names=names, skip_rows=1, use_threads=False, block_size=max(_CHUNK, len(body))
            ),
            parse_options=pa_csv.ParseOptions(invalid_row_handler=ragged),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False, null_values=[]
            ),
        )
    except pa.ArrowInvalid as error:
        raise Unreadable(f"The CSV can't be read: {str(error)[:200]}") from error
    text = {name: _with_gaps(table.column(name).combine_chunks(), odd) for name in names}
    by_name = "metric" in text
    encoded = text["metric" if by_name else "metric_id"].dictionary_encode()
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    named: list[Any] = [value.strip() for value in encoded.dictionary.to_pylist()]
    if not by_name:
        named = [int(value) if value.isascii() and value.isdigit() and len(value) < 19 else None for value in named]
    reference_of = encoded.indices.to_numpy(zero_copy_only=False)
    columns = _columns_of(named, reference_of, text["timestamp"], text["value"], odd=odd)
    if "unit" in text:
        units = text["unit"].dictionary_encode()
        columns.unit_names = units.dictionary.to_pylist()
        columns.units = units.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return columns


def _with_gaps(column: pa.Array, gaps: Collection[int]) -> pa.Array:
    """The column with an empty text at each of the gaps' positions."""
    if not gaps:
        return column
    is_gap = np.zeros(len(column) + len(gaps), bool)
    is_gap[list(gaps)] = True
    where = np.cumsum(~is_gap) - 1
    return column.take(pa.array(where, pa.int64(), mask=is_gap)).fill_null("")


def _check_header(names: list[str]) -> None:
    known = set(names) <= set(_CSV_COLUMNS) and len(set(names)) == len(names)
    if not known or not {"timestamp", "value"} <= set(names) or len({"metric", "metric_id"} & set(names)) != 1:
        raise Unreadable(
            f"The CSV's first line is {_shown(','.join(names), most=120)}; it must be `metric,timestamp,value` "
            "(`metric_id` instead of `metric` will do, and `unit` may follow)."
        )


# ── columns ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _columns(
    references: list[Any], timestamps: list[Any], values: list[Any], *, odd: dict[int, str] | None = None
) -> Columns:
    distinct: dict[Any, int] = {}
    reference_of = np.fromiter(
        (distinct.setdefault(reference, len(distinct)) for reference in references), np.int64, len(references)
    )
    return _columns_of(list(distinct), reference_of, timestamps, values, odd=odd or {})


def _columns_of(
    named: list[Any], reference_of: np.ndarray, timestamps: Any, values: Any, *, odd: Mapping[int, str]
) -> Columns:
    """`named` are the distinct references, `None` for what is none; the rest are columns of texts and numbers.

    `odd` says what is wrong with the shape of rows that have a wrong one.
    """
    verdicts = Verdicts(len(reference_of))
    for row, detail in odd.items():
        verdicts.refuse(row, "malformed", detail)
    reference_of = reference_of.astype(np.int64)
    unusable = np.array([reference is None for reference in named], bool)
    if unusable.any():
        nameless = unusable[reference_of]
        verdicts.refuse_where(nameless, "missing_metric", lambda _row: _NAME_ONE_METRIC)
        reference_of = np.where(nameless, -1, reference_of)
    references: list[Reference] = ["" if reference is None else reference for reference in named]
    return Columns(references, reference_of, _timestamps(timestamps, verdicts), _values(values, verdicts), verdicts)


def _timestamps(texts: Any, verdicts: Verdicts) -> np.ndarray:
    """Ms since 1970, rounded down; 0 where a row is refused."""
    try:
        array = texts if isinstance(texts, pa.Array) else pa.array(texts, pa.string())
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        pass  # something in it is no text: the careful way says which rows
    else:
        if _all_have_minutes(array):
            for unit in (_MICROSECONDS, _NANOSECONDS):  # microseconds reach further, nanoseconds have nine digits
                try:
                    ticks: np.ndarray = array.cast(unit).cast(pa.int64()).to_numpy(zero_copy_only=False)
                except pa.ArrowException:
                    continue
                return ticks // (1_000 if unit is _MICROSECONDS else 1_000_000)
    items: Iterable[Any] = texts.to_pylist() if isinstance(texts, pa.Array) else texts
    return _each(items, verdicts, _one_timestamp, np.int64)


def _all_have_minutes(texts: pa.Array) -> bool:
    """Whether each has a `:` where `2025-06-01T00:00` has it: Arrow also reads `2025-06-01` and `2025-06-01T00Z`."""
    if texts.null_count or not len(texts):
        return False
    if pc.min(pc.binary_length(texts)).as_py() <= len("2025-06-01T00:00"):
        return False
    starts = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts)]
    letters = np.frombuffer(texts.buffers()[2], np.uint8)
    return bool((letters[starts + len("2025-06-01T00")] == ord(":")).all())


# Exactly what the fast way reads, and `t` and `z`, digits beyond nanoseconds, and white space around.
_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ]([01]\d|2[0-3]):([0-5]\d)(?::([0-5]\d)(?:\.(\d+))?)?"
    r"(?:[Zz]|([+-])([01]\d|2[0-3])(?::?([0-5]\d))?)",
    re.ASCII,
)
_NAIVE = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d+)?)?", re.ASCII)
_FIRST_DAY = date(1970, 1, 1).toordinal()


def _one_timestamp(item: Any) -> int | tuple[RowCode, str]:
    if not isinstance(item, str):
        return "bad_timestamp", f"The timestamp is {_shown(item)}; {_TIMESTAMP_HINT}."
    text = item.strip(_WHITE_SPACE)
    match = _RFC3339.fullmatch(text)
    if match is None:
        if _NAIVE.fullmatch(text):
            return "naive_timestamp", f"{_shown(item)} has no offset from UTC; {_TIMESTAMP_HINT}."
        return "bad_timestamp", f"{_shown(item)} is no time; {_TIMESTAMP_HINT}."
    year, month, day, hour, minute, second, fraction, sign, offset_hours, offset_minutes = match.groups()
    try:
        # year 0, which `date` does not know and Arrow does, is like 2000, five times 400 years before it
        like, shift = (2000, 5 * 146_097) if year == "0000" else (int(year), 0)
        days = date(like, int(month), int(day)).toordinal() - shift - _FIRST_DAY
    except ValueError:
        return "bad_timestamp", f"{_shown(item)} is no day of the calendar; {_TIMESTAMP_HINT}."
    offset = int(offset_hours or 0) * 60 + int(offset_minutes or 0)
    minutes = (days * 24 + int(hour)) * 60 + int(minute) + (offset if sign == "-" else -offset)
    return (minutes * 60 + int(second or 0)) * 1000 + int(((fraction or "") + "000")[:3])


def _values(items: Any, verdicts: Verdicts) -> np.ndarray:
    """Float64; NaN where a row is refused."""
    try:
        if isinstance(items, pa.Array):
            values: np.ndarray = pc.cast(pc.ascii_trim_whitespace(items), pa.float64()).to_numpy(zero_copy_only=False)
        elif all(type(item) is float for item in items):
            values = np.array(items, np.float64)
        else:
            raise ValueError
        if np.isfinite(values).all():
            return values
    except (pa.ArrowException, TypeError, ValueError):
        pass
    texts = items.to_pylist() if isinstance(items, pa.Array) else items
    one = _one_text_value if isinstance(items, pa.Array) else _one_value
    return _each(texts, verdicts, one, np.float64)


def _one_value(item: Any) -> float | tuple[RowCode, str]:
    if isinstance(item, bool) or not isinstance(item, int | float):
        return "bad_value", f"The value is {_shown(item)}, not a number."
    try:
        value = float(item)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        return "not_finite", f"{_shown(item)} is not a finite number of 64 bits."
    return value


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE | re.ASCII)


def _one_text_value(item: str) -> float | tuple[RowCode, str]:
    text = item.strip(_WHITE_SPACE)
    if _NUMBER.fullmatch(text):
        value = float(text)
        if math.isfinite(value):
            return value
    elif not _NOT_FINITE.fullmatch(text):
        return "bad_value", f"The value is {_shown(item)}, not a number."
    return "not_finite", f"{_shown(item)} is not a finite number of 64 bits."


def _each(
    items: Iterable[Any], verdicts: Verdicts, one: Callable[[Any], Any], dtype: type[np.int64 | np.float64]
) -> np.ndarray:
    out = np.zeros(len(verdicts.refused), dtype)
    for row, (item, is_refused) in enumerate(zip(items, verdicts.refused.tolist(), strict=True)):
        if is_refused:
            continue
        outcome = one(item)
        if isinstance(outcome, tuple):
            verdicts.refuse(row, *outcome)
        else:
            out[row] = outcome
    return out


def _shown(item: Any, *, most: int = 40) -> str:
    if item is None:
        return "missing"
    text = _encodable(item if isinstance(item, str) else json.dumps(item, default=str))
    return repr(text[:most] + "…" if len(text) > most else text)


def _encodable(text: str) -> str:
    """JSON's escapes can spell half a surrogate pair, which is no character and fits no answer, log or database."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
