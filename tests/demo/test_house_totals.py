"""The real house: our figures against the portal's own, which stand in the same file.

Two independent witnesses: the portal's counters (`today_*` of the local day, `total_*` for ever, both to 0.1 kWh), and
the powers, sampled every 11 s to 307 s, with a gap of 7.4 h in the night of 6 June.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from kilowatch.auth.model import OPERATOR
from kilowatch.config import Settings
from kilowatch.demo import house, portfolio
from kilowatch.history.model import History
from kilowatch.history.service import Query
from kilowatch.kit.timespan import Window
from kilowatch.services import Kilowatch
from tests.conftest import SECRET_KEY, Clock, _unique

LONDON = ZoneInfo("Europe/London")
DAYS = [date(2025, 6, 1) + timedelta(days=number) for number in range(10)]
TEN_DAYS = Window(datetime(2025, 5, 31, 23, tzinfo=UTC), datetime(2025, 6, 10, 23, tzinfo=UTC))
STEP = 0.1
"""The counters' last digit, in kWh: what a difference of two readings may be off by."""


@pytest.fixture(scope="module")
def loaded(
    sqlite_template: Path, history_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kilowatch]:
    """The demo portfolio, loaded once, through the same ingest as any client's."""
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("house"),
        history_url=f"chdb://{history_directory}?database={_unique('house')}",
        history_sync=False,
        history_threads=2,
        secret_key=SECRET_KEY,  # type: ignore[arg-type]  # pydantic makes it a SecretStr
        log_level="error",
    )
    with Kilowatch(settings, clock=Clock()) as services:
        portfolio.prepare(services, settings, progress=lambda: nullcontext(lambda *_: None))
        yield services


def history(services: Kilowatch, metric: str, **query: str) -> History:
    return services.histories.history_of_metrics(
        OPERATOR,
        [f"{house.SLUG}/{metric}"],
        Query(TEN_DAYS, **query),  # type: ignore[arg-type]  # aggregates are checked where they are used
    )


def total(services: Kilowatch, metric: str, aggregate: str) -> float:
    return float(history(services, metric, aggregate=aggregate, resolution="1y").series[0].values[0])


def by_day(services: Kilowatch, metric: str, aggregate: str) -> dict[date, float]:
    answer = history(services, metric, aggregate=aggregate, resolution="1d").series[0]
    assert len(answer.values) == len(DAYS)
    return dict(zip(DAYS, answer.values.tolist(), strict=True))


@cache
def rows_by_day() -> dict[date, list[dict[str, str]]]:
    days: dict[date, list[dict[str, str]]] = {day: [] for day in DAYS}
    for row in sorted(house.read_measurements(), key=lambda row: row["ts"]):
        days[datetime.fromisoformat(row["ts"]).astimezone(LONDON).date()].append(row)
    return days


def portal_days(column: str) -> dict[date, float]:
    """What the portal says at the end of each local day."""
    return {day: float(rows[-1][column]) for day, rows in rows_by_day().items()}


COUNTERS = {
    "roof/today_energy": "today_pv_kwh",
    "grid-meter/today_energy_imported": "today_import_kwh",
    "grid-meter/today_energy_exported": "today_export_kwh",
    "battery/today_energy_charged": "today_charge_kwh",
    "battery/today_energy_discharged": "today_discharge_kwh",
}
TOTALS = {
    "roof/total_energy": "total_pv_kwh",
    "grid-meter/total_energy_imported": "total_import_kwh",
    "grid-meter/total_energy_exported": "total_export_kwh",
    "house-load/total_energy": "total_load_kwh",
}


@pytest.mark.parametrize(("metric", "column"), COUNTERS.items())
def test_a_day_s_counter_gives_the_portal_s_day(loaded: Kilowatch, metric: str, column: str) -> None:
    """Every day to the last digit: through nine resets at midnight, with which the portal is late, readings that repeat
    the day before's last value, and the gap."""
    ours, portal = by_day(loaded, metric, "delta"), portal_days(column)
    assert ours == {day: pytest.approx(kwh, abs=1e-6) for day, kwh in portal.items()}
    assert total(loaded, metric, "delta") == pytest.approx(sum(portal.values()), abs=1e-6)


@pytest.mark.parametrize(("metric", "column"), TOTALS.items())
def test_a_running_total_rises_by_what_it_rose(loaded: Kilowatch, metric: str, column: str) -> None:
    """Over all ten days to the last digit; a day may differ by one, as what ticks at midnight is either's."""
    rows = [row for day in rows_by_day().values() for row in day]
    assert total(loaded, metric, "delta") == pytest.approx(float(rows[-1][column]) - float(rows[0][column]), abs=1e-6)
    for day, kwh in by_day(loaded, metric, "delta").items():
        of_day = rows_by_day()[day]
        assert kwh == pytest.approx(float(of_day[-1][column]) - float(of_day[0][column]), abs=STEP + 1e-6)


@pytest.mark.parametrize(
    ("today", "ever"),
    [
        ("roof/today_energy", "roof/total_energy"),
        ("grid-meter/today_energy_imported", "grid-meter/total_energy_imported"),
        ("grid-meter/today_energy_exported", "grid-meter/total_energy_exported"),
    ],
)
def test_two_counters_of_the_same_agree(loaded: Kilowatch, today: str, ever: str) -> None:
    """One is reset ten times, the other never."""
    assert total(loaded, today, "delta") == pytest.approx(total(loaded, ever, "delta"), abs=STEP / 2)


@pytest.mark.parametrize(
    ("metric", "signed_columns", "least_pct", "most_pct", "day_kwh"),
    [
        # The grid's power is what its counters count: 0.2 % in ten days, a day within what 5-minute samples miss.
        ("grid-meter/power", (("total_import_kwh", 1), ("total_export_kwh", -1)), 0.0, 0.5, 0.9),
        # The load lacks the night of the gap (2.4 of 9.3 kWh), so it is less than the portal's.
        ("house-load/power", (("total_load_kwh", 1),), -2.5, -1.5, 2.6),
        # Most likely measured on the panels' side of the inverter, and counted behind it: some percent more.
        ("roof/power", (("today_pv_kwh", 1),), 4.0, 5.0, 2.4),
    ],
)
def test_integrated_power_is_the_counted_energy(
    loaded: Kilowatch,
    metric: str,
    signed_columns: tuple[tuple[str, int], ...],
    least_pct: float,
    most_pct: float,
    day_kwh: float,
) -> None:
    portal = dict.fromkeys(DAYS, 0.0)
    for column, sign in signed_columns:
        for day, rows in rows_by_day().items():
            begin = 0.0 if column.startswith("today") else float(rows[0][column])
            portal[day] += sign * (float(rows[-1][column]) - begin)
    ours = by_day(loaded, metric, "energy")
    assert sum(ours.values()) == pytest.approx(total(loaded, metric, "energy"), rel=1e-9)
    assert least_pct < (sum(ours.values()) / sum(portal.values()) - 1) * 100 < most_pct
    assert ours == {day: pytest.approx(kwh, abs=day_kwh) for day, kwh in portal.items()}


def test_the_battery_gave_what_it_took_and_lost(loaded: Kilowatch) -> None:
    """Discharged less charged, of 105 kWh that went in and out: the two ways differ by 2 %."""
    net = total(loaded, "battery/power", "energy")
    discharged = total(loaded, "battery/today_energy_discharged", "delta")
    charged = total(loaded, "battery/today_energy_charged", "delta")
    assert abs(net - (discharged - charged)) < 0.02 * (discharged + charged)


def test_coverage_shows_the_gap_and_nothing_else(loaded: Kilowatch) -> None:
    """The gap of 26,724 s is 7.4 h, of which the reading before it still vouches for 20 minutes."""
    answer = history(loaded, "roof/power", aggregate="energy", resolution="1d").series[0]
    assert answer.coverage is not None
    coverage = dict(zip(DAYS, answer.coverage.tolist(), strict=True))
    assert coverage[date(2025, 6, 6)] == pytest.approx(1 - (26_724 - 1200) / 86_400, abs=1e-9)
    assert coverage[date(2025, 6, 1)] == pytest.approx(1 - 24 / 86_400, abs=1e-9)  # the first reading is at 00:00:24
    assert [share for day, share in coverage.items() if day.day not in (1, 6)] == [1.0] * 8


def test_of_duplicate_timestamps_one_reading_is_kept(loaded: Kilowatch) -> None:
    rows = house.read_measurements()
    assert len(rows) - len({row["ts"] for row in rows}) == 32
    assert total(loaded, "roof/power", "count") == len(rows) - 32
