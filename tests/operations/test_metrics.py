"""What is counted, what it is called, and where Prometheus reads it."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric

from kilowatch.config import Settings
from kilowatch.errors import Invalid
from kilowatch.kit import metrics
from kilowatch.operations.gauges import Gauges
from tests.conftest import World
from tests.live.conftest import Live, live  # noqa: F401 - a fixture
from tests.operations.metering import OPENMETRICS, Change, ask, families, read, scrape, value
from tests.processes import Server, create_admin, environment, free_port, wait_until

NINE, TEN = "2026-01-05T09:00:00Z", "2026-01-05T10:00:00Z"


@pytest.fixture
def metrics_settings(tmp_path: Path) -> Settings:
    """For who serves metrics, and opens no store."""
    return Settings(data_dir=tmp_path / "var", metrics_port=free_port())


class TestRequests:
    def test_are_counted_by_the_routes_template_and_never_by_an_address(self, world: World) -> None:
        change = Change()
        for site in (world.north, world.south):
            assert world.admin.get(f"/sites/{site}").status_code == 200
        assert world.standard.get(f"/sites/{world.south}").status_code == 404
        route = "/api/v1/sites/{site_id}"
        assert change.of("kilowatch_http_requests_total", method="GET", route=route, status="200") == 2
        assert change.of("kilowatch_http_requests_total", method="GET", route=route, status="404") == 1
        assert change.of("kilowatch_http_request_duration_seconds_count", method="GET", route=route) == 3

    def test_of_unknown_addresses_and_methods_are_one_series(self, world: World) -> None:
        change = Change()
        for path in ("/nothing", "/nothing/else", "/%2e%2e/", "/wp-login.php"):
            assert world.client.get(path).status_code == 404
        for method in ("BREW", "PROPFIND"):
            world.client.request(method, "/nothing")
        changed = change.all_of("kilowatch_http_requests_total")
        assert changed == {("GET", "other", "404"): 4, ("other", "other", "404"): 2}

    def test_have_their_bytes_counted(self, world: World) -> None:
        change = Change()
        body = b'{"readings": []}'
        answer = world.admin.http.post("/readings", content=body, headers={"Content-Type": "application/json"})
        assert change.of("kilowatch_http_request_bytes_total", route="/api/v1/readings") == len(body)
        assert change.of("kilowatch_http_response_bytes_total", route="/api/v1/readings") == len(answer.content)

    def test_that_fail_unforeseen_are_500s(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise RuntimeError

        monkeypatch.setattr(world.services.catalogue, "get_site", fail)
        world.admin.http._transport.raise_server_exceptions = False  # type: ignore[attr-defined]  # TestClient's
        change = Change()
        assert world.admin.get(f"/sites/{world.north}").status_code == 500
        assert change.all_of("kilowatch_http_requests_total") == {("GET", "/api/v1/sites/{site_id}", "500"): 1}


class TestStreams:
    def test_are_counted_by_their_events_and_have_no_duration(self, live: Live) -> None:  # noqa: F811 - the fixture
        metric = live.world.metric()
        change = Change()
        with live.open(live.subscribe(metric)) as client:
            client.named("latest")
            live.world.send(metric, (NINE, 1), (TEN, 2))
            client.many("reading", 2)
        route = "/api/v1/subscriptions/{subscription_id}/stream"
        wait_until(
            lambda: change.of("kilowatch_http_requests_total", method="GET", route=route, status="200") == 1,
            "the stream's end is counted",
        )
        assert change.of("kilowatch_stream_events_total") >= 4  # how to connect again, the latest value, two readings
        assert change.of("kilowatch_http_request_duration_seconds_count", method="GET", route=route) == 0


class TestIngest:
    def test_counts_readings_by_format_and_rejections_by_reason(self, world: World) -> None:
        metric = world.metric(valid_min=0)
        change = Change()
        rows = [
            {"metric_id": metric, "timestamp": NINE, "value": 1},
            {"metric_id": metric, "timestamp": TEN, "value": -1},
            {"metric_id": metric, "timestamp": "yesterday", "value": 1},
            {"metric_id": 999_999, "timestamp": TEN, "value": 1},
        ]
        assert world.admin.post("/readings", {"readings": rows}).json()["rejected"] == 3
        assert change.all_of("kilowatch_ingest_readings_total") == {("json", "accepted"): 1, ("json", "rejected"): 3}
        assert change.all_of("kilowatch_ingest_rejections_total") == {
            ("bad_timestamp",): 1, ("out_of_range",): 1, ("unknown_metric",): 1
        }  # fmt: skip

    @pytest.mark.parametrize("bad", [1, 99, 101, 3_000])
    def test_reasons_add_up_to_the_rejected(self, world: World, bad: int) -> None:
        metric = world.metric()
        change = Change()
        lines = ["metric_id,timestamp,value", *[f"{metric},never,{row}" for row in range(bad)], f"{metric},{NINE},1"]
        answer = world.admin.http.post(
            "/readings", content="\n".join(lines).encode(), headers={"Content-Type": "text/csv"}
        )
        assert (answer.json()["accepted"], answer.json()["rejected"]) == (1, bad)
        assert change.all_of("kilowatch_ingest_readings_total") == {("csv", "accepted"): 1, ("csv", "rejected"): bad}
        assert sum(change.all_of("kilowatch_ingest_rejections_total").values()) == bad

    def test_counts_a_repeated_request_once(self, world: World) -> None:
        metric = world.metric()
        rows = {"readings": [{"metric_id": metric, "timestamp": NINE, "value": 1}]}
        change = Change()
        for _ in range(2):
            assert world.admin.post("/readings", rows, headers={"Idempotency-Key": "one"}).status_code == 200
        assert change.all_of("kilowatch_ingest_readings_total") == {("json", "accepted"): 1}

    def test_of_lines_and_what_the_history_does_with_them(self, world: World) -> None:
        device = world.device(slug="meter")
        assert device["metrics"][0]["key"] == "power"
        change = Change()
        answer = world.admin.http.post("http://testserver/api/v2/write", content=_LINES)
        assert answer.status_code == 204, answer.text
        assert change.all_of("kilowatch_ingest_readings_total") == {("line_protocol", "accepted"): 2}
        assert change.of("kilowatch_history_insert_readings_sum") == 2
        assert change.of("kilowatch_history_insert_batches_sum") == 1
        assert change.of("kilowatch_history_insert_duration_seconds_count") == 1


_LINES = b"x,site=north,device=meter power=1 1767603600000000000\nx,site=north,device=meter power=2 1767607200000000000"


class TestHistory:
    def test_counts_its_statements_by_what_they_ask(self, world: World) -> None:
        metric = world.metric()
        world.send(metric, (NINE, 1), (TEN, 2))
        change = Change()
        answer = world.admin.get(
            f"/metrics/{metric}/history", start="2026-01-05T00:00:00Z", end="2026-01-06T00:00:00Z", resolution="1h"
        )
        assert answer.status_code == 200
        counted = change.all_of("kilowatch_history_statements_total")
        assert counted[("readings", "ok")] >= 1
        assert {result for _, result in counted} == {"ok"}
        assert change.of("kilowatch_history_statement_duration_seconds_count", kind="readings") >= 1

    def test_counts_failed_inserts_and_tells_their_senders(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        metric = world.metric()
        store = world.services.history
        assert store is not None

        def fail(*_: object) -> None:
            raise Invalid("no")

        monkeypatch.setattr(store._engine, "insert", fail)
        change = Change()
        rows = {"readings": [{"metric_id": metric, "timestamp": NINE, "value": 1}]}
        assert world.admin.post("/readings", rows).status_code == 422
        assert change.of("kilowatch_history_insert_failures_total") == 1
        assert change.all_of("kilowatch_ingest_readings_total") == {}


class TestCatalogue:
    def test_counts_what_memory_answers(self, world: World) -> None:
        metric = world.metric()
        world.admin.get(f"/metrics/{metric}/latest")
        change = Change()
        world.admin.get(f"/metrics/{metric}/latest")
        assert change.of("kilowatch_catalogue_lookups_total", source="memory") >= 1
        assert change.of("kilowatch_catalogue_lookups_total", source="database") == 0


class TestGauges:
    @pytest.fixture
    def database_url(self, any_database_url: str) -> str:
        return any_database_url

    def test_say_what_is_in_use(self, world: World) -> None:
        database, streams = world.services.database, world.client.app.state.streams  # type: ignore[attr-defined]
        gauges = Gauges(database, world.services.history, streams, {})
        pool = "read" if database.is_sqlite else "all"
        gauges.look()
        before = value("kilowatch_database_connections_in_use", pool=pool)  # the keeper may just look at it
        with database.read(), database.read(), database.read():
            gauges.look()
            assert value("kilowatch_database_connections_in_use", pool=pool) >= before + 2
        assert value("kilowatch_database_connections_limit", pool=pool) > 10
        assert value("kilowatch_history_connections_limit") > 0
        assert value("kilowatch_streams_limit") == 1000


class TestServing:
    def test_answers_at_one_address_alone(self, metrics_settings: Settings) -> None:
        port = metrics_settings.metrics_port
        assert port is not None
        with metrics.serving(metrics_settings):
            assert "kilowatch_http_requests_total" in scrape(port)
            assert ask(port, "/metrics?name[]=all")[0] == 200
            for path in ("/", "/metrics/", "/api/v1/sites", "/metrics/../"):
                assert ask(port, path)[0] == 404
        with pytest.raises(OSError, match="refused"):
            scrape(port)

    def test_nowhere_unless_it_is_set(self, tmp_path: Path) -> None:
        threads = threading.active_count()
        with metrics.serving(Settings(data_dir=tmp_path)):
            assert threading.active_count() == threads

    def test_at_a_port_that_is_taken_is_refused_by_name(self, metrics_settings: Settings) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with (
                pytest.raises(Invalid, match=f"KILOWATCH_METRICS_PORT: can't listen on 127.0.0.1:{port}"),
                metrics.serving(metrics_settings.model_copy(update={"metrics_port": port})),
            ):
                pass

    def test_outlives_a_client_that_says_nothing(self, metrics_settings: Settings) -> None:
        assert metrics_settings.metrics_port is not None
        with (
            metrics.serving(metrics_settings),
            socket.create_connection(("127.0.0.1", metrics_settings.metrics_port)),
        ):
            assert scrape(metrics_settings.metrics_port)


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────────

_SUFFIXES = ("_total", "_count", "_sum", "_bucket", "_created", "_info")
_NO_BASE_UNITS = (
    "ms", "milliseconds", "minutes", "hours", "days", "kilobytes", "megabytes", "bits", "percent", "percentage",
)  # fmt: skip
_TYPES = ("counter", "gauge", "histogram", "summary")


def faults_of(metric: Metric) -> list[str]:
    """What `promtool check metrics` finds wrong with names, helps and units; and that histograms are whole."""
    faults = []
    name, words = metric.name, metric.name.split("_")
    if not metric.documentation.strip():
        faults.append("has no help")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        faults.append("is not in snake_case")
    if metric.type == "counter" and any(not sample.name.endswith("_total") for sample in metric.samples):
        faults.append("counts and does not end with _total")
    if metric.type != "counter" and name.endswith(_SUFFIXES[:-1]):
        faults.append("ends like something that it is not")
    faults += [f"has {word}, which is no base unit" for word in words if word in _NO_BASE_UNITS]
    faults += [f"names its type, {word}" for word in words if word in _TYPES]
    labels = {label for sample in metric.samples for label in sample.labels}
    faults += [f"has an odd label {label}" for label in labels if not re.fullmatch(r"[a-z][a-z0-9_]*", label)]
    if metric.type == "histogram":
        faults += _faults_of_histogram(metric)
    elif labels & {"le", "quantile"}:
        faults.append("has a label of histograms")
    return faults


def _faults_of_histogram(metric: Metric) -> list[str]:
    buckets: Counter[tuple[tuple[str, str], ...]] = Counter()
    ends: dict[tuple[tuple[str, str], ...], float] = {}
    counts: dict[tuple[tuple[str, str], ...], float] = {}
    last: dict[tuple[tuple[str, str], ...], float] = {}
    faults = []
    for sample in metric.samples:
        key = tuple(sorted((name, text) for name, text in sample.labels.items() if name != "le"))
        if sample.name.endswith("_bucket"):
            buckets[key] += 1
            if sample.value < last.get(key, 0):
                faults.append("has a bucket that holds less than the one before")
            last[key] = sample.value
            if sample.labels["le"] == "+Inf":
                ends[key] = sample.value
        elif sample.name.endswith("_count"):
            counts[key] = sample.value
    if ends != counts or set(buckets) != set(counts):
        faults.append("has series that are not whole")
    return faults


@pytest.fixture
def used(world: World, metrics_settings: Settings) -> Iterator[int]:
    """The port of an application that has done something of everything."""
    metric = world.metric()
    world.send(metric, (NINE, 1))
    world.admin.get(f"/metrics/{metric}/history", start=NINE, end=TEN, resolution="raw")
    world.client.get("/nothing")
    state = world.client.app.state  # type: ignore[attr-defined]  # a FastAPI app
    Gauges(world.services.database, world.services.history, state.streams, {"catalogue": state.catalogue_lane}).look()
    with metrics.serving(metrics_settings):
        assert metrics_settings.metrics_port is not None
        yield metrics_settings.metrics_port


class TestNames:
    @pytest.mark.parametrize("accept", ["", OPENMETRICS])
    def test_follow_the_rules_of_prometheus(self, used: int, accept: str) -> None:
        found = families(scrape(used, accept=accept))
        ours = [metric for metric in found if metric.name.startswith("kilowatch_")]
        assert len(ours) > 30
        assert {metric.name: faults for metric in found if (faults := faults_of(metric))} == {}

    def test_that_break_them_are_found(self) -> None:
        for name, help_text, kind, words in (
            ("kilowatch_ms", "Time.", "gauge", "no base unit"),
            ("kilowatch_seconds", "", "gauge", "no help"),
            ("kilowatchThings", "Things.", "gauge", "snake_case"),
            ("kilowatch_things_count", "Things.", "gauge", "ends like"),
            ("kilowatch_things_histogram", "Things.", "gauge", "names its type"),
        ):
            assert any(words in fault for fault in faults_of(Metric(name, help_text, kind))), name

    def test_please_promtool(self, used: int) -> None:
        promtool = shutil.which("promtool") or os.environ.get("KILOWATCH_TEST_PROMTOOL")
        if promtool is None:
            pytest.skip("there is no promtool (Debian's package `prometheus`): TestNames has its rules")
        checked = subprocess.run(
            [promtool, "check", "metrics"], input=scrape(used), capture_output=True, text=True, check=False
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


# ── processes ────────────────────────────────────────────────────────────────────────────────────────────────────────

WORKER = """
import sys
from kilowatch.kit import metrics
metrics.request_ended(method="GET", route="/a", status=200, seconds=0.02, received=1, sent=int(sys.argv[1]))
metrics.inserted(readings=int(sys.argv[1]), batches=1, seconds=0.1)
metrics.STREAMS_OPEN.set(int(sys.argv[1]))
metrics.SIMULATION_LEADER.set(int(sys.argv[1]) == 5)
metrics.BUILD_INFO.labels("0.1.0").set(1)
print("ready", flush=True)
sys.stdin.read()
"""


class TestSeveralProcesses:
    @pytest.fixture
    def start(self, tmp_path: Path) -> Iterator[Callable[[int], "subprocess.Popen[str]"]]:
        """Starts a process that counts, and has this many streams open."""
        started: list[subprocess.Popen[str]] = []
        (tmp_path / "metrics").mkdir()

        def start(streams: int) -> "subprocess.Popen[str]":
            process = subprocess.Popen(
                [sys.executable, "-c", WORKER, str(streams)],
                env=environment(tmp_path / "var") | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics")},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            started.append(process)
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            return process

        yield start
        for process in started:
            process.kill()
            process.communicate()

    def test_are_summed_and_one_that_ended_leaves_its_counts_alone(
        self, start: Callable[[int], "subprocess.Popen[str]"], metrics_settings: Settings, tmp_path: Path
    ) -> None:
        directory, port = tmp_path / "metrics", metrics_settings.metrics_port
        assert port is not None
        first, _second = start(3), start(5)
        with metrics.serving(metrics_settings, directory=directory):
            both = scrape(port)
            files = len(list(directory.iterdir()))
            first.send_signal(signal.SIGKILL)
            first.communicate()
            metrics.Counts(directory).forget(first.pid)
            one = scrape(port)
            for _ in range(3):  # one that is started again and again
                again = start(0)
                again.communicate()
                metrics.Counts(directory).forget(again.pid)
            assert len(list(directory.iterdir())) <= files
            later = scrape(port)
        labels = (("method", "GET"), ("route", "/a"), ("status", "200"))
        for text in (both, one):
            assert read(text, "kilowatch_http_requests_total") == {labels: 2}
            assert read(text, "kilowatch_http_response_bytes_total") == {(("route", "/a"),): 8}
            assert read(text, "kilowatch_history_insert_readings_sum") == {(): 8}
            assert read(text, "kilowatch_simulation_leader") == {(): 1}
            assert read(text, "kilowatch_build_info") == {(("version", "0.1.0"),): 1}
            assert {metric.name: faults for metric in families(text) if (faults := faults_of(metric))} == {}
        assert read(later, "kilowatch_http_requests_total") == {labels: 5}
        assert read(later, "kilowatch_history_insert_duration_seconds_count") == {(): 5}
        assert read(later, "kilowatch_streams_open") == {(): 5}
        assert read(both, "kilowatch_streams_open") == {(): 8}
        assert read(one, "kilowatch_streams_open") == {(): 5}


class TestPlaceOfSeveralProcesses:
    def test_is_the_services_own_and_gone_with_it(
        self, metrics_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RUNTIME_DIRECTORY", f"{tmp_path}:/run/another")
        with metrics.serving_several(metrics_settings) as counts:
            (directory,) = tmp_path.iterdir()
            assert counts.environment == {"PROMETHEUS_MULTIPROC_DIR": str(directory)}
        assert list(tmp_path.iterdir()) == []

    def test_is_freed_of_what_a_killed_one_left_and_of_nothing_else(
        self, metrics_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
        left = tmp_path / "kilowatch-metrics-left"
        left.mkdir()
        (left / "counter_1.db").write_bytes(b"x")
        (tmp_path / "another").mkdir()
        with metrics.serving_several(metrics_settings) as first:
            assert not left.exists()
            other = metrics_settings.model_copy(update={"metrics_port": free_port()})
            with metrics.serving_several(other):
                assert Path(first.environment["PROMETHEUS_MULTIPROC_DIR"]).is_dir(), "its process lives"
        assert [path.name for path in tmp_path.iterdir()] == ["another"]

    def test_that_can_not_be_written_is_refused_by_name(
        self, metrics_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "none"))
        with pytest.raises(Invalid, match="RUNTIME_DIRECTORY"), metrics.serving_several(metrics_settings):
            pass


class TestServerProcess:
    def test_serves_what_it_counts_beside_the_api(self, tmp_path: Path) -> None:
        create_admin(tmp_path / "var")
        port = free_port()
        settings = {"metrics_port": str(port), "slow_request_ms": "0"}  # it may well be slow beside other tests
        server = Server(tmp_path / "var", tmp_path / "server.log", settings=settings).start()
        try:
            token = server.sign_in()["access_token"]
            server.make_metric(token)
            text = scrape(port)
            created = (("method", "POST"), ("route", "/api/v1/sites"), ("status", "201"))
            assert read(text, "kilowatch_http_requests_total")[created] == 1
            assert list(read(text, "kilowatch_build_info").values()) == [1]
            assert read(text, "process_resident_memory_bytes")[()] > 1e6
            wait_until(lambda: read(scrape(port), "kilowatch_simulation_leader") == {(): 1}, "it leads")
            assert read(text, "kilowatch_lane_threads_limit")[(("lane", "catalogue"),)] == 8
            assert server.ask("GET", "/metrics")[0] == 404  # not where everyone is
        finally:
            server.end(signal.SIGTERM)
        assert not [line for line in server.lines() if line["level"] in ("warning", "error")], json.dumps(
            server.lines()
        )
