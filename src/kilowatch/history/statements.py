"""The history's SQL. Values reach it as bound parameters only; what is put in by name comes from this file's tables.

Times are ms since 1970 (`Int64`), results are read in the engine's RowBinary format into NumPy arrays of the dtypes
given here. NaN stands for "nothing", which no reading can be.
"""

import numpy as np

from kilowatch.history.packing import COLUMNS


def _as_stored_and_final(statement: str) -> tuple[str, str]:
    return statement.replace(" FINAL", ""), statement


_WHOLE = ("first_ts", "last_ts", "count", "held_ms", "integral_off", "rises_off")

_IN_WINDOW = """metric_id IN {ids:Array(UInt32)}
    AND ts >= fromUnixTimestamp64Milli({start:Int64}, 'UTC') AND ts < fromUnixTimestamp64Milli({end:Int64}, 'UTC')"""

# Quarters that begin in the window, or that it begins in; the rows that say that a quarter was taken back are left out.
_FOLDED_IN_WINDOW = """metric_id IN {ids:Array(UInt32)} AND count > 0
    AND begins >= toStartOfFifteenMinutes(fromUnixTimestamp64Milli({start:Int64}, 'UTC'))
    AND begins < fromUnixTimestamp64Milli({end:Int64}, 'UTC')"""

# A reading lies in the quarter of an hour that this names.
_QUARTER = "toDateTime64(toStartOfFifteenMinutes(ts), 3, 'UTC')"

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
    FROM (
        SELECT metric_id, ts FROM readings WHERE {_IN_WINDOW}
        UNION ALL
        SELECT metric_id, arrayJoin([first_ts, last_ts]) AS ts FROM quarters FINAL WHERE {_FOLDED_IN_WINDOW}
    )
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

# The same of what was folded. Both tables are looked at only where readings of the metrics may have been.
LAST_FOLDED_BEFORE = f"""
SELECT metric_id, toUnixTimestamp64Milli(max(last_ts)), argMax(last, last_ts)
FROM quarters FINAL
WHERE {_FOLDED_IN_WINDOW}
GROUP BY metric_id
"""

FIRST_FOLDED_FROM = f"""
SELECT metric_id, toUnixTimestamp64Milli(min(first_ts)), argMin(first, first_ts)
FROM quarters FINAL
WHERE {_FOLDED_IN_WINDOW}
GROUP BY metric_id
"""

COUNT = "SELECT count() FROM readings FINAL WHERE metric_id IN {ids:Array(UInt32)}"

# Unlike a lightweight delete, this leaves no copy of the rows on the disk.
ERASE = "ALTER TABLE readings DELETE WHERE metric_id IN {ids:Array(UInt32)}"
ERASE_LATEST = "ALTER TABLE latest DELETE WHERE metric_id IN {ids:Array(UInt32)}"

# ── corrections ──────────────────────────────────────────────────────────────────────────────────────────────────────

STORED_DTYPE = np.dtype([("readings", "<u8"), ("received_until", "<i8")])
STORED_IN_WINDOW = f"""
SELECT count(), toUnixTimestamp64Milli(max(received_at))
FROM readings FINAL
WHERE {_IN_WINDOW}
    AND (metric_id, {_QUARTER}) NOT IN (
        SELECT metric_id, begins
        FROM quarters FINAL
        WHERE {_FOLDED_IN_WINDOW}
    )
"""

READINGS_AT = """
SELECT metric_id, toUnixTimestamp64Milli(ts), value
FROM readings FINAL
WHERE (metric_id, ts) IN (
    SELECT pair.1, fromUnixTimestamp64Milli(pair.2, 'UTC')
    FROM (SELECT arrayJoin(arrayZip({ids:Array(UInt32)}, {times:Array(Int64)})) AS pair)
)
ORDER BY metric_id, ts
"""

_RECEIVED_BY_THEN = "received_at <= fromUnixTimestamp64Milli({received_until:Int64}, 'UTC')"

# What is the newest of a metric may be kept of a quarter alone.
_NEWEST_STORED = """
SELECT metric_id, max(newest) AS newest
FROM (
    SELECT metric_id, max((ts, received_at, value)) AS newest
    FROM readings
    WHERE metric_id IN {ids:Array(UInt32)}
    GROUP BY metric_id
    UNION ALL
    SELECT metric_id, max((last_ts, received_until, last)) AS newest
    FROM quarters FINAL
    WHERE metric_id IN {ids:Array(UInt32)} AND count > 0
    GROUP BY metric_id
)
GROUP BY metric_id
"""

# A row of `latest` goes if the reading that it stands for does. It may have absorbed an older one that stays, so what
# is the newest then is put in anew. What arrives meanwhile was received later: its rows stay in both tables.
ERASE_WINDOW = (
    f"ALTER TABLE readings DELETE WHERE {_IN_WINDOW} AND {_RECEIVED_BY_THEN}",
    """
    ALTER TABLE latest DELETE
    WHERE metric_id IN {ids:Array(UInt32)}
        AND newest.1 >= fromUnixTimestamp64Milli({start:Int64}, 'UTC')
        AND newest.1 < fromUnixTimestamp64Milli({end:Int64}, 'UTC')
        AND newest.2 <= fromUnixTimestamp64Milli({received_until:Int64}, 'UTC')
    """,
    f"INSERT INTO latest {_NEWEST_STORED}",
)
NEWEST_STORED = _NEWEST_STORED

# ── folded readings ──────────────────────────────────────────────────────────────────────────────────────────────────

QUARTER_COLUMNS = ("metric_id", "begins", *COLUMNS, "received_until", "made_at")
DAY_COLUMNS = ("metric_id", "begins", "ends", "max_gap_ms", *COLUMNS, "received_until", "made_at")

QUARTERS = (
    f"SELECT metric_id, {', '.join(COLUMNS)} FROM quarters FINAL WHERE {_FOLDED_IN_WINDOW} ORDER BY metric_id, begins"
)
DAY_DTYPES = tuple(map(np.dtype, ("<u4", "<i8", "<i8", "<i8")))
CELL_DTYPES = tuple(np.dtype("<i8") if name in _WHOLE else np.dtype("<f8") for name in COLUMNS)

# Days that lie in the window: they begin before its end, which tells the engine where to look. Those that were taken
# back have no readings.
DAYS = f"""
SELECT metric_id, toUnixTimestamp64Milli(begins), toUnixTimestamp64Milli(ends), max_gap_ms, {", ".join(COLUMNS)}
FROM days FINAL
WHERE metric_id IN {{ids:Array(UInt32)}} AND count > 0
    AND begins >= fromUnixTimestamp64Milli({{start:Int64}}, 'UTC')
    AND begins < fromUnixTimestamp64Milli({{end:Int64}}, 'UTC')
    AND ends <= fromUnixTimestamp64Milli({{end:Int64}}, 'UTC')
ORDER BY metric_id, begins
"""

# Which days are stored of those that have something of the window, and what they were made with.
STORED_DAYS = """
SELECT metric_id, toUnixTimestamp64Milli(begins), toUnixTimestamp64Milli(ends), max_gap_ms
FROM days FINAL
WHERE metric_id IN {ids:Array(UInt32)} AND count > 0
    AND begins < fromUnixTimestamp64Milli({end:Int64}, 'UTC')
    AND ends > fromUnixTimestamp64Milli({start:Int64}, 'UTC')
ORDER BY metric_id, begins
"""
STORED_DAY_DTYPE = np.dtype([("metric_id", "<u4"), ("begins", "<i8"), ("ends", "<i8"), ("max_gap_ms", "<i8")])

# Where there are readings as such.
RAW_QUARTERS = f"""
SELECT metric_id, toUnixTimestamp64Milli({_QUARTER}) AS begins
FROM readings
WHERE {_IN_WINDOW}
GROUP BY metric_id, begins
ORDER BY metric_id, begins
LIMIT {{limit:UInt64}}
"""
# The readings that are kept of them: the first and the last of each.
KEPT = f"""
SELECT metric_id, toUnixTimestamp64Milli(first_ts), first, toUnixTimestamp64Milli(last_ts), last
FROM quarters FINAL
WHERE {_FOLDED_IN_WINDOW}
ORDER BY metric_id, begins
LIMIT {{limit:UInt64}}
"""
KEPT_DTYPE = np.dtype(
    [("metric_id", "<u4"), ("first_ts", "<i8"), ("first", "<f8"), ("last_ts", "<i8"), ("last", "<f8")]
)

BEGINS = f"""
SELECT metric_id, toUnixTimestamp64Milli(begins)
FROM quarters FINAL
WHERE {_FOLDED_IN_WINDOW}
ORDER BY metric_id, begins
"""
BEGINS_DTYPE = np.dtype([("metric_id", "<u4"), ("begins", "<i8")])

BEGINS_AT = """
SELECT metric_id, toUnixTimestamp64Milli(begins)
FROM quarters FINAL
WHERE (metric_id, begins) IN (
    SELECT pair.1, fromUnixTimestamp64Milli(pair.2, 'UTC')
    FROM (SELECT arrayJoin(arrayZip({ids:Array(UInt32)}, {times:Array(Int64)})) AS pair)
) AND count > 0
ORDER BY metric_id, begins
"""

FOLDED_UNTIL = f"""
SELECT metric_id, toUnixTimestamp64Milli(max(begins)) + 900000
FROM quarters FINAL
WHERE {_FOLDED_IN_WINDOW}
GROUP BY metric_id
ORDER BY metric_id
"""

EXTENTS = """
SELECT metric_id, toUnixTimestamp64Milli(min(begins))
FROM quarters
WHERE metric_id IN {ids:Array(UInt32)}
GROUP BY metric_id
ORDER BY metric_id
SETTINGS max_threads = 1
"""

# When something was last decided.
MADE_UNTIL = """
SELECT toUnixTimestamp64Milli(max(made_at))
FROM (SELECT made_at FROM quarters UNION ALL SELECT made_at FROM days)
"""

COUNT_FOLDED = f"SELECT count() FROM quarters WHERE {_FOLDED_IN_WINDOW}"
ESTIMATE_FOLDED = f"EXPLAIN ESTIMATE SELECT first, last FROM quarters WHERE {_FOLDED_IN_WINDOW}"

# All readings that these metrics' quarters stand for, and the end of the last of them.
FOLDED = """
SELECT toUInt64(sum(count)), toUnixTimestamp64Milli(max(begins)) + 900000
FROM quarters FINAL
WHERE metric_id IN {ids:Array(UInt32)} AND count > 0
"""
FOLDED_DTYPE = np.dtype([("readings", "<u8"), ("until", "<i8")])

# Folded quarters of metrics by as few names as they need, as a set of all of them takes some 100 bytes each: one for 64
# that follow each other from a multiple of 64 on, one for 8 likewise, and one for each that is left. A quarter's number
# is that since 1970, and takes 24 bits until 2448. `there` has a bit for each of 64. (The embedded engine's build has
# nothing that shifts bits.)
_EIGHT, _SIXTY_FOUR = 1 << 24, 1 << 25
_NAMED = f"""
SELECT
    metric_id,
    arrayFilter(part -> bitAnd(intDiv(there, toUInt64(exp2(8 * part))), 255) = 255, range(8)) AS eights,
    if(
        bitCount(there) = 64,
        [sixty_four + {_SIXTY_FOUR}],
        arrayConcat(
            arrayMap(part -> 8 * sixty_four + part + {_EIGHT}, eights),
            arrayMap(
                one -> 64 * sixty_four + one,
                arrayFilter(one -> bitTest(there, one) AND NOT has(eights, intDiv(one, 8)), range(64))
            )
        )
    ) AS names
FROM (
    SELECT metric_id, intDiv(number, 64) AS sixty_four, sum(toUInt64(exp2(modulo(number, 64)))) AS there
    FROM (
        SELECT metric_id, toUInt64(intDiv(toUnixTimestamp64Milli(begins), 900000)) AS number
        FROM quarters FINAL
        WHERE %s AND count > 0 AND made_at <= fromUnixTimestamp64Milli({{made_until:Int64}}, 'UTC')
            AND begins >= fromUnixTimestamp64Milli({{start:Int64}}, 'UTC')
            AND begins < fromUnixTimestamp64Milli({{end:Int64}}, 'UTC')
    )
    GROUP BY metric_id, sixty_four
)
"""
_OF_SOME = "metric_id IN {ids:Array(UInt32)}"
_OF_A_RANGE = "metric_id >= {first:UInt32} AND metric_id <= {last:UInt32}"

# How many names each metric's quarters need.
NAMES = (
    f"SELECT metric_id, toUInt64(sum(length(names))) FROM ({_NAMED % _OF_SOME}) GROUP BY metric_id ORDER BY metric_id"
)
NAMES_DTYPE = np.dtype([("metric_id", "<u4"), ("names", "<u8")])


def _hidden(whose: str) -> str:
    """Which readings are in their table though their quarters are folded: they are still to be deleted."""
    of_metric = "toUInt64(metric_id) * 4294967296"
    named = f"(SELECT {of_metric} + arrayJoin(names) FROM ({_NAMED % whose}))"
    number = "intDiv(toUnixTimestamp64Milli(ts), 900000)"
    return f"""{whose}
    AND ts >= fromUnixTimestamp64Milli({{start:Int64}}, 'UTC') AND ts < fromUnixTimestamp64Milli({{end:Int64}}, 'UTC')
    AND (
        {of_metric} + toUInt64(intDiv({number}, 64)) + {_SIXTY_FOUR} IN {named}
        OR {of_metric} + toUInt64(intDiv({number}, 8)) + {_EIGHT} IN {named}
        OR {of_metric} + toUInt64({number}) IN {named}
    )"""


COUNT_HIDDEN = f"SELECT count() FROM readings FINAL WHERE {_hidden(_OF_SOME)}"

ANY_FOLDED = "SELECT metric_id FROM quarters WHERE metric_id IN {ids:Array(UInt32)} AND count > 0 LIMIT 1"

FOLDED_IN_WINDOW = f"""
SELECT toUInt64(sum(count)), toUnixTimestamp64Milli(max(received_until))
FROM quarters FINAL
WHERE {_FOLDED_IN_WINDOW}
"""

# No day has more than 26 hours.
ERASE_FOLDED_WINDOW = (
    """
    ALTER TABLE days DELETE
    WHERE metric_id IN {ids:Array(UInt32)}
        AND begins > fromUnixTimestamp64Milli({start:Int64} - 93600000, 'UTC')
        AND begins < fromUnixTimestamp64Milli({end:Int64}, 'UTC')
        AND ends > fromUnixTimestamp64Milli({start:Int64}, 'UTC')
    """,
    """
    ALTER TABLE quarters DELETE
    WHERE metric_id IN {ids:Array(UInt32)}
        AND begins >= fromUnixTimestamp64Milli({start:Int64}, 'UTC')
        AND begins <= fromUnixTimestamp64Milli({end:Int64} - 900000, 'UTC')
        AND received_until <= fromUnixTimestamp64Milli({received_until:Int64}, 'UTC')
    """,
)
ERASE_FOLDED = (
    "ALTER TABLE days DELETE WHERE metric_id IN {ids:Array(UInt32)}",
    "ALTER TABLE quarters DELETE WHERE metric_id IN {ids:Array(UInt32)}",
)

# ── folding ──────────────────────────────────────────────────────────────────────────────────────────────────────────

# What there is of readings before a border, by metric: whether it is the same as when it was looked at last.
OLD = """
SELECT metric_id, count(), toUnixTimestamp64Milli(max(received_at))
FROM readings
WHERE metric_id IN {ids:Array(UInt32)} AND ts < fromUnixTimestamp64Milli({until:Int64}, 'UTC')
GROUP BY metric_id
ORDER BY metric_id
SETTINGS max_threads = 1
"""
OLD_DTYPE = np.dtype([("metric_id", "<u4"), ("readings", "<u8"), ("received_until", "<i8")])

# The same by quarter of an hour, and what is folded of each already.
OLD_QUARTERS = f"""
SELECT
    metric_id, toUnixTimestamp64Milli({_QUARTER}) AS quarter, count(), toUnixTimestamp64Milli(max(received_at))
FROM readings
WHERE metric_id IN {{ids:Array(UInt32)}} AND ts < fromUnixTimestamp64Milli({{until:Int64}}, 'UTC')
GROUP BY metric_id, quarter
ORDER BY metric_id, quarter
SETTINGS max_threads = 1
"""
FOLDED_QUARTERS = f"""
SELECT metric_id, toUnixTimestamp64Milli(begins) AS quarter, toUInt64(count), toUnixTimestamp64Milli(received_until)
FROM quarters FINAL
WHERE count > 0 AND (metric_id, begins) IN (
    SELECT DISTINCT metric_id, {_QUARTER}
    FROM readings
    WHERE metric_id IN {{ids:Array(UInt32)}} AND ts < fromUnixTimestamp64Milli({{until:Int64}}, 'UTC')
)
ORDER BY metric_id, quarter
"""
OLD_QUARTER_DTYPE = np.dtype([("metric_id", "<u4"), ("begins", "<i8"), ("readings", "<u8"), ("received_until", "<i8")])

OLD_MONTHS = f"""
SELECT
    toUInt32(toYYYYMM(ts)) AS month,
    toUnixTimestamp64Milli(min({_QUARTER})), toUnixTimestamp64Milli(max({_QUARTER}))
FROM readings
WHERE metric_id IN {{ids:Array(UInt32)}} AND ts < fromUnixTimestamp64Milli({{until:Int64}}, 'UTC')
GROUP BY month
ORDER BY month
SETTINGS max_threads = 1
"""
OLD_MONTH_DTYPE = np.dtype([("month", "<u4"), ("first", "<i8"), ("last", "<i8")])

# Only what surely has a quarter goes: what arrives meanwhile for another one stays.
HIDDEN_ROWS = f"SELECT count() FROM readings WHERE {_hidden(_OF_A_RANGE)}"
DELETE_HIDDEN = f"ALTER TABLE readings DELETE WHERE {_hidden(_OF_A_RANGE)}"

# Whether quarters were folded, or changed, later than a moment.
MADE_SINCE = f"""
SELECT count()
FROM quarters
WHERE {_FOLDED_IN_WINDOW} AND made_at > fromUnixTimestamp64Milli({{made_until:Int64}}, 'UTC')
"""

UNFINISHED = """
SELECT count()
FROM system.mutations
WHERE database = currentDatabase() AND table = 'readings' AND NOT is_done
"""

# ── deletions ────────────────────────────────────────────────────────────────────────────────────────────────────────

# Always true. By it a deletion is found among those that are under way.
MARKED = " AND {mark:String} != '' SETTINGS mutations_sync = 0"

# Of all servers: how many there are, how many deletions with this mark they have, and of how many are done; and why one
# fails.
PROGRESS = """
SELECT
    (SELECT count() FROM system.one), count(), countIf(is_done), anyIf(latest_fail_reason, latest_fail_reason != '')
FROM system.mutations
WHERE position(command, {mark:String}) > 0
"""

# ── what they are counted as ─────────────────────────────────────────────────────────────────────────────────────────

_KINDS = {
    "latest": (NEWEST, NEWEST_OF, NEWEST_SINCE, NEWEST_STORED),
    "arrivals": (ARRIVALS,),
    "readings": (*READINGS_OF_ONE, *READINGS_OF_SOME),
    "edges": (LAST_BEFORE, FIRST_FROM, LAST_FOLDED_BEFORE, FIRST_FOLDED_FROM),
    "folded": (QUARTERS, DAYS, RAW_QUARTERS, KEPT, BEGINS, BEGINS_AT, FOLDED_UNTIL),
    "folding": (
        OLD,
        OLD_QUARTERS,
        FOLDED_QUARTERS,
        OLD_MONTHS,
        UNFINISHED,
        NAMES,
        HIDDEN_ROWS,
        DELETE_HIDDEN,
        MADE_SINCE,
        STORED_DAYS,
        EXTENTS,
        MADE_UNTIL,
    ),
    "intervals": (USUAL_INTERVALS,),
    "count": (COUNT, COUNT_IN_WINDOW, ESTIMATE, STORED_IN_WINDOW, COUNT_FOLDED, ESTIMATE_FOLDED, COUNT_HIDDEN),
    "compare": (READINGS_AT,),
    "erase": (ERASE, ERASE_LATEST, *ERASE_WINDOW, *ERASE_FOLDED, *ERASE_FOLDED_WINDOW),
}
_KIND_OF = {statement: kind for kind, statements in _KINDS.items() for statement in statements}


def kind_of(statement: str) -> str:
    """What a statement asks, in a word; `other` for what is asked seldom."""
    return _KIND_OF.get(statement, "other")
