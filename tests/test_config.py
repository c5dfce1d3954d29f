"""Settings: each comes from its variable, errors name it, and the documentation lists exactly those there are."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from sqlalchemy import make_url

from kilowatch.config import Settings, load_settings, secret_key
from kilowatch.errors import Invalid

DOCUMENT = Path(__file__).parents[1] / "docs" / "configuration.md"
SECRET = "kG5-unguessable-0123456789-ABCDEFGH"
OTHER = {
    "environment": ("production", "production"),
    "data_dir": ("/srv/kilowatch", Path("/srv/kilowatch")),
    "database_url": ("postgresql+psycopg://me@db/kilowatch", "postgresql+psycopg://me@db/kilowatch"),
    "database_replica_url": ("postgresql+psycopg://me@spare/kilowatch", "postgresql+psycopg://me@spare/kilowatch"),
    "history_url": ("clickhouse://db/kilowatch", "clickhouse://db/kilowatch"),
    "history_sync": ("false", False),
    "secret_key": (SECRET, SECRET),
    "access_token_minutes": ("7", 7),
    "refresh_token_days": ("7", 7),
    "session_idle_hours": ("7", 7),
    "session_days": ("8", 8),
    "login_attempts": ("7", 7),
    "max_body_bytes": ("7000", 7000),
    "max_decoded_bytes": ("7000", 7000),
    "max_future_s": ("7", 7),
    "threads": ("7", 7),
    "history_threads": ("7", 7),
    "history_memory_bytes": ("1000000", 1_000_000),
    "streams": ("7", 7),
    "streams_per_user": ("7", 7),
    "stream_kept_days": ("8", 8),
    "stream_stall_s": ("7.5", 7.5),
    "webhook_requests": ("7", 7),
    "webhook_private_addresses": ("true", True),
    "metrics_port": ("9464", 9464),
    "metrics_host": ("10.0.0.7", "10.0.0.7"),
    "slow_request_ms": ("7", 7),
    "log_level": ("error", "error"),
    "log_format": ("json", "json"),
}
"""For each setting a value in the environment that is not the default, and what it means."""

FILES = {"secret_key_file", "database_password_file", "history_password_file"}
"""Tried in `TestSecretsInFiles`."""


class TestEachSetting:
    def test_is_tried_here(self) -> None:
        assert OTHER.keys() | FILES == Settings.model_fields.keys()

    @pytest.mark.parametrize("field", OTHER)
    def test_is_read_from_its_variable(self, monkeypatch: pytest.MonkeyPatch, field: str) -> None:
        text, expected = OTHER[field]
        monkeypatch.setenv("KILOWATCH_SECRET_KEY", SECRET)
        default = getattr(load_settings(), field) if field != "secret_key" else None
        monkeypatch.setenv(f"KILOWATCH_{field.upper()}", text)
        value = getattr(load_settings(), field)
        assert (value.get_secret_value() if field == "secret_key" else value) == expected
        assert value != default

    @pytest.mark.parametrize("field", OTHER)
    def test_left_empty_has_its_default(self, monkeypatch: pytest.MonkeyPatch, field: str) -> None:
        default = getattr(load_settings(), field)
        monkeypatch.setenv(f"KILOWATCH_{field.upper()}", "")
        assert getattr(load_settings(), field) == default


class TestSecretsInFiles:
    PASSWORD = "p@ss/word: 100 % ünïcode"

    @pytest.fixture
    def secret(self, tmp_path: Path) -> Callable[[str], str]:
        def write(content: str) -> str:
            path = tmp_path / "secret"
            path.write_text(content, encoding="utf-8")
            return str(path)

        return write

    @pytest.mark.parametrize("end", ["", "\n", "\r\n"])
    def test_the_key_is_what_the_file_holds(
        self, monkeypatch: pytest.MonkeyPatch, secret: Callable[[str], str], end: str
    ) -> None:
        monkeypatch.setenv("KILOWATCH_ENVIRONMENT", "production")
        monkeypatch.setenv("KILOWATCH_SECRET_KEY_FILE", secret(SECRET + end))
        settings = load_settings()
        assert secret_key(settings) == SECRET
        assert SECRET not in repr(settings)

    @pytest.mark.parametrize(
        ("store", "url"),
        [
            ("database", "postgresql+psycopg://me@[::1]:5432/kilowatch"),
            ("history", "clickhouse://me@db:8123/kilowatch"),
        ],
    )
    def test_passwords_are_those_of_the_urls_users(
        self, monkeypatch: pytest.MonkeyPatch, secret: Callable[[str], str], store: str, url: str
    ) -> None:
        monkeypatch.setenv(f"KILOWATCH_{store.upper()}_URL", url)
        monkeypatch.setenv(f"KILOWATCH_{store.upper()}_PASSWORD_FILE", secret(self.PASSWORD + "\n"))
        settings = load_settings()
        made = make_url(getattr(settings, f"resolved_{store}_url"))
        assert made.password == self.PASSWORD
        assert urlsplit(getattr(settings, f"resolved_{store}_url")).hostname == urlsplit(url).hostname
        assert made.render_as_string() == url.replace("me@", "me:***@")
        assert self.PASSWORD not in repr(settings)
        assert quote(self.PASSWORD, safe="") not in repr(settings)

    @pytest.mark.parametrize(("user", "shown"), [("me", "me:***"), ("me:own", "me:***")])
    def test_the_catalogues_is_the_replicas_unless_that_has_its_own(
        self, monkeypatch: pytest.MonkeyPatch, secret: Callable[[str], str], user: str, shown: str
    ) -> None:
        monkeypatch.setenv("KILOWATCH_DATABASE_URL", "postgresql+psycopg://me@db/kilowatch")
        monkeypatch.setenv("KILOWATCH_DATABASE_REPLICA_URL", f"postgresql+psycopg://{user}@standby/kilowatch")
        monkeypatch.setenv("KILOWATCH_DATABASE_PASSWORD_FILE", secret(self.PASSWORD))
        settings = load_settings()
        replica = make_url(settings.database_replica_url or "")
        assert replica.password == ("own" if ":" in user else self.PASSWORD)
        assert replica.render_as_string() == f"postgresql+psycopg://{shown}@standby/kilowatch"
        assert "standby" not in repr(settings)

    def test_a_value_and_its_file_are_not_both_given(
        self, monkeypatch: pytest.MonkeyPatch, secret: Callable[[str], str]
    ) -> None:
        monkeypatch.setenv("KILOWATCH_SECRET_KEY", SECRET)
        monkeypatch.setenv("KILOWATCH_SECRET_KEY_FILE", secret(SECRET))
        monkeypatch.setenv("KILOWATCH_DATABASE_URL", "postgresql+psycopg://me:hunter2@db/kilowatch")
        monkeypatch.setenv("KILOWATCH_DATABASE_PASSWORD_FILE", secret(self.PASSWORD))
        with pytest.raises(Invalid, match=r"KILOWATCH_SECRET_KEY and KILOWATCH_SECRET_KEY_FILE"):
            load_settings()
        monkeypatch.delenv("KILOWATCH_SECRET_KEY_FILE")
        with pytest.raises(Invalid, match=r"KILOWATCH_DATABASE_URL .* KILOWATCH_DATABASE_PASSWORD_FILE") as raised:
            load_settings()
        assert "hunter2" not in raised.value.detail

    @pytest.mark.parametrize("url", ["", "sqlite:////srv/kilowatch.sqlite", "postgresql+psycopg://db/kilowatch"])
    def test_a_password_needs_a_user(
        self, monkeypatch: pytest.MonkeyPatch, secret: Callable[[str], str], url: str
    ) -> None:
        monkeypatch.setenv("KILOWATCH_DATABASE_URL", url)
        monkeypatch.setenv("KILOWATCH_DATABASE_PASSWORD_FILE", secret(self.PASSWORD))
        with pytest.raises(Invalid, match=r"KILOWATCH_DATABASE_PASSWORD_FILE needs a KILOWATCH_DATABASE_URL .* user"):
            load_settings()

    @pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe\xff"])
    def test_a_file_of_no_use_is_named(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None
    ) -> None:
        path = tmp_path / "secret"
        if content is not None:
            path.write_bytes(content)
        monkeypatch.setenv("KILOWATCH_SECRET_KEY_FILE", str(path))
        with pytest.raises(Invalid) as raised:
            load_settings()
        assert f"KILOWATCH_SECRET_KEY_FILE: {path} " in raised.value.detail

    def test_a_key_that_is_too_short_is_blamed_on_the_file(
        self, monkeypatch: pytest.MonkeyPatch, secret: Callable[[str], str]
    ) -> None:
        monkeypatch.setenv("KILOWATCH_SECRET_KEY_FILE", secret("hunter2"))
        with pytest.raises(Invalid, match=r"KILOWATCH_SECRET_KEY_FILE: must have at least 32") as raised:
            load_settings()
        assert "hunter2" not in raised.value.detail


class TestErrors:
    @pytest.mark.parametrize(
        ("field", "text"),
        [
            ("environment", "staging"),
            ("database_url", "mysql://db/kilowatch"),
            ("history_sync", "perhaps"),
            ("secret_key", "short"),
            ("access_token_minutes", "0"),
            ("max_body_bytes", "many"),
            ("threads", "1000"),
            ("log_level", "loud"),
        ],
    )
    def test_name_the_variable(self, monkeypatch: pytest.MonkeyPatch, field: str, text: str) -> None:
        monkeypatch.setenv(f"KILOWATCH_{field.upper()}", text)
        with pytest.raises(Invalid) as raised:
            load_settings()
        assert f"KILOWATCH_{field.upper()}" in raised.value.detail
        assert "Value error" not in raised.value.detail

    def test_name_every_variable_that_is_wrong(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KILOWATCH_THREADS", "x")
        monkeypatch.setenv("KILOWATCH_LOG_LEVEL", "x")
        with pytest.raises(Invalid, match=r"KILOWATCH_THREADS.*KILOWATCH_LOG_LEVEL"):
            load_settings()

    def test_never_show_a_secret(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KILOWATCH_SECRET_KEY", "hunter2")
        with pytest.raises(Invalid) as raised:
            load_settings()
        assert "hunter2" not in raised.value.detail
        monkeypatch.setenv("KILOWATCH_SECRET_KEY", SECRET)
        assert SECRET not in repr(load_settings())


class TestDocument:
    def test_lists_exactly_the_settings_there_are(self) -> None:
        assert sorted(self._rows()) == sorted(f"KILOWATCH_{field.upper()}" for field in Settings.model_fields)

    @pytest.mark.parametrize("field", Settings.model_fields)
    def test_tells_the_default(self, field: str) -> None:
        told = self._rows()[f"KILOWATCH_{field.upper()}"]
        default = Settings.model_fields[field].default
        if default is None:
            assert re.sub(r"`[^`]*`", "", told).strip(), "what is done without it is said in words"
            return
        literal = re.match(r"`([^`]+)`", told)
        assert literal is not None, told
        if isinstance(default, Path):
            assert Path(literal[1]) == default
        else:
            assert literal[1] == (str(default).lower() if isinstance(default, bool) else str(default))

    @staticmethod
    def _rows() -> dict[str, str]:
        """The table's default for each variable, as it is written."""
        pattern = r"^\|\s*`(KILOWATCH_[A-Z_]+)`\s*\|([^|]*)\|"
        rows: list[tuple[str, str]] = re.findall(pattern, DOCUMENT.read_text(), re.MULTILINE)
        assert len(dict(rows)) == len(rows)
        return {variable: default.strip() for variable, default in rows}


def test_nothing_is_read_or_made_at_import(tmp_path: Path) -> None:
    code = "import kilowatch.app, kilowatch.cli, kilowatch.demo.portfolio"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"KILOWATCH_THREADS": "nonsense", "KILOWATCH_ENVIRONMENT": "nonsense"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == []
