"""Cells are stored in little room, and come back with each bit; and longer cells are those of all their readings."""

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilowatch.facility.quantities import Behaviour
from kilowatch.history.intervals import QUARTER_MS, Cells, cells_of, merged
from kilowatch.history.packing import COLUMNS, packed, unpacked

DAY_MS = 96 * QUARTER_MS
NO_EDGES = np.empty(0, np.int64)
OF_A_GAUGE = ("first", "last", "minimum", "maximum", "total", "integral", "positive", "negative")
OF_A_COUNTER = (*OF_A_GAUGE, "second", "last_but_one", "rises")
BEHAVIOURS: st.SearchStrategy[Behaviour] = st.sampled_from(("gauge", "counter"))
VALUES = st.one_of(
    st.integers(-3000, 9000).map(lambda number: number / 1000),
    st.sampled_from((0.0, -0.0, 1e-300, 5e-324, -7.0, 1e17)),
    st.floats(-1e300, 1e300),
)
ORDERLY = st.integers(0, 4000).map(lambda number: number / 8)


@st.composite
def readings(draw: st.DrawFn, values: st.SearchStrategy[float] = VALUES) -> tuple[np.ndarray, np.ndarray]:
    """Of three days: evenly spaced here and at any time there, with gaps."""
    times: set[int] = set()
    for _ in range(draw(st.integers(1, 5))):
        begin = draw(st.integers(0, 3 * DAY_MS // 1000)) * 1000
        step = draw(st.sampled_from((1000, 10_000, 60_000, 300_000, QUARTER_MS, 7_200_000)))
        times.update(begin + step * number for number in range(draw(st.integers(1, 12))))
    times.update(draw(st.lists(st.integers(0, 3 * DAY_MS), max_size=6)))
    drawn = [draw(values) for _ in times]
    return np.array(sorted(times), np.int64), np.array(drawn, np.float64)


def bits(cells: Cells, names: tuple[str, ...]) -> dict[str, list[int]]:
    return {name: np.ascontiguousarray(getattr(cells, name)).view(np.int64).tolist() for name in names}


class TestPacking:
    @given(readings(), BEHAVIOURS, st.sampled_from((None, 900_000, 60_000)))
    def test_gives_back_each_bit(
        self, drawn: tuple[np.ndarray, np.ndarray], behaviour: Behaviour, max_gap_ms: int | None
    ) -> None:
        cells = cells_of(*drawn, NO_EDGES, behaviour=behaviour, max_gap_ms=max_gap_ms)
        back = unpacked(packed(cells, behaviour), behaviour)
        names = ("first_ts", "last_ts", "count", "held_ms")
        assert bits(back, names) == bits(cells, names)
        floats = OF_A_GAUGE if behaviour == "gauge" else OF_A_COUNTER
        assert bits(back, floats) == bits(cells, floats)

    def test_leaves_out_what_follows_from_the_rest(self) -> None:
        times = np.arange(0, QUARTER_MS, 60_000)
        cells = cells_of(times, np.linspace(1, 2, len(times)), NO_EDGES, behaviour="gauge", max_gap_ms=900_000)
        columns = packed(cells, "gauge")
        assert tuple(columns) == COLUMNS
        assert all(np.isnan(columns[name]).all() for name in ("second", "last_but_one", "positive", "negative"))
        assert abs(columns["integral_off"]).max() < 64

    def test_has_no_figure_where_a_sum_is_beyond_all_numbers(self) -> None:
        values = np.array([1e308] * 20 + [-1e308] * 20)
        cells = cells_of(np.arange(40) * 1000, values, NO_EDGES, behaviour="gauge", max_gap_ms=None)
        back = unpacked(packed(cells, "gauge"), "gauge")
        assert not np.isfinite(back.total).any() or np.array_equal(back.total, cells.total)


class TestMerged:
    @given(readings(ORDERLY), BEHAVIOURS, st.sampled_from((None, 900_000, 5_000_000)))
    def test_is_the_cell_of_all_readings(
        self, drawn: tuple[np.ndarray, np.ndarray], behaviour: Behaviour, max_gap_ms: int | None
    ) -> None:
        """But for the rounding of sums, which here, where all are of eighths, is none."""
        edges = np.arange(0, 5 * DAY_MS, DAY_MS)
        rules: dict[str, Any] = {"behaviour": behaviour, "max_gap_ms": max_gap_ms}
        found = merged(cells_of(*drawn, NO_EDGES, **rules), edges, **rules)
        expected = _of_days(*drawn, edges, rules)
        for field in fields(Cells):
            if behaviour == "gauge" and field.name in ("second", "last_but_one"):
                continue
            assert getattr(found, field.name).tolist() == getattr(expected, field.name).tolist(), field.name

    @given(readings(st.floats(-1e6, 1e6)), BEHAVIOURS)
    def test_is_off_by_the_rounding_of_sums_alone(
        self, drawn: tuple[np.ndarray, np.ndarray], behaviour: Behaviour
    ) -> None:
        edges = np.arange(0, 5 * DAY_MS, DAY_MS)
        rules: dict[str, Any] = {"behaviour": behaviour, "max_gap_ms": None}
        found = merged(cells_of(*drawn, NO_EDGES, **rules), edges, **rules)
        expected = _of_days(*drawn, edges, rules)
        for name in ("total", "integral", "positive", "negative", "rises"):
            scale = 1e6 * (DAY_MS if name in ("integral", "positive", "negative") else len(drawn[0]))
            assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=0, abs=1e-12 * scale), name


def _of_days(timestamps: np.ndarray, values: np.ndarray, edges: np.ndarray, rules: dict[str, Any]) -> Cells:
    """Of each day's readings one cell."""
    day = np.searchsorted(edges, timestamps, side="right")
    return Cells.joined([_of_one_day(timestamps[day == one], values[day == one], rules) for one in np.unique(day)])


def _of_one_day(timestamps: np.ndarray, values: np.ndarray, rules: dict[str, Any]) -> Cells:
    """The plain way, reading by reading."""
    gaps = np.diff(timestamps)
    spans = gaps if rules["max_gap_ms"] is None else np.minimum(gaps, rules["max_gap_ms"])
    weighted = values[:-1] * spans
    is_gauge = rules["behaviour"] == "gauge"
    rises = 0.0
    for place in range(1, len(values) - 1):
        before, value, following = values[place - 1 : place + 2].tolist()
        is_reset = before > 0 and value < before / 2 and not following >= before
        rises += 0.0 if is_gauge else value if is_reset else value - before
    one = {
        "first_ts": timestamps[0],
        "last_ts": timestamps[-1],
        "first": values[0],
        "second": values[min(1, len(values) - 1)],
        "last_but_one": values[max(len(values) - 2, 0)],
        "last": values[-1],
        "minimum": values.min(),
        "maximum": values.max(),
        "total": values.sum(),
        "count": len(values),
        "held_ms": spans.sum(),
        "integral": weighted.sum(),
        "positive": np.maximum(weighted, 0).sum() if is_gauge else 0.0,
        "negative": np.maximum(-weighted, 0).sum() if is_gauge else 0.0,
        "rises": rises,
    }
    return Cells(**{name: np.array([value]) for name, value in one.items()})
