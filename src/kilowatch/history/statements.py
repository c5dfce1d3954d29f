"""The history's SQL. Values reach it as bound parameters only; what is put in by name comes from this file's tables.

Times are ms since 1970 (`Int64`), results are read in the engine's RowBinary format into NumPy arrays of the dtypes
given here. NaN stands for "nothing", which no reading can be.
"""

import numpy as np

# Safe, since a reading's time decides its partition: equal (metric, time) never lie in two of them.
_FINAL = "SETTINGS do_not_merge_across_partitions_select_final = 1"


def _as_stored_and_final(statement: str) -> tuple[str, str]:
    return statement.replace(" FINAL", ""), statement + _FINAL


_IN_WINDOW = """metric_id IN {ids:Array(UInt32)}
    AND ts >= fromUnixTimestamp64Milli({start:Int64}, 'UTC') AND ts < fromUnixTimestamp64Milli({end:Int64}, 'UTC')"""

NEWEST = "SELECT metric_id, max(newest) FROM latest GROUP BY metric_id"
NEWEST_OF = """
SELECT metric_id, max(newest)
FROM latest
WHERE metric_id IN {ids:Array(UInt32)}
GROUP BY metric_id
ORDER BY metric_id
"""
# With a row of no metric, which has when the last of all was received (1970 if none was).
NEWEST_SINCE = """
SELECT metric_id, max((ts, received_at, value))
FROM readings
WHERE received_at > fromUnixTimestamp64Milli({since:Int64}, 'UTC')
GROUP BY metric_id
UNION ALL
SELECT 0, (max(received_at) AS last, last, 0.)
FROM readings
WHERE received_at > fromUnixTimestamp64Milli({since:Int64}, 'UTC')
"""

# When readings were last written, by the clock of then: nothing received later may look older, or it would not win.
LAST_WRITTEN = """
SELECT toInt64(max(toUnixTimestamp(modification_time))) * 1000 + 999
FROM system.parts
WHERE database = currentDatabase() AND table = 'readings' AND active
"""

# Not `FINAL`, which costs fifty times as much: what is there of a reading that was replaced did arrive, too. A server's
# client may send an insert again whose answer was lost: that is one arrival (and with `LIMIT 1 BY` the engine looks at
# `received_at` first, and at little else).
ARRIVALS = """
SELECT metric_id, toUnixTimestamp64Milli(ts), value, toUnixTimestamp64Milli(received_at)
FROM readings
WHERE metric_id IN {ids:Array(UInt32)}
    AND received_at >= fromUnixTimestamp64Milli({received_at:Int64}, 'UTC')
    AND received_at <= fromUnixTimestamp64Milli({until:Int64}, 'UTC')
    AND (toUnixTimestamp64Milli(received_at), metric_id, toUnixTimestamp64Milli(ts))
        > ({received_at:Int64}, {metric_id:UInt32}, {ts:Int64})
ORDER BY received_at, metric_id, ts
LIMIT 1 BY received_at, metric_id, ts
LIMIT {limit:UInt64}
"""

POINT_DTYPE = np.dtype([("metric_id", "<u4"), ("ts", "<i8"), ("value", "<f8")])

COUNT_IN_WINDOW = f"SELECT count() FROM readings WHERE {_IN_WINDOW}"

# How many rows the engine would look at: told by its index alone.
ESTIMATE = f"EXPLAIN ESTIMATE SELECT ts, value FROM readings WHERE {_IN_WINDOW}"

# Each twice: as stored, replaced rows included, and with these left out. Of one metric alone, and of columns as they
# are stored, it costs a third less than of any number of metrics.
READINGS_OF_ONE = _as_stored_and_final("""
SELECT ts, value
FROM readings FINAL
WHERE metric_id = {id:UInt32}
    AND ts >= fromUnixTimestamp64Milli({start:Int64}, 'UTC') AND ts < fromUnixTimestamp64Milli({end:Int64}, 'UTC')
ORDER BY ts
LIMIT {limit:UInt64}
""")
READINGS_OF_SOME = _as_stored_and_final(f"""
SELECT metric_id, ts, value
FROM readings FINAL
WHERE {_IN_WINDOW}
ORDER BY metric_id, ts
LIMIT {{limit:UInt64}}
""")

# The median of the times between the readings that follow each other, where there are three at least.
USUAL_INTERVALS = f"""
SELECT
    metric_id,
    toInt64(arrayReduce('medianExact', arrayMap((a, b) -> b - a, arrayPopBack(times), arrayPopFront(times))))
FROM (
    SELECT metric_id, arraySort(groupUniqArray(toUnixTimestamp64Milli(ts))) AS times
    FROM readings
    WHERE {_IN_WINDOW}
    GROUP BY metric_id
)
WHERE length(times) > 2
"""
USUAL_DTYPE = np.dtype([("metric_id", "<u4"), ("interval_ms", "<i8")])

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
ERASE = "ALTER TABLE readings DELETE WHERE metric_id IN {ids:Array(UInt32)} SETTINGS mutations_sync = 2"
ERASE_LATEST = "ALTER TABLE latest DELETE WHERE metric_id IN {ids:Array(UInt32)} SETTINGS mutations_sync = 2"

# ── corrections ──────────────────────────────────────────────────────────────────────────────────────────────────────

STORED_DTYPE = np.dtype([("readings", "<u8"), ("received_until", "<i8")])
STORED_IN_WINDOW = f"""
SELECT count(), toUnixTimestamp64Milli(max(received_at))
FROM readings FINAL
WHERE {_IN_WINDOW}
{_FINAL}
"""

READINGS_AT = f"""
SELECT metric_id, toUnixTimestamp64Milli(ts), value
FROM readings FINAL
WHERE (metric_id, ts) IN (
    SELECT pair.1, fromUnixTimestamp64Milli(pair.2, 'UTC')
    FROM (SELECT arrayJoin(arrayZip({{ids:Array(UInt32)}}, {{times:Array(Int64)}})) AS pair)
)
ORDER BY metric_id, ts
{_FINAL}
"""

_RECEIVED_BY_THEN = "received_at <= fromUnixTimestamp64Milli({received_until:Int64}, 'UTC')"

# A row of `latest` goes if the reading that it stands for does. It may have absorbed an older one that stays, so what
# is the newest then is put in anew. What arrives meanwhile was received later: its rows stay in both tables.
ERASE_WINDOW = (
    f"ALTER TABLE readings DELETE WHERE {_IN_WINDOW} AND {_RECEIVED_BY_THEN} SETTINGS mutations_sync = 2",
    """
    ALTER TABLE latest DELETE
    WHERE metric_id IN {ids:Array(UInt32)}
        AND newest.1 >= fromUnixTimestamp64Milli({start:Int64}, 'UTC')
        AND newest.1 < fromUnixTimestamp64Milli({end:Int64}, 'UTC')
        AND newest.2 <= fromUnixTimestamp64Milli({received_until:Int64}, 'UTC')
    SETTINGS mutations_sync = 2
    """,
    """
    INSERT INTO latest
    SELECT metric_id, max((ts, received_at, value)) AS newest
    FROM readings
    WHERE metric_id IN {ids:Array(UInt32)}
    GROUP BY metric_id
    """,
)
NEWEST_STORED = """
SELECT metric_id, max((ts, received_at, value))
FROM readings
WHERE metric_id IN {ids:Array(UInt32)}
GROUP BY metric_id
"""

# ── what they are counted as ─────────────────────────────────────────────────────────────────────────────────────────

_KINDS = {
    "latest": (NEWEST, NEWEST_OF, NEWEST_SINCE, NEWEST_STORED),
    "arrivals": (ARRIVALS,),
    "readings": (*READINGS_OF_ONE, *READINGS_OF_SOME),
    "edges": (LAST_BEFORE, FIRST_FROM),
    "intervals": (USUAL_INTERVALS,),
    "count": (COUNT, COUNT_IN_WINDOW, ESTIMATE, STORED_IN_WINDOW),
    "compare": (READINGS_AT,),
    "erase": (ERASE, ERASE_LATEST, *ERASE_WINDOW),
}
_KIND_OF = {statement: kind for kind, statements in _KINDS.items() for statement in statements}


def kind_of(statement: str) -> str:
    """What a statement asks, in a word; `other` for what is asked seldom."""
    return _KIND_OF.get(statement, "other")
