"""Settings: each comes from its variable, errors name it, and the documentation lists exactly those there are."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from kilowatch.config import Settings, load_settings
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
    "log_level": ("error", "error"),
    "log_format": ("json", "json"),
}
"""For each setting a value in the environment that is not the default, and what it means."""


class TestEachSetting:
    def test_is_tried_here(self) -> None:
        assert OTHER.keys() == Settings.model_fields.keys()

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
