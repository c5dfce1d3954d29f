"""Units of measure: which are known, which fit, and what a conversion is worth."""

from math import isfinite

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilowatch.facility.quantities import QUANTITIES
from kilowatch.kit import units


class TestConversion:
    @pytest.mark.parametrize(
        ("source", "target", "value", "converted"),
        [
            ("W", "kW", 1500.0, 1.5),
            ("kW", "W", 1.5, 1500.0),
            ("MW", "kW", -2.0, -2000.0),
            ("kWh", "MJ", 1.0, 3.6),
            ("kWh", "Wh", 0.25, 250.0),
            ("J", "kWh", 3_600_000.0, 1.0),
            ("°C", "°F", 100.0, 212.0),
            ("°C", "°F", -40.0, -40.0),
            ("°F", "°C", 32.0, 0.0),
            ("°C", "K", 20.0, 293.15),
            ("K", "°C", 0.0, -273.15),
            ("%", "dimensionless", 50.0, 0.5),
            ("W/m2", "kW/m**2", 1000.0, 1.0),
            ("m/s", "km/h", 10.0, 36.0),
            ("m³", "l", 2.0, 2000.0),
            ("kvar", "var", 1.5, 1500.0),
        ],
    )
    def test_is_what_the_textbook_says(self, source: str, target: str, value: float, converted: float) -> None:
        conversion = units.conversion(source, target)
        assert value * conversion.scale + conversion.offset == pytest.approx(converted, rel=1e-12, abs=1e-9)

    def test_to_the_same_unit_changes_no_bit(self) -> None:
        assert units.conversion("°C", "°C") == units.Conversion(1.0, 0.0)

    def test_only_temperatures_have_an_offset(self) -> None:
        assert units.conversion("W", "MW").offset == 0
        assert units.conversion("°C", "°F") == units.Conversion(1.8, 32.0)

    def test_refuses_units_of_another_dimension(self) -> None:
        with pytest.raises(ValueError, match="'kW' can't be converted to 'kWh'"):
            units.conversion("kW", "kWh")

    @given(st.sampled_from(["°C", "°F", "K"]), st.sampled_from(["°C", "°F", "K"]), st.floats(-300, 5000))
    @settings(derandomize=True, database=None)
    def test_there_and_back_is_where_it_began(self, source: str, target: str, value: float) -> None:
        there, back = units.conversion(source, target), units.conversion(target, source)
        assert (value * there.scale + there.offset) * back.scale + back.offset == pytest.approx(value, abs=1e-7)


class TestIsUnit:
    @pytest.mark.parametrize("quantity", QUANTITIES.values(), ids=lambda quantity: quantity.key)
    def test_knows_the_usual_unit_of_every_quantity(self, quantity: object) -> None:
        assert units.is_unit(QUANTITIES[getattr(quantity, "key", "")].unit)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            " ",
            "parsecs per fortnight!",
            "kW\n",
            "k W**9**9",
            "m**0.0.0",
            "1/0",
            "kw" * 40,
            "__class__",
            "W;W",
            "(W)",
            "9",
        ],
    )
    def test_says_no_to_what_is_none(self, text: str) -> None:
        assert not units.is_unit(text)
        assert not units.compatible(text, "W")

    @given(st.text(max_size=30))
    @settings(derandomize=True, database=None, deadline=None)
    def test_never_fails_on_any_text(self, text: str) -> None:
        assert units.is_unit(text) in (True, False)

    @given(st.text("kWmhsVA°C%/*^²³-. 0123456789", max_size=12))
    @settings(derandomize=True, database=None, deadline=None, max_examples=300)
    def test_what_is_compatible_can_be_converted(self, text: str) -> None:
        """No surprise when the history is asked: a unit that was accepted has a conversion."""
        for target in ("W", "kWh", "K", "m", "V", "dimensionless"):
            if units.compatible(text, target):
                conversion = units.conversion(text, target)
                assert isfinite(conversion.scale) and conversion.scale > 0 and isfinite(conversion.offset)

    @pytest.mark.parametrize(
        "text",
        ["m**9**9**9", "m^9^9^9", "m ** 9 ** 9", "m**99", "m** -9**9", "W**9.9**9", "9³³³³³³³³³³", "m²²²²²²²²²²"],
    )
    def test_computes_no_towers_of_powers(self, text: str) -> None:
        """They would keep a thread busy for hours."""
        assert not units.is_unit(text)

    @pytest.mark.parametrize(
        "text", ["1/h", "kWh/km", "Δ°C", "%", "W/m**2", "W/m^2", "m**-3", "m ** 2", "kg*m**2/s**3", "m³/h", "W/m²"]
    )
    def test_knows_powers(self, text: str) -> None:
        assert units.is_unit(text)


class TestCompatible:
    @pytest.mark.parametrize(
        ("unit", "other"), [("kW", "W"), ("kWh", "J"), ("°C", "K"), ("%", "dimensionless"), ("W", "var")]
    )
    def test_same_dimension(self, unit: str, other: str) -> None:
        assert units.compatible(unit, other)

    @pytest.mark.parametrize(("unit", "other"), [("kW", "kWh"), ("V", "A"), ("°C", "W"), ("kW", "bogus")])
    def test_other_dimension(self, unit: str, other: str) -> None:
        assert not units.compatible(unit, other)


@pytest.mark.parametrize(
    ("unit", "other"),
    [
        ("dBm", "W"),
        ("kW", "dBW"),
        ("delta_degC", "degC"),
        ("rpm", "Hz"),
        ("Hz", "rad/s"),
        ("%", "deg"),
    ],
)
def test_refuses_what_pint_would_convert_but_is_no_straight_line_or_another_thing(unit: str, other: str) -> None:
    assert not units.compatible(unit, other)
    with pytest.raises(ValueError, match="can't be converted"):
        units.conversion(unit, other)


@pytest.mark.parametrize(("unit", "other", "scale"), [("rpm", "deg/s", 6.0), ("Hz", "1/min", 60.0), ("%", "ppm", 1e4)])
def test_still_converts_what_is_the_same_thing(unit: str, other: str, scale: float) -> None:
    assert units.conversion(unit, other).scale == pytest.approx(scale)
