"""The fast and the careful ways of reading agree; compression is undone within limits; much that is bad stays cheap."""

import gzip
import json
import math
import random
import sys
import time
import tracemalloc
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kilowatch.auth.model import OPERATOR
from kilowatch.errors import TooLarge, Unreadable
from kilowatch.ingest import formats
from kilowatch.ingest.formats import CSV
from kilowatch.ingest.model import Columns, Report
from kilowatch.ingest.service import MOST_METRICS
from tests.conftest import World

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TEN = "2026-01-05T10:00:00Z"


def take(world: World, csv: bytes) -> Report:
    intake = world.services.intake
    return intake.wait(intake.begin(OPERATOR, csv, content_type="text/csv"))


def read(body: bytes, content_type: str | None) -> Columns:
    return formats.read(body, content_type, most=100_000_000)


def verdicts(columns: Columns) -> list[Any]:
    """What became of each row: its metric, ms and value, or the code of its refusal."""
    told = {error.row: error.code for error in columns.verdicts.report().errors}
    return [
        told.get(row)
        or (
            columns.references[columns.reference_of[row]],
            int(columns.timestamps[row]),
            repr(float(columns.values[row]) + 0.0),
        )
        for row in range(len(columns))
    ]


_pieces = (
    st.sampled_from(["1970", "2025", "2024", "9999", "0001", "0000", "25"]),
    st.sampled_from(["-06-01", "-02-29", "-12-31", "-6-1", "0601", "-00-10"]),
    st.sampled_from(["T", " ", "t", "", "  "]),
    st.sampled_from(["00:00:00", "23:59:59", "24:00:00", "12:30", "12", "1230", "23:59:60", "07:60:00"]),
    st.sampled_from(["", ".", ".5", ".123456", ".999999999", ".0000000001", ",5"]),
    st.sampled_from(["Z", "z", "+01:00", "-0930", "+14", "", " Z", "+24:00", "-23:59", "+01:60", "+1", "-00:00"]),
)
timestamps = st.one_of(
    st.builds(lambda *parts: "".join(parts), *_pieces),
    st.datetimes(timezones=st.timezones()).map(lambda instant: instant.isoformat()),
    st.text(max_size=30),
)
numbers = st.one_of(
    st.floats().map(repr),
    st.integers().map(str),
    st.from_regex(r"[+-]?[0-9_ ]{0,4}\.?[0-9]{0,4}([eE][+-]?[0-9]{0,3})?", fullmatch=True),
    st.sampled_from(["0x10", "nan", "INF", "Infinity", "-nan", "1f", "1d", "", " 1", "1 ", "\t1", "\u00a01", "1_000"]),
    st.text(max_size=8),
)


def csv_field(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def as_csv(rows: Sequence[tuple[str, str]]) -> bytes:
    lines = [f"a/b/c,{csv_field(timestamp)},{csv_field(value)}" for timestamp, value in rows]
    return "\n".join(["metric,timestamp,value", *lines, ""]).encode()


class TestBothWays:
    """A single bad row makes all rows of a body be read the careful way: no other row may notice."""

    @given(rows=st.lists(st.tuples(timestamps, numbers), min_size=1, max_size=8))
    @settings(max_examples=200, deadline=None)
    def test_of_csv_agree(self, rows: list[tuple[str, str]]) -> None:
        one_by_one = [verdicts(read(as_csv([row]), "text/csv"))[0] for row in rows]
        together = verdicts(read(as_csv(rows), "text/csv"))
        with_bad_one = verdicts(read(as_csv([*rows, ("?", "?")]), "text/csv"))
        assert together == one_by_one
        assert with_bad_one == [*one_by_one, "bad_timestamp"]

    @given(
        rows=st.lists(
            st.tuples(
                st.one_of(timestamps, st.none(), st.integers()),
                st.one_of(st.floats(), st.integers(), st.booleans(), st.none(), st.text(max_size=3)),
            ),
            min_size=1,
            max_size=8,
        )
    )
    @settings(max_examples=200, deadline=None)
    def test_of_json_agree_in_rows_and_in_columns(self, rows: list[tuple[Any, Any]]) -> None:
        as_rows = [{"metric": "a/b/c", "timestamp": timestamp, "value": value} for timestamp, value in rows]
        one_by_one = [verdicts(read(json.dumps({"readings": [row]}).encode(), None))[0] for row in as_rows]
        assert verdicts(read(json.dumps({"readings": as_rows}).encode(), None)) == one_by_one
        assert verdicts(read(json.dumps({"readings": [*as_rows, 0]}).encode(), None))[:-1] == one_by_one
        series = {"metric": "a/b/c", "timestamps": [row[0] for row in rows], "values": [row[1] for row in rows]}
        assert verdicts(read(json.dumps({"series": [series]}).encode(), None)) == one_by_one

    @given(values=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
    @settings(deadline=None)
    def test_keep_every_bit_of_a_value(self, values: list[float]) -> None:
        for body, kind in (
            (as_csv([(TEN, repr(value)) for value in values]), "text/csv"),
            (json.dumps({"series": [{"metric_id": 1, "timestamps": [TEN] * len(values), "values": values}]}), None),
        ):
            columns = read(body if isinstance(body, bytes) else body.encode(), kind)
            assert columns.values.tolist() == values

    @given(body=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
    @settings(max_examples=150, deadline=None)
    def test_answer_any_bytes_with_a_verdict(self, body: bytes) -> None:
        for kind, full in ((None, body), ("text/csv", body), ("text/csv", b"metric,timestamp,value\n" + body)):
            try:
                columns = read(full, kind)
            except Unreadable as error:
                text = error.detail
            else:
                text = str(msgspec.json.encode(columns.verdicts.report()))
            assert text.encode()


class TestDecompress:
    @pytest.mark.parametrize("encoding", ["gzip", "zstd"])
    def test_stops_at_the_limit_without_making_more(self, encoding: str) -> None:
        layer = bytes(4_000_000)
        compress = gzip.compress if encoding == "gzip" else zstd.compress
        bomb = compress(layer) * 300  # 1.2 GB
        tracemalloc.start()
        try:
            with pytest.raises(TooLarge, match="10,000,000 bytes once decompressed"):
                formats.decompress(bomb, encoding, most=10_000_000)
            assert tracemalloc.get_traced_memory()[1] < 60_000_000
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize("encoding", ["gzip", "zstd"])
    def test_takes_as_much_as_the_limit(self, encoding: str) -> None:
        body = bytes(1000)
        packed = gzip.compress(body) if encoding == "gzip" else zstd.compress(body)
        assert formats.decompress(packed, encoding, most=1000) == body
        with pytest.raises(TooLarge):
            formats.decompress(packed, encoding, most=999)

    @given(parts=st.lists(st.binary(max_size=50), min_size=1, max_size=4))
    @settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
    def test_joins_members(self, parts: list[bytes]) -> None:
        for compress, encoding in ((gzip.compress, "gzip"), (zstd.compress, "zstd")):
            packed = b"".join(compress(part) for part in parts)
            assert formats.decompress(packed, encoding, most=1000) == b"".join(parts)

    @pytest.mark.parametrize("encoding", ["gzip", "zstd"])
    def test_joins_members_of_any_size(self, encoding: str) -> None:
        compress = gzip.compress if encoding == "gzip" else zstd.compress
        parts = [random.Random(size).randbytes(size) for size in (200_000, 0, 65_536)]
        packed = b"".join(map(compress, parts))
        assert formats.decompress(packed, encoding, most=300_000) == b"".join(parts)
        with pytest.raises(Unreadable, match="cut off"):
            formats.decompress(packed[:-1], encoding, most=300_000)
        with pytest.raises(TooLarge):
            formats.decompress(packed, encoding, most=200_000)

    @pytest.mark.parametrize("encoding", ["gzip", "zstd"])
    def test_refuses_more_than_a_thousand_members(self, encoding: str) -> None:
        member = gzip.compress(b"1") if encoding == "gzip" else zstd.compress(b"1")
        assert formats.decompress(member * 1000, encoding, most=1000) == b"1" * 1000
        with pytest.raises(Unreadable, match="too many members; compress it in one piece"):
            formats.decompress(member * 1001, encoding, most=10_000)


class TestMuchThatIsBad:
    """A row costs the same whether there are few or many: time grows no faster than the rows do."""

    @staticmethod
    def _seconds(body: bytes, content_type: str, *, rejected: int) -> float:
        began = time.process_time()
        report = read(body, content_type).verdicts.report()
        took = time.process_time() - began
        assert report.rejected == rejected
        assert len(msgspec.json.encode(report)) < 50_000
        return took

    @pytest.mark.parametrize(
        ("head", "row", "content_type"),
        [
            (b'{"readings":[', b"{},", "application/json"),
            (b'{"readings":[', b'{"metric":"a/b/c","timestamp":"x","value":null},', "application/json"),
            (b"metric,timestamp,value\n", b"a,b,c\n", "text/csv"),
            (b"metric,timestamp,value\n", b"a,b\n", "text/csv"),
        ],
    )
    def test_takes_no_more_a_row_than_little(self, head: bytes, row: bytes, content_type: str) -> None:
        tail = b"" if content_type == "text/csv" else b"0]}"
        extra = 1 if tail else 0
        few, many = 20_000, 1_000_000
        quick = self._seconds(head + row * few + tail, content_type, rejected=few + extra)
        long = self._seconds(head + row * many + tail, content_type, rejected=many + extra)
        assert long < 4 * (many / few) * max(quick, 0.02)

    def test_among_good_rows_is_told_by_its_own_number(self) -> None:
        bad = {70: "x", 71: "2026-02-30T00:00:00Z", 500: "2026-01-05T09:30:00", 999: " "}
        times = [bad.get(row, f"2026-01-05T09:30:00.{row:03}z ") for row in range(1000)]
        columns = read("".join(["metric,timestamp,value\n", *(f"a/b/c,{time},1\n" for time in times)]).encode(), CSV)
        report = columns.verdicts.report()
        assert [(error.row, error.code) for error in report.errors] == [
            (70, "bad_timestamp"),
            (71, "bad_timestamp"),
            (500, "naive_timestamp"),
            (999, "bad_timestamp"),
        ]
        assert [columns.timestamps[row] % 1000 for row in range(1000) if row not in bad] == [
            row for row in range(1000) if row not in bad
        ]

    def test_a_million_names_that_no_metric_can_have_cost_no_query(self, world: World) -> None:
        lines = b"".join(b"no such metric %d,2026-01-05T10:00:00Z,1\n" % n for n in range(1_000_000))
        report = take(world, b"metric,timestamp,value\n" + lines)
        assert (report.accepted, report.rejected, len(report.errors)) == (0, 1_000_000, 100)

    def test_more_different_metrics_than_can_be_looked_up_are_refused(self, world: World) -> None:
        lines = b"".join(b"a/b/c%d,2026-01-05T10:00:00Z,1\n" % n for n in range(MOST_METRICS + 1))
        with pytest.raises(TooLarge, match="different metrics"):
            take(world, b"metric,timestamp,value\n" + lines)

    def test_a_metric_that_many_series_name_is_one(self, world: World) -> None:
        metric = world.metric()
        series = [{"metric_id": metric, "timestamps": [], "values": []}] * (MOST_METRICS + 1)
        body = msgspec.json.encode({"series": series})
        intake = world.services.intake
        assert intake.wait(intake.begin(OPERATOR, body, content_type="application/json")).rejected == 0


def test_a_series_may_be_empty() -> None:
    columns = read(b'{"series":[{"metric_id":1,"timestamps":[],"values":[]}]}', None)
    assert len(columns) == 0
    assert math.isclose(columns.values.sum(), 0)
