"""Several processes that store in one ClickHouse server: each hears of all readings, in one order, and none is doubled.

Two stores with databases of their own stand for two processes: nothing but the server and the PostgreSQL is between.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from sqlalchemy import text

from kilowatch import migrations
from kilowatch.errors import Unavailable
from kilowatch.history.model import Compared, Place, ReadArrived, Replaced, Rows
from kilowatch.history.store import HistoryStore
from kilowatch.history.turns import SharedTurns
from kilowatch.kit.db import Database
from kilowatch.kit.timespan import to_ms
from tests.clickhouse import ClickHouse
from tests.conftest import START, _unique, drop_history
from tests.history.conftest import batch_of
from tests.operations.metering import Change
from tests.processes import wait_until

METRICS = range(1, 9)
Event = tuple[int, int, int, float]
"""When it was received, metric, time, value."""


@dataclass
class Ear:
    """Hears all that arrives, and reads what it is only told of."""

    store: HistoryStore
    events: list[Event] = field(default_factory=list)
    in_part: list[int] = field(default_factory=list)

    def arrived(self, rows: Rows) -> None:
        columns = (rows.metric_ids.tolist(), rows.timestamps.tolist(), rows.values.tolist())
        self.events += [(rows.received_at, *event) for event in zip(*columns, strict=True)]

    def arrived_elsewhere(self, metric_ids: frozenset[int], read: ReadArrived) -> None:
        for rows in read(metric_ids):
            self.arrived(rows)

    def arrived_in_part(self, received_at: int) -> None:
        self.in_part.append(received_at)
        begin = Place.until(self.events[-1][0] if self.events else 0)
        found = self.store.arrivals(list(METRICS), begin, until=received_at, limit=100_000)
        self.events += [
            (int(row["received_at"]), int(row["metric_id"]), int(row["ts"]), float(row["value"])) for row in found
        ]


@dataclass
class Process:
    database: Database
    store: HistoryStore
    ear: Ear


@pytest.fixture
def url(clickhouse: ClickHouse) -> Iterator[str]:
    url = f"{clickhouse.url}/{_unique('turns')}"
    yield url
    drop_history(url)


@pytest.fixture
def start(postgres_url: str, url: str) -> Iterator[Callable[[], Process]]:
    started: list[Process] = []

    def start() -> Process:
        database = Database(postgres_url, pool_size=4)
        migrations.upgrade(database)
        store = HistoryStore(url, connections=2, sync=False, clock=lambda: START, shared_by=database)
        ear = Ear(store)
        store.listen(ear)
        started.append(Process(database, store, ear))
        return started[-1]

    yield start
    for process in started:
        process.store.close()
        process.database.close()


def send(process: Process, *readings: tuple[int, int, float]) -> None:
    """As a request does."""
    process.store.append(compared(process, *readings).batch)


def compared(process: Process, *readings: tuple[int, int, float]) -> Compared:
    batch = batch_of(*((metric_id, [(ts, value)]) for metric_id, ts, value in readings))
    return process.store.compare(batch, as_of=process.database.stamp())


def heard(process: Process) -> list[tuple[int, int, float]]:
    return [event[1:] for event in process.ear.events]


def end_transactions(database: Database) -> None:
    with database.write() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                "AND state = 'idle in transaction' AND pid <> pg_backend_pid()"
            )
        )


class TestTwoProcesses:
    def test_hear_of_each_others_readings_in_one_order_and_once(self, start: Callable[[], Process]) -> None:
        one, two = start(), start()

        def write(process: Process, metric_id: int) -> None:
            for number in range(15):
                send(process, (metric_id, number, float(number)))

        threads = [
            threading.Thread(target=write, args=(process, metric_id))
            for process, metric_ids in ((one, (1, 2, 3)), (two, (4, 5, 6)))
            for metric_id in metric_ids
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until(lambda: len(heard(one)) >= 90 and len(heard(two)) >= 90, "both have heard all")
        assert one.ear.events == two.ear.events
        assert one.ear.events == sorted(set(one.ear.events))
        assert sorted(heard(one)) == [(metric, number, float(number)) for metric in range(1, 7) for number in range(15)]

    def test_hear_of_what_was_stored_in_a_turn_that_was_lost(self, start: Callable[[], Process]) -> None:
        one, two = start(), start()
        send(one, (1, 0, 0.0))
        send(two, (2, 0, 0.0))
        wait_until(lambda: len(heard(one)) == len(heard(two)) == 2, "both have heard the first")
        ending = SharedTurns(one.database, last=0)
        with pytest.raises(Unavailable), ending.take(to_ms(START)) as turn:
            lost = (3, turn.received_at, 7.0)
            two.store.backfill(batch_of((3, [lost[1:]])))  # received at that moment
            end_transactions(two.database)  # as where a process dies between its insert and its commit
        send(two, (2, 1, 0.0))
        expected = [(1, 0, 0.0), (2, 0, 0.0), (2, 1, 0.0), lost]  # at one moment, as the clocks stand still
        wait_until(lambda: heard(one) == heard(two) == expected, "both have heard of all")
        asked_to_look = len(one.ear.in_part)
        send(two, (2, 2, 0.0))
        wait_until(lambda: heard(one) == heard(two) == [*expected, (2, 2, 0.0)], "both have heard the last")
        assert len(one.ear.in_part) == asked_to_look  # as nothing was lost since

    def test_hear_of_it_though_another_process_starts_first(self, start: Callable[[], Process]) -> None:
        one = start()
        send(one, (1, 0, 0.0))
        ending = SharedTurns(one.database, last=0)
        with pytest.raises(Unavailable), ending.take(to_ms(START)) as turn:
            lost = (3, turn.received_at, 7.0)
            one.store.backfill(batch_of((3, [lost[1:]])))
            end_transactions(one.database)
        start()
        wait_until(lambda: heard(one) == [(1, 0, 0.0), lost], "it was heard of")

    def test_have_the_same_latest_values(self, start: Callable[[], Process]) -> None:
        one, two = start(), start()
        send(one, (1, 1_000, 1.0), (2, 5_000, 2.0))
        send(two, (1, 2_000, 10.0), (2, 4_000, 20.0))
        for process in (one, two):
            rows = process.store.latest(np.array([1, 2], np.uint32))
            assert rows["value"].tolist() == [10.0, 2.0]

    def test_store_what_is_sent_to_both_once(self, start: Callable[[], Process]) -> None:
        one, two = start(), start()
        for number in range(10):
            barrier = threading.Barrier(2)

            def write(process: Process, number: int = number, barrier: threading.Barrier = barrier) -> None:
                batch = compared(process, (1, number, 7.0)).batch
                barrier.wait(60)  # both have seen that it is not stored
                process.store.append(batch)

            threads = [threading.Thread(target=write, args=(process,)) for process in (one, two)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        send(one, (2, 0, 0.0))
        wait_until(lambda: (2, 0, 0.0) in heard(one) and (2, 0, 0.0) in heard(two), "both have heard the last")
        assert heard(one) == heard(two) == [*((1, number, 7.0) for number in range(10)), (2, 0, 0.0)]

    def test_of_which_the_later_request_wins_whatever_the_clocks_say(self, start: Callable[[], Process]) -> None:
        one, two = start(), start()  # their clocks stand still
        for value in range(6):
            send((one, two)[value % 2], (1, 500, float(value)))
        for process in (one, two):
            assert process.store.latest(np.array([1], np.uint32))["value"].tolist() == [5.0]


class TestWhatIsKnownWithoutAsking:
    def test_of_new_readings_the_server_is_asked_once_by_each_process(
        self, start: Callable[[], Process], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("kilowatch.history.store._HEARD_WITHIN_S", 60)
        processes = start(), start()
        for number in range(4):
            send(processes[number % 2], (1, number, 1.0), (2, number, 2.0))
        change = Change()
        for number in range(4, 44):
            send(processes[number % 2], (1, number, 1.0), (2, number, 2.0))
        assert change.of("kilowatch_history_statements_total", kind="latest", result="ok") == 0

    def test_what_another_process_has_stored_is_seen_at_once_to_be_replaced(self, start: Callable[[], Process]) -> None:
        processes = start(), start()
        for number in range(40):
            storing, comparing = processes[number % 2], processes[1 - number % 2]
            send(storing, (1, number, 1.0))
            assert compared(comparing, (1, number, 2.0)).replaced == {1: Replaced(1, number, number)}

    def test_what_another_process_has_stored_is_not_stored_again(self, start: Callable[[], Process]) -> None:
        one, two = start(), start()
        sent = [(1, number, 1.0) for number in range(30)]
        for reading in sent:
            send(one, reading)
            send(two, reading)
        wait_until(lambda: len(heard(one)) >= 30 and len(heard(two)) >= 30, "both have heard all")
        assert heard(one) == heard(two) == sent

    @pytest.mark.parametrize("metrics", [500, 1_500, 6_000])  # more than a notice has room for, in two ways
    def test_of_many_metrics_at_once_all_is_known_as_well(self, start: Callable[[], Process], metrics: int) -> None:
        one, two = start(), start()
        for ts in (1, 2):
            send(one, *((metric, ts, 1.0) for metric in range(1, metrics + 1)))
            found = compared(two, *((metric, ts, 2.0) for metric in range(1, metrics + 1))).replaced
            assert found == {metric: Replaced(1, ts, ts) for metric in range(1, metrics + 1)}

    def test_what_a_process_stored_whose_insert_seemed_to_fail_is_not_stored_again(
        self, clickhouse: ClickHouse, start: Callable[[], Process]
    ) -> None:
        one, two = start(), start()
        send(one, (1, 1, 1.0))
        send(two, (1, 2, 1.0))  # now both know the metric
        clickhouse.fail_next("cut_after", "INSERT INTO readings", times=2)
        with pytest.raises(Unavailable):
            send(one, (1, 3, 3.0))
        send(two, (1, 3, 3.0))
        send(two, (1, 4, 4.0))
        wait_until(lambda: (1, 4, 4.0) in heard(one) and (1, 4, 4.0) in heard(two), "both have heard the last")
        assert heard(one).count((1, 3, 3.0)) == heard(two).count((1, 3, 3.0)) == 1

    def test_what_was_put_in_as_though_it_had_always_been_there_is_known_with_the_next_turn(
        self, start: Callable[[], Process]
    ) -> None:
        one, two = start(), start()
        send(one, (1, 1, 1.0))
        send(two, (1, 2, 1.0))
        one.store.backfill(batch_of((1, [(3, 3.0)])))
        send(one, (2, 1, 1.0))
        assert compared(two, (1, 3, 4.0)).replaced == {1: Replaced(1, 3, 3)}

    def test_what_was_taken_out_can_be_sent_again(self, start: Callable[[], Process]) -> None:
        one, two = start(), start()
        send(one, (1, 1, 1.0))
        send(two, (1, 2, 1.0))
        one.store.erase([1])
        send(two, (1, 2, 1.0))
        assert two.store.latest(np.array([1], np.uint32))["ts"].tolist() == [2]

    def test_no_turn_is_taken_for_lost_that_was_not(self, start: Callable[[], Process]) -> None:
        turns = [SharedTurns(start().database, last=0) for _ in range(2)]
        lost: list[bool] = []

        def take(of: SharedTurns) -> None:
            for number in range(31):
                with of.take(number) as turn:
                    lost.append(turn.lost and number > 0)  # in its first, a process is not sure

        threads = [threading.Thread(target=take, args=(of,)) for of in turns]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert lost == [False] * 62


class TestTrouble:
    def test_after_a_start_any_metric_may_have_readings(self, start: Callable[[], Process]) -> None:
        one = start()
        send(one, (5, 0, 0.0))
        wait_until(lambda: (5, 0, 0.0) in heard(one), "it listens")
        two = start()
        before = len(one.ear.in_part)
        send(two, (1, 1, 1.0))
        wait_until(lambda: (1, 1, 1.0) in heard(one), "the other has heard it")
        assert len(one.ear.in_part) == before + 1
        send(two, (1, 2, 2.0))
        wait_until(lambda: (1, 2, 2.0) in heard(one), "the other has heard it")
        assert len(one.ear.in_part) == before + 1

    def test_an_insert_whose_answer_was_lost_is_heard_of_all_the_same(
        self, clickhouse: ClickHouse, start: Callable[[], Process]
    ) -> None:
        one, two = start(), start()
        send(one, (1, 1, 1.0))
        clickhouse.fail_next("cut_after", "INSERT INTO readings", times=2)
        with pytest.raises(Unavailable):
            send(one, (2, 2, 2.0))
        send(one, (2, 2, 2.0))
        send(two, (3, 3, 3.0))
        everything = [(1, 1, 1.0), (2, 2, 2.0), (3, 3, 3.0)]
        wait_until(lambda: len(heard(one)) >= 3 and len(heard(two)) >= 3, "both have heard all")
        assert heard(one) == heard(two) == everything

    def test_a_lost_connection_to_the_database_loses_nothing(self, start: Callable[[], Process]) -> None:
        one, two = start(), start()
        send(two, (1, 1, 1.0))
        wait_until(lambda: heard(one) == heard(two) == [(1, 1, 1.0)], "both have heard it")
        with one.database.write() as connection:
            ended = connection.execute(
                text(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND application_name = 'kilowatch, listening'"
                )
            ).scalar_one()
        assert ended == 2
        for number in range(2, 6):
            send(two, (1, number, 1.0))
        wait_until(lambda: len(heard(one)) == 5 and len(heard(two)) == 5, "both have heard all")
        assert heard(one) == heard(two) == [(1, number, 1.0) for number in range(1, 6)]
