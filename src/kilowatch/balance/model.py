"""What is told of a site's energy flow and balance.

Powers are in kW, energies in kWh. Grid power is positive on import, battery power on discharge; production and
consumption are positive.
"""

from datetime import datetime
from typing import Annotated, Literal, get_args

import msgspec

Role = Literal["pv", "wind", "battery", "grid", "load", "ev_charging", "heating"]
"""The part that a device has in its site's balance."""
ROLES: tuple[Role, ...] = get_args(Role)
SOURCES: tuple[Role, ...] = ("pv", "wind")
USES: tuple[Role, ...] = ("load", "ev_charging", "heating")

Node = Literal["pv", "wind", "battery", "grid", "consumption"]

SMALL_SHARE = 0.01
"""Of consumption: a rest up to it is rounding and the jitter of meters that are not read at one moment."""
_SMALL_KW = 0.005
_SMALL_KWH = 0.02


def _meta(description: str) -> msgspec.Meta:
    return msgspec.Meta(description=description)


class Power(msgspec.Struct, frozen=True):
    """A power now: of the devices of one role together, or made of theirs."""

    kw: Annotated[float | None, _meta("Null while none of the devices has a reading.")]
    devices: Annotated[int, _meta("How many devices it is of.")]
    missing: Annotated[int, _meta("How many of them have no reading yet, and so are not in it.")]
    stale: Annotated[bool, _meta("Whether a reading in it is older than it is believed, or missing.")]
    computed: Annotated[bool, _meta("Whether it is computed from others and not measured itself.")] = False


class Link(msgspec.Struct, frozen=True, rename={"source": "from", "target": "to"}):
    """A power that flows from one part of a site to another."""

    source: Node
    target: Node
    kw: float


class Flow(msgspec.Struct, frozen=True):
    """A site's powers by their latest readings. What the site has no device for is null."""

    site_id: int
    pv: Power | None
    wind: Power | None
    battery: Annotated[Power | None, _meta("Positive on discharge.")]
    grid: Annotated[Power | None, _meta("Positive on import.")]
    load: Power | None
    ev_charging: Power | None
    heating: Power | None
    production: Annotated[Power | None, _meta("PV and wind.")]
    consumption: Annotated[Power | None, _meta("All that is used at the site, charging of batteries aside.")]
    other: Annotated[
        Power | None, _meta("Consumption less what is measured of it; negative where more is measured than there is.")
    ]
    state_of_charge: Annotated[float | None, _meta("Of all batteries, by their capacities, in %.")]
    links: Annotated[
        list[Link], _meta("How the powers flow: production serves consumption, then batteries, then grid.")
    ]
    oldest: Annotated[datetime | None, _meta("The time of the oldest reading in it.")]
    newest: Annotated[datetime | None, _meta("The time of the newest reading in it.")]
    stale: Annotated[bool, _meta("Whether a reading in it is older than it is believed, or missing.")]
    complete: Annotated[bool, _meta("Whether every device with a part in it has a reading.")]
    metric_ids: Annotated[list[int], _meta("The metrics that it is made of: streams of them tell when it changes.")]

    @property
    def has_parts(self) -> bool:
        """Whether there is anything to show."""
        return any(getattr(self, role) is not None for role in ROLES)

    @property
    def shows_other(self) -> bool:
        """Whether the rest is more than rounding."""
        return _is_notable(
            None if self.other is None else self.other.kw,
            None if self.consumption is None else self.consumption.kw,
            _SMALL_KW,
        )


class Health(msgspec.Struct, frozen=True):
    """How many devices a site has, and how many of them say nothing new."""

    devices: int
    stale: int


class Energy(msgspec.Struct, frozen=True):
    """An energy over the window."""

    kwh: Annotated[float | None, _meta("Null where no data vouches for any of it.")]
    coverage: Annotated[
        float, _meta("Share of the window that data vouches for: the mean of its devices, the least of its parts.")
    ]
    computed: Annotated[bool, _meta("Whether it is computed from others and not measured itself.")] = False


class Sources(msgspec.Struct, frozen=True, rename={"imported": "import"}):
    """Where energy came from. What the site has no device for is null."""

    pv: Energy | None
    wind: Energy | None
    battery_discharge: Energy | None
    imported: Energy | None


class Uses(msgspec.Struct, frozen=True, rename={"exported": "export"}):
    """Where energy went. What the site has no device for is null."""

    load: Energy | None
    ev_charging: Energy | None
    heating: Energy | None
    other: Annotated[
        Energy | None, _meta("Consumption less what is measured of it; negative where more is measured than there is.")
    ]
    battery_charge: Energy | None
    exported: Energy | None


class PowerSeries(msgspec.Struct, frozen=True):
    """A mean power for each bucket, in kW; null where no device has data."""

    kw: list[float | None]
    coverage: list[float]


class BalanceSeries(msgspec.Struct, frozen=True):
    """Mean powers by bucket: columns of one length. What the site has no device for is null."""

    timestamps: Annotated[list[datetime], _meta("Starts of the buckets, in the answer's time zone.")]
    pv: PowerSeries | None
    wind: PowerSeries | None
    battery: Annotated[PowerSeries | None, _meta("Positive on discharge.")]
    grid: Annotated[PowerSeries | None, _meta("Positive on import.")]
    load: PowerSeries | None
    ev_charging: PowerSeries | None
    heating: PowerSeries | None
    production: PowerSeries | None
    consumption: PowerSeries | None
    other: PowerSeries | None


class Balance(msgspec.Struct, frozen=True):
    """A site's energies in a window `[start, end)`."""

    site_id: int
    start: datetime
    end: datetime
    timezone: str
    sources: Sources
    uses: Uses
    production: Annotated[Energy | None, _meta("PV and wind.")]
    consumption: Annotated[Energy | None, _meta("All that is used at the site, charging of batteries aside.")]
    self_consumption: Annotated[
        float | None, _meta("Share of the production that was not exported, 0 to 1; null without production.")
    ]
    autarky: Annotated[
        float | None, _meta("Share of the consumption that was not imported, 0 to 1; null without consumption.")
    ]
    complete: Annotated[bool, _meta("Whether data vouches for all of the window at every device (to 1 %).")]
    resolution: Annotated[str | None, _meta("Of `series`.")] = None
    series: BalanceSeries | None = None

    @property
    def has_parts(self) -> bool:
        """Whether there is anything to show."""
        return any(
            energy is not None and energy.kwh is not None
            for group in (self.sources, self.uses)
            for energy in (getattr(group, name) for name in group.__struct_fields__)
        )

    @property
    def shows_other(self) -> bool:
        """Whether the rest is more than rounding."""
        return _is_notable(
            None if self.uses.other is None else self.uses.other.kwh,
            None if self.consumption is None else self.consumption.kwh,
            _SMALL_KWH,
        )


def _is_notable(rest: float | None, consumption: float | None, least: float) -> bool:
    return rest is not None and abs(rest) > max(least, SMALL_SHARE * abs(consumption or 0.0))
