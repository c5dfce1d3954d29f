"""The history on a ClickHouse cluster: what its servers are told. `test_store.py` runs on it, too."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from kilowatch.errors import Invalid
from kilowatch.history.cluster import Cluster
from kilowatch.history.copying import Contents
from kilowatch.history.engine import Engine
from kilowatch.history.migrations import MIGRATIONS, SCHEMA_TABLE
from kilowatch.history.statements import ERASE, ERASE_WINDOW, LAST_WRITTEN
from tests.clickhouse import ClickHouse
from tests.conftest import _unique, drop_history

FLEET = Cluster("fleet", "kilowatch")
TABLES = [statement for _, _, steps in MIGRATIONS for statement in steps if "CREATE TABLE" in statement]


@pytest.fixture
def engine(clickhouse: ClickHouse) -> Iterator[Engine]:
    url = f"{clickhouse.url}/{_unique('cluster')}?cluster=fleet"
    engine = Engine(url, connections=1, sync=True)
    yield engine
    engine.close()
    drop_history(url)


class TestATable:
    @pytest.mark.parametrize("statement", TABLES)
    def test_is_replicated_in_each_shard_and_spread_by_metric(self, statement: str) -> None:
        local, spread = FLEET.creating(statement.format(sync=1))
        assert "_local ON CLUSTER `fleet` (" in local
        assert "MergeTree('/clickhouse/tables/{shard}/kilowatch/" in local
        assert "_local', '{replica}'" in local
        assert "ENGINE = Replicated" in local
        assert "fsync_after_insert = 1" in local
        assert spread.rstrip().endswith("_local, metric_id)")
        assert "ON CLUSTER `fleet`" in spread
        assert "ENGINE = Distributed(`fleet`, 'kilowatch', " in spread

    def test_of_what_was_migrated_is_the_same_on_all_servers(self) -> None:
        (made,) = FLEET.creating(SCHEMA_TABLE)
        path = "'/clickhouse/tables/all/kilowatch/schema_migrations', '{shard}-{replica}'"
        assert "schema_migrations ON CLUSTER `fleet` (version" in made
        assert f"ReplicatedReplacingMergeTree({path}) ORDER BY version" in made

    def test_is_there_twice(self, engine: Engine) -> None:
        names = {name for (name,) in engine.lines("SHOW TABLES", {})}
        assert {"readings", "readings_local", "latest", "latest_local", "schema_migrations"} <= names


class TestAStatement:
    @pytest.mark.parametrize("statement", [ERASE, *ERASE_WINDOW[:2]])
    def test_that_changes_a_table_changes_that_of_every_server(self, statement: str) -> None:
        assert "_local ON CLUSTER `fleet`" in FLEET.changing(statement).strip().splitlines()[0]

    def test_that_makes_or_drops_what_is_not_replicated_does_so_on_every_server(self) -> None:
        told: list[str] = []
        contents = Contents(cast(Engine, SimpleNamespace(command=lambda sql, _: told.append(FLEET.changing(sql)))))
        contents.begin_restore()
        contents.end_restore()
        assert told == [
            "CREATE TABLE IF NOT EXISTS restore_under_way ON CLUSTER `fleet` (begun UInt8) ENGINE = Log",
            "DROP TABLE IF EXISTS restore_under_way ON CLUSTER `fleet`",
        ]

    def test_that_inserts_or_asks_is_for_the_whole(self) -> None:
        insert = ERASE_WINDOW[2]
        assert FLEET.changing(insert) == insert
        assert FLEET.asking(insert) == insert

    def test_that_asks_for_the_parts_on_the_disk_asks_all_servers(self, engine: Engine) -> None:
        asked = FLEET.asking(LAST_WRITTEN)
        assert "clusterAllReplicas(`fleet`, system.parts)" in asked
        assert "database = 'kilowatch' AND table = 'readings_local'" in asked
        assert engine.query(LAST_WRITTEN, {}, np.dtype("<i8")).tolist() == [999]  # there is none


def test_a_name_that_no_cluster_can_have_is_refused() -> None:
    with pytest.raises(Invalid, match=r"KILOWATCH_HISTORY_URL.*remote_servers"):
        Engine("clickhouse://user@127.0.0.1:1/kilowatch?cluster=`;drop", connections=1, sync=True)
