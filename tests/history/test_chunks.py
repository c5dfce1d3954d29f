"""Raw readings chunk by chunk, from the real engine: nothing is missing, nothing twice, and no chunk is too large."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kilowatch.history.chunks import read_after, read_in_chunks
from kilowatch.history.model import Points
from kilowatch.history.store import HistoryStore
from kilowatch.kit.timespan import Window, from_ms
from tests.history.conftest import Recorder, ms

START = ms("2026-01-01T00:00")
MINUTE, DAY = 60_000, 86_400_000
EVER = Window(from_ms(0), from_ms(ms("2199-12-31T00:00")))


@dataclass
class Counted:
    """The store, and how many readings and statements it was asked for."""

    store: HistoryStore
    sizes: list[int] = field(default_factory=list)
    estimates: int = 0

    def count_at_most(self, metric_ids: Sequence[int], window: Window) -> int:
        self.estimates += 1
        return self.store.count_at_most(metric_ids, window)

    def first_readings(self, metric_ids: Sequence[int], window: Window, *, limit: int) -> list[Points]:
        found = self.store.first_readings(metric_ids, window, limit=limit)
        self.sizes.append(sum(map(len, found)))
        return found


@dataclass
class Stock:
    """Metrics with readings in clusters: some dense, some months apart, one metric with none."""

    store: HistoryStore
    times: dict[int, list[int]]

    def of(self, metric_ids: Sequence[int], window: Window) -> list[tuple[int, int]]:
        return [
            (metric_id, instant)
            for metric_id in metric_ids
            for instant in self.times[metric_id]
            if window.start_ms <= instant < window.end_ms
        ]


@pytest.fixture(scope="module")
def stock(recorder: Recorder) -> Stock:
    patterns: tuple[list[int], ...] = (
        [START + n * MINUTE for n in range(500)],
        [START + n for n in range(300)],
        [START - 900 * DAY, START, START + 1, START + 700 * DAY, START + 700 * DAY + 7],
        [],
        [START + n * DAY for n in range(0, 400, 3)],
    )
    times = {}
    for pattern in patterns:
        metric = recorder.metric()
        times[metric.id] = pattern
        if pattern:
            recorder.append((metric, [(instant, float(n)) for n, instant in enumerate(pattern)]))
            recorder.append(
                (metric, [(instant, float(n)) for n, instant in enumerate(pattern[::5])])
            )  # some of it anew
    return Stock(recorder.store, times)


def keys(chunks: Sequence[Sequence[Points]]) -> list[tuple[int, int]]:
    return [(points.metric_id, int(ts)) for chunk in chunks for points in chunk for ts in points.timestamps]


windows = st.one_of(
    st.just(EVER),
    st.tuples(st.integers(-1000, 1000), st.integers(1, 1500)).map(
        lambda days: Window(from_ms(START + days[0] * DAY), from_ms(START + (days[0] + days[1]) * DAY))
    ),
    st.tuples(st.integers(-10, 600), st.integers(1, 600)).map(
        lambda minutes: Window(
            from_ms(START + minutes[0] * MINUTE), from_ms(START + (minutes[0] + minutes[1]) * MINUTE)
        )
    ),
)
anew = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class TestReadInChunks:
    @anew
    @given(window=windows, size=st.integers(2, 700), data=st.data())
    def test_has_everything_once_in_the_order_asked(
        self, stock: Stock, window: Window, size: int, data: st.DataObject
    ) -> None:
        ids = data.draw(st.permutations(sorted(stock.times)))
        counted = Counted(stock.store)
        chunks = list(read_in_chunks(counted, ids, window, chunk=size))
        assert keys(chunks) == stock.of(ids, window)
        assert max(counted.sizes, default=0) <= size

    @anew
    @given(window=windows, size=st.integers(2, 700), data=st.data())
    def test_goes_on_behind_any_reading(self, stock: Stock, window: Window, size: int, data: st.DataObject) -> None:
        ids = data.draw(st.permutations(sorted(stock.times)))
        after = data.draw(st.tuples(st.integers(0, max(ids) + 1), st.integers(START - DAY, START + 400 * DAY)))
        expected = [key for key in stock.of(ids, window) if key > after]
        assert keys(list(read_after(stock.store, ids, window, after=after, chunk=size))) == expected

    def test_reads_little_more_than_it_gives(self, stock: Stock) -> None:
        """Dense readings in two centuries: the slices find them, and grow and shrink with them."""
        (dense, *_) = sorted(stock.times)
        counted = Counted(stock.store)
        assert len(keys(list(read_in_chunks(counted, [dense], EVER, chunk=100)))) == 500
        assert sum(counted.sizes) == 500
        assert counted.estimates == 1
        assert len(counted.sizes) < 40

    def test_short_windows_cost_one_statement(self, stock: Stock) -> None:
        counted = Counted(stock.store)
        day = Window(from_ms(START), from_ms(START + DAY))
        assert len(keys(list(read_in_chunks(counted, sorted(stock.times), day)))) == len(
            stock.of(sorted(stock.times), day)
        )
        assert (counted.estimates, len(counted.sizes)) == (0, 1)

    def test_reads_no_further_than_it_is_asked(self, stock: Stock) -> None:
        counted = Counted(stock.store)
        chunks = read_in_chunks(counted, sorted(stock.times), EVER, chunk=50)
        next(chunks)
        chunks.close()  # type: ignore[attr-defined]  # it is a generator
        assert sum(counted.sizes) <= 50


class TestCountAtMost:
    def test_is_never_too_few(self, stock: Stock) -> None:
        for metric_id, instants in stock.times.items():
            assert stock.store.count_at_most([metric_id], EVER) >= len(instants)

    def test_is_none_where_there_are_none(self, stock: Stock) -> None:
        assert stock.store.count_at_most([4_000_000], EVER) == 0


class TestValues:
    def test_are_those_that_came_last(self, recorder: Recorder) -> None:
        metric = recorder.metric()
        recorder.append((metric, [(START, 1.0), (START + 1, -0.1)]))
        recorder.append((metric, [(START, 2.5)]))
        (points,) = recorder.store.first_readings([metric.id], EVER, limit=10)
        assert points.values.tolist() == [2.5, -0.1]
        assert points.timestamps.dtype == np.int64

    def test_come_in_many_blocks_of_the_engine(self, recorder: Recorder) -> None:
        metric = recorder.metric()
        recorder.append((metric, [(START + n * 1000, n / 8) for n in range(150_000)]))
        (points,) = recorder.store.first_readings([metric.id], EVER, limit=200_000)
        assert np.array_equal(points.timestamps, START + np.arange(150_000) * 1000)
        assert np.array_equal(points.values, np.arange(150_000) / 8)
