"""History as JSON, CSV, Parquet and Arrow: pieces of columns in, pieces of bytes out, without an object a row.

A writer is a generator: it holds one piece at a time, however long the history is. Closing it early is fine.
"""

import io
from collections.abc import Callable, Iterator
from itertools import groupby, pairwise
from tempfile import SpooledTemporaryFile
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet

from kilowatch.history.model import Floats, HistoryStream, Milliseconds, Series, SeriesRequest
from kilowatch.kit import timespan
from kilowatch.kit.timespan import Window, from_ms, iso_suffix

JSON = "application/json"
CSV = "text/csv"
PARQUET = "application/vnd.apache.parquet"
ARROW = "application/vnd.apache.arrow.stream"

_ROWS_AT_ONCE = 32_768
_ROWS_A_GROUP = 262_144
PART_BYTES = 512 * 1024
"""The last part alone has less."""

_VALUES_IN_MEMORY = 16 * 1024 * 1024

Writer = Callable[[HistoryStream], Iterator[bytes]]


def write(stream: HistoryStream, media: str) -> Iterator[bytes]:
    """The history in the format of that media type (one of `WRITERS`), in parts of some hundred kB to a few MB.

    Only the last part is smaller, so a short history comes as one.
    """
    waiting: list[bytes] = []
    size = 0
    for part in WRITERS[media](stream):
        waiting.append(part)
        size += len(part)
        if size >= PART_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


# ── JSON ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_json(stream: HistoryStream) -> Iterator[bytes]:
    """The contract's JSON; NaN is null, times carry the zone's offset."""
    yield orjson.dumps(_heading(stream))[:-1] + b',"series":['
    times = _Times(stream.timezone, kept=stream.resolution is not None)
    for number, (_, pieces) in enumerate(groupby(stream.pieces, key=lambda piece: piece.request.metric.id)):
        yield b"," if number else b""
        yield from _series_json(stream, pieces, times)
    yield b"]," + orjson.dumps({"next": stream.next, "unavailable": list(stream.unavailable)})[1:]


def _heading(stream: HistoryStream) -> dict[str, str]:
    start, end = (_Times(stream.timezone).one(instant) for instant in (stream.window.start_ms, stream.window.end_ms))
    resolution = stream.resolution.name if stream.resolution else "raw"
    return {"start": start, "end": end, "resolution": resolution, "timezone": stream.timezone}


def _series_json(stream: HistoryStream, pieces: Iterator[Series], times: "_Times") -> Iterator[bytes]:
    """One series. Its values come after all its times, so they wait: in memory, or in a file where they are many."""
    with SpooledTemporaryFile(max_size=_VALUES_IN_MEMORY) as values:
        coverage: list[Floats] = []
        empty, request = True, None
        for piece in pieces:
            if request is None:
                request = piece.request
                heading = _series_heading(request)
                if (raw_from := stream.raw_from.get(request.metric.id)) is not None:
                    heading["raw_from"] = times.one(raw_from)
                yield orjson.dumps(heading)[:-1] + b',"timestamps":['
            for begin in range(0, len(piece.timestamps), _ROWS_AT_ONCE):
                text = times.text(piece.timestamps[begin : begin + _ROWS_AT_ONCE])
                yield text if empty else b"," + text
                empty = False
            values.write(piece.values.tobytes())
            if piece.coverage is not None:
                coverage.append(piece.coverage)
        yield b'],"values":['
        values.seek(0)
        yield from _numbers(
            np.frombuffer(block, np.float64) for block in iter(lambda: values.read(_ROWS_AT_ONCE * 8), b"")
        )
    if coverage:
        yield b'],"coverage":['
        yield from _numbers(iter(coverage))
    yield b"]}"


def _series_heading(request: SeriesRequest) -> dict[str, Any]:
    metric = request.metric
    return {
        "metric_id": metric.id,
        "site": metric.site,
        "device": metric.device,
        "metric": metric.key,
        "unit": request.unit,
        "aggregate": request.aggregate,
    }


def _numbers(blocks: Iterator[Floats]) -> Iterator[bytes]:
    comma = b""
    for block in blocks:
        if len(block):
            yield comma + orjson.dumps(np.ascontiguousarray(block), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
            comma = b","


# ── times ────────────────────────────────────────────────────────────────────────────────────────────────────────────

_DAY_MS = 86_400_000
# "HH:MM:SS" of every second of a day, each as one number of eight bytes.
_CLOCK = np.frombuffer(
    "".join(f"{h:02d}:{m:02d}:{s:02d}" for h in range(24) for m in range(60) for s in range(60)).encode(), "<u8"
)
_FRACTION = np.frombuffer("".join(f".{ms:03d}" for ms in range(1000)).encode(), "<u4")
# "2025-06-01T00:00:00+01:00", and with milliseconds
_WHOLE = np.dtype({"names": ["clock"], "formats": ["<u8"], "offsets": [12], "itemsize": 28})
_FINE = np.dtype({"names": ["clock", "fraction"], "formats": ["<u8", "<u4"], "offsets": [12, 20], "itemsize": 32})


class _Times:
    """RFC 3339 times of a zone. Between two changes of clock the offset is one, so each such span is written at once.

    RFC 3339 has no seconds in an offset; the few historic ones that have them are shown to the minute.
    """

    def __init__(self, timezone: str, *, kept: bool = False) -> None:
        """With `kept`, the text of the last array is used again for an equal one: series of buckets share theirs."""
        self._zone = timespan.zone(timezone)
        self._kept = kept
        self._last: tuple[Milliseconds, bytes] | None = None

    def one(self, instant: int) -> str:
        return self.text(np.array([instant], np.int64))[1:-1].decode()

    def text(self, timestamps: Milliseconds) -> bytes:
        """The inside of a JSON array: quoted, with commas between. The times rise."""
        if self._last is not None and np.array_equal(self._last[0], timestamps):
            return self._last[1]
        text = b"".join(
            _quoted(timestamps[begin:end] + offset, iso_suffix(offset), last=end == len(timestamps))
            for begin, end, offset in self._spans(timestamps)
        )
        if self._kept:
            self._last = timestamps, text
        return text

    def column(self, timestamps: Milliseconds) -> pa.Array:
        """The same as strings."""
        text = self.text(timestamps)
        size, width = len(timestamps), _WHOLE.itemsize
        if len(text) + 1 != size * width:  # some have milliseconds, so they are of different lengths
            return pa.array(orjson.loads(b"[" + text + b"]"), pa.string())
        bare = np.frombuffer(text + b",", np.uint8).reshape(size, width)[:, 1:-2].tobytes()
        offsets = np.arange(size + 1, dtype=np.int32) * (width - 3)
        return pa.StringArray.from_buffers(size, pa.py_buffer(offsets), pa.py_buffer(bare))

    def _spans(self, timestamps: Milliseconds) -> Iterator[tuple[int, int, int]]:
        """Where the times have one offset: (first, behind the last, offset in ms)."""
        if not len(timestamps):
            return
        span = Window(from_ms(int(timestamps[0])), from_ms(int(timestamps[-1]) + 1))
        bounds = np.array([span.start_ms, *timespan.transitions(span, self._zone), span.end_ms])
        places = np.searchsorted(timestamps, bounds)
        for (begin, end), instant in zip(pairwise(places.tolist()), bounds.tolist(), strict=False):
            if begin < end:
                yield begin, end, timespan.offset_ms(from_ms(instant), self._zone) // 60_000 * 60_000


def _quoted(local: Milliseconds, suffix: str, *, last: bool) -> memoryview:
    """Local times that rise, as `"2025-06-01T00:00:00+01:00",` each; with three digits of fraction if it is not 0.

    With `last`, there is no comma behind the last of them.
    """
    seconds = local // 1000
    days = seconds // 86_400
    clock = _CLOCK.take(seconds - days * 86_400)
    fraction = local - seconds * 1000
    some_are_fine = bool(fraction.any())
    begins = np.append(0, np.flatnonzero(days[1:] != days[:-1]) + 1)
    middle = "T00:00:00.000" if some_are_fine else "T00:00:00"
    templates = [f'"{day}{middle}{suffix}",' for day in np.datetime_as_string(days[begins].astype("datetime64[D]"))]
    form = _FINE if some_are_fine else _WHOLE
    lines = np.frombuffer("".join(templates).encode(), f"V{form.itemsize}")
    lines = np.repeat(lines, np.diff(begins, append=len(days))).view(form)
    lines["clock"] = clock
    text = lines.view(np.uint8)
    if not some_are_fine:
        return text[: len(text) - last].data
    lines["fraction"] = _FRACTION.take(fraction)
    kept = np.ones((len(lines), _FINE.itemsize), bool)
    kept[fraction == 0, 20:24] = False
    text = text[kept.reshape(-1)]
    return text[: len(text) - last].data


# ── CSV ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_csv(stream: HistoryStream) -> Iterator[bytes]:
    """A line a value: `metric` (site/device/key), `timestamp`, `value` (empty for a gap), `unit`; and, if aggregated,
    `aggregate` and `coverage`."""
    columns = ["metric", "timestamp", "value", "unit", *(("aggregate", "coverage") if stream.resolution else ())]
    yield (",".join(columns) + "\n").encode()
    options = pa_csv.WriteOptions(include_header=False, quoting_style="none")
    times = _Times(stream.timezone, kept=stream.resolution is not None)
    for piece in _short_pieces(stream.pieces):
        size, request = len(piece.timestamps), piece.request
        data = {
            "metric": pa.repeat(request.metric.path, size),
            "timestamp": times.column(piece.timestamps),
            "value": pa.array(piece.values, from_pandas=True),
            "unit": pa.repeat(request.unit, size),
        }
        if piece.coverage is not None:
            data |= {"aggregate": pa.repeat(request.aggregate, size), "coverage": pa.array(piece.coverage)}
        sink = pa.BufferOutputStream()
        pa_csv.write_csv(pa.table(data), sink, options)
        yield sink.getvalue().to_pybytes()


# ── Arrow and Parquet ────────────────────────────────────────────────────────────────────────────────────────────────


def write_arrow(stream: HistoryStream) -> Iterator[bytes]:
    """An Arrow stream, the columns as `_Columns` has them."""
    columns, sink = _Columns(stream), _Sink()
    with pa.ipc.new_stream(pa.PythonFile(sink, "w"), columns.schema) as writer:
        yield sink.take()
        for piece in _short_pieces(stream.pieces):
            writer.write_batch(columns.batch(piece))
            yield sink.take()
    yield sink.take()


def write_parquet(stream: HistoryStream) -> Iterator[bytes]:
    """A Parquet file, the columns as `_Columns` has them, with some 100,000 rows a row group."""
    columns, sink = _Columns(stream), _Sink()
    dictionaries = [name for name in columns.schema.names if pa.types.is_dictionary(columns.schema.field(name).type)]
    with pa_parquet.ParquetWriter(
        pa.PythonFile(sink, "w"), columns.schema, compression="zstd", use_dictionary=dictionaries
    ) as writer:
        for group in _grouped(columns.batch(piece) for piece in _short_pieces(stream.pieces)):
            writer.write_table(pa.Table.from_batches(group), row_group_size=2 * _ROWS_A_GROUP)
            yield sink.take()
    yield sink.take()


class _Columns:
    """A history as Arrow columns.

    `metric_id` (int64), `metric` (`site/device/key`), `timestamp` (ms, in the answer's zone), `value` (float64, null
    for a gap), `unit`; if aggregated, `aggregate` and `coverage` (float64) too. The texts are dictionaries. The
    schema's metadata has `start`, `end`, `resolution`, `timezone`, and `next` if another page follows.
    """

    def __init__(self, stream: HistoryStream) -> None:
        self._places = {request.metric.id: place for place, request in enumerate(stream.requests)}
        texts: dict[str, list[str]] = {
            "metric": [request.metric.path for request in stream.requests],
            "unit": [request.unit for request in stream.requests],
        }
        if stream.resolution is not None:
            texts["aggregate"] = [request.aggregate or "" for request in stream.requests]
        # One dictionary a column for the whole stream; where each request's text is in it.
        self._dictionaries = {name: pa.array(dict.fromkeys(column), pa.string()) for name, column in texts.items()}
        self._codes = {
            name: np.array([index[text] for text in column], np.int32)
            for name, column in texts.items()
            for index in ({text: code for code, text in enumerate(dict.fromkeys(column))},)
        }
        self._time = pa.timestamp("ms", stream.timezone)
        self.schema = pa.schema(self._fields(), metadata=_metadata(stream))

    def _fields(self) -> list[pa.Field]:
        text = pa.dictionary(pa.int32(), pa.string())
        fields = [
            pa.field("metric_id", pa.int64(), nullable=False),
            pa.field("metric", text, nullable=False),
            pa.field("timestamp", self._time, nullable=False),
            pa.field("value", pa.float64()),
            pa.field("unit", text, nullable=False),
        ]
        if "aggregate" in self._codes:
            fields += [pa.field("aggregate", text, nullable=False), pa.field("coverage", pa.float64(), nullable=False)]
        return fields

    def batch(self, piece: Series) -> pa.RecordBatch:
        size, metric = len(piece.timestamps), piece.request.metric
        place = self._places[metric.id]
        columns = {
            "metric_id": pa.array(np.full(size, metric.id, np.int64)),
            "timestamp": pa.array(piece.timestamps).cast(self._time),
            "value": pa.array(piece.values, from_pandas=True),
        }
        for name, codes in self._codes.items():
            indices = pa.array(np.full(size, codes[place], np.int32))
            columns[name] = pa.DictionaryArray.from_arrays(indices, self._dictionaries[name])
        if piece.coverage is not None:
            columns["coverage"] = pa.array(piece.coverage)
        return pa.RecordBatch.from_arrays([columns[name] for name in self.schema.names], schema=self.schema)


def _metadata(stream: HistoryStream) -> dict[str, str]:
    following = {"next": stream.next} if stream.next is not None else {}
    return _heading(stream) | following


class _Sink(io.RawIOBase):
    """Takes what a writer of Arrow writes, until it is taken away."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, part: Any) -> int:
        self._parts.append(bytes(part))
        return len(self._parts[-1])

    def take(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


def _short_pieces(pieces: Iterator[Series]) -> Iterator[Series]:
    """Pieces of some 10,000 rows, none of them empty."""
    for piece in pieces:
        for begin in range(0, len(piece.timestamps), _ROWS_AT_ONCE):
            yield piece.part(begin, begin + _ROWS_AT_ONCE)


def _grouped(batches: Iterator[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    group: list[pa.RecordBatch] = []
    for batch in batches:
        group.append(batch)
        if sum(one.num_rows for one in group) >= _ROWS_A_GROUP:
            yield group
            group = []
    if group:
        yield group


WRITERS: dict[str, Writer] = {JSON: write_json, CSV: write_csv, PARQUET: write_parquet, ARROW: write_arrow}
"""By media type."""
