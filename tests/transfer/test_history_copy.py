"""One history into another: all of it, once, whatever cuts it off; and nothing there is lost."""

import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilowatch.auth.model import OPERATOR
from kilowatch.errors import Invalid, Unavailable
from kilowatch.history.copying import Contents, Kept, Sum, Table, added
from kilowatch.history.model import Place
from kilowatch.history.store import HistoryStore
from kilowatch.services import Kilowatch
from kilowatch.transfer.histories import copy, plan_copy
from tests.clickhouse import ClickHouse
from tests.conftest import Clock
from tests.history.test_folding import SENT, Keeping, minutes, window
from tests.postgres import PostgresServer
from tests.processes import PROGRAM, environment, kilowatch, wait_until
from tests.transfer.conftest import DAY, JANUARY_2025, NewHistory, NewUrl, put, readings, rows

KINDS = ("embedded", "server", "cluster")
WAYS = [(one, other) for one in KINDS for other in KINDS if "cluster" not in (one, other) or one == "embedded"]


class CutOff(Exception):
    """Whatever ends a copy half-way."""


class TestCopy:
    @pytest.mark.parametrize(("kind", "other"), WAYS)
    def test_brings_every_reading_as_it_was(self, new_history: NewHistory, kind: str, other: str) -> None:
        source, target = new_history(kind), new_history(other)
        put(source, readings(1, 2, 5), readings(2, days=3, received_after=60_000, seed=2))
        compared = copy(source, target, plan_copy(source, target))
        assert rows(target) == rows(source)
        assert len(rows(target)) == 3 * 70
        assert [(one.name, one.is_same, one.target.rows) for one in compared] == [
            ("2025-01", True, 93),
            ("2025-02", True, 84),
            ("2025-03", True, 33),
        ]

    @pytest.mark.parametrize("kind", ["embedded", "server"])
    def test_a_store_over_the_copy_knows_latest_and_arrivals(
        self, new_history: NewHistory, new_history_url: NewUrl, clock: Clock, kind: str
    ) -> None:
        source, url = new_history("embedded"), new_history_url(kind)
        put(source, readings(1, 2), readings(2, days=3, received_after=60_000, seed=2))
        target = Contents.open(url, sync=False, migrate=True)
        for _ in range(2):  # doing it again changes nothing
            copy(source, target, plan_copy(source, target))
        put(target, readings(1, days=5))  # as a block that was stored twice, but for its answer
        target.close()
        store = HistoryStore(url, connections=2, sync=False, clock=clock)
        try:
            newest = store.latest(np.array([1, 2, 3], np.uint32))
            assert newest["ts"].tolist() == [JANUARY_2025 + 69 * DAY] * 2 + [-1]
            assert newest["value"].tolist()[:2] == [row[2] for row in rows(source) if row[1] == newest["ts"][0]]
            assert store.count([1, 2]) == 140
            arrived = store.arrivals([1, 2], Place(0, 0, 0), until=store.arrived_until(), limit=1_000)
            places = [(received_at, metric_id, ts) for metric_id, ts, _, received_at in arrived.tolist()]
            assert places == sorted({(row[3], row[0], row[1]) for row in rows(source)})
        finally:
            store.close()

    @pytest.mark.parametrize("cut_after", [1, 2, 3, 4])
    def test_goes_on_where_it_was_cut_off(self, new_history: NewHistory, cut_after: int) -> None:
        source, target = new_history("embedded"), new_history("embedded")
        put(source, readings(*range(1, 9), days=120))
        plan = plan_copy(source, target)
        left = [cut_after]

        def cut(_what: str, _rows: int) -> None:
            left[0] -= 1
            if not left[0]:
                raise CutOff

        with pytest.raises(CutOff):
            copy(source, target, plan, tell=cut)
        assert len(rows(target)) < plan.rows or cut_after == 4
        again = plan_copy(source, target)
        assert again.rows == plan.rows - len(rows(target))
        assert all(one.is_same for one in copy(source, target, again))
        assert rows(target) == rows(source)

    @pytest.mark.parametrize(("kind", "times"), [("cut_before", 2), ("cut_after", 2), ("refuse", 1)])
    def test_an_insert_that_fails_is_made_good_by_the_next_run(
        self, new_history: NewHistory, clickhouse: ClickHouse, kind: str, times: int
    ) -> None:
        source, target = new_history("embedded"), new_history("server")
        put(source, readings(1, 2))
        clickhouse.fail_next(kind, "INSERT INTO readings", times=times)
        with pytest.raises(Unavailable):
            copy(source, target, plan_copy(source, target))
        copy(source, target, plan_copy(source, target))
        assert rows(target) == rows(source)

    def test_a_second_time_brings_what_came_meanwhile_and_no_more(self, new_history: NewHistory) -> None:
        source, target = new_history("embedded"), new_history("embedded")
        put(source, readings(1, 2, 3))
        copy(source, target, plan_copy(source, target))
        put(source, readings(2, begin=JANUARY_2025 + DAY // 2, days=1, received_after=10**10), readings(4, days=2))
        put(source, readings(3, days=1, received_after=10**10, seed=3))  # a correction
        plan = plan_copy(source, target)
        assert [(part.month, part.metric_ids) for part in plan.parts] == [(202501, [2, 3, 4])]
        copy(source, target, plan)
        assert rows(target) == rows(source)

    def test_what_arrives_while_it_copies_is_left_for_the_next_time(self, new_history: NewHistory) -> None:
        source, target = new_history("embedded"), new_history("embedded")
        put(source, readings(1, 2))
        late = readings(3, received_after=10**11)
        compared = copy(source, target, plan_copy(source, target), tell=lambda _what, _rows: put(source, late))
        assert all(one.is_same for one in compared)
        assert len(rows(target)) == 140
        copy(source, target, plan_copy(source, target))
        assert rows(target) == rows(source)

    @pytest.mark.parametrize(
        "foreign",
        [
            readings(1, begin=JANUARY_2025 + 200 * DAY, days=1),
            readings(9, days=1),
            readings(1, begin=JANUARY_2025 + 1, days=1),
            readings(1, days=1, received_after=90_000),
        ],
        ids=["of another month", "of another metric", "of another time", "received later"],
    )
    def test_refuses_a_target_with_readings_that_the_source_does_not_have(
        self, new_history: NewHistory, foreign: dict[str, np.ndarray]
    ) -> None:
        source, target = new_history("embedded"), new_history("embedded")
        put(source, readings(1, 2))
        put(target, foreign)
        with pytest.raises(Invalid, match=r"TO has readings of 2025-0[17].*FROM does not have"):
            plan_copy(source, target)
        assert len(rows(target)) == 1

    def test_names_the_month_that_differs(self, new_history: NewHistory) -> None:
        source, target = new_history("embedded"), new_history("embedded")
        put(source, readings(1))
        stray = readings(1, begin=JANUARY_2025 + 40 * DAY + 5, days=1)
        compared = copy(source, target, plan_copy(source, target), tell=lambda _what, _rows: put(target, stray))
        assert [one.name for one in compared if not one.is_same] == ["2025-02"]

    def test_of_many_versions_of_a_reading_the_last_one_is_read_whatever_the_block(
        self, new_history: NewHistory
    ) -> None:
        source = new_history("embedded")
        for received_after in range(8):
            put(source, readings(1, days=4, received_after=received_after, seed=received_after))
        (table,) = (table for table in source.tables() if table.name == "readings")
        for size in range(1, 12):
            blocks = list(source.blocks(table, 202501, rows=size))
            found = np.concatenate([block["received_at"] - block["ts"] for block in blocks])
            assert found.tolist() == [7] * 4
            total = Sum(0, 0)
            for block in blocks:
                total = added(total, table.sum_of(block))
            assert {202501: total} == source.months(table)


class TestCopyAgain:
    """A history that was copied while it was in use is copied again, once something of it was folded or deleted."""

    @pytest.fixture
    def keeping(self, services: Kilowatch, clock: Clock) -> Keeping:
        clock.now = SENT
        keeping = Keeping.of(services, clock)
        keeping.send(minutes("2026-10-24T22:00", 300), minutes("2026-10-24T21:00", 500))
        clock.advance(days=9)
        keeping.send(minutes("2026-11-05T00:00", 100))
        return keeping

    @pytest.fixture
    def target(self, request: pytest.FixtureRequest, new_history: NewHistory) -> Contents:
        return new_history(getattr(request, "param", "embedded"))

    @pytest.mark.parametrize("target", KINDS, indirect=True)
    @pytest.mark.parametrize("is_deleted", [False, True], ids=["folded", "folded and deleted"])
    def test_after_readings_were_folded(self, keeping: Keeping, target: Contents, is_deleted: bool) -> None:
        source = keeping.store.contents()
        copy(source, target, plan_copy(source, target))
        if is_deleted:
            keeping.fold_and_delete()
        else:
            keeping.fold()
        assert keeping.raw_rows() == (100 if is_deleted else 900)
        compared = copy(source, target, plan_copy(source, target))
        assert {one.table for one in compared if one.is_same} == {"readings", "quarters", "days"}
        assert all(one.is_same for one in compared)
        for table in ("readings", "quarters", "days"):
            assert rows(target, table) == rows(source, table)
        assert plan_copy(source, target).rows == 0

    def test_after_half_of_what_was_folded_is_deleted(self, keeping: Keeping, target: Contents) -> None:
        source = keeping.store.contents()
        copy(source, target, plan_copy(source, target))
        keeping.fold()
        half = window("2026-10-24T21:00", "2026-10-25T01:00")
        keeping.store.folded.delete_raw(keeping.ids, half, made_until=2**42)
        assert 100 < keeping.raw_rows() < 900
        assert all(one.is_same for one in copy(source, target, plan_copy(source, target)))
        assert rows(target) == rows(source)

    def test_that_is_cut_off_goes_on(self, keeping: Keeping, target: Contents) -> None:
        source = keeping.store.contents()
        copy(source, target, plan_copy(source, target))
        keeping.fold_and_delete()

        def cut(_what: str, _rows: int) -> None:
            raise CutOff

        with pytest.raises(CutOff):
            copy(source, target, plan_copy(source, target), tell=cut)
        assert all(one.is_same for one in copy(source, target, plan_copy(source, target)))
        assert rows(target, "quarters") == rows(source, "quarters")

    def test_a_reading_that_came_after_its_quarter_was_folded_is_not_given_up(
        self, keeping: Keeping, target: Contents
    ) -> None:
        source = keeping.store.contents()
        copy(source, target, plan_copy(source, target))
        keeping.fold_and_delete()
        late = readings(keeping.ids[0], begin=minutes("2026-10-24T22:00", 1)[0][0], days=1, received_after=2**41)
        put(target, late)
        with pytest.raises(Invalid, match="TO has readings of 2026-10 that FROM does not have"):
            plan_copy(source, target)

    @pytest.mark.parametrize("is_folded", [False, True], ids=["raw", "folded"])
    def test_after_readings_were_deleted_is_refused_unless_they_are_to_be_deleted_there_too(
        self, keeping: Keeping, target: Contents, is_folded: bool
    ) -> None:
        if is_folded:
            keeping.fold_and_delete()
        source = keeping.store.contents()
        copy(source, target, plan_copy(source, target))
        before = {table: rows(target, table) for table in ("readings", "quarters")}
        gone = window("2026-10-24T23:00", "2026-11-06T00:00")
        keeping.services.catalogue.delete_readings(OPERATOR, keeping.ids[0], gone)
        with pytest.raises(Invalid, match=r"that FROM does not have.*--delete"):
            plan_copy(source, target)
        assert {table: rows(target, table) for table in ("readings", "quarters")} == before
        assert all(one.is_same for one in copy(source, target, plan_copy(source, target, delete=True)))
        for table in ("readings", "quarters", "days"):
            assert rows(target, table) == rows(source, table)
        assert _latest(target, keeping.ids[0]) == minutes("2026-10-24T22:59", 1)[0][0]

    def test_a_store_over_the_copy_answers_as_the_original(
        self, keeping: Keeping, target: Contents, new_history_url: NewUrl, clock: Clock
    ) -> None:
        url = new_history_url("embedded")
        with closing(Contents.open(url, sync=False, migrate=True)) as other:
            source = keeping.store.contents()
            copy(source, other, plan_copy(source, other))
            keeping.fold_and_delete()
            copy(source, other, plan_copy(source, other))
        with closing(HistoryStore(url, connections=2, sync=False, clock=clock)) as store:
            assert store.count(keeping.ids) == keeping.store.count(keeping.ids) == 900
            ids = np.array(keeping.ids, np.uint32)
            assert store.latest(ids)["ts"].tolist() == keeping.store.latest(ids)["ts"].tolist()


def _latest(contents: Contents, metric_id: int) -> int:
    sql = "SELECT toUnixTimestamp64Milli(max(newest).1) FROM latest WHERE metric_id = {id:UInt32}"
    return int(contents._engine.lines(sql, {"id": metric_id})[0][0])


class TestChecksum:
    KINDS = ("UInt8", "UInt16", "UInt32", "UInt64", "Int8", "Int16", "Int32", "Int64", "Bool", "Float32", "Float64")

    def test_of_every_kind_of_column_is_the_same_here_and_in_the_engine(self, new_history: NewHistory) -> None:
        contents = new_history("embedded")
        kinds = {f"of_{kind.lower()}": kind for kind in self.KINDS}
        times = {"ts": "DateTime64(3, 'UTC')", "at": "DateTime('UTC')", "made_at": "DateTime64(3, 'UTC')"}
        columns = {"metric_id": "UInt32"} | times | kinds
        declared = ", ".join(f"{name} {kind}" for name, kind in columns.items())
        contents._engine.command(
            f"CREATE TABLE every_kind ({declared}) ENGINE = ReplacingMergeTree(made_at) ORDER BY (metric_id, ts)", {}
        )
        table = Table(Kept("every_kind", "ts", "made_at", None), columns)
        random = np.random.default_rng(7)
        count = 500
        block = {}
        for (name, kind), dtype in zip(columns.items(), table.dtypes, strict=True):
            raw = np.frombuffer(random.bytes(count * dtype.itemsize), dtype).copy()
            if kind == "Bool":
                raw %= 2
            elif kind.startswith("DateTime"):
                raw = (JANUARY_2025 // (1 if "64" in kind else 1000) + np.arange(count)).astype(dtype)
            block[name] = raw
        block["of_float64"][:6] = [0.0, -0.0, 5e-324, -1.7976931348623157e308, 0.1, 1e300]
        contents.put(table, block)
        assert contents.months(table) == {202501: table.sum_of(block)}
        (read,) = contents.blocks(table, 202501)
        assert all(
            (read[name].tobytes() == block[name][np.lexsort((block["ts"], block["metric_id"]))].tobytes())
            for name in columns
        )

    @settings(max_examples=50)
    @given(st.integers(0, 69), st.sampled_from(["metric_id", "ts", "value", "received_at"]), st.integers(1, 100))
    def test_notices_any_change_of_one_value(self, place: int, column: str, by: int) -> None:
        kept = Kept("readings", "ts", "received_at", "received_at")
        time = "DateTime64(3, 'UTC')"
        table = Table(kept, {"metric_id": "UInt32", "ts": time, "value": "Float64", "received_at": time})
        block = readings(1)
        other = {name: values.copy() for name, values in block.items()}
        other[column][place] += by
        assert table.sum_of(other) != table.sum_of(block)
        order = np.random.default_rng(by).permutation(70)
        assert table.sum_of({name: values[order] for name, values in block.items()}) == table.sum_of(block)


class TestCommand:
    """`kilowatch history copy` in processes of its own."""

    def test_killed_and_run_again_copies_everything_once(
        self, tmp_path: Path, clickhouse: ClickHouse, new_history_url: NewUrl, new_history: NewHistory
    ) -> None:
        made = new_history("server")
        put(made, *(readings(metric_id, step=60_000, days=40_000) for metric_id in range(1, 16)))
        embedded, back = f"chdb://{tmp_path / 'history'}", new_history_url("server")
        urls = _url_of(made, clickhouse), embedded
        first = kilowatch("history", "copy", *urls, data_dir=tmp_path)
        assert first.returncode == 0, first.stderr
        assert "600,000 rows copied" in first.stdout
        target = Contents.open(back, sync=False, migrate=True)
        (table,) = (table for table in target.tables() if table.name == "readings")
        for _ in range(2):
            _kill_once_it_copies(tmp_path, embedded, back, lambda: sum(target.counts(table).values()))
        done = kilowatch("history", "copy", embedded, back, data_dir=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "both sides are the same" in done.stdout
        assert target.months(table) == made.months(table)
        target.close()
        nothing_left = kilowatch("history", "copy", embedded, back, data_dir=tmp_path)
        assert "\n0 rows copied" in nothing_left.stdout

    def test_refuses_what_can_not_be_done_with_one_line(self, tmp_path: Path, clickhouse: ClickHouse) -> None:
        def refused(*urls: str) -> str:
            done = kilowatch("history", "copy", *urls, data_dir=tmp_path)
            assert done.returncode == 1
            said = [line for line in done.stderr.splitlines() if "-password-file" not in line]
            assert len(said) == 1, done.stderr
            return done.stderr

        one, other = f"chdb://{tmp_path / 'one'}", f"chdb://{tmp_path / 'other'}"
        assert "are the same" in refused(one, one)
        assert "kilowatch backup" in refused(one, other)
        assert "FROM must be" in refused("nonsense", other)
        assert "There is no history at" in refused(one, f"{clickhouse.url}/nothing")
        assert "FROM: The history's tables are not up to date" in refused(f"{clickhouse.url}/default", other)
        assert not (tmp_path / "other").exists()


class TestPasswords:
    """Of servers come in files: what stands on the command line can be seen by everybody on the machine."""

    SECRET = "s3cret/of@two"

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        file = tmp_path / "password"
        file.write_text(self.SECRET + "\n")
        return file

    def test_is_taken_from_a_file(self, tmp_path: Path, file: Path, postgres: PostgresServer, sqlite_url: str) -> None:
        name = f"passwords_{os.getpid()}"
        url = postgres.create_database(name)
        with psycopg.connect(postgres.url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {name} SUPERUSER LOGIN PASSWORD '{self.SECRET}'")
        try:
            target = f"postgresql+psycopg://{name}@{url.partition('@')[2]}"
            done = kilowatch("database", "copy", sqlite_url, target, "--to-password-file", str(file), data_dir=tmp_path)
            assert (done.returncode, done.stderr) == (0, ""), done.stderr
            assert "Both sides are the same" in done.stdout
        finally:
            postgres.drop_database(name)
            with psycopg.connect(postgres.url.replace("+psycopg", ""), autocommit=True) as connection:
                connection.execute(f"DROP ROLE {name}")

    @pytest.mark.parametrize(
        ("what", "url"),
        [
            ("database", "postgresql+psycopg://me:{}@127.0.0.1:1/none"),
            ("history", "clickhouse://me:{}@127.0.0.1:1/none"),
        ],
    )
    def test_of_a_command_line_is_warned_of_and_never_told(self, tmp_path: Path, what: str, url: str) -> None:
        other = {"database": f"sqlite:///{tmp_path}/other.sqlite", "history": f"chdb://{tmp_path}/other"}[what]
        done = kilowatch(what, "copy", url.format("s3cret"), other, data_dir=tmp_path, log_level="debug")
        assert done.returncode == 1
        assert "FROM has a password on the command line" in done.stderr
        assert "--from-password-file" in done.stderr
        assert "s3cret" not in done.stderr + done.stdout
        done = kilowatch(what, "copy", url.format(self.SECRET), other, data_dir=tmp_path)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
        assert "give it in a file (--from-password-file)" in done.stderr
        assert not any(part in done.stderr for part in ("s3cret", "two"))

    def test_that_can_not_be_had_is_told_by_its_option(self, tmp_path: Path, file: Path) -> None:
        source, target = "clickhouse://me@127.0.0.1:1/none", f"chdb://{tmp_path}/other"
        none = kilowatch("history", "copy", source, target, "--from-password-file", "none", data_dir=tmp_path)
        assert "--from-password-file: none can't be read: No such file" in none.stderr
        nobody = kilowatch("history", "copy", source, target, "--to-password-file", str(file), data_dir=tmp_path)
        assert "--to-password-file needs a TO that names a user" in nobody.stderr


def _kill_once_it_copies(data_dir: Path, source: str, target: str, count: Callable[[], int]) -> None:
    before = count()
    command = [*PROGRAM, "history", "copy", source, target]
    with subprocess.Popen(command, env=environment(data_dir), stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: count() > before or process.poll() is not None, "some is copied")
        process.send_signal(signal.SIGKILL)


def _url_of(contents: Contents, clickhouse: ClickHouse) -> str:
    name = contents._engine.lines("SELECT currentDatabase()", {})[0][0]
    return f"{clickhouse.url}/{name}"
