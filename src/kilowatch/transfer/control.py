"""How a command asks the server that has the embedded history open: at a socket in the data directory.

Lines of JSON over a Unix-domain socket which only the same user may open. The server reads its stores and sends the
files of a backup, and the command writes them, with its own rights and credentials, to wherever it was told:

    → {"do": "backup"}
    ← {"rows": 123}                   about how many rows there will be
    ← {"create": "history/…"}   a file, in parts {"data": 4096} with so many bytes after each, then {"close": true}
    ← {"told": ["readings 2026-01", 100000]}
    ← {"done": true}                  or {"error": "…"}
"""

import contextlib
import os
import re
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec
import structlog

from kilowatch.errors import Conflict, KilowatchError, Unavailable
from kilowatch.transfer.backups import Stores, rows_about, write_backup
from kilowatch.transfer.manifest import Draft

log = structlog.get_logger("kilowatch.transfer")

SOCKET = "control.sock"
_TAKEN_WITHIN_S = 300
"""A command that takes nothing for so long is given up."""

_LONGEST = 64 * 1024
"""A message, in bytes."""

_PATH = re.compile(r"[a-z_]+(/[a-z_]+)*(/[A-Za-z0-9_-]+)?(\.[a-z]+)+")


class _Stopping(Exception):
    """The server stops."""


class Control:
    """Answers commands, each in a thread of its own; of those that make a backup one at a time."""

    def __init__(self, data_dir: Path, stores: Stores) -> None:
        self._path = data_dir / SOCKET
        self._stores = stores
        self._making = threading.Lock()
        self._is_closed = False
        self._connections: set[socket.socket] = set()
        self._listener = _listen(self._path)
        self._thread = threading.Thread(target=self._accept, name="control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """A backup that is being made ends without being one."""
        self._is_closed = True
        with contextlib.suppress(OSError):
            self._path.unlink()
        for one in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        with self._making:  # until nobody reads the stores any more
            pass

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.add(connection)
            threading.Thread(target=self._answer, args=(connection,), name="control-backup", daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        try:
            with connection, contextlib.suppress(OSError, _Stopping):
                self._serve(_Wire(connection))
        finally:
            self._connections.discard(connection)

    def _serve(self, wire: "_Wire") -> None:
        if not wire.is_of_same_user() or wire.receive() != {"do": "backup"}:
            wire.send({"error": "This is not understood; are the command and the server of the same version?"})
            return
        if not self._making.acquire(blocking=False):
            wire.send({"error": "Another backup is being made; wait until it is done."})
            return
        try:
            wire.send({"rows": rows_about(self._stores)})
            write_backup(self._stores, _Sent(wire), tell=self._teller(wire))
            wire.send({"done": True})
        except KilowatchError as error:
            wire.send({"error": error.detail})
        except (OSError, _Stopping):
            raise
        except Exception:  # whoever asked is told; the server goes on
            log.exception("a backup failed")
            wire.send({"error": "The server failed to make the backup; its log says why."})
        finally:
            self._making.release()

    def _teller(self, wire: "_Wire") -> Callable[[str, int], None]:
        def tell(what: str, rows: int) -> None:
            if self._is_closed:
                raise _Stopping
            wire.send({"told": [what, rows]})

        return tell


def ask_for_backup(
    data_dir: Path, draft: Draft, *, begin: Callable[[int], None], tell: Callable[[str, int], None]
) -> bool:
    """Have the server that runs on this data directory make a backup into the draft.

    Args:
        begin: is told about how many rows there will be.

    Returns:
        False if no server listens there.

    Raises:
        Conflict: another backup is being made, or this one can't be.
        Unavailable: the server stopped before it was done.
    """
    connection = _connect(data_dir / SOCKET)
    if connection is None:
        return False
    with connection:
        wire = _Wire(connection)
        try:
            wire.send({"do": "backup"})
            begin(_said(wire, "rows"))
            while "done" not in (message := _checked(wire.receive())):
                if "create" in message:
                    _write(wire, draft, message["create"], tell)
                else:
                    tell(*message["told"])
        except (ConnectionError, TimeoutError) as error:
            raise _ended() from error
    return True


def _write(wire: "_Wire", draft: Draft, path: str, tell: Callable[[str, int], None]) -> None:
    if _PATH.fullmatch(path) is None:
        raise Conflict(f"The server named a file that no backup has: {path}")
    with draft.create(path) as out:
        while "close" not in (message := _checked(wire.receive())):
            if "data" in message:
                out.write(wire.receive_bytes(message["data"]))
            else:
                tell(*message["told"])


def _said(wire: "_Wire", name: str) -> Any:
    return _checked(wire.receive())[name]


def _checked(message: dict[str, Any] | None) -> dict[str, Any]:
    if message is None:
        raise _ended()
    if "error" in message:
        raise Conflict(message["error"])
    return message


def _ended() -> Unavailable:
    return Unavailable("The server stopped before the backup was done. Start it again, or make the backup without it.")


class _Sent:
    """A draft at the other end of the wire."""

    def __init__(self, wire: "_Wire") -> None:
        self._wire = wire

    @contextlib.contextmanager
    def create(self, path: str) -> Iterator[BinaryIO]:
        self._wire.send({"create": path})
        yield cast(BinaryIO, self)
        self._wire.send({"close": True})

    def write(self, data: bytes | memoryview) -> int:
        self._wire.send({"data": len(data)}, data)
        return len(data)


class _Wire:
    """Messages over a socket: a line of JSON each, some with bytes after it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._in = connection.makefile("rb")

    def is_of_same_user(self) -> bool:
        """The socket's file mode says so too; but directories and their modes change hands."""
        if not hasattr(socket, "SO_PEERCRED"):
            return True
        size = struct.calcsize("3i")
        _, user, _ = struct.unpack("3i", self._connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
        return user in (os.geteuid(), 0)

    def send(self, message: dict[str, Any], data: bytes | memoryview = b"") -> None:
        self._connection.settimeout(_TAKEN_WITHIN_S)
        self._connection.sendall(msgspec.json.encode(message) + b"\n")
        if len(data):
            self._connection.sendall(data)

    def receive(self) -> dict[str, Any] | None:
        """`None` at the end, and for what is no message."""
        line = self._in.readline(_LONGEST)
        with contextlib.suppress(msgspec.MsgspecError):
            return msgspec.json.decode(line, type=dict[str, Any])
        return None

    def receive_bytes(self, count: int) -> bytes:
        data = self._in.read(count)
        if len(data) < count:
            raise ConnectionResetError
        return data


def _listen(path: Path) -> socket.socket:
    """Made where nobody else can see it, and put in place with the mode that it is to have."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        with tempfile.TemporaryDirectory(prefix=".control.", dir=path.parent) as folder:
            made = Path(folder) / SOCKET
            with _short(made) as address:
                listener.bind(address)
            made.chmod(0o600)
            made.replace(path)
        listener.listen()
    except BaseException:
        listener.close()
        raise
    return listener


def _connect(path: Path) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX)
    try:
        with _short(path) as address:
            connection.connect(address)
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    except OSError as error:
        connection.close()
        raise Unavailable(f"The server can't be asked at {path}: {error.strerror}.") from error
    return connection


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name for it that is no longer than a socket's may be."""
    if len(os.fsencode(path)) < 100 or not Path("/proc/self/fd").exists():
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
