"""The four formats, written without HTTP: each tells the same numbers, however it is cut into pieces."""

import io
import math
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilowatch.facility.model import PlacedMetric
from kilowatch.history import formats
from kilowatch.history.model import Aggregate, HistoryStream, Series, SeriesRequest
from kilowatch.kit.timespan import Window, from_ms, resolution_named
from kilowatch.kit.units import Conversion

ZONES = ("UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kolkata", "Australia/Lord_Howe", "Pacific/Apia")
YEAR_2200_MS = 7_258_118_400_000

times = st.lists(st.integers(0, YEAR_2200_MS - 1), max_size=40, unique=True).map(sorted)
whole_seconds = st.lists(st.integers(0, YEAR_2200_MS // 1000 - 1), max_size=40, unique=True).map(
    lambda seconds: [second * 1000 for second in sorted(seconds)]
)
close_together = st.tuples(st.integers(0, YEAR_2200_MS - 10**9), st.lists(st.integers(1, 10**7), max_size=40)).map(
    lambda first: [first[0] + sum(first[1][: n + 1]) for n in range(len(first[1]))]
)


def request(number: int, aggregate: Aggregate | None = None) -> SeriesRequest:
    metric = PlacedMetric(
        id=number,
        site_id=1,
        site="home",
        timezone="UTC",
        device_id=1,
        device="roof",
        key=f"power_{number}",
        name="Power",
        quantity="power",
        unit="kW",
        behaviour="gauge",
        max_gap_s=900,
        valid_min=None,
        valid_max=None,
    )
    return SeriesRequest(metric, aggregate, "W" if number % 2 else "kW", Conversion())


def series(number: int, timestamps: list[int], *, aggregate: Aggregate | None = None) -> Series:
    """Values with every seventh a gap, and awkward ones among them."""
    values = [math.nan if n % 7 == 6 else (n + number) / 3 * 10.0 ** (n % 19 - 9) for n in range(len(timestamps))]
    columns = np.array(timestamps, np.int64), np.array(values, np.float64)
    coverage = np.linspace(0, 1, len(timestamps)) if aggregate else None
    return Series(request(number, aggregate), *columns, coverage)


def cut(whole: Series, length: int) -> Iterator[Series]:
    yield from (whole.part(n, n + length) for n in range(0, max(len(whole.timestamps), 1), length))


def stream(*all_series: Series, zone: str = "UTC", length: int = 10**6, **more: Any) -> HistoryStream:
    aggregated = any(one.coverage is not None for one in all_series)
    return HistoryStream(
        Window(from_ms(0), from_ms(YEAR_2200_MS)),
        resolution_named("1h") if aggregated else None,
        zone,
        [one.request for one in all_series],
        (piece for one in all_series for piece in cut(one, length)),
        **more,
    )


def written(history: HistoryStream, media: str) -> bytes:
    return b"".join(formats.write(history, media))


def nulls(values: np.ndarray) -> list[float | None]:
    return [None if math.isnan(value) else float(value) for value in values]


def told(*all_series: Series) -> list[tuple[str, int, float | None, str]]:
    """What a table of these series has to say: metric, time, value, unit."""
    return [
        (one.request.metric.path, int(timestamp), value, one.request.unit)
        for one in all_series
        for timestamp, value in zip(one.timestamps, nulls(one.values), strict=True)
    ]


def rows_of(table: pa.Table) -> list[tuple[str, int, float | None, str]]:
    timestamps = table["timestamp"].cast(pa.timestamp("ms", "UTC")).cast(pa.int64())
    columns = (table["metric"], timestamps, table["value"], table["unit"])
    return list(zip(*(column.to_pylist() for column in columns), strict=True))


def read_arrow(body: bytes) -> pa.Table:
    return pa.ipc.open_stream(body).read_all()


def read_parquet(body: bytes) -> pa.Table:
    return pa_parquet.read_table(io.BytesIO(body))


def read_csv(body: bytes) -> pa.Table:
    options = pa_csv.ConvertOptions(
        column_types={
            "timestamp": pa.timestamp("ms", "UTC"),
            "value": pa.float64(),
            "metric": pa.string(),
            "unit": pa.string(),
        },
        null_values=[""],
    )
    return pa_csv.read_csv(io.BytesIO(body), convert_options=options)


READERS = {formats.ARROW: read_arrow, formats.PARQUET: read_parquet, formats.CSV: read_csv}


class TestRoundTrip:
    @pytest.mark.parametrize("media", READERS)
    @settings(deadline=None)
    @given(first=times, second=close_together, zone=st.sampled_from(ZONES), length=st.integers(1, 50))
    def test_a_table_tells_what_was_written(
        self, media: str, first: list[int], second: list[int], zone: str, length: int
    ) -> None:
        both = series(3, first), series(4, second)
        assert rows_of(READERS[media](written(stream(*both, zone=zone, length=length), media))) == told(*both)

    @settings(deadline=None)
    @given(first=times, second=close_together, zone=st.sampled_from(ZONES), length=st.integers(1, 50))
    def test_json_tells_what_was_written(self, first: list[int], second: list[int], zone: str, length: int) -> None:
        both = series(3, first), series(4, second)
        document = orjson.loads(written(stream(*both, zone=zone, length=length), formats.JSON))
        assert [one["metric_id"] for one in document["series"]] == [3, 4]
        for answer, one in zip(document["series"], both, strict=True):
            assert answer["values"] == nulls(one.values)
            assert [instant(text) for text in answer["timestamps"]] == one.timestamps.tolist()

    @pytest.mark.parametrize("media", formats.WRITERS)
    @settings(deadline=None)
    @given(timestamps=times, length=st.integers(1, 50))
    def test_pieces_make_no_difference_to_the_numbers(self, media: str, timestamps: list[int], length: int) -> None:
        one = series(1, timestamps)
        if media in (formats.JSON, formats.CSV):
            assert written(stream(one, length=length), media) == written(stream(one), media)
        else:
            tables = [READERS[media](written(stream(one, length=cut), media)) for cut in (length, 10**6)]
            assert tables[0].equals(tables[1])

    @pytest.mark.parametrize("media", [formats.ARROW, formats.PARQUET])
    def test_buckets_have_their_aggregate_and_coverage(self, media: str) -> None:
        one = series(1, [0, 3_600_000, 7_200_000], aggregate="mean")
        table = READERS[media](written(stream(one, zone="Europe/Berlin"), media))
        assert table["aggregate"].to_pylist() == ["mean"] * 3
        assert table["coverage"].to_pylist() == [0.0, 0.5, 1.0]

    def test_many_rows_come_in_many_parts_and_few_in_one(self) -> None:
        long = stream(series(1, list(range(0, 10**8, 1000))))
        parts = list(formats.write(long, formats.JSON))
        assert len(parts) > 4
        assert all(len(part) >= formats.PART_BYTES for part in parts[:-1])
        assert len(orjson.loads(b"".join(parts))["series"][0]["values"]) == 100_000
        assert len(list(formats.write(stream(series(1, [0])), formats.JSON))) == 1

    def test_values_that_wait_in_a_file_are_all_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(formats, "_VALUES_IN_MEMORY", 64)
        one = series(1, list(range(0, 10**6, 1000)))
        document = orjson.loads(written(stream(one, length=100), formats.JSON))
        assert document["series"][0]["values"] == nulls(one.values)


class TestSchema:
    @pytest.mark.parametrize("media", [formats.ARROW, formats.PARQUET])
    def test_names_types_zone_and_what_was_asked(self, media: str) -> None:
        history = stream(series(1, [0]), zone="Europe/Berlin", next="abc")
        schema = READERS[media](written(history, media)).schema
        text = pa.dictionary(pa.int32(), pa.string())
        assert dict(zip(schema.names, schema.types, strict=True)) == {
            "metric_id": pa.int64(),
            "metric": text,
            "timestamp": pa.timestamp("ms", "Europe/Berlin"),
            "value": pa.float64(),
            "unit": text,
        }
        expected = {
            "start": "1970-01-01T01:00:00+01:00",
            "end": "2200-01-01T01:00:00+01:00",
            "resolution": "raw",
            "timezone": "Europe/Berlin",
            "next": "abc",
        }
        assert {name: schema.metadata[name.encode()].decode() for name in expected} == expected

    @pytest.mark.parametrize("media", [formats.ARROW, formats.PARQUET])
    @pytest.mark.parametrize("all_series", [(), (series(1, []),)])
    def test_nothing_is_a_table_without_rows(self, media: str, all_series: tuple[Series, ...]) -> None:
        table = READERS[media](written(stream(*all_series), media))
        assert (table.num_rows, table.schema.names) == (0, ["metric_id", "metric", "timestamp", "value", "unit"])

    def test_a_short_series_each_still_makes_large_row_groups(self) -> None:
        body = written(stream(*(series(number, list(range(50))) for number in range(1, 100))), formats.PARQUET)
        assert pa_parquet.ParquetFile(io.BytesIO(body)).num_row_groups == 1


class TestTimes:
    @settings(deadline=None)
    @given(
        timestamps=st.one_of(times, whole_seconds, close_together), zone=st.sampled_from((*ZONES, "Africa/Monrovia"))
    )
    def test_are_rfc_3339_with_the_offset_of_their_own_moment(self, timestamps: list[int], zone: str) -> None:
        document = orjson.loads(written(stream(series(1, timestamps), zone=zone), formats.JSON))
        assert document["series"][0]["timestamps"] == [spelt(timestamp, zone) for timestamp in timestamps]


def spelt(timestamp: int, zone: str) -> str:
    """By the standard library: whole seconds without a fraction, offsets to the minute."""
    local = from_ms(timestamp).astimezone(ZoneInfo(zone))
    offset = local.utcoffset()
    assert offset is not None
    minutes = math.floor(offset.total_seconds() / 60)
    shown = from_ms(timestamp + minutes * 60_000).replace(tzinfo=None)
    text = shown.isoformat(timespec="milliseconds" if timestamp % 1000 else "seconds")
    return f"{text}{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"


def instant(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)
