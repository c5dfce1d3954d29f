"""The history's tables spread over a ClickHouse cluster: the same statements, in the words of a cluster.

Each table is two: one on every server (`readings_local`), replicated within its shard, and one of the plain name, which
spreads what is inserted over the shards by metric and asks all of them. Only what makes and changes tables says so.
"""

import re
from dataclasses import dataclass

from kilowatch.errors import Invalid

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,100}")
_CREATED = re.compile(
    r"\s*CREATE TABLE IF NOT EXISTS (?P<name>\w+) (?P<columns>\(.*\))\s*"
    r"ENGINE = (?P<engine>\w+MergeTree)(?:\((?P<arguments>[^)]*)\))?(?P<rest>.*)",
    re.DOTALL,
)
_ALTERED = re.compile(r"\s*ALTER TABLE \w+")
_OF_EACH_SERVER = re.compile(r"\s*(?:CREATE TABLE IF NOT EXISTS|DROP TABLE IF EXISTS) \w+")
_SHARDED = re.compile(r"\b(readings|latest|quarters|days)\b")
_OF_A_SERVER = re.compile(r"\bsystem\.(?:parts|mutations|one)\b")
_SHARD = "metric_id"

SETTINGS = {
    "distributed_foreground_insert": 1,  # an answer means that the shards have it, not that it waits to be sent
    # All processes read and write the same replica of a shard while it is there, so that what was written is read.
    "load_balancing": "in_order",
    "prefer_localhost_replica": 0,
    # Rows that come again replace themselves. What was deleted and comes again must not be taken for a repetition.
    "insert_deduplicate": 0,
    # A server that is away gets what changes tables when it is back; a deletion says so after a while.
    "distributed_ddl_task_timeout": 20,
    "distributed_product_mode": "local",  # a subquery asks for the same metrics, which lie in the same shard
    # Raw readings go that a cell stands for, which lies in the same shard. A replica that has not got the cell yet
    # leaves them until the next time.
    "allow_nondeterministic_mutations": 1,
}


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster by its name in the servers' configuration (`remote_servers`), and the database there."""

    name: str
    database: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise Invalid(
                f"KILOWATCH_HISTORY_URL: {self.name!r} can't be a cluster's name; give the one that the servers' "
                "`remote_servers` has."
            )

    @property
    def everywhere(self) -> str:
        return f"ON CLUSTER `{self.name}`"

    def creating(self, statement: str) -> tuple[str, ...]:
        """What makes here what the statement makes on a single server."""
        table = _CREATED.match(statement)
        if table is None:
            return (self.changing(statement),)
        is_sharded = _SHARD in table["columns"]
        local = f"{table['name']}_local" if is_sharded else table["name"]
        # Where the replicas of a table find each other. With names and not a number, so that a server that is added
        # later finds the others, too.
        path, replica = ("{shard}", "{replica}") if is_sharded else ("all", "{shard}-{replica}")
        arguments = [f"'/clickhouse/tables/{path}/{self.database}/{local}'", f"'{replica}'"]
        if table["arguments"]:
            arguments.append(table["arguments"])
        made = (
            f"CREATE TABLE IF NOT EXISTS {local} {self.everywhere} {table['columns']}\n"
            f"ENGINE = Replicated{table['engine']}({', '.join(arguments)}){table['rest']}"
        )
        if not is_sharded:
            return (made,)
        return made, (
            f"CREATE TABLE IF NOT EXISTS {table['name']} {self.everywhere} AS {local}\n"
            f"ENGINE = Distributed(`{self.name}`, '{self.database}', {local}, {_SHARD})"
        )

    def changing(self, statement: str) -> str:
        """A statement that changes a table, for the tables that every server has; one that makes or drops a table which
        is not replicated, on every server. Others stay as they are."""
        if _OF_EACH_SERVER.match(statement):
            return _OF_EACH_SERVER.sub(lambda head: f"{head[0]} {self.everywhere}", statement, count=1)
        if not _ALTERED.match(statement):
            return statement
        local = _SHARDED.sub(r"\1_local", statement)
        return _ALTERED.sub(lambda head: f"{head[0]} {self.everywhere}", local, count=1)

    def asking(self, statement: str) -> str:
        """A statement that asks for a server's own tables, of all servers. Others stay as they are."""
        if not _OF_A_SERVER.search(statement):
            return statement
        return (
            _OF_A_SERVER.sub(lambda of: f"clusterAllReplicas(`{self.name}`, {of[0]})", statement)
            .replace("currentDatabase()", f"'{self.database}'")
            .replace("table = 'readings'", "table = 'readings_local'")
            + " SETTINGS skip_unavailable_shards = 1"
        )
