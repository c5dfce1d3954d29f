"""The history's tables, as numbered steps. A step that was released is never changed: a new one is added.

Every statement may run twice (`IF NOT EXISTS`), so two processes that start at once, or a start that was cut off
half-way, do no harm. `{sync}` is 1 when readings are to be written through to the disk.
"""

Step = tuple[int, str, tuple[str, ...]]
"""Its number, what it brings, its statements."""

_OF_A_CELL = """
    first_ts DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    last_ts DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    first Float64 CODEC(ZSTD(1)),
    second Float64 CODEC(ZSTD(1)),
    last_but_one Float64 CODEC(ZSTD(1)),
    last Float64 CODEC(ZSTD(1)),
    minimum Float64 CODEC(ZSTD(1)),
    maximum Float64 CODEC(ZSTD(1)),
    total Float64 CODEC(ZSTD(1)),
    count Int64 CODEC(ZSTD(1)),
    held_ms Int64 CODEC(ZSTD(1)),
    integral_off Int64 CODEC(ZSTD(1)),
    positive Float64 CODEC(ZSTD(1)),
    negative Float64 CODEC(ZSTD(1)),
    rises_off Int64 CODEC(ZSTD(1)),
    received_until DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    made_at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1))
"""

MIGRATIONS: tuple[Step, ...] = (
    (
        1,
        "readings, and the latest of each metric",
        (
            # Measured values are rounded, which LZ4 finds and Gorilla hides: half the size, and less to pay.
            # `received_at` decides between readings of the same metric and time: the last received wins.
            """
            CREATE TABLE IF NOT EXISTS readings (
                metric_id UInt32,
                ts DateTime64(3, 'UTC') CODEC(DoubleDelta, LZ4),
                value Float64 CODEC(LZ4),
                received_at DateTime64(3, 'UTC') CODEC(DoubleDelta, LZ4)
            )
            ENGINE = ReplacingMergeTree(received_at)
            PARTITION BY toYYYYMM(ts)
            ORDER BY (metric_id, ts)
            SETTINGS fsync_after_insert = {sync}, fsync_part_directory = {sync}
            """,
            # The newest reading of each metric, however long its history: what a start, or another process, reads.
            # Of tuples the engine takes the greatest by time, then by when it was received.
            """
            CREATE TABLE IF NOT EXISTS latest (
                metric_id UInt32,
                newest SimpleAggregateFunction(max, Tuple(DateTime64(3, 'UTC'), DateTime64(3, 'UTC'), Float64))
            )
            ENGINE = AggregatingMergeTree
            ORDER BY metric_id
            SETTINGS fsync_after_insert = {sync}, fsync_part_directory = {sync}
            """,
        ),
    ),
    (
        2,
        "readings of old, folded into quarters of an hour and days",
        (
            # What `packed` makes of `Cells`. The last made of a quarter counts; one of no readings takes it back.
            f"""
            CREATE TABLE IF NOT EXISTS quarters (
                metric_id UInt32,
                begins DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
                {_OF_A_CELL}
            )
            ENGINE = ReplacingMergeTree(made_at)
            PARTITION BY toYear(begins)
            ORDER BY (metric_id, begins)
            SETTINGS fsync_after_insert = {{sync}}, fsync_part_directory = {{sync}}
            """,
            # The same of whole days of the site's time zone; `max_gap_ms` (-1 for none) is what they were made with.
            f"""
            CREATE TABLE IF NOT EXISTS days (
                metric_id UInt32,
                begins DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
                ends DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
                max_gap_ms Int64 CODEC(ZSTD(1)),
                {_OF_A_CELL}
            )
            ENGINE = ReplacingMergeTree(made_at)
            PARTITION BY toYear(begins)
            ORDER BY (metric_id, begins)
            SETTINGS fsync_after_insert = {{sync}}, fsync_part_directory = {{sync}}
            """,
        ),
    ),
)

SCHEMA_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (version UInt32, applied_at DateTime64(3, 'UTC') DEFAULT now64(3))
ENGINE = ReplacingMergeTree ORDER BY version
"""
