"""What is kept in memory is what the engine has, whatever is stored, removed, asked and started anew in any order.

The model is a dictionary of readings; what its buckets are is worked out of all its readings at once.
"""

import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import count, cycle
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from kilowatch.facility.model import PlacedMetric
from kilowatch.history import service
from kilowatch.history.intervals import QUARTER_MS
from kilowatch.history.model import Aggregate, Series
from kilowatch.history.service import Query
from kilowatch.history.spans import DAY_MS, WEEK_MS
from kilowatch.history.store import HistoryStore
from kilowatch.kit.memory import NotKept, alone
from kilowatch.kit.timespan import Window, from_ms, resolution_named, zone
from tests.conftest import Clock
from tests.history.conftest import LONG_AFTER, Recorder, batch_of
from tests.history.test_intervals import aggregate_readings

BEGIN = 2900 * WEEK_MS
_numbers = count(1)

INSTANTS = st.builds(
    lambda day, quarter, rest: BEGIN + day * DAY_MS + quarter * QUARTER_MS + rest,
    st.sampled_from((0, 1, 6, 7, 8, 13, 14, 20)),
    st.sampled_from((0, 1, 2, 3, 48, 95)),
    st.sampled_from((0, 0, 1, 60_000, 450_000, QUARTER_MS - 1)),
)
VALUES = st.sampled_from((-4.0, 0.0, 0.125, 1.0, 3.0, 7.5, 100.0, 1000.0))
WINDOWS = st.tuples(INSTANTS, INSTANTS, st.booleans()).map(
    lambda drawn: (
        (BEGIN, BEGIN + 3 * WEEK_MS) if drawn[2] else (min(drawn[:2]), max(drawn[:2]) + (drawn[0] == drawn[1]))
    )
)
QUESTIONS = st.sampled_from(
    (
        {"resolution": "raw", "limit": None},
        {"resolution": "raw", "limit": 20_000},
        {"resolution": "1d"},
        {"resolution": "1h", "timezone": "Asia/Kathmandu"},
        {"resolution": "1w", "timezone": "Europe/Berlin"},
        {"resolution": "1d", "aggregate": "sum"},
        {"resolution": "1d", "aggregate": "count"},
        {"resolution": "1d", "aggregate": "last"},
    )
)
DAYS_OFF = st.sampled_from((0, 0, -400, 400))
Key = tuple[int, int]


class Memories(RuleBasedStateMachine):
    """One gauge and one counter in a store that other examples have used already."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[Key, float] = {}
        self.recorder = self._opened()
        first = 3 * next(_numbers)
        self.metrics = [
            self.recorder.metric(id=first),
            self.recorder.metric(id=first + 1, behaviour="counter"),
            self.recorder.metric(id=first + 2, max_gap_s=None),
        ]

    def _opened(self) -> Recorder:
        clock = Clock(LONG_AFTER)
        return Recorder(HistoryStore(self.url, connections=1, sync=False, clock=clock), clock)

    @rule(
        rows=st.lists(st.tuples(st.integers(0, 2), INSTANTS, VALUES), min_size=1, max_size=12),
        times=st.integers(1, 2),
        days_off=DAYS_OFF,
    )
    def store(self, rows: list[tuple[int, int, float]], times: int, days_off: int) -> None:
        """Some of them are sent again, by senders and with clocks of any kind."""
        self.recorder.clock.now = LONG_AFTER + timedelta(days=days_off)
        batch = batch_of(*((self.metrics[place].id, [(instant, value)]) for place, instant, value in rows))
        new = {(self.metrics[place].id, instant): value for place, instant, value in rows}
        replaced = self.recorder.store.compare(batch).replaced
        expected = {key for key, value in new.items() if self.known.get(key, value) != value}
        assert {key: told.readings for key, told in replaced.items()} == {
            metric_id: sum(key[0] == metric_id for key in expected) for metric_id, _ in expected
        }
        for _ in range(times):
            self.recorder.store.append(batch)
        self.known |= new

    @rule(place=st.integers(0, 2), window=WINDOWS)
    def remove(self, place: int, window: tuple[int, int]) -> None:
        metric_id, asked = self.metrics[place].id, Window(from_ms(window[0]), from_ms(window[1]))
        stored = self.recorder.store.stored_in_window(metric_id, asked)
        gone = {key for key in self.known if key[0] == metric_id and window[0] <= key[1] < window[1]}
        assert stored.readings == len(gone)
        self.recorder.store.erase_window(metric_id, asked, received_until=stored.received_until)
        self.known = {key: value for key, value in self.known.items() if key not in gone}

    @rule(place=st.integers(0, 2))
    def remove_all(self, place: int) -> None:
        self.recorder.store.erase([self.metrics[place].id])
        self.known = {key: value for key, value in self.known.items() if key[0] != self.metrics[place].id}

    @precondition(lambda self: self.known)
    @rule(is_killed=st.booleans())
    def restart(self, is_killed: bool) -> None:
        store = self.recorder.store
        if is_killed:  # what a process does at its end is not done
            store._written_until = store._stored_until
        store.close()
        self.recorder = self._opened()

    @rule(window=WINDOWS, question=QUESTIONS, max_gap_s=st.sampled_from((None, 900, 5000)), until=st.none() | INSTANTS)
    def ask(self, window: tuple[int, int], question: dict[str, Any], max_gap_s: int | None, until: int | None) -> None:
        self.metrics[2] = self.recorder.metric(id=self.metrics[2].id, max_gap_s=max_gap_s)
        now = LONG_AFTER if until is None else from_ms(until)
        history = self.recorder.ask(*self.metrics, start=window[0], end=window[1], now=until, **question)
        for metric, series in zip(self.metrics, history.series, strict=True):
            if question["resolution"] == "raw":
                found = list(zip(series.timestamps.tolist(), series.values.tolist(), strict=True))
                assert found == [reading for reading in self._of(metric) if window[0] <= reading[0] < window[1]]
            else:
                self._compare(metric, series, Window(*map(from_ms, window)), question, now)

    def _compare(
        self, metric: PlacedMetric, series: Series, window: Window, question: dict[str, Any], now: datetime
    ) -> None:
        edges = resolution_named(question["resolution"]).buckets(window, zone(question.get("timezone", "UTC")))
        timestamps, values = zip(*self._of(metric), strict=True) if self._of(metric) else ((), ())
        aggregate: Aggregate = question.get("aggregate") or ("delta" if metric.behaviour == "counter" else "mean")
        buckets = aggregate_readings(
            np.array(timestamps, np.int64),
            np.array(values, np.float64),
            np.array(edges, np.int64),
            aggregate=aggregate,
            behaviour=metric.behaviour,
            max_gap_ms=None if metric.max_gap_s is None else metric.max_gap_s * 1000,
            now_ms=int(now.timestamp() * 1000),
        )
        assert series.values.tobytes() == buckets.values.tobytes()
        assert series.coverage is not None
        assert series.coverage.tolist() == (buckets.held_ms / np.diff(edges)).tolist()

    @rule()
    def look_at_the_latest(self) -> None:
        found = self.recorder.store.latest(np.array([metric.id for metric in self.metrics], np.uint32))
        assert [(row["ts"], row["value"]) for row in found] == [
            (self._of(metric) or [(-1, 0.0)])[-1] for metric in self.metrics
        ]

    def _of(self, metric: PlacedMetric) -> list[tuple[int, float]]:
        return sorted((instant, value) for (metric_id, instant), value in self.known.items() if metric_id == metric.id)

    def teardown(self) -> None:
        self.recorder.store.close()


def test_any_order_of_storing_removing_asking_and_starting_anew(shared_history_url: str) -> None:
    machine = type("OnThisStore", (Memories,), {"url": shared_history_url})
    steady = settings(
        derandomize=True,
        deadline=None,
        database=None,
        max_examples=5,
        stateful_step_count=20,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=steady)


class TestManyMetrics:
    def test_are_answered_in_parts_that_fit_in_memory_together(
        self, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        metrics = [recorder.metric() for _ in range(12)]
        instants = range(BEGIN, BEGIN + 4 * WEEK_MS, QUARTER_MS)
        recorder.append(*((metric, [(instant, float(metric.id)) for instant in instants]) for metric in metrics))

        def ask() -> tuple[bytes, int]:
            tracemalloc.start()
            # buckets of ten minutes are not made of cells that are kept
            history = recorder.ask(*metrics, start=BEGIN, end=BEGIN + 4 * WEEK_MS, resolution="10m", points=1)
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            return b"".join(series.values.tobytes() for series in history.series), most

        whole, most_of_whole = ask()
        monkeypatch.setattr(service, "_CELLS_AT_ONCE", 1)
        in_parts, most_of_parts = ask()
        assert in_parts == whole
        assert most_of_parts < most_of_whole * 0.6

    def test_are_not_told_in_the_event_loop(self, recorder: Recorder) -> None:
        metrics = [recorder.metric() for _ in range(1001)]
        with alone(), pytest.raises(NotKept):
            recorder.histories.latest(metrics)
        with alone():
            assert len(recorder.histories.latest(metrics[:1000])) == 1000
        assert len(recorder.histories.latest(metrics)) == 1001


class TestAtOnce:
    """Readers who fill the memory, while others store and remove: whoever asks after that was done sees it."""

    def test_what_was_acknowledged_is_seen_by_all_who_ask_later(self, recorder: Recorder) -> None:
        gauge, rounds = recorder.metric(), 30
        days = [BEGIN + day * DAY_MS for day in (0, 1, 6, 7, 8)]
        done, is_over = dict.fromkeys(days, 0), threading.Event()
        removals: list[int] = []

        def write() -> None:
            """In each day the number of the round; every seventh is removed again, and then the round is there anew."""
            try:
                for number in range(1, rounds):
                    for day in days:
                        recorder.append((gauge, [(day + 60_000, float(number)), (day + DAY_MS - 1, float(number))]))
                        done[day] = number
                    if number % 20 == 7:
                        removals.append(number)
                        done.update(dict.fromkeys(days[1:3], rounds))  # unknown, until the next is stored
                        window = Window(from_ms(BEGIN + DAY_MS), from_ms(BEGIN + 7 * DAY_MS))
                        until = recorder.store.stored_in_window(gauge.id, window).received_until
                        recorder.store.erase_window(gauge.id, window, received_until=until)
            finally:
                is_over.set()

        def read(questions: Iterator[dict[str, Any]]) -> int:
            asked = 0
            while not is_over.is_set():
                question = next(questions)
                before, removed_before = dict(done), len(removals)
                window = Window(from_ms(BEGIN), from_ms(BEGIN + 9 * DAY_MS))
                (series,) = recorder.histories.history([gauge], Query(window, **question)).series
                after, removed = dict(done), len(removals) > removed_before
                found: dict[int, set[float]] = {}
                for instant, value in zip(series.timestamps.tolist(), series.values.tolist(), strict=True):
                    if not np.isnan(value):
                        found.setdefault(instant // DAY_MS * DAY_MS, set()).add(value)
                for day in days:
                    if before[day] == rounds or after[day] == rounds or (removed and day in days[1:3]):
                        continue
                    values = found.get(day, set())
                    assert before[day] == 0 or values, (question, day, before, after)
                    assert all(before[day] <= value <= after[day] + 1 for value in values), (day, values, before, after)
                asked += 1
            return asked

        raw, last = {"resolution": "raw"}, {"resolution": "1d", "aggregate": "last"}
        recorder.clock.now = LONG_AFTER
        with ThreadPoolExecutor(4) as pool:
            readers = [pool.submit(read, cycle(questions)) for questions in ((raw,), (last,), (raw, last))]
            pool.submit(write).result()
            assert all(reader.result() for reader in readers)
