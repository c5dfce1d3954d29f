"""Things that run for a while: a kettle, a charging session. Each has a beginning, a length and a power."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kilowatch.simulation.noise import Ints


@dataclass(frozen=True, slots=True)
class Runs:
    """Equally long arrays: when each begins and ends (seconds since 1970, the end exclusive), and its power in W."""

    begin_s: Ints
    end_s: Ints
    power_w: Ints

    def energy_ws(self) -> int:
        return int(((self.end_s - self.begin_s) * self.power_w).sum())


def after_another(begin_s: Ints, phases: list[tuple[Ints, Ints]]) -> Runs:
    """Runs of several phases, each of a power in W and a length in s, that follow one another."""
    begins, ends, powers = [], [], []
    for power_w, length_s in phases:
        begins.append(begin_s)
        ends.append(begin_s + length_s)
        powers.append(power_w)
        begin_s = begin_s + length_s
    return Runs(np.concatenate(begins), np.concatenate(ends), np.concatenate(powers))


def together(several: list[Runs]) -> Runs:
    return Runs(
        np.concatenate([runs.begin_s for runs in several]),
        np.concatenate([runs.end_s for runs in several]),
        np.concatenate([runs.power_w for runs in several]),
    )


def power_w_at(seconds: Ints, runs: Runs) -> Ints:
    """The sum of what runs at each instant of a regular grid."""
    change = np.zeros(len(seconds) + 1, dtype=np.int64)
    np.add.at(change, np.searchsorted(seconds, runs.begin_s), runs.power_w)
    np.add.at(change, np.searchsorted(seconds, runs.end_s), -runs.power_w)
    return np.cumsum(change[:-1])


def whole(values: NDArray[np.floating[Any]]) -> Ints:
    """Rounded to the nearest whole number."""
    rounded: Ints = np.rint(values).astype(np.int64)
    return rounded
