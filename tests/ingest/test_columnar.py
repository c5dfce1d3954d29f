"""Parquet and Arrow: what is read, what is refused, and that nothing hostile makes more than the limit or a crash."""

import io
import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilowatch.errors import TooLarge, Unreadable
from kilowatch.ingest import formats
from kilowatch.ingest.formats import ARROW, CSV, JSON, PARQUET
from kilowatch.ingest.line_protocol import read_lines
from tests.ingest.test_formats import verdicts

MOST = 50_000_000
TEN = datetime(2026, 1, 5, 10, tzinfo=UTC)
INSTANT = pa.timestamp("ms", "UTC")
Writer = Callable[..., bytes]


def parquet(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def arrow(table: pa.Table, *, compression: str | None = None, rows: int | None = None) -> bytes:
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table, rows)
    return sink.getvalue()


def read(body: bytes, kind: str, *, most: int = MOST) -> list[Any]:
    return verdicts(formats.read(body, kind, most=most))


def table(**columns: Any) -> pa.Table:
    """A table of one reading, but for the columns given."""
    usual = {"metric": ["a/b/c"], "timestamp": pa.array([TEN], INSTANT), "value": [1.5]}
    return pa.table({name: column for name, column in (usual | columns).items() if column is not None})


each_kind = pytest.mark.parametrize(("write", "kind"), [(parquet, PARQUET), (arrow, ARROW)])
ONE = [("a/b/c", 1767607200000, "1.5")]


class TestColumns:
    @each_kind
    @pytest.mark.parametrize(
        "metric", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
    )
    def test_name_metrics_in_any_kind_of_text(self, write: Writer, kind: str, metric: pa.DataType) -> None:
        assert read(write(table(metric=pa.array(["a/b/c"]).cast(metric))), kind) == ONE

    @each_kind
    @pytest.mark.parametrize("number", [pa.int8(), pa.uint16(), pa.int32(), pa.int64(), pa.uint64()])
    def test_name_metrics_by_any_integer(self, write: Writer, kind: str, number: pa.DataType) -> None:
        body = write(table(metric=None, metric_id=pa.array([7], number)))
        assert read(body, kind) == [(7, 1767607200000, "1.5")]

    @each_kind
    @pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
    @pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "+05:30"])
    def test_have_timestamps_of_any_unit_and_zone(self, write: Writer, kind: str, unit: str, zone: str) -> None:
        body = write(table(timestamp=pa.array([TEN], pa.timestamp(unit, zone))))
        assert read(body, kind) == ONE

    def test_have_timestamps_rounded_down(self) -> None:
        times = pa.array([-1, 999_999, 1_000_000], pa.timestamp("ns", "UTC"))
        rows = read(arrow(table(metric=["a/b/c"] * 3, timestamp=times, value=[1.0] * 3)), ARROW)
        assert [row[1] for row in rows] == [-1, 0, 1]

    @each_kind
    @pytest.mark.parametrize(
        "values",
        [
            *(pa.array([3], kind) for kind in (pa.int8(), pa.uint8(), pa.int16(), pa.int64(), pa.uint64())),
            *(pa.array([np.float16(3)], pa.float16()), pa.array([3], pa.float32()), pa.array([3], pa.float64())),
            *(pa.array([Decimal(3)], kind) for kind in (pa.decimal128(9, 2), pa.decimal256(50, 3))),
        ],
        ids=lambda values: str(values.type),
    )
    def test_have_values_of_any_width(self, write: Writer, kind: str, values: pa.Array) -> None:
        assert read(write(table(value=values)), kind) == [("a/b/c", 1767607200000, "3.0")]

    @each_kind
    def test_are_judged_row_by_row(self, write: Writer, kind: str) -> None:
        rows = table(
            metric=["a/b/c", None, "a/b/c", "a/b/c", "a/b/c", "a/b/c", "d/e/f"],
            timestamp=pa.array([TEN, TEN, None, TEN, TEN, TEN, TEN], INSTANT),
            value=[1.5, 1.0, 1.0, None, float("nan"), float("inf"), 2.0],
        )
        assert read(write(rows), kind) == [
            *ONE,
            "missing_metric",
            "bad_timestamp",
            "bad_value",
            "not_finite",
            "not_finite",
            ("d/e/f", 1767607200000, "2.0"),
        ]

    @each_kind
    def test_may_have_a_unit(self, write: Writer, kind: str) -> None:
        rows = table(
            metric=["a/b/c"] * 3,
            timestamp=pa.array([TEN] * 3, INSTANT),
            value=[1.0] * 3,
            unit=pa.array(["kW", None, "W"]).dictionary_encode(),
        )
        columns = formats.read(write(rows), kind, most=MOST)
        assert columns.units is not None
        assert [columns.unit_names[place] for place in columns.units] == ["kW", "", "W"]

    @each_kind
    def test_may_be_empty(self, write: Writer, kind: str) -> None:
        assert read(write(table().slice(0, 0)), kind) == []

    def test_may_come_in_batches_with_dictionaries_of_their_own(self) -> None:
        parts = [table(metric=pa.array([name]).dictionary_encode()) for name in ("a/b/c", "d/e/f", "a/b/c")]
        rows = pa.concat_tables(parts)
        for body, kind in ((arrow(rows), ARROW), (parquet(rows, row_group_size=1), PARQUET)):
            assert [row[0] for row in read(body, kind)] == ["a/b/c", "d/e/f", "a/b/c"]


class TestRefused:
    @each_kind
    @pytest.mark.parametrize(
        ("columns", "says"),
        [
            ({"timestamp": pa.array([0], pa.timestamp("ms"))}, "`timestamp` is of type 'timestamp[ms]'; it must be"),
            ({"timestamp": ["2026-01-05T10:00:00Z"]}, "`timestamp` is of type 'string'"),
            ({"value": ["1.5"]}, "`value` is of type 'string'; it must be an integer, a float or a decimal"),
            ({"value": [True]}, "`value` is of type 'bool'"),
            ({"value": [[1.0]]}, "`value` is of type 'list<"),
            ({"metric": [{"a": 1}]}, "`metric` is of type 'struct<"),
            ({"metric": [b"a/b/c"]}, "`metric` is of type 'binary'"),
            ({"metric": None, "metric_id": [1.0]}, "`metric_id` is of type 'double'; it must be an integer"),
            ({"value": None}, "There are 2 columns: 'metric, timestamp'"),
            ({"metric_id": [1]}, "There are 4 columns"),
            ({"quality": [1]}, "There are 4 columns"),
            ({"Value": [1]}, "There are 4 columns"),
        ],
    )
    def test_with_the_column_and_what_it_must_be(
        self, write: Writer, kind: str, columns: dict[str, Any], says: str
    ) -> None:
        with pytest.raises(Unreadable) as raised:
            read(write(table(**columns)), kind)
        assert says in raised.value.detail
        assert "othing was stored" in raised.value.detail

    def test_for_columns_that_are_there_twice(self) -> None:
        rows = pa.Table.from_arrays([[1.0]] * 4, ["metric", "timestamp", "value", "value"])
        for body, kind in ((arrow(rows), ARROW), (parquet(rows), PARQUET)):
            with pytest.raises(Unreadable, match="each once"):
                read(body, kind)

    @each_kind
    def test_for_a_hundred_thousand_columns(self, write: Writer, kind: str) -> None:
        count = 100_000 if kind == ARROW else 20_000  # which take the writer of Parquet half a minute
        rows = pa.Table.from_arrays([pa.array([1])] * count, [f"c{n}" for n in range(count)])
        with pytest.raises(Unreadable) as raised:
            read(write(rows), kind)
        assert len(raised.value.detail) < 500

    @pytest.mark.parametrize("kind", [ARROW, PARQUET])
    @pytest.mark.parametrize(
        "body", [b"", b"PAR1", b"ARROW1\0\0", b"\xff" * 100, b"metric,timestamp,value\n", bytes(9)]
    )
    def test_for_being_something_else(self, kind: str, body: bytes) -> None:
        with pytest.raises(Unreadable, match="can't be read"):
            read(body, kind)

    @each_kind
    def test_for_being_cut_off(self, write: Writer, kind: str) -> None:
        body = write(table(metric=["a/b/c"] * 50, timestamp=pa.array([TEN] * 50, INSTANT), value=[1.0] * 50))
        for end in range(0, len(body) - 8, 7):
            try:
                rows = read(body[:end], kind)
            except Unreadable:
                continue
            # an Arrow stream may end behind any of its messages
            assert (kind, rows) == (ARROW, [])


class TestHostile:
    @pytest.mark.parametrize("kind", ["plain", "zstd", "lz4", "parquet", "parquet plain"])
    def test_bytes_are_answered(self, kind: str) -> None:
        names = [f"a/b/{n % 7}" for n in range(200)]
        times = pa.array([TEN + timedelta(seconds=n) for n in range(200)], INSTANT)
        rows = table(metric=pa.array(names).dictionary_encode(), timestamp=times, value=[1.0 * n for n in range(200)])
        good = {
            "plain": arrow(rows, rows=50),
            "zstd": arrow(rows, compression="zstd", rows=50),
            "lz4": arrow(rows, compression="lz4"),
            "parquet": parquet(rows, compression="zstd", row_group_size=50),
            "parquet plain": parquet(rows, use_dictionary=False, data_page_version="2.0", compression="none"),
        }[kind]
        chance = random.Random(kind)
        for _ in range(1500):
            body = bytearray(good)
            for _ in range(chance.choice([1, 1, 3, 20])):
                body[chance.randrange(len(body))] = chance.choice([0, 1, 127, 128, 255, chance.randrange(256)])
            try:
                formats.read(bytes(body), PARQUET if kind.startswith("parquet") else ARROW, most=MOST)
            except (Unreadable, TooLarge) as error:
                assert len(error.detail) < 500

    @pytest.mark.parametrize("compression", ["zstd", "lz4"])
    def test_arrow_that_expands_is_refused_before_it_does(self, compression: str) -> None:
        count = 2_000_000
        rows = table(
            metric_id=pa.array(np.zeros(count, np.int8)),
            metric=None,
            timestamp=pa.array(np.zeros(count, np.int64), INSTANT),
            value=np.zeros(count),
        )
        body = arrow(rows, compression=compression)
        assert len(body) < 1_000_000
        before = pa.total_allocated_bytes()
        pool = pa.default_memory_pool()
        with pytest.raises(TooLarge, match="10,000,000 bytes once decoded"):
            read(body, ARROW, most=10_000_000)
        assert pa.total_allocated_bytes() - before < 10_000_000
        assert pool.max_memory() > 0

    @pytest.mark.parametrize(
        "options",
        [
            {"compression": "zstd", "use_dictionary": False},
            {"compression": "gzip", "use_dictionary": False, "data_page_version": "2.0"},
            {"compression": "none"},  # a dictionary of one, a run of millions
        ],
    )
    def test_parquet_that_expands_is_refused_before_it_does(self, options: dict[str, Any]) -> None:
        count = 5_000_000
        rows = table(
            metric_id=pa.array(np.zeros(count, np.int8)),
            metric=None,
            timestamp=pa.array(np.zeros(count, np.int64), INSTANT),
            value=np.zeros(count),
        )
        body = parquet(rows, **options)
        assert len(body) < 3_000_000
        with pytest.raises(TooLarge, match="10,000,000 bytes once decoded"):
            read(body, PARQUET, most=10_000_000)

    def test_pages_that_say_less_in_the_footer_than_they_hold_are_counted_by_themselves(self) -> None:
        texts = pa.array(["x" * 30_000_000])
        body = parquet(table(metric=texts), use_dictionary=False, compression="zstd", write_statistics=False)
        assert len(body) < 100_000
        with pytest.raises(TooLarge):
            read(body, PARQUET, most=10_000_000)

    def test_a_long_name_that_millions_of_rows_share_is_kept_once(self) -> None:
        count = 500_000
        rows = table(
            metric=pa.DictionaryArray.from_arrays(np.zeros(count, np.int8), ["x" * 1_000_000]),
            timestamp=pa.array(np.zeros(count, np.int64), INSTANT),
            value=np.zeros(count),
        )
        for body, kind in ((arrow(rows), ARROW), (parquet(rows), PARQUET)):
            columns = formats.read(body, kind, most=MOST)
            assert len(columns) == count
            assert columns.references == ["x" * 200]

    def test_views_of_one_long_text_do_not_become_many(self) -> None:
        text = b"x" * 1_000_000
        view = np.array([len(text), int.from_bytes(text[:4], "little"), 0, 0], np.int32)
        views = pa.py_buffer(np.tile(view, 1000))
        rows = table(
            metric=pa.Array.from_buffers(pa.string_view(), 1000, [None, views, pa.py_buffer(text)]),
            timestamp=pa.array([TEN] * 1000, INSTANT),
            value=[1.0] * 1000,
        )
        with pytest.raises(TooLarge):
            read(arrow(rows), ARROW)

    def test_texts_said_by_their_differences_are_refused(self) -> None:
        body = parquet(table(), use_dictionary=False, column_encoding={"metric": "DELTA_BYTE_ARRAY"})
        with pytest.raises(Unreadable, match="DELTA_BYTE_ARRAY"):
            read(body, PARQUET)


_readings = st.lists(
    st.tuples(
        st.sampled_from(["home/roof/power", "home/roof/energy", "home/meter/power", "other/ü/x"]),
        st.integers(0, 4_000_000_000_000),
        st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**63), 2**63 - 1)),
    ),
    max_size=30,
)


class TestEveryFormat:
    @given(readings=_readings)
    @settings(max_examples=150, deadline=None)
    def test_gives_the_same_readings(self, readings: list[tuple[str, int, float]]) -> None:

        names = [name for name, _, _ in readings]
        times = [datetime.fromtimestamp(ms // 1000, UTC) + timedelta(milliseconds=ms % 1000) for _, ms, _ in readings]
        texts = [time.isoformat(timespec="milliseconds") for time in times]
        values = [float(value) for _, _, value in readings]
        expected = [(name, ms, repr(value + 0.0)) for (name, ms, _), value in zip(readings, values, strict=True)]
        rows = [
            {"metric": name, "timestamp": text, "value": value}
            for name, text, value in zip(names, texts, values, strict=True)
        ]
        series = [{"metric": row["metric"], "timestamps": [row["timestamp"]], "values": [row["value"]]} for row in rows]
        csv = "metric,timestamp,value\n" + "".join(
            f"{name},{text},{value!r}\n" for name, text, value in zip(names, texts, values, strict=True)
        )
        columns = table(
            metric=pa.array(names, pa.string()),
            timestamp=pa.array(times, INSTANT),
            value=pa.array(values, pa.float64()),
        )
        lines = "".join(
            f"m,site={name.split('/')[0]},device={name.split('/')[1]} {name.split('/')[2]}={value!r} {ms}\n"
            for (name, ms, _), value in zip(readings, values, strict=True)
        )
        assert read(json.dumps({"readings": rows}).encode(), JSON) == expected
        assert read(json.dumps({"series": series}).encode(), JSON) == expected
        assert read(csv.encode(), CSV) == expected
        assert read(arrow(columns, rows=7), ARROW) == expected
        assert read(arrow(columns, compression="zstd"), ARROW) == expected
        assert read(parquet(columns, row_group_size=7), PARQUET) == expected
        assert verdicts(read_lines(lines.encode(), precision="ms", now=TEN)) == expected
