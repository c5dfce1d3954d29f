"""What requests about sites, devices and metrics may say. Rules that need the database are the service's."""

from datetime import date
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from kilowatch.facility.kinds import DeviceKind
from kilowatch.facility.model import Interval, Source
from kilowatch.facility.quantities import GAUGE_MAX_GAP_S, QUANTITIES, Behaviour
from kilowatch.kit import timespan, units
from kilowatch.kit.schemas import Body
from kilowatch.kit.text import Flag, Key, Line, Name, Notes, Number, Slug, day_only, name_from, number_only


def _known_quantity(value: str) -> str:
    if value not in QUANTITIES:
        raise ValueError(f"is none of: {', '.join(QUANTITIES)}")
    return value


QuantityName = Annotated[
    str, AfterValidator(_known_quantity), WithJsonSchema({"type": "string", "enum": list(QUANTITIES)})
]
Unit = Annotated[str, StringConstraints(min_length=1, max_length=units.MAX_UNIT_LENGTH)]
Finite = Annotated[Number, Field(allow_inf_nan=False)]
Latitude = Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False), BeforeValidator(number_only)]
Longitude = Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False), BeforeValidator(number_only)]
Country = Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")]
Currency = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
Day = Annotated[date, Field(ge=date(1900, 1, 1), le=date(2199, 12, 31)), BeforeValidator(day_only)]
MaxGap = Annotated[
    int,
    Field(ge=1, le=366 * 86_400, description="How long a value is believed, in seconds; null: until the next."),
    BeforeValidator(number_only),
]


RawDays = Annotated[int, Field(ge=7, le=36_500), BeforeValidator(number_only)]


class _SiteFields(Body):
    timezone: str = Field("UTC", max_length=60, description="IANA name.")
    latitude: Latitude | None = None
    longitude: Longitude | None = None
    country: Country | None = Field(None, description="ISO 3166-1, two letters.")
    currency: Currency | None = Field(None, description="ISO 4217, three letters.")
    notes: Notes | None = None
    raw_days: RawDays | None = Field(
        None,
        description="For how many days raw readings are kept; older ones are folded into quarters of an hour. "
        "Null: for ever.",
    )

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        if value not in timespan.zone_names():
            raise ValueError(f"{value!r} is not an IANA time zone; one is `Europe/Berlin`")
        return value


class SiteIn(_SiteFields):
    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "name": "Home",
                "slug": "home",
                "timezone": "Europe/London",
                "latitude": 51.5,
                "longitude": -0.1,
                "country": "GB",
                "currency": "GBP",
            }
        }
    )
    name: Name
    slug: Slug | None = Field(None, description="Made from the name if left out.")


class SiteChange(_SiteFields):
    model_config = ConfigDict(json_schema_extra={"example": {"notes": "Meter replaced in May."}})
    name: Name = Field(default="")
    slug: Slug = Field(default="")


class MetricIn(Body):
    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "key": "power",
                "name": "Power",
                "quantity": "power",
                "unit": "kW",
                "behaviour": "gauge",
                "max_gap_s": 900,
            }
        }
    )
    key: Key
    name: Name | None = Field(None, description="Made from the key if left out.")
    quantity: QuantityName
    unit: Unit | None = Field(None, description="The quantity's usual one if left out.")
    behaviour: Behaviour | None = Field(None, description="`counter` for energy and volume if left out, else `gauge`.")
    max_gap_s: MaxGap | None = None
    valid_min: Finite | None = Field(None, description="Readings below are refused.")
    valid_max: Finite | None = Field(None, description="Readings above are refused.")

    @model_validator(mode="after")
    def _complete(self) -> "MetricIn":
        usual = QUANTITIES[self.quantity]
        gap_was_given = "max_gap_s" in self.model_fields_set
        self.name = self.name or name_from(self.key)
        self.unit = self.unit or usual.unit
        self.behaviour = self.behaviour or usual.behaviour
        if not gap_was_given and self.behaviour == "gauge":
            self.max_gap_s = GAUGE_MAX_GAP_S
        return self


class MetricChange(Body):
    model_config = ConfigDict(json_schema_extra={"example": {"name": "Power at the meter", "max_gap_s": 300}})
    key: Key = Field(default="")
    name: Name = Field(default="")
    quantity: QuantityName = Field(default="power")
    unit: Unit = Field(default="")
    behaviour: Behaviour = Field(default="gauge")
    max_gap_s: MaxGap | None = None
    valid_min: Finite | None = None
    valid_max: Finite | None = None


class _DeviceFields(Body):
    manufacturer: Line | None = None
    model: Line | None = None
    serial_number: Line | None = Field(None, description="Unique in the site where it is given.")
    commissioned_on: Day | None = None
    source: Source = Field(
        "reported", description="`simulated` for a device with no hardware: its readings are computed when needed."
    )
    interval_s: Annotated[Interval, BeforeValidator(number_only)] = Field(
        60, description="How often it reports if it is simulated, in seconds."
    )
    create_metrics: Flag = Field(
        False, description="Make a metric of readings that arrive for a key that the device does not have."
    )
    properties: dict[str, Any] = Field(
        default_factory=dict, description="By the kind's JSON Schema, see `GET /api/v1/device-kinds`.", max_length=100
    )

    @field_validator("manufacturer", "model", "serial_number")
    @classmethod
    def _empty_is_none(cls, value: str | None) -> str | None:
        return value or None


class DeviceIn(_DeviceFields):
    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "name": "Roof",
                "slug": "roof",
                "kind": "pv_array",
                "serial_number": "PV-0042",
                "commissioned_on": "2024-05-01",
                "properties": {"peak_kw": 9.8, "tilt_deg": 30, "azimuth_deg": 180},
            }
        }
    )
    name: Name
    slug: Slug | None = Field(None, description="Made from the name if left out.")
    kind: DeviceKind
    metrics: list[MetricIn] | None = Field(
        None, max_length=500, description="The kind's usual ones if left out; at least one if given."
    )


class DeviceChange(_DeviceFields):
    model_config = ConfigDict(json_schema_extra={"example": {"name": "South roof", "properties": {"tilt_deg": 35}}})
    name: Name = Field(default="")
    slug: Slug = Field(default="")
    kind: DeviceKind = Field(default="generic")
