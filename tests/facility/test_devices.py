"""Devices: who may make, change and delete them, and what must hold."""

import pytest

from tests.conftest import World


@pytest.fixture
def database_url(any_database_url: str) -> str:
    return any_database_url


class TestAddDevice:
    def test_gives_the_usual_metrics_of_its_kind(self, world: World) -> None:
        answer = world.technician.post(f"/sites/{world.north}/devices", {"name": "Cellar battery", "kind": "battery"})
        assert answer.status_code == 201
        assert answer.headers["location"] == f"/api/v1/devices/{answer.json()['id']}"
        assert {m["key"] for m in answer.json()["metrics"]} == {
            "power",
            "state_of_charge",
            "temperature",
            "energy_charged",
            "energy_discharged",
        }

    def test_refuses_a_duplicate_serial_number(self, world: World) -> None:
        world.device(serial_number="SN-1")
        answer = world.technician.post(
            f"/sites/{world.north}/devices", {"name": "Twin", "kind": "battery", "serial_number": "SN-1"}
        )
        assert answer.status_code == 409
        assert answer.json()["errors"][0]["pointer"] == "#/serial_number"
