"""History as it is lived with: asked, then added to and corrected, and asked again.

Whatever the store keeps beside the readings to answer faster (parts of sums, what was asked before) must follow them.
So every answer is compared with the reference, which keeps nothing but the readings.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from random import Random
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kilowatch.facility.model import PlacedMetric
from kilowatch.history.model import Aggregate, Series
from kilowatch.kit import timespan
from kilowatch.kit.timespan import RESOLUTIONS, Window, from_ms, to_ms
from tests.history import reference
from tests.history.conftest import LONG_AFTER, Recorder, column

OF_READINGS: tuple[Aggregate, ...] = ("min", "max", "first", "last", "sum", "count", "mean")
OF_POWER: tuple[Aggregate, ...] = ("energy", "energy_positive", "energy_negative")
OF_COUNTERS: tuple[Aggregate, ...] = ("delta",)
ZONES = (
    *("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "America/St_Johns"),
    *("Pacific/Apia", "Africa/Casablanca"),
)
# Days before changes of clock (Berlin, New York, Lord Howe, St. John's at 00:01), and where months and years meet.
FIRST_DAYS = (*(date(2026, 3, 27), date(2026, 10, 23), date(2025, 10, 30), date(2026, 4, 3)), date(2010, 11, 5))
DAYS = 6
MOST_BUCKETS = 300
QUARTER, HOUR, DAY = 900_000, 3_600_000, 86_400_000


@dataclass
class Kept:
    """A metric, and all that was ever received of it, in that order."""

    metric: PlacedMetric
    received: list[tuple[int, float]] = field(default_factory=list)


def power_kw(chance: Random) -> float:
    return chance.choice((0.0, 0.0, chance.randrange(-800, 800) / 8, chance.randrange(1, 80) / 8))


def counted_kwh(chance: Random, before: float) -> float:
    """A counter's next total: it rises, and now and then stands, dips, shows a single 0, or starts again."""
    kind = chance.randrange(40)
    if kind == 0:
        return chance.randrange(8) / 8  # a reset, or a rollover
    if kind == 1:
        return 0.0
    if kind == 2:
        return max(0.0, before - 0.5)
    return before + chance.randrange(12) / 8


def stretch(chance: Random, metric: PlacedMetric, begin: int, end: int, mean_s: int) -> list[tuple[int, float]]:
    """Readings at irregular distances, of `mean_s` in the middle, with some on quarters of an hour, and gaps."""
    readings, at, total, before = [], begin, float(chance.randrange(1000)), 0.0
    while at < end:
        value = power_kw(chance)
        if metric.behaviour == "counter":
            shown = counted_kwh(chance, total)
            # after a single 0 the counter goes on where it was
            total = max(total, shown) if shown == 0.0 and before > 0 else shown
            value = before = shown
        readings.append((at, value))
        step = chance.randrange(1, 2000 * mean_s)
        if chance.randrange(60) == 0:
            step += chance.randrange(4 * HOUR)
        at += step
        if chance.randrange(12) == 0:
            at += -at % QUARTER
    return readings


def assert_is_the_reference_s(series: Series, kept: Kept, edges: list[int], now: int) -> None:
    metric, aggregate = kept.metric, series.request.aggregate
    assert aggregate is not None and series.coverage is not None
    buckets = reference.history(
        kept.received,
        aggregate=aggregate,
        behaviour=metric.behaviour,
        max_gap_s=metric.max_gap_s,
        edges=edges,
        now=now,
        scale=Fraction(1, 1000) if metric.unit == "W" and aggregate in OF_POWER else Fraction(1),
    )
    assert series.timestamps.tolist() == edges[:-1]
    assert series.coverage.tolist() == pytest.approx([float(b.coverage) for b in buckets], abs=1e-12)
    for begin, got, bucket in zip(edges, column(series.values), buckets, strict=False):
        at = (aggregate, from_ms(begin).isoformat(), got, bucket)
        if got is None or bucket.value is None:
            assert got is None and bucket.value is None, at
        else:
            assert abs(got - float(bucket.value)) <= 1e-9 * float(bucket.magnitude) + 1e-12, at


class Living:
    """Three metrics over some days: a signed power, a switch that holds until it is turned, and a counter."""

    def __init__(self, recorder: Recorder, data: st.DataObject) -> None:
        self.recorder, self.draw = recorder, data.draw
        self.first = self.draw(st.sampled_from(FIRST_DAYS))
        self.begin_ms = to_ms(datetime(self.first.year, self.first.month, self.first.day, tzinfo=UTC))
        self.kept = [
            Kept(recorder.metric(unit=self.draw(st.sampled_from(["kW", "W"])))),
            Kept(recorder.metric(max_gap_s=None)),
            Kept(recorder.metric(behaviour="counter")),
        ]
        self.asked: list[Window] = []
        chance, end = self.chance(), self.begin_ms + DAYS * DAY
        self.receive(*((kept, stretch(chance, kept.metric, self.begin_ms, end, 300)) for kept in self.kept))

    def chance(self) -> Random:
        return Random(self.draw(st.integers(0, 2**32)))

    def any_kept(self) -> Kept:
        return self.draw(st.sampled_from(self.kept))

    def receive(self, *parts: tuple[Kept, Iterable[tuple[int, float]]]) -> None:
        batch = [(kept, list(readings)) for kept, readings in parts]
        for kept, readings in batch:
            kept.received += readings
        self.recorder.append(*((kept.metric, readings) for kept, readings in batch))

    # ── what arrives ──

    def hours_come_late(self) -> None:
        """A gateway was cut off: its readings lie among those that are there, or before all of them."""
        chance, kept = self.chance(), self.any_kept()
        begin = self.begin_ms + chance.randrange(-48, DAYS * 24) * HOUR
        self.receive((kept, stretch(chance, kept.metric, begin, begin + chance.randrange(1, 30) * HOUR, 300)))

    def single_ones_come_late(self) -> None:
        """At, next to, inside and before a window that was asked, and where two quarters of an hour meet."""
        chance, window = self.chance(), self.draw(st.sampled_from(self.asked))
        start, end = window.start_ms, window.end_ms
        inside = chance.randrange(start, end)
        for at in (start - chance.randrange(HOUR), start, inside, inside - inside % QUARTER, end - 1, end):
            if chance.randrange(2):
                self.receive(
                    (self.any_kept(), [(at + chance.choice((-1, 0, 0, 1)), chance.choice((0.0, -3.5, 1000.0)))])
                )

    def some_are_corrected(self) -> None:
        """Other values for times that are known, some of them twice in the batch."""
        chance, kept = self.chance(), self.any_kept()
        times = [chance.choice(kept.received)[0] for _ in range(chance.randrange(1, 40))]
        self.receive((kept, [(at, power_kw(chance)) for at in times]))

    def some_are_sent_again(self) -> None:
        """The same values for the same times: nothing changes."""
        chance = self.chance()
        for kept in self.kept:
            survivors = [(at, float(value)) for at, value in reference.surviving(kept.received)]
            first = chance.randrange(len(survivors))
            self.receive((kept, survivors[first : first + chance.randrange(1, 300)]))

    def a_value_is_believed_for_another_time(self) -> None:
        for kept in self.kept:
            gap = self.draw(st.sampled_from([None, 60, 300, 900, 1000, 7200, 2 * 86_400]))
            kept.metric = msgspec.structs.replace(kept.metric, max_gap_s=gap)

    def something_happens(self) -> None:
        self.draw(
            st.sampled_from(
                [
                    self.hours_come_late,
                    self.single_ones_come_late,
                    self.some_are_corrected,
                    self.some_are_sent_again,
                    self.a_value_is_believed_for_another_time,
                ]
            )
        )()

    # ── what is asked ──

    def new_window(self) -> Window:
        """From and until midnights of a zone, quarters of an hour, and anything; mostly of several days."""
        zone = ZoneInfo(self.draw(st.sampled_from(ZONES)))
        midnights = [
            to_ms(datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC))
            for day in (self.first + timedelta(days=number) for number in range(-2, DAYS + 3))
        ]
        quarters = st.integers(-10, 96 * DAYS + 10).map(lambda number: self.begin_ms + number * QUARTER)
        anything = st.integers(self.begin_ms - DAY, self.begin_ms + (DAYS + 1) * DAY)
        instants = st.sampled_from(midnights) | st.sampled_from(midnights) | quarters | anything
        start, end = sorted(self.draw(st.lists(instants, min_size=2, max_size=2, unique=True)))
        self.asked.append(Window(from_ms(start), from_ms(end)))
        return self.asked[-1]

    def ask(self, window: Window) -> None:
        """In any zone and resolution, by an aggregate of readings, one of power and the counter's."""
        timezone = self.draw(st.sampled_from(ZONES))
        zone = ZoneInfo(timezone)
        fitting = [r for r in RESOLUTIONS if r.count(window, zone, most=MOST_BUCKETS) <= MOST_BUCKETS]
        resolution = self.draw(st.sampled_from(fitting[:3] + fitting[-4:]))
        long_after = to_ms(LONG_AFTER)
        now = self.draw(st.sampled_from([long_after] * 3) | st.integers(window.start_ms, window.end_ms))
        edges = resolution.buckets(window, zone)
        for which, aggregates in ((self.kept, OF_READINGS), (self.kept[:2], OF_POWER), (self.kept[2:], OF_COUNTERS)):
            answer = self.recorder.ask(
                *(kept.metric for kept in which),
                start=window.start_ms,
                end=window.end_ms,
                now=now,
                resolution=resolution.name,
                timezone=timezone,
                aggregate=self.draw(st.sampled_from(aggregates)),
            )
            for series, kept in zip(answer.series, which, strict=True):
                assert_is_the_reference_s(series, kept, edges, now)


@given(data=st.data())
@settings(derandomize=True, deadline=None, database=None, max_examples=9, suppress_health_check=list(HealthCheck))
def test_every_answer_is_that_of_the_readings_alone(recorder: Recorder, data: st.DataObject) -> None:
    living = Living(recorder, data)
    for _ in range(5):
        living.ask(living.new_window())
        living.something_happens()
        living.ask(data.draw(st.sampled_from(living.asked)))


def test_a_month_by_the_minute(recorder: Recorder) -> None:
    """Enough for what is kept of long histories only: asked, corrected inside and before, and asked again."""
    chance, begin = Random(5), to_ms(datetime(2026, 3, 5, tzinfo=UTC))
    power, energy = Kept(recorder.metric()), Kept(recorder.metric(behaviour="counter"))
    arriving = [(kept, stretch(chance, kept.metric, begin, begin + 32 * DAY, 100)) for kept in (power, energy)]
    zone, window = ZoneInfo("Europe/Berlin"), Window(from_ms(begin + DAY - HOUR), from_ms(begin + 31 * DAY - 2 * HOUR))
    changes = [
        [(power, [(begin + 14 * DAY, 99.5)]), (energy, [(begin + 14 * DAY + 1, 3.0)])],
        [(kept, stretch(chance, kept.metric, begin + 22 * DAY, begin + 23 * DAY, 30)) for kept in (power, energy)],
        [(kept, [(begin + DAY - HOUR - 1, 5.5)]) for kept in (power, energy)],  # just before the window
    ]
    questions = (("1d", power, "energy_positive"), ("1h", power, "mean"), ("1d", energy, "delta"))
    for batch in [arriving, *changes]:
        for kept, readings in batch:
            kept.received += readings
            recorder.append((kept.metric, readings))
        for resolution, kept, aggregate in questions:
            edges = timespan.resolution_named(resolution).buckets(window, zone)
            answer = recorder.ask(
                kept.metric,
                start=window.start_ms,
                end=window.end_ms,
                resolution=resolution,
                timezone=zone.key,
                aggregate=aggregate,
            )
            assert_is_the_reference_s(answer.series[0], kept, edges, to_ms(LONG_AFTER))
