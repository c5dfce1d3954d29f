"""A store that is shared by a module's tests, as an opened engine costs more than most of them.

Each test takes metrics of its own.
"""

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from kilowatch.auth.service import Gate
from kilowatch.facility.model import PlacedMetric
from kilowatch.history import engine
from kilowatch.history.model import Batch, History, Stop
from kilowatch.history.service import Histories, Query
from kilowatch.history.store import HistoryStore
from kilowatch.kit.timespan import Window, from_ms, to_ms
from tests.conftest import Clock, _history_engines, _unique, drop_history

Readings = Sequence[tuple[int, float]]
"""Times in ms since 1970 with their values, in the order of their arrival."""

LONG_AFTER = datetime(2190, 1, 1, tzinfo=UTC)


@contextmanager
def impatient() -> Iterator[None]:
    """Deletions are hardly waited for."""
    with pytest.MonkeyPatch.context() as meanwhile:
        meanwhile.setattr(engine, "_REMOVED_WITHIN_S", 0.5)
        yield


class NothingSimulated:
    """Where all devices have hardware, nothing is made when it is asked for."""

    def prepare(self, metrics: Sequence[PlacedMetric], window: Window, *, stop: Stop) -> None: ...

    def refresh(self, metrics: Sequence[PlacedMetric]) -> None: ...


@dataclass
class Recorder:
    """The real engine with metrics made at will, which no catalogue knows."""

    store: HistoryStore
    clock: Clock
    _ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        # Of metrics that are passed in, nobody's rights are asked: so there is no gate.
        self.histories = Histories(cast(Gate, None), self.store, self.clock, NothingSimulated())

    def metric(self, **fields: Any) -> PlacedMetric:
        """A metric that was never used before: by default a gauge of power in kW that is believed for 900 s."""
        number = next(self._ids)
        usual: dict[str, Any] = {
            "id": number,
            "site_id": 1,
            "site": "home",
            "timezone": "UTC",
            "device_id": 1,
            "device": "device",
            "key": f"metric_{number}",
            "name": "Metric",
            "quantity": "power",
            "unit": "kW",
            "behaviour": "gauge",
            "max_gap_s": 900,
            "valid_min": None,
            "valid_max": None,
        }
        if fields.get("behaviour") == "counter":
            usual |= {"quantity": "energy", "unit": "kWh", "max_gap_s": None}
        return PlacedMetric(**(usual | fields))

    def append(self, *batches: tuple[PlacedMetric, Readings]) -> int:
        """All of it as one batch."""
        return self.store.append(batch_of(*((metric.id, readings) for metric, readings in batches)))

    def ask(
        self, *metrics: PlacedMetric, start: str | int, end: str | int, now: str | int | None = None, **query: Any
    ) -> History:
        """The history as it is known at `now`, by default long after every reading."""
        self.clock.now = LONG_AFTER if now is None else from_ms(ms(now))
        window = Window(*(from_ms(ms(instant)) for instant in (start, end)))
        return self.histories.history(metrics, Query(window, **({"resolution": "1h"} | query)))

    def values(self, metric: PlacedMetric, *, start: str | int, end: str | int, **query: Any) -> list[float | None]:
        """The buckets' values of one metric."""
        return column(self.ask(metric, start=start, end=end, **query).series[0].values)

    def coverage(self, metric: PlacedMetric, *, start: str | int, end: str | int, **query: Any) -> list[float]:
        found = self.ask(metric, start=start, end=end, **query).series[0].coverage
        assert found is not None
        return cast(list[float], found.tolist())


def ms(instant: str | int) -> int:
    """Of an ISO time; a naive one is UTC, as in `2026-01-05T12:00`."""
    if isinstance(instant, int):
        return instant
    aware = instant if re.search(r"Z$|[+-]\d\d:\d\d$", instant[10:]) else f"{instant}+00:00"
    return to_ms(datetime.fromisoformat(aware))


def column(values: np.ndarray) -> list[float | None]:
    """NaN as None, as it leaves the house."""
    return [None if np.isnan(value) else float(value) for value in values]


def batch_of(*parts: tuple[int, Readings]) -> Batch:
    rows = [(metric_id, instant, value) for metric_id, readings in parts for instant, value in readings]
    metric_ids, timestamps, values = zip(*rows, strict=True) if rows else ((), (), ())
    return Batch(np.array(metric_ids, np.uint32), np.array(timestamps, np.int64), np.array(values, np.float64))


@pytest.fixture(scope="module", params=_history_engines())
def shared_history_url(request: pytest.FixtureRequest, history_directory: Path) -> str:
    name = _unique("shared")
    server = os.environ.get("KILOWATCH_TEST_HISTORY_URL", "").rstrip("/")
    return f"chdb://{history_directory}?database={name}" if request.param == "embedded" else f"{server}/{name}"


@pytest.fixture(scope="module")
def recorder(shared_history_url: str) -> Iterator[Recorder]:
    clock = Clock(LONG_AFTER)
    store = HistoryStore(shared_history_url, connections=2, sync=False, clock=clock)
    yield Recorder(store, clock)
    store.close()
    drop_history(shared_history_url)
