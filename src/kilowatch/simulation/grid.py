"""The grid connection: its voltage and frequency."""

import numpy as np

from kilowatch.simulation.noise import Floats, Ints, derive, octaves
from kilowatch.simulation.place import Place

_HOUR_S = 3600
_LOW_VOLTAGE = {"US": 120.0, "CA": 120.0, "MX": 127.0, "BR": 127.0, "CO": 120.0, "VE": 120.0, "TW": 110.0, "JP": 100.0,
                "CR": 120.0, "CU": 120.0, "DO": 120.0, "EC": 120.0, "GT": 120.0, "HN": 120.0, "NI": 120.0, "PA": 120.0,
                "PR": 120.0, "SV": 120.0, "HT": 110.0, "JM": 110.0}  # fmt: skip
"""Nominal voltage between a phase and neutral, where it is not 230 V."""
_SIXTY_HERTZ = frozenset(_LOW_VOLTAGE) - {"JP", "JM"} | {"KR", "PH", "SA", "PE", "GU"}
_CONTINENTAL_EUROPE = frozenset(
    ("AT", "BE", "BG", "CH", "CZ", "DE", "DK", "ES", "FR", "GR", "HR", "HU", "IT", "LU", "NL", "PL", "PT", "RO", "RS",
     "SI", "SK", "TR", "UA")
)  # fmt: skip


def nominal_voltage(country: str | None) -> float:
    return _LOW_VOLTAGE.get(country or "", 230.0)


def nominal_frequency(country: str | None) -> float:
    return 60.0 if country in _SIXTY_HERTZ else 50.0


def voltage_v(place: Place, seconds: Ints, balance_w: Floats, *, seed: int, connection_kw: float) -> Floats:
    """Between a phase and neutral, to a tenth: import lowers it and export raises it, by 2 % at most."""
    moves = octaves(derive(seed, "voltage"), seconds, {8 * _HOUR_S: 0.7, _HOUR_S: 0.5, 5 * 60: 0.5})
    most_w = max(connection_kw * 1000, 1)
    loaded = np.clip(balance_w, -most_w, most_w) / most_w
    return np.round(nominal_voltage(place.country) * (1 + 0.008 * np.clip(moves, -4, 4) - 0.02 * loaded), 1)


def frequency_hz(place: Place, seconds: Ints) -> Floats:
    """To a thousandth; the same at every site of one synchronous grid."""
    area = "continental Europe" if place.country in _CONTINENTAL_EUROPE else place.country or "elsewhere"
    moves = octaves(derive(0, "frequency", area), seconds, {_HOUR_S: 0.5, 15 * 60: 0.6, 3 * 60: 0.6})
    return np.round(nominal_frequency(place.country) + 0.02 * np.clip(moves, -5, 5), 3)
