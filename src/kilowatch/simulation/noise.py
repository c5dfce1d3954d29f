"""Chance that can be asked anywhere: numbers that look random, but are a function of a seed and a place in time.

No stream of random numbers is kept, so a value depends neither on where a window begins nor on what was asked before.
A seed is any whole number; `derive` makes independent ones from it. Periods are whole minutes, in seconds.
"""

import zlib
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_GAMMA = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_WORD = 0xFFFFFFFFFFFFFFFF


def derive(seed: int, *names: str | int) -> int:
    """A seed of its own for what `names` say, from 0 to 2^64 - 1."""
    for name in names:
        salt = zlib.crc32(name.encode()) if isinstance(name, str) else name
        seed = _scrambled((seed & _WORD) + _GAMMA * ((salt & _WORD) + 1))
    return seed & _WORD


def _scrambled(word: int) -> int:
    word &= _WORD
    word = ((word ^ (word >> 30)) * _FIRST) & _WORD
    word = ((word ^ (word >> 27)) * _SECOND) & _WORD
    return word ^ (word >> 31)


def one_uniform(seed: int, *names: str | int) -> float:
    """One number, evenly spread over (0, 1)."""
    return ((derive(seed, *names) >> 11) + 0.5) / 2**53


def uniform(seed: int, index: Ints) -> Floats:
    """For each index a number of its own, evenly spread over (0, 1): SplitMix64 (Steele, Lea and Flood 2014)."""
    word = index.astype(np.uint64) * np.uint64(_GAMMA) + np.uint64(derive(seed))
    word = (word ^ (word >> np.uint64(30))) * np.uint64(_FIRST)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(_SECOND)
    word ^= word >> np.uint64(31)
    return ((word >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53


def normal(seed: int, index: Ints) -> Floats:
    """For each index a number of its own from the standard normal distribution."""
    from scipy.special import ndtri

    drawn: Floats = ndtri(uniform(seed, index))
    return drawn


def steps(seed: int, seconds: Ints, *, period_s: int) -> Floats:
    """Standard normal, constant for a period at a time."""
    cell, _ = _cells(seed, seconds, period_s)
    found: Floats = _on_lattice(seed, cell)[cell - cell[0]]
    return found


def smooth(seed: int, seconds: Ints, *, period_s: int) -> Floats:
    """Standard normal at every instant, correlated over about a period, without kinks.

    Between two points of the lattice their values are mixed by the cosine and the sine of an angle, so that the
    variance is 1 everywhere; a straight line would halve it midway.
    """
    cell, minute = _cells(seed, seconds, period_s)
    lattice, here = _on_lattice(seed, cell), cell - cell[0]
    before, after = _weights(period_s // 60)
    found: Floats = lattice[here] * before[minute] + lattice[here + 1] * after[minute]
    return found


def octaves(seed: int, seconds: Ints, amplitudes: Mapping[int, float]) -> Floats:
    """Standard normal: a sum of smooth noises, with an amplitude for each period in seconds."""
    size = sum(amplitude**2 for amplitude in amplitudes.values()) ** 0.5
    total = np.zeros(len(seconds))
    for period_s, amplitude in amplitudes.items():
        total += smooth(derive(seed, period_s), seconds, period_s=period_s) * (amplitude / size)
    return total


def between(seconds: Ints, *, period_s: int, values: Floats) -> Floats:
    """Straight lines between values at multiples of a period, the first at or before the first of `seconds`."""
    cell = seconds // period_s
    share = (seconds - cell * period_s) / period_s
    here = cell - cell[0]
    found: Floats = values[here] * (1 - share) + values[here + 1] * share
    return found


def lattice_around(seconds: Ints, *, period_s: int) -> Ints:
    """The multiples of a period from the first at or before rising `seconds` to the one after the last."""
    return np.arange(seconds[0] // period_s, seconds[-1] // period_s + 2, dtype=np.int64) * period_s


def _cells(seed: int, seconds: Ints, period_s: int) -> tuple[Ints, Ints]:
    """Which period each instant lies in, and how many minutes after its beginning."""
    # Each noise has a phase of its own: else all of them would have their lattice points at midnight.
    phase = derive(seed, "phase") % (period_s // 60) * 60
    minutes = (seconds + phase) // 60
    cell = minutes // (period_s // 60)  # NumPy divides by one number several times as fast as it takes remainders
    return cell, minutes - cell * (period_s // 60)


def _on_lattice(seed: int, cell: Ints) -> Floats:
    return normal(seed, np.arange(cell[0], cell[-1] + 2, dtype=np.int64))


@lru_cache(maxsize=64)
def _weights(minutes: int) -> tuple[Floats, Floats]:
    share = np.arange(minutes) / minutes
    angle = share * share * (3 - 2 * share) * (np.pi / 2)
    return np.cos(angle), np.sin(angle)
