"""The sites, devices, users and grants that the server has, made by its own services before it starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import func, insert, select

from benchmarks.readings import Metric
from benchmarks.scale import DAY_METRICS, LISTENED, SCRATCH_METRICS, YEAR_METRICS, Scale
from kilowatch.auth.model import OPERATOR, GrantRow, Scope
from kilowatch.auth.service import Caller
from kilowatch.config import Settings
from kilowatch.facility.model import DeviceRow, MetricRow, SiteRow
from kilowatch.facility.schemas import DeviceIn, MetricIn, SiteIn
from kilowatch.kit.db import Base
from kilowatch.services import Kilowatch

_PASSWORD = "a password for the bench"  # noqa: S105 - of users that live for minutes
_POWER = MetricIn(key="power", quantity="power", unit="kW")
_LARGE_SITES_SHARE, _LARGE_SITE = 10, 60
"""One site in ten has sixty devices, so that there are pages of fifty; the others share what is left."""


@dataclass(frozen=True)
class Reader:
    """A user of the portfolio: an API key, and the large sites that were granted."""

    key: str
    site_ids: Sequence[int]


@dataclass(frozen=True)
class Portfolio:
    """What the measurements ask for. `key` is a technician's API key with the scopes `read` and `ingest`."""

    key: str
    year: Sequence[Metric]
    day: Sequence[Metric]
    scratch: Sequence[Metric]
    wide: Sequence[Metric]
    wide_site_id: int
    year_subscription: int
    both_subscription: int
    listened: Sequence[int]
    """Subscriptions to twenty of the wide metrics each, one after another."""
    readers: Sequence[Reader]


def make(directory: Path, scale: Scale, *, database_url: str | None = None) -> Portfolio:
    """Fill the catalogue: SQLite in the directory, unless a PostgreSQL is named."""
    # Said here so that none is taken from the environment, which may name anyone's real stores.
    settings = Settings(
        environment="development", data_dir=directory, database_url=database_url, history_url=None, secret_key=None
    )
    with Kilowatch(settings, with_history=False) as services:
        return _Maker(services).make(scale)


class _Maker:
    def __init__(self, services: Kilowatch) -> None:
        self._services = services

    def make(self, scale: Scale) -> Portfolio:
        readers = self._readers(scale)
        sites = {slug: self._site(slug, "Europe/Berlin") for slug in ("year", "day", "scratch", "wide")}
        year = self._single_metric_devices("year", sites["year"], YEAR_METRICS)
        day = self._single_metric_devices("day", sites["day"], DAY_METRICS)
        scratch = self._single_metric_devices("scratch", sites["scratch"], SCRATCH_METRICS)
        many = [MetricIn(key=f"power_{n}", quantity="power", unit="kW") for n in range(500)]
        wide = [m for n in range(scale.wide_devices) for m in self._device("wide", sites["wide"], f"device-{n}", many)]
        user_id, technician = self._user("technician@example.org")
        for site_id in sites.values():
            self._services.catalogue.put_grant(OPERATOR, site_id, user_id, "technician")
        subscribe = self._services.subscriptions.create_subscription
        return Portfolio(
            key=self._key(technician, ["read", "ingest"]),
            year=year,
            day=day,
            scratch=scratch,
            wide=wide,
            wide_site_id=sites["wide"],
            year_subscription=subscribe(technician, name="Year", metric_ids=[metric.id for metric in year]).id,
            both_subscription=subscribe(technician, name="Both", metric_ids=[metric.id for metric in [*year, *day]]).id,
            listened=[
                subscribe(technician, name="Listened", metric_ids=[metric.id for metric in metrics]).id
                for metrics in (wide[n * LISTENED : (n + 1) * LISTENED] for n in range(scale.listeners))
            ],
            readers=readers,
        )

    def _readers(self, scale: Scale) -> list[Reader]:
        """The portfolio of many sites: each user sees every fourth of the large ones and every eighth of the others."""
        large, small = self._many_sites(scale)
        readers, grants = [], []
        for n in range(scale.users):
            user_id, caller = self._user(f"reader-{n}@example.org")
            seen = list(dict.fromkeys(large[(n + step) % len(large)] for step in range(0, len(large), 4)))
            for site_id in [*seen, *small[n % 8 :: 8]]:
                grants.append({"user_id": user_id, "site_id": site_id, "role": "standard"})
            readers.append(Reader(self._key(caller, ["read"]), seen))
        with self._services.database.write() as connection:
            connection.execute(insert(GrantRow), grants)
        return readers

    def _many_sites(self, scale: Scale) -> tuple[list[int], list[int]]:
        """Ids of the large sites and of the others: copies of one site and one device, as one by one takes long."""
        site_id = self._site("site-1", "Europe/London")
        self._device("site-1", site_id, "device-1", [_POWER])
        site_ids = list(range(site_id, site_id + scale.sites))
        large = site_ids[: scale.sites // _LARGE_SITES_SHARE]
        small = site_ids[len(large) :]
        places = [site_id for site_id in large for _ in range(_LARGE_SITE)]
        places += [small[n % len(small)] for n in range(scale.devices - len(places))]
        with self._services.database.write() as connection:
            site, device, metric = (
                dict(connection.execute(select(row.__table__)).mappings().one())
                for row in (SiteRow, DeviceRow, MetricRow)
            )
            copies: list[tuple[type[Base], list[dict[str, Any]]]] = [
                (SiteRow, [site | {"id": n, "slug": f"site-{n}"} for n in site_ids[1:]]),
                (DeviceRow, [device | _device_values(n, at) for n, at in enumerate(places, 1) if n > 1]),
                (MetricRow, [metric | {"id": n, "device_id": n} for n in range(2, len(places) + 1)]),
            ]
            for row, values in copies:
                connection.execute(insert(row), values)
                if connection.dialect.name == "postgresql":  # else it gives these ids again
                    name = row.__tablename__
                    latest = select(func.max(row.__table__.c.id)).scalar_subquery()
                    connection.execute(select(func.setval(func.pg_get_serial_sequence(name, "id"), latest)))
        return large, small

    def _site(self, slug: str, timezone: str) -> int:
        site = SiteIn(name=slug.capitalize(), slug=slug, timezone=timezone)
        return self._services.catalogue.create_site(OPERATOR, site.model_dump()).id

    def _single_metric_devices(self, site: str, site_id: int, count: int) -> list[Metric]:
        return [metric for n in range(count) for metric in self._device(site, site_id, f"device-{n}", [_POWER])]

    def _device(self, site: str, site_id: int, slug: str, metrics: Sequence[MetricIn]) -> list[Metric]:
        device = DeviceIn(
            name=slug.capitalize(), slug=slug, kind="generic", manufacturer="Bench", serial_number=slug.upper()
        )
        made = self._services.catalogue.create_device(
            OPERATOR, site_id, device.model_dump(exclude={"metrics"}), metrics=[one.model_dump() for one in metrics]
        )
        return [Metric(metric.id, f"{site}/{slug}/{metric.key}") for metric in made.metrics]

    def _user(self, email: str) -> tuple[int, Caller]:
        user = self._services.accounts.create_user(
            OPERATOR, email=email, name="Bench", password=_PASSWORD, is_admin=False
        )
        tokens = self._services.sign_ins.sign_in(email, _PASSWORD, address="bench")
        return user.id, self._services.sign_ins.read_credential(tokens.access_token)

    def _key(self, caller: Caller, scopes: list[Scope]) -> str:
        made = self._services.accounts.create_api_key(
            caller, name="Bench", scopes=scopes, site_id=None, expires_at=None, once=None
        )
        return made.key


def _device_values(number: int, site_id: int) -> dict[str, Any]:
    slug = f"device-{number}"
    return {"id": number, "site_id": site_id, "name": f"Device {number}", "slug": slug, "serial_number": slug.upper()}
