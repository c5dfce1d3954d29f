"""Readings as gateways send them: curves of power with noise, time moving forward; and request bodies of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.scale import BATCH

SECOND_MS, MINUTE_MS, DAY_MS = 1_000, 60_000, 86_400_000
_NOISE = np.random.default_rng(20_250_101).normal(0.0, 1.0, 1 << 16)


@dataclass(frozen=True)
class Metric:
    """A metric, and the name that gateways know it by: `site/device/key`."""

    id: int
    path: str


@dataclass(frozen=True, eq=False)
class Block:
    """Readings of some metrics at the same times (ms since 1970): `values[metric, time]`."""

    metrics: Sequence[Metric]
    timestamps: NDArray[np.int64]
    values: NDArray[np.float64]

    def __len__(self) -> int:
        return self.values.size


def day_start(now: datetime) -> int:
    """The last midnight in UTC, in ms since 1970."""
    return int(now.astimezone(UTC).timestamp()) * SECOND_MS // DAY_MS * DAY_MS


def blocks(
    metrics: Sequence[Metric], start: int, *, readings: int, step: int = MINUTE_MS, size: int = BATCH
) -> Iterator[Block]:
    """`readings` of each metric from `start` on, in blocks of `size` readings, each later than the one before."""
    each = max(1, size // len(metrics))
    for first in range(0, readings, each):
        timestamps = start + step * np.arange(first, min(first + each, readings), dtype=np.int64)
        yield Block(metrics, timestamps, np.stack([power_kw(metric.id, timestamps) for metric in metrics]))


def power_kw(metric_id: int, timestamps: NDArray[np.int64]) -> NDArray[np.float64]:
    """A roof's power for even ids, a household's for odd ones; to the watt, as meters have it."""
    day = (timestamps % DAY_MS) / DAY_MS
    season = 1.0 - 0.6 * np.cos(2 * np.pi * timestamps / (365.25 * DAY_MS))
    noise: NDArray[np.float64] = _NOISE[(timestamps // SECOND_MS * 31 + metric_id * 7_919) & 0xFFFF]
    power: NDArray[np.float64]
    if metric_id % 2 == 0:
        sun = np.clip(np.sin(2 * np.pi * (day - 0.25)), 0.0, None)
        power = 6.0 * season * sun * (1.0 + 0.15 * noise)
    else:
        power = 0.4 + 0.8 * np.sin(2 * np.pi * day) ** 2 + 0.1 * np.abs(noise) + metric_id % 7 * 0.05
    return power.round(3)


# ── bodies ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def iso_times(timestamps: NDArray[np.int64]) -> list[str]:
    times: list[str] = np.datetime_as_string(timestamps.astype("datetime64[ms]"), unit="s").tolist()
    return [time + "Z" for time in times]


def columns_body(block: Block) -> bytes:
    times = '","'.join(iso_times(block.timestamps))
    series = (
        f'{{"metric_id":{metric.id},"timestamps":["{times}"],"values":{_json(values)}}}'
        for metric, values in zip(block.metrics, block.values, strict=True)
    )
    return f'{{"series":[{",".join(series)}]}}'.encode()


def _json(values: NDArray[np.float64]) -> str:
    return f"[{','.join(map(repr, values.tolist()))}]"


def rows_body(block: Block) -> bytes:
    rows = (
        f'{{"metric_id":{metric.id},"timestamp":"{time}","value":{value!r}}}'
        for time, values in zip(iso_times(block.timestamps), block.values.T.tolist(), strict=True)
        for metric, value in zip(block.metrics, values, strict=True)
    )
    return f'{{"readings":[{",".join(rows)}]}}'.encode()


def csv_body(block: Block) -> bytes:
    lines = (
        f"{metric.path},{time},{value!r}\n"
        for time, values in zip(iso_times(block.timestamps), block.values.T.tolist(), strict=True)
        for metric, value in zip(block.metrics, values, strict=True)
    )
    return ("metric,timestamp,value\n" + "".join(lines)).encode()


def lines_body(block: Block) -> bytes:
    """InfluxDB line protocol, precision ms: a line a reading."""
    heads = []
    for metric in block.metrics:
        site, device, key = metric.path.split("/")
        heads.append(f"power,site={site},device={device} {key}=")
    lines = (
        f"{head}{value!r} {timestamp}"
        for timestamp, values in zip(block.timestamps.tolist(), block.values.T.tolist(), strict=True)
        for head, value in zip(heads, values, strict=True)
    )
    return "\n".join(lines).encode()


def arrow_body(block: Block) -> bytes:
    """An Arrow stream of one batch: `metric_id` uint32, `timestamp` in ms UTC, `value` float64."""
    ids = np.repeat(np.array([metric.id for metric in block.metrics], np.uint32), len(block.timestamps))
    times = np.tile(block.timestamps, len(block.metrics))
    table = pa.table(
        {"metric_id": ids, "timestamp": pa.array(times, pa.timestamp("ms", "UTC")), "value": block.values.ravel()}
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


class Moving:
    """The body of a block, and the same later: only its times are written anew, so that it costs next to nothing."""

    def __init__(self, block: Block) -> None:
        self._times = np.tile(block.timestamps, len(block.metrics))
        times = self._times.tobytes()
        self._head, found, self._tail = arrow_body(block).partition(times)
        assert found, "the times lie in the stream as they are in memory"

    def later(self, by_ms: int) -> bytes:
        return b"".join((self._head, (self._times + by_ms).tobytes(), self._tail))
