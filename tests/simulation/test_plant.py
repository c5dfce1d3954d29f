"""A site's devices together: balance, counters, windows in parts, spectators."""

import itertools
import json
from typing import Any
from zoneinfo import available_timezones

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilowatch.facility.kinds import KINDS as CATALOGUE
from kilowatch.simulation.plant import CHANNELS, Place, SimulatedDevice, State, simulate
from tests.simulation.sites import (
    DAY_MS,
    ESBJERG,
    KINDS,
    MELBOURNE,
    MUNICH,
    SUVA,
    TROMSO,
    a_device,
    milliwatts,
    ms,
    one_of_each,
    run,
)

BEGIN = ms("2025-03-28T00:00")  # two days before clocks change in Europe
PLACES = (MUNICH, MELBOURNE, ESBJERG, TROMSO, SUVA)
Values = dict[tuple[int, str], np.ndarray]


def number_of(devices: list[SimulatedDevice], kind: str) -> int:
    return next(one.id for one in devices if one.kind == kind)


class TestChannels:
    def test_are_the_kinds_usual_metrics(self) -> None:
        usual = {
            kind.key: {(one.key, one.quantity, one.unit, one.behaviour) for one in kind.metrics}
            for kind in CATALOGUE.values()
        }
        assert usual == {
            kind: {(one.key, one.quantity, one.unit, one.behaviour) for one in channels}
            for kind, channels in CHANNELS.items()
        }

    @pytest.mark.parametrize("kind", KINDS)
    def test_are_all_simulated(self, kind: str) -> None:
        values = run([a_device(kind)], "2025-06-01", days=1)
        assert set(values) == {(1, channel.key) for channel in CHANNELS[kind]}
        assert all(each.shape == (288,) and np.isfinite(each).all() for each in values.values())

    @pytest.mark.parametrize("kind", CHANNELS)
    def test_need_no_property(self, kind: str) -> None:
        device = SimulatedDevice(1, kind, {}, 5, MUNICH)
        unknown = SimulatedDevice(1, kind, dict.fromkeys(KINDS.get(kind, {})), 5, MUNICH)
        for one in (device, unknown):
            assert set(run([one], "2025-06-01", days=1)) == {(1, channel.key) for channel in CHANNELS[kind]}

    def test_stay_within_what_the_catalogue_holds_valid(self) -> None:
        devices = one_of_each(ESBJERG)
        values = run(devices, "2025-01-01", days=30)
        for device in devices:
            for metric in CATALOGUE[device.kind].metrics:
                measured = values[device.id, metric.key]
                assert metric.valid_min is None or measured.min() >= metric.valid_min
                assert metric.valid_max is None or measured.max() <= metric.valid_max


class TestWindow:
    def test_refuses_an_odd_step_or_edge(self) -> None:
        with pytest.raises(ValueError, match="step_s is 61"):
            simulate([a_device("pv_array")], begin_ms=0, end_ms=61_000, step_s=61, state={})
        with pytest.raises(ValueError, match="must be multiples"):
            simulate([a_device("pv_array")], begin_ms=60_000, end_ms=600_000, step_s=300, state={})

    def test_refuses_devices_of_two_places(self) -> None:
        devices = [a_device("pv_array"), a_device("battery", number=2, place=TROMSO)]
        with pytest.raises(ValueError, match="one place"):
            simulate(devices, begin_ms=0, end_ms=300_000, step_s=300, state={})

    def test_may_be_empty(self) -> None:
        values, state = simulate(one_of_each(), begin_ms=BEGIN, end_ms=BEGIN, step_s=300, state={"1": {"energy": 5}})
        assert all(len(each) == 0 for each in values.values())
        assert state == {"1": {"energy": 5}}

    def test_leaves_the_given_state_alone_and_hands_on_what_it_does_not_know(self) -> None:
        given_state: State = {"1": {"energy": 5}, "99": {"stored": 7}}
        before = json.dumps(given_state)
        _, state = simulate(
            [a_device("load_meter")], begin_ms=BEGIN, end_ms=BEGIN + DAY_MS, step_s=300, state=given_state
        )
        assert json.dumps(given_state) == before
        assert state["99"] == {"stored": 7}
        assert int(state["1"]["energy"]) > 5

    @settings(max_examples=25, deadline=None)
    @given(
        place=st.sampled_from(PLACES),
        step_s=st.sampled_from([60, 300, 900]),
        first_day=st.integers(0, 700),
        cuts=st.lists(st.integers(1, 2 * 86_400 // 60 - 1), min_size=1, max_size=4),
    )
    def test_in_parts_is_the_same_as_at_once(self, place: Place, step_s: int, first_day: int, cuts: list[int]) -> None:
        devices = [*one_of_each(place), a_device("battery", number=20, place=place, counts=False)]
        begin = BEGIN + first_day * DAY_MS
        end = begin + 2 * DAY_MS
        edges = [begin, *sorted(begin + cut * 60 // step_s * step_s * 1000 for cut in cuts), end]
        whole, state_at_once = simulate(devices, begin_ms=begin, end_ms=end, step_s=step_s, state={})
        state: State = {}
        parts: list[Values] = []
        for part_begin, part_end in itertools.pairwise(edges):
            values, state = simulate(devices, begin_ms=part_begin, end_ms=part_end, step_s=step_s, state=state)
            state = json.loads(json.dumps(state))
            parts.append(values)
        assert state == state_at_once
        for channel, values_at_once in whole.items():
            assert np.array_equal(np.concatenate([part[channel] for part in parts]), values_at_once), channel

    def test_order_of_devices_does_not_matter(self) -> None:
        forwards = run(one_of_each(), "2025-06-01", days=2)
        backwards = run(one_of_each()[::-1], "2025-06-01", days=2)
        assert all(np.array_equal(values, backwards[channel]) for channel, values in forwards.items())

    @pytest.mark.parametrize("kind", ["pv_array", "load_meter", "ev_charger", "heat_pump", "weather_station"])
    def test_sources_are_sampled_at_the_instant_whatever_the_step(self, kind: str) -> None:
        device = a_device(kind)
        by_minute, by_quarter = (run([device], "2025-10-25", days=3, step_s=step_s) for step_s in (60, 900))
        sources = [one.key for one in CHANNELS[kind] if one.behaviour == "gauge" and one.key != "flow_temperature"]
        for key in sources:
            assert np.array_equal(by_minute[1, key][::15], by_quarter[1, key])

    def test_another_seed_is_another_device(self) -> None:
        one, other = (run([a_device("load_meter", seed=seed)], "2025-06-01", days=1) for seed in (1, 2))
        assert not np.array_equal(one[1, "power"], other[1, "power"])


BALANCING = ("battery", "grid_meter")


class TestCounters:
    @pytest.mark.parametrize("step_s", [60, 900])
    def test_are_the_integral_of_power_from_their_first_sample_on(self, step_s: int) -> None:
        devices = one_of_each()
        values = run(devices, "2025-04-10", days=5, step_s=step_s)
        for device in devices:
            parts = {
                "energy": lambda power: power,
                "energy_imported": lambda power: np.maximum(power, 0),
                "energy_exported": lambda power: np.maximum(-power, 0),
                "energy_charged": lambda power: np.maximum(-power, 0),
                "energy_discharged": lambda power: np.maximum(power, 0),
            }
            for key in parts.keys() & {channel.key for channel in CHANNELS[device.kind]}:
                power_mw = parts[key](milliwatts(values[device.id, "power"]))
                integral = np.concatenate([[0], np.cumsum(power_mw)[:-1]]) * step_s
                counter = values[device.id, key]
                assert counter[0] == 0
                assert np.array_equal(counter, integral / 3.6e9)
                assert counter[-1] > 0

    def test_powers_are_whole_watts_but_where_a_battery_meets_its_limit(self) -> None:
        devices = one_of_each()
        values = run(devices, "2025-04-10", days=2)
        charge = values[number_of(devices, "battery"), "state_of_charge"]
        meets_a_limit = np.isin(np.append(charge[1:], charge[-1]), (0, 100))
        for (number, key), power in values.items():
            if key == "power":
                assert np.array_equal(power, milliwatts(power) / 1e6)
                is_whole = milliwatts(power) % 1000 == 0
                assert (is_whole | meets_a_limit).all() if devices[number - 1].kind in BALANCING else is_whole.all()


class TestBalance:
    @pytest.mark.parametrize("place", PLACES, ids=lambda place: place.timezone)
    def test_holds_at_every_instant_to_the_watt(self, place: Place) -> None:
        devices = [
            *one_of_each(place),
            a_device("pv_array", number=21, place=place, azimuth_deg=90, peak_kw=4),
            a_device("battery", number=22, place=place, capacity_kwh=3),
            a_device("load_meter", number=23, place=place, profile="commercial", annual_kwh=9000),
            a_device("wind_turbine", number=24, place=place),
        ]
        values = run(devices, "2025-05-01", days=10)
        sign = {"load_meter": 1, "ev_charger": 1, "heat_pump": 1, "pv_array": -1, "wind_turbine": -1, "battery": -1}
        expected = sum(
            sign.get(one.kind, 0) * milliwatts(values[one.id, "power"]) for one in devices if one.kind in sign
        )
        assert np.array_equal(milliwatts(values[number_of(devices, "grid_meter"), "power"]), expected)

    def test_counters_conserve_energy(self) -> None:
        devices = one_of_each()
        values = run(devices, "2025-05-01", days=30)
        last = {(device.kind, channel.key): values[device.id, channel.key][-1]
                for device in devices for channel in CHANNELS[device.kind]}  # fmt: skip
        came = (
            last["pv_array", "energy"]
            + last["wind_turbine", "energy"]
            + last["grid_meter", "energy_imported"]
            + last["battery", "energy_discharged"]
        )
        went = (
            last["load_meter", "energy"]
            + last["ev_charger", "energy"]
            + last["heat_pump", "energy"]
            + last["grid_meter", "energy_exported"]
            + last["battery", "energy_charged"]
        )
        assert came == pytest.approx(went, abs=1e-6)

    def test_is_shown_whole_by_each_of_two_meters(self) -> None:
        values = run([*one_of_each(), a_device("grid_meter", number=30)], "2025-05-01", days=2)
        assert np.array_equal(values[30, "power"], values[4, "power"])

    def test_a_battery_that_joins_is_in_it_from_then_on(self) -> None:
        devices = [one for one in one_of_each() if one.kind != "battery"]
        day, half = 288, 144
        _, state = simulate(devices, begin_ms=BEGIN, end_ms=BEGIN + DAY_MS // 2, step_s=300, state={})
        joined = [*devices, a_device("battery", number=40)]
        after, _ = simulate(joined, begin_ms=BEGIN + DAY_MS // 2, end_ms=BEGIN + DAY_MS, step_s=300, state=state)
        without, _ = simulate(devices, begin_ms=BEGIN, end_ms=BEGIN + DAY_MS, step_s=300, state={})
        meter = number_of(devices, "grid_meter"), "power"
        assert len(without[meter]) == day
        assert np.array_equal(
            milliwatts(after[meter]), milliwatts(without[meter])[half:] - milliwatts(after[40, "power"])
        )
        assert np.abs(after[40, "power"]).max() > 0


class TestSpectators:
    """They see the site; nobody sees them."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_change_nothing_for_anyone_else(self, kind: str) -> None:
        devices = one_of_each()
        alone, state_alone = simulate(devices, begin_ms=BEGIN, end_ms=BEGIN + 3 * DAY_MS, step_s=300, state={})
        for number in (0, 50):  # before and after all others in order
            extra: dict[str, Any] = {"profile": "commercial"} if kind == "load_meter" else {}
            watched = [*devices, a_device(kind, number=number, counts=False, seed=99, **extra)]
            values, state = simulate(watched, begin_ms=BEGIN, end_ms=BEGIN + 3 * DAY_MS, step_s=300, state={})
            assert all(np.array_equal(values[channel], alone[channel]) for channel in alone)
            assert {one: carried for one, carried in state.items() if one != str(number)} == state_alone

    def test_meter_shows_the_balance_of_those_that_count(self) -> None:
        values = run([*one_of_each(), a_device("grid_meter", number=50, counts=False)], "2025-05-01", days=2)
        assert np.array_equal(values[50, "power"], values[4, "power"])

    def test_battery_only_ever_lessens_the_balance_that_is_left(self) -> None:
        values = run([*one_of_each(), a_device("battery", number=50, counts=False)], "2025-05-01", days=5)
        balance, power = milliwatts(values[4, "power"]), milliwatts(values[50, "power"])
        assert (np.abs(balance - power) <= np.abs(balance)).all()
        assert (power != 0).any()

    def test_array_behaves_as_if_it_had_joined(self) -> None:
        devices = one_of_each()
        extra: dict[str, Any] = {"number": 50, "azimuth_deg": 120.0}
        looking = run([*devices, a_device("pv_array", counts=False, **extra)], "2025-06-01", days=2)
        joined = run([*devices, a_device("pv_array", **extra)], "2025-06-01", days=2)
        assert np.array_equal(looking[50, "power"], joined[50, "power"])


sizes = st.floats(-9, 9).map(lambda exponent: 10**exponent)
unknown = st.none()
any_properties: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "battery": st.fixed_dictionaries({
        "capacity_kwh": unknown | sizes,
        "max_charge_kw": unknown | sizes,
        "max_discharge_kw": unknown | sizes,
        "round_trip_efficiency": st.floats(1e-9, 1),
    }),
    "inverter": st.fixed_dictionaries({"rated_kw": unknown | sizes, "efficiency": st.floats(1e-9, 1)}),
    "pv_array": st.fixed_dictionaries({
        "peak_kw": unknown | sizes, "tilt_deg": st.floats(0, 90), "azimuth_deg": st.floats(0, 360, exclude_max=True)
    }),
    "wind_turbine": st.builds(
        lambda rated_kw, height, speeds: {
            "rated_kw": rated_kw, "hub_height_m": height,
            **dict(zip(("cut_in_ms", "rated_ms", "cut_out_ms"), sorted(speeds), strict=True)),
        },
        unknown | sizes, sizes, st.sets(st.floats(0.01, 1000), min_size=3, max_size=3),
    ),
    "grid_meter": st.fixed_dictionaries({"connection_kw": unknown | sizes}),
    "load_meter": st.fixed_dictionaries({
        "profile": st.sampled_from(["household", "commercial"]), "annual_kwh": sizes
    }),
    "ev_charger": st.fixed_dictionaries({"max_charge_kw": sizes, "connectors": st.sampled_from([1, 3, 100])}),
    "heat_pump": st.fixed_dictionaries({
        "rated_kw": unknown | sizes, "coefficient_of_performance": st.floats(1, 10, exclude_min=True)
    }),
    "weather_station": st.fixed_dictionaries({"height_m": sizes}),
    "generic": st.just({"colour": "red"}),
}  # fmt: skip


@st.composite
def any_site(draw: st.DrawFn) -> list[SimulatedDevice]:
    """Up to ten devices, as the catalogue admits them, anywhere on earth."""
    place = Place(
        draw(st.integers(0, 2**63)),
        draw(st.floats(-90, 90)),
        draw(st.floats(-180, 180)),
        draw(st.sampled_from(sorted(available_timezones()))),
        draw(st.sampled_from([None, "DE", "US", "AU", "XX"])),
    )
    kinds = draw(st.lists(st.sampled_from(sorted(any_properties)), min_size=1, max_size=10))
    return [
        SimulatedDevice(
            number, kind, draw(any_properties[kind]), draw(st.integers(0, 2**63)), place, draw(st.booleans())
        )
        for number, kind in enumerate(kinds, start=1)
    ]


class TestAnySite:
    """What holds for the sites above holds for all that can be made."""

    @settings(max_examples=60, deadline=None)
    @given(
        devices=any_site(),
        step_s=st.sampled_from([60, 300, 900]),
        first_day=st.integers(-20_000, 20_000),
        length=st.integers(2, 300),
        share=st.floats(0, 1),
    )
    def test_keeps_the_laws(
        self, devices: list[SimulatedDevice], step_s: int, first_day: int, length: int, share: float
    ) -> None:
        for one in devices:
            CATALOGUE[one.kind].properties.model_validate(one.properties)
        step_ms = step_s * 1000
        begin = first_day * DAY_MS
        cut, end = begin + int(share * length) * step_ms, begin + length * step_ms
        values, state = simulate(devices, begin_ms=begin, end_ms=end, step_s=step_s, state={})
        first, between = simulate(devices, begin_ms=begin, end_ms=cut, step_s=step_s, state={})
        second, after = simulate(
            devices, begin_ms=cut, end_ms=end, step_s=step_s, state=json.loads(json.dumps(between))
        )
        among_themselves, _ = simulate(
            [one for one in devices if one.counts], begin_ms=begin, end_ms=end, step_s=step_s, state={}
        )
        assert after == state
        assert all(np.isfinite(each).all() for each in values.values())
        for channel, whole in values.items():
            assert np.array_equal(np.concatenate([first[channel], second[channel]]), whole)
        for channel, alone in among_themselves.items():
            assert np.array_equal(alone, values[channel])


class TestExtremes:
    """The catalogue admits properties from almost nothing to a thousand gigawatts."""

    @pytest.mark.parametrize("size", [1e-300, 1e-6, 1e9])
    def test_of_size_are_borne(self, size: float) -> None:
        sizes: dict[str, dict[str, Any]] = {
            "load_meter": {"annual_kwh": size},
            "pv_array": {"peak_kw": size},
            "battery": {"capacity_kwh": size, "max_charge_kw": size, "max_discharge_kw": size},
            "grid_meter": {"connection_kw": size},
            "inverter": {"rated_kw": size},
            "ev_charger": {"max_charge_kw": size, "connectors": 100},
            "heat_pump": {"rated_kw": size},
            "weather_station": {"height_m": size},
            "wind_turbine": {"rated_kw": size, "hub_height_m": size},
        }
        devices = [a_device(kind, number=number, **given) for number, (kind, given) in enumerate(sizes.items())]
        state: State = {}
        for begin in ("1999-12-31", "2025-06-01"):
            values, state = simulate(
                devices, begin_ms=ms(begin), end_ms=ms(begin) + 40 * DAY_MS, step_s=900, state=state
            )
            assert all(np.isfinite(each).all() for each in values.values())
            for number, key in values:
                assert not key.startswith("energy") or (np.diff(values[number, key]) >= 0).all()
            soc = values[2, "state_of_charge"]
            assert soc.min() >= 0
            assert soc.max() <= 100

    def test_counters_of_decades_of_the_largest_array_do_not_overflow(self) -> None:
        state: State = {"1": {"energy": str(10**22)}}
        array = a_device("pv_array", peak_kw=1e9)
        values, after = simulate([array], begin_ms=BEGIN, end_ms=BEGIN + 2 * DAY_MS, step_s=60, state=state)
        power_mw = [int(each) for each in milliwatts(values[1, "power"])]
        assert int(after["1"]["energy"]) == 10**22 + sum(power_mw) * 60
        assert values[1, "energy"][0] == 10**22 / 3.6e9

    @pytest.mark.parametrize("latitude", [-90, -66.6, 0, 66.6, 90])
    @pytest.mark.parametrize("longitude", [-180, 180])
    def test_of_place_are_borne(self, latitude: float, longitude: float) -> None:
        place = Place(seed=-5, latitude=latitude, longitude=longitude, timezone="UTC", country=None)
        values = run(one_of_each(place), "2024-02-28", days=3, step_s=900)
        assert all(np.isfinite(each).all() for each in values.values())
