"""The history's tables, as numbered steps. A step that was released is never changed: a new one is added.

Every statement may run twice (`IF NOT EXISTS`), so two processes that start at once, or a start that was cut off
half-way, do no harm. `{sync}` is 1 when readings are to be written through to the disk.
"""

Step = tuple[int, str, tuple[str, ...]]
"""Its number, what it brings, its statements."""

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
)

SCHEMA_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (version UInt32, applied_at DateTime64(3, 'UTC') DEFAULT now64(3))
ENGINE = ReplacingMergeTree ORDER BY version
"""
