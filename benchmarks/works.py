"""What is measured, in which order, and what is to be reached."""

from dataclasses import asdict, dataclass, field
from typing import Any

INGEST, REQUESTS = "readings/s", "requests/s"


@dataclass(frozen=True)
class Target:
    """What the issue asks for; all that is given must hold."""

    rate: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    also: str = ""
    """Something else, judged by the measurement itself."""

    def holds(self, *, rate: float | None, p50_ms: float, p99_ms: float | None) -> bool:
        return (
            (self.rate is None or (rate is not None and rate > self.rate))
            and (self.p50_ms is None or p50_ms < self.p50_ms)
            and (self.p99_ms is None or (p99_ms is not None and p99_ms < self.p99_ms))
        )

    def __str__(self) -> str:
        parts = [
            f"> {self.rate:,.0f}/s" if self.rate else "",
            f"p50 < {self.p50_ms:g} ms" if self.p50_ms else "",
            f"p99 < {self.p99_ms:g} ms" if self.p99_ms else "",
            self.also,
        ]
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class Work:
    """A line of the table. `floor` names the floor, and whether rates or medians are compared."""

    key: str
    text: str
    unit: str = REQUESTS
    target: Target | None = None
    floor: tuple[str, str] | None = None


@dataclass
class Figure:
    """What a work took. `ratio`: how many times as long as the floor; 1 is the engine's own speed."""

    key: str
    work: str
    unit: str
    rate: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    target: str = ""
    met: bool | None = None
    floor: float | None = None
    ratio: float | None = None
    note: str = ""
    more: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {name: _rounded(value) for name, value in asdict(self).items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


_MILLION = 1_000_000
_WORKS = (
    Work("start", "start of the server, to its first connection", "ms"),
    Work("latest_100_short", "latest of 100 metrics, at a hundredth of the history", floor=("latest_100", "p50_ms")),
    Work(
        "latest_wide_short",
        "latest of {wide:,} metrics, at a hundredth of the history",
        floor=("latest_wide", "p50_ms"),
    ),
    Work(
        "ingest_arrow",
        "ingest, Arrow, batches of 10,000, 8 clients ({span} of 20 metrics)",
        INGEST,
        Target(rate=2 * _MILLION),
        ("insert_80000", "rate"),
    ),
    Work(
        "ingest_columns",
        "ingest, JSON columns, batches of 10,000, 8 clients",
        INGEST,
        Target(rate=2 * _MILLION),
        ("insert_80000", "rate"),
    ),
    Work(
        "ingest_rows",
        "ingest, JSON rows, batches of 10,000, 8 clients",
        INGEST,
        Target(rate=_MILLION),
        ("insert_80000", "rate"),
    ),
    Work(
        "ingest_lines",
        "ingest, line protocol, batches of 10,000, 8 clients",
        INGEST,
        Target(rate=800_000),
        ("insert_80000", "rate"),
    ),
    Work("ingest_csv", "ingest, CSV, batches of 10,000, 8 clients", INGEST, None, ("insert_80000", "rate")),
    Work(
        "hourly_cold",
        "20 metrics × {span} to hourly means, first after a start",
        target=Target(p50_ms=250),
        floor=("hourly", "p50_ms"),
    ),
    Work(
        "hourly_again",
        "20 metrics × {span} to hourly means, again",
        target=Target(p50_ms=250),
        floor=("hourly", "p50_ms"),
    ),
    Work(
        "daily_cold",
        "20 metrics × {span} of daily energy, Europe/Berlin, first after a start",
        target=Target(p50_ms=400),
        floor=("daily", "p50_ms"),
    ),
    Work(
        "daily_again",
        "20 metrics × {span} of daily energy, Europe/Berlin, again",
        target=Target(p50_ms=400),
        floor=("daily", "p50_ms"),
    ),
    Work(
        "day_cold",
        "1 day at 1 minute, 1 metric, JSON, 1 client, not asked before",
        target=Target(p50_ms=7),
        floor=("day", "p50_ms"),
    ),
    Work(
        "day_hot",
        "1 day at 1 minute, 1 metric, JSON, 1 client, asked before",
        target=Target(p50_ms=2),
        floor=("day", "p50_ms"),
    ),
    Work(
        "year_json_cold",
        "{span} at 1 minute, 1 metric, raw JSON, not asked before",
        target=Target(p50_ms=50),
        floor=("year", "p50_ms"),
    ),
    Work(
        "year_json_again",
        "{span} at 1 minute, 1 metric, raw JSON, again",
        target=Target(p50_ms=50),
        floor=("year", "p50_ms"),
    ),
    Work(
        "year_arrow_cold",
        "{span} at 1 minute, 1 metric, raw Arrow, not asked before",
        target=Target(p50_ms=35),
        floor=("year", "p50_ms"),
    ),
    Work(
        "year_arrow_again",
        "{span} at 1 minute, 1 metric, raw Arrow, again",
        target=Target(p50_ms=35),
        floor=("year", "p50_ms"),
    ),
    Work("latest_1", "latest of 1 metric, 8 clients", target=Target(rate=1_200), floor=("latest_1_rate", "rate")),
    Work("latest_100", "latest of 100 metrics in one call", target=Target(p50_ms=3), floor=("latest_100", "p50_ms")),
    Work(
        "latest_wide",
        "latest of {wide:,} metrics in one call",
        target=Target(p99_ms=150),
        floor=("latest_wide", "p50_ms"),
    ),
    Work(
        "page",
        "a page of 50 devices ({sites} sites, {devices:,} devices, {users} users), rights checked, 8 clients",
        target=Target(rate=500),
        floor=("page", "rate"),
    ),
    Work(
        "day_while_ingest",
        "1-day windows, 8 clients, while ingest runs at 100,000 readings/s",
        target=Target(p99_ms=100),
        floor=("day_rate", "rate"),
    ),
    Work(
        "export_csv",
        "raw export of 20 metrics × {span}, CSV",
        INGEST,
        Target(also="first byte < 1 s, < 300 MB above idle"),
        ("export_csv", "p50_ms"),
    ),
    Work(
        "export_arrow",
        "raw export of 20 metrics × {span}, Arrow",
        INGEST,
        Target(also="first byte < 1 s, < 300 MB above idle"),
        ("export_arrow", "p50_ms"),
    ),
    Work(
        "ingest_single",
        "ingest, 1 reading a request, 64 clients, {singles:,} requests",
        REQUESTS,
        Target(rate=1_500, p99_ms=100, also="no growth of parts"),
        ("insert_64", "rate"),
    ),
    Work(
        "stream",
        "streams: {listeners} clients × 20 metrics, a reading a second each, from sending to arrival",
        "events/s",
        Target(also="p99 after the answer < 100 ms"),
    ),
    Work(
        "ingest_steady",
        "ingest, Arrow, batches of 10,000, 8 clients, for {steady_s:g} s",
        INGEST,
        Target(rate=2 * _MILLION, also="steady memory"),
        ("insert_80000", "rate"),
    ),
)
WORKS = {work.key: work for work in _WORKS}
