"""Both stores destroyed and restored; backups made while things change; and what is refused."""

import hashlib
import itertools
import json
import os
import resource
import shutil
import socket
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kilowatch import migrations
from kilowatch.auth.model import OPERATOR
from kilowatch.config import Settings
from kilowatch.errors import Conflict, Invalid, Unavailable
from kilowatch.history.copying import Contents
from kilowatch.history.engine import HistoryUnavailable
from kilowatch.history.folding import WAIT
from kilowatch.history.model import Place
from kilowatch.kit.db import Database
from kilowatch.kit.timespan import Window
from kilowatch.services import Kilowatch
from kilowatch.transfer import backups as making
from kilowatch.transfer.backups import Stores, overlaps, write_backup
from kilowatch.transfer.control import SOCKET, Control, ask_for_backup
from kilowatch.transfer.manifest import Manifest
from kilowatch.transfer.places import Directory, chosen, place_at
from kilowatch.transfer.restores import Restored, open_backup, restore
from tests.conftest import SECRET_KEY, Clock, World, drop_history, open_world
from tests.history.conftest import ms
from tests.history.test_folding import Keeping, minutes, window
from tests.postgres import PostgresServer
from tests.processes import PROGRAM, Server, environment, kilowatch, wait_until
from tests.transfer.conftest import NewUrl
from tests.transfer.test_database_copy import content, fill, open_copy

NAME = "kilowatch-20260105T120000Z"
_numbers = itertools.count(1)
EVERYTHING = {"start": "2020-01-01T00:00:00Z", "end": "2027-01-01T00:00:00Z", "resolution": "raw"}

NewStores = Callable[[str], Settings]


@pytest.fixture
def new_stores(request: pytest.FixtureRequest, tmp_path: Path, new_history_url: NewUrl) -> Iterator[NewStores]:
    """Settings of stores that are empty: `embedded`, on `servers`, or on those with a `cluster` of ClickHouse."""
    made = []

    def new(kind: str) -> Settings:
        name = f"stores_{os.getpid()}_{next(_numbers)}"
        url = f"sqlite:///{tmp_path / name}.sqlite"
        if kind != "embedded":
            postgres: PostgresServer = request.getfixturevalue("postgres")
            url = postgres.create_database(name)
            made.append(name)
        return Settings(
            data_dir=tmp_path / name,
            database_url=url,
            history_url=new_history_url({"servers": "server"}.get(kind, kind)),
            history_sync=False,
            history_threads=2,
            secret_key=SECRET_KEY,  # type: ignore[arg-type]  # pydantic makes it a SecretStr
            log_level="error",
        )

    yield new
    for name in made:
        request.getfixturevalue("postgres").drop_database(name)


def destroy(settings: Settings, postgres: PostgresServer | None) -> None:
    drop_history(settings.resolved_history_url)
    url = settings.resolved_database_url
    if postgres is None:
        for file in Path(url.removeprefix("sqlite:///")).parent.glob("*.sqlite*"):
            file.unlink()
    else:
        name = url.rpartition("/")[2]
        postgres.drop_database(name)
        postgres.create_database(name)
    shutil.rmtree(settings.data_dir)


class Backups:
    """A directory of backups, and what makes and restores them."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self.clock = clock
        self.place = Directory(directory)
        self.folder = directory / NAME

    def create(self, path: str) -> Any:
        return self.place.create(NAME, path)

    def make(self, settings: Settings, *, tell: Callable[[str, int], None] = lambda _what, _rows: None) -> Manifest:
        """Beside whoever uses the stores."""
        with (
            closing(Database(settings.resolved_database_url, pool_size=2)) as database,
            closing(Contents.open(settings.resolved_history_url, sync=False, migrate=False)) as contents,
        ):
            manifest = write_backup(Stores(database, contents, self.clock), self, tell=tell)
        self.place.finish(NAME)
        return manifest

    def restore(self, settings: Settings, *, tell: Callable[[str, int], None] = lambda _what, _rows: None) -> Restored:
        manifest = open_backup(self.place, NAME)
        with (
            closing(Database(settings.resolved_database_url, pool_size=2)) as database,
            closing(Contents.open(settings.resolved_history_url, sync=False, migrate=True)) as contents,
        ):
            return restore(self.place, NAME, manifest, database, contents, tell=tell)


@pytest.fixture
def backups(tmp_path: Path, clock: Clock) -> Backups:
    return Backups(tmp_path / "backups", clock)


def told(world: World) -> dict[str, Any]:
    """What people are told, as an answer each."""
    answers: dict[str, Any] = {}
    for path in ("/sites", "/subscriptions", "/users", f"/sites/{world.north}/devices", f"/sites/{world.north}/audit"):
        answers[path] = world.admin.get(path).json()
    for metric_id in metric_ids(world):
        answers[f"history {metric_id}"] = world.admin.get(f"/metrics/{metric_id}/history", **EVERYTHING).json()
        answers[f"latest {metric_id}"] = world.admin.get(f"/metrics/{metric_id}/latest").json()
    return answers


def metric_ids(world: World) -> list[int]:
    devices = world.admin.get(f"/sites/{world.north}/devices").json()["items"]
    every = [world.admin.get(f"/devices/{device['id']}").json() for device in devices]
    return [metric["id"] for device in every for metric in device["metrics"]]


def arrived(world: World, after: Place) -> list[Any]:
    """What a stream that was at that place tells next."""
    return world.services.feed.read(metric_ids(world), after, 10_000)


class TestRestore:
    @pytest.mark.parametrize(
        ("kind", "other"),
        [
            ("embedded", "embedded"),
            ("servers", "servers"),
            ("embedded", "servers"),
            ("servers", "embedded"),
            ("embedded", "cluster"),
        ],
    )
    def test_after_everything_was_destroyed_nothing_is_missing(
        self,
        backups: Backups,
        new_stores: NewStores,
        clock: Clock,
        request: pytest.FixtureRequest,
        kind: str,
        other: str,
    ) -> None:
        settings = new_stores(kind)
        with open_world(settings, clock) as world:
            fill(world)
            metric = metric_ids(world)[0]
            place = world.services.feed.position()
            clock.advance(minutes=5)
            world.send(metric, *((f"2025-{month:02}-03T04:05:06.789Z", month / 3) for month in range(1, 13)))
            world.send(metric, ("2025-03-03T04:05:06.789Z", 33.3))  # a correction
            before, stream = told(world), arrived(world, place)
        rows = content(settings.resolved_database_url)
        made = backups.make(settings)
        # The one that was corrected did arrive, and may be missing as ever.
        stream = list({(reading.metric_id, reading.ts): reading for reading in stream}.values())
        stream.sort(key=lambda reading: reading.place)
        assert len(stream) == 12
        assert sum(file.rows for file in made.history) == 13
        if kind == other:
            destroy(settings, request.getfixturevalue("postgres") if kind == "servers" else None)
        else:
            settings = new_stores(other)
        done = backups.restore(settings)
        assert (done.left_out, done.began_anew) == (0, False)
        assert content(settings.resolved_database_url) == rows
        with open_copy(settings, clock) as world:
            assert told(world) == before
            assert arrived(world, place) == stream
            clock.advance(minutes=1)
            world.send(metric, ("2026-01-05T12:03:00Z", 7.0))
            assert [reading.value for reading in arrived(world, place)][-1] == 7.0
            assert world.metric() > max(row["id"] for row in rows["metrics"])

    def test_of_an_older_version_is_brought_up_to_date(
        self, backups: Backups, new_stores: NewStores, clock: Clock
    ) -> None:
        old, new = new_stores("embedded"), new_stores("embedded")
        database = Database(old.resolved_database_url, pool_size=1)
        with closing(database), database.migrating() as connection:
            migrations.upgrade_within(connection, "0003")
            connection.exec_driver_sql(
                "INSERT INTO sites (id, name, slug, timezone, created_at) "
                "VALUES (4, 'Old', 'old', 'UTC', '2024-01-05 12:00:00.000000')"
            )
        Contents.open(old.resolved_history_url, sync=False, migrate=True).close()
        assert backups.make(old).revision == "0003"
        backups.restore(new)
        with open_world(new, clock) as world:
            slugs = {site["slug"] for site in world.admin.get("/sites").json()["items"]}
            assert slugs == {"north", "old", "south"}
            assert world.north == 5

    def test_is_refused_where_something_is(self, backups: Backups, new_stores: NewStores, clock: Clock) -> None:
        settings, other = new_stores("embedded"), new_stores("embedded")
        with open_world(settings, clock) as world:
            world.send(world.metric(), ("2026-01-05T11:00:00Z", 1.5))
            before = told(world)
        backups.make(settings)
        with pytest.raises(Invalid, match="KILOWATCH_DATABASE_URL has a catalogue already"):
            backups.restore(settings)
        mixed = settings.model_copy(update={"database_url": other.database_url})
        with pytest.raises(Invalid, match="KILOWATCH_HISTORY_URL has readings already"):
            backups.restore(mixed)
        with open_copy(settings, clock) as world:
            assert told(world) == before

    def test_that_failed_leaves_both_stores_empty(self, backups: Backups, new_stores: NewStores, clock: Clock) -> None:
        settings, other = new_stores("embedded"), new_stores("embedded")
        with open_world(settings, clock) as world:
            world.send(world.metric(), ("2026-01-05T11:00:00Z", 1.5))
        backups.make(settings)

        def fail_at_users(what: str, _rows: int) -> None:
            if what == "users":
                raise OSError("the disk is gone")

        with pytest.raises(OSError, match="the disk is gone"):
            backups.restore(other, tell=fail_at_users)
        with closing(Contents.open(other.resolved_history_url, sync=False, migrate=False)) as contents:
            assert contents.is_empty()
            assert not contents.is_being_restored()
        assert not backups.restore(other).began_anew
        assert content(other.resolved_database_url) == content(settings.resolved_database_url)


class TestWhileThingsChange:
    """The backup is of one moment, whatever is done while it is made. Each test does something after the history was
    read, and before the catalogue is."""

    @staticmethod
    def once(do: Callable[[], object]) -> Callable[[str, int], None]:
        waiting = [do]

        def tell(what: str, _rows: int) -> None:
            if what.startswith("readings") and waiting:
                waiting.pop()()

        return tell

    def test_a_device_that_was_deleted_is_not_in_it(
        self, backups: Backups, new_stores: NewStores, clock: Clock
    ) -> None:
        settings, other = new_stores("embedded"), new_stores("embedded")
        with open_world(settings, clock) as world:
            kept, gone = world.metric(), world.metric()
            for metric in (kept, gone):
                world.send(metric, ("2026-01-05T11:00:00Z", 1.5))
            device = world.admin.get(f"/metrics/{gone}").json()["device_id"]
            backups.make(settings, tell=self.once(lambda: world.admin.delete(f"/devices/{device}")))
        assert backups.restore(other).left_out == 1
        with open_copy(other, clock) as world:
            assert metric_ids(world) == [kept]
            assert world.services.history is not None
            assert world.services.history.count([kept, gone]) == 1

    def test_readings_that_were_deleted_do_not_come_back(
        self, backups: Backups, new_stores: NewStores, clock: Clock
    ) -> None:
        settings, other = new_stores("embedded"), new_stores("embedded")
        start = clock.now - timedelta(hours=3)
        times = [(start + timedelta(hours=hour)).isoformat() for hour in range(3)]
        with open_world(settings, clock) as world:
            metric = world.metric()
            world.send(metric, *zip(times, (1.0, 2.0, 3.0), strict=True))
            window = {"start": times[1], "end": times[2]}

            def delete() -> None:
                answer = world.admin.http.delete(f"/metrics/{metric}/readings", params=window)
                assert answer.json() == {"readings": 1}

            backups.make(settings, tell=self.once(delete))
        assert backups.restore(other).readings == 3
        clock.advance(minutes=1)
        with open_copy(other, clock) as world:
            history = world.admin.get(f"/metrics/{metric}/history", **EVERYTHING).json()
            assert history["series"][0]["values"] == [1.0, 3.0]
            assert world.admin.get(f"/metrics/{metric}/latest").json()["value"] == 3.0

    def test_what_arrived_meanwhile_is_left_out(self, backups: Backups, new_stores: NewStores, clock: Clock) -> None:
        settings, other = new_stores("embedded"), new_stores("embedded")
        with open_world(settings, clock) as world:
            metric = world.metric()
            world.send(metric, ("2025-12-05T11:00:00Z", 1.0), ("2026-01-05T11:00:00Z", 2.0))
            clock.advance(seconds=5)
            later = ("2026-01-05T11:30:00Z", 3.0), ("2026-01-05T11:00:00Z", 9.0)
            backups.make(settings, tell=self.once(lambda: world.send(metric, *later)))
        backups.restore(other)
        with open_copy(other, clock) as world:
            history = world.admin.get(f"/metrics/{metric}/history", **EVERYTHING).json()
            assert history["series"][0]["values"] == [1.0, 2.0]

    def test_simulated_readings_that_were_made_meanwhile_are_made_again(
        self, backups: Backups, new_stores: NewStores, clock: Clock
    ) -> None:
        settings, other = new_stores("embedded"), new_stores("embedded")
        past = {"start": "2025-11-01T00:00:00Z", "end": "2025-11-03T00:00:00Z", "resolution": "1h"}
        with open_world(settings, clock) as world:
            device = world.device(
                kind="pv_array", source="simulated", metrics=None, properties={"peak_kw": 5.0}, interval_s=900
            )
            metric = device["metrics"][0]["id"]
            assert world.admin.get(f"/metrics/{metric}/latest").json()["value"] is not None
            answers: list[Any] = []
            ask = self.once(lambda: answers.append(world.admin.get(f"/metrics/{metric}/history", **past).json()))
            backups.make(settings, tell=ask)
        backups.restore(other)
        with open_copy(other, clock) as world:
            assert world.admin.get(f"/metrics/{metric}/history", **past).json() == answers[0]
            assert any(value is not None for value in answers[0]["series"][0]["values"])

    @pytest.mark.parametrize(
        ("some", "others", "both"),
        [
            ([(0, 10)], [(2, 3), (5, 20)], [(2, 3), (5, 10)]),
            ([(0, 4), (6, 9)], [(1, 8)], [(1, 4), (6, 8)]),
            ([(0, 4)], [(4, 8)], []),
            ([], [(1, 2)], []),
        ],
    )
    def test_spans_overlap_where_both_have_them(self, some: Any, others: Any, both: Any) -> None:
        assert overlaps(some, others) == both
        assert overlaps(others, some) == both


def digest(answer: Any) -> str:
    return hashlib.sha256(repr(answer).encode()).hexdigest()[:12]


class TestWhileReadingsAreFolded:
    """Folding, and deletions by users, go on while a backup is made. What is restored answers as the original did, or
    does once a deletion is done; and goes on to, when it is folded itself.

    September is folded when the backup begins, and not deleted yet; October is raw.
    """

    MOMENTS = ("readings 2026-09", "readings 2026-11", "quarters 2026-09", "days 2026-09")
    """After which part of the backup something happens."""

    WHOLE = window("2026-09-01T00:00", "2026-12-01T00:00")

    @pytest.fixture
    def keeping(self, new_stores: NewStores, clock: Clock) -> Iterator[Keeping]:
        clock.now = datetime(2026, 9, 20, tzinfo=UTC)
        with Kilowatch(new_stores("embedded"), clock=clock) as services:
            keeping = Keeping.of(services, clock)
            keeping.send(minutes("2026-09-18T22:00", 400, step_s=300), minutes("2026-09-18T21:00", 300, step_s=300))
            clock.advance(days=15)
            keeping.fold()
            clock.now = datetime(2026, 11, 1, tzinfo=UTC)
            keeping.send(minutes("2026-10-20T22:00", 400), minutes("2026-11-01T00:00", 5))
            clock.advance(days=9)
            keeping.send(minutes("2026-11-09T00:00", 50))
            yield keeping

    @pytest.mark.parametrize("is_deleted", [False, True], ids=["folded", "folded and deleted"])
    @pytest.mark.parametrize("moment", MOMENTS)
    def test_no_answer_changes(
        self, keeping: Keeping, backups: Backups, new_stores: NewStores, moment: str, is_deleted: bool
    ) -> None:
        before = self.answers(keeping)
        fold = keeping.fold_and_delete if is_deleted else keeping.fold
        self.make(backups, keeping, {moment: fold})
        assert self.answers(keeping) == before
        self.check(backups, new_stores("embedded"), keeping, before)

    @pytest.mark.parametrize("moment", ["readings 2026-09", "readings 2026-10"])
    def test_no_answer_changes_where_some_readings_of_a_month_are_deleted_before_they_are_read(
        self, keeping: Keeping, backups: Backups, new_stores: NewStores, moment: str
    ) -> None:
        """A month is read in several blocks."""
        before = self.answers(keeping)
        folding = keeping.fold()

        def delete() -> None:
            keeping.clock.now += WAIT
            folding.tick()

        self.make(backups, keeping, {moment: delete}, rows=100)
        self.check(backups, new_stores("embedded"), keeping, before)

    @pytest.mark.parametrize("moment", ["readings 2026-11", "quarters 2026-09"])
    def test_a_quarter_that_is_taken_back_is_as_it_was_or_as_it_is_then(
        self, keeping: Keeping, backups: Backups, new_stores: NewStores, moment: str
    ) -> None:
        before = self.answers(keeping)
        keeping.send([(ms("2026-09-19T03:02"), 50.0)])  # that was checked before the quarter was folded
        assert self.answers(keeping) == before
        self.make(backups, keeping, {moment: keeping.fold})
        after = self.answers(keeping)
        assert after != before
        self.check(backups, new_stores("embedded"), keeping, {"quarters 2026-09": before}.get(moment, after), after)

    @pytest.mark.parametrize("moment", ["at first", *MOMENTS[:3]])
    @pytest.mark.parametrize(
        "gone",
        [window("2026-09-19T00:00", "2026-09-20T00:00"), window("2026-10-20T23:00", "2026-10-21T01:00")],
        ids=["folded", "raw"],
    )
    def test_what_a_user_deletes_does_not_come_back_and_what_is_sent_again_stays(
        self, keeping: Keeping, backups: Backups, new_stores: NewStores, moment: str, gone: Window
    ) -> None:
        """`at first` is when the backup has begun, and not decided yet up to when it has readings."""

        def delete() -> None:
            keeping.services.catalogue.delete_readings(OPERATOR, keeping.ids[0], gone)
            if moment == "at first":
                keeping.clock.advance(seconds=1)
                keeping.send([(gone.start_ms + 60_000, 77.0)])
            keeping.services.catalogue.change_metric(OPERATOR, keeping.ids[0], {"key": "renamed"})

        self.make(backups, keeping, {moment: delete})
        after = self.answers(keeping)
        self.check(backups, new_stores("embedded"), keeping, after)

    @pytest.mark.parametrize("moment", MOMENTS[:2])
    def test_a_deletion_that_began_long_before_and_ends_meanwhile_is_one(
        self,
        keeping: Keeping,
        backups: Backups,
        new_stores: NewStores,
        moment: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def stops(*_arguments: object, **_more: object) -> None:
            raise HistoryUnavailable

        with monkeypatch.context() as patch, pytest.raises(HistoryUnavailable):
            patch.setattr(keeping.store, "erase_window", stops)
            gone = window("2026-10-20T23:00", "2026-10-21T01:00")
            keeping.services.catalogue.delete_readings(OPERATOR, keeping.ids[0], gone)
        keeping.clock.advance(hours=5)
        self.make(backups, keeping, {moment: keeping.services.catalogue.finish_erasures})
        self.check(backups, new_stores("embedded"), keeping, self.answers(keeping))

    def answers(self, keeping: Keeping) -> list[Any]:
        """Each as a digest, to be quick."""
        keeping.forget()
        power, energy = keeping.metrics
        questions = (
            (power, {"resolution": "1h", "aggregate": "energy"}),
            (power, {"resolution": "1d", "aggregate": "mean"}),
            (power, {"resolution": "15m", "aggregate": "count"}),
            (energy, {"resolution": "1h", "aggregate": "delta"}),
            (energy, {"resolution": "1d", "aggregate": "last"}),
        )
        return [digest(keeping.ask(metric, self.WHOLE, **question)) for metric, question in questions]

    @staticmethod
    def make(backups: Backups, keeping: Keeping, deeds: dict[str, Callable[[], object]], *, rows: int = 50_000) -> None:
        left = dict(deeds)

        def do(moment: str) -> None:
            if moment in left:
                left.pop(moment)()

        def now() -> datetime:
            do("at first")
            return keeping.clock.now

        stores = Stores(keeping.services.database, keeping.store.contents(), now)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(making, "_BLOCK", rows)
            write_backup(stores, backups, tell=lambda what, _rows: do(what))
        backups.place.finish(NAME)
        assert not left, "the backup has no such part"

    def check(
        self,
        backups: Backups,
        settings: Settings,
        keeping: Keeping,
        wanted: list[Any],
        once_folded: list[Any] | None = None,
    ) -> None:
        """What was restored answers so, also once it was folded itself."""
        backups.restore(settings)
        with Kilowatch(settings, clock=keeping.clock) as services:
            restored = Keeping(services, keeping.clock, keeping.site_id, keeping.ids)
            assert self.answers(restored) == wanted
            restored.fold_and_delete()
            assert self.answers(restored) == (once_folded or wanted)


class TestRefused:
    @pytest.fixture
    def made(self, backups: Backups, new_stores: NewStores, clock: Clock) -> Backups:
        settings = new_stores("embedded")
        with open_world(settings, clock) as world:
            world.send(world.metric(), ("2026-01-05T11:00:00Z", 1.5))
        backups.make(settings)
        return backups

    def refused(self, made: Backups, settings: Settings, words: str) -> None:
        with pytest.raises(Invalid, match=words):
            made.restore(settings)
        assert not Path(settings.resolved_database_url.removeprefix("sqlite:///")).exists()

    def test_a_file_that_changed(self, made: Backups, new_stores: NewStores) -> None:
        file = made.folder / "history/readings/2026-01.parquet"
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        self.refused(made, new_stores("embedded"), "2026-01.parquet is damaged")

    def test_a_file_that_was_cut(self, made: Backups, new_stores: NewStores) -> None:
        file = made.folder / "catalogue/users.jsonl.zst"
        file.write_bytes(file.read_bytes()[:-5])
        self.refused(made, new_stores("embedded"), "users.jsonl.zst is damaged")

    def test_a_file_that_is_missing(self, made: Backups, new_stores: NewStores) -> None:
        (made.folder / "catalogue/sites.jsonl.zst").unlink()
        self.refused(made, new_stores("embedded"), "sites.jsonl.zst can't be read: No such file")

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"format": 2}, "format 2, and this version of Kilowatch reads format 1"),
            ({"revision": "9999"}, "newer version"),
            ({"until": "soon"}, "manifest.json is damaged"),
        ],
    )
    def test_another_version(self, made: Backups, new_stores: NewStores, change: dict[str, Any], words: str) -> None:
        file = made.folder / "manifest.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
        self.refused(made, new_stores("embedded"), words)

    def test_a_backup_that_was_cut_off_or_is_not_there(self, made: Backups, tmp_path: Path) -> None:
        assert chosen(str(made.folder), {})[1] == NAME
        assert chosen(str(made.folder.parent), {})[1] == NAME
        (made.folder / "manifest.json").unlink()
        for source in (made.folder, made.folder.parent, tmp_path / "none"):
            with pytest.raises(Invalid, match=r"There is no backup at"):
                chosen(str(source), {})

    def test_a_place_of_another_kind(self) -> None:
        for target in ("ftp://host/folder", "s3://"):
            with pytest.raises(Invalid, match="s3://bucket/prefix"):
                place_at(target, {})


class TestFiles:
    def test_are_for_their_owner_alone(self, backups: Backups, new_stores: NewStores, clock: Clock) -> None:
        settings = new_stores("embedded")
        with open_world(settings, clock) as world:
            world.send(world.metric(), ("2026-01-05T11:00:00Z", 1.5))
        backups.make(settings)
        paths = [backups.folder.parent, *backups.folder.parent.rglob("*")]
        assert {stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_dir()} == {0o700}
        assert {stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_file()} == {0o600}

    def test_have_no_secret_of_the_server(self, backups: Backups, new_stores: NewStores, clock: Clock) -> None:
        settings = new_stores("embedded")
        with open_world(settings, clock):
            pass
        backups.make(settings)
        assert not any(SECRET_KEY.encode() in path.read_bytes() for path in backups.folder.rglob("*") if path.is_file())

    def test_can_be_read_with_other_tools(self, backups: Backups, new_stores: NewStores, clock: Clock) -> None:
        from pyarrow import parquet

        settings = new_stores("embedded")
        with open_world(settings, clock) as world:
            metric = world.metric()
            world.send(metric, ("2026-01-05T11:00:00.5Z", 1.5))
        backups.make(settings)
        (row,) = parquet.read_table(backups.folder / "history/readings/2026-01.parquet").to_pylist()
        assert row["metric_id"] == metric
        assert row["ts"] == datetime(2026, 1, 5, 11, 0, 0, 500_000, UTC)
        assert (row["value"], row["received_at"]) == (1.5, clock.now)


class TestCommands:
    """`kilowatch backup` and `kilowatch restore`, as processes beside a server."""

    def test_everything_acknowledged_before_a_backup_survives_the_loss_of_the_data_directory(
        self, lost: Server, tmp_path: Path
    ) -> None:
        token = lost.sign_in()["access_token"]
        metric = lost.make_metric(token)
        begin = datetime(2026, 1, 5, tzinfo=UTC)
        acknowledged: list[int] = []
        stop = threading.Event()

        def send() -> None:
            for second in itertools.count():
                if stop.is_set():
                    return
                time = (begin + timedelta(seconds=second)).isoformat()
                rows = {"readings": [{"metric_id": metric, "timestamp": time, "value": second}]}
                lost.send("POST", "/readings", rows, token)
                acknowledged.append(second)

        sender = threading.Thread(target=send)
        sender.start()
        try:
            wait_until(lambda: len(acknowledged) > 30, "readings are sent")
            before = len(acknowledged)
            made = kilowatch("backup", str(tmp_path / "backups"), data_dir=lost.data_dir)
            assert made.returncode == 0, made.stderr
            wait_until(lambda: len(acknowledged) > before, "readings are taken again")
        finally:
            stop.set()
            sender.join()
        assert lost.process is not None
        lost.process.kill()
        lost.process.wait()
        shutil.rmtree(lost.data_dir)
        done = kilowatch("restore", str(tmp_path / "backups"), data_dir=lost.data_dir)
        assert done.returncode == 0, done.stderr
        lost.start()
        token = lost.sign_in()["access_token"]
        window = "start=2026-01-05T00:00:00Z&end=2026-01-06T00:00:00Z&resolution=raw"
        _, _, body = lost.ask(
            "GET", f"/api/v1/metrics/{metric}/history?{window}", headers={"Authorization": f"Bearer {token}"}
        )
        values = json.loads(body)["series"][0]["values"]
        assert len(values) >= before
        assert values == list(range(len(values)))  # each in its order, none missing before the last

    def test_a_restore_that_was_killed_is_begun_anew(self, running: Server, tmp_path: Path) -> None:
        token = running.sign_in()["access_token"]
        metric = running.make_metric(token)
        times = [f"2026-01-{day:02}T{hour:02}:00:00Z" for day in range(1, 29) for hour in range(24)]
        series = {"series": [{"metric_id": metric, "timestamps": times, "values": list(range(len(times)))}]}
        running.send("POST", "/readings", series, token)
        assert kilowatch("backup", str(tmp_path / "backups"), data_dir=running.data_dir).returncode == 0
        other = tmp_path / "other"
        leave_half_restored(other)
        done = kilowatch("restore", str(tmp_path / "backups"), data_dir=other)
        assert done.returncode == 0, done.stderr
        assert "An earlier restore was cut off" in done.stdout
        assert f"{len(times)} rows of history" in done.stdout
        checked = kilowatch("check", data_dir=other)
        assert checked.returncode == 0, checked.stdout

    def test_keeps_as_many_as_it_is_told(self, running: Server, tmp_path: Path) -> None:
        folder = tmp_path / "backups"
        for name in ("kilowatch-20200101T000000Z", "kilowatch-20210101T000000Z", "notes"):
            (folder / name).mkdir(parents=True)
            (folder / name / "manifest.json").write_text("{}")
        (folder / "kilowatch-20190101T000000Z.part").mkdir()
        done = kilowatch("backup", str(folder), "--keep", "2", data_dir=running.data_dir)
        assert done.returncode == 0, done.stderr
        left = sorted(path.name for path in folder.iterdir())
        assert left[0] == "kilowatch-20210101T000000Z"
        assert left[2:] == ["notes"]

    def test_is_refused_where_it_can_not_be_written(self, running: Server, tmp_path: Path) -> None:
        file = tmp_path / "file"
        file.write_text("")
        done = kilowatch("backup", str(file / "backups"), data_dir=running.data_dir)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
        assert "can't be" in done.stderr

    def test_without_room_on_the_disk_leaves_nothing_behind(self, running: Server, tmp_path: Path) -> None:
        def little_room() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

        folder = tmp_path / "backups"
        done = subprocess.run(
            [*PROGRAM, "backup", str(folder)],
            env=environment(running.data_dir) | {"PYTHONDONTWRITEBYTECODE": "1"},
            preexec_fn=little_room,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
        assert "can't be written: File too large" in done.stderr
        assert list(folder.iterdir()) == []
        assert running.ask("GET", "/health/ready")[0] == 200
        assert kilowatch("backup", str(folder), data_dir=running.data_dir).returncode == 0

    def test_a_restore_beside_a_server_is_refused(self, running: Server, tmp_path: Path) -> None:
        assert kilowatch("backup", str(tmp_path / "backups"), data_dir=running.data_dir).returncode == 0
        done = kilowatch("restore", str(tmp_path / "backups"), data_dir=running.data_dir)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
        assert "has a catalogue already" in done.stderr


def leave_half_restored(data_dir: Path) -> None:
    """What a restore leaves behind that was killed while it stored readings."""
    script = (
        "import sys, numpy as np; from kilowatch.history.copying import Contents;"
        "c = Contents.open('chdb://' + sys.argv[1], sync=False, migrate=True); c.begin_restore();"
        "one = np.ones(1, np.int64);"
        "columns = {'metric_id': one.astype('u4'), 'ts': one, 'value': one.astype('f8'), 'received_at': one};"
        "c.put(c.tables()[0], columns)"
    )
    data_dir.mkdir()
    subprocess.run(
        [*PROGRAM[:2], script, str(data_dir / "history")], env=environment(data_dir), check=True, capture_output=True
    )


class TestControl:
    @pytest.fixture
    def stores(self, new_stores: NewStores, clock: Clock) -> Iterator[Stores]:
        settings = new_stores("embedded")
        with open_world(settings, clock) as world:
            world.send(world.metric(), ("2026-01-05T11:00:00Z", 1.5))
            assert world.services.history is not None
            yield Stores(world.services.database, world.services.history.contents(), clock)

    def test_is_for_the_same_user_alone_and_gone_when_the_server_is(self, stores: Stores, tmp_path: Path) -> None:
        with closing(Control(tmp_path, stores)):
            assert stat.S_IMODE((tmp_path / SOCKET).stat().st_mode) == 0o600
            assert [path.name for path in tmp_path.iterdir() if path.name.startswith((".", "control"))] == [SOCKET]
        assert not (tmp_path / SOCKET).exists()

    def test_takes_the_place_of_one_that_was_killed(self, stores: Stores, tmp_path: Path, backups: Backups) -> None:
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(tmp_path / SOCKET))
        assert not ask_for_backup(tmp_path, backups, begin=lambda _rows: None, tell=lambda _what, _rows: None)
        with closing(Control(tmp_path, stores)):
            assert ask_for_backup(tmp_path, backups, begin=lambda _rows: None, tell=lambda _what, _rows: None)

    def test_has_a_name_of_any_length(self, stores: Stores, tmp_path: Path, backups: Backups) -> None:
        deep = tmp_path / ("deep" * 20) / ("er" * 30)
        deep.mkdir(parents=True)
        with closing(Control(deep, stores)):
            assert ask_for_backup(deep, backups, begin=lambda _rows: None, tell=lambda _what, _rows: None)

    def test_makes_one_backup_at_a_time(self, stores: Stores, tmp_path: Path, backups: Backups) -> None:
        other = Backups(tmp_path / "other", backups.clock)
        refused = []

        def ask_too(_rows: int) -> None:
            with pytest.raises(Conflict, match="Another backup is being made"):
                ask_for_backup(tmp_path, other, begin=lambda _rows: None, tell=lambda _what, _rows: None)
            refused.append(True)

        with closing(Control(tmp_path, stores)):
            assert ask_for_backup(tmp_path, backups, begin=ask_too, tell=lambda _what, _rows: None)
        assert refused == [True]

    def test_a_server_that_stops_ends_the_backup(self, stores: Stores, tmp_path: Path, backups: Backups) -> None:
        control = Control(tmp_path, stores)
        with pytest.raises(Unavailable, match="stopped before the backup was done"):
            ask_for_backup(tmp_path, backups, begin=lambda _rows: control.close(), tell=lambda _what, _rows: None)
        assert backups.place.names() == []

    def test_what_it_does_not_understand_is_told(self, stores: Stores, tmp_path: Path) -> None:
        with closing(Control(tmp_path, stores)), socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / SOCKET))
            client.sendall(b'{"do": "evil"}\n')
            assert b"not understood" in client.makefile().readline().encode()
        with closing(Control(tmp_path, stores)), socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / SOCKET))
            client.sendall(b"no json\n")
            assert b"not understood" in client.makefile().readline().encode()
