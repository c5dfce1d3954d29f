"""What is drawn lies where it says it does."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilowatch.balance.arithmetic import links
from kilowatch.balance.model import BalanceSeries, Flow, Power, PowerSeries
from kilowatch.facility.model import Site
from kilowatch.pages.drawings import WIDE, day_drawing, flow_drawing, map_drawing

MIDNIGHT = datetime(2026, 1, 5, tzinfo=UTC)
KW = st.none() | st.floats(-50, 50)


def a_series(**columns: list[float | None]) -> BalanceSeries:
    size = len(next(iter(columns.values())))
    powers = {name: PowerSeries(kw, [1.0] * size) for name, kw in columns.items()}
    others = set(BalanceSeries.__struct_fields__) - {"timestamps", *columns}
    timestamps = [MIDNIGHT + timedelta(minutes=15 * place) for place in range(size)]
    return BalanceSeries(timestamps, **powers, **dict.fromkeys(others))


def numbers(path: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?[0-9.]+", path)]


class TestDay:
    def test_stacks_what_comes_in_above_zero_and_what_goes_out_below(self) -> None:
        series = a_series(pv=[4.0], grid=[-1.0], battery=[-1.0], consumption=[2.0])
        drawing = day_drawing(series, MIDNIGHT + timedelta(minutes=15), WIDE)
        assert drawing is not None
        tops = {area.name: numbers(area.path) for area in drawing.areas}
        kw = (drawing.zero - WIDE.top) / 4  # of the height
        assert tops["pv"] == [WIDE.left, drawing.zero, WIDE.top, WIDE.right, drawing.zero, WIDE.left]
        assert tops["battery_charge"][2] == pytest.approx(drawing.zero + kw, abs=0.1)
        assert tops["export"][1:3] == [pytest.approx(drawing.zero + kw, abs=0.1), WIDE.bottom]
        assert numbers(drawing.line) == [WIDE.left, pytest.approx(drawing.zero - 2 * kw, abs=0.1), WIDE.right]

    def test_leaves_gaps_as_gaps(self) -> None:
        series = a_series(pv=[1.0, None, 1.0], consumption=[1.0, None, 2.0])
        drawing = day_drawing(series, MIDNIGHT + timedelta(minutes=45), WIDE)
        assert drawing is not None
        assert (drawing.line.count("M"), drawing.areas[0].path.count("M")) == (2, 2)
        assert drawing.columns["pv"] == [1.0, None, 1.0]

    def test_of_nothing_is_none(self) -> None:
        assert day_drawing(a_series(pv=[None]), MIDNIGHT + timedelta(minutes=15), WIDE) is None

    @given(st.lists(st.tuples(KW, KW, KW, KW), min_size=1, max_size=8))
    def test_stays_in_its_box_whatever_is_measured(self, rows: list[tuple[float | None, ...]]) -> None:
        pv, battery, grid, consumption = (list(column) for column in zip(*rows, strict=True))
        series = a_series(pv=pv, battery=battery, grid=grid, consumption=consumption)
        drawing = day_drawing(series, MIDNIGHT + timedelta(minutes=15 * len(rows)), WIDE)
        if drawing is None:
            return
        for path in (*(area.path for area in drawing.areas), drawing.line):
            for x, y in re.findall(r"M([-0-9.e]+) ([-0-9.e]+)", path):
                assert (WIDE.left <= float(x) <= WIDE.right, WIDE.top <= float(y) <= WIDE.bottom) == (True, True)
            for y in re.findall(r"V([-0-9.e]+)", path):
                assert WIDE.top <= float(y) <= WIDE.bottom
        assert all(WIDE.top <= y <= WIDE.bottom for y, _ in drawing.levels)


def a_flow(**kw: float) -> Flow:
    powers = {name: Power(value, 1, 0, False) for name, value in kw.items()}
    found = links(**({"pv": 0.0, "wind": 0.0, "battery": 0.0, "grid": 0.0, "consumption": 0.0} | kw))
    values = dict.fromkeys(Flow.__struct_fields__) | powers | {"links": found}
    return Flow(**values)  # type: ignore[arg-type]  # a drawing asks for no more


class TestFlow:
    def test_draws_a_place_for_each_part_and_a_line_for_each_link(self) -> None:
        drawing = flow_drawing(a_flow(pv=3, wind=1, battery=-1, grid=-1, consumption=2))
        assert [place.node for place in drawing.places] == ["pv", "wind", "grid", "consumption", "battery"]
        assert len(drawing.lines) == 6
        assert len({line.path for line in drawing.lines}) == 6

    def test_draws_more_power_wider_and_quicker(self) -> None:
        drawing = flow_drawing(a_flow(pv=10, grid=-9, consumption=1))
        small, large = drawing.lines
        assert (small.speed, large.speed) == ("slow", "quick")
        assert small.width < large.width <= 9

    def test_of_a_lone_roof_has_no_lines(self) -> None:
        drawing = flow_drawing(a_flow(pv=10))
        assert ([place.node for place in drawing.places], drawing.lines) == (["pv"], ())


class TestMap:
    def a_site(self, latitude: float | None, longitude: float | None) -> Site:
        return Site(1, "Home", "home", "UTC", latitude, longitude, None, None, None, None, None, MIDNIGHT)

    def test_has_all_dots_inside_and_is_on_the_earth(self) -> None:
        for places in ([(48.1, 11.6)], [(90, 180), (-90, -180)], [(48.1, 11.6), (-37.8, 145.0)], [(89, 179)]):
            drawing = map_drawing([self.a_site(*place) for place in places])
            assert drawing is not None
            assert -180 <= drawing.left <= drawing.left + drawing.width <= 180.001
            assert -90 <= drawing.top <= drawing.top + drawing.height <= 90.001
            for dot in drawing.dots:
                assert drawing.left <= dot.x <= drawing.left + drawing.width + 1e-9

    def test_of_no_position_is_none(self) -> None:
        assert map_drawing([self.a_site(None, 11.6), self.a_site(48.1, None)]) is None
