"""Where a site is whose position nobody gave: where its time zone is."""

import re
from functools import lru_cache
from importlib.resources import files

from kilowatch.simulation.model import SitePlace
from kilowatch.simulation.place import Place

_POSITION = re.compile(r"([+-])(\d{2})(\d{2})(\d{2})?([+-])(\d{3})(\d{2})(\d{2})?")
_GREENWICH = (51.48, 0.0)


def place_of(site_id: int, place: SitePlace) -> Place:
    """The place of a site. Without a position it is the city that its time zone is named after; for UTC, Greenwich."""
    latitude, longitude = place.latitude, place.longitude
    if latitude is None or longitude is None:
        latitude, longitude = _positions().get(place.timezone, _GREENWICH)
    return Place(site_id, latitude, longitude, place.timezone, place.country)


@lru_cache(maxsize=1)
def _positions() -> dict[str, tuple[float, float]]:
    """By the time zone database's own table: country, position (ISO 6709), zone."""
    table = (files("tzdata") / "zoneinfo" / "zone.tab").read_text()
    rows = [line.split("\t") for line in table.splitlines() if not line.startswith("#")]
    return {row[2]: _degrees(row[1]) for row in rows}


def _degrees(text: str) -> tuple[float, float]:
    """From ISO 6709: `+5230+01322` or with seconds."""
    found = _POSITION.fullmatch(text)
    assert found is not None  # the table is the package's own
    north, *latitude, east, longitude_deg, longitude_min, longitude_s = found.groups()

    def degrees(sign: str, whole: str, minutes: str, seconds: str | None) -> float:
        return (-1 if sign == "-" else 1) * (int(whole) + int(minutes) / 60 + int(seconds or 0) / 3600)

    return degrees(north, latitude[0], latitude[1], latitude[2]), degrees(
        east, longitude_deg, longitude_min, longitude_s
    )
