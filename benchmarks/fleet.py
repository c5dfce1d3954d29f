"""Several workers on servers for both stores: requests a second, and the CPU that each part of it takes for one.

make bench-fleet                    with one worker and with two, about three minutes
make bench-fleet ARGS=ingest        only the works whose names have this word

PostgreSQL is a real one. ClickHouse is the embedded engine behind a small server of the tests
(`tests/clickhouse.py`), in Python, so that whatever asks the history is slower here than on a real one. What is sent
is of 80 metrics, each of whose readings follow each other in time, and each gateway sends its own ones. All of it
shares the machine's cores with the driver: where they are few, a second worker finds none free, and the CPU a request
is what tells.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count, cycle, repeat, takewhile
from pathlib import Path

from benchmarks import portfolio
from benchmarks.driver import Api, Lane, Outcome, drive, lanes
from benchmarks.portfolio import Portfolio
from benchmarks.scale import SCALES
from benchmarks.server import environment, free_port, machine_cpu_s
from tests.clickhouse import serving
from tests.postgres import start_postgres

WORKERS = (1, 2)
_PROGRAM = [sys.executable, "-m", "kilowatch"]
_SCALE = SCALES["quick"]
_FOR_S = 6.0
_FIRST_MS, _STEP_MS = 1_262_304_000_000, 1_000_000  # 2010, and the time that a request may have readings of
_START_WITHIN_S = 60
_STORED = b'"rejected":0'


@dataclass(frozen=True)
class Fleet:
    """Servers for both stores, and the catalogue's content."""

    directory: Path
    settings: dict[str, str]
    portfolio: Portfolio
    clickhouse: int
    """The process that plays it."""

    times: Iterator[int] = field(default_factory=lambda: count(_FIRST_MS, _STEP_MS))
    """In ms, of requests one after another: what is sent is newer than all before, as it is of most gateways."""


def main() -> None:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kilowatch-fleet-")))
        print("Starting PostgreSQL and what plays ClickHouse", flush=True)
        postgres = stack.enter_context(start_postgres())
        before = _children(os.getpid())
        clickhouse = stack.enter_context(serving(directory / "clickhouse"))
        (player,) = _children(os.getpid()) - before
        database_url = postgres.create_database("bench")
        print("Making the catalogue: 200 sites, 2,000 devices, 50 users", flush=True)
        made = portfolio.make(directory / "data", _SCALE, database_url=database_url)
        settings = {
            "KILOWATCH_DATABASE_URL": database_url,
            "KILOWATCH_HISTORY_URL": f"{clickhouse.url}/bench",
            "KILOWATCH_ACCESS_TOKEN_MINUTES": "60",
        }
        fleet = Fleet(directory, settings, made, player)
        print("\n| work | workers | rate /s | p50 ms | p99 ms | app, CPU ms | ClickHouse's, CPU ms | cores in use |")
        print("|---|--:|--:|--:|--:|--:|--:|--:|", flush=True)
        for workers in WORKERS:
            with _serving(fleet, workers) as (port, process):
                _measure(fleet, workers, port, process)


@contextmanager
def _serving(fleet: Fleet, workers: int) -> Iterator[tuple[int, int]]:
    """Its port and process."""
    port = free_port()
    log = fleet.directory / "log"
    with log.open("ab") as said:
        process = subprocess.Popen(
            [*_PROGRAM, "serve", "--port", str(port), "--workers", str(workers)],
            env=environment(fleet.directory / "data") | fleet.settings,
            stdout=said,
            stderr=said,
        )
    deadline = time.monotonic() + _START_WITHIN_S
    while "Serving on" not in log.read_text() or len(_children(process.pid)) != workers:
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the server did not start:\n{log.read_text()[-2000:]}")
        time.sleep(0.1)
    time.sleep(6 if workers > 1 else 1)  # until the second has started, too
    try:
        yield port, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _measure(fleet: Fleet, workers: int, port: int, process: int) -> None:
    made = fleet.portfolio
    api = Api(port, made.key)
    reader = made.readers[0]
    own = Api(port, reader.key)

    def single(metric_ids: Sequence[int]) -> Iterator[bytes]:
        for metric_id in cycle(metric_ids):
            body = {"readings": [{"metric_id": metric_id, "timestamp": _text(next(fleet.times)), "value": 1.5}]}
            yield api.request("POST", "/readings", json.dumps(body).encode())

    def batch(metric_ids: Sequence[int]) -> Iterator[bytes]:
        for metric_id in cycle(metric_ids):
            begin = next(fleet.times)
            times = [_text(begin + step) for step in range(0, _STEP_MS, 1000)]
            series = {"metric_id": metric_id, "timestamps": times, "values": [1.5] * len(times)}
            yield api.request("POST", "/readings", json.dumps({"series": [series]}).encode())

    ids = [metric.id for metric in made.day]
    works: Sequence[tuple[str, Sequence[Iterator[bytes]]]] = (
        ("who am I (`/me`)", [repeat(own.get("/me"))] * 8),
        (
            "a page of 50 devices, rights checked",
            [repeat(own.get(f"/sites/{reader.site_ids[0]}/devices?limit=50"))] * 8,
        ),
        ("latest of 1 metric", [repeat(api.get(f"/metrics/{ids[0]}/latest"))] * 8),
        ("ingest, 1 reading a request", [single(ids[n::32]) for n in range(32)]),
        ("ingest, JSON columns, 1,000 readings a request", [batch(ids[n::8]) for n in range(8)]),
    )
    every = {
        "readings": [{"metric_id": metric_id, "timestamp": _text(next(fleet.times)), "value": 1.5} for metric_id in ids]
    }
    known = iter([api.request("POST", "/readings", json.dumps(every).encode())] * 64)
    drive(port, lanes(known, clients=16, expect=_STORED))  # what a metric has is asked once by each worker
    for name, clients in works:
        if not all(word in name for word in sys.argv[1:]):
            continue
        expect = _STORED if name.startswith("ingest") else b""
        drive(port, _lanes(clients, expect, for_s=1.0))
        before = _cpu_s(process), _cpu_s(fleet.clickhouse), machine_cpu_s()
        [outcome] = drive(port, _lanes(clients, expect, for_s=_FOR_S))
        app, engine, cores = (
            after - then
            for after, then in zip((_cpu_s(process), _cpu_s(fleet.clickhouse), machine_cpu_s()), before, strict=True)
        )
        done = len(outcome.latencies)
        figures = (
            f"{done / outcome.took_s:,.0f}",
            f"{outcome.percentile_ms(0.5):.1f}",
            f"{outcome.percentile_ms(0.99):.1f}",
            f"{1000 * app / done:.2f}",
            f"{1000 * engine / done:.2f}",
            f"{cores / outcome.took_s:.1f}",
        )
        print(f"| {name}, {len(clients)} clients | {workers} | {' | '.join(figures)} |", flush=True)


def _text(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat()


def _children(process: int) -> set[int]:
    found: set[int] = set()
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        found |= {int(child) for child in children.read_text().split()}
    return found


def _cpu_s(process: int) -> float:
    """CPU time that a process has used, and those that it started."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return own + sum(map(_cpu_s, _children(process)))


def _lanes(clients: Sequence[Iterator[bytes]], expect: bytes, *, for_s: float) -> list[Lane]:
    outcome = Outcome(expect)
    until = time.monotonic() + for_s
    return [Lane(takewhile(lambda _: time.monotonic() < until, requests), outcome) for requests in clients]


if __name__ == "__main__":
    main()
