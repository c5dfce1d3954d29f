"""Server-sent events as bytes: https://html.spec.whatwg.org/multipage/server-sent-events.html."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from kilowatch.history.model import LatestReading, Place
from kilowatch.kit.timespan import from_ms
from kilowatch.live.feed import Arrival

END = b"\n\n"
"""What each event ends with, and has nowhere else."""


def heartbeat(place: Place) -> bytes:
    """A comment, which clients pass over; the id they keep, so that it is not an old one when nothing arrives."""
    return f": heartbeat\nid: {place}\n\n".encode()


def retry(seconds: float) -> bytes:
    """How long a client waits before it connects again."""
    return f"retry: {round(seconds * 1000)}\n\n".encode()


def readings(arrivals: Iterable[Arrival]) -> bytes:
    """An event for each, with its place as the id."""
    # Ten thousand of them leave the house in a second: that is why this spells the JSON out.
    return "".join(
        f"id: {received_at}.{metric_id}.{ts}\nevent: reading\n"
        f'data: {{"metric_id":{metric_id},"timestamp":{_time(ts)},"value":{value!r},'
        f'"received_at":{_time(received_at)}}}\n\n'
        for metric_id, ts, value, received_at in arrivals
    ).encode()


def latest(reading: LatestReading, place: Place | None = None) -> bytes:
    """With an id only where there is a place to go on from."""
    return _event("latest", reading, place)


def reset(reason: str, detail: str, place: Place) -> bytes:
    return _event("reset", {"reason": reason, "detail": detail}, place)


def unavailable(metric_ids: list[int], reason: str) -> bytes:
    return _event("unavailable", {"metric_ids": metric_ids, "reason": reason})


def end(reason: str, detail: str) -> bytes:
    return _event("end", {"reason": reason, "detail": detail})


def _event(name: str, data: LatestReading | Mapping[str, Any], place: Place | None = None) -> bytes:
    head = "" if place is None else f"id: {place}\n"
    return f"{head}event: {name}\ndata: ".encode() + msgspec.json.encode(data) + b"\n\n"


@lru_cache(10_000)
def _time(ms: int) -> str:
    """As JSON, spelt as everywhere in the API."""
    return msgspec.json.encode(from_ms(ms)).decode()
