"""History and latest values over HTTP: shape, formats, time zones, units, pages, and what is refused."""

import csv
import io
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kilowatch.config import Settings
from tests.conftest import SECRET_KEY, Clock, Person, World, open_world

DAY = {"start": "2026-01-05T00:00:00+01:00", "end": "2026-01-06T00:00:00+01:00"}
HOURS = {"start": "2026-01-05T10:00:00+01:00", "end": "2026-01-05T13:00:00+01:00", "resolution": "1h"}


@pytest.fixture(scope="module")
def world(sqlite_template: Path, shared_history_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One world for the module: each test takes metrics of its own."""
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("api"),
        history_url=shared_history_url,
        history_sync=False,
        history_threads=2,
        secret_key=SECRET_KEY,  # type: ignore[arg-type]  # pydantic makes it a SecretStr
        log_level="error",
    )
    with open_world(settings, Clock()) as world:
        yield world


def history(world: World, metric: int, **params: Any) -> dict[str, Any]:
    answer = world.standard.get(f"/metrics/{metric}/history", **params)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def refused(person: Person, metric: int, **params: Any) -> tuple[str, str]:
    """The parameter that is named, and what is said of it."""
    answer = person.get(f"/metrics/{metric}/history", **params)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    return problem["errors"][0]["pointer"].removeprefix("#"), problem["detail"]


def subscribe(world: World, *metrics: int) -> str:
    answer = world.admin.post("/subscriptions", {"name": "All", "metric_ids": list(metrics)})
    assert answer.status_code == 201, answer.text
    return f"/subscriptions/{answer.json()['id']}/history"


class TestShape:
    def test_is_the_contract_s(self, world: World) -> None:
        device = world.device(
            slug="roof", metrics=[{"key": "power", "quantity": "power", "unit": "kW", "max_gap_s": 3600}]
        )
        metric = device["metrics"][0]["id"]
        world.send(metric, ("2026-01-05T10:00:00+01:00", 2.0), ("2026-01-05T10:30:00+01:00", 3.0))
        assert history(world, metric, **HOURS) == {
            "start": "2026-01-05T10:00:00+01:00",
            "end": "2026-01-05T13:00:00+01:00",
            "resolution": "1h",
            "timezone": "Europe/Berlin",
            "series": [
                {
                    "metric_id": metric,
                    "site": "north",
                    "device": "roof",
                    "metric": "power",
                    "unit": "kW",
                    "aggregate": "mean",
                    "timestamps": [f"2026-01-05T{hour}:00:00+01:00" for hour in (10, 11, 12)],
                    "values": [2.5, 3.0, None],
                    "coverage": [1.0, 0.5, 0.0],
                }
            ],
            "next": None,
            "unavailable": [],
        }

    def test_raw_readings_have_no_coverage_and_no_aggregate(self, world: World) -> None:
        metric = world.metric()
        world.send(metric, ("2026-01-05T10:00:00.250Z", 2.0), ("2026-01-05T10:00:00Z", 1.0))
        body = history(world, metric, **DAY, resolution="raw")
        series = body["series"][0]
        assert (body["resolution"], series["aggregate"], "coverage" in series) == ("raw", None, False)
        assert series["values"] == [1.0, 2.0]
        assert [text[:19] for text in series["timestamps"]] == ["2026-01-05T11:00:00"] * 2
        assert series["timestamps"][0] == "2026-01-05T11:00:00+01:00"
        assert series["timestamps"][1] in ("2026-01-05T11:00:00.250+01:00", "2026-01-05T11:00:00.250000+01:00")

    def test_a_window_with_nothing_has_all_its_buckets(self, world: World) -> None:
        series = history(world, world.metric(), **HOURS)["series"][0]
        assert (series["values"], series["coverage"]) == ([None] * 3, [0.0] * 3)
        assert len(series["timestamps"]) == 3

    @pytest.mark.parametrize(
        ("start", "end", "labels"),
        [
            ("2026-03-29T00:00:00+01:00", "2026-03-29T05:00:00+02:00", ["00+01", "01+01", "03+02", "04+02"]),
            ("2026-10-25T01:00:00+02:00", "2026-10-25T04:00:00+01:00", ["01+02", "02+02", "02+01", "03+01"]),
        ],
    )
    def test_times_carry_their_own_offset_over_a_change_of_clock(
        self, world: World, start: str, end: str, labels: list[str]
    ) -> None:
        body = history(world, world.metric(), start=start, end=end, resolution="1h")
        expected = [f"{start[:10]}T{label[:2]}:00:00{label[2:]}:00" for label in labels]
        assert body["series"][0]["timestamps"] == expected
        assert (body["start"], body["end"]) == (start, end)

    def test_days_carry_theirs(self, world: World) -> None:
        body = history(
            world, world.metric(), start="2026-03-28T00:00:00+01:00", end="2026-03-31T00:00:00+02:00", resolution="1d"
        )
        assert body["series"][0]["timestamps"] == [
            "2026-03-28T00:00:00+01:00",
            "2026-03-29T00:00:00+01:00",
            "2026-03-30T00:00:00+02:00",
        ]

    def test_an_offset_with_seconds_still_names_the_instant(self, world: World) -> None:
        """Liberia kept its 44 min 30 s until 1972; RFC 3339 has no seconds in offsets, so it is shown to the minute."""
        window = {"start": "1972-01-06T00:00:00Z", "end": "1972-01-06T01:00:00Z"}
        body = history(world, world.metric(), **window, resolution="1h", timezone="Africa/Monrovia")
        instants = [datetime.fromisoformat(text).timestamp() for text in body["series"][0]["timestamps"]]
        start = datetime.fromisoformat(window["start"]).timestamp()
        assert instants == [start, start + 44 * 60 + 30]
        assert datetime.fromisoformat(body["start"]).timestamp() == start

    def test_auto_gives_at_most_the_points(self, world: World) -> None:
        body = history(world, world.metric(), **DAY, points=24)
        assert (body["resolution"], len(body["series"][0]["values"])) == ("1h", 24)
        assert history(world, world.metric(), **DAY, points=23)["resolution"] == "1d"


class TestFormats:
    def test_csv(self, world: World) -> None:
        metric = world.metric(max_gap_s=3600)
        world.send(metric, ("2026-01-05T10:00:00+01:00", 2.5))
        answer = world.standard.get(f"/metrics/{metric}/history", **HOURS, format="csv")
        assert answer.headers["content-type"].startswith("text/csv")
        rows = list(csv.DictReader(io.StringIO(answer.text)))
        assert [row["timestamp"] for row in rows] == [f"2026-01-05T{hour}:00:00+01:00" for hour in (10, 11, 12)]
        assert [(row["value"], row["unit"], row["aggregate"], float(row["coverage"])) for row in rows] == [
            ("2.5", "kW", "mean", 1.0),
            ("", "kW", "mean", 0.0),
            ("", "kW", "mean", 0.0),
        ]
        assert rows[0]["metric"].startswith("north/") and rows[0]["metric"].endswith("/power")

    def test_csv_of_raw_readings(self, world: World) -> None:
        metric = world.metric()
        world.send(metric, ("2026-01-05T10:00:00Z", -0.5))
        answer = world.standard.get(f"/metrics/{metric}/history", **DAY, resolution="raw", format="text/csv")
        head, line = answer.text.splitlines()
        assert head == "metric,timestamp,value,unit"
        assert line.endswith(",2026-01-05T11:00:00+01:00,-0.5,kW")

    @pytest.mark.parametrize(
        ("accept", "media"),
        [
            ("*/*", "application/json"),
            ("application/json", "application/json"),
            ("text/csv", "text/csv"),
            ("text/*", "text/csv"),
            ("application/*;q=0.5", "application/json"),
            ("application/json;q=0.1, text/csv;q=0.9", "text/csv"),
            ("image/png, text/csv", "text/csv"),
            ("text/html,application/xhtml+xml,*/*;q=0.8", "application/json"),
            ("application/json;q=0, */*", "application/json"),
        ],
    )
    def test_accept_chooses(self, world: World, accept: str, media: str) -> None:
        answer = world.standard.http.get(f"/metrics/{world.metric()}/history", params=HOURS, headers={"Accept": accept})
        assert answer.status_code == 200
        assert answer.headers["content-type"].split(";")[0] == media
        assert "Accept" in answer.headers["vary"]

    @pytest.mark.parametrize("accept", ["image/png", "text/html", "application/json;q=0", "text/csv;q=0, image/png"])
    def test_none_that_is_accepted_is_406(self, world: World, accept: str) -> None:
        answer = world.standard.http.get(f"/metrics/{world.metric()}/history", params=HOURS, headers={"Accept": accept})
        assert answer.status_code == 406, answer.text
        assert "text/csv" in answer.json()["detail"]

    def test_format_goes_before_accept(self, world: World) -> None:
        answer = world.standard.http.get(
            f"/metrics/{world.metric()}/history", params=HOURS | {"format": "json"}, headers={"Accept": "image/png"}
        )
        assert answer.headers["content-type"] == "application/json"

    def test_an_unknown_format_is_refused(self, world: World) -> None:
        assert refused(world.standard, world.metric(), **HOURS, format="xml")[0] == "/format"


class TestTimezone:
    def test_is_the_site_s(self, world: World) -> None:
        assert history(world, world.metric(), **HOURS)["timezone"] == "Europe/Berlin"

    def test_is_utc_where_sites_differ(self, world: World) -> None:
        india = world.site("india", timezone="Asia/Kolkata")
        both = world.admin.get(subscribe(world, world.metric(), world.metric(india)), **HOURS).json()
        one = world.admin.get(subscribe(world, world.metric(india)), **HOURS).json()
        assert (both["timezone"], one["timezone"]) == ("UTC", "Asia/Kolkata")
        assert both["series"][0]["timestamps"][0] == "2026-01-05T09:00:00+00:00"
        # 9:00 UTC is 14:30 in India: half an hour, two hours and another half
        assert [text[11:] for text in one["series"][0]["timestamps"]] == [
            f"{time}:00+05:30" for time in ("14:30", "15:00", "16:00", "17:00")
        ]

    def test_may_be_asked(self, world: World) -> None:
        body = history(world, world.metric(), **DAY, resolution="1d", timezone="America/New_York")
        assert body["series"][0]["timestamps"] == ["2026-01-04T18:00:00-05:00", "2026-01-05T00:00:00-05:00"]


class TestUnits:
    def test_are_converted(self, world: World) -> None:
        metric = world.metric(unit="W")
        world.send(metric, ("2026-01-05T10:00:00+01:00", 1500.0))
        series = history(world, metric, **HOURS, unit="kW")["series"][0]
        assert (series["unit"], series["values"][0]) == ("kW", 1.5)
        raw = history(world, metric, **(HOURS | {"resolution": "raw"}), unit="kW")["series"][0]
        assert (raw["unit"], raw["values"]) == ("kW", [1.5])

    def test_of_energy(self, world: World) -> None:
        metric = world.metric(unit="W", max_gap_s=3600)
        world.send(metric, ("2026-01-05T10:00:00+01:00", 500.0))
        series = history(world, metric, **HOURS, aggregate="energy", unit="Wh")["series"][0]
        assert (series["unit"], series["values"]) == ("Wh", [500.0, None, None])

    @pytest.mark.parametrize("unit", ["kWh", "bogus", "m**9**9**9", "°C", "k W"])
    def test_that_do_not_fit_are_refused(self, world: World, unit: str) -> None:
        for resolution in ("1h", "raw"):
            pointer, detail = refused(world.standard, world.metric(), **(HOURS | {"resolution": resolution}), unit=unit)
            assert pointer == "/unit" and repr(unit) in detail

    def test_of_energy_must_be_of_energy(self, world: World) -> None:
        assert refused(world.standard, world.metric(), **HOURS, aggregate="energy", unit="kW")[0] == "/unit"

    def test_a_count_has_none(self, world: World) -> None:
        metric = world.metric()
        assert history(world, metric, **HOURS, aggregate="count")["series"][0]["unit"] == "dimensionless"
        assert refused(world.standard, metric, **HOURS, aggregate="count", unit="kW")[0] == "/unit"


class TestAggregate:
    def test_is_by_default_the_behaviour_s(self, world: World) -> None:
        gauge, counter = world.metric(), world.metric(quantity="energy", unit="kWh", behaviour="counter")
        body = world.admin.get(subscribe(world, counter, gauge), **HOURS).json()
        assert [(s["metric_id"], s["aggregate"], s["unit"]) for s in body["series"]] == [
            (counter, "delta", "kWh"),
            (gauge, "mean", "kW"),
        ]

    def test_energy_is_for_power_alone(self, world: World) -> None:
        device = world.device(slug="cellar", metrics=[{"key": "warmth", "quantity": "temperature", "unit": "°C"}])
        pointer, detail = refused(world.standard, device["metrics"][0]["id"], **HOURS, aggregate="energy")
        assert pointer == "/aggregate" and "north/cellar/warmth" in detail

    def test_energy_of_a_counter_points_to_its_delta(self, world: World) -> None:
        metric = world.metric(quantity="energy", unit="kWh", behaviour="counter")
        assert "delta" in refused(world.standard, metric, **HOURS, aggregate="energy")[1]

    def test_delta_is_for_counters_alone(self, world: World) -> None:
        assert refused(world.standard, world.metric(), **HOURS, aggregate="delta")[0] == "/aggregate"

    def test_raw_has_none(self, world: World) -> None:
        question = HOURS | {"resolution": "raw", "aggregate": "mean"}
        assert refused(world.standard, world.metric(), **question)[0] == "/aggregate"


class TestPages:
    @pytest.mark.parametrize("limit", [1, 3, 7, 20])
    def test_hold_all_readings_exactly_once(self, world: World, limit: int) -> None:
        """Over several series; the readings' order is that of the metrics' ids."""
        metrics = [world.metric() for _ in range(3)]
        for number, metric in enumerate(metrics):
            world.send(
                metric, *((f"2026-01-05T10:00:{second:02d}Z", number + second / 100) for second in range(5 - number))
            )
        found: dict[int, list[float]] = {metric: [] for metric in metrics}
        path, pages = subscribe(world, *reversed(metrics)), 0
        params: dict[str, Any] | None = DAY | {"resolution": "raw", "limit": limit}
        while params is not None:
            answer = world.admin.get(path, **params)
            body, pages = answer.json(), pages + 1
            assert [series["metric_id"] for series in body["series"]] == list(reversed(metrics))
            assert sum(len(series["values"]) for series in body["series"]) <= limit
            for series in body["series"]:
                found[series["metric_id"]] += series["values"]
            params = None if body["next"] is None else params | {"cursor": body["next"]}
            assert ("link" in answer.headers) == (params is not None)
        assert list(found.values()) == [[n + s / 100 for s in range(5 - n)] for n in range(3)]
        assert pages == -(-12 // limit)

    def test_a_link_leads_on(self, world: World) -> None:
        metric = world.metric()
        world.send(metric, *((f"2026-01-05T10:00:{second:02d}Z", float(second)) for second in range(4)))
        question = DAY | {"resolution": "raw", "limit": 2}
        first = world.standard.get(f"/metrics/{metric}/history", **question)
        target, relation = first.headers["link"].split("; ")
        assert relation == 'rel="next"'
        second = world.client.get(target.strip("<>"), headers=dict(world.standard.http.headers))
        assert second.json()["series"][0]["values"] == [2.0, 3.0]
        assert "link" not in second.headers

    @pytest.mark.parametrize("cursor", ["nonsense", "", "MTox", "MTotNQ", "MTo5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk", "é"])
    def test_a_cursor_of_our_own_making_only(self, world: World, cursor: str) -> None:
        answer = world.standard.get(f"/metrics/{world.metric()}/history", **DAY, resolution="raw", cursor=cursor)
        assert answer.status_code in (200, 422), answer.text

    def test_a_cursor_is_for_raw_readings(self, world: World) -> None:
        assert refused(world.standard, world.metric(), **HOURS, cursor="MTox")[0] == "/cursor"

    @pytest.mark.parametrize("limit", [0, -1, 1_000_001, "many"])
    def test_a_limit_has_limits(self, world: World, limit: Any) -> None:
        assert refused(world.standard, world.metric(), **DAY, resolution="raw", limit=limit)[0] == "/limit"


class TestRefusals:
    @pytest.mark.parametrize(
        ("params", "pointer"),
        [
            ({"start": "2026-01-05T00:00:00"}, "/start"),
            ({"end": "2026-01-06"}, "/end"),
            ({"start": "yesterday"}, "/start"),
            ({"start": "1800-01-01T00:00:00Z"}, "/start"),
            ({"end": "2026-01-04T00:00:00Z"}, "/end"),
            ({"end": "2026-01-05T00:00:00+01:00"}, "/end"),
            ({"resolution": "3h"}, "/resolution"),
            ({"resolution": "1s", "end": "2026-01-08T00:00:00Z"}, "/resolution"),
            ({"aggregate": "median"}, "/aggregate"),
            ({"timezone": "Mars/Olympus"}, "/timezone"),
            ({"points": "0"}, "/points"),
            ({"points": "110001"}, "/points"),
        ],
    )
    def test_name_the_parameter(self, world: World, params: dict[str, str], pointer: str) -> None:
        assert refused(world.standard, world.metric(), **(DAY | params))[0] == pointer

    def test_too_fine_a_resolution_names_one_that_fits(self, world: World) -> None:
        metric = world.metric()
        window = {"start": "2025-01-01T00:00:00Z", "end": "2026-01-01T00:00:00Z"}
        detail = refused(world.standard, metric, **window, resolution="1m")[1]
        assert "110,000" in detail and "`resolution=5m` fits" in detail
        assert len(history(world, metric, **window, resolution="5m")["series"][0]["values"]) == 105_120

    @pytest.mark.parametrize("left_out", ["start", "end"])
    def test_a_window_has_two_ends(self, world: World, left_out: str) -> None:
        params = {name: value for name, value in DAY.items() if name != left_out}
        assert refused(world.standard, world.metric(), **params)[0] == f"/{left_out}"

    def test_an_unescaped_plus_is_understood(self, world: World) -> None:
        metric = world.metric()
        answer = world.standard.http.get(
            f"/metrics/{metric}/history?start=2026-01-05T00:00:00+01:00&end=2026-01-06T00:00:00+01:00&resolution=1d"
        )
        assert answer.json()["series"][0]["timestamps"] == ["2026-01-05T00:00:00+01:00"]


class TestLatest:
    def test_of_a_metric(self, world: World) -> None:
        metric = world.metric(max_gap_s=60)
        world.send(metric, ("2026-01-05T11:59:00Z", 2.5))
        body = world.standard.get(f"/metrics/{metric}/latest").json()
        assert body | {"device": ""} == {
            "metric_id": metric,
            "site": "north",
            "device": "",
            "metric": "power",
            "value": 2.5,
            "unit": "kW",
            "timestamp": "2026-01-05T11:59:00Z",
            "received_at": body["received_at"],
            "age_s": 60.0,
            "stale": False,
            "available": True,
        }
        assert body["received_at"].startswith("2026-01-05T12:00:00")

    def test_goes_stale_when_its_value_is_believed_no_longer(self, world: World) -> None:
        metric = world.metric(max_gap_s=60)
        world.send(metric, ("2026-01-05T11:58:59.999Z", 2.5))
        body = world.standard.get(f"/metrics/{metric}/latest").json()
        assert (body["age_s"], body["stale"]) == (60.001, True)

    def test_goes_stale_after_three_of_its_usual_intervals_where_no_gap_is_set(self, world: World) -> None:
        """A counter read every ten minutes, after a pause of two hours."""
        metric = world.metric(quantity="energy", unit="kWh", behaviour="counter", max_gap_s=None)
        last = world.clock.now - timedelta(minutes=30)
        times = [last - timedelta(minutes=minutes) for minutes in (180, 51, 40, 30, 20, 10, 0)]
        world.send(metric, *((time.isoformat(), float(n)) for n, time in enumerate(times)))
        body = world.standard.get(f"/metrics/{metric}/latest").json()
        assert (body["age_s"], body["stale"]) == (1800, False)
        world.clock.advance(seconds=1)
        body = world.standard.get(f"/metrics/{metric}/latest").json()
        assert (body["age_s"], body["stale"]) == (1801, True)

    def test_goes_stale_after_45_minutes_where_too_few_readings_tell_more(self, world: World) -> None:
        metric = world.metric(quantity="energy", unit="kWh", behaviour="counter", max_gap_s=None)
        sent = world.clock.now - timedelta(minutes=45)
        world.send(metric, ((sent - timedelta(seconds=1)).isoformat(), 1.0), (sent.isoformat(), 2.0))
        assert world.standard.get(f"/metrics/{metric}/latest").json()["stale"] is False
        world.clock.advance(seconds=1)
        assert world.standard.get(f"/metrics/{metric}/latest").json()["stale"] is True

    def test_with_no_reading_yet(self, world: World) -> None:
        body = world.standard.get(f"/metrics/{world.metric()}/latest").json()
        values = {name: body[name] for name in ("value", "timestamp", "received_at", "age_s", "stale", "unit")}
        assert values == {
            "value": None,
            "timestamp": None,
            "received_at": None,
            "age_s": None,
            "stale": True,
            "unit": "kW",
        }

    def test_never_goes_back(self, world: World) -> None:
        metric = world.metric()
        world.send(metric, ("2026-01-05T11:00:00Z", 1.0))
        world.send(metric, ("2026-01-05T10:00:00Z", 2.0))
        assert world.standard.get(f"/metrics/{metric}/latest").json()["value"] == 1.0

    def test_of_a_device_and_a_site(self, world: World) -> None:
        site = world.site("depot")
        metrics = [{"key": key, "quantity": "power", "unit": "kW"} for key in ("a", "b")]
        device = world.device(site, metrics=metrics)
        other = world.metric(site)
        ids = [metric["id"] for metric in device["metrics"]]
        world.send(ids[1], ("2026-01-05T11:00:00Z", 1.0))
        of_device = world.admin.get(f"/devices/{device['id']}/latest").json()
        of_site = world.admin.get(f"/sites/{site}/latest").json()
        assert [(item["metric_id"], item["value"]) for item in of_device["items"]] == [(ids[0], None), (ids[1], 1.0)]
        assert {item["metric_id"] for item in of_site["items"]} == {*ids, other}
        assert of_device["next"] is of_site["next"] is None


def test_a_figure_that_overflows_is_null_in_json_and_empty_in_csv(world: World) -> None:
    metric = world.metric(unit="kW")
    world.send(metric, ("2026-01-05T10:00:00Z", 1.7e308), ("2026-01-05T10:10:00Z", 1.7e308))
    window = "start=2026-01-05T10:00:00Z&end=2026-01-05T11:00:00Z&resolution=1h"
    for question in ("aggregate=sum", "aggregate=max&unit=W"):
        path = f"/metrics/{metric}/history?{window}&{question}"
        assert world.standard.get(path).json()["series"][0]["values"] == [None]
        value = world.standard.get(f"{path}&format=csv").text.splitlines()[1].split(",")[2]
        assert value == ""
