"""Structured logs: JSON for machines, readable lines in a terminal, the request's id in every line."""

import logging
import sys
from typing import Any

import structlog

from kilowatch.config import Settings


def _console() -> structlog.dev.ConsoleRenderer:
    """With plain tracebacks: those of rich show the variables' values, passwords too, and take seconds."""
    return structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)


def configure_logging(settings: Settings) -> None:
    """Send structlog's and the standard library's records through one formatter to standard error."""
    as_json = settings.log_format == "json" or (
        settings.log_format == "auto" and (settings.environment == "production" or not sys.stderr.isatty())
    )
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any = structlog.processors.JSONRenderer() if as_json else _console()
    tail: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if as_json:
        tail.append(structlog.processors.format_exc_info)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[*tail, renderer]))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for noisy in ("uvicorn", "uvicorn.error", "alembic", "clickhouse_connect"):
        logging.getLogger(noisy).handlers.clear()
        logging.getLogger(noisy).propagate = True
    for noisy in ("uvicorn.error", "alembic"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    # Whoever asked is told that the history does not answer; these would tell of each attempt besides.
    for noisy in ("clickhouse_connect", "urllib3", "opentelemetry"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
