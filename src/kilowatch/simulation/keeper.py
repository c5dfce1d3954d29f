"""Makes the newest readings of simulated devices as time goes on, so that they arrive like those of real ones."""

from typing import Protocol

import structlog

from kilowatch.kit import metrics
from kilowatch.kit.chores import Chore
from kilowatch.kit.leadership import Leadership

log = structlog.get_logger("kilowatch.simulation")

_EVERY_S = 1.0


class Ticking(Protocol):
    def tick(self) -> None: ...


def keeper(simulation: Ticking, leadership: Leadership) -> Chore:
    """Looks every second what is due."""
    return Chore(
        lambda _stop: simulation.tick(),
        leadership,
        name="simulation-keeper",
        every_s=_EVERY_S,
        log=log,
        waits="simulated devices wait for a store",
        fails="simulated devices could not report",
        leads=metrics.SIMULATION_LEADER.set,
    )
