"""What a backup says of itself, and of each of its files."""

import hashlib
from contextlib import AbstractContextManager
from typing import BinaryIO, Protocol

import msgspec

from kilowatch.errors import Invalid
from kilowatch.history.copying import Sum
from kilowatch.transfer.catalogue import Lines
from kilowatch.transfer.places import MANIFEST, Place

FORMAT = 1
_CHUNK = 1 << 20


class File(msgspec.Struct, frozen=True):
    """`rows` and `checksum` are of its rows; `size` (bytes) and `sha256` of the file."""

    path: str
    table: str
    rows: int
    checksum: int
    size: int
    sha256: str


class CatalogueFile(File, frozen=True, kw_only=True):
    columns: list[str]


class HistoryFile(File, frozen=True, kw_only=True):
    month: int
    """As 202501 for January."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    kilowatch: str
    """The version that made it."""
    made_at: str
    until: int
    """All that was received until this moment (ms since 1970) is in it."""
    revision: str
    """The catalogue's schema."""
    history_schema: int
    sequences: dict[str, int]
    """The last id that each table has given."""
    catalogue: list[CatalogueFile]
    history: list[HistoryFile]

    @property
    def files(self) -> list[File]:
        return [*self.history, *self.catalogue]

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(file.size for file in self.files)


class Draft(Protocol):
    """Where the files of a backup go that is being made."""

    def create(self, path: str) -> AbstractContextManager[BinaryIO]: ...


class Measured:
    """Writes on, and knows what was written. As much of a file as writers of Parquet and zstd ask for."""

    closed = False

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._digest = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data).cast("B")
        self._digest.update(view)
        self._out.write(view)
        self.bytes += len(view)
        return len(view)

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        """Nothing is kept back here."""

    def close(self) -> None:
        """Whoever opened the file closes it."""

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


def sum_of(file: File) -> Sum:
    return Sum(file.rows, file.checksum)


def lines_of(file: File) -> Lines:
    return Lines(file.rows, file.checksum)


def write_manifest(draft: Draft, manifest: Manifest) -> None:
    with draft.create(MANIFEST) as out:
        out.write(msgspec.json.format(msgspec.json.encode(manifest), indent=1))


def read_manifest(place: Place, name: str) -> Manifest:
    """Raises `Invalid` for one that this version can't read."""
    with place.read(name, MANIFEST) as file:
        data = file.read()
    try:
        form = msgspec.json.decode(data)["format"]
        if form != FORMAT:
            raise Invalid(
                f"{name} is a backup of format {form}, and this version of Kilowatch reads format {FORMAT}; "
                "restore it with the version that made it, or a newer one."
            )
        return msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        raise Invalid(f"{name}/{MANIFEST} is damaged: {error}") from error


def check_file(place: Place, name: str, file: File) -> None:
    """Raises `Invalid` if a file is not what the manifest says."""
    digest = hashlib.sha256()
    with place.read(name, file.path) as content:
        while chunk := content.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != file.sha256:
        raise Invalid(f"{name}/{file.path} is damaged: it is not what was written. Restore another backup.")
