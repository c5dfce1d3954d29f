"""The store as a log: what arrived, in the order in which it did."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilowatch.history.model import Place, ReadArrived, Rows
from kilowatch.history.store import HistoryStore
from kilowatch.live.feed import Arrival, Feed
from tests.conftest import START
from tests.history.conftest import batch_of
from tests.history.test_store import end_abruptly


@pytest.fixture
def store(history_url: str) -> Iterator[HistoryStore]:
    store = HistoryStore(history_url, connections=2, sync=True, clock=lambda: START)
    yield store
    store.close()


BEGINNING = Place.until(0)


def told(arrivals: list[Arrival]) -> list[tuple[int, int, float]]:
    return [(arrival.metric_id, arrival.ts, arrival.value) for arrival in arrivals]


class Heard:
    def __init__(self) -> None:
        self.rows: list[Rows] = []
        self.in_part: list[int] = []

    def arrived(self, rows: Rows) -> None:
        self.rows.append(rows)

    def arrived_in_part(self, received_at: int) -> None:
        self.in_part.append(received_at)

    def arrived_elsewhere(self, metric_ids: frozenset[int], read: ReadArrived) -> None:
        self.rows += read(metric_ids)


class TestPlace:
    @given(st.integers(0, 10**13 - 1), st.integers(0, 2**32 - 1), st.integers(0, 10**13 - 1))
    def test_reads_what_it_wrote(self, received_at: int, metric_id: int, ts: int) -> None:
        place = Place(received_at, metric_id, ts)
        assert Place.parse(str(place)) == place

    def test_of_a_moment_alone_is_behind_all_of_it(self) -> None:
        assert str(Place.until(5)) == "5"
        assert Place(5, 2**32 - 2, 10**13 - 1) < Place.until(5) < Place(6, 0, 0)

    @pytest.mark.parametrize(
        "text", ["", "x", "1.2", "1.2.3.4", "-1", "1.2.-3", "1" * 14, "1.4294967296.1", "1 ", "\uff11"]
    )
    def test_of_any_other_text_is_none(self, text: str) -> None:
        assert Place.parse(text) is None


class TestArrivals:
    def test_come_in_the_order_of_their_arrival_then_by_metric_and_time(self, store: HistoryStore) -> None:
        feed = Feed(store)
        store.append(batch_of((2, [(50, 1.0)])))
        store.append(batch_of((2, [(10, 2.0), (5, 3.0)]), (1, [(99, 4.0)])))
        assert told(feed.read([1, 2], BEGINNING, 10)) == [(2, 50, 1.0), (1, 99, 4.0), (2, 5, 3.0), (2, 10, 2.0)]

    def test_are_read_on_from_any_place(self, store: HistoryStore) -> None:
        feed = Feed(store)
        for moment in range(4):
            store.append(batch_of(*((metric, [(moment, 0.0), (100 + moment, 1.0)]) for metric in (1, 2, 3))))
        whole = feed.read([1, 3], BEGINNING, 100)
        assert len(whole) == 16
        for begin, arrival in enumerate(whole):
            assert feed.read([1, 3], arrival.place, 3) == whole[begin + 1 : begin + 4]

    def test_of_a_position_are_those_after_it(self, store: HistoryStore) -> None:
        feed = Feed(store)
        store.append(batch_of((1, [(1, 1.0)])))
        position = feed.position()
        assert feed.read([1], position, 10) == []
        store.append(batch_of((1, [(0, 2.0)])))
        assert told(feed.read([1], position, 10)) == [(1, 0, 2.0)]
        assert feed.read_until(position, [1], position, 10) == []

    def test_keep_their_places_when_the_store_is_opened_again(self, history_url: str) -> None:
        first = HistoryStore(history_url, connections=1, sync=True, clock=lambda: START)
        first.append(batch_of((1, [(1, 1.0)])))
        position = Feed(first).position()
        first.append(batch_of((1, [(2, 2.0)])))
        end_abruptly(first)
        second = HistoryStore(history_url, connections=1, sync=True, clock=lambda: START)
        second.append(batch_of((1, [(3, 3.0)])))
        assert told(Feed(second).read([1], position, 10)) == [(1, 2, 2.0), (1, 3, 3.0)]
        second.close()

    def test_of_no_metric_are_none(self, store: HistoryStore) -> None:
        store.append(batch_of((1, [(1, 1.0)])))
        assert Feed(store).read([], BEGINNING, 10) == []

    def test_are_told_when_they_can_be_read(self, store: HistoryStore) -> None:
        heard, other = Heard(), Heard()
        store.listen(heard)
        store.append(batch_of((1, [(1, 1.0)])))
        store.listen(other)
        received_at = store.append(batch_of((1, [(2, 2.0), (3, 3.0)])))
        assert [len(rows) for rows in heard.rows] == [1, 2]
        assert [rows.received_at for rows in other.rows] == [received_at] == [store.arrived_until()]
