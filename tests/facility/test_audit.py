"""The audit log: who changed what at a site; and the deletion of readings, on both databases."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from kilowatch.app import create_app
from kilowatch.auth.model import OPERATOR
from kilowatch.config import Settings
from kilowatch.errors import Unavailable
from kilowatch.facility import store as catalogue_store
from kilowatch.history.engine import HistoryUnavailable
from kilowatch.services import Kilowatch
from tests.conftest import Clock, Person, World, open_world

HOUR = {"start": "2026-01-05T10:00:00Z", "end": "2026-01-05T11:00:00Z"}
RAW = {"start": "2026-01-01T00:00:00Z", "end": "2026-02-01T00:00:00Z", "resolution": "raw"}


@pytest.fixture
def database_url(any_database_url: str) -> str:
    return any_database_url


def audit(world: World, site_id: int | None = None, **filters: Any) -> list[dict[str, Any]]:
    """A site's log as an administrator reads it, the oldest entry first."""
    answer = world.admin.get(f"/sites/{site_id or world.north}/audit", limit=500, **filters)
    assert answer.status_code == 200, answer.text
    assert answer.json()["next"] is None
    items: list[dict[str, Any]] = answer.json()["items"]
    return items[::-1]


def last(world: World) -> tuple[str, str, dict[str, Any]]:
    entry = audit(world)[-1]
    return entry["action"], entry["object"], entry["details"]


def remove(person: Person, metric: int, **window: str) -> Any:
    return person.http.delete(f"/metrics/{metric}/readings", params=window or HOUR)


def readings(world: World, metric: int) -> list[tuple[str, float]]:
    (series,) = world.standard.get(f"/metrics/{metric}/history", **RAW).json()["series"]
    return list(zip(series["timestamps"], series["values"], strict=True))


def latest(world: World, metric: int) -> float | None:
    value: float | None = world.standard.get(f"/metrics/{metric}/latest").json()["value"]
    return value


# ── deleting readings ────────────────────────────────────────────────────────────────────────────────────────────────


class TestDeleteReadings:
    def test_shows_at_once_in_history_and_latest(self, world: World) -> None:
        metric, other = world.metric(), world.metric()
        for one in (metric, other):
            world.send(one, ("2026-01-05T09:59:59.999Z", 1), ("2026-01-05T10:00:00Z", 2), ("2026-01-05T10:30:00Z", 3))
        answer = remove(world.technician, metric)
        assert (answer.status_code, answer.json()) == (200, {"readings": 2})
        assert [value for _, value in readings(world, metric)] == [1.0]
        assert latest(world, metric) == 1.0
        assert [value for _, value in readings(world, other)] == [1.0, 2.0, 3.0]
        assert remove(world.technician, metric).json() == {"readings": 0}

    def test_takes_windows_with_any_offset(self, world: World) -> None:
        metric = world.metric()
        world.send(metric, ("2026-01-05T10:00:00Z", 2))
        window = {"start": "2026-01-05T15:30:00+05:30", "end": "2026-01-05T15:30:00.001+05:30"}
        assert remove(world.technician, metric, **window).json() == {"readings": 1}

    @pytest.mark.parametrize(
        ("change", "pointer"),
        [
            ({"start": "2026-01-05T10:00:00"}, "/start"),
            ({"end": "yesterday"}, "/end"),
            ({"end": HOUR["start"]}, "/end"),
            ({"start": None}, "/start"),
            ({"end": None}, "/end"),
        ],
    )
    def test_names_what_is_wrong_with_the_window(
        self, still_world: World, change: dict[str, str | None], pointer: str
    ) -> None:
        window = {name: text for name, text in (HOUR | change).items() if text is not None}
        answer = remove(still_world.technician, still_world.metric(), **window)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"].lstrip("#") == pointer

    def test_is_for_technicians_and_keys_that_may_write(self, world: World) -> None:
        metric = world.metric()
        world.send(metric, ("2026-01-05T10:00:00Z", 2))
        assert remove(world.standard, metric).status_code == 403
        assert remove(world.neighbour, metric).status_code == 404
        for scope, status in (("ingest", 403), ("read", 403), ("write", 200)):
            key = world.technician.post("/me/api-keys", {"name": scope, "scopes": [scope]}).json()["key"]
            assert world.http(key).delete(f"/metrics/{metric}/readings", params=HOUR).status_code == status

    def test_is_in_the_audit_log_with_who_and_how_many(self, world: World) -> None:
        device = world.device(slug="roof")
        metric = device["metrics"][0]["id"]
        world.send(metric, ("2026-01-05T10:00:00Z", 2), ("2026-01-05T10:01:00Z", 2))
        key = world.technician.post("/me/api-keys", {"name": "Script", "scopes": ["write"]}).json()
        world.clock.advance(minutes=1)
        world.http(key["key"]).delete(f"/metrics/{metric}/readings", params=HOUR)
        entry = audit(world)[-1]
        assert entry == {
            "id": entry["id"],
            "site_id": world.north,
            "at": "2026-01-05T12:01:00Z",
            "user_id": world.technician.id,
            "user": "technician@example.org",
            "api_key_id": key["id"],
            "api_key": "Script",
            "action": "readings_deleted",
            "object": "north/roof/power",
            "details": {"readings": 2, **HOUR},
        }

    def test_of_nothing_is_not_in_the_audit_log(self, world: World) -> None:
        metric = world.metric()
        before = audit(world)
        assert remove(world.technician, metric).json() == {"readings": 0}
        assert audit(world) == before

    def test_two_at_once_count_each_reading_once(self, world: World) -> None:
        metric = world.metric()
        world.send(metric, *((f"2026-01-05T10:0{n}:00Z", n) for n in range(10)))
        start = threading.Barrier(3)
        headers = dict(world.technician.http.headers)

        def delete(_: int) -> int:
            start.wait()
            # of the one client whose loop is the application's
            answer = world.client.delete(f"/api/v1/metrics/{metric}/readings", params=HOUR, headers=headers)
            return int(answer.json()["readings"])

        with ThreadPoolExecutor(3) as pool:
            assert sorted(pool.map(delete, range(3))) == [0, 0, 10]
        assert [entry["details"]["readings"] for entry in audit(world, action="readings_deleted")] == [10]


class TestADeletionThatWasCutOff:
    """By a crash, or by an engine that stops to answer: after the answer was promised to the audit log."""

    @pytest.fixture
    def cut_off(self, world: World, monkeypatch: pytest.MonkeyPatch) -> int:
        """A metric of which a deletion stopped after two of its three statements (all points: the store's tests)."""
        metric = world.metric()
        world.send(metric, ("2026-01-05T09:00:00Z", 1), ("2026-01-05T10:00:00Z", 2))
        history = world.services.history
        assert history is not None

        def stops(_sql: str, _parameters: Any) -> None:
            raise HistoryUnavailable

        with monkeypatch.context() as patch:
            patch.setattr(history._engine, "command", stops)  # which puts in anew what is the newest
            assert remove(world.technician, metric).status_code == 503
        return metric

    def test_is_made_good_by_the_next_one(self, world: World, cut_off: int) -> None:
        assert remove(world.technician, cut_off).json() == {"readings": 0}
        assert (len(readings(world, cut_off)), latest(world, cut_off)) == (1, 1.0)

    def test_is_made_good_at_the_next_start(self, world: World, cut_off: int, settings: Settings, clock: Clock) -> None:
        with closing(Kilowatch(settings, clock=clock)) as started_again:
            assert started_again.histories.latest_of_metric(OPERATOR, cut_off).value == 1.0
        assert len(readings(world, cut_off)) == 1
        with world.services.database.read() as connection:
            assert catalogue_store.window_erasures(connection) == []

    def test_spares_what_was_sent_again_meanwhile(
        self, world: World, cut_off: int, settings: Settings, clock: Clock
    ) -> None:
        world.send(cut_off, ("2026-01-05T10:00:00Z", 7))
        Kilowatch(settings, clock=clock).close()
        assert [value for _, value in readings(world, cut_off)] == [1.0, 7.0]
        assert latest(world, cut_off) == 7.0

    def test_was_promised_in_the_audit_log(self, world: World, cut_off: int) -> None:
        assert [entry["details"]["readings"] for entry in audit(world, action="readings_deleted")] == [1]


# ── the log ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class TestAudit:
    def test_tells_of_sites(self, world: World) -> None:
        site = world.site("west", notes="Old")
        changed = world.admin.patch(f"/sites/{site}", {"notes": "x" * 300, "slug": "wild-west", "country": None})
        assert changed.status_code == 200
        entries = [(entry["action"], entry["object"], entry["details"]) for entry in audit(world, site)]
        assert entries == [
            ("site_created", "west", {"name": "West"}),
            (
                "site_changed",
                "west",
                {
                    "changes": {
                        "slug": {"old": "west", "new": "wild-west"},
                        "notes": {"old": "Old", "new": "x" * 200 + "…"},
                    }
                },
            ),
        ]

    def test_tells_of_grants(self, world: World) -> None:
        path = f"/sites/{world.north}/grants/{world.newcomer.id}"
        world.admin.put(path, {"role": "standard"})
        world.admin.put(path, {"role": "standard"})
        world.admin.put(path, {"role": "technician"})
        world.admin.delete(path)
        told = [
            (entry["object"], entry["details"]["user"], *entry["details"]["changes"]["role"].values())
            for entry in audit(world, action="grant_changed")[-3:]
        ]
        email = "newcomer@example.org"
        assert told == [
            ("north", email, None, "standard"),
            ("north", email, "standard", "technician"),
            ("north", email, "technician", None),
        ]

    def test_tells_of_devices(self, world: World) -> None:
        device = world.device(slug="roof", kind="pv_array", metrics=None, properties={"peak_kw": 5})
        keys = [metric["key"] for metric in device["metrics"]]
        assert last(world) == ("device_created", "north/roof", {"kind": "pv_array", "metrics": keys})
        path = f"/devices/{device['id']}"
        world.technician.patch(path, {"properties": {"peak_kw": 6}, "slug": "top", "commissioned_on": "2024-05-01"})
        changes = {
            "slug": {"old": "roof", "new": "top"},
            "commissioned_on": {"old": None, "new": "2024-05-01"},
            "properties.peak_kw": {"old": 5.0, "new": 6.0},
        }
        assert last(world) == ("device_changed", "north/roof", {"changes": changes})
        world.send(device["metrics"][0]["id"], ("2026-01-05T10:00:00Z", 1), ("2026-01-05T10:01:00Z", 1))
        world.technician.delete(path)
        assert last(world) == ("device_deleted", "north/top", {"metrics": len(keys), "readings": 2})

    def test_tells_of_metrics(self, world: World) -> None:
        device = world.device(slug="roof")
        made = world.technician.post(f"/devices/{device['id']}/metrics", {"key": "heat", "quantity": "temperature"})
        told = {"quantity": "temperature", "unit": "°C", "behaviour": "gauge", "on_arrival": False}
        assert last(world) == ("metric_created", "north/roof/heat", told)
        path = f"/metrics/{made.json()['id']}"
        world.technician.patch(path, {"valid_max": 50, "key": "warmth"})
        changes = {"key": {"old": "heat", "new": "warmth"}, "valid_max": {"old": None, "new": 50.0}}
        assert last(world) == ("metric_changed", "north/roof/heat", {"changes": changes})
        world.send("north/roof/warmth", ("2026-01-05T10:00:00Z", 1))
        world.technician.delete(path)
        assert last(world) == ("metric_deleted", "north/roof/warmth", {"readings": 1})

    def test_does_not_know_how_many_readings_went_if_the_history_did_not_answer(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        device = world.device(slug="roof")

        def count(_ids: object) -> int:
            raise Unavailable("no answer")

        monkeypatch.setattr(world.services.history, "count", count)
        assert world.technician.delete(f"/devices/{device['id']}").json()["readings"] is None
        assert last(world) == ("device_deleted", "north/roof", {"metrics": 1, "readings": None})

    def test_does_not_tell_of_what_changed_nothing(self, world: World) -> None:
        device = world.device(kind="pv_array", metrics=None)
        before = audit(world)
        world.technician.patch(f"/devices/{device['id']}", {"name": device["name"], "properties": {}})
        world.technician.patch(f"/metrics/{device['metrics'][0]['id']}", {"key": device["metrics"][0]["key"]})
        world.admin.patch(f"/sites/{world.north}", {"slug": "north"})
        world.technician.patch(f"/devices/{device['id']}", {"model": "M"}, headers={"If-Match": '"0"'})  # refused
        world.technician.post(f"/devices/{device['id']}/metrics", {"key": "k", "quantity": "power", "unit": "x"})
        assert audit(world) == before

    def test_tells_once_of_what_was_sent_twice_with_one_key(self, world: World) -> None:
        before = len(audit(world))
        for _ in range(2):
            body = {"name": "D", "kind": "battery"}
            world.technician.post(f"/sites/{world.north}/devices", body, headers={"Idempotency-Key": "one"})
        assert len(audit(world)) == before + 1

    def test_keeps_names_of_who_is_gone(self, world: World) -> None:
        deputy = world.person("deputy", is_admin=True)
        deputy.patch(f"/sites/{world.north}", {"notes": "by the deputy"})
        world.admin.delete(f"/users/{deputy.id}")
        entry = audit(world)[-1]
        assert (entry["user"], entry["user_id"]) == ("deputy@example.org", deputy.id)

    def test_goes_with_its_site_and_another_keeps_its_own(self, world: World) -> None:
        kept = audit(world)
        site = world.site("west")
        world.admin.delete(f"/sites/{site}")
        assert world.admin.get(f"/sites/{site}/audit").status_code == 404
        assert audit(world) == kept

    def test_holds_no_secrets(self, world: World) -> None:
        key = world.technician.post("/me/api-keys", {"name": "Script"}).json()["key"]
        world.http(key).post(f"/sites/{world.north}/devices", json={"name": "D", "kind": "battery"})
        text = world.admin.get(f"/sites/{world.north}/audit").text
        assert "Script" in text
        assert key not in text and "password" not in text


class TestListAudit:
    def test_walks_over_all_from_the_newest(self, world: World) -> None:
        for n in range(5):
            world.admin.patch(f"/sites/{world.north}", {"notes": f"note {n}"})
        seen: list[dict[str, Any]] = []
        cursor: dict[str, str] = {}
        while True:
            page = world.technician.get(f"/sites/{world.north}/audit", limit=2, **cursor).json()
            seen += page["items"]
            if page["next"] is None:
                break
            cursor = {"cursor": page["next"]}
        assert seen == audit(world)[::-1]
        assert [entry["id"] for entry in seen] == sorted((entry["id"] for entry in seen), reverse=True)

    def test_filters_by_action_and_time(self, world: World) -> None:
        for minute in range(3):
            world.admin.patch(f"/sites/{world.north}", {"notes": f"note {minute}"})
            world.device()
            world.clock.advance(minutes=1)
        start, end = "2026-01-05T13:01:00+01:00", "2026-01-05T12:02:00Z"
        assert len(audit(world, start=start, end=end)) == 2
        assert len(audit(world, action="site_changed")) == 3
        (entry,) = audit(world, start=start, end=end, action="site_changed")
        assert entry["details"]["changes"]["notes"]["new"] == "note 1"

    @pytest.mark.parametrize("parameter", ["action", "start", "end", "cursor"])
    def test_names_the_parameter_that_is_wrong(self, still_world: World, parameter: str) -> None:
        answer = still_world.admin.get(f"/sites/{still_world.north}/audit", **{parameter: "2026-01-05T10:00:00"})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"].strip("#/") == parameter

    def test_says_to_who_only_reads_that_it_is_for_technicians(self, still_world: World) -> None:
        answer = still_world.standard.get(f"/sites/{still_world.north}/audit")
        assert (answer.status_code, "technician" in answer.json()["detail"]) == (403, True)


@contextmanager
def reopened(world: World, settings: Settings) -> Iterator[World]:
    """The world after a restart, with everybody still signed in."""
    with TestClient(create_app(settings, clock=world.clock)) as client:
        again = replace(world, services=client.app.state.services, client=client)  # type: ignore[attr-defined]  # a FastAPI app
        tokens = {name: person.http.headers.get("authorization", "") for name, person in world.people.items()}
        again.people = {
            name: replace(person, http=again.http(tokens[name].removeprefix("Bearer ")))
            for name, person in world.people.items()
        }
        yield again


# ── what is deleted with a device or a metric ────────────────────────────────────────────────────────────────────────


class TestAMetricMadeAfterADeletion:
    """Of the same name: it never sees what the one before had."""

    @pytest.mark.parametrize("what", ["device", "metric"])
    def test_starts_with_nothing_also_after_a_restart(self, settings: Settings, clock: Clock, what: str) -> None:
        metrics = [{"key": key, "quantity": "power", "unit": "kW"} for key in ("power", "more")]
        with open_world(settings, clock) as world:
            old = world.device(slug="roof", metrics=metrics)
            world.send("north/roof/power", ("2026-01-05T10:00:00Z", 1), ("2026-01-05T11:00:00Z", 2))
            if what == "device":
                world.technician.delete(f"/devices/{old['id']}")
                new = world.device(slug="roof", metrics=metrics)
            else:
                world.technician.delete(f"/metrics/{old['metrics'][0]['id']}")
                world.technician.post(f"/devices/{old['id']}/metrics", metrics[0])
                new = world.technician.get(f"/devices/{old['id']}").json()
            metric = next(metric["id"] for metric in new["metrics"] if metric["key"] == "power")
            self.assert_empty(world, new["id"], metric)
        with reopened(world, settings) as again:
            self.assert_empty(again, new["id"], metric)
            again.send("north/roof/power", ("2026-01-05T10:30:00Z", 5))
            assert [value for _, value in readings(again, metric)] == [5.0]
            assert latest(again, metric) == 5.0

    def assert_empty(self, world: World, device: int, metric: int) -> None:
        assert (readings(world, metric), latest(world, metric)) == ([], None)
        hourly = world.standard.get(f"/metrics/{metric}/history", **RAW | {"resolution": "1h", "aggregate": "count"})
        assert set(hourly.json()["series"][0]["values"]) == {None}
        csv = world.standard.get(f"/metrics/{metric}/history", **RAW, format="csv").text
        assert len(csv.splitlines()) == 1
        values = [item["value"] for item in world.standard.get(f"/devices/{device}/latest").json()["items"]]
        assert set(values) == {None}
