"""The unit of systemd, and what it and the script that installs it have in common with the rest."""

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from kilowatch.config import Settings
from tests.conftest import _unique
from tests.postgres import PostgresServer

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy/systemd/kilowatch.service"
INSTALL = ROOT / "deploy/install-server"


class _Section(dict[str, list[str]]):
    """Values by key; a key may be given again."""

    def __setitem__(self, key: str, value: object) -> None:
        if isinstance(value, list) and key in self:
            self[key].extend(value)
        else:
            super().__setitem__(key, value)  # type: ignore[assignment]  # what the parser brings


@pytest.fixture
def service() -> dict[str, list[str]]:
    parser = configparser.RawConfigParser(dict_type=_Section, strict=False, interpolation=None)  # type: ignore[arg-type]  # it is a dict
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # keys as they are written
    parser.read(UNIT)
    return {key: value.split("\n") for key, value in parser["Service"].items()}


class TestUnit:
    @pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here to ask")
    def test_is_one_that_systemd_takes(self, tmp_path: Path) -> None:
        """Where the program is not installed that is all that it complains of."""
        program = tmp_path / "python"
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        unit = tmp_path / "kilowatch.service"
        unit.write_text(UNIT.read_text().replace("/opt/kilowatch/bin/python", str(program)))
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, [line for line in done.stderr.splitlines() if "kilowatch.service" in line]) == (0, [])

    @pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here to ask")
    def test_is_exposed_to_little(self) -> None:
        done = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", "--threshold=20", UNIT],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout

    def test_takes_secrets_as_credentials_and_all_else_from_settings_that_there_are(
        self, service: dict[str, list[str]]
    ) -> None:
        credentials = {line.split(":")[0] for line in service["LoadCredential"]}
        variables = dict(line.split("=", 1) for line in service["Environment"])
        files = {name: value for name, value in variables.items() if name.endswith("_FILE")}
        assert {f"%d/{name}" for name in credentials} == set(files.values())
        lines = (ROOT / "deploy/systemd/environment").read_text().splitlines()
        more = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
        known = {f"KILOWATCH_{field.upper()}" for field in Settings.model_fields} | {"KILOWATCH_WORKERS"}
        assert variables.keys() | more.keys() <= known
        assert not any(re.search("PASSWORD|SECRET", name) for name in more)

    def test_ends_and_is_replaced_in_order(self, service: dict[str, list[str]]) -> None:
        assert service["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
        assert service["KillMode"] == ["mixed"]
        assert int(service["TimeoutStopSec"][0]) > 45  # what `serve --workers` gives its own


class TestInstallation:
    def test_makes_the_secrets_that_the_unit_has(self, service: dict[str, list[str]], tmp_path: Path) -> None:
        subprocess.run(
            [ROOT / "deploy/make-secrets", tmp_path / "secrets", "localhost"], check=True, capture_output=True
        )
        made = {path.name for path in (tmp_path / "secrets").iterdir()}
        for line in service["LoadCredential"]:
            name, place = line.split(":")
            assert name in made
            assert place == f"/etc/kilowatch/secrets/{name}"
        contents = {path.name: path.read_bytes() for path in (tmp_path / "secrets").iterdir()}
        subprocess.run([ROOT / "deploy/make-secrets", tmp_path / "secrets"], check=True, capture_output=True)
        assert contents == {path.name: path.read_bytes() for path in (tmp_path / "secrets").iterdir()}
        assert len({content for name, content in contents.items() if not name.startswith("tls")}) == 4

    def test_says_what_openssl_says_where_no_certificate_can_be_made(self, tmp_path: Path) -> None:
        secrets = tmp_path / "secrets"
        done = subprocess.run(
            [ROOT / "deploy/make-secrets", secrets, "one,two"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert "subjectAltName" in done.stderr
        assert "make-secrets: no certificate could be made for: one,two" in done.stderr
        assert {path.name for path in secrets.iterdir()} == {
            "secret_key",
            "database_password",
            "history_password",
            "admin_password",
        }

    def test_names_files_that_are_there(self) -> None:
        for path in re.findall(r"\bdeploy/[\w./-]*\w", INSTALL.read_text()):
            assert (ROOT / path).exists(), path

    @pytest.mark.skipif(shutil.which("psql") is None, reason="psql is not here")
    def test_makes_its_database_once_and_sets_the_password_that_is_there(self, postgres: PostgresServer) -> None:
        """What the script gives to psql, with another name, as the tests' own server is run by a role of the same."""
        found = re.search(r"<<'SQL'\n(.*?)\nSQL\n", INSTALL.read_text(), re.DOTALL)
        assert found is not None
        name, url = _unique("installed"), make_url(postgres.url)
        psql = ["psql", "--quiet", "--set", "ON_ERROR_STOP=1", f"--host={url.host}", f"--port={url.port}"]
        asked = found[1].replace("kilowatch", name) + "\n"
        try:
            for password in ("first", 'it\'s "another"'):
                given = {"PGPASSWORD": url.password or "", "KILOWATCH_PASSWORD": password}
                command = [*psql, f"--username={url.username}", f"--dbname={url.database}"]
                made = subprocess.run(
                    command, input=asked, env=os.environ | given, capture_output=True, text=True, check=False
                )
                assert (made.returncode, made.stderr) == (0, "")
                with psycopg.connect(
                    host=url.host, port=url.port, user=name, password=password, dbname=name
                ) as connection:
                    connection.execute("CREATE TABLE its_own ()")
                    connection.rollback()
        finally:
            with psycopg.connect(
                url.set(drivername="postgresql").render_as_string(hide_password=False), autocommit=True
            ) as by:
                by.execute(f"DROP DATABASE IF EXISTS {name}".encode())
                by.execute(f"DROP ROLE IF EXISTS {name}".encode())

    def test_says_what_it_needs_before_it_does_anything(self, tmp_path: Path) -> None:
        done = subprocess.run([INSTALL], capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 1
        assert "--admin EMAIL" in done.stderr
