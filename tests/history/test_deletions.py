"""Deletions of readings where there are many: what is written anew for them, and who waits how long."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest

from kilowatch.history import engine as engines
from kilowatch.history import folded as cells
from kilowatch.history import statements
from kilowatch.history.cluster import Cluster
from kilowatch.history.engine import NotRemovedYet
from kilowatch.history.intervals import QUARTER_MS
from kilowatch.history.store import HistoryStore
from kilowatch.kit.timespan import Window, from_ms
from tests.conftest import START
from tests.history.conftest import batch_of, impatient, ms
from tests.history.test_store import all_of

FIRST = ms("2026-12-30T00:00")
WINDOW = Window(from_ms(FIRST), from_ms(FIRST + 3 * 96 * QUARTER_MS))  # into the next month, and the next year
MADE_AT = ms("2027-03-01T00:00")


@pytest.fixture
def history_url(every_history_url: str) -> str:
    return every_history_url


@pytest.fixture
def store(history_url: str) -> Iterator[HistoryStore]:
    store = HistoryStore(history_url, connections=2, sync=False, clock=lambda: START)
    yield store
    store.close()


def fold(store: HistoryStore, metric_id: int, quarters: np.ndarray, *, count: int = 1, made_at: int = MADE_AT) -> None:
    """Cells of the quarters of these numbers, counted from `FIRST`, that say no more than that they are there."""
    store._engine.command(
        """INSERT INTO quarters (metric_id, begins, count, made_at)
        SELECT {id:UInt32}, fromUnixTimestamp64Milli(arrayJoin({begins:Array(Int64)}), 'UTC'), {count:Int64},
            fromUnixTimestamp64Milli({made_at:Int64}, 'UTC')
        """,
        {"id": metric_id, "begins": begins(quarters).tolist(), "count": count, "made_at": made_at},
    )


def begins(quarters: np.ndarray) -> np.ndarray:
    found: np.ndarray = FIRST + quarters * QUARTER_MS
    return found


def fill(store: HistoryStore, *metric_ids: int) -> None:
    """A reading in each quarter of the window."""
    readings = [(int(instant) + 1, 1.0) for instant in begins(np.arange(3 * 96))]
    store.append(batch_of(*((metric_id, readings) for metric_id in metric_ids)))


def quarters_left(store: HistoryStore, metric_id: int) -> list[int]:
    return [(instant - FIRST) // QUARTER_MS for _, instant, _ in all_of(store, metric_id)]


def deletions(store: HistoryStore) -> int:
    return int(store._engine.lines("SELECT count() FROM system.mutations WHERE database = currentDatabase()", {})[0][0])


@contextmanager
def nothing_rewritten(store: HistoryStore) -> Iterator[None]:
    """The engine takes deletions, and does not begin with them."""
    tables = [name for (name,) in store._engine.lines("SHOW TABLES LIKE 'readings%'", {})]
    table = max(tables, key=len)  # that of the server, of a cluster's two
    store._engine.command(f"SYSTEM STOP MERGES {table}", {})
    try:
        yield
    finally:
        store._engine.command(f"SYSTEM START MERGES {table}", {})


def watched(engine: engines.Engine, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once somebody who waits for a deletion has seen that it has begun."""
    seen, progress = threading.Event(), engine._progress

    def watch(mark: str) -> tuple[int, int, int]:
        servers, begun, done = progress(mark)
        if begun:
            seen.set()
        return servers, begun, done

    monkeypatch.setattr(engine, "_progress", watch)
    return seen


class TestDeletingWhatIsFolded:
    def test_by_a_window_leaves_a_quarter_that_it_cuts(self, store: HistoryStore) -> None:
        fold(store, 1, np.array([0, 1, 2]))
        end = from_ms(FIRST + 2 * QUARTER_MS + 60_000)
        store.erase_window(1, Window(from_ms(FIRST + QUARTER_MS), end), received_until=MADE_AT)
        assert store.folded.count([1]) == (2, 0)

    def test_takes_the_readings_of_folded_quarters_and_no_others(self, store: HistoryStore) -> None:
        """Of whole days, of single quarters, with gaps; over a year's end; made too late, and taken back."""
        every = np.arange(3 * 96)
        rng = np.random.default_rng(18)
        folded = {
            1: every,
            2: every[::2],
            3: every[(every % 96 > 27) & (every % 96 < 70)],
            4: every[rng.random(len(every)) < 0.9],
            5: every[1:-1],
            7: every[:0],
        }
        fill(store, *folded, 6)
        for metric_id, quarters in folded.items():
            if len(quarters):
                fold(store, metric_id, quarters)
        fold(store, 1, every[100:104], count=0, made_at=MADE_AT + 1)
        fold(store, 5, every[200:208], made_at=MADE_AT + 2)
        expected = {metric_id: np.setdiff1d(every, quarters).tolist() for metric_id, quarters in folded.items()}
        expected |= {1: [100, 101, 102, 103], 6: every.tolist()}
        expected[5] = [0, *range(200, 208), 287]
        hidden = sum(len(every) - len(left) for left in expected.values())
        assert store.folded.count(list(expected))[1] == hidden + 8
        assert store.folded.has_any_made_since(list(expected), WINDOW, MADE_AT + 1)
        assert not store.folded.has_any_made_since([1, 2, 3], WINDOW, MADE_AT + 1)
        assert store.folded.delete_raw(list(expected), WINDOW, made_until=MADE_AT + 1) == hidden
        assert {metric_id: quarters_left(store, metric_id) for metric_id in expected} == expected
        assert store.folded.count(list(expected))[1] == 8

    def test_writes_a_month_anew_once_for_all_metrics(self, store: HistoryStore) -> None:
        metrics = range(1, 41)
        fill(store, *metrics)
        for metric_id in metrics:
            fold(store, metric_id, np.arange(48))
        assert store.folded.delete_raw(metrics, WINDOW, made_until=MADE_AT) == 40 * 48
        assert deletions(store) == 1
        assert store.folded.delete_raw(metrics, WINDOW, made_until=MADE_AT) == 0
        assert deletions(store) == 1

    def test_names_no_more_quarters_at_once_than_memory_has_room_for(
        self, store: HistoryStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cells, "_NAMES_AT_ONCE", 10)
        fill(store, 1, 2, 3, 4)
        for metric_id in (1, 2, 4):
            fold(store, metric_id, np.arange(0, 16, 2))
        assert store.folded.count([1, 2, 3, 4])[1] == 24
        assert store.folded.delete_raw([1, 2, 3, 4], WINDOW, made_until=MADE_AT) == 24
        assert deletions(store) == 3
        assert quarters_left(store, 3) == list(range(3 * 96))
        assert quarters_left(store, 4) == [*range(1, 16, 2), *range(16, 3 * 96)]

    def test_ends_when_it_is_to_stop_and_what_was_begun_goes_on(self, store: HistoryStore) -> None:
        fill(store, 1)
        fold(store, 1, np.arange(3 * 96))
        with nothing_rewritten(store):
            store.folded.delete_raw([1], WINDOW, made_until=MADE_AT, stop=lambda: True)
            assert store.folded.is_deleting()
        until(lambda: not store.folded.is_deleting())
        assert all_of(store, 1) == []


class TestADeletionThatTakesLong:
    def test_keeps_nobody_else_from_the_engine_and_says_when_to_ask_again(self, store: HistoryStore) -> None:
        fill(store, 1, 2)
        with nothing_rewritten(store):
            with impatient(), pytest.raises(NotRemovedYet) as refused:
                store.erase([1])
            assert refused.value.retry_after_s == 60
            assert store.count([2]) == 3 * 96
            store.append(batch_of((2, [(FIRST, 1.0)])))
        store.erase([1])
        assert (store.count([1]), store.count([2])) == (0, 3 * 96 + 1)

    def test_of_a_window_is_right_once_it_is_asked_for_again(self, store: HistoryStore) -> None:
        fill(store, 1)
        end = FIRST + 90 * QUARTER_MS
        window = Window(from_ms(end), WINDOW.end)
        stored = store.stored_in_window(1, window)
        with nothing_rewritten(store):
            with impatient(), pytest.raises(NotRemovedYet):
                store.erase_window(1, window, received_until=stored.received_until)
            store.append(batch_of((1, [(end + 7, 7.0)])))
        store.erase_window(1, window, received_until=stored.received_until)
        assert store.count([1]) == 91
        (newest,) = store.latest(np.array([1], np.uint32))
        assert (int(newest["ts"]), float(newest["value"])) == (end + 7, 7.0)

    def test_loses_nothing_that_is_sent_again_meanwhile_with_the_same_value(self, store: HistoryStore) -> None:
        fill(store, 1)
        stored = store.stored_in_window(1, WINDOW)
        instants = begins(np.array([5, 3 * 96 - 1])) + 1  # one of them the newest
        again = batch_of((1, [(int(instant), 1.0) for instant in instants]))
        with nothing_rewritten(store):
            with impatient(), pytest.raises(NotRemovedYet):
                store.erase_window(1, WINDOW, received_until=stored.received_until)
            store.append(store.compare(again).batch)
        store.erase_window(1, WINDOW, received_until=stored.received_until)
        assert quarters_left(store, 1) == [5, 3 * 96 - 1]
        store.append(store.compare(again).batch)  # as good as stored from now on
        assert store.stored_in_window(1, WINDOW).readings == 2

    def test_and_is_given_up_by_somebody_says_so(self, store: HistoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
        fill(store, 1)
        with nothing_rewritten(store), ThreadPoolExecutor() as pool:
            seen = watched(store._engine, monkeypatch)
            statement, deadline = "ALTER TABLE readings DELETE WHERE metric_id = 1", time.monotonic() + 120
            removing = pool.submit(store._engine.remove, statement, {}, deadline=deadline)
            assert seen.wait(60)
            store._engine.command("KILL MUTATION WHERE database = currentDatabase()", {})
            with pytest.raises(NotRemovedYet):
                removing.result(60)  # well before the deadline
        assert store.count([1]) == 3 * 96

    def test_and_fails_says_so(self, store: HistoryStore) -> None:
        fill(store, 1)
        with pytest.raises(NotRemovedYet):  # before any deadline: there is none
            store._engine.remove("ALTER TABLE readings DELETE WHERE intDiv(1, metric_id - 1) > 0", {})
        assert store.count([1]) == 3 * 96


def test_a_cluster_asks_all_of_its_servers_whether_it_is_done() -> None:
    asked = Cluster("fleet", "kilowatch").asking(statements.PROGRESS)
    assert "clusterAllReplicas(`fleet`, system.one)" in asked
    assert "clusterAllReplicas(`fleet`, system.mutations)" in asked


class TestCells:
    @pytest.fixture
    def history_url(self, any_history_url: str) -> str:
        return any_history_url

    def test_of_other_years_are_not_looked_at(self, store: HistoryStore) -> None:
        columns = "metric_id, begins, count, made_at"
        for table, ends in (("quarters", ""), ("days", ", ends")):
            for year in (2024, 2025, 2026):
                store._engine.command(
                    f"INSERT INTO {table} ({columns}{ends}) SELECT 1, toDateTime64('{year}-05-05 00:00:00', 3, 'UTC') "
                    f"AS at, 1, at {', at' if ends else ''}",
                    {},
                )
        asked = {
            "ids": [1],
            "start": ms("2025-05-01T00:00"),
            "end": ms("2025-06-01T00:00"),
            "limit": 9,
            "made_until": MADE_AT,
        }
        of_a_window = (
            statements.QUARTERS, statements.DAYS, statements.KEPT, statements.BEGINS, statements.FOLDED_UNTIL,
            statements.LAST_FOLDED_BEFORE, statements.FIRST_FOLDED_FROM, statements.FOLDED_IN_WINDOW,
            statements.COUNT_FOLDED, statements.NAMES, statements.MADE_SINCE,
        )  # fmt: skip
        plans = {statement: store._engine.lines(f"EXPLAIN indexes = 1 {statement}", asked) for statement in of_a_window}
        asked = {"ids": [1], "times": [ms("2025-05-05T00:00")]}
        plans["at"] = store._engine.lines(f"EXPLAIN indexes = 1 {statements.BEGINS_AT}", asked)
        for statement, plan in plans.items():
            looked_at = re.search(r"Min-Max.*?Parts: (\d)/(\d)", str(plan))
            assert looked_at is not None and looked_at.groups() == ("1", "3"), statement


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
