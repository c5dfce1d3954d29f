"""Files of readings, in parts that are small enough for memory and that `Intake` takes as it does request bodies."""

import contextlib
import gzip
import io
import itertools
import json
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, cast, get_args

from kilowatch.cli.resuming import Place
from kilowatch.errors import Invalid
from kilowatch.kit.compression import zstd

if TYPE_CHECKING:
    import pyarrow as pa

Format = Literal["csv", "json", "jsonl", "parquet", "arrow", "line"]
FORMATS: tuple[Format, ...] = get_args(Format)
_SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".ipc": "arrow",
    ".lp": "line",
    ".line": "line",
}
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_BOM = b"\xef\xbb\xbf"
_PARQUET, _ARROW_FILE, _ARROW_STREAM = b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"

PART_BYTES = 8 * 1024 * 1024
PART_ROWS = 250_000
LONGEST_LINE = 16 * 1024 * 1024
MOST_JSON = 32 * 1024 * 1024
"""A JSON document up to this size is taken as it is; of a larger one, `PART_ROWS` at a time."""


class Broken(Invalid):
    """The rest of the file can't be read."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some of a file's readings, as a body for `Intake`."""

    body: bytes
    kind: Literal["csv", "json", "arrow", "line"]
    place: Place
    """How much of the file is done when this part is."""
    read: int
    """Bytes of the file, as it is on the disk, that are read by now."""
    first: int
    """The number in the file of the first line (from 1) or row (from 0)."""
    lines: bytes | None = None
    """The lines that the rows of the body stand on; `None` if the file has none."""

    def where(self, row: int) -> str:
        """Where in the file a row of the body is; of line protocol `row` is the body's line, from 1."""
        if self.kind == "line":
            return f"line {self.first + row - 1}"
        if self.lines is None:
            return f"row {self.first + row}"
        numbers = (number for number, line in enumerate(self.lines.split(b"\n")) if line.rstrip(b"\r"))
        return f"line {self.first + next(itertools.islice(numbers, row, None), row)}"

    @property
    def span(self) -> str:
        last = self.place.rows - (self.lines is None)
        return f"{'row' if self.lines is None else 'line'}s {self.first:,} to {last:,}"


@dataclass(frozen=True, slots=True)
class Source:
    """A file, or standard input (`-`), and how it is to be read."""

    path: Path
    format: Format
    compressed: bool

    @classmethod
    def named(cls, path: Path, forced: str | None) -> "Source":
        """Raises `Invalid` if neither the name nor the option says the format."""
        if forced is not None and forced not in FORMATS:
            raise Invalid(f"--format is one of {', '.join(FORMATS)}.")
        suffixes = [suffix.lower() for suffix in path.suffixes]
        compressed = bool(suffixes) and suffixes[-1] in (".gz", ".zst")
        if compressed:
            suffixes.pop()
        found = forced or (_SUFFIXES.get(suffixes[-1]) if suffixes else None)
        if found is None:
            known = ", ".join(_SUFFIXES)
            raise Invalid(f"{path}: the name ends in none of {known} (or these with .gz or .zst); say --format.")
        return cls(path, found, compressed)

    @property
    def is_stdin(self) -> bool:
        return str(self.path) == "-"

    @property
    def name(self) -> str:
        return "standard input" if self.is_stdin else self.path.name

    @property
    def size(self) -> int | None:
        return None if self.is_stdin else self.path.stat().st_size

    def parts(self, after: Place) -> Iterator[Part]:
        """What comes after a place.

        Raises:
            Broken: the file can't be read any further.
        """
        import pyarrow as pa

        try:
            with _opened(self) as stream:
                yield from _READERS[self.format](stream, after)
        except (OSError, EOFError, zlib.error, pa.ArrowException, *_other_errors()) as error:
            raise Broken(f"it can't be read as {self._said}: {str(error)[:200] or type(error).__name__}") from error

    @property
    def _said(self) -> str:
        return self.format + (" (compressed)" if self.compressed else "")


def _other_errors() -> tuple[type[Exception], ...]:
    import ijson

    return zstd().ZstdError, ijson.JSONError, UnicodeDecodeError


# ── opening ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Stream:
    """A file's content, decompressed, and the file itself."""

    content: IO[bytes]
    raw: IO[bytes]

    @property
    def head(self) -> bytes:
        return cast(io.BufferedReader, self.content).peek(8)[:8]

    @property
    def is_file(self) -> bool:
        """Whether it is neither compressed nor a pipe."""
        return self.content is self.raw and self.raw.seekable()

    def read_so_far(self) -> int:
        """Bytes of the file itself."""
        return self.raw.tell() if self.raw.seekable() else 0

    def skip_to(self, position: int) -> None:
        """Forward to a position of the content; a pipe is never begun in its middle."""
        if self.content is self.raw and not self.raw.seekable():
            return
        if self.is_file:
            self.content.seek(position)
            return
        rest = position - self.content.tell()
        while rest > 0 and (skipped := len(self.content.read(min(rest, PART_BYTES)))):
            rest -= skipped

    @contextmanager
    def in_any_order(self) -> Iterator[IO[bytes]]:
        """The content as a file to be read in any order: what is compressed is written out first."""
        if self.is_file:
            yield self.raw
            return
        with tempfile.TemporaryFile() as file:
            shutil.copyfileobj(self.content, file, PART_BYTES)
            file.seek(0)
            yield file


@contextmanager
def _opened(source: Source) -> Iterator[_Stream]:
    with contextlib.nullcontext(sys.stdin.buffer) if source.is_stdin else source.path.open("rb") as file:
        raw = cast(IO[bytes], file)
        head = _Stream(raw, raw).head
        content = raw
        if head.startswith(_GZIP):
            content = cast(IO[bytes], gzip.GzipFile(fileobj=raw))
        elif head.startswith(_ZSTD):
            content = cast(IO[bytes], zstd().ZstdFile(raw))
        elif source.compressed:
            raise Broken("it is not compressed with gzip or zstd, though its name says so; rename it.")
        stream = _Stream(content, raw)
        _refuse_another_format(stream.head, source.format)
        yield stream


def _refuse_another_format(head: bytes, said: Format) -> None:
    """Binary formats are known by their first bytes."""
    found: Format | None = None
    if head.startswith(_PARQUET):
        found = "parquet"
    elif head.startswith((_ARROW_FILE, _ARROW_STREAM)):
        found = "arrow"
    if found and found != said:
        raise Broken(f"it is {found}, not {said}; rename it, or say --format {found}.")
    if said == "parquet" and found is None:
        raise Broken("it is not Parquet; rename it, or say what it is with --format.")


# ── text ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _blocks(stream: _Stream, after: Place) -> Iterator[tuple[bytes, Place]]:
    """Whole lines from a place on, some megabytes at a time, and the place behind them.

    Lines end with a line feed everywhere, as none of the formats has one inside a reading.
    """
    stream.skip_to(after.bytes)
    place, rest = after, b""
    while chunk := stream.content.read(PART_BYTES):
        lines, end, beginning = chunk.rpartition(b"\n")
        if not end:
            rest += chunk
            _refuse_long_line(rest, place)
            continue
        block = rest + lines + end
        place = Place(place.rows + block.count(b"\n"), place.bytes + len(block))
        yield block, place
        rest = beginning
    if rest:
        yield rest, Place(place.rows + 1, place.bytes + len(rest))


def _refuse_long_line(line: bytes, place: Place) -> None:
    if len(line) > LONGEST_LINE:
        raise Broken(f"line {place.rows + 1:,} is longer than {LONGEST_LINE:,} bytes; is it a text file?")


def _csv(stream: _Stream, after: Place) -> Iterator[Part]:
    header = stream.content.readline(LONGEST_LINE + 1)
    _refuse_long_line(header, Place())
    top = Place(1, len(header))
    begin = max(after, top)
    if b",coverage" in header and b"aggregate," in header:
        raise _aggregated()
    header = header.rstrip(b"\r\n") + b"\n"
    empty = after == Place()
    for block, place in _blocks(stream, begin):
        empty = False
        yield Part(header + block, "csv", place, stream.read_so_far(), begin.rows + 1, block)
        begin = place
    if empty:  # so that a header alone is checked, too
        yield Part(header, "csv", top, stream.read_so_far(), 1, b"")


def _json_lines(stream: _Stream, after: Place) -> Iterator[Part]:
    begin = after
    for block, place in _blocks(stream, after):
        body = b'{"readings":[' + b",".join(_objects(block)) + b"]}"
        yield Part(body, "json", place, stream.read_so_far(), begin.rows + 1, block)
        begin = place


def _objects(block: bytes) -> list[bytes]:
    """The lines of a block; `null`, which is refused as no reading, for one that is no JSON."""
    import msgspec

    lines = [line for line in block.removeprefix(_BOM).split(b"\n") if line.rstrip(b"\r")]
    try:
        block.decode()
        if len(msgspec.json.Decoder(msgspec.Raw).decode_lines(block.removeprefix(_BOM))) == len(lines):
            return lines
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    return [line if _is_json(line) else b"null" for line in lines]


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line.decode())
    except (ValueError, RecursionError):
        return False
    return True


def _line_protocol(stream: _Stream, after: Place) -> Iterator[Part]:
    begin = after
    for block, place in _blocks(stream, after):
        yield Part(block, "line", place, stream.read_so_far(), begin.rows + 1, block)
        begin = place


# ── JSON documents ───────────────────────────────────────────────────────────────────────────────────────────────────


def _json(stream: _Stream, after: Place) -> Iterator[Part]:
    """What the API takes, rows or columns, and the history that it answers.

    A large document is read an element at a time: a reading, or a series, which then fits memory.
    """
    with stream.in_any_order() as file:
        head = file.read(MOST_JSON + 1)
        if len(head) <= MOST_JSON and not _is_history(head):
            if not after.rows:
                yield Part(head, "json", Place(1, len(head)), stream.read_so_far(), 0)
            return
        file.seek(0)
        field = _field_of_readings(file)
        file.seek(0)
        bodies = _bodies_of_rows(file) if field == "readings" else _bodies_of_series(file)
        begin = Place()
        for body, kind, rows in bodies:
            place = Place(begin.rows + rows)
            if place > after:
                yield Part(body, kind, place, stream.read_so_far(), begin.rows)
            begin = place


def _is_history(body: bytes) -> bool:
    try:
        document = json.loads(body)
        return any("device" in series for series in document["series"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return False


def _field_of_readings(file: IO[bytes]) -> str:
    import ijson

    for field, event, _ in ijson.parse(file):
        if event == "start_array" and field in ("readings", "series"):
            return str(field)
    raise Broken('it is neither `{"readings": […]}` nor `{"series": […]}`.')


_Body = tuple[bytes, Literal["csv", "json"], int]


def _bodies_of_rows(file: IO[bytes]) -> Iterator[_Body]:
    import ijson

    readings = ijson.items(file, "readings.item", use_float=True)
    while rows := list(itertools.islice(readings, PART_ROWS)):
        yield json.dumps({"readings": rows}).encode(), "json", len(rows)


def _bodies_of_series(file: IO[bytes]) -> Iterator[_Body]:
    import ijson

    for number, series in enumerate(ijson.items(file, "series.item", use_float=True)):
        if not isinstance(series, dict):
            raise Broken(f"series {number} is no object.")
        timestamps, values = series.pop("timestamps", None), series.pop("values", None)
        if not isinstance(timestamps, list) or not isinstance(values, list) or len(timestamps) != len(values):
            raise Broken(f"series {number} needs `timestamps` and `values`, two lists of one length.")
        write = _history_body if "device" in series else _series_body
        for begin in range(0, len(timestamps), PART_ROWS):
            chosen = slice(begin, begin + PART_ROWS)
            yield write(series, timestamps[chosen], values[chosen])


def _series_body(series: Mapping[str, Any], timestamps: list[Any], values: list[Any]) -> _Body:
    columns = {**series, "timestamps": timestamps, "values": values}
    return json.dumps({"series": [columns]}).encode(), "json", len(values)


def _history_body(series: Mapping[str, Any], timestamps: list[Any], values: list[Any]) -> _Body:
    """As CSV, which can say the unit."""
    import pyarrow as pa
    import pyarrow.csv as pa_csv

    if series.get("aggregate") is not None:
        raise _aggregated()
    name = "/".join(str(series.get(part)) for part in ("site", "device", "metric"))
    columns = {
        "metric": [name] * len(values),
        "timestamp": [str(timestamp) for timestamp in timestamps],
        "value": ["" if value is None else repr(value) for value in values],
        "unit": [str(series.get("unit"))] * len(values),
    }
    sink = pa.BufferOutputStream()
    pa_csv.write_csv(pa.table(columns), sink)
    return sink.getvalue().to_pybytes(), "csv", len(values)


def _aggregated() -> Broken:
    return Broken("it holds aggregates, not readings; export it again with --resolution raw.")


# ── Parquet and Arrow ────────────────────────────────────────────────────────────────────────────────────────────────


def _parquet(stream: _Stream, after: Place) -> Iterator[Part]:
    import pyarrow.parquet as pq

    with stream.in_any_order() as raw:
        metadata = pq.read_metadata(raw)
        # Written out, texts would be as many times as large as there are rows.
        texts = [name for name in ("metric", "unit") if name in metadata.schema.names]
        file = pq.ParquetFile(raw, metadata=metadata, read_dictionary=texts, pre_buffer=False)
        begin, groups = 0, list(range(metadata.num_row_groups))
        while groups and begin + metadata.row_group(groups[0]).num_rows <= after.rows:
            begin += metadata.row_group(groups.pop(0)).num_rows
        batches = file.iter_batches(PART_ROWS, row_groups=groups)
        size = os.fstat(stream.raw.fileno()).st_size
        yield from _tabular(
            file.schema_arrow, batches, begin, after, read=lambda rows: size * rows // max(metadata.num_rows, 1)
        )


def _arrow(stream: _Stream, after: Place) -> Iterator[Part]:
    import pyarrow as pa

    if not stream.head.startswith(_ARROW_FILE):
        with pa.ipc.open_stream(stream.content) as reader:
            yield from _tabular(reader.schema, reader, 0, after, read=lambda _rows: stream.read_so_far())
        return
    with stream.in_any_order() as file, pa.ipc.open_file(file) as reader:
        batches = map(reader.get_batch, range(reader.num_record_batches))
        yield from _tabular(reader.schema, batches, 0, after, read=lambda _rows: stream.read_so_far())


def _tabular(
    schema: "pa.Schema",
    batches: Iterable["pa.RecordBatch"],
    begin: int,
    after: Place,
    *,
    read: Callable[[int], int],
) -> Iterator[Part]:
    """Batches, the first of which begins with row `begin`, as Arrow streams of `PART_ROWS` each, from a place on."""
    names = _wanted(schema)
    row = max(begin, after.rows)
    none = True
    for group in _grouped(_rows_after(batches, row - begin)):
        none = False
        end = row + sum(map(len, group))
        yield Part(_arrow_body([batch.select(names) for batch in group]), "arrow", Place(end), read(end), row)
        row = end
    if none and not after.rows:  # so that the columns are checked, too
        import pyarrow as pa

        nothing = pa.RecordBatch.from_pylist([], schema=schema).select(names)
        yield Part(_arrow_body([nothing]), "arrow", Place(), read(0), 0)


def _wanted(schema: "pa.Schema") -> list[str]:
    """The columns, without those of an export that an import has no use for: a metric's name outlives its number."""
    if {"aggregate", "coverage"} <= set(schema.names):
        raise _aggregated()
    return [name for name in schema.names if name != "metric_id" or "metric" not in schema.names]


def _rows_after(batches: Iterable["pa.RecordBatch"], skip: int) -> Iterator["pa.RecordBatch"]:
    for batch in batches:
        if skip < len(batch):
            batch.validate(full=True)  # a file may point anywhere in memory
            yield from (batch.slice(row, PART_ROWS) for row in range(skip, len(batch), PART_ROWS))
        skip = max(0, skip - len(batch))


def _grouped(batches: Iterable["pa.RecordBatch"]) -> Iterator[list["pa.RecordBatch"]]:
    group: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        if group and size + len(batch) > PART_ROWS:
            yield group
            group, size = [], 0
        group.append(batch)
        size += len(batch)
    if group:
        yield group


def _arrow_body(batches: list["pa.RecordBatch"]) -> bytes:
    import pyarrow as pa

    table = pa.Table.from_batches(batches)
    if len(batches) > 1:
        table = table.unify_dictionaries().combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema.remove_metadata()) as writer:
        writer.write_table(table)
    return cast(bytes, sink.getvalue().to_pybytes())


_READERS: dict[Format, Callable[[_Stream, Place], Iterator[Part]]] = {
    "csv": _csv,
    "json": _json,
    "jsonl": _json_lines,
    "parquet": _parquet,
    "arrow": _arrow,
    "line": _line_protocol,
}
