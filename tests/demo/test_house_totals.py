"""The real house: our figures against the portal's own, which stand in the same file.

Two independent witnesses: the portal's counters (`today_*` of the local day, `total_*` for ever, both to 0.1 kWh), and the
powers, sampled every 11 s to 307 s, with a gap of 7.4 h in the night of 6 June.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from kilowatch.app import Kilowatch
from kilowatch.auth.model import OPERATOR
from kilowatch.config import Settings
from kilowatch.demo import house, portfolio
from kilowatch.history.model import History
from kilowatch.history.service import Query
from kilowatch.kit.timespan import Window
from tests.conftest import SECRET_KEY, Clock, _unique

LONDON = ZoneInfo("Europe/London")
DAYS = [date(2025, 6, 1) + timedelta(days=number) for number in range(10)]
TEN_DAYS = Window(datetime(2025, 5, 31, 23, tzinfo=UTC), datetime(2025, 6, 10, 23, tzinfo=UTC))
STEP = 0.1
"""The counters' last digit, in kWh: what a difference of two readings may be off by."""


@pytest.fixture(scope="module")
def loaded(sqlite_template: Path, history_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kilowatch]:
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

def test_print(loaded):
    for m,a,c in [("roof/today_energy","delta","today_pv_kwh"),("roof/power","energy","today_pv_kwh"),
      ("grid-meter/today_energy_imported","delta","today_import_kwh"),("grid-meter/today_energy_exported","delta","today_export_kwh"),
      ("battery/today_energy_charged","delta","today_charge_kwh"),("battery/today_energy_discharged","delta","today_discharge_kwh")]:
        p=portal_days(c); o=by_day(loaded,m,a)
        print(m,a,"portal",round(sum(p.values()),2),"ours",round(total(loaded,m,a),3), [(p[d],round(o[d],2)) for d in DAYS])
    for m,a,c in [("roof/total_energy","delta","total_pv_kwh"),("grid-meter/total_energy_imported","delta","total_import_kwh"),("grid-meter/total_energy_exported","delta","total_export_kwh"),("house-load/total_energy","delta","total_load_kwh"),("house-load/power","energy","total_load_kwh"),("grid-meter/power","energy","total_export_kwh"),("battery/power","energy","total_load_kwh"),("inverter/power","energy","total_load_kwh")]:
        r=[x for v in rows_by_day().values() for x in v]
        o=by_day(loaded,m,a)
        print(m,a,"portal",round(float(r[-1][c])-float(r[0][c]),2),"ours",round(total(loaded,m,a),3),[round(o[d],2) for d in DAYS], [round(float(v[-1][c])-float(v[0][c]),1) for v in rows_by_day().values()])
        print("coverage",[round(x,4) for x in history(loaded,m,aggregate=a,resolution="1d").series[0].coverage], history(loaded,m,aggregate=a,resolution="1y").series[0].coverage)
