"""The history on a ClickHouse server: what goes wrong on the way there, and that nothing is lost or doubled by it."""

from collections.abc import Iterator

import numpy as np
import pytest

from kilowatch.errors import Invalid, Unavailable
from kilowatch.history.model import Batch
from kilowatch.history.store import HistoryStore
from tests.clickhouse import ClickHouse
from tests.conftest import START, _unique, drop_history
from tests.history.conftest import batch_of
from tests.history.test_store import all_of, newest

READINGS = batch_of((1, [(1_000, 1.0), (2_000, 2.0)]), (2, [(1_500, -3.5)]))
STORED = [(1, 1_000, 1.0), (1, 2_000, 2.0), (2, 1_500, -3.5)]


@pytest.fixture
def url(clickhouse: ClickHouse) -> Iterator[str]:
    url = f"{clickhouse.url}/{_unique('wire')}"
    yield url
    drop_history(url)


@pytest.fixture
def store(url: str) -> Iterator[HistoryStore]:
    store = HistoryStore(url, connections=2, sync=True, clock=lambda: START)
    yield store
    store.close()


def send(store: HistoryStore, batch: Batch) -> None:
    """As a request does."""
    store.append(store.compare(batch).batch)


class TestInserts:
    @pytest.mark.parametrize(("kind", "times"), [("cut_before", 2), ("refuse", 1)])  # it tries a cut one again, once
    def test_that_were_not_done_are_not_acknowledged_and_can_be_sent_again(
        self, clickhouse: ClickHouse, store: HistoryStore, kind: str, times: int
    ) -> None:
        clickhouse.fail_next(kind, "INSERT INTO readings", times=times)
        with pytest.raises(Unavailable):
            send(store, READINGS)
        assert all_of(store, 1, 2) == []
        send(store, READINGS)
        assert all_of(store, 1, 2) == STORED

    def test_whose_answer_was_lost_are_not_stored_twice_when_they_are_sent_again(
        self, clickhouse: ClickHouse, store: HistoryStore
    ) -> None:
        clickhouse.fail_next("cut_after", "INSERT INTO readings", times=2)
        with pytest.raises(Unavailable):
            send(store, READINGS)
        assert all_of(store, 1, 2) == STORED
        send(store, READINGS)
        assert all_of(store, 1, 2) == STORED
        assert store.count([1, 2]) == 3

    def test_of_many_years_go_in_one(self, store: HistoryStore) -> None:
        months = np.arange("1990-01", "2020-01", dtype="datetime64[M]").astype("datetime64[ms]").astype(np.int64)
        batch = Batch(np.full(len(months), 3, np.uint32), months, np.arange(len(months), dtype=np.float64))
        send(store, batch)
        assert store.count([3]) == 360

    def test_are_merged_with_what_others_have_stored(self, url: str, store: HistoryStore) -> None:
        other = HistoryStore(url, connections=1, sync=True, clock=lambda: START)
        send(store, READINGS)
        send(other, batch_of((1, [(2_000, 20.0), (3_000, 30.0)])))
        for at_both in (store, other):
            assert all_of(at_both, 1, 2) == [(1, 1_000, 1.0), (1, 2_000, 20.0), (1, 3_000, 30.0), (2, 1_500, -3.5)]
            assert (newest(at_both, 1), newest(at_both, 2)) == ((3_000, 30.0), (1_500, -3.5))
        other.close()


class TestQuestions:
    def test_that_are_cut_off_are_asked_again(self, clickhouse: ClickHouse, store: HistoryStore) -> None:
        send(store, READINGS)
        clickhouse.fail_next("cut_before", "SELECT")
        assert all_of(store, 1, 2) == STORED

    def test_may_name_more_metrics_than_fit_an_address(self, store: HistoryStore) -> None:
        send(store, READINGS)
        assert store.count(range(1, 60_000)) == 3

    def test_that_the_server_has_no_room_for_are_answered_with_when_to_come_back(
        self, clickhouse: ClickHouse, store: HistoryStore
    ) -> None:
        clickhouse.fail_next("refuse", "SELECT", times=3)  # the client tries twice more
        with pytest.raises(Unavailable) as refused:
            store.count([1])
        assert refused.value.retry_after_s is not None
        assert store.count([1]) == 0


class TestOpening:
    def test_with_a_wrong_password_names_the_setting(self, clickhouse: ClickHouse) -> None:
        wrong = clickhouse.url.replace(":wire@", ":wrong@") + "/kilowatch"
        with pytest.raises((Invalid, Unavailable), match="KILOWATCH_HISTORY_URL"):
            HistoryStore(wrong, connections=1, sync=True, clock=lambda: START)

    def test_where_nobody_listens_is_unavailable(self) -> None:
        with pytest.raises(Unavailable):
            HistoryStore("clickhouse://u:p@127.0.0.1:9/kilowatch", connections=1, sync=True, clock=lambda: START)
