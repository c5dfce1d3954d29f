"""What an interval means: every aggregate against the reference, on the hardest data that we can think of."""

from dataclasses import dataclass
from fractions import Fraction
from itertools import count, pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kilowatch.facility.model import PlacedMetric
from kilowatch.facility.quantities import Behaviour
from kilowatch.history import intervals
from kilowatch.history.model import AGGREGATES, ENERGIES, Aggregate, Floats, Milliseconds
from kilowatch.kit import timespan
from kilowatch.kit.timespan import Window, from_ms, to_ms
from tests.history import reference
from tests.history.conftest import LONG_AFTER, Recorder, column, ms

# Always the same examples: a failure is the code's, never the day's.
steady = settings(
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

YEAR_MS = 366 * 86_400_000

# zone, resolution, start, end: cut and whole buckets, changes of clock, changes of partition (months)
WINDOWS = (
    ("UTC", "1s", "2026-01-05T11:59:55.500", "2026-01-05T12:00:04.250"),
    ("UTC", "1m", "2026-01-31T23:56", "2026-02-01T00:05"),
    ("Asia/Kolkata", "5m", "2026-06-30T18:17:03.123", "2026-06-30T18:42:59.999"),
    ("Europe/Berlin", "15m", "2026-03-29T00:10", "2026-03-29T02:00"),
    ("Europe/Berlin", "1h", "2025-10-25T21:30", "2025-10-26T03:00"),
    ("Australia/Lord_Howe", "1h", "2026-04-04T12:00", "2026-04-04T17:30"),
    ("America/St_Johns", "1d", "2010-11-05T12:00", "2010-11-09T03:30"),
    ("America/New_York", "1w", "2026-02-25T05:00", "2026-03-17T04:00"),
    ("Europe/Berlin", "1mo", "2025-12-20T00:00", "2026-04-10T00:00"),
    ("Pacific/Apia", "1y", "2010-06-01T00:00", "2013-03-01T00:00"),
)

# How each unit leads to the first of its family: x * scale + offset.
FAMILIES: dict[str, dict[str, tuple[Fraction, Fraction]]] = {
    "power": {
        "kW": (Fraction(1), Fraction(0)),
        "W": (Fraction(1, 1000), Fraction(0)),
        "MW": (Fraction(1000), Fraction(0)),
    },
    "energy": {
        "kWh": (Fraction(1), Fraction(0)),
        "Wh": (Fraction(1, 1000), Fraction(0)),
        "MJ": (Fraction(10, 36), Fraction(0)),
    },
    "temperature": {
        "K": (Fraction(1), Fraction(0)),
        "°C": (Fraction(1), Fraction(27315, 100)),
        "°F": (Fraction(5, 9), Fraction(45967, 100) * Fraction(5, 9)),
    },
}


def conversion(family: str, source: str, target: str) -> tuple[Fraction, Fraction]:
    (scale, offset), (target_scale, target_offset) = FAMILIES[family][source], FAMILIES[family][target]
    return scale / target_scale, (offset - target_offset) / target_scale


@dataclass
class Measured:
    """A metric, and what was measured of it, in the order of arrival."""

    behaviour: Behaviour
    quantity: str
    unit: str
    max_gap_s: int | None
    readings: list[tuple[int, float]]


@dataclass
class Scenario:
    timezone: str
    resolution: str
    start: int
    end: int
    unit: str | None
    metrics: list[Measured]
    batches: int
    now: int

    @property
    def edges(self) -> list[int]:
        window = Window(from_ms(self.start), from_ms(self.end))
        return timespan.resolution_named(self.resolution).buckets(window, timespan.zone(self.timezone))


GAUGE_VALUES = st.integers(-8000, 8000).map(lambda eighths: eighths / 8)
# Few values, so that a drawn counter often falls to nothing, to exactly a half, and returns to exactly where it was.
COUNTER_VALUES = st.sampled_from([0.0, 0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 11.0, 12.0, 24.0, 1000.0, -2.0])


@st.composite
def instants(draw: st.DrawFn, edges: list[int]) -> int:
    """Inside the window, on its edges and next to them, around it, and very far away."""
    start, end = edges[0], edges[-1]
    span = end - start
    where = draw(st.sampled_from(["edge", "edge", "inside", "inside", "around", "far"]))
    if where == "edge":
        instant = draw(st.sampled_from(edges)) + draw(st.sampled_from([0, 0, -1, 1]))
    elif where == "inside":
        instant = draw(st.integers(start, end - 1))
    elif where == "around":
        instant = draw(st.integers(start - 3 * span, end + 2 * span))
    else:
        instant = draw(st.sampled_from([0, start - 20 * YEAR_MS, start - YEAR_MS, end + YEAR_MS, end + 90 * YEAR_MS]))
    return max(0, instant)


@st.composite
def measured(draw: st.DrawFn, edges: list[int], behaviour: Behaviour, quantity: str) -> Measured:
    lengths = [end - begin for begin, end in pairwise(edges)]
    bucket_s = max(lengths) // 1000
    gap = draw(
        st.sampled_from([None, 1, max(1, bucket_s // 3), max(1, bucket_s), bucket_s * 5 // 2 + 1, 900, 1_000_000_000])
    )
    values = COUNTER_VALUES if behaviour == "counter" else GAUGE_VALUES
    readings = draw(st.lists(st.tuples(instants(edges), values), max_size=14))
    unit = draw(st.sampled_from(sorted(FAMILIES[quantity])))
    return Measured(behaviour, quantity, unit, gap, readings)


@st.composite
def scenarios(draw: st.DrawFn, aggregate: str) -> Scenario:
    timezone, resolution, start, end = draw(st.sampled_from(WINDOWS))
    now = draw(st.just(to_ms(LONG_AFTER)) | st.integers(ms(start) - 1000, ms(end) + 1000))
    scenario = Scenario(timezone, resolution, ms(start), ms(end), None, [], draw(st.integers(1, 3)), now)
    edges = scenario.edges
    kinds: list[tuple[Behaviour, str]] = [("gauge", "power"), ("gauge", "temperature"), ("counter", "energy")]
    if aggregate in (*ENERGIES, "delta"):
        kinds = [kinds[0] if aggregate in ENERGIES else kinds[2]]
    if aggregate != "count" and draw(st.booleans()):  # one unit for all means metrics of one family
        kinds = [draw(st.sampled_from(kinds))]
        family = "energy" if aggregate in ENERGIES else kinds[0][1]
        scenario.unit = draw(st.sampled_from(sorted(FAMILIES[family])))
    for _ in range(draw(st.integers(1, 5))):
        scenario.metrics.append(draw(measured(edges, *draw(st.sampled_from(kinds)))))
    return scenario


def store(recorder: Recorder, scenario: Scenario) -> list[PlacedMetric]:
    metrics = [
        recorder.metric(behaviour=m.behaviour, quantity=m.quantity, unit=m.unit, max_gap_s=m.max_gap_s)
        for m in scenario.metrics
    ]
    for batch in range(scenario.batches):
        parts = []
        for metric, m in zip(metrics, scenario.metrics, strict=True):
            size = -(-len(m.readings) // scenario.batches)
            parts.append((metric, m.readings[batch * size : (batch + 1) * size]))
        if any(readings for _, readings in parts):
            recorder.append(*parts)
    return metrics


def expected(scenario: Scenario, m: Measured, aggregate: str) -> tuple[list[reference.Bucket], Fraction]:
    """The buckets, and the offset in their conversion (which is rounded too)."""
    factor = Fraction(1)
    if aggregate == "count":
        scale, offset = Fraction(1), Fraction(0)
    elif aggregate in ENERGIES:
        scale, offset = conversion("power", m.unit, "kW")
        factor, _ = conversion("energy", "kWh", scenario.unit or "kWh")
    else:
        scale, offset = conversion(m.quantity, m.unit, scenario.unit or m.unit)
    buckets = reference.history(
        m.readings,
        aggregate=aggregate,
        behaviour=m.behaviour,
        max_gap_s=m.max_gap_s,
        edges=scenario.edges,
        now=scenario.now,
        scale=scale * factor,
        offset=offset,
    )
    return buckets, offset


def check(scenario: Scenario, m: Measured, aggregate: str, values: np.ndarray, coverage: np.ndarray) -> None:
    """That a metric's buckets are the reference's, but for the rounding of floats."""
    buckets, offset = expected(scenario, m, aggregate)
    assert coverage.tolist() == pytest.approx([float(b.coverage) for b in buckets], abs=1e-12)
    for got, bucket in zip(column(values), buckets, strict=True):
        if got is None or bucket.value is None:
            assert got is None and bucket.value is None, (got, bucket)
        else:
            rounding = 1e-9 * float(bucket.magnitude + abs(offset) * len(m.readings))
            assert abs(got - float(bucket.value)) <= rounding + 1e-12, (got, float(bucket.value))


def aggregate_readings(
    timestamps: Milliseconds,
    values: Floats,
    edges: Milliseconds,
    *,
    aggregate: Aggregate,
    behaviour: Behaviour,
    max_gap_ms: int | None,
    now_ms: int,
) -> intervals.Buckets:
    """The aggregate of each bucket `[edges[i], edges[i + 1])` of one metric's readings.

    Args:
        timestamps: rising, each once: those in the window, the last before it, and for counters the first after it.
    """
    begin, end = (int(place) for place in np.searchsorted(timestamps, (edges[0], edges[-1])))
    before = (int(timestamps[begin - 1]), float(values[begin - 1])) if begin else None
    after = (int(timestamps[end]), float(values[end])) if end < len(timestamps) else None
    inside = slice(begin, end)
    cells = intervals.cells_of(
        timestamps[inside], values[inside], edges, behaviour=behaviour, max_gap_ms=max_gap_ms, now_ms=now_ms
    )
    return intervals.aggregate_cells(
        cells,
        edges,
        before=before,
        after=after,
        aggregate=aggregate,
        behaviour=behaviour,
        max_gap_ms=max_gap_ms,
        now_ms=now_ms,
    )


@pytest.mark.parametrize("aggregate", AGGREGATES)
@given(data=st.data())
@settings(steady, max_examples=9)
def test_the_history_is_the_reference_s(recorder: Recorder, aggregate: Aggregate, data: st.DataObject) -> None:
    """The whole way: readings in several batches through the engine, and out with zone, resolution and unit."""
    scenario = data.draw(scenarios(aggregate))
    metrics = store(recorder, scenario)
    answer = recorder.ask(
        *metrics,
        start=scenario.start,
        end=scenario.end,
        now=scenario.now,
        resolution=scenario.resolution,
        timezone=scenario.timezone,
        aggregate=aggregate,
        unit=scenario.unit,
    )
    for series, m in zip(answer.series, scenario.metrics, strict=True):
        assert series.timestamps.tolist() == scenario.edges[:-1]
        assert series.coverage is not None
        check(scenario, m, aggregate, series.values, series.coverage)


@pytest.mark.parametrize("aggregate", AGGREGATES)
@given(data=st.data())
@settings(steady, max_examples=70)
def test_the_arithmetic_is_the_reference_s(aggregate: Aggregate, data: st.DataObject) -> None:
    """The rules alone, without an engine, on many more examples."""
    scenario = data.draw(scenarios(aggregate))
    scenario.unit = None
    edges = np.array(scenario.edges, np.int64)
    for m in scenario.metrics:
        m.unit = "kW" if aggregate in ENERGIES else m.unit
        kept = sorted(dict(m.readings).items())
        before = [reading for reading in kept if reading[0] < scenario.start][-1:]
        inside = [reading for reading in kept if scenario.start <= reading[0] < scenario.end]
        after = [reading for reading in kept if reading[0] >= scenario.end][:1] if m.behaviour == "counter" else []
        around = [*before, *inside, *after]
        buckets = aggregate_readings(
            np.array([instant for instant, _ in around], np.int64),
            np.array([value for _, value in around], np.float64),
            edges,
            aggregate=aggregate,
            behaviour=m.behaviour,
            max_gap_ms=None if m.max_gap_s is None else m.max_gap_s * 1000,
            now_ms=scenario.now,
        )
        check(scenario, m, aggregate, buckets.values, buckets.held_ms / np.diff(edges))


# ── each rule, with an example that can be followed by hand ──────────────────────────────────────────────────────────


class TestMean:
    def test_is_weighted_with_time(self, recorder: Recorder) -> None:
        """2 kW for 45 minutes and 6 kW for 15: (2 × 45 + 6 × 15) / 60 = 3 kW, though the mean of the readings is 4."""
        power = recorder.metric(max_gap_s=3600)
        recorder.append((power, [(ms("2026-01-05T10:00"), 2.0), (ms("2026-01-05T10:45"), 6.0)]))
        assert recorder.values(power, start="2026-01-05T10:00", end="2026-01-05T11:00") == [3.0]

    def test_believes_a_value_for_the_longest_gap_and_not_longer(self, recorder: Recorder) -> None:
        """With 15 minutes: 4 kW from 10:00 to 10:15, then nothing is known. The mean is of the known quarter."""
        power = recorder.metric(max_gap_s=900)
        recorder.append((power, [(ms("2026-01-05T10:00"), 4.0)]))
        window = {"start": "2026-01-05T10:00", "end": "2026-01-05T12:00"}
        assert recorder.values(power, **window) == [4.0, None]
        assert recorder.coverage(power, **window) == [0.25, 0.0]

    def test_a_value_holds_over_the_edges_of_buckets(self, recorder: Recorder) -> None:
        """One reading at 10:50, believed for half an hour: the last 10 minutes of one hour and 20 of the next."""
        power = recorder.metric(max_gap_s=1800)
        recorder.append((power, [(ms("2026-01-05T10:50"), 4.0)]))
        window = {"start": "2026-01-05T10:00", "end": "2026-01-05T12:00"}
        assert recorder.values(power, **window) == [4.0, 4.0]
        assert recorder.coverage(power, **window) == [pytest.approx(10 / 60), pytest.approx(20 / 60)]

    def test_one_value_may_fill_many_buckets(self, recorder: Recorder) -> None:
        power = recorder.metric(max_gap_s=4 * 3600)
        recorder.append((power, [(ms("2026-01-05T10:30"), 4.0)]))
        window = {"start": "2026-01-05T10:00", "end": "2026-01-05T16:00"}
        assert recorder.values(power, **window) == [4.0, 4.0, 4.0, 4.0, 4.0, None]
        assert recorder.coverage(power, **window) == [0.5, 1.0, 1.0, 1.0, 0.5, 0.0]

    def test_the_reading_before_the_window_carries_in(self, recorder: Recorder) -> None:
        """2 kW of 9:50 are believed until 10:05, when 8 kW are read: (2 × 5 + 8 × 15) / 20 = 6.5."""
        power = recorder.metric(max_gap_s=900)
        recorder.append((power, [(ms("2026-01-05T09:50"), 2.0), (ms("2026-01-05T10:05"), 8.0)]))
        window = {"start": "2026-01-05T10:00", "end": "2026-01-05T11:00"}
        assert recorder.values(power, **window) == [6.5]
        assert recorder.coverage(power, **window) == [pytest.approx(20 / 60)]

    def test_a_reading_before_the_window_is_not_believed_for_ever(self, recorder: Recorder) -> None:
        """Believed until exactly the window's start: nothing of it is left."""
        power = recorder.metric(max_gap_s=900)
        recorder.append((power, [(ms("2026-01-05T09:45"), 2.0)]))
        assert recorder.values(power, start="2026-01-05T10:00", end="2026-01-05T11:00") == [None]
        assert recorder.values(power, start="2026-01-05T09:59:59.999", end="2026-01-05T10:00") == [2.0]

    def test_without_a_longest_gap_a_value_holds_until_the_window_s_end(self, recorder: Recorder) -> None:
        """However long ago it was read: a door that was shut in 2019 is shut today."""
        door = recorder.metric(max_gap_s=None)
        recorder.append((door, [(ms("2019-05-01T10:00"), 1.0)]))
        window = {"start": "2026-01-05T10:00", "end": "2026-01-05T12:00"}
        assert recorder.values(door, **window) == [1.0, 1.0]
        assert recorder.coverage(door, **window) == [1.0, 1.0]

    @pytest.mark.parametrize("max_gap_s", [None, 7200])
    def test_no_value_holds_beyond_now(self, recorder: Recorder, max_gap_s: int | None) -> None:
        """Asked at 11:15: what is to come is a gap, and is filled as time goes by."""
        door = recorder.metric(max_gap_s=max_gap_s)
        recorder.append((door, [(ms("2026-01-05T10:00"), 1.0)]))
        window = {"start": "2026-01-05T10:00", "end": "2026-01-05T13:00"}
        at_noon = recorder.ask(door, **window, now="2026-01-05T11:15").series[0]
        assert at_noon.coverage is not None
        assert (column(at_noon.values), at_noon.coverage.tolist()) == ([1.0, 1.0, None], [1.0, 0.25, 0.0])
        assert recorder.coverage(door, **window, now="2026-01-05T11:30") == [1.0, 0.5, 0.0]

    def test_a_reading_ahead_of_now_is_one_but_holds_for_no_time(self, recorder: Recorder) -> None:
        """A gateway's clock is ahead: its reading of 10:40 is here at 10:30, and is believed from 10:40 on."""
        power = recorder.metric()
        recorder.append((power, [(ms("2026-01-05T10:20"), 2.0), (ms("2026-01-05T10:40"), 6.0)]))
        window = {"start": "2026-01-05T10:00", "end": "2026-01-05T11:00", "now": "2026-01-05T10:30"}
        assert recorder.values(power, **window) == [2.0]
        assert recorder.coverage(power, **window) == [pytest.approx(10 / 60)]
        assert recorder.values(power, **window, aggregate="max") == [6.0]

    def test_a_gap_is_no_zero(self, recorder: Recorder) -> None:
        power = recorder.metric()
        assert recorder.values(power, start="2026-01-05T10:00", end="2026-01-05T12:00") == [None, None]
        assert recorder.coverage(power, start="2026-01-05T10:00", end="2026-01-05T12:00") == [0.0, 0.0]


class TestEnergy:
    def test_is_the_held_power_integrated(self, recorder: Recorder) -> None:
        """2 kW for 45 minutes and 6 kW for 15: 1.5 + 1.5 = 3 kWh."""
        power = recorder.metric(max_gap_s=3600)
        recorder.append((power, [(ms("2026-01-05T10:00"), 2.0), (ms("2026-01-05T10:45"), 6.0)]))
        window = {"start": "2026-01-05T10:00", "end": "2026-01-05T11:00", "aggregate": "energy"}
        assert recorder.values(power, **window) == [3.0]
        assert recorder.values(power, **window, unit="MJ") == [pytest.approx(10.8)]

    def test_is_in_kwh_whatever_the_power_s_unit(self, recorder: Recorder) -> None:
        power = recorder.metric(unit="W", max_gap_s=3600)
        recorder.append((power, [(ms("2026-01-05T10:00"), 250.0)]))
        window = {"start": "2026-01-05T10:00", "end": "2026-01-05T11:00", "aggregate": "energy"}
        assert recorder.values(power, **window) == [0.25]
        assert recorder.ask(power, **window).series[0].request.unit == "kWh"

    def test_negative_power_is_negative_energy(self, recorder: Recorder) -> None:
        """Half an hour of 4 kW import, half an hour of 6 kW export: 2 - 3 = -1 kWh."""
        grid = recorder.metric(max_gap_s=1800)
        recorder.append((grid, [(ms("2026-01-05T10:00"), 4.0), (ms("2026-01-05T10:30"), -6.0)]))
        assert recorder.values(grid, start="2026-01-05T10:00", end="2026-01-05T11:00", aggregate="energy") == [-1.0]

    def test_import_and_export_are_split_reading_by_reading(self, recorder: Recorder) -> None:
        """A quarter each of 4 kW in, 6 kW out, nothing, 2 kW in: 1.5 kWh in, 1.5 kWh out, though the mean is 0."""
        grid = recorder.metric(max_gap_s=900)
        recorder.append(
            (grid, [(ms(f"2026-01-05T10:{m}"), kw) for m, kw in (("00", 4), ("15", -6), ("30", 0), ("45", 2))])
        )
        window = {"start": "2026-01-05T10:00", "end": "2026-01-05T12:00"}
        assert recorder.values(grid, **window, aggregate="energy") == [0.0, None]
        assert recorder.values(grid, **window, aggregate="energy_positive") == [1.5, None]
        assert recorder.values(grid, **window, aggregate="energy_negative") == [1.5, None]
        assert recorder.values(grid, **window, aggregate="energy_negative", unit="MJ") == [pytest.approx(5.4), None]

    def test_a_direction_that_power_never_took_is_zero_where_it_was_measured(self, recorder: Recorder) -> None:
        """Zero is known there, with coverage; a gap is null in either direction."""
        grid = recorder.metric(max_gap_s=1800)
        recorder.append((grid, [(ms("2026-01-05T10:00"), 4.0)]))
        window = {"start": "2026-01-05T10:00", "end": "2026-01-05T12:00", "aggregate": "energy_negative"}
        assert recorder.values(grid, **window) == [0.0, None]
        assert recorder.coverage(grid, **window) == [0.5, 0.0]

    def test_a_gap_has_none(self, recorder: Recorder) -> None:
        """A quarter of an hour at 4 kW is 1 kWh. The rest of the hour is not guessed."""
        power = recorder.metric(max_gap_s=900)
        recorder.append((power, [(ms("2026-01-05T10:00"), 4.0)]))
        window = {"start": "2026-01-05T10:00", "end": "2026-01-05T12:00", "aggregate": "energy"}
        assert recorder.values(power, **window) == [1.0, None]
        assert recorder.coverage(power, **window) == [0.25, 0.0]


class TestReadingsInTheBucket:
    """`min`, `max`, `first`, `last`, `sum` and `count` are of the readings whose time lies in the bucket."""

    @pytest.mark.parametrize(
        ("aggregate", "values"),
        [
            ("min", [-1.0, 7.0]),
            ("max", [5.0, 7.0]),
            ("first", [5.0, 7.0]),
            ("last", [2.0, 7.0]),
            ("sum", [6.0, 7.0]),
            ("count", [3.0, 1.0]),
        ],
    )
    def test_an_edge_belongs_to_the_bucket_that_it_starts(
        self, recorder: Recorder, aggregate: str, values: list[float]
    ) -> None:
        power = recorder.metric(max_gap_s=600)
        readings = [("10:00", 5.0), ("10:20", -1.0), ("10:59:59.999", 2.0), ("11:00", 7.0), ("12:00", 100.0)]
        recorder.append((power, [(ms(f"2026-01-05T{time}"), value) for time, value in readings]))
        window = {"start": "2026-01-05T10:00", "end": "2026-01-05T12:00", "aggregate": aggregate}
        assert recorder.values(power, **window) == values

    @pytest.mark.parametrize("aggregate", ["min", "max", "first", "last", "sum", "count"])
    def test_a_bucket_without_readings_is_null_though_a_value_is_held_in_it(
        self, recorder: Recorder, aggregate: str
    ) -> None:
        power = recorder.metric(max_gap_s=7200)
        recorder.append((power, [(ms("2026-01-05T10:00"), 5.0)]))
        window = {"start": "2026-01-05T10:00", "end": "2026-01-05T13:00", "aggregate": aggregate}
        assert recorder.values(power, **window)[1:] == [None, None]
        assert recorder.coverage(power, **window) == [1.0, 1.0, 0.0]


class TestDelta:
    def day(self, recorder: Recorder, *values: float, **more: float) -> list[float | None]:
        """A counter read every half hour from 10:00, asked from 10:00 to 14:00."""
        energy = recorder.metric(behaviour="counter")
        start = ms("2026-01-05T10:00")
        readings = [(start + number * 1_800_000, value) for number, value in enumerate(values)]
        before = [(start - 86_400_000, more["before"])] if "before" in more else []
        after = [(start + 86_400_000, more["after"])] if "after" in more else []
        recorder.append((energy, [*before, *readings, *after]))
        return recorder.values(energy, start="2026-01-05T10:00", end="2026-01-05T14:00")

    def test_is_the_sum_of_the_rises(self, recorder: Recorder) -> None:
        """A rise belongs to the hour in which it ends: from 10:30 to 11:00 it rose by 2, which is the second hour's."""
        assert self.day(recorder, 100, 101, 103, 106) == [1.0, 5.0, None, None]

    def test_the_reading_before_the_window_is_where_the_first_rise_starts(self, recorder: Recorder) -> None:
        assert self.day(recorder, 100, 101, before=97) == [4.0, None, None, None]

    def test_the_first_reading_of_all_is_no_rise(self, recorder: Recorder) -> None:
        assert self.day(recorder, 100) == [None, None, None, None]

    def test_a_fall_to_less_than_half_is_a_reset_and_counts_from_zero(self, recorder: Recorder) -> None:
        """100 → 3 (reset: 3) → 5: 3 + 2."""
        assert self.day(recorder, 100, 3, 5, 5) == [3.0, 2.0, None, None]

    def test_a_fall_to_exactly_half_is_none(self, recorder: Recorder) -> None:
        assert self.day(recorder, 100, 50, 51) == [-50.0, 1.0, None, None]

    def test_a_rollover_is_a_reset(self, recorder: Recorder) -> None:
        """A five-digit counter: 99,998 → 2. What flowed before zero can't be known."""
        assert self.day(recorder, 99_998, 2, 4) == [2.0, 2.0, None, None]

    def test_a_single_zero_cancels_itself(self, recorder: Recorder) -> None:
        """100, 0, 101: -100 and +101 make 1, though they may fall into two buckets."""
        assert self.day(recorder, 100, 0, 101, 102) == [-100.0, 102.0, None, None]

    def test_a_small_dip_cancels_itself(self, recorder: Recorder) -> None:
        assert self.day(recorder, 100, 99.5, 100, 100) == [-0.5, 0.5, None, None]

    def test_a_return_to_less_than_before_is_a_reset(self, recorder: Recorder) -> None:
        """100 → 0 → 99: the second does not come back to 100, so the first was a reset, and 99 rose since."""
        assert self.day(recorder, 100, 0, 99, 99) == [0.0, 99.0, None, None]

    def test_the_reading_behind_the_window_tells_a_glitch_from_a_reset(self, recorder: Recorder) -> None:
        readings = [100.0] * 7 + [0.0]  # the 0 at 13:30 is the window's last
        assert self.day(recorder, *readings, after=100)[-1] == -100.0
        assert self.day(recorder, *readings, after=5)[-1] == 0.0

    def test_a_last_fall_counts_as_a_reset_until_more_is_known(self, recorder: Recorder) -> None:
        assert self.day(recorder, 100, 3) == [3.0, None, None, None]

    def test_zero_and_below_are_no_place_to_fall_from(self, recorder: Recorder) -> None:
        assert self.day(recorder, 0, -1, 2) == [-1.0, 3.0, None, None]

    def test_the_day_before_last_may_be_years_ago(self, recorder: Recorder) -> None:
        energy = recorder.metric(behaviour="counter")
        recorder.append((energy, [(ms("1999-01-01T00:00"), 5.0), (ms("2026-01-05T10:10"), 8.0)]))
        assert recorder.values(energy, start="2026-01-05T10:00", end="2026-01-05T11:00") == [3.0]

    def test_coverage_is_the_time_between_two_readings(self, recorder: Recorder) -> None:
        """From 10:15 to 11:30: nothing was known before, and the last reading vouches for nothing after it."""
        energy = recorder.metric(behaviour="counter")
        recorder.append((energy, [(ms("2026-01-05T10:15"), 1.0), (ms("2026-01-05T11:30"), 4.0)]))
        window = {"start": "2026-01-05T10:00", "end": "2026-01-05T13:00"}
        assert recorder.coverage(energy, **window) == [0.75, 0.5, 0.0]
        recorder.append((energy, [(ms("2026-03-01T00:00"), 9.0)]))
        assert recorder.coverage(energy, **window) == [0.75, 1.0, 1.0]

    def test_coverage_is_the_first_part_of_a_long_gap_where_one_is_set(self, recorder: Recorder) -> None:
        energy = recorder.metric(behaviour="counter", max_gap_s=1800)
        recorder.append((energy, [(ms("2026-01-05T10:15"), 1.0), (ms("2026-01-05T11:30"), 4.0)]))
        assert recorder.coverage(energy, start="2026-01-05T10:00", end="2026-01-05T12:00") == [0.5, 0.0]

    def test_does_not_depend_on_the_unit(self, recorder: Recorder) -> None:
        """A difference has no zero point: 10 °C more are 18 °F more, not 50."""
        degrees = recorder.metric(behaviour="counter", quantity="temperature", unit="°C")
        recorder.append((degrees, [(ms("2026-01-05T10:00"), 1.0), (ms("2026-01-05T10:10"), 11.0)]))
        window = {"start": "2026-01-05T10:00", "end": "2026-01-05T12:00", "resolution": "30m"}
        assert recorder.values(degrees, **window, unit="°F") == [18.0, None, None, None]
        recorder.append((degrees, [(ms("2026-01-05T10:40"), 2.0)]))  # a reset, in whatever unit
        assert recorder.values(degrees, **window)[1] == 2.0
        assert recorder.values(degrees, **window, unit="°F")[1] == pytest.approx(3.6)


class TestBuckets:
    def test_the_first_and_last_are_cut_to_the_window(self, recorder: Recorder) -> None:
        """10:30 to 12:15: half an hour, a whole one, a quarter; each with its own length as 100 % of coverage."""
        power = recorder.metric(max_gap_s=7200)
        recorder.append((power, [(ms("2026-01-05T10:30"), 4.0)]))
        answer = recorder.ask(power, start="2026-01-05T10:30", end="2026-01-05T12:15", aggregate="energy")
        series = answer.series[0]
        assert series.timestamps.tolist() == [ms(f"2026-01-05T{time}") for time in ("10:30", "11:00", "12:00")]
        assert series.values.tolist() == [2.0, 4.0, 1.0]
        assert recorder.coverage(power, start="2026-01-05T10:30", end="2026-01-05T12:15") == [1.0, 1.0, 1.0]

    def test_a_day_has_the_hours_that_it_has(self, recorder: Recorder) -> None:
        """1 kW all the time: 24 kWh a day, 23 on the day that clocks go forward, 25 when they go back."""
        power = recorder.metric(max_gap_s=None)
        recorder.append((power, [(ms("2025-01-01T00:00"), 1.0)]))
        days = {"resolution": "1d", "timezone": "Europe/Berlin", "aggregate": "energy"}
        spring = recorder.values(power, start="2026-03-28T00:00+01:00", end="2026-03-31T00:00+02:00", **days)
        autumn = recorder.values(power, start="2025-10-25T00:00+02:00", end="2025-10-28T00:00+01:00", **days)
        assert (spring, autumn) == ([24.0, 23.0, 24.0], [24.0, 25.0, 24.0])

    def test_several_metrics_keep_their_own_gaps_units_and_order(self, recorder: Recorder) -> None:
        patient = recorder.metric(max_gap_s=3600)
        hasty = recorder.metric(max_gap_s=60, unit="W")
        energy = recorder.metric(behaviour="counter")
        at = ms("2026-01-05T10:00")
        recorder.append((energy, [(at, 1.0), (at + 60_000, 3.5)]), (hasty, [(at, 700.0)]), (patient, [(at, 4.0)]))
        answer = recorder.ask(energy, hasty, patient, start="2026-01-05T10:00", end="2026-01-05T11:00")
        found = [(s.request.aggregate, s.request.unit, s.values.tolist(), s.coverage.tolist()) for s in answer.series]  # type: ignore[union-attr]  # buckets have coverage
        assert found == [
            ("delta", "kWh", [2.5], [pytest.approx(1 / 60)]),
            ("mean", "W", [700.0], [pytest.approx(1 / 60)]),
            ("mean", "kW", [4.0], [1.0]),
        ]

    def test_temperatures_are_converted_with_their_zero(self, recorder: Recorder) -> None:
        cellar = recorder.metric(quantity="temperature", unit="°C", max_gap_s=3600)
        recorder.append((cellar, [(ms("2026-01-05T10:00"), 20.0)]))
        window = {"start": "2026-01-05T10:00", "end": "2026-01-05T11:00"}
        assert recorder.values(cellar, **window, unit="°F") == [68.0]
        assert recorder.values(cellar, **window, unit="K") == [pytest.approx(293.15)]


# ── sums of parts ────────────────────────────────────────────────────────────────────────────────────────────────────

FINER = ("5m", "15m", "1h", "1d", "1w")


@pytest.fixture(scope="module")
def irregular(recorder: Recorder) -> tuple[PlacedMetric, PlacedMetric]:
    """Five weeks of a power and a counter, at a stride that fits no bucket, with gaps, resets and glitches."""
    power, energy = recorder.metric(max_gap_s=900), recorder.metric(behaviour="counter")
    at, total = ms("2025-10-05T00:00"), 0.0
    powers, counts = [], []
    for number in count():
        at += 1_000 * (37 + number * 7919 % 1201 + (40_000 if number % 97 == 0 else 0))
        if at > ms("2025-11-10T00:00"):
            break
        powers.append((at, (number * 104_729 % 9_000) / 8 - 500))
        total = 0.25 if number % 500 == 0 else total + number % 13 / 4
        counts.append((at, 0.0 if number % 211 == 0 else total))
    recorder.append((power, powers), (energy, counts))
    return power, energy


@pytest.mark.parametrize("timezone", ["Europe/Berlin", "America/New_York", "Asia/Kolkata"])
@pytest.mark.parametrize(("aggregate", "which"), [("energy", 0), ("sum", 0), ("count", 0), ("delta", 1), ("sum", 1)])
def test_buckets_add_up_to_the_window(
    recorder: Recorder, irregular: tuple[PlacedMetric, PlacedMetric], timezone: str, aggregate: str, which: int
) -> None:
    window = {"start": "2025-10-24T03:21:09.5", "end": "2025-11-03T19:00:59.999", "timezone": timezone}
    totals, covered = {}, {}
    for resolution in (*FINER, "1mo", "1y"):
        answer = recorder.ask(irregular[which], **window, resolution=resolution, aggregate=aggregate)
        series = answer.series[0]
        totals[resolution] = sum(value for value in column(series.values) if value is not None)
        lengths = [*series.timestamps.tolist(), ms("2025-11-03T19:00:59.999")]
        assert series.coverage is not None
        covered[resolution] = sum(
            share * (end - begin)
            for share, begin, end in zip(series.coverage.tolist(), lengths, lengths[1:], strict=False)
        )
    assert totals["1y"] != 0
    assert totals == dict.fromkeys(totals, pytest.approx(totals["1y"], rel=1e-9))
    assert covered == dict.fromkeys(covered, pytest.approx(covered["1y"], rel=1e-9))


@pytest.mark.parametrize("aggregate", [*ENERGIES, "sum", "count", "delta"])
@given(data=st.data())
@settings(steady, max_examples=40)
def test_buckets_of_every_length_add_up_to_the_window(aggregate: Aggregate, data: st.DataObject) -> None:
    """From seconds to years, wherever they fit the window; values are eighths, so only energies are rounded."""
    timezone, _, start, _ = data.draw(st.sampled_from(WINDOWS))
    begin = ms(start) + data.draw(st.integers(0, 7_200_000))
    length = data.draw(st.sampled_from([200_000, 3_000_000, 9 * 3_600_000, 40 * 86_400_000, 3 * YEAR_MS]))
    window, zone = Window(from_ms(begin), from_ms(begin + length)), timespan.zone(timezone)
    times = st.integers(begin - length // 2, begin + length + length // 8)
    values = COUNTER_VALUES if aggregate == "delta" else GAUGE_VALUES
    readings = sorted(data.draw(st.dictionaries(times, values, max_size=40)).items())
    first = max((at for at, _ in readings if at < begin), default=begin)
    last = next((at for at, _ in readings if at >= begin + length), begin + length)
    around = [reading for reading in readings if first <= reading[0] <= last]
    gap = data.draw(st.sampled_from([None, 1, 900, length // 5_000]))
    now = begin + data.draw(st.sampled_from([2 * length, length // 3]))

    def total(edges: list[int]) -> tuple[float, int]:
        buckets = aggregate_readings(
            np.array([at for at, _ in around], np.int64),
            np.array([value for _, value in around], np.float64),
            np.array(edges, np.int64),
            aggregate=aggregate,
            behaviour="counter" if aggregate == "delta" else "gauge",
            max_gap_ms=None if gap is None else gap * 1000,
            now_ms=now,
        )
        return float(np.nansum(buckets.values)), int(buckets.held_ms.sum())

    whole, held = total([window.start_ms, window.end_ms])
    fitting = [r for r in timespan.RESOLUTIONS if r.count(window, zone, most=3000) <= 3000]
    assert "1y" in [r.name for r in fitting]
    for resolution in fitting:
        parts, held_in_parts = total(resolution.buckets(window, zone))
        assert held_in_parts == held, resolution.name
        assert parts == pytest.approx(whole, rel=1e-9, abs=1e-6), resolution.name


@pytest.mark.parametrize(("aggregate", "which"), [("energy", 0), ("sum", 0), ("count", 0), ("delta", 1)])
def test_windows_add_up_too(
    recorder: Recorder, irregular: tuple[PlacedMetric, PlacedMetric], aggregate: str, which: int
) -> None:
    """Cut anywhere: what one window leaves is what the next one takes."""
    cuts = [
        "2025-10-10T03:21:09.5",
        "2025-10-11T00:00",
        "2025-10-11T00:00:00.001",
        "2025-10-20T17:03",
        "2025-11-01T00:00",
    ]

    def total(start: str, end: str) -> float:
        values = recorder.values(irregular[which], start=start, end=end, resolution="1y", aggregate=aggregate)
        return sum(value for value in values if value is not None)

    parts = [total(start, end) for start, end in pairwise(cuts)]
    assert sum(parts) == pytest.approx(total(cuts[0], cuts[-1]), rel=1e-9)


# ── order and repetition ─────────────────────────────────────────────────────────────────────────────────────────────


@given(data=st.data())
@settings(steady, max_examples=20)
def test_order_splits_and_replays_change_nothing(recorder: Recorder, data: st.DataObject) -> None:
    """The same readings, once as one batch, once shuffled, in pieces, and with some of them sent again."""
    start, end = ms("2026-01-31T20:00"), ms("2026-02-01T04:00")
    behaviour = data.draw(st.sampled_from(["gauge", "counter"]))
    values = COUNTER_VALUES if behaviour == "counter" else GAUGE_VALUES
    times = st.integers(start - 3_600_000, end + 3_600_000)
    readings = list(data.draw(st.dictionaries(times, values, min_size=1, max_size=30)).items())
    once, piecemeal = recorder.metric(behaviour=behaviour), recorder.metric(behaviour=behaviour)
    recorder.append((once, readings))
    shuffled = data.draw(st.permutations(readings)) + data.draw(st.lists(st.sampled_from(readings), max_size=5))
    while shuffled:
        size = data.draw(st.integers(1, len(shuffled)))
        recorder.append((piecemeal, shuffled[:size]))
        shuffled = shuffled[size:]
    for aggregate in ("mean", "delta" if behaviour == "counter" else "energy"):
        answer = recorder.ask(once, piecemeal, start=start, end=end, aggregate=aggregate)
        first, second = answer.series
        assert first.values.tobytes() == second.values.tobytes()
        assert first.coverage is not None and second.coverage is not None
        assert first.coverage.tobytes() == second.coverage.tobytes()
    raw = recorder.ask(once, piecemeal, start=0, end=end + YEAR_MS, resolution="raw")
    assert raw.series[0].timestamps.tolist() == raw.series[1].timestamps.tolist() == sorted(t for t, _ in readings)
    assert raw.series[0].values.tolist() == raw.series[1].values.tolist() == [v for _, v in sorted(readings)]
    latest = recorder.histories.latest([once, piecemeal])
    assert [(found.timestamp, found.value) for found in latest] == [(from_ms(max(readings)[0]), max(readings)[1])] * 2


class TestConflicts:
    """Two readings of the same metric and time: the one received last wins."""

    def test_inside_one_batch(self, recorder: Recorder) -> None:
        power = recorder.metric()
        at = ms("2026-01-05T10:00")
        recorder.append((power, [(at, 3.0), (at + 1, 9.0), (at, 2.0), (at, 1.0)]))
        answer = recorder.ask(power, start=at, end=at + 1000, resolution="raw").series[0]
        assert (answer.timestamps.tolist(), answer.values.tolist()) == ([at, at + 1], [1.0, 9.0])

    def test_across_batches(self, recorder: Recorder) -> None:
        power = recorder.metric()
        at = ms("2026-01-05T10:00")
        for value in (3.0, 5.0, 1.0):  # the clock stands still: the order of arrival decides
            recorder.append((power, [(at, value)]))
        assert recorder.values(power, start=at, end=at + 1000, aggregate="count") == [1.0]
        assert recorder.values(power, start=at, end=at + 1000) == [1.0]
        assert recorder.histories.latest([power])[0].value == 1.0

    def test_next_to_the_window_too(self, recorder: Recorder) -> None:
        """The readings before and behind a window, which decide rises and resets, are the surviving ones."""
        energy = recorder.metric(behaviour="counter")
        start, end = ms("2026-01-05T10:00"), ms("2026-01-05T11:00")
        recorder.append((energy, [(start - 1, 7.0), (start + 1, 100.0), (end - 1, 0.0), (end, 100.0)]))
        recorder.append((energy, [(start - 1, 98.0), (end, 4.0)]))
        assert recorder.values(energy, start=start, end=end) == [2.0]  # 98 → 100, then a reset to 0
        recorder.append((energy, [(end, 101.0)]))
        assert recorder.values(energy, start=start, end=end) == [-98.0]  # the 0 was a glitch


class TestLatest:
    def test_late_data_never_moves_it_back(self, recorder: Recorder) -> None:
        power = recorder.metric()
        recorder.append((power, [(ms("2026-01-05T10:00"), 1.0)]))
        recorder.append((power, [(ms("2026-01-05T09:00"), 2.0), (ms("2025-01-05T09:00"), 3.0)]))
        assert recorder.histories.latest([power])[0].value == 1.0
        assert recorder.histories.latest([power])[0].timestamp == from_ms(ms("2026-01-05T10:00"))

    def test_keeps_the_order_asked_and_names_what_is_missing(self, recorder: Recorder) -> None:
        silent, heard = recorder.metric(), recorder.metric()
        recorder.append((heard, [(ms("2026-01-05T10:00"), 1.0)]))
        found = recorder.histories.latest([silent, heard, silent])
        assert [reading.value for reading in found] == [None, 1.0, None]

    def test_is_the_same_however_long_the_history(self, recorder: Recorder) -> None:
        power = recorder.metric()
        recorder.append((power, [(number * 60_000, float(number)) for number in range(100_000)]))
        assert recorder.histories.latest([power])[0].value == 99_999.0
