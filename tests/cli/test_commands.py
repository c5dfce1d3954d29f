"""The command line, each command as a process: what it prints, what it leaves, and one clear line when it can't."""

import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Place, refused
from tests.processes import PASSWORD, Server, create_admin, environment, kilowatch
from tests.processes import free_port as unused_port

TOLD = "atexit.register(lambda: print('descriptor 0:', os.path.realpath('/proc/self/fd/0')))\n"


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


def test_standard_input_that_is_closed_is_no_file_that_is_opened_next(tmp_path: Path) -> None:
    code = "import sys; from kilowatch.__main__ import main; sys.argv = ['kilowatch', 'check']; main()"
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" <&-', "sh", sys.executable, "-c", "import atexit, os\n" + TOLD + code],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "descriptor 0: /dev/null" in done.stdout, done.stderr


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
