"""Metrics: what they may say, and when their meaning may change."""

from typing import Any

import pytest

from tests.conftest import World


@pytest.fixture
def database_url(any_database_url: str) -> str:
    return any_database_url


class TestAddMetric:
    def test_fills_in_what_the_quantity_takes_for_granted(self, still_world: World) -> None:
        path = f"/devices/{still_world.device()['id']}/metrics"
        energy = still_world.technician.post(path, {"key": "energy_today", "quantity": "energy"})
        assert energy.status_code == 201
        assert energy.headers["location"] == f"/api/v1/metrics/{energy.json()['id']}"
        assert energy.json() == energy.json() | {
            "name": "Energy today",
            "unit": "kWh",
            "behaviour": "counter",
            "max_gap_s": None,
        }
        power = still_world.technician.post(path, {"key": "p2", "quantity": "power"}).json()
        assert (power["unit"], power["behaviour"], power["max_gap_s"]) == ("kW", "gauge", 900)
        held = still_world.technician.post(path, {"key": "p3", "quantity": "power", "max_gap_s": None}).json()
        assert held["max_gap_s"] is None

    def test_refuses_a_duplicate_key(self, world: World) -> None:
        path = f"/devices/{world.device()['id']}/metrics"
        answer = world.technician.post(path, {"key": "power", "quantity": "power"})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (409, "#/key")

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("key", ""),
            ("key", "a-b"),
            ("key", "x" * 61),
            ("key", "a\n"),
            ("quantity", None),
            ("quantity", "power\x00"),
            ("unit", "kWh"),
            ("unit", "no such unit"),
            ("unit", "k\x00W"),
            ("unit", "x" * 31),
            ("unit", "9**9**9"),
            ("behaviour", "wave"),
            ("max_gap_s", 0),
            ("max_gap_s", 1.5),
            ("max_gap_s", True),
            ("max_gap_s", "900"),
            ("max_gap_s", 10**30),
            ("valid_min", "0"),
            ("valid_min", True),
            ("colour", 1),
        ],
    )
    def test_names_the_field_that_is_wrong(self, still_world: World, field: str, value: object) -> None:
        path = f"/devices/{still_world.device()['id']}/metrics"
        answer = still_world.technician.post(path, {"key": "k", "quantity": "power", field: value})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, f"#/{field}")


class TestListMetrics:
    def test_walks_over_all_in_order(self, world: World) -> None:
        device = world.device(kind="battery", metrics=None)
        seen: list[dict[str, Any]] = []
        cursor: dict[str, str] = {}
        while True:
            page = world.standard.get(f"/devices/{device['id']}/metrics", limit=2, **cursor).json()
            seen += page["items"]
            if page["next"] is None:
                break
            cursor = {"cursor": page["next"]}
        assert seen == device["metrics"]


class TestChangeMetric:
    def test_changes_only_what_is_given(self, world: World) -> None:
        before = world.standard.get(f"/metrics/{world.metric()}").json()
        after = world.technician.patch(f"/metrics/{before['id']}", {"valid_max": 5, "max_gap_s": None}).json()
        assert after == before | {"valid_max": 5.0, "max_gap_s": None}

    @pytest.mark.parametrize(
        "change",
        [{"unit": "W"}, {"quantity": "apparent_power", "unit": "kVA"}, {"behaviour": "counter"}],
    )
    def test_keeps_its_meaning_once_it_has_readings(self, world: World, change: dict[str, str]) -> None:
        metric = world.metric()
        world.send(metric, ("2026-01-05T10:00:00Z", 1))
        answer = world.technician.patch(f"/metrics/{metric}", change)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (409, f"#/{next(iter(change))}")
        assert world.technician.patch(f"/metrics/{metric}", {"unit": "kW", "name": "New"}).status_code == 200
        assert world.technician.patch(f"/metrics/{world.metric()}", change).status_code == 200

    def test_refuses_a_unit_that_does_not_fit(self, still_world: World) -> None:
        answer = still_world.technician.patch(f"/metrics/{still_world.metric()}", {"unit": "°C"})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#/unit")

    def test_refuses_a_key_that_is_anothers(self, world: World) -> None:
        metrics = world.device(kind="battery", metrics=None)["metrics"]
        answer = world.technician.patch(f"/metrics/{metrics[0]['id']}", {"key": metrics[1]["key"]})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (409, "#/key")

    def test_refuses_a_range_that_is_none_with_what_is_there(self, still_world: World) -> None:
        metric = still_world.metric(valid_min=10)
        answer = still_world.technician.patch(f"/metrics/{metric}", {"valid_max": 5})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#/valid_max")

    @pytest.mark.parametrize("field", ["key", "name", "quantity", "unit", "behaviour"])
    def test_refuses_null_for_what_a_metric_must_have(self, still_world: World, field: str) -> None:
        answer = still_world.technician.patch(f"/metrics/{still_world.metric()}", {field: None})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, f"#/{field}")


class TestDeleteMetric:
    def test_says_what_went_and_leaves_no_reading(self, world: World) -> None:
        metric = world.device(kind="battery", metrics=None)["metrics"][0]["id"]
        world.send(metric, ("2026-01-05T10:00:00Z", 1))
        assert world.technician.delete(f"/metrics/{metric}").json() == {"devices": 0, "metrics": 1, "readings": 1}
        assert world.technician.get(f"/metrics/{metric}").status_code == 404
        assert world.services.history is not None
        assert world.services.history.count([metric]) == 0

    def test_refuses_the_last_one(self, world: World) -> None:
        metric = world.metric()
        assert world.technician.delete(f"/metrics/{metric}").status_code == 409
        assert world.technician.get(f"/metrics/{metric}").status_code == 200

    def test_never_uses_its_id_again(self, world: World) -> None:
        device = world.device()
        path = f"/devices/{device['id']}/metrics"
        old = world.technician.post(path, {"key": "k", "quantity": "power"}).json()["id"]
        world.technician.delete(f"/metrics/{old}")
        assert world.technician.post(path, {"key": "k", "quantity": "power"}).json()["id"] > old
