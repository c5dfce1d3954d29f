"""Sites, devices and metrics."""

from datetime import date, datetime
from typing import Annotated, Any, Literal

import msgspec
from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String, Text, UniqueConstraint, false
from sqlalchemy.orm import Mapped, mapped_column

from kilowatch.facility.kinds import DeviceKind, UsualMetric
from kilowatch.facility.quantities import Behaviour
from kilowatch.kit.db import Base, Instant
from kilowatch.kit.timespan import to_ms

Source = Literal["reported", "simulated"]
Interval = Literal[60, 300, 900]


class SiteRow(Base):
    __tablename__ = "sites"
    __table_args__ = {"sqlite_autoincrement": True}

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(120))
    slug: Mapped[str] = mapped_column(String(60), unique=True)
    timezone: Mapped[str] = mapped_column(String(60))
    latitude: Mapped[float | None]
    longitude: Mapped[float | None]
    country: Mapped[str | None] = mapped_column(String(2))
    currency: Mapped[str | None] = mapped_column(String(3))
    notes: Mapped[str | None] = mapped_column(Text)
    raw_days: Mapped[int | None]
    folded_until: Mapped[datetime | None] = mapped_column(Instant)
    created_at: Mapped[datetime] = mapped_column(Instant)


class DeviceRow(Base):
    __tablename__ = "devices"
    __table_args__ = (
        UniqueConstraint("site_id", "slug"),
        UniqueConstraint("site_id", "serial_number"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    site_id: Mapped[int] = mapped_column(ForeignKey("sites.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(120))
    slug: Mapped[str] = mapped_column(String(60))
    kind: Mapped[str] = mapped_column(String(30))
    manufacturer: Mapped[str | None] = mapped_column(String(200))
    model: Mapped[str | None] = mapped_column(String(200))
    serial_number: Mapped[str | None] = mapped_column(String(200))
    commissioned_on: Mapped[date | None]
    source: Mapped[str] = mapped_column(String(20))
    interval_s: Mapped[int] = mapped_column(server_default="60")
    properties: Mapped[dict[str, Any]] = mapped_column(JSON)
    create_metrics: Mapped[bool] = mapped_column(server_default=false())
    version: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(Instant)
    updated_at: Mapped[datetime] = mapped_column(Instant)


class MetricRow(Base):
    """A metric. Its id is never used again after it is deleted: readings of old can't show up under a new metric."""

    __tablename__ = "metrics"
    __table_args__ = (UniqueConstraint("device_id", "key"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(primary_key=True)
    device_id: Mapped[int] = mapped_column(ForeignKey("devices.id", ondelete="CASCADE"))
    key: Mapped[str] = mapped_column(String(60))
    name: Mapped[str] = mapped_column(String(120))
    quantity: Mapped[str] = mapped_column(String(30))
    unit: Mapped[str] = mapped_column(String(30))
    behaviour: Mapped[str] = mapped_column(String(10))
    max_gap_s: Mapped[int | None]
    valid_min: Mapped[float | None]
    valid_max: Mapped[float | None]


class ErasureRow(Base):
    """A metric that is deleted here and whose readings are still to be erased from the history.

    Written with the deletion and removed when the history has done its part, so that a crash between the two is
    made good within ten minutes.
    """

    __tablename__ = "erasures"
    __table_args__ = (Index(None, "requested_at"),)

    metric_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    requested_at: Mapped[datetime] = mapped_column(Instant)


class WindowErasureRow(Base):
    """Readings of a metric that are deleted here and still to be erased from the history, like an `ErasureRow`.

    Times are ms since 1970. What was received after `received_until` came after the deletion, and stays. Once it is
    done the row stays for a while: a backup that began before may have the readings, and takes it as one to be done.
    """

    __tablename__ = "window_erasures"

    id: Mapped[int] = mapped_column(primary_key=True)
    metric_id: Mapped[int]
    start: Mapped[int] = mapped_column(BigInteger)
    end: Mapped[int] = mapped_column(BigInteger)
    received_until: Mapped[int] = mapped_column(BigInteger)
    done_at: Mapped[datetime | None] = mapped_column(Instant)


class Site(msgspec.Struct, frozen=True):
    id: int
    name: str
    slug: str
    timezone: str
    latitude: float | None
    longitude: float | None
    country: str | None
    currency: str | None
    notes: str | None
    raw_days: Annotated[
        int | None, msgspec.Meta(description="For how many days raw readings are kept; null: for ever.")
    ]
    folded_until: Annotated[
        datetime | None,
        msgspec.Meta(description="Readings of before are folded into quarters of an hour; null: none ever were."),
    ]
    created_at: datetime


class Metric(msgspec.Struct, frozen=True):
    id: int
    device_id: int
    key: str
    name: str
    quantity: str
    unit: str
    behaviour: Behaviour
    max_gap_s: int | None
    valid_min: float | None
    valid_max: float | None


class Device(msgspec.Struct, frozen=True):
    id: int
    site_id: int
    name: str
    slug: str
    kind: DeviceKind
    manufacturer: str | None
    model: str | None
    serial_number: str | None
    commissioned_on: date | None
    source: Source
    interval_s: Annotated[Interval, msgspec.Meta(description="How often it reports if it is simulated, in seconds.")]
    properties: dict[str, Any]
    create_metrics: Annotated[
        bool, msgspec.Meta(description="Whether readings that arrive for a key it does not have make a metric of it.")
    ]
    version: int
    created_at: datetime
    updated_at: datetime


class DeviceWithMetrics(Device, frozen=True, kw_only=True):
    """A device and all that it measures."""

    metrics: list[Metric]


class PlacedMetric(msgspec.Struct, frozen=True):
    """A metric with the names it is known by outside: `site/device/key`."""

    id: int
    site_id: int
    site: str
    timezone: str
    device_id: int
    device: str
    key: str
    name: str
    quantity: str
    unit: str
    behaviour: Behaviour
    max_gap_s: int | None
    valid_min: float | None
    valid_max: float | None
    simulated: bool = False
    """Whether its readings are computed when they are needed."""
    raw_days: int | None = None
    """For how many days its site keeps raw readings; `None`: for ever."""
    folded_until: datetime | None = None
    """Readings of before may be folded into quarters of an hour; `None`: none are."""

    @property
    def folded_until_ms(self) -> int:
        return 0 if self.folded_until is None else to_ms(self.folded_until)

    @property
    def path(self) -> str:
        return f"{self.site}/{self.device}/{self.key}"

    @property
    def max_gap_ms(self) -> int | None:
        return None if self.max_gap_s is None else self.max_gap_s * 1000


class ListedMetric(msgspec.Struct, frozen=True):
    """A metric among those of all sites, with what its device and its site are called."""

    id: int
    key: str
    name: str
    quantity: str
    unit: str
    behaviour: Behaviour
    max_gap_s: int | None
    device_id: int
    device: Annotated[str, msgspec.Meta(description="The device's slug.")]
    device_name: str
    kind: DeviceKind
    site_id: int
    site: Annotated[str, msgspec.Meta(description="The site's slug.")]
    site_name: str
    timezone: str

    @property
    def path(self) -> str:
        return f"{self.site}/{self.device}/{self.key}"


class InstalledMetric(msgspec.Struct, frozen=True):
    """A metric with what its device is, as far as a site's balance asks."""

    metric: PlacedMetric
    kind: DeviceKind
    capacity_kwh: float | None
    """Of a battery whose properties say it."""


class SimulatedDevice(msgspec.Struct, frozen=True):
    """What decides the readings of a device that has no hardware, and the metrics that they are for."""

    id: int
    kind: DeviceKind
    commissioned_on: date | None
    interval_s: int
    properties: dict[str, Any]
    created_at: datetime
    site_id: int
    timezone: str
    latitude: float | None
    longitude: float | None
    country: str | None
    metrics: tuple[Metric, ...] = ()


class KeptSite(msgspec.Struct, frozen=True):
    """A site, as far as it decides for how long raw readings are kept."""

    id: int
    timezone: str
    raw_days: int | None
    folded_until: datetime | None


class WindowErasure(msgspec.Struct, frozen=True):
    """Readings to be erased; times in ms since 1970."""

    id: int
    metric_id: int
    start: int
    end: int
    received_until: int


class DeletedReadings(msgspec.Struct, frozen=True):
    """How many readings were deleted, the replaced ones not counted."""

    readings: int


class Deleted(msgspec.Struct, frozen=True):
    """What a deletion took along."""

    devices: int
    metrics: int
    readings: int | None


class Extent(msgspec.Struct, frozen=True):
    """How much there is."""

    sites: int
    devices: int
    simulated_devices: int
    metrics: int


class KindInfo(msgspec.Struct, frozen=True):
    """A kind of device: its properties as JSON Schema, and its usual metrics."""

    key: DeviceKind
    name: str
    properties: dict[str, Any]
    metrics: list[UsualMetric]
