"""The energy balance of a site in a window, through the API, on readings in the real engine."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.balance.sites import HOME, MIDNIGHT, Site, kwh
from tests.conftest import World
from tests.simulation.test_simulated_devices import FIRST_DAY

NOON = "2026-01-05T12:00:00Z"
TEN, ELEVEN = "2026-01-05T10:00:00Z", "2026-01-05T11:00:00Z"
HOUR = {"start": TEN, "end": ELEVEN}
QUARTERS = [f"2026-01-05T10:{minute}:00Z" for minute in ("00", "15", "30", "45")]


def quarters(site: Site, **powers: list[float]) -> None:
    """Powers of the hour from 10 on, by the quarter."""
    for place, time in enumerate(QUARTERS):
        site.read(time, **{name: values[place] for name, values in powers.items()})


class TestBalance:
    def test_is_of_sources_and_uses_that_add_up_to_the_same(self, world: World) -> None:
        home = Site(world, *HOME)
        quarters(
            home,
            pv_array=[8, 8, 0, 0],
            battery=[-2, -2, 3, 0],
            grid_meter=[-4, -1, 0, 2],
            load_meter=[1, 1, 1, 1],
            ev_charger=[0, 4, 1, 0],
            heat_pump=[1, 0, 0, 1],
        )
        balance = home.balance(**HOUR)
        assert kwh(balance["sources"]) == {"pv": 4, "battery_discharge": 0.75, "import": 0.5}
        assert kwh(balance["uses"]) == {
            "load": 1, "ev_charging": 1.25, "heating": 0.5, "other": 0.25, "battery_charge": 1, "export": 1.25,
        }  # fmt: skip
        assert sum(kwh(balance["sources"]).values()) == sum(kwh(balance["uses"]).values())
        assert (balance["production"]["kwh"], balance["consumption"]["kwh"]) == (4, 3)
        assert balance["self_consumption"] == (4 - 1.25) / 4
        assert balance["autarky"] == 1 - 0.5 / 3
        assert (balance["complete"], balance["consumption"]["computed"], balance["sources"]["pv"]["computed"]) == (
            True, True, False,
        )  # fmt: skip

    def test_splits_import_and_export_of_each_meter_reading_by_reading(self, world: World) -> None:
        site = Site(world, "grid_meter")
        site.add("grid_meter", "second")
        quarters(site, grid_meter=[4, -4, 0, 0], second=[-4, -4, 0, 4])
        balance = site.balance(**HOUR)
        assert (balance["sources"]["import"]["kwh"], balance["uses"]["export"]["kwh"]) == (2, 3)

    def test_takes_the_units_of_the_metrics(self, world: World) -> None:
        site = Site(world)
        site.add("grid_meter", metrics=[{"key": "power", "quantity": "power", "unit": "W"}])
        quarters(site, grid_meter=[500, 500, 500, 500])
        assert site.balance(**HOUR)["sources"]["import"]["kwh"] == 0.5

    def test_computes_the_grid_where_there_is_no_meter(self, world: World) -> None:
        home = Site(world, "pv_array", "load_meter")
        quarters(home, pv_array=[4, 4, 0, 0], load_meter=[1, 2, 1, 2])
        balances = [home.balance(**HOUR, **more) for more in ({}, {"resolution": "15m"}, {"resolution": "1h"})]
        for balance in balances:
            imported, exported = balance["sources"]["import"], balance["uses"]["export"]
            assert imported == {"kwh": pytest.approx(0.75), "coverage": 1, "computed": True}
            assert exported == {"kwh": pytest.approx(1.25), "coverage": 1, "computed": True}
            assert balance["uses"]["other"] is None
        assert balances[-1]["series"]["grid"]["kw"] == [pytest.approx(-0.5)]

    def test_holds_the_shares_between_0_and_1(self, world: World) -> None:
        home = Site(world, "pv_array", "battery", "grid_meter")
        quarters(home, pv_array=[1, 0, 0, 0], battery=[0, 4, -4, -4], grid_meter=[-1, -4, 5, 5])
        balance = home.balance(**HOUR)
        assert balance["uses"]["export"]["kwh"] > balance["production"]["kwh"]
        assert balance["sources"]["import"]["kwh"] > balance["consumption"]["kwh"]
        assert (balance["self_consumption"], balance["autarky"]) == (0, 0)

    def test_has_no_share_of_nothing(self, world: World) -> None:
        home = Site(world, "pv_array", "grid_meter")
        quarters(home, pv_array=[0, 0, 0, 0], grid_meter=[0, 0, 0, 0])
        balance = home.balance(**HOUR)
        assert (balance["production"]["kwh"], balance["self_consumption"], balance["autarky"]) == (0, None, None)

    def test_of_a_site_without_such_devices_is_empty(self, world: World) -> None:
        balance = Site(world, "weather_station").balance(resolution="1h")
        assert {*balance["sources"].values(), *balance["uses"].values()} == {None}
        assert (balance["production"], balance["consumption"], balance["autarky"]) == (None, None, None)
        assert len(balance["series"]["timestamps"]) == 13
        assert balance["series"]["pv"] is None


class TestWhatIsMissing:
    def test_is_told_by_coverage(self, world: World) -> None:
        home = Site(world, "pv_array", "grid_meter")
        quarters(home, grid_meter=[1, 1, 1, 1])
        home.read(TEN, pv_array=2)
        balance = home.balance(**HOUR)
        assert balance["sources"]["pv"] == {"kwh": 0.5, "coverage": 0.25, "computed": False}
        assert (balance["consumption"]["coverage"], balance["complete"]) == (0.25, False)

    def test_is_null_and_not_0(self, world: World) -> None:
        home = Site(world, "pv_array", "grid_meter")
        quarters(home, grid_meter=[1, 1, 1, 1])
        balance = home.balance(**HOUR)
        assert balance["sources"]["pv"] == {"kwh": None, "coverage": 0, "computed": False}
        assert (balance["consumption"], balance["self_consumption"], balance["autarky"]) == (None, None, None)

    def test_lowers_the_coverage_of_several_devices_by_its_share(self, world: World) -> None:
        site = Site(world, "load_meter")
        site.add("load_meter", "annexe")
        quarters(site, load_meter=[1, 1, 1, 1])
        assert site.balance(**HOUR)["uses"]["load"] == {"kwh": 1, "coverage": 0.5, "computed": False}


class TestSeries:
    def test_are_mean_powers_by_role_that_balance_in_each_bucket(self, world: World) -> None:
        home = Site(world, "pv_array", "battery", "grid_meter", "load_meter")
        quarters(home, pv_array=[8, 8, 0, 0], battery=[-2, -2, 3, 0], grid_meter=[-4, -1, 0, 2], load_meter=[1] * 4)
        series = home.balance(**HOUR, resolution="30m")["series"]
        assert series["timestamps"] == ["2026-01-05T11:00:00+01:00", "2026-01-05T11:30:00+01:00"]
        powers = {name: column["kw"] for name, column in series.items() if name != "timestamps" and column}
        assert powers == {
            "pv": [8, 0], "battery": [-2, 1.5], "grid": [-2.5, 1], "load": [1, 1],
            "production": [8, 0], "consumption": [3.5, 2.5], "other": [2.5, 1.5],
        }  # fmt: skip

    def test_have_gaps_and_their_coverage(self, world: World) -> None:
        site = Site(world, "load_meter")
        site.add("load_meter", "annexe")
        quarters(site, load_meter=[1, 1, 3, 3])
        site.read(TEN, annexe=5)
        load = site.balance(**HOUR, resolution="30m")["series"]["load"]
        assert load == {"kw": [6, 3], "coverage": [0.75, 0.5]}
        later = site.balance(start="2026-01-05T11:15:00Z", end=NOON, resolution="1h")["series"]["load"]
        assert later == {"kw": [None], "coverage": [0]}

    def test_do_not_change_the_energies(self, world: World) -> None:
        home = Site(world, "pv_array", "grid_meter")
        quarters(home, pv_array=[8, 8, 0, 1], grid_meter=[-4, -1, 0, 2])
        whole = home.balance(**HOUR)
        for resolution in ("5m", "20m", "1h", "1d", "auto"):
            balance = home.balance(**HOUR, resolution=resolution)
            assert kwh(balance["sources"]) == pytest.approx(kwh(whole["sources"]))
            assert kwh(balance["uses"]) == pytest.approx(kwh(whole["uses"]))
            assert balance["autarky"] == pytest.approx(whole["autarky"])


class TestWindow:
    def test_is_today_until_now_in_the_sites_zone(self, world: World) -> None:
        balance = Site(world, "grid_meter").balance()
        assert (balance["start"], balance["end"]) == (MIDNIGHT, "2026-01-05T13:00:00+01:00")

    def test_may_be_in_another_zone(self, world: World) -> None:
        balance = Site(world, "grid_meter").balance(timezone="Australia/Melbourne")
        assert (balance["start"], balance["timezone"]) == ("2026-01-05T00:00:00+11:00", "Australia/Melbourne")

    def test_that_ends_at_midnight_is_the_day_before(self, world: World) -> None:
        balance = Site(world, "grid_meter").balance(end="2026-01-05T23:00:00Z")
        assert (balance["start"], balance["end"]) == (MIDNIGHT, "2026-01-06T00:00:00+01:00")

    def test_ends_now_where_only_its_start_is_given(self, world: World) -> None:
        balance = Site(world, "grid_meter").balance(start="2026-01-01T00:00:00Z")
        assert balance["end"] == "2026-01-05T13:00:00+01:00"

    @pytest.mark.parametrize(
        ("query", "field"),
        [
            ({"start": "2026-01-06T00:00:00Z"}, "start"),
            ({"start": TEN, "end": TEN}, "end"),
            ({"start": "yesterday"}, "start"),
            ({"end": "1970-01-01T00:00:00Z"}, "end"),
            ({"timezone": "Mars"}, "timezone"),
            ({"resolution": "raw"}, "resolution"),
            ({"resolution": "7m"}, "resolution"),
            ({"start": "1970-01-01T00:00:00Z", "resolution": "1s"}, "resolution"),
        ],
    )
    def test_that_can_not_be_is_refused_by_the_fields_name(
        self, world: World, query: dict[str, str], field: str
    ) -> None:
        answer = world.admin.get(f"/sites/{world.north}/balance", **query)
        assert answer.status_code == 422
        assert [error["pointer"] for error in answer.json()["errors"]] == [f"#/{field}"]


# ── against a reference of its own ───────────────────────────────────────────────────────────────────────────────────

Readings = dict[int, float]
"""Powers in kW by the minute of the window; each holds until the next, for a quarter of an hour at most."""
readings = st.dictionaries(st.integers(0, 59), st.integers(-8, 8).map(float), max_size=12)
amounts = st.dictionaries(st.integers(0, 59), st.integers(0, 8).map(float), max_size=12)


def held(found: Readings) -> Iterator[float | None]:
    """By the minute of an hour."""
    for minute in range(60):
        last = max((m for m in found if m <= minute), default=None)
        yield None if last is None or minute - last >= 15 else found[last]


def reference(found: Readings) -> tuple[float, float]:
    """kWh in the positive and the negative direction."""
    minutes = [kw or 0.0 for kw in held(found)]
    return sum(kw for kw in minutes if kw > 0) / 60, sum(-kw for kw in minutes if kw < 0) / 60


@pytest.fixture
def days() -> Iterator[datetime]:
    return (datetime(2025, 1, 1, tzinfo=UTC) + timedelta(days=day) for day in count())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pv=amounts, battery=readings, grid=readings, loads=st.lists(amounts, min_size=2, max_size=2))
def test_is_what_a_minute_by_minute_reckoning_gives(
    world: World, days: Iterator[datetime], pv: Readings, battery: Readings, grid: Readings, loads: list[Readings]
) -> None:
    if not (devices := getattr(world, "_home", None)):  # one home for all examples, each on a day of its own
        devices = Site(world, "pv_array", "battery", "grid_meter", "load_meter")
        devices.add("load_meter", "annexe")
        vars(world)["_home"] = devices
    start = next(days)
    names = {"pv_array": pv, "battery": battery, "grid_meter": grid, "load_meter": loads[0], "annexe": loads[1]}
    rows = [
        {
            "metric_id": devices.metric(name),
            "timestamp": (start + timedelta(minutes=minute)).isoformat(),
            "value": value,
        }
        for name, found in names.items()
        for minute, value in found.items()
    ]
    if rows:
        assert world.admin.post("/readings", {"readings": rows}).json()["rejected"] == 0
    balance = devices.balance(start=start.isoformat(), end=(start + timedelta(hours=1)).isoformat())
    sources, uses = balance["sources"], balance["uses"]
    told = [
        (sources["pv"], reference(pv)[0], [pv]),
        (sources["battery_discharge"], reference(battery)[0], [battery]),
        (uses["battery_charge"], reference(battery)[1], [battery]),
        (uses["load"], sum(reference(load)[0] for load in loads), loads),
    ]
    if grid:
        told += [(sources["import"], reference(grid)[0], [grid]), (uses["export"], reference(grid)[1], [grid])]
    for energy, expected, of in told:
        covered = sum(kw is not None for found in of for kw in held(found)) / 60 / len(of)
        assert energy["coverage"] == pytest.approx(covered)
        assert energy["kwh"] == (pytest.approx(expected, abs=1e-9) if any(of) else None)
    if pv and battery and grid:
        total = reference(pv)[0] + sum(
            sign * kw for found in (battery, grid) for sign, kw in zip((1, -1), reference(found), strict=True)
        )
        assert balance["consumption"]["kwh"] == pytest.approx(total, abs=1e-9)
        assert sum(kwh(sources).values()) == pytest.approx(sum(energy or 0 for energy in kwh(uses).values()), abs=1e-9)


@pytest.mark.parametrize("window", [{}, {"start": "2025-12-20T00:00:00Z"}, {"resolution": "15m"}])
def test_closes_at_a_simulated_home(world: World, window: dict[str, str]) -> None:
    home = Site(world)
    for kind in (*HOME, "inverter"):
        home.add(kind, source="simulated", commissioned_on=FIRST_DAY)
    balance = home.balance(**window)
    assert balance["complete"]
    assert balance["consumption"]["kwh"] > 1
    assert balance["uses"]["other"]["kwh"] == pytest.approx(0, abs=1e-6)
    assert sum(kwh(balance["sources"]).values()) == pytest.approx(sum(kwh(balance["uses"]).values()), abs=1e-6)
    flow = home.flow()
    assert flow["other"]["kw"] == pytest.approx(0, abs=1e-6)
    assert sum(link["kw"] for link in flow["links"] if link["to"] == "consumption") == pytest.approx(
        flow["consumption"]["kw"], abs=1e-3
    )
