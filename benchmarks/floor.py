"""The floor: the same rows inserted straight into the embedded engine, the same statements run straight on it.

    python -m benchmarks.floor DIRECTORY SCALE

A process of its own, since one process can have one directory of the engine open. Prints one JSON object: for each
floor its `rate` (a second), `p50_ms` and `p99_ms`.
"""

import json
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import clickhouse_connect
import numpy as np
from clickhouse_connect.driver.client import Client

from benchmarks.progress import Progress
from benchmarks.readings import DAY_MS, MINUTE_MS, SECOND_MS, Block, Metric, blocks, day_start
from benchmarks.scale import BATCH, DAY_METRICS, SCALES, SCRATCH_METRICS, YEAR_METRICS, Scale
from kilowatch.history.model import Rows
from kilowatch.history.native import encode
from kilowatch.history.store import HistoryStore

_GROUP = 8 * BATCH
"""What eight clients have waiting for one insert."""

_THREADS = 4
_SETTINGS = "SETTINGS do_not_merge_across_partitions_select_final = 1"
_WINDOW = """metric_id IN {ids:Array(UInt32)}
    AND ts >= fromUnixTimestamp64Milli({start:Int64}, 'UTC') AND ts < fromUnixTimestamp64Milli({end:Int64}, 'UTC')"""
_RAW = f"SELECT ts, value FROM readings FINAL WHERE {_WINDOW} ORDER BY metric_id, ts {_SETTINGS}"
_EXPORT = f"SELECT metric_id, ts, value FROM readings FINAL WHERE {_WINDOW} ORDER BY metric_id, ts {_SETTINGS}"
_HOURLY = f"""SELECT metric_id, toStartOfHour(ts) AS hour, avg(value) FROM readings WHERE {_WINDOW}
    GROUP BY metric_id, hour ORDER BY metric_id, hour"""
_DAILY = f"""SELECT metric_id, toStartOfDay(ts, 'Europe/Berlin') AS day, sum(value) / 60 FROM readings WHERE {_WINDOW}
    GROUP BY metric_id, day ORDER BY metric_id, day"""
_KEEP_LATEST = "INSERT INTO latest SELECT metric_id, max((ts, received_at, value)) FROM readings GROUP BY metric_id"
_LATEST = """SELECT metric_id, max(newest) FROM latest WHERE metric_id IN {ids:Array(UInt32)}
    GROUP BY metric_id"""

Figures = dict[str, float]
Ids = Sequence[int]


class Floor:
    """The engine with the tables of the house, and readings in them."""

    def __init__(self, directory: Path, scale: Scale) -> None:
        HistoryStore(f"chdb://{directory}", connections=1, sync=True, clock=lambda: datetime.now(UTC)).close()
        self._path = str(directory)
        self._client = self._connect()
        self._scale = scale
        self._end = day_start(datetime.now(UTC))
        self._start = self._end - scale.days * DAY_MS
        numbers = iter(range(1, 1_000_000))
        self._year, self._day, self._scratch, self._wide = (
            [Metric(next(numbers), "") for _ in range(count)]
            for count in (YEAR_METRICS, DAY_METRICS, SCRATCH_METRICS, scale.wide_metrics)
        )
        self._random = random.Random(1)
        self.figures: dict[str, Figures] = {}

    def _connect(self) -> Client:
        return clickhouse_connect.get_client(interface="chdb", path=self._path, database="kilowatch")

    def version(self) -> str:
        return str(self._client.command("SELECT version()"))

    # ── in ──

    def insert(self) -> None:
        begin = self._start - 400 * DAY_MS
        few = min(200, self._scale.requests)
        for size, count in ((1, few), (64, few), (BATCH, self._scale.batches)):
            readings = max(1, count * size // SCRATCH_METRICS) if size > 1 else count
            metrics = self._scratch if size > 1 else self._scratch[:1]
            self._insert(f"insert_{size}", blocks(metrics, begin, readings=readings, size=size))
            begin += 100 * DAY_MS
        minutes = self._scale.days * DAY_MS // MINUTE_MS
        self._insert("insert_80000", blocks(self._year, self._start, readings=minutes, size=_GROUP), total=minutes)
        for metrics, readings in ((self._day, DAY_MS // MINUTE_MS), (self._wide, 10)):
            for block in blocks(metrics, self._end - readings * MINUTE_MS, readings=readings, size=_GROUP):
                self._raw_insert(_rows(block))
        self._client.command(_KEEP_LATEST)

    def _insert(self, name: str, given: Iterator[Block], *, total: int = 0) -> None:
        took, count = [], 0
        with Progress(f"floor: {name}") as progress:
            for block in given:
                rows = _rows(block)
                began = time.perf_counter()
                self._raw_insert(rows)
                took.append(time.perf_counter() - began)
                count += len(block)
                progress(count, total * YEAR_METRICS)
        self.figures[name] = _figures(took, rate=count / sum(took))

    def _raw_insert(self, rows: bytes) -> None:
        self._client.raw_insert("readings", ("metric_id", "ts", "value", "received_at"), rows, fmt="Native")

    def settle(self) -> None:
        """Wait until no parts are being merged, or as long as the server may at most."""
        deadline = time.monotonic() + self._scale.settle_s
        while self._client.command("SELECT count() FROM system.merges") and time.monotonic() < deadline:
            time.sleep(0.25)

    # ── out ──

    def read(self) -> None:
        year, both = _ids(self._year), _ids([*self._year, *self._day])
        window = {"start": self._start, "end": self._end}
        few = max(3, self._scale.cold // 20)
        self._ask("day", self._scale.cold, _RAW, self._some_day)
        self._ask("year", few, _RAW, lambda: window | {"ids": [self._random.choice(year)]})
        self._ask("hourly", few, _HOURLY, lambda: window | {"ids": year})
        self._ask("daily", few, _DAILY, lambda: window | {"ids": year})
        self._ask("latest_100", 5 * few, _LATEST, lambda: {"ids": both})
        self._ask("latest_wide", 5 * few, _LATEST, lambda: {"ids": _ids(self._wide)})
        self._ask("export_csv", 1, _EXPORT, lambda: window | {"ids": year}, form="CSV")
        self._ask("export_arrow", 1, _EXPORT, lambda: window | {"ids": year}, form="ArrowStream")
        self._ask_at_once("latest_1_rate", self._scale.requests // 4, _LATEST, lambda: {"ids": [year[0]]})
        self._ask_at_once("day_rate", self._scale.requests // 4, _RAW, self._some_day)

    def _some_day(self) -> dict[str, Any]:
        start = self._start + self._random.randrange(self._scale.days) * DAY_MS
        return {"ids": [self._random.choice(self._year).id], "start": start, "end": start + DAY_MS}

    def _ask(
        self, name: str, count: int, sql: str, parameters: Callable[[], dict[str, Any]], *, form: str = "RowBinary"
    ) -> None:
        took = []
        with Progress(f"floor: {name}") as progress:
            for number in range(count):
                took.append(_timed(self._client, sql, parameters(), form))
                progress(number, count)
        self.figures[name] = _figures(took, rate=count / sum(took))

    def _ask_at_once(self, name: str, count: int, sql: str, parameters: Callable[[], dict[str, Any]]) -> None:
        """As many statements at once as the server runs by default, each on a client of its own."""
        given = [[parameters() for _ in range(count // _THREADS)] for _ in range(_THREADS)]
        clients = [self._connect() for _ in given]
        took: list[float] = []

        def run(client: Client, own: list[dict[str, Any]]) -> None:
            took.extend([_timed(client, sql, one, "RowBinary") for one in own])

        threads = [threading.Thread(target=run, args=pair) for pair in zip(clients, given, strict=True)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.figures[name] = _figures(took, rate=len(took) / (time.perf_counter() - began))
        for client in clients:
            client.close()


def _timed(client: Client, sql: str, parameters: dict[str, Any], form: str) -> float:
    began = time.perf_counter()
    answer = client.raw_query(sql, parameters=parameters, fmt=form)
    took = time.perf_counter() - began
    assert answer, "a floor that finds nothing is none"
    return took


def _rows(block: Block) -> bytes:
    """The block's rows as `HistoryStore` hands them to the engine, ordered as the table is."""
    return encode(
        Rows(
            metric_ids=np.repeat(np.array(_ids(block.metrics), np.uint32), len(block.timestamps)),
            timestamps=np.tile(block.timestamps, len(block.metrics)),
            values=block.values.ravel(),
            received_at=int(time.time() * SECOND_MS),
        )
    )


def _ids(metrics: Sequence[Metric]) -> list[int]:
    return [metric.id for metric in metrics]


def _figures(took: list[float], *, rate: float) -> Figures:
    ordered = sorted(took)
    return {
        "rate": rate,
        "p50_ms": statistics.median(took) * 1000,
        "p99_ms": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1000,
    }


def main() -> None:
    floor = Floor(Path(sys.argv[1]), SCALES[sys.argv[2]])
    floor.insert()
    floor.settle()
    floor.read()
    print(json.dumps({"engine": floor.version(), "floors": floor.figures}))


if __name__ == "__main__":
    main()
