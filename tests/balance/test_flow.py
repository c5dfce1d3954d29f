"""The energy flow of a site now, through the API."""

import pytest

from kilowatch.auth.model import OPERATOR
from tests.balance.sites import HOME, Site, links
from tests.conftest import World

NOON = "2026-01-05T12:00:00Z"


class TestFlow:
    def test_tells_each_roles_power_and_what_follows_from_them(self, world: World) -> None:
        home = Site(world, *HOME)
        home.read(NOON, pv_array=5, battery=-1.5, grid_meter=-1, load_meter=0.6, ev_charger=1.4, heat_pump=0.5)
        flow = home.flow()
        assert {role: flow[role]["kw"] for role in ("pv", "battery", "grid", "load", "ev_charging", "heating")} == {
            "pv": 5, "battery": -1.5, "grid": -1, "load": 0.6, "ev_charging": 1.4, "heating": 0.5,
        }  # fmt: skip
        assert (flow["wind"], flow["stale"], flow["complete"]) == (None, False, True)
        assert (flow["production"]["kw"], flow["consumption"]["kw"]) == (5, 2.5)
        assert flow["other"]["kw"] == pytest.approx(0, abs=1e-12)
        assert links(flow) == {"pv to consumption": 2.5, "pv to battery": 1.5, "pv to grid": 1}
        assert (flow["oldest"], flow["newest"]) == (NOON, NOON)

    def test_lets_the_battery_and_then_the_grid_serve_what_production_does_not(self, world: World) -> None:
        home = Site(world, *HOME)
        home.read(NOON, pv_array=0.5, battery=2, grid_meter=1, load_meter=3, ev_charger=0, heat_pump=0.5)
        assert links(home.flow()) == {
            "pv to consumption": 0.5, "battery to consumption": 2, "grid to consumption": 1,
        }  # fmt: skip

    def test_lets_the_grid_charge_the_battery(self, world: World) -> None:
        home = Site(world, "battery", "grid_meter", "load_meter")
        home.read(NOON, battery=-3, grid_meter=4, load_meter=1)
        assert links(home.flow()) == {"grid to consumption": 1, "grid to battery": 3}

    def test_shares_what_pv_and_wind_give_together(self, world: World) -> None:
        farm = Site(world, "pv_array", "wind_turbine", "grid_meter")
        farm.read(NOON, pv_array=1, wind_turbine=3, grid_meter=-4)
        assert links(farm.flow()) == {"pv to grid": 1, "wind to grid": 3}
        assert farm.flow()["consumption"]["kw"] == 0

    def test_computes_the_grid_where_there_is_no_meter(self, world: World) -> None:
        home = Site(world, "pv_array", "battery", "load_meter", "heat_pump")
        home.read(NOON, pv_array=1, battery=0.5, load_meter=2, heat_pump=1)
        flow = home.flow()
        assert (flow["grid"]["kw"], flow["grid"]["computed"], flow["other"]) == (1.5, True, None)
        assert (flow["consumption"]["kw"], links(flow)["grid to consumption"]) == (3, 1.5)

    def test_tells_only_what_there_is(self, world: World) -> None:
        roof = Site(world, "pv_array", "weather_station")
        roof.read(NOON, pv_array=1)
        flow = roof.flow()
        assert (flow["production"]["kw"], flow["consumption"], flow["grid"], flow["links"]) == (1, None, None, [])

    def test_of_a_site_without_such_devices_is_empty(self, world: World) -> None:
        flow = Site(world, "weather_station").flow()
        assert (flow["production"], flow["links"], flow["oldest"], flow["complete"]) == (None, [], None, True)

    def test_tells_what_is_not_measured_of_the_consumption(self, world: World) -> None:
        home = Site(world, "grid_meter", "load_meter")
        home.read(NOON, grid_meter=3, load_meter=2)
        assert home.flow()["other"]["kw"] == 1

    def test_tells_too_much_measured_use_as_a_negative_rest(self, world: World) -> None:
        home = Site(world, "grid_meter", "load_meter", "ev_charger")
        home.read(NOON, grid_meter=3, load_meter=3, ev_charger=2)
        assert home.flow()["other"]["kw"] == -2


class TestMeters:
    def test_an_inverter_stands_for_arrays_without_a_meter(self, world: World) -> None:
        roof = Site(world, "inverter", "grid_meter")
        roof.read(NOON, inverter=4, grid_meter=-3)
        assert (roof.flow()["pv"]["kw"], roof.flow()["consumption"]["kw"]) == (4, 1)

    def test_an_inverter_passes_on_what_an_array_is_measured_to_give(self, world: World) -> None:
        roof = Site(world, "inverter", "pv_array", "grid_meter")
        roof.read(NOON, inverter=4, pv_array=4.2, grid_meter=-3)
        assert (roof.flow()["pv"]["kw"], roof.flow()["pv"]["devices"]) == (4.2, 1)

    def test_are_told_by_the_usual_key_or_else_the_only_gauge_of_power(self, world: World) -> None:
        def gauge(key: str, unit: str = "kW") -> dict[str, str]:
            return {"key": key, "quantity": "power", "unit": unit}

        site = Site(world)
        site.add("load_meter", "by_key", metrics=[gauge("l1"), gauge("power", "W")])
        site.add("load_meter", "by_being_alone", metrics=[gauge("p_total", "MW")])
        site.add("load_meter", "phases", metrics=[gauge("l1"), gauge("l2"), gauge("l3")])
        site.read(NOON, by_key__l1=100, by_key=500, by_being_alone__p_total=0.002, phases__l1=100)
        assert site.flow()["load"] == {"kw": 2.5, "devices": 2, "missing": 0, "stale": False, "computed": False}

    def test_of_one_role_are_added_up(self, world: World) -> None:
        farm = Site(world, "grid_meter")
        farm.add("grid_meter", "second")
        farm.read(NOON, grid_meter=2, second=-0.5)
        assert farm.flow()["grid"]["kw"] == 1.5

    def test_of_a_simulated_grid_show_the_same_so_one_of_them_counts(self, world: World) -> None:
        site = Site(world)
        for name in ("one", "other"):
            site.add("grid_meter", name, source="simulated", commissioned_on="2026-01-01")
        site.add("load_meter", source="simulated", commissioned_on="2026-01-01")
        flow = site.flow()
        assert flow["grid"]["devices"] == 1
        assert flow["grid"]["kw"] == pytest.approx(flow["load"]["kw"], abs=1e-9)


class TestWhatIsMissing:
    def test_is_told_of_a_device_that_never_reported(self, world: World) -> None:
        home = Site(world, "grid_meter", "load_meter")
        home.add("load_meter", "annexe")
        home.read(NOON, grid_meter=3, load_meter=2)
        flow = home.flow()
        assert flow["load"] == {"kw": 2, "devices": 2, "missing": 1, "stale": True, "computed": False}
        assert (flow["complete"], flow["stale"], flow["other"]["missing"]) == (False, True, 1)

    def test_is_told_of_old_readings_which_still_count(self, world: World) -> None:
        home = Site(world, "grid_meter", "load_meter")
        home.read("2026-01-05T11:44:59Z", grid_meter=3)
        home.read(NOON, load_meter=2)
        flow = home.flow()
        assert (flow["grid"]["stale"], flow["load"]["stale"], flow["consumption"]["stale"]) == (True, False, True)
        assert (flow["stale"], flow["complete"], flow["oldest"]) == (True, True, "2026-01-05T11:44:59Z")

    @pytest.mark.parametrize("silent", ["pv_array", "battery"])
    def test_leaves_what_the_meters_say_where_production_or_battery_is_not_known(
        self, world: World, silent: str
    ) -> None:
        home = Site(world, "pv_array", "battery", "grid_meter", "load_meter")
        readings: dict[str, float] = {"pv_array": 4, "battery": 1, "grid_meter": 3, "load_meter": 2}
        del readings[silent]
        home.read(NOON, **readings)
        flow = home.flow()
        assert (flow["consumption"]["kw"], flow["grid"]["kw"], flow["other"], flow["links"]) == (2, 3, None, [])


class TestStateOfCharge:
    def test_is_weighted_by_capacity(self, world: World) -> None:
        site = Site(world)
        site.add("battery", "small", properties={"capacity_kwh": 5})
        site.add("battery", "large", properties={"capacity_kwh": 15})
        site.read(NOON, small__state_of_charge=100, large__state_of_charge=20)
        assert site.flow()["state_of_charge"] == 40

    def test_is_the_mean_where_a_capacity_is_not_known(self, world: World) -> None:
        site = Site(world, "battery")
        site.add("battery", "large", properties={"capacity_kwh": 15})
        site.read(NOON, battery__state_of_charge=100, large__state_of_charge=20)
        assert site.flow()["state_of_charge"] == 60

    def test_is_in_percent_whatever_the_unit(self, world: World) -> None:
        site = Site(world)
        metric = {"key": "state_of_charge", "quantity": "state_of_charge", "unit": "dimensionless"}
        site.add("battery", metrics=[metric])
        site.read(NOON, battery__state_of_charge=0.55)
        assert site.flow()["state_of_charge"] == pytest.approx(55)


class TestFlowsOfManySites:
    def test_are_those_that_may_be_seen(self, world: World) -> None:
        Site(world, "grid_meter").read(NOON, grid_meter=1)
        Site(world, "grid_meter", site_id=world.south).read(NOON, grid_meter=2)
        balances, both = world.services.balances, [world.north, world.south]
        assert {site: flow.grid and flow.grid.kw for site, (flow, _) in balances.flows(OPERATOR, both).items()} == {
            world.north: 1,
            world.south: 2,
        }
        standard = world.services.sign_ins.sign_in(world.standard.email, world.standard.password, address="test")
        credential = world.services.sign_ins.read_credential(standard.access_token)
        assert list(balances.flows(credential, both)) == [world.north]

    def test_count_devices_that_say_nothing_new(self, world: World) -> None:
        site = Site(world, "grid_meter", "battery", "weather_station")
        site.read(NOON, grid_meter=1, battery__temperature=20)
        site.read("2026-01-05T11:00:00Z", weather_station__temperature=5)
        (_, health), *_ = world.services.balances.flows(OPERATOR, [world.north]).values()
        assert (health.devices, health.stale) == (3, 1)
