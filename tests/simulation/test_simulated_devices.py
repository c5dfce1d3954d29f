"""Simulated devices as a user meets them: latest values and history through the API, whatever is asked first."""

from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import count
from threading import Thread
from typing import Any

import numpy as np
import pytest

from kilowatch.auth.model import OPERATOR
from kilowatch.config import Settings
from kilowatch.errors import Abandoned
from kilowatch.facility.service import placed_metric
from kilowatch.kit.timespan import Window
from kilowatch.simulation.course import BLOCK_MS
from kilowatch.simulation.service import Simulation
from tests.conftest import START, Clock, World, _unique, open_world
from tests.processes import wait_until

FIRST_DAY = "2025-12-01"
HOME = ("load_meter", "pv_array", "battery", "grid_meter")


@pytest.fixture
def database_url(any_database_url: str) -> str:
    return any_database_url


class Home:
    """A simulated site of a world, asked through the API."""

    def __init__(self, world: World, *kinds: str, **site: Any) -> None:
        self.world = world
        key = world.admin.post("/me/api-keys", {"name": "Test", "scopes": ["read", "write", "ingest"]}).json()["key"]
        self.http = world.http(key)  # which does not expire while the clock is moved
        position = {"latitude": 48.1, "longitude": 11.6, "country": "DE"}
        self.slug = _unique("home").replace("_", "-")
        self.site_id = world.site(self.slug, **(position | site))
        self.devices: dict[str, dict[str, Any]] = {}
        for kind in kinds:
            self.add(kind)

    def add(self, kind: str, *, name: str | None = None, **fields: Any) -> dict[str, Any]:
        body = {"name": name or kind, "kind": kind, "source": "simulated", "commissioned_on": FIRST_DAY} | fields
        answer = self.http.post(f"/sites/{self.site_id}/devices", json=body)
        assert answer.status_code == 201, answer.text
        device: dict[str, Any] = answer.json()
        self.devices[name or kind] = device
        return device

    def metric(self, name: str, key: str = "power") -> int:
        return next(int(metric["id"]) for metric in self.devices[name]["metrics"] if metric["key"] == key)

    def path(self, name: str) -> str:
        return f"{self.slug}/{self.devices[name]['slug']}/power"

    def latest(self, name: str, key: str = "power") -> dict[str, Any]:
        answer = self.http.get(f"/metrics/{self.metric(name, key)}/latest")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def raw(self, name: str, key: str, start: str, end: str) -> tuple[list[str], list[float]]:
        parameters = {"start": start, "end": end, "resolution": "raw", "timezone": "UTC"}
        answer = self.http.get(f"/metrics/{self.metric(name, key)}/history", params=parameters)
        assert answer.status_code == 200, answer.text
        (series,) = answer.json()["series"]
        return [time.replace("+00:00", "Z") for time in series["timestamps"]], series["values"]

    def values(self, name: str, key: str, start: str, end: str) -> np.ndarray:
        return np.array(self.raw(name, key, start, end)[1])

    def milliwatts(self, name: str, start: str, end: str) -> np.ndarray:
        found: np.ndarray = np.rint(self.values(name, "power", start, end) * 1e6)
        return found

    def change(self, name: str, **fields: Any) -> None:
        answer = self.http.patch(f"/devices/{self.devices[name]['id']}", json=fields)
        assert answer.status_code == 200, answer.text


class TestLatest:
    def test_is_there_at_once(self, world: World) -> None:
        home = Home(world, *HOME)
        for name in HOME:
            reading = home.latest(name)
            assert reading["value"] is not None
            assert reading["timestamp"] == "2026-01-05T12:00:00Z"
            assert not reading["stale"]

    def test_is_a_new_one_each_interval(self, world: World) -> None:
        home = Home(world, "load_meter")
        home.add("weather_station", interval_s=300)
        world.clock.advance(seconds=150)
        assert home.latest("load_meter")["timestamp"] == "2026-01-05T12:02:00Z"
        assert home.latest("weather_station", "temperature")["timestamp"] == "2026-01-05T12:00:00Z"
        world.clock.advance(seconds=150)
        assert home.latest("weather_station", "temperature")["timestamp"] == "2026-01-05T12:05:00Z"

    def test_comes_by_itself_too(self, world: World) -> None:
        home = Home(world, *HOME)
        world.services.simulation.tick()
        world.clock.advance(minutes=3)
        world.services.simulation.tick()
        ids = np.array([home.metric(name) for name in HOME], np.uint32)
        assert world.services.history is not None
        newest = world.services.history.latest(ids)["ts"]
        assert set(newest.tolist()) == {int((START + timedelta(minutes=3)).timestamp() * 1000)}
        assert len(home.raw("battery", "power", "2026-01-05T11:59:30Z", "2026-01-05T12:04:00Z")[1]) == 4

    def test_there_is_none_before_the_device_is_commissioned(self, world: World) -> None:
        home = Home(world)
        home.add("load_meter", commissioned_on="2026-01-06")
        assert home.latest("load_meter")["value"] is None
        world.clock.advance(hours=12)  # midnight in Berlin was at 23:00
        assert home.latest("load_meter")["timestamp"] == "2026-01-06T00:00:00Z"
        assert len(home.raw("load_meter", "power", "2026-01-05T00:00:00Z", "2026-01-07T00:00:00Z")[1]) == 61

    def test_comes_though_another_site_is_broken(self, world: World) -> None:
        broken, home = Home(world, "load_meter"), Home(world, "load_meter")
        ids = np.array([broken.metric("load_meter"), home.metric("load_meter")], np.uint32)

        def newest() -> list[int]:
            world.services.simulation.tick()  # leaves out a site that the world's keeper is at
            assert world.services.history is not None
            found: list[int] = world.services.history.latest(ids)["ts"].tolist()
            return found

        wait_until(lambda: min(newest()) > 0, "both have reported")
        with world.services.database.write() as connection:
            statement = "UPDATE simulation_places SET timezone = 'Atlantis' WHERE site_id = %d"
            connection.exec_driver_sql(statement % broken.site_id)
        world.clock.advance(minutes=1)
        wait_until(lambda: newest()[1] > newest()[0], "the other has reported again")
        assert newest()[1] == newest()[0] + 60_000

    def test_follows_the_time_that_nothing_ran(self, world: World) -> None:
        """The newest is made first; what lies between when it is asked for."""
        home = Home(world, *HOME)
        before = home.latest("battery", "energy_charged")
        world.clock.advance(days=23, hours=2)
        after = home.latest("battery", "energy_charged")
        charged = -np.minimum(home.milliwatts("battery", "2026-01-05T12:00:00Z", "2026-01-28T14:00:00Z"), 0).sum() * 60
        assert after["value"] - before["value"] == pytest.approx(charged / 3.6e9, abs=1e-6)


class TestHistory:
    def test_is_there_from_the_day_of_commissioning_until_now(self, world: World) -> None:
        home = Home(world, "weather_station")
        times, _ = home.raw("weather_station", "temperature", "2025-11-01T00:00:00Z", "2026-02-01T00:00:00Z")
        assert (times[0], times[-1]) == ("2025-11-30T23:00:00Z", "2026-01-05T12:00:00Z")  # midnight in Berlin
        assert len(times) == (35 * 24 + 13) * 60 + 1

    def test_of_a_device_of_which_nothing_is_said_begins_five_years_back(self, world: World) -> None:
        home = Home(world)
        home.add("weather_station", commissioned_on=None, interval_s=900)
        times, _ = home.raw("weather_station", "temperature", "2020-06-01T00:00:00Z", "2021-01-06T00:00:00Z")
        assert times[0] == "2021-01-04T23:00:00Z"

    def test_is_the_same_whatever_was_asked_first(self, world: World, others: Callable[[], World]) -> None:
        windows = [
            ("2026-01-05T11:00:00Z", "2026-01-05T12:30:00Z"),
            ("2025-12-03T07:13:00Z", "2025-12-03T09:00:00Z"),
            ("2025-12-20T00:00:00Z", "2025-12-22T00:00:00Z"),
        ]
        found = []
        for one, order in ((world, windows), (others(), windows[::-1])):
            home = Home(one, *HOME)
            answers = {
                (name, key, window): home.values(name, key, *window)
                for window in order
                for name, key in (
                    ("battery", "state_of_charge"),
                    ("grid_meter", "energy_imported"),
                    ("pv_array", "power"),
                )
            }
            found.append(answers)
        for asked, values in found[0].items():
            np.testing.assert_array_equal(values, found[1][asked], err_msg=str(asked))

    def test_is_made_once(self, world: World) -> None:
        """What was deleted of it does not come back."""
        home = Home(world, "load_meter")
        window = ("2025-12-10T00:00:00Z", "2025-12-10T01:00:00Z")
        assert len(home.values("load_meter", "power", *window)) == 60
        answer = world.admin.delete(
            f"/metrics/{home.metric('load_meter')}/readings?start={window[0]}&end=2025-12-10T00:30:00Z"
        )
        assert answer.json()["readings"] == 30
        assert len(home.values("load_meter", "power", *window)) == 30

    def test_what_is_deleted_before_anybody_saw_it_does_not_come_later(self, world: World) -> None:
        home = Home(world, "load_meter")
        window = ("2025-12-10T00:00:00Z", "2025-12-10T01:00:00Z")
        path = f"/metrics/{home.metric('load_meter')}/readings?start={window[0]}&end={window[1]}"
        assert world.admin.delete(path).json()["readings"] == 60
        assert len(home.values("load_meter", "power", *window)) == 0

    def test_what_becomes_due_while_a_window_is_made_arrives_as_new(self, world: World) -> None:
        """Streams would never hear of it if it were stored with the past."""
        home = Home(world, "load_meter")
        with world.services.database.read() as connection:
            metric = placed_metric(connection, OPERATOR, home.metric("load_meter"))
        at_each_look = count()

        def clock() -> datetime:
            return START + timedelta(minutes=next(at_each_look), seconds=30)

        assert world.services.history is not None
        simulation = Simulation(world.services.database, world.services.history, clock)
        simulation.prepare([metric], Window(START - timedelta(hours=1), START + timedelta(hours=1)))
        (newest,) = world.services.history.latest(np.array([metric.id], np.uint32))
        assert newest["received_at"] != newest["ts"]  # as what is made of old has it

    def test_who_leaves_while_another_makes_the_site_is_not_waited_for(self, world: World) -> None:
        home = Home(world, "load_meter")
        with world.services.database.read() as connection:
            metric = placed_metric(connection, OPERATOR, home.metric("load_meter"))
        simulation, window = world.services.simulation, Window(START - timedelta(days=20), START)
        left: list[bool] = []

        def leave() -> None:
            with pytest.raises(Abandoned):
                simulation.prepare([metric], window, stop=lambda: True)
            left.append(True)

        def look() -> bool:  # asked while the site is being made
            other = Thread(target=leave, daemon=True)
            other.start()
            other.join(timeout=30)
            return False

        simulation.prepare([metric], window, stop=look)
        assert left

    @pytest.mark.parametrize(("kind", "key"), [("heat_pump", "flow_temperature"), ("inverter", "temperature")])
    def test_what_lags_is_the_same_whatever_was_asked_first(
        self, world: World, others: Callable[[], World], kind: str, key: str
    ) -> None:
        """At a site without anything that forgets, where a stretch of ten days begins."""
        window = ("2025-12-18T00:00:00Z", "2025-12-18T02:00:00Z")
        assert int(datetime.fromisoformat(window[0]).timestamp() * 1000) % BLOCK_MS == 0
        homes = Home(world, kind), Home(others(), kind)
        homes[0].values(kind, key, "2025-12-19T06:00:00Z", "2025-12-19T07:00:00Z")
        found = [home.values(kind, key, *window) for home in homes]
        np.testing.assert_array_equal(found[0], found[1])

    def test_holds_the_balance_to_the_watt(self, world: World) -> None:
        home = Home(world, *HOME, "heat_pump", "ev_charger")
        window = ("2025-12-24T00:00:00Z", "2025-12-26T00:00:00Z")
        watts = {name: home.milliwatts(name, *window) for name in home.devices}
        used = watts["load_meter"] + watts["heat_pump"] + watts["ev_charger"]
        np.testing.assert_array_equal(watts["grid_meter"], used - watts["pv_array"] - watts["battery"])
        assert len(used) == 2 * 1440

    def test_energy_is_what_the_counters_count(self, world: World) -> None:
        home = Home(world, *HOME)
        for key, aggregate in (("energy_imported", "energy_positive"), ("energy_exported", "energy_negative")):
            totals = []
            for metric_key, kind in ((key, "delta"), ("power", aggregate)):
                window = {"start": "2025-12-05T00:00:00Z", "end": "2026-01-04T00:00:00Z"}
                answer = home.http.get(
                    f"/metrics/{home.metric('grid_meter', metric_key)}/history",
                    params=window | {"resolution": "1mo", "aggregate": kind},
                )
                assert answer.status_code == 200, answer.text
                totals.append(answer.json()["series"][0]["values"])
            # the last minute's energy is in the counter a minute later
            assert totals[0] == pytest.approx(totals[1], abs=0.1)

    def test_is_in_the_unit_of_the_metric(self, world: World) -> None:
        home = Home(world, "weather_station")
        metrics = [
            {"key": "watts", "quantity": "power", "unit": "W"},
            {"key": "energy", "quantity": "energy", "unit": "Wh"},
            {"key": "mood", "quantity": "temperature", "unit": "°C"},
        ]
        home.add("load_meter", metrics=metrics)
        watts = home.values("load_meter", "watts", "2025-12-05T00:00:00Z", "2025-12-06T00:00:00Z")
        assert watts.max() > 50
        np.testing.assert_allclose(watts, np.rint(watts), rtol=1e-12)
        energy = home.values("load_meter", "energy", "2025-12-05T00:00:00Z", "2025-12-06T00:00:00Z")
        assert energy[-1] - energy[0] == pytest.approx(watts[:-1].sum() / 60)
        assert home.latest("load_meter", "mood")["value"] is None

    def test_goes_into_every_format(self, world: World) -> None:
        home = Home(world, "load_meter")
        answer = world.admin.get(
            f"/metrics/{home.metric('load_meter')}/history",
            start="2025-12-05T00:00:00Z",
            end="2025-12-06T00:00:00Z",
            resolution="raw",
            limit="all",
            format="csv",
        )
        assert len(answer.text.splitlines()) == 1441


class TestWhatChanges:
    PAST = ("2025-12-20T10:00:00Z", "2025-12-20T14:00:00Z")

    @pytest.mark.parametrize("what_was_told", ["the past", "the newest, for two hours"])
    def test_a_battery_is_in_the_balance_from_then_on(self, world: World, what_was_told: str) -> None:
        home = Home(world, "load_meter", "pv_array", "grid_meter")
        if what_was_told == "the past":
            before = home.milliwatts("grid_meter", *self.PAST)
        else:
            world.clock.advance(hours=-2)
            home.latest("grid_meter")
            world.clock.advance(hours=2)
            before = home.milliwatts("load_meter", *self.PAST) - home.milliwatts("pv_array", *self.PAST)
        home.latest("grid_meter")
        home.add("battery")
        world.clock.advance(hours=26)
        np.testing.assert_array_equal(home.milliwatts("grid_meter", *self.PAST), before)
        # what was not asked by then belongs to the same past
        december = ("2025-12-21T00:00:00Z", "2026-01-05T12:01:00Z")
        without = home.milliwatts("load_meter", *december) - home.milliwatts("pv_array", *december)
        np.testing.assert_array_equal(home.milliwatts("grid_meter", *december), without)
        after = ("2026-01-05T12:01:00Z", "2026-01-06T13:00:00Z")
        battery = home.milliwatts("battery", *after)
        with_it = home.milliwatts("load_meter", *after) - home.milliwatts("pv_array", *after) - battery
        np.testing.assert_array_equal(home.milliwatts("grid_meter", *after), with_it)
        assert np.abs(battery).max() > 0

    def test_the_new_battery_has_a_past_of_its_own(self, world: World) -> None:
        home = Home(world, "load_meter", "pv_array", "grid_meter")
        home.values("grid_meter", "power", *self.PAST)
        home.add("battery")
        window = ("2025-12-20T00:00:00Z", "2025-12-30T00:00:00Z")
        charge = home.values("battery", "state_of_charge", *window)
        assert len(charge) == 10 * 1440
        assert 0 <= charge.min() < charge.max() <= 100

    def test_charge_goes_on_where_a_battery_joins(self, world: World) -> None:
        home = Home(world, "load_meter", "pv_array", "grid_meter")
        home.values("grid_meter", "power", *self.PAST)
        home.latest("grid_meter")
        home.add("battery", properties={"capacity_kwh": 10, "round_trip_efficiency": 1})
        world.clock.advance(hours=30)
        window = ("2026-01-05T00:00:00Z", "2026-01-06T18:00:00Z")
        charge = home.values("battery", "state_of_charge", *window) / 100 * 10
        flow = -home.milliwatts("battery", *window)[:-1] / 60e6
        np.testing.assert_allclose(np.diff(charge), flow, atol=1e-7)  # half a milliwatt where a limit is met

    def test_what_is_made_before_anything_was_told_has_all_devices(self, world: World) -> None:
        """In whatever order they are entered, as long as nobody has asked for a meter's value."""
        home = Home(world, "grid_meter", "battery")
        home.add("pv_array")
        home.latest("pv_array")
        home.add("load_meter")
        watts = {name: home.milliwatts(name, *self.PAST) for name in home.devices}
        expected = watts["load_meter"] - watts["pv_array"] - watts["battery"]
        np.testing.assert_array_equal(watts["grid_meter"], expected)

    def test_while_a_site_is_set_up_its_past_follows(self, world: World) -> None:
        """Only what was told by then, the newest of some minutes, stays as it was."""
        home = Home(world, "grid_meter", "load_meter")
        told = [home.latest("grid_meter")["value"]]
        world.clock.advance(minutes=1)
        told.append(home.latest("grid_meter")["value"])
        home.add("pv_array", properties={"peak_kw": 5})
        world.clock.advance(minutes=1)
        home.latest("grid_meter")
        home.change("pv_array", properties={"peak_kw": 50})
        home.add("battery")
        world.clock.advance(minutes=1)
        home.latest("grid_meter")
        for window in (self.PAST, ("2026-01-05T09:00:00Z", "2026-01-05T12:00:00Z")):
            watts = {name: home.milliwatts(name, *window) for name in home.devices}
            assert watts["pv_array"].max() > 5e6
            expected = watts["load_meter"] - watts["pv_array"] - watts["battery"]
            np.testing.assert_array_equal(watts["grid_meter"], expected)
        window = ("2026-01-05T12:00:00Z", "2026-01-05T12:02:00Z")
        assert home.values("grid_meter", "power", *window).tolist() == told
        np.testing.assert_array_equal(home.milliwatts("grid_meter", *window), home.milliwatts("load_meter", *window))
        window = ("2026-01-05T12:03:00Z", "2026-01-05T12:04:00Z")
        watts = {name: home.milliwatts(name, *window) for name in home.devices}
        expected = watts["load_meter"] - watts["pv_array"] - watts["battery"]
        np.testing.assert_array_equal(watts["grid_meter"], expected)

    def test_what_is_deleted_while_a_site_is_set_up_was_never_there(self, world: World) -> None:
        home = Home(world, "grid_meter", "load_meter", "battery")
        home.latest("grid_meter")
        assert world.admin.delete(f"/devices/{home.devices['battery']['id']}").status_code == 200
        np.testing.assert_array_equal(
            home.milliwatts("grid_meter", *self.PAST), home.milliwatts("load_meter", *self.PAST)
        )

    def test_another_property_holds_from_then_on(self, world: World) -> None:
        home = Home(world)
        home.add("pv_array", properties={"peak_kw": 5})
        window = ("2026-01-05T09:00:00Z", "2026-01-05T12:00:00Z")
        before = home.milliwatts("pv_array", *window)
        home.change("pv_array", properties={"peak_kw": 10})
        world.clock.advance(days=1)
        np.testing.assert_array_equal(home.milliwatts("pv_array", *window), before)
        assert home.values("pv_array", "energy", "2026-01-05T00:00:00Z", "2026-01-06T12:00:00Z").size == 36 * 60
        after = home.milliwatts("pv_array", "2026-01-06T09:00:00Z", "2026-01-06T12:00:00Z")
        assert after.max() > 0

    def test_a_device_that_is_deleted_stays_in_the_past(self, world: World) -> None:
        home = Home(world, *HOME)
        before = home.milliwatts("grid_meter", *self.PAST)
        home.latest("grid_meter")
        assert world.admin.delete(f"/devices/{home.devices['battery']['id']}").status_code == 200
        earlier = home.milliwatts("grid_meter", "2025-12-20T06:00:00Z", "2025-12-20T14:00:00Z")
        np.testing.assert_array_equal(earlier[-len(before) :], before)
        world.clock.advance(days=1)
        after = ("2026-01-06T06:00:00Z", "2026-01-06T12:00:00Z")
        expected = home.milliwatts("load_meter", *after) - home.milliwatts("pv_array", *after)
        np.testing.assert_array_equal(home.milliwatts("grid_meter", *after), expected)

    def test_a_site_that_moves_keeps_its_past(self, world: World) -> None:
        home = Home(world, "pv_array", "weather_station")
        window = ("2026-01-05T06:00:00Z", "2026-01-05T12:00:00Z")
        before = home.milliwatts("pv_array", *window)
        answer = world.admin.patch(f"/sites/{home.site_id}", {"latitude": 21.3, "longitude": -157.9})
        assert answer.status_code == 200
        world.clock.advance(days=1)
        np.testing.assert_array_equal(home.milliwatts("pv_array", *window), before)
        assert (
            home.milliwatts("pv_array", "2026-01-06T09:00:00Z", "2026-01-06T12:00:00Z").max() == 0
        )  # night in Honolulu
        assert home.milliwatts("pv_array", "2026-01-05T21:00:00Z", "2026-01-06T00:00:00Z").max() > 0

    def test_a_site_may_move_again_at_once(self, world: World) -> None:
        home = Home(world, "weather_station")
        home.values("weather_station", "temperature", *self.PAST)
        for latitude in (20.0, 30.0, 40.0):
            assert world.admin.patch(f"/sites/{home.site_id}", {"latitude": latitude}).status_code == 200
            assert home.latest("weather_station", "temperature")["value"] is not None

    def test_a_site_may_move_again_while_it_is_set_up(self, world: World) -> None:
        home = Home(world, "weather_station")
        told = home.latest("weather_station", "temperature")["value"]
        for latitude in (20.0, 80.0):
            world.clock.advance(minutes=1)
            assert world.admin.patch(f"/sites/{home.site_id}", {"latitude": latitude}).status_code == 200
            home.latest("weather_station", "temperature")
        window = ("2026-01-05T11:50:00Z", "2026-01-05T12:01:00Z")
        *past, newest = home.values("weather_station", "temperature", *window)
        assert newest == told
        assert max(past) < told - 5  # it has always been near the pole, but for what was told

    def test_a_reported_device_is_simulated_behind_its_readings(self, world: World) -> None:
        home = Home(world)
        home.add("load_meter", source="reported")
        world.send(home.metric("load_meter"), ("2026-01-05T10:00:00Z", 1.25), ("2026-01-05T11:00:00Z", 1.5))
        home.change("load_meter", source="simulated")
        times, values = home.raw("load_meter", "power", "2026-01-01T00:00:00Z", "2026-01-06T00:00:00Z")
        assert times[:3] == ["2026-01-05T10:00:00Z", "2026-01-05T11:00:00Z", "2026-01-05T11:01:00Z"]
        assert values[:2] == [1.25, 1.5]
        assert times[-1] == "2026-01-05T12:00:00Z"

    def test_a_simulated_device_that_is_real_now_keeps_what_was_made(self, world: World) -> None:
        home = Home(world, "load_meter")
        made = home.values("load_meter", "power", *self.PAST)
        home.latest("load_meter")
        home.change("load_meter", source="reported")
        world.clock.advance(hours=1)
        np.testing.assert_array_equal(home.values("load_meter", "power", *self.PAST), made)
        assert home.latest("load_meter")["timestamp"] == "2026-01-05T12:00:00Z"
        body = {"readings": [{"metric": home.path("load_meter"), "timestamp": "2026-01-05T12:30:00Z", "value": 0.5}]}
        assert home.http.post("/readings", json=body).json()["accepted"] == 1
        assert home.latest("load_meter")["value"] == 0.5

    def test_an_earlier_day_of_commissioning_gives_an_earlier_past(self, world: World) -> None:
        home = Home(world, "load_meter")
        home.latest("load_meter")
        home.change("load_meter", commissioned_on="2025-11-01")
        times, _ = home.raw("load_meter", "power", "2025-10-01T00:00:00Z", "2025-11-02T00:00:00Z")
        assert times[0] == "2025-10-31T23:00:00Z"

    def test_an_earlier_day_holds_after_a_later_one_that_came_too_late(self, world: World) -> None:
        home = Home(world, "load_meter")
        made = home.values("load_meter", "power", *self.PAST)
        home.change("load_meter", commissioned_on="2025-12-25")
        np.testing.assert_array_equal(home.values("load_meter", "power", *self.PAST), made)
        home.change("load_meter", commissioned_on="2025-11-01")
        times, _ = home.raw("load_meter", "power", "2025-10-01T00:00:00Z", "2025-11-02T00:00:00Z")
        assert times[0] == "2025-10-31T23:00:00Z"

    def test_nothing_stays_of_a_site_that_is_deleted(self, world: World) -> None:
        home = Home(world, *HOME)
        home.values("grid_meter", "power", *self.PAST)
        assert world.admin.delete(f"/sites/{home.site_id}").status_code == 200
        world.services.simulation.tick()
        with world.services.database.read() as connection:
            for table in ("parts", "places", "states", "spans"):
                assert connection.exec_driver_sql(f"SELECT count(*) FROM simulation_{table}").scalar() == 0


class TestRestart:
    def test_nothing_changes_with_it(self, settings: Settings, clock: Clock) -> None:
        with open_world(settings, clock) as world:
            home = Home(world, *HOME)
            devices, site_id = home.devices, home.site_id
            clock.advance(days=40)
            before = home.latest("battery", "energy_discharged")["value"]
        from kilowatch.history.service import Query
        from kilowatch.services import Kilowatch

        clock.advance(minutes=5)
        with Kilowatch(settings, clock=clock) as services:
            latest = {(one.device, one.metric): one for one in services.histories.latest_of_site(OPERATOR, site_id)}
            after = latest["battery", "energy_discharged"].value
            metric_id = next(m["id"] for m in devices["battery"]["metrics"] if m["key"] == "power")
            window = Window(clock.now - timedelta(minutes=5), clock.now)
            history = services.histories.history_of_metrics(OPERATOR, [metric_id], Query(window, resolution="raw"))
            discharged = np.maximum(np.rint(history.series[0].values * 1000), 0).sum() * 60
            assert after is not None
            assert after - before == pytest.approx(discharged / 3.6e6, abs=1e-9)


class TestWhatCanBeSimulated:
    def test_a_generic_device_can_not(self, world: World) -> None:
        body = {
            "name": "Thing",
            "kind": "generic",
            "source": "simulated",
            "metrics": [{"key": "p", "quantity": "power"}],
        }
        answer = world.admin.post(f"/sites/{world.north}/devices", body)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == "#/source"

    def test_nor_become_it(self, world: World) -> None:
        device = world.device()
        answer = world.admin.patch(f"/devices/{device['id']}", {"source": "simulated"})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == "#/source"

    @pytest.mark.parametrize("interval_s", [0, 59, 61, "60", 3600, None])
    def test_intervals_are_one_of_three(self, world: World, interval_s: Any) -> None:
        body = {"name": "Load", "kind": "load_meter", "source": "simulated", "interval_s": interval_s}
        answer = world.admin.post(f"/sites/{world.north}/devices", body)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == "#/interval_s"

    def test_a_site_without_a_position_is_where_its_zone_is(self, world: World) -> None:
        home = Home(world, "weather_station", timezone="Asia/Kolkata", latitude=None, longitude=None)
        window = ("2026-01-04T00:00:00Z", "2026-01-05T00:00:00Z")
        sunny = home.values("weather_station", "irradiance", *window)
        assert 5 <= np.flatnonzero(sunny).mean() / 60 <= 8  # noon is at half past six
