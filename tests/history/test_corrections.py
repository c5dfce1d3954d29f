"""Readings that are taken out or given another value: what history and latest say then, whatever happens meanwhile."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kilowatch.history import replacing, statements
from kilowatch.history.chunks import read_in_chunks
from kilowatch.history.corrections import Corrections
from kilowatch.history.engine import Engine
from kilowatch.history.model import Replaced
from kilowatch.history.newest import NEWEST_DTYPE, Newest
from kilowatch.history.store import HistoryStore
from kilowatch.kit.timespan import Window, from_ms
from tests.history.conftest import Readings, Recorder, batch_of

EVERYTHING = Window(from_ms(0), datetime.fromisoformat("2199-12-31T00:00:00+00:00"))


def window(start: int, end: int) -> Window:
    return Window(from_ms(start), from_ms(end))


def all_of(store: HistoryStore, metric_id: int) -> list[tuple[int, float]]:
    (points,) = store.first_readings([metric_id], EVERYTHING, limit=1_000_000)
    return list(zip(points.timestamps.tolist(), points.values.tolist(), strict=True))


def newest(store: HistoryStore, metric_id: int) -> tuple[int, float] | None:
    (row,) = store.latest(np.array([metric_id], np.uint32))
    return None if row["ts"] < 0 else (int(row["ts"]), float(row["value"]))


def erase(store: HistoryStore, metric_id: int, start: int, end: int) -> int:
    stored = store.stored_in_window(metric_id, window(start, end))
    store.erase_window(metric_id, window(start, end), received_until=stored.received_until)
    return stored.readings


def merge(store: HistoryStore) -> None:
    """What the engine does by itself, some time."""
    for table in ("readings", "latest"):
        store._engine.command(f"OPTIMIZE TABLE {table} FINAL", {})


@pytest.fixture
def store(recorder: Recorder) -> HistoryStore:
    return recorder.store


@pytest.fixture
def metric(recorder: Recorder) -> int:
    return recorder.metric().id


@pytest.fixture
def other(recorder: Recorder) -> int:
    return recorder.metric().id


def cut_off_after(writes: int, engine: Engine, patch: pytest.MonkeyPatch) -> None:
    """As a crash after so many statements that change something."""
    left = iter(range(writes))

    def counted(call: Callable[..., None]) -> Callable[..., None]:
        def do(*arguments: Any, **named: Any) -> None:
            if next(left, None) is None:
                raise ConnectionAbortedError
            call(*arguments, **named)

        return do

    for name in ("remove", "command"):
        patch.setattr(engine, name, counted(getattr(engine, name)))


class TestEraseWindow:
    def test_takes_the_metrics_readings_from_the_start_to_before_the_end(
        self, store: HistoryStore, metric: int, other: int
    ) -> None:
        readings = [(n, float(n)) for n in range(10)]
        store.append(batch_of((metric, readings), (other, readings)))
        assert erase(store, metric, 3, 6) == 3
        assert all_of(store, metric) == readings[:3] + readings[6:]
        assert all_of(store, other) == readings

    def test_counts_replaced_readings_once(self, store: HistoryStore, metric: int) -> None:
        for value in (1.0, 2.0, 3.0):
            store.append(batch_of((metric, [(5, value)])))
        assert erase(store, metric, 0, 10) == 1
        assert all_of(store, metric) == []  # none of the replaced ones comes up again

    def test_leaves_no_row_in_the_engine(self, store: HistoryStore, metric: int) -> None:
        for value in (1.0, 2.0):
            store.append(batch_of((metric, [(5, value)])))
        erase(store, metric, 0, 10)
        for table in ("readings", "latest"):
            sql = f"SELECT count() FROM {table} WHERE metric_id = {{id:UInt32}}"
            assert store._engine.query(sql, {"id": metric}, np.dtype("<u8")).tolist() == [0]

    def test_nothing_there_is_nothing_done(self, store: HistoryStore, metric: int) -> None:
        assert erase(store, metric, 0, 10) == 0
        store.append(batch_of((metric, [(10, 1.0)])))
        assert erase(store, metric, 0, 10) == 0
        assert newest(store, metric) == (10, 1.0)

    @pytest.mark.parametrize("merged", [False, True])
    def test_latest_falls_back_to_the_newest_that_is_left(
        self, store: HistoryStore, metric: int, other: int, merged: bool
    ) -> None:
        for n in (3, 1, 2):
            store.append(batch_of((metric, [(n, float(n))]), (other, [(n, float(n))])))
        if merged:
            merge(store)
        erase(store, metric, 3, 4)
        assert newest(store, metric) == (2, 2.0)
        erase(store, metric, 2, 100)
        assert newest(store, metric) == (1, 1.0)
        erase(store, metric, 0, 100)
        assert newest(store, metric) is None
        assert newest(store, other) == (3, 3.0)

    def test_latest_never_falls_back_to_one_that_was_taken_out_before(self, store: HistoryStore, metric: int) -> None:
        """Also where that was received after the one that is taken out now."""
        store.append(batch_of((metric, [(100, 1.0)])))
        store.append(batch_of((metric, [(50, 2.0)])))
        erase(store, metric, 40, 60)
        erase(store, metric, 90, 110)
        assert newest(store, metric) is None

    def test_what_was_received_after_it_was_asked_stays(self, store: HistoryStore, metric: int) -> None:
        store.append(batch_of((metric, [(1, 1.0), (2, 1.0)])))
        stored = store.stored_in_window(metric, window(0, 10))
        store.append(batch_of((metric, [(2, 9.0), (3, 9.0)])))
        store.erase_window(metric, window(0, 10), received_until=stored.received_until)
        assert all_of(store, metric) == [(2, 9.0), (3, 9.0)]
        assert newest(store, metric) == (3, 9.0)

    def test_what_is_sent_again_is_there_again(self, store: HistoryStore, metric: int) -> None:
        store.append(batch_of((metric, [(1, 1.0), (2, 2.0)])))
        erase(store, metric, 0, 10)
        store.append(batch_of((metric, [(1, 5.0)])))
        merge(store)
        assert (all_of(store, metric), newest(store, metric)) == ([(1, 5.0)], (1, 5.0))

    @pytest.mark.parametrize("done", range(1, len(statements.ERASE_WINDOW) + 1))
    def test_cut_off_anywhere_and_done_again_it_is_done(
        self, store: HistoryStore, metric: int, done: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.append(batch_of((metric, [(1, 1.0), (2, 2.0)])))
        merge(store)
        until = store.stored_in_window(metric, window(2, 9)).received_until
        with monkeypatch.context() as patch, suppress(ConnectionAbortedError):
            cut_off_after(done, store._engine, patch)
            store.erase_window(metric, window(2, 9), received_until=until)
        store.append(batch_of((metric, [(0, 0.0), (3, 3.0)])))  # before it is made good
        store.erase_window(metric, window(2, 9), received_until=until)
        assert all_of(store, metric) == [(0, 0.0), (1, 1.0), (3, 3.0)]
        assert newest(store, metric) == (3, 3.0)
        erase(store, metric, 3, 4)
        assert newest(store, metric) == (1, 1.0)

    def test_latest_is_right_whatever_is_appended_meanwhile(self, store: HistoryStore, metric: int) -> None:
        """Writers of late and new readings, and two who delete, all at once."""
        store.append(batch_of((metric, [(n, float(n)) for n in range(0, 2000, 10)])))
        start = threading.Barrier(4)

        def write(offset: int) -> None:
            start.wait()
            for n in range(40):
                store.append(batch_of((metric, [(1900 - 40 * n + offset, float(offset))])))

        def delete(offset: int) -> None:
            start.wait()
            for n in range(4):
                erase(store, metric, 1900 - 400 * n + offset, 2001 - 100 * n)

        with ThreadPoolExecutor(4) as pool:
            done = [pool.submit(task, n) for task, n in ((write, 1), (write, 2), (delete, 0), (delete, 7))]
            for one in done:
                one.result(120)
        left = all_of(store, metric)
        assert newest(store, metric) == left[-1]
        merge(store)
        assert (all_of(store, metric), newest(store, metric)) == (left, left[-1])

    @given(st.data())
    @settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_any_sequence_of_changes_is_as_in_a_dictionary(self, recorder: Recorder, data: st.DataObject) -> None:
        store, metric = recorder.store, recorder.metric().id
        times = st.integers(0, 12)
        model: dict[int, float] = {}
        for _ in range(data.draw(st.integers(1, 6))):
            step = data.draw(st.sampled_from(["append", "append", "erase", "merge"]))
            if step == "append":
                readings = data.draw(st.lists(st.tuples(times, st.floats(0, 5)), min_size=1, max_size=4))
                store.append(batch_of((metric, readings)))
                model |= dict(readings)
            elif step == "erase":
                start, length = data.draw(times), data.draw(st.integers(1, 8))
                gone = [ts for ts in model if start <= ts < start + length]
                assert erase(store, metric, start, start + length) == len(gone)
                for ts in gone:
                    del model[ts]
            else:
                merge(store)
            assert all_of(store, metric) == sorted(model.items())
            assert newest(store, metric) == (max(model.items()) if model else None)


class TestReplaced:
    @pytest.mark.parametrize(
        ("again", "expected"),
        [
            ([(10, 1.0), (20, 2.0), (30, 3.0)], None),  # the same
            ([(40, 9.0), (50, 9.0)], None),  # newer
            ([(5, 9.0), (15, 9.0), (25, 9.0)], None),  # late, at times that had none
            ([(30, 9.0)], Replaced(1, 30, 30)),  # the latest
            ([(10, 9.0)], Replaced(1, 10, 10)),
            ([(40, 9.0), (20, 8.0), (5, 9.0), (10, 9.0), (30, 3.0)], Replaced(2, 10, 20)),
            ([(10, 9.0), (10, 1.0)], None),  # the later in the batch counts
            ([(10, 1.0), (10, 9.0), (30, 3.0), (30, 4.0)], Replaced(2, 10, 30)),
            ([(10, -1.0), (10, -0.0)], Replaced(1, 10, 10)),
        ],
    )
    def test_is_what_gets_another_value(
        self, store: HistoryStore, metric: int, other: int, again: Readings, expected: Replaced | None
    ) -> None:
        store.append(batch_of((metric, [(10, 1.0), (20, 2.0), (30, 3.0)]), (other, [(10, 9.0), (99, 1.0)])))
        found = store.compare(batch_of((metric, again), (other, [(10, 9.0)]))).replaced
        assert found == ({} if expected is None else {metric: expected})

    def test_zero_has_no_sign(self, store: HistoryStore, metric: int) -> None:
        store.append(batch_of((metric, [(1, 0.0), (2, 0.0)])))
        assert store.compare(batch_of((metric, [(1, -0.0), (2, -0.0)]))).replaced == {}

    def test_a_value_of_before_its_own_replacement_does_not_count(self, store: HistoryStore, metric: int) -> None:
        for value in (1.0, 2.0):
            store.append(batch_of((metric, [(1, value), (2, 0.0)])))
        assert store.compare(batch_of((metric, [(1, 2.0)]))).replaced == {}
        assert store.compare(batch_of((metric, [(1, 1.0)]))).replaced == {metric: Replaced(1, 1, 1)}

    def test_what_was_taken_out_is_not_replaced(self, store: HistoryStore, metric: int) -> None:
        store.append(batch_of((metric, [(1, 1.0), (2, 1.0), (3, 1.0)])))
        erase(store, metric, 2, 9)
        assert store.compare(batch_of((metric, [(2, 5.0), (3, 5.0)]))).replaced == {}

    def test_an_empty_batch_replaces_nothing(self, store: HistoryStore) -> None:
        assert store.compare(batch_of()).replaced == {}

    def test_years_apart_are_looked_up_apart(
        self, store: HistoryStore, metric: int, other: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two late readings ten years apart don't read back the ten years."""
        year = 31_557_600_000
        read: list[int] = []
        store.append(batch_of((metric, [(n * year // 100, 1.0) for n in range(1001)]), (other, [(1, 1.0)])))

        def recorded(self: Corrections, metric_ids: Sequence[int], within: Window) -> Iterator[np.ndarray]:
            for stored in original(self, metric_ids, within):
                read.append(len(stored))
                yield stored

        original = Corrections._read_back
        monkeypatch.setattr(Corrections, "_read_back", recorded)
        found = store.compare(batch_of((metric, [(0, 2.0), (9 * year, 2.0)]))).replaced
        assert found == {metric: Replaced(2, 0, 9 * year)}
        assert read == [1, 1]

    def test_what_is_read_back_in_parts_is_found_in_each(
        self, store: HistoryStore, metric: int, other: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        in_parts = partial(read_in_chunks, chunk=3)
        monkeypatch.setattr("kilowatch.history.corrections.read_in_chunks", in_parts)
        readings = [(n, 1.0) for n in range(10)]
        store.append(batch_of((metric, readings), (other, readings)))
        changed = [(n, float(n % 2)) for n in range(10)]
        found = store.compare(batch_of((other, changed), (metric, changed))).replaced
        assert found == dict.fromkeys((metric, other), Replaced(5, 0, 8))

    def test_few_among_many_are_looked_up_alone(
        self, store: HistoryStore, metric: int, other: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("kilowatch.history.corrections._FEW", 1)
        monkeypatch.setattr("kilowatch.history.corrections._POINTS_AT_ONCE", 2)
        monkeypatch.delattr(Corrections, "_read_back")
        readings = [(n, 1.0) for n in range(100)]
        store.append(batch_of((metric, readings), (other, readings)))
        store.append(batch_of((metric, [(98, 3.0)])))
        again = batch_of((metric, [(98, 2.0), (3, 1.0), (1, 2.0)]), (other, [(3, 2.0), (98, 1.0)]))
        assert store.compare(again).replaced == {metric: Replaced(2, 1, 98), other: Replaced(1, 3, 3)}

    @given(st.data())
    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_any_batch_is_compared_as_in_a_dictionary(self, recorder: Recorder, data: st.DataObject) -> None:
        store, metrics = recorder.store, [recorder.metric().id for _ in range(3)]
        row = st.tuples(
            st.sampled_from(metrics), st.integers(0, 40).map(lambda n: n * 1_000_000), st.floats(0, 2, width=16)
        )
        model: dict[tuple[int, int], float] = {}
        for _ in range(3):
            rows = data.draw(st.lists(row, max_size=30))
            batch = batch_of(*((metric, [(ts, value)]) for metric, ts, value in rows))
            given_ = {(metric, ts): value for metric, ts, value in rows}
            changed = [key for key, value in given_.items() if key in model and model[key] != value]
            expected = {}
            for metric in {metric for metric, _ in changed}:
                times = [ts for owner, ts in changed if owner == metric]
                expected[metric] = Replaced(len(times), min(times), max(times))
            assert store.compare(batch).replaced == expected
            store.append(batch)
            model |= given_


class TestSpans:
    def test_no_more_than_so_many_and_all_rows_are_in_one(self) -> None:
        times = [n * 10 * replacing.APART_MS + n * n for n in range(500)]
        rows = np.array([(n % 7, ts, 0.0) for n, ts in enumerate(times)], statements.POINT_DTYPE)
        rows = rows[np.lexsort((rows["ts"], rows["metric_id"]))]
        spans = [rows[part] for part in replacing.spans(rows)]
        assert len(spans) == replacing.MOST_SPANS
        assert sorted(ts for span in spans for ts in span["ts"].tolist()) == times
        for span in spans:
            assert span.tolist() == sorted(span.tolist())

    def test_no_rows_have_none(self) -> None:
        assert list(replacing.spans(np.empty(0, statements.POINT_DTYPE))) == []


def test_what_can_be_stored_already_is_what_is_not_newer_than_its_metrics_latest() -> None:
    batch = batch_of((1, [(1, 1.0)]), (2, [(1, 1.0)]), (1, [(2, 1.0)]))
    known = Newest()
    known.put(np.array([(1, 2, 0, 5.0)], NEWEST_DTYPE))
    found = replacing.not_newer(batch, known.of)
    assert found is not None
    assert found.rows.tolist() == [(1, 1, 1.0), (1, 2, 1.0)]
    assert np.array_equal(found.stored, [np.nan, 5.0], equal_nan=True)  # the latest is known, what is before it not yet
