"""The reading store: many writers at once, what stays and what goes, and who may open it."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from kilowatch.errors import Invalid
from kilowatch.history.appender import STORED_WITHIN_S, Appender, Overloaded, TookTooLong
from kilowatch.history.folding import WAIT
from kilowatch.history.model import Rows
from kilowatch.history.store import HistoryStore
from kilowatch.history.turns import OwnTurns, Turn
from kilowatch.kit.timespan import Window, from_ms
from tests.conftest import START, Clock, _unique
from tests.history.conftest import Recorder, batch_of, ms
from tests.processes import wait_until


@pytest.fixture
def history_url(every_history_url: str) -> str:
    return every_history_url


@pytest.fixture
def store(history_url: str) -> Iterator[HistoryStore]:
    store = HistoryStore(history_url, connections=2, sync=True, clock=lambda: START)
    yield store
    store.close()


def all_of(store: HistoryStore, *metric_ids: int) -> list[tuple[int, int, float]]:
    everything = Window(from_ms(0), datetime.fromisoformat("2199-12-31T00:00:00+00:00"))
    found = store.first_readings(sorted(metric_ids), everything, limit=1_000_000)
    return [
        (points.metric_id, *reading)
        for points in found
        for reading in zip(points.timestamps.tolist(), points.values.tolist(), strict=True)
    ]


def newest(store: HistoryStore, metric_id: int) -> tuple[int, float] | None:
    """Time and value."""
    (row,) = store.latest(np.array([metric_id], np.uint32))
    return None if row["ts"] < 0 else (int(row["ts"]), float(row["value"]))


def end_abruptly(store: HistoryStore) -> None:
    """As `kill -9` does: what was acknowledged is there, and nothing is written any more."""
    store._appender.close()
    store._engine.close()


class TestAppend:
    def test_many_threads_each_get_an_answer_and_all_readings_are_there(self, store: HistoryStore) -> None:
        writers, batches = 16, 12
        start = threading.Barrier(writers)

        def write(writer: int) -> list[int]:
            start.wait()
            return [
                store.append(batch_of((writer + 1, [(number * 1000 + n, float(n)) for n in range(5)])))
                for number in range(batches)
            ]

        with ThreadPoolExecutor(writers) as pool:
            received = list(pool.map(write, range(writers)))
        assert all(times == sorted(set(times)) for times in received)  # each later append is received later
        expected = [(w + 1, b * 1000 + n, float(n)) for w in range(writers) for b in range(batches) for n in range(5)]
        assert all_of(store, *range(1, writers + 1)) == expected

    def test_one_batch_may_span_decades(self, store: HistoryStore) -> None:
        """More months than the engine's default takes at once."""
        month_ms = 2_629_800_000
        readings = [(number * month_ms, float(number)) for number in range(400)]
        store.append(batch_of((1, readings)))
        assert all_of(store, 1) == [(1, t, v) for t, v in readings]
        assert newest(store, 1) == readings[-1]

    def test_a_correction_wins_though_the_clock_was_set_back_and_the_server_restarted(self, history_url: str) -> None:
        for days_back, value in ((0, 1.0), (30, 2.0)):
            clock = Clock(START - timedelta(days=days_back))
            store = HistoryStore(history_url, connections=1, sync=False, clock=clock)
            store.append(batch_of((1, [(1000, value)])))
            assert all_of(store, 1) == [(1, 1000, value)]
            assert newest(store, 1) == (1000, value)
            store.close()

    def test_a_correction_wins_though_the_clock_was_ahead_for_years(self, history_url: str) -> None:
        """Also after a crash, where the moment until when latest was written down is in the future again."""

        def opened(days_ahead: int) -> HistoryStore:
            clock = Clock(START + timedelta(days=days_ahead))
            return HistoryStore(history_url, connections=1, sync=False, clock=clock)

        for days_ahead, instant, end in (
            (0, 500, end_abruptly),
            (20_000, 1000, HistoryStore.close),
            (0, 1000, end_abruptly),
            (0, 2000, end_abruptly),
        ):
            store = opened(days_ahead)
            store.append(batch_of((1, [(instant, float(days_ahead))])))
            end(store)
            again = opened(0)
            assert newest(again, 1) == (instant, float(days_ahead))
            assert all_of(again, 1)[-1] == (1, instant, float(days_ahead))
            (end if instant != 2000 else HistoryStore.close)(again)

    def test_an_empty_batch_is_no_harm(self, store: HistoryStore) -> None:
        store.append(batch_of())
        assert all_of(store, 1) == []

    def test_keeps_every_bit_of_a_value(self, store: HistoryStore) -> None:
        values = [0.1, -0.0, 5e-324, 1.7976931348623157e308, -1 / 3, 2.0**53 + 2]
        store.append(batch_of((1, list(enumerate(values)))))
        assert [value.hex() for _, _, value in all_of(store, 1)] == [value.hex() for value in values]

    def test_a_replay_adds_nothing(self, store: HistoryStore) -> None:
        batch = batch_of((1, [(1, 1.0), (2, 2.0)]), (2, [(1, 3.0)]))
        for _ in range(3):
            store.append(batch)
        assert store.count([1, 2]) == 3

    def test_is_there_after_the_store_was_closed(self, history_url: str, store: HistoryStore) -> None:
        store.append(batch_of((1, [(1, 1.0)])))
        store.close()
        again = HistoryStore(history_url, connections=1, sync=True, clock=lambda: START)
        try:
            assert all_of(again, 1) == [(1, 1, 1.0)]
            again.append(batch_of((1, [(1, 2.0)])))
            assert all_of(again, 1) == [(1, 1, 2.0)]
            assert newest(again, 1) == (1, 2.0)
        finally:
            again.close()

    def test_after_closing_it_is_refused(self, history_url: str) -> None:
        store = HistoryStore(history_url, connections=1, sync=False, clock=lambda: START)
        store.close()
        with pytest.raises(Overloaded):
            store.append(batch_of((1, [(1, 1.0)])))


class TestGroupCommit:
    """The appender alone, over an insert that the test holds in its hand."""

    def test_an_error_reaches_all_who_wait_and_later_appends_work(self) -> None:
        entered, go = threading.Event(), threading.Event()
        inserts: list[int] = []

        def insert(rows: Rows, _turn: Turn) -> None:
            inserts.append(len(rows))
            if len(inserts) == 1:
                entered.set()
                go.wait(10)
            if len(inserts) == 2:
                raise OSError("the disk is full")

        appender = Appender(insert, OwnTurns(0), clock=lambda: START)
        first = appender.submit(batch_of((1, [(0, 0.0)])))
        assert entered.wait(10)
        others = [appender.submit(batch_of((2, [(n, 0.0)]))) for n in range(8)]
        go.set()
        first.result(10)
        for other in others:
            with pytest.raises(OSError, match="the disk is full"):
                other.result(10)
        assert inserts == [1, 8]  # eight writers, one insert
        appender.submit(batch_of((1, [(1, 1.0)]))).result(10)
        assert inserts == [1, 8, 1]
        appender.close()

    def test_what_waits_is_written_before_it_closes(self) -> None:
        rows_written: list[int] = []
        appender = Appender(lambda rows, _turn: rows_written.append(len(rows)), OwnTurns(0), clock=lambda: START)
        done = [appender.submit(batch_of((1, [(n, 0.0)]))) for n in range(8)]
        appender.close()
        assert all(future.done() for future in done)
        assert sum(rows_written) == 8

    def test_what_was_checked_too_long_ago_is_refused_and_the_rest_is_stored(self) -> None:
        """Else it could come into a quarter of an hour that was folded since."""
        rows_written: list[int] = []
        appender = Appender(lambda rows, _turn: rows_written.append(len(rows)), OwnTurns(0), clock=lambda: START)
        now = time.monotonic()
        batches = [
            replace(batch_of((metric_id, [(1, 1.0), (2, 2.0)])), checked_at=checked_at)
            for metric_id, checked_at in ((1, None), (2, now), (3, now - STORED_WITHIN_S))
        ]
        *others, late = [appender.submit(batch) for batch in batches]
        with pytest.raises(TookTooLong, match="send them again"):
            late.result(10)
        assert [other.result(10) > 0 for other in others] == [True, True]
        appender.close()
        assert sum(rows_written) == 4

    def test_what_took_too_long_to_be_stored_is_not_accepted(self) -> None:
        checked_at = time.monotonic() - STORED_WITHIN_S + 0.2

        def insert(_rows: Rows, _turn: Turn) -> None:
            wait_until(lambda: time.monotonic() - checked_at > STORED_WITHIN_S, "its time is over")

        appender = Appender(insert, OwnTurns(0), clock=lambda: START)
        late = appender.submit(replace(batch_of((1, [(1, 1.0)])), checked_at=checked_at))
        with pytest.raises(TookTooLong):
            late.result(10)
        appender.close()

    def test_is_given_up_before_folding_goes_on(self) -> None:
        assert timedelta(seconds=2 * STORED_WITHIN_S) <= WAIT

    def test_goes_on_though_what_it_does_in_between_fails(self) -> None:
        """Else the next writers would wait for ever."""

        def fail() -> None:
            raise OSError("no space left")

        appender = Appender(lambda _rows, _turn: None, OwnTurns(0), clock=lambda: START, when_idle=fail)
        for n in range(3):
            appender.submit(batch_of((1, [(n, 0.0)]))).result(10)
        appender.close()


class TestLatestAfterARestart:
    def test_is_the_same(self, history_url: str, store: HistoryStore) -> None:
        store.append(batch_of((1, [(1000, 1.0), (2000, 2.0)]), (70_000, [(5, 5.0)])))
        store.close()
        again = HistoryStore(history_url, connections=1, sync=True, clock=lambda: START)
        assert (newest(again, 1), newest(again, 70_000)) == ((2000, 2.0), (5, 5.0))
        assert newest(again, 2) is None
        assert newest(again, 4_000_000_000) is None
        again.close()

    def test_knows_what_came_after_it_was_written_down(self, history_url: str, store: HistoryStore) -> None:
        store.append(batch_of((1, [(1000, 1.0)]), (2, [(1000, 1.0)])))
        store.close()
        again = HistoryStore(history_url, connections=1, sync=True, clock=lambda: START)
        again.append(batch_of((1, [(3000, 3.0)]), (2, [(500, 9.0)]), (3, [(7, 7.0)])))
        end_abruptly(again)
        third = HistoryStore(history_url, connections=1, sync=True, clock=lambda: START)
        assert [newest(third, metric) for metric in (1, 2, 3)] == [(3000, 3.0), (1000, 1.0), (7, 7.0)]
        third.close()

    def test_of_a_corrected_reading_is_the_correction(self, history_url: str) -> None:
        store = HistoryStore(history_url, connections=1, sync=True, clock=lambda: START)
        store.append(batch_of((1, [(1000, 1.0)])))
        store.append(batch_of((1, [(1000, 0.5)])))
        end_abruptly(store)
        again = HistoryStore(history_url, connections=1, sync=True, clock=lambda: START)
        assert newest(again, 1) == (1000, 0.5)
        again.close()


class TestErase:
    def test_leaves_nothing(self, store: HistoryStore) -> None:
        store.append(batch_of((1, [(1, 1.0)]), (2, [(1, 2.0)])))
        store.append(batch_of((1, [(ms("2026-01-05T00:00"), 1.0)])))
        store.erase([1])
        assert all_of(store, 1, 2) == [(2, 1, 2.0)]
        assert newest(store, 1) is None
        assert newest(store, 2) == (1, 2.0)
        assert store.count([1]) == 0

    def test_what_comes_later_starts_anew(self, store: HistoryStore) -> None:
        """Also with a time before that which was erased."""
        store.append(batch_of((1, [(5000, 1.0)])))
        store.erase([1])
        store.append(batch_of((1, [(1000, 7.0)])))
        assert newest(store, 1) == (1000, 7.0)
        assert all_of(store, 1) == [(1, 1000, 7.0)]


class TestNeighbours:
    def test_are_found_at_any_distance(self, recorder: Recorder) -> None:
        metrics = [recorder.metric() for _ in range(4)]
        at = ms("2190-06-01T00:00")
        times = [at - 1, at - 86_400_000 * 20, at - 86_400_000 * 3000, 0]
        recorder.append(*((m, [(t, 1.0), (2 * at - t, 2.0)]) for m, t in zip(metrics[:3], times, strict=False)))
        recorder.append((metrics[3], [(0, 3.0)]))
        ids = [metric.id for metric in metrics]
        assert recorder.store.last_before(dict.fromkeys(ids, None), at)["ts"].tolist() == times
        assert recorder.store.first_from(ids, at)["ts"].tolist() == [2 * at - t for t in times[:3]]

    def test_reach_ends_just_before_it(self, recorder: Recorder) -> None:
        """A value that is believed for 900 s says nothing 900 s later."""
        near, far = recorder.metric(), recorder.metric()
        at = ms("2026-01-05T10:00")
        recorder.append((near, [(at - 899_999, 1.0)]), (far, [(at - 900_000, 1.0)]))
        found = recorder.store.last_before({near.id: 900_000, far.id: 900_000}, at)
        assert found["metric_id"].tolist() == [near.id]


@pytest.fixture
def embedded(history_directory: Path) -> Iterator[HistoryStore]:
    """The embedded engine is open in this process, also where the other tests use a server."""
    url = f"chdb://{history_directory}?database={_unique('embedded')}"
    store = HistoryStore(url, connections=1, sync=False, clock=lambda: START)
    yield store
    store.close()


class TestOpen:
    def test_two_databases_in_one_process_are_strangers(self, history_directory: Path) -> None:
        urls = [f"chdb://{history_directory}?database={_unique('pair')}" for _ in range(2)]
        first, second = (HistoryStore(url, connections=1, sync=False, clock=lambda: START) for url in urls)
        first.append(batch_of((1, [(1, 1.0)])))
        second.append(batch_of((1, [(1, 2.0)])))
        assert (all_of(first, 1), all_of(second, 1)) == ([(1, 1, 1.0)], [(1, 1, 2.0)])
        first.close()
        assert all_of(second, 1) == [(1, 1, 2.0)]
        second.close()

    def test_another_process_is_told_which_setting_to_change(
        self, embedded: HistoryStore, history_directory: Path
    ) -> None:
        script = f"""
import sys
from datetime import UTC, datetime
from kilowatch.history.engine import EngineInUse
from kilowatch.history.store import HistoryStore
from kilowatch.history.turns import OwnTurns, Turn
try:
    HistoryStore("chdb://{history_directory}", connections=1, sync=False, clock=lambda: datetime.now(UTC))
except EngineInUse as error:
    print(error.detail)
    sys.exit(7)
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 7, done.stderr
        assert "KILOWATCH_DATA_DIR" in done.stdout and "KILOWATCH_HISTORY_URL" in done.stdout
        assert str(history_directory) in done.stdout

    def test_another_directory_in_the_same_process_is_refused(self, embedded: HistoryStore, tmp_path: Path) -> None:
        with pytest.raises(Invalid, match="KILOWATCH_HISTORY_URL"):
            HistoryStore(f"chdb://{tmp_path}", connections=1, sync=False, clock=lambda: START)

    @pytest.mark.parametrize(
        "url",
        [
            *("", "chdb:", "chdb://", "chdb:///", "chdb://relative/path", "sqlite:///x", "/path", "clickhouse://"),
            *("clickhouse:///database", "clickhouse://host:port/x", "clickhouse://host:99999/x"),
            *(
                "chdb:///tmp/x?database=a;DROP",
                "chdb:///tmp/x?database=1a",
                "clickhouse://host/a%60b",
                "http://host:8123/x",
            ),
        ],
    )
    def test_a_url_that_can_t_be_used_names_the_setting(self, url: str) -> None:
        with pytest.raises(Invalid, match="KILOWATCH_HISTORY_URL"):
            HistoryStore(url, connections=1, sync=False, clock=lambda: START)
