"""The history's SQL. Values reach it as bound parameters only; what is put in by name comes from this file's tables.

Times are ms since 1970 (`Int64`), results are read in the engine's RowBinary format into NumPy arrays of the dtypes
given here. NaN stands for "nothing", which no reading can be.
"""

import numpy as np

# Safe, since a reading's time decides its partition: equal (metric, time) never lie in two of them.
_FINAL = "SETTINGS do_not_merge_across_partitions_select_final = 1"

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
NEWEST_SINCE = """
SELECT metric_id, max((ts, received_at, value))
FROM readings
WHERE received_at > fromUnixTimestamp64Milli({since:Int64}, 'UTC')
GROUP BY metric_id
"""

# When readings were last written, by the clock of then: nothing received later may look older, or it would not win.
LAST_WRITTEN = """
SELECT toInt64(max(toUnixTimestamp(modification_time))) * 1000 + 999
FROM system.parts
WHERE database = currentDatabase() AND table = 'readings' AND active
"""

POINT_DTYPE = np.dtype([("metric_id", "<u4"), ("ts", "<i8"), ("value", "<f8")])

COUNT_DTYPE = np.dtype([("metric_id", "<u4"), ("readings", "<u8")])
COUNT_IN_WINDOW = f"SELECT metric_id, count() FROM readings WHERE {_IN_WINDOW} GROUP BY metric_id"

READINGS = f"""
SELECT metric_id, toUnixTimestamp64Milli(ts), value
FROM readings FINAL
WHERE {_IN_WINDOW}
ORDER BY metric_id, ts
{_FINAL}
"""

# How many rows the engine would look at: told by its index alone.
ESTIMATE = f"EXPLAIN ESTIMATE SELECT ts, value FROM readings WHERE {_IN_WINDOW}"

# Of one metric alone, and of columns as they are stored, it costs a third less than `READINGS`.
READINGS_OF_ONE = f"""
SELECT ts, value
FROM readings FINAL
WHERE metric_id = {{id:UInt32}}
    AND ts >= fromUnixTimestamp64Milli({{start:Int64}}, 'UTC') AND ts < fromUnixTimestamp64Milli({{end:Int64}}, 'UTC')
ORDER BY ts
LIMIT {{limit:UInt64}}
{_FINAL}
"""

READINGS_OF_SOME = f"""
SELECT metric_id, ts, value
FROM readings FINAL
WHERE {_IN_WINDOW}
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
ERASE = "ALTER TABLE readings DELETE WHERE metric_id IN {ids:Array(UInt32)} SETTINGS mutations_sync = 2"
ERASE_LATEST = "ALTER TABLE latest DELETE WHERE metric_id IN {ids:Array(UInt32)} SETTINGS mutations_sync = 2"
