"""What is remembered of simulated devices: what each was at which time, what it carries on, what of it is stored."""

from typing import Any

import msgspec
from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from kilowatch.kit.db import Base


class PartRow(Base):
    """What a device is while nothing about it changes. It outlives its device, as the site's past does not change.

    Times are ms since 1970. From `begins` until before `ends` it has readings; from `joins` it takes part in its site's
    balance. Before that it sees the site, and nobody sees it.
    """

    __tablename__ = "simulation_parts"
    __table_args__ = (Index(None, "site_id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(primary_key=True)
    site_id: Mapped[int] = mapped_column(ForeignKey("sites.id", ondelete="CASCADE"))
    device_id: Mapped[int]
    kind: Mapped[str] = mapped_column(String(30))
    properties: Mapped[dict[str, Any]] = mapped_column(JSON)
    interval_s: Mapped[int]
    start: Mapped[int] = mapped_column(BigInteger)
    begins: Mapped[int] = mapped_column(BigInteger)
    joins: Mapped[int] = mapped_column(BigInteger)
    ends: Mapped[int | None] = mapped_column(BigInteger)


class PlaceRow(Base):
    """Where a site is from `begins` (ms since 1970) until its next place, as far as its weather and habits go."""

    __tablename__ = "simulation_places"

    site_id: Mapped[int] = mapped_column(ForeignKey("sites.id", ondelete="CASCADE"), primary_key=True)
    begins: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    timezone: Mapped[str] = mapped_column(String(60))
    latitude: Mapped[float | None]
    longitude: Mapped[float | None]
    country: Mapped[str | None] = mapped_column(String(2))


class StateRow(Base):
    """What a device carries on at a time: its counters, and what is stored in it.

    The first says what its counters show when it is made; they are counted from there in both directions of time, so
    that nothing of its past has to be computed until it is asked for. All others follow from it, and save work.
    """

    __tablename__ = "simulation_states"

    device_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    site_id: Mapped[int] = mapped_column(ForeignKey("sites.id", ondelete="CASCADE"), index=True)
    state: Mapped[dict[str, Any]] = mapped_column(JSON)
    is_first: Mapped[bool]


class SpanRow(Base):
    """From `begins` until before `ends` (ms since 1970) a metric's simulated readings are in the history."""

    __tablename__ = "simulation_spans"

    metric_id: Mapped[int] = mapped_column(ForeignKey("metrics.id", ondelete="CASCADE"), primary_key=True)
    begins: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    ends: Mapped[int] = mapped_column(BigInteger)


class Definition(msgspec.Struct, frozen=True):
    """What decides a device's readings, besides the time, the site's place and what else is there."""

    kind: str
    properties: dict[str, Any]
    interval_s: int


class Part(Definition, frozen=True, kw_only=True):
    """See `PartRow`. `id` is `None` until it is stored."""

    id: int | None = None
    site_id: int
    device_id: int
    start: int
    """When it was said to begin; `begins` is later where it had measured readings."""
    begins: int
    joins: int
    ends: int | None = None

    @property
    def definition(self) -> Definition:
        return Definition(**{name: getattr(self, name) for name in Definition.__struct_fields__})


class SitePlace(msgspec.Struct, frozen=True):
    """See `PlaceRow`."""

    begins: int
    timezone: str
    latitude: float | None
    longitude: float | None
    country: str | None


class Site(msgspec.Struct, frozen=True):
    """A site's devices and places over time."""

    parts: tuple[Part, ...] = ()
    places: tuple[SitePlace, ...] = ()


class KnownState(msgspec.Struct, frozen=True):
    """See `StateRow`."""

    device_id: int
    at: int
    state: dict[str, Any]
    is_first: bool = False
