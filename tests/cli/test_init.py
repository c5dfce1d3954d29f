"""`kilowatch init`: the one-shot job of an installation; and the question that a container's health check asks."""

import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.clickhouse import ClickHouse
from tests.conftest import SECRET_KEY, _unique, drop_history
from tests.processes import PASSWORD, PROGRAM, Server, environment, kilowatch

ADMIN = ("init", "--admin", "admin@example.org")


class TestInit:
    def test_prints_the_password_it_made_once_and_changes_nothing_the_second_time(self, tmp_path: Path) -> None:
        first = kilowatch(*ADMIN, data_dir=tmp_path / "var")
        assert first.returncode == 0, first.stderr
        password = re.search(r"Password, shown this once: (\S{20,})", first.stdout)
        assert password is not None, first.stdout
        again = kilowatch(*ADMIN, data_dir=tmp_path / "var")
        assert again.returncode == 0, again.stderr
        assert "There is an administrator already" in again.stdout
        assert "Password" not in again.stdout
        server = Server(tmp_path / "var", tmp_path / "log").start()
        try:
            assert server.sign_in(password=password[1])["access_token"]
        finally:
            assert server.end(signal.SIGTERM) == 0
        assert password[1] not in first.stderr + server.log.read_text()

    def test_takes_the_password_from_a_file_by_the_rules_of_any_user(self, tmp_path: Path) -> None:
        file = tmp_path / "password"
        with_file = (*ADMIN, "--password-file", str(file))
        missing = kilowatch(*with_file, data_dir=tmp_path / "var")
        file.write_text("short\n")
        short = kilowatch(*with_file, data_dir=tmp_path / "var")
        for done, words in ((missing, f"{file} can't be read"), (short, "password")):
            assert done.returncode == 1
            assert words in done.stderr
            assert len(done.stderr.splitlines()) == 1
        assert not (tmp_path / "var").exists()
        file.write_text(PASSWORD + "\n")
        done = kilowatch(*with_file, data_dir=tmp_path / "var")
        assert done.returncode == 0, done.stderr
        assert PASSWORD not in done.stdout + done.stderr
        server = Server(tmp_path / "var", tmp_path / "log").start()
        try:
            assert server.sign_in()["access_token"]
        finally:
            server.end(signal.SIGTERM)

    def test_does_not_make_an_administrator_of_who_has_an_account(self, tmp_path: Path) -> None:
        user = ("user", "create", "admin@example.org", "--password-stdin")
        assert kilowatch(*user, data_dir=tmp_path / "var", stdin=PASSWORD).returncode == 0
        done = kilowatch(*ADMIN, data_dir=tmp_path / "var")
        assert done.returncode == 1
        assert "admin@example.org" in done.stderr

    def test_several_at_once_make_one_administrator(
        self, tmp_path: Path, postgres_url: str, clickhouse: ClickHouse
    ) -> None:
        history_url = f"{clickhouse.url}/{_unique('init')}"
        stores = {"database_url": postgres_url, "history_url": history_url, "secret_key": SECRET_KEY}
        running = [
            subprocess.Popen(
                [*PROGRAM, "init", "--admin", f"admin{number}@example.org"],
                env=environment(tmp_path / f"var{number}", **stores),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in range(4)
        ]
        said = [process.communicate(timeout=120) for process in running]
        assert [process.returncode for process in running] == [0] * 4, said
        made = [out for out, _ in said if "Created the administrator" in out]
        already = [out for out, _ in said if "There is an administrator already" in out]
        assert (len(made), len(already)) == (1, 3)
        listed = kilowatch("user", "list", data_dir=tmp_path / "var", **stores)
        assert listed.stdout.count("@example.org") == 1
        drop_history(history_url)


class TestCheckOfAServer:
    def test_is_ready_when_the_server_says_so(self, tmp_path: Path) -> None:
        server = Server(tmp_path / "var", tmp_path / "log").start()
        ask = ("check", "--server", f"http://127.0.0.1:{server.port}")
        fine = kilowatch(*ask, data_dir=tmp_path / "nowhere")
        assert server.end(signal.SIGTERM) == 0
        gone = kilowatch(*ask, data_dir=tmp_path / "nowhere")
        assert (fine.returncode, gone.returncode) == (0, 1), fine.stderr + gone.stderr
        assert "does not answer" in gone.stderr
        assert not (tmp_path / "nowhere").exists()

    @pytest.mark.parametrize("address", ["127.0.0.1:8000", "https://host", "http://", "http://127.0.0.1:8000x"])
    def test_refuses_what_is_no_address(self, tmp_path: Path, address: str) -> None:
        done = kilowatch("check", "--server", address, data_dir=tmp_path)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert "Traceback" not in done.stderr
