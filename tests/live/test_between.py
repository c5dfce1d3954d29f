"""What arrives at the very moment at which a stream goes from reading to listening comes once, and in order."""

import asyncio
from collections.abc import Callable, Iterator, Sequence

import pytest

from kilowatch.auth.model import Credential
from kilowatch.history.model import Place
from kilowatch.history.store import HistoryStore
from kilowatch.live.feed import Arrival, Feed
from kilowatch.live.hub import Hub
from kilowatch.live.model import SHUTDOWN, Sight, Source
from kilowatch.live.stream import Stream
from tests.conftest import START
from tests.history.conftest import batch_of

METRIC, OTHER = 1, 2


@pytest.fixture
def store(history_url: str) -> Iterator[HistoryStore]:
    store = HistoryStore(history_url, connections=2, sync=True, clock=lambda: START)
    yield store
    store.close()


ANYONE = Source(Credential(), 1, user_id=1)


class Watched(Feed):
    """A feed to which something happens before and after its position is asked for, and before each page is read."""

    def __init__(self, store: HistoryStore, happen: dict[str, Callable[[], None]]) -> None:
        super().__init__(store)
        self._happen = happen

    def position(self) -> Place:
        self._happen.get("before position", _nothing)()
        position = super().position()
        self._happen.get("after position", _nothing)()
        return position

    def read_until(self, until: Place, metric_ids: Sequence[int], after: Place, limit: int) -> list[Arrival]:
        self._happen.get("before page", _nothing)()
        page = super().read_until(until, metric_ids, after, limit)
        self._happen.get("after page", _nothing)()
        return page


def _nothing() -> None: ...


class Counter:
    """Stores one reading after another, the value of each being its number."""

    def __init__(self, store: HistoryStore, most: int) -> None:
        self.count, self._store, self._most = 0, store, most

    def store_next(self) -> None:
        if self.count < self._most:
            self.count += 1
            self._store.append(batch_of((METRIC, [(self.count, self.count)]), (OTHER, [(self.count, self.count)])))


async def sent(store: HistoryStore, feed: Feed, after: Place | None, enough: Callable[[str], bool]) -> list[int]:
    """The values that a stream sends, until that is enough."""
    hub, written, changed = Hub(), bytearray(), asyncio.Event()
    stop = store.listen(hub)
    stream = Stream(ANYONE, hub=hub, feed=feed, latest=lambda _source: (), run=asyncio.to_thread, after=after)

    async def write(events: bytes) -> None:
        written.extend(events)
        changed.set()

    task = asyncio.create_task(stream.send(Sight((METRIC, OTHER)), write))
    async with asyncio.timeout(30):
        while not enough(written.decode()):
            await changed.wait()
            changed.clear()
    stream.end(SHUTDOWN)
    await task
    stop()
    return [
        int(float(part.split('"value":')[1].split(",")[0]))
        for part in written.decode().split("\n\n")
        if "reading" in part
    ]


MOMENTS = ("before position", "after position", "before page", "after page")


@pytest.mark.parametrize("moments", [(moment,) for moment in MOMENTS] + [MOMENTS])
def test_of_one_that_resumes(store: HistoryStore, moments: tuple[str, ...]) -> None:
    counter = Counter(store, 12)
    begin = Place.until(store.arrived_until())
    for _ in range(3):
        counter.store_next()
    feed = Watched(store, dict.fromkeys(moments, counter.store_next))

    async def enough_then_more() -> list[int]:
        def enough(text: str) -> bool:
            if '"value":3.0' in text:
                counter.store_next()  # it listens by now
            return '"value":12.0' in text

        return await sent(store, feed, begin, enough)

    values = asyncio.run(enough_then_more())
    assert values[:24] == [value for value in range(1, 13) for _ in (METRIC, OTHER)]
    assert len(values) == 24


@pytest.mark.parametrize("moment", ["before position", "after position"])
def test_of_one_that_begins(store: HistoryStore, moment: str) -> None:
    """What was there at its position is shown by `latest`; what came after it arrives."""
    counter = Counter(store, 5)
    feed = Watched(store, {moment: counter.store_next})

    def enough(text: str) -> bool:
        if "retry" in text:
            counter.store_next()
        return '"value":5.0' in text

    values = asyncio.run(sent(store, feed, None, enough))
    first = 2 if moment == "before position" else 1
    assert values == [value for value in range(first, 6) for _ in (METRIC, OTHER)]


def test_of_one_whose_insert_failed_half_way_it_is_read(store: HistoryStore) -> None:
    """Nobody knows what of it is stored, so all who listen look."""
    position = Place.until(store.arrived_until())

    def enough(text: str) -> bool:
        if "retry" in text and "reading" not in text:
            store._arrivals._listeners, listeners = (), store._arrivals._listeners
            store.append(batch_of((METRIC, [(1, 1.0)])))  # nobody is told of it
            store._arrivals._listeners = listeners
            store._arrivals.stored_in_part(store.arrived_until())
        return '"value":1.0' in text

    assert asyncio.run(sent(store, Feed(store), position, enough)) == [1]
