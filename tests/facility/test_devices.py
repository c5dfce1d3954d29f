"""Devices: who may make, change and delete them, and what must hold."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

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

    def test_refuses_a_duplicate_slug(self, world: World) -> None:
        world.device(slug="roof")
        answer = world.technician.post(
            f"/sites/{world.north}/devices", {"name": "R", "kind": "battery", "slug": "roof"}
        )
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (409, "#/slug")

    def test_takes_the_slug_and_serial_number_of_a_device_elsewhere(self, world: World) -> None:
        world.device(slug="roof", serial_number="SN-1")
        assert world.device(world.south, slug="roof", serial_number="SN-1")["slug"] == "roof"

    def test_takes_many_without_a_serial_number(self, world: World) -> None:
        assert [world.device(serial_number=given)["serial_number"] for given in ("", "  ", None)] == [None] * 3

    def test_makes_slugs_from_the_name(self, world: World) -> None:
        slugs = [world.device(name=name)["slug"] for name in ("Wärme Pumpe", "Wärme Pumpe", "泵", "泵")]
        assert slugs == ["warme-pumpe", "warme-pumpe-2", "device", "device-2"]

    @pytest.mark.parametrize("metrics", [{}, {"metrics": []}, {"metrics": None}])
    def test_refuses_a_device_with_no_metric(self, still_world: World, metrics: dict[str, Any]) -> None:
        answer = still_world.technician.post(
            f"/sites/{still_world.north}/devices", {"name": "Metricless", "kind": "generic", **metrics}
        )
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#/metrics")
        assert "Metricless" not in still_world.technician.get(f"/sites/{still_world.north}/devices").text

    def test_refuses_no_metrics_where_the_kind_would_bring_some(self, still_world: World) -> None:
        answer = still_world.technician.post(
            f"/sites/{still_world.north}/devices", {"name": "B", "kind": "battery", "metrics": []}
        )
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#/metrics")

    @pytest.mark.parametrize(
        ("kind", "properties", "pointer"),
        [
            ("battery", {"capacity_kwh": "ten"}, "#/properties/capacity_kwh"),
            ("battery", {"capacity_kwh": "10"}, "#/properties/capacity_kwh"),
            ("battery", {"capacity_kwh": -1}, "#/properties/capacity_kwh"),
            ("battery", {"capacity_kwh": 10**400}, "#/properties/capacity_kwh"),
            ("battery", {"capacity_kwh": True}, "#/properties/capacity_kwh"),
            ("battery", {"peak_kw": 5}, "#/properties/peak_kw"),
            ("battery", {"round_trip_efficiency": 1.1}, "#/properties/round_trip_efficiency"),
            ("pv_array", {"tilt_deg": 91}, "#/properties/tilt_deg"),
            ("wind_turbine", {"cut_in_ms": 20}, "#/properties"),
            ("grid_meter", {"phases": 2}, "#/properties/phases"),
            ("grid_meter", {"phases": True}, "#/properties/phases"),
            ("ev_charger", {"connectors": 1.5}, "#/properties/connectors"),
            ("generic", {"nested": {"a": 1}}, "#/properties/nested"),
            ("generic", {"list": [1]}, "#/properties/list"),
            ("generic", {"text": "a\x00b"}, "#/properties/text"),
            ("generic", {"whole": 10**30}, "#/properties/whole"),
            ("generic", {"text": "x" * 1001}, "#/properties/text"),
            ("generic", {"a\x00b": 1}, "#/properties"),
            ("generic", {"": 1}, "#/properties"),
            ("generic", {str(n): n for n in range(101)}, "#/properties"),
            ("generic", [], "#/properties"),
        ],
    )
    def test_names_the_property_that_its_kind_does_not_allow(
        self, still_world: World, kind: str, properties: Any, pointer: str
    ) -> None:
        body = {"name": "D", "kind": kind, "properties": properties, "metrics": [{"key": "p", "quantity": "power"}]}
        answer = still_world.technician.post(f"/sites/{still_world.north}/devices", body)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)

    def test_fills_in_what_a_kind_takes_for_granted(self, still_world: World) -> None:
        assert still_world.device(kind="pv_array", properties={"peak_kw": 5})["properties"] == {
            "peak_kw": 5.0,
            "tilt_deg": 30.0,
            "azimuth_deg": 180.0,
        }

    def test_keeps_any_property_of_a_generic_device(self, still_world: World) -> None:
        properties = {"Raum Nr.": "Köller 1", "floors": 2, "share": 0.5, "insured": True, "owner": None}
        assert still_world.device(properties=properties)["properties"] == properties

    @pytest.mark.parametrize(
        ("field", "value", "pointer"),
        [
            ("kind", "toaster", "#/kind"),
            ("kind", None, "#/kind"),
            ("source", "guessed", "#/source"),
            ("commissioned_on", "2024-13-01", "#/commissioned_on"),
            ("commissioned_on", "1899-12-31", "#/commissioned_on"),
            ("commissioned_on", 0, "#/commissioned_on"),
            ("commissioned_on", "2024-05-01T00:00:00", "#/commissioned_on"),
            ("serial_number", "a\x00b", "#/serial_number"),
            ("serial_number", "x" * 201, "#/serial_number"),
            ("manufacturer", 5, "#/manufacturer"),
            ("metrics", {}, "#/metrics"),
            ("metrics", [{"key": "Power", "quantity": "power"}], "#/metrics/0/key"),
            ("metrics", [{"key": "p", "quantity": "happiness"}], "#/metrics/0/quantity"),
            ("metrics", [{"key": "p", "quantity": "power", "unit": "kWh"}], "#/metrics/0/unit"),
            ("metrics", [{"key": "p", "quantity": "power", "unit": "bogus"}], "#/metrics/0/unit"),
            ("metrics", [{"key": "p", "quantity": "power"}] * 2, "#/metrics/1/key"),
            ("metrics", [{"key": "p", "quantity": "power", "valid_min": 2, "valid_max": 1}], "#/metrics/0/valid_max"),
            ("metrics", [{"key": "p", "quantity": "power", "max_gap_s": 0}], "#/metrics/0/max_gap_s"),
            ("metrics", [{"key": "p", "quantity": "power", "max_gap_s": 10**30}], "#/metrics/0/max_gap_s"),
            ("colour", "red", "#/colour"),
        ],
    )
    def test_names_the_field_that_is_wrong(self, still_world: World, field: str, value: object, pointer: str) -> None:
        metric = {"key": "p", "quantity": "power"}
        body = {"name": "Refused", "kind": "generic", "metrics": [metric], field: value}
        answer = still_world.technician.post(f"/sites/{still_world.north}/devices", body)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)
        assert "Refused" not in still_world.technician.get(f"/sites/{still_world.north}/devices").text


class TestListDevices:
    def test_filters_by_kind_and_by_part_of_name_slug_or_serial_number(self, world: World) -> None:
        world.device(name="Große Batterie", kind="battery", slug="big", serial_number="Xy-77")
        world.device(name="Roof", kind="pv_array")

        def found(**filters: str) -> list[str]:
            devices = world.standard.get(f"/sites/{world.north}/devices", **filters).json()["items"]
            return [device["slug"] for device in devices]

        assert found() == ["big", "roof"]
        assert found(kind="battery") == found(q="GROSSE"[:3]) == found(q="BIG") == found(q="xY-7") == ["big"]
        assert found(kind="battery", q="roof") == found(kind="generic") == []

    def test_refuses_a_kind_that_there_is_not(self, still_world: World) -> None:
        answer = still_world.standard.get(f"/sites/{still_world.north}/devices", kind="toaster")
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#/kind")

    def test_walks_over_all(self, world: World) -> None:
        made = [world.device()["id"] for _ in range(5)]
        seen: list[int] = []
        cursor: dict[str, str] = {}
        while True:
            page = world.standard.get(f"/sites/{world.north}/devices", limit=2, **cursor).json()
            seen += [device["id"] for device in page["items"]]
            if page["next"] is None:
                break
            cursor = {"cursor": page["next"]}
        assert seen == made


class TestChangeDevice:
    def test_changes_only_what_is_given_and_counts_its_version_up(self, still_world: World) -> None:
        before = still_world.device(kind="pv_array", properties={"peak_kw": 5})
        still_world.clock.advance(minutes=1)
        after = still_world.technician.patch(f"/devices/{before['id']}", {"model": "M"}).json()
        assert after == before | {"model": "M", "version": 2, "updated_at": "2026-01-05T12:01:00Z"}

    def test_changes_single_properties_and_takes_one_back_to_its_default(self, still_world: World) -> None:
        path = f"/devices/{still_world.device(kind='pv_array', properties={'peak_kw': 5, 'tilt_deg': 45})['id']}"
        changed = still_world.technician.patch(path, {"properties": {"azimuth_deg": 90}}).json()["properties"]
        assert changed == {"peak_kw": 5.0, "tilt_deg": 45.0, "azimuth_deg": 90.0}
        changed = still_world.technician.patch(path, {"properties": {"peak_kw": None, "tilt_deg": None}}).json()[
            "properties"
        ]
        assert changed == {"peak_kw": None, "tilt_deg": 30.0, "azimuth_deg": 90.0}

    def test_names_a_property_that_does_not_fit(self, world: World) -> None:
        path = f"/devices/{world.device(kind='pv_array')['id']}"
        answer = world.technician.patch(path, {"properties": {"tilt_deg": 100}})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#/properties/tilt_deg")

    @pytest.mark.parametrize("field", ["name", "slug", "kind", "source", "properties"])
    def test_refuses_null_for_what_a_device_must_have(self, still_world: World, field: str) -> None:
        answer = still_world.technician.patch(f"/devices/{still_world.device()['id']}", {field: None})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, f"#/{field}")

    @pytest.mark.parametrize("field", ["slug", "serial_number"])
    def test_refuses_what_is_anothers(self, world: World, field: str) -> None:
        world.device(None, **{field: "taken"})
        own = world.device(None, **{field: "own"})
        answer = world.technician.patch(f"/devices/{own['id']}", {field: "taken"})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (409, f"#/{field}")
        assert world.technician.patch(f"/devices/{own['id']}", {field: "own"}).status_code == 200


class TestIfMatch:
    def test_every_answer_about_a_device_has_its_etag(self, still_world: World) -> None:
        body = {"name": "D", "kind": "battery"}
        made = still_world.technician.post(f"/sites/{still_world.north}/devices", body)
        path = f"/devices/{made.json()['id']}"
        changed = still_world.technician.patch(path, {"model": "M"})
        assert made.headers["etag"] != changed.headers["etag"]
        assert still_world.technician.get(path).headers["etag"] == changed.headers["etag"]

    def test_a_change_of_the_newest_version_is_made(self, world: World) -> None:
        path = f"/devices/{world.device()['id']}"
        etag = world.technician.get(path).headers["etag"]
        for tags in ("{}", '"x", {}', "*", "W/{}", 'W/"x", W/{}'):  # a proxy that compresses makes it a weak one
            answer = world.technician.patch(path, {"model": tags}, headers={"If-Match": tags.format(etag)})
            etag = answer.headers["etag"]
            assert answer.status_code == 200

    @pytest.mark.parametrize("tags", ['"0"', 'W/"0"', 'W/W/"1"', "1", '""', "x", ","])
    def test_a_change_of_another_version_is_refused(self, still_world: World, tags: str) -> None:
        path = f"/devices/{still_world.device()['id']}"
        assert still_world.technician.patch(path, {"model": "M"}, headers={"If-Match": tags}).status_code == 412
        assert still_world.technician.delete(path, headers={"If-Match": tags}).status_code == 412
        assert still_world.technician.get(path).json()["model"] is None

    def test_a_change_between_reading_and_changing_is_noticed(self, world: World) -> None:
        device = world.device()
        path = f"/devices/{device['id']}"
        stale = {"If-Match": world.technician.get(path).headers["etag"]}
        world.admin.patch(path, {"model": "M"})
        assert world.technician.patch(path, {"model": "N"}, headers=stale).status_code == 412
        stale = {"If-Match": world.technician.get(path).headers["etag"]}
        world.admin.post(f"{path}/metrics", {"key": "more", "quantity": "power"})
        assert world.technician.delete(path, headers=stale).status_code == 412

    def test_of_two_changes_of_one_version_at_once_one_is_made(self, world: World) -> None:
        path = f"/devices/{world.device()['id']}"
        headers = dict(world.technician.http.headers) | {"If-Match": world.technician.get(path).headers["etag"]}
        with ThreadPoolExecutor(4) as pool:
            answers = list(
                pool.map(
                    lambda n: world.client.patch(f"/api/v1{path}", json={"model": f"M{n}"}, headers=headers), range(4)
                )
            )
        assert sorted(answer.status_code for answer in answers) == [200, 412, 412, 412]


class TestDeleteDevice:
    def test_says_what_went_and_leaves_no_reading(self, world: World) -> None:
        device = world.device(kind="battery", metrics=None)
        metrics = [metric["id"] for metric in device["metrics"]]
        world.send(metrics[0], ("2026-01-05T10:00:00Z", 1), ("2026-01-05T10:01:00Z", 2))
        world.send(metrics[1], ("2026-01-05T10:00:00Z", 1))
        answer = world.technician.delete(f"/devices/{device['id']}")
        assert answer.json() == {"devices": 1, "metrics": 5, "readings": 3}
        assert world.technician.get(f"/devices/{device['id']}").status_code == 404
        assert world.technician.get(f"/metrics/{metrics[0]}").status_code == 404
        assert world.services.history is not None
        assert world.services.history.count(metrics) == 0

    def test_never_uses_its_id_nor_its_metrics_again(self, world: World) -> None:
        old = world.device()
        world.technician.delete(f"/devices/{old['id']}")
        new = world.device()
        assert new["id"] > old["id"]
        assert new["metrics"][0]["id"] > old["metrics"][0]["id"]

    def test_frees_its_slug_and_serial_number(self, world: World) -> None:
        device = world.device(slug="roof", serial_number="SN-1")
        world.technician.delete(f"/devices/{device['id']}")
        assert world.device(slug="roof", serial_number="SN-1")["slug"] == "roof"


class TestDeviceKinds:
    def test_each_has_properties_as_json_schema_and_usual_metrics(self, still_world: World) -> None:
        kinds = {kind["key"]: kind for kind in still_world.newcomer.get("/device-kinds").json()}
        assert len(kinds) == 10
        assert set(kinds["pv_array"]["properties"]["properties"]) == {"peak_kw", "tilt_deg", "azimuth_deg"}
        assert kinds["generic"]["metrics"] == []

    def test_a_device_of_each_kind_has_its_usual_metrics(self, still_world: World) -> None:
        for kind in still_world.newcomer.get("/device-kinds").json():
            if kind["metrics"]:
                body = {"name": kind["name"], "kind": kind["key"]}
                device = still_world.technician.post(f"/sites/{still_world.north}/devices", body).json()
                usual = [{k: v for k, v in m.items() if k not in ("id", "device_id")} for m in device["metrics"]]
                assert usual == kind["metrics"]


class TestChangeKind:
    def test_takes_the_new_kinds_properties_and_leaves_the_old_ones(self, world: World) -> None:
        device = world.device(kind="pv_array", properties={"peak_kw": 5})
        answer = world.technician.patch(
            f"/devices/{device['id']}", {"kind": "battery", "properties": {"capacity_kwh": 9}}
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["properties"]["capacity_kwh"] == 9
        assert "peak_kw" not in answer.json()["properties"]
        assert answer.json()["metrics"] == device["metrics"]
