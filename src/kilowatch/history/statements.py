"""The history's SQL. Values reach it as bound parameters only; what is put in by name comes from this file's tables.

Times are ms since 1970 (`Int64`), results are read in the engine's RowBinary format into NumPy arrays of the dtypes
given here. NaN stands for "nothing", which no reading can be.
"""

import numpy as np

from kilowatch.history.model import Aggregate

# Safe, since a reading's time decides its partition: equal (metric, time) never lie in two of them.
_FINAL = "SETTINGS do_not_merge_across_partitions_select_final = 1"

_IN_WINDOW = """metric_id IN {ids:Array(UInt32)}
    AND ts >= fromUnixTimestamp64Milli({start:Int64}, 'UTC') AND ts < fromUnixTimestamp64Milli({end:Int64}, 'UTC')"""

LATEST_DTYPE = np.dtype([("metric_id", "<u4"), ("ts", "<i8"), ("value", "<f8"), ("received_at", "<i8")])
LATEST = """
SELECT metric_id, reading.1, reading.2, reading.3
FROM (
    SELECT metric_id, argMaxMerge(reading) AS reading
    FROM latest
    WHERE metric_id IN {ids:Array(UInt32)}
    GROUP BY metric_id
)
"""

POINT_DTYPE = np.dtype([("metric_id", "<u4"), ("ts", "<i8"), ("value", "<f8")])

RAW = f"""
SELECT metric_id, toUnixTimestamp64Milli(ts), value
FROM readings FINAL
WHERE {_IN_WINDOW}
    AND (metric_id, toUnixTimestamp64Milli(ts)) > ({{after_id:UInt32}}, {{after_ts:Int64}})
ORDER BY metric_id, ts
LIMIT {{limit:UInt64}}
{_FINAL}
"""

LAST_BEFORE = f"""
SELECT metric_id, toUnixTimestamp64Milli(max(ts)), argMax(value, (ts, received_at))
FROM readings
WHERE {_IN_WINDOW}
GROUP BY metric_id
"""

FIRST_FROM = f"""
SELECT metric_id, toUnixTimestamp64Milli(min(ts)), argMin(value, (ts, -toUnixTimestamp64Milli(received_at)))
FROM readings
WHERE {_IN_WINDOW}
GROUP BY metric_id
"""

COUNT = f"SELECT count() FROM readings FINAL WHERE metric_id IN {{ids:Array(UInt32)}} {_FINAL}"

# Unlike a lightweight delete, this leaves no copy of the rows on the disk.
ERASE = (
    "ALTER TABLE readings DELETE WHERE metric_id IN {ids:Array(UInt32)} SETTINGS mutations_sync = 2",
    "ALTER TABLE latest DELETE WHERE metric_id IN {ids:Array(UInt32)} SETTINGS mutations_sync = 2",
)

BUCKET_DTYPE = np.dtype([("metric_id", "<u4"), ("bucket", "<i8"), ("value", "<f8"), ("held_ms", "<i8")])

_AGGREGATES: dict[Aggregate, str] = {
    # value × ms over ms; kW × ms over 3,600,000 ms an hour
    "mean": "if(held_ms > 0, sum(v * piece_ms) / held_ms, nan)",
    "energy": "if(held_ms > 0, sum(v * piece_ms) / 3600000, nan)",
    "min": "if(countIf(own) > 0, minIf(v, own), nan)",
    "max": "if(countIf(own) > 0, maxIf(v, own), nan)",
    "first": "if(countIf(own) > 0, argMinIf(v, t, own), nan)",
    "last": "if(countIf(own) > 0, argMaxIf(v, t, own), nan)",
    "sum": "if(countIf(own) > 0, sumIf(v, own), nan)",
    "count": "if(countIf(own) > 0, toFloat64(countIf(own)), nan)",
    "delta": "if(countIf(own AND has_before) > 0, sumIf(rise, own AND has_before), nan)",
}

# Until when a reading speaks. A gauge's value holds until the next reading. A counter's tells of the time between two
# readings, so the last one of all tells of nothing after it.
_HOLDS_UNTIL = {
    "gauge": "least(if(has_next, next_t, window_end), t + max_gap)",
    "counter": "if(has_next, least(next_t, t + max_gap), t)",
}


def buckets(aggregate: Aggregate, behaviour: str) -> str:
    """The statement that gives each metric's buckets that have something to tell: `BUCKET_DTYPE` rows, in order.

    Parameters: `ids`; `edges` of the buckets (n + 1); `gaps`, `scales`, `offsets` (one a metric); and the readings next
    to the window as columns `near_ids`, `near_ts`, `near_values`: the last before it, and for counters the first after.

    How: each reading gets its neighbours (`lead`, `lag`). What it says lasts from its time until `stop`, cut into
    `pieces` at the edges of buckets. A piece counts its duration; the piece in the reading's own bucket (`own`) also
    counts the reading itself. No more pieces arise than there are readings and edges.
    """
    return f"""
WITH
    {{edges:Array(Int64)}} AS edges,
    arrayPopBack(edges) AS starts,
    edges[1] AS window_start,
    edges[-1] AS window_end
SELECT
    metric_id,
    bucket,
    {_AGGREGATES[aggregate]} AS aggregated,
    sum(piece_ms) AS held_ms
FROM (
    SELECT
        metric_id, t, v, rise, has_before,
        bucket,
        t >= window_start AND bucket = own_bucket AS own,
        if(bucket = last_bucket, stop, transform(bucket, starts, arrayPopFront(edges), window_end)) AS piece_end,
        greatest(0, piece_end - greatest(t, bucket)) AS piece_ms
    FROM (
        SELECT
            *,
            roundDown(t, starts) AS own_bucket,
            greatest(t, least({_HOLDS_UNTIL[behaviour]}, window_end)) AS stop,
            roundDown(greatest(t, stop - 1), starts) AS last_bucket,
            transform(own_bucket, starts, arrayEnumerate(starts), 0) AS first_piece,
            transform(last_bucket, starts, arrayEnumerate(starts), 0) AS last_piece,
            if(
                own_bucket = last_bucket, [own_bucket], arraySlice(starts, first_piece, last_piece - first_piece + 1)
            ) AS pieces
        FROM (
            SELECT
                metric_id, t, v,
                leadInFrame(t, 1, 0) OVER neighbours AS next_t,
                leadInFrame(true, 1, false) OVER neighbours AS has_next,
                lagInFrame(true, 1, false) OVER neighbours AS has_before,
                lagInFrame(v, 1, 0) OVER neighbours AS before_v,
                leadInFrame(v, 1, 0) OVER neighbours AS next_v,
                -- A reset: a fall to less than half from which the next reading does not come back. It counts from
                -- zero. Any other fall is a glitch: its difference stays, and its recovery cancels it.
                before_v > 0 AND v < before_v / 2 AND NOT (has_next AND next_v >= before_v) AS is_reset,
                if(is_reset, v, v - before_v) AS rise,
                transform(metric_id, {{ids:Array(UInt32)}}, {{gaps:Array(Int64)}}, 0) AS max_gap
            FROM (
                SELECT
                    metric_id,
                    t,
                    raw * transform(metric_id, {{ids:Array(UInt32)}}, {{scales:Array(Float64)}}, 1.)
                        + transform(metric_id, {{ids:Array(UInt32)}}, {{offsets:Array(Float64)}}, 0.) AS v
                FROM (
                    SELECT metric_id, toUnixTimestamp64Milli(ts) AS t, value AS raw
                    FROM readings FINAL
                    WHERE {_IN_WINDOW}
                    UNION ALL
                    SELECT near.1 AS metric_id, near.2 AS t, near.3 AS raw
                    FROM (SELECT arrayJoin(arrayZip(
                        {{near_ids:Array(UInt32)}}, {{near_ts:Array(Int64)}}, {{near_values:Array(Float64)}})) AS near)
                )
            )
            WINDOW neighbours AS (PARTITION BY metric_id ORDER BY t ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING)
        )
        WHERE t < window_end
    )
    ARRAY JOIN pieces AS bucket
)
GROUP BY metric_id, bucket
ORDER BY metric_id, bucket
{_FINAL}
"""
