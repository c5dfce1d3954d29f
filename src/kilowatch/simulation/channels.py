"""Which of a simulated device's channels each of its metrics shows."""

from collections.abc import Sequence

from kilowatch.facility.model import Metric
from kilowatch.kit import units
from kilowatch.simulation.plant import CHANNELS, Channel


def channel_of(kind: str, metric: Metric, siblings: Sequence[Metric]) -> Channel | None:
    """The channel of the metric's name; else the only one that measures the same and is not another metric's by name.

    `None` for a metric of which nothing is known: it has no readings.
    """
    channels = [channel for channel in CHANNELS[kind] if _fits(channel, metric)]
    named = [channel for channel in channels if channel.key == metric.key]
    if named:
        return named[0]
    taken = {sibling.key for sibling in siblings}
    free = [channel for channel in channels if channel.key not in taken]
    return free[0] if len(free) == 1 else None


def _fits(channel: Channel, metric: Metric) -> bool:
    is_same = (channel.quantity, channel.behaviour) == (metric.quantity, metric.behaviour)
    return is_same and units.compatible(channel.unit, metric.unit)
