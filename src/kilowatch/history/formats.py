"""History as JSON and CSV: columns of numbers to text, without an object a row."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv as pa_csv

from kilowatch.history.model import History, Series
from kilowatch.kit import timespan
from kilowatch.kit.timespan import Window, from_ms, iso_suffix


def to_json(history: History) -> bytes:
    """The contract's JSON; NaN is null, times carry the zone's offset."""
    start, end = (_local_time(instant, history) for instant in (history.window.start_ms, history.window.end_ms))
    head = orjson.dumps(
        {
            "start": start,
            "end": end,
            "resolution": history.resolution.name if history.resolution else "raw",
            "timezone": history.timezone,
        }
    )
    shared: dict[int, bytes] = {}  # aggregated series share one array of times

    def times(series: Series) -> bytes:
        key = id(series.timestamps)
        if key not in shared or history.resolution is None:
            shared[key] = b"".join(_local_times(series.timestamps, history))
        return shared[key]

    body = b",".join(_series_json(series, times(series)) for series in history.series)
    tail = orjson.dumps({"next": history.next, "unavailable": list(history.unavailable)})
    return head[:-1] + b',"series":[' + body + b"]," + tail[1:]


def _series_json(series: Series, times: bytes) -> bytes:
    request, metric = series.request, series.request.metric
    head = orjson.dumps(
        {
            "metric_id": metric.id,
            "site": metric.site,
            "device": metric.device,
            "metric": metric.key,
            "unit": request.unit,
            "aggregate": request.aggregate,
        }
    )
    columns = b',"timestamps":[' + times + b'],"values":' + _numbers(series.values)
    if series.coverage is not None:
        columns += b',"coverage":' + _numbers(series.coverage)
    return head[:-1] + columns + b"}"


def _numbers(values: np.ndarray) -> bytes:
    return orjson.dumps(np.ascontiguousarray(values, np.float64), option=orjson.OPT_SERIALIZE_NUMPY)


def _local_time(instant: int, history: History) -> str:
    text: str = orjson.loads(b"".join(_local_times(np.array([instant], np.int64), history)))
    return text


def _local_times(timestamps: np.ndarray, history: History) -> Iterator[bytes]:
    """RFC 3339 times of the history's zone, as the inside of a JSON array.

    Between two changes of clock the offset is one, so it is written for all times of such a span at once.
    """
    zone = timespan.zone(history.timezone)
    if not len(timestamps):
        return
    span = Window(from_ms(int(timestamps[0])), from_ms(int(timestamps[-1]) + 1))
    bounds = [span.start_ms, *timespan.transitions(span, zone), span.end_ms]
    written = False
    for begin, end in pairwise(bounds):
        part = timestamps[np.searchsorted(timestamps, begin) : np.searchsorted(timestamps, end)]
        if not len(part):
            continue
        # RFC 3339 has no seconds in an offset; the few historic ones that have them are shown to the minute.
        offset = timespan.offset_ms(from_ms(begin), zone) // 60_000 * 60_000
        local = (part + offset).astype("datetime64[ms]")
        text = orjson.dumps(local, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
        suffix = iso_suffix(offset).encode()
        yield (b"," if written else b"") + text.replace(b'",', suffix + b'",')[:-1] + suffix + b'"'
        written = True


def to_csv(history: History) -> bytes:
    """A line a value: `metric` (site/device/key), `timestamp`, `value` (empty for a gap), `unit`; and, if aggregated,
    `aggregate` and `coverage`."""
    aggregated = history.resolution is not None
    columns = ["metric", "timestamp", "value", "unit", *(("aggregate", "coverage") if aggregated else ())]
    sink = pa.BufferOutputStream()
    sink.write((",".join(columns) + "\n").encode())
    options = pa_csv.WriteOptions(include_header=False, quoting_style="none")
    for series in history.series:
        if not len(series.timestamps):
            continue
        times = orjson.loads(b"[" + b"".join(_local_times(series.timestamps, history)) + b"]")
        size, request = len(times), series.request
        data = {
            "metric": pa.repeat(request.metric.path, size),
            "timestamp": pa.array(times),
            "value": pa.array(series.values, from_pandas=True),
            "unit": pa.repeat(request.unit, size),
        }
        if aggregated:
            data |= {"aggregate": pa.repeat(request.aggregate, size), "coverage": pa.array(series.coverage)}
        pa_csv.write_csv(pa.table(data), sink, options)
    return bytes(sink.getvalue())
