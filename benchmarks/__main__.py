"""Drive a server of our own over HTTP, and print what it takes. Bodies are built before the clock starts.

make bench                    the table
make bench ARGS=--json=FILE   and the figures as JSON
"""

import argparse
import json
import platform
import statistics
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.server import Client, running_server

BATCH = 10_000
Call = Callable[[Client], bytes]
DAY = datetime(2026, 1, 1, tzinfo=UTC)


def main() -> None:
    arguments = argparse.ArgumentParser(prog="make bench", description=__doc__)
    arguments.add_argument("--json", type=Path, help="also write the figures to this file")
    given = arguments.parse_args()
    with running_server() as (client, start_s):
        print(f"{platform.machine()}, Python {platform.python_version()}; server started in {start_s:.1f} s\n")
        print(f"{'work':58} {'rate':>14} {'p50 ms':>8} {'p99 ms':>8}")
        metrics = _portfolio(client)
        figures = [{"work": "start", "seconds": round(start_s, 2)}, *_ingest(client, metrics), *_reads(client, metrics)]
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


def _portfolio(client: Client) -> list[int]:
    """A site with 20 devices, each with one gauge of power."""
    site = client.post("/sites", {"name": "Bench"})["id"]
    gauge = {"key": "power", "quantity": "power", "unit": "kW"}
    devices = (
        client.post(f"/sites/{site}/devices", {"name": f"Device {n}", "kind": "generic", "metrics": [gauge]})
        for n in range(20)
    )
    return [device["metrics"][0]["id"] for device in devices]


def _times(batch: int) -> list[str]:
    begin = DAY - timedelta(minutes=BATCH // 20 * (batch + 1))
    return [(begin + timedelta(minutes=minute)).strftime("%Y-%m-%dT%H:%M:%SZ") for minute in range(BATCH // 20)]


def _rows(metrics: list[int], batch: int) -> bytes:
    times = _times(batch)
    rows = [{"metric_id": m, "timestamp": t, "value": n * 0.1} for m in metrics for n, t in enumerate(times)]
    return json.dumps({"readings": rows}).encode()


def _columns(metrics: list[int], batch: int) -> bytes:
    times = _times(batch)
    series = [{"metric_id": m, "timestamps": times, "values": [n * 0.1 for n in range(len(times))]} for m in metrics]
    return json.dumps({"series": series}).encode()


def _csv(metrics: list[int], batch: int) -> bytes:
    lines = [f"{m},{t},{n * 0.1:.1f}" for m in metrics for n, t in enumerate(_times(batch))]
    return ("metric_id,timestamp,value\n" + "\n".join(lines) + "\n").encode()


def _ingest(client: Client, metrics: list[int]) -> list[dict[str, Any]]:
    forms: list[tuple[str, Callable[[list[int], int], bytes], str]] = [
        ("JSON rows", _rows, "application/json"),
        ("JSON columns", _columns, "application/json"),
        ("CSV", _csv, "text/csv"),
    ]
    figures = []
    for number, (name, build, content_type) in enumerate(forms):
        bodies = [build(metrics, number * 40 + batch) for batch in range(40)]
        work = f"ingest, {name}, batches of {BATCH:,}, 8 clients"
        figures.append(
            _measure(
                work,
                [_request("POST", "/readings", body, content_type) for body in bodies],
                client,
                clients=8,
                each=BATCH,
                unit="readings/s",
            )
        )
    now = datetime.now(UTC)
    singles = [
        json.dumps({"readings": [{"metric_id": metrics[n % 20], "timestamp": timestamp, "value": n}]}).encode()
        for n, timestamp in enumerate((now - timedelta(seconds=n)).isoformat() for n in range(2000))
    ]
    calls = [_request("POST", "/readings", body) for body in singles]
    figures.append(_measure("ingest, 1 reading a request, 64 clients", calls, client, clients=64))
    return figures


def _reads(client: Client, metrics: list[int]) -> list[dict[str, Any]]:
    subscription = client.post("/subscriptions", {"name": "All", "metric_ids": metrics})["id"]
    day = "start=2025-12-30T00:00:00Z&end=2025-12-31T00:00:00Z"
    month = "start=2025-12-01T00:00:00Z&end=2026-01-01T00:00:00Z"
    works = (
        ("latest of 1 metric, 8 clients", f"/metrics/{metrics[0]}/latest", 8, 1000),
        ("latest of 20 metrics", f"/subscriptions/{subscription}/latest", 1, 200),
        ("1 day at 1 minute, 1 metric, raw JSON", f"/metrics/{metrics[0]}/history?{day}&resolution=raw", 1, 200),
        ("1 day, 1 metric, hourly means", f"/metrics/{metrics[0]}/history?{day}&resolution=1h", 1, 100),
        ("20 metrics × 1 month to hourly means", f"/subscriptions/{subscription}/history?{month}&resolution=1h", 1, 20),
        (
            "20 metrics × 1 month, daily energy",
            f"/subscriptions/{subscription}/history?{month}&resolution=1d&aggregate=energy",
            1,
            20,
        ),
        ("a page of a site's devices, 8 clients", "/sites/1/devices", 8, 2000),
    )
    return [
        _measure(name, [_request("GET", path)] * count, client, clients=clients) for name, path, clients, count in works
    ]


def _request(method: str, path: str, body: bytes | None = None, content_type: str = "application/json") -> Call:
    return lambda client: client.request(method, path, body, content_type)


def _measure(
    work: str,
    calls: list[Call],
    client: Client,
    *,
    clients: int,
    each: int = 1,
    unit: str = "requests/s",
) -> dict[str, Any]:
    """Run the calls once each, shared out among threads with a connection each."""
    took: list[float] = []
    left = iter(calls)
    lock = threading.Lock()

    def run(own: Client) -> None:
        while True:
            with lock:
                call = next(left, None)
            if call is None:
                return
            began = time.perf_counter()
            call(own)
            took.append(time.perf_counter() - began)

    threads = [threading.Thread(target=run, args=(client.another(),)) for _ in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = len(calls) * each / (time.perf_counter() - began)
    p50, p99 = statistics.median(took) * 1000, sorted(took)[int(len(took) * 0.99) - 1] * 1000
    print(f"{work:58} {rate:>10,.0f} {'/s':3} {p50:>8.1f} {p99:>8.1f}", flush=True)
    return {"work": work, "rate": round(rate, 1), "unit": unit, "p50_ms": round(p50, 2), "p99_ms": round(p99, 2)}


if __name__ == "__main__":
    main()
