"""Readings that come in again with other values, and readings for keys that a device does not have yet."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NoReturn

import msgspec
import pytest

from kilowatch.auth.model import OPERATOR
from kilowatch.config import Settings
from kilowatch.history.appender import Overloaded
from kilowatch.history.model import Batch
from kilowatch.ingest import formats, service
from tests.conftest import Clock, Person, World, open_world

NINE, TEN, ELEVEN = (f"2026-01-05T{hour}:00:00Z" for hour in ("09", "10", "11"))


@pytest.fixture
def database_url(any_database_url: str) -> str:
    return any_database_url


@pytest.fixture
def world(settings: Settings, clock: Clock) -> Iterator[World]:
    with open_world(settings, clock) as world:
        yield world


def entries(world: World, action: str) -> list[tuple[str, dict[str, Any]]]:
    """What the audit log says of an action, the oldest first."""
    items = world.admin.get(f"/sites/{world.north}/audit", action=action, limit=500).json()["items"]
    return [(item["object"], item["details"]) for item in items[::-1]]


def send_csv(person: Person, text: str) -> dict[str, Any]:
    answer = person.post("/readings", content=text, headers={"Content-Type": "text/csv"})
    assert answer.status_code == 200, answer.text
    report: dict[str, Any] = answer.json()
    return report


class TestSendingAgain:
    def test_another_value_is_a_correction_of_its_metric(self, world: World) -> None:
        for slug in ("roof", "barn"):
            world.device(slug=slug)
            world.send(f"north/{slug}/power", (NINE, 1), (TEN, 2), (ELEVEN, 3))
        world.send("north/roof/power", (NINE, 5), (TEN, 2), (ELEVEN, 6), ("2026-01-05T12:00:00Z", 7))
        world.send("north/barn/power", ("2026-01-05T09:30:00Z", 5), (TEN, 2))
        assert entries(world, "readings_corrected") == [
            ("north/roof/power", {"readings": 2, "first": NINE, "last": ELEVEN})
        ]

    def test_says_who_and_with_which_key(self, world: World) -> None:
        world.device(slug="roof")
        world.send("north/roof/power", (TEN, 1))
        key = world.technician.post("/me/api-keys", {"name": "Gateway", "scopes": ["ingest"]}).json()
        row = {"metric": "north/roof/power", "timestamp": TEN, "value": 2}
        assert world.http(key["key"]).post("/readings", json={"readings": [row]}).json()["accepted"] == 1
        (entry,) = world.admin.get(f"/sites/{world.north}/audit", action="readings_corrected").json()["items"]
        assert (entry["user"], entry["api_key_id"], entry["api_key"]) == (
            "technician@example.org",
            key["id"],
            "Gateway",
        )

    def test_the_same_values_are_none(self, world: World) -> None:
        metric = world.metric()
        for _ in range(3):
            world.send(metric, (NINE, 1), (TEN, 2))
        world.send(metric, (TEN, 2), (NINE, 1))
        assert entries(world, "readings_corrected") == []

    def test_refused_readings_correct_nothing(self, world: World) -> None:
        metric = world.metric(valid_max=10)
        world.send(metric, (NINE, 1))
        report = send_csv(world.technician, f"metric_id,timestamp,value\n{metric},{NINE},99\n")
        assert (report["rejected"], entries(world, "readings_corrected")) == (1, [])

    def test_what_was_not_stored_is_taken_back(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        metric = world.metric()
        world.send(metric, (NINE, 1))
        written: list[int] = []

        def submit(_batch: Batch) -> NoReturn:
            written.append(len(entries(world, "readings_corrected")))  # it is there before the reading
            raise Overloaded

        with monkeypatch.context() as patch:
            patch.setattr(world.services.history, "submit", submit)
            rows = [{"metric_id": metric, "timestamp": NINE, "value": 2}]
            assert world.technician.post("/readings", {"readings": rows}).status_code == 503
        assert (written, entries(world, "readings_corrected")) == ([1], [])
        world.send(metric, (NINE, 2))
        assert len(entries(world, "readings_corrected")) == 1

    def test_is_taken_back_too_where_storing_fails_only_later(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """For a sender over HTTP, and for an import, which waits by itself."""
        metric, intake = world.metric(), world.services.intake
        world.send(metric, (NINE, 1))
        failed: Future[int] = Future()
        failed.set_exception(Overloaded())
        monkeypatch.setattr(world.services.history, "submit", lambda _batch: failed)
        rows = {"readings": [{"metric_id": metric, "timestamp": NINE, "value": 2}]}
        assert world.technician.post("/readings", rows).status_code == 503
        assert entries(world, "readings_corrected") == []
        taking = intake.begin(OPERATOR, msgspec.json.encode(rows), content_type="application/json")
        assert len(entries(world, "readings_corrected")) == 1
        with pytest.raises(Overloaded):
            intake.wait(taking)
        assert entries(world, "readings_corrected") == []

    def test_readings_that_are_new_ask_nothing_but_the_latest(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        metric = world.metric()
        world.send(metric, (NINE, 1))

        def page(*_: object, **__: object) -> None:
            raise AssertionError("what is stored was read back")

        monkeypatch.setattr(world.services.history, "first_readings", page)
        world.send(metric, (TEN, 1), (ELEVEN, 2))
        world.send(metric, (ELEVEN, 2))


class TestKeysThatAreNew:
    @pytest.fixture
    def device(self, world: World) -> dict[str, Any]:
        return world.device(slug="roof", create_metrics=True)

    def metrics(self, world: World, device: dict[str, Any]) -> dict[str, dict[str, Any]]:
        items = world.standard.get(f"/devices/{device['id']}/metrics", limit=500).json()["items"]
        return {metric["key"]: metric for metric in items}

    def test_are_unknown_unless_the_device_is_set_to_make_them(self, world: World) -> None:
        device = world.device(slug="roof")
        assert device["create_metrics"] is False
        text = f"metric,timestamp,value\nnorth/roof/new,{TEN},1\n"
        report = send_csv(world.technician, text)
        assert (report["accepted"], report["errors"][0]["code"]) == (0, "unknown_metric")
        changed = world.technician.patch(f"/devices/{device['id']}", {"create_metrics": True})
        assert changed.json()["create_metrics"] is True
        assert send_csv(world.technician, text)["accepted"] == 1
        world.technician.patch(f"/devices/{device['id']}", {"create_metrics": False})
        assert send_csv(world.technician, text.replace("new", "newer"))["accepted"] == 0
        assert send_csv(world.technician, text)["accepted"] == 1

    def test_become_gauges_without_a_dimension(self, world: World, device: dict[str, Any]) -> None:
        world.send("north/roof/door_open", (TEN, 1))
        made = self.metrics(world, device)["door_open"]
        assert made == made | {
            "name": "Door open",
            "quantity": "dimensionless",
            "unit": "dimensionless",
            "behaviour": "gauge",
            "max_gap_s": 900,
        }
        assert world.standard.get(f"/metrics/{made['id']}/latest").json()["value"] == 1.0
        told = {"quantity": "dimensionless", "unit": "dimensionless", "behaviour": "gauge", "on_arrival": True}
        assert entries(world, "metric_created") == [("north/roof/door_open", told)]

    def test_take_their_unit_and_what_it_tells(self, world: World, device: dict[str, Any]) -> None:
        told = {
            **{"kW": "power", "W": "power", "kvar": "reactive_power", "MVA": "apparent_power", "MWh": "energy"},
            **{"°F": "temperature", "km/h": "wind_speed", "W/m2": "irradiance", "dimensionless": "dimensionless"},
            **{"%": "generic", "deg": "generic", "lux": "generic"},
        }
        lines = "".join(
            f"north/roof/new_{n},{time},1,{unit}\n" for n, unit in enumerate(told) for time in (TEN, ELEVEN)
        )
        assert send_csv(world.technician, f"metric,timestamp,value,unit\n{lines}")["rejected"] == 0
        made = self.metrics(world, device)
        del made["power"]
        assert {metric["unit"]: metric["quantity"] for metric in made.values()} == told

    def test_are_not_made_for_a_unit_that_is_none(self, world: World, device: dict[str, Any]) -> None:
        for unit in ("no such unit", "", "9**9**9", "x" * 500):
            report = send_csv(world.technician, f"metric,timestamp,value,unit\nnorth/roof/new,{TEN},1,{unit}\n")
            assert (report["accepted"], report["errors"][0]["code"]) == (0, "unknown_metric")
            assert "unit" in report["errors"][0]["detail"]
        assert list(self.metrics(world, device)) == ["power"]

    def test_are_not_made_of_what_can_be_no_key(self, world: World, device: dict[str, Any]) -> None:
        lines = "".join(f"north/roof/{key},{TEN},1\n" for key in ("New", "a-b", "", "x" * 61, "a b", "ä"))
        assert send_csv(world.technician, f"metric,timestamp,value\n{lines}")["accepted"] == 0
        assert list(self.metrics(world, device)) == ["power"]

    def test_are_not_made_of_readings_that_are_refused(self, world: World, device: dict[str, Any]) -> None:
        rows = ("2026-01-05T10:00:00,1", f"{TEN},nan", "2027-01-01T00:00:00Z,1", "1969-01-01T00:00:00Z,1", f"{TEN},x")
        lines = "".join(f"north/roof/new_{n},{row}\n" for n, row in enumerate(rows))
        assert send_csv(world.technician, f"metric,timestamp,value\n{lines}")["accepted"] == 0
        assert list(self.metrics(world, device)) == ["power"]

    def test_need_a_technician_and_a_key_that_may_send(self, world: World, device: dict[str, Any]) -> None:
        for person in (world.standard, world.neighbour, world.newcomer):
            report = send_csv(person, f"metric,timestamp,value\nnorth/roof/new,{TEN},1\n")
            assert (report["accepted"], report["errors"][0]["code"]) == (0, "unknown_metric")
        assert list(self.metrics(world, device)) == ["power"]
        key = world.technician.post("/me/api-keys", {"name": "Gateway", "scopes": ["ingest"]}).json()["key"]
        row = {"metric": "north/roof/new", "timestamp": TEN, "value": 1}
        assert world.http(key).post("/readings", json={"readings": [row]}).json()["accepted"] == 1
        elsewhere = world.admin.post("/me/api-keys", {"name": "K", "scopes": ["ingest"], "site_id": world.south})
        row["metric"] = "north/roof/newer"
        answer = world.http(elsewhere.json()["key"]).post("/readings", json={"readings": [row]})
        assert answer.json()["accepted"] == 0
        assert list(self.metrics(world, device)) == ["power", "new"]

    def test_are_made_up_to_a_number_and_the_others_are_told_why(
        self, world: World, device: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("kilowatch.facility.service.MOST_METRICS_ON_ARRIVAL", 3)
        lines = "".join(f"north/roof/new_{n},{TEN},1\n" for n in range(4))
        report = send_csv(world.technician, f"metric,timestamp,value\n{lines}")
        assert report["accepted"] == 2
        assert {(error["row"], error["code"]) for error in report["errors"]} == {
            (2, "unknown_metric"),
            (3, "unknown_metric"),
        }
        assert "3 or more" in report["errors"][0]["detail"]
        assert len(self.metrics(world, device)) == 3

    def test_that_arrive_many_times_at_once_are_made_once(self, world: World, device: dict[str, Any]) -> None:
        start = threading.Barrier(6)
        headers = dict(world.technician.http.headers)

        def send(n: int) -> int:
            start.wait()
            rows = [
                {"metric": f"north/roof/new_{key}", "timestamp": f"2026-01-05T10:00:0{n}Z", "value": n}
                for key in ((0, 1) if n % 2 else (1, 0))
            ]
            answer = world.client.post("/api/v1/readings", json={"readings": rows}, headers=headers)
            return int(answer.json()["accepted"])

        with ThreadPoolExecutor(6) as pool:
            assert list(pool.map(send, range(6))) == [2] * 6
        assert set(self.metrics(world, device)) == {"power", "new_0", "new_1"}
        assert len(entries(world, "metric_created")) == 2

    def test_change_the_devices_etag(self, world: World, device: dict[str, Any]) -> None:
        path = f"/devices/{device['id']}"
        before = world.standard.get(path).headers["etag"]
        world.send("north/roof/new", (TEN, 1))
        assert world.standard.get(path).headers["etag"] != before

    def test_of_more_devices_than_one_are_made_of_those_that_are_set_to(self, world: World) -> None:
        on, off = world.device(slug="on", create_metrics=True), world.device(slug="off")
        lines = "".join(f"north/{slug}/new,{TEN},1\n" for slug in ("off", "on", "none"))
        report = send_csv(world.technician, f"metric,timestamp,value\n{lines}")
        assert [error["row"] for error in report["errors"]] == [0, 2]
        assert (len(self.metrics(world, on)), len(self.metrics(world, off))) == (2, 1)


def test_arriving_names_take_the_unit_of_their_first_good_reading() -> None:
    """Also where rows before it are refused."""
    columns = formats.read(
        b"metric,timestamp,value,unit\na/b/c,x,1,W\na/b/c,2026-01-05T10:00:00Z,1,kW\na/b/d,2026-01-05T10:00:00Z,1,V\n",
        "text/csv",
        most=1000,
    )
    assert service._arriving(columns, {"a/b/c"}, latest=Clock().now) == {"a/b/c": "kW"}
