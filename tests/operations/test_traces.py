"""Spans, as a collector gets them over OTLP."""

import gzip
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import structlog
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from kilowatch.app import create_app
from kilowatch.config import Settings
from kilowatch.errors import Invalid
from kilowatch.kit import traces
from tests.conftest import Clock, World, open_world
from tests.processes import DEADLINE_S, PROGRAM, environment, free_port

NINE, TEN = "2026-01-05T09:00:00Z", "2026-01-05T10:00:00Z"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """Takes spans in, as an OpenTelemetry collector does."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.paths: set[str] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                is_packed = self.headers.get("Content-Encoding") == "gzip"
                collector.paths.add(self.path)
                collector.bodies.append(gzip.decompress(body) if is_packed else body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for body in self.bodies
            for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for of_scope in of_resource.scope_spans
            for span in of_scope.spans
        ]

    @property
    def resources(self) -> list[dict[str, Any]]:
        requests = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        return [_attributes(part.resource) for request in requests for part in request.resource_spans]

    def one(self, name: str) -> Span:
        (span,) = [span for span in self.spans if span.name == name]
        return span

    def above(self, span: Span) -> list[str]:
        """The names of those that a span is below, the nearest first."""
        by_id = {span.span_id: span for span in self.spans}
        names = []
        while span.parent_span_id in by_id:
            span = by_id[span.parent_span_id]
            names.append(span.name)
        return names


def _attributes(of: Any) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in of.attributes}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector that the environment names."""
    collector = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    yield collector
    collector.close()


@contextmanager
def traced(settings: Settings) -> Iterator[World]:
    """A world whose spans are with the collector once the block has ended."""
    with open_world(settings, Clock()) as world:
        yield world


class TestRequest:
    def test_is_a_span_above_those_of_both_stores(self, collector: Collector, settings: Settings) -> None:
        with traced(settings) as world:
            metric = world.metric()
            world.send(metric, (NINE, 1), (TEN, 2))
            window = {"start": NINE, "end": "2026-01-05T11:00:00Z", "resolution": "raw"}
            answer = world.admin.http.get(f"/metrics/{metric}/history", params=window)
            assert answer.status_code == 200
        name = "GET /api/v1/metrics/{metric_id}/history"
        request = collector.one(name)
        told = _attributes(request)
        assert request.kind == Span.SPAN_KIND_SERVER
        assert (told["http.route"], told["http.response.status_code"]) == ("/api/v1/metrics/{metric_id}/history", 200)
        assert told["kilowatch.user_id"] == world.admin.id
        assert told["kilowatch.request_id"] == answer.headers["x-request-id"]
        below = [span for span in collector.spans if collector.above(span)[-1:] == [name]]
        assert {span.trace_id for span in below} == {request.trace_id}
        (statement,) = [span for span in below if _attributes(span).get("kilowatch.statement") == "readings"]
        assert _attributes(statement)["db.response.returned_rows"] == 2
        selects = [span for span in below if span.name == "SELECT"]
        assert selects
        for select in selects:
            assert collector.above(select) == ["catalogue read", name]
            assert _attributes(select)["db.query.text"].startswith("SELECT")
        for span in below:
            assert request.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano

    def test_names_the_service_and_takes_more_from_the_environment(
        self, collector: Collector, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        with traced(settings) as world:
            world.site("told-of")
        assert collector.paths == {"/v1/traces"}
        assert {resource["service.name"] for resource in collector.resources} == {"kilowatch"}
        assert {resource["deployment.environment.name"] for resource in collector.resources} == {"test"}

    def test_names_the_service_as_the_environment_does(
        self, collector: Collector, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OTEL_SERVICE_NAME", "meters")
        with traced(settings) as world:
            world.site("told-of")
        assert {resource["service.name"] for resource in collector.resources} == {"meters"}

    def test_belongs_to_the_callers_trace_and_its_log_lines_say_so(
        self, collector: Collector, settings: Settings
    ) -> None:
        with (
            traced(settings) as world,
            structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as log,
        ):
            world.client.get("/health/live", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
            world.client.get("/health/live", headers={"traceparent": "00-nonsense"})
        (caller, nobody) = [span for span in collector.spans if span.name == "GET /health/live"]
        assert (caller.trace_id.hex(), caller.parent_span_id.hex()) == (TRACE, PARENT)
        assert nobody.trace_id.hex() != TRACE and not nobody.parent_span_id
        assert [line["trace_id"] for line in log if line["event"] == "request"] == [TRACE, nobody.trace_id.hex()]

    def test_that_fails_is_marked_without_its_message(
        self, collector: Collector, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise RuntimeError("hunter2")

        with traced(settings) as world:
            monkeypatch.setattr(world.services.catalogue, "get_site", fail)
            world.admin.http._transport.raise_server_exceptions = False  # type: ignore[attr-defined]  # TestClient's
            assert world.admin.get(f"/sites/{world.north}").status_code == 500
        assert collector.one("GET /api/v1/sites/{site_id}").status.code == Status.STATUS_CODE_ERROR
        assert not any(b"hunter2" in body for body in collector.bodies)

    def test_tells_no_secret(self, collector: Collector, settings: Settings) -> None:
        with traced(settings) as world:
            key = world.technician.post("/me/api-keys", {"name": "k", "scopes": ["ingest"]}).json()["key"]
            world.metric()
            answer = world.client.post("/write", params={"p": key}, content=b"x,site=north,device=y power=1")
            assert answer.status_code == 400
        assert _attributes(collector.one("POST /write"))["url.path"] == "/write"
        sent = b"".join(collector.bodies)
        for secret in (key, world.admin.password, world.admin.http.headers["Authorization"].removeprefix("Bearer ")):
            assert secret.encode() not in sent
        assert b"url.query" not in sent


class TestInsert:
    def test_is_a_trace_of_its_own_as_many_requests_share_it(self, collector: Collector, settings: Settings) -> None:
        with traced(settings) as world:
            world.send(world.metric(), (NINE, 1), (TEN, 2))
        insert = collector.one("history insert")
        assert not insert.parent_span_id
        assert (_attributes(insert)["kilowatch.readings"], _attributes(insert)["kilowatch.batches"]) == (2, 1)
        request = collector.one("POST /api/v1/readings")
        assert [(link.trace_id, link.span_id) for link in insert.links] == [(request.trace_id, request.span_id)]


class TestACollectorThatIsAway:
    def test_holds_up_no_request_and_not_the_end(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        """It takes connections, and never answers."""
        with socket.create_server(("127.0.0.1", 0)) as silent, structlog.testing.capture_logs() as log:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "600")
            with traced(settings) as world:
                assert world.client.get("/health/ready").status_code == 200
        assert [line["event"] for line in log if "spans" in line["event"]] == [
            "spans are left that the collector did not take"
        ]


class TestAskedFor:
    @pytest.mark.parametrize(
        "environment",
        [
            {},
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
            {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:1"},
        ],
    )
    def test_no_spans_are_made_unless_they_are(self, environment: dict[str, str]) -> None:
        with traces.sending(environment):
            assert not traces.is_open()
            with traces.root_span("nothing") as span:
                assert not span.is_recording()

    @pytest.mark.parametrize(
        ("environment", "words"),
        [
            ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER must be `otlp`, `console` or `none`"),
            (
                {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
                "OTEL_EXPORTER_OTLP_PROTOCOL must be `http/protobuf`",
            ),
        ],
    )
    def test_what_there_is_not_is_refused_by_name(self, environment: dict[str, str], words: str) -> None:
        with pytest.raises(Invalid, match=words), traces.sending(environment):
            pass

    def test_without_the_packages_is_refused_with_the_way_to_get_them(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
        with pytest.raises(Invalid, match=r"pip install 'kilowatch\[otel\]'"):
            create_app(Settings(data_dir=tmp_path))

    def test_wrongly_ends_a_server_with_one_line(self, tmp_path: Path) -> None:
        done = subprocess.run(
            [*PROGRAM, "serve", "--port", str(free_port())],
            env=environment(tmp_path / "var") | {"OTEL_TRACES_EXPORTER": "zipkin"},
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert done.returncode == 1
        assert "OTEL_TRACES_EXPORTER" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
