"""Settings, read from the environment when `load_settings()` is called and never at import."""

import os
import re
import secrets
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from kilowatch.errors import Invalid

_SECRET_MIN_LENGTH = 32
_WELL_KNOWN_SECRETS = ("changeme", "change-me", "secret", "default", "example", "kilowatch", "password", "insecure")


class Settings(BaseSettings):
    """Everything that can be configured. Each field is an environment variable `KILOWATCH_<NAME>`."""

    model_config = SettingsConfigDict(env_prefix="KILOWATCH_", frozen=True, env_ignore_empty=True, extra="ignore")

    environment: Literal["development", "production"] = Field(
        "development", description="`production` logs JSON and insists on a secret key from the environment."
    )
    data_dir: Path = Field(
        Path("var"), description="Directory of the SQLite file, the embedded history and the secret key."
    )
    database_url: str | None = Field(
        None,
        description="SQLAlchemy URL of the catalogue: `sqlite:///path` or "
        "`postgresql+psycopg://user:password@host/name`. Default: `kilowatch.sqlite` in the data directory.",
        repr=False,  # may hold a password
    )
    database_password_file: Path | None = Field(
        None, description="File with the password of the user that the catalogue's URL names."
    )
    database_replica_url: str | None = Field(
        None,
        description="SQLAlchemy URL of a standby of the same PostgreSQL. Reads go there while it has all that was "
        "committed, so that nobody sees it lag.",
        repr=False,  # may hold a password
    )
    history_url: str | None = Field(
        None,
        description="History engine: `chdb:///path` (embedded) or `clickhouse://user:password@host:8123/database`. "
        "Default: `history` in the data directory.",
        repr=False,  # may hold a password
    )
    history_password_file: Path | None = Field(
        None, description="File with the password of the user that the history's URL names."
    )
    history_sync: bool = Field(
        True,
        description="Write readings through to the disk before answering. Off is faster, and a power cut may take the "
        "last seconds.",
    )
    secret_key: SecretStr | None = Field(
        None,
        description="Signs access tokens; at least 32 characters. Default in development: made once and kept in the "
        "data directory.",
    )
    secret_key_file: Path | None = Field(None, description="File with the secret key, in place of the key itself.")
    access_token_minutes: int = Field(15, ge=1, le=1440, description="Life of an access token, in minutes.")
    refresh_token_days: int = Field(30, ge=1, le=365, description="Life of a sign-in without use of it, in days.")
    session_idle_hours: int = Field(
        12, ge=1, le=720, description="A browser's session that is not used for so long ends, in hours."
    )
    session_days: int = Field(
        7, ge=1, le=365, description="A browser's session ends after so long, however it is used, in days."
    )
    login_attempts: int = Field(
        10,
        ge=1,
        description="Failed sign-ins allowed in 15 minutes for an account from one address. "
        "Five times as many for the account from anywhere, ten times as many from the address.",
    )
    max_body_bytes: int = Field(
        32 * 1024 * 1024, ge=1024, description="Largest request body, in bytes as sent (compressed if it is)."
    )
    max_decoded_bytes: int = Field(
        256 * 1024 * 1024, ge=1024, description="Largest request body once decompressed, in bytes."
    )
    max_future_s: int = Field(
        86_400, ge=0, description="How far ahead of our clock a reading's timestamp may be, in seconds."
    )
    threads: int = Field(8, ge=1, le=64, description="Threads that answer requests to the catalogue.")
    history_threads: int = Field(
        4, ge=1, le=32, description="Threads that answer requests to the history; as many engine connections."
    )
    history_memory_bytes: int = Field(
        256 * 1024 * 1024,
        ge=0,
        description="Memory for history that was asked for, so that it is answered again at once, in bytes. Embedded "
        "history only.",
    )
    streams: int = Field(1_000, ge=1, description="Streams that may be open at once.")
    streams_per_user: int = Field(20, ge=1, description="Streams that one user, with all API keys, may have open.")
    stream_kept_days: int = Field(
        7,
        ge=1,
        le=366,
        description="A stream's reader, or a webhook, that was away for so long still gets all it missed, in days.",
    )
    stream_stall_s: float = Field(
        10, gt=0, description="A stream's reader that takes nothing for so long is cut off, in seconds."
    )
    webhook_requests: int = Field(
        16,
        ge=0,
        le=256,
        description="Webhooks that are posted to at the same time, at most. 0: this process posts none.",
    )
    webhook_private_addresses: bool = Field(
        False,
        description="Lets webhooks go to private and loopback addresses too, so that whoever has an account can make "
        "this server post to any machine beside it.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe level that is logged."
    )
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="`auto`: `json` in production or when the output is no terminal, else `console`."
    )

    metrics_port: int | None = Field(
        None, ge=1, le=65535, description="Port that serves `/metrics` for Prometheus. Default: none does."
    )
    metrics_host: str = Field("127.0.0.1", min_length=1, description="Address that serves `/metrics`.")
    slow_request_ms: int = Field(
        1_000,
        ge=0,
        description="A request that takes longer is logged with the parts of its time, in milliseconds. 0: none is.",
    )

    @model_validator(mode="before")
    @classmethod
    def _read_secrets(cls, values: dict[str, Any]) -> dict[str, Any]:
        """What is in files takes its place: the key as the key, passwords in the URLs that they belong to."""
        values = dict(values)
        if path := values.get("secret_key_file"):
            if values.get("secret_key"):
                raise ValueError("KILOWATCH_SECRET_KEY and KILOWATCH_SECRET_KEY_FILE are both set; leave one out.")
            values["secret_key"] = read_secret("KILOWATCH_SECRET_KEY_FILE", path)
        for store in ("database", "history"):
            if path := values.get(f"{store}_password_file"):
                url, variable = values.get(f"{store}_url"), f"KILOWATCH_{store.upper()}_PASSWORD_FILE"
                place = variable.replace("_PASSWORD_FILE", "_URL")
                values[f"{store}_url"] = with_password(str(url or ""), path, place=place, variable=variable)
                replica = str(values.get(f"{store}_replica_url") or "")
                # It names a user without a password, as on the first server.
                if re.match(r"[^:]+://[^:@/]+@", replica):
                    values[f"{store}_replica_url"] = with_password(replica, path, place=place, variable=variable)
        return values

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"(sqlite|postgresql\+psycopg)://", value):
            raise ValueError("must be `sqlite:///path` or `postgresql+psycopg://user:password@host/name`")
        return value

    @field_validator("database_replica_url")
    @classmethod
    def _known_replica(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith("postgresql+psycopg://"):
            raise ValueError("must be `postgresql+psycopg://user:password@host/name`")
        return value

    @field_validator("secret_key")
    @classmethod
    def _strong_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < _SECRET_MIN_LENGTH:
            raise ValueError(f"must have at least {_SECRET_MIN_LENGTH} characters: {_HOW_TO_MAKE_A_SECRET}")
        return value

    @model_validator(mode="after")
    def _safe_in_production(self) -> "Settings":
        if self.environment != "production":
            return self
        secret = self.secret_key.get_secret_value() if self.secret_key else ""
        if not secret:
            raise ValueError(f"KILOWATCH_SECRET_KEY (or …_FILE) must be set in production: {_HOW_TO_MAKE_A_SECRET}")
        if any(word in secret.lower() for word in _WELL_KNOWN_SECRETS) or len(set(secret)) < 10:
            raise ValueError(f"KILOWATCH_SECRET_KEY is a placeholder, not a secret: {_HOW_TO_MAKE_A_SECRET}")
        return self

    @property
    def resolved_database_url(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir / 'kilowatch.sqlite'}"

    @property
    def resolved_history_url(self) -> str:
        return self.history_url or f"chdb://{self.data_dir / 'history'}"


_HOW_TO_MAKE_A_SECRET = 'make one with: python3 -c "import secrets; print(secrets.token_urlsafe(48))"'  # noqa: S105 - a hint


def read_secret(variable: str, path: Path | str) -> str:
    """What the file holds, without the end of its line. Raises `ValueError`, naming the variable and the file."""
    try:
        secret = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ValueError(f"{variable}: {path} can't be read: {reason}.") from error
    if not secret:
        raise ValueError(f"{variable}: {path} is empty.")
    return secret


def with_password(url: str, path: Path | str, *, place: str, variable: str) -> str:
    """The URL, whose user has no password, with the one in the file.

    Raises `ValueError`, which names where the URL stands (`place`) and what names the file (`variable`).
    """
    user, at, _ = url.partition("://")[2].partition("/")[0].rpartition("@")
    if not at or not user:
        raise ValueError(f"{variable} needs a {place} that names a user, as in `…://user@host/name`.")
    if ":" in user:
        raise ValueError(f"{place} has a password, and {variable} is set; leave one of them out.")
    return url.replace(f"://{user}@", f"://{user}:{quote(read_secret(variable, path), safe='')}@", 1)


def load_settings() -> Settings:
    """Settings from the environment.

    Raises:
        Invalid: naming each environment variable that can't be used.
    """
    try:
        return Settings()
    except ValidationError as error:
        lines = []
        for item in error.errors(include_input=False, include_url=False):
            variable = "KILOWATCH_" + "_".join(str(part) for part in item["loc"]).upper() if item["loc"] else ""
            if f"{variable}_FILE" in os.environ:
                variable += "_FILE"
            message = item["msg"].removeprefix("Value error, ")
            lines.append(f"{variable}: {message}" if variable else message)
        raise Invalid("; ".join(lines)) from error


def prepare_data_dir(settings: Settings) -> None:
    """Make the data directory, readable by its owner only. Raises `Invalid` if it can't be made or written."""
    path = settings.data_dir
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Invalid(f"KILOWATCH_DATA_DIR: {path} can't be made: {error.strerror}.") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise Invalid(f"KILOWATCH_DATA_DIR: {path} can't be written.")


def secret_key(settings: Settings) -> str:
    """The key that signs tokens: from the environment, or made once and kept with mode 0600 in the data directory."""
    if settings.secret_key is not None:
        return settings.secret_key.get_secret_value()
    path = settings.data_dir / "secret.key"
    prepare_data_dir(settings)
    try:
        _make_secret(path)
        key = path.read_text().strip()
    except OSError as error:
        raise Invalid(f"{path} can't be made or read: {error.strerror}; or set KILOWATCH_SECRET_KEY.") from error
    if len(key) < _SECRET_MIN_LENGTH:
        raise Invalid(
            f"{path} holds no key of {_SECRET_MIN_LENGTH} characters; restore it, or remove it for a new one."
        )
    return key


def _make_secret(path: Path) -> None:
    """Write a new key there, unless an earlier start did."""
    if path.exists():
        return
    try:
        # Created whole under another name and linked into place, so that two starting processes agree on one key
        # and neither ever reads half of it.
        draft = path.with_name(f".secret.{os.getpid()}.{secrets.token_hex(4)}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(48))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        finally:
            draft.unlink()
    except FileExistsError:
        pass  # another start made it at this moment
