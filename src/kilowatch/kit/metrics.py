"""What is counted and timed while the application runs, and where Prometheus reads it.

Every room counts by one of the names below; none of them has a label whose values a client could make up. All may be
summed over processes. Gauges say how things were some seconds ago: `operations.gauges` sets them.
"""

import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import AF_INET, AF_INET6
from socketserver import TCPServer
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import structlog
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from kilowatch.config import Settings
from kilowatch.errors import Invalid

log = structlog.get_logger("kilowatch.metrics")

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, which the collection of several processes does not have either

# ── HTTP ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

_QUICK_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

HTTP_REQUESTS = Counter(
    "kilowatch_http_requests_total",
    "Requests that were answered, by the route's template; `other` for what no route of ours answers.",
    ["method", "route", "status"],
)
HTTP_DURATION = Histogram(
    "kilowatch_http_request_duration_seconds",
    "From a request's first byte to its answer's last. Streams are not among them.",
    ["method", "route"],
    buckets=_QUICK_S,
)
HTTP_RECEIVED = Counter("kilowatch_http_request_bytes_total", "Bytes of requests' bodies, as sent.", ["route"])
HTTP_SENT = Counter("kilowatch_http_response_bytes_total", "Bytes of answers' bodies, streams too.", ["route"])
SLOW_REQUESTS = Counter("kilowatch_http_slow_requests_total", "Requests over KILOWATCH_SLOW_REQUEST_MS.", ["route"])

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def request_ended(*, method: str, route: str | None, status: int, seconds: float, received: int, sent: int) -> None:
    """A request was answered: it took so long, and brought and took so many bytes."""
    of_route = _route(method if method in _METHODS else "other", route or "other")
    of_route.duration.observe(seconds)
    of_route.count(status, received, sent)


def stream_ended(*, method: str, route: str | None, status: int, sent: int) -> None:
    """As `request_ended`, of one that lasts as long as its client likes."""
    _route(method, route or "other").count(status, 0, sent)


class _Route:
    """A route's own counters, looked up once."""

    def __init__(self, method: str, route: str) -> None:
        self._method, self._route = method, route
        self._received, self._sent = HTTP_RECEIVED.labels(route), HTTP_SENT.labels(route)
        self._requests: dict[int, Counter] = {}

    @cached_property
    def duration(self) -> Histogram:
        """Not there until it is asked for: streams have none."""
        return HTTP_DURATION.labels(self._method, self._route)

    def count(self, status: int, received: int, sent: int) -> None:
        counter = self._requests.get(status)
        if counter is None:
            counter = self._requests[status] = HTTP_REQUESTS.labels(self._method, self._route, str(status))
        counter.inc()
        self._received.inc(received)
        self._sent.inc(sent)


_route = lru_cache(maxsize=None)(_Route)  # as many as there are routes

# ── readings that come in ────────────────────────────────────────────────────────────────────────────────────────────

INGEST_READINGS = Counter(
    "kilowatch_ingest_readings_total",
    "Readings that were sent: `accepted` once they are on the disk, or `rejected`.",
    ["format", "result"],
)
INGEST_REJECTIONS = Counter(
    "kilowatch_ingest_rejections_total",
    "Readings that were rejected, by the report's code; `untold` for those of many that nobody looked at closely.",
    ["code"],
)

# ── readings that go out as they arrive ──────────────────────────────────────────────────────────────────────────────

STREAMS_OPEN = Gauge("kilowatch_streams_open", "Streams that are open.", multiprocess_mode="livesum")
STREAMS_LIMIT = Gauge("kilowatch_streams_limit", "Streams that may be open.", multiprocess_mode="livesum")
STREAM_USERS = Gauge(
    "kilowatch_stream_users",
    "Users who have a stream open; one with streams of several processes counts in each.",
    multiprocess_mode="livesum",
)
STREAM_EVENTS = Counter("kilowatch_stream_events_total", "Events that were sent by streams, heartbeats too.")

WEBHOOK_DELIVERIES = Counter(
    "kilowatch_webhook_deliveries_total", "Requests to webhooks: `taken`, or `failed`.", ["result"]
)
WEBHOOK_DURATION = Histogram(
    "kilowatch_webhook_request_duration_seconds", "Until a webhook answered, or did not.", buckets=_QUICK_S
)

# ── the history ──────────────────────────────────────────────────────────────────────────────────────────────────────

INSERT_READINGS = Histogram(
    "kilowatch_history_insert_readings",
    "Readings that were sent together into the history with one insert.",
    buckets=(1, 10, 100, 1_000, 10_000, 100_000, 1_000_000),
)
INSERT_BATCHES = Histogram(
    "kilowatch_history_insert_batches",
    "Senders' batches that shared one insert.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500),
)
INSERT_DURATION = Histogram(
    "kilowatch_history_insert_duration_seconds",
    "Of an insert, its turn among other processes included.",
    buckets=_QUICK_S,
)
INSERT_FAILURES = Counter("kilowatch_history_insert_failures_total", "Inserts that failed; their senders were told.")


def inserted(*, readings: int, batches: int, seconds: float) -> None:
    """Readings are on the disk: these many of so many senders, after so long."""
    INSERT_READINGS.observe(readings)
    INSERT_BATCHES.observe(batches)
    INSERT_DURATION.observe(seconds)


WAITING_BATCHES = Gauge(
    "kilowatch_history_waiting_batches", "Batches that wait for the next insert.", multiprocess_mode="livesum"
)
WAITING_READINGS = Gauge(
    "kilowatch_history_waiting_readings", "Readings that wait for the next insert.", multiprocess_mode="livesum"
)
STATEMENTS = Counter(
    "kilowatch_history_statements_total",
    "Statements but inserts, by what they ask: `ok` or `failed`.",
    ["kind", "result"],
)
STATEMENT_DURATION = Histogram(
    "kilowatch_history_statement_duration_seconds",
    "Of a statement, the wait for a connection included.",
    ["kind"],
    buckets=_QUICK_S,
)
HISTORY_CONNECTIONS = Gauge(
    "kilowatch_history_connections_in_use", "Connections to the history in use.", multiprocess_mode="livesum"
)
HISTORY_CONNECTIONS_LIMIT = Gauge(
    "kilowatch_history_connections_limit", "Connections to the history there may be.", multiprocess_mode="livesum"
)

# ── the catalogue ────────────────────────────────────────────────────────────────────────────────────────────────────

DATABASE_CONNECTIONS = Gauge(
    "kilowatch_database_connections_in_use",
    "Connections to the catalogue's database in use.",
    ["pool"],
    multiprocess_mode="livesum",
)
DATABASE_CONNECTIONS_LIMIT = Gauge(
    "kilowatch_database_connections_limit",
    "Connections to the catalogue's database there may be.",
    ["pool"],
    multiprocess_mode="livesum",
)
_LOOKUPS = Counter(
    "kilowatch_catalogue_lookups_total",
    "Questions of rights and names: answered from `memory`, or by the `database`.",
    ["source"],
)
LOOKUPS_IN_MEMORY, LOOKUPS_IN_DATABASE = _LOOKUPS.labels("memory"), _LOOKUPS.labels("database")

# ── both stores, threads, the process ────────────────────────────────────────────────────────────────────────────────

UNAVAILABLE = Counter(
    "kilowatch_store_unavailable_total", "How often a store (`catalogue`, `history`) did not answer.", ["store"]
)
for _store in ("catalogue", "history"):
    UNAVAILABLE.labels(_store)  # so that they are there, as 0, before it happens

LANE_BUSY = Gauge("kilowatch_lane_threads_busy", "Threads of a lane at work.", ["lane"], multiprocess_mode="livesum")
LANE_LIMIT = Gauge("kilowatch_lane_threads_limit", "Threads that a lane has.", ["lane"], multiprocess_mode="livesum")
LANE_WAITING = Gauge(
    "kilowatch_lane_waiting_calls", "Calls that wait for a thread of a lane.", ["lane"], multiprocess_mode="livesum"
)
SIMULATION_LEADER = Gauge(
    "kilowatch_simulation_leader",
    "1 in the one process that has simulated devices report, 0 in the others.",
    multiprocess_mode="livesum",
)
BUILD_INFO = Gauge("kilowatch_build_info", "The version that runs; always 1.", ["version"], multiprocess_mode="livemax")


# ── where it is read ─────────────────────────────────────────────────────────────────────────────────────────────────

PATH = "/metrics"
_SILENT_FOR_S = 10


@contextmanager
def serving(settings: Settings, *, directory: Path | None = None) -> Iterator[None]:
    """Serve the metrics while the block runs, if `KILOWATCH_METRICS_PORT` is set; by a thread of its own.

    Args:
        directory: where several processes keep what they count: `PROMETHEUS_MULTIPROC_DIR`, which is set for them
            before they start, and not for the one that serves. `None`: what this process counts is served.

    Raises:
        Invalid: the port can't be listened on.
    """
    if settings.metrics_port is None:
        yield
        return
    server = _listen(settings.metrics_host, settings.metrics_port, _registry(directory))
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Counts:
    """What several processes count."""

    def __init__(self, directory: Path | None) -> None:
        """`directory`: where they keep it; `None` if nobody reads it."""
        self._directory = directory

    @property
    def environment(self) -> dict[str, str]:
        """What the processes need in theirs before they start. Ours must not have it."""
        return {} if self._directory is None else {"PROMETHEUS_MULTIPROC_DIR": str(self._directory)}

    def forget(self, process_id: int) -> None:
        """A process has ended: its gauges go, what it counted stays."""
        if self._directory is None:
            return
        with _reading:
            mark_process_dead(process_id, str(self._directory))  # type: ignore[no-untyped-call]
            for kind in ("counter", "histogram"):
                ended = self._directory / f"{kind}_{process_id}.db"
                if ended.exists():
                    _add(ended, self._directory / f"{kind}_{_NO_PROCESS}.db")
                    ended.unlink()


@contextmanager
def serving_several(settings: Settings) -> Iterator[Counts]:
    """As `serving`, for processes that are started within the block."""
    if settings.metrics_port is None:
        yield Counts(None)
        return
    with _own_directory() as directory, serving(settings, directory=directory):
        yield Counts(directory)


_DIRECTORIES = "kilowatch-metrics-"


@contextmanager
def _own_directory() -> Iterator[Path]:
    """For files that processes map into memory: where the disk is full, a process that writes to one is killed.

    So they have a place that nothing else fills, where there is one: `RUNTIME_DIRECTORY`, as systemd names it.
    """
    named = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    place = Path(named or gettempdir())
    for left in place.glob(f"{_DIRECTORIES}*"):
        _remove_if_left(left)
    try:
        directory = TemporaryDirectory(prefix=_DIRECTORIES, dir=place)
    except OSError as error:
        raise Invalid(
            f"RUNTIME_DIRECTORY: what workers count can't be kept in {place} ({error.strerror}); name a directory that "
            "can be written, or leave KILOWATCH_METRICS_PORT out."
        ) from error
    with directory as name, _directory_opened(Path(name)) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # for as long as this process lives, however it ends
        yield Path(name)


def _remove_if_left(directory: Path) -> None:
    """By a process that was killed: one that lives holds it."""
    try:
        with _directory_opened(directory) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory, ignore_errors=True)
    except OSError:
        log.debug("a directory of metrics is in use, or another user's", directory=str(directory))


@contextmanager
def _directory_opened(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


_reading = threading.Lock()
"""Held while counts are read, and while those of a process that ended are added to those of all that did."""

_NO_PROCESS = 0


def _add(ended: Path, all_ended: Path) -> None:
    """So that a process that is started again and again leaves one file, and not one each time."""
    sums = MmapedDict(str(all_ended))  # type: ignore[no-untyped-call]
    for key, counted, *_ in MmapedDict.read_all_values_from_file(str(ended)):  # type: ignore[no-untyped-call]
        before, _at = sums.read_value(key)  # type: ignore[no-untyped-call]
        sums.write_value(key, before + counted, 0.0)  # type: ignore[no-untyped-call]
    sums.close()  # type: ignore[no-untyped-call]


def _registry(directory: Path | None) -> CollectorRegistry:
    if directory is None:
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(directory))  # type: ignore[no-untyped-call]
    return registry


def _listen(host: str, port: int, registry: CollectorRegistry) -> "_Server":
    try:
        return _Server(host, port, partial(_Reader, registry))
    except OSError as error:
        raise Invalid(
            f"KILOWATCH_METRICS_PORT: can't listen on {host}:{port} ({error.strerror}); choose another port, or stop "
            "what is there. KILOWATCH_METRICS_HOST must be an address of this machine."
        ) from error


class _Server(ThreadingHTTPServer):
    def __init__(self, host: str, port: int, handler: Callable[..., BaseHTTPRequestHandler]) -> None:
        self.address_family = AF_INET6 if ":" in host else AF_INET
        super().__init__((host, port), handler)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # not HTTPServer's, which asks the network for the host's name

    def handle_error(self, _request: Any, _client_address: Any) -> None:
        log.info("a reader of the metrics went away", exc_info=True)


class _Reader(BaseHTTPRequestHandler):
    """Answers one connection."""

    timeout = _SILENT_FOR_S

    def __init__(self, registry: CollectorRegistry, *connection: Any) -> None:
        self._registry = registry
        super().__init__(*connection)

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != PATH:
            self.send_error(404)
            return
        encode, media = choose_encoder(self.headers.get("Accept", ""))
        with _reading:
            body = encode(self._registry)
        self.send_response(200)
        self.send_header("Content-Type", media)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        return "kilowatch"

    def log_message(self, *_: Any) -> None:
        """Nothing: it is asked every few seconds."""
