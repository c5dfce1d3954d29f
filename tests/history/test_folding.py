"""Old readings are folded: no answer changes by it, wherever the work is cut off."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from kilowatch.auth.model import OPERATOR
from kilowatch.errors import Invalid
from kilowatch.facility import service as facility
from kilowatch.facility.erasures import FOLDING
from kilowatch.facility.model import PlacedMetric
from kilowatch.history.folding import WAIT, WATCHED, Folding, border_of
from kilowatch.history.intervals import QUARTER_MS
from kilowatch.history.model import Aggregate
from kilowatch.history.service import Query
from kilowatch.history.spans import DAY_MS
from kilowatch.kit.timespan import Window, from_ms, to_ms
from kilowatch.services import Kilowatch
from tests.conftest import Clock
from tests.history.conftest import batch_of, ms
from tests.processes import wait_until

SENT = datetime(2026, 10, 27, 9, 30, tzinfo=UTC)
"""When all readings come in: two days after clocks went back in Europe."""

ZONES = ("UTC", "Europe/Berlin", "Asia/Kathmandu", "Australia/Lord_Howe", "America/St_Johns")
OF_POWER: tuple[Aggregate, ...] = (
    "mean", "min", "max", "first", "last", "sum", "count", "energy", "energy_positive", "energy_negative",
)  # fmt: skip
OF_A_COUNTER: tuple[Aggregate, ...] = ("delta", "mean", "min", "max", "first", "last", "sum", "count")
Readings = Sequence[tuple[int, float]]
_numbers = count(1)


@dataclass
class Keeping:
    """A site that keeps raw readings for seven days, with a gauge of power and a counter of energy."""

    services: Kilowatch
    clock: Clock
    site_id: int
    ids: tuple[int, ...]

    @classmethod
    def of(
        cls, services: Kilowatch, clock: Clock, *, timezone: str = "UTC", raw_days: int | None = 7, more: int = 0
    ) -> "Keeping":
        """`more`: gauges besides."""
        number = next(_numbers)
        site: dict[str, Any] = dict.fromkeys(("latitude", "longitude", "country", "currency", "notes"))
        site |= {"name": "Site", "slug": f"site-{number}", "timezone": timezone, "raw_days": raw_days}
        site_id = services.catalogue.create_site(OPERATOR, site).id
        usual: dict[str, Any] = {"valid_min": None, "valid_max": None}
        power = {"key": "power", "name": "Power", "quantity": "power", "unit": "kW", "behaviour": "gauge"}
        energy = {"key": "energy", "name": "Energy", "quantity": "energy", "unit": "kWh", "behaviour": "counter"}
        metrics = [usual | power | {"max_gap_s": 900}, usual | energy | {"max_gap_s": None}]
        metrics += [usual | power | {"key": f"power_{number}", "max_gap_s": 900} for number in range(more)]
        device: dict[str, Any] = dict.fromkeys(("manufacturer", "model", "serial_number", "commissioned_on"))
        device |= {"name": "Device", "slug": "device", "kind": "generic", "source": "reported", "properties": {}}
        device |= {"interval_s": 60, "create_metrics": False}
        made = services.catalogue.create_device(OPERATOR, site_id, device, metrics=metrics)
        return cls(services, clock, site_id, tuple(metric.id for metric in made.metrics))

    @property
    def metrics(self) -> list[PlacedMetric]:
        """As the catalogue says now."""
        with self.services.database.read() as connection:
            return facility.metrics_of_site(connection, self.site_id)

    @property
    def store(self) -> Any:
        assert self.services.history is not None
        return self.services.history

    def send(self, *readings: Readings) -> None:
        self.store.append(batch_of(*zip(self.ids, readings, strict=False)))

    def folding(self) -> Folding:
        """Of a process that has watched the clock for long enough to believe it."""
        self.clock.now -= WATCHED
        folding = self.services.folding(elapsed=self.clock.elapsed)
        self.clock.now += WATCHED
        return folding

    def fold(self) -> Folding:
        """Until all is folded that is due, and nothing is deleted yet."""
        folding = self.folding()
        folding._folded_at = self.clock.elapsed() + WAIT.total_seconds()  # what it finds folded is left as long
        folding.tick()
        self.clock.now += WAIT
        folding.tick()
        return folding

    def fold_and_delete(self) -> None:
        folding = self.fold()
        self.clock.now += WAIT
        folding.tick()

    def forget(self) -> None:
        """What is in memory of the history."""
        self.store.spans.removed(self.ids)

    def raw_rows(self) -> int:
        """Readings that take room as such."""
        return sum(self.store._count("SELECT count() FROM readings WHERE metric_id IN {ids:Array(UInt32)}", [one])
                   for one in self.ids)  # fmt: skip

    def ask(self, metric: PlacedMetric, window: Window, **query: Any) -> tuple[Any, ...]:
        found = self.services.histories.history([metric], Query(window, **query))
        (series,) = found.series
        coverage = b"" if series.coverage is None else series.coverage.tobytes()
        return found.window, series.timestamps.tolist(), series.values.tobytes(), coverage

    def raw(self, metric: PlacedMetric, window: Window, **query: Any) -> list[tuple[int, float]]:
        found = self.services.histories.history([metric], Query(window, "raw", **query)).series[0]
        return list(zip(found.timestamps.tolist(), found.values.tolist(), strict=True))


@pytest.fixture
def keeping(services: Kilowatch, clock: Clock) -> Keeping:
    clock.now = SENT
    return Keeping.of(services, clock)


def window(start: str | int, end: str | int) -> Window:
    return Window(from_ms(ms(start)), from_ms(ms(end)))


def minutes(begin: str, number: int, *, step_s: int = 60) -> list[tuple[int, float]]:
    return [(ms(begin) + place * step_s * 1000, float(place % 7) - 2) for place in range(number)]


# ── any answer ───────────────────────────────────────────────────────────────────────────────────────────────────────

VALUES = st.sampled_from((-4.0, -0.1, 0.0, 0.3, 1.0, 7.7, 100.1, 40.0, 1000.3))


@st.composite
def some_readings(draw: st.DrawFn) -> list[tuple[int, float]]:
    """Of five days, in the order of their arrival: regular ones, gaps, some late, some twice, falls of counters."""
    times: list[int] = []
    for _ in range(draw(st.integers(1, 5))):
        begin = draw(st.integers(0, 5 * 96)) * QUARTER_MS + draw(st.sampled_from((0, 1, 450_000, 899_999)))
        step = draw(st.sampled_from((60_000, 300_000, 900_000, 5_000_000)))
        times += [begin + number * step for number in range(draw(st.integers(1, 30)))]
    times += draw(st.lists(st.sampled_from(times), max_size=5))
    return [(instant, draw(VALUES)) for instant in times]


QUARTERS = st.integers(-10, 6 * 96).map(lambda number: number * QUARTER_MS)
QUESTIONS = st.lists(
    st.tuples(QUARTERS, QUARTERS, st.sampled_from(("15m", "30m", "1h", "1d", "1w", "1mo")), st.sampled_from(ZONES)),
    min_size=1,
    max_size=3,
)


class TestAnyAnswer:
    @given(
        readings=st.tuples(some_readings(), some_readings()),
        timezone=st.sampled_from(ZONES),
        questions=QUESTIONS,
        hours=st.integers(24 * 7 + 2, 24 * 12),
        stops=st.lists(st.integers(0, 4), max_size=2),
        half=QUARTERS,
    )
    @settings(
        max_examples=8,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
        phases=(Phase.explicit, Phase.reuse, Phase.generate),  # an example takes a second: to shrink one, minutes
    )
    def test_is_the_same_to_the_bit_wherever_folding_is_cut_off(
        self,
        services: Kilowatch,
        clock: Clock,
        readings: tuple[Readings, Readings],
        timezone: str,
        questions: list[tuple[int, int, str, str]],
        hours: int,
        stops: list[int],
        half: int,
    ) -> None:
        # Each example comes after the one before, as the store receives nothing earlier than what it has.
        clock.now = sent = SENT + timedelta(days=28 * next(_numbers))
        keeping = Keeping.of(services, clock, timezone=timezone)
        first = to_ms(sent) // DAY_MS * DAY_MS - 2 * DAY_MS
        readings = tuple([(first + instant, value) for instant, value in some] for some in readings)  # type: ignore[assignment]
        keeping.send(*readings)
        clock.now = sent + timedelta(hours=hours)
        questions = [
            (first + min(a, b), first + max(a, b) + QUARTER_MS * (a == b), resolution, zone)
            for a, b, resolution, zone in questions
        ]
        questions.append((first - DAY_MS, first + 30 * DAY_MS, "1h", timezone))

        def answers(of_power: Sequence[Aggregate], of_a_counter: Sequence[Aggregate]) -> list[Any]:
            return [
                keeping.ask(metric, window(start, end), resolution=resolution, timezone=zone, aggregate=aggregate)
                for metric, aggregates in zip(keeping.metrics, (of_power, of_a_counter), strict=True)
                for aggregate in aggregates
                for start, end, resolution, zone in questions
            ]

        some: tuple[Sequence[Aggregate], ...]
        every: tuple[Sequence[Aggregate], ...]
        some, every = (("energy",), ("delta",)), (OF_POWER, OF_A_COUNTER)
        before, all_before = answers(*some), answers(*every)
        newest = keeping.store.latest(np.array(keeping.ids, np.uint32)).tolist()
        counted = keeping.store.count(keeping.ids)
        for calls in (*stops, 1_000):  # the last time it is not cut off
            folding = keeping.folding()
            for _ in range(3):
                left = count(calls, -1)
                folding.tick(stop=lambda left=left: next(left) <= 0)  # type: ignore[misc]
                clock.now += WAIT
                keeping.forget()
                assert answers(*some) == before
                assert keeping.store.count(keeping.ids) == counted
            keeping.store.folded.delete_raw(
                keeping.ids, window(first - DAY_MS, first + half), made_until=to_ms(clock.now - WAIT)
            )
            assert answers(*some) == before
        keeping.forget()
        assert answers(*every) == all_before
        assert keeping.store.latest(np.array(keeping.ids, np.uint32)).tolist() == newest
        border = to_ms(border_of(timezone, 7, clock.now))
        for metric, arrived in zip(keeping.metrics, readings, strict=True):
            last = dict(arrived)
            kept = keeping.raw(metric, window(first - DAY_MS, first + 30 * DAY_MS), limit=None)
            assert all(last[instant] == value for instant, value in kept)
            expected = {instant for instant in last if instant >= border}
            for quarter in {instant // QUARTER_MS for instant in last if instant < border}:
                inside = [instant for instant in last if instant // QUARTER_MS == quarter]
                expected |= {min(inside), max(inside)}
            assert [instant for instant, _ in kept] == sorted(expected)


class TestFolding:
    def test_leaves_the_first_and_the_last_reading_of_each_quarter(self, keeping: Keeping) -> None:
        readings = minutes("2026-10-25T00:00", 60)
        keeping.send(readings)
        keeping.clock.now = SENT + timedelta(days=8)
        keeping.fold_and_delete()
        metric = keeping.metrics[0]
        asked = window("2026-10-25T00:00", "2026-10-25T02:00")
        kept = [reading for place, reading in enumerate(readings) if place % 15 in (0, 14)]
        assert keeping.raw(metric, asked) == kept
        assert keeping.raw_rows() == 0
        found = keeping.services.histories.history([metric], Query(asked, "raw"))
        assert found.raw_from == {metric.id: ms("2026-10-25T01:00")}

    def test_of_a_part_of_a_day_is_told_whatever_was_asked_of_its_rest_before(
        self, services: Kilowatch, clock: Clock
    ) -> None:
        """Days of UTC are kept in memory, and a site's day ends within one."""
        clock.now = SENT
        keeping = Keeping.of(services, clock, timezone="Asia/Kathmandu")
        readings = minutes("2026-10-28T18:00", 30)
        keeping.send(readings)
        clock.now = datetime(2026, 11, 5, 1, tzinfo=UTC)
        keeping.fold_and_delete()
        metric = keeping.metrics[0]
        assert metric.folded_until == datetime(2026, 10, 28, 18, 15, tzinfo=UTC)
        rest = window("2026-10-28T18:15", "2026-10-28T19:00")
        assert keeping.raw(metric, rest) == readings[15:]
        whole = window("2026-10-28T18:00", "2026-10-28T19:00")
        assert keeping.raw(metric, whole) == [readings[0], readings[14], *readings[15:]]

    def test_leaves_a_quarter_folded_whose_readings_are_gone(self, keeping: Keeping) -> None:
        """More may come of it, of a simulated device say: they can't take the place of what was deleted."""
        readings = minutes("2026-10-25T00:00", 3)
        keeping.send(readings)
        keeping.clock.now = SENT + timedelta(days=8)
        keeping.fold_and_delete()
        keeping.store.backfill(batch_of((keeping.ids[0], minutes("2026-10-25T00:03", 12))))
        keeping.clock.now += WAIT
        keeping.fold_and_delete()
        metric, asked = keeping.metrics[0], window("2026-10-25T00:00", "2026-10-25T01:00")
        assert keeping.raw(metric, asked) == [readings[0], readings[2]]

    def test_is_told_to_its_end_page_by_page(self, keeping: Keeping) -> None:
        """Though a reading a quarter leaves the first and the last quarter of a window empty."""
        keeping.send(*[minutes("2026-10-25T00:07:30", 6, step_s=900)] * 2)
        keeping.clock.now = SENT + timedelta(days=8)
        keeping.fold_and_delete()
        asked = window("2026-10-25T00:08", "2026-10-25T01:20")
        for limit in range(1, 10):
            found = keeping.services.histories.history(keeping.metrics, Query(asked, "raw", limit=limit))
            assert sum(len(series.timestamps) for series in found.series) == min(limit, 8)
            assert (found.next is None) == (limit >= 8)

    def test_takes_only_whole_days_of_the_site_that_are_older_than_it_keeps(
        self, services: Kilowatch, clock: Clock
    ) -> None:
        clock.now = SENT
        keeping = Keeping.of(services, clock, timezone="Asia/Kathmandu")
        keeping.send(minutes("2026-10-25T00:00", 48, step_s=3600))
        clock.now = datetime(2026, 11, 3, 18, 20, tzinfo=UTC)  # 00:05 of the 4th there
        keeping.fold()
        assert keeping.metrics[0].folded_until == datetime(2026, 10, 27, 18, 15, tzinfo=UTC) - timedelta(days=0)

    def test_waits_until_everybody_knows_of_the_border(self, keeping: Keeping) -> None:
        keeping.send(minutes("2026-10-25T00:00", 60))
        keeping.clock.now = SENT + timedelta(days=8)
        folding = keeping.folding()
        folding.tick()
        keeping.clock.now += WAIT - timedelta(seconds=1)
        folding.tick()
        assert keeping.store.folded.count(keeping.ids) == (0, 0)
        keeping.clock.now += timedelta(seconds=1)
        folding.tick()
        assert keeping.store.folded.count(keeping.ids) == (60, 60)

    def test_leaves_what_a_stream_may_still_ask_for(self, keeping: Keeping) -> None:
        keeping.clock.now = SENT + timedelta(days=5)
        keeping.send(minutes("2026-10-20T00:00", 15))
        keeping.clock.now = SENT + timedelta(days=10)
        keeping.fold_and_delete()
        assert keeping.raw_rows() == 15
        keeping.clock.now = SENT + timedelta(days=13)
        keeping.fold_and_delete()
        assert keeping.raw_rows() == 0

    def test_folds_nothing_where_raw_readings_are_kept_for_ever(self, services: Kilowatch, clock: Clock) -> None:
        clock.now = SENT
        keeping = Keeping.of(services, clock, raw_days=None)
        keeping.send(minutes("2021-10-20T00:00", 15))
        keeping.clock.now = SENT + timedelta(days=1000)
        keeping.fold_and_delete()
        assert keeping.raw_rows() == 15
        assert keeping.metrics[0].folded_until is None

    def test_makes_a_quarter_raw_again_that_gets_readings_while_it_is_folded(self, keeping: Keeping) -> None:
        """By a request that looked before, and stored after."""
        keeping.send(minutes("2026-10-25T00:00", 15))
        keeping.clock.now = SENT + timedelta(days=8)
        folding = keeping.fold()
        keeping.send([(ms("2026-10-25T00:07:30"), 70.0)])
        keeping.clock.now += WAIT
        folding.tick()
        metric, asked = keeping.metrics[0], window("2026-10-25T00:00", "2026-10-25T01:00")
        assert (ms("2026-10-25T00:07:30"), 70.0) in keeping.raw(metric, asked)
        assert keeping.store.count([metric.id]) == 16
        keeping.clock.now += timedelta(days=8)
        keeping.fold_and_delete()
        assert keeping.raw_rows() == 0
        assert keeping.store.count([metric.id]) == 16

    def test_deletes_once_a_day(self, keeping: Keeping) -> None:
        keeping.send(minutes("2026-10-27T00:00", 2 * 1440))
        keeping.clock.now = datetime(2026, 11, 4, 23, 30, tzinfo=UTC)
        folding = keeping.fold()
        keeping.clock.now += WAIT
        folding.tick()
        assert keeping.raw_rows() == 1440
        keeping.clock.now += timedelta(hours=1)
        for _ in range(3):
            folding.tick()
            keeping.clock.now += WAIT
        assert keeping.store.folded.count(keeping.ids) == (2880, 1440)
        keeping.clock.now += timedelta(days=1)
        folding.tick()
        assert keeping.raw_rows() == 0

    def test_goes_on_after_an_insert_that_failed(self, keeping: Keeping, monkeypatch: pytest.MonkeyPatch) -> None:
        keeping.send(minutes("2026-10-25T00:00", 60))
        keeping.clock.now = SENT + timedelta(days=8)
        folding = keeping.folding()
        folding.tick()
        keeping.clock.now += WAIT
        with monkeypatch.context() as patch:
            patch.setattr(keeping.store._engine, "insert_apart", _fails)
            with pytest.raises(RuntimeError):
                folding.tick()
        folding.tick()
        assert keeping.store.folded.count(keeping.ids) == (60, 60)

    def test_does_no_harm_where_two_processes_take_themselves_for_the_leader(self, keeping: Keeping) -> None:
        """One of them has made up its mind, and comes to it when the other has folded and deleted."""
        readings = minutes("2026-10-25T00:00", 60)
        keeping.send(readings)
        keeping.clock.now = SENT + timedelta(days=8)
        slow = keeping.folding()
        metrics = {metric.id: metric for metric in keeping.metrics}
        slow.tick()
        (decided,) = slow._due(metrics, ms("2026-10-26T00:00"), keeping.clock.now, lambda: False)
        keeping.fold_and_delete()
        keeping.store.backfill(batch_of((keeping.ids[0], readings[:3])))  # some that are not deleted yet
        keeping.clock.now += WAIT
        slow._fold_step([decided])
        assert keeping.store.count([keeping.ids[0]]) == 60

    def test_of_other_sites_goes_on_where_one_has_a_fault(self, services: Kilowatch, clock: Clock) -> None:
        clock.now = SENT
        broken, sound = Keeping.of(services, clock), Keeping.of(services, clock)
        for keeping in (broken, sound):
            keeping.send(minutes("2026-10-25T00:00", 60))
        with services.database.write() as connection:
            connection.exec_driver_sql(f"UPDATE sites SET timezone = 'Atlantis' WHERE id = {broken.site_id}")
        clock.now = SENT + timedelta(days=8)
        folding = sound.folding()
        for _ in range(3):
            with pytest.raises(Invalid, match="Atlantis"):
                folding.tick()
            clock.now += WAIT
        assert (broken.raw_rows(), sound.raw_rows()) == (60, 0)

    def test_asks_as_little_for_many_metrics_as_for_two(
        self, services: Kilowatch, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """So that those who delete readings, which waits for a step, wait for a moment only."""
        found = []
        for number in (2, 30):
            clock.now += timedelta(days=30)
            keeping = Keeping.of(services, clock, more=number - 2)
            begin = clock.now - timedelta(days=3)
            readings = minutes(begin.strftime("%Y-%m-%dT00:00"), 96, step_s=900)
            keeping.send(*[readings] * number)
            clock.now += timedelta(days=9)
            folding = keeping.folding()
            folding.tick()
            clock.now += WAIT
            with monkeypatch.context() as patch:
                asked = _counted(keeping.store._engine, patch)
                folding.tick()
            assert keeping.store.folded.count(keeping.ids) == (96 * number, 96 * number)
            found.append(len(asked))
            services.catalogue.delete_site(OPERATOR, keeping.site_id)
        assert found[0] == found[1]


def _going_on(clock: Clock) -> datetime:
    clock.now += timedelta(milliseconds=1)
    return clock.now


def _fails(*_: object) -> None:
    raise RuntimeError("no disk")


def _counted(engine: Any, patch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of an engine from now on."""
    asked: list[str] = []

    def counting(call: Any) -> Any:
        def do(what: str, *rest: Any, **more: Any) -> Any:
            asked.append(what)
            return call(what, *rest, **more)

        return do

    for name in ("query", "columns", "lines", "command", "insert_apart"):
        patch.setattr(engine, name, counting(getattr(engine, name)))
    return asked


class TestTakingBack:
    @pytest.fixture
    def folding(self, keeping: Keeping) -> Folding:
        """A quarter that got a reading after it was folded."""
        keeping.send(minutes("2026-10-25T00:00", 15))
        keeping.clock.now = SENT + timedelta(days=8)
        folding = keeping.fold()
        keeping.send([(ms("2026-10-25T00:07:30"), 70.0)])
        keeping.clock.now += WAIT
        return folding

    def is_raw(self, keeping: Keeping) -> bool:
        asked = window("2026-10-25T00:00", "2026-10-25T01:00")
        return (ms("2026-10-25T00:07:30"), 70.0) in keeping.raw(keeping.metrics[0], asked)

    def test_takes_turns_with_deletions(
        self, keeping: Keeping, folding: Folding, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else what is being deleted would be there again."""
        unfold, could_delete = keeping.store.unfold, []

        def is_free() -> bool:
            return keeping.services.database._alone[FOLDING].acquire(blocking=False)

        def looked(*arguments: Any, **more: Any) -> None:
            with ThreadPoolExecutor(1) as somebody_else:
                could_delete.append(somebody_else.submit(is_free).result())
            unfold(*arguments, **more)

        monkeypatch.setattr(keeping.store, "unfold", looked)
        folding.tick()
        assert could_delete == [False]
        assert self.is_raw(keeping)

    def test_waits_until_no_readings_are_being_deleted(self, keeping: Keeping, folding: Folding) -> None:
        """They may be those that the quarter would have to have."""
        engine = keeping.store._engine
        engine.command("SYSTEM STOP MERGES readings", {})
        engine.command("ALTER TABLE readings DELETE WHERE value > 1000 SETTINGS mutations_sync = 0", {})
        folding.tick()
        assert not self.is_raw(keeping)
        engine.command("SYSTEM START MERGES readings", {})
        wait_until(lambda: not keeping.store.folded.is_deleting(), "the deletion has ended")
        keeping.clock.now += timedelta(hours=7)
        folding.tick()
        assert self.is_raw(keeping)


class TestANewLeader:
    def test_deletes_nothing_that_another_may_have_folded_a_moment_ago(self, keeping: Keeping) -> None:
        """Whoever decided something by what was so before is not done yet."""
        keeping.send(minutes("2026-10-25T00:00", 60))
        keeping.clock.now = SENT + timedelta(days=8)
        new = keeping.folding()
        new.lead(False)
        keeping.fold()
        new.lead(True)
        new.tick()
        assert keeping.raw_rows() == 60
        keeping.clock.now += WAIT
        new.tick()
        assert keeping.raw_rows() == 0

    def test_begins_anew_when_it_leads_again(self, keeping: Keeping) -> None:
        keeping.send(minutes("2026-10-25T00:00", 60))
        keeping.clock.now = SENT + timedelta(days=8)
        one, other = keeping.folding(), keeping.folding()
        one.lead(True)
        one.tick()
        keeping.clock.now += timedelta(days=1)
        one.lead(False)
        other.lead(True)
        other.tick()
        keeping.clock.now += WAIT
        other.tick()
        one.lead(True)
        one.tick()
        assert keeping.raw_rows() == 60

    def test_goes_on_where_one_was_told_to_stop_between_two_steps(
        self, keeping: Keeping, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of which the second was made up already."""
        monkeypatch.setattr("kilowatch.history.folding._METRICS_AT_ONCE", 1)
        keeping.send(minutes("2026-10-25T00:00", 60), minutes("2026-10-25T00:00", 60))
        keeping.clock.now = SENT + timedelta(days=8)
        folding = keeping.folding()
        folding.tick()
        keeping.clock.now += WAIT
        left = count(2, -1)
        folding.tick(stop=lambda: next(left) <= 0)
        assert keeping.store.folded.count(keeping.ids) == (60, 60)
        folding.tick()
        assert keeping.store.folded.count(keeping.ids) == (120, 120)


class TestAClockThatIsSet:
    @pytest.fixture
    def folding(self, keeping: Keeping) -> Folding:
        """Two days, of which the first is folded."""
        keeping.send(minutes("2026-10-26T00:00", 96, step_s=900), minutes("2026-10-27T00:00", 30, step_s=900))
        keeping.clock.now = datetime(2026, 11, 3, 12, tzinfo=UTC)
        return keeping.fold()

    def folded(self, keeping: Keeping) -> int:
        readings: int = keeping.store.folded.count(keeping.ids)[0]
        return readings

    def test_back_lets_what_is_decided_later_count(self, keeping: Keeping, folding: Folding) -> None:
        assert self.folded(keeping) == 96
        keeping.clock.set_by(hours=-5)
        keeping.send([(ms("2026-10-26T00:07:30"), 70.0)])
        keeping.clock.now += WAIT
        folding.tick()
        assert self.folded(keeping) == 95
        keeping.clock.now += timedelta(days=8)
        keeping.fold_and_delete()
        assert keeping.store.folded.count(keeping.ids) == (127, 0)

    def test_back_lets_what_another_process_decides_later_count(self, keeping: Keeping, folding: Folding) -> None:
        keeping.clock.set_by(hours=-5)
        keeping.send([(ms("2026-10-26T00:07:30"), 70.0)])
        another = keeping.folding()
        another.lead(True)
        another.tick()
        keeping.clock.now += WAIT
        another.tick()
        assert self.folded(keeping) == 95

    def test_years_ahead_folds_nothing_more_while_nobody_knows_whether_it_is_right(
        self, keeping: Keeping, folding: Folding
    ) -> None:
        border = keeping.metrics[0].folded_until
        keeping.clock.set_by(days=3 * 365)
        for _ in range(5):
            folding.tick()
            keeping.clock.now += timedelta(hours=1)
        keeping.services.folding(elapsed=keeping.clock.elapsed).tick()
        assert (keeping.metrics[0].folded_until, self.folded(keeping)) == (border, 96)
        keeping.clock.set_by(days=-3 * 365)
        keeping.clock.now += timedelta(days=1)
        folding.tick()
        keeping.clock.now += WAIT
        folding.tick()
        assert self.folded(keeping) == 126

    def test_is_believed_once_it_was_watched_for_hours(self, keeping: Keeping, folding: Folding) -> None:
        """As a server that was switched off for weeks has to go on."""
        keeping.clock.set_by(days=20)
        folding.tick()
        keeping.clock.now += WATCHED
        folding.tick()
        keeping.clock.now += WAIT
        folding.tick()
        assert self.folded(keeping) == 126

    def test_back_folds_only_what_is_due_by_then(self, services: Kilowatch, clock: Clock) -> None:
        """Though the border was moved by a wrong clock."""
        clock.now = SENT
        keeping = Keeping.of(services, clock, raw_days=30)
        keeping.send(minutes("2026-10-26T00:00", 60))
        folding = services.folding(elapsed=clock.elapsed)
        clock.set_by(days=365)
        folding.tick()
        clock.set_by(days=-365)
        clock.now += timedelta(days=12)
        for _ in range(3):
            folding.tick()
            clock.now += WAIT
        assert self.folded(keeping) == 0

    def test_does_not_matter_where_days_are_first_kept_for_a_while(self, services: Kilowatch, clock: Clock) -> None:
        """All years of before are folded at once, by a process that has just begun."""
        clock.now = SENT
        keeping = Keeping.of(services, clock)
        keeping.send(minutes("2020-01-01T00:00", 60, step_s=86_400 * 30))
        clock.now = SENT + timedelta(days=8)
        folding = services.folding(elapsed=clock.elapsed)
        folding.tick()
        clock.now += WAIT
        folding.tick()
        assert self.folded(keeping) == 60


class TestWindowsOverWhatIsFolded:
    @pytest.fixture
    def metric(self, keeping: Keeping) -> PlacedMetric:
        keeping.send(minutes("2026-10-25T00:00", 120), minutes("2026-10-25T00:00", 120))
        keeping.clock.now = SENT + timedelta(days=8)
        keeping.fold_and_delete()
        return keeping.metrics[0]

    @pytest.mark.parametrize("resolution", ["1s", "5m", "10m", "20m"])
    def test_have_no_buckets_that_cut_a_quarter(self, keeping: Keeping, metric: PlacedMetric, resolution: str) -> None:
        with pytest.raises(Invalid, match="15m"):
            keeping.ask(metric, window("2026-10-25T00:00", "2026-10-25T01:00"), resolution=resolution)

    def test_have_finer_buckets_where_all_is_raw(self, keeping: Keeping, metric: PlacedMetric) -> None:
        keeping.ask(metric, window("2026-10-25T02:00", "2026-10-25T03:00"), resolution="1m")

    def test_are_never_asked_finer_than_quarters_where_the_choice_is_ours(
        self, keeping: Keeping, metric: PlacedMetric
    ) -> None:
        asked = window("2026-10-25T00:00", "2026-10-25T01:00")
        found = keeping.services.histories.history([metric], Query(asked, "auto"))
        assert found.resolution is not None
        assert found.resolution.name == "15m"

    def test_begin_and_end_with_a_quarter(self, keeping: Keeping, metric: PlacedMetric) -> None:
        asked = window("2026-10-25T00:07", "2026-10-25T01:59:59.999")
        found = keeping.ask(metric, asked, resolution="1h")
        assert found[0] == window("2026-10-25T00:00", "2026-10-25T01:45")
        assert found == keeping.ask(metric, found[0], resolution="1h")

    def test_are_refused_inside_of_one_quarter(self, keeping: Keeping, metric: PlacedMetric) -> None:
        with pytest.raises(Invalid, match="a whole one"):
            keeping.ask(metric, window("2026-10-25T00:01", "2026-10-25T00:14"), resolution="1h")

    def test_are_widened_to_that_quarter_where_the_choice_is_ours(self, keeping: Keeping, metric: PlacedMetric) -> None:
        found = keeping.ask(metric, window("2026-10-25T00:01", "2026-10-25T00:14"))
        assert found[0] == window("2026-10-25T00:00", "2026-10-25T00:15")

    def test_have_pages_of_the_readings_that_are_kept(self, keeping: Keeping, metric: PlacedMetric) -> None:
        asked = window("2026-10-25T00:05", "2026-10-25T02:00")
        everything = keeping.raw(metric, asked, limit=None)
        assert len(everything) == 15
        histories, cursor, paged = keeping.services.histories, None, []
        while True:
            page = histories.history(keeping.metrics, Query(asked, "raw", limit=4, cursor=cursor))
            paged += [(s.request.metric.id, t) for s in page.series for t in s.timestamps.tolist()]
            if (cursor := page.next) is None:
                break
        assert paged == [(one, instant) for one in keeping.ids for instant, _ in everything]

    def test_keep_what_a_gauge_was_folded_with(self, keeping: Keeping, metric: PlacedMetric) -> None:
        before = keeping.ask(metric, window("2026-10-25T00:00", "2026-10-25T00:15"), resolution="15m")
        keeping.services.catalogue.change_metric(OPERATOR, metric.id, {"max_gap_s": 30})
        keeping.forget()
        after = keeping.ask(keeping.metrics[0], window("2026-10-25T00:00", "2026-10-25T00:15"), resolution="15m")
        held = [np.frombuffer(answer[3])[0] * 15 for answer in (before, after)]
        assert held == pytest.approx([15, 14.5])


class TestCorrections:
    @pytest.fixture
    def metric(self, keeping: Keeping) -> int:
        keeping.send(minutes("2026-10-25T00:00", 60))
        keeping.clock.now = SENT + timedelta(days=8)
        keeping.fold()
        return keeping.ids[0]

    @pytest.mark.parametrize("is_deleted", [False, True])
    def test_take_whole_quarters(self, keeping: Keeping, metric: int, is_deleted: bool) -> None:
        if is_deleted:
            keeping.clock.now += WAIT
            keeping.folding().tick()
        asked = window("2026-10-25T00:15", "2026-10-25T00:45")
        assert keeping.services.catalogue.delete_readings(OPERATOR, metric, asked).readings == 30
        left = keeping.ask(keeping.metrics[0], window("2026-10-25T00:00", "2026-10-25T01:00"), resolution="15m",
                           aggregate="count")  # fmt: skip
        assert np.frombuffer(left[2]).tolist() == pytest.approx([15, np.nan, np.nan, 15], nan_ok=True)
        assert keeping.store.count([metric]) == 30

    def test_are_refused_where_they_would_cut_a_quarter(self, keeping: Keeping, metric: int) -> None:
        with pytest.raises(Invalid) as refused:
            keeping.services.catalogue.delete_readings(OPERATOR, metric, window("2026-10-25T00:07", "2026-10-25T00:40"))
        assert [fault.pointer for fault in refused.value.faults] == ["/start", "/end"]
        assert "2026-10-25T00:15:00Z" in str(refused.value.faults[0].detail)

    def test_leave_the_last_of_what_is_left_as_latest(self, keeping: Keeping, metric: int) -> None:
        keeping.clock.now += WAIT
        keeping.folding().tick()
        keeping.services.catalogue.delete_readings(OPERATOR, metric, window("2026-10-25T00:45", "2026-10-26T00:00"))
        (row,) = keeping.store.latest(np.array([metric], np.uint32))
        assert (int(row["ts"]), float(row["value"])) == minutes("2026-10-25T00:00", 45)[-1]

    def test_make_room_for_the_same_quarter_again(self, keeping: Keeping, metric: int) -> None:
        asked = window("2026-10-25T00:00", "2026-10-25T00:15")
        instants = np.arange(asked.start_ms, asked.end_ms, 60_000)
        ids = np.full(len(instants), metric, np.uint32)
        assert keeping.store.are_folded(ids, instants).all()
        keeping.services.catalogue.delete_readings(OPERATOR, metric, asked)
        assert not keeping.store.are_folded(ids, instants).any()
        assert keeping.store.are_folded(ids, instants + QUARTER_MS).all()

    def test_of_all_readings_leave_nothing(self, keeping: Keeping, metric: int) -> None:
        keeping.store.erase([metric])
        assert keeping.store.count([metric]) == 0
        assert keeping.store.folded.count([metric]) == (0, 0)


class TestAreFolded:
    def test_finds_quarters_however_many_are_asked(self, keeping: Keeping, monkeypatch: pytest.MonkeyPatch) -> None:
        keeping.send(minutes("2026-10-25T00:00", 600, step_s=900), minutes("2026-10-25T12:00", 10, step_s=900))
        keeping.clock.now = SENT + timedelta(days=12)
        keeping.fold()
        instants = np.arange(ms("2026-10-24T00:00"), ms("2026-10-26T00:00"), 450_000)
        ids = np.repeat(np.array(keeping.ids, np.uint32), len(instants))
        times = np.tile(instants, 2)
        begins = (ms("2026-10-25T00:00"), ms("2026-10-25T12:00"))
        ends = (ms("2026-11-01T06:00"), ms("2026-10-25T14:30"))
        place = np.repeat([0, 1], len(instants))
        expected = (times >= np.array(begins)[place]) & (times < np.array(ends)[place])
        assert (keeping.store.are_folded(ids, times) == expected).all()
        monkeypatch.setattr("kilowatch.history.folded._MOST_BEGINS", 1)
        assert (keeping.store.are_folded(ids, times) == expected).all()


class TestDays:
    """Long stretches in whole days are answered out of cells of days."""

    @pytest.fixture
    def long(self, services: Kilowatch, clock: Clock) -> Keeping:
        clock.now = SENT
        keeping = Keeping.of(services, clock, timezone="Europe/Berlin")
        begin = "2026-07-20T00:00"
        keeping.send(minutes(begin, 97 * 288, step_s=300), minutes(begin, 97 * 24, step_s=3600))
        keeping.clock.now = SENT + timedelta(days=8)
        return keeping

    def ask(self, keeping: Keeping, place: int, **query: Any) -> tuple[list[float], list[float]]:
        keeping.forget()
        asked = window("2026-07-15T00:00+02:00", "2026-10-30T13:45+01:00")
        found = keeping.services.histories.history(
            [keeping.metrics[place]], Query(asked, **({"timezone": "Europe/Berlin"} | query))
        )
        coverage = found.series[0].coverage
        assert coverage is not None
        return found.series[0].values.tolist(), coverage.tolist()

    def days(self, keeping: Keeping, metric_id: int) -> int:
        everything = window("2000-01-01T00:00", "2100-01-01T00:00")
        found = keeping.store.folded.days({metric_id: "gauge"}, everything).get(metric_id)
        return 0 if found is None else len(found.begins)

    @pytest.mark.parametrize("resolution", ["1d", "1w", "1mo"])
    def test_tell_the_same_but_for_rounding(self, long: Keeping, resolution: str) -> None:
        def answers() -> list[Any]:
            return [
                self.ask(long, place, resolution=resolution, aggregate=aggregate)
                for place, aggregates in enumerate((OF_POWER, OF_A_COUNTER))
                for aggregate in aggregates
            ]

        before = answers()
        long.fold_and_delete()
        assert [self.days(long, metric_id) for metric_id in long.ids] == [98, 98]
        for found, expected in zip(answers(), before, strict=True):
            assert found[0] == pytest.approx(expected[0], rel=1e-12, abs=1e-9, nan_ok=True)
            assert found[1] == expected[1]

    def test_are_what_is_asked_first(self, long: Keeping) -> None:
        """Without their quarters, too."""
        long.fold_and_delete()
        before = self.ask(long, 0, resolution="1mo", aggregate="sum")
        long.store._engine.command("TRUNCATE TABLE quarters", {})
        assert self.ask(long, 0, resolution="1mo", aggregate="sum") == before

    def test_are_not_asked_in_another_zone(self, long: Keeping) -> None:
        long.fold_and_delete()
        before = self.ask(long, 0, resolution="1d", aggregate="count", timezone="Asia/Kathmandu")
        long.store._engine.command("TRUNCATE TABLE days", {})
        after = self.ask(long, 0, resolution="1d", aggregate="count", timezone="Asia/Kathmandu")
        assert (str(after[0]), after[1]) == (str(before[0]), before[1])

    @pytest.mark.parametrize("goes_on", [False, True])
    def test_have_what_comes_late_at_once(self, long: Keeping, goes_on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        """And are made anew once it is folded, though time goes on between two steps."""
        if goes_on:
            monkeypatch.setattr(Clock, "__call__", _going_on)
        long.services.catalogue.delete_readings(OPERATOR, long.ids[0], window("2026-08-03T06:00Z", "2026-08-03T09:00Z"))
        long.fold_and_delete()
        before = sum(self.ask(long, 0, resolution="1d", aggregate="sum")[0][6:20])
        long.send(minutes("2026-08-03T07:00", 5))
        added = sum(value for _, value in minutes("2026-08-03T07:00", 5))
        for days in (0, 8, 1):
            long.clock.now += timedelta(days=days)
            long.fold_and_delete()
            after = sum(self.ask(long, 0, resolution="1d", aggregate="sum")[0][6:20])
            assert after == pytest.approx(before + added)
        assert long.raw_rows() == 0
        assert self.days(long, long.ids[0]) == 98

    def test_go_with_the_quarters_that_are_deleted(self, long: Keeping) -> None:
        long.fold_and_delete()
        asked = window("2026-08-03T06:00Z", "2026-08-03T09:00Z")
        long.services.catalogue.delete_readings(OPERATOR, long.ids[0], asked)
        assert self.days(long, long.ids[0]) == 97
        counts, _ = self.ask(long, 0, resolution="1mo", aggregate="count")
        assert sum(counts) == 97 * 288 - 36
        long.clock.now += timedelta(days=1)
        long.fold_and_delete()
        assert self.days(long, long.ids[0]) == 98
        assert sum(self.ask(long, 0, resolution="1mo", aggregate="count")[0]) == 97 * 288 - 36

    def test_are_made_anew_where_a_value_is_believed_for_another_time(self, long: Keeping) -> None:
        long.fold_and_delete()
        long.services.catalogue.change_metric(OPERATOR, long.ids[0], {"max_gap_s": 60})
        in_days = self.ask(long, 0, resolution="1d")
        in_hours = self.ask(long, 0, resolution="1h")[1]
        assert in_days[1][10] == pytest.approx(sum(in_hours[240:264]) / 24)
        long.fold_and_delete()
        assert self.ask(long, 0, resolution="1d")[1] == pytest.approx(in_days[1])
