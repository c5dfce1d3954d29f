"""How much is measured."""

from dataclasses import dataclass

BATCH = 10_000
"""Readings a request, where they are sent in batches."""

YEAR_METRICS = 20
DAY_METRICS = 80
SCRATCH_METRICS = 20
LISTENED = 20
"""Metrics that a client listens to."""


@dataclass(frozen=True)
class Scale:
    """The size of the data and of each measurement. Targets and the baseline of `full` are the issue's."""

    name: str
    days: int
    """Of history at one reading a minute, for each of `YEAR_METRICS`."""
    span: str
    """The same in words."""
    batches: int
    """For each format of ingest."""
    steady_s: float
    singles: int
    requests: int
    """For a figure of many short requests."""
    cold: int
    """Different spans that nobody asked for before."""
    restarts: int
    """Fresh processes that each answer a large question once; 0: the same process all along."""
    settle_s: float
    """How long what was written may be merged before the next measurement."""
    wide_devices: int
    """Devices with 500 metrics each at the site of many metrics."""
    wide_readings: int
    """For each of those metrics, at the end."""
    listeners: int
    """Clients that each listen to 20 of those metrics, which"""
    listen_s: int
    """get a reading a second for so long."""
    sites: int = 200
    devices: int = 2_000
    users: int = 50

    @property
    def wide_metrics(self) -> int:
        return self.wide_devices * 500


SCALES = {
    scale.name: scale
    for scale in (
        Scale("full", 365, "1 year", 200, 60, 100_000, 4_000, 200, 3, 20.0, 20, 1_000, 500, 30),
        Scale("quick", 60, "60 days", 40, 8, 5_000, 1_000, 60, 1, 10.0, 20, 100, 100, 5),
        Scale("tiny", 2, "2 days", 3, 0.3, 100, 30, 4, 0, 0.0, 1, 20, 10, 1, sites=10, devices=120, users=9),
    )
}
