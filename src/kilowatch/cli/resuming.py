"""Where an import of a file is, kept in the data directory so that an interrupted one goes on."""

import contextlib
import hashlib
import os
from pathlib import Path

import msgspec

from kilowatch.config import Settings
from kilowatch.errors import Invalid

_HEAD_BYTES = 64 * 1024


class Identity(msgspec.Struct, frozen=True):
    """What a file was, and how it is read: another one is another import."""

    path: str
    size: int
    modified_ns: int
    head: str
    """SHA-256 of the first bytes."""
    options: str

    @classmethod
    def of(cls, path: Path, *, options: str) -> "Identity":
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            head = hashlib.sha256(file.read(_HEAD_BYTES)).hexdigest()
        return cls(str(path.absolute()), status.st_size, status.st_mtime_ns, head, options)


class Place(msgspec.Struct, frozen=True, order=True):
    """How much of a file is done: its first lines or rows; for text also how many (decompressed) bytes they are."""

    rows: int = 0
    bytes: int = 0


class Record(msgspec.Struct, frozen=True):
    """How far the import of a file is. What is counted is stored durably."""

    identity: Identity
    place: Place = Place()
    read: int = 0
    """Bytes of the file, as it is on the disk, that were read up to there."""
    accepted: int = 0
    refused: int = 0
    finished: bool = False


class Records:
    """The records of imports into one history, a small file each.

    They are renamed into place but not synced: after a power cut an older one, or none, makes the import repeat some
    readings, which changes nothing.
    """

    def __init__(self, settings: Settings) -> None:
        self._directory = settings.data_dir / "imports"
        self._history = settings.resolved_history_url

    def find(self, path: Path) -> Record | None:
        try:
            return msgspec.json.decode(self._file(path).read_bytes(), type=Record)
        except (OSError, msgspec.MsgspecError):
            return None

    def save(self, record: Record) -> None:
        file = self._file(Path(record.identity.path))
        draft = file.with_suffix(".part")
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            draft.write_bytes(msgspec.json.encode(record))
            draft.replace(file)
        except OSError as error:
            raise Invalid(f"The place in the import can't be kept in {self._directory}: {error.strerror}.") from error

    def forget(self, path: Path) -> None:
        file = self._file(path)
        for left in (file, file.with_suffix(".part")):
            with contextlib.suppress(OSError):
                left.unlink()
        with contextlib.suppress(OSError):  # others may be in it
            self._directory.rmdir()

    def _file(self, path: Path) -> Path:
        key = hashlib.sha256(f"{self._history}\n{path.absolute()}".encode(errors="surrogateescape")).hexdigest()
        return self._directory / f"{key[:32]}.json"
