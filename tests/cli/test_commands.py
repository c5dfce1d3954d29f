"""The command line, each command as a process: what it prints, what it leaves, and one clear line when it can't."""

import csv
import gzip
import io
import json
import os
import re
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import PASSWORD, PROGRAM, Server, create_admin, environment, kilowatch
from tests.processes import free_port as unused_port

WINDOW = ("--start", "2026-01-05T10:00:00Z", "--end", "2026-01-05T11:00:00Z")


class Place:
    """A data directory with an administrator, a site and two metrics, made once and used by tests one after another."""

    def __init__(self, directory: Path) -> None:
        self.data_dir = directory / "var"
        create_admin(self.data_dir)
        server = Server(self.data_dir, directory / "server.log").start()
        token = server.sign_in()["access_token"]
        self.metric_id = server.make_metric(token)
        generic = {"name": "Counter", "kind": "generic"}
        counter = {"key": "energy", "quantity": "energy", "unit": "kWh", "behaviour": "counter"}
        device = server.send("POST", "/sites/1/devices", generic | {"metrics": [counter]}, token)
        self.counter_id = device["metrics"][0]["id"]
        reader = {"email": "reader@example.org", "name": "Reader", "password": PASSWORD}
        server.send("POST", "/users", reader, token)
        server.send("PUT", "/sites/1/grants/2", {"role": "standard"}, token)
        own = server.sign_in("reader@example.org")["access_token"]
        both = {"name": "Both", "metric_ids": [self.metric_id, self.counter_id]}
        self.subscription_id = server.send("POST", "/subscriptions", both, own)["id"]
        assert server.end(signal.SIGTERM) == 0

    def run(self, *arguments: object, stdin: str = "", **settings: str) -> "subprocess.CompletedProcess[str]":
        return kilowatch(*map(str, arguments), data_dir=self.data_dir, stdin=stdin, **settings)

    def exported(self, *options: object) -> list[dict[str, str]]:
        done = self.run("export", *options)
        assert done.returncode == 0, done.stderr
        return list(csv.DictReader(io.StringIO(done.stdout)))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


def refused(done: "subprocess.CompletedProcess[str]", *words: str, status: int = 1) -> None:
    """The command failed, with one line that says these words."""
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr


class TestUser:
    def test_is_created_listed_and_given_a_new_password(self, tmp_path: Path) -> None:
        made = kilowatch(
            *("user", "create", "Ada@Example.org", "--name", "Ada", "--admin", "--password-stdin"),
            data_dir=tmp_path,
            stdin=PASSWORD + "\n",
        )
        assert made.returncode == 0, made.stderr
        assert "ada@example.org (administrator)" in made.stdout
        assert PASSWORD not in made.stdout
        (before,) = self._hashes(tmp_path)
        listed = kilowatch("user", "list", data_dir=tmp_path)
        assert re.search(r"1\s+. ada@example.org . Ada\s+. yes", listed.stdout)
        changed = kilowatch(
            "user", "set-password", "ADA@example.org", "--password-stdin", data_dir=tmp_path, stdin="another long one"
        )
        assert changed.returncode == 0, changed.stderr
        (after,) = self._hashes(tmp_path)
        assert before != after
        assert after.startswith("$argon2id$")
        self._check_refusals(tmp_path)

    @staticmethod
    def _hashes(data_dir: Path) -> list[str]:
        connection = sqlite3.connect(data_dir / "kilowatch.sqlite")
        try:
            return [row[0] for row in connection.execute("SELECT password_hash FROM users")]
        finally:
            connection.close()

    @staticmethod
    def _check_refusals(data_dir: Path) -> None:
        def create(*arguments: str, stdin: str = PASSWORD) -> "subprocess.CompletedProcess[str]":
            return kilowatch("user", "create", *arguments, data_dir=data_dir, stdin=stdin)

        refused(create("ada@example.org", "--password-stdin"), "email")
        refused(create("no email", "--password-stdin"), "email")
        refused(create("b@example.org", "--password-stdin", stdin="short\n"), "password")
        refused(create("b@example.org", "--password-stdin", stdin=""), "password")
        refused(create("b@example.org"), "--password-stdin")
        refused(
            kilowatch("user", "set-password", "x@example.org", "--password-stdin", data_dir=data_dir, stdin=PASSWORD),
            "no user",
            "x@example.org",
        )

    def test_can_be_made_while_a_server_runs(self, tmp_path: Path) -> None:
        server = Server(tmp_path / "var", tmp_path / "server.log").start()
        try:
            create_admin(server.data_dir)
            assert server.sign_in()["access_token"]
        finally:
            assert server.process is not None
            server.process.kill()
            server.process.wait()


class TestSiteGrant:
    def test_gives_a_role_and_refuses_what_is_not_there(self, place: Place) -> None:
        done = place.run("site", "grant", "north", "reader@example.org", "standard")
        assert done.returncode == 0, done.stderr
        assert done.stdout == "reader@example.org is standard at north.\n"
        refused(place.run("site", "grant", "south", "reader@example.org", "standard"), "south")
        refused(place.run("site", "grant", "north", "x@example.org", "standard"), "x@example.org")
        refused(place.run("site", "grant", "north", "reader@example.org", "owner"), "role", "technician")


class TestImport:
    def test_reports_like_the_api_and_keeps_the_good_rows(self, place: Place, tmp_path: Path) -> None:
        good, mixed = tmp_path / "good.csv.gz", tmp_path / "mixed [1].csv"
        good.write_bytes(gzip.compress(f"metric_id,timestamp,value\n{place.metric_id},2020-01-01T00:00:00Z,1".encode()))
        mixed.write_text(
            "\ufeffmetric,timestamp,value\r\n"
            "north/meter/power,2020-01-01T00:00:01Z,2\r\n"
            "north/meter/power,2020-01-01T00:00:02,2\r\n"
            "a/b/c,2020-01-01T00:00:02Z,2\r\n"
            "short\r\n",
            encoding="utf-8",
        )
        done = place.run("import", good, mixed)
        assert done.returncode == 1
        assert done.stdout == "2 readings stored, 3 refused.\n"
        told = [line for line in done.stderr.splitlines() if ": row " in line]
        assert [line.split(":")[:3] for line in told] == [
            ["mixed [1].csv", " row 1", " naive_timestamp"],
            ["mixed [1].csv", " row 2", " unknown_metric"],
            ["mixed [1].csv", " row 3", " malformed"],
        ]
        assert place.run("import", good).returncode == 0

    def test_of_many_bad_rows_tells_the_first_hundred_by_their_place_in_the_file(
        self, place: Place, tmp_path: Path
    ) -> None:
        path = tmp_path / "big.csv"  # more than one part
        good = f"{place.metric_id},2020-01-01T00:00:00Z,1\n"
        path.write_text("metric_id,timestamp,value\n" + good * 200_000 + "0,2020-01-01T00:00:00Z,1\n" * 150)
        done = place.run("import", path)
        assert done.returncode == 1
        assert done.stdout == "200,000 readings stored, 150 refused.\n"
        rows = re.findall(r"row (\d+): unknown_metric", done.stderr)
        assert [int(row) for row in rows] == list(range(200_000, 200_100))
        assert "and 50 rows more" in done.stderr

    def test_of_a_file_that_can_not_be_read_says_so_in_a_line(self, place: Place, tmp_path: Path) -> None:
        broken, cut, empty, foreign = (tmp_path / name for name in ("a.csv.gz", "b.csv.gz", "c.csv", "d.csv"))
        broken.write_bytes(b"no gzip at all")
        lines = f"metric_id,timestamp,value\n{place.metric_id},2020-01-01T00:00:00Z,1\n" * 1000
        cut.write_bytes(gzip.compress(lines.encode())[:-9])
        empty.write_bytes(b"")
        foreign.write_bytes(b"time;value\n1;2\n")
        for path, words in ((broken, "gzip"), (cut, "ended"), (empty, "empty"), (foreign, "metric,timestamp,value")):
            done = place.run("import", path)
            assert done.returncode == 1
            assert path.name in done.stderr, done.stderr
            assert words in done.stderr
            assert "Traceback" not in done.stderr
        refused_usage = place.run("import", tmp_path / "nowhere.csv")
        assert refused_usage.returncode == 2
        assert "nowhere.csv" in refused_usage.stderr.replace("\n", "")

    def test_does_not_read_a_large_file_at_once(self, place: Place, tmp_path: Path) -> None:
        path = tmp_path / "large.csv.gz"
        line = f"{place.metric_id},2020-01-01T00:00:00Z,1.0000000000000000000000\n".encode() * 10_000
        with gzip.open(path, "wb", compresslevel=1) as file:
            file.write(b"metric_id,timestamp,value\n")
            for _ in range(200):
                file.write(line)  # 110 MB
        code = (
            "import resource, sys; from kilowatch.cli import main\n"
            "try: main()\n"
            "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
        )

        def peak_kb(file: Path) -> int:
            program = [PROGRAM[0], "-c", code, "import", str(file)]
            done = subprocess.run(
                program, env=environment(place.data_dir), capture_output=True, text=True, timeout=120, check=False
            )
            assert done.returncode == 0, done.stderr
            return int(done.stderr.split()[-1])

        small = tmp_path / "small.csv"
        small.write_bytes(b"metric_id,timestamp,value\n" + line)
        assert peak_kb(path) - peak_kb(small) < 300_000


@pytest.fixture(scope="module")
def filled(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The place with an hour of readings of both metrics, one a second."""
    path = tmp_path_factory.mktemp("fill") / "hour.csv"
    times = [f"2026-01-05T10:{second // 60:02}:{second % 60:02}Z" for second in range(3600)]
    lines = [f"{place.metric_id},{time},{n % 7 / 3!r}" for n, time in enumerate(times)]
    lines += [f"{place.counter_id},{time},{n * 0.1!r}" for n, time in enumerate(times)]
    path.write_text("\n".join(["metric_id,timestamp,value", *lines]))
    assert place.run("import", path).returncode == 0
    yield place


class TestExport:
    def test_writes_raw_readings_and_buckets_in_the_asked_unit_and_zone(self, filled: Place) -> None:
        raw = filled.exported("--metric", "north/meter/power", "--metric", filled.counter_id, *WINDOW)
        assert len(raw) == 7200
        assert {row["metric"] for row in raw} == {"north/meter/power", "north/counter/energy"}
        assert float(raw[1]["value"]) == 1 / 3
        (bucket,) = filled.exported(
            *("--metric", "north/counter/energy", "--resolution", "1h", "--unit", "Wh", "--timezone", "Asia/Kolkata"),
            *("--aggregate", "delta", "--start", "2026-01-05T10:00:00Z", "--end", "2026-01-05T10:30:00Z"),
        )
        assert float(bucket["value"]) == pytest.approx(179_900)
        assert bucket["unit"] == "Wh"
        assert bucket["timestamp"].endswith("+05:30")

    def test_of_a_subscription_has_its_owners_rights(self, filled: Place) -> None:
        options = ("--subscription", filled.subscription_id, "--resolution", "1h", *WINDOW)
        assert [row["metric"] for row in filled.exported(*options)] == ["north/meter/power", "north/counter/energy"]
        connection = sqlite3.connect(filled.data_dir / "kilowatch.sqlite")
        with connection:
            connection.execute("DELETE FROM grants")
        connection.close()
        try:
            assert filled.exported(*options) == []
        finally:
            assert filled.run("site", "grant", "north", "reader@example.org", "standard").returncode == 0

    def test_to_a_file_leaves_a_whole_one_or_the_old_one(self, filled: Place, tmp_path: Path) -> None:
        path = tmp_path / "out.csv"
        path.write_text("the old one")
        refused(filled.run("export", "--metric", "a/b/c", *WINDOW, "--output", path), "a/b/c")
        assert path.read_text() == "the old one"
        assert [entry.name for entry in tmp_path.iterdir()] == ["out.csv"]
        done = filled.run("export", "--metric", filled.metric_id, *WINDOW, "--output", path)
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""
        assert len(path.read_text().splitlines()) == 3601
        assert [entry.name for entry in tmp_path.iterdir()] == ["out.csv"]
        refused(filled.run("export", "--metric", 1, *WINDOW, "--output", tmp_path / "no" / "out.csv"), "no/out.csv")

    def test_imported_again_gives_the_same_history(self, filled: Place, tmp_path: Path) -> None:
        path = tmp_path / "round.csv"
        options = ("--subscription", filled.subscription_id, *WINDOW)
        assert filled.run("export", *options, "--output", path).returncode == 0
        before = path.read_bytes()
        done = filled.run("import", path)
        assert (done.returncode, done.stdout) == (0, "7,200 readings stored, 0 refused.\n")
        assert filled.run("export", *options).stdout.encode() == before

    @pytest.mark.parametrize(
        ("options", "word"),
        [
            ((*WINDOW,), "--subscription"),
            (("--metric", "1", "--subscription", "1", *WINDOW), "--metric"),
            (("--metric", "1", *WINDOW, "--aggregate", "median"), "--aggregate"),
            (("--metric", "1", *WINDOW, "--resolution", "7m"), "7m"),
            (("--metric", "1", *WINDOW, "--timezone", "Mars/Base"), "Mars/Base"),
            (("--metric", "1", *WINDOW, "--resolution", "1h", "--unit", "degC"), "degC"),
            (("--metric", "9" * 30, *WINDOW), "no metric"),
            (("--subscription", "9" * 30, *WINDOW), "no metric or subscription"),
            (("--metric", "1", "--start", "2026-01-05", "--end", "2026-01-06T00:00:00Z"), "offset"),
        ],
    )
    def test_says_what_it_can_not_do(self, place: Place, options: tuple[str, ...], word: str) -> None:
        done = place.run("export", *options)
        refused(done, word)
        assert done.stdout == ""


class TestCheck:
    def test_says_that_all_is_fine(self, place: Place) -> None:
        done = place.run("check")
        assert done.returncode == 0, done.stdout
        assert [line[0] for line in done.stdout.splitlines()] == ["✓", "✓", "✓"]

    def test_says_what_is_wrong_and_what_to_do(self, tmp_path: Path) -> None:
        bad = kilowatch("check", data_dir=tmp_path / "a", threads="many", log_level="loud")
        assert bad.returncode == 1
        assert "KILOWATCH_THREADS" in bad.stdout
        assert "KILOWATCH_LOG_LEVEL" in bad.stdout
        missing = kilowatch("check", data_dir=tmp_path / "b")
        assert missing.returncode == 1
        assert "run `kilowatch migrate`" in missing.stdout
        nobody = f"postgresql+psycopg://me:hunter2@127.0.0.1:{unused_port()}/name"
        unreachable = kilowatch("check", data_dir=tmp_path / "c", database_url=nobody)
        assert unreachable.returncode == 1
        assert "✗ catalogue" in unreachable.stdout
        assert "KILOWATCH_DATABASE_URL" in unreachable.stdout
        assert "hunter2" not in unreachable.stdout + unreachable.stderr
        for done in (bad, missing, unreachable):
            assert "Traceback" not in done.stdout + done.stderr

    def test_changes_nothing(self, tmp_path: Path) -> None:
        done = kilowatch("check", data_dir=tmp_path / "var")
        assert done.returncode == 1
        assert done.stdout.count("run `kilowatch migrate`") == 2
        assert not (tmp_path / "var" / "kilowatch.sqlite").exists()
        assert not (tmp_path / "var" / "history" / "metadata").exists()

    @pytest.mark.parametrize(
        ("setting", "value", "words"),
        [
            ("database_url", "sqlite://", "KILOWATCH_DATABASE_URL"),
            ("database_url", "sqlite:///:memory:", "KILOWATCH_DATABASE_URL"),
            ("database_url", "sqlite:////proc/nowhere/x.sqlite", "KILOWATCH_DATABASE_URL"),
            ("database_url", "sqlite:////etc/hostname", "not a SQLite database"),
            ("history_url", "chdb:///proc/nowhere/x", "history"),
        ],
    )
    def test_says_so_in_a_line_of_a_store_that_can_not_be(
        self, tmp_path: Path, setting: str, value: str, words: str
    ) -> None:
        for command in ("check", "migrate"):
            done = kilowatch(command, data_dir=tmp_path / "var", **{setting: value})
            assert done.returncode == 1
            assert words.lower() in (done.stdout + done.stderr).lower()
            assert "Traceback" not in done.stdout + done.stderr

    @pytest.mark.parametrize("key", ["", "short"])
    def test_a_kept_secret_that_is_none_is_refused(self, tmp_path: Path, key: str) -> None:
        (tmp_path / "secret.key").write_text(key)
        done = kilowatch("user", "list", data_dir=tmp_path)
        assert done.returncode == 1
        assert "secret.key" in done.stderr

    def test_tells_of_a_history_that_a_server_has_open(self, tmp_path: Path) -> None:
        server = Server(tmp_path / "var", tmp_path / "server.log").start()
        try:
            done = kilowatch("check", data_dir=server.data_dir)
        finally:
            assert server.process is not None
            server.process.kill()
            server.process.wait()
        assert done.returncode == 1
        assert "✓ catalogue" in done.stdout
        assert "✗ history: Another process" in done.stdout
        assert done.stderr == ""


class TestOthers:
    def test_migrate_may_run_any_number_of_times(self, tmp_path: Path) -> None:
        for _ in range(2):
            done = kilowatch("migrate", data_dir=tmp_path)
            assert done.returncode == 0, done.stderr
            assert "kilowatch.sqlite" in done.stdout
            assert "history" in done.stdout
        assert kilowatch("check", data_dir=tmp_path).returncode == 0

    def test_openapi_needs_no_stores(self, tmp_path: Path) -> None:
        done = kilowatch("openapi", data_dir=tmp_path / "var")
        assert json.loads(done.stdout)["openapi"].startswith("3.1")
        assert not (tmp_path / "var").exists()

    def test_settings_that_can_not_be_used_are_named(self, tmp_path: Path) -> None:
        for command in ("serve", "migrate", "openapi"):
            refused(kilowatch(command, data_dir=tmp_path, threads="0"), "KILOWATCH_THREADS")
        refused(kilowatch("migrate", data_dir=tmp_path, history_url="mysql://x"), "KILOWATCH_HISTORY_URL")
        refused(kilowatch("migrate", data_dir=tmp_path, database_url="nonsense"), "KILOWATCH_DATABASE_URL")
        refused(kilowatch("migrate", data_dir=tmp_path, database_url="mysql://a/b"), "KILOWATCH_DATABASE_URL")
        port = unused_port()
        refused(
            kilowatch("migrate", data_dir=tmp_path, history_url=f"clickhouse://me:hunter2@127.0.0.1:{port}/db"),
            "KILOWATCH_HISTORY_URL",
        )

    @pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
    def test_a_data_directory_that_can_not_be_made_is_named(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        refused(kilowatch("migrate", data_dir=tmp_path / "var"), "KILOWATCH_DATA_DIR")

    def test_a_data_directory_that_is_a_file_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "var").write_text("")
        refused(kilowatch("migrate", data_dir=tmp_path / "var"), "KILOWATCH_DATA_DIR")

    @pytest.mark.parametrize("arguments", [(), ("--help",), ("user", "--help"), ("export", "--help")])
    def test_help_is_quick_and_needs_nothing(self, tmp_path: Path, arguments: tuple[str, ...]) -> None:
        done = kilowatch(*arguments, data_dir=tmp_path / "var")
        assert "Usage" in done.stdout + done.stderr
        assert not (tmp_path / "var").exists()
