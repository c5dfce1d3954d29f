"""Where a site is, as far as its weather and its people's habits depend on it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """`seed` is that of the site's weather: the same seed at the same place is the same weather for all its devices."""

    seed: int
    latitude: float  # degrees, north positive
    longitude: float  # degrees, east positive
    timezone: str  # IANA name
    country: str | None = None  # ISO 3166-1 alpha-2
