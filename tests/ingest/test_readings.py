"""`POST /readings`: what is taken, what is refused and why, and that the rest is stored all the same."""

import gzip
import json
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from kilowatch.config import Settings
from kilowatch.history import appender
from kilowatch.ingest.model import MAX_REPORTED, RowCode
from kilowatch.ingest.routes import is_small
from tests.conftest import START, Clock, Person, World, open_world

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TEN = "2026-01-05T10:00:00Z"
_CHECKSUM = zstd.CompressionParameter.checksum_flag


def send(person: Person, content: bytes | str, content_type: str = "application/json", **headers: str) -> Any:
    """Post a body as it is; the report."""
    answer = post(person, content, content_type, **headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


def post(
    person: Person, content: bytes | str, content_type: str = "application/json", **headers: str
) -> httpx2.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return person.http.post("/readings", content=content, headers={"Content-Type": content_type, **named})


def row(metric: Any, timestamp: Any = TEN, value: Any = 1.0) -> dict[str, Any]:
    return {"metric_id" if isinstance(metric, int) else "metric": metric, "timestamp": timestamp, "value": value}


def send_rows(person: Person, *rows: Any) -> Any:
    return send(person, json.dumps({"readings": rows}))


def stored(world: World, metric_id: int) -> list[tuple[str, float]]:
    """All readings of a metric, by time."""
    answer = world.admin.get(
        f"/metrics/{metric_id}/history",
        start="1970-01-01T00:00:00Z",
        end="2199-01-01T00:00:00Z",
        resolution="raw",
        timezone="UTC",
    )
    assert answer.status_code == 200, answer.text
    (series,) = answer.json()["series"]
    times = [datetime.fromisoformat(text).isoformat(timespec="milliseconds") for text in series["timestamps"]]
    return list(zip(times, series["values"], strict=True))


def path_of(world: World, metric_id: int) -> str:
    latest = world.admin.get(f"/metrics/{metric_id}/latest").json()
    return f"{latest['site']}/{latest['device']}/{latest['metric']}"


def technician_here_and_standard_there(world: World, name: str) -> Person:
    person = world.person(name)
    world.grant(person, world.north, "technician")
    world.grant(person, world.south, "standard")
    return person


def codes(report: Any) -> list[tuple[int, str]]:
    return [(error["row"], error["code"]) for error in report["errors"]]


class TestRows:
    def test_are_stored_by_id_and_by_name(self, world: World) -> None:
        metric = world.metric()
        report = send_rows(
            world.technician,
            row(metric, "2026-01-05T10:00:00Z", 1.5),
            row(path_of(world, metric), "2026-01-05T10:00:30Z", 2),
        )
        assert report == {"accepted": 2, "rejected": 0, "errors": []}
        assert stored(world, metric) == [
            ("2026-01-05T10:00:00.000+00:00", 1.5),
            ("2026-01-05T10:00:30.000+00:00", 2.0),
        ]

    def test_good_ones_are_stored_though_others_are_bad(self, world: World) -> None:
        metric = world.metric()
        report = send_rows(world.technician, row(metric, value="x"), row(metric), row(metric, "2026-01-05 10:00", 3))
        assert (report["accepted"], report["rejected"]) == (1, 2)
        assert codes(report) == [(0, "bad_value"), (2, "naive_timestamp")]
        assert [value for _, value in stored(world, metric)] == [1.0]

    def test_none_is_a_request_like_any(self, world: World) -> None:
        assert send_rows(world.technician) == {"accepted": 0, "rejected": 0, "errors": []}

    def test_of_which_two_are_the_same_reading_leave_the_later(self, world: World) -> None:
        metric = world.metric()
        report = send_rows(world.technician, row(metric, value=1), row(metric, value=2), row(metric, value=3))
        assert report["accepted"] == 3
        assert [value for _, value in stored(world, metric)] == [3.0]

    @pytest.mark.parametrize(
        ("bad", "code"),
        [
            (None, "malformed"),
            (7, "malformed"),
            (["a/b/c", TEN, 1], "malformed"),
            ({"metric_id": 1, "timestamp": TEN, "value": 1, "quality": 3}, "malformed"),
            ({"timestamp": TEN, "value": 1}, "missing_metric"),
            ({"metric_id": 1, "metric": "a/b/c", "timestamp": TEN, "value": 1}, "missing_metric"),
            ({"metric_id": "1", "timestamp": TEN, "value": 1}, "missing_metric"),
            ({"metric_id": 1.0, "timestamp": TEN, "value": 1}, "missing_metric"),
            ({"metric_id": True, "timestamp": TEN, "value": 1}, "missing_metric"),
            ({"metric": ["a/b/c"], "timestamp": TEN, "value": 1}, "missing_metric"),
            ({"metric_id": 2_000_000_000, "timestamp": TEN, "value": 1}, "unknown_metric"),
            ({"metric_id": 0, "timestamp": TEN, "value": 1}, "unknown_metric"),
            ({"metric_id": -1, "timestamp": TEN, "value": 1}, "unknown_metric"),
            ({"metric_id": 10**18, "timestamp": TEN, "value": 1}, "unknown_metric"),
            ({"metric_id": 10**30, "timestamp": TEN, "value": 1}, "unknown_metric"),
            ({"metric": "north/none/power", "timestamp": TEN, "value": 1}, "unknown_metric"),
            ({"metric": "north/power", "timestamp": TEN, "value": 1}, "unknown_metric"),
            ({"metric": "", "timestamp": TEN, "value": 1}, "unknown_metric"),
            ({"metric": "nörth/\x00/po\twer", "timestamp": TEN, "value": 1}, "unknown_metric"),
            ({"metric": "\ud800/b/c", "timestamp": TEN, "value": 1}, "unknown_metric"),
            ({"metric": "x" * 100_000, "timestamp": TEN, "value": 1}, "unknown_metric"),
            ({"\ud800": 1}, "malformed"),
        ],
    )
    def test_that_name_no_metric_or_are_none_are_told(self, world: World, bad: Any, code: RowCode) -> None:
        metric = world.metric()
        report = send_rows(world.technician, row(metric), bad)
        assert codes(report) == [(1, code)]
        assert len(report["errors"][0]["detail"]) < 400
        assert len(stored(world, metric)) == 1

    def test_every_code_there_is_can_happen(self, world: World) -> None:
        metric, foreign = world.metric(valid_min=0), world.metric(world.south)
        mixed = technician_here_and_standard_there(world, "every-code")
        rows = [
            7,
            {"timestamp": TEN, "value": 1},
            row("a/b/c"),
            row(foreign),
            row(metric, "soon"),
            row(metric, "2026-01-05T10:00:00"),
            row(metric, "1969-12-31T23:59:59Z"),
            row(metric, "2026-01-07T12:00:00Z"),
            row(metric, value="1"),
            row(metric, value=10**400),
            row(metric, value=-1),
            row(metric),
        ]
        report = send_rows(mixed, *rows)
        told = [code for _, code in codes(report)]
        csv = f"metric_id,timestamp,value,unit\n{metric},{TEN},1,W\n{metric},{TEN},1,kW\n"
        told += [code for _, code in codes(send(world.technician, csv, "text/csv"))]
        told.append("folded")  # tests/history/test_retention_api.py
        assert told == list(RowCode.__args__)  # type: ignore[attr-defined]  # a Literal has them


class TestValues:
    @pytest.mark.parametrize(
        ("literal", "value"),
        [
            ("1", 1.0),
            ("-0", 0.0),
            ("0.1", 0.1),
            ("1e5", 1e5),
            ("9007199254740993", 9007199254740992.0),
            ("1e-400", 0.0),
            ("1" + "0" * 300, 1e300),
            ("1.7976931348623157e308", sys.float_info.max),
        ],
    )
    def test_that_are_finite_numbers_are_stored(self, world: World, literal: str, value: float) -> None:
        metric = world.metric()
        body = f'{{"readings": [{{"metric_id": {metric}, "timestamp": "{TEN}", "value": {literal}}}]}}'
        assert send(world.technician, body)["accepted"] == 1
        assert [value for _, value in stored(world, metric)] == [value]

    @pytest.mark.parametrize(
        ("literal", "code"),
        [
            ("NaN", "not_finite"),
            ("Infinity", "not_finite"),
            ("-Infinity", "not_finite"),
            ("1e400", "not_finite"),
            ("1" + "0" * 309, "not_finite"),
            ("-1" + "0" * 5000, "not_finite"),
            ("true", "bad_value"),
            ("null", "bad_value"),
            ('"1"', "bad_value"),
            ('""', "bad_value"),
            ("[1]", "bad_value"),
            ('{"a": 1}', "bad_value"),
            ('"\\ud800"', "bad_value"),
        ],
    )
    def test_that_are_none_are_refused_and_the_others_stored(self, world: World, literal: str, code: str) -> None:
        metric = world.metric()
        bad = f'{{"metric_id": {metric}, "timestamp": "{TEN}", "value": {literal}}}'
        report = send(world.technician, f'{{"readings": [{bad}, {json.dumps(row(metric, value=2))}]}}')
        assert codes(report) == [(0, code)]
        assert [value for _, value in stored(world, metric)] == [2.0]

    def test_outside_of_what_the_metric_allows_are_refused(self, world: World) -> None:
        metric = world.metric(quantity="state_of_charge", unit="%", valid_min=0, valid_max=100)
        rows = [row(metric, f"2026-01-05T10:00:0{n}Z", value) for n, value in enumerate((-0.001, 0, 100, 100.001))]
        report = send_rows(world.technician, *rows)
        assert codes(report) == [(0, "out_of_range"), (3, "out_of_range")]
        assert "0 to 100" in report["errors"][0]["detail"]
        assert [value for _, value in stored(world, metric)] == [0.0, 100.0]


class TestTimestamps:
    @pytest.mark.parametrize(
        ("text", "instant"),
        [
            ("2025-06-01T00:00:00Z", "2025-06-01T00:00:00.000"),
            ("2025-06-01t00:00:00z", "2025-06-01T00:00:00.000"),
            ("2025-06-01 00:00:00Z", "2025-06-01T00:00:00.000"),
            ("2025-06-01T00:00Z", "2025-06-01T00:00:00.000"),
            ("2025-06-01T00:00:00+01:00", "2025-05-31T23:00:00.000"),
            ("2025-06-01T00:00:00-0930", "2025-06-01T09:30:00.000"),
            ("2025-06-01T00:00:00+01", "2025-05-31T23:00:00.000"),
            ("2025-06-01T00:00:00-00:00", "2025-06-01T00:00:00.000"),
            ("2025-06-01T00:00:00+23:59", "2025-05-31T00:01:00.000"),
            ("2025-06-01T00:00:00.1Z", "2025-06-01T00:00:00.100"),
            ("2025-06-01T00:00:00.9999Z", "2025-06-01T00:00:00.999"),
            ("2025-06-01T00:00:00.123456789Z", "2025-06-01T00:00:00.123"),
            ("2025-06-01T00:00:00.999999999999Z", "2025-06-01T00:00:00.999"),
            (" 2025-06-01T00:00:00Z ", "2025-06-01T00:00:00.000"),
            ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000"),
            ("1970-01-01T00:00:00.0009Z", "1970-01-01T00:00:00.000"),
            ("2024-02-29T23:59:59.999Z", "2024-02-29T23:59:59.999"),
        ],
    )
    def test_are_rfc_3339_in_whole_milliseconds_rounded_down(self, world: World, text: str, instant: str) -> None:
        metric = world.metric()
        assert send_rows(world.technician, row(metric, text))["accepted"] == 1
        assert [timestamp for timestamp, _ in stored(world, metric)] == [instant + "+00:00"]

    @pytest.mark.parametrize(
        ("text", "code"),
        [
            ("2025-06-01T00:00:00", "naive_timestamp"),
            ("2025-06-01 00:00", "naive_timestamp"),
            ("2025-06-01T00:00:00.5", "naive_timestamp"),
            ("2025-06-01", "bad_timestamp"),
            ("2025-06-01Z", "bad_timestamp"),
            ("2025-06-01T00Z", "bad_timestamp"),
            ("2025-06-01T00+01:00", "bad_timestamp"),
            ("2025-06-01T24:00:00Z", "bad_timestamp"),
            ("2016-12-31T23:59:60Z", "bad_timestamp"),
            ("2025-02-29T00:00:00Z", "bad_timestamp"),
            ("2025-06-01T00:00:00+24:00", "bad_timestamp"),
            ("2025-06-01T00:00:00+01:60", "bad_timestamp"),
            ("2025-06-01T00:00:00,5Z", "bad_timestamp"),
            ("2025-06-01T00:00:00.Z", "bad_timestamp"),
            ("2025-06-01T00:00:00 Z", "bad_timestamp"),
            ("20250601T000000Z", "bad_timestamp"),
            ("2025-W22-7T00:00:00Z", "bad_timestamp"),
            ("2025-06-01T00:00:00 Europe/London", "bad_timestamp"),
            ("٢٠٢٥-06-01T00:00:00Z", "bad_timestamp"),
            ("1748736000", "bad_timestamp"),
            ("", "bad_timestamp"),
            ("\ud800", "bad_timestamp"),
            (1748736000, "bad_timestamp"),
            (None, "bad_timestamp"),
            (True, "bad_timestamp"),
            ([TEN], "bad_timestamp"),
            ("1969-12-31T23:59:59.999Z", "out_of_time_range"),
            ("1970-01-01T00:00:00+00:01", "out_of_time_range"),
            ("0000-01-01T00:00:00Z", "out_of_time_range"),
            ("0001-01-01T00:00:00+01:00", "out_of_time_range"),
            ("9999-12-31T23:59:59-12:00", "in_the_future"),
            ("2300-01-01T00:00:00.123456789Z", "in_the_future"),
        ],
    )
    def test_that_are_none_are_refused_and_the_others_stored(self, world: World, text: Any, code: str) -> None:
        metric = world.metric()
        assert codes(send_rows(world.technician, row(metric, text))) == [(0, code)]
        # beside good ones, and beside bad ones of another sort
        assert codes(send_rows(world.technician, row(metric), row(metric, text))) == [(1, code)]
        assert codes(send_rows(world.technician, row(metric, []), row(metric, text)))[1] == (1, code)
        assert len(stored(world, metric)) == 1

    def test_may_be_ahead_of_our_clock_by_as_much_as_the_setting_says(self, world: World) -> None:
        metric = world.metric()
        edge = START + timedelta(days=1)
        report = send_rows(
            world.technician,
            row(metric, edge.isoformat()),
            row(metric, (edge + timedelta(milliseconds=1)).isoformat()),
        )
        assert codes(report) == [(1, "in_the_future")]
        assert "clock" in report["errors"][0]["detail"]


class TestSeries:
    def test_are_stored_by_id_and_by_name(self, world: World) -> None:
        first, second = world.metric(), world.metric()
        times = ["2026-01-05T10:00:00Z", "2026-01-05T10:00:01Z"]
        report = world.technician.post(
            "/readings",
            {
                "series": [
                    {"metric_id": first, "timestamps": times, "values": [1, 2.5]},
                    {"metric": path_of(world, second), "timestamps": times, "values": [3, 4]},
                    {"metric_id": first, "timestamps": [], "values": []},
                ]
            },
        ).json()
        assert report == {"accepted": 4, "rejected": 0, "errors": []}
        assert [value for _, value in stored(world, first)] == [1.0, 2.5]
        assert [value for _, value in stored(world, second)] == [3.0, 4.0]

    def test_rows_are_counted_over_all_of_them(self, world: World) -> None:
        metric = world.metric()
        series = [
            {"metric_id": metric, "timestamps": [TEN, "?"], "values": [1, 2]},
            {"metric": "no/such/one", "timestamps": [TEN], "values": [3]},
            {"timestamps": [TEN], "values": [3]},
            {"metric_id": metric, "timestamps": [TEN], "values": [None]},
        ]
        report = send(world.technician, json.dumps({"series": series}))
        assert codes(report) == [(1, "bad_timestamp"), (2, "unknown_metric"), (3, "missing_metric"), (4, "bad_value")]
        assert report["accepted"] == 1

    @pytest.mark.parametrize(
        ("broken", "words"),
        [
            ({"timestamps": [TEN], "values": []}, "1 timestamps and 0 values"),
            ({"timestamps": ["?", "?"], "values": [None]}, "2 timestamps and 1 values"),
            ({"timestamps": TEN, "values": [1]}, "both lists"),
            ({"values": [1]}, "both lists"),
            ({"timestamps": [], "values": [], "unit": "kW"}, "'unit'"),
            (3, "no object"),
        ],
    )
    def test_of_the_wrong_shape_store_nothing(self, world: World, broken: Any, words: str) -> None:
        metric = world.metric()
        good = {"metric_id": metric, "timestamps": [TEN], "values": [1]}
        named = {"metric_id": metric} | broken if isinstance(broken, dict) else broken
        answer = post(world.technician, json.dumps({"series": [good, named]}))
        assert answer.status_code == 400
        assert words in answer.json()["detail"]
        assert answer.json()["errors"][0]["pointer"] == "#/series/1"
        assert stored(world, metric) == []


class TestCsv:
    @pytest.mark.parametrize(
        "text",
        [
            "metric_id,timestamp,value\n{id},2026-01-05T10:00:00Z,1.5\n",
            "metric,timestamp,value\n{path},2026-01-05T10:00:00Z,1.5\n",
            "value,metric,timestamp\n1.5,{path},2026-01-05T10:00:00Z\n",
            "timestamp,value,metric_id\n2026-01-05T10:00:00Z,1.5,{id}",
            "metric,timestamp,value\r\n{path},2026-01-05T10:00:00Z,1.5\r\n",
            "\ufeffmetric,timestamp,value\n{path},2026-01-05T10:00:00Z,1.5",
            '"metric","timestamp","value"\n"{path}","2026-01-05T10:00:00Z","1.5"\n',
            "metric,timestamp,value,unit\n{path},2026-01-05T10:00:00Z,1.5,kW\n",
            "unit,metric,timestamp,value\nkW,{path},2026-01-05T10:00:00Z,1.5\n",
            " metric , timestamp , value \n {path} , 2026-01-05T10:00:00Z , 1.5 \n",
            "metric,timestamp,value\n\n{path},2026-01-05T10:00:00Z,1.5\n\n\n",
            "metric,timestamp,value\n{path},2026-01-05 10:00:00+00,+15e-1\n",
        ],
    )
    def test_is_read_as_programs_write_it(self, world: World, text: str) -> None:
        metric = world.metric()
        body = text.format(id=metric, path=path_of(world, metric)).encode()
        assert send(world.technician, body, "text/csv") == {"accepted": 1, "rejected": 0, "errors": []}
        assert stored(world, metric) == [("2026-01-05T10:00:00.000+00:00", 1.5)]

    @pytest.mark.parametrize(
        ("field", "code"),
        [
            ("1_000", "bad_value"),
            ("0x10", "bad_value"),
            ("", "bad_value"),
            ("   ", "bad_value"),
            ("null", "bad_value"),
            ("true", "bad_value"),
            ('"1,5"', "bad_value"),
            ("1.5kW", "bad_value"),
            ("\u0661", "bad_value"),
            ("\u00a01", "bad_value"),
            ("1\x00", "bad_value"),
            ("\x1c1", "bad_value"),
            ("--1", "bad_value"),
            ("e5", "bad_value"),
            (".", "bad_value"),
            ("nan", "not_finite"),
            ("-NaN", "not_finite"),
            ("inf", "not_finite"),
            ("-Infinity", "not_finite"),
            ("1e400", "not_finite"),
        ],
    )
    def test_values_that_are_no_finite_numbers_are_refused(self, world: World, field: str, code: str) -> None:
        metric = world.metric()
        head = "metric_id,timestamp,value\n"
        bad, good = f"{metric},{TEN},{field}\n", f"{metric},{TEN},2\n"
        assert codes(send(world.technician, head + bad, "text/csv")) == [(0, code)]
        assert codes(send(world.technician, head + good + bad, "text/csv")) == [(1, code)]
        assert [value for _, value in stored(world, metric)] == [2.0]

    def test_lines_with_more_or_fewer_fields_are_refused_and_the_others_stored(self, world: World) -> None:
        metric = world.metric()
        lines = ["metric_id,timestamp,value", "", f"{metric},{TEN}", f"{metric},{TEN},1", f"{metric},{TEN},2,3", "x"]
        report = send(world.technician, "\n".join([*lines, f"{metric},2026-01-05T10:00:01Z,2"]), "text/csv")
        assert codes(report) == [(0, "malformed"), (2, "malformed"), (3, "malformed")]
        assert "2 fields, where the header has 3" in report["errors"][0]["detail"]
        assert [value for _, value in stored(world, metric)] == [1.0, 2.0]

    def test_a_metric_id_is_a_number(self, world: World) -> None:
        report = send(
            world.technician,
            f"metric_id,timestamp,value\nnorth/a/b,{TEN},1\n-1,{TEN},1\n,{TEN},1\n{'9' * 30},{TEN},1\n",
            "text/csv",
        )
        assert {code for _, code in codes(report)} == {"missing_metric"}
        assert report["rejected"] == 4

    def test_another_unit_than_the_metrics_is_refused(self, world: World) -> None:
        metric = world.metric()
        text = f"metric_id,timestamp,value,unit\n{metric},{TEN},1,kW\n{metric},{TEN},1,W\n{metric},{TEN},1,\n"
        report = send(world.technician, text, "text/csv")
        assert codes(report) == [(1, "wrong_unit"), (2, "wrong_unit")]
        assert "`kW`" in report["errors"][0]["detail"]

    @pytest.mark.parametrize(
        "header",
        [
            "metric,timestamp",
            "timestamp,value",
            "metric,metric_id,timestamp,value",
            "metric,timestamp,value,value",
            "metric,timestamp,value,quality",
            "metric;timestamp;value",
            "Metric,Timestamp,Value",
            "metric,timestamp,value,",
            "home/roof/power,2026-01-05T10:00:00Z,1.5",
            ",".join(f"column{n}" for n in range(100_000)),
            "\ud7ff\x00",
        ],
    )
    def test_the_header_must_name_the_columns(self, world: World, header: str) -> None:
        answer = post(world.technician, header + "\na,b,c\n", "text/csv")
        assert answer.status_code == 400
        assert "`metric,timestamp,value`" in answer.json()["detail"]
        assert len(answer.content) < 1000

    @pytest.mark.parametrize(
        "body", [b"metric,timestamp,value", b"metric,timestamp,value\n", b"metric,timestamp,value\r\n\r\n"]
    )
    def test_with_a_header_alone_has_no_readings(self, world: World, body: bytes) -> None:
        assert send(world.technician, body, "text/csv") == {"accepted": 0, "rejected": 0, "errors": []}

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"\n\n",
            b"\xef\xbb\xbf",
            b"metric,timestamp,value\n\xff\xfe,2026-01-05T10:00:00Z,1\n",
            "metric,timestamp,value\n".encode("utf-16"),
        ],
    )
    def test_that_is_empty_or_no_utf_8_is_400(self, world: World, body: bytes) -> None:
        answer = post(world.technician, body, "text/csv")
        assert answer.status_code == 400
        assert answer.json()["detail"]


class TestBodies:
    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"null",
            b"[]",
            b"7",
            b"{}",
            b'{"readings": null}',
            b'{"readings": {}}',
            b'{"series": "x"}',
            b'{"readings": [], "series": []}',
            b'{"readings": [], "more": 1}',
            b'{"rows": []}',
            b'{"readings": [\xff]}',
            b'{"readings": [{"metric": "\xff"}]}',
            '{"readings": []}'.encode("utf-16"),
            b"[" * 1_000_000,
            b'{"readings": [{"value": ' + b"[" * 1_000_000,
            b'{"readings": ' + b'{"a":' * 1_000_000,
            b'{"readings": [' + b"[" * 500_000 + b"]" * 500_000 + b"]}",
        ],
        ids=lambda body: repr(body[:40]),
    )
    def test_that_are_no_readings_at_all_are_400(self, world: World, body: bytes) -> None:
        answer = post(world.technician, body)
        assert answer.status_code == 400
        assert answer.headers["content-type"] == "application/problem+json"
        assert len(answer.json()["detail"]) > 10

    def test_with_a_byte_order_mark_are_read(self, world: World) -> None:
        assert send(world.technician, b'\xef\xbb\xbf{"readings": []}')["accepted"] == 0

    @pytest.mark.parametrize("content_type", ["text/plain", "application/xml", "multipart/form-data", "nonsense"])
    def test_of_another_type_are_415(self, world: World, content_type: str) -> None:
        answer = post(world.technician, b"{}", content_type)
        assert answer.status_code == 415
        assert "text/csv" in answer.json()["detail"]

    @pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON", ""])
    def test_of_a_known_type_are_read_however_it_is_written(self, world: World, content_type: str) -> None:
        assert send(world.technician, b'{"readings": []}', content_type)["accepted"] == 0

    def test_compressed_in_any_way_we_know_are_read(self, world: World) -> None:
        metric = world.metric()
        body = json.dumps({"readings": [row(metric)]}).encode()
        half = len(body) // 2
        for encoding, packed in (
            ("gzip", gzip.compress(body)),
            ("X-GZIP", gzip.compress(body)),
            ("gzip", gzip.compress(body[:half]) + gzip.compress(body[half:])),
            ("zstd", zstd.compress(body)),
            ("zstd", zstd.compress(body[:half]) + zstd.compress(body[half:])),
            ("identity", body),
        ):
            assert send(world.technician, packed, content_encoding=encoding)["accepted"] == 1

    @pytest.mark.parametrize("encoding", ["gzip", "zstd"])
    def test_compressed_and_broken_are_400_and_store_nothing(self, world: World, encoding: str) -> None:
        metric = world.metric()
        body = json.dumps({"readings": [row(metric)] * 50}).encode()
        # like gzip's, with a checksum: without one a flipped byte may only change what is said
        packed = gzip.compress(body) if encoding == "gzip" else zstd.compress(body, options={_CHECKSUM: 1})
        flipped = bytearray(packed)
        flipped[len(packed) // 2] ^= 0xFF
        for broken in (
            packed[:-1],
            packed[: len(packed) // 2],
            packed + b"rubbish",
            bytes(flipped),
            body,
            b"\x00" * 40,
        ):
            answer = post(world.technician, broken, content_encoding=encoding)
            assert answer.status_code == 400, (broken, answer.text)
            assert encoding in answer.json()["detail"] or "JSON" in answer.json()["detail"]
        assert stored(world, metric) == []

    @pytest.mark.parametrize("encoding", ["gzip", "zstd"])
    def test_compressed_in_countless_members_are_400(self, world: World, encoding: str) -> None:
        member = gzip.compress(b"") if encoding == "gzip" else zstd.compress(b"")
        answer = post(world.technician, member * 100_000, content_encoding=encoding)
        assert answer.status_code == 400
        assert "too many members" in answer.json()["detail"]

    @pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip", "x"])
    def test_compressed_in_another_way_are_415(self, world: World, encoding: str) -> None:
        answer = post(world.technician, b"{}", content_encoding=encoding)
        assert answer.status_code == 415
        assert "gzip" in answer.json()["detail"]


class TestReport:
    def test_tells_the_first_hundred_by_row_and_counts_all(self, world: World) -> None:
        metric = world.metric()
        kinds = [row(metric, "?"), row("a/b/c"), row(metric, value=None), row(metric)]
        report = send_rows(world.technician, *(kinds * 200))
        assert (report["accepted"], report["rejected"]) == (200, 600)
        assert len(report["errors"]) == MAX_REPORTED
        expected = [n for n in range(800) if n % 4 != 3][:MAX_REPORTED]
        assert [error["row"] for error in report["errors"]] == expected
        assert {code for n, code in codes(report) if n % 4 == 1} == {"unknown_metric"}

    def test_says_the_same_of_a_foreign_metric_as_of_none(self, world: World) -> None:
        foreign = world.metric(world.south, valid_min=0, valid_max=1)
        path = path_of(world, foreign)
        for value, timestamp in ((0.5, TEN), (7, TEN), (0.5, "2030-01-01T00:00:00Z")):
            for real, never in ((foreign, 123_456), (path, "south/never/was")):
                texts = [
                    json.dumps(send_rows(world.technician, row(name, timestamp, value))).replace(str(name), "NAME")
                    for name in (real, never)
                ]
                assert texts[0] == texts[1]
        csv = [
            send(world.technician, f"metric,timestamp,value,unit\n{name},{TEN},1,V\n", "text/csv")
            for name in (path, "south/never/was")
        ]
        assert codes(csv[0]) == codes(csv[1]) == [(0, "unknown_metric")]


class TestRights:
    def test_a_standard_user_may_not_send(self, world: World) -> None:
        metric = world.metric()
        answer = post(world.standard, json.dumps({"readings": [row(metric)]}))
        assert answer.status_code == 403
        assert stored(world, metric) == []

    def test_the_anonymous_may_not_even_send_rubbish(self, world: World) -> None:
        assert post(world.anonymous, b"\xff", "nonsense").status_code == 401

    def test_rows_of_sites_where_one_is_technician_are_stored_and_those_of_others_told(self, world: World) -> None:
        north, south = world.metric(), world.metric(world.south)
        mixed = technician_here_and_standard_there(world, "mixed")
        report = send_rows(mixed, row(north), row(south), row(north, value=2))
        assert codes(report) == [(1, "forbidden")]
        assert len(stored(world, north)) == 1
        assert stored(world, south) == []

    def test_who_sees_no_site_knows_of_no_metric(self, world: World) -> None:
        metric = world.metric()
        assert codes(send_rows(world.newcomer, row(metric))) == [(0, "unknown_metric")]
        assert stored(world, metric) == []


class TestThatTakesLong:
    @pytest.mark.parametrize("path", ["/readings", "lines"])
    def test_is_refused_for_now_as_its_quarter_of_an_hour_may_be_folded_meanwhile(
        self, world: World, monkeypatch: pytest.MonkeyPatch, path: str
    ) -> None:
        metric = world.metric()
        body = json.dumps({"readings": [row(metric)]})
        monkeypatch.setattr(appender, "STORED_WITHIN_S", 0)
        if path == "lines":
            name = world.admin.get(f"/metrics/{metric}/latest").json()
            line = f"m,site={name['site']},device={name['device']} {name['metric']}=1 1767607200000000000"
            answer = world.technician.http.post("http://testserver/api/v2/write", content=line)
        else:
            answer = post(world.technician, body)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1"), answer.text
        assert stored(world, metric) == []
        monkeypatch.undo()
        assert send(world.technician, body)["accepted"] == 1


class TestAgain:
    def test_a_replay_changes_nothing(self, world: World) -> None:
        metric = world.metric()
        body = json.dumps({"readings": [row(metric, f"2026-01-05T10:00:{n:02}Z", n) for n in range(60)]})
        send(world.technician, body)
        before = stored(world, metric), world.admin.get(f"/metrics/{metric}/latest").json()["value"]
        assert send(world.technician, body)["accepted"] == 60
        assert (stored(world, metric), world.admin.get(f"/metrics/{metric}/latest").json()["value"]) == before

    def test_another_value_for_the_same_time_replaces(self, world: World) -> None:
        metric = world.metric()
        send_rows(world.technician, row(metric, value=1))
        send_rows(world.technician, row(metric, value=2))
        assert [value for _, value in stored(world, metric)] == [2.0]
        assert world.admin.get(f"/metrics/{metric}/latest").json()["value"] == 2.0

    def test_late_data_does_not_move_the_latest_back(self, world: World) -> None:
        metric = world.metric()
        send_rows(world.technician, row(metric, "2026-01-05T11:00:00Z", 5))
        send_rows(world.technician, row(metric, "1970-01-01T00:00:00Z", 6), row(metric, "2026-01-05T10:59:59.999Z", 7))
        latest = world.admin.get(f"/metrics/{metric}/latest").json()
        assert (latest["value"], datetime.fromisoformat(latest["timestamp"])) == (
            5.0,
            datetime(2026, 1, 5, 11, tzinfo=UTC),
        )
        assert len(stored(world, metric)) == 3

    def test_a_key_answers_as_the_first_time(self, world: World) -> None:
        metric = world.metric()
        other = world.metric()
        body = json.dumps({"readings": [row(metric), row(other)]})
        first = send(world.technician, body, idempotency_key="first")
        assert first["accepted"] == 2
        assert world.admin.patch(f"/metrics/{other}", {"valid_max": 0}).status_code == 200
        assert send(world.technician, body, idempotency_key="first") == first
        assert codes(send(world.technician, body, idempotency_key="another")) == [(1, "out_of_range")]

    def test_a_key_stands_for_one_body(self, world: World) -> None:
        metric = world.metric()
        send(world.technician, json.dumps({"readings": [row(metric)]}), idempotency_key="one-body")
        answer = post(world.technician, json.dumps({"readings": [row(metric, value=9)]}), idempotency_key="one-body")
        assert answer.status_code == 422
        assert [value for _, value in stored(world, metric)] == [1.0]

    def test_a_key_may_be_used_anew_after_a_day(self, settings: Settings, clock: Clock) -> None:
        with open_world(settings, clock) as world:  # one of its own, as its clock is moved
            metric = world.metric()
            key = world.technician.post("/me/api-keys", {"name": "logger", "scopes": ["ingest"]}).json()["key"]
            logger = Person(world.technician.id, "", "", world.http(key))
            send(logger, json.dumps({"readings": [row(metric)]}), idempotency_key="daily")
            changed = json.dumps({"readings": [row(metric, value=9)]})
            clock.advance(hours=23, minutes=59)
            assert post(logger, changed, idempotency_key="daily").status_code == 422
            clock.advance(minutes=2)
            assert send(logger, changed, idempotency_key="daily")["accepted"] == 1

    def test_a_key_is_ones_own(self, world: World) -> None:
        metric = world.metric()
        body = json.dumps({"readings": [row(metric)]})
        send(world.technician, body, idempotency_key="my-own")
        assert send(world.newcomer, body, idempotency_key="my-own")["accepted"] == 0


class TestWhereItIsRead:
    """What is small is read by the event loop itself, so it must not become large there."""

    @pytest.mark.parametrize(
        ("content_type", "content_encoding"),
        [
            ("application/json", "gzip"),
            ("application/json", "zstd"),
            ("application/vnd.apache.parquet", None),
            ("application/vnd.apache.arrow.stream; charset=binary", None),
        ],
    )
    def test_what_may_unfold_is_never_small(self, content_type: str, content_encoding: str | None) -> None:
        """200,000 readings are 36 KB of gzip, 3,000,000 are 41 KB of Parquet."""
        assert not is_small(b"", content_type=content_type, content_encoding=content_encoding)

    def test_what_is_read_as_it_comes_is_small_up_to_its_length(self) -> None:
        for content_type in ("application/json", "text/csv", None):
            assert is_small(bytes(16_384), content_type=content_type, content_encoding=None)
            assert not is_small(bytes(16_385), content_type=content_type, content_encoding=None)
