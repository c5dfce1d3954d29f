"""What is stored already does not arrive a second time, however it is sent again."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kilowatch.errors import Unavailable
from kilowatch.history import changes
from kilowatch.history.engine import Engine, HistoryUnavailable
from kilowatch.history.model import Batch, Place, ReadArrived, Rows
from kilowatch.history.native import encode
from kilowatch.history.store import HistoryStore
from kilowatch.kit.timespan import Window, from_ms
from kilowatch.live.feed import Feed
from tests.conftest import START
from tests.history.conftest import Readings, Recorder, batch_of
from tests.history.test_store import all_of, end_abruptly

MONTH_MS = 31 * 86_400_000


@pytest.fixture
def store(history_url: str) -> Iterator[HistoryStore]:
    store = HistoryStore(history_url, connections=2, sync=True, clock=lambda: START)
    yield store
    store.close()


def compared(store: HistoryStore, *readings: tuple[int, float]) -> Batch:
    return store.compare(batch_of((1, readings))).batch


def take(store: HistoryStore, *readings: tuple[int, float]) -> None:
    store.append(compared(store, *readings))


def arrived(store: HistoryStore, *metric_ids: int) -> list[tuple[int, float]]:
    """Times and values in the order of arrival."""
    arrivals = Feed(store).read(metric_ids or (1,), Place.until(0), 1000)
    return [(arrival.ts, arrival.value) for arrival in arrivals]


class TestTheSameAgain:
    def test_arrives_once(self, store: HistoryStore) -> None:
        for _ in range(3):
            take(store, (10, 1.0), (20, 2.0))
            take(store, (20, 2.0))
        assert arrived(store) == [(10, 1.0), (20, 2.0)]

    def test_with_others_leaves_those_to_arrive(self, store: HistoryStore) -> None:
        take(store, (10, 1.0), (20, 2.0))
        take(store, (30, 3.0), (20, 2.0), (15, 1.5), (10, 1.0))
        assert arrived(store) == [(10, 1.0), (20, 2.0), (15, 1.5), (30, 3.0)]

    def test_with_another_value_arrives_as_often_as_it_changes(self, store: HistoryStore) -> None:
        for value in (1.0, 2.0, 2.0, 1.0):
            take(store, (10, value))
        assert arrived(store) == [(10, 1.0), (10, 2.0), (10, 1.0)]
        assert all_of(store, 1) == [(1, 10, 1.0)]

    def test_after_a_restart_arrives_once(self, history_url: str) -> None:
        for _ in range(2):
            store = HistoryStore(history_url, connections=1, sync=True, clock=lambda: START)
            take(store, (10, 1.0), (20, 2.0))
            end_abruptly(store)
        store = HistoryStore(history_url, connections=1, sync=True, clock=lambda: START)
        assert arrived(store) == [(10, 1.0), (20, 2.0)]
        store.close()

    def test_arrives_again_once_it_was_taken_out(self, store: HistoryStore) -> None:
        take(store, (10, 1.0), (20, 2.0))
        again = compared(store, (10, 1.0), (20, 2.0))
        window = Window(from_ms(0), from_ms(15))
        store.erase_window(1, window, received_until=store.stored_in_window(1, window).received_until)
        store.append(again)
        assert arrived(store) == [(20, 2.0), (10, 1.0)]


class TestTwoAtOnce:
    """Both are compared before either is stored, as when a sender whose connection broke sends again."""

    def test_that_are_the_same_arrive_once(self, store: HistoryStore) -> None:
        first, second = (compared(store, (10, 1.0), (20, 2.0)) for _ in range(2))
        store.append(first)
        store.append(second)
        assert arrived(store) == [(10, 1.0), (20, 2.0)]

    def test_of_late_readings_arrive_once(self, store: HistoryStore) -> None:
        take(store, (99, 9.0))
        first, second = (compared(store, (10, 1.0), (20, 2.0)) for _ in range(2))
        store.append(first)
        store.append(second)
        assert arrived(store) == [(99, 9.0), (10, 1.0), (20, 2.0)]

    def test_the_later_wins_though_it_is_what_was_stored(self, store: HistoryStore) -> None:
        take(store, (10, 1.0))
        other, same = compared(store, (10, 2.0)), compared(store, (10, 1.0))
        store.append(other)
        store.append(same)
        assert arrived(store) == [(10, 1.0), (10, 2.0), (10, 1.0)]
        assert all_of(store, 1) == [(1, 10, 1.0)]

    def test_are_compared_again_where_much_was_stored_between(
        self, store: HistoryStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(changes, "_MOST", 0)
        first, second = (compared(store, (10, 1.0), (20, 2.0)) for _ in range(2))
        store.append(first)
        store.append(second)
        assert arrived(store) == [(10, 1.0), (20, 2.0)]


class TestAnInsertThatFailsHalfWay:
    @pytest.fixture
    def halves(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
        """From then on an insert stores what is of 1970, then fails."""
        insert = Engine.insert

        def half(self: Engine, table: str, columns: Any, body: bytes, form: str) -> None:
            if table == "readings":
                insert(self, table, columns, stored_part[0], form)
                raise HistoryUnavailable
            insert(self, table, columns, body, form)

        stored_part: list[bytes] = []

        def encoded(rows: Any) -> bytes:
            stored_part[:] = [encode(rows.at(rows.timestamps < MONTH_MS))]
            return encode(rows)

        def begin() -> None:
            monkeypatch.setattr(Engine, "insert", half)
            monkeypatch.setattr("kilowatch.history.store.encode", encoded)

        return begin

    @pytest.mark.parametrize("before", [(), ((40 * MONTH_MS, 0.0),)])
    def test_and_is_sent_again_arrives_once(
        self,
        store: HistoryStore,
        halves: Callable[[], None],
        monkeypatch: pytest.MonkeyPatch,
        before: Readings,
    ) -> None:
        readings = ((10, 1.0), (20, 2.0), (20 * MONTH_MS, 3.0))
        take(store, *before)
        earlier = compared(store, *readings)
        with monkeypatch.context():
            halves()
            with pytest.raises(Unavailable):
                take(store, *readings)
            monkeypatch.undo()
        store.append(earlier)
        take(store, *readings)
        assert arrived(store) == [*before, *readings]

    def test_is_told_to_those_who_listen(self, store: HistoryStore, halves: Callable[[], None]) -> None:
        in_part: list[int] = []

        class Heard:
            def arrived(self, rows: Any) -> None:
                raise AssertionError("nothing arrived whole")

            def arrived_in_part(self, received_at: int) -> None:
                in_part.append(received_at)

            def arrived_elsewhere(self, metric_ids: frozenset[int], read: ReadArrived) -> None:
                raise AssertionError("there is no other process")

        store.listen(Heard())
        halves()
        with pytest.raises(Unavailable):
            take(store, (10, 1.0), (20 * MONTH_MS, 3.0))
        assert in_part == [store.arrived_until()]
        assert arrived(store) == [(10, 1.0)]


class Heard:
    """What arrives of some metrics."""

    def __init__(self, metrics: set[int]) -> None:
        self.metrics = metrics
        self.events: list[tuple[int, int, float]] = []

    def arrived(self, rows: Rows) -> None:
        columns = (rows.metric_ids.tolist(), rows.timestamps.tolist(), rows.values.tolist())
        self.events += [event for event in zip(*columns, strict=True) if event[0] in self.metrics]

    def arrived_in_part(self, received_at: int) -> None:
        raise AssertionError("nothing fails here")

    def arrived_elsewhere(self, metric_ids: frozenset[int], read: ReadArrived) -> None:
        raise AssertionError("there is no other process")


ROW = st.tuples(st.integers(0, 1), st.integers(0, 3), st.sampled_from((0.0, 1.0, 2.0)))


@given(st.lists(st.tuples(st.booleans(), st.lists(ROW, min_size=1, max_size=5)), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_compared_and_stored_when_arrives_as_often_as_it_changes(
    recorder: Recorder, steps: list[tuple[bool, list[tuple[int, int, float]]]]
) -> None:
    """`True`: what waits is stored before this one is compared. It is always stored in the order of comparing."""
    store, metrics = recorder.store, [recorder.metric().id for _ in range(2)]
    store.listen(heard := Heard(set(metrics)))
    waiting: list[Batch] = []
    stored: dict[tuple[int, int], float] = {}
    events: list[tuple[int, int, float]] = []

    for stores_first, rows in steps:
        if stores_first:
            for batch in waiting:
                store.append(batch)
            waiting = []
        last = {(metrics[place], ts): value for place, ts, value in rows}
        new = sorted((*key, value) for key, value in last.items() if stored.get(key) != value)
        events += new
        stored |= last
        parts = [(metrics[place], [(ts, value)]) for place, ts, value in rows]
        waiting.append(store.compare(batch_of(*parts)).batch)
    for batch in waiting:
        store.append(batch)
    assert heard.events == events
    left = [arrival[:3] for arrival in Feed(store).read(metrics, Place.until(0), 1000)]
    in_order = iter(events)
    assert all(event in in_order for event in left)  # some that were replaced are merged away by now
    assert {event[:2]: event[2] for event in left} == stored
