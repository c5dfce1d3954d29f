"""The weather of a place: sun, clouds, air temperature and wind, at any instants asked.

All of it is a function of the place and the time. Nothing is computed before it is asked for, as pvlib takes seconds
to load and a site without sun-driven devices has no need of it.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kilowatch.simulation.almanac import DAY_S, summer_share
from kilowatch.simulation.noise import Floats, Ints, between, derive, lattice_around, octaves, one_uniform
from kilowatch.simulation.place import Place

HOUR_S = 3600
_SUN_LATTICE_S = 6 * HOUR_S
SEA_LEVEL_PA = 101_325.0
_DELTA_T_S = 67.0
"""Terrestrial time less universal time; pvlib's own default. A second more moves the sun by 0.00001°."""
_PARALLAX = np.radians(8.794 / 3600)
"""By how much the sun stands lower at the horizon than it would be seen from the middle of the earth."""


@dataclass(frozen=True, slots=True)
class SunVector:
    """The direction to the sun's true position, as parts of a unit vector at each instant."""

    east: Floats
    north: Floats
    up: Floats


@dataclass(frozen=True, slots=True)
class Irradiance:
    """Of daylight instants, in W/m²: on the level, of the beam across its own direction, and diffuse on the level."""

    ghi: Floats
    dni: Floats
    dhi: Floats


class Weather:
    """The weather at a place at rising instants (whole minutes, in seconds since 1970)."""

    def __init__(self, place: Place, seconds: Ints) -> None:
        self.place = place
        self.seconds = seconds
        self._seed = derive(place.seed, "weather")

    # ------------------------------------------------------------ sun

    @cached_property
    def sun(self) -> SunVector:
        """By the solar position algorithm of NREL (Reda and Andreas 2004), within 0.001°.

        Its slow parts (declination, equation of time, distance) are computed each six hours and joined by straight
        lines; the turning of the earth is exact.
        """
        declination, lag, _ = self._orbit
        turned = (self.seconds % DAY_S) * (2 * np.pi / DAY_S)
        hour_angle = turned + lag + np.radians(self.place.longitude)
        latitude = np.radians(self.place.latitude)
        across = np.cos(declination) * np.cos(hour_angle)
        along = np.sin(declination)
        up = np.sin(latitude) * along + np.cos(latitude) * across
        north = np.cos(latitude) * along - np.sin(latitude) * across
        east = -np.cos(declination) * np.sin(hour_angle)
        return SunVector(*_seen_from_the_ground(east, north, up))

    @cached_property
    def _orbit(self) -> tuple[Floats, Floats, Floats]:
        """The declination, the hour angle at Greenwich less the time since midnight (rad), and extraterrestrial
        irradiance (W/m²) at each instant.
        """
        from pvlib import irradiance, spa

        lattice = lattice_around(self.seconds, period_s=_SUN_LATTICE_S)
        sidereal, ascension, declination = spa.solar_position(
            lattice.astype(np.float64), 0, 0, 0, 1013.25, 12, _DELTA_T_S, 0.5667, sst=True
        )
        turned = (lattice % DAY_S) * (360.0 / DAY_S)
        lag = (sidereal - ascension - turned) % 360.0  # about 180° all year: the sun crosses the meridian at noon
        days = lattice // DAY_S
        day_of_year = (
            days - days.astype("datetime64[D]").astype("datetime64[Y]").astype("datetime64[D]").astype(int)
        ) + 1
        extra = irradiance.get_extra_radiation(day_of_year, method="spencer")
        joined = (
            between(self.seconds, period_s=_SUN_LATTICE_S, values=np.asarray(values, dtype=np.float64))
            for values in (np.radians(declination), np.radians(lag), extra)
        )
        return tuple(joined)  # type: ignore[return-value] # three of them

    @cached_property
    def day(self) -> Ints:
        """The positions of the instants at which the sun's middle is above the horizon."""
        return np.flatnonzero(self.sun.up > 0)

    @cached_property
    def extraterrestrial(self) -> Floats:
        """W/m² across the beam, at daylight instants."""
        return self._orbit[2][self.day]

    @cached_property
    def clear(self) -> Irradiance:
        """What a sky without a cloud lets through, at daylight instants (Ineichen and Perez 2002, by pvlib)."""
        from pvlib import atmosphere, clearsky, spa

        elevation = np.degrees(np.arcsin(self.sun.up[self.day]))
        zenith = 90 - elevation - spa.atmospheric_refraction_correction(SEA_LEVEL_PA / 100, 12, elevation, 0.5667)
        airmass = atmosphere.get_absolute_airmass(atmosphere.get_relative_airmass(zenith), SEA_LEVEL_PA)
        sky = clearsky.ineichen(zenith, airmass, self._turbidity[self.day], dni_extra=self.extraterrestrial)
        return Irradiance(sky["ghi"], sky["dni"], sky["dhi"])

    @cached_property
    def actual(self) -> Irradiance:
        """What the clouds of the moment let through, at daylight instants; never over `clear`."""
        index = self.clear_sky_index[self.day]
        ghi = self.clear.ghi * index
        dni = self.clear.dni * self._beam_share[self.day]
        dhi = np.maximum(ghi - dni * self.sun.up[self.day], 0)
        return Irradiance(ghi, dni, dhi)

    @cached_property
    def _turbidity(self) -> Floats:
        """Linke's turbidity of the air: 2.2 at the poles, 3 in mid-latitudes, 4 in the tropics; more in summer."""
        tropical = np.cos(np.radians(self.place.latitude)) ** 2
        found: Floats = 2.2 + 1.8 * tropical + 0.4 * self._summer
        return found

    # ------------------------------------------------------------ clouds

    @cached_property
    def cloud_cover(self) -> Floats:
        """The share of the sky that is covered, from 0 to 1: often nearly none or nearly all, as it is in nature."""
        from scipy.special import ndtr

        cover: Floats = ndtr(self._cloudiness)
        return cover

    @cached_property
    def _cloudiness(self) -> Floats:
        """A normal variable, whose spread over 1 gives clear and overcast days more often than half-covered ones."""
        amplitudes = {6 * DAY_S: 0.5, 60 * HOUR_S: 0.65, 18 * HOUR_S: 0.4, 5 * HOUR_S: 0.3}
        slow = octaves(derive(self._seed, "cloudiness"), self.seconds, amplitudes)
        mean = np.interp(abs(self.place.latitude), _LATITUDES, _CLOUDINESS)
        mean += 0.4 * (one_uniform(self._seed, "mean cloudiness") - 0.5)
        return 1.6 * slow + mean - 0.25 * self._summer

    @cached_property
    def _shade(self) -> Floats:
        """How much a cloud is before the sun, from 0 to 1; it comes and goes within minutes.

        A field of clouds is drawn as noise, of which the share that is cloud is the cloud cover.
        """
        amplitudes = {4 * 60: 0.35, 12 * 60: 0.6, 40 * 60: 0.6, 2 * HOUR_S: 0.4}
        field = octaves(derive(self._seed, "cloud field"), self.seconds, amplitudes)
        edge = np.clip((self._cloudiness - field) / 0.5 + 0.5, 0, 1)
        return edge * edge * (3 - 2 * edge)

    @cached_property
    def _cloud_depth(self) -> Floats:
        """The share of light that the clouds of the moment take: half for scattered ones, four fifths under a lid."""
        amplitudes = {9 * HOUR_S: 0.6, 3 * HOUR_S: 0.6, 30 * 60: 0.4}
        change = octaves(derive(self._seed, "cloud depth"), self.seconds, amplitudes)
        return np.clip(0.46 + 0.28 * self.cloud_cover + 0.10 * change, 0.15, 0.93)

    @cached_property
    def clear_sky_index(self) -> Floats:
        """Irradiance on the level as a share of what a clear sky would give, from 0.07 to 1."""
        return 1 - self._shade * self._cloud_depth

    @cached_property
    def _beam_share(self) -> Floats:
        """The beam suffers more than the whole: what a cloud takes from it, it scatters in part."""
        return 1 - self._shade * np.minimum(1.4 * self._cloud_depth, 1)

    # ------------------------------------------------------------ temperature

    @cached_property
    def _day_of_year(self) -> Floats:
        """Days since 1 January, with fractions, of a year that begins at the same instant everywhere."""
        return (self.seconds / DAY_S) % 365.2425

    @cached_property
    def _summer(self) -> Floats:
        return summer_share(self._day_of_year, self.place.latitude)

    @cached_property
    def _solar_hour(self) -> Floats:
        """Mean solar time, in hours since midnight."""
        return (self.seconds % DAY_S / HOUR_S + self.place.longitude / 15) % 24

    @cached_property
    def temperature_c(self) -> Floats:
        """Air temperature in °C, to a tenth."""
        mean, seasonal = climate(self.place.latitude)
        amplitudes = {8 * DAY_S: 0.7, 3 * DAY_S: 0.6, 20 * HOUR_S: 0.3, 3 * HOUR_S: 0.1, 30 * 60: 0.04}
        fronts = octaves(derive(self._seed, "temperature"), self.seconds, amplitudes)
        spread = 1.5 + 2.5 * abs(np.sin(np.radians(self.place.latitude)))
        found: Floats = np.round(mean + seasonal * self._summer + spread * fronts + self._daily_course_k, 1)
        return found

    @cached_property
    def _daily_course_k(self) -> Floats:
        """Coldest before sunrise, warmest at three; less under clouds, and as the sun rises less high at noon."""
        declination = np.radians(23.45) * np.sin(2 * np.pi * (self._day_of_year - 80) / 365.2425)
        at_noon = np.maximum(np.cos(np.radians(self.place.latitude) - declination), 0)
        hour = 2 * np.pi * (self._solar_hour - 15) / 24
        course = np.cos(hour) + 0.25 * np.cos(2 * hour + np.radians(20))
        found: Floats = (1 + 5 * at_noon * (1 - 0.65 * self.cloud_cover)) * course
        return found

    # ------------------------------------------------------------ wind

    @cached_property
    def wind_10m(self) -> Floats:
        """Wind speed 10 m above ground in m/s: a Weibull distribution of shape 2, mean as `mean_wind_10m` has it."""
        from scipy.special import gamma, log_ndtr

        amplitudes = {6 * DAY_S: 0.6, 52 * HOUR_S: 0.7, 13 * HOUR_S: 0.42, 4 * HOUR_S: 0.22, HOUR_S: 0.15, 15 * 60: 0.1}
        calm = octaves(derive(self._seed, "wind"), self.seconds, amplitudes)
        by_day = 0.25 * np.cos(2 * np.pi * (self._solar_hour - 14) / 24)
        by_season = -0.3 * self._summer
        latent = (calm + by_day + by_season) / np.sqrt(1 + 0.25**2 / 2 + 0.3**2 / 2)
        scale = mean_wind_10m(self.place) / gamma(1 + 1 / WEIBULL_SHAPE)
        speed: Floats = scale * (-log_ndtr(-latent)) ** (1 / WEIBULL_SHAPE)
        return speed

    def wind_at(self, height_m: float) -> Floats:
        """Wind speed in m/s at a height over ground, by the power law."""
        found: Floats = self.wind_10m * (max(height_m, 0.5) / 10) ** SHEAR_EXPONENT
        return found


# The dry belt of the subtropics, the cloudy one of the westerlies.
_LATITUDES = (0, 15, 28, 38, 48, 58, 90)
_CLOUDINESS = (-0.1, -0.5, -0.9, -0.45, 0.15, 0.35, 0.35)
WEIBULL_SHAPE = 2.0
SHEAR_EXPONENT = 1 / 7
"""Of the wind's rise with height, over open country."""
_FACING_THE_OCEAN = frozenset({"DK", "FO", "GB", "IE", "IS", "NL", "NZ", "NO", "FK"})


def mean_wind_10m(place: Place) -> float:
    """Of the year, in m/s: 3.5 to 5.5 by the site's own luck, and a third more in countries that face the ocean."""
    own = 3.5 + 2.0 * one_uniform(place.seed, "mean wind")
    return own * (4 / 3 if place.country in _FACING_THE_OCEAN else 1)


def climate(latitude: float) -> tuple[float, float]:
    """The year's mean temperature in °C at sea level, and by how much the warmest weeks are over it."""
    sine = abs(float(np.sin(np.radians(latitude))))
    return 27 - 31 * sine**2, 12 * sine


def _seen_from_the_ground(east: Floats, north: Floats, up: Floats) -> tuple[Floats, Floats, Floats]:
    """The direction from the earth's surface, of one that was given from its middle."""
    # A shift of the observer by the earth's radius, as a share of the sun's distance; the length stays 1 within 1e-4.
    lowered = up - _PARALLAX
    return east, north, lowered
