"""Spans for OpenTelemetry, when its standard environment variables say where to send them.

Our own, and not the framework's or a library's instrumentation: those put query strings into spans, in which clients
for InfluxDB 1 send an API key.
"""

import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from typing import TYPE_CHECKING, Any

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanContext, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import kilowatch
from kilowatch.errors import Invalid

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

log = structlog.get_logger("kilowatch.traces")

_EXPORTER, _PROTOCOLS = "OTEL_TRACES_EXPORTER", ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PACKAGES = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter")
_LEFT_SENT_WITHIN_S = 2.0
_NOTHING: AbstractContextManager[Span] = nullcontext(INVALID_SPAN)
_w3c = TraceContextTextMapPropagator()
_tracer: trace.Tracer | None = None

# ── whether ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def asked_for(environment: Mapping[str, str] = os.environ) -> str | None:
    """The exporter that the environment asks for: `otlp`, `console`, or none.

    Raises:
        Invalid: it asks for one that there is not, or that is not installed.
    """
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    given = environment.get(_EXPORTER, "").strip().lower()
    exporter = given or ("otlp" if any(environment.get(name) for name in _ENDPOINTS) else "none")
    if exporter == "none":
        return None
    if exporter not in ("otlp", "console"):
        raise Invalid(f"{_EXPORTER} must be `otlp`, `console` or `none`.")
    protocol = next((environment[name] for name in _PROTOCOLS if environment.get(name)), "http/protobuf")
    if exporter == "otlp" and protocol != "http/protobuf":
        raise Invalid(f"{_PROTOCOLS[1]} must be `http/protobuf`; no other protocol is spoken here.")
    try:
        for package in _PACKAGES:
            import_module(package)
    except ImportError as error:
        raise Invalid(
            "The environment asks for OpenTelemetry traces (OTEL_…), whose packages are not installed: run "
            "`pip install 'kilowatch[otel]'`, or set OTEL_SDK_DISABLED=true."
        ) from error
    return exporter


@contextmanager
def sending(environment: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Make and send spans while the block runs, if the environment asks for it; see `asked_for`."""
    global _tracer  # noqa: PLW0603 - one for the process, as its spans are made in every room
    name = asked_for(environment)
    if name is None:
        yield
        return
    exporter = _exporter(name)
    provider = _provider(exporter)
    _tracer = provider.get_tracer("kilowatch", kilowatch.__version__)
    try:
        yield
    finally:
        _tracer = None
        _close(provider, exporter)


def _close(provider: "TracerProvider", exporter: "SpanExporter") -> None:
    """Send what is left. The package's own end waits for a collector that is away for most of a minute."""
    closing = threading.Thread(target=provider.shutdown, name="traces-end", daemon=True)
    closing.start()
    closing.join(_LEFT_SENT_WITHIN_S)
    if closing.is_alive():
        log.warning("spans are left that the collector did not take", within_s=_LEFT_SENT_WITHIN_S)
        exporter.shutdown()


def _provider(exporter: "SpanExporter") -> "TracerProvider":
    """What else the standard variables say (sampler, batches, limits, resource) the packages read themselves."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    ours = Resource({"service.name": "kilowatch", "service.version": kilowatch.__version__})
    resource = Resource.create().merge(ours).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _exporter(name: str) -> "SpanExporter":
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


# ── spans ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def span(name: str, *, kind: SpanKind = SpanKind.INTERNAL, **attributes: Any) -> AbstractContextManager[Span]:
    """A span while the block runs, below the one that is open in this context; none where none is.

    So what looks every second whether there is something to do leaves no traces. Costs nothing unless they are sent.
    """
    return _NOTHING if _tracer is None or not _is_below_another() else _open(_tracer, name, kind, attributes)


def root_span(
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    of: Iterable[SpanContext | None] = (),
    **attributes: Any,
) -> AbstractContextManager[Span]:
    """As `span`, of what happens for no request, or for many: `of` has the spans that wait for it."""
    if _tracer is None:
        return _NOTHING
    return _open(_tracer, name, kind, attributes, links=[Link(context) for context in of if context is not None])


def here() -> SpanContext | None:
    """The span that is open in this context, for those who do something for it elsewhere."""
    return None if _tracer is None or not _is_below_another() else trace.get_current_span().get_span_context()


def request_span(method: str, headers: Iterable[tuple[bytes, bytes]]) -> AbstractContextManager[Span]:
    """The span of a request, which belongs to the caller's own trace where its `traceparent` names one."""
    if _tracer is None:
        return _NOTHING
    parent = _w3c.extract({name.decode("latin-1"): value.decode("latin-1") for name, value in headers})
    return _open(_tracer, method, SpanKind.SERVER, {}, parent=parent)


def is_open() -> bool:
    """Whether spans are made at all."""
    return _tracer is not None


def _is_below_another() -> bool:
    return trace.get_current_span().get_span_context().is_valid


@contextmanager
def _open(
    tracer: trace.Tracer,
    name: str,
    kind: SpanKind,
    attributes: Mapping[str, Any],
    *,
    parent: Context | None = None,
    links: Sequence[Link] = (),
) -> Iterator[Span]:
    """What went wrong is told by its class alone: a message may quote what nobody else should read."""
    ours = {f"kilowatch.{name}": value for name, value in attributes.items()}
    opened = tracer.start_span(name, context=parent, kind=kind, attributes=ours, links=links)
    with trace.use_span(opened, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield opened
        except BaseException as error:
            opened.set_attribute("error.type", type(error).__name__)
            opened.set_status(StatusCode.ERROR)
            raise


class StatementSpans:
    """Spans of SQLAlchemy's statements: listens to an engine's events. Texts with placeholders, no values."""

    def __init__(self, system: str) -> None:
        self._system = system

    def begin(self, _c: Any, _cursor: Any, statement: str, _p: Any, context: Any, _many: bool) -> None:
        if _tracer is not None and context is not None and _is_below_another():
            name = statement.split(None, 1)[0].upper()
            attributes = {"db.system.name": self._system, "db.query.text": statement}
            context.kilowatch_span = _tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)

    def end(self, _c: Any, _cursor: Any, _statement: str, _p: Any, context: Any, _many: bool) -> None:
        opened = getattr(context, "kilowatch_span", None)
        if opened is not None:
            opened.end()

    def fail(self, failure: Any) -> None:
        opened = getattr(failure.execution_context, "kilowatch_span", None)
        if opened is not None:
            opened.set_attribute("error.type", type(failure.original_exception).__name__)
            opened.set_status(StatusCode.ERROR)
            opened.end()
