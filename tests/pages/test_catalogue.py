"""Sites, devices and metrics in the browser: what is shown, and what technicians change."""

import re
from typing import Any

import pytest

from tests.conftest import World
from tests.pages.browser import Browser, Page, browser_of

NOON = "2026-01-05T12:00:00Z"


@pytest.fixture
def technician(world: World) -> Browser:
    return browser_of(world, world.technician)


def battery(world: World, **fields: Any) -> dict[str, Any]:
    return world.device(kind="battery", metrics=None, name="Cellar", **fields)


class TestSite:
    def test_shows_devices_with_their_latest_values_units_and_ages(self, world: World, technician: Browser) -> None:
        device = battery(world)
        world.send(device["metrics"][0]["id"], ("2026-01-05T11:57:00Z", -1234.5))
        page = technician.get(f"/sites/{world.north}")
        (row,) = page.tree.xpath("//table[@class='list']/tbody/tr")
        told = re.sub(r"[ \n]+", " ", row.text_content())
        assert "Cellar" in told
        assert "Battery" in told
        assert "Power \N{MINUS SIGN}1\N{NARROW NO-BREAK SPACE}234.5 kW" in told
        assert "3 min ago" in told
        assert row.xpath(".//time/@title") == ["2026-01-05 12:57:00 CET"]
        assert "Europe/Berlin" in page.body

    def test_marks_what_is_stale(self, world: World, technician: Browser) -> None:
        world.send(world.metric(), (NOON, 1.5))
        assert "stale" not in technician.get(f"/sites/{world.north}").body
        world.clock.advance(hours=1)
        assert "stale" in technician.get(f"/sites/{world.north}").body

    def test_filters_by_name_and_kind(self, world: World, technician: Browser) -> None:
        battery(world)
        world.device(name="Meter", kind="grid_meter", metrics=None)
        path = f"/sites/{world.north}"

        def names(**filters: str) -> str:
            return technician.get(path, **filters).text("//table[@class='list']/tbody//th")

        assert names() == "Cellar Meter"
        assert names(kind="battery") == "Cellar"
        assert names(q="met") == "Meter"
        assert names(kind="nonsense") == "Cellar Meter"
        assert "No device of this site is like that" in technician.get(path, q="nothing").body

    def test_offers_changes_to_technicians_alone(self, world: World, technician: Browser) -> None:
        path = f"/sites/{world.north}"
        assert f"{path}/devices/new" in technician.get(path).links()
        assert f"{path}/devices/new" not in browser_of(world, world.standard).get(path).links()


class TestDevice:
    def test_shows_properties_with_units_and_metrics_with_times_in_the_sites_zone(
        self, world: World, technician: Browser
    ) -> None:
        device = battery(world, properties={"capacity_kwh": 9.8})
        world.send(device["metrics"][1]["id"], ("2026-01-05T11:59:30Z", 72))
        page = technician.get(f"/devices/{device['id']}")
        assert "Capacity 9.8 kWh" in page.body
        assert "Largest charging power not known" in page.body
        assert "State of charge state_of_charge 72.00 % 2026-01-05 12:59:30 CET 30 s ago" in page.body
        assert "Times are those of Europe/Berlin" in page.body

    def test_shows_properties_of_the_owners_choice(self, world: World, technician: Browser) -> None:
        device = world.device(properties={"colour": "blue", "100 %": 5, "wet": True, "unknown": None})
        page = technician.get(f"/devices/{device['id']}")
        for told in ("colour blue", "100 % 5", "wet yes", "unknown not known"):
            assert told in page.body

    def test_shows_markup_in_names_as_what_it_is(self, world: World, technician: Browser) -> None:
        evil = "<script>alert('%(x)s')</script>"
        metric = {"key": "power", "name": evil, "quantity": "power"}
        device = world.device(name=evil, properties={evil: evil}, metrics=[metric], manufacturer=evil, model=evil)
        world.send(device["metrics"][0]["id"], (NOON, 1))
        for path in (f"/devices/{device['id']}", f"/sites/{world.north}", f"/devices/{device['id']}/edit",
                     f"/devices/{device['id']}/delete", f"/metrics/{device['metrics'][0]['id']}/edit"):  # fmt: skip
            page = technician.get(path)
            assert page.status == 200
            assert evil.split("'", maxsplit=1)[0] not in page.answer.text
            assert page.faults_of_structure() == []
        assert technician.get(f"/devices/{device['id']}").heading == evil
        gone = technician.follow(technician.submit(f"/devices/{device['id']}/delete"))
        assert evil in gone.flash
        assert evil.split("'", maxsplit=1)[0] not in gone.answer.text


class TestAddDevice:
    def test_makes_a_form_of_the_kinds_properties(self, world: World, technician: Browser) -> None:
        page = technician.get(f"/sites/{world.north}/devices/new/pv_array")
        (tilt,) = page.tree.xpath("//input[@name='properties/tilt_deg']")
        assert (tilt.get("value"), tilt.get("min"), tilt.get("max")) == ("30", "0", "90")
        assert page.text("//label[@for='f-properties-tilt-deg']") == "Tilt"
        assert tilt.getparent().text_content().split() == ["°"]

    def test_adds_it_and_says_so_once(self, world: World, technician: Browser) -> None:
        path = f"/sites/{world.north}/devices/new/pv_array"
        added = technician.submit(path, name="Roof", properties__peak_kw="9,8", commissioned_on="2024-05-01")
        page = technician.follow(added)
        assert page.flash == "The device Roof was added."
        assert technician.get(added.location).flash == ""
        stored = world.technician.get(added.location).json()
        assert (stored["kind"], stored["slug"], stored["commissioned_on"]) == ("pv_array", "roof", "2024-05-01")
        assert stored["properties"] == {"peak_kw": 9.8, "tilt_deg": 30, "azimuth_deg": 180}
        assert [metric["key"] for metric in stored["metrics"]] == ["power", "energy"]

    @pytest.mark.parametrize("kind", ["battery", "inverter", "pv_array", "wind_turbine", "grid_meter", "load_meter",
                                      "ev_charger", "heat_pump", "weather_station"])  # fmt: skip
    def test_needs_no_more_than_a_name_for_a_kind(self, world: World, technician: Browser, kind: str) -> None:
        added = technician.submit(f"/sites/{world.north}/devices/new/{kind}", name="One")
        assert world.technician.get(added.location).json()["kind"] == kind

    @pytest.mark.parametrize(
        ("field", "typed", "told"),
        [
            ("name", "", "Must not be empty."),
            ("name", "x" * 121, "May have at most 120 characters."),
            ("slug", "Not A Slug", "Small letters, digits and single hyphens only."),
            ("serial_number", "taken", "The site has a device with this serial number already."),
            ("commissioned_on", "yesterday", "Must be a date, such as 2024-05-01."),
            ("properties__tilt_deg", "91", "Must be at most 90."),
            ("properties__peak_kw", "0", "Must be more than 0."),
            ("properties__peak_kw", "many", "Must be a number."),
            ("properties__peak_kw", "NaN", "Must be a number."),
        ],
    )
    def test_says_beside_the_field_what_is_wrong_and_keeps_what_was_typed(
        self, world: World, technician: Browser, field: str, typed: str, told: str
    ) -> None:
        world.device(serial_number="taken")
        path = f"/sites/{world.north}/devices/new/pv_array"
        page = technician.submit(path, **{"name": "Roof", "manufacturer": "Ours & Co", field: typed})
        name = field.replace("__", "/")
        assert page.status == (409 if typed == "taken" else 422)
        assert page.error_of(name) == told
        assert page.faults_of_structure() == []
        kept = page.fields(path)
        assert (kept[name], kept["manufacturer"]) == (typed, "Ours & Co")
        mended = technician.resubmit(page, path, **{"name": "Roof", field: {"name": "Roof"}.get(name, "")})
        assert mended.status == 303

    def test_says_all_that_is_wrong_at_once(self, world: World, technician: Browser) -> None:
        fields = {"name": "", "properties__tilt_deg": "91", "commissioned_on": "then"}
        page = technician.submit(f"/sites/{world.north}/devices/new/pv_array", **fields)
        assert [bool(page.error_of(name.replace("__", "/"))) for name in fields] == [True, True, True]
        assert len(page.tree.xpath("//*[@role='alert']//li")) == 3

    def test_says_what_is_wrong_with_several_fields_together(self, world: World, technician: Browser) -> None:
        path = f"/sites/{world.north}/devices/new/wind_turbine"
        page = technician.submit(path, name="Mill", properties__cut_in_ms="20")
        assert page.status == 422
        assert "cut_in_ms, rated_ms and cut_out_ms must rise in this order" in page.text("//*[@role='alert']")

    def test_sent_twice_adds_one(self, world: World, technician: Browser) -> None:
        path = f"/sites/{world.north}/devices/new/battery"
        page = technician.get(path)
        first, again = (technician.resubmit(page, path, name="Cellar") for _ in range(2))
        assert first.location == again.location
        changed = technician.resubmit(page, path, name="Attic")
        assert changed.status == 303
        assert changed.location != first.location

    def test_a_generic_device_has_properties_and_a_first_metric_of_ones_choice(
        self, world: World, technician: Browser
    ) -> None:
        path = f"/sites/{world.north}/devices/new/generic"
        lines = 'colour: blue\nlevel: 3\nwet: true\ncode: "42"\nroom: "true"'
        wrong = technician.submit(path, name="Pump", properties="no colon", metrics__0__key="flow")
        assert "Each line is `name: value`" in wrong.error_of("properties")
        fields = {"metrics__0__key": "flow", "metrics__0__quantity": "volume_flow", "metrics__0__unit": "l/min"}
        added = technician.resubmit(wrong, path, name="Pump", properties=lines, **fields)
        stored = world.technician.get(added.location).json()
        assert stored["properties"] == {"colour": "blue", "level": 3, "wet": True, "code": "42", "room": "true"}
        assert [(metric["key"], metric["unit"]) for metric in stored["metrics"]] == [("flow", "l/min")]
        unchanged = technician.get(f"{added.location}/edit").fields(f"{added.location}/edit")["properties"]
        assert unchanged.replace("\r\n", "\n") == lines

    def test_says_what_is_wrong_with_the_first_metric_beside_it(self, world: World, technician: Browser) -> None:
        path = f"/sites/{world.north}/devices/new/generic"
        page = technician.submit(path, name="Pump", metrics__0__key="No Key", metrics__0__unit="V")
        assert page.error_of("metrics/0/key") == "Small letters, digits and underscores only."
        page = technician.resubmit(page, path, metrics__0__key="flow")
        assert page.error_of("metrics/0/unit") == "V does not measure this quantity; kW does."

    def test_of_a_kind_that_there_is_not_is_no_page(self, world: World, technician: Browser) -> None:
        assert technician.get(f"/sites/{world.north}/devices/new/toaster").status == 404


class TestChangeDevice:
    def test_changes_what_was_changed_alone(self, world: World, technician: Browser) -> None:
        device = battery(world, properties={"capacity_kwh": 5}, serial_number="B-1")
        path = f"/devices/{device['id']}"
        changed = technician.submit(f"{path}/edit", name="Attic", properties__capacity_kwh="", source="simulated")
        assert technician.follow(changed).flash == "The changes were saved."
        stored = world.technician.get(path).json()
        assert (stored["name"], stored["serial_number"], stored["source"]) == ("Attic", "B-1", "simulated")
        assert stored["properties"] == device["properties"] | {"capacity_kwh": None}
        entry = world.technician.get(f"/sites/{world.north}/audit").json()["items"][0]
        assert set(entry["details"]["changes"]) >= {"name", "source"}
        assert "serial_number" not in entry["details"]["changes"]

    def test_removes_properties_of_ones_choice_whose_lines_are_gone(self, world: World, technician: Browser) -> None:
        device = world.device(properties={"colour": "blue", "level": 3})
        path = f"/devices/{device['id']}"
        assert technician.submit(f"{path}/edit", properties="level: 4").status == 303
        assert world.technician.get(path).json()["properties"] == {"level": 4}

    def test_keeps_what_was_typed_where_somebody_else_was_quicker(self, world: World, technician: Browser) -> None:
        path = f"/devices/{battery(world)['id']}"
        page = technician.get(f"{path}/edit")
        world.technician.patch(path, {"name": "Attic", "model": "X"})
        stale = technician.resubmit(page, f"{path}/edit", name="Garage")
        assert stale.status == 412
        assert "Somebody else changed this" in stale.text("//*[@role='alert']")
        assert "Now stored: Attic" in stale.body
        assert stale.fields(f"{path}/edit")["name"] == "Garage"
        assert world.technician.get(path).json()["name"] == "Attic"
        assert technician.resubmit(stale, f"{path}/edit", model="X").status == 303
        assert world.technician.get(path).json()["name"] == "Garage"

    def test_a_stale_form_stays_stale_when_it_is_wrong_too(self, world: World, technician: Browser) -> None:
        path = f"/devices/{battery(world)['id']}"
        page = technician.get(f"{path}/edit")
        world.technician.patch(path, {"name": "Attic"})
        wrong = technician.resubmit(page, f"{path}/edit", name="")
        assert wrong.status == 422
        assert technician.resubmit(wrong, f"{path}/edit", name="Garage").status == 412


class TestDelete:
    def test_says_first_what_goes_along(self, world: World, technician: Browser) -> None:
        device = battery(world)
        world.send(device["metrics"][0]["id"], (NOON, 1), ("2026-01-05T11:00:00Z", 2))
        page = technician.get(f"/devices/{device['id']}/delete")
        assert page.heading == "Delete Cellar?"
        assert "5 metrics: Power, positive on discharge" in page.body
        assert "2 readings" in page.body
        assert world.technician.get(f"/devices/{device['id']}").status_code == 200

    def test_deletes_when_it_is_confirmed(self, world: World, technician: Browser) -> None:
        device = battery(world)
        world.send(device["metrics"][0]["id"], (NOON, 1))
        gone = technician.submit(f"/devices/{device['id']}/delete")
        assert gone.location == f"/sites/{world.north}"
        assert technician.follow(gone).flash == "Cellar was deleted, with 1 reading."
        assert technician.get(f"/devices/{device['id']}").status == 404

    def test_deletes_nothing_that_changed_since_it_was_looked_at(self, world: World, technician: Browser) -> None:
        path = f"/devices/{battery(world)['id']}"
        page = technician.get(f"{path}/delete")
        world.technician.patch(path, {"model": "X"})
        refused = technician.resubmit(page, f"{path}/delete")
        again = technician.follow(refused)
        assert "nothing was deleted" in again.flash
        assert technician.resubmit(again, f"{path}/delete").location == f"/sites/{world.north}"

    def test_of_a_metric_says_what_goes_along_and_goes_back_to_the_device(
        self, world: World, technician: Browser
    ) -> None:
        device = battery(world)
        metric = device["metrics"][2]["id"]
        world.send(metric, (NOON, 20))
        assert "1 reading" in technician.get(f"/metrics/{metric}/delete").body
        gone = technician.submit(f"/metrics/{metric}/delete")
        assert technician.follow(gone).flash == "Temperature was deleted, with 1 reading."
        assert technician.get(f"/metrics/{metric}/delete").status == 404

    def test_of_the_last_metric_is_refused(self, world: World, technician: Browser) -> None:
        metric = world.metric()
        page = technician.get(f"/metrics/{metric}/delete")
        assert (page.status, "last metric" in page.body) == (409, True)


class TestMetric:
    def test_is_added_with_what_is_usual_where_nothing_is_said(self, world: World, technician: Browser) -> None:
        path = f"/devices/{battery(world)['id']}"
        fields = {"key": "voltage_dc", "quantity": "voltage"}
        added = technician.follow(technician.submit(f"{path}/metrics/new", **fields))
        assert added.flash == "The metric Voltage dc was added."
        metric = world.technician.get(path).json()["metrics"][-1]
        assert (metric["unit"], metric["behaviour"], metric["max_gap_s"]) == ("V", "gauge", 900)

    def test_says_beside_the_field_what_is_wrong(self, world: World, technician: Browser) -> None:
        path = f"/devices/{battery(world)['id']}/metrics/new"
        page = technician.submit(path, key="power", quantity="power")
        assert (page.status, page.error_of("key")) == (409, "The device has a metric with this key already.")
        page = technician.resubmit(page, path, key="other", valid_min="2", valid_max="1")
        assert (page.status, page.error_of("valid_max")) == (422, "`valid_max` is below `valid_min`.")

    def test_is_changed(self, world: World, technician: Browser) -> None:
        metric = battery(world)["metrics"][0]["id"]
        changed = technician.submit(f"/metrics/{metric}/edit", name="DC power", max_gap_s="", valid_min="-5.5")
        assert technician.follow(changed).flash == "The changes were saved."
        stored = world.technician.get(f"/metrics/{metric}").json()
        assert (stored["name"], stored["max_gap_s"], stored["valid_min"]) == ("DC power", None, -5.5)

    def test_keeps_its_meaning_while_it_has_readings(self, world: World, technician: Browser) -> None:
        metric = battery(world)["metrics"][0]["id"]
        world.send(metric, (NOON, 1))
        page = technician.submit(f"/metrics/{metric}/edit", unit="W")
        assert page.status == 409
        assert "whose meaning this would change" in page.error_of("unit")

    def test_is_not_changed_by_a_stale_form(self, world: World, technician: Browser) -> None:
        metric = battery(world)["metrics"][0]["id"]
        page: Page = technician.get(f"/metrics/{metric}/edit")
        world.technician.patch(f"/metrics/{metric}", {"name": "Theirs"})
        stale = technician.resubmit(page, f"/metrics/{metric}/edit", name="Mine")
        assert stale.status == 412
        assert "Now stored: Theirs" in stale.body
        assert technician.resubmit(stale, f"/metrics/{metric}/edit").status == 303
        assert world.technician.get(f"/metrics/{metric}").json()["name"] == "Mine"
